// What all threads of a process have called: two sums, which must differ by the number of live blocks.
//
// - A thread's entry counts what the thread did. When an entry gets another holder, what the last one did moves to
//   two counters of the header, and a third counter is odd meanwhile (Threads.swift of the agent).
// - Between a slot's store and the count of it a thread is in the middle of a hook: by so many blocks the sums may be
//   off.

import SharedLayout

public struct CallSums: Hashable, Sendable {
  /// Calls that returned a block which was recorded.
  public var allocations: UInt64
  /// Recorded blocks that were given back.
  public var frees: UInt64

  /// How many blocks must live.
  public var live: UInt64 { allocations &- frees }
}

extension Segment {
  /// nil if they are not known: threads found no room for an entry, or an entry is being passed on.
  public var callSums: CallSums? {
    let values = headerField(\.counters, as: UInt64.self)
    func counter(_ counter: allocs_counter) -> UInt64 { allocs_load_acquire_u64(values + Int(counter.rawValue)) }
    let moved = counter(ALLOCS_COUNTER_SUMS_MOVED)
    guard moved & 1 == 0, counter(ALLOCS_COUNTER_UNKNOWN_THREADS) == 0 else { return nil }
    var sums = CallSums(
      allocations: counter(ALLOCS_COUNTER_ENDED_ALLOCATIONS), frees: counter(ALLOCS_COUNTER_ENDED_FREES))
    forEachThreadEntry { entry in
      let identity = UnsafeRawPointer(entry) + MemoryLayout<allocs_thread>.offset(of: \.identity)!
      func word(_ field: PartialKeyPath<allocs_thread_identity>) -> UInt64 {
        let place = identity + MemoryLayout<allocs_thread_identity>.offset(of: field)!
        return allocs_load_relaxed_u64(place.assumingMemoryBound(to: UInt64.self))
      }
      sums.allocations &+= word(\.allocations)
      sums.frees &+= word(\.frees)
    }
    allocs_fence_acquire()
    return counter(ALLOCS_COUNTER_SUMS_MOVED) == moved ? sums : nil
  }

  /// Threads that had not ended when they were last heard of: each may have been in the middle of a hook.
  public var unfinishedThreadCount: Int {
    var count = 0
    forEachThreadEntry { entry in
      let place = UnsafeRawPointer(entry) + MemoryLayout<allocs_thread>.offset(of: \.state)!
      let state = allocs_load_relaxed_u32(place.assumingMemoryBound(to: UInt32.self))
      if state == ALLOCS_THREAD_LIVE.rawValue || state == ALLOCS_THREAD_EXITING.rawValue { count += 1 }
    }
    return count
  }

  private func forEachThreadEntry(_ body: (UnsafePointer<allocs_thread>) -> Void) {
    let table = entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self)
    for slot in 0..<used(ALLOCS_SECTION_THREADS) { body(table + slot) }
  }
}
