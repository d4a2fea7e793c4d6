// SPDX-License-Identifier: Apache-2.0
// The memory that lived at a moment of a recording, by allocation site: the table that `top` makes
// of a process; and by call stack. Ages, and windows of time that are told as ages, are as of the
// moment.

import Answers
import Bounds
import IndexReader
import Provenance
import SharedLayout

extension Recording {
  /// Live bytes and blocks of a replayed moment by site, the `limit` first in the order of `sort`.
  /// `stamp`: the moment; nil: the recording's end.
  public func top(
    _ replay: Replay, at stamp: UInt64? = nil, limit: Int, sort: SiteOrder = .bytes, scope: HeapScope = HeapScope()
  ) -> TopTable {
    let stamp = stamp ?? endStamp
    let clock = clock(of: replay, at: stamp)
    return TopTable(
      processID: process.processID, command: process.command,
      table: SiteTable(
        of: sums(of: replay, scope.window, clock), in: self, wrappers: scope.wrappers, sort: sort, limit: limit),
      losses: knownLosses, clock: clock, scope, sort: sort, moment: wallTime(of: stamp))
  }

  /// The parts that are missing from the recording; of a snapshot, from the index that it was made
  /// of.
  public var knownLosses: Losses {
    var losses = Losses()
    if end == .snapshot { losses.blocks = lostCount } else { losses.events = lostCount }
    return losses
  }

  /// Live bytes and blocks of a replayed moment by call stack.
  public func stackSums(
    _ replay: Replay, at stamp: UInt64? = nil, scope: HeapScope = HeapScope()
  ) -> StackSums {
    let stamp = stamp ?? endStamp
    let clock = clock(of: replay, at: stamp)
    var result = StackSums(
      of: sums(of: replay, scope.window, clock), in: self, wrappers: scope.wrappers, processID: process.processID,
      command: process.command, modules: modules, clock: clock, window: scope.window, losses: knownLosses,
      moment: wallTime(of: stamp))
    result.startTime = process.startTime
    return result
  }

  /// A clock as of `stamp`, on which every block has an order.
  private func clock(of replay: Replay, at stamp: UInt64) -> SegmentClock {
    let now = allocs_event_ticks(stamp)
    let half: UInt32 = 1 << (ALLOCS_TICK_BITS &- 1)
    // Ticks wrap around: what is half a wrap older is younger, as a damaged recording may have it.
    let oldest = replay.blocks.reduce(UInt32(0)) { oldest, block in
      let age = allocs_age_ticks(block.ticks, now)
      return age < half ? max(oldest, age) : oldest
    }
    return SegmentClock(
      at: stamp, oldest: now &- oldest, monotonic: process.monotonic, realtime: process.realtime)
  }

  private func sums(of replay: Replay, _ window: TimeWindow, _ clock: SegmentClock) -> [ContextSum] {
    let orders = window.orders(on: clock)
    var sums: [UInt32: ContextSum] = [:]
    var meter = BudgetMeter(interval: 1024)
    for block in replay.blocks {
      guard meter.goesOn() else { break }
      let order = clock.order(ofTicks: block.ticks)
      if let orders, !orders.contains(order) { continue }
      let none = ContextSum(context: block.context, total: SiteTable.Total(), ticks: block.ticks)
      sums[block.context, default: none].add(SiteTable.Total(bytes: block.size, blocks: 1), order)
    }
    return sums.values.sorted { $0.context < $1.context }
  }
}
