// SPDX-License-Identifier: Apache-2.0
// The slots of blocks that suballocators have handed out in one region (allocs_nested.h); or fine
// slots, which Arena reads. The rules are those of Arena: slots are read only in groups whose
// summary bit is set, and each result of a search was true when it was read.

import SharedLayout

struct NestedArena {
  /// First address of the region.
  let regionStart: UInt64
  let summary: SummaryBits
  let slots: UnsafePointer<UInt64>

  /// The nested arena at `start`; nil if it is not one of `region`.
  init?(at start: UnsafeRawPointer, region: Int) {
    let words = start.assumingMemoryBound(to: UInt64.self)
    guard allocs_load_acquire_u64(words) == UInt64(region) else { return nil }
    regionStart = allocs_address_of_region(UInt64(region))
    summary = SummaryBits(
      level2: words + 1, level1: words + 2,
      level0: (start + Layout.nestedSummaryOffset).assumingMemoryBound(to: UInt64.self),
      wordCount: Layout.nestedSummaryWords)
    slots = (start + Layout.nestedSlotsOffset).assumingMemoryBound(to: UInt64.self)
  }

  /// The block that starts in the slot, read by the protocol of allocs_slot.h, as in Arena.
  func block(inSlot index: Int) -> Suballocation? {
    var head = allocs_load_acquire_u64(slots + index)
    for _ in 0..<256 {
      guard allocs_slot_is_head(head) else { return nil }
      var size = allocs_slot_small_size(head)
      if allocs_slot_kind(head) != ALLOCS_SLOT_SMALL.rawValue {
        let tail = allocs_load_acquire_u64(slots + index + 1)
        let again = allocs_load_acquire_u64(slots + index)
        guard again == head, allocs_slot_tail_matches(head, tail) else {
          head = again
          continue
        }
        size = allocs_slot_tail_size(tail)
      }
      let base = regionStart + UInt64(index) << UInt64(ALLOCS_NESTED_SHIFT)
      return Suballocation(
        block: Allocation(
          base: base, size: size, context: allocs_slot_context(head), ticks: allocs_slot_ticks(head)),
        isInChunk: allocs_slot_granule(head) == ALLOCS_NESTED_IN_CHUNK)
    }
    return nil
  }

  /// Calls `body` with the blocks from the one at or below `offset` downwards until it returns
  /// false. False if it did.
  func scanDown(from offset: UInt64, _ body: (Suballocation) -> Bool) -> Bool {
    let top = Int(offset >> UInt64(ALLOCS_NESTED_SHIFT))
    var slot = top
    var next = summary.last(atOrBelow: top >> 6)
    while let group = next {
      if group != top >> 6 { slot = group << 6 | 63 }
      while slot >= group << 6 {
        if allocs_slot_is_head(allocs_load_relaxed_u64(slots + slot)), let block = block(inSlot: slot) {
          guard body(block) else { return false }
        }
        slot -= 1
      }
      next = summary.last(atOrBelow: group - 1)
    }
    return true
  }

  /// Calls `body` with the blocks that start at or above `offset`, upwards, until it returns false.
  /// False if it did.
  func scanUp(from offset: UInt64, _ body: (Suballocation) -> Bool) -> Bool {
    let bottom = Int((offset + 7) >> UInt64(ALLOCS_NESTED_SHIFT))
    var slot = bottom
    var next = summary.first(atOrAbove: bottom >> 6)
    while let group = next {
      if group != bottom >> 6 { slot = group << 6 }
      while slot < (group + 1) << 6 {
        if allocs_slot_is_head(allocs_load_relaxed_u64(slots + slot)), let block = block(inSlot: slot) {
          guard body(block) else { return false }
        }
        slot += 1
      }
      next = summary.first(atOrAbove: group + 1)
    }
    return true
  }
}
