// The chunk that an address is in: what a suballocator carves up. Only Nested asks; hooks know where their blocks
// start.

import AgentMachine
import SharedLayout

extension Index {
  /// A live allocation.
  struct Chunk {
    var base: UInt
    var size: UInt
    /// One past its last address.
    var end: UInt { base &+ max(size, 1) }
  }

  /// The live allocation that `address` is in, nil if it is in none.
  static func chunk(_ shared: UnsafeMutablePointer<allocs_shared>, containing address: UInt) -> Chunk? {
    guard let regions = shared.pointee.regions, address >> UInt(ALLOCS_ADDRESS_BITS) == 0 else { return nil }
    if let found = chunk(regions, containing: address, { Slots(arena: $0) }) { return found }
    guard Fine.isUsed else { return nil }
    return chunk(regions, containing: address) { Fine.arena($0).map { Slots(fine: $0) } }
  }

  private static func chunk(
    _ regions: Regions, containing address: UInt, _ slots: (UnsafeMutablePointer<UInt8>) -> Slots?
  ) -> Chunk? {
    let regionSize: UInt = 1 << UInt(ALLOCS_REGION_SHIFT)
    var region = Int(address >> UInt(ALLOCS_REGION_SHIFT))
    var offset = address & (regionSize - 1)
    // The regions below, for chunks of several: 64 GiB are looked over in a microsecond.
    var tries = 1024
    while tries > 0, region >= 0 {
      if let slots = regions[region].flatMap(slots),
        let found = last(slots, UInt(region) << UInt(ALLOCS_REGION_SHIFT), atOrBelow: offset)
      {
        return address < found.end ? found : nil
      }
      region -= 1
      offset = regionSize - 1
      tries -= 1
    }
    return nil
  }

  /// The coarse or the fine slots of a region: 64 of them for each bit of the summary.
  private struct Slots {
    var slots: UnsafeMutablePointer<UInt64>
    var summary: UnsafeMutablePointer<UInt64>
    var shift: UInt
    /// What a set `granule` in a head adds to the address.
    var granuleSize: UInt

    init(arena: UnsafeMutablePointer<UInt8>) {
      slots = UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_SLOTS_OFFSET)).assumingMemoryBound(to: UInt64.self)
      summary = UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_SUMMARY_OFFSET)).assumingMemoryBound(to: UInt64.self)
      shift = UInt(ALLOCS_BLOCK_SHIFT)
      granuleSize = UInt(ALLOCS_GRANULE_SIZE)
    }

    init(fine arena: Nested.Base) {
      slots = Nested.slots(arena)
      summary = Nested.summary(arena)
      shift = UInt(ALLOCS_NESTED_SHIFT)
      granuleSize = 0
    }
  }

  private static func last(_ place: Slots, _ regionStart: UInt, atOrBelow offset: UInt) -> Chunk? {
    var index = Int(offset >> place.shift)
    var group = index >> 6
    while true {
      let word = allocs_load_relaxed_u64(place.summary + group >> 6)
      if word >> UInt64(group & 63) & 1 != 0 {
        while index >= group << 6 {
          let slot = place.slots + index
          let head = allocs_load_relaxed_u64(slot)
          if allocs_slot_is_head(head) {
            let start = UInt(index) << place.shift &+ UInt(allocs_slot_granule(head)) &* place.granuleSize
            if start <= offset { return Chunk(base: regionStart &+ start, size: size(slot, head)) }
          }
          index -= 1
        }
      }
      guard let below = markedGroup(place.summary, below: group, word) else { return nil }
      group = below
      index = group << 6 | 63
    }
  }

  /// The last group of slots before `group` that may hold blocks. `word` is that of the summary which `group` is in.
  @inline(__always)
  static func markedGroup(_ summary: UnsafeMutablePointer<UInt64>, below group: Int, _ word: UInt64) -> Int? {
    let below = word & ((1 << UInt64(group & 63)) - 1)
    if below != 0 { return group & ~63 | 63 - below.leadingZeroBitCount }
    var index = group >> 6 - 1
    while index >= 0 {
      let other = allocs_load_relaxed_u64(summary + index)
      if other != 0 { return index << 6 | 63 - other.leadingZeroBitCount }
      index -= 1
    }
    return nil
  }

  /// The size of the allocation whose head, `head`, is, or was until now, in `slot`: its tail is never erased.
  @inline(__always)
  static func size(_ slot: UnsafeMutablePointer<UInt64>, _ head: UInt64) -> UInt {
    UInt(
      allocs_slot_kind(head) == ALLOCS_SLOT_SMALL.rawValue
        ? allocs_slot_small_size(head) : allocs_slot_tail_size(allocs_load_relaxed_u64(slot + 1)))
  }

  /// The size of the allocation at `base`, erased with `head`.
  static func size(_ regions: Regions, _ base: UInt, erased head: UInt64) -> UInt {
    place(regions, base, of: head).map { size($0.slot, head) } ?? 0
  }
}
