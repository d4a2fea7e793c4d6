// SPDX-License-Identifier: Apache-2.0
// SlotArena: the slots of one region of 64 MiB, as the layout's headers draw them, and what can be
// done with them: write a slot, find the block that an address lies in, back slots with memory.
//
// There are two shapes, and each is a type of its own:
//
//   Arena         a slot for each 32 bytes (allocs_arena.h): the *coarse* slots
//   NestedArena   a slot for each 8 bytes (allocs_nested.h): the *fine* slots, of blocks that may
//                 share 32 bytes with others, and the slots of suballocations
//
// Everything else is written once, for both. All constants of a shape are known to the compiler,
// and what hooks call on their usual path is inlined: there, a shape costs no instruction.
//
// Interface, in the order of a slot's life:
//   prepare               commitSlots, then summarize: from then on the slots may be written
//   isSummarized          whether that has been done
//   slot, Slot.write      a block begins; a zero in the slot ends it (one store)
//   last, forEach         the blocks that are there; IndexedBlock.containing looks across regions
//   committedPages        the slot pages to copy into the segment of a child (ForkCopy.swift)
//
// Invariants:
// - A slot is written only after its page is backed by memory and its summary bit is set; a bit of
//   an upper summary level is set before the bits under it. So a reader that finds the bit may load
//   the slots, and a slot that holds a block has its bit set. No bit is ever cleared.
// - The bits of a word belong to several threads: they are set with read-modify-write.

import AgentMachine
import SharedLayout

typealias Arena = SlotArena<ArenaShape>
typealias NestedArena = SlotArena<NestedShape>

/// The differences between the two arenas of the layout. Offsets are in bytes, from the arena's
/// start.
protocol SlotArenaShape {
  /// A slot stands for 2^slotShift bytes of address space.
  static var slotShift: UInt { get }
  /// Added to a block's address if the `granule` bit of its head is set.
  static var granuleSize: UInt { get }
  static var slotPages: Int { get }
  static var stride: Int { get }
  static var level2Offset: Int { get }
  static var level1Offset: Int { get }
  static var committedOffset: Int { get }
  static var summaryOffset: Int { get }
  static var slotsOffset: Int { get }
  static func slotIndex(_ address: UInt) -> Int
  static func summaryIndex(_ address: UInt) -> Int
  /// How many slot pages are backed with memory at once, where the `before` pages that precede them
  /// have been backed already. `before` is not counted beyond `mostPagesAtOnce`.
  static func pagesAtOnce(before: Int) -> Int
}

/// The most slot pages that are backed with memory at once: 32 KiB.
private let mostPagesAtOnce = 8

enum ArenaShape: SlotArenaShape {
  @inline(__always) static var slotShift: UInt { UInt(ALLOCS_BLOCK_SHIFT) }
  @inline(__always) static var granuleSize: UInt { UInt(ALLOCS_GRANULE_SIZE) }
  @inline(__always) static var slotPages: Int { Int(ALLOCS_ARENA_SLOT_PAGES) }
  @inline(__always) static var stride: Int { Int(ALLOCS_ARENA_STRIDE) }
  @inline(__always) static var level2Offset: Int { Int(ALLOCS_ARENA_LEVEL2_OFFSET) }
  @inline(__always) static var level1Offset: Int { Int(ALLOCS_ARENA_LEVEL1_OFFSET) }
  @inline(__always) static var committedOffset: Int { Int(ALLOCS_ARENA_COMMITTED_OFFSET) }
  @inline(__always) static var summaryOffset: Int { Int(ALLOCS_ARENA_SUMMARY_OFFSET) }
  @inline(__always) static var slotsOffset: Int { Int(ALLOCS_ARENA_SLOTS_OFFSET) }
  @inline(__always) static func slotIndex(_ address: UInt) -> Int { Int(allocs_slot_index(UInt64(address))) }
  @inline(__always) static func summaryIndex(_ address: UInt) -> Int { Int(allocs_summary_index(UInt64(address))) }

