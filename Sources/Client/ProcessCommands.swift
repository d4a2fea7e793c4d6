// SPDX-License-Identifier: Apache-2.0
// The commands that ask about processes: ps lists them, info tells of one.

import Answers
import ArgumentParser

extension ProcessOrder: ExpressibleByArgument {}

struct PS: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ps",
    abstract: "List the indexed processes, live and dead.",
    usage: """
      allocsctl ps [--live] [--sort <order>] [--json]
                   [--socket <path> | --direct]
      """,
    discussion: """
      STATE of one that ended: exited, or `exit 3` with a status; `_exit 3`, without its exit handlers; the signal \
      that ended it, as SIGKILL; dead, where it did not end in order and how is not known. How is known where allocsd \
      ran, on Linux 6.15 or later. ENDED: since when it is known to have ended. COMMAND is what the program calls \
      itself now (setproctitle), if that is another command than it was started with. INDEX is the memory that the \
      index takes; live blocks and bytes are shown where they are the order. Columns that a line of 80 has no room \
      for are left out; JSON has all.

      Examples:
        allocsctl ps
        allocsctl ps --live --sort bytes
        allocsctl ps --sort end --json
      """)

  @Flag(help: "Only processes that run.")
  var live = false

  @Option(
    help: .init(
      "Order: pid, start, end (latest first), index, blocks, bytes, lost (most first), command.", valueName: "order"))
  var sort: ProcessOrder?

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var options: SourceOptions

  func run() throws { try StandardOutput.write(try options.source().processes(selection, json: json)) }

  private var selection: ProcessSelection { ProcessSelection(isLiveOnly: live, order: sort) }
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
