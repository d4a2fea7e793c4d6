// SPDX-License-Identifier: Apache-2.0
// The command top: which allocation sites hold most memory.

import ArgumentParser

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
      try options.source().top(of: pid, limit: limit, try Perspective(wrappers, level), json: json))
  }
}
