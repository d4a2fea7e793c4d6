// The commands that ask: ps, info, query, top.

import Answers
import ArgumentParser
import Provenance
import ServerProtocol

/// A process id on the command line.
func processID(_ text: String) throws -> Int32 {
  guard let value = Int32(text), value > 0, text.utf8.allSatisfy({ $0 &- UInt8(ascii: "0") < 10 }) else {
    throw ValidationError("a process id is a positive number")
  }
  return value
}

struct WrapperOptions: ParsableArguments {
  @Option(
    help: .init(
      "Pass over functions with this name, too, in the search for who allocated; * and ? stand for any characters.",
      valueName: "pattern"))
  var wrapper: [String] = []

  func validate() throws {
    do { _ = try Wrappers.standard.adding(wrapper) } catch { throw ValidationError("--wrapper: \(error)") }
  }
}

/// At which level suballocations are shown.
struct LevelOptions: ParsableArguments {
  @Option(
    help: .init(
      """
      Where a pool hands out parts of a chunk: show its blocks (block), or the chunk (chunk). \
      (Default: as ALLOCS_LEVEL said when the process was started, else block.)
      """, valueName: "block|chunk"))
  var level: Level?
}

extension Level: ExpressibleByArgument {}

struct PS: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ps",
    abstract: "List the indexed processes, live and dead.",
    discussion: """
      STATE of one that ended: exited, or `exit 3` with a status; `_exit 3`, without its exit handlers; the signal that \
      ended it, as SIGKILL; dead, where it did not end in order and how is not known. How is known where allocsd ran, on \
      Linux 6.15 or later.

      Examples:
        allocsctl ps
        allocsctl ps --json
      """)

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var options: SourceOptions

  func run() throws { try StandardOutput.write(try options.source().processes(json: json)) }
}

struct Info: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what is known of one indexed process.",
    discussion: """
      State, threads, what its index takes, and what could not be indexed.

      Examples:
        allocsctl info 4242
        allocsctl info 4242 --json
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var options: SourceOptions

  func run() throws { try StandardOutput.write(try options.source().summary(of: pid, json: json)) }
}

struct Top: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show the allocation sites that hold most memory.",
    usage: """
      allocsctl top <pid> [--limit <number>] [--wrapper <pattern>] ...
                    [--level block|chunk] [--json] [--socket <path> | --direct]
      """,
    discussion: """
      Live bytes and blocks, summed up by the place in the program that allocated them; the largest first. Functions \
      that only allocate for their caller (malloc, operator new, zmalloc, containers of C++, Swift and Rust, …) are \
      passed over.

      Examples:
        allocsctl top 4242
        allocsctl top 4242 --wrapper 'pool_*' --wrapper Arena::get
        allocsctl top 4242 --limit 5 --json
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(help: .init("Sites to show, at most 100000.", valueName: "number"))
  var limit = 20

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var level: LevelOptions

  @OptionGroup var options: SourceOptions

  func validate() throws {
    guard (1...100_000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 100000.") }
  }

  func run() throws {
    try StandardOutput.write(
      try options.source().top(of: pid, limit: limit, try perspective(wrappers, level), json: json))
  }
}

