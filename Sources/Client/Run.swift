// SPDX-License-Identifier: Apache-2.0
// The command run: becomes the program, with the agent preloaded.
//
// All that would leave the program unindexed in silence is looked for first. The program then takes the place of this
// process: it has the same process id, parent, signals and open files, and nothing of allocsctl stays.

import Answers
import ArgumentParser
import ByteText
import Glibc
import IndexReader
import SharedLayout
import SystemAccess

struct Run: ParsableCommand {
  /// The part of each allocation's call stack that is recorded (ALLOCS_STACKS).
  struct Stacks: ExpressibleByArgument {
    static let allValueStrings = String(cString: allocs_setting_words(ALLOCS_SETTING_STACKS.rawValue))
      .split(separator: "|").map(String.init)
    static let defaultCompletionKind = CompletionKind.list(allValueStrings)

    let word: String

    init?(argument: String) {
      guard Self.allValueStrings.contains(argument) else { return nil }
      word = argument
    }
  }

  static let configuration = CommandConfiguration(
    abstract: "Start a program under the agent.",
    usage: """
      allocsctl run [--stacks \(Stacks.allValueStrings.joined(separator: "|"))] [--follow]
                           [--events] [--free-stacks] [--ring <size>]
                           [--config <file>] [--record <file>]
                           -- <command> [<argument> ...]
      """,
    discussion: """
      The program takes the place of allocsctl: it has its process id, and its exit status. Its index is a file in \
      $ALLOCS_DIR, else in a directory of the user's own (/run/allocs/UID, /run/user/UID/allocs or \
      /dev/shm/allocs-UID), and stays there when the program ends. Programs that it starts are indexed, too; a child \
      that it forks is so from exec on, or with --follow from the fork on. With --record the program is a child of \
      allocsctl, which records it from its start to its end and then ends with its status.

      Settings come from the file named by --config, else by $ALLOCS_CONFIG, else from ~/.config/allocs/allocs.toml or \
      /etc/allocs/allocs.toml, if there is one; environment variables count more, and options most. All are checked \
      first: one that is wrong, or a variable whose name is nearly that of a setting, is an error, and the program is \
      not started.

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

  /// The settings, a line each: `ALLOCS_RING         ring        bytes of each thread's ring of events: 16K to 1G`.
  private static var settings: String {
    SettingKind.all.filter { $0.scope != ALLOCS_SCOPE_INTERNAL }.map { setting in
      let key = setting.scope == ALLOCS_SCOPE_CONFIGURED ? setting.key : "-"
      let columns = TextLayout.padded(setting.variable, right: 19) + TextLayout.padded(key, right: 12)
      return "  \(columns)\(setting.meaning)"
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

  /// Where the command of `run` begins among the arguments: behind `--`, or without `--` at the first argument that
  /// neither is an option nor belongs to one. All arguments behind the command's name are the command's own, also those
  /// that look like options. Nil if there is no command.
  static func startOfCommand(in arguments: [String]) -> Int? {
    guard arguments.first == "run" else { return nil }
    var index = 1
    while index < arguments.count, arguments[index].utf8.first == UInt8(ascii: "-") {
      if arguments[index] == "--" { return index &+ 1 }
      index &+= takesValue(arguments[index]) ? 2 : 1
    }
    return index < arguments.count ? index : nil
  }

  /// Whether the next argument is the value of `option`. The library's own parser tells: an option that lacks its value
  /// is an error, a flag is not. An option that does not exist is an error here, and is reported when all is parsed.
  private static func takesValue(_ option: String) -> Bool {
    do {
      _ = try parse([option])
      return false
    } catch {
      // --help ends the parsing, and is no error.
      return !exitCode(for: error).isSuccess
    }
  }

  func run() throws {
    guard !command.isEmpty else { throw ValidationError("There is no command to run: name it after --.") }
    try Configuration.checkNames()
    var configuration = try Configuration(path: config)
    if follow { configuration.set("follow", to: "1", option: "--follow") }
    if events { configuration.set("events", to: "1", option: "--events") }
    if freeStacks { configuration.set("free_stacks", to: "1", option: "--free-stacks") }
    if let ring { configuration.set("ring", to: ring, option: "--ring") }
    if let stacks { configuration.set("stacks", to: stacks.word, option: "--stacks") }
    try configuration.check()
    let program = try Program(command)
    try program.checkPreloadable()
    let agent = try Agent.find()
    try configuration.checkSuballocators(of: program)
    configuration.export()
    try IndexDirectory.check()
    // Where no server removes segments, the oldest segments of the user's ended programs are removed here.
    SegmentDirectory.sweepUnlessServed()

    let others = Variables.value(of: "LD_PRELOAD") ?? ""
    let isThere = others.split(whereSeparator: { $0 == ":" || $0 == " " }).contains { $0 == agent }
    Variables.set("LD_PRELOAD", to: isThere ? others : others.isEmpty ? agent : "\(agent):\(others)")
    // This variable switches on an agent that is linked into the executable.
    Variables.set("ALLOCS", to: "1")

    if let record {
      // ExitCode would print an empty line for status 0.
      Glibc.exit(try RecordedRun.run(program, to: record, isCompressed: true))
    }
    try program.become()
  }
}
