// SPDX-License-Identifier: Apache-2.0
// Intervals of addresses that may nest or overlap, and the search for the innermost one that holds an address.
//
// Sorted by start, and at equal starts the preferred one last. `reach[i]` is the greatest end among intervals 0...i:
// the search walks back from the last start at or below the address, and stops where no earlier interval reaches it.

struct IntervalIndex<Payload> {
  struct Interval {
    var start: UInt64
    /// One past the last address; greater than `start`.
    var end: UInt64
    var payload: Payload
  }

  private var intervals: [Interval]
  private var reach: [UInt64]

  /// `isBetter(a, b)` decides between two intervals with the same start.
  init(_ unsorted: [Interval], isBetter: (Interval, Interval) -> Bool) {
    intervals = unsorted.filter { $0.start < $0.end }
    intervals.sort { a, b in a.start != b.start ? a.start < b.start : isBetter(b, a) }
    reach = []
    reach.reserveCapacity(intervals.count)
    var greatest: UInt64 = 0
    for interval in intervals {
      greatest = max(greatest, interval.end)
      reach.append(greatest)
    }
  }

  var isEmpty: Bool { intervals.isEmpty }
  /// Bytes of memory, for the cache's budget.
  var cost: Int { intervals.count * (MemoryLayout<Interval>.stride + 8) }

  /// The interval with the greatest start that holds `address`.
  func innermost(at address: UInt64) -> Interval? {
    var position = upperBound(address)
    while position > 0 {
      position -= 1
      if reach[position] <= address { return nil }
      if intervals[position].end > address { return intervals[position] }
    }
    return nil
  }

  /// The first interval that starts above `address`.
  func first(above address: UInt64) -> Interval? {
    let position = upperBound(address)
    return position < intervals.count ? intervals[position] : nil
  }

  /// Number of intervals that start at or below `address`.
  private func upperBound(_ address: UInt64) -> Int {
    var low = 0
    var high = intervals.count
    while low < high {
      let middle = (low + high) / 2
      if intervals[middle].start <= address { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
