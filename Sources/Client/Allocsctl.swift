// SPDX-License-Identifier: Apache-2.0
// allocsctl: starts programs under the agent, and asks what is at their addresses.

import Answers
import ArgumentParser
import ByteText
import Glibc
import ServerProtocol
import SystemAccess

@main
struct Allocsctl: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "allocsctl",
    abstract: "Ask what lies at an address of a running program: which allocation, made where, by whom, when.",
    discussion: """
      Programs that were started with `allocsctl run` keep an index of their live allocations, which can be asked at \
      any moment, without stopping them, and after they have ended.

      Lines have 80 columns, in a pipe too, or as many as the variable COLUMNS says, from 80 to 1000. `top` on a \
      terminal has the terminal's.

      Examples:
        allocsctl run -- redis-server
        allocsctl ps
        allocsctl query 4242 0x55d0c0ffee10
        allocsctl top 4242
        allocsctl growth 4242
        allocsctl events 4242
      """,
    version: allocsVersion,
    subcommands: commands.map(\.type))

  /// The commands with their names. The library would ask each type for what it is called, and Swift's runtime then
  /// looks through all conformances of the program.
  private static let commands: [(name: String, type: any ParsableCommand.Type)] = [
    ("run", Run.self), ("ps", PS.self), ("info", Info.self), ("query", Query.self), ("top", Top.self),
    ("tree", Tree.self), ("blocks", Blocks.self), ("growth", Growth.self), ("mark", MarkCommand.self),
    ("memory", Memory.self), ("events", Events.self), ("history", History.self), ("record", Record.self),
    ("replay", ReplayCommand.self), ("snapshot", SnapshotCommand.self), ("diff", Diff.self), ("export", Export.self),
    ("page", PageCommand.self), ("prune", Prune.self),
  ]

  /// Parses and runs, in place of the library's own `main`: an error has one line, and a status of `ExitStatus`. This
  /// function must not be asynchronous: `run` becomes another program, which inherits the signal mask of the thread
  /// that calls exec.
  static func main() {
    do {
      var arguments = CommandLine.argumentsReversibly
      var words: [String] = []
      if let start = Run.startOfCommand(in: arguments) {
        // The library would take seconds for a command of ten thousand arguments.
        words = Array(arguments[start...])
        arguments.removeSubrange(start...)
      }
      try checkCommand(arguments)
      var command = try parsed(arguments)
      if var run = command as? Run {
        run.command = words
        command = run
      }
      let columns = getenv("COLUMNS").flatMap { TextLayout.columns(askedFor: String(cString: $0)) }
      try TextLayout.withLines(of: columns ?? TextLayout.usualColumns) { try command.run() }
    } catch {
      end(with: error)
    }
  }

  /// A command that is right is parsed without the others, which takes a fifth of the time. The library's messages and
  /// its help name what they are about by its place among all.
  private static func parsed(_ arguments: [String]) throws -> any ParsableCommand {
    if let named = commands.first(where: { $0.name == arguments.first }),
      let command = try? named.type.parse(Array(arguments.dropFirst()))
    {
      return command
    }
    return try parseAsRoot(arguments)
  }

  private static func end(with error: any Error) -> Never {
    if let complaint = error as? Complaint {
      complain(complaint.description)
      Glibc.exit(ExitStatus.of(complaint))
    }
    let status = exitCode(for: error)
    if status.isSuccess {
      // --help, --version, completion scripts.
      try? StandardOutput.write(fullMessage(for: error) + "\n")
    } else if !message(for: error).isEmpty {
      var what = message(for: error).split(whereSeparator: \.isNewline).joined(separator: " ")
      while what.hasSuffix(".") { what.removeLast() }
      complain("\(what) — see `\(helpCommand)`")
    }
    Glibc.exit(status.rawValue)
  }

  private static func isCommand(_ word: String) -> Bool { commands.contains { $0.name == word } }

  /// Throws if a command is named that does not exist: the library answers `help nope` with help.
  private static func checkCommand(_ arguments: [String]) throws(Complaint) {
    guard let first = arguments.first, !first.hasPrefix("-") else { return }
    if arguments.count > 1, first != "run", first != "help", arguments[1].first == "-",
      arguments[1].dropFirst().allSatisfy(\.isNumber), arguments[1].count > 1
    {
      // The library takes such an argument for an option, and complains of the argument after it.
      throw Complaint(.usage, what: "\(arguments[1]) is no process", advice: "a process id is a positive number")
    }
    let named = first == "help" ? Array(arguments.dropFirst().prefix { !$0.hasPrefix("-") }) : [first]
    guard let wrong = named.enumerated().first(where: { $0.offset > 0 || !isCommand($0.element) }) else {
      return
    }
    guard wrong.offset == 0 else {
      throw Complaint(
        .usage, what: "\(named[0]) has no command \(wrong.element)", advice: "see `allocsctl \(named[0]) --help`")
    }
    throw Complaint(
      .usage, what: "there is no command \(wrong.element)",
      advice: "the commands are \(commands.map(\.name).joined(separator: ", ")); see `allocsctl --help`")
  }

  /// The command line that prints the help of the command that was given.
  private static var helpCommand: String {
    guard let name = CommandLine.argumentsReversibly.first(where: { isCommand($0) }) else {
      return "allocsctl --help"
    }
    return "allocsctl \(name) --help"
  }
}
