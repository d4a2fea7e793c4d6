// SPDX-License-Identifier: Apache-2.0
// NestedArenas: makes the nested arenas of a region, which have the slots of suballocations and the
// fine slots, and the memory behind those slots. The slow path of NestedIndex and Fine, taken once
// for 512 bytes.
//
// Invariants: as in Arenas.swift. A nested arena is complete before the word in its region's arena,
// and the private region table of its level, lead anyone to it.

import AgentMachine
import SharedLayout

enum NestedArenas {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  /// Makes the slots of a suballocation at `base` writable. Nil, and counted, if that cannot be
  /// done. Unless `isMapped`, it is first checked that the block lies in memory of the process: a
  /// declared function that is no allocator may return anything.
  static func prepare(
    _ shared: Shared, _ header: Header, _ level: Int, _ base: UInt, _ end: UInt, isMapped: Bool
  ) -> NestedArena? {
    guard isMapped || (System.isMapped(base) && System.isMapped(end &- 1)) else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_REFUSED)
      return nil
    }
    guard
      let arena = NestedIndex.arena(shared, level, base)
        ?? locked(shared, { make(shared, header, level, Int(base >> UInt(ALLOCS_REGION_SHIFT))) }),
      arena.commitSlots(base, hasTail: true)
    else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return nil
    }
    arena.summarize(base)
    return arena
  }

  /// Makes the fine slot of the block at `base` writable, and the slot of its tail if it has one.
  /// False, and counted as for any other allocation, if that cannot be done.
  @inline(never)
  static func prepareFine(_ regions: Regions, _ base: UInt, hasTail: Bool) -> Bool {
    guard !Fine.isUnindexable(base) else {
      Index.count(base & 7 != 0 ? ALLOCS_COUNTER_UNALIGNED : ALLOCS_COUNTER_HIGH_ADDRESS)
      return false
    }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return false }
    guard Shortage.mayAsk(&shared.pointee.fine_refusal) else {
      Index.count(ALLOCS_COUNTER_NO_MEMORY)
      return false
    }
    guard let primary = Arenas.prepareRegion(shared, header, regions, base) else { return false }
    let isFull = AnchoredSection.nestedArenas(shared, header).isFull
    guard let arena = Fine.arena(of: primary) ?? locked(shared, { makeFine(shared, header, primary, base) }) else {
      if isFull { Index.count(ALLOCS_COUNTER_ARENAS_EXHAUSTED) } else { outOfMemory(shared) }
      return false
    }
    guard arena.commitSlots(base, hasTail: hasTail) else {
      outOfMemory(shared)
      return false
    }
    arena.summarize(base)
    return true
  }

  private static func outOfMemory(_ shared: Shared) {
    Shortage.begin(&shared.pointee.fine_refusal)
    Index.count(ALLOCS_COUNTER_NO_MEMORY)
  }

  // MARK: a new arena, under the lock

  private static func makeFine(_ shared: Shared, _ header: Header, _ primary: Arena, _ base: UInt) -> NestedArena? {
    // Another thread may have made it, before this one got the lock.
    if let arena = Fine.arena(of: primary) { return arena }
    guard let arena = make(shared, header, Int(base >> UInt(ALLOCS_REGION_SHIFT))) else { return nil }
    announce(arena, in: primary, Int(ALLOCS_NESTED_FINE))
    allocs_store_release_u32(&allocs_process().pointee.has_fine, 1)
    return arena
  }

  private static func make(_ shared: Shared, _ header: Header, _ level: Int, _ region: Int) -> NestedArena? {
    guard let table = NestedIndex.regions(shared, level) else { return nil }
    // Another thread may have made it, before this one got the lock.
    if let start = table[region] { return NestedArena(start) }
    guard let primary = Arenas.arena(shared, header, region), let arena = make(shared, header, region) else {
      return nil
    }
    announce(arena, in: primary, level)
    table[region] = arena.start
    return arena
  }

  /// Stores the number of `arena` in the arena of its region, where readers look for it: in the
  /// word of its level, or of fine slots.
  private static func announce(_ arena: NestedArena, in primary: Arena, _ level: Int) {
    let word =
      level == Int(ALLOCS_NESTED_FINE)
      ? withUnsafeMutablePointer(to: &primary.head.pointee.fine) { $0 }
      : withUnsafeMutablePointer(to: &primary.head.pointee.nested) {
        UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt32.self) + level
      }
    allocs_store_release_u32(word, UInt32(truncatingIfNeeded: arena.head.pointee.number) + 1)
  }

  /// A nested arena that nobody is led to yet.
  private static func make(_ shared: Shared, _ header: Header, _ region: Int) -> NestedArena? {
    AnchoredSection.nestedArenas(shared, header).append(backing: UInt64(ALLOCS_NESTED_SLOTS_OFFSET)) {
      start, number in
      let arena = start.assumingMemoryBound(to: allocs_nested.self)
      arena.pointee.region = UInt64(region)
      arena.pointee.number = number
    }.map { NestedArena($0.start) }
  }
}
