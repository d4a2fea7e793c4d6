// SPDX-License-Identifier: Apache-2.0
// The memory that lived at a moment of a recording, by allocation site: the table that `top` makes
// of a process.

import Answers
import Bounds
import IndexReader
import Provenance

extension Recording {
  /// Live bytes and blocks of a replayed moment by site, the `limit` largest. `wrappers` are passed
  /// over in the search for the sites.
  public func top(_ replay: Replay, limit: Int, wrappers: Wrappers = .standard) -> TopTable {
    TopTable(
      processID: process.processID, command: process.command,
      table: SiteTable(of: sums(of: replay), in: self, wrappers: wrappers, limit: limit), losses: knownLosses)
  }

  /// The parts that are missing from the recording; of a snapshot, from the index that it was made of.
  public var knownLosses: Losses {
    var losses = Losses()
    if end == .snapshot { losses.blocks = lostCount } else { losses.events = lostCount }
    return losses
  }

  /// Live bytes and blocks of a replayed moment by call stack.
  public func stackSums(_ replay: Replay, wrappers: Wrappers = .standard) -> StackSums {
    StackSums(
      of: sums(of: replay), in: self, wrappers: wrappers, processID: process.processID, command: process.command,
      modules: modules,
      clock: SegmentClock(
        startMonotonic: process.monotonic, startRealtime: process.realtime, elapsed: 0, isAlive: false),
      losses: knownLosses)
  }

  private func sums(of replay: Replay) -> [ContextSum] {
    var sums: [UInt32: ContextSum] = [:]
    var meter = BudgetMeter(interval: 1024)
    for block in replay.blocks.values {
      guard meter.goesOn() else { break }
      sums[
        block.context, default: ContextSum(context: block.context, total: SiteTable.Total(), ticks: block.ticks)
      ].total.add(SiteTable.Total(bytes: block.size, blocks: 1))
    }
    return sums.values.sorted { $0.context < $1.context }
  }
}
