// SPDX-License-Identifier: Apache-2.0
// What the capture of a call stack costs: malloc + free with full stacks, less the same calls with call sites, beside
// libunwind's unw_backtrace at the same depth.

import Foundation
import Measurement

private let depth = 25

let captureBenchmark = Benchmark(name: "capture", part: .capture) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let divisor = workshop.options.quick ? 4 : 1
  let same = try Captures(workshop, shape: "same", operations: 300_000 / divisor, besideLibunwind: true)
  let tails = try Captures(workshop, shape: "tails", operations: 300_000 / divisor)
  let known = try Captures(workshop, shape: "known", operations: 60_000 / divisor)
  let new = try Captures(workshop, shape: "new", operations: 0)
  var rows: [Row] = []
  func add(_ name: String, _ unit: String, _ values: [Double], bar: Bar? = nil) {
    guard let spread = Spread(values) else { return }
    rows.append(Row(name: name, unit: unit, value: .spread(spread), bar: bar))
  }
  add("same stack", "ns", same.costs, bar: .atMost(25))
  if let missing = same.libunwindIsMissing {
    rows.append(Row(name: "  ÷ unw_backtrace", unit: "×", value: .missing(missing), bar: .atMost(1.0 / 6)))
  } else {
    let backtraces = same.rounds.values[.plain] ?? []
    add("  unw_backtrace", "ns", backtraces)
    add("  ÷ unw_backtrace", "×", zip(same.costs, backtraces).map { $0 / $1 }, bar: .atMost(1.0 / 6))
  }
  add("\(tails.changed) innermost frames other", "ns", tails.costs, bar: .atMost(60))
  add("new stack, a new frame", "ns", new.costs.map { $0 / Double(new.changed) }, bar: .atMost(60))
  add("  whole, \(new.changed) frames new", "ns", new.costs)
  add("known, \(known.changed) frames other", "ns", known.costs)
  add("  a frame", "ns", known.costs.map { $0 / Double(known.changed) })
  return rows
}

/// Interleaved rounds of one shape, and what it did.
private struct Captures {
  /// Of `site` and `full`: malloc + free. Of `plain`: unw_backtrace.
  let rounds: Rounds
  /// Frames of each stack that differ from the last one's, or are new.
  let changed: Int
  /// Why unw_backtrace was not measured, if it should have been.
  private(set) var libunwindIsMissing: String?

  /// Nanoseconds of one capture, a value for each round.
  var costs: [Double] { rounds.costs(of: .full, over: .site) }

  init(_ workshop: Workshop, shape: String, operations: Int, besideLibunwind: Bool = false) throws {
    let program = try workshop.program("capture")
    let command = Command(
      program: program, arguments: [shape, "\(depth)", "\(operations)"], processor: processors.last)
    changed = try check(workshop, command)
    var variants: [Variant] = [.site, .full]
    var backtrace: Command?
    if besideLibunwind {
      do {
        backtrace = Command(
          program: try workshop.program("backtrace", libraries: ["unwind"]), arguments: ["\(depth)", "100000"],
          processor: processors.last)
        variants.insert(.plain, at: 0)
      } catch {
        libunwindIsMissing = "libunwind-dev is needed: scripts/install-dependencies bench"
      }
    }
    // A difference of two times varies by more than a ratio of them, and these programs are short.
    rounds = try Rounds(workshop.options.roundCount, of: variants, repeats: [.plain: 3, .site: 3, .full: 3]) {
      variant in
      defer { workshop.cleanUp() }
      let run = variant == .plain ? backtrace ?? command : command
      return try LoopTime(of: run, under: variant, in: workshop).nanoseconds(in: workshop)
    }
  }
}

/// Runs `command` once with full stacks and reads its segment: what is measured has to be a capture of `depth` frames,
/// and the frames that the program calls new have to be. Returns the number of changed frames that it tells.
private func check(_ workshop: Workshop, _ command: Command) throws -> Int {
  defer { workshop.cleanUp() }
  let run = workshop.command(command, under: .full)
  var child = try run.start()
  let output = child.readToEnd()
  try child.wait(for: run)
  let words = output.split(whereSeparator: \.isWhitespace)
  guard words.count == 10, words[4] == "kept", words[6] == "changed", words[8] == "new",
    let changed = Int(words[7]), let new = Int(words[9])
  else { throw BenchmarkError("capture printed '\(output)'") }
  let stack = try Command(
    program: "\(workshop.options.binaries)/allocs-lookup-bench",
    arguments: ["stack", try workshop.segment(of: child.pid), "0x\(words[5])"]
  ).run().output.split(whereSeparator: \.isWhitespace).map { Int($0) }
  guard stack.count == 2, let frames = stack[0], let nodes = stack[1] else {
    throw BenchmarkError("allocs-lookup-bench told no stack")
  }
  guard frames == depth else {
    throw BenchmarkError(
      "\(command.arguments[0]): the recorded stack has \(frames) frames instead of \(depth), so that its capture "
        + "can't be judged"
    )
  }
  // More are new than those which are counted, in the warm-up, but not twice as many.
  guard nodes > new, new == 0 || nodes < 2 * new else {
    throw BenchmarkError("\(command.arguments[0]): \(nodes) frames were new to the index instead of \(new)")
  }
  return changed
}
