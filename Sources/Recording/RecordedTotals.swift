// SPDX-License-Identifier: Apache-2.0
// Totals in a snapshot: bytes and blocks that a process had ever allocated, by context, as of the
// look that the snapshot was made of (allocs_total.h). Recordings with events have none.

import Answers
import IndexReader
import Provenance
import SharedLayout
import SystemAccess

/// The totals of a snapshot.
struct RecordedTotals {
  /// A context, by its number in the recording, and what was ever allocated in it.
  typealias Row = (context: UInt32, total: SiteTable.Total)

  /// How long the process had counted.
  var nanoseconds: UInt64 = 0
  /// Blocks that were allocated without a context, and so are in no total.
  var withoutContext: UInt64 = 0
  var rows: [Row] = []
}

extension RecordingWriter {
  /// Writes what was ever allocated, if the process keeps it. It comes last, so no context
  /// has more live blocks than it ever had.
  func appendTotals() {
    guard shared.segment.hasTotals else { return }
    let isAlive = shared.segment.isProcessAlive
    let clock = shared.segment.clock(isAlive: isAlive)
    let seconds = shared.secondsCounted(on: clock, isAlive: isAlive)
    // bounded: floating point, which never traps
    var all = RecordedTotals(nanoseconds: UInt64(max(0, min(seconds, 1e9)) * 1e9))
    all.withoutContext = shared.segment.counters.first { $0.name == "unknown_contexts" }?.value ?? 0
    // A recording has the chunks that blocks of pools lie in, and not these blocks: they would all
    // count as freed.
    let pools = Set(shared.segment.allocators.filter { $0.kind == .suballocator }.map(\.number))
    shared.segment.forEachTotal { id, total in
      if !pools.isEmpty, let allocator = shared.segment.context(id)?.allocator, pools.contains(allocator.number) {
        return
      }
      guard let number = number(noting: id, at: clock.ticksNow) else { return }
      all.rows.append((number, SiteTable.Total(bytes: total.bytes, blocks: total.blocks)))
    }
    appendTables()
    // One chunk at least: it says that there are totals.
    var rest = all.rows[...]
    repeat {
      append(.totals, TableCoding.encode(rest.prefix(Self.tableRows), of: all))
      rest = rest.dropFirst(Self.tableRows)
    } while !rest.isEmpty
  }
}

extension Recording {
  /// Why what was ever allocated can't be told; nil if it can.
  public func totalsObstacle(_ scope: HeapScope) -> Complaint? {
    guard scope.window.isAll else {
      return Complaint(
        .usage, what: "what was ever allocated is counted since the process began, and not for a window of time",
        advice: "leave the window out")
    }
    // Totals may be missing, contexts that they are of, or blocks, which would count as freed.
    if end == .snapshot || totals != nil, let problem = problems.first {
      return Complaint(
        .noTotals, what: "what was ever allocated is not known, as \(path) is not whole: \(problem)",
        advice: "ask of a snapshot that is whole")
    }
    guard totals == nil else { return nil }
    return Complaint(
      .noTotals, what: "\(path) has not what its process had ever allocated",
      advice: end == .snapshot
        ? "the process did not keep it, or the snapshot is of an earlier version"
        : "recordings have the events; `allocsctl snapshot` writes files that have it")
  }

  /// The sums with what was ever allocated, and those of contexts of which nothing lives; the
  /// latter are nil if the scope does not want them, or they are not known.
  func withTotals(
    _ sums: [ContextSum], _ scope: HeapScope
  ) -> (sums: [ContextSum], freed: [ContextSum]?) {
    guard scope.wantsTotals, totalsObstacle(scope) == nil, let totals else { return (sums, nil) }
    var rest: [UInt32: SiteTable.Total] = [:]
    for row in totals.rows { rest[row.context] = row.total }
    let share = MemoryShare()
    share.hold(rest.count &* 160)
    let live = sums.map { sum in
      var sum = sum
      sum.allocated = rest.removeValue(forKey: sum.context)
      return sum
    }
    let ticks = allocs_event_ticks(endStamp)
    let freed = rest.sorted { $0.key < $1.key }.map { context, total in
      var sum = ContextSum(context: context, total: SiteTable.Total(), ticks: ticks)
      sum.allocated = total
      return sum
    }
    return (live, freed)
  }
}
