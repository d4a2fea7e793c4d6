// Arenas: where the memory behind the slots comes from. The slow path of Index, taken once for 2 KiB of heap.
//
// Invariants:
// - Nothing in the segment is written before its page is committed: where the file system is full, the region stays
//   without index and a counter says so. The target never gets SIGBUS.
// - A region's arena is complete in the file before the private region table shows it to the hooks, and the bits above
//   a summary bit are set before it. Bits are set with read-modify-write, for neighbours share words.
// - The segment's descriptor is closed at the start, for programs that close all descriptors, change their root or drop
//   privileges. The file is reached through the anchor: a mapping of the first page of the next arena, which grows into
//   the whole arena and one page more, the next anchor.

import AgentMachine
import SharedLayout

enum Arenas {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let stride = UInt64(ALLOCS_ARENA_STRIDE)

  /// Makes `base`'s slot writable. Nil, and counted, if it cannot be.
  @inline(never)
  static func prepare(_ regions: Regions, _ base: UInt) -> UnsafeMutablePointer<UInt8>? {
    guard !Index.isUnindexable(base) else {
      Index.count(ALLOCS_COUNTER_HIGH_ADDRESS)
      return nil
    }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      let arena = prepareRegion(shared, header, regions, base)
    else { return nil }
    guard commitSlots(shared, arena, base) else { return nil }
    summarize(arena, base)
    return arena
  }

  /// The arena of `base`'s region, whose slots may not be writable. Nil, and counted, if there is
  /// none.
  static func prepareRegion(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ regions: Regions,
    _ base: UInt
  ) -> UnsafeMutablePointer<UInt8>? {
    if shared.pointee.out_of_memory != 0 {
      // Once a second, not at each allocation.
      guard allocs_ticks_between(shared.pointee.retry_ticks, allocs_now()) > ALLOCS_TICKS_PER_SECOND else {
        Index.count(ALLOCS_COUNTER_NO_MEMORY)
        return nil
      }
      shared.pointee.out_of_memory = 0
    }
    let region = Int(base >> UInt(ALLOCS_REGION_SHIFT))
    return regions[region] ?? locked(shared) { makeArena(shared, header, regions, region) }
  }

  /// The arena of `region`, made if there is none, for what hangs on it besides slots. Under the lock.
  static func arena(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ region: Int
  ) -> UnsafeMutablePointer<UInt8>? {
    shared.pointee.regions.flatMap { makeArena(shared, header, $0, region) }
  }

  private static func outOfMemory(_ shared: UnsafeMutablePointer<allocs_shared>) {
    shared.pointee.retry_ticks = allocs_now()
    shared.pointee.out_of_memory = 1
    Index.count(ALLOCS_COUNTER_NO_MEMORY)
  }

  // MARK: a new arena

  private static func makeArena(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ regions: Regions,
    _ region: Int
  ) -> UnsafeMutablePointer<UInt8>? {
    if let arena = regions[region] { return arena }  // another thread was first
    let section = Segment.section(header, ALLOCS_SECTION_ARENAS)
    let number = shared.pointee.arena_count
    guard number < section.pointee.capacity, let anchor = shared.pointee.arena_anchor else {
      Index.count(ALLOCS_COUNTER_ARENAS_EXHAUSTED)
      return nil
    }
    guard commitDirectory(shared, header, region) else {
      outOfMemory(shared)
      return nil
    }
    // The last arena has no successor to anchor.
    let size = number + 1 < section.pointee.capacity ? stride + pageSize : stride
    guard let mapped = System.grow(anchor, from: pageSize, to: size) else {
      outOfMemory(shared)
      return nil
    }
    shared.pointee.arena_anchor = nil
    guard System.commit(mapped, 2 * pageSize) else {
      // Shrunk to the page it was, it is the anchor again.
      shared.pointee.arena_anchor = System.grow(mapped, from: size, to: pageSize)?.assumingMemoryBound(to: UInt8.self)
      outOfMemory(shared)
      return nil
    }
    if size > stride { shared.pointee.arena_anchor = (mapped + Int(stride)).assumingMemoryBound(to: UInt8.self) }
    shared.pointee.arena_count = number + 1
    allocs_arena_mappings()[Int(number)] = mapped.assumingMemoryBound(to: UInt8.self)
    mapped.assumingMemoryBound(to: allocs_arena.self).pointee.region = UInt64(region)
    allocs_store_release_u64(&section.pointee.used, number + 1)
    publish(header, region, UInt32(truncatingIfNeeded: number))
    let arena = mapped.assumingMemoryBound(to: UInt8.self)
    regions[region] = arena
    return arena
  }

