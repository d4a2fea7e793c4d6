// SPDX-License-Identifier: Apache-2.0
// Index: which allocations live. To record an allocation is one store into a slot of the segment,
// to erase it is one store. Here are the coarse slots, one for 32 bytes. Blocks that may share 32
// bytes with others have fine slots (Fine.swift).
//
// Readers look on without any lock. Why what they find is right:
// - A slot is written only by the thread that owns the allocation: between the allocator's return
//   and the call that frees the block, nobody else may pass its address to a hook. So a store to a
//   slot needs no read-modify-write.
// - A block of kind LARGE (allocs_slot.h) has a tail, which is stored first, and then the head,
//   both with release. The head's store pairs with the reader's acquire of the head: a reader that
//   sees the head sees its tail, or a later tail. The tail's store pairs with the reader's acquire
//   of the tail: a reader that sees a later tail also sees that the head before it was erased, and
//   notices so when it loads the head again. (Tests/Models/slot.pml, for all orders of plain
//   stores.)
// - The summary bit is set, with release, before the first slot under it is written, and the pages
//   behind the slots are backed by memory before that (SlotArena.swift).
// - An erased slot is zero before the allocator gets the block back, so the next owner's store
//   comes after it.

import AgentMachine
import SharedLayout

/// The arena of each region, null where there is none.
typealias Regions = UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>

enum Index {
  // MARK: the hooks' path

  /// Records an allocation. False, and counted, if that cannot be done. `isTight`: the blocks of
  /// its allocator may lie closer than 32 bytes.
  @inline(__always)
  static func record(
    _ regions: Regions, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32, _ ticks: UInt32, isTight: Bool
  ) -> Bool {
    if Fine.holds(base, size, isTight: isTight) { return Fine.record(regions, base, size, alignment, context, ticks) }
    guard let arena = arena(regions, base) else { return false }
    write(place(arena, base), base, size, alignment, context, ticks)
    return true
  }

  /// Records an allocation whose slot may be written: `arena` is its knownArena. The time is the
  /// thread's (Clock.swift); `context` stands where the head of a slot has it. Calls nothing.
  @inline(__always)
  static func recordKnown(_ thread: Thread, _ arena: Arena, _ base: UInt, _ size: UInt, context: UInt64) {
    let slot = arena.slot(base)
    let rest: UInt64
    if size < UInt(ALLOCS_SMALL_SIZE_LIMIT) {
      rest = allocs_slot_small_bits(UInt64(base), UInt64(size))
    } else {
      allocs_store_release_u64(slot + 1, allocs_slot_tail_at(UInt64(size), thread.pointee.time))
      rest = allocs_slot_large_bits(UInt64(base), UInt64(size))
    }
    // After the tail: see above.
    allocs_store_release_u64(slot, rest &+ context &+ thread.pointee.time)
  }

  /// The arena of `base`, whose slot may be written. Nil, and counted, if there is none.
  @inline(__always)
  static func arena(_ regions: Regions, _ base: UInt) -> Arena? {
    knownArena(regions, base) ?? Arenas.prepare(regions, base)
  }

  @inline(__always)
  static func write(
    _ place: Place, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32, _ ticks: UInt32
  ) {
    Slot.write(place.slot, granule: place.granule, size, alignment, context, ticks)
  }

  /// Erases the allocation at `base` from its coarse slot, and gives the head that was there; 0 if
  /// no allocation is known to start at `base`.
  @inline(__always)
  static func erase(_ regions: Regions, _ base: UInt) -> UInt64 {
    guard let arena = knownArena(regions, base) else { return 0 }
    let slot = arena.slot(base)
    let head = allocs_load_relaxed_u64(slot)
    guard allocs_slot_is_head_of(head, allocs_granule_of_address(UInt64(base))) else { return 0 }
    allocs_store_relaxed_u64(slot, 0)
    return head
  }

  /// As `erase`; whether an allocation was known.
  @inline(__always)
  static func eraseKnown(_ regions: Regions, _ base: UInt) -> Bool {
    guard let arena = knownArena(regions, base) else { return false }
    let slot = arena.slot(base)
    guard allocs_slot_is_head_at(allocs_load_relaxed_u64(slot), UInt64(base)) else { return false }
    allocs_store_relaxed_u64(slot, 0)
    return true
  }

