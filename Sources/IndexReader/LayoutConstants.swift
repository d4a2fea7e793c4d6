// SPDX-License-Identifier: Apache-2.0
// The sizes of the layout whose macros Swift can't import, derived from sizes that it can import.
//
// bounded: all numbers are constants of the layout

import SharedLayout

enum Layout {
  /// Regions of the address space.
  static let regionCount = 1 << Int(ALLOCS_ADDRESS_BITS - ALLOCS_REGION_SHIFT)
  /// Words of the three levels of the region bits.
  static let regionLevel0Words = regionCount / 64
  static let regionLevel1Words = regionLevel0Words / 64
  static let regionLevel2Words = regionLevel1Words / 64
  /// Slots of an arena, the spare one not counted.
  static let arenaSlots = 1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_BLOCK_SHIFT)
  /// Words of an arena's summary level 0.
  static let summaryLevel0Words = 1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_SUMMARY_SHIFT - 6)
  static let summaryOffset = Int(ALLOCS_PAGE_SIZE)
  static let slotsOffset = 2 * Int(ALLOCS_PAGE_SIZE)
  /// Bytes from one arena to the next: head, summary, slots, spare page.
  static let arenaStride = slotsOffset + arenaSlots * 8 + Int(ALLOCS_PAGE_SIZE)
  /// Of nested arenas.
  static let nestedSummaryWords = 1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_NESTED_SUMMARY_SHIFT - 6)
  static let nestedSummaryOffset = Int(ALLOCS_PAGE_SIZE)
  static let nestedSlotsOffset = nestedSummaryOffset + nestedSummaryWords * 8
  static let nestedStride =
    nestedSlotsOffset + (8 << Int(ALLOCS_REGION_SHIFT - ALLOCS_NESTED_SHIFT)) + Int(ALLOCS_PAGE_SIZE)
  /// Bytes of an event ring before its records, and of a record.
  static let ringRecordsOffset = UInt64(ALLOCS_RING_RECORDS_OFFSET)
  static let eventSize = UInt64(MemoryLayout<allocs_event>.stride)
  static let addressLimit: UInt64 = 1 << UInt64(ALLOCS_ADDRESS_BITS)
  static let regionSize: UInt64 = 1 << UInt64(ALLOCS_REGION_SHIFT)
}
