// SPDX-License-Identifier: Apache-2.0
// Blocks that may share 32 bytes with others, or lie at no multiple of 16, have fine slots: they
// are allocations among the others.

import IndexReader
import SharedLayout
import TestSupport
import Testing

private let heap: UInt64 = 0x5555_0000_0000
private let regionSize: UInt64 = 1 << 26

@Suite("Fine slots", .bounded)
struct FineSlotTests {
  @Test(
    "each size is found by its base and its last byte, and not by its neighbours",
    arguments: [0, 1, 7, 8, 16, 24, 31, 32, 63, 64, 65, 100, 4096, 1 << 20] as [UInt64], [0, 8, 16, 24] as [UInt64])
  func sizes(size: UInt64, offset: UInt64) throws {
    let synthetic = SyntheticSegment()
    let base = heap + 0x1000 + offset
    synthetic.allocateFine(base, size: size, alignment: size >= 64 ? 3 : 0, context: 77, ticks: 1234)
    let segment = try Segment(path: synthetic.path)
    let expected = Allocation(base: base, size: size, alignment: size >= 64 ? 8 : nil, context: 77, ticks: 1234)
    expectOnly(expected, in: segment)
    #expect(segment.totals().count == 1)
    #expect(segment.totals().bytes == size)
    #expect(segment.wasUsed(base) == true)
    #expect(segment.wasUsed(heap + 0x17FF) == true)
    #expect(segment.wasUsed(heap + 0xFFF) == false)
    #expect(segment.wasUsed(heap + 0x1800) == false)
  }

  @Test("the four blocks of eight bytes in 32 are told apart, and the two of sixteen")
  func adjacent() throws {
    let synthetic = SyntheticSegment()
    for index in 0..<4 as Range<UInt64> {
      synthetic.allocateFine(heap + index * 8, size: 8 - index, context: UInt32(index + 1))
    }
    synthetic.allocateFine(heap + 32, size: 16, context: 5)
    synthetic.allocateFine(heap + 48, size: 9, context: 6)
    synthetic.allocate(heap + 64, size: 32, context: 7)
    let bases = [0, 8, 16, 24, 32, 48, 64].map { heap + $0 }
    let sizes: [UInt64] = [8, 7, 6, 5, 16, 9, 32]
    let segment = try Segment(path: synthetic.path)
    for address in heap..<heap + 110 {
      let index = bases.lastIndex { $0 <= address }!
      let isInside = address < bases[index] + sizes[index]
      let lookup = segment.lookup(address)
      #expect(lookup.containing?.base == (isInside ? bases[index] : nil))
      #expect(lookup.containing?.context == (isInside ? UInt32(index + 1) : nil))
      #expect(lookup.previous?.base == (isInside ? index > 0 ? bases[index - 1] : nil : bases[index]))
      #expect(lookup.next?.base == (index + 1 < bases.count ? bases[index + 1] : nil))
    }
    #expect(segment.allBases == bases)
  }