  /// A dense heap gets 32 KiB at a time, which saves calls. Where the page before is untouched, as
  /// between large blocks, one page is enough.
  static func pagesAtOnce(before: Int) -> Int { before > 0 ? mostPagesAtOnce : 1 }
}

enum NestedShape: SlotArenaShape {
  @inline(__always) static var slotShift: UInt { UInt(ALLOCS_NESTED_SHIFT) }
  /// The `granule` bit says something else here (allocs_nested.h).
  @inline(__always) static var granuleSize: UInt { 0 }
  @inline(__always) static var slotPages: Int { Int(ALLOCS_NESTED_SLOT_PAGES) }
  @inline(__always) static var stride: Int { Int(ALLOCS_NESTED_STRIDE) }
  @inline(__always) static var level2Offset: Int { Int(ALLOCS_NESTED_LEVEL2_OFFSET) }
  @inline(__always) static var level1Offset: Int { Int(ALLOCS_NESTED_LEVEL1_OFFSET) }
  @inline(__always) static var committedOffset: Int { Int(ALLOCS_NESTED_COMMITTED_OFFSET) }
  @inline(__always) static var summaryOffset: Int { Int(ALLOCS_NESTED_SUMMARY_OFFSET) }
  @inline(__always) static var slotsOffset: Int { Int(ALLOCS_NESTED_SLOTS_OFFSET) }
  @inline(__always) static func slotIndex(_ address: UInt) -> Int { Int(allocs_nested_slot_index(UInt64(address))) }
  @inline(__always) static func summaryIndex(_ address: UInt) -> Int {
    Int(allocs_nested_summary_index(UInt64(address)))
  }

  /// As many pages as there are in a row before, 32 KiB at most: these slots are as large as the
  /// memory that they stand for, so a guess that is wrong costs more than in an arena.
  static func pagesAtOnce(before: Int) -> Int { max(1, before) }
}

struct SlotArena<Shape: SlotArenaShape> {
  let start: UnsafeMutablePointer<UInt8>

  @inline(__always)
  init(_ start: UnsafeMutablePointer<UInt8>) { self.start = start }

  /// The arena of the region that `base` lies in, as `regions` has it.
  @inline(__always)
  init?(_ regions: Regions, _ base: UInt) {
    guard let start = regions[Int(base >> UInt(ALLOCS_REGION_SHIFT))] else { return nil }
    self.start = start
  }

  // MARK: where an address has its slot

  @inline(__always)
  var slots: UnsafeMutablePointer<UInt64> { words(at: Shape.slotsOffset) }

  /// Level 0 of the summary: a bit for 64 slots.
  @inline(__always)
  var summary: UnsafeMutablePointer<UInt64> { words(at: Shape.summaryOffset) }

  @inline(__always)
  func slot(_ base: UInt) -> UnsafeMutablePointer<UInt64> {
    words(at: Shape.slotsOffset &+ Shape.slotIndex(base) &* 8)
  }

  /// Whether the slot of `base` may be written, and may hold a block.
  @inline(__always)
  func isSummarized(_ base: UInt) -> Bool {
    let index = Shape.summaryIndex(base)
    return allocs_load_relaxed_u64(words(at: Shape.summaryOffset + index / 64 * 8)) >> UInt64(index % 64) & 1 != 0
  }

  @inline(__always)
  private func words(at offset: Int) -> UnsafeMutablePointer<UInt64> {
    UnsafeMutableRawPointer(start + offset).assumingMemoryBound(to: UInt64.self)
  }

  // MARK: memory behind the slots

  /// A bit for each slot page that is backed by memory. The agent's own note.
  @inline(__always)
  private var committed: UnsafeMutablePointer<UInt64> { words(at: Shape.committedOffset) }

  private func isCommitted(page: Int) -> Bool {
    allocs_load_acquire_u64(committed + page / 64) >> UInt64(page % 64) & 1 != 0
  }

