// SPDX-License-Identifier: Apache-2.0
// InternTable: gives each distinct key one id for good, without a lock. StackNodes and Contexts
// each have one.
//
// The entries lie in a section of the segment, where readers find them by id. Each key belongs to a
// node, its *owner*: to the caller's node if the key is of a node, to the stack's node if the key
// is of a context. An id is found through lists and a table, both private to the agent:
//
// - Each owner has a list of the ids of its keys, newest first, of at most `listLimit` ids. Nearly
//   every node owns one or two nodes and one context. Ids are handed out in turn, and so are the
//   links of the lists, which lie in the order of ids: the frames of a new stack, and its context,
//   are written side by side. Beside each id in a list are 8 bits of a hash of its key, so that the
//   keys of others are rarely read: each is likely in a line that no cache has.
// - The table has the keys of owners whose lists are full, and keys without an owner. It is a
//   cascade of arrays of cells (id:24, tag:8), each array 16 times as large as the array before it.
//   A key may lie in one line of 16 cells of each array, and takes the first empty cell in the
//   order of the cascade.
//
// Invariants:
// - A list grows only at its head, by a compare-and-exchange that expects the head up to which the
//   list was searched. So a thread that has won the exchange knows that the list does not have the
//   key. A thread that has lost it searches the ids that were put before its old head. A list that
//   is full never changes again: whoever has searched it goes on to the table.
// - The nodes of the frames further in than a new node are new, too. They are made, and put into
//   the lists of each other, before the new node is put into the list of its owner: until then
//   nobody else knows of them. If another thread was first with the new node, all their ids stay
//   unused.
// - A cell is filled once and never changes again. So a thread that meets an empty cell knows that
//   no later cell holds the key. A look-up reads one line of each array in use; a thread that loses
//   the race for a cell reads the cell again and goes on from there.
// - An entry is written to the segment before its id enters a list or a cell (compare-and-exchange,
//   release), and an id enters a slot or another entry after that. So any reader of an id may read
//   its entry. A thread that follows a list has read the list's head with acquire: the thread that
//   put the head there had read, also with acquire, the head before it, and so on to the list's
//   end.
// - A child of fork has the parent's lists and table, in private memory. A child without a segment
//   of its own forgets where they are: a search under way finds zeros, and ends after `listLimit`
//   ids.

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

  /// The id of the key of `owner`, if it has one, for which `matches` is true; if there is none,
  /// the id that `create` makes. 0 if `create` cannot make one, or there is no memory to find it
  /// by. `tag` is the key's.
  @inline(__always)
  func id(
    owner: UInt32?, tag: UInt32, hash: @autoclosure () -> UInt64, matches: (UInt32) -> Bool, create: () -> UInt32
  ) -> UInt32 {
    var created: UInt32 = 0
    if let owner {
      guard let head = InternLinks.link(state, owner) else { return 0 }
      var count = 0
      var searched: UInt32 = 0  // the head from which on the list has been searched
      searching: while true {
        let first = allocs_load_acquire_u32(&head.pointee.first)
        var entry = first
        while entry != searched {
          let id = entry & InternLinks.idMask
          if entry & ~InternLinks.idMask == tag, matches(id) { return id }
          count += 1
          if count == InternLinks.listLimit { break searching }
          guard let link = InternLinks.link(state, id) else { return 0 }
          entry = link.pointee.next
        }
        if created == 0 { created = create() }
        guard created != 0, let link = InternLinks.link(state, created) else { return 0 }
        link.pointee.next = first
        if allocs_compare_exchange_u32(&head.pointee.first, first, created | tag) { return created }
        searched = first
      }
    }
    return idInTable(hash: hash(), created: created, matches: matches, create: create)
  }

  /// The id of a key that has no owner, or whose owner's list is full. `created`: the id that
  /// `create` has made already, or 0. If another thread has entered the key, that id stays unused.
  @inline(__always)
  private func idInTable(
    hash: UInt64, created: UInt32, matches: (UInt32) -> Bool, create: () -> UInt32
  ) -> UInt32 {
    let tag = UInt32(truncatingIfNeeded: hash >> 56) << 24
    var created = created
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
            if value & ~(ALLOCS_CONTEXT_LIMIT - 1) == tag && matches(id) { return id }
            break
          }
        }
      }
    }
    return 0
  }

  /// The tag of a key in the list of its owner: of a word that differs between the owner's keys.
  @inline(__always)
  static func tag(_ value: UInt64) -> UInt32 {
    UInt32(truncatingIfNeeded: (value &* 0x9E37_79B9_7F4A_7C15) >> 32) & ~InternLinks.idMask
  }

  @inline(__always)
  static func hash(_ value: UInt64) -> UInt64 {
    var hash = (value ^ value >> 32) &* 0xD6E8_FEB8_6659_FD93
    hash = (hash ^ hash >> 32) &* 0xD6E8_FEB8_6659_FD93
    return hash ^ hash >> 32
  }

  // MARK: entries

  /// The number of ids that there can be.
  @inline(__always)
  var limit: UInt64 { min(Segment.section(header, section).pointee.capacity, UInt64(ALLOCS_CONTEXT_LIMIT)) }

  /// The id that is next, unless another thread takes it first.
  @inline(__always)
  var nextID: UInt64 { allocs_load_relaxed_u64(&state.pointee.next_id) }

  /// Hands out the next `count` ids, backs their entries with memory and lets `write` fill the
  /// entries from the one with the first id on. Gives the first id; 0 if the ids or the memory have
  /// run out. The memory comes first, of the entries and of their links: where there is none, no id
  /// is used up, and there may be some later.
  @inline(__always)
  func append(_ count: UInt64 = 1, _ write: (Int) -> Void) -> UInt32 {
    let section = Segment.section(header, section)
    let limit = limit
    let expected = nextID + count
    guard expected <= limit, back(expected - count, upTo: expected) else { return 0 }
    let first = allocs_fetch_add_u64(&state.pointee.next_id, count)
    let end = first + count
    // Other threads may have taken ids meanwhile.
    guard end <= expected || end <= limit && back(first, upTo: end) else { return 0 }
    write(Int(first))
    if allocs_load_acquire_u64(&section.pointee.used) < end {
      InternCells.raise(&section.pointee.used, to: min(((end - 1) | (InternCells.usedStep - 1)) + 1, limit))
    }
    return UInt32(truncatingIfNeeded: first)
  }

  /// Sees to it that the ids from `first` to below `end`, which are fewer than a chunk has links,
  /// have links and entries. False if there is no memory.
  @inline(__always)
  private func back(_ first: UInt64, upTo end: UInt64) -> Bool {
    InternLinks.link(state, UInt32(truncatingIfNeeded: first)) != nil
      && InternLinks.link(state, UInt32(truncatingIfNeeded: end - 1)) != nil
      && InternCells.commit(state, header, section, upTo: end)
  }

  /// Makes each of `count` ids from `first` on the one key of the id before it. Nobody but the
  /// caller knows the ids yet. `tag` gives the tag of the key that is so many ids behind the first.
  /// False if there is no memory.
  @inline(__always)
  func chain(_ first: UInt32, _ count: UInt32, _ tag: (Int) -> UInt32) -> Bool {
    for id in first..<first + count - 1 {
      guard let link = InternLinks.link(state, id) else { return false }
      link.pointee.first = (id + 1) | tag(Int(id + 1 - first))
    }
    return true
  }
}

