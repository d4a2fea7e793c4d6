// SPDX-License-Identifier: Apache-2.0
// Stamps: the times of events, and with them the order of events of different threads.
//
// The promise stands in allocs_ring.h: sorted by stamp, the events of all threads are a legal
// history. To read an exact clock costs more than the rest of an event: 20 ns in a virtual machine.
// The counter instruction alone costs 11, and may be read before what precedes it has happened. So
// the exact clock is read only where the order depends on it. Why that is enough:
//
// 1. A stamp is never later than the moment at which it is taken. It is the greatest of: the coarse
//    clock; the thread's last stamp plus one; the floor plus one; the exact clock, if that was
//    read. The floor is a stamp of an earlier event. One nanosecond is less than an event takes, so
//    the additions never overtake time.
// 2. So an event that takes the exact clock gets a greater stamp than every earlier event of any
//    thread.
// 3. Two events concern the same bytes in three ways only. First, both are of one thread: stamps of
//    a thread rise. Second, a free, and later an allocation of some of the bytes by another thread.
//    Third, an allocation, and later the free of the block by another thread. In the second and
//    third case the later event has to take the exact clock, unless it can tell that there was no
//    such earlier event of another thread.
// 4. An allocation can tell if nobody but its own thread ever freed anything in the 64 KiB areas
//    that it touches. Each such area has a word (`freers` of the arena) that says who freed there:
//    nobody, one thread, or several, which then stays so. A free sees to the words of its block
//    before the block goes back, and the allocator's own synchronization brings that store to
//    the thread that gets the bytes next. A word goes from nobody to one thread by
//    compare-and-exchange, so that neither of two threads is forgotten. A thread that finds its own
//    number there has nothing to do.
// 5. A block that is larger than 64 KiB, or reaches into another region, does not use words. Its
//    allocation takes the exact clock. Its free raises the floor to its own stamp before the block
//    goes back.
// 6. A free can tell that its own thread allocated the block, from the context in the slot. Or it
//    can tell that the allocation is two ticks old: the coarse clock has moved on since, so by 1
//    the free's stamp is the greater one. The ticks in the slot were read together with the
//    allocation's stamp.
// 7. A realloc that failed puts back the old slot, with its old time: it raises the floor.

import AgentMachine
import SharedLayout

enum Stamps {
  private static let several: UInt16 = 0xFFFF
  private static let largeSize: UInt = 1 << UInt(ALLOCS_FREER_SHIFT)

  // MARK: the three kinds

  /// A stamp for an event that no event of another thread has to precede.
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

  /// A stamp for an allocation, after the allocator returned the block. `arena` belongs to
  /// the block's region.
  @inline(__always)
  static func ofAllocation(
    _ thread: Thread, _ arena: Arena, _ base: UInt, _ size: UInt
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

  /// A stamp for a free, before the block goes back. `head` is the head in the block's slot.
  @inline(__always)
  static func ofFree(
    _ thread: Thread, _ arena: Arena, _ base: UInt, _ size: UInt, _ head: UInt64
  ) -> UInt64 {
    var stamp = next(thread)
    if isOfAnotherThread(thread, head) { stamp = exact(thread) }
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

  // MARK: the quick path, which nearly all events take

  /// Whether the coarse clock is where it was at the thread's last event.
  @inline(__always)
  private static func isClockSame(_ thread: Thread) -> Bool {
    guard let clock = allocs_process().pointee.coarse_clock else { return false }
    return (allocs_load_relaxed_u64(clock) ^ thread.pointee.events.clock_seconds)
      | (allocs_load_relaxed_u64(clock + 1) ^ thread.pointee.events.clock_nanoseconds) == 0
  }

  /// As `ofAllocation`, if no clock has to be read and the block lies within one area of 64 KiB, as
  /// most blocks do. Else 0, and nothing done. Calls nothing.
  @inline(__always)
  static func ofKnownAllocation(
    _ thread: Thread, _ arena: Arena, _ base: UInt, _ size: UInt
  ) -> UInt64 {
    guard isClockSame(thread), (base ^ (base &+ size)) >> UInt(ALLOCS_FREER_SHIFT) == 0 else { return 0 }
    let word = allocs_load_relaxed_u16(freer(arena, base))
    guard word == number(thread) || word == 0 else { return 0 }
    return max(thread.pointee.events.stamp, floor) &+ 1
  }

  /// As `ofFree`, under the conditions of `ofKnownAllocation`.
  @inline(__always)
  static func ofKnownFree(
    _ thread: Thread, _ arena: Arena, _ base: UInt, _ size: UInt, _ head: UInt64
  ) -> UInt64 {
    guard isClockSame(thread), (base ^ (base &+ size)) >> UInt(ALLOCS_FREER_SHIFT) == 0,
      allocs_load_relaxed_u16(freer(arena, base)) == number(thread)
    else { return 0 }
    guard !isOfAnotherThread(thread, head) else { return 0 }
    return max(thread.pointee.events.stamp, floor) &+ 1
  }

  /// Whether another thread may have made the allocation whose head is `head`, less than two ticks
  /// ago. An age that seems to be of the future counts as none.
  @inline(__always)
  private static func isOfAnotherThread(_ thread: Thread, _ head: UInt64) -> Bool {
    let age = allocs_ticks_between(allocs_slot_ticks(head), thread.pointee.events.ticks)
    guard age < 2 || age > ALLOCS_TICK_MASK / 2 else { return false }
    let context = allocs_slot_context(head)
    let word = allocs_load_relaxed_u64(thread.pointee.events.contexts + Int(context))
    return context == 0 || allocs_context_thread(word) != thread.pointee.events.slot
  }

  // MARK: clocks

  /// The coarse clock has moved: gives a stamp that is no less than `least`. The vdso is called,
  /// since the two words that were read may come from two sides of an update by the kernel.
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

  /// A stamp that is greater than the stamp of every event so far.
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

  /// The thread's mark in the words that say who freed.
  @inline(__always)
  private static func number(_ thread: Thread) -> UInt16 {
    UInt16(truncatingIfNeeded: thread.pointee.events.slot &+ 1)
  }

  @inline(__always)
  private static func isInOneRegion(_ base: UInt, _ size: UInt) -> Bool {
    (base ^ (base &+ size)) >> UInt(ALLOCS_REGION_SHIFT) == 0
  }

  /// The word that says who freed in the 64 KiB around `address`.
  @inline(__always)
  private static func freer(_ arena: Arena, _ address: UInt) -> UnsafeMutablePointer<UInt16> {
    let index = Int(address >> UInt(ALLOCS_FREER_SHIFT)) & (1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_FREER_SHIFT) - 1)
    return UnsafeMutableRawPointer(arena.start + Int(ALLOCS_ARENA_FREERS_OFFSET))
      .assumingMemoryBound(to: UInt16.self) + index
  }

  /// Notes in `word` that thread `own` frees there.
  @inline(never)
  private static func enter(_ own: UInt16, _ word: UnsafeMutablePointer<UInt16>) {
    if allocs_load_relaxed_u16(word) == several || allocs_compare_exchange_u16(word, 0, own) { return }
    if allocs_load_relaxed_u16(word) != own { allocs_store_relaxed_u16(word, several) }
  }
}
