// SPDX-License-Identifier: Apache-2.0
// Shortage: how long the agent waits before it asks again for memory that it was refused.
//
// A file system that is full stays full for a while. Asking is a system call, so the agent asks
// once a second, not at each allocation or event. Each user has a word of its own that notes the
// last refusal: the tick at which it came, 0 if there was none.

import AgentMachine
import SharedLayout

enum Shortage {
  /// Whether memory may be asked for: there was no refusal, or a second has passed since.
  static func mayAsk(_ refusal: UnsafeMutablePointer<UInt32>) -> Bool {
    let last = allocs_load_relaxed_u32(refusal)
    guard last != 0 else { return true }
    guard allocs_ticks_between(last, allocs_now()) > ALLOCS_TICKS_PER_SECOND else { return false }
    allocs_store_relaxed_u32(refusal, 0)
    return true
  }

  /// Memory was asked for in vain.
  static func begin(_ refusal: UnsafeMutablePointer<UInt32>) {
    let now = allocs_now()
    allocs_store_relaxed_u32(refusal, now == 0 ? 1 : now)
  }
}
