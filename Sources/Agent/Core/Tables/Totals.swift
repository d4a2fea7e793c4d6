// SPDX-License-Identifier: Apache-2.0
// Totals: what was ever allocated in each context (allocs_total.h, which has the argument for its
// readers).
//
// Invariants:
// - A context's total is backed by memory before anybody has the context's id. Where there is no
//   memory for the total, there is no context, and its blocks are counted as without one.
// - A thread that counts hands out its contexts from ids that nobody else gets, so that the totals
//   in one pair of cache lines have one writer. A call that may have interrupted that thread takes
//   a batch of its own. Behind the first half of the table, ids are handed out one by one, and
//   lines are shared: then it counts more that no id stays unused.

import AgentMachine
import SharedLayout

enum Totals {
  // MARK: the hooks' path

  /// The thread is about to record a block of `size` bytes. `context` stands where the head of a
  /// slot has it, and is not 0. Calls nothing.
  @inline(__always)
  static func add(_ thread: Thread, context: UInt64, _ size: Int) {
    if let totals = thread.pointee.totals { allocs_total_add(totals, context, UInt64(UInt(bitPattern: size))) }
  }

  /// As above; nothing is done for context 0, which all threads share.
  @inline(__always)
  static func add(_ thread: Thread, _ context: UInt32, _ size: Int) {
    if context != 0 { add(thread, context: allocs_slot_context_bits(context), size) }
  }

  /// The record of the thread's own block at `block`, whose head was `head`, has given way to
  /// another record of that block.
  static func takeBack(_ thread: Thread, _ regions: Regions, _ block: Block, replaced head: UInt64) {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let context = allocs_slot_context(head)
    let contexts = Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self)
    // Should it be of another thread, whose free was not seen, it is not this thread's to count.
    let word = allocs_load_acquire_u64(contexts + Int(context))
    guard allocs_context_thread(word) == thread.pointee.slot else { return }
    let base = UInt(bitPattern: block)
    takeBack(thread, context, Int(bitPattern: Index.size(regions, base, erased: head)))
  }

  /// The block that was added could not be recorded.
  @inline(__always)
  static func takeBack(_ thread: Thread, _ context: UInt32, _ size: Int) {
    guard context != 0, let totals = thread.pointee.totals else { return }
    allocs_total_take_back(totals, allocs_slot_context_bits(context), UInt64(UInt(bitPattern: size)))
  }

  // MARK: contexts

  private static let batch = UInt32(ALLOCS_CONTEXT_BATCH)

  /// Hands out the id of a context that is `word`; 0 if the ids or the memory have run out.
  /// `thread`: whose ids to take; nil for a batch of its own, of which the rest stays unused.
  static func newContext(
    _ table: InternTable<UInt64>, _ word: UInt64, of thread: Thread?, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>
  ) -> UInt32 {
    let contexts = table.entries
    // A signal handler may come here, too, in the middle of it: so the ids are in one word, which
    // never has a value twice.
    var own = thread.map { allocs_load_acquire_u64(&$0.pointee.own_contexts) } ?? 0
    while let thread, own >> 32 != own & UInt64(UInt32.max) {
      if allocs_compare_exchange_u64(&thread.pointee.own_contexts, own, own + 1) {
        allocs_store_release_u64(contexts + Int(own & UInt64(UInt32.max)), word)
        return UInt32(truncatingIfNeeded: own)
      }
      own = allocs_load_acquire_u64(&thread.pointee.own_contexts)
    }
    let count = UInt64(table.nextID < table.limit / 2 ? batch : 1)
    // The memory comes first, as in `append`.
    let expected = table.nextID + count
    guard expected <= table.limit, back(shared, header, upTo: expected) else { return 0 }
    let id = table.append(count) { id in allocs_store_release_u64(contexts + id, word) }
    let end = UInt64(id) + count
    guard id != 0, end <= expected || back(shared, header, upTo: end) else { return 0 }
    if let thread, count > 1 {
      _ = allocs_compare_exchange_u64(&thread.pointee.own_contexts, own, end << 32 | UInt64(id + 1))
    }
    return id
  }

  /// Backs the first `count` totals with memory, and shows them to readers.
  private static func back(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, upTo count: UInt64
  ) -> Bool {
    let section = Segment.section(header, ALLOCS_SECTION_TOTALS)
    let entrySize = section.pointee.entry_size
    var committed = allocs_load_acquire_u64(&shared.pointee.totals_committed)
    while committed < count {
      let start = committed * entrySize
      // As contexts get their memory (InternTable.swift).
      let step = min(max(start / 4, 4096), 256 << 10) & ~4095
      guard System.commit(Segment.start(header, ALLOCS_SECTION_TOTALS) + Int(start), step) else { return false }
      let grown = (start + step) / entrySize
      committed =
        allocs_compare_exchange_u64(&shared.pointee.totals_committed, committed, grown)
        ? grown : allocs_load_acquire_u64(&shared.pointee.totals_committed)
    }
    var used = allocs_load_acquire_u64(&section.pointee.used)
    while used < count, !allocs_compare_exchange_u64(&section.pointee.used, used, count) {
      used = allocs_load_acquire_u64(&section.pointee.used)
    }
    return true
  }

  // MARK: the table

  /// The segment is new. Ids begin behind a whole batch, so that each batch has lines of its own.
  static func begin(_ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>) {
    guard Segment.section(header, ALLOCS_SECTION_TOTALS).pointee.capacity > 0 else {
      shared.pointee.contexts.next_id = 1
      return
    }
    shared.pointee.totals = Segment.start(header, ALLOCS_SECTION_TOTALS)
      .assumingMemoryBound(to: allocs_total.self)
    shared.pointee.contexts.next_id = UInt64(batch)
  }

  /// In a child that is followed: only the totals in use were copied. Memory that the parent had
  /// committed beyond is a hole here.
  static func reduceCommitted(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let section = Segment.section(header, ALLOCS_SECTION_TOTALS).pointee
    guard section.entry_size > 0 else { return }
    let pageSize = UInt64(ALLOCS_PAGE_SIZE)
    let bytes = (section.used * section.entry_size + pageSize - 1) / pageSize * pageSize
    shared.pointee.totals_committed = min(shared.pointee.totals_committed, bytes / section.entry_size)
  }
}
