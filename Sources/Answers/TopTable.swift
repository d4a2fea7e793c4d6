// SPDX-License-Identifier: Apache-2.0
// Live memory of a process by who allocated it, or by another property of blocks: one pass over all live allocations,
// summed by context. From the sums by context, SiteTable makes those by allocation site.

import Bounds
import Glibc
import IndexReader
import Provenance
import SystemAccess

/// Live bytes and blocks of a process by allocation site, of now or of a moment of a recording.
public struct TopTable: Hashable, Sendable {
  public typealias Total = SiteTable.Total
  public typealias Site = SiteTable.Site

  /// The ages of a row: none, that of its oldest block, or that of its newest, by which the rows are sorted.
  enum Ages: Hashable, Sendable {
    case none, oldest, newest

    init(sort: SiteOrder, _ window: TimeWindow) {
      self = sort == .newest ? .newest : sort == .age || !window.isAll ? .oldest : .none
    }
  }

  public var processID: Int32
  public var command: [ForeignText]
  public var table: SiteTable
  /// The known losses of the index.
  public var losses: Losses
  /// Of a process: when its blocks were looked at.
  var look: Look?
  /// Which ages the table for people has a column of.
  var ages = Ages.none
  /// Seconds for which the process has counted what it ever allocated; nil if that was not asked for, or is not known.
  var totalSeconds: Double?
  /// Why it has no such numbers, though they were asked for.
  var totalsProblem: String?
  /// Blocks that were ever allocated without a context, and so are in no total.
  var withoutContext: UInt64 = 0
  /// Of a process, or of a recording of it: its marks.
  package var marks: MarkList?
  /// Of a process: memory that it mapped itself, and that no block of the table lies in; nothing where mappings are
  /// among the rows, or not all blocks are.
  var mappedBeside = Total()

  public init(processID: Int32, command: [ForeignText], table: SiteTable, losses: Losses = Losses()) {
    self.processID = processID
    self.command = command
    self.table = table
    self.losses = losses
  }

  /// A table of the blocks that lived at a moment of a recording, in seconds since 1970-01-01 UTC; the clock is as of
  /// that moment.
  package init(
    processID: Int32, command: [ForeignText], table: SiteTable, losses: Losses, clock: SegmentClock, _ scope: HeapScope,
    sort: SiteOrder, moment: Double
  ) {
    self.init(processID: processID, command: command, table: table, losses: losses)
    look = Look(clock: clock, window: scope.window, moment: moment)
    ages = Ages(sort: sort, scope.window)
  }

  public var total: Total { table.total }
  /// The number of sites, shown or not.
  public var siteCount: Int { table.siteCount }
  /// The sites that are shown.
  public var sites: [Site] { table.sites }
  /// The sum of the sites that are not shown.
  public var other: Total { table.other }
}

extension ProcessView {
  /// The first `limit` sites, or other groups, in the order of `sort`. Reads every slot that was ever used: some 100 ms
  /// for 10 million allocations.
  public func top(
    limit: Int = 20, sort: SiteOrder = .bytes, by grouping: HeapGrouping = .site, scope: HeapScope = HeapScope()
  ) throws(Complaint) -> TopTable {
    let isAlive = isProcessAlive
    let clock = shared.segment.clock(isAlive: isAlive)
    var scope = try placed(scope, on: clock)
    if sort == .rate {
      scope.wantsTotals = true
      if let obstacle = totalsObstacle(scope, by: grouping) { throw obstacle }
    }
    let (sums, losses) = try sums(scope, clock: clock, by: grouping)
    var table = TopTable(
      processID: processID, command: shared.segment.command,
      table: SiteTable(
        of: sums.sums, freed: sums.freed(at: clock.ticksNow), in: tables, wrappers: scope.wrappers, sort: sort,
        by: grouping, limit: limit),
      losses: losses)
    if scope.wantsTotals, let obstacle = totalsObstacle(scope, by: grouping) {
      table.totalsProblem = obstacle.what
    } else if scope.wantsTotals {
      table.totalSeconds = shared.secondsCounted(on: clock, isAlive: isAlive)
      table.withoutContext = shared.segment.counters.first { $0.name == "unknown_contexts" }?.value ?? 0
    }
    table.look = Look(clock: clock, window: scope.window, hasEnded: !isAlive)
    table.marks = marks(on: clock)
    if scope.window.isAll, scope.group == nil, !scope.countsMappings { table.mappedBeside = mappedBeside() }
    table.ages = TopTable.Ages(sort: sort, scope.window)
    try checkIntact()
    return table
  }
  /// Mappings that are looked at, the largest: each costs a microsecond or two.
  private static let mappingLimit = 1024

  /// What the program mapped to write to, and in which no block lies: memory of an allocator of its own, such as
  /// CPython's arenas.
  private func mappedBeside() -> TopTable.Total {
    var total = TopTable.Total()
    // Of pools the chunks alone are known by their place.
    if shared.segment.hasSuballocations { return total }
    let own = mappedRanges.records(of: shared.segment).filter {
      $0.isAnonymous && !$0.isBreak && !$0.isAgent && ($0.isMoved || $0.protection & 2 != 0)
    }
    var meter = BudgetMeter(interval: 16)
    func size(_ record: MappingRecord) -> UInt64 { record.range.upperBound &- record.range.lowerBound }
    // bounded: it is a constant
    for record in own.sorted(by: { size($0) > size($1) }).prefix(Self.mappingLimit) {
      guard meter.goesOn() else { break }
      let next = shared.segment.allocation(after: record.range.lowerBound &- 1)
      if let next, record.range.contains(next.base) { continue }
      total.add(TopTable.Total(bytes: size(record), blocks: 1))
    }
    return total
  }
}
