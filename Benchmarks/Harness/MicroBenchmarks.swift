// Loops of allocator calls: nanoseconds an operation, plain against agent against heaptrack.

import Measurement

private struct Loop: Sendable {
  let name: String
  let title: String
  let program: String
  /// The argument before the number of operations, if the program takes one.
  var argument: String?
  /// Operations in a batch; the program does ten batches. Few enough for heaptrack, which takes 300 ns for each call.
  let operations: Int
  var usesAllProcessors = false
  var bar: Bar?
  /// Whether the agent's cost has to be a tenth of heaptrack's.
  var comparesCosts = false
}

private let loops = [
  Loop(
    name: "pair", title: "malloc(64) + free", program: "pair", operations: 1_000_000, bar: .atMost(2.0),
    comparesCosts: true),
  Loop(
    name: "churn", title: "churn, 1,000 live", program: "churn", argument: "1000", operations: 1_000_000,
    bar: .atMost(1.7), comparesCosts: true),
  Loop(
    name: "churn-1m", title: "churn, 1,000,000 live", program: "churn", argument: "1000000", operations: 400_000,
    bar: .atMost(1.4)),
  Loop(
    name: "threads", title: "two threads, pair + churn", program: "threads", operations: 300_000,
    usesAllProcessors: true, bar: .atMost(1.8)),
  Loop(name: "realloc", title: "growing realloc to 64 KiB", program: "grow", operations: 500_000),
  Loop(name: "mebibyte", title: "1 MiB blocks, 16 live", program: "mebibyte", operations: 200_000),
  Loop(name: "spawn", title: "thread start + join", program: "spawn", operations: 1_000),
]

let microBenchmarks = loops.map { loop in Benchmark(name: loop.name, part: .time) { try measure(loop, in: $0) } }

private func measure(_ loop: Loop, in workshop: Workshop) throws -> [Row] {
  let program = try workshop.program(loop.program)
  let operations = workshop.options.quick ? loop.operations / 4 : loop.operations
  let command = Command(
    program: program, arguments: (loop.argument.map { [$0] } ?? []) + ["\(operations)"],
    processor: loop.usesAllProcessors ? nil : processors.last)
  let rounds = try Rounds(workshop.options.roundCount, of: workshop.variants) { variant in
    defer { workshop.cleanUp() }
    let output = try workshop.command(command, under: variant).run().output
    return try nanoseconds(in: output, of: loop.program, usesProcessorTime: workshop.options.usesProcessorTime)
  }
  var rows = [Row(name: loop.title, unit: "ns", value: .comparison(rounds), bar: loop.bar)]
  if loop.comparesCosts, let share = rounds.costShare(of: .agent, in: .heaptrack) {
    rows.append(Row(name: "  cost ÷ heaptrack's cost", unit: "×", value: .share(share), bar: .atMost(0.1)))
  }
  return rows
}

/// Reads the line "elapsed NS cpu NS".
private func nanoseconds(in output: String, of program: String, usesProcessorTime: Bool) throws -> Double {
  let words = output.split(whereSeparator: \.isWhitespace)
  guard words.count == 4, words[0] == "elapsed", words[2] == "cpu", let elapsed = Double(words[1]),
    let processor = Double(words[3])
  else { throw BenchmarkError("\(program) printed '\(output)' instead of its time") }
  return usesProcessorTime ? processor : elapsed
}
