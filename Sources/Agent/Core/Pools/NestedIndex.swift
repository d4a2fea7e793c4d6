// SPDX-License-Identifier: Apache-2.0
// NestedIndex: which suballocations live. A suballocation is a block that a pool has handed out of
// a chunk, of a mapping, or of another pool's block. Its slot is in a nested arena
// (allocs_nested.h).
//
// Invariants:
// - A suballocation goes to level 0, or, if it lies in a block of another suballocator, one level
//   above that block: the chain of containers is read off the addresses. A block that would need a
//   third level is refused.
// - Blocks of two suballocators overlap only in that way. A block that would overlap a block of
//   another suballocator otherwise is refused, and the other's stays: a wrong declaration harms
//   only what it declares. Where an allocator hands out memory of its own a second time, its later
//   word counts.
// - Only the chunk's free, the block's own allocator, and its pool's reset erase a block.
//
// A reader never shows a suballocation whose chunk is gone, for two reasons. The hook that frees a
// chunk erases the chunk's slot, then all nested slots in the chunk, and only then hands the chunk
// back: the next owner of that memory finds no slot there. Some frees are not seen, because they
// come inside another hook before the first suballocator was there, or from an allocator that is
// not hooked. Then the reader's own test holds: it believes a block in a chunk only if a live chunk
// holds all of the block and is not younger. A block that was in no chunk when it was handed out is
// not believed once a chunk lies there.
//
// Slots are written by the thread that owns the memory, as in Index. Only new arenas take the lock.

import AgentMachine
import SharedLayout

enum NestedIndex {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  private static let regionShift = UInt(ALLOCS_REGION_SHIFT)
  private static let addressLimit: UInt = 1 << UInt(ALLOCS_ADDRESS_BITS)
  private static let levels = Int(ALLOCS_NESTED_LEVELS)

  // MARK: recording

