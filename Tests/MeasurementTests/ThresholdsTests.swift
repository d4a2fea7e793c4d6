// SPDX-License-Identifier: Apache-2.0

import Foundation
import Measurement
import TestSupport
import Testing

private let file = """
  # What is allowed.
  pair         155.0  malloc(64) + free
  # Of tools.

  query      20000  an address in a query
  """

@Suite("Thresholds of instruction counts", .bounded)
struct ThresholdsTests {
  @Test("a figure may be 3 % above its threshold, and fails beyond that")
  func grown() throws {
    let thresholds = try Thresholds(file)
    func verdicts(_ pair: Double, _ query: Double) -> [Thresholds.Verdict] {
      thresholds.judge([("pair", pair), ("query", query)]).map(\.verdict)
    }
    #expect(verdicts(155, 20000) == [.kept, .kept])
    #expect(verdicts(159.6, 20599) == [.kept, .kept])
    #expect(verdicts(159.7, 20601) == [.grown, .grown])
    #expect(verdicts(150, 20601) == [.shrunk, .grown])
    #expect(thresholds.judge([("pair", 160), ("query", 1)]).map(\.isPassed) == [false, true])
  }

  @Test("figures that were kept fail against thresholds that are 4 % lower")
  func lowered() throws {
    let figures = [(name: "pair", value: 155.0), (name: "query", value: 20000.0)]
    let set = try Thresholds(file)
    #expect(set.judge(figures).map(\.isPassed) == [true, true])
    let lowered = set.text(setTo: Dictionary(uniqueKeysWithValues: figures.map { ($0.name, $0.value / 1.04) }))
    #expect(try Thresholds(lowered).judge(figures).map(\.verdict) == [.grown, .grown])
  }

  @Test("a figure without a threshold fails, and so does a threshold without a figure")
  func unmatched() throws {
    let judgements = try Thresholds(file).judge([("pair", 155), ("new", 1)])
    #expect(judgements.map(\.name) == ["pair", "new", "query"])
    #expect(judgements.map(\.verdict) == [.kept, .unmatched, .unmatched])
    #expect(judgements.map(\.isPassed) == [true, false, false])
  }

  @Test("a file that is set anew keeps its comments, its order and the rows of no figure")
  func setAnew() throws {
    let text = try Thresholds(file).text(setTo: ["pair": 99.96, "nobody": 1])
    #expect(
      text == """
        # What is allowed.
        pair   100.0  malloc(64) + free
        # Of tools.

        query  20000  an address in a query

        """)
    #expect(try Thresholds(text).text(setTo: [:]) == text)
  }

  @Test("the table says what has grown, by how much")
  func table() throws {
    let table = Thresholds.table(try Thresholds(file).judge([("pair", 170.5), ("query", 20000)]))
    #expect(
      table == """
        figure  threshold       now        %  instructions of
        pair        155.0     170.5    +10.0  GROWN: malloc(64) + free
        query       20000     20000      0.0  an address in a query
        """)
  }

  @Test(
    "a line that can't be read is an error that says which",
    arguments: [
      "pair", "pair 155", "pair x malloc", "pair -1 malloc", "pair 0 malloc", "pair nan malloc",
      "pair 1 malloc\npair 2 malloc",
    ])
  func refused(text: String) {
    #expect(throws: ThresholdError.self) { try Thresholds(text) }
  }

  @Test("the tree's own file can be read, and is as it would be written")
  func own() throws {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../Benchmarks/instructions.txt")
    let text = try String(contentsOf: path, encoding: .utf8)
    let thresholds = try Thresholds(text)
    #expect(thresholds.rows.count > 5)
    #expect(thresholds.text(setTo: [:]) == text)
  }
}
