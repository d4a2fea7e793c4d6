// SPDX-License-Identifier: Apache-2.0
// The slots of blocks that suballocators have handed out in one region (allocs_nested.h). The rules
// are those of Arena: slots are read only in groups whose summary bit is set, and each result of a
// search was true when it was read.
//
// bounded: numbers of slots are below 2^23 and of groups below 2^17; offsets are in a region, below
// 2^26

import Bounds
import SharedLayout

struct NestedArena {
  private let region: SlotRegion

  var regionStart: UInt64 { region.start }
  private var summary: SummaryBits { region.summary }
  private var slots: UnsafePointer<UInt64> { region.slots }

  /// The nested arena at `start`; nil if it is not one of `region`.
  init?(at start: ArenaPlace, region: Int) {
    guard let region = SlotRegion(at: start, region: region, shape: .nested) else { return nil }
    self.region = region
  }

  /// The block that starts in the slot.
  func block(inSlot index: Int) -> Suballocation? {
    region.read(slot: index) { head, size, _ in
      Suballocation(
        block: Allocation(
          base: region.address(ofSlot: index, head: head), size: size, context: allocs_slot_context(head),
          ticks: allocs_slot_ticks(head)),
        isInChunk: allocs_slot_granule(head) == ALLOCS_NESTED_IN_CHUNK)
    }
  }

  /// Whether the file holds anything around the slots of a group.
  private func holdsData(inGroup group: Int, _ run: inout DataRun) -> Bool {
    let bytes = 8 * Int(ALLOCS_PAGE_SIZE)
    let start = (group * 64 * 8) & ~(bytes - 1)
    return run.holdsData(in: start..<start + bytes, of: region)
  }

  /// Calls `body` with the blocks from the one at or below `offset` downwards until it returns
  /// false. False if it did.
  func scanDown(from offset: UInt64, _ body: (Suballocation) -> Bool) -> Bool {
    let top = Int(offset >> region.shift)
    var slot = top
    var next = summary.last(atOrBelow: top >> 6)
    var meter = BudgetMeter(interval: 256)
    var run = DataRun()
    while meter.goesOn(), let group = next {
      guard group == top >> 6 || holdsData(inGroup: group, &run) else {
        next = summary.last(atOrBelow: group - 1)
        continue
      }
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
    let bottom = Int((offset + 7) >> region.shift)
    var slot = bottom
    var next = summary.first(atOrAbove: bottom >> 6)
    var meter = BudgetMeter(interval: 256)
    var run = DataRun()
    while meter.goesOn(), let group = next {
      guard group == bottom >> 6 || holdsData(inGroup: group, &run) else {
        next = summary.first(atOrAbove: group + 1)
        continue
      }
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
