// SPDX-License-Identifier: Apache-2.0
// Threads: gives each thread its block, in the agent's private memory, and its entry in the segment
// (allocs_thread.h), and takes them back when the thread is gone. The index of an entry is the
// thread's *slot*.
//
// Invariants:
// - A block and its slot are reused only when the kernel says that the thread has ended, or has
//   given its id to another thread. The word of a thread-specific destructor is not enough: a
//   thread may allocate after its last destructor.
// - A slot is not reused within the tick in which its holder ended, so that time tells the holders
//   of a slot apart.
// - Everything here runs with `self` taken and `registered` set, so a signal handler's hooks pass
//   through.

import AgentMachine
import SharedLayout

enum Threads {
  private static func table(_ header: UnsafeMutablePointer<allocs_header>) -> SegmentTable<allocs_thread> {
    SegmentTable(header, ALLOCS_SECTION_THREADS)
  }

  /// Gives the calling thread a block and an entry. Nil, and counted, if there is no memory for a
  /// block.
  static func register(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> Thread? {
    let tid = System.threadID
    var thread: Thread?
    var mustWait = true
    while mustWait {
      Gate.waitUntilOpen()
      thread = locked(shared) { () -> Thread? in
        mustWait = Gate.isClosed
        guard !mustWait, let thread = reuse(shared, header, tid) ?? make(shared, header) else { return nil }
        enter(thread, tid, shared, header)
        return thread
      }
    }
    guard let thread else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_THREADS)
      return nil
    }
    allocs_set_registered_block(thread)
    if tid == header.pointee.pid {
      findMainStack(thread)
    } else {
      findStack(thread)
      if allocs_process().pointee.has_thread_key == 0 || !allocs_set_thread_key(thread) {
        _ = allocs_fetch_add_u64(&shared.pointee.unannounced_threads, 1)
      }
    }
    return thread
  }

  /// Notes the bounds within which the main thread's stack may be read. The kernel lets that stack
  /// grow to the limit, and keeps at least 128 MiB free for it.
  private static func findMainStack(_ thread: Thread) {
    let room = min(System.limit(.stack), 128 << 20)
    thread.pointee.stack_high = allocs_main_stack_end()
    thread.pointee.stack_low = thread.pointee.stack_high &- room
    if allocs_process().pointee.stack_offset == 0 { ThreadStack.learn() }
    publishStack(thread)
  }

  /// Notes the bounds within which the stack of another thread may be read.
  private static func findStack(_ thread: Thread) {
    guard let stack = ThreadStack.ofCaller else {
      Index.count(ALLOCS_COUNTER_UNBOUNDED_STACKS)
      return
    }
    thread.pointee.stack_low = stack.low
    thread.pointee.stack_high = stack.high
    if stack.isKnownWhole { publishStack(thread) }
  }

  private static func publishStack(_ thread: Thread) {
    thread.pointee.entry.change { entry in
      entry.pointee.stack_low = thread.pointee.stack_low
      entry.pointee.stack_high = thread.pointee.stack_high
    }
  }

  // MARK: blocks and slots

  /// The block of the thread that ended longest ago, if it is surely gone.
  private static func reuse(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ tid: UInt32
  ) -> Thread? {
    lookForEnded(shared, header, tid)
    guard let oldest = shared.pointee.ended_first,
      let entry = oldest.pointee.entry,
      entry.pointee.identity.end_ticks != allocs_now(),
      oldest.pointee.tid == tid || System.hasEnded(oldest.pointee.tid, of: header.pointee.pid)
    else { return nil }
    shared.pointee.ended_first = oldest.pointee.next
    if oldest.pointee.next == nil { shared.pointee.ended_last = nil }
    oldest.pointee.next = nil
    if oldest.pointee.slot != ALLOCS_THREAD_UNKNOWN { retire(entry, oldest.pointee.slot, shared, header) }
    StackCaches.flush(oldest)
    oldest.pointee.delegating = 0
    oldest.pointee.events.recording = 0
    oldest.pointee.inner_base = 0
    return oldest
  }

  /// Finds threads that ended without a word, and queues their blocks. Such a thread has no
  /// thread-specific key: it began before the agent's constructor, or libc had no key to give. Once
  /// there has been such a thread, each new thread asks the kernel about two blocks, and so goes
  /// round all blocks in turn.
  private static func lookForEnded(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ tid: UInt32
  ) {
    guard allocs_load_relaxed_u64(&shared.pointee.unannounced_threads) != 0 else { return }
    for _ in 0..<2 {
      if shared.pointee.hand_chunk == nil {
        shared.pointee.hand_chunk = shared.pointee.chunk_first
        shared.pointee.hand_index = 0
      }
      guard let chunk = shared.pointee.hand_chunk else { return }
      let thread = allocs_chunk_thread(chunk, shared.pointee.hand_index)
      shared.pointee.hand_index += 1
      if shared.pointee.hand_index == ALLOCS_BLOCKS_PER_CHUNK {
        shared.pointee.hand_chunk = chunk.pointee.next
        shared.pointee.hand_index = 0
      }
      guard let entry = thread.pointee.entry, entry.pointee.state == ALLOCS_THREAD_LIVE.rawValue,
        thread.pointee.queued == 0,
        thread.pointee.tid == tid || System.hasEnded(thread.pointee.tid, of: header.pointee.pid)
      else { continue }
      end(entry)
      queue(thread, shared)
    }
  }

  private static func make(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> Thread? {
    if shared.pointee.chunk_first == nil || shared.pointee.chunk_used == ALLOCS_BLOCKS_PER_CHUNK {
      let size = UInt64(MemoryLayout<allocs_thread_chunk>.stride)
      guard let mapped = System.map(size) else { return nil }
      guard System.wipeInChildren(mapped, UInt64(ALLOCS_CHUNK_WIPED_SIZE)) else {
        System.unmap(mapped, size)
        return nil
      }
      Mappings.noteOwn(mapped, size, isLocked: true)
      let chunk = mapped.assumingMemoryBound(to: allocs_thread_chunk.self)
      chunk.pointee.next = shared.pointee.chunk_first
      shared.pointee.chunk_first = chunk
      shared.pointee.chunk_used = 0
    }
    guard let chunk = shared.pointee.chunk_first else { return nil }
    let thread = allocs_chunk_thread(chunk, shared.pointee.chunk_used)
    let slot = newSlot(header)
    guard let entry = entry(slot, header) else { return nil }
    shared.pointee.chunk_used += 1
    thread.pointee.slot = slot
    thread.pointee.entry = entry
    return thread
  }

  /// ALLOCS_THREAD_UNKNOWN, and counted, if the table is full or there is no memory.
  private static func newSlot(_ header: UnsafeMutablePointer<allocs_header>) -> UInt32 {
    guard let slot = table(header).append() else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_THREADS)
      return ALLOCS_THREAD_UNKNOWN
    }
    return UInt32(truncatingIfNeeded: slot)
  }

  /// The entry of a slot. A thread that found no slot gets a page of its own for an entry: what it
  /// counts there, nobody reads. Nil if there is no memory for that page.
  private static func entry(
    _ slot: UInt32, _ header: UnsafeMutablePointer<allocs_header>
  ) -> UnsafeMutablePointer<allocs_thread>? {
    guard slot == ALLOCS_THREAD_UNKNOWN else { return table(header)[Int(slot)] }
    return System.map(UInt64(ALLOCS_PAGE_SIZE))?.assumingMemoryBound(to: allocs_thread.self)
  }

  /// Calls `body` with each block that a thread has, or had.
  static func forEach(_ shared: UnsafeMutablePointer<allocs_shared>, _ body: (Thread) -> Void) {
    var chunk = shared.pointee.chunk_first
    // Only the newest chunk has blocks that no thread has had.
    var count = shared.pointee.chunk_used
    while let current = chunk {
      for index in 0..<count {
        let thread = allocs_chunk_thread(current, index)
        if thread.pointee.entry != nil { body(thread) }
      }
      chunk = current.pointee.next
      count = UInt64(ALLOCS_BLOCKS_PER_CHUNK)
    }
  }

  // MARK: entries

  private static func enter(
    _ thread: Thread, _ tid: UInt32, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>
  ) {
    thread.pointee.tid = tid
    thread.pointee.local = allocs_own_thread_local()
    thread.pointee.destructor_rounds = 0
    thread.pointee.queued = 0
    thread.pointee.frames_counted = 0
    thread.pointee.events.period = 0
    thread.pointee.events.has_started = 0
    thread.pointee.stack_low = 0
    thread.pointee.stack_high = 0
    thread.pointee.entry.change { entry in
      entry.pointee.state = ALLOCS_THREAD_LIVE.rawValue
      entry.pointee.identity.tid = tid
      entry.pointee.identity.start_ticks = allocs_now()
      entry.pointee.identity.end_ticks = 0
      entry.pointee.identity.slot = thread.pointee.slot
      entry.pointee.identity.allocations = 0
      entry.pointee.identity.frees = 0
      entry.pointee.stack_hint = allocs_stack_address()
      entry.pointee.thread_pointer = allocs_thread_pointer()
      entry.pointee.stack_low = 0
      entry.pointee.stack_high = 0
      withUnsafeMutablePointer(to: &entry.pointee.identity.name) { System.threadName($0) }
    }
    thread.pointee.full_stacks = shared.pointee.full_stacks
    allocs_stacks(thread).pointee.is_checked = shared.pointee.checks_stacks
    thread.pointee.last_pool = allocs_last_pool()
    giveRegions(thread, shared)
  }

  /// Gives the thread its region tables: from here on it records. `takeRegions` takes them away.
  static func giveRegions(_ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>) {
    thread.pointee.regions = UnsafeMutablePointer(shared.pointee.regions)
    // Threads without an entry share their contexts, so none of them may count.
    thread.pointee.totals = thread.pointee.slot == ALLOCS_THREAD_UNKNOWN ? nil : shared.pointee.totals
    thread.pointee.free_regions =
      shared.pointee.nested_regions.0 == nil ? UnsafeMutablePointer(shared.pointee.regions) : nil
    thread.pointee.site_regions =
      thread.pointee.full_stacks == 0 ? UnsafeMutablePointer(shared.pointee.regions) : nil
  }

  static func takeRegions(_ thread: Thread) {
    thread.pointee.free_regions = nil
    thread.pointee.site_regions = nil
    thread.pointee.regions = nil
  }

  /// Moves the former holder of `slot` to the history, a ring of entries.
  private static func retire(
    _ entry: UnsafeMutablePointer<allocs_thread>, _ slot: UInt32, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let identity = entry.pointee.identity
    // A reader that adds up the table and the counters must not count these calls twice, nor miss
    // them: it waits while SUMS_MOVED is odd.
    Index.count(ALLOCS_COUNTER_SUMS_MOVED)
    Index.count(ALLOCS_COUNTER_ENDED_ALLOCATIONS, identity.allocations)
    Index.count(ALLOCS_COUNTER_ENDED_FREES, identity.frees)
    entry.pointee.identity.allocations = 0
    entry.pointee.identity.frees = 0
    Index.count(ALLOCS_COUNTER_SUMS_MOVED)
    let history = SegmentTable<allocs_former_thread>(header, ALLOCS_SECTION_FORMER_THREADS)
    let number = shared.pointee.former_threads
    let index = Int(number) % history.capacity
    guard history.back(index) else {
      entry.change { $0.pointee.previous = 0 }
      return
    }
    let former = history[index]
    allocs_store_relaxed_u64(&former.pointee.number, 0)
    allocs_fence_release()
    former.pointee.previous = entry.pointee.previous
    former.pointee.identity = identity
    allocs_store_release_u64(&former.pointee.number, number + 1)
    shared.pointee.former_threads = number + 1
    history.publish(Int(number) + 1)
    entry.change { $0.pointee.previous = number + 1 }
  }

  // MARK: the end of a thread

  /// A round of thread-specific destructors runs. The thread counts as live up to the last round,
  /// since other destructors may allocate.
  static func end(_ thread: Thread) {
    guard Gate.regions(thread) != nil, thread.pointee.queued == 0 else { return }
    thread.pointee.destructor_rounds += 1
    if thread.pointee.destructor_rounds < Libc.destructorRounds, allocs_set_thread_key(thread) { return }
    guard let shared = allocs_process().pointee.shared else { return }
    Events.threadEnds(thread)
    thread.pointee.entry.change { entry in
      entry.pointee.state = ALLOCS_THREAD_EXITING.rawValue
      // Stamps of events may be a tick ahead of the coarse clock.
      let last = allocs_event_ticks(thread.pointee.events.stamp)
      let now = allocs_now()
      entry.pointee.identity.end_ticks = allocs_ticks_between(now, last) == 1 ? last : now
      withUnsafeMutablePointer(to: &entry.pointee.identity.name) { System.threadName($0) }
    }
    locked(shared) { queue(thread, shared) }
  }

  private static func queue(_ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>) {
    thread.pointee.queued = 1
    thread.pointee.next = nil
    if let last = shared.pointee.ended_last {
      last.pointee.next = thread
    } else {
      shared.pointee.ended_first = thread
    }
    shared.pointee.ended_last = thread
  }

  // MARK: a child of fork

  /// Takes over, in the child, a thread of the parent's whose block was wiped, and ends it if it
  /// had not ended.
  static func endInChild(
    _ thread: Thread, _ entry: UnsafeMutablePointer<allocs_thread>, _ slot: UInt32, _ tid: UInt32,
    _ shared: UnsafeMutablePointer<allocs_shared>
  ) {
    thread.pointee.entry = entry
    thread.pointee.slot = slot
    thread.pointee.tid = tid
    end(entry)
    queue(thread, shared)
  }

  private static func end(_ entry: UnsafeMutablePointer<allocs_thread>) {
    guard entry.pointee.state == ALLOCS_THREAD_LIVE.rawValue else { return }
    entry.releaseAbandonedLock()
    entry.change { entry in
      entry.pointee.state = ALLOCS_THREAD_EXITING.rawValue
      entry.pointee.identity.end_ticks = allocs_now()
    }
  }

  /// In the child: the thread that called fork goes on. Its block is as it was. It has a new id,
  /// and so gets another slot; its old slot, with the old id, goes on to stand for the blocks
  /// that it allocated in the parent.
  static func continueInChild(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let slot = newSlot(header)
    if let entry = entry(slot, header) {
      end(thread.pointee.entry)
      thread.pointee.entry = entry
      thread.pointee.slot = slot
    }
    let (low, high) = (thread.pointee.stack_low, thread.pointee.stack_high)
    enter(thread, System.threadID, shared, header)
    thread.pointee.gated = 0
    thread.pointee.at_gate = 0
    thread.pointee.stack_low = low
    thread.pointee.stack_high = high
    publishStack(thread)
    // The contexts that were looked up name the old slot, and the next owner of that slot may count
    // in the lines of those that were not yet handed out.
    thread.pointee.own_contexts = 0
    for index in 0..<Int(ALLOCS_SITE_COUNT) { allocs_sites(thread)[index].key = 0 }
    allocs_stacks(thread).pointee.must_forget = 1
  }
}

@c(allocs_thread_ended)
func threadEnded(_ block: UnsafeMutableRawPointer?) {
  guard let block else { return }
  let own = allocs_enter()
  Threads.end(block.assumingMemoryBound(to: allocs_thread_block.self))
  if let own { allocs_leave(own) }
}
