// SPDX-License-Identifier: Apache-2.0
// The slots of one region, coarse or fine: finding the nearest allocation below or above.
// RegionSlots.swift puts coarse and fine slots together.
//
// - Slots are read only in groups of 64 whose summary bit is set. The bit is never cleared, so a
//   group may hold nothing but zeros and stale tails. Where a search has met one such group it
//   expects more, as above gigabytes of freed small blocks, and passes over them at the speed of
//   memory (`hasHead`).
// - A search's result was true when it was read. A search that finds nothing met, for each
//   slot, a moment at which no allocation started there.
// - A summary may claim groups for which the file holds nothing. To read there would take memory of
//   the file system, so where a search goes far it asks the kernel first (`DataRun`).
//
// bounded: numbers of slots, groups and words are below 2^23, the slots of a region, and addresses
// below 2^49: a region's number is below 2^22, and an offset in it below 2^26

import Bounds
import MappingGuard
import SharedLayout

/// Groups that a search looks ahead: two pages of slots, a few hundred nanoseconds.
private let prefetchDistance = 16

struct Arena {
  private let region: SlotRegion

  var regionStart: UInt64 { region.start }
  var summary: SummaryBits { region.summary }
  private var slots: UnsafePointer<UInt64> { region.slots }
  private var shift: UInt64 { region.shift }
  private var groupCount: Int { summary.wordCount << 6 }

  /// The slots at `start`; nil if they are not those of `region`.
  @inline(__always)
  init?(at start: ArenaPlace, region: Int, shape: SlotRegion.Shape) {
    guard let region = SlotRegion(at: start, region: region, shape: shape) else { return nil }
    self.region = region
  }

  /// The allocation that starts in the slot.
  @inline(__always)
  func allocation(inSlot index: Int) -> Allocation? {
    region.read(slot: index) { head, size, alignment in
      Allocation(
        base: region.address(ofSlot: index, head: head), size: size,
        alignment: alignment == 0 ? nil : 1 << UInt64(alignment), context: allocs_slot_context(head),
        ticks: allocs_slot_ticks(head))
    }
  }

  /// Bit i: slot `index` + i holds a head.
  @inline(__always)
  private func heads(inEightSlotsAt index: Int) -> UInt64 {
    var found: UInt64 = 0
    for i in 0..<8 {
      let slot = allocs_load_relaxed_u64(slots + index + i)
      found |= ((slot ^ slot >> 1) & 1) << UInt64(i)
    }
    return found
  }

  /// Whether any slot of the group holds a head: about five times as quick as looking at one after
  /// another.
  ///
  /// The search waits for memory, one page of slots after another. So the group `distance` further
  /// on, where the search will be when the memory arrives, is fetched already.
  ///
  /// The loads are plain and wide, as a compiler never merges atomic loads. Each lane is a word as
  /// it was at one moment, as the processor tears no aligned word. A head that is found is only a
  /// hint to look at the group again, word by word.
  @inline(__always)
  private func hasHead(inGroup group: Int, prefetching distance: Int) -> Bool {
    let words = UnsafeRawPointer(slots + group << 6)
    let ahead = (group + distance) & (groupCount - 1)
    prefetch_512_bytes(slots + ahead << 6)
    var found = SIMD8<UInt64>()
    for eight in 0..<8 {
      let slots = words.load(fromByteOffset: eight << 6, as: SIMD8<UInt64>.self)
      found |= slots ^ (slots &>> 1)
    }
    let low = found.lowHalf | found.highHalf
    let both = low.lowHalf | low.highHalf
    return (both.x | both.y) & 1 != 0
  }

  /// The allocation with the highest base up to `offset`, counted from the region's start; it may
  /// be left out if it starts below `floor`, counted likewise.
  func last(atOrBelow offset: UInt64, floor: UInt64 = 0) -> Allocation? {
    let limit = regionStart + offset
    let topSlot = Int(offset >> shift)
    let lowestGroup = Int(floor >> shift) >> 6
    let topGroup = topSlot >> 6
    var own = summary.word(topGroup >> 6)
    var run = DataRun()
    // A search that comes from a region above expects nothing at the end of this one.
    if topSlot == groupCount << 6 - 1, own != 0, !holdsData(inWord: topGroup >> 6, &run) { own = 0 }
    if own >> UInt64(topGroup & 63) & 1 != 0,
      let found = last(inGroup: topGroup, fromSlot: topSlot & 63, atOrBelow: limit)
    {
      return found
    }
    var word = SummaryBits.Word(index: topGroup >> 6, bits: own & ((1 << UInt64(topGroup & 63)) - 1))
    var meter = BudgetMeter(interval: 64)
    while true {
      while word.bits != 0 {
        let bit = 63 - word.bits.leadingZeroBitCount
        let group = word.index << 6 | bit
        guard group >= lowestGroup else { return nil }
        if hasHead(inGroup: group, prefetching: -prefetchDistance),
          let found = last(inGroup: group, fromSlot: 63, atOrBelow: limit)
        {
          return found
        }
        word.bits &= ~(1 << UInt64(bit))
      }
      repeat {
        guard meter.goesOn(), let next = summary.lastWord(atOrBelow: word.index - 1) else { return nil }
        word = next
      } while !holdsData(inWord: word.index, &run)
    }
  }