  /// Whether no allocation is known in the coarse slot that `base` has in `arena`, or would have if
  /// it were a multiple of 16.
  @inline(__always)
  static func isUnused(_ arena: Arena, _ base: UInt) -> Bool {
    !arena.isSummarized(base) || place(arena, base).head == 0
  }

  /// Erases the allocation at `base` from its coarse or its fine slot; otherwise as `erase`.
  @inline(__always)
  static func eraseAnywhere(_ regions: Regions, _ base: UInt) -> UInt64 {
    let head = erase(regions, base)
    return head != 0 || !Fine.isUsed ? head : eraseFine(regions, base)
  }

  @inline(never)
  private static func eraseFine(_ regions: Regions, _ base: UInt) -> UInt64 { Fine.erase(regions, base) }

  /// Puts back the head that `erase` gave. The tail is still there: the allocation has not moved.
  static func restore(_ regions: Regions, _ base: UInt, _ head: UInt64) {
    if let place = place(regions, base, of: head) { allocs_store_release_u64(place.slot, head) }
  }

  /// The arena of `base`, if its slot may be written already.
  @inline(__always)
  static func knownArena(_ regions: Regions, _ base: UInt) -> Arena? {
    guard base & allocs_unindexable() == 0, let arena = Arena(regions, base), arena.isSummarized(base) else {
      return nil
    }
    return arena
  }

  static func isUnindexable(_ base: UInt) -> Bool { base & allocs_unindexable() != 0 }

  // MARK: places

  /// Where an allocation is recorded: its coarse or fine slot, with the `granule` that a head has
  /// there, and the arena of its region.
  struct Place {
    var arena: Arena
    var slot: UnsafeMutablePointer<UInt64>
    var granule: UInt32

    /// The head of the allocation that is recorded here, 0 if there is none.
    @inline(__always)
    var head: UInt64 {
      let head = allocs_load_relaxed_u64(slot)
      return allocs_slot_is_head_of(head, granule) ? head : 0
    }
  }

  @inline(__always)
  static func place(_ arena: Arena, _ base: UInt) -> Place {
    Place(arena: arena, slot: arena.slot(base), granule: allocs_granule_of_address(UInt64(base)))
  }

  /// Where a new allocation goes. Nil, and counted, if it cannot be recorded.
  static func place(_ regions: Regions, _ base: UInt, _ size: UInt, isTight: Bool) -> Place? {
    guard Fine.holds(base, size, isTight: isTight) else { return arena(regions, base).map { place($0, base) } }
    guard let place = Fine.place(regions, base, size) else { return nil }
    _ = erase(regions, base)
    return place
  }

  /// Where the allocation at `base` is recorded; nil if it is not known.
  static func place(_ regions: Regions, _ base: UInt) -> Place? {
    if let arena = knownArena(regions, base) {
      let place = place(arena, base)
      if place.head != 0 { return place }
    }
    return Fine.knownPlace(regions, base).flatMap { $0.head == 0 ? nil : $0 }
  }

  /// Where the allocation at `base` was recorded with `head`, which may have been erased.
  static func place(_ regions: Regions, _ base: UInt, of head: UInt64) -> Place? {
    isFine(head, base) ? Fine.knownPlace(regions, base) : knownArena(regions, base).map { place($0, base) }
  }

  /// Whether `head`, of the allocation at `base`, was in a fine slot.
  @inline(__always)
  static func isFine(_ head: UInt64, _ base: UInt) -> Bool {
    allocs_slot_granule(head) != allocs_granule_of_address(UInt64(base))
  }

  /// The size of the allocation at `base`, which was recorded with `head` and may have been erased.
  static func size(_ regions: Regions, _ base: UInt, erased head: UInt64) -> UInt {
    place(regions, base, of: head).map { Slot.size($0.slot, head) } ?? 0
  }

  // MARK: the segment's counters

  /// The present count of a counter; 0 without a segment.
  static func value(of counter: allocs_counter) -> UInt64 {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return 0 }
    return withUnsafeMutablePointer(to: &header.pointee.counters) {
      let counters = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
      return allocs_load_relaxed_u64(counters + Int(counter.rawValue))
    }
  }

  /// Adds to a counter of the segment.
  @inline(never)
  static func count(_ counter: allocs_counter, _ amount: UInt64 = 1) {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    withUnsafeMutablePointer(to: &header.pointee.counters) {
      let counters = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
      _ = allocs_fetch_add_u64(counters + Int(counter.rawValue), amount)
    }
  }
}
