// SPDX-License-Identifier: Apache-2.0
// Live blocks of a process one by one, with their addresses: those of some sites, of some sizes, of a window of time.

import Bounds
import ByteText
import Glibc
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// Which blocks a list is about.
public struct BlockFilter: Sendable {
  public var scope: HeapScope
  /// Patterns of functions, in the form that patterns of wrappers have: a block is meant if its allocation site, or a
  /// function that is inlined there, fits one. Nil: all blocks are meant.
  public var sites: Wrappers?
  /// Names as tables show them, perhaps shortened; a block is meant also if its site has one of these.
  public var siteNames: Set<String> = []
  /// Bytes asked for.
  public var sizes: ClosedRange<UInt64> = 0...UInt64.max

  /// `names`: of functions, as patterns of wrappers have them, or as tables show them with the place behind. Throws
  /// `.usage` if one is no pattern.
  public init(
    scope: HeapScope = HeapScope(), siteNames names: [String], sizes: ClosedRange<UInt64> = 0...UInt64.max
  ) throws(Complaint) {
    let names = names.map { name in
      // The place behind the name, as in `put (shop.cc:12)`.
      guard name.hasSuffix(")"), let start = name.lastIndex(of: "("), name[..<start].hasSuffix(" ") else { return name }
      return String(name[..<start].dropLast())
    }
    self.init(
      scope: scope, sites: names.isEmpty ? nil : try Wrappers.none.adding(names, of: "site"), sizes: sizes)
    siteNames = Set(names)
  }

  public init(scope: HeapScope = HeapScope(), sites: Wrappers? = nil, sizes: ClosedRange<UInt64> = 0...UInt64.max) {
    self.scope = scope
    self.sites = sites
    self.sizes = sizes
  }
}

/// In which order blocks come.
public enum BlockOrder: String, CaseIterable, Sendable {
  /// By address.
  case address
  /// The largest first.
  case size
  /// The oldest first.
  case age
}

/// Live blocks of a process.
public struct BlockList: Sendable {
  struct Row {
    var block: Allocation
    /// `SegmentClock.order` of its time.
    var order: UInt64
  }

  public var processID: Int32
  public var command: [ForeignText]
  /// All blocks that the filter lets through, shown or not.
  public var total = SiteTable.Total()
  var rows: [Row] = []
  let look: Look
  /// The patterns of sites that were asked for, in words; nil if all were.
  fileprivate var sites: String?
  /// The lines of the table, or of JSON, of the blocks that are shown.
  fileprivate(set) var lines: [UInt8] = []
  public var losses: Losses
}

extension ProcessView {
  /// The first `limit` blocks in the order of `sort`. Reads every slot that was ever used.
  public func blocks(
    _ filter: BlockFilter, sort: BlockOrder = .address, limit: Int = 20, stacks: Bool = true, json: Bool
  ) throws(Complaint) -> BlockList {
    var inquiry = Inquiry(self, wrappers: filter.scope.wrappers, level: filter.scope.level)
    var filter = filter
    filter.scope = try placed(filter.scope, on: inquiry.clock)
    var list = BlockList(
      processID: processID, command: shared.segment.command,
      look: Look(clock: inquiry.clock, window: filter.scope.window, hasEnded: !inquiry.surroundings.isAlive),
      losses: losses(isWriting: inquiry.surroundings.isWriting, budget: nil))
    if !filter.siteNames.isEmpty {
      list.sites = filter.siteNames.sorted().map { "\"\(TextLayout.printable($0))\"" }.joined(separator: ", ")
    }
    var search = BlockSearch(filter, sort, limit: max(0, limit), inquiry, self)
    search.run(over: self)
    list.total = search.total
    list.rows = search.firstRows
    try Budget.current?.check()
    if let group = filter.scope.group, !search.hasGroup {
      try checkIntact()
      throw group.complaint(processID)
    }
    list.lines = inquiry.lines(of: list.rows, json: json, stacks: stacks, hasEnded: list.look.hasEnded)
    try checkIntact()
    return list
  }
}

/// One pass over the blocks, which keeps the first ones.
private struct BlockSearch {
  private let filter: BlockFilter
  private let sort: BlockOrder
  private let limit: Int
  private let orders: Range<UInt64>?
  private let clock: SegmentClock
  private let naming: StackNaming
  private(set) var total = SiteTable.Total()
  private var rows: [BlockList.Row] = []
  /// The last of the first `limit` rows so far, once there are so many: rows behind it are not wanted.
  private var last: BlockList.Row?
  private let share = MemoryShare()
  /// Whether the blocks of a context are meant.
  private var isMeant: [UInt32: Bool] = [:]
  /// Tells whether a block is in the group that is meant; nil if all are.
  private var groups: BlockGroups?
  /// Whether a block is in that group, of whatever time, size and site.
  private(set) var hasGroup: Bool

  init(_ filter: BlockFilter, _ sort: BlockOrder, limit: Int, _ inquiry: borrowing Inquiry, _ view: ProcessView) {
    self.filter = filter
    self.sort = sort
    self.limit = limit
    clock = inquiry.clock
    orders = filter.scope.window.orders(on: inquiry.clock)
    naming = inquiry.attribution
    hasGroup = filter.scope.group == nil
    groups = filter.scope.group.map { BlockGroups($0.grouping, view, filter.scope.wrappers, inquiry.clock) }
  }

