// SPDX-License-Identifier: Apache-2.0
// How much of a segment a reader maps, reads and keeps, whatever the segment claims: only windows that are needed, no
// holes, no more than the question's budget.

import Bounds
import Foundation
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import IndexReader

@Suite("Windows and budgets", .bounded)
struct WindowTests {
  private static let heap: UInt64 = 0x5555_0000_0000

  /// The bytes that this process has mapped of a file for reading only: the synthetic segment itself is mapped for
  /// writing.
  private func mappedBytes(of path: String) throws -> Int {
    let maps = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8)
    return maps.split(separator: "\n").filter { $0.hasSuffix(path) && $0.contains(" r--s ") }.reduce(0) { sum, line in
      let bounds = line.prefix { $0 != " " }.split(separator: "-").compactMap { Int($0, radix: 16) }
      return sum + bounds[1] - bounds[0]
    }
  }

  @Test("a file larger than any that an agent makes is refused, with its size")
  func tooLarge() throws {
    let synthetic = SyntheticSegment()
    for size in [SectionPlaces.mostFileBytes + 1, 84 << 40, 1 << 62, .max] {
      synthetic.header.pointee.file_size = size
      let error = #expect(throws: Complaint.self) { _ = try Segment(path: synthetic.path) }
      #expect(error?.what.contains("\(size) bytes") == true)
    }
  }

  @Test("a table with more entries than an agent's, or behind the arenas, is refused")
  func tables() throws {
    for id in [ALLOCS_SECTION_STRINGS, ALLOCS_SECTION_MODULES, ALLOCS_SECTION_FORMER_THREADS, ALLOCS_SECTION_ARENAS] {
      let synthetic = SyntheticSegment()
      synthetic.section(Int(id.rawValue)).pointee.capacity = 1 << 28
      truncate(synthetic.path, 1 << 42)
      synthetic.header.pointee.file_size = 1 << 42
      #expect(throws: Complaint.self) { _ = try Segment(path: synthetic.path) }
    }
    let synthetic = SyntheticSegment()
    truncate(synthetic.path, 1 << 42)
    synthetic.header.pointee.file_size = 1 << 42
    synthetic.section(Int(ALLOCS_SECTION_STRINGS.rawValue)).pointee.offset = 1 << 41
    let error = #expect(throws: Complaint.self) { _ = try Segment(path: synthetic.path) }
    #expect(error?.what.contains("too far") == true)
  }

  @Test("of five terabytes of rings and arenas only the windows that are read are mapped")
  func windows() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.arenas = Int(ALLOCS_ARENA_CAPACITY)
    capacities.rings = Int(ALLOCS_RING_COUNT)
    capacities.ringRecords = Int(ALLOCS_RING_RECORDS_MAX)
    let synthetic = SyntheticSegment(capacities: capacities)
    #expect(synthetic.size > 4 << 40)
    let segment = try Segment(path: synthetic.path)
    #expect(try mappedBytes(of: synthetic.path) < 1 << 30)
    synthetic.allocate(Self.heap, size: 48)
    synthetic.addRing(slot: 0, written: 5, context: 0)
    #expect(segment.allocation(containing: Self.heap + 47)?.base == Self.heap)
    #expect(segment.written(toRing: 0) == 5)
    #expect(segment.written(toRing: 4096) == 0 && segment.slot(ofRing: -1) == 0)
    #expect(try mappedBytes(of: synthetic.path) < 4 << 30)
  }

  @Test("blocks of regions in different windows are found, counted, and each other's neighbours")
  func severalWindows() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.arenas = 150
    let synthetic = SyntheticSegment(capacities: capacities)
    let regions = (0..<150).map { Self.heap + UInt64($0) << UInt64(ALLOCS_REGION_SHIFT) }
    // The numbers of the arenas are not in the order of their addresses.
    for index in 0..<150 { synthetic.allocate(regions[index * 7 % 150] + 0x40, size: 48) }
    let segment = try Segment(path: synthetic.path)
    for index in 1..<149 {
      let found = segment.lookup(regions[index] + 0x41)
      #expect(found.containing?.base == regions[index] + 0x40)
      #expect(found.previous?.base == regions[index - 1] + 0x40 && found.next?.base == regions[index + 1] + 0x40)
    }
    #expect(segment.totals().count == 150)
  }

  @Test("slots that are said to be in use where the file has holes take no memory of the file system")
  func holes() throws {
    let synthetic = SyntheticSegment()
    for region in 0..<6 {
      let arena = synthetic.arena(ofRegion: Int(Self.heap >> UInt64(ALLOCS_REGION_SHIFT)) + region)
      let words = arena.assumingMemoryBound(to: UInt64.self)
      for word in 1..<10 { words[word] = ~0 }
      for word in 0..<512 { words[512 + word] = ~0 }
    }
    // One block in the middle, which is found all the same.
    let block = Self.heap + 3 << UInt64(ALLOCS_REGION_SHIFT) + 0x123_4560
    synthetic.allocate(block, size: 48)
    let segment = try Segment(path: synthetic.path)
    let before = synthetic.allocatedBytes
    #expect(segment.totals().count == 1)
    #expect(segment.allocation(after: Self.heap)?.base == block)
    #expect(segment.allocation(before: Self.heap + 6 << UInt64(ALLOCS_REGION_SHIFT))?.base == block)
    #expect(segment.allocation(containing: block + 9)?.base == block)
    // Where a search begins, it looks without asking: at 32 KiB of slots.
    #expect(synthetic.allocatedBytes - before < 256 << 10)
  }

  @Test("every loop over a table or an index ends soon after its question was cancelled")
  func cancelled() throws {
    var capacities = SyntheticSegment.Capacities()
    (capacities.modules, capacities.threads, capacities.strings, capacities.mappings) = (2000, 2000, 1 << 16, 2000)
    let synthetic = SyntheticSegment(capacities: capacities)
    for index in 0..<2000 {
      synthetic.addModule(path: "/m\(index)", range: UInt64(index) << 20..<UInt64(index) << 20 + 4096)
      _ = synthetic.addThread(id: UInt32(index), name: "t", from: 1)
    }
    for index in 0..<100_000 { synthetic.allocate(Self.heap + UInt64(index) * 32, size: 16) }
    let segment = try SharedSegment(path: synthetic.path)
    #expect(segment.segment.modules.count == 2000)
    #expect(segment.segment.totals().count == 100_000)
    let budget = Budget(seconds: 1000, bytes: 1 << 30)
    let error = #expect(throws: Complaint.self) {
      try budget.run { () throws(Complaint) in
        budget.cancel()
        #expect(segment.segment.modules.count < 200)
        #expect(segment.segment.threads.count < 200)
        #expect(segment.segment.mappingRecords.isEmpty)
        var count = 0
        segment.segment.forEachAllocation { _ in count += 1 }
        #expect(count < 50_000 * 2 && count < 100_000)
      }
    }
    #expect(error?.code == ECANCELED)
  }

  @Test("a text longer than the agent's is none, and texts end with the memory of the question")
  func texts() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.strings = 1 << 16
    let synthetic = SyntheticSegment(capacities: capacities)
    for index in 0..<20 {
      let path = "/" + String(repeating: "x", count: 3000)
      synthetic.addModule(path: path, range: UInt64(index + 1) << 20..<UInt64(index + 1) << 20 + 4096)
    }
    let segment = try SharedSegment(path: synthetic.path)
    #expect(segment.segment.modules.count == 20)
    let error = #expect(throws: Complaint.self) {
      _ = try Budget(seconds: 1000, bytes: 20_000).run { () throws(Complaint) in segment.segment.modules }
    }
    #expect(error?.code == ENOMEM)
    let modules = synthetic.entries(ALLOCS_SECTION_MODULES, as: allocs_module.self)
    for (size, isRead) in [(UInt32(4096), true), (4097, false), (.max, false)] {
      modules[3].path_size = size
      #expect((segment.segment.module(index: 3) != nil) == isRead, "\(size) bytes")
    }
    modules[3].path_size = 4
    for offset in [UInt64.max, .max - 3, 1 << 63, 1 << 16] {
      modules[3].path = offset
      #expect(segment.segment.module(index: 3) == nil)
    }
  }
}
