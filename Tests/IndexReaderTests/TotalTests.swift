// SPDX-License-Identifier: Apache-2.0
// Totals against what was written, whole, lying and missing.

import IndexReader
import SharedLayout
import TestSupport
import Testing

@Suite("Totals", .bounded)
struct TotalTests {
  private func all(_ segment: borrowing Segment) -> [UInt32: AllocatedTotal] {
    var all: [UInt32: AllocatedTotal] = [:]
    segment.forEachTotal { all[$0] = $1 }
    return all
  }

  @Test("a context has its total; one of threads without an entry has none, nor has an id that leads nowhere")
  func contexts() throws {
    let synthetic = SyntheticSegment()
    let counted = synthetic.addContext(node: 0, thread: 3)
    let silent = synthetic.addContext(node: 0, thread: 4)
    let shared = synthetic.addContext(node: 0, thread: ALLOCS_THREAD_UNKNOWN)
    synthetic.setTotal(ofContext: counted, bytes: 1000, blocks: 10)
    synthetic.setTotal(ofContext: shared, bytes: 5, blocks: 5)
    // Behind the contexts, where none was given out, and of id 0, which stands for none.
    synthetic.setTotal(ofContext: 900, bytes: 7, blocks: 7)
    synthetic.setTotal(ofContext: 0, bytes: 9, blocks: 9)
    let segment = try Segment(path: synthetic.path)
    let hasTotals = segment.hasTotals
    #expect(hasTotals)
    #expect(segment.total(ofContext: counted) == AllocatedTotal(bytes: 1000, blocks: 10))
    #expect(segment.total(ofContext: silent) == AllocatedTotal(bytes: 0, blocks: 0))
    for id in [0, shared, 900, 1023, 1024, .max] { #expect(segment.total(ofContext: id) == nil, "\(id)") }
    #expect(all(segment) == [counted: AllocatedTotal(bytes: 1000, blocks: 10)])
  }

  @Test("a segment without the section is read, and has no totals")
  func missing() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.totals = 0
    let synthetic = SyntheticSegment(capacities: capacities)
    let context = synthetic.addContext(node: 0, thread: 3)
    synthetic.allocate(0x5555_0000_0000, size: 48, context: context)
    let segment = try Segment(path: synthetic.path)
    let hasTotals = segment.hasTotals
    #expect(!hasTotals)
    #expect(segment.total(ofContext: context) == nil)
    #expect(all(segment).isEmpty)
    #expect(segment.allocation(containing: 0x5555_0000_0010)?.context == context)
  }

  @Test("numbers may be any, and `used` may promise more than there is")
  func lies() throws {
    let synthetic = SyntheticSegment()
    let context = synthetic.addContext(node: 0, thread: 3)
    let other = synthetic.addContext(node: 0, thread: 3)
    synthetic.setTotal(ofContext: context, bytes: .max, blocks: .max)
    synthetic.setTotal(ofContext: other, bytes: 0, blocks: 1)
    let totals = Int(ALLOCS_SECTION_TOTALS.rawValue)
    synthetic.section(totals).pointee.used = .max
    synthetic.section(Int(ALLOCS_SECTION_CONTEXTS.rawValue)).pointee.used = .max
    let segment = try Segment(path: synthetic.path)
    #expect(
      all(segment) == [
        context: AllocatedTotal(bytes: .max, blocks: .max), other: AllocatedTotal(bytes: 0, blocks: 1),
      ])
    synthetic.section(totals).pointee.entry_size = 24
    #expect("\(try #require(openingError(synthetic.path)))".contains("an entry of its totals"))
  }
}
