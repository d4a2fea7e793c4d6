// SPDX-License-Identifier: Apache-2.0
// The memory that lived at a moment of a recording, by allocation site: the table that `top` makes
// of a process; and by call stack. Ages, and windows of time that are told as ages, are as of the
// moment.

import Answers
import Bounds
import ByteText
import IndexReader
import Provenance
import SharedLayout

extension Recording {
  /// Live bytes and blocks of a moment by site, the `limit` first in the order of `sort`. `replay`:
  /// of the moment; nil of a recording that `isStill`. `stamp`: the moment; nil: the recording's
  /// end.
  public func top(
    _ replay: Replay?, at stamp: UInt64? = nil, limit: Int, sort: SiteOrder = .bytes, scope: HeapScope = HeapScope()
  ) -> TopTable {
    let stamp = stamp ?? endStamp
    let (clock, live) = sums(of: replay, at: stamp, scope.window)
    let (sums, freed) = withTotals(live, scope)
    var table = TopTable(
      processID: process.processID, command: process.command,
      table: SiteTable(
        of: sums, freed: freed ?? [], in: self, wrappers: scope.wrappers, sort: sort, limit: limit),
      losses: knownLosses, clock: clock, scope, sort: sort, moment: wallTime(of: stamp))
    table.marks = markList(at: stamp)
    if let totals, freed != nil {
      table.setTotals(seconds: Double(totals.nanoseconds) / 1e9, withoutContext: totals.withoutContext)
    } else if scope.wantsTotals {
      table.setTotals(problem: totalsObstacle(scope)?.what ?? "")
    }
    return table
  }

  /// The parts that are missing from the recording; of a snapshot, from the index that it was made
  /// of.
  public var knownLosses: Losses {
    var losses = Losses()
    if end == .snapshot { losses.blocks = lostCount } else { losses.events = lostCount }
    losses.problems = problems.map { ForeignText($0) }
    return losses
  }

  /// Live bytes and blocks of a moment by call stack; `replay` and `stamp` as of `top`.
  public func stackSums(
    _ replay: Replay?, at stamp: UInt64? = nil, scope: HeapScope = HeapScope()
  ) -> StackSums {
    let stamp = stamp ?? endStamp
    let (clock, live) = sums(of: replay, at: stamp, scope.window)
    let (sums, freed) = withTotals(live, scope)
    var result = StackSums(
      of: sums, freed: freed, in: self, wrappers: scope.wrappers, processID: process.processID,
      command: process.command, modules: modules, clock: clock, window: scope.window, losses: knownLosses,
      moment: wallTime(of: stamp))
    result.startTime = process.startTime
    result.marks = markList(at: stamp)
    return result
  }

  /// A clock as of `stamp`, on which blocks have orders from the oldest on. `oldest`: its place in
  /// time (`place`).
  func clock(at stamp: UInt64, oldest: Int64) -> SegmentClock {
    let age = UInt32(truncatingIfNeeded: max(0, 0 &- oldest))
    return SegmentClock(
      at: stamp, oldest: allocs_event_ticks(stamp) &- age, monotonic: process.monotonic, realtime: process.realtime)
  }

  /// A clock as of `stamp`, on which every block has an order, and the sums of the blocks in a
  /// window of time.
  private func sums(
    of replay: Replay?, at stamp: UInt64, _ window: TimeWindow
  ) -> (clock: SegmentClock, sums: [ContextSum]) {
    func forEach(_ body: (ReplayedBlock) -> Void) {
      var meter = BudgetMeter(interval: 1024)
      guard let blocks = replay?.blocks else { return forEachBlocks { for block in $0 { body(block) } } }
      for block in blocks {
        guard meter.goesOn() else { return }
        body(block)
      }
    }
    let now = allocs_event_ticks(stamp)
    var all = replay == nil && stamp == endStamp ? stillSums : nil
    if all == nil {
      var sums = BlockSums(contexts: contextCount)
      forEach { sums.add($0, at: Self.place(ofTicks: $0.ticks, from: now)) }
      all = sums
    }
    let places = all?.places ?? 0...0
    let clock = clock(at: stamp, oldest: places.lowerBound)
    func order(ofPlace place: Int64) -> UInt64 {
      clock.order(ofTicks: now &+ UInt32(truncatingIfNeeded: place))
    }
    // Ticks wrap around. Where no block's time does, on this clock, orders are as far apart as
    // places.
    let isStraight =
      Int64(clamping: order(ofPlace: places.upperBound)) &- Int64(clamping: order(ofPlace: places.lowerBound))
      == places.upperBound &- places.lowerBound
    if let all, window.isAll, isStraight { return (clock, all.sums(order: order)) }
    let orders = window.orders(on: clock)
    var sums = BlockSums(contexts: contextCount)
    forEach { block in
      let order = clock.order(ofTicks: block.ticks)
      if let orders, !orders.contains(order) { return }
      sums.add(block, at: Int64(clamping: order))
    }
    return (clock, sums.sums { UInt64(clamping: $0) })
  }
}