  /// Whether the file holds anything of the slots under a word of the summary: eight pages.
  @inline(never)
  private func holdsData(inWord index: Int, _ run: inout DataRun) -> Bool {
    let bytes = 64 * 64 * 8
    return run.holdsData(in: index * bytes..<(index + 1) * bytes, of: region)
  }

  @inline(__always)
  private func last(inGroup group: Int, fromSlot top: Int, atOrBelow limit: UInt64) -> Allocation? {
    let start = group << 6
    var eight = top & ~7
    var mask: UInt64 = ~0 >> UInt64(63 - top & 7)
    while eight >= 0 {
      var found = heads(inEightSlotsAt: start + eight) & mask
      while found != 0 {
        let bit = 63 - found.leadingZeroBitCount
        // The highest slot may hold an allocation that starts in the upper half of the block, above
        // the limit.
        if let allocation = allocation(inSlot: start + eight + bit), allocation.base <= limit { return allocation }
        found &= ~(1 << UInt64(bit))
      }
      eight -= 8
      mask = ~0
    }
    return nil
  }

  /// Calls `body` with each allocation whose base is at or above `offset`, counted from the
  /// region's start, in order of address, until it returns false. Returns false if it did.
  @inline(__always)
  func scan<Failure: Error>(
    from offset: UInt64, _ body: (Allocation) throws(Failure) -> Bool
  ) throws(Failure) -> Bool {
    let limit = regionStart + offset
    let firstSlot = Int(offset >> shift)
    let firstGroup = firstSlot >> 6
    var word = SummaryBits.Word(
      index: firstGroup >> 6, bits: summary.word(firstGroup >> 6) & (~0 << UInt64(firstGroup & 63)))
    // Eight words are 32,768 slots at most.
    var meter = BudgetMeter(interval: 8)
    var run = DataRun()
    // A search that begins in the region expects a block nearby; another knows nothing of it.
    if firstSlot == 0, word.bits != 0, !holdsData(inWord: 0, &run) { word.bits = 0 }
    while true {
      while word.bits != 0 {
        let group = word.index << 6 | word.bits.trailingZeroBitCount
        var eight = group == firstGroup ? firstSlot & 63 & ~7 : 0
        if group != firstGroup, !hasHead(inGroup: group, prefetching: prefetchDistance) { eight = 64 }
        while eight < 64 {
          var found = heads(inEightSlotsAt: group << 6 + eight)
          while found != 0 {
            let slot = group << 6 + eight + found.trailingZeroBitCount
            if let allocation = allocation(inSlot: slot), allocation.base >= limit {
              guard try body(allocation) else { return false }
            }
            found &= found - 1
          }
          eight += 8
        }
        word.bits &= word.bits - 1
      }
      repeat {
        guard meter.goesOn(), let next = summary.firstWord(atOrAbove: word.index + 1) else { return true }
        word = next
      } while !holdsData(inWord: word.index, &run)
    }
  }

  /// The allocations that start in one group of slots, upwards.
  struct Group {
    private let arena: Arena
    private let firstSlot: Int
    private var heads: UInt64 = 0

    /// Of group `number`, whose summary bit need not be set.
    init(_ number: Int, of arena: Arena, _ run: inout DataRun) {
      self.arena = arena
      firstSlot = number << 6
      guard arena.summary.contains(number), arena.holdsData(inWord: number >> 6, &run),
        arena.hasHead(inGroup: number, prefetching: prefetchDistance)
      else {
        return
      }
      for eight in 0..<8 { heads |= arena.heads(inEightSlotsAt: firstSlot + eight * 8) << UInt64(eight * 8) }
    }

    mutating func next(atOrAbove limit: UInt64) -> Allocation? {
      while heads != 0 {
        let slot = firstSlot + heads.trailingZeroBitCount
        heads &= heads - 1
        if let allocation = arena.allocation(inSlot: slot), allocation.base >= limit { return allocation }
      }
      return nil
    }
  }
}
