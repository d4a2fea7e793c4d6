// Fine: the slots of blocks that may share 32 bytes with others, or do not start at a multiple of
// 16 (allocs_nested.h). They are allocations like those of Index, and its argument for readers
// holds here, too. What is added to it:
//
// - A block is in one slot at a time. Which one hangs on its address, its size and the allocator
//   that served the call; of these a realloc changes the size. It erases the old record, wherever
//   that is, before the call, and makes the new one after it.
// - The coarse slots are looked at first, by hooks and by readers: where nothing is fine, nothing
//   is looked at twice. A reader that found a block in the coarse slot, and in the fine one what
//   came there later, has two answers that were true, one after the other. If it found it in
//   neither, there was a moment at which it was in neither: a block is erased here and there before
//   it is written anywhere.
// - The number of a region's fine arena is stored with release when its pages are committed. It
//   pairs with the acquire of whoever looks.
// - A block that begins where another's coarse record still is shows that the other's free was not
//   seen: it gives way. So no address is ever in both slots for longer than that.
//
// What a glibc chunk needs is not known here: its blocks are 32 bytes apart at multiples of 16, and
// their paths never come here.

import AgentMachine
import SharedLayout

enum Fine {
  // Above what the region table covers, or not a multiple of 8.
  private static let unindexable: UInt = ~((1 << UInt(ALLOCS_ADDRESS_BITS)) - 1) | 7

  /// Whether a block has a fine slot. `isTight`: its allocator's blocks may lie closer than 32
  /// bytes.
  @inline(__always)
  static func holds(_ base: UInt, _ size: UInt, isTight: Bool) -> Bool {
    base & UInt(ALLOCS_GRANULE_SIZE - 1) != 0 || isTight && size <= UInt(ALLOCS_FINE_SIZE)
  }

  /// Whether any region has fine slots. Who frees a block that has one finds it so: a block is
  /// recorded before anybody has it.
  @inline(__always)
  static var isUsed: Bool { allocs_load_relaxed_u32(&allocs_process().pointee.has_fine) != 0 }

  static func isUnindexable(_ base: UInt) -> Bool { base & unindexable != 0 }

  // MARK: places

  /// The fine slots of the region whose arena is `arena`; nil if it has none.
  @inline(__always)
  static func arena(_ arena: UnsafeMutablePointer<UInt8>) -> Nested.Base? {
    let word = UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_FINE_OFFSET)).assumingMemoryBound(to: UInt32.self)
    let number = allocs_load_acquire_u32(word) &- 1
    guard number < UInt32(ALLOCS_NESTED_CAPACITY) else { return nil }
    return allocs_nested_mappings()[Int(number)]
  }

  /// The slot of `base`, if it is committed.
  @inline(__always)
  static func knownPlace(_ regions: Regions, _ base: UInt) -> Index.Place? {
    guard base & unindexable == 0, let arena = regions[Int(base >> UInt(ALLOCS_REGION_SHIFT))],
      let fine = Fine.arena(arena), Nested.isSummarized(fine, base)
    else { return nil }
    return Index.Place(
      arena: arena, slot: Nested.slot(fine, base), granule: allocs_fine_granule(UInt64(base)))
  }

  /// The slot of a block, writable; nil, and counted, if it cannot be. That of a tail behind it is
  /// committed only where there will be one: of small blocks, which nearly all are, it would take a
  /// page more at the end of each page.
  static func place(_ regions: Regions, _ base: UInt, _ size: UInt) -> Index.Place? {
    let hasTail = size >= UInt(ALLOCS_SMALL_SIZE_LIMIT)
    if !hasTail, let place = knownPlace(regions, base) { return place }
    guard NestedArenas.prepareFine(regions, base, hasTail: hasTail) else { return nil }
    return knownPlace(regions, base)
  }

  // MARK: the path

  /// False, and counted, if the allocation cannot be recorded.
  @inline(never)
  static func record(_ regions: Regions, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32) -> Bool {
    guard let place = place(regions, base, size) else { return false }
    _ = Index.erase(regions, base)
    Index.write(place, base, size, alignment, context, allocs_now())
    return true
  }

  /// The same for a small block in memory that was in use before; false, and nothing done, if it is
  /// another. Calls nothing.
  @inline(__always)
  static func recordKnown(_ regions: Regions, _ base: UInt, _ size: UInt, _ context: UInt32) -> Bool {
    guard size < UInt(ALLOCS_SMALL_SIZE_LIMIT), let place = knownPlace(regions, base),
      let clock = allocs_process().pointee.coarse_clock, Index.isUnused(place.arena, base)
    else { return false }
    let head = allocs_slot_small(place.granule, UInt64(size), context, allocs_clock_ticks(clock))
    allocs_store_release_u64(place.slot, head)
    return true
  }

  /// Gives the head that was there, 0 if `base` is not the start of a known allocation.
  @inline(__always)
  static func erase(_ regions: Regions, _ base: UInt) -> UInt64 {
    guard let place = knownPlace(regions, base) else { return 0 }
    let head = place.head
    if head != 0 { allocs_store_relaxed_u64(place.slot, 0) }
    return head
  }
}
