// SPDX-License-Identifier: Apache-2.0
// Look-ups in the mapped index, without symbols: allocs-lookup-bench asks a live process's segment.

import Foundation
import Measurement

let lookUpBenchmark = Benchmark(name: "lookup", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  var rows: [Row] = []
  var medians: [Double] = []
  let counts = workshop.options.quick ? [10_000, 1_000_000] : [10_000, 1_000_000, 10_000_000]
  for count in counts {
    // A tenth is freed again.
    let times = try withHolder(workshop, arguments: ["0", "\(count + count / 9)"]) {
      try lookUpTimes(workshop, ["times", $0.segment])
    }
    rows += try kindRows(count, times) { $0 == "neighbours" ? .atMost(1000) : .atMost(300) }
    medians.append(times["interior"]?.median ?? 0)
  }
  if !workshop.options.quick {
    let count = 100_000_000
    let times = try withHolder(workshop, arguments: ["16", "\(count)"]) {
      try lookUpTimes(workshop, ["times", $0.segment])
    }
    rows += try kindRows(count, times) { _ in nil }
  }
  if let first = medians.first, let last = medians.last, first > 0 {
    rows.append(
      Row(
        name: "\(short(counts.last ?? 0)) ÷ 10 k, interior", unit: "×", value: .figure(last / first, percentile99: nil),
        bar: .atMost(10)))
  }
  return try rows + interiorRows(workshop)
}

private func kindRows(_ count: Int, _ times: [String: LookUpTime], bar: (String) -> Bar?) throws -> [Row] {
  try [("base", "base"), ("interior", "interior"), ("free", "free address"), ("neighbours", "with neighbours")]
    .map { kind, title in try row("\(short(count)) live, \(title)", times, kind, bar: bar(kind)) }
}

/// Deep inside one allocation, and above many that were freed.
private func interiorRows(_ workshop: Workshop) throws -> [Row] {
  let gibibyte: UInt64 = 1 << 30
  var rows: [Row] = []
  // The kernel may refuse so much address space; then the row says so and the others go on.
  do {
    let deep = try withHolder(workshop, arguments: ["\(13 * gibibyte)", "1"]) {
      try lookUpTimes(workshop, inside($0.segment, base: $0.first, from: 12 * gibibyte, to: 13 * gibibyte))
    }
    rows.append(try row("12 GiB into a block", deep, "inside", bar: .atMost(10_000)))
  } catch {
    rows.append(
      Row(name: "12 GiB into a block", unit: "ns", value: .missing("\(error)"), bar: .atMost(10_000)))
  }

  let base: UInt64 = 1 << 44
  let file = "\(workshop.scratch)/1.1.seg"
  try Command(
    program: try workshop.program("synthetic"), arguments: [file, "\(base)", "\(1025 * gibibyte)"]
  ).run()
  defer { unlink(file) }
  let huge = try lookUpTimes(workshop, inside(file, base: base, from: 1024 * gibibyte, to: 1025 * gibibyte))
  rows.append(try row("1 TiB into a block", huge, "inside", bar: .atMost(10_000)))
  rows.append(try row("open + first look-up", huge, "open", bar: nil))

  let freed = workshop.options.quick ? 1_000_000 : 10_000_000
  let cleared = try withHolder(workshop, arguments: ["24", "\(freed)", "1"]) {
    try lookUpTimes(workshop, ["free", $0.segment, "\($0.last)"])
  }
  rows.append(try row("free, above \(short(freed)) freed", cleared, "free", bar: nil))
  return rows
}

private func inside(_ segment: String, base: UInt64, from low: UInt64, to high: UInt64) -> [String] {
  ["inside", segment, "\(base)", "\(base + low)", "\(base + high)"]
}

/// 10 k or 10 M instead of all the zeros.
func short(_ count: Int) -> String { count >= 1_000_000 ? "\(count / 1_000_000) M" : "\(count / 1000) k" }

private func row(_ name: String, _ times: [String: LookUpTime], _ kind: String, bar: Bar?) throws -> Row {
  guard let time = times[kind] else { throw BenchmarkError("allocs-lookup-bench told no time for '\(kind)'") }
  return Row(
    name: name, unit: "ns", value: .figure(time.median, percentile99: kind == "open" ? nil : time.percentile99),
    bar: bar)
}

struct LookUpTime {
  let median: Double
  let percentile99: Double
}

/// Runs allocs-lookup-bench and reads its lines "KIND MEDIAN P99", nanoseconds.
private func lookUpTimes(_ workshop: Workshop, _ arguments: [String]) throws -> [String: LookUpTime] {
  let output = try Command(
    program: "\(workshop.options.binaries)/allocs-lookup-bench", arguments: arguments, processor: processors.last
  ).run().output
  var times: [String: LookUpTime] = [:]
  for line in output.split(separator: "\n") {
    let words = line.split(separator: " ")
    guard words.count == 3, let median = Double(words[1]), let high = Double(words[2]) else {
      throw BenchmarkError("allocs-lookup-bench printed '\(line)'")
    }
    times[String(words[0])] = LookUpTime(median: median, percentile99: high)
  }
  return times
}