struct Query: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Tell what is at addresses of a process.",
    usage: """
      allocsctl query <pid> <address> ... [--json] [--no-stacks] [--stop]
                      [--wrapper <pattern>] ... [--level block|chunk]
                      [--socket <path> | --direct]
      """,
    discussion: """
      Says for each address which allocation it is in: base, exact size, offset, who allocated it, where, on which \
      thread and when; or between which allocations it lies; or of which variable, stack or mapping it is a part.

      The exit status is 0 if the addresses were answered, also if there is nothing at them; 1 if the process is not \
      indexed or may not be read; 64 if an address is none.

      Examples:
        allocsctl query 4242 0x55d0c0ffee10
        allocsctl query 4242 0x55d0c0ffee10 94355893087760 --no-stacks
        grep -o '0x[0-9a-f]*' crash.log | allocsctl query 4242 - --json
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Argument(
    parsing: .allUnrecognized,
    help: .init(
      "What to look up: 0x and hexadecimal digits, or decimal digits. - reads addresses from standard input, one a line.",
      valueName: "address"))
  var addresses: [String]

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Flag(name: .customLong("no-stacks"), help: "Leave out where an allocation was made: faster for many addresses.")
  var noStacks = false

  @Flag(
    help: .init(
      "Stop the thread in whose stack an address lies, for less than a millisecond as a rule, to say which frame, function and variable it is in.",
      discussion: """
        Implies --direct. As with SIGSTOP and SIGCONT, a system call that the thread waits in may end with EINTR (epoll_wait does). \
        If the thread can't be stopped, the rest is answered, and the exit status is 1.
        """))
  var stop = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var level: LevelOptions

  @OptionGroup var options: SourceOptions

  /// One thing to look up, as given on the command line.
  private enum Item {
    case addresses([UInt64])
    case standardInput
  }

  func run() throws {
    let items = try items()
    if stop, options.socket != nil {
      throw ValidationError("--stop needs the process itself, and can't be asked of a server: leave --socket out")
    }
    let direct = DirectSource()
    direct.stopsThreads = stop
    let source = stop ? direct : try options.source()
    let printer = AnswerPrinter(
      source: source, pid: pid, form: json ? .jsonLines : .text, stacks: !noStacks,
      try perspective(wrappers, level))
    for item in items {
      switch item {
      case .addresses(let addresses): try printer.print(addresses)
      case .standardInput: try printer.printAnswersToStandardInput()
      }
    }
    if printer.hasRejected { throw ExitCode(Status.usage) }
    if direct.hasFailedToStop { throw ExitCode(Status.notAnswered) }
  }

  private func items() throws -> [Item] {
    var items: [Item] = []
    var together: [UInt64] = []
    var isBehindTerminator = false
    for text in addresses {
      if text == "--", !isBehindTerminator {
        isBehindTerminator = true
        continue
      }
      if text == "-" {
        if !together.isEmpty { items.append(.addresses(together)) }
        items.append(.standardInput)
        together = []
        continue
      }
      if text.hasPrefix("--"), !isBehindTerminator { throw ValidationError("Unknown option '\(text)'") }
      do throws(AnswerError) {
        together.append(try parseAddress(text))
      } catch {
        throw Failure(error)
      }
    }
    if !together.isEmpty { items.append(.addresses(together)) }
    guard !items.isEmpty else { throw ValidationError("Missing expected argument '<address> ...'") }
    return items
  }
}

/// Prints answers as they come.
private final class AnswerPrinter {
  private let source: any AnswerSource
  private let pid: Int32
  private let form: AnswerList.Form
  private let stacks: Bool
  private let perspective: Perspective
  /// Whether a line of standard input was no address.
  private(set) var hasRejected = false

  init(source: any AnswerSource, pid: Int32, form: AnswerList.Form, stacks: Bool, _ perspective: Perspective) {
    self.source = source
    self.pid = pid
    self.form = form
    self.stacks = stacks
    self.perspective = perspective
  }

  func print(_ addresses: [UInt64]) throws(Failure) {
    try StandardOutput.write(try source.answers(of: pid, to: addresses, form: form, stacks: stacks, perspective))
  }

  /// Answers each piece of input before it waits for the next, so a person may type addresses, and a program may write
  /// one and read its answer.
  func printAnswersToStandardInput() throws(Failure) {
    // A process that can't be asked about is an error also if no address comes.
    _ = try source.answers(of: pid, to: [], form: form, stacks: stacks, perspective)
    var lines = AddressLines()
    while true {
      // 64 KiB are about 4,000 addresses: enough that a request's own cost doesn't count.
      let piece = try StandardInput.read(limit: 64 << 10)
      if piece.isEmpty { break }
      var read: [AddressLine] = []
      lines.feed(piece.span) { read.append($0) }
      try answer(read)
    }
    var rest: [AddressLine] = []
    lines.finish { rest.append($0) }
    try answer(rest)
  }

  /// Answers lines in their order. A line that is no address is an object of its own in JSON, so that output keeps in
  /// step with input; and a message on standard error otherwise.
  private func answer(_ lines: [AddressLine]) throws(Failure) {
    var together: [UInt64] = []
    for line in lines {
      switch line {
      case .address(let address): together.append(address)
      case .rejected(let error):
        if !together.isEmpty { try print(together) }
        together = []
        hasRejected = true
        if form == .jsonLines {
          try StandardOutput.write(error.json + "\n")
        } else {
          complain(error.description)
        }
      }
    }
    if !together.isEmpty { try print(together) }
  }
}

/// What the options say, and where they are silent ALLOCS_WRAPPERS, or the configuration file that applies.
private func perspective(_ wrappers: WrapperOptions, _ level: LevelOptions) throws(Failure) -> Perspective {
  let configured = try Configuration.ofReader()
  return Perspective(
    wrappers: configured.wrappers + wrappers.wrapper, level: level.level ?? configured.level)
}
