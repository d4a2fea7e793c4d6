// SPDX-License-Identifier: Apache-2.0
// Consumers: the agent's side of the control file. Makes the file, lets threads wait for lossless
// consumers, and sends away consumers that no longer live. The protocol stands in allocs_control.h.
//
// Threat: other processes write to the file. The agent reads each word of it once, and only
// compares the word: a position, a number of nanoseconds that is limited here, whether an entry is
// taken. No word decides which memory the agent touches.

import AgentMachine
import SharedLayout

enum Consumers {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let count = Int(ALLOCS_CONSUMER_COUNT)

  // MARK: the file

  /// Makes PID.STARTTIME.ctl in `directory`. Where that fails, events can only be on from the
  /// start.
  static func create(
    in directory: Int, _ pid: UInt32, _ startTime: UInt64, _ shared: UnsafeMutablePointer<allocs_shared>
  ) {
    var name = Text()
    name.append(UInt64(pid))
    name.append(".")
    name.append(startTime)
    name.append(".ctl")
    name.withCString { path in
      typealias Flags = System.OpenFlags
      let flags = Flags.readWrite | Flags.create | Flags.exclusive | Flags.noFollow
      var descriptor = System.open(in: directory, path, flags, mode: 0o600)
      if descriptor == System.exists {
        _ = System.unlink(in: directory, path)
        descriptor = System.open(in: directory, path, flags, mode: 0o600)
      }
      guard descriptor >= 0 else { return }
      let isMade = map(descriptor, shared)
      System.close(descriptor)
      guard isMade else {
        _ = System.unlink(in: directory, path)
        return
      }
      let control = allocs_control()
      control.pointee.version = ALLOCS_CONTROL_VERSION
      control.pointee.size = UInt32(ALLOCS_CONTROL_SIZE)
      control.pointee.start_time = startTime
      control.pointee.pid = pid
      allocs_store_release_u64(&control.pointee.magic, UInt64(ALLOCS_CONTROL_MAGIC))
    }
  }

  private static func map(_ descriptor: Int, _ shared: UnsafeMutablePointer<allocs_shared>) -> Bool {
    let size = UInt64(ALLOCS_CONTROL_SIZE)
    guard System.limit(.fileSize) >= size, System.truncate(descriptor, size) >= 0 else { return false }
    let offset = UInt64(ALLOCS_CONTROL_POSITIONS_OFFSET)
    guard let positions = System.map(descriptor, at: offset, size - offset) else { return false }
    guard System.keepFromChildren(positions, size - offset) else {
      System.unmap(positions, size - offset)
      return false
    }
    // The first page gets its memory while it is mapped elsewhere. Once it lies over the agent's
    // own page, a failure could only be undone by a new page of zeros.
    guard let draft = System.map(descriptor, at: 0, pageSize) else {
      System.unmap(positions, size - offset)
      return false
    }
    let isCommitted = System.commit(draft, pageSize)
    System.unmap(draft, pageSize)
    guard isCommitted, System.map(descriptor, over: UnsafeMutableRawPointer(allocs_control()), pageSize) else {
      System.unmap(positions, size - offset)
      return false
    }
    allocs_process().pointee.has_control = 1
    shared.pointee.positions = positions.assumingMemoryBound(to: UInt8.self)
    return true
  }

  /// Turns events on at the start, before any consumer can have come.
  static func turnOn(for reason: allocs_always) {
    let control = allocs_control()
    control.pointee.always = reason.rawValue
    _ = allocs_fetch_add_u32(&control.pointee.periods, 1)
    allocs_store_release_u32(&control.pointee.events, 1)
  }

  // MARK: positions

  /// How many records below `position` of the thread's ring some lossless consumer has not taken,
  /// at most. Waits for that consumer if `mayWait`. Gives 0 if all have taken all of them, which
  /// the thread's `taken` notes.
  static func missing(_ thread: Thread, below position: UInt64, mayWait: Bool) -> UInt64 {
    guard let shared = allocs_process().pointee.shared, shared.pointee.positions != nil else {
      thread.pointee.events.taken = .max
      thread.pointee.events.changes = allocs_load_acquire_u32(&allocs_control().pointee.changes)
      return 0
    }
    var deadline: UInt64 = 0
    while true {
      let changes = allocs_load_acquire_u32(&allocs_control().pointee.changes)
      var taken = UInt64.max
      var slowest = -1
      var given = UInt64.max  // the lowest position of a consumer that was not waited for in vain
      for index in 0..<count {
        guard let place = self.position(shared, thread, index) else { continue }
        let value = allocs_load_acquire_u64(place)
        if value < taken { taken = value }
        if value < given, allocs_given_up(thread)[index] != value &+ 1 {
          given = value
          slowest = index
        }
      }
      thread.pointee.events.taken = taken
      thread.pointee.events.changes = changes
      if taken >= position { return 0 }
      guard mayWait, given < position, slowest >= 0 else { return position - taken }
      let now = allocs_nanoseconds_by_call(true)
      if deadline == 0 {
        deadline = now &+ waitLimit(shared, slowest)
        Index.count(ALLOCS_COUNTER_EVENTS_WAITS)
      } else if now >= deadline {
        allocs_given_up(thread)[slowest] = given &+ 1
        deadline = 0
        continue
      }
      wait(shared, thread, slowest, for: position, until: deadline, now)
    }
  }