  /// `thread` got `base` from the allocator whose group is `group`. Gives the block's level. Nil,
  /// and counted, if the block cannot be recorded.
  static func record(
    _ thread: Thread, _ shared: Shared, _ header: Header, _ base: UInt, _ size: UInt, _ group: UInt32, _ context: UInt32
  ) -> Int? {
    guard base & 7 == 0, base < addressLimit, size < addressLimit, base &+ max(size, 1) <= addressLimit else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return nil
    }
    let end = base &+ max(size, 1)
    var level = 0
    while let container = block(shared, level, containing: base), self.group(header, container.head) != group {
      level += 1
      guard end <= container.end, level < levels else { return refused() }
    }
    let isOutside: Bool
    if level > 0 {
      isOutside = false
    } else if let chunk = Chunk.containing(base, shared) {
      guard end <= chunk.end else { return refused() }
      isOutside = false
    } else {
      // A block of no bytes right behind the last byte of a chunk has no place in the chunk. Nobody
      // misses it.
      if size == 0, let chunk = Chunk.containing(base &- 1, shared), chunk.end == base { return nil }
      isOutside = true
    }
    guard clear(shared, header, level, base, end, of: group) else { return refused() }
    var known = arena(shared, level, base)
    if let arena = known, !arena.isSummarized(base) { known = nil }
    guard let arena = known ?? NestedArenas.prepare(shared, header, level, base, end, isMapped: !isOutside) else {
      return nil
    }
    let granule = isOutside ? ALLOCS_NESTED_OUTSIDE : ALLOCS_NESTED_IN_CHUNK
    Totals.add(thread, context, Int(bitPattern: size))
    Slot.write(arena.slot(base), granule: granule, size, 0, context, allocs_now())
    return level
  }

  private static func refused() -> Int? {
    Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REFUSED)
    return nil
  }

  /// Makes room at `level`: erases the blocks of the same allocator that start in the range. False,
  /// and nothing done, if a block of another allocator starts there.
  private static func clear(
    _ shared: Shared, _ header: Header, _ level: Int, _ base: UInt, _ end: UInt, of group: UInt32
  ) -> Bool {
    var isFree = true
    var replaced: UInt64 = 0
    forEach(shared, level, base, end) { _, head, _ in
      if self.group(header, head) != group { isFree = false } else { replaced += 1 }
    }
    guard isFree else { return false }
    guard replaced > 0 else { return true }
    var live: UInt64 = 0
    forEach(shared, level, base, end) { slot, head, _ in
      // A block of no bytes owns nothing: the next block may rightly start where it does.
      if allocs_slot_kind(head) != ALLOCS_SLOT_SMALL.rawValue || allocs_slot_small_size(head) != 0 { live += 1 }
      allocs_store_relaxed_u64(slot, 0)
    }
    if live > 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REPLACED, live) }
    return true
  }

  // MARK: erasing

  /// A block that was erased, so that it can be put back.
  struct Erased {
    /// 0 if nothing was erased.
    var head: UInt64 = 0
    var level = 0
  }

  /// `base` goes back to the allocator whose group is `group`. Nothing is done, and `head` is 0, if
  /// that allocator has not handed it out.
  static func erase(_ shared: Shared, _ header: Header, _ base: UInt, _ group: UInt32) -> Erased {
    guard base & 7 == 0, base < addressLimit else { return Erased() }
    var level = 0
    while level < levels {
      if let arena = arena(shared, level, base), arena.isSummarized(base) {
        let slot = arena.slot(base)
        let head = allocs_load_relaxed_u64(slot)
        if allocs_slot_is_head(head), self.group(header, head) == group {
          let end = base &+ max(Slot.size(slot, head), 1)
          allocs_store_relaxed_u64(slot, 0)
          drop(shared, from: base, to: end, aboveLevel: level)
          return Erased(head: head, level: level)
        }
      }
      level += 1
    }
    return Erased()
  }

  static func restore(_ shared: Shared, _ base: UInt, _ erased: Erased) {
    guard erased.head != 0, let arena = arena(shared, erased.level, base) else { return }
    allocs_store_release_u64(arena.slot(base), erased.head)
  }

  /// The memory from `start` up to `end` changes hands: erases all suballocations that start in it,
  /// at the levels from `aboveLevel` + 1 on.
  static func drop(_ shared: Shared, from start: UInt, to end: UInt, aboveLevel: Int = -1) {
    var level = aboveLevel + 1
    var count: UInt64 = 0
    while level < levels {
      forEach(shared, level, start, end) { slot, _, _ in
        allocs_store_relaxed_u64(slot, 0)
        count += 1
      }
      level += 1
    }
    if count > 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_DROPPED, count) }
  }

  /// Pool number `pool` takes back its blocks: erases the pool's blocks that start in the range.
  static func drop(_ shared: Shared, from start: UInt, to end: UInt, ofPool pool: UInt32) {
    var level = 0
    var count: UInt64 = 0
    while level < levels {
      forEach(shared, level, start, end) { slot, head, base in
        guard Pools.owner(shared, level, base) == pool else { return }
        let blockEnd = base &+ max(Slot.size(slot, head), 1)
        allocs_store_relaxed_u64(slot, 0)
        count += 1
        drop(shared, from: base, to: blockEnd, aboveLevel: level)
      }
      level += 1
    }
    if count > 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_DROPPED, count) }
  }

  // MARK: looking

  /// The block at `level` that `address` lies in, nil if it lies in none.
  private static func block(_ shared: Shared, _ level: Int, containing address: UInt) -> IndexedBlock? {
    guard let table = regions(shared, level) else { return nil }
    // A block larger than a region began in a region before. No block is believed to reach further.
    let regionLimit = 16
    return IndexedBlock.containing(address, regionLimit: regionLimit) { table[$0].map { NestedArena($0) } }
  }

  /// Calls `body` with the slot, head and base of each block of `level` that starts in the range.
  @inline(__always)
  private static func forEach(
    _ shared: Shared, _ level: Int, _ start: UInt, _ end: UInt,
    _ body: (UnsafeMutablePointer<UInt64>, UInt64, UInt) -> Void
  ) {
    guard let table = regions(shared, level), start < end else { return }
    let last = min(end, addressLimit) - 1
    guard start <= last else { return }
    var region = Int(start >> regionShift)
    while region <= Int(last >> regionShift) {
      if let arena = table[region] {
        let regionStart = UInt(region) << regionShift
        let first = Int((max(start, regionStart) - regionStart + 7) >> NestedShape.slotShift)
        let limit = Int(min(last - regionStart, (1 << regionShift) - 1) >> NestedShape.slotShift)
        NestedArena(arena).forEach(from: first, through: limit) { index, slot, head in
          body(slot, head, regionStart + UInt(index) << NestedShape.slotShift)
        }
      }
      region += 1
    }
  }

  // MARK: arenas

  /// The nested arena of each region, for suballocations of `level`. Nil until there are any.
  static func regions(_ shared: Shared, _ level: Int) -> Regions? {
    level == 0 ? shared.pointee.nested_regions.0 : shared.pointee.nested_regions.1
  }

  @inline(__always)
  static func arena(_ shared: Shared, _ level: Int, _ base: UInt) -> NestedArena? {
    regions(shared, level).flatMap { NestedArena($0, base) }
  }

  /// The group of the allocator that handed out the block with `head`.
  @inline(__always)
  private static func group(_ header: Header, _ head: UInt64) -> UInt32 {
    let contexts = Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self)
    let context = Int(allocs_slot_context(head))
    guard context != 0 else { return .max }
    let allocator = allocs_context_allocator(allocs_load_relaxed_u64(contexts + context))
    return Allocators.table(header)[Int(allocator)].pointee.group
  }
}
