// SPDX-License-Identifier: Apache-2.0
// What the recording of events costs the target: while it is off, while it is on and nobody reads, and while a consumer
// takes every record.

import Foundation
import Measurement

let eventsBenchmark = Benchmark(name: "events", part: .time) { workshop in
  guard let agent = workshop.options.agent else { return [] }
  let operations = workshop.options.quick ? "200000" : "500000"
  let pair = Command(program: try workshop.program("pair"), arguments: [operations], processor: processors.last)
  var rows: [Row] = []
  for variant in [Variant.full, .site] {
    let title = variant == .full ? "pair" : "  call sites"
    let times = try EventTimes(of: pair, under: variant, agent, workshop)
    if let without = times.without, let spread = Spread(zip(times.off, without).map { $0 - $1 }) {
      rows.append(
        Row(name: "\(title), off − a build without", unit: "ns", value: .spread(spread), bar: .atMost(0.5)))
    } else {
      rows.append(
        Row(
          name: "\(title), off − a build without", unit: "ns",
          value: .missing("ALLOCS_AGENT_WITHOUT_EVENTS names no agent"), bar: .atMost(0.5)))
    }
    if let spread = Spread(zip(times.on, times.off).map { $0 - $1 }) {
      rows.append(Row(name: "\(title), on − off", unit: "ns", value: .spread(spread), bar: .atMost(12)))
    }
  }
  let long = Command(
    program: pair.program, arguments: [workshop.options.quick ? "500000" : "2000000"], processor: processors.last)
  var recorded: [Recorded] = []
  for _ in 0..<workshop.options.roundCount { recorded.append(try Recorded(long, in: workshop)) }
  if let ratio = Spread(recorded.map(\.ratio)), let rate = Spread(recorded.map { $0.rate / 1e6 }) {
    rows.append(Row(name: "pair, lossless into a file ÷ on", unit: "×", value: .spread(ratio), bar: .atMost(1.5)))
    rows.append(Row(name: "  recorded, none lost", unit: "M/s", value: .spread(rate)))
  }
  return rows
}

/// Nanoseconds of processor time of one operation, a value a round: the least of a few runs in turns.
private struct EventTimes {
  var without: [Double]?
  var off: [Double] = []
  var on: [Double] = []

  init(of command: Command, under variant: Variant, _ agent: String, _ workshop: Workshop) throws {
    let other = ProcessInfo.processInfo.environment["ALLOCS_AGENT_WITHOUT_EVENTS"]
    without = other == nil ? nil : []
    func time(_ agent: String, on: Bool) throws -> Double {
      defer { workshop.cleanUp() }
      var command = workshop.command(command, under: variant)
      command.environment["LD_PRELOAD"] = agent
      if on { command.environment["ALLOCS_EVENTS"] = "1" }
      return try LoopTime(of: command, under: .plain, in: workshop).processor
    }
    for _ in 0..<workshop.options.roundCount {
      var least = [Double](repeating: .infinity, count: 3)
      for _ in 0..<5 {
        if let other { least[0] = min(least[0], try time(other, on: false)) }
        least[1] = min(least[1], try time(agent, on: false))
        least[2] = min(least[2], try time(agent, on: true))
      }
      without?.append(least[0])
      off.append(least[1])
      on.append(least[2])
    }
  }
}

/// One thread at full speed, every event of it recorded into a file on tmpfs by the server's drain loop, which has
/// another processor. Fails if an event is missing.
private struct Recorded {
  /// Times as long as an operation takes while nobody reads.
  let ratio: Double
  /// Events a second.
  let rate: Double

  init(_ command: Command, in workshop: Workshop) throws {
    defer { workshop.cleanUp() }
    var on = workshop.command(command, under: .full)
    on.environment["ALLOCS_EVENTS"] = "1"
    var alone = Double.infinity
    for _ in 0..<3 {
      alone = min(alone, try LoopTime(of: on, under: .plain, in: workshop).elapsed)
      workshop.cleanUp()
    }
    var target = try on.start()
    let deadline = monotonicSeconds() + 10
    var segment: String?
    while segment == nil, monotonicSeconds() < deadline { segment = try? workshop.segment(of: target.pid) }
    let recorder = Command(
      program: "\(workshop.options.binaries)/allocs-drain-bench",
      arguments: [try segment ?? workshop.segment(of: target.pid), "\(workshop.scratch)/recorded"],
      processor: processors.first)
    var recording = try recorder.start()
    // Elapsed, as what it waits counts.
    let time = try LoopTime(target.readToEnd(), of: command).elapsed
    try target.wait(for: on)
    let words = recording.readToEnd().split(whereSeparator: \.isWhitespace).compactMap { UInt64($0) }
    try recording.wait(for: recorder)
    guard words.count == 3, words[0] > 0, words[1] == 0, words[2] >= words[0] * 32 else {
      throw BenchmarkError("allocs-drain-bench recorded, lost and wrote \(words): every event is to be kept")
    }
    (ratio, rate) = (time / alone, 2e9 / time)
  }
}
