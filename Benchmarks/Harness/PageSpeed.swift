// SPDX-License-Identifier: Apache-2.0
// How fast the page is, in Chromium without a window: Tests/Page/page.py measures, of its own program.

import Foundation
import Measurement

let pageBenchmark = Benchmark(name: "page", part: .index) { workshop in
  guard let agent = workshop.options.agent else { return [] }
  /// A row, and which line of the script has its figures. The bar of a frame is the time that one has, of 60 a second.
  let rows: [(name: String, unit: String, line: Substring, bar: Bar?)] = [
    ("page of 1M live: facts", "s", "facts", nil), ("  flame graph painted", "s", "graph", .atMost(1)),
    ("  a zoom: longest frame", "ms", "frame", .atMost(1000.0 / 60)), ("  a zoom: frames", "/s", "rate", .atLeast(60)),
  ]
  let command = Command(
    program: "python3", arguments: ["-B", "\(workshop.options.root)/Tests/Page/page.py", "--figures"],
    environment: ["ALLOCS_BIN_DIR": workshop.options.binaries, "ALLOCS_AGENT": agent])
  let output = try command.run().output
  var values: [Substring: [Double]] = [:]
  for line in output.split(separator: "\n") {
    let words = line.split(separator: " ")
    let numbers = words.dropFirst().compactMap { Double($0) }
    if let name = words.first, numbers.count == words.count - 1 { values[name] = numbers }
  }
  guard !values.isEmpty else {
    let why = output.split(separator: "\n").last.map(String.init) ?? "page.py printed nothing"
    return rows.map { Row(name: $0.name, unit: $0.unit, value: .missing(why), bar: $0.bar) }
  }
  return try rows.map { row in
    guard let spread = Spread(values[row.line] ?? []) else {
      throw BenchmarkError("page.py told nothing of '\(row.line)'")
    }
    return Row(name: row.name, unit: row.unit, value: .spread(spread), bar: row.bar)
  }
}
