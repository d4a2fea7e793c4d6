// SPDX-License-Identifier: Apache-2.0
// The memory that lived at a moment of a recording, by allocation site: the table that `top` makes
// of a process.

import Answers
import Provenance

extension Recording {
  /// Live bytes and blocks of a replayed moment by site, the `limit` largest. `wrappers` are passed
  /// over in the search for the sites.
  public func top(_ replay: Replay, limit: Int, wrappers: Wrappers = .standard) -> TopTable {
    var sums: [UInt32: ContextSum] = [:]
    for block in replay.blocks.values {
      sums[
        block.context, default: ContextSum(context: block.context, total: SiteTable.Total(), ticks: block.ticks)
      ].total.add(SiteTable.Total(bytes: block.size, blocks: 1))
    }
    var table = TopTable(
      processID: process.processID, command: process.command,
      table: SiteTable(
        of: sums.values.sorted { $0.context < $1.context }, in: self, wrappers: wrappers, limit: limit))
    table.lostEvents = lostCount
    return table
  }
}
