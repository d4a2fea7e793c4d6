// `allocsctl run`: becomes the command, with the agent preloaded.
//
// What would leave the program unindexed in silence is looked for first. The command then takes this process's place:
// same process id, same parent, same signals, same open files; nothing of allocsctl stays.

import Answers
import ArgumentParser
import ByteText
import Glibc
import IndexReader
import ServerProtocol
import SharedLayout

struct Run: ParsableCommand {
  /// What is recorded of the call stack of each allocation (ALLOCS_STACKS).
  enum Stacks: String, ExpressibleByArgument, CaseIterable {
    case full
    /// The call site alone: the return address of the call.
    case site
    /// Whole stacks, each captured twice, to compare.
    case check
  }

  static let configuration = CommandConfiguration(
    abstract: "Start a program under the agent.",
    usage: """
      allocsctl run [--stacks full|site|check] [--follow]
                           [--events] [--free-stacks] [--ring <size>]
                           [--config <file>] [--record <file>]
                           -- <command> [<argument> ...]
      """,
    discussion: """
      The program takes the place of allocsctl: it has its process id, and its exit status. Its index is a file in \
      $ALLOCS_DIR, else in /run/allocs, else in /dev/shm/allocs, and stays there when the program ends. Programs that \
      it starts are indexed, too; a child that it forks is so from exec on, or with --follow from the fork on. With \
      --record the program is a child of allocsctl, which records it from its start to its end and then ends with its \
      status.

      Settings come from the file named by --config, else by $ALLOCS_CONFIG, else from ~/.config/allocs/allocs.toml or \
      /etc/allocs/allocs.toml, if there is one; environment variables count more, and options most. All are checked first: \
      one that is wrong, or a variable whose name is nearly that of a setting, is an error, and the program is not started.

      Settings, as variables and as keys of the file:
      \(settings)

      The exit status is 127 if the command was not found, 126 if it can't be executed, 64 for wrong usage, and 1 if \
      it could not be indexed: then it is not started.

      Examples:
        allocsctl run -- redis-server --port 7777
        ALLOCS_DIR=/tmp/index allocsctl run -- python3 job.py
        ALLOCS_SUBALLOC='apr: apr_palloc(pZ)p' allocsctl run -- httpd -X
        PYTHONMALLOC=malloc allocsctl run --stacks site -- python3 job.py
        allocsctl run --events --free-stacks --ring 8M -- ./job
        allocsctl run --record job.rec -- ./job
      """)

  /// A line each: `ALLOCS_RING         ring        bytes of each thread's ring of events: 16K to 1G`.
  private static var settings: String {
    SettingKind.all.filter { $0.scope != ALLOCS_SCOPE_INTERNAL }.map { setting in
      let key = setting.scope == ALLOCS_SCOPE_CONFIGURED ? setting.key : "-"
      return "  " + TextLayout.padded(setting.variable, right: 19) + TextLayout.padded(key, right: 12) + setting.meaning
    }.joined(separator: "\n")
  }

  @Option(
    help: .init(
      """
      Record whole call stacks (full); or the call site only, which costs less; or check whole stacks by capturing \
      each a second time from scratch, which costs far more: `info` then says how many differed. \
      (Default: $ALLOCS_STACKS, else full.)
      """,
      valueName: "what"))
  var stacks: Stacks?

  @Option(
    help: .init("Read settings from this TOML file.", valueName: "file"), completion: .file(extensions: ["toml"]))
  var config: String?

  @Flag(
    help: .init(
      """
      Give each child of fork an index of its own, which starts as a copy of its parent's. The copy is made while the \
      program forks, and takes the longer the more blocks there are. (Default: $ALLOCS_FOLLOW, else off.)
      """))
  var follow = false

  @Flag(help: "Record events from the start on: `history` tells of them. (Default: $ALLOCS_EVENTS, else off.)")
  var events = false

  @Flag(
    name: .customLong("free-stacks"),
    help: "Record also who freed, with the events of frees. (Default: $ALLOCS_FREE_STACKS, else off.)")
  var freeStacks = false

  @Option(
    help: .init(
      "Bytes of each thread's ring of events; K, M or G may follow. (Default: $ALLOCS_RING, else 1M.)",
      valueName: "size"))
  var ring: String?

  @Option(
    help: .init("Record every allocation and free into this file, compressed: see `replay`.", valueName: "file"),
    completion: .file())
  var record: String?

  @Argument(parsing: .postTerminator, help: .init("The command, and its arguments.", valueName: "command"))
  var command: [String] = []

  /// The options that have a value behind them.
  private static let optionsWithValue: Set<String> = ["--stacks", "--config", "--record", "--ring"]

  /// Where the command of `run` begins among the arguments: behind `--`, or where that was left out at what is no
  /// option. What follows the command's name is the command's, whatever it looks like. Nil if there is none.
  static func startOfCommand(in arguments: [String]) -> Int? {
    guard arguments.first == "run" else { return nil }
    var index = 1
    while index < arguments.count, arguments[index].utf8.first == UInt8(ascii: "-") {
      if arguments[index] == "--" { return index + 1 }
      index += optionsWithValue.contains(arguments[index]) ? 2 : 1
    }
    return index < arguments.count ? index : nil
  }

