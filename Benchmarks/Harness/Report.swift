// SPDX-License-Identifier: Apache-2.0
// The result of a run: as JSON, and as the page docs/benchmarks.md.

import Foundation
import Measurement

struct Report {
  let machine: Machine
  let options: Options
  private(set) var rows: [(part: Benchmark.Part, row: Row)] = []

  init(machine: Machine, options: Options) {
    self.machine = machine
    self.options = options
  }

  mutating func add(_ row: Row, to part: Benchmark.Part) { rows.append((part, row)) }

  var table: String {
    Benchmark.Part.allCases.compactMap { part in
      let lines = rows.filter { $0.part == part }.map { Table.line($0.row) }
      return lines.isEmpty ? nil : ([Table.heading(part)] + lines).joined(separator: "\n")
    }.joined(separator: "\n\n")
  }

  private var judgements: [Row.Judgement] { rows.flatMap(\.row.judgements) }
  var missedCount: Int { judgements.count { !$0.isMet } }

  /// "23 of 25 bars met", and which not.
  var summary: String {
    let missed = judgements.filter { !$0.isMet }
    return
      ([
        (missed.isEmpty ? "All" : "\(judgements.count - missed.count) of") + " \(judgements.count) bars met."
      ] + missed.map { "  \($0.name): \($0.verdict)" }).joined(separator: "\n")
  }

  // MARK: JSON

  private struct Record: Encodable {
    var name: String
    var unit: String
    var values: [String: [Double]]?
    var ratio: [String: [String: Double]]?
    var figure: Double?
    var minimum: Double?
    var maximum: Double?
    var percentile99: Double?
    var missing: String?
    var bar: String?
    var verdict: String?
    /// Of the agent with full stacks; `bar` is then of the agent with call sites.
    var fullBar: String?
    var fullVerdict: String?
  }

  private struct Document: Encodable {
    var machine: Machine
    var rounds: Int
    var quick: Bool
    var clock: String
    var rows: [Record]
  }

  func json() throws -> String {
    func numbers(_ spread: Spread) -> [String: Double] {
      ["median": spread.median, "minimum": spread.minimum, "maximum": spread.maximum]
    }
    let records = rows.map { _, row in
      var record = Record(name: row.title, unit: row.unit)
      record.bar = row.bar.map(Table.limit)
      record.verdict = row.judgement?.verdict
      record.fullBar = row.fullBar.map(Table.limit)
      record.fullVerdict = row.fullJudgement?.verdict
      switch row.value {
      case .comparison(let rounds):
        record.values = Dictionary(uniqueKeysWithValues: rounds.values.map { ($0.rawValue, $1) })
        record.ratio = Dictionary(
          uniqueKeysWithValues: [Variant.site, .full, .heaptrack].compactMap { variant in
            rounds.ratio(of: variant).map { (variant.rawValue, numbers($0)) }
          })
      case .share(let site, let full): record.ratio = ["site": site, "full": full].compactMapValues { $0.map(numbers) }
      case .spread(let spread):
        (record.figure, record.minimum, record.maximum) = (spread.median, spread.minimum, spread.maximum)
      case .figure(let figure, let percentile99):
        record.figure = figure
        record.percentile99 = percentile99
      case .missing(let why): record.missing = why
      }
      return record
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let document = Document(
      machine: machine, rounds: options.roundCount, quick: options.quick,
      clock: options.usesProcessorTime ? "processor" : "elapsed", rows: records)
    return String(decoding: try encoder.encode(document), as: UTF8.self)
  }

  // MARK: the page

  func write() throws {
    let path = "\(options.root)/docs/benchmarks.md"
    try FileManager.default.createDirectory(atPath: "\(options.root)/docs", withIntermediateDirectories: true)
    let old = FileManager.default.contents(atPath: path).map { String(decoding: $0, as: UTF8.self) } ?? ""
    let notes = handWritten(of: old)
    try page(notes: notes.isEmpty ? "" : "\n\(notes)\n").write(toFile: path, atomically: true, encoding: .utf8)
  }

  private func page(notes: String) -> String {
    """
    # Benchmarks

    What the agent costs a program, and how fast the index answers: the table that `make bench` printed last, which
    replaces this page but for what is written by hand. Everything is measured in one run: each of \
    \(options.roundCount) rounds runs the program
    plain, under the agent with `ALLOCS_STACKS=site` (the call site of each allocation) and with `full` (its whole call
    stack: the default), and under heaptrack, starting with another of the four each time. Ratios are taken within
    a round; the table has their median, the least and the greatest, the bar, and whether it is met (✓) or missed (✗).\
    \(options.usesProcessorTime ? "\nTimes are processor times, as the machine was not idle." : "")\
    \(options.quick ? "\nA quick run, of fewer operations than the bars are meant for." : "")

    ```
    \(machine.lines.joined(separator: "\n"))

    \(table)

    \(summary)
    ```
    \(notes)
    \(Self.explanation)
    """
  }
}
