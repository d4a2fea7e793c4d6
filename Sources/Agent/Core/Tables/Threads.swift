// Threads: gives each thread its block and its entry in the segment, and takes them back when it is gone.
//
// Invariants:
// - A block and its slot are reused only when the kernel says that the thread has ended (or has given its id to
//   another), never on the word of a destructor: a thread may allocate after its last one.
// - A slot is not reused within the tick in which its holder ended, so that time tells holders apart (allocs_thread.h).
// - Everything here runs with `self` taken and `registered` set, so a signal handler passes through.

import AgentMachine
import SharedLayout

enum Threads {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  /// Gives the calling thread a block and an entry. Nil, and counted, if there is no memory for a block.
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

  /// The bounds within which the main thread's stack may be read. The kernel lets it grow to the limit, and keeps at
  /// least 128 MiB free for it.
  private static func findMainStack(_ thread: Thread) {
    let room = min(System.limit(.stack), 128 << 20)
    thread.pointee.stack_high = allocs_main_stack_end()
    thread.pointee.stack_low = thread.pointee.stack_high &- room
    if allocs_process().pointee.stack_offset == 0 { ThreadStack.learn() }
    publishStack(thread)
  }

  /// The same for another thread.
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
    change(thread.pointee.entry) { entry in
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

  /// A thread without a key, as one that began before the agent's constructor, or where libc has no key to give, ends
  /// without a word. While there are such, each new thread asks the kernel of two blocks, one after the other in a
  /// circle.
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
    let slot = newSlot(shared, header)
    guard
      let entry = slot == ALLOCS_THREAD_UNKNOWN
        ? privateEntry()
        : Segment.start(header, ALLOCS_SECTION_THREADS).assumingMemoryBound(to: allocs_thread.self) + Int(slot)
    else { return nil }
    shared.pointee.chunk_used += 1
    thread.pointee.slot = slot
    thread.pointee.entry = entry
    return thread
  }

  private static func newSlot(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> UInt32 {
    let section = Segment.section(header, ALLOCS_SECTION_THREADS)
    let slot = section.pointee.used
    let entriesPerPage = pageSize / section.pointee.entry_size
    guard slot < section.pointee.capacity,
      slot % entriesPerPage != 0
        || System.commit(
          Segment.start(header, ALLOCS_SECTION_THREADS) + Int(slot * section.pointee.entry_size), pageSize)
    else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_THREADS)
      return ALLOCS_THREAD_UNKNOWN
    }
    allocs_store_release_u64(&section.pointee.used, slot + 1)
    return UInt32(truncatingIfNeeded: slot)
  }

  /// For a thread that found no slot: its counters go nowhere.
  private static func privateEntry() -> UnsafeMutablePointer<allocs_thread>? {
    System.map(pageSize)?.assumingMemoryBound(to: allocs_thread.self)
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
    change(thread.pointee.entry) { entry in
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
    thread.pointee.last_pool = allocs_last_pool()
    giveRegions(thread, shared)
  }

  /// Lets the thread record.
  static func giveRegions(_ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>) {
    thread.pointee.regions = UnsafeMutablePointer(shared.pointee.regions)
    thread.pointee.free_regions =
      shared.pointee.nested_regions.0 == nil ? UnsafeMutablePointer(shared.pointee.regions) : nil
  }

  /// Moves the former holder of `slot` to the history.
  private static func retire(
    _ entry: UnsafeMutablePointer<allocs_thread>, _ slot: UInt32, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let identity = entry.pointee.identity
    // A reader that adds up the table and the counters must not count these twice, nor miss them.
    Index.count(ALLOCS_COUNTER_SUMS_MOVED)
    Index.count(ALLOCS_COUNTER_ENDED_ALLOCATIONS, identity.allocations)
    Index.count(ALLOCS_COUNTER_ENDED_FREES, identity.frees)
    entry.pointee.identity.allocations = 0
    entry.pointee.identity.frees = 0
    Index.count(ALLOCS_COUNTER_SUMS_MOVED)
    let section = Segment.section(header, ALLOCS_SECTION_FORMER_THREADS)
    let number = shared.pointee.former_threads
    let index = number % section.pointee.capacity
    let entriesPerPage = pageSize / section.pointee.entry_size
    let former =
      Segment.start(header, ALLOCS_SECTION_FORMER_THREADS)
      .assumingMemoryBound(to: allocs_former_thread.self) + Int(index)
    guard index % entriesPerPage != 0 || System.commit(UnsafeMutableRawPointer(former), pageSize) else {
      change(entry) { $0.pointee.previous = 0 }
      return
    }
    allocs_store_relaxed_u64(&former.pointee.number, 0)
    allocs_fence_release()
    former.pointee.previous = entry.pointee.previous
    former.pointee.identity = identity
    allocs_store_release_u64(&former.pointee.number, number + 1)
    shared.pointee.former_threads = number + 1
    allocs_store_release_u64(&section.pointee.used, number + 1)
    change(entry) { $0.pointee.previous = number + 1 }
  }

  /// Changes an entry so that a reader can tell: the sequence is odd meanwhile.
  @inline(__always)
  private static func change(
    _ entry: UnsafeMutablePointer<allocs_thread>, _ body: (UnsafeMutablePointer<allocs_thread>) -> Void
  ) {
    let sequence = entry.pointee.sequence
    allocs_store_relaxed_u32(&entry.pointee.sequence, sequence &+ 1)
    allocs_fence_release()
    body(entry)
    allocs_store_release_u32(&entry.pointee.sequence, sequence &+ 2)
  }

  // MARK: the end of a thread

  /// A round of thread-specific destructors. Stays for the last round, since other destructors may allocate.
  static func end(_ thread: Thread) {
    guard Gate.regions(thread) != nil, thread.pointee.queued == 0 else { return }
    thread.pointee.destructor_rounds += 1
    if thread.pointee.destructor_rounds < Libc.destructorRounds, allocs_set_thread_key(thread) { return }
    guard let shared = allocs_process().pointee.shared else { return }
    Events.threadEnds(thread)
    change(thread.pointee.entry) { entry in
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

  /// In the child: a thread of the parent's, whose block was wiped. It has ended, if it had not before.
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
    // A signal handler on that thread may have stopped it in the middle of a change.
    entry.pointee.sequence += entry.pointee.sequence & 1
    change(entry) { entry in
      entry.pointee.state = ALLOCS_THREAD_EXITING.rawValue
      entry.pointee.identity.end_ticks = allocs_now()
    }
  }

  /// In the child: the thread that called fork, whose block is as it was. It has a new id, and so gets another slot:
  /// what it allocated in the parent keeps the id that it had there. The old slot stays with that.
  static func continueInChild(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let slot = newSlot(shared, header)
    let entry =
      slot == ALLOCS_THREAD_UNKNOWN
      ? privateEntry()
      : Segment.start(header, ALLOCS_SECTION_THREADS).assumingMemoryBound(to: allocs_thread.self) + Int(slot)
    if let entry {
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
    // They are of the old slot.
    for index in 0..<Int(ALLOCS_SITE_COUNT) { allocs_sites(thread)[index].key = 0 }
  }
}

@c(allocs_thread_ended)
func threadEnded(_ block: UnsafeMutableRawPointer?) {
  guard let block else { return }
  let own = allocs_enter()
  Threads.end(block.assumingMemoryBound(to: allocs_thread_block.self))
  if let own { allocs_leave(own) }
}
