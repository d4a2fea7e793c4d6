// SPDX-License-Identifier: Apache-2.0
// Loops of allocator calls: nanoseconds an operation, plain against agent against heaptrack.

import Measurement

private struct Loop: Sendable {
  let name: String
  let title: String
  let program: String
  /// The arguments before the number of operations.
  var arguments: [String] = []
  /// Operations in a batch; the program does ten batches. Few enough for heaptrack, which takes 300 ns for each call.
  let operations: Int
  /// How often a round runs it, but for heaptrack. The least of them is the round's.
  var repeats = 3
  var usesAllProcessors = false
  /// With call sites.
  var bar: Bar?
  var fullBar: Bar?
  /// Whether the agent's cost with call sites has to be a tenth of heaptrack's.
  var comparesCosts = false
}

private let loops = [
  Loop(
    name: "pair", title: "malloc(64) + free", program: "pair", operations: 600_000, bar: .atMost(2.0),
    comparesCosts: true),
  Loop(
    name: "pair-5", title: "pair at depth 5", program: "capture", arguments: ["same", "5"], operations: 600_000,
    fullBar: .atMost(2.0)),
  Loop(
    name: "churn", title: "churn, 1,000 live", program: "churn", arguments: ["1000"], operations: 600_000,
    bar: .atMost(1.7), comparesCosts: true),
  Loop(
    name: "churn-1m", title: "churn, 1,000,000 live", program: "churn", arguments: ["1000000"], operations: 400_000,
    repeats: 1, bar: .atMost(1.4)),
  Loop(
    name: "threads", title: "two threads, as above", program: "threads", operations: 200_000,
    usesAllProcessors: true, bar: .atMost(1.8)),
  Loop(name: "realloc", title: "realloc up to 64 KiB", program: "grow", operations: 500_000, repeats: 1),
  Loop(name: "mebibyte", title: "1 MiB blocks, 16 live", program: "mebibyte", operations: 200_000, repeats: 1),
  Loop(
    name: "mmap", title: "mmap + munmap, a page", program: "mapping", arguments: ["anonymous"], operations: 20_000),
  Loop(name: "mmap-file", title: "  of a file", program: "mapping", arguments: ["file"], operations: 20_000),
  Loop(name: "spawn", title: "thread start + join", program: "spawn", operations: 1_000),
]

let microBenchmarks = loops.flatMap { loop in
  [Benchmark(name: loop.name, part: .time) { try measure(loop, in: $0) }]
    + (loop.name == "churn-1m"
      ? [Benchmark(name: "churn-floor", part: .time) { try measureFloor(of: loop, in: $0) }] : [])
}

/// What the least index by address (Programs/floor.c) costs the program of `loop`: its time over the plain program's,
/// in turns.
private func measureFloor(of loop: Loop, in workshop: Workshop) throws -> [Row] {
  let plain = Command(
    program: try workshop.program(loop.program),
    arguments: loop.arguments + ["\(workshop.options.quick ? loop.operations / 4 : loop.operations)"],
    processor: processors.last)
  var least = plain
  least.environment["LD_PRELOAD"] = try workshop.program("floor", options: ["-shared", "-fPIC"])
  let ratios = try (0..<workshop.options.roundCount).map { round in
    let times = try [round % 2, 1 - round % 2].map { index in
      (index, try LoopTime(of: index == 0 ? plain : least, under: .plain, in: workshop).nanoseconds(in: workshop))
    }.sorted { $0.0 < $1.0 }
    return times[1].1 / times[0].1
  }
  guard let spread = Spread(ratios) else { return [] }
  return [Row(name: "  two stores a malloc, floor.c ÷ plain", unit: "×", value: .spread(spread))]
}

private func measure(_ loop: Loop, in workshop: Workshop) throws -> [Row] {
  let operations = workshop.options.quick ? loop.operations / 4 : loop.operations
  let command = Command(
    program: try workshop.program(loop.program), arguments: loop.arguments + ["\(operations)"],
    processor: loop.usesAllProcessors ? nil : processors.last)
  let rounds = try Rounds(
    workshop.options.roundCount, of: workshop.variants, repeats: workshop.repeats(loop.repeats)
  ) { variant in
    defer { workshop.cleanUp() }
    return try LoopTime(of: command, under: variant, in: workshop).nanoseconds(in: workshop)
  }
  var rows = [Row(name: loop.title, unit: "ns", value: .comparison(rounds), bar: loop.bar, fullBar: loop.fullBar)]
  if loop.comparesCosts, workshop.variants.contains(.heaptrack) {
    let share = Row.Value.share(
      site: rounds.costShare(of: .site, in: .heaptrack), full: rounds.costShare(of: .full, in: .heaptrack))
    rows.append(Row(name: "  cost ÷ heaptrack's", unit: "×", value: share, bar: .atMost(0.1)))
  }
  return rows
}