  /// The first run of slot pages at or above `page` that are backed by memory; nil if there is
  /// none.
  func committedPages(from page: Int) -> Range<Int>? {
    var start = page
    while start < Shape.slotPages {
      let bits = allocs_load_acquire_u64(committed + start / 64) >> UInt64(start % 64)
      guard bits != 0 else {
        start = (start | 63) + 1
        continue
      }
      start += bits.trailingZeroBitCount
      var end = start + 1
      while end < Shape.slotPages, isCommitted(page: end) { end += 1 }
      return start..<end
    }
    return nil
  }

  /// Backs with memory the 64 slots under the summary bit of `base`, and, if there may be a tail
  /// behind them, the slot that follows. False if there is no memory.
  func commitSlots(_ base: UInt, hasTail: Bool) -> Bool {
    let slotsPerBit = Int(ALLOCS_SLOTS_PER_SUMMARY_BIT)
    let slotsPerPage = Int(ALLOCS_SLOTS_PER_PAGE)
    let firstSlot = Shape.slotIndex(base) / slotsPerBit * slotsPerBit
    let page = firstSlot / slotsPerPage
    let tailPage = (firstSlot + slotsPerBit) / slotsPerPage
    if !isCommitted(page: page) {
      var before = 0
      while before < mostPagesAtOnce, before < page, isCommitted(page: page - 1 - before) { before += 1 }
      let count = min(Shape.pagesAtOnce(before: before), Shape.slotPages - page)
      guard commit(page: page, count) else { return false }
      for page in page..<page + count { setBit(committed, page) }
    }
    // Behind the last slot page lies the spare page, which has no bit of its own.
    let isSpare = tailPage == Shape.slotPages
    if hasTail && tailPage != page && (isSpare || !isCommitted(page: tailPage)) {
      guard commit(page: tailPage, 1) else { return false }
      if !isSpare { setBit(committed, tailPage) }
    }
    return true
  }

  private func commit(page: Int, _ count: Int) -> Bool {
    let pageSize = Int(ALLOCS_PAGE_SIZE)
    return System.commit(
      UnsafeMutableRawPointer(start) + Shape.slotsOffset + page * pageSize, UInt64(count * pageSize))
  }

  /// Shows that the slots under the summary bit of `base` may be written: the bits of the upper
  /// levels first.
  func summarize(_ base: UInt) {
    let index = Shape.summaryIndex(base)
    setBit(words(at: Shape.level2Offset), index >> 12)
    setBit(words(at: Shape.level1Offset), index >> 6)
    setBit(summary, index)
  }

  // MARK: the blocks in the slots

  /// The last block that starts at most `offset` bytes from the beginning of the region, which is
  /// at `regionStart`. Nil if the region has no such block.
  func last(_ regionStart: UInt, atOrBelow offset: UInt) -> IndexedBlock? {
    var index = Int(offset >> Shape.slotShift)
    var group = index >> 6
    while true {
      let word = allocs_load_relaxed_u64(summary + group >> 6)
      if word >> UInt64(group & 63) & 1 != 0 {
        while index >= group << 6 {
          let slot = slots + index
          let head = allocs_load_relaxed_u64(slot)
          if allocs_slot_is_head(head) {
            let start = UInt(index) << Shape.slotShift &+ UInt(allocs_slot_granule(head)) &* Shape.granuleSize
            if start <= offset {
              return IndexedBlock(base: regionStart &+ start, size: Slot.size(slot, head), head: head)
            }
          }
          index -= 1
        }
      }
      guard let below = summarizedGroup(below: group, word) else { return nil }
      group = below
      index = group << 6 | 63
    }
  }

