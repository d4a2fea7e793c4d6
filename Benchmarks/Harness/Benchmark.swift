// What a benchmark is, and what it returns: rows of a table, each a comparison of variants or a single figure.

import Measurement

/// One line of the result.
struct Row {
  enum Value {
    /// Rounds of plain, agent and heaptrack; the figure is the agent's median ratio to plain.
    case comparison(Rounds)
    /// The median of something, with its 99th percentile if that was measured.
    case figure(Double, percentile99: Double?)
    /// A share or ratio that was derived from rounds.
    case share(Spread)
  }

  var name: String
  var unit: String
  var value: Value
  var bar: Bar?
  /// What the reader must know to understand the figure.
  var note: String?

  /// The figure that the bar is about; nil if it was not measured.
  var judged: Double? {
    switch value {
    case .comparison(let rounds): rounds.ratio(of: .agent)?.median
    case .figure(let figure, _): figure
    case .share(let spread): spread.median
    }
  }

  var verdict: String? {
    guard let bar, let judged else { return nil }
    return bar.verdict(on: judged)
  }
}

/// A benchmark: its name on the command line, and how it is run.
struct Benchmark {
  let name: String
  let run: (Workshop) throws -> [Row]

  static let all: [Benchmark] = microBenchmarks + wholePrograms
}
