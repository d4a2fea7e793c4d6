// SPDX-License-Identifier: Apache-2.0
// Intervals of addresses that may nest or overlap, and the search for the innermost one that holds an address.
//
// Sorted by start, and at equal starts the preferred one last. The search begins at the last start at or below the
// address and wants the last interval before it that ends above the address. One interval may hold all others, so that a
// walk back would take as long as there are intervals: the greatest end of each group of intervals, of each group of
// groups and so on is kept, and groups that end too early are passed over.

struct IntervalIndex<Payload> {
  struct Interval {
    var start: UInt64
    /// One past the last address; greater than `start`.
    var end: UInt64
    var payload: Payload
  }

  private static var groupBits: Int { 5 }

  private var intervals: [Interval]
  /// The greatest ends: of each group of intervals first, of the whole last.
  private var reach: [[UInt64]] = []

  /// `isBetter(a, b)` decides between two intervals with the same start.
  init(_ unsorted: [Interval], isBetter: (Interval, Interval) -> Bool) {
    intervals = unsorted.filter { $0.start < $0.end }
    intervals.sort { a, b in a.start != b.start ? a.start < b.start : isBetter(b, a) }
    var ends = Self.greatest(of: intervals.lazy.map(\.end))
    while !ends.isEmpty {
      reach.append(ends)
      if ends.count == 1 { break }
      ends = Self.greatest(of: ends)
    }
  }

  private static func greatest(of ends: some Collection<UInt64>) -> [UInt64] {
    var result: [UInt64] = []
    for (index, end) in ends.enumerated() {
      if index & (1 << groupBits &- 1) == 0 {
        result.append(end)
      } else {
        result[result.count &- 1] = max(result.last ?? 0, end)
      }
    }
    return result
  }

  var isEmpty: Bool { intervals.isEmpty }
  var count: Int { intervals.count }
  /// Bytes of memory, for the cache's budget.
  var cost: Int { intervals.count &* (MemoryLayout<Interval>.stride &+ 1) }

  /// The interval with the greatest start that holds `address`.
  func innermost(at address: UInt64) -> Interval? {
    /// One past the last index at `level` that may be it; level 0 is of the intervals.
    var end = upperBound(address)
    var level = 0
    // Upwards, past groups that end too early.
    while true {
      let first = (end &- 1) & ~(1 << Self.groupBits &- 1)
      while end > max(first, 0), self.end(end &- 1, level) <= address { end &-= 1 }
      if end > max(first, 0) { break }
      guard end > 0 else { return nil }
      end >>= Self.groupBits
      level &+= 1
    }
    // Downwards, to the last one in it.
    var index = end &- 1
    while level > 0 {
      level &-= 1
      let first = index << Self.groupBits
      index = min(first | (1 << Self.groupBits &- 1), (level == 0 ? intervals.count : reach[level &- 1].count) &- 1)
      while index > first, self.end(index, level) <= address { index &-= 1 }
    }
    return intervals[index]
  }

  private func end(_ index: Int, _ level: Int) -> UInt64 {
    level == 0 ? intervals[index].end : reach[level &- 1][index]
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
      let middle = (low &+ high) / 2  // bounded: at most the number of intervals
      if intervals[middle].start <= address { low = middle &+ 1 } else { high = middle }
    }
    return low
  }
}
