// SPDX-License-Identifier: Apache-2.0
// Rings: the memory of the event rings, and the announcement of records in them (allocs_ring.h).
// The slow path of Events, taken once for ALLOCS_RING_CHUNK records.
//
// Invariants:
// - No record is written before its memory is there: where the file system is full the event is
//   counted, and the process never gets SIGBUS.
// - `reserved` is stored, and a release fence follows, before the first record of a chunk is
//   written. The fence pairs with the acquire fence that a reader makes after it has copied
//   records: a reader that has copied a word of such a record finds `reserved` above it.
// - Work that may take long, or take the lock, is done while `recording` is clear, so that a signal
//   handler's events in the meantime are recorded like others. Each fact that was found out then is
//   checked again before it is used.
// - A ring belongs to a thread's block, and goes with the block to the next thread that gets it. So
//   each ring has one writer at a time.

import AgentMachine
import SharedLayout

enum Rings {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let chunk = UInt64(ALLOCS_RING_CHUNK)
  private static let recordSize = UInt64(MemoryLayout<allocs_event>.stride)

  /// The rest of Events.begin. `recording` is set when it is called, and when it gives true; it is
  /// clear when it gives false.
  @inline(never)
  static func prepare(_ thread: Thread, isInner: Bool) -> Bool {
    while true {
      let period = allocs_events_period()
      if thread.pointee.events.position != thread.pointee.events.announced {
        if thread.pointee.events.period == period { return true }
        if period != 0 {
          noteBeginning(thread, period)
          continue
        }
      } else if period != 0, thread.pointee.events.ring != nil, announce(thread) {
        continue
      }
      Events.end(thread)
      guard period != 0, makeRoom(thread, isInner: isInner) else { return false }
      thread.pointee.events.recording = 1
      allocs_fence_signal()
    }
  }

  /// Writes the first record of a thread, or its first record of a period of recording.
  private static func noteBeginning(_ thread: Thread, _ period: UInt32) {
    thread.pointee.events.period = period
    let stamp = Stamps.next(thread)
    if thread.pointee.events.has_started == 0 {
      thread.pointee.events.has_started = 1
      Events.append(
        thread, ALLOCS_EVENT_THREAD_START, UInt(thread.pointee.tid),
        UInt64(thread.pointee.entry.pointee.identity.start_ticks), stamp: stamp)
    } else {
      Events.append(thread, ALLOCS_EVENT_RESUMED, 0, 0, stamp: stamp)
    }
  }

  /// Announces the next chunk of records, if there is memory behind them and no consumer needs the
  /// records that they replace. False, and nothing done, otherwise.
  private static func announce(_ thread: Thread) -> Bool {
    let next = thread.pointee.events.announced &+ chunk
    let capacity = thread.pointee.events.mask &+ 1
    guard thread.pointee.events.committed >= min(next, capacity),
      next <= capacity || isTaken(thread, below: next &- capacity) || thread.pointee.events.overrun == next
    else { return false }
    allocs_store_relaxed_u64(&thread.pointee.events.ring.pointee.reserved, next)
    allocs_fence_release()
    thread.pointee.events.announced = next
    return true
  }

  /// Whether all lossless consumers are known to have taken the records below `position`.
  private static func isTaken(_ thread: Thread, below position: UInt64) -> Bool {
    position <= thread.pointee.events.taken
      && allocs_load_acquire_u32(&allocs_control().pointee.changes) == thread.pointee.events.changes
  }

  /// Gets what `announce` needs: a ring, memory, and consumers that have taken the records which
  /// are in the way. False, and counted, if the thread cannot have a ring or memory.
  private static func makeRoom(_ thread: Thread, isInner: Bool) -> Bool {
    if thread.pointee.events.ring == nil {
      // In a signal handler the thread may hold the lock that opening a ring takes. An allocator
      // that maps memory in the thread's first call of it is inside a hook, too, without the lock.
      guard !isInner || !allocs_holds_lock(), open(thread) else { return unrecorded(thread) }
    }
    let next = thread.pointee.events.announced &+ chunk
    let capacity = thread.pointee.events.mask &+ 1
    guard commit(thread, upTo: min(next, capacity)) else { return unrecorded(thread) }
    if next > capacity, !isTaken(thread, below: next &- capacity) {
      let missing = Consumers.missing(thread, below: next &- capacity, mayWait: !isInner)
      if missing > 0, thread.pointee.events.announced &+ chunk == next {
        thread.pointee.events.overrun = next
        thread.pointee.events.ring.pointee.overrun &+= min(missing, chunk)
        Index.count(ALLOCS_COUNTER_EVENTS_OVERRUN, min(missing, chunk))
      }
    }
    return true
  }

  private static func unrecorded(_ thread: Thread) -> Bool {
    Index.count(ALLOCS_COUNTER_EVENTS_UNRECORDED)
    if let ring = thread.pointee.events.ring { ring.pointee.unrecorded &+= 1 }
    return false
  }

  // MARK: memory

  /// Backs the records below `count` with memory. A ring begins with four pages and doubles, by 64
  /// pages at most: most threads make few events.
  private static func commit(_ thread: Thread, upTo count: UInt64) -> Bool {
    let committed = thread.pointee.events.committed
    guard committed < count else { return true }
    guard Shortage.mayAsk(&thread.pointee.events.refusal) else { return false }
    let capacity = thread.pointee.events.mask &+ 1
    let least = 4 * pageSize / recordSize
    let most = 64 * pageSize / recordSize
    let end = min(committed &+ min(max(committed, least), most), capacity)
    let start = UnsafeMutableRawPointer(thread.pointee.events.records + Int(committed))
    guard System.commit(start, (end - committed) * recordSize) else {
      Shortage.begin(&thread.pointee.events.refusal)
      return false
    }
    if thread.pointee.events.committed < end { thread.pointee.events.committed = end }
    return true
  }

  /// Gives the thread a ring. False if there is none left, or no memory. `recording` is set
  /// meanwhile, so that a signal handler does not open another.
  private static func open(_ thread: Thread) -> Bool {
    thread.pointee.events.recording = 1
    allocs_fence_signal()
    defer { Events.end(thread) }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      thread.pointee.slot != ALLOCS_THREAD_UNKNOWN, Shortage.mayAsk(&thread.pointee.events.refusal)
    else { return false }
    let slot = thread.pointee.slot
    let made = locked(shared) {
      AnchoredSection.rings(shared, header).append(backing: pageSize) { start, _ in
        start.assumingMemoryBound(to: allocs_ring.self).pointee.slot = slot
      }
    }
    guard let (start, number) = made else {
      Shortage.begin(&thread.pointee.events.refusal)
      return false
    }
    let ring = UnsafeMutableRawPointer(start)
    thread.pointee.events.records = (ring + Int(ALLOCS_RING_RECORDS_OFFSET)).assumingMemoryBound(to: allocs_event.self)
    thread.pointee.events.mask = shared.pointee.ring_records - 1
    thread.pointee.events.slot = thread.pointee.slot
    thread.pointee.events.number = UInt32(truncatingIfNeeded: number)
    thread.pointee.events.contexts = UnsafePointer(
      Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self))
    thread.pointee.events.taken = .max
    thread.pointee.events.changes = 0
    // Last: the ring is what tells that all of this is there.
    thread.pointee.events.ring = ring.assumingMemoryBound(to: allocs_ring.self)
    return true
  }
}