/// The lists of an InternTable.
private enum InternLinks {
  static let listLimit = 6
  /// Of an id with its tag, the bits of the id.
  static let idMask = UInt32(ALLOCS_CONTEXT_LIMIT - 1)
  private static let perChunk = Int(ALLOCS_LINKS_PER_CHUNK)

  /// The link with this number, in a chunk that is made when it is first asked for; nil if there is
  /// no memory.
  @inline(__always)
  static func link(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ number: UInt32
  ) -> UnsafeMutablePointer<allocs_intern_link>? {
    let word = allocs_link_chunks(table) + Int(number) / perChunk
    guard let chunk = allocs_load_acquire_pointer(word) ?? make(word, isFirst: Int(number) < perChunk) else {
      return nil
    }
    return chunk.assumingMemoryBound(to: allocs_intern_link.self) + Int(number) % perChunk
  }

  /// In the first chunk, pages are backed as they are needed: most processes touch one or two of
  /// them. A process that has filled the chunk makes hundreds of thousands of entries: further
  /// chunks are of one huge page each, where the kernel gives one.
  @inline(never)
  private static func make(_ word: UnsafeMutablePointer<UnsafeMutableRawPointer?>, isFirst: Bool)
    -> UnsafeMutableRawPointer?
  {
    let size = UInt64(perChunk * MemoryLayout<allocs_intern_link>.stride)
    return InternCells.memory(word, size, isFirst ? System.mapSmall : System.mapHuge)
  }
}

/// The parts of an InternTable's table that don't depend on the type of its entries, and the memory
/// of its section.
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
    let cells = allocs_load_acquire_pointer(word) ?? memory(word, count * 4) { System.map($0) }
    return cells?.assumingMemoryBound(to: UInt32.self)
  }

  /// New memory of `size` bytes, which `map` maps, and to which `word` points from now on; nil if
  /// there is none.
  static func memory(
    _ word: UnsafeMutablePointer<UnsafeMutableRawPointer?>, _ size: UInt64, _ map: (UInt64) -> Address?
  ) -> UnsafeMutableRawPointer? {
    guard let made = map(size) else { return nil }
    if allocs_compare_exchange_pointer(word, nil, made) {
      Mappings.noteOwn(made, size)
    } else {
      System.unmap(made, size)
    }
    return allocs_load_acquire_pointer(word)
  }

  /// Steps in which `used` of the section is raised: not with each entry, as all threads share the
  /// word. Entries lie within pages by such steps, so what is below `used` is backed by memory.
  static let usedStep: UInt64 = 64

  @inline(never)
  static func raise(_ word: UnsafeMutablePointer<UInt64>, to value: UInt64) {
    var used = allocs_load_acquire_u64(word)
    while used < value, !allocs_compare_exchange_u64(word, used, value) { used = allocs_load_acquire_u64(word) }
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
