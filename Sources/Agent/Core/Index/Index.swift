// Index: the slots of the segment. To record an allocation is one store, to erase it is one store.
// Here are the coarse ones, one for 32 bytes; blocks that may share them with others have fine ones
// (Fine.swift).
//
// The argument for readers, who look on without any lock:
// - A slot is written only by the thread that owns the allocation: between the allocator's return
//   and the call that frees it, nobody else may pass its address to a hook. So slot stores need no
//   read-modify-write.
// - LARGE: tail, then head, both with release. The head's pairs with the reader's acquire of the
//   head: who sees the head sees its tail, or a later one. The tail's pairs with the acquire of the
//   tail: who sees a later tail sees that the head before it was erased, and notices when it looks
//   at the head again. (Tests/Models/slot.pml, for all orders of plain stores.)
// - The summary bit is set, with release, before the first slot under it is written; the pages
//   behind are committed before that. So a reader that finds the bit may load the slots, and a slot
//   that holds something has its bit set.
// - An erased slot is zero before the allocator below gets the block back, so the next owner's
//   store comes after it.

import AgentMachine
import SharedLayout

typealias Regions = UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>

enum Index {
  // Above what the region table covers, or not a multiple of 16: such a block has no coarse slot.
  private static let unindexable: UInt = ~((1 << UInt(ALLOCS_ADDRESS_BITS)) - 1) | 15

  // MARK: the path

  /// False, and counted, if the allocation cannot be recorded. `isTight`: its allocator's blocks
  /// may lie closer than 32 bytes.
  @inline(__always)
  static func record(
    _ regions: Regions, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32, isTight: Bool
  ) -> Bool {
    if Fine.holds(base, size, isTight: isTight) { return Fine.record(regions, base, size, alignment, context) }
    guard let arena = arena(regions, base) else { return false }
    write(place(arena, base), base, size, alignment, context, allocs_now())
    return true
  }

  /// The same for memory that was in use before; false, and nothing done, if it was not. Calls nothing.
  @inline(__always)
  static func recordKnown(_ regions: Regions, _ base: UInt, _ size: UInt, _ context: UInt32) -> Bool {
    guard let arena = knownArena(regions, base), let clock = allocs_process().pointee.coarse_clock else { return false }
    write(place(arena, base), base, size, 0, context, allocs_clock_ticks(clock))
    return true
  }

  /// The arena of `base`, with its slot writable; nil, and counted, if there is none.
  @inline(__always)
  static func arena(_ regions: Regions, _ base: UInt) -> UnsafeMutablePointer<UInt8>? {
    knownArena(regions, base) ?? Arenas.prepare(regions, base)
  }

  @inline(__always)
  static func write(
    _ place: Place, _ base: UInt, _ size: UInt, _ alignment: UInt, _ context: UInt32, _ ticks: UInt32
  ) {
    let slot = place.slot
    let kind = allocs_slot_kind_of_size(UInt64(size))
    if kind == ALLOCS_SLOT_LARGE.rawValue {
      let logarithm = alignment == 0 ? 0 : UInt32(truncatingIfNeeded: alignment.trailingZeroBitCount)
      // An allocation of 2^47 bytes cannot exist: addresses have 47 bits, or 48 that are not free all the same.
      allocs_store_release_u64(slot + 1, allocs_slot_tail(UInt64(size), logarithm, ticks))
    }
    allocs_store_release_u64(slot, allocs_slot_head(kind, place.granule, UInt64(size), context, ticks))
  }

  /// Gives the head that was there, 0 if `base` is not the start of a known allocation.
  @inline(__always)
  static func erase(_ regions: Regions, _ base: UInt) -> UInt64 {
    guard let arena = knownArena(regions, base) else { return 0 }
    let slot = slot(arena, base)
    let head = allocs_load_relaxed_u64(slot)
    guard allocs_slot_is_head_of(head, allocs_granule_of_address(UInt64(base))) else { return 0 }
    allocs_store_relaxed_u64(slot, 0)
    return head
  }

  /// Whether no allocation is known in the coarse slot that `base` has in `arena`, or would have if
  /// it were a multiple of 16.
  @inline(__always)
  static func isUnused(_ arena: UnsafeMutablePointer<UInt8>, _ base: UInt) -> Bool {
    !isSummarized(arena, base) || place(arena, base).head == 0
  }

