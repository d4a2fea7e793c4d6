// allocsctl: starts programs under the agent, and asks what is at their addresses.

import ArgumentParser
import Glibc
import ServerProtocol

@main
struct Allocsctl: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "allocsctl",
    abstract: "Ask what lies at an address of a running program: which allocation, made where, by whom, when.",
    discussion: """
      Programs that were started with `allocsctl run` keep an index of their live allocations, which can be asked at \
      any moment, without stopping them, and after they have ended.

      Examples:
        allocsctl run -- redis-server
        allocsctl ps
        allocsctl query 4242 0x55d0c0ffee10
        allocsctl top 4242
        allocsctl events 4242
      """,
    version: allocsVersion,
    subcommands: [
      Run.self, PS.self, Info.self, Query.self, Top.self, Events.self, History.self, Record.self, ReplayCommand.self,
      Export.self, Prune.self,
    ])

  /// Parses and runs, in place of the library's own: errors have one line and the statuses of the contract. It must not
  /// be asynchronous: `run` becomes another program, which inherits the signal mask of the thread that calls exec.
  static func main() {
    do {
      var command = try parseAsRoot(Run.withTerminator(Array(CommandLine.arguments.dropFirst())))
      try command.run()
    } catch {
      end(with: error)
    }
  }

  private static func end(with error: any Error) -> Never {
    if let failure = error as? Failure {
      complain(failure.message)
      Glibc.exit(failure.status)
    }
    let status = exitCode(for: error)
    if status.isSuccess {
      // --help, --version, completion scripts.
      try? StandardOutput.write(fullMessage(for: error) + "\n")
    } else if !message(for: error).isEmpty {
      var what = message(for: error)
      while what.hasSuffix(".") { what.removeLast() }
      complain("\(what) — see `\(helpCommand)`")
    }
    Glibc.exit(status.rawValue)
  }

  /// How to get the help of the command that was given.
  private static var helpCommand: String {
    let names = configuration.subcommands.compactMap { $0.configuration.commandName ?? "\($0)".lowercased() }
    guard let name = CommandLine.arguments.dropFirst().first(where: { names.contains($0) }) else {
      return "allocsctl --help"
    }
    return "allocsctl \(name) --help"
  }
}
