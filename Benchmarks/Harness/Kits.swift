// SPDX-License-Identifier: Apache-2.0
// What the agent costs a pair of malloc and free where it is linked into the executable: left off, and active, beside
// the same program without it and, where there can be one, under the preloaded agent.

import Foundation
import Measurement

let kitBenchmark = Benchmark(name: "kit", part: .time) { workshop in
  guard let agent = workshop.options.agent else { return [] }
  guard FileManager.default.fileExists(atPath: "\(workshop.options.binaries)/liballocs_inexe.a") else {
    return [Row(name: "pair, kit", unit: "ns", value: .missing("liballocs_inexe.a was not built"))]
  }
  let link = Command(
    program: "pkg-config", arguments: ["--libs", "allocs-inexe"],
    environment: ["PKG_CONFIG_PATH": workshop.options.binaries])
  let kit = try link.run().output.split(whereSeparator: \.isWhitespace).map(String.init)
  var rows: [Row] = []
  for (form, option) in [("dynamic", "-pie"), ("static", "-static")] {
    let without = try workshop.program("pair", as: "pair-\(form)", options: ["-fno-builtin", option])
    let with = try workshop.program("pair", as: "pair-\(form)-kit", options: ["-fno-builtin", option] + kit)
    let active = ["ALLOCS": "1", "ALLOCS_DIR": workshop.segments, "ALLOCS_STACKS": "full"]
    var runs: [(name: String, program: String, environment: [String: String])] = [
      ("", without, [:]), ("kit, \(form), left off − none", with, [:]),
      ("  active, whole stacks − none", with, active),
    ]
    if form == "dynamic" {
      let preloaded = ["LD_PRELOAD": agent, "ALLOCS_DIR": workshop.segments, "ALLOCS_STACKS": "full"]
      runs.append(("  preloaded, the same − none", without, preloaded))
    }
    let costs = try costs(of: runs.map { ($0.program, $0.environment) }, in: workshop)
    for (run, values) in zip(runs, costs).dropFirst() {
      guard let spread = Spread(values) else { continue }
      rows.append(
        Row(name: run.name, unit: "ns", value: .spread(spread), bar: run.environment.isEmpty ? .atMost(1) : nil))
    }
  }
  return rows
}

/// Nanoseconds of processor time a pair that each of `runs` takes more than the first, one for each round. In turns,
/// and the least of each: a difference of two times varies by more than either.
private func costs(
  of runs: [(program: String, environment: [String: String])], in workshop: Workshop
) throws -> [[Double]] {
  let operations = workshop.options.quick ? "200000" : "500000"
  var costs: [[Double]] = runs.map { _ in [] }
  for round in 0..<workshop.options.roundCount {
    var least = runs.map { _ in Double.infinity }
    for pass in 0..<5 {
      for position in runs.indices {
        let index = (position + round + pass) % runs.count
        let command = Command(
          program: runs[index].program, arguments: [operations], environment: runs[index].environment,
          processor: processors.last)
        defer { workshop.cleanUp() }
        least[index] = min(
          least[index], try LoopTime(of: command, under: .plain, in: workshop).processor)
      }
    }
    for index in runs.indices { costs[index].append(least[index] - least[0]) }
  }
  return costs
}
