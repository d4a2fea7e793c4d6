// Stamps: the times of events, and with them the order of events of different threads.
//
// What is promised stands in allocs_ring.h: sorted by stamp, the events of all threads are a legal history. A clock
// that is exact costs more than the rest of an event (20 ns in a virtual machine, 11 for the counter alone, which may
// moreover be read before what precedes it has happened). So it is read only where the order hangs on it. The argument:
//
// 1. A stamp is never later than the moment at which it is taken. It is the greatest of: the coarse clock; one more
// than the
//    thread's last stamp; one more than the floor, which is a stamp of an earlier event; the exact clock, if that was read. One
//    nanosecond is less than an event takes, so the ones that are added up stay behind time.
// 2. So an event that takes the exact clock gets a greater stamp than every event of any thread before it.
// 3. Two events concern the same bytes in three ways only. They are of one thread: then stamps rise. Or a free, and
// later an allocation
//    of some of the bytes by another thread; or an allocation, and later the free by another thread. The later event has to take
//    the exact clock, unless it can tell that there was no such earlier event of another thread.
// 4. An allocation can tell if in all of the 64 KiB that it touches nobody but its own thread ever freed. A word for
// each of them says
//    who did: nobody, one thread, or several, which then stays so. A free sees to its words before the block goes back; the
//    allocator's own synchronization brings what it wrote to whoever gets the bytes next. From nobody to one thread goes a
//    compare-and-exchange, so that of two threads none is forgotten. A thread that finds its own number there has nothing to do.
// 5. A block that is large, or reaches into another region, does not look at words: its allocation takes the exact
// clock, its free
//    raises the floor to its stamp before the block goes back.
// 6. A free can tell that the block was allocated by its own thread, from the context in its slot; or that the
// allocation
//    is two ticks old: then the coarse clock has moved on since, and 1. gives the rest. The ticks in the slot are those that were read
//    with the stamp.
// 7. A realloc that failed puts back the old slot, with its old time: it raises the floor.

import AgentMachine
import SharedLayout

enum Stamps {
  private static let several: UInt16 = 0xFFFF
  private static let largeSize: UInt = 1 << UInt(ALLOCS_FREER_SHIFT)

  // MARK: the three kinds

  /// For an event that no other thread's could have to precede.
  @inline(__always)
  static func next(_ thread: Thread) -> UInt64 {
    let stamp = max(thread.pointee.events.stamp, floor) &+ 1
    guard let clock = allocs_process().pointee.coarse_clock,
      allocs_load_relaxed_u64(clock) == thread.pointee.events.clock_seconds,
      allocs_load_relaxed_u64(clock + 1) == thread.pointee.events.clock_nanoseconds
    else { return clockMoved(thread, stamp) }
    thread.pointee.events.stamp = stamp
    return stamp
  }

  /// For an allocation that the allocator below has made.
  @inline(__always)
  static func ofAllocation(
    _ thread: Thread, _ arena: UnsafeMutablePointer<UInt8>, _ base: UInt, _ size: UInt
  ) -> UInt64 {
    let stamp = next(thread)
    let own = number(thread)
    guard size <= largeSize, isInOneRegion(base, size) else { return exact(thread) }
    let first = allocs_load_relaxed_u16(freer(arena, base))
    let last = allocs_load_relaxed_u16(freer(arena, base &+ size))
    if first == own && last == own || first | last == 0 { return stamp }
    guard first == own || first == 0, last == own || last == 0 else { return exact(thread) }
    return stamp
  }

  /// For a free, before the block goes back. `head`: its slot.
  @inline(__always)
  static func ofFree(
    _ thread: Thread, _ arena: UnsafeMutablePointer<UInt8>, _ base: UInt, _ size: UInt, _ head: UInt64
  ) -> UInt64 {
    var stamp = next(thread)
    // Younger than two ticks, or ahead of time.
    let age = allocs_ticks_between(allocs_slot_ticks(head), thread.pointee.events.ticks)
    if age < 2 || age > ALLOCS_TICK_MASK / 2 {
      let context = allocs_slot_context(head)
      let word = allocs_load_relaxed_u64(thread.pointee.events.contexts + Int(context))
      if context == 0 || allocs_context_thread(word) != thread.pointee.events.slot { stamp = exact(thread) }
    }
    guard size <= largeSize, isInOneRegion(base, size) else {
      raiseFloor(to: stamp)
      return stamp
    }
    let own = number(thread)
    let first = freer(arena, base)
    let last = freer(arena, base &+ size)
    if allocs_load_relaxed_u16(first) != own { enter(own, first) }
    if allocs_load_relaxed_u16(last) != own { enter(own, last) }
    return stamp
  }

  // MARK: what nearly all events are

