// NestedArenas: where the memory behind suballocations' slots and fine slots comes from. The slow
// path of Nested and Fine, taken once for 512 bytes.
//
// The invariants of Arenas hold here, too: nothing is written before its page is committed, a
// region's nested arena is complete before anyone is shown it, and the file is reached through an
// anchor, which grows into the next arena.

import AgentMachine
import SharedLayout

enum NestedArenas {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let stride = UInt64(ALLOCS_NESTED_STRIDE)

  /// Makes the slots of a block at `base` writable. Nil, and counted, if they cannot be. Unless `isMapped`, the block
  /// must be seen to lie in memory of the process: a function that is no allocator returns anything.
  static func prepare(
    _ shared: Nested.Shared, _ header: Nested.Header, _ level: Int, _ base: UInt, _ end: UInt, isMapped: Bool
  ) -> Nested.Base? {
    guard isMapped || (System.isMapped(base) && System.isMapped(end &- 1)) else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REFUSED)
      return nil
    }
    guard
      let arena = Nested.arena(shared, level, base)
        ?? locked(shared, { make(shared, header, level, Int(base >> UInt(ALLOCS_REGION_SHIFT))) }),
      commitSlots(arena, base, hasTail: true)
    else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return nil
    }
    summarize(arena, base)
    return arena
  }

  /// Makes the fine slot of the block at `base` writable, and that of its tail. False, and counted
  /// as other allocations are, if it cannot be.
  @inline(never)
  static func prepareFine(_ regions: Regions, _ base: UInt, hasTail: Bool) -> Bool {
    guard !Fine.isUnindexable(base) else {
      Index.count(base & 7 != 0 ? ALLOCS_COUNTER_UNALIGNED : ALLOCS_COUNTER_HIGH_ADDRESS)
      return false
    }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return false }
    if shared.pointee.fine_out_of_memory != 0 {
      // Once a second, not at each allocation.
      guard allocs_ticks_between(shared.pointee.fine_retry_ticks, allocs_now()) > ALLOCS_TICKS_PER_SECOND else {
        Index.count(ALLOCS_COUNTER_NO_MEMORY)
        return false
      }
      shared.pointee.fine_out_of_memory = 0
    }
    guard let primary = Arenas.prepareRegion(shared, header, regions, base) else { return false }
    let isFull = allocs_load_relaxed_u64(&shared.pointee.nested_count) >= Segment.nestedCapacity(header)
    guard let arena = Fine.arena(primary) ?? locked(shared, { makeFine(shared, header, primary, base) }) else {
      if isFull { Index.count(ALLOCS_COUNTER_ARENAS_EXHAUSTED) } else { outOfMemory(shared) }
      return false
    }
    guard commitSlots(arena, base, hasTail: hasTail) else {
      outOfMemory(shared)
      return false
    }
    summarize(arena, base)
    return true
  }

  private static func outOfMemory(_ shared: Nested.Shared) {
    shared.pointee.fine_retry_ticks = allocs_now()
    shared.pointee.fine_out_of_memory = 1
    Index.count(ALLOCS_COUNTER_NO_MEMORY)
  }

  // MARK: a new arena

  private static func makeFine(
    _ shared: Nested.Shared, _ header: Nested.Header, _ primary: Nested.Base, _ base: UInt
  ) -> Nested.Base? {
    if let arena = Fine.arena(primary) { return arena }  // another thread was first
    guard let arena = make(shared, header, Int(base >> UInt(ALLOCS_REGION_SHIFT))) else { return nil }
    announce(arena, in: primary, Int(ALLOCS_NESTED_FINE))
    allocs_store_release_u32(&allocs_process().pointee.has_fine, 1)
    return arena
  }

  private static func make(
    _ shared: Nested.Shared, _ header: Nested.Header, _ level: Int, _ region: Int
  ) -> Nested.Base? {
    guard let table = Nested.regions(shared, level) else { return nil }
    if let arena = table[region] { return arena }  // another thread was first
    guard let primary = Arenas.arena(shared, header, region), let arena = make(shared, header, region) else {
      return nil
    }
    announce(arena, in: primary, level)
    table[region] = arena
    return arena
  }

  /// Leads readers to `arena`: by the word of its level, or of fine slots, in its region's arena.
  private static func announce(_ arena: Nested.Base, in primary: Nested.Base, _ level: Int) {
    let number = UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_nested.self).pointee.number
    let head = UnsafeMutableRawPointer(primary).assumingMemoryBound(to: allocs_arena.self)
    let word =
      level == Int(ALLOCS_NESTED_FINE)
      ? withUnsafeMutablePointer(to: &head.pointee.fine) { $0 }
      : withUnsafeMutablePointer(to: &head.pointee.nested) {
        UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self) + level
      }
    allocs_store_release_u32(word, UInt32(truncatingIfNeeded: number) + 1)
  }

  /// One that nobody is led to yet. Under the lock.
  private static func make(_ shared: Nested.Shared, _ header: Nested.Header, _ region: Int) -> Nested.Base? {
    let section = Segment.section(header, ALLOCS_SECTION_NESTED)
    let number = shared.pointee.nested_count
    guard number < section.pointee.capacity, let anchor = shared.pointee.nested_anchor else { return nil }
    let size = number + 1 < section.pointee.capacity ? stride + pageSize : stride
    guard let mapped = System.grow(anchor, from: pageSize, to: size) else { return nil }
    shared.pointee.nested_anchor = nil
    guard System.commit(mapped, UInt64(ALLOCS_NESTED_SLOTS_OFFSET)) else {
      shared.pointee.nested_anchor = System.grow(mapped, from: size, to: pageSize)?.assumingMemoryBound(to: UInt8.self)
      return nil
    }
    if size > stride { shared.pointee.nested_anchor = (mapped + Int(stride)).assumingMemoryBound(to: UInt8.self) }
    shared.pointee.nested_count = number + 1
    let arena = mapped.assumingMemoryBound(to: UInt8.self)
    allocs_nested_mappings()[Int(number)] = arena
    mapped.assumingMemoryBound(to: allocs_nested.self).pointee.region = UInt64(region)
    mapped.assumingMemoryBound(to: allocs_nested.self).pointee.number = number
    allocs_store_release_u64(&section.pointee.used, number + 1)
    return arena
  }

  // MARK: slot pages and summary

  /// As in Arenas: dense memory gets up to 32 KiB of slots at a time, but not more than there are
  /// in a row before, for these slots are as large as what they stand for.
  private static func commitSlots(_ arena: Nested.Base, _ base: UInt, hasTail: Bool) -> Bool {
    let slotsPerBit = Int(ALLOCS_SLOTS_PER_SUMMARY_BIT)
    let slotsPerPage = Int(ALLOCS_SLOTS_PER_PAGE)
    let firstSlot = Int(allocs_nested_slot_index(UInt64(base))) / slotsPerBit * slotsPerBit
    let page = firstSlot / slotsPerPage
    let tailPage = (firstSlot + slotsPerBit) / slotsPerPage  // the spare page after the last
    let pages = Int(ALLOCS_NESTED_SLOT_PAGES)
    let committed = withUnsafeMutablePointer(
      to: &UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_nested.self).pointee.committed
    ) { UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self) }
    func isCommitted(_ page: Int) -> Bool {
      allocs_load_acquire_u64(committed + page / 64) >> UInt64(page % 64) & 1 != 0
    }
    if !isCommitted(page) {
      var count = 0
      while count < 8, count < page, isCommitted(page - 1 - count) { count += 1 }
      count = max(1, min(count, pages - page))
      guard commit(arena, page, count) else { return false }
      for page in page..<page + count { Arenas.setBit(committed, page) }
    }
    if hasTail && tailPage != page && (tailPage == pages || !isCommitted(tailPage)) {
      guard commit(arena, tailPage, 1) else { return false }
      if tailPage < pages { Arenas.setBit(committed, tailPage) }
    }
    return true
  }

  private static func commit(_ arena: Nested.Base, _ page: Int, _ count: Int) -> Bool {
    System.commit(
      UnsafeMutableRawPointer(arena) + Int(ALLOCS_NESTED_SLOTS_OFFSET) + page * Int(pageSize),
      UInt64(count) * pageSize)
  }

  private static func summarize(_ arena: Nested.Base, _ base: UInt) {
    let index = Int(allocs_nested_summary_index(UInt64(base)))
    let head = UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_nested.self)
    withUnsafeMutablePointer(to: &head.pointee.level2) { Arenas.setBit($0, index >> 12) }
    withUnsafeMutablePointer(to: &head.pointee.level1) {
      Arenas.setBit(UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self), index >> 6)
    }
    Arenas.setBit(
      UnsafeMutableRawPointer(arena + Int(ALLOCS_NESTED_SUMMARY_OFFSET)).assumingMemoryBound(to: UInt64.self), index)
  }
}