  @Test("a freed block answers free, between neighbours of either kind")
  func freed() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 40)
    synthetic.allocateFine(heap + 48, size: 16)
    synthetic.allocateFine(heap + 64, size: 16)
    synthetic.allocate(heap + 96, size: 32)
    synthetic.freeFine(heap + 48)
    let segment = try Segment(path: synthetic.path)
    let free = segment.lookup(heap + 50)
    #expect(free.containing == nil && free.previous?.base == heap && free.next?.base == heap + 64)
    let beside = segment.lookup(heap + 64)
    #expect(beside.containing?.size == 16 && beside.previous?.base == heap && beside.next?.base == heap + 96)
    synthetic.free(heap)
    #expect(segment.lookup(heap + 10).next?.base == heap + 64)
    #expect(segment.allocation(before: heap + 64) == nil)
  }

  @Test("coarse and fine blocks interleave in any order", arguments: 1...8 as ClosedRange<UInt64>)
  func interleaved(seed: UInt64) throws {
    let synthetic = SyntheticSegment()
    var random = RandomNumbers(seed: seed)
    func next(_ limit: UInt64) -> UInt64 { random.next() % limit }
    // From end to end of 2 KiB groups, with gaps of pages and of regions.
    var live: [(base: UInt64, size: UInt64)] = []
    var address = heap + regionSize - 40_000
    while live.count < 3000 {
      if next(60) == 0 { address += next(9000) }
      address = (address + 7) & ~7
      let size = next(4) == 0 ? next(300) : next(40)
      // As the agent decides it, for an allocator that is not glibc's.
      let isFine = address % 16 != 0 || size <= 16
      if next(3) != 0 {
        if isFine { synthetic.allocateFine(address, size: size) } else { synthetic.allocate(address, size: size) }
        live.append((address, size))
      } else if isFine {
        synthetic.allocateFine(address, size: size)
        synthetic.freeFine(address)
      }
      address += max(8, size)
    }
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allBases == live.map(\.base))
    #expect(segment.totals().bytes == live.reduce(0) { $0 + $1.size })
    for (index, block) in live.enumerated() {
      for address in [block.base, block.base + max(block.size, 1) - 1, block.base + max(block.size, 1)] {
        let lookup = segment.lookup(address)
        let at = live[index].base <= address && address < block.base + max(block.size, 1) ? index : nil
        guard let at else {
          guard index + 1 == live.count || live[index + 1].base > address else { continue }
          #expect(lookup.containing == nil && lookup.previous?.base == block.base)
          #expect(lookup.next?.base == (index + 1 < live.count ? live[index + 1].base : nil))
          continue
        }
        #expect(lookup.containing?.base == block.base && lookup.containing?.size == block.size)
        #expect(lookup.previous?.base == (at > 0 ? live[at - 1].base : nil))
        #expect(lookup.next?.base == (at + 1 < live.count ? live[at + 1].base : nil))
      }
    }
    let middle = live[live.count / 2].base
    var above: [UInt64] = []
    segment.forEachAllocation(in: middle...live[live.count - 10].base) { above.append($0.base) }
    #expect(above == live[(live.count / 2)...(live.count - 10)].map(\.base))
  }

  @Test("neighbours are found across regions of which one has coarse slots alone, one fine ones alone")
  func acrossRegions() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 100)
    synthetic.allocateFine(heap + regionSize + 8, size: 3)
    synthetic.allocate(heap + 3 * regionSize, size: 64)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(after: heap)?.base == heap + regionSize + 8)
    #expect(segment.allocation(before: heap + 2 * regionSize)?.base == heap + regionSize + 8)
    #expect(segment.allocation(after: heap + regionSize + 8)?.base == heap + 3 * regionSize)
    #expect(segment.allBases == [heap, heap + regionSize + 8, heap + 3 * regionSize])
  }

  @Test("a block that is in both slots for want of a free that was seen is one, as its coarse slot says")
  func twice() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocateFine(heap, size: 8)
    synthetic.allocate(heap, size: 48)
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allBases == [heap])
    #expect(segment.allocation(containing: heap)?.size == 48)
  }

  @Test("a block of a pool in a chunk with a fine slot is found with its chunk")
  func poolInFineChunk() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocateFine(heap + 8, size: 1000)
    synthetic.suballocate(heap + 40, size: 16)
    let segment = try Segment(path: synthetic.path)
    let chunk = segment.allocation(containing: heap + 45)
    #expect(chunk?.base == heap + 8)
    let blocks = segment.suballocations(containing: heap + 45, in: chunk)
    #expect(blocks.map(\.block.base) == [heap + 40])
    var met: [UInt64] = []
    segment.forEachSuballocation { block, _, container in
      met.append(block.block.base)
      #expect(container?.base == heap + 8)
    }
    #expect(met == [heap + 40])
  }

  @Test(
    "a number of fine slots that leads nowhere, or to another region's, is passed over", arguments: [1, 2, 3, .max])
  func wrongNumber(number: UInt32) throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(heap, size: 100)
    synthetic.allocateFine(heap + regionSize, size: 8)
    let arena = synthetic.arena(ofRegion: Int(allocs_region_of_address(heap)))
    arena.assumingMemoryBound(to: allocs_arena.self).pointee.fine = number
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allBases == [heap, heap + regionSize])
    #expect(segment.lookup(heap + regionSize - 1).previous?.base == heap)
  }
}

extension Segment {
  fileprivate var allBases: [UInt64] {
    var bases: [UInt64] = []
    forEachAllocation { bases.append($0.base) }
    return bases
  }
}