  /// Whether the coarse clock is where it was at the thread's last event.
  @inline(__always)
  private static func isClockSame(_ thread: Thread) -> Bool {
    guard let clock = allocs_process().pointee.coarse_clock else { return false }
    return (allocs_load_relaxed_u64(clock) ^ thread.pointee.events.clock_seconds)
      | (allocs_load_relaxed_u64(clock + 1) ^ thread.pointee.events.clock_nanoseconds) == 0
  }

  /// As `ofAllocation`, if no clock has to be read, and it lies within 64 KiB as most do; else 0, and nothing done.
  /// Calls nothing.
  @inline(__always)
  static func ofKnownAllocation(
    _ thread: Thread, _ arena: UnsafeMutablePointer<UInt8>, _ base: UInt, _ size: UInt
  ) -> UInt64 {
    guard isClockSame(thread), (base ^ (base &+ size)) >> UInt(ALLOCS_FREER_SHIFT) == 0 else { return 0 }
    let word = allocs_load_relaxed_u16(freer(arena, base))
    guard word == number(thread) || word == 0 else { return 0 }
    return max(thread.pointee.events.stamp, floor) &+ 1
  }

  /// As `ofFree`, likewise.
  @inline(__always)
  static func ofKnownFree(
    _ thread: Thread, _ arena: UnsafeMutablePointer<UInt8>, _ base: UInt, _ size: UInt, _ head: UInt64
  ) -> UInt64 {
    guard isClockSame(thread), (base ^ (base &+ size)) >> UInt(ALLOCS_FREER_SHIFT) == 0,
      allocs_load_relaxed_u16(freer(arena, base)) == number(thread)
    else { return 0 }
    let age = allocs_ticks_between(allocs_slot_ticks(head), thread.pointee.events.ticks)
    if age < 2 || age > ALLOCS_TICK_MASK / 2 {
      let context = allocs_slot_context(head)
      let word = allocs_load_relaxed_u64(thread.pointee.events.contexts + Int(context))
      guard context != 0, allocs_context_thread(word) == thread.pointee.events.slot else { return 0 }
    }
    return max(thread.pointee.events.stamp, floor) &+ 1
  }

  // MARK: clocks

  /// A new reading of the coarse clock. The vdso is called, for what was read may be half of the kernel's update.
  @inline(never)
  private static func clockMoved(_ thread: Thread, _ least: UInt64) -> UInt64 {
    if let clock = allocs_process().pointee.coarse_clock {
      thread.pointee.events.clock_seconds = allocs_load_relaxed_u64(clock)
      thread.pointee.events.clock_nanoseconds = allocs_load_relaxed_u64(clock + 1)
    }
    let now = allocs_nanoseconds_by_call(false)
    thread.pointee.events.ticks = allocs_ticks(now / 1_000_000_000, now % 1_000_000_000)
    let stamp = max(least, now)
    thread.pointee.events.stamp = stamp
    Consumers.checkLeases(thread.pointee.events.ticks)
    return stamp
  }

  /// Greater than the stamp of every event so far.
  @inline(never)
  private static func exact(_ thread: Thread) -> UInt64 {
    let stamp = max(thread.pointee.events.stamp, allocs_nanoseconds_by_call(true))
    thread.pointee.events.stamp = stamp
    return stamp
  }

  // MARK: the floor

  @inline(__always)
  private static var floor: UInt64 { allocs_load_relaxed_u64(&allocs_process().pointee.stamp_floor) }

  @inline(never)
  static func raiseFloor(to stamp: UInt64) {
    let word = withUnsafeMutablePointer(to: &allocs_process().pointee.stamp_floor) { $0 }
    var present = allocs_load_relaxed_u64(word)
    while present < stamp, !allocs_compare_exchange_u64(word, present, stamp) {
      present = allocs_load_relaxed_u64(word)
    }
  }

  // MARK: who freed

  @inline(__always)
  private static func number(_ thread: Thread) -> UInt16 {
    UInt16(truncatingIfNeeded: thread.pointee.events.slot &+ 1)
  }

  @inline(__always)
  private static func isInOneRegion(_ base: UInt, _ size: UInt) -> Bool {
    (base ^ (base &+ size)) >> UInt(ALLOCS_REGION_SHIFT) == 0
  }

  @inline(__always)
  private static func freer(_ arena: UnsafeMutablePointer<UInt8>, _ address: UInt) -> UnsafeMutablePointer<UInt16> {
    let index = Int(address >> UInt(ALLOCS_FREER_SHIFT)) & (1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_FREER_SHIFT) - 1)
    return UnsafeMutableRawPointer(arena + Int(ALLOCS_ARENA_FREERS_OFFSET))
      .assumingMemoryBound(to: UInt16.self) + index
  }

  @inline(never)
  private static func enter(_ own: UInt16, _ word: UnsafeMutablePointer<UInt16>) {
    if allocs_load_relaxed_u16(word) == several || allocs_compare_exchange_u16(word, 0, own) { return }
    if allocs_load_relaxed_u16(word) != own { allocs_store_relaxed_u16(word, several) }
  }
}
