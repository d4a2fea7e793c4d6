// SPDX-License-Identifier: Apache-2.0
// The command query: what is at addresses of a process.

import Answers
import ArgumentParser
import SystemAccess

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
      """
      What to look up: 0x and hexadecimal digits, or decimal digits. - reads addresses from standard input, one a \
      line.
      """,
      valueName: "address"))
  var addresses: [String]

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Flag(name: .customLong("no-stacks"), help: "Leave out where an allocation was made: faster for many addresses.")
  var noStacks = false

  @Flag(
    help: .init(
      """
      Stop the thread in whose stack an address lies, for less than a millisecond as a rule, to say which frame, \
      function and variable it is in.
      """,
      discussion: """
        Implies --direct. As with SIGSTOP and SIGCONT, a system call that the thread waits in may end with EINTR \
        (epoll_wait does). If the thread can't be stopped, the rest is answered, and the exit status is 1.
        """))
  var stop = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var level: LevelOptions

  @OptionGroup var options: SourceOptions

  /// An argument of the command line: addresses that are looked up together, or standard input.
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
      try Perspective(wrappers, level))
    for item in items {
      switch item {
      case .addresses(let addresses): try printer.print(addresses)
      case .standardInput: try printer.printAnswersToStandardInput()
      }
    }
    if printer.hasRejected { throw ExitCode(ExitStatus.usage) }
    if direct.hasFailedToStop { throw ExitCode(ExitStatus.notAnswered) }
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
      together.append(try parseAddress(text))
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

  func print(_ addresses: [UInt64]) throws(Complaint) {
    try StandardOutput.write(try source.answers(of: pid, to: addresses, form: form, stacks: stacks, perspective))
  }

  /// Answers each piece of input before it waits for the next, so a person may type addresses, and a program may write
  /// one and read its answer.
  func printAnswersToStandardInput() throws(Complaint) {
    // A process that can't be asked about is an error also if no address comes.
    _ = try source.answers(of: pid, to: [], form: form, stacks: stacks, perspective)
    var lines = AddressLines()
    while true {
      // 64 KiB are about 4,000 addresses: enough that the fixed cost of a request doesn't count.
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

  /// Answers lines in their order. A line that is no address becomes an object of its own in JSON, so that output keeps
  /// in step with input, and a message on standard error otherwise.
  private func answer(_ lines: [AddressLine]) throws(Complaint) {
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
