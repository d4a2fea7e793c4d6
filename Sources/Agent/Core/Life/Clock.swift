// SPDX-License-Identifier: Apache-2.0
// Clock: finds where the kernel keeps its coarse monotonic clock, in the page that the vdso reads.
//
// The layout of that page is the kernel's own affair and changes. But the page holds
// CLOCK_MONOTONIC_COARSE as two words, seconds and nanoseconds, and a system call tells the values
// of both: that 128 bits agree by chance does not happen. The words may be absent (another time
// namespace, an old kernel); then the vdso is called for the time.

import AgentMachine
import SharedLayout

enum Clock {
  private static let pageSize = Int(ALLOCS_PAGE_SIZE)

  static func find(_ process: UnsafeMutablePointer<allocs_process>) {
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
        return
      }
    }
  }
}
