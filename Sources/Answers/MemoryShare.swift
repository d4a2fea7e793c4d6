// SPDX-License-Identifier: Apache-2.0
// The memory of one collection that grows with foreign data, taken off the current budget in pieces, and given back
// when the collection goes.

import Bounds
import Synchronization

/// What one collection has taken. To be asked by one thread at a time.
package final class MemoryShare: Sendable {
  private let budget: Budget?
  private let taken = Atomic<Int>(0)
  /// A collection asks the budget once for so many bytes.
  private static let piece = 1 << 20

  package init() { budget = Budget.current }

  deinit { budget?.giveBack(bytes: taken.load(ordering: .relaxed)) }

  /// Notes that the collection has `bytes` bytes by now. Cheap where it has grown by little. Returns whether it may
  /// have so many: to be asked before it grows by much at once. A loop in which it grows by little each time asks a
  /// BudgetMeter whether it may go on.
  @discardableResult
  package func hold(_ bytes: Int) -> Bool {
    let former = taken.load(ordering: .relaxed)
    guard bytes > former, let budget else { return true }
    let more = max(Self.piece, bytes &- former)
    taken.store(former &+ more, ordering: .relaxed)
    return budget.spend(bytes: more)
  }
}
