// `allocsctl run`: becomes the command, with the agent preloaded.
//
// What would leave the program unindexed in silence is looked for first. The command then takes this process's place: same
// process id, same parent, same signals, same open files; nothing of allocsctl stays.

import ArgumentParser
import Glibc
import IndexReader
import ServerProtocol

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
      allocsctl run [--stacks full|site|check] [--follow] [--config <file>]
                           [--record <file>] -- <command> [<argument> ...]
      """,
    discussion: """
      The program takes the place of allocsctl: it has its process id, and its exit status. Its index is a file in \
      $ALLOCS_DIR, else in /run/allocs, else in /dev/shm/allocs, and stays there when the program ends. Programs that \
      it starts are indexed, too; a child that it forks is so from exec on, or with --follow from the fork on. With \
      --record the program is a child of allocsctl, which records it from its start to its end and then ends with its \
      status.

      Settings come from the file named by --config, else by $ALLOCS_CONFIG, else from ~/.config/allocs/allocs.toml or \
      /etc/allocs/allocs.toml, if there is one; environment variables of the same names count more. All are checked first: \
      one that is wrong is an error, and the program is not started.

      The exit status is 127 if the command was not found, 126 if it can't be executed, 64 for wrong usage, and 1 if \
      it could not be indexed: then it is not started.

      Examples:
        allocsctl run -- redis-server --port 7777
        ALLOCS_DIR=/tmp/index allocsctl run -- python3 job.py
        ALLOCS_SUBALLOC='apr: apr_palloc(pZ)p, apr_pool_destroy(R)' allocsctl run -- httpd -X
        PYTHONMALLOC=malloc allocsctl run --stacks site -- python3 job.py
        allocsctl run --record job.rec -- ./job
      """)

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

  @Option(
    help: .init("Record every allocation and free into this file, compressed: see `replay`.", valueName: "file"),
    completion: .file())
  var record: String?

  @Argument(parsing: .postTerminator, help: .init("The command, and its arguments.", valueName: "command"))
  var command: [String] = []

  /// Puts the `--` before the command of `run` where it was left out: what follows the command's name is the command's,
  /// whatever it looks like.
  static func withTerminator(_ arguments: [String]) -> [String] {
    guard arguments.first == "run" else { return arguments }
    var index = 1
    while index < arguments.count, arguments[index].hasPrefix("-") {
      if arguments[index] == "--" { return arguments }
      index += ["--stacks", "--config", "--record"].contains(arguments[index]) ? 2 : 1
    }
    guard index < arguments.count else { return arguments }
    return arguments[..<index] + ["--"] + arguments[index...]
  }

  func run() throws {
    guard let name = command.first else { throw ValidationError("There is no command to run: name it after --.") }
    let program = try Program(named: name)
    try program.checkPreloadable()
    let agent = try Agent.find()
    let configuration = try Configuration(path: config)
    try configuration.check()
    try configuration.checkSuballocators(of: program)
    configuration.export()
    try IndexDirectory.check()
    // Of the user's own programs that have ended the oldest go, where no server sees to it.
    SegmentDirectory.sweepUnlessServed()

    let others = getenv("LD_PRELOAD").map { String(cString: $0) } ?? ""
    let isThere = others.split(whereSeparator: { $0 == ":" || $0 == " " }).contains { $0 == agent }
    setenv("LD_PRELOAD", isThere ? others : others.isEmpty ? agent : "\(agent):\(others)", 1)
    // For the agent inside an executable.
    setenv("ALLOCS", "1", 1)
    if follow { setenv("ALLOCS_FOLLOW", "1", 1) }
    if let stacks { setenv("ALLOCS_STACKS", stacks.rawValue, 1) }

    if let record {
      // Not ExitCode: for 0 it prints an empty line.
      Glibc.exit(try RecordedRun.run(program.path, command, to: record, isCompressed: true))
    }
    var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
    arguments.append(nil)
    // Not execv: a text without #! is given to the shell, as shells do.
    execvp(program.path, arguments)
    let code = errno
    throw Failure(
      code == ENOENT ? Status.notFound : Status.notExecutable,
      "cannot run \(program.path): \(String(cString: strerror(code)))",
      advice: code == ENOENT ? "check the interpreter that it names" : "check that it is a program for this machine")
  }
}

/// The library that is preloaded.
private enum Agent {
  static let name = "liballocs_agent.so"

  /// `ALLOCS_AGENT`, else beside this program, else in ../lib.
  static func find() throws(Failure) -> String {
    let path: String
    if let named = getenv("ALLOCS_AGENT").map({ String(cString: $0) }), !named.isEmpty {
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
    guard access(path, R_OK) == 0 else {
      throw Failure(
        Status.notAnswered, "cannot read the agent \(path): \(String(cString: strerror(errno)))",
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

  private static func realPath(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
  }
}

/// The directory into which the agent will put the program's index.
private enum IndexDirectory {
  /// Throws if the agent would find none to write to. Makes the last of the default ones where there is none.
  static func check() throws(Failure) {
    if let named = getenv("ALLOCS_DIR").map({ String(cString: $0) }), !named.isEmpty {
      guard isUsable(named) else {
        throw Failure(
          Status.notAnswered, "cannot put an index into ALLOCS_DIR \(named): \(String(cString: strerror(errno)))",
          advice: "create it and make it writable, or unset ALLOCS_DIR")
      }
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
        Status.notAnswered, "cannot put an index into \(last): \(String(cString: strerror(errno)))",
        advice: "have it made writable for all users (mode 1777), or set ALLOCS_DIR to another directory")
    }
  }

  private static func isUsable(_ path: String) -> Bool {
    var status = stat()
    guard stat(path, &status) == 0 else { return false }
    guard status.st_mode & S_IFMT == S_IFDIR else {
      errno = ENOTDIR
      return false
    }
    return access(path, W_OK | X_OK) == 0
  }
}
