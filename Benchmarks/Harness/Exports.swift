// SPDX-License-Identifier: Apache-2.0
// The export of events: how many a second one thread of the server brings into a file on tmpfs, and what it costs to
// watch processes that do nothing.

import Foundation
import Measurement

let exportBenchmark = Benchmark(name: "export", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let output = try Command(
    program: "\(workshop.options.binaries)/allocs-export-bench",
    arguments: ["\(workshop.scratch)/export", workshop.options.quick ? "0.5" : "2"]
  ).run().output
  var figures: [String: Double] = [:]
  for line in output.split(separator: "\n") {
    let words = line.split(separator: " ")
    guard words.count == 3, let rate = Double(words[1]) else {
      throw BenchmarkError("allocs-export-bench printed '\(line)'")
    }
    figures[String(words[0])] = rate
  }
  func figure(_ kind: String) throws -> Double {
    guard let value = figures[kind] else { throw BenchmarkError("allocs-export-bench told nothing of '\(kind)'") }
    return value
  }
  func row(_ name: String, _ unit: String, _ value: Double, _ bar: Bar? = nil) -> Row {
    Row(name: name, unit: unit, value: .figure(value, percentile99: nil), bar: bar)
  }
  var rows: [Row] = []
  for batch in [16, 64, 512, 8192] {
    let export = try figure("export-\(batch)")
    rows.append(row("io_uring, \(batch) records a batch", "M/s", export / 1e6, batch == 8192 ? .atLeast(20) : nil))
    rows.append(row("  plain writes, the same loop", "M/s", try figure("plain-\(batch)") / 1e6))
    rows.append(
      row("  ÷ one write(2) a batch", "×", try export / figure("write-\(batch)"), batch == 64 ? .atLeast(3) : nil))
  }
  let copy = try figure("copy-8192")
  rows.append(row("bytes to the file", "GB/s", try figure("export-8192") * 32 / 1e9))
  rows.append(row("  a memory copy", "GB/s", copy * 32 / 1e9))
  rows.append(try idleRow(workshop))
  return rows
}

/// The server's processor time while the events of a hundred processes are on, and none has any.
private func idleRow(_ workshop: Workshop) throws -> Row {
  let count = 100
  guard let agent = workshop.options.agent else { throw BenchmarkError("no agent") }
  let command = Command(
    program: "/bin/sleep", arguments: ["600"],
    environment: ["LD_PRELOAD": agent, "ALLOCS_DIR": workshop.segments])
  var sleepers = try (0..<count).map { _ in try command.start() }
  defer {
    for index in sleepers.indices {
      sleepers[index].signal(SIGTERM)
      _ = try? sleepers[index].wait(for: command, expectedSignal: SIGTERM)
    }
  }
  let destination = "\(workshop.scratch)/{pid}.events"
  return try withServer(workshop, options: ["--export", destination]) { _, server in
    func exported() -> Int {
      sleepers.count { FileManager.default.fileExists(atPath: "\(workshop.scratch)/\($0.pid).events") }
    }
    let deadline = monotonicSeconds() + 20
    while exported() < count {
      guard monotonicSeconds() < deadline else { throw BenchmarkError("only \(exported()) processes are exported") }
      usleep(50_000)
    }
    // What attaching took is over.
    sleep(2)
    let (before, began) = (processorTime(ofAll: server), monotonicSeconds())
    sleep(workshop.options.quick ? 3 : 10)
    let share = (processorTime(ofAll: server) - before) / (monotonicSeconds() - began)
    return Row(
      name: "server, 100 idle processes", unit: "% CPU", value: .figure(share * 100, percentile99: nil), bar: .atMost(1)
    )
  }
}
