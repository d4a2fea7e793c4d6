// SPDX-License-Identifier: Apache-2.0
// Arenas: makes the arena of a region, and the memory behind its slots. The slow path of Index,
// taken once for 2 KiB of heap.
//
// Invariants:
// - Nothing in the segment is written before its page is backed by memory: where the file system is
//   full, the block is not recorded and a counter says so. The process never gets SIGBUS.
// - A region's arena is complete in the file before the private region table shows it to the hooks.

import AgentMachine
import SharedLayout

enum Arenas {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  /// Makes the coarse slot of `base` writable. Nil, and counted, if that cannot be done.
  @inline(never)
  static func prepare(_ regions: Regions, _ base: UInt) -> Arena? {
    guard !Index.isUnindexable(base) else {
      Index.count(ALLOCS_COUNTER_HIGH_ADDRESS)
      return nil
    }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      let arena = prepareRegion(shared, header, regions, base)
    else { return nil }
    guard arena.commitSlots(base, hasTail: true) else {
      outOfMemory(shared)
      return nil
    }
    arena.summarize(base)
    return arena
  }

  /// The arena of the region of `base`; its slots may have no memory yet. Nil, and counted, if
  /// there is none.
  static func prepareRegion(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ regions: Regions,
    _ base: UInt
  ) -> Arena? {
    guard Shortage.mayAsk(&shared.pointee.arena_refusal) else {
      Index.count(ALLOCS_COUNTER_NO_MEMORY)
      return nil
    }
    return Arena(regions, base)
      ?? locked(shared) { makeArena(shared, header, regions, Int(base >> UInt(ALLOCS_REGION_SHIFT))) }
  }

  /// The arena of `region`, which is made if there is none: for what else a region's arena tells
  /// of. The caller holds the lock.
  static func arena(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ region: Int
  ) -> Arena? {
    shared.pointee.regions.flatMap { makeArena(shared, header, $0, region) }
  }

  private static func outOfMemory(_ shared: UnsafeMutablePointer<allocs_shared>) {
    Shortage.begin(&shared.pointee.arena_refusal)
    Index.count(ALLOCS_COUNTER_NO_MEMORY)
  }

  // MARK: a new arena

  private static func makeArena(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ regions: Regions,
    _ region: Int
  ) -> Arena? {
    // Another thread may have made it, before this one got the lock.
    if let start = regions[region] { return Arena(start) }
    let arenas = AnchoredSection.arenas(shared, header)
    guard !arenas.isFull else {
      Index.count(ALLOCS_COUNTER_ARENAS_EXHAUSTED)
      return nil
    }
    // An arena begins with a page for its head, and a page of summary.
    guard commitDirectory(shared, header, region),
      let (start, number) = arenas.append(
        backing: UInt64(ALLOCS_ARENA_SLOTS_OFFSET),
        { start, _ in start.assumingMemoryBound(to: allocs_arena.self).pointee.region = UInt64(region) })
    else {
      outOfMemory(shared)
      return nil
    }
    publish(header, region, UInt32(truncatingIfNeeded: number))
    regions[region] = start
    return Arena(start)
  }

  /// Enters arena `number` in the directory: the region's word first, then the bits that lead
  /// readers to it, of level 2, 1 and 0.
  private static func publish(_ header: UnsafeMutablePointer<allocs_header>, _ region: Int, _ number: UInt32) {
    let directory = Segment.start(header, ALLOCS_SECTION_DIRECTORY).assumingMemoryBound(to: UInt32.self)
    allocs_store_release_u32(directory + region, number + 1)
    let level1 = Segment.start(header, ALLOCS_SECTION_REGION_BITS).assumingMemoryBound(to: UInt64.self)
    let level0 = level1 + Int(ALLOCS_REGION_LEVEL1_WORDS)
    withUnsafeMutablePointer(to: &header.pointee.region_level2) {
      let level2 = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
      setBit(level2, region >> 12)
    }
    setBit(level1, region >> 6)
    setBit(level0, region)
  }

  /// Backs with memory the pages of the directory and of the region bits that tell of `region`.
  private static func commitDirectory(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ region: Int
  ) -> Bool {
    let directoryPage = region * 4 / Int(pageSize)
    let bitsPage = Int(ALLOCS_REGION_LEVEL0_OFFSET) / Int(pageSize) + region / 8 / Int(pageSize)
    return withUnsafeMutablePointer(to: &shared.pointee.directory_pages) {
      commitPage(
        Segment.start(header, ALLOCS_SECTION_DIRECTORY), directoryPage,
        UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self))
    }
      && withUnsafeMutablePointer(to: &shared.pointee.region_pages) {
        let known = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
        let start = Segment.start(header, ALLOCS_SECTION_REGION_BITS)
        return commitPage(start, 0, known) && commitPage(start, bitsPage, known)
      }
  }

  /// `known` has a bit for each page that is backed already.
  private static func commitPage(_ start: Address, _ page: Int, _ known: UnsafeMutablePointer<UInt64>) -> Bool {
    let bit = UInt64(1) << UInt64(page % 64)
    if known[page / 64] & bit != 0 { return true }
    guard System.commit(start + page * Int(pageSize), pageSize) else { return false }
    known[page / 64] |= bit
    return true
  }
}
