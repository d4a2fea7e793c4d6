// Nested: the index of suballocations, which pools carve out of chunks, of mappings, or of each other's blocks
// (allocs_nested.h).
//
// Invariants:
// - A block goes to level 0, or, if it lies in a block of another suballocator, one level above that block: the chain
//   of containers is read off the addresses. What would need a third level is refused.
// - Blocks of two suballocators never overlap but in that way. Who would overlap another's is refused, and the other's
//   stay: a wrong declaration harms only what it declares. Where an allocator hands out memory of its own again, the
//   later word counts.
// - Only the chunk's free, its own allocator, and its pool's reset erase a block.
//
// That a reader never shows a block whose chunk is gone has two legs. The hook that frees a chunk erases its slot, then
// all nested slots in it, and only then lets the chunk go: whoever gets that memory next finds no slot there. Where a
// free is not seen (inside another hook before this was on, by an allocator that is not hooked), the reader's own test
// holds: it believes a block in a chunk only if a live chunk holds all of it and is not younger. A block that was in no
// chunk when it was handed out is not believed once a chunk lies there.
//
// Slots are written by who owns the memory, as in Index. The lock is taken for new arenas alone.

import AgentMachine
import SharedLayout

enum Nested {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>
  typealias Base = UnsafeMutablePointer<UInt8>

  private static let regionShift = UInt(ALLOCS_REGION_SHIFT)
  private static let addressLimit: UInt = 1 << UInt(ALLOCS_ADDRESS_BITS)
  private static let levels = Int(ALLOCS_NESTED_LEVELS)

  /// What a suballocation says of itself.
  struct Block {
    var base: UInt
    var size: UInt
    /// One past its last address.
    var end: UInt { base &+ max(size, 1) }
    var head: UInt64
  }

  // MARK: recording

