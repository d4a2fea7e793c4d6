// SPDX-License-Identifier: Apache-2.0
// The address space of a process as a map: where its live blocks lie, in cells of one size.
//
// Two passes over the blocks, which come in order of address. The first finds the spans, stretches in which blocks lie
// no further apart than a gap; the second adds each block to the cells that it reaches into. Whatever an index says,
// there are no more spans than `spanLimit`, no more cells than were asked for, and no more sites than `siteLimit`:
// where there would be, gaps and cells become larger, and sites of few bytes are left out.
//
// Blocks of suballocators lie in chunks, which are what the map shows.

import Bounds
import ByteText
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// Live blocks by address.
public struct AddressMap: Sendable {
  /// A piece of the address space.
  struct Cell: Sendable {
    /// Bytes of live blocks in it, and how many blocks reach into it.
    var total = SiteTable.Total()
    var births = SiteTable.Births()
    /// The first address of the first block that reaches into it.
    var first: UInt64 = 0
    /// The place in `sites` of the site that has most of its bytes, or of one of them if none has half; -1 if the site
    /// is not known, or was left out.
    var site = -1
    /// By how many bytes that site is ahead of all others together (Boyer and Moore's majority vote).
    var lead: UInt64 = 0
  }

  /// A stretch of the address space, and its cells.
  struct Span: Sendable {
    var start: UInt64
    var end: UInt64
    /// The place of its first cell.
    var firstCell = 0
  }

  struct Site: Sendable {
    var frames: [Frame]
    var function: ForeignText?
    /// Bytes of the cells that name it.
    var bytes: UInt64 = 0
  }

  /// The numbers of cells that may be asked for.
  public static let cellLimits = 256...16_384
  /// Spans at most; each has two cells at least.
  private static let spanLimit = 64
  private static let siteLimit = 1000
  private static let smallestGap: UInt64 = 1 << 20
  private static let smallestCell: UInt64 = 16

  public var processID: Int32
  public var command: [ForeignText]
  /// All blocks of the window in the range that was asked for.
  public private(set) var total = SiteTable.Total()
  private(set) var spans: [Span] = []
  private(set) var cells: [Cell] = []
  private(set) var sites: [Site] = []
  /// Bytes of a cell, a power of two.
  private(set) var cellBytes = Self.smallestCell
  let look: Look
  public var losses: Losses

  fileprivate init(processID: Int32, command: [ForeignText], look: Look, losses: Losses) {
    (self.processID, self.command, self.look, self.losses) = (processID, command, look, losses)
  }
}

extension ProcessView {
  /// The map of `range`, nil for all of the address space, in at most `cells` cells. Reads every slot that was ever
  /// used, twice.
  public func addressMap(
    in range: ClosedRange<UInt64>? = nil, cells: Int = 2048, scope: HeapScope = HeapScope()
  ) throws(Complaint) -> AddressMap {
    let isAlive = isProcessAlive
    let clock = shared.segment.clock(isAlive: isAlive)
    var map = AddressMap(
      processID: processID, command: shared.segment.command,
      look: Look(clock: clock, window: scope.window, hasEnded: !isAlive),
      losses: losses(isWriting: Surroundings(of: self).isWriting, budget: nil))
    let blocks = BlocksByAddress(view: self, range: range ?? 0...UInt64.max, orders: scope.window.orders(on: clock))
    let share = MemoryShare()
    map.findSpans(blocks, clock, cellLimit: cells, share)
    try Budget.current?.check()
    map.fill(blocks, clock, StackNaming(tables, wrappers: scope.wrappers), share)
    try Budget.current?.check()
    try checkIntact()
    return map
  }
}

/// The live blocks of a window in a range, in order of address.
private struct BlocksByAddress {
  let view: ProcessView
  let range: ClosedRange<UInt64>
  let orders: Range<UInt64>?

