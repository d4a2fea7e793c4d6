// What a benchmark is, and what it returns: rows of a table, each a comparison of variants or a single figure.

import Measurement

/// One line of the result.
struct Row {
  enum Value {
    /// Rounds of plain, agent and heaptrack; the figure is the agent's median ratio to plain.
    case comparison(Rounds)
    /// A ratio that was derived from rounds.
    case share(Spread)
    /// The median of something, with its 99th percentile if that was measured.
    case figure(Double, percentile99: Double?)
    /// What couldn't be measured here, and why.
    case missing(String)
  }

  var name: String
  var unit: String
  var value: Value
  var bar: Bar?

  /// The figure that the bar is about; nil if it was not measured.
  var judged: Double? {
    switch value {
    case .comparison(let rounds): rounds.ratio(of: .agent)?.median
    case .share(let spread): spread.median
    case .figure(let figure, _): figure
    case .missing: nil
    }
  }

  /// Whether the bar is met, and if not, by how much it is missed; nil if there is no bar.
  var verdict: String? {
    guard let bar else { return nil }
    return judged.map(bar.verdict) ?? "not measured"
  }
}

/// A benchmark: its name on the command line, the table that its rows belong to, and how it is run.
struct Benchmark: Sendable {
  enum Part: Int, CaseIterable, Sendable {
    case time, index
  }

  let name: String
  let part: Part
  let run: @Sendable (Workshop) throws -> [Row]

  static let all: [Benchmark] = microBenchmarks + wholePrograms + [memoryBenchmark, lookUpBenchmark, serverBenchmark]
}
