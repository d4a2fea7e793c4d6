// SPDX-License-Identifier: Apache-2.0
// More blocks and bytes than 32 or 64 bits count, in every answer about live memory: what a segment claims is
// anything, and what a large machine holds is much.

import IndexReader
import Provenance
import SharedLayout
import TestSupport
import Testing

@testable import Answers

@Suite("Great numbers", .bounded)
struct GreatNumbersTests {
  private static let start: UInt64 = 0x7000_0000_0000
  private static let count: UInt64 = 150_000
  /// Of each block: all of them have more than 2^64 bytes.
  private static let size: UInt64 = 1 << 47 - 1
  private let synthetic = SyntheticSegment()
  private let contexts: [UInt32]

  init() {
    let thread = synthetic.addThread(id: 7, name: "worker", from: 1)
    let node = synthetic.addNode(pc: 0x5555_0000_1000)
    let nodes = (
      synthetic.addNode(pc: 0x5555_0000_2010, parent: node), synthetic.addNode(pc: 0x5555_0000_2020, parent: node)
    )
    contexts = [
      synthetic.addContext(node: nodes.0, thread: thread), synthetic.addContext(node: nodes.1, thread: thread),
    ]
    for index in 0..<Self.count {
      synthetic.allocate(Self.start + index * 64, size: Self.size, context: contexts[Int(index & 1)], ticks: 2)
    }
    // A few blocks live of 2^33, and as many of which none lives.
    synthetic.setTotal(ofContext: contexts[0], bytes: .max, blocks: 1 << 33)
    synthetic.setTotal(ofContext: contexts[1], bytes: .max - 1, blocks: .max)
    let gone = synthetic.addContext(node: node, thread: thread)
    synthetic.setTotal(ofContext: gone, bytes: 1 << 63, blocks: 1 << 63)
    synthetic.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self)[Int(thread)].identity.allocations = .max
  }

  private func view() throws -> ProcessView { try ProcessView(file: synthetic.path) }

  private func expectNarrow(_ text: String, sourceLocation: SourceLocation = #_sourceLocation) {
    for line in text.split(separator: "\n") {
      #expect(TextLayout.width(String(line)) <= 80, "\(line)", sourceLocation: sourceLocation)
    }
  }

  @Test("tables of each group and order have all blocks, and lines of 80 columns", arguments: HeapGrouping.allCases)
  func tables(grouping: HeapGrouping) throws {
    let view = try view()
    for sort in SiteOrder.allCases where sort != .rate || grouping.isOfContexts {
      var scope = HeapScope()
      scope.wantsTotals = grouping.isOfContexts
      let table = try view.top(limit: 3, sort: sort, by: grouping, scope: scope)
      #expect(table.total.blocks == Self.count && table.total.bytes == Self.count &* Self.size)
      expectNarrow(table.text)
      _ = try parseJSON(table.json)
    }
  }

  @Test("calls, differences, lists of blocks, the map and every profile")
  func others() throws {
    let view = try view()
    var scope = HeapScope()
    let sums = try view.stackSums(scope)
    #expect(sums.total.blocks == Self.count)
    for isInverted in [false, true] {
      let tree = CallTree(of: sums, isInverted: isInverted, limit: 10)
      expectNarrow(tree.text)
      _ = try parseJSON(tree.json)
    }
    scope.wantsTotals = true
    let all = try view.stackSums(scope)
    #expect(all.rows.count == 3)
    for format in ProfileFormat.allCases { #expect(format.render(all).count > 20) }
    synthetic.free(Self.start)
    synthetic.setTotal(ofContext: contexts[0], bytes: 5, blocks: 1 << 34)
    for grouping in HeapDifference.Grouping.allCases {
      let difference = HeapDifference(
        from: all, named: "before", to: try view.stackSums(scope), named: "after", by: grouping, limit: 10,
        wantsTotals: true)
      expectNarrow(difference.text)
      _ = try parseJSON(difference.json)
      // Totals that wrapped around are of no use, and take nothing else with them.
      #expect(difference.made?.blocks == 1 << 34 - 1 << 33 && difference.made?.bytes == 0)
    }
    for sort in BlockOrder.allCases {
      let list = try view.blocks(BlockFilter(), sort: sort, limit: 3, json: false)
      expectNarrow(String(decoding: list.text, as: UTF8.self))
    }
    _ = try parseJSON(try view.addressMap(cells: 256).json)
    expectNarrow(try view.addressMap(cells: 256).text)
  }
}
