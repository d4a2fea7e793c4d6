// SPDX-License-Identifier: Apache-2.0
// Suballocations against what was written: chains, what is believed, neighbours, iteration.

import IndexReader
import SharedLayout
import TestSupport
import Testing

@Suite("Suballocations", .bounded)
struct SuballocationTests {
  private static let heap: UInt64 = 0x5555_0000_0000

  private func bases(_ segment: borrowing Segment, _ address: UInt64) -> [UInt64] {
    segment.suballocations(containing: address, in: segment.allocation(containing: address)).map(\.block.base)
  }

  @Test("blocks of 8 bytes side by side, and large ones, are found in their chunk; the chunk alone beside them")
  func blocks() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(Self.heap, size: 4096, ticks: 10)
    for index in 0..<64 { synthetic.suballocate(Self.heap + 64 + UInt64(index) * 8, size: 8, context: 7, ticks: 11) }
    synthetic.suballocate(Self.heap + 1024, size: 1000, ticks: 11)
    synthetic.suballocate(Self.heap + 2048, size: 0, ticks: 11)
    let segment = try Segment(path: synthetic.path)
    for index in 0..<64 {
      let base = Self.heap + 64 + UInt64(index) * 8
      #expect(bases(segment, base) == [base] && bases(segment, base + 7) == [base])
    }
    #expect(bases(segment, Self.heap + 63) == [] && bases(segment, Self.heap + 64 + 64 * 8) == [])
    #expect(bases(segment, Self.heap + 2023) == [Self.heap + 1024] && bases(segment, Self.heap + 2024) == [])
    #expect(bases(segment, Self.heap + 2048) == [Self.heap + 2048] && bases(segment, Self.heap + 2049) == [])
    #expect(bases(segment, Self.heap + 4096) == [])
    var count = 0
    segment.forEachSuballocation { block, level, container in
      #expect(level == 0 && container?.base == Self.heap && block.isInChunk)
      count += 1
    }
    #expect(count == 66)
  }

  @Test("a block in a block: the chain is innermost first")
  func chain() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(Self.heap, size: 4096, ticks: 10)
    synthetic.suballocate(Self.heap + 64, size: 512, ticks: 11)
    synthetic.suballocate(Self.heap + 64, size: 16, level: 1, ticks: 12)
    synthetic.suballocate(Self.heap + 128, size: 100, level: 1, ticks: 12)
    synthetic.suballocate(Self.heap + 1024, size: 16, level: 1, ticks: 12)  // in no block
    let segment = try Segment(path: synthetic.path)
    #expect(bases(segment, Self.heap + 70) == [Self.heap + 64, Self.heap + 64])
    #expect(bases(segment, Self.heap + 100) == [Self.heap + 64])
    #expect(bases(segment, Self.heap + 227) == [Self.heap + 128, Self.heap + 64])
    #expect(bases(segment, Self.heap + 1024) == [])
  }

  @Test("a block whose chunk is gone, is another, or does not hold it, is not believed")
  func stale() throws {
    let synthetic = SyntheticSegment()
    let later: UInt32 = 1000
    synthetic.allocate(Self.heap, size: 4096, ticks: 10)
    synthetic.suballocate(Self.heap + 64, size: 16, ticks: 10)
    synthetic.suballocate(Self.heap + 4000, size: 100, ticks: 10)  // beyond its chunk
    let segment = try Segment(path: synthetic.path)
    #expect(bases(segment, Self.heap + 64) == [Self.heap + 64])
    #expect(bases(segment, Self.heap + 4000) == [])
    synthetic.free(Self.heap)
    #expect(bases(segment, Self.heap + 64) == [])
    synthetic.allocate(Self.heap, size: 4096, ticks: later)
    #expect(bases(segment, Self.heap + 64) == [])
    // The clock may be a second astray.
    synthetic.suballocate(Self.heap + 64, size: 16, ticks: later - 64)
    #expect(bases(segment, Self.heap + 64) == [Self.heap + 64])
    synthetic.allocate(Self.heap + 32, size: 16, ticks: later)
    synthetic.free(Self.heap)
    #expect(bases(segment, Self.heap + 64) == [])
  }

  @Test("a block of a mapping is believed while no chunk lies there")
  func outside() throws {
    let synthetic = SyntheticSegment()
    synthetic.suballocate(Self.heap + 64, size: 16, isInChunk: false, ticks: 10)
    let segment = try Segment(path: synthetic.path)
    #expect(bases(segment, Self.heap + 70) == [Self.heap + 64])
    synthetic.allocate(Self.heap, size: 4096, ticks: 10)
    #expect(bases(segment, Self.heap + 70) == [])
  }

  @Test("neighbours lie in the same container")
  func neighbours() throws {
    let synthetic = SyntheticSegment()
    synthetic.allocate(Self.heap, size: 4096, ticks: 10)
    synthetic.allocate(Self.heap + 8192, size: 4096, ticks: 10)
    for base in [64, 128, 8192 + 64] as [UInt64] { synthetic.suballocate(Self.heap + base, size: 24, ticks: 10) }
    let segment = try Segment(path: synthetic.path)
    func neighbours(_ offset: UInt64) -> [UInt64?] {
      let chunk = segment.allocation(containing: Self.heap + offset)
      guard let block = segment.suballocations(containing: Self.heap + offset, in: chunk).first else { return [] }
      let found = segment.neighbours(of: block, level: 0, in: chunk)
      return [found.previous?.base, found.next?.base]
    }
    #expect(neighbours(64) == [nil, Self.heap + 128])
    #expect(neighbours(128) == [Self.heap + 64, nil])
    #expect(neighbours(8192 + 64) == [nil, nil])
  }

  @Test("the same for regions' ends, and a block that spans two regions")
  func regions() throws {
    let synthetic = SyntheticSegment()
    let edge = Self.heap + (1 << 26)
    synthetic.allocate(edge - 4096, size: 8192, ticks: 10)
    synthetic.suballocate(edge - 8, size: 8, ticks: 10)
    synthetic.suballocate(edge - 2048, size: 1000, ticks: 10)
    let segment = try Segment(path: synthetic.path)
    #expect(bases(segment, edge - 1) == [edge - 8] && bases(segment, edge) == [])
    synthetic.subfree(edge - 8)
    synthetic.suballocate(edge - 64, size: 4000, ticks: 10)
    #expect(bases(segment, edge - 1) == [edge - 64] && bases(segment, edge + 3000) == [edge - 64])
  }
}
