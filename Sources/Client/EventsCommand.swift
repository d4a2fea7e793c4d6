// SPDX-License-Identifier: Apache-2.0
// The command events: what a process does, as it happens.

import Answers
import ArgumentParser

struct Events: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show allocations and frees of a process as they happen.",
    usage: """
      allocsctl events <pid> [--size <bytes>] [--range <addresses>]
                       [--kind <kinds>] [--function <name>] [--site <name>]
                       [--thread <thread>] [--lossless] [--json [--stacks]]
                       [--wrapper <pattern>] ... [--socket <path> | --direct]
      """,
    discussion: """
      Turns the process's events on, and off again at its end: that of the process, or ^C. One line each: time, event, \
      address, bytes, thread, and the allocation site; for a block that is freed, of the call that freed it if that is \
      recorded (ALLOCS_FREE_STACKS), else of the one that allocated it.

      Events that come faster than they are shown are lost; a line says how many, and since when. With --lossless the \
      process waits for them, a tenth of a second at a time at most. Conditions are checked before names are looked \
      up, where they can be: --size, --range and --kind make a stream that can be followed at any rate.

      Examples:
        allocsctl events 4242
        allocsctl events 4242 --size 1M- --kind alloc
        allocsctl events 4242 --site 'parse_*' --thread worker --json --stacks
        allocsctl events 4242 --range 0x55d0c0ffe000-0x55d0c0fff000
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(help: .init("Of so many bytes: 96, 64-128, 4K-, -64 (K, M, G).", valueName: "bytes"))
  var size: String?

  @Option(help: .init("That touch these addresses: 0x1000-0x2000, or one address.", valueName: "addresses"))
  var range: String?

  @Option(help: .init("Of these kinds, with commas: alloc, free, realloc, thread, module, map.", valueName: "kinds"))
  var kind: [String] = []

  @Option(
    help: .init("Blocks from this function, such as calloc; * and ? stand for any characters.", valueName: "name"))
  var function: [String] = []

  @Option(help: .init("Blocks of this allocation site, by its function; * and ? likewise.", valueName: "name"))
  var site: [String] = []

  @Option(help: .init("Of this thread: its id or name, * and ? likewise.", valueName: "thread"))
  var thread: [String] = []

  @Flag(help: "Let the process wait rather than lose events.")
  var lossless = false

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Flag(help: "With --json: whole call stacks.")
  var stacks = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var options: SourceOptions

  /// The conditions by their names.
  private var conditions: [(name: String, value: String)] {
    // bounded: lists of texts
    [("size", size), ("range", range)].compactMap { name, value in value.map { (name, $0) } }
      + kind.map { ("kind", $0) } + function.map { ("function", $0) } + site.map { ("site", $0) }
      + thread.map { ("thread", $0) }
  }

  func validate() throws {
    if stacks, !json { throw ValidationError("--stacks needs --json.") }
  }

  func run() throws {
    _ = try EventFilter(conditions)
    let request = EventRequest(
      conditions: conditions, wrappers: try wrappers.patterns(), isLossless: lossless, stacks: stacks, json: json)
    // The signals are blocked before the source makes threads, which inherit that.
    let interruption = Interruption()
    try options.source().events(of: pid, request, until: interruption)
  }
}
