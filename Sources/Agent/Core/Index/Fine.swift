// SPDX-License-Identifier: Apache-2.0
// Fine: the slots of blocks that may share 32 bytes with others, or do not start at a multiple of
// 16 (allocs_nested.h). Such a block is an allocation like any other, and what Index.swift says of
// readers holds for it, too. These rules are added:
//
// - A block is in one slot at a time, a coarse or a fine one. Which, follows from its address, its
//   size and the allocator that served the call. A realloc changes the size: it erases the old
//   record before the call, wherever that is, and makes the new record after the call.
// - Hooks and readers look at the coarse slot first: where no block is fine, nobody looks twice. A
//   reader that found a block in the coarse slot, and then a later block in the fine slot of the
//   same address, has two answers that were true, one after the other. A reader that found nothing
//   in either slot is right as well: a block is erased from both slots before it is written to
//   either, so there was a moment at which the address was in neither.
// - The number of a region's fine arena is stored, with release, when the head of that arena is
//   backed by memory and written. The store pairs with the acquire of the thread that looks the
//   arena up.
// - A block that begins where the coarse record of another block still stands proves that the free
//   of that other block was not seen: the old record gives way. So no address stays in both slots.
//
// Blocks of glibc never come here: they start at multiples of 16, 32 bytes apart.

import AgentMachine
import SharedLayout

enum Fine {
  // Set for an address above the region table, or not a multiple of 8: such a block has no fine
  // slot.
  private static let unindexable: UInt = ~((1 << UInt(ALLOCS_ADDRESS_BITS)) - 1) | 7

  /// Whether a block has a fine slot. `isTight`: the blocks of its allocator may lie closer than 32
  /// bytes.
  @inline(__always)
  static func holds(_ base: UInt, _ size: UInt, isTight: Bool) -> Bool {
    base & UInt(ALLOCS_GRANULE_SIZE - 1) != 0 || isTight && size <= UInt(ALLOCS_FINE_SIZE)
  }

  /// Whether any region has fine slots. A thread that frees a block in a fine slot finds this true:
  /// a block is recorded before anybody has it.
  @inline(__always)
  static var isUsed: Bool { allocs_load_relaxed_u32(&allocs_process().pointee.has_fine) != 0 }

  static func isUnindexable(_ base: UInt) -> Bool { base & unindexable != 0 }

  // MARK: places

  /// The fine slots of the region whose coarse slots are in `arena`; nil if it has none.
  @inline(__always)
  static func arena(of arena: Arena) -> NestedArena? {
    let word = UnsafeMutableRawPointer(arena.start + Int(ALLOCS_ARENA_FINE_OFFSET))
      .assumingMemoryBound(to: UInt32.self)
    let number = allocs_load_acquire_u32(word) &- 1
    guard number < UInt32(ALLOCS_NESTED_CAPACITY) else { return nil }
    return allocs_nested_mappings()[Int(number)].map { NestedArena($0) }
  }

  /// The fine slot of `base`, if it may be written already.
  @inline(__always)
  static func knownPlace(_ regions: Regions, _ base: UInt) -> Index.Place? {
    guard base & unindexable == 0, let arena = Arena(regions, base), let fine = Fine.arena(of: arena),
      fine.isSummarized(base)
    else { return nil }
    return Index.Place(arena: arena, slot: fine.slot(base), granule: allocs_fine_granule(UInt64(base)))
  }

  /// The fine slot of a block; it may be written. Nil, and counted, if there is none. The slot of a
  /// tail is backed by memory only if the block will have a tail: nearly all blocks here are small,
  /// and for them it would take one page more at the end of each page of slots.
  static func place(_ regions: Regions, _ base: UInt, _ size: UInt) -> Index.Place? {
    let hasTail = size >= UInt(ALLOCS_SMALL_SIZE_LIMIT)
    if !hasTail, let place = knownPlace(regions, base) { return place }
    guard NestedArenas.prepareFine(regions, base, hasTail: hasTail) else { return nil }
    return knownPlace(regions, base)
  }

  // MARK: the hooks' path

  /// Records an allocation. False, and counted, if that cannot be done.
  @inline(never)
  static func record(
    _ regions: Regions, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32, _ ticks: UInt32
  ) -> Bool {
    guard let place = place(regions, base, size) else { return false }
    _ = Index.erase(regions, base)
    Index.write(place, base, size, alignment, context, ticks)
    return true
  }

  /// Records a small block in memory that was in use before. False, and nothing done, if the block
  /// is large or the memory was not in use. Calls nothing.
  /// `context` and `time` stand where the head of a slot has them. `before` runs when all is ready
  /// for the block's head.
  @inline(__always)
  static func recordKnown(
    _ regions: Regions, _ base: UInt, _ size: UInt, context: UInt64, time: UInt64, before: () -> Void
  ) -> Bool {
    guard size < UInt(ALLOCS_SMALL_SIZE_LIMIT), let place = knownPlace(regions, base),
      Index.isUnused(place.arena, base)
    else { return false }
    before()
    let head = allocs_slot_small(place.granule, UInt64(size), 0, 0)
    allocs_store_release_u64(place.slot, head | context | time)
    return true
  }

  /// Erases the allocation at `base` from its fine slot, and gives the head that was there; 0 if no
  /// allocation is known to start at `base`.
  @inline(__always)
  static func erase(_ regions: Regions, _ base: UInt) -> UInt64 {
    guard let place = knownPlace(regions, base) else { return 0 }
    let head = place.head
    if head != 0 { allocs_store_relaxed_u64(place.slot, 0) }
    return head
  }
}
