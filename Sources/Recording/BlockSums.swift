// SPDX-License-Identifier: Apache-2.0
// Live memory by context: sums over the blocks of a moment, each of which is looked at once.
//
// Ids of contexts are foreign numbers. Those of the recording's table are indices of an array; the
// others, of which an honest recording has none, are looked up by hash.

import Answers
import Provenance

/// Sums of blocks by their contexts.
struct BlockSums {
  private struct Entry {
    var total = SiteTable.Total()
    /// The least and the greatest place in time of its blocks; and the ticks of the newest.
    var oldest = Int64.max
    var newest = Int64.min
    var ticks: UInt32 = 0

    @inline(__always)
    mutating func add(_ size: UInt64, _ ticks: UInt32, at place: Int64) {
      total.bytes &+= size
      total.blocks &+= 1
      oldest = min(oldest, place)
      guard place > newest else { return }
      (newest, self.ticks) = (place, ticks)
    }
  }

  private var entries: [Entry]
  private var others: [UInt32: Entry] = [:]
  private let share = MemoryShare()

  /// `contexts`: ids below this number have places in an array.
  init(contexts: Int) {
    share.hold(contexts &* MemoryLayout<Entry>.stride)
    entries = Array(repeating: Entry(), count: max(contexts, 1))  // bounded: as many as rows in memory
  }

  /// Adds a block. `place`: when it was made; numbers of one order for all blocks.
  @inline(__always)
  mutating func add(_ block: ReplayedBlock, at place: Int64) {
    let index = Int(truncatingIfNeeded: block.context)
    guard index < entries.count else { return addOther(block, at: place) }
    entries[index].add(block.size, block.ticks, at: place)
  }

  @inline(never)
  private mutating func addOther(_ block: ReplayedBlock, at place: Int64) {
    // Before it grows: a chunk of blocks may have millions of contexts, and the budget is asked
    // once a chunk.
    let size = entries.count &* MemoryLayout<Entry>.stride &+ (others.count &+ 1) &* 128
    guard share.hold(size) else { return }
    others[block.context, default: Entry()].add(block.size, block.ticks, at: place)
  }

  private var all: some Sequence<(UInt32, Entry)> {
    let known = entries.enumerated().lazy.filter { $0.element.total.blocks > 0 }
      .map { (UInt32(truncatingIfNeeded: $0.offset), $0.element) }
    return [Array(known), others.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }].joined()
  }

  /// Of all blocks.
  var total: SiteTable.Total { all.reduce(into: SiteTable.Total()) { $0.add($1.1.total) } }

  /// The places of the oldest and of the newest block; nil if there are none.
  var places: ClosedRange<Int64>? {
    all.reduce(nil) { found, entry in
      let (oldest, newest) = (entry.1.oldest, max(entry.1.oldest, entry.1.newest))
      guard let found else { return oldest...newest }  // bounded: the newest is not below the oldest
      return min(found.lowerBound, oldest)...max(found.upperBound, newest)  // bounded: grows on both sides
    }
  }

  /// The sums, by the contexts' ids. `order`: of a place in time (`SegmentClock.order`).
  func sums(order: (Int64) -> UInt64) -> [ContextSum] {
    all.map { context, entry in
      var births = SiteTable.Births()
      births.add(order(entry.oldest))
      births.add(order(entry.newest))
      return ContextSum(context: context, total: entry.total, births: births, ticks: entry.ticks)
    }
  }
}

/// Tells whether blocks have different bases. An index is read in the order of addresses: so bases
/// that ascend need no more than a comparison each. A file may have any.
struct AscendingRuns {
  /// The first and the last base of each run that has ended.
  private var runs: [(first: UInt64, last: UInt64)] = []
  private var current: (first: UInt64, last: UInt64)?
  /// Files of more runs are taken for disordered.
  private static let limit = 1 << 12
  private var isDisordered = false

  @inline(__always)
  mutating func add(_ base: UInt64) {
    if let last = current?.last, last < base {
      current?.last = base
    } else {
      begin(base)
    }
  }

  @inline(never)
  private mutating func begin(_ base: UInt64) {
    if runs.count >= Self.limit { isDisordered = true }
    if let current, !isDisordered { runs.append(current) }
    current = (base, base)
  }

  /// Whether all bases ascend.
  var isOne: Bool { runs.isEmpty && !isDisordered }

  /// Whether surely no base came twice.
  var areDistinct: Bool {
    guard !isDisordered else { return false }
    let all = (runs + [current].compactMap { $0 }).sorted { $0.first < $1.first }
    return zip(all, all.dropFirst()).allSatisfy { $0.last < $1.first }
  }
}
