// SPDX-License-Identifier: Apache-2.0
// Live memory by allocation site, or by another property (HeapGroup.swift), from sums by context: the table that `top`
// prints of a process and `replay` of a moment of a recording.
//
// A context is (stack, thread, function, allocator). Each stack is attributed to its site (StackNaming). Sites are told
// apart by return address, function and allocator; the stacks that lead through a site, and threads, are merged.

import Bounds
import ByteText
import IndexReader
import Symbols

/// Live bytes and blocks by allocation site, the first ones of an order.
public struct SiteTable: Hashable, Sendable {
  /// A sum.
  public struct Total: Hashable, Sendable {
    /// Bytes asked for.
    public var bytes: UInt64 = 0
    /// Live blocks.
    public var blocks: UInt64 = 0

    public init(bytes: UInt64 = 0, blocks: UInt64 = 0) {
      self.bytes = bytes
      self.blocks = blocks
    }

    /// Adds another sum; numbers of a damaged index wrap.
    package mutating func add(_ other: Total) {
      bytes &+= other.bytes
      blocks &+= other.blocks
    }
  }

  /// What was ever allocated, of which some lives (`Segment.total(ofContext:)`).
  public struct Allocated: Hashable, Sendable {
    /// Since the process began.
    public var total = Total()
    /// The blocks of it that live.
    public var live: UInt64 = 0

    public init(total: Total = Total(), live: UInt64 = 0) {
      self.total = total
      self.live = live
    }

    /// Blocks that were freed again. The numbers of a damaged index may contradict each other.
    public var freed: UInt64 { total.blocks > live ? total.blocks &- live : 0 }

    package mutating func add(_ other: Allocated) {
      total.add(other.total)
      live &+= other.live
    }
  }

  /// When the oldest and the newest block of a sum were made (`SegmentClock.order`).
  public struct Births: Hashable, Sendable {
    /// `.max` and 0 of no block, and where the times are not known.
    public var oldest: UInt64 = .max
    public var newest: UInt64 = 0

    public init() {}

    package mutating func add(_ order: UInt64) {
      oldest = min(oldest, order)
      newest = max(newest, order)
    }

    package mutating func add(_ other: Births) {
      oldest = min(oldest, other.oldest)
      newest = max(newest, other.newest)
    }
  }

  /// One row of the table: a site, or another group of blocks.
  public struct Site: Hashable, Sendable {
    /// The live memory that was allocated there.
    public var total: Total
    /// When its blocks were made.
    public var births = Births()
    /// What was ever allocated there; nil if that was not asked for, or is not known.
    public var allocated: Allocated?
    /// The allocation site, and the functions it is inlined into; empty if it is not known.
    public var frames: [Frame]
    /// The function that was called, such as `calloc`; nil if not known.
    public var function: ForeignText?
    /// Name of the allocator, else its module's file name; nil if not known.
    public var allocator: ForeignText?
    /// What the row's blocks have in common; nil where a table was put together otherwise.
    public var key: GroupKey?
    /// Of a table by threads: who allocated; nil if not known.
    public var thread: ThreadIdentity?
    /// The memory by when it was made: before the first moment that was asked for, between each two, since the last.
    /// Empty if no moments were asked for, or there are too many contexts to keep such sums.
    public var parts: [Total] = []

    public init(total: Total, frames: [Frame], function: ForeignText?, allocator: ForeignText?) {
      self.total = total
      self.frames = frames
      self.function = function
      self.allocator = allocator
    }
  }

  /// Sum of all sites.
  public var total: Total
  /// Number of sites, shown or not.
  public var siteCount: Int
  /// The sites that are shown.
  public var sites: [Site]
  /// Sum of the sites that are not shown.
  public var other: Total
  /// When the blocks of all sites were made, and those of the sites that are not shown.
  public var births = Births()
  public var otherBirths = Births()
  /// What was ever allocated at all sites, also at those without a live block, and at those that are not shown; nil if
  /// that was not asked for, or is not known.
  public var allocated: Allocated?
  public var otherAllocated: Allocated?
  /// What the rows are.
  public var grouping = HeapGrouping.site

  public init(total: Total, siteCount: Int, sites: [Site], other: Total) {
    self.total = total
    self.siteCount = siteCount
    self.sites = sites
    self.other = other
  }
}

/// In which order the rows of a table come.
public enum SiteOrder: String, CaseIterable, Sendable {
  /// Most bytes first.
  case bytes
  /// Most blocks first.
  case blocks
  /// The row of the oldest block first.
  case age
  /// The row of the newest block first.
  case newest
  /// By name; by size; by age, the youngest first.
  case name
  /// Most bytes ever allocated first, also where none of them lives.
  case rate

  /// Whether the first sum comes before the second; nil if this order does not tell.
  fileprivate func precedes(_ a: SiteTable.Sum, _ b: SiteTable.Sum) -> Bool? {
    switch self {
    case .age where a.births.oldest != b.births.oldest: a.births.oldest < b.births.oldest
    case .newest where a.births.newest != b.births.newest: a.births.newest > b.births.newest
    case .name: nil
    case .rate where a.allocated?.total.bytes != b.allocated?.total.bytes:
      a.allocated?.total.bytes ?? 0 > b.allocated?.total.bytes ?? 0
    case .blocks where a.total.blocks != b.total.blocks: a.total.blocks > b.total.blocks
    case _ where a.total.bytes != b.total.bytes: a.total.bytes > b.total.bytes
    case _: a.total.blocks == b.total.blocks ? nil : a.total.blocks > b.total.blocks
    }
  }
}

