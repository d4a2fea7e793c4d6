// SPDX-License-Identifier: Apache-2.0
// Clock: finds where the kernel keeps its coarse monotonic clock, in the page that the vdso reads.
//
// The layout of that page is the kernel's own affair and changes. But the page holds
// CLOCK_MONOTONIC_COARSE as two words, seconds and nanoseconds, and a system call tells the values
// of both: that 128 bits agree by chance does not happen. The words may be absent (another time
// namespace, an old kernel); then the vdso is called for the time.
//
// The two words change some hundred times a second, and programs allocate some million times. So
// each thread keeps the words that it saw last, with the time that they mean. While the clock's
// words are these, the time is that time, exactly; else the thread looks anew.

import AgentMachine
import SharedLayout

enum Clock {
  private static let pageSize = Int(ALLOCS_PAGE_SIZE)

  static func find(_ process: UnsafeMutablePointer<allocs_process>) {
    process.pointee.clock_words = allocs_no_clock()
    guard let page = UnsafePointer<UInt64>(bitPattern: Process.startOfMapping("[vvar]")) else { return }
    // A timer interrupt between the system call and the search makes the search fail.
    for _ in 0..<3 {
      let now = System.nanoseconds(.monotonicCoarse)
      let seconds = now / 1_000_000_000
      let nanoseconds = now % 1_000_000_000
      for index in 0..<pageSize / 8 - 1
      where allocs_load_relaxed_u64(page + index) == seconds && allocs_load_relaxed_u64(page + index + 1) == nanoseconds
      {
        process.pointee.coarse_clock = page + index
        process.pointee.clock_words = page + index
        return
      }
    }
  }

  // MARK: the time of a record

  /// Whether the clock is where it was when the thread looked last: then `time` of the thread's
  /// block is now. False where the words were not found. The process must have been started.
  @inline(__always)
  static func isSame(_ thread: Thread) -> Bool {
    let clock = allocs_process().pointee.clock_words.unsafelyUnwrapped
    return (allocs_load_relaxed_u64(clock) ^ thread.pointee.clock_seconds)
      | (allocs_load_relaxed_u64(clock + 1) ^ thread.pointee.clock_nanoseconds) == 0
  }

  /// Now, where the head of a slot has it.
  @inline(__always)
  static func time(_ thread: Thread) -> UInt64 { isSame(thread) ? thread.pointee.time : look(thread) }

  /// The thread looks at the clock. A signal handler may jump out in the middle (LeftCalls), so the
  /// time is noted before the words that vouch for it; and of the words the nanoseconds first: they
  /// come with older seconds, which the clock will never have again, or they are the last store.
  @inline(never)
  private static func look(_ thread: Thread) -> UInt64 {
    guard let clock = allocs_process().pointee.coarse_clock else {
      return allocs_slot_time_bits(allocs_ticks_by_call())
    }
    let seconds = allocs_load_relaxed_u64(clock)
    let nanoseconds = allocs_load_relaxed_u64(clock + 1)
    let time = allocs_slot_time_bits(allocs_ticks(seconds, nanoseconds))
    thread.pointee.time = time
    allocs_fence_signal()
    thread.pointee.clock_nanoseconds = nanoseconds
    allocs_fence_signal()
    thread.pointee.clock_seconds = seconds
    return time
  }
}
