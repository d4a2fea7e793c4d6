// NestedArenas: where the memory behind suballocations' slots comes from. The slow path of Nested, taken once for 512 bytes.
//
// The invariants of Arenas hold here, too: nothing is written before its page is committed, a region's nested arena is
// complete before anyone is shown it, and the file is reached through an anchor, which grows into the next arena.

import AgentMachine
import SharedLayout

enum NestedArenas {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let stride = UInt64(ALLOCS_NESTED_STRIDE)

  /// Makes the slots of a block at `base` writable. Nil, and counted, if they cannot be. Unless `isMapped`, the block must be
  /// seen to lie in memory of the process: a function that is no allocator returns anything.
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
      commitSlots(arena, base)
    else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return nil
    }
    summarize(arena, base)
    return arena
  }

  // MARK: a new arena

  private static func make(
    _ shared: Nested.Shared, _ header: Nested.Header, _ level: Int, _ region: Int
  ) -> Nested.Base? {
    guard let table = Nested.regions(shared, level) else { return nil }
    if let arena = table[region] { return arena }  // another thread was first
    let section = Segment.section(header, ALLOCS_SECTION_NESTED)
    let number = shared.pointee.nested_count
    guard number < section.pointee.capacity, let anchor = shared.pointee.nested_anchor,
      // What leads readers here.
      let primary = Arenas.arena(shared, header, region)
    else { return nil }
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
    let head = UnsafeMutableRawPointer(primary).assumingMemoryBound(to: allocs_arena.self)
    withUnsafeMutablePointer(to: &head.pointee.nested) {
      let numbers = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self)
      allocs_store_release_u32(numbers + level, UInt32(truncatingIfNeeded: number) + 1)
    }
    table[region] = arena
    return arena
  }

  // MARK: slot pages and summary

  /// As in Arenas: dense memory gets 32 KiB of slots at a time.
  private static func commitSlots(_ arena: Nested.Base, _ base: UInt) -> Bool {
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
      let count = page > 0 && isCommitted(page - 1) ? min(8, pages - page) : 1
      guard commit(arena, page, count) else { return false }
      for page in page..<page + count { Arenas.setBit(committed, page) }
    }
    if tailPage != page && (tailPage == pages || !isCommitted(tailPage)) {
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