/// Live memory of one context, or of a part of it.
package struct ContextSum {
  package var context: UInt32
  package var total: SiteTable.Total
  package var births: SiteTable.Births
  /// The time of a record of the context, which tells which modules were loaded then.
  package var ticks: UInt32
  /// The class of sizes or ages, where the table is by these.
  package var bucket: UInt32 = 0
  /// What was ever allocated in the context; nil if that is not known.
  package var allocated: SiteTable.Total?
  /// As of `SiteTable.Site`; nil where they are not known.
  package var parts: [SiteTable.Total]? = []

  package init(
    context: UInt32, total: SiteTable.Total, births: SiteTable.Births = SiteTable.Births(), ticks: UInt32
  ) {
    self.context = context
    self.total = total
    self.births = births
    self.ticks = ticks
  }

  /// Adds what was made at one moment (`SegmentClock.order`).
  package mutating func add(_ total: SiteTable.Total, _ order: UInt64) {
    self.total.add(total)
    births.add(order)
  }
}

extension SiteTable {
  fileprivate struct Sum {
    var total = Total()
    var births = Births()
    var allocated: Allocated?
    /// The origin of one of the contexts, and the time of a record of it: their stack is one that leads through the
    /// site.
    var origin: Origin?
    var ticks: UInt32 = 0
    var parts: [Total]? = []

    init(_ origin: Origin?, _ ticks: UInt32) {
      self.origin = origin
      self.ticks = ticks
    }

    mutating func add(_ context: ContextSum) {
      total.add(context.total)
      births.add(context.births)
      if let total = context.allocated {
        allocated = allocated ?? Allocated()
        allocated?.add(Allocated(total: total, live: context.total.blocks))
      }
      guard context.total.blocks > 0 else { return }
      guard let more = context.parts, parts != nil else {
        parts = nil
        return
      }
      if parts?.isEmpty == true { parts = Array(repeating: Total(), count: more.count) }
      for (index, part) in more.enumerated() { parts?[index].add(part) }
    }
  }

  /// The first `limit` rows in the order of `sort`, from the sums of all contexts of `tables`. `freed`: contexts in
  /// which something was allocated of which nothing lives. Rows of these alone are listed in the order `rate`.
  package init(
    of contexts: some Sequence<ContextSum>, freed: some Sequence<ContextSum> = EmptyCollection<ContextSum>(),
    in tables: any OriginTables, wrappers: Wrappers, sort: SiteOrder = .bytes, by grouping: HeapGrouping = .site,
    limit: Int
  ) {
    let naming = GroupNaming(grouping, tables, wrappers: wrappers)
    var sums: [GroupKey: Sum] = [:]
    var meter = BudgetMeter(interval: 64)
    func add(_ context: ContextSum) {
      let origin = tables.context(context.context)
      let key = naming.key(origin, ticks: context.ticks, bucket: context.bucket)
      sums[key, default: Sum(origin, context.ticks)].add(context)
    }
    for context in contexts where context.total.blocks > 0 {
      guard meter.goesOn() else { break }
      add(context)
    }
    for context in freed {
      guard meter.goesOn() else { break }
      add(context)
    }
    let allocated = Self.allocated(by: sums.values)
    if sort != .rate { sums = sums.filter { $0.value.total.blocks > 0 } }
    // Equal sums in a fixed order, so that two tables of one state are equal.
    let sorted = sums.sorted { sort.precedes($0.value, $1.value) ?? ($0.key < $1.key) }
    let limit = max(0, limit)
    self.init(total: Total(), siteCount: sorted.count, sites: [], other: Total())
    self.grouping = grouping
    self.allocated = allocated
    for (index, (_, sum)) in sorted.enumerated() {
      total.add(sum.total)
      births.add(sum.births)
      guard index >= limit else { continue }
      other.add(sum.total)
      otherBirths.add(sum.births)
    }
    otherAllocated = Self.allocated(by: sorted.dropFirst(limit).map(\.value))  // bounded: at least 0, above
    for (key, sum) in sorted.prefix(limit) {  // bounded: at least 0, above
      let isSite = grouping == .site
      var site = Site(
        total: sum.total, frames: isSite ? naming.frames(sum.origin, ticks: sum.ticks) : [],
        function: isSite ? sum.origin?.function : nil, allocator: isSite ? sum.origin?.allocator : nil)
      site.births = sum.births
      site.allocated = sum.allocated
      site.key = key
      if grouping == .thread { site.thread = naming.thread(sum.origin, sum.ticks) }
      site.parts = sum.parts ?? []
      sites.append(site)
    }
  }

  /// nil if none of the sums has a total.
  private static func allocated(by sums: some Sequence<Sum>) -> Allocated? {
    sums.reduce(nil) { result, sum in
      guard let more = sum.allocated else { return result }
      var result = result ?? Allocated()
      result.add(more)
      return result
    }
  }
}