  /// `base` was handed out, by the allocator whose group is `group`. Gives the level; nil, and counted, if it cannot be
  /// recorded.
  static func record(
    _ shared: Shared, _ header: Header, _ base: UInt, _ size: UInt, _ group: UInt32, _ context: UInt32
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
    } else if let chunk = Index.chunk(shared, containing: base) {
      guard end <= chunk.end else { return refused() }
      isOutside = false
    } else {
      // A block of no bytes right behind the last byte of a chunk has no place in it, and is not missed.
      if size == 0, let chunk = Index.chunk(shared, containing: base &- 1), chunk.end == base { return nil }
      isOutside = true
    }
    guard clear(shared, header, level, base, end, of: group) else { return refused() }
    var known = arena(shared, level, base)
    if let arena = known, !isSummarized(arena, base) { known = nil }
    guard let arena = known ?? NestedArenas.prepare(shared, header, level, base, end, isMapped: !isOutside) else {
      return nil
    }
    write(arena, base, size, isOutside, context)
    return level
  }

  private static func refused() -> Int? {
    Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REFUSED)
    return nil
  }

  @inline(__always)
  private static func write(_ arena: Base, _ base: UInt, _ size: UInt, _ isOutside: Bool, _ context: UInt32) {
    let slot = slot(arena, base)
    let ticks = allocs_now()
    let kind = allocs_slot_kind_of_size(UInt64(size))
    if kind == ALLOCS_SLOT_LARGE.rawValue {
      allocs_store_release_u64(slot + 1, allocs_slot_tail(UInt64(size), 0, ticks))
    }
    let granule = isOutside ? ALLOCS_NESTED_OUTSIDE : ALLOCS_NESTED_IN_CHUNK
    allocs_store_release_u64(slot, allocs_slot_head(kind, granule, UInt64(size), context, ticks))
  }

  /// Makes room at `level`: erases what the same allocator had handed out in the range. False, and nothing done, if a
  /// block of another starts there.
  private static func clear(
    _ shared: Shared, _ header: Header, _ level: Int, _ base: UInt, _ end: UInt, of group: UInt32
  ) -> Bool {
    var isFree = true
    var replaced: UInt64 = 0
    forEach(shared, level, base, end) { slot, head, _ in
      if self.group(header, head) != group { isFree = false } else { replaced += 1 }
    }
    guard isFree else { return false }
    guard replaced > 0 else { return true }
    var live: UInt64 = 0
    forEach(shared, level, base, end) { slot, head, _ in
      // A block of no bytes owns nothing: the next one may start where it does.
      if allocs_slot_kind(head) != ALLOCS_SLOT_SMALL.rawValue || allocs_slot_small_size(head) != 0 { live += 1 }
      allocs_store_relaxed_u64(slot, 0)
    }
    if live > 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REPLACED, live) }
    return true
  }

  // MARK: erasing

  /// What was erased, to be put back if need be.
  struct Erased {
    var head: UInt64 = 0
    var level = 0
  }

  /// `base` goes back to the allocator whose group is `group`. Nothing is done, and `head` is 0, if that has not
  /// handed it out.
  static func erase(_ shared: Shared, _ header: Header, _ base: UInt, _ group: UInt32) -> Erased {
    guard base & 7 == 0, base < addressLimit else { return Erased() }
    var level = 0
    while level < levels {
      if let arena = arena(shared, level, base), isSummarized(arena, base) {
        let slot = slot(arena, base)
        let head = allocs_load_relaxed_u64(slot)
        if allocs_slot_is_head(head), self.group(header, head) == group {
          let end = base &+ max(self.size(slot, head), 1)
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
    allocs_store_release_u64(slot(arena, base), erased.head)
  }

  /// The memory from `start` up to `end` changes hands: erases all suballocations that start in it, at the levels from
  /// `aboveLevel` + 1 on.
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

  /// A chunk, erased from the index with `head`, is about to go back.
  @inline(never)
  static func dropChunk(_ base: UInt, _ head: UInt64, _ size: UInt) {
    guard let shared = allocs_process().pointee.shared else { return }
    drop(shared, from: base, to: base &+ max(size, 1))
  }

  /// Those of pool `pool` in the range.
  static func drop(_ shared: Shared, from start: UInt, to end: UInt, ofPool pool: UInt32) {
    var level = 0
    var count: UInt64 = 0
    while level < levels {
      forEach(shared, level, start, end) { slot, head, base in
        guard Pools.owner(shared, level, base) == pool else { return }
        let blockEnd = base &+ max(size(slot, head), 1)
        allocs_store_relaxed_u64(slot, 0)
        count += 1
        drop(shared, from: base, to: blockEnd, aboveLevel: level)
      }
      level += 1
    }
    if count > 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_DROPPED, count) }
  }

  // MARK: looking

  /// The block at `level` that `address` is in, nil if there is none.
  static func block(_ shared: Shared, _ level: Int, containing address: UInt) -> Block? {
    guard let table = regions(shared, level) else { return nil }
    var region = Int(address >> regionShift)
    var offset = address & ((1 << regionShift) - 1)
    // A block larger than a region began in one before it: as far below as such blocks are believed to reach.
    var tries = 16
    while tries > 0, region >= 0 {
      if let arena = table[region], let found = last(arena, UInt(region) << regionShift, atOrBelow: offset) {
        return address < found.end ? found : nil
      }
      region -= 1
      offset = (1 << regionShift) - 1
      tries -= 1
    }
    return nil
  }

  private static func last(_ arena: Base, _ regionStart: UInt, atOrBelow offset: UInt) -> Block? {
    let slots = slots(arena)
    let summary = summary(arena)
    var index = Int(offset >> UInt(ALLOCS_NESTED_SHIFT))
    var group = index >> 6
    while true {
      let word = allocs_load_relaxed_u64(summary + group >> 6)
      if word >> UInt64(group & 63) & 1 != 0 {
        while index >= group << 6 {
          let head = allocs_load_relaxed_u64(slots + index)
          if allocs_slot_is_head(head) {
            let base = regionStart + UInt(index) << UInt(ALLOCS_NESTED_SHIFT)
            return Block(base: base, size: size(slots + index, head), head: head)
          }
          index -= 1
        }
      }
      guard let below = Index.markedGroup(summary, below: group, word) else { return nil }
      group = below
      index = group << 6 | 63
    }
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
        let first = Int((max(start, regionStart) - regionStart + 7) >> UInt(ALLOCS_NESTED_SHIFT))
        let limit = Int(
          min(last - regionStart, (1 << regionShift) - 1) >> UInt(ALLOCS_NESTED_SHIFT))
        forEach(arena, regionStart, first, limit, body)
      }
      region += 1
    }
  }

  @inline(__always)
  private static func forEach(
    _ arena: Base, _ regionStart: UInt, _ first: Int, _ last: Int,
    _ body: (UnsafeMutablePointer<UInt64>, UInt64, UInt) -> Void
  ) {
    let slots = slots(arena)
    let summary = summary(arena)
    var group = first >> 6
    while group <= last >> 6 {
      var bits = allocs_load_relaxed_u64(summary + group >> 6) >> UInt64(group & 63)
      guard bits != 0 else {
        group = group & ~63 + 64
        continue
      }
      group += bits.trailingZeroBitCount
      guard group <= last >> 6 else { return }
      bits = 0
      var index = max(first, group << 6)
      while index <= min(last, group << 6 | 63) {
        let head = allocs_load_relaxed_u64(slots + index)
        if allocs_slot_is_head(head) {
          body(slots + index, head, regionStart + UInt(index) << UInt(ALLOCS_NESTED_SHIFT))
        }
        index += 1
      }
      group += 1
    }
  }

  // MARK: places

  static func regions(_ shared: Shared, _ level: Int) -> Regions? {
    level == 0 ? shared.pointee.nested_regions.0 : shared.pointee.nested_regions.1
  }

  @inline(__always)
  static func arena(_ shared: Shared, _ level: Int, _ base: UInt) -> Base? {
    regions(shared, level)?[Int(base >> regionShift)]
  }

  @inline(__always)
  static func slots(_ arena: Base) -> UnsafeMutablePointer<UInt64> {
    UnsafeMutableRawPointer(arena + Int(ALLOCS_NESTED_SLOTS_OFFSET)).assumingMemoryBound(to: UInt64.self)
  }
  @inline(__always)
  static func summary(_ arena: Base) -> UnsafeMutablePointer<UInt64> {
    UnsafeMutableRawPointer(arena + Int(ALLOCS_NESTED_SUMMARY_OFFSET)).assumingMemoryBound(to: UInt64.self)
  }
  @inline(__always)
  static func slot(_ arena: Base, _ base: UInt) -> UnsafeMutablePointer<UInt64> {
    slots(arena) + Int(allocs_nested_slot_index(UInt64(base)))
  }
  @inline(__always)
  static func isSummarized(_ arena: Base, _ base: UInt) -> Bool {
    let index = Int(allocs_nested_summary_index(UInt64(base)))
    return allocs_load_relaxed_u64(summary(arena) + index / 64) >> UInt64(index % 64) & 1 != 0
  }

  /// The size of the block whose head, `head`, is in `slot`.
  @inline(__always)
  private static func size(_ slot: UnsafeMutablePointer<UInt64>, _ head: UInt64) -> UInt {
    UInt(
      allocs_slot_kind(head) == ALLOCS_SLOT_SMALL.rawValue
        ? allocs_slot_small_size(head) : allocs_slot_tail_size(allocs_load_relaxed_u64(slot + 1)))
  }

  /// The group of the allocator that handed out the block with `head`.
  @inline(__always)
  private static func group(_ header: Header, _ head: UInt64) -> UInt32 {
    let contexts = Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self)
    let context = Int(allocs_slot_context(head))
    guard context != 0 else { return .max }
    let allocator = allocs_context_allocator(allocs_load_relaxed_u64(contexts + context))
    return Allocators.entries(header)[Int(allocator)].group
  }
}
