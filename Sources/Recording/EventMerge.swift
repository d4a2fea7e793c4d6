// SPDX-License-Identifier: Apache-2.0
// The order of events of several chunks: a chunk has the events of many rings, which were read one
// after another, so the next chunk may begin with older events than the last one ended with.
//
// Each chunk is a run of records in the order of their stamps. The runs are a heap, by the stamp of
// their next record and, where stamps are equal, in the order of the chunks. So a record costs
// halvings of the number of runs, however many records wait, and for however long.

import Bounds
import IndexReader
import SharedLayout

/// Runs of records that wait for older ones.
struct EventMerge {
  private struct Run {
    var records: [allocs_event]
    var next = 0
    /// Runs that came before.
    var number: Int

    var key: (UInt64, Int) { (records[next].stamp, number) }
  }

  /// A heap: the key of each run is below those of the runs at twice its index + 1 and + 2. No run
  /// is empty.
  private var runs: [Run] = []
  private var runCount = 0
  /// The arrays of runs that were given out.
  private var used: [[allocs_event]] = []
  /// Records in the memory of runs, those before `next` included.
  private var held = 0
  /// So many records are held at most, 32 bytes each; only a damaged file has more that wait.
  private static let limit = 1 << 23
  /// So many records are given out at a time at most.
  private static let atOnce = 1 << 14

  /// Adds the records of the next chunk, which are in order (`sorted`): those with stamps from
  /// `from` on.
  mutating func add(_ records: [allocs_event], from: UInt64 = 0) {
    let next = from == 0 ? 0 : records.partitioningIndex { $0.stamp >= from }
    guard next < records.count else { return used.append(records) }
    held &+= records.count
    runs.append(Run(records: records, next: next, number: runCount))
    runCount &+= 1
    siftUp()
  }

  /// The arrays of records that were given out since the last call, for their memory.
  mutating func takeUsed() -> [[allocs_event]] {
    defer { used = [] }
    return used
  }

  /// Gives `body` the records with stamps below `limit`, in order, some at a time; all records if
  /// it is nil. Returns false if `body` did, or the budget is exhausted.
  mutating func drain<Failure: Error>(
    below limit: UInt64?, _ body: (ArraySlice<allocs_event>) throws(Failure) -> Bool
  ) throws(Failure) -> Bool {
    var limit = limit
    if held > Self.limit { limit = makeRoom() ? limit : nil }
    // Where the records of two runs alternate, each is given out by itself.
    var meter = BudgetMeter(interval: 64)
    while let first = runs.first, limit.map({ first.key.0 < $0 }) ?? true {
      // Records of the first run, until another run is next.
      let records = first.records
      let bound = runs.dropFirst().prefix(2).map(\.key).min { $0 < $1 } ?? (.max, .max)
      let start = first.next
      var next = start
      // Of records with equal stamps, those of the run that came first are first.
      let isEarlier = first.number < bound.1
      while next < records.count {
        let record = records[next]
        guard record.stamp < bound.0 || isEarlier && record.stamp == bound.0,
          limit.map({ record.stamp < $0 }) ?? true
        else { break }
        next &+= 1
        if next &- start == Self.atOnce { break }
      }
      guard meter.goesOn(), try body(records[start..<max(start, next)]) else { return false }
      if next == records.count { removeFirst() } else { runs[0].next = next }
      siftDown()
    }
    return true
  }

  /// Gives back the memory of records that were given out, where that is half of all. Returns false
  /// if too many records wait even so.
  private mutating func makeRoom() -> Bool {
    let waiting = runs.reduce(0) { $0 &+ $1.records.count &- $1.next }
    guard waiting <= Self.limit / 2 else { return false }
    for index in runs.indices {
      runs[index].records = Array(runs[index].records[runs[index].next...])
      runs[index].next = 0
    }
    held = waiting
    return true
  }

  private mutating func removeFirst() {
    held &-= runs[0].records.count
    runs.swapAt(0, runs.count &- 1)
    used.append(runs.removeLast().records)
  }

  private mutating func siftUp() {
    var index = runs.count &- 1
    while index > 0 {
      let parent = (index &- 1) >> 1
      guard runs[index].key < runs[parent].key else { return }
      runs.swapAt(index, parent)
      index = parent
    }
  }

  private mutating func siftDown() {
    var index = 0
    while true {
      var least = index
      for child in [2 &* index &+ 1, 2 &* index &+ 2] where child < runs.count && runs[child].key < runs[least].key {
        least = child
      }
      if least == index { return }
      runs.swapAt(index, least)
      index = least
    }
  }

  /// Sorts by stamp, in place where they are sorted already.
  static func sort(_ records: inout [allocs_event]) {
    let isSorted = records.indices.dropFirst().allSatisfy { records[$0 &- 1].stamp <= records[$0].stamp }
    if !isSorted { records = sorted(records) }
  }

  /// Sorts by stamp; records with equal stamps keep their order. A chunk is a few sorted pieces,
  /// one behind the other, as each was read from one ring: two and two of them are merged, until
  /// one is left.
  static func sorted(_ records: [allocs_event]) -> [allocs_event] {
    var ends: [Int] = []
    for index in records.indices.dropFirst() where records[index &- 1].stamp > records[index].stamp {
      ends.append(index)
    }
    guard !ends.isEmpty else { return records }
    ends.append(records.count)
    var (merged, spare) = (records, records)
    while ends.count > 1 {
      var (next, start): ([Int], Int) = ([], 0)
      for pair in stride(from: 0, to: ends.count, by: 2) {
        let middle = ends[pair]
        let end = pair &+ 1 < ends.count ? ends[pair &+ 1] : middle
        var (left, right, place) = (start, middle, start)
        while place < end {
          if left < middle, right >= end || merged[left].stamp <= merged[right].stamp {
            spare[place] = merged[left]
            left &+= 1
          } else {
            spare[place] = merged[right]
            right &+= 1
          }
          place &+= 1
        }
        next.append(end)
        start = end
      }
      swap(&merged, &spare)
      ends = next
    }
    return merged
  }
}