  /// The last group of 64 slots before `group` whose summary bit is set. `word` is the summary's
  /// word that has the bit of `group`.
  @inline(__always)
  private func summarizedGroup(below group: Int, _ word: UInt64) -> Int? {
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

  /// Calls `body` with the index, slot and head of each block in the slots from `first` to `last`.
  @inline(__always)
  func forEach(
    from first: Int, through last: Int, _ body: (_ index: Int, UnsafeMutablePointer<UInt64>, _ head: UInt64) -> Void
  ) {
    var group = first >> 6
    while group <= last >> 6 {
      let bits = allocs_load_relaxed_u64(summary + group >> 6) >> UInt64(group & 63)
      guard bits != 0 else {
        group = group & ~63 + 64
        continue
      }
      group += bits.trailingZeroBitCount
      guard group <= last >> 6 else { return }
      var index = max(first, group << 6)
      while index <= min(last, group << 6 | 63) {
        let head = allocs_load_relaxed_u64(slots + index)
        if allocs_slot_is_head(head) { body(index, slots + index, head) }
        index += 1
      }
      group += 1
    }
  }
}

extension SlotArena where Shape == NestedShape {
  /// The nested arena's own page.
  @inline(__always)
  var head: UnsafeMutablePointer<allocs_nested> {
    UnsafeMutableRawPointer(start).assumingMemoryBound(to: allocs_nested.self)
  }
}

extension SlotArena where Shape == ArenaShape {
  /// The arena's own page.
  @inline(__always)
  var head: UnsafeMutablePointer<allocs_arena> {
    UnsafeMutableRawPointer(start).assumingMemoryBound(to: allocs_arena.self)
  }
}

/// Sets a bit of several words, which other threads set bits of, too.
@inline(__always)
func setBit(_ words: UnsafeMutablePointer<UInt64>, _ bit: Int) {
  _ = allocs_fetch_or_u64(words + bit / 64, 1 << UInt64(bit % 64))
}

// MARK: a slot

/// How a block stands in its slot (allocs_slot.h), in whatever arena.
enum Slot {
  /// Writes the block's head, after its tail if it has one. Why in that order: see Index.swift.
  @inline(__always)
  static func write(
    _ slot: UnsafeMutablePointer<UInt64>, granule: UInt32, _ size: UInt, _ alignment: UInt, _ context: UInt32,
    _ ticks: UInt32
  ) {
    let kind = allocs_slot_kind_of_size(UInt64(size))
    if kind == ALLOCS_SLOT_LARGE.rawValue {
      let logarithm = alignment == 0 ? 0 : UInt32(truncatingIfNeeded: alignment.trailingZeroBitCount)
      // A size of 2^47 or more does not fit, and cannot be: addresses have 47 bits, or they have 48
      // and so many of them are never free.
      allocs_store_release_u64(slot + 1, allocs_slot_tail(UInt64(size), logarithm, ticks))
    }
    allocs_store_release_u64(slot, allocs_slot_head(kind, granule, UInt64(size), context, ticks))
  }

  /// The size of the block whose head is in `slot`, or was there until now: a tail is never erased.
  @inline(__always)
  static func size(_ slot: UnsafeMutablePointer<UInt64>, _ head: UInt64) -> UInt {
    UInt(
      allocs_slot_kind(head) == ALLOCS_SLOT_SMALL.rawValue
        ? allocs_slot_small_size(head) : allocs_slot_tail_size(allocs_load_relaxed_u64(slot + 1)))
  }
}

/// A live block that was found by an address in it.
struct IndexedBlock {
  var base: UInt
  var size: UInt
  var head: UInt64
  /// One past its last address. A block of no bytes counts as one byte long.
  var end: UInt { base &+ max(size, 1) }

  /// The block that `address` lies in, nil if it lies in none. `arena` gives the arena of a region,
  /// by the region's number. A large block may have begun in a region before: `regionLimit` regions
  /// are looked through, the address's own and those below it.
  @inline(__always)
  static func containing<Shape: SlotArenaShape>(
    _ address: UInt, regionLimit: Int, _ arena: (Int) -> SlotArena<Shape>?
  ) -> IndexedBlock? {
    let regionShift = UInt(ALLOCS_REGION_SHIFT)
    var region = Int(address >> regionShift)
    var offset = address & ((1 << regionShift) - 1)
    for _ in 0..<regionLimit where region >= 0 {
      if let found = arena(region)?.last(UInt(region) << regionShift, atOrBelow: offset) {
        return address < found.end ? found : nil
      }
      region -= 1
      offset = (1 << regionShift) - 1
    }
    return nil
  }
}
