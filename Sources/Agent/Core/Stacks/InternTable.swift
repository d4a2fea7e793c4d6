// SPDX-License-Identifier: Apache-2.0
// InternTable: gives each distinct key one id for good, without a lock. StackNodes and Contexts
// each have one.
//
// The entries lie in a section of the segment, where readers find them by id. The table that finds
// the id of a key is private to the agent. It is a cascade of arrays of cells (id:24, tag:8), each
// array 16 times as large as the array before it. A key may lie in one line of 16 cells of each
// array, and takes the first empty cell in the order of the cascade.
//
// Invariants:
// - A cell is filled once and never changes again. So a thread that meets an empty cell knows that
//   no later cell holds the key. A look-up reads one line of each array in use; a thread that loses
//   the race for a cell reads the cell again and goes on from there.
// - An entry is written to the segment before its id enters a cell (compare-and-exchange, release),
//   and an id enters a slot or another entry after that. So any reader of an id may read its entry.

import AgentMachine
import SharedLayout

struct InternTable<Entry> {
  private let state: UnsafeMutablePointer<allocs_intern_table>
  private let header: UnsafeMutablePointer<allocs_header>
  private let section: allocs_section_id

  @inline(__always)
  init(
    _ state: UnsafeMutablePointer<allocs_intern_table>, _ header: UnsafeMutablePointer<allocs_header>,
    _ section: allocs_section_id
  ) {
    self.state = state
    self.header = header
    self.section = section
  }

  @inline(__always)
  var entries: UnsafeMutablePointer<Entry> {
    Segment.start(header, section).assumingMemoryBound(to: Entry.self)
  }

  // MARK: ids

  /// The id of the key for which `matches` is true; if the table has none, the id that `create`
  /// makes. 0 if `create` cannot make one, or there is no memory for the cell.
  @inline(__always)
  func id(hash: UInt64, matches: (UInt32) -> Bool, create: () -> UInt32) -> UInt32 {
    let tag = UInt32(truncatingIfNeeded: hash >> 56) << 24
    var created: UInt32 = 0
    for level in 0..<Int(ALLOCS_INTERN_LEVELS) {
      let cellCount = InternCells.firstLevelCount << UInt64(4 * level)
      guard let cells = InternCells.cells(state, level, cellCount) else { return 0 }
      let lineCount = cellCount / InternCells.perLine
      let line = cells + Int((hash & (lineCount - 1)) * InternCells.perLine)
      for index in 0..<Int(InternCells.perLine) {
        let cell = line + index
        var value = allocs_load_acquire_u32(cell)
        while true {
          if value == 0 {
            if created == 0 { created = create() }
            if created == 0 { return 0 }
            if allocs_compare_exchange_u32(cell, 0, created | tag) { return created }
            value = allocs_load_acquire_u32(cell)
          } else {
            let id = value & (ALLOCS_CONTEXT_LIMIT - 1)
            // If another thread entered the key first, the id that was just created stays unused.
            if value & ~(ALLOCS_CONTEXT_LIMIT - 1) == tag && matches(id) { return id }
            break
          }
        }
      }
    }
    return 0
  }

  @inline(__always)
  static func hash(_ value: UInt64) -> UInt64 {
    var hash = (value ^ value >> 32) &* 0xD6E8_FEB8_6659_FD93
    hash = (hash ^ hash >> 32) &* 0xD6E8_FEB8_6659_FD93
    return hash ^ hash >> 32
  }

  // MARK: entries

  /// Hands out the next id, backs its entry with memory and lets `write` fill the entry. 0 if the
  /// ids or the memory have run out.
  @inline(__always)
  func append(_ write: (Int) -> Void) -> UInt32 {
    let section = Segment.section(header, section)
    let limit = min(section.pointee.capacity, UInt64(ALLOCS_CONTEXT_LIMIT))
    guard allocs_load_relaxed_u64(&state.pointee.next_id) < limit else { return 0 }
    let next = allocs_fetch_add_u64(&state.pointee.next_id, 1)
    guard next < limit, InternCells.commit(state, header, self.section, upTo: next + 1) else { return 0 }
    write(Int(next))
    var used = allocs_load_acquire_u64(&section.pointee.used)
    while used < next + 1, !allocs_compare_exchange_u64(&section.pointee.used, used, next + 1) {
      used = allocs_load_acquire_u64(&section.pointee.used)
    }
    return UInt32(truncatingIfNeeded: next)
  }
}

/// The parts of an InternTable that don't depend on the type of its entries.
private enum InternCells {
  static let firstLevelCount: UInt64 = 1 << 12
  static let perLine: UInt64 = 16

  /// The array of one level, which is made when it is first asked for; nil if there is no memory.
  static func cells(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ level: Int, _ count: UInt64
  ) -> UnsafeMutablePointer<UInt32>? {
    let word = withUnsafeMutablePointer(to: &table.pointee.levels) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self) + level
    }
    if let cells = allocs_load_acquire_pointer(word) { return cells.assumingMemoryBound(to: UInt32.self) }
    guard let made = System.map(count * 4) else { return nil }
    if allocs_compare_exchange_pointer(word, nil, made) {
      Mappings.noteOwn(made, count * 4)
    } else {
      System.unmap(made, count * 4)
    }
    return allocs_load_acquire_pointer(word)?.assumingMemoryBound(to: UInt32.self)
  }

  /// Backs the first `count` entries of the section with memory. Two threads may commit the same
  /// pages at once; the second commit does nothing.
  static func commit(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ header: UnsafeMutablePointer<allocs_header>,
    _ id: allocs_section_id, upTo count: UInt64
  ) -> Bool {
    let section = Segment.section(header, id)
    var committed = allocs_load_acquire_u64(&table.pointee.committed)
    while committed < count {
      let start = committed * section.pointee.entry_size
      // A quarter more, so that the kernel is rarely asked; at least a page, at most 256 KiB.
      let step = min(max(start / 4, 4096), 256 << 10) & ~4095
      guard System.commit(Segment.start(header, id) + Int(start), step) else { return false }
      let grown = (start + step) / section.pointee.entry_size
      if !allocs_compare_exchange_u64(&table.pointee.committed, committed, grown) {
        committed = allocs_load_acquire_u64(&table.pointee.committed)
      } else {
        committed = grown
      }
    }
    return true
  }
}
