// SPDX-License-Identifier: Apache-2.0
// What a benchmark is, and what it returns: rows of a table, each a comparison of variants or a single figure.

import Measurement

/// One line of the result.
struct Row {
  enum Value {
    /// Rounds of plain, the agent with call sites, with full stacks, and heaptrack; the figures are the medians of the
    /// agent's ratios to plain.
    case comparison(Rounds)
    /// What the agent costs, with call sites and with full stacks, as a share of what heaptrack costs.
    case share(site: Spread?, full: Spread?)
    /// Something that was measured once a round.
    case spread(Spread)
    /// The median of something, with its 99th percentile if that was measured.
    case figure(Double, percentile99: Double?)
    /// What couldn't be measured here, and why.
    case missing(String)
  }

  var name: String
  var unit: String
  var value: Value
  /// Of the only figure, or of the agent with call sites.
  var bar: Bar?
  /// Of the agent with full stacks.
  var fullBar: Bar?

  /// A bar and the figure that it is about.
  struct Judgement {
    let name: String
    let bar: Bar
    /// nil if it was not measured.
    let figure: Double?
    var isMet: Bool { figure.map(bar.isMet) ?? false }
    var verdict: String { figure.map(bar.verdict) ?? "not measured" }
  }

  var judgement: Judgement? { bar.map { Judgement(name: title, bar: $0, figure: figure(of: .site)) } }
  var fullJudgement: Judgement? {
    fullBar.map { Judgement(name: "\(title), full stacks", bar: $0, figure: figure(of: .full)) }
  }
  var judgements: [Judgement] { [judgement, fullJudgement].compactMap { $0 } }

  /// The name without the indentation that puts the row below another.
  var title: String {
    var title = name[...]
    while title.first == " " { title.removeFirst() }
    return String(title)
  }

  private func figure(of variant: Variant) -> Double? {
    switch value {
    case .comparison(let rounds): rounds.ratio(of: variant)?.median
    case .share(let site, let full): (variant == .full ? full : site)?.median
    case .spread(let spread): spread.median
    case .figure(let figure, _): figure
    case .missing: nil
    }
  }
}

/// A benchmark: its name on the command line, the table that its rows belong to, and how it is run.
struct Benchmark: Sendable {
  enum Part: Int, CaseIterable, Sendable {
    case time, capture, index, instructions
  }

  let name: String
  let part: Part
  let run: @Sendable (Workshop) throws -> [Row]

  static let all: [Benchmark] =
    microBenchmarks + [entryBenchmark, kitBenchmark, eventsBenchmark] + wholePrograms + [
      captureBenchmark, memoryBenchmark, lookUpBenchmark, liveBenchmark, serverBenchmark, separationBenchmark,
      exportBenchmark, recordBenchmark, pageBenchmark, instructionsBenchmark,
    ]
}