  /// Where consumer `index` keeps its position of the thread's ring; nil if there is no such
  /// consumer, or it is not lossless.
  private static func position(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ thread: Thread, _ index: Int
  ) -> UnsafeMutablePointer<UInt64>? {
    let consumer = allocs_consumer(UInt32(index))
    let owner = UInt32(truncatingIfNeeded: allocs_load_acquire_u64(&consumer.pointee.owner))
    guard owner != 0, allocs_load_acquire_u32(&consumer.pointee.ready) == owner,
      allocs_load_relaxed_u32(&consumer.pointee.policy) == ALLOCS_POLICY_LOSSLESS.rawValue,
      let positions = shared.pointee.positions
    else { return nil }
    let offset =
      allocs_control_position_offset(UInt32(index), thread.pointee.events.number)
      - UInt64(ALLOCS_CONTROL_POSITIONS_OFFSET)
    // A consumer backs its positions with memory when it comes. But it is not to be trusted with
    // that: the agent would get SIGBUS.
    let page = offset / pageSize
    let bit = UInt64(1) << (page % 64)
    let pages = allocs_position_pages(shared) + index
    if allocs_load_relaxed_u64(pages) & bit == 0 {
      guard System.commit(UnsafeMutableRawPointer(positions) + Int(page * pageSize), pageSize) else { return nil }
      _ = allocs_fetch_or_u64(pages, bit)
    }
    return (UnsafeMutableRawPointer(positions) + Int(offset)).assumingMemoryBound(to: UInt64.self)
  }

  /// How long a thread waits for the consumer, in nanoseconds.
  private static func waitLimit(_ shared: UnsafeMutablePointer<allocs_shared>, _ index: Int) -> UInt64 {
    let asked = allocs_load_relaxed_u64(&allocs_consumer(UInt32(index)).pointee.wait_ns)
    return min(asked == 0 ? shared.pointee.wait_ns : asked, ALLOCS_WAIT_NANOSECONDS_MAX)
  }

  /// Sleeps until the consumer's position moves, 5 ms at most.
  private static func wait(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ thread: Thread, _ index: Int, for needed: UInt64,
    until deadline: UInt64, _ now: UInt64
  ) {
    guard let place = position(shared, thread, index), let ring = thread.pointee.events.ring else { return }
    allocs_store_relaxed_u32(&ring.pointee.waiting, 1)
    // The consumer stores its position, makes a full fence, and looks at `waiting`. So one of the
    // two sees the other's store: the consumer wakes this thread, or the new position is found
    // here.
    allocs_fence_full()
    let value = allocs_load_acquire_u64(place)
    if value < needed {
      let slice: UInt64 = 5_000_000
      System.waitShared(
        on: UnsafeMutableRawPointer(place).assumingMemoryBound(to: UInt32.self),
        while: UInt32(truncatingIfNeeded: value), nanoseconds: min(deadline - now, slice))
    }
    allocs_store_relaxed_u32(&ring.pointee.waiting, 0)
    let time = allocs_nanoseconds_by_call(false)
    checkLeases(allocs_ticks(time / 1_000_000_000, time % 1_000_000_000))
  }

  // MARK: leases

  /// Sends away consumers whose beat has stopped, and turns events off if the last of them went.
  /// Looks at them four times a second at most.
  @inline(never)
  static func checkLeases(_ now: UInt32) {
    guard let shared = allocs_process().pointee.shared, shared.pointee.positions != nil else { return }
    let word = withUnsafeMutablePointer(to: &shared.pointee.leases_ticks) { $0 }
    let last = allocs_load_relaxed_u32(word)
    guard allocs_ticks_between(last, now) >= ALLOCS_TICKS_PER_SECOND / 4, allocs_compare_exchange_u32(word, last, now)
    else { return }
    var isWanted = false
    for index in 0..<count {
      let consumer = allocs_consumer(UInt32(index))
      let lease = allocs_leases(shared) + index
      let owner = allocs_load_acquire_u64(&consumer.pointee.owner)
      let beat = allocs_load_relaxed_u64(&consumer.pointee.beat)
      if owner == 0 || owner != lease.pointee.owner || beat != lease.pointee.beat {
        lease.pointee.owner = owner
        lease.pointee.beat = beat
        lease.pointee.since = now
        if owner != 0 { isWanted = true }
        continue
      }
      let limit = UInt32(ALLOCS_LEASE_NANOSECONDS / 1_000_000_000) * ALLOCS_TICKS_PER_SECOND
      let age = allocs_ticks_between(lease.pointee.since, now)
      guard age > limit, age < ALLOCS_TICK_MASK / 2 else {
        isWanted = true
        continue
      }
      guard allocs_compare_exchange_u64(&consumer.pointee.owner, owner, 0) else { continue }
      lease.pointee.owner = 0
      _ = allocs_fetch_add_u32(&allocs_control().pointee.changes, 1)
      Index.count(ALLOCS_COUNTER_CONSUMERS_EXPELLED)
    }
    if !isWanted { turnOffIfUnwanted() }
  }

  /// Turns events off if no consumer is left, unless they are to stay on without one.
  private static func turnOffIfUnwanted() {
    let control = allocs_control()
    let period = allocs_events_period()
    guard period != 0, allocs_load_relaxed_u32(&control.pointee.always) == 0, !hasOwners else { return }
    guard allocs_compare_exchange_u32(&control.pointee.events, period, 0) else { return }
    // A consumer that came meanwhile may have found events on. With the fences on both sides, it is
    // found here, or it finds that events are off.
    allocs_fence_full()
    guard hasOwners else { return }
    let next = allocs_fetch_add_u32(&control.pointee.periods, 1) &+ 1
    _ = allocs_compare_exchange_u32(&control.pointee.events, 0, next == 0 ? 1 : next)
  }

  /// Whether any entry is taken by a consumer.
  private static var hasOwners: Bool {
    for index in 0..<count where allocs_load_acquire_u64(&allocs_consumer(UInt32(index)).pointee.owner) != 0 {
      return true
    }
    return false
  }
}
