// SPDX-License-Identifier: Apache-2.0
// Ranges of addresses that may overlap, and the search for all that hold an address: the modules of a process, the
// stacks of its threads. A process may have tens of thousands of them, and a question millions of addresses.
//
// Sorted by start; `reach[i]` is the greatest end among ranges 0...i. The search walks back from the last start at or
// below the address, and stops where no earlier range reaches the address. Where many ranges overlap, as in a process
// that means to be slow to look at, the walk is long: it asks the budget.

import Bounds

/// Ranges, each with its index in the list that the ranges came in.
package struct AddressRanges: Sendable {
  private struct Entry {
    var start: UInt64
    var end: UInt64
    var index: Int
  }

  private var entries: [Entry] = []
  private var reach: [UInt64] = []

  /// Of bounds: the first address, and the address behind the last. Empty ranges hold nothing.
  package init(_ bounds: some Sequence<(start: UInt64, end: UInt64)>) {
    for (index, bound) in bounds.enumerated() where bound.start < bound.end {
      entries.append(Entry(start: bound.start, end: bound.end, index: index))
    }
    entries.sort { ($0.start, $0.index) < ($1.start, $1.index) }
    reach.reserveCapacity(entries.count)
    var greatest: UInt64 = 0
    for entry in entries {
      greatest = max(greatest, entry.end)
      reach.append(greatest)
    }
  }

  /// Calls `body` with the index of each range that holds `address`, until `body` returns false.
  package func forEach(holding address: UInt64, _ body: (Int) -> Bool) {
    var meter = BudgetMeter()
    var place = entries.partitioningIndex { $0.start > address }
    while place > 0, meter.goesOn() {
      place &-= 1
      if reach[place] <= address { return }
      if entries[place].end > address, !body(entries[place].index) { return }
    }
  }

  /// The least index of the ranges that hold `address`; nil if none does.
  package func first(holding address: UInt64) -> Int? {
    var found: Int?
    forEach(holding: address) { index in
      found = min(found ?? index, index)
      return true
    }
    return found
  }
}