  /// Calls `body` with each block, and the part of it that lies in the range.
  func forEach(_ clock: SegmentClock, _ body: (Allocation, Range<UInt64>) -> Void) {
    let segment = view.shared
    func visit(_ block: Allocation) {
      if let orders, !orders.contains(clock.order(ofTicks: block.ticks)) { return }
      let start = max(block.base, range.lowerBound)
      let end = range.upperBound == .max ? block.end : min(block.end, range.upperBound &+ 1)
      guard start < end else { return }
      body(block, start..<max(start, end))
    }
    // A block may begin below the range and reach into it.
    if let before = segment.segment.allocation(containing: range.lowerBound), before.base < range.lowerBound {
      visit(before)
    }
    segment.segment.forEachAllocation(in: range) { visit($0) }
  }
}

extension AddressMap {
  // MARK: spans

  fileprivate mutating func findSpans(
    _ blocks: BlocksByAddress, _ clock: SegmentClock, cellLimit: Int, _ share: MemoryShare
  ) {
    var spans: [Span] = []
    var total = SiteTable.Total()
    var gap = Self.smallestGap
    blocks.forEach(clock) { block, part in
      total.add(SiteTable.Total(bytes: block.size, blocks: 1))
      if let last = spans.last, part.lowerBound <= last.end || part.lowerBound &- last.end <= gap {
        spans[spans.count &- 1].end = max(last.end, part.upperBound)
        return
      }
      spans.append(Span(start: part.lowerBound, end: part.upperBound))
      while spans.count > Self.spanLimit {
        gap &*= 2
        spans = Self.merged(spans, gap: gap)
      }
    }
    self.total = total
    self.spans = spans
    // Cells begin at multiples of their size. Spans that would share one become one span.
    let limit = min(max(cellLimit, Self.cellLimits.lowerBound), Self.cellLimits.upperBound)
    while spans.reduce(0, { $0 &+ Self.cellCount($1, cellBytes) }) > UInt64(clamping: limit) {
      cellBytes &*= 2
      if cellBytes > gap { spans = Self.merged(spans, gap: cellBytes) }
    }
    var count = 0
    self.spans = spans.map { span in
      var span = span
      span.start &= ~(cellBytes &- 1)
      span.firstCell = count
      count &+= Int(clamping: Self.cellCount(span, cellBytes))
      return span
    }
    share.hold(count &* MemoryLayout<Cell>.stride)
    cells = Array(repeating: Cell(), count: min(count, limit))  // bounded: the limit is a constant's
  }

  /// Spans that lie no further apart than `gap`, as one. A gap beyond the address space leaves one span.
  private static func merged(_ spans: [Span], gap: UInt64) -> [Span] {
    var result: [Span] = []
    for span in spans {
      if let last = result.last, span.start <= last.end || span.start &- last.end <= gap {
        result[result.count &- 1].end = max(last.end, span.end)
      } else {
        result.append(span)
      }
    }
    return result
  }

  private static func cellCount(_ span: Span, _ size: UInt64) -> UInt64 {
    let shift = UInt64(clamping: size.trailingZeroBitCount)
    return (span.end &- 1) >> shift &- span.start >> shift &+ 1
  }

  // MARK: cells

  fileprivate mutating func fill(
    _ blocks: BlocksByAddress, _ clock: SegmentClock, _ naming: StackNaming, _ share: MemoryShare
  ) {
    var filling = Filling(tables: blocks.view.tables, naming: naming)
    var cells = cells
    let spans = spans
    let shift = UInt64(clamping: cellBytes.trailingZeroBitCount)
    var place = 0
    var meter = BudgetMeter(interval: 1024)
    blocks.forEach(clock) { block, part in
      // The blocks of the second pass are others where the process has gone on; those outside of all spans are missed.
      while place &+ 1 < spans.count, spans[place &+ 1].start <= part.lowerBound { place &+= 1 }
      guard place < spans.count, spans[place].start <= part.lowerBound else { return }
      let order = clock.order(ofTicks: block.ticks)
      let site = filling.site(of: block)
      share.hold(filling.memory)
      let first = spans[place].start >> shift
      let end = place &+ 1 < spans.count ? spans[place &+ 1].firstCell : cells.count
      var start = part.lowerBound
      while start < part.upperBound, meter.goesOn() {
        let index = Int(clamping: (start >> shift) &- first) &+ spans[place].firstCell
        guard index < end else { return }
        let (next, isLast) = ((start >> shift) &+ 1).multipliedReportingOverflow(by: 1 << shift)
        let stop = isLast ? part.upperBound : min(part.upperBound, next)
        cells[index].add(bytes: min(stop &- start, block.size), of: block, order, site)
        start = stop
      }
    }
    self.cells = cells
    sites = filling.sites
    keepLargestSites()
  }