  func run() throws {
    guard !command.isEmpty else { throw ValidationError("There is no command to run: name it after --.") }
    try Configuration.checkNames()
    var configuration = try Configuration(path: config)
    if follow { configuration.set("follow", to: "1", option: "--follow") }
    if events { configuration.set("events", to: "1", option: "--events") }
    if freeStacks { configuration.set("free_stacks", to: "1", option: "--free-stacks") }
    if let ring { configuration.set("ring", to: ring, option: "--ring") }
    if let stacks { configuration.set("stacks", to: stacks.rawValue, option: "--stacks") }
    try configuration.check()
    let program = try Program(command)
    try program.checkPreloadable()
    let agent = try Agent.find()
    try configuration.checkSuballocators(of: program)
    configuration.export()
    try IndexDirectory.check()
    // Of the user's own programs that have ended the oldest go, where no server sees to it.
    SegmentDirectory.sweepUnlessServed()

    let others = Variables.value(of: "LD_PRELOAD") ?? ""
    let isThere = others.split(whereSeparator: { $0 == ":" || $0 == " " }).contains { $0 == agent }
    Variables.set("LD_PRELOAD", to: isThere ? others : others.isEmpty ? agent : "\(agent):\(others)")
    // For the agent inside an executable.
    Variables.set("ALLOCS", to: "1")

    if let record {
      // Not ExitCode: for 0 it prints an empty line.
      Glibc.exit(try RecordedRun.run(program, to: record, isCompressed: true))
    }
    try program.become()
  }
}

/// The library that is preloaded.
private enum Agent {
  static let name = "liballocs_agent.so"

  /// `ALLOCS_AGENT`, else beside this program, else in ../lib.
  static func find() throws(Failure) -> String {
    let path: String
    if let named = Variables.nonEmptyValue(of: "ALLOCS_AGENT") {
      guard let real = realPath(named) else {
        throw Failure(
          Status.notAnswered, "cannot find the agent: there is no \(named)",
          advice: "set ALLOCS_AGENT to the path of \(name), or unset it")
      }
      path = real
    } else {
      let own = realPath("/proc/self/exe") ?? "/"
      let directory = own[..<(own.lastIndex(of: "/") ?? own.startIndex)]
      let candidates = ["\(directory)/\(name)", "\(directory)/../lib/\(name)"]
      guard let found = candidates.lazy.compactMap({ realPath($0) }).first else {
        throw Failure(
          Status.notAnswered, "cannot find the agent \(name) in \(directory) or \(directory)/../lib",
          advice: "install it there, or set ALLOCS_AGENT to its path")
      }
      path = found
    }
    guard access(path.originalPath, R_OK) == 0 else {
      throw Failure(
        Status.notAnswered, "cannot read the agent \(path): \(systemWords(errno))",
        advice: "make it readable (chmod a+r)")
    }
    // ld.so(8) splits LD_PRELOAD at both, and knows no way to quote them.
    guard !path.contains(":"), !path.contains(" ") else {
      throw Failure(
        Status.notAnswered, "cannot preload \(path): the loader can't take a path with a space or a colon",
        advice: "install it elsewhere, or set ALLOCS_AGENT to a link without them")
    }
    return path
  }

  static func realPath(_ path: String) -> String? {
    guard let resolved = realpath(path.originalPath, nil) else { return nil }
    defer { free(resolved) }
    return String(reversibly: UnsafePointer(resolved))
  }
}

/// The directory into which the agent will put the program's index.
private enum IndexDirectory {
  /// Throws if the agent would find none to write to. Makes the last of the default ones where there is none.
  static func check() throws(Failure) {
    if let named = Variables.nonEmptyValue(of: "ALLOCS_DIR") {
      guard isUsable(named) else {
        throw Failure(
          Status.notAnswered, "cannot put an index into ALLOCS_DIR \(named): \(systemWords(errno))",
          advice: "create it and make it writable, or unset ALLOCS_DIR")
      }
      makeAbsolute(named)
      return
    }
    if SocketLocation.directories.contains(where: isUsable) { return }
    let last = SocketLocation.directories[SocketLocation.directories.count - 1]
    do throws(SocketError) {
      try SocketLocation.makeShared(last)
    } catch {
      throw Failure(status: Status.notAnswered, message: error.description)
    }
    guard isUsable(last) else {
      throw Failure(
        Status.notAnswered, "cannot put an index into \(last): \(systemWords(errno))",
        advice: "have it made writable for all users (mode 1777), or set ALLOCS_DIR to another directory")
    }
  }

  /// Whether the agent can make a file there; else errno says why not. The rights of root, and of what is mounted
  /// read-only, are known only by trying: by a file without a name, where the file system has such.
  private static func isUsable(_ path: String) -> Bool {
    let directory = open(path.originalPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { return false }
    defer { close(directory) }
    var file = openat(directory, ".", O_RDWR | __O_TMPFILE | O_DIRECTORY | O_CLOEXEC, 0o600)
    if file < 0, errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT {
      let name = ".allocsctl-\(getpid())"
      file = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      if file >= 0 { unlinkat(directory, name, 0) }
    }
    guard file >= 0 else { return false }
    close(file)
    return true
  }

  /// The agent takes the path as it is, in this and in all processes that the program starts: a relative one would lead
  /// them elsewhere once they change their working directory, and links are not followed.
  private static func makeAbsolute(_ path: String) {
    var status = stat()
    let isLink = lstat(path.originalPath, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
    guard isLink || path.utf8.first != UInt8(ascii: "/"), let real = Agent.realPath(path) else { return }
    Variables.set("ALLOCS_DIR", to: real)
  }
}
