// SPDX-License-Identifier: Apache-2.0
// Look-ups of every class of address, and iteration, against what was written.

import IndexReader
import SharedLayout
import Synchronization
import TestSupport
import Testing

private let heap: UInt64 = 0x5555_0000_0000
private let regionSize: UInt64 = 1 << 26

@Suite("Look-up", .bounded)
struct LookupTests {
  @Test(
    "each size is found by its base and its last byte, and not by its neighbours",
    arguments: [0, 1, 16, 24, 31, 32, 63, 64, 65, 100, 4096, 1 << 20, 1 << 24] as [UInt64], [0, 16] as [UInt64])
  func sizes(size: UInt64, granule: UInt64) throws {
    let synthetic = SyntheticSegment()
    let base = heap + 0x1000 + granule
    synthetic.allocate(base, size: size, alignment: size >= 64 ? 5 : 0, context: 77, ticks: 1234)
    let segment = try Segment(path: synthetic.path)
    let expected = Allocation(base: base, size: size, alignment: size >= 64 ? 32 : nil, context: 77, ticks: 1234)
    expectOnly(expected, in: segment)
  }

  @Test("an address between two allocations answers free, with both neighbours")
  func between() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 32)
    synthetic.allocate(heap + 0x40, size: 8)
    synthetic.allocate(heap + 0x100, size: 64)
    let segment = try Segment(path: synthetic.path)
    let answer = segment.lookup(heap + 0x80)
    #expect(answer.containing == nil)
    #expect(answer.previous?.base == heap + 0x40)
    #expect(answer.next?.base == heap + 0x100)
    let inside = segment.lookup(heap + 0x47)
    #expect(inside.containing?.base == heap + 0x40)
    #expect(inside.previous?.base == heap)
    #expect(inside.next?.base == heap + 0x100)
  }

  @Test("an allocation in the upper half of a block does not own the lower half")
  func granules() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap + 0x210, size: 24)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(containing: heap + 0x20F) == nil)
    #expect(segment.allocation(before: heap + 0x20F) == nil)
    #expect(segment.allocation(after: heap + 0x200)?.base == heap + 0x210)
    #expect(segment.allocation(containing: heap + 0x210)?.base == heap + 0x210)
  }

  @Test("a freed address answers free, between its neighbours; its stale tail is taken for nothing")
  func freed() throws {
    let synthetic = SyntheticSegment()
    for index in 0..<3 { synthetic.allocate(heap + UInt64(index) * 0x1000, size: 1000) }
    synthetic.free(heap + 0x1000)
    let segment = try Segment(path: synthetic.path)
    let answer = segment.lookup(heap + 0x1020)
    #expect(answer.containing == nil)
    #expect(answer.previous?.base == heap)
    #expect(answer.next?.base == heap + 0x2000)
    #expect(segment.wasUsed(heap + 0x1000) == true)
    #expect(segment.wasUsed(heap + 0x17FF) == true)
    #expect(segment.wasUsed(heap + 0x1800) == false)
    #expect(segment.wasUsed(heap - 1) == false)
  }

  @Test("neighbours are found across many groups in which all was freed, small blocks and large", arguments: [0, 8])
  func farAcrossFreed(step: Int) throws {
    let synthetic = SyntheticSegment()
    let count = 5000
    let bases = (0..<count).map { index -> UInt64 in heap + UInt64(index * 2048 + index % 32 * 32) }
    // Large ones leave a tail behind.
    for (index, base) in bases.enumerated() { synthetic.allocate(base, size: index % 3 == 0 ? 24 : 1000) }
    // Some are left, at different places of their group; or none but the first and the last.
    let kept = Set([0, count - 1] + (step > 0 ? Array(stride(from: step, to: count, by: 61 * step)) : []))
    for (index, base) in bases.enumerated() where !kept.contains(index) { synthetic.free(base) }
    let segment = try Segment(path: synthetic.path)
    let live: [UInt64] = kept.sorted().map { bases[$0] }
    for (low, high) in zip(live, live.dropFirst()) {
      for address in [low + 1000, (low + high) / 2, high - 1] where address < high {
        let lookup = segment.lookup(address)
        #expect(lookup.containing == nil && lookup.previous?.base == low && lookup.next?.base == high)
      }
    }
    var found: [UInt64] = []
    segment.forEachAllocation { found.append($0.base) }
    #expect(found == live)
  }

  @Test("nothing is found in an empty segment, at any address", arguments: [0, 1, heap, 1 << 47, .max] as [UInt64])
  func empty(address: UInt64) throws {
    let synthetic = SyntheticSegment()
    let segment = try Segment(path: synthetic.path)
    #expect(segment.lookup(address) == Lookup(address: address, containing: nil, previous: nil, next: nil))
    #expect(segment.wasUsed(address) == false)
    #expect(segment.totals() == AllocationTotals())
  }

  @Test("the first and the last block of the address space, and of a region")
  func borders() throws {
    let synthetic = SyntheticSegment()
    let last = (UInt64(1) << 47) - 32
    synthetic.allocate(0, size: 16)
    synthetic.allocate(heap + regionSize - 32, size: 40)
    synthetic.allocate(heap + regionSize + 0x20, size: 8)
    synthetic.allocate(last, size: 20)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(containing: 0)?.size == 16)
    #expect(segment.allocation(containing: 15)?.base == 0)
    #expect(segment.allocation(containing: 16) == nil)
    #expect(segment.allocation(containing: heap + regionSize + 7)?.base == heap + regionSize - 32)
    #expect(segment.allocation(containing: heap + regionSize + 8) == nil)
    #expect(segment.allocation(after: heap + regionSize - 32)?.base == heap + regionSize + 0x20)
    #expect(segment.allocation(before: heap + regionSize)?.base == heap + regionSize - 32)
    #expect(segment.allocation(containing: last + 19)?.base == last)
    #expect(segment.allocation(containing: last + 20) == nil)
    #expect(segment.lookup(.max).previous?.base == last)
    #expect(segment.lookup(1 << 47).next == nil)
    #expect(segment.allocation(after: last) == nil)
    #expect(segment.allocation(before: last)?.base == heap + regionSize + 0x20)
  }

  @Test("a large allocation in an arena's last block has its tail in the spare slot")
  func spare() throws {
    let synthetic = SyntheticSegment()
    let base = heap + regionSize - 16
    synthetic.allocate(base, size: 123_456, alignment: 4, context: 3, ticks: 9)
    let segment = try Segment(path: synthetic.path)
    let expected = Allocation(base: base, size: 123_456, alignment: 16, context: 3, ticks: 9)
    #expect(segment.allocation(containing: base) == expected)
    #expect(segment.allocation(containing: base + 123_455) == expected)
    #expect(segment.allocation(containing: base + 123_456) == nil)
  }

  @Test("an interior pointer finds its base however far below", arguments: [12 << 30, 1 << 40, 1 << 46] as [UInt64])
  func interior(distance: UInt64) throws {
    let synthetic = SyntheticSegment()
    let base: UInt64 = 0x1000_0000_0010
    synthetic.allocate(base, size: distance + 1)
    synthetic.allocate(base + distance + 0x1000, size: 1)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(containing: base + distance)?.base == base)
    #expect(segment.allocation(containing: base + distance + 1) == nil)
    #expect(segment.allocation(after: base)?.base == base + distance + 0x1000)
  }

  @Test("regions whose bits lie far apart are met in order, empty ones passed over")
  func farRegions() throws {
    let synthetic = SyntheticSegment()
    let bases = [1, 63, 64, 4095, 4096, 262_143, 262_144, 2_097_151].map { UInt64($0) << 26 + 0x40 }
    for base in bases { synthetic.allocate(base, size: 8) }
    synthetic.free(bases[3])
    synthetic.free(bases[5])
    let live = bases.enumerated().filter { $0.offset != 3 && $0.offset != 5 }.map(\.element)
    let segment = try Segment(path: synthetic.path)
    var met: [UInt64] = []
    segment.forEachAllocation { met.append($0.base) }
    #expect(met == live)
    // Divided among threads, each is met by one of them.
    for threads in 1...4 {
      let all = Mutex<[UInt64]>([])
      segment.divideAllocations(among: threads) { forEach in
        var bases: [UInt64] = []
        forEach { bases.append($0.base) }
        #expect(bases == bases.sorted())
        let part = bases
        all.withLock { $0 += part }
      }
      #expect(all.withLock { $0 }.sorted() == live)
    }
    for (lower, upper) in zip(live, live.dropFirst()) {
      #expect(segment.allocation(before: upper)?.base == lower)
      #expect(segment.allocation(after: lower)?.base == upper)
    }
  }

  @Test("a head whose tail does not match is no allocation")
  func mismatchedTail() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 16)
    synthetic.allocate(heap + 0x100, size: 1000, ticks: 5)
    synthetic.slot(of: heap + 0x100)[1] = allocs_slot_tail(1000, 0, 6)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(containing: heap + 0x100) == nil)
    #expect(segment.allocation(before: heap + 0x200)?.base == heap)
  }

  @Test("a directory entry that leads to another region's arena, or outside, answers nothing")
  func wrongArena() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 16)
    synthetic.allocate(heap + regionSize, size: 16)
    let directory = synthetic.entries(ALLOCS_SECTION_DIRECTORY, as: UInt32.self)
    let region = Int(heap >> 26)
    let segment = try Segment(path: synthetic.path)
    for entry: UInt32 in [0, 2, 9, 1000, .max] {
      directory[region] = entry
      #expect(segment.allocation(containing: heap) == nil)
      #expect(segment.allocation(after: 0)?.base == heap + regionSize)
    }
    directory[region] = 1
    #expect(segment.allocation(containing: heap)?.base == heap)
  }

  @Test("a random heap: every block, every gap, every neighbour", arguments: [1, 2, 3] as [UInt64])
  func random(seed: UInt64) throws {
    let synthetic = SyntheticSegment()
    var generator = RandomNumbers(seed: seed)
    var written: [Allocation] = []
    var next = heap - 0x4_0000
    while next < heap + 0x8_0000 {
      let size = generator.next() % 8 == 0 ? generator.next() % 20_000 : generator.next() % 200
      let base = next
      let alignment = size >= 64 ? UInt32(generator.next() % 13) : 0
      let allocation = Allocation(
        base: base, size: size, alignment: alignment == 0 ? nil : 1 << UInt64(alignment),
        context: UInt32(generator.next() % 0x100_0000), ticks: UInt32(generator.next() % 0x8000_0000))
      synthetic.allocate(base, size: size, alignment: alignment, context: allocation.context, ticks: allocation.ticks)
      // No footprint is below 32 bytes; the next starts at a multiple of 16 behind it.
      next = (base + max(size + 8, 32) + 15) / 16 * 16
      if generator.next() % 10 == 0 { next += generator.next() % 100_000 / 16 * 16 }
      if generator.next() % 3 == 0 { synthetic.free(base) } else { written.append(allocation) }
    }
    let segment = try Segment(path: synthetic.path)
    var met: [Allocation] = []
    segment.forEachAllocation { met.append($0) }
    #expect(met == written)
    #expect(segment.totals().count == UInt64(written.count))
    #expect(segment.totals().bytes == written.reduce(0) { $0 + $1.size })
    var failures = 0
    for (index, allocation) in written.enumerated() {
      let previous = index > 0 ? written[index - 1] : nil
      let following = index + 1 < written.count ? written[index + 1] : nil
      for offset in [0, 1, 15, 16, 17, 31, 32, allocation.size / 2, max(allocation.size, 1) - 1] {
        let address = allocation.base + offset
        let isInside = offset < max(allocation.size, 1)
        let isBeforeNext = following.map { address < $0.base } ?? true
        guard isBeforeNext else { continue }
        let expected = Lookup(
          address: address, containing: isInside ? allocation : nil, previous: isInside ? previous : allocation,
          next: following)
        if segment.lookup(address) != expected { failures += 1 }
      }
      let end = allocation.base + max(allocation.size, 1)
      if following?.base != end,
        segment.lookup(end)
          != Lookup(
            address: end, containing: nil, previous: allocation, next: following)
      {
        failures += 1
      }
    }
    #expect(failures == 0)
  }

  @Test("iteration keeps to its range, and stops when its body throws")
  func range() throws {
    struct Stop: Error {}
    let synthetic = SyntheticSegment()
    for index in 0..<100 { synthetic.allocate(heap + UInt64(index) * 0x1000, size: 1) }
    let segment = try Segment(path: synthetic.path)
    var met: [UInt64] = []
    segment.forEachAllocation(in: heap + 0x1001...heap + 0x5000) { met.append($0.base) }
    #expect(met == [0x2000, 0x3000, 0x4000, 0x5000].map { heap + $0 })
    #expect(segment.totals(in: heap...heap).count == 1)
    #expect(segment.totals(in: heap + 1...heap + 0xFFF).count == 0)
    var count = 0
    #expect(throws: Stop.self) {
      try segment.forEachAllocation { (_: Allocation) throws(Stop) in
        count += 1
        if count == 3 { throw Stop() }
      }
    }
    #expect(count == 3)
  }

  @Test("no look-up and no iteration touches a hole of the file")
  func holes() throws {
    let synthetic = SyntheticSegment()
    for base in [heap, heap + 0x123_0000, heap + 5 * regionSize, 0x7FFF_0000_0000] {
      synthetic.allocate(base, size: 5000)
    }
    let before = synthetic.allocatedBytes
    let segment = try Segment(path: synthetic.path)
    var generator = RandomNumbers(seed: 7)
    for _ in 0..<20_000 { _ = segment.lookup(generator.next() % (1 << 48)) }
    for _ in 0..<20_000 { _ = segment.lookup(heap + generator.next() % (8 * regionSize)) }
    for address in [0, heap, heap + 0x800, heap + regionSize - 1, .max] { _ = segment.wasUsed(address) }
    #expect(segment.totals().count == 4)
    _ = (segment.threads, segment.formerThreads, segment.modules, segment.counters, segment.clock())
    _ = (segment.context(1), segment.context(900), segment.stack(ofNode: 200), segment.thread(slot: 20, at: 0))
    #expect(synthetic.allocatedBytes == before)
  }
}