  mutating func run(over view: ProcessView) {
    let segment = view.shared
    let level = filter.scope.level
    var search = self
    segment.segment.forEachAllocation { search.add($0, view) }
    if level != .chunk, segment.segment.hasSuballocations {
      let hidden = Set(
        level == nil ? segment.segment.allocators.filter { $0.isShownAsChunk }.map { $0.number } : [])
      segment.segment.forEachSuballocation { block, _, _ in
        if !hidden.isEmpty, let number = segment.segment.context(block.block.context)?.allocator?.number,
          hidden.contains(number)
        {
          return
        }
        search.add(block.block, view)
      }
    }
    self = search
  }

  private mutating func add(_ block: Allocation, _ view: ProcessView) {
    let order = clock.order(ofTicks: block.ticks)
    if !hasGroup, let group = filter.scope.group, groups?.contains(block, order, group.key) == true { hasGroup = true }
    guard filter.sizes.contains(block.size) else { return }
    if let orders, !orders.contains(order) { return }
    if let sites = filter.sites, !fits(block, sites, view) { return }
    if let group = filter.scope.group, groups?.contains(block, order, group.key) != true { return }
    total.add(SiteTable.Total(bytes: block.size, blocks: 1))
    let row = BlockList.Row(block: block, order: order)
    guard limit > 0, last.map({ precedes(row, $0) }) ?? true else { return }
    rows.append(row)
    // Twice as many as are wanted are kept until the first ones are told apart.
    if rows.count >= max(1 << 14, limit &* 2) { cut() }
    share.hold(rows.count &* MemoryLayout<BlockList.Row>.stride)
  }

  private mutating func fits(_ block: Allocation, _ sites: Wrappers, _ view: ProcessView) -> Bool {
    if let known = isMeant[block.context] { return known }
    let node = view.tables.context(block.context)?.node ?? 0
    let frames = naming.site(ofNode: node, at: block.ticks)?.frames ?? []
    let fits = frames.contains { frame in
      guard let name = frame.function ?? frame.placeName else { return false }
      if sites.contains(name) { return true }
      let shown = name.escaped
      return filter.siteNames.contains(shown)
        || !filter.siteNames.isDisjoint(with: FunctionName.shorterForms(of: shown))
    }
    isMeant[block.context] = fits
    return fits
  }

  private func precedes(_ a: BlockList.Row, _ b: BlockList.Row) -> Bool {
    switch sort {
    case .size where a.block.size != b.block.size: a.block.size > b.block.size
    case .age where a.order != b.order: a.order < b.order
    case .address, .size, .age: (a.block.base, a.block.context) < (b.block.base, b.block.context)
    }
  }

  private mutating func cut() {
    rows = firstRows
    last = rows.last
  }

  /// The rows that come first, as many as are wanted.
  var firstRows: [BlockList.Row] {
    Array(rows.sorted { precedes($0, $1) }.prefix(limit))  // bounded: at least 0, as the search is begun so
  }
}

extension Inquiry {
  /// The lines of blocks that were found: answers of `query` about their first bytes, in JSON; else a table.
  fileprivate mutating func lines(
    of rows: [BlockList.Row], json: Bool, stacks: Bool, hasEnded: Bool
  ) -> [UInt8] {
    var writer = ByteWriter()
    var meter = BudgetMeter(interval: 16)
    // bounded: digits of numbers, and columns of a line
    let sizeWidth = max(5, rows.map { Units.grouped($0.block.size).count }.max() ?? 0)
    for row in rows {
      guard meter.goesOn() else { break }
      let references = heap(row.block.base, row.block, previous: nil, next: nil, stacks: json ? stacks : true)
      if json {
        appendJSON(references, hasEnded: hasEnded, to: &writer)
        writer.append(byte: UInt8(ascii: "\n"))
        continue
      }
      let answer = answer(references)
      let head =
        TextLayout.padded(hex(row.block.base), right: 14)
        + TextLayout.padded(Units.grouped(row.block.size), left: sizeWidth + 2)
        + TextLayout.padded(Units.duration(answer.age ?? 0), left: 12) + "  "
      let room = TextLayout.columns - TextLayout.width(head)
      let site = answer.stack?.site.map { Answer.describe($0, columns: room) }
      let called = answer.function.map { "caller not known: \($0)" } ?? "not known"
      writer.append(line: head + (site ?? TextLayout.fit(called, columns: room)))
    }
    return writer.take()
  }
}

extension BlockList {
  /// The table for people, from rows that were made for it.
  public var text: [UInt8] {
    var writer = ByteWriter()
    for line in Look.heading(look, processID, command, total) { writer.append(line: line) }
    if !rows.isEmpty {
      let sizeWidth = max(5, rows.map { Units.grouped($0.block.size).count }.max() ?? 0)
      // bounded: digits of a number, and columns of a line
      writer.append(
        line: TextLayout.padded("ADDRESS", right: 14) + TextLayout.padded("SIZE", left: sizeWidth + 2)
          + TextLayout.padded("AGE", left: 12) + "  ALLOCATED BY")
      writer.append(bytes: lines)
    }
    if total.blocks == 0, let sites {
      let line = "no live block is of a site that fits \(sites); `allocsctl top \(processID)` lists the sites"
      for line in TextLayout.fill(line, indent: "  ") { writer.append(line: line) }
    }
    let hidden = total.blocks &- min(total.blocks, UInt64(clamping: rows.count))
    if hidden > 0 { writer.append(line: "  \(Units.countOf(hidden)) not shown: --limit shows more") }
    for line in losses.lines { writer.append(line: line) }
    return writer.take()
  }

  /// An object a line, as `query` has them, and whether the process has ended.
  public var jsonLines: [UInt8] { lines }
}