  /// Leaves out the sites that no cell names, and all but the first ones by bytes.
  private mutating func keepLargestSites() {
    for cell in cells where cell.site >= 0 { sites[cell.site].bytes &+= cell.total.bytes }
    let kept = sites.indices.filter { sites[$0].bytes > 0 }
      .sorted { (sites[$0].bytes, $1) > (sites[$1].bytes, $0) }.prefix(Self.siteLimit)
    var places = Array(repeating: -1, count: sites.count)  // bounded: one for each site
    for (place, index) in kept.enumerated() { places[index] = place }
    sites = kept.map { sites[$0] }
    for index in cells.indices where cells[index].site >= 0 { cells[index].site = places[cells[index].site] }
  }

  /// Which site each context leads to.
  private struct Filling {
    private struct Key: Hashable {
      var site: Provenance.Site.Key?
      var function: ForeignText
    }

    let tables: SegmentTables
    let naming: StackNaming
    private(set) var sites: [AddressMap.Site] = []
    private var places: [Key: Int] = [:]
    private var known: [UInt32: Int] = [:]

    init(tables: SegmentTables, naming: StackNaming) { (self.tables, self.naming) = (tables, naming) }

    var memory: Int { known.count &* 32 &+ sites.count &* (MemoryLayout<AddressMap.Site>.stride &+ 256) }

    /// The place of the block's site; -1 if it is not known.
    mutating func site(of block: Allocation) -> Int {
      if let place = known[block.context] { return place }
      let place = find(block)
      known[block.context] = place
      return place
    }

    private mutating func find(_ block: Allocation) -> Int {
      guard let origin = tables.context(block.context) else { return -1 }
      let key = Key(site: naming.siteKey(ofNode: origin.node, at: block.ticks), function: origin.function ?? "")
      if let place = places[key] { return place }
      places[key] = sites.count
      sites.append(
        AddressMap.Site(
          frames: naming.site(ofNode: origin.node, at: block.ticks)?.frames ?? [], function: origin.function))
      return sites.count &- 1
    }
  }
}

extension AddressMap.Cell {
  fileprivate mutating func add(bytes: UInt64, of block: Allocation, _ order: UInt64, _ site: Int) {
    if total.blocks == 0 { first = block.base }
    total.add(SiteTable.Total(bytes: bytes, blocks: 1))
    births.add(order)
    if site == self.site {
      lead &+= bytes
    } else if bytes > lead {
      (self.site, lead) = (site, bytes &- lead)
    } else {
      lead &-= bytes
    }
  }
}

// MARK: - forms

extension AddressMap {
  private func cells(ofSpan index: Int) -> ArraySlice<Cell> {
    let end = index &+ 1 < spans.count ? spans[index &+ 1].firstCell : cells.count
    let start = spans[index].firstCell
    return cells[start..<max(start, end)]
  }

