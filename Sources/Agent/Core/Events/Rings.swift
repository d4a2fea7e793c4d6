// Rings: the memory of the event rings, and the announcement of room in them. The slow path of Events, taken once for
// ALLOCS_RING_CHUNK records.
//
// Invariants:
// - No record is written before its memory was got: where the file system is full the event is counted, and the target
//   never gets SIGBUS.
// - `reserved` is stored, and a release fence follows, before the first record of its chunk is written. It pairs with
//   the reader's acquire fence behind its copy: who has copied a word of such a record sees `reserved` above it.
// - What may take long, or take the lock, is done with `recording` clear, so that a signal handler's events in between
//   are recorded like others; what was found out then is looked at again before it is used.
// - A ring belongs to a thread's block, and goes with it to the next thread that gets the block: one at a time.
// - The segment's descriptor is closed at the start. Rings are reached as arenas are: an anchor, a mapping of the next
//   ring's first page, grows into the ring and one page more.

import AgentMachine
import SharedLayout

enum Rings {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let chunk = UInt64(ALLOCS_RING_CHUNK)
  private static let recordSize = UInt64(MemoryLayout<allocs_event>.stride)

  /// The rest of Events.begin, with `recording` set; clear again if it gives false.
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

  /// The first record of a thread, or of a period.
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

  /// Announces the next chunk, if it has memory and nobody needs what is in it. False, and nothing done, if not.
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

  private static func isTaken(_ thread: Thread, below position: UInt64) -> Bool {
    position <= thread.pointee.events.taken
      && allocs_load_acquire_u32(&allocs_control().pointee.changes) == thread.pointee.events.changes
  }

  /// What `announce` needs: a ring, memory, consumers that have taken what is in the way. False, and counted, if it
  /// can't be had.
  private static func makeRoom(_ thread: Thread, isInner: Bool) -> Bool {
    // In a signal handler the thread may hold the lock.
    if thread.pointee.events.ring == nil {
      guard !isInner, open(thread) else { return unrecorded(thread) }
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

  /// Backs the records below `count` with memory. Little at first: most threads make few events.
  private static func commit(_ thread: Thread, upTo count: UInt64) -> Bool {
    let committed = thread.pointee.events.committed
    guard committed < count else { return true }
    guard mayAsk(thread) else { return false }
    let capacity = thread.pointee.events.mask &+ 1
    let least = 4 * pageSize / recordSize
    let most = 64 * pageSize / recordSize
    let end = min(committed &+ min(max(committed, least), most), capacity)
    let start = UnsafeMutableRawPointer(thread.pointee.events.records + Int(committed))
    guard System.commit(start, (end - committed) * recordSize) else {
      refuse(thread)
      return false
    }
    if thread.pointee.events.committed < end { thread.pointee.events.committed = end }
    return true
  }

  /// Once a second, not at each event.
  private static func mayAsk(_ thread: Thread) -> Bool {
    let last = thread.pointee.events.retry_ticks
    return last == 0 || allocs_ticks_between(last, allocs_now()) > ALLOCS_TICKS_PER_SECOND
  }

  private static func refuse(_ thread: Thread) { thread.pointee.events.retry_ticks = allocs_now() | 1 }

  /// Gives the thread a ring.
  private static func open(_ thread: Thread) -> Bool {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      thread.pointee.slot != ALLOCS_THREAD_UNKNOWN, mayAsk(thread)
    else { return false }
    guard let (mapped, number) = locked(shared, { make(shared, header, thread.pointee.slot) }) else {
      refuse(thread)
      return false
    }
    thread.pointee.events.records = (mapped + Int(ALLOCS_RING_RECORDS_OFFSET)).assumingMemoryBound(
      to: allocs_event.self)
    thread.pointee.events.mask = shared.pointee.ring_records - 1
    thread.pointee.events.slot = thread.pointee.slot
    thread.pointee.events.number = UInt32(truncatingIfNeeded: number)
    thread.pointee.events.contexts = UnsafePointer(
      Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self))
    thread.pointee.events.taken = .max
    thread.pointee.events.changes = 0
    thread.pointee.events.ring = mapped.assumingMemoryBound(to: allocs_ring.self)
    return true
  }

  /// Maps the next ring of the segment. The caller holds the lock.
  private static func make(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ slot: UInt32
  ) -> (Address, UInt64)? {
    let section = Segment.section(header, ALLOCS_SECTION_RINGS)
    let number = shared.pointee.ring_count
    guard number < section.pointee.capacity, let anchor = shared.pointee.ring_anchor else { return nil }
    let stride = section.pointee.entry_size
    let size = number + 1 < section.pointee.capacity ? stride + pageSize : stride
    guard let mapped = System.grow(anchor, from: pageSize, to: size) else { return nil }
    shared.pointee.ring_anchor = nil
    guard System.commit(mapped, pageSize) else {
      shared.pointee.ring_anchor = System.grow(mapped, from: size, to: pageSize)?.assumingMemoryBound(to: UInt8.self)
      return nil
    }
    if size > stride { shared.pointee.ring_anchor = (mapped + Int(stride)).assumingMemoryBound(to: UInt8.self) }
    shared.pointee.ring_count = number + 1
    allocs_ring_mappings()[Int(number)] = mapped.assumingMemoryBound(to: UInt8.self)
    mapped.assumingMemoryBound(to: allocs_ring.self).pointee.slot = slot
    allocs_store_release_u64(&section.pointee.used, number + 1)
    return (mapped, number)
  }
}
