// SPDX-License-Identifier: Apache-2.0
// The counters of the layout, as the reader knows them.

import SharedLayout
import TestSupport
import Testing

@testable import IndexReader

@Suite("Counters", .bounded)
struct CounterTests {
  @Test("each row of the layout's list is a counter of a kind that the reader knows")
  func rows() {
    let named = (0..<UInt32(ALLOCS_COUNTER_COUNT.rawValue)).filter { !String(cString: allocs_counter_name($0)).isEmpty }
    #expect(IndexCounter.all.map { UInt32($0.number) } == named)
    for counter in IndexCounter.all { #expect(IndexCounter.named(counter.name) == counter) }
  }

  @Test("a counter says one and several in words")
  func sentences() throws {
    let counter = try #require(IndexCounter.named("arenas_exhausted"))
    #expect(counter.sentence(of: 1) { "\($0)" } == "1 block not indexed: no arena was left")
    #expect(counter.sentence(of: 2000) { "<\($0)>" } == "<2000> blocks not indexed: no arena was left")
  }

  @Test("sums over a kind are the sums of its counters")
  func sums() throws {
    let synthetic = SyntheticSegment()
    withUnsafeMutableBytes(of: &synthetic.header.pointee.counters) { bytes in
      let values = bytes.bindMemory(to: UInt64.self)
      for counter in IndexCounter.all { values[counter.number] = UInt64(counter.number) + 1 }
    }
    let segment = try Segment(path: synthetic.path)
    func sum(_ kinds: Set<IndexCounter.Kind>) -> UInt64 {
      IndexCounter.all.filter { kinds.contains($0.kind) }.reduce(0) { $0 + UInt64($1.number) + 1 }
    }
    let (lost, unknown, inner) = (segment.lostBlocks, segment.unknownFrees, segment.innerBlocks)
    #expect(lost == sum([.lostBlocks]) && unknown == sum([.unknownFrees]) && inner == sum([.innerBlocks]))
    let unrecorded = segment.unrecordedEvents
    #expect(unrecorded == sum([.lostBlocks, .unknownFrees, .lostEvents]))
  }
}