  /// The spans, as a table of 80 columns.
  public var text: String {
    var lines: [String] = Look.heading(look, processID, command, total)
    let blocks = spans.indices.map { index in
      cells(ofSpan: index).reduce(0 as UInt64) { $0 &+ $1.total.blocks }
    }
    // bounded: digits of numbers, and columns of a line
    let blocksWidth = (blocks.map { Units.grouped($0).count }.max() ?? 0).advanced(by: 2)
    let more = max(0, blocksWidth &- 12)
    if !spans.isEmpty {
      // bounded: texts that are put together
      lines.append(
        TextLayout.padded("START", right: 16) + TextLayout.padded("SIZE", left: 14)
          + TextLayout.padded("LIVE", left: 14) + TextLayout.padded("FULL", left: 7)
          + TextLayout.padded("BLOCKS", left: 12 + more) + "  IN TENTHS")
    }
    for (index, span) in spans.enumerated() {
      let cells = cells(ofSpan: index)
      let size = span.end &- span.start
      let live = cells.reduce(0 as UInt64) { $0 &+ $1.total.bytes }
      // Blocks that lie in each other, as an index that is damaged has them, or is written to meanwhile.
      let full = live > size ? ">100%" : Units.share(live, of: size)
      // bounded: texts that are put together
      lines.append(
        TextLayout.padded(hex(span.start), right: 16) + TextLayout.padded(Units.rounded(size), left: 14)
          + TextLayout.padded(Units.rounded(live), left: 14) + TextLayout.padded(full, left: 7)
          + TextLayout.padded(Units.grouped(blocks[index]), left: 12 + more) + "  "
          + Self.bar(cells, cellBytes, columns: max(1, 14 &- more)))
    }
    return TextLayout.text(of: lines + losses.lines)
  }

  /// How full the parts of a span are, a character for each part: of ten tenths, `.` for less than one.
  private static func bar(_ cells: ArraySlice<Cell>, _ cellBytes: UInt64, columns: Int) -> String {
    let cells = Array(cells)
    let columns = min(columns, cells.count)
    var text = ""
    for column in 0..<max(0, columns) {
      // bounded: no more cells than the limit, and columns of a line
      let part = cells[column * cells.count / columns..<(column + 1) * cells.count / columns]
      let live = part.reduce(0 as UInt64) { $0 &+ $1.total.bytes }
      let tenths = Double(live) * 10.0 / (Double(part.count) * Double(cellBytes))
      switch tenths {
      case 9.95...: text += "#"
      case 1...: text += "\(Int(exactly: tenths.rounded(.down)) ?? 9)"
      default: text += live == 0 ? " " : "."
      }
    }
    return text
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 64 << 10)
    writer.append("{\"pid\":")
    writer.append(decimal: UInt64(clamping: processID))
    writer.append(",\"command\":")
    writer.appendArray(command)
    look.appendJSONField(to: &writer)
    writer.append(",\"total\":{\"bytes\":", decimal: total.bytes)
    writer.append(",\"blocks\":", decimal: total.blocks)
    writer.append("},\"cell_bytes\":", decimal: cellBytes)
    writer.append(",\"spans\":[")
    for (index, span) in spans.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{\"start\":\"")
      writer.append(address: span.start)
      writer.append("\",\"end\":\"")
      writer.append(address: span.end)
      writer.append("\",\"cells\":[")
      for (place, cell) in cells(ofSpan: index).enumerated() {
        if place > 0 { writer.append(",") }
        append(cell, to: &writer)
      }
      writer.append("]}")
    }
    writer.append("],\"sites\":[")
    for (index, site) in sites.enumerated() {
      writer.append(text: index > 0 ? ",{\"bytes\":" : "{\"bytes\":")
      writer.append(decimal: site.bytes)
      if let function = site.function { writer.append(",\"function\":", string: function) }
      if let frame = site.frames.first { frame.appendSite(to: &writer) }
      writer.append("}")
    }
    writer.append("]")
    look.appendEnding(to: &writer)
    losses.appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
  }

  private func append(_ cell: Cell, to writer: inout ByteWriter) {
    guard cell.total.blocks > 0 else { return writer.append("[]") }
    writer.append("[")
    writer.append(decimal: cell.total.bytes)
    writer.append(",")
    writer.append(decimal: cell.total.blocks)
    writer.append(",\"")
    writer.append(address: cell.first)
    writer.append("\",")
    writer.append(decimal: look.clock.age(ofOrder: cell.births.oldest), places: 2)
    writer.append(",")
    writer.append(decimal: look.clock.age(ofOrder: cell.births.newest), places: 2)
    if cell.site >= 0 { writer.append(",", decimal: UInt64(clamping: cell.site)) }
    writer.append("]")
  }
}
