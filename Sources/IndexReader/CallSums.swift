// SPDX-License-Identifier: Apache-2.0
// How often all threads of a process have allocated and freed: two sums, which must differ by the
// number of live blocks.
//
// - A thread's entry counts the calls of the thread. When an entry gets another holder, the counts
//   of the last holder move to two counters of the header, and a third counter is odd meanwhile
//   (Threads.swift of the agent).
// - A thread in the middle of a hook may have stored a slot and not yet counted it, or the other
//   way round: the sums may be off by one for each such thread.

import SharedLayout

/// Calls of all threads since the process's start.
public struct CallSums: Hashable, Sendable {
  /// Calls that returned a block which was recorded.
  public var allocations: UInt64
  /// Recorded blocks that were given back.
  public var frees: UInt64

  /// How many blocks must live; wraps around if the sums contradict each other.
  public var live: UInt64 { allocations &- frees }
}

extension Segment {
  /// The sums at this moment, or nil if they are not known: because threads found no room for an
  /// entry, or because an entry is getting another holder right now. Reads every thread's entry;
  /// any thread may ask.
  public var callSums: CallSums? {
    let values = headerField(\.counters, as: UInt64.self)
    // bounded: a counter's number is below ALLOCS_COUNTER_COUNT
    func counter(_ counter: allocs_counter) -> UInt64 { allocs_load_acquire_u64(values + Int(counter.rawValue)) }
    let moved = counter(ALLOCS_COUNTER_SUMS_MOVED)
    guard moved & 1 == 0, counter(ALLOCS_COUNTER_UNKNOWN_THREADS) == 0 else { return nil }
    var sums = CallSums(
      allocations: counter(ALLOCS_COUNTER_ENDED_ALLOCATIONS), frees: counter(ALLOCS_COUNTER_ENDED_FREES))
    forEachThreadEntry { entry in
      // bounded: both words lie in the entry
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

  /// How many threads had not ended, as far as the index knows. Each of them may have been in the
  /// middle of a hook when the process ended.
  public var unfinishedThreadCount: Int {
    var count = 0
    forEachThreadEntry { entry in
      // bounded: there are 32,767 entries at most, and the word lies in one
      let place = UnsafeRawPointer(entry) + MemoryLayout<allocs_thread>.offset(of: \.state)!
      let state = allocs_load_relaxed_u32(place.assumingMemoryBound(to: UInt32.self))
      if state == ALLOCS_THREAD_LIVE.rawValue || state == ALLOCS_THREAD_EXITING.rawValue { count += 1 }
    }
    return count
  }

  private func forEachThreadEntry(_ body: (UnsafePointer<allocs_thread>) -> Void) {
    // bounded: the table has 32,767 entries at most
    for slot in 0..<used(ALLOCS_SECTION_THREADS) {
      body(entry(slot, of: ALLOCS_SECTION_THREADS, as: allocs_thread.self))
    }
  }
}