  /// Enters arena `number` in the directory: its word first, then the bits that lead to it, from the top down to level
  /// 0.
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

  /// Backs the directory's and the region bits' pages for `region` with memory.
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

  private static func commitPage(_ start: Address, _ page: Int, _ known: UnsafeMutablePointer<UInt64>) -> Bool {
    let bit = UInt64(1) << UInt64(page % 64)
    if known[page / 64] & bit != 0 { return true }
    guard System.commit(start + page * Int(pageSize), pageSize) else { return false }
    known[page / 64] |= bit
    return true
  }

  // MARK: slot pages and summary

  /// Backs the slots of `base`'s 2 KiB, and of one tail behind them, with memory. Dense heaps get 32 KiB at a time,
  /// which saves calls; where the neighbours are untouched, as between large blocks, a page has to do.
  private static func commitSlots(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ arena: UnsafeMutablePointer<UInt8>, _ base: UInt
  ) -> Bool {
    let slotsPerBit = Int(ALLOCS_SLOTS_PER_SUMMARY_BIT)
    let slotsPerPage = Int(ALLOCS_SLOTS_PER_PAGE)
    let firstSlot = Int(allocs_slot_index(UInt64(base))) / slotsPerBit * slotsPerBit
    let page = firstSlot / slotsPerPage
    let tailPage = (firstSlot + slotsPerBit) / slotsPerPage  // the spare page after the last
    let committed = withUnsafeMutablePointer(
      to: &UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_arena.self).pointee.committed
    ) { UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self) }
    func isCommitted(_ page: Int) -> Bool {
      allocs_load_acquire_u64(committed + page / 64) >> UInt64(page % 64) & 1 != 0
    }
    let pages = Int(ALLOCS_ARENA_SLOT_PAGES)
    if !isCommitted(page) {
      let dense = page > 0 && isCommitted(page - 1)
      let count = dense ? min(8, pages - page) : 1
      guard commit(shared, arena, page, count) else { return false }
      for page in page..<page + count { setBit(committed, page) }
    }
    if tailPage != page && (tailPage == pages || !isCommitted(tailPage)) {
      guard commit(shared, arena, tailPage, 1) else { return false }
      if tailPage < pages { setBit(committed, tailPage) }
    }
    return true
  }

  private static func commit(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ arena: UnsafeMutablePointer<UInt8>, _ page: Int, _ count: Int
  ) -> Bool {
    let start = UnsafeMutableRawPointer(arena) + Int(ALLOCS_ARENA_SLOTS_OFFSET) + page * Int(pageSize)
    if System.commit(start, UInt64(count) * pageSize) { return true }
    outOfMemory(shared)
    return false
  }

  private static func summarize(_ arena: UnsafeMutablePointer<UInt8>, _ base: UInt) {
    let index = Int(allocs_summary_index(UInt64(base)))
    let head = UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_arena.self)
    withUnsafeMutablePointer(to: &head.pointee.level2) { setBit($0, index >> 12) }
    withUnsafeMutablePointer(to: &head.pointee.level1) {
      setBit(UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self), index >> 6)
    }
    setBit(
      UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_SUMMARY_OFFSET)).assumingMemoryBound(to: UInt64.self), index)
  }

  @inline(__always)
  static func setBit(_ words: UnsafeMutablePointer<UInt64>, _ bit: Int) {
    _ = allocs_fetch_or_u64(words + bit / 64, 1 << UInt64(bit % 64))
  }
}
