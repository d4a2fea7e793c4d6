// SPDX-License-Identifier: Apache-2.0
// The slots of one region in the index, and reading one truthfully. Arena.swift and
// NestedArena.swift search them.
//
// bounded: numbers of slots are below 2^23, and regions start below 2^48: a sum of addresses is far
// below 2^64, and places in the file below 2^47

import SharedLayout

/// Where an arena of a segment begins.
struct ArenaPlace {
  let start: UnsafeRawPointer
  /// The segment's mapping keeps it.
  let windows: Unmanaged<FileWindows>
}

struct SlotRegion {
  /// The places of summary and slots behind an arena's start, and the memory that each slot is for.
  struct Shape {
    let summaryOffset: Int
    let summaryWords: Int
    let slotsOffset: Int
    /// The logarithm of the bytes for which there is a slot.
    let shift: UInt64
    /// Bytes that are added to the address if `granule` is set in the head.
    let granuleSize: UInt64

    /// The coarse slots of an arena (allocs_arena.h).
    @inline(__always)
    static var coarse: Shape {
      Shape(
        summaryOffset: Layout.summaryOffset, summaryWords: Layout.summaryLevel0Words, slotsOffset: Layout.slotsOffset,
        shift: UInt64(ALLOCS_BLOCK_SHIFT), granuleSize: UInt64(ALLOCS_GRANULE_SIZE))
    }

    /// The slots of a nested arena (allocs_nested.h): fine ones, or those of suballocators.
    @inline(__always)
    static var nested: Shape {
      Shape(
        summaryOffset: Layout.nestedSummaryOffset, summaryWords: Layout.nestedSummaryWords,
        slotsOffset: Layout.nestedSlotsOffset, shift: UInt64(ALLOCS_NESTED_SHIFT), granuleSize: 0)
    }
  }

  /// First address of the region.
  let start: UInt64
  let summary: SummaryBits
  let slots: UnsafePointer<UInt64>
  // A look-up copies two of these: in 64 bytes each, that takes no call of memmove.
  private let shiftBits: UInt32
  private let granuleBytes: UInt32
  let windows: Unmanaged<FileWindows>

  /// The arena at `arena`; nil if it is not one of `region`.
  @inline(__always)
  init?(at arena: ArenaPlace, region: Int, shape: Shape) {
    let place = arena.start
    let words = place.assumingMemoryBound(to: UInt64.self)
    guard allocs_load_acquire_u64(words) == UInt64(region) else { return nil }
    start = allocs_address_of_region(UInt64(region))
    summary = SummaryBits(
      level2: words + 1, level1: words + 2,
      level0: (place + shape.summaryOffset).assumingMemoryBound(to: UInt64.self), wordCount: shape.summaryWords)
    slots = (place + shape.slotsOffset).assumingMemoryBound(to: UInt64.self)
    shiftBits = UInt32(truncatingIfNeeded: shape.shift)
    granuleBytes = UInt32(truncatingIfNeeded: shape.granuleSize)
    windows = arena.windows
  }

  var shift: UInt64 { UInt64(truncatingIfNeeded: shiftBits) }
  private var granuleSize: UInt64 { UInt64(truncatingIfNeeded: granuleBytes) }

  /// The address of the allocation whose head stands in the slot.
  @inline(__always)
  func address(ofSlot index: Int, head: UInt64) -> UInt64 {
    start + UInt64(index) << shift + UInt64(allocs_slot_granule(head)) * granuleSize
  }

  /// Makes a result of the allocation that starts in the slot, read by the protocol of
  /// allocs_slot.h: of its head, its size, and the logarithm of the alignment that was asked for, 0
  /// for none. Nil if no allocation starts there.
  @inline(__always)
  func read<Result>(
    slot index: Int, _ result: (_ head: UInt64, _ size: UInt64, _ alignment: UInt32) -> Result
  ) -> Result? {
    var head = allocs_load_acquire_u64(slots + index)
    // Each further round means that the allocation changed under the read. So many changes in a row
    // don't happen to a block that a program uses. If they do, the slot said "no allocation starts
    // here" between any two of them, and nil is a true answer. A head whose tail never matches is
    // damage, and the answer is nil, too.
    let rounds = 256
    for _ in 0..<rounds {
      guard allocs_slot_is_head(head) else { return nil }
      if allocs_slot_kind(head) == ALLOCS_SLOT_SMALL.rawValue {
        return result(head, allocs_slot_small_size(head), 0)
      }
      // Acquire, so that the head is not loaded again before the tail; pairs with the head's
      // release.
      let tail = allocs_load_acquire_u64(slots + index + 1)
      let again = allocs_load_acquire_u64(slots + index)
      if again == head, allocs_slot_tail_matches(head, tail) {
        return result(head, allocs_slot_tail_size(tail), allocs_slot_tail_alignment(tail))
      }
      head = again
    }
    return nil
  }
}
