// SPDX-License-Identifier: Apache-2.0
// The memory that the debug information of all modules of a symbolizer may take while it is read.
//
// The symbolizer lets go of modules when they take too much, but only after each question. Questions about several
// modules at once would take the sum of all before that.

import Synchronization

/// A sum of bytes with a limit. Thread-safe.
final class MemoryShare: Sendable {
  private let limit: Int
  private let used = Atomic<Int>(0)

  init(limit: Int) { self.limit = limit }

  /// Takes `bytes`, 0 or more, if they are left.
  func take(_ bytes: Int) -> Bool {
    guard bytes <= limit else { return false }
    let sum = used.wrappingAdd(bytes, ordering: .relaxed).newValue
    if sum <= limit { return true }
    giveBack(bytes)
    return false
  }

  func giveBack(_ bytes: Int) { used.wrappingSubtract(bytes, ordering: .relaxed) }
}
