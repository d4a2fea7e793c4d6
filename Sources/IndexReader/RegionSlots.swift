// SPDX-License-Identifier: Apache-2.0
// The slots of one region together: the coarse ones, and the fine ones of blocks that may share 32
// bytes with others, if it has any (allocs_nested.h). An allocation is in one of them, so their
// union, in order of address, is what starts in the region.
//
// - The coarse slots are read first. A search that finds nothing in coarse and fine slots met a
//   moment at which there was nothing: an allocation that goes from a fine slot to a coarse one, or
//   back, is erased in the one before it is written in the other.
// - The allocation that is read in a coarse slot may be gone when the fine slot is read. Each was
//   true when it was read. Of two allocations at one base, the coarse one is taken: the agent never
//   lets a fine record replace a coarse one in silence, but where frees are not seen, a coarse
//   record may replace a fine one.
//
// bounded: an allocation's base is at or above its region's start; numbers of groups are below
// 2^18, and addresses below 2^49

import Bounds
import SharedLayout

/// This many fine groups of slots are for the memory that one coarse group is for: 2 KiB.
private let fineGroups = 1 << Int(ALLOCS_SUMMARY_SHIFT - ALLOCS_NESTED_SUMMARY_SHIFT)

struct RegionSlots {
  let coarse: Arena
  let fine: Arena?

  var regionStart: UInt64 { coarse.regionStart }

  /// The allocation with the highest base up to `offset`, counted from the region's start.
  @inline(__always)
  func last(atOrBelow offset: UInt64) -> Allocation? {
    let found = coarse.last(atOrBelow: offset)
    guard let fine else { return found }
    return higher(found, fine.last(atOrBelow: offset, floor: found.map { $0.base - regionStart } ?? 0))
  }

  private func higher(_ found: Allocation?, _ other: Allocation?) -> Allocation? {
    guard let found, let other else { return found ?? other }
    return other.base > found.base ? other : found
  }

  /// Whether an allocation ever started in the 2 KiB around `address`.
  func wasUsed(_ address: UInt64) -> Bool {
    let group = Int(allocs_summary_index(address))
    if coarse.summary.contains(group) { return true }
    return (fine?.summary.first(atOrAbove: group * fineGroups)).map { $0 / fineGroups == group } ?? false
  }

  /// Calls `body` with each allocation whose base is at or above `offset`, counted from the
  /// region's start, in order of address, until it returns false. Returns false if it did.
  @inline(__always)
  func scan<Failure: Error>(
    from offset: UInt64, _ body: (Allocation) throws(Failure) -> Bool
  ) throws(Failure) -> Bool {
    guard let fine else { return try coarse.scan(from: offset, body) }
    let limit = regionStart + offset
    var next = Int(offset >> UInt64(ALLOCS_SUMMARY_SHIFT))
    var meter = BudgetMeter(interval: 1024)
    var coarseRun = DataRun()
    var fineRun = DataRun()
    while meter.goesOn(), let group = firstGroup(atOrAbove: next, fine) {
      next = group + 1
      var coarseOnes = Arena.Group(group, of: coarse, &coarseRun)
      var candidate = coarseOnes.next(atOrAbove: limit)
      for number in group * fineGroups..<(group + 1) * fineGroups {
        var fineOnes = Arena.Group(number, of: fine, &fineRun)
        while let allocation = fineOnes.next(atOrAbove: limit) {
          while let lower = candidate, lower.base < allocation.base {
            guard try body(lower) else { return false }
            candidate = coarseOnes.next(atOrAbove: limit)
          }
          if candidate?.base == allocation.base { continue }
          guard try body(allocation) else { return false }
        }
      }
      while let allocation = candidate {
        guard try body(allocation) else { return false }
        candidate = coarseOnes.next(atOrAbove: limit)
      }
    }
    return true
  }

  /// The first group of coarse slots from `group` on in whose memory an allocation ever started.
  private func firstGroup(atOrAbove group: Int, _ fine: Arena) -> Int? {
    let found = coarse.summary.first(atOrAbove: group)
    let other = fine.summary.first(atOrAbove: group * fineGroups).map { $0 / fineGroups }
    guard let found, let other else { return found ?? other }
    return min(found, other)
  }
}
