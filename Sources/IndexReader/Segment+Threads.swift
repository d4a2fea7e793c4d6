// SPDX-License-Identifier: Apache-2.0
// Which thread: a slot of the thread table has one holder after another, and time tells them apart
// (allocs_thread.h).

import Bounds
import ByteText
import SharedLayout

extension Segment {
  /// The present holders of all thread slots. A thread that ended stays until its slot has another
  /// holder. Any thread may ask.
  public var threads: [ThreadIdentity] {
    read(ALLOCS_SECTION_THREADS) { holder(ofSlot: $0).map { identity($0) } }
  }

  /// Threads that ended and whose slot has another holder, oldest first: the last 32,768 of them,
  /// where the agent's tables have their full size.
  public var formerThreads: [ThreadIdentity] {
    let used = rawUsed(ALLOCS_SECTION_FORMER_THREADS)
    let count = min(used, UInt64(truncatingIfNeeded: geometry.sections[ALLOCS_SECTION_FORMER_THREADS].capacity))
    var meter = BudgetMeter(interval: 256)
    var found: [ThreadIdentity] = []
    var number = used &- count
    while number < used, meter.goesOn() {
      if let entry = former(number: number) { found.append(identity(entry.identity, state: .ended)) }
      number &+= 1
    }
    return found
  }

  /// The thread that held `slot` at a record's time, in ticks; nil if that is no longer known.
  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? {
    let index = Int(truncatingIfNeeded: slot)
    guard index < used(ALLOCS_SECTION_THREADS), let present = holder(ofSlot: index) else {
      return nil
    }
    // The slot has had no holder since, so a record after the holder's end is the holder's, too: a
    // late destructor made it.
    if Self.held(present.identity, hasSuccessor: false, at: ticks) { return identity(present) }
    var link = present.previous
    // Former holders are numbered in the order in which they ended, so a chain only leads
    // downwards.
    var meter = BudgetMeter(interval: 256)
    while link != 0, meter.goesOn(), let entry = former(number: link &- 1), entry.identity.slot == slot {
      if Self.held(entry.identity, hasSuccessor: true, at: ticks) { return identity(entry.identity, state: .ended) }
      guard entry.previous < link else { return nil }
      link = entry.previous
    }
    return nil
  }

  private static func held(_ identity: allocs_thread_identity, hasSuccessor: Bool, at ticks: UInt32) -> Bool {
    let since = allocs_ticks_between(identity.start_ticks, ticks)
    // Without an end, times from half a wrap on count as before the start.
    return hasSuccessor
      ? since <= allocs_ticks_between(identity.start_ticks, identity.end_ticks) : since < 1 << (ALLOCS_TICK_BITS - 1)
  }

  /// A copy of the entry of a slot, all of one moment but its counters; nil if the slot has had no
  /// holder, or the process died while it changed the entry.
  private func holder(ofSlot slot: Int) -> allocs_thread? {
    let entry = entry(slot, of: ALLOCS_SECTION_THREADS, as: allocs_thread.self)
    guard let copy = copySequenced(of: entry, into: allocs_thread()) else { return nil }
    return copy.state == ALLOCS_THREAD_FREE.rawValue || copy.state > ALLOCS_THREAD_ENDED.rawValue ? nil : copy
  }

  /// A copy of a former holder; nil if it was overwritten, or never existed.
  private func former(number: UInt64) -> allocs_former_thread? {
    let used = rawUsed(ALLOCS_SECTION_FORMER_THREADS)
    let capacity = UInt64(truncatingIfNeeded: geometry.sections[ALLOCS_SECTION_FORMER_THREADS].capacity)
    guard number < used, used &- number <= capacity, let index = (Foreign(number) % capacity).int(upTo: .max) else {
      return nil
    }
    let entry = entry(index, of: ALLOCS_SECTION_FORMER_THREADS, as: allocs_former_thread.self)
    let stamp = UnsafeRawPointer(entry).assumingMemoryBound(to: UInt64.self)
    guard allocs_load_acquire_u64(stamp) == number &+ 1 else { return nil }
    var copy = allocs_former_thread()
    copyWords(of: entry, into: &copy)
    allocs_fence_acquire()
    return allocs_load_relaxed_u64(stamp) == number &+ 1 ? copy : nil
  }

  private func identity(_ entry: allocs_thread) -> ThreadIdentity {
    let state: ThreadIdentity.State =
      switch entry.state {
      case ALLOCS_THREAD_LIVE.rawValue: .live
      case ALLOCS_THREAD_EXITING.rawValue: .exiting
      default: .ended
      }
    var thread = identity(entry.identity, state: state)
    if entry.stack_low < entry.stack_high { thread.stack = entry.stack_low..<max(entry.stack_low, entry.stack_high) }
    if entry.thread_pointer != 0 { thread.threadPointer = entry.thread_pointer }
    return thread
  }

  private func identity(_ entry: allocs_thread_identity, state: ThreadIdentity.State) -> ThreadIdentity {
    let name = withUnsafeBytes(of: entry.name) { bytes in
      ForeignText(reversibly: Array(bytes.prefix { $0 != 0 }))
    }
    return ThreadIdentity(
      id: entry.tid, name: name, slot: entry.slot, state: state, startTicks: entry.start_ticks,
      endTicks: state == .live ? nil : entry.end_ticks, stack: nil, allocations: entry.allocations, frees: entry.frees)
  }
}