  /// As `erase`, whichever slot it has.
  @inline(__always)
  static func eraseAnywhere(_ regions: Regions, _ base: UInt) -> UInt64 {
    let head = erase(regions, base)
    return head != 0 || !Fine.isUsed ? head : eraseFine(regions, base)
  }

  @inline(never)
  private static func eraseFine(_ regions: Regions, _ base: UInt) -> UInt64 { Fine.erase(regions, base) }

  /// Puts back what `erase` gave. The tail is still there: the allocation has not moved.
  static func restore(_ regions: Regions, _ base: UInt, _ head: UInt64) {
    if let place = place(regions, base, of: head) { allocs_store_release_u64(place.slot, head) }
  }

  /// The arena of `base`, if its slots are committed.
  @inline(__always)
  static func knownArena(_ regions: Regions, _ base: UInt) -> UnsafeMutablePointer<UInt8>? {
    guard base & unindexable == 0, let arena = regions[Int(base >> UInt(ALLOCS_REGION_SHIFT))],
      isSummarized(arena, base)
    else { return nil }
    return arena
  }

  // MARK: places

  /// Where an allocation is recorded: its slot, with the `granule` of a head there, and its
  /// region's arena.
  struct Place {
    var arena: UnsafeMutablePointer<UInt8>
    var slot: UnsafeMutablePointer<UInt64>
    var granule: UInt32

    /// The head of the allocation that is recorded here, 0 if none is.
    @inline(__always)
    var head: UInt64 {
      let head = allocs_load_relaxed_u64(slot)
      return allocs_slot_is_head_of(head, granule) ? head : 0
    }
  }

  @inline(__always)
  static func place(_ arena: UnsafeMutablePointer<UInt8>, _ base: UInt) -> Place {
    Place(arena: arena, slot: slot(arena, base), granule: allocs_granule_of_address(UInt64(base)))
  }

  /// Where a new allocation goes; nil, and counted, if it cannot be recorded.
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

  /// Where the allocation at `base` was recorded with `head`, which may be erased.
  static func place(_ regions: Regions, _ base: UInt, of head: UInt64) -> Place? {
    isFine(head, base) ? Fine.knownPlace(regions, base) : knownArena(regions, base).map { place($0, base) }
  }

  /// Whether `head`, of the allocation at `base`, was in a fine slot.
  @inline(__always)
  static func isFine(_ head: UInt64, _ base: UInt) -> Bool {
    allocs_slot_granule(head) != allocs_granule_of_address(UInt64(base))
  }

  @inline(__always)
  static func slot(_ arena: UnsafeMutablePointer<UInt8>, _ base: UInt) -> UnsafeMutablePointer<UInt64> {
    let offset = Int(ALLOCS_ARENA_SLOTS_OFFSET) &+ Int(allocs_slot_index(UInt64(base))) &* 8
    return UnsafeMutableRawPointer(arena + offset).assumingMemoryBound(to: UInt64.self)
  }

  @inline(__always)
  private static func isSummarized(_ arena: UnsafeMutablePointer<UInt8>, _ base: UInt) -> Bool {
    let index = Int(allocs_summary_index(UInt64(base)))
    let word = UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_SUMMARY_OFFSET) + index / 64 * 8)
      .assumingMemoryBound(to: UInt64.self)
    return allocs_load_relaxed_u64(word) >> UInt64(index % 64) & 1 != 0
  }

  // MARK: losses

  static func isUnindexable(_ base: UInt) -> Bool { base & unindexable != 0 }

  /// What a counter of the segment has come to.
  static func value(of counter: allocs_counter) -> UInt64 {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return 0 }
    return withUnsafeMutablePointer(to: &header.pointee.counters) {
      let counters = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
      return allocs_load_relaxed_u64(counters + Int(counter.rawValue))
    }
  }

  /// Adds one to a counter of the segment.
  @inline(never)
  static func count(_ counter: allocs_counter, _ amount: UInt64 = 1) {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    withUnsafeMutablePointer(to: &header.pointee.counters) {
      let counters = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt64.self)
      _ = allocs_fetch_add_u64(counters + Int(counter.rawValue), amount)
    }
  }
}
