// SPDX-License-Identifier: Apache-2.0
// What changed between two looks at a process, row by row: what `top` prints where it watches for a while without a
// screen.

import Answers
import ByteText
import Provenance
import SystemAccess

/// The rows of two looks, with what was allocated between them.
package struct ChangeReport {
  package enum Order: Hashable, Sendable {
    /// Most live bytes more first.
    case growth
    /// Most bytes allocated first.
    case rate
    /// As the last look lists them.
    case listed
  }

  package struct Row {
    /// As of the last look; of the first, if the last one does not list it.
    var row: WatchLook.Row
    /// What lived; nil if it is not known, as not all rows were listed.
    var first: (bytes: Double, blocks: Double)?
    var last: (bytes: Double, blocks: Double)?
    /// Between the looks; nil if it is not known.
    var allocated: (bytes: Double, blocks: Double)?
    var freedBlocks: Double?
    /// Seconds that a block lives on average: see MeanLife.
    var life: Double?

    var change: Double? {
      guard let first, let last else { return nil }
      return last.bytes - first.bytes  // bounded: floating point, which never traps
    }
  }

  package private(set) var rows: [Row]
  /// The rows that a look lists, shown or not.
  package let rowCount: Int
  /// The rows that neither look lists: at least so many.
  package let uncomparedCount: Int
  private let last: WatchLook
  private let first: WatchLook
  private let grouping: HeapGrouping
  private let order: Order

  /// Seconds between the looks.
  private var watched: Double { max(0, last.time - first.time) }  // bounded: in floating point

  package init(from first: WatchLook, to last: WatchLook, by grouping: HeapGrouping, _ order: Order, limit: Int) {
    (self.first, self.last, self.grouping, self.order) = (first, last, grouping, order)
    func isWhole(_ look: WatchLook) -> Bool { look.rowCount <= Double(look.rows.count) }
    let before = Dictionary(first.rows.map { ($0.key, $0) }, uniquingKeysWith: { $1 })
    let after = Set(last.rows.map(\.key))
    let gone = first.rows.filter { !after.contains($0.key) }
    var rows = last.rows.map { row in
      Self.row(
        row, before[row.key], row, isWhole: (isWhole(first), true), listsFreed: order != .listed, first.time, last.time)
    }
    rows.append(
      contentsOf: gone.map {
        Self.row($0, $0, nil, isWhole: (true, isWhole(last)), listsFreed: order != .listed, first.time, last.time)
      })
    rowCount = rows.count
    let listed = UInt64(rows.count)
    uncomparedCount = Int(clamping: max(listed, ShortNumbers.whole(max(first.rowCount, last.rowCount))) &- listed)
    let rank: (Row) -> Double =
      switch order {
      case .growth: { $0.change ?? -.infinity }
      case .rate: { $0.allocated?.bytes ?? -.infinity }
      case .listed: { _ in 0 }
      }
    let sorted = rows.enumerated().sorted { a, b in
      let (left, right) = (rank(a.element), rank(b.element))
      return left == right ? a.offset < b.offset : left > right
    }
    self.rows = sorted.prefix(max(0, limit)).map(\.element)
  }

  private static func row(
    _ known: WatchLook.Row, _ first: WatchLook.Row?, _ last: WatchLook.Row?, isWhole: (first: Bool, last: Bool),
    listsFreed: Bool, _ began: Double, _ ended: Double
  ) -> Row {
    func live(_ row: WatchLook.Row?, _ isWhole: Bool) -> (bytes: Double, blocks: Double)? {
      row.map { ($0.bytes, $0.blocks) } ?? (isWhole ? (0, 0) : nil)
    }
    var row = Row(row: known, first: live(first, isWhole.first), last: live(last, isWhole.last))
    guard let now = last?.allocated else { return row }
    // A row that the first look does not list was new after it if that look lists all, also those of which nothing
    // lives.
    let isNew = first == nil && isWhole.first && listsFreed
    guard let then = first?.allocated ?? (isNew ? (0, 0) : nil) else { return row }
    // bounded: floating point, which never traps
    let allocated = (bytes: max(0, now.bytes - then.bytes), blocks: max(0, now.blocks - then.blocks))
    row.allocated = allocated
    let (liveThen, liveNow) = (first?.blocks ?? 0, last?.blocks ?? 0)
    row.freedBlocks = max(0, allocated.blocks - (liveNow - liveThen))
    row.life = MeanLife.seconds([
      Flow(time: began, bytes: then.bytes, blocks: then.blocks, live: liveThen),
      Flow(time: ended, bytes: now.bytes, blocks: now.blocks, live: liveNow),
    ])
    return row
  }

  /// What was allocated between the looks in all; nil if it is not known.
  private var allocated: (bytes: Double, blocks: Double)? {
    guard let now = last.allocated, let then = first.allocated else { return nil }
    return (max(0, now.bytes - then.bytes), max(0, now.blocks - then.blocks))  // bounded: in floating point
  }

  private func perSecond(_ value: Double) -> Double { watched > 0 ? value / watched : 0 }

  /// Lines of 80 columns.
  package var text: String {
    let name = last.command.first.flatMap { $0.isEmpty ? nil : "\($0.fileName), " } ?? ""
    let ending = last.hasEnded ? ", which has ended" : ""
    var phrases = [
      "\(name)process \(last.processID)\(ending): watched for \(Units.duration(watched))",
      "\(WatchWords.bytes(first.total.bytes)) live at first and \(WatchWords.bytes(last.total.bytes)) at last",
    ]
    if let allocated {
      let noun = allocated.blocks == 1 ? "block" : "blocks"
      phrases.append(
        "\(WatchWords.count(allocated.blocks)) \(noun) of \(WatchWords.bytes(allocated.bytes)) allocated")
    }
    var lines = TextLayout.wrap(phrases, indent: "")
    if last.lostBlocks > 0 {
      lines.append("  missing  \(Units.count(ShortNumbers.whole(last.lostBlocks), "block")) not in the index")
    }
    var cells = [["BYTES", "CHANGE", "BYTES/S", "MADE", "FREED", "LIFE"]]
    cells += rows.map { row in
      [
        row.last.map { WatchWords.bytes($0.bytes) } ?? "-", row.change.map { WatchWords.change($0) } ?? "-",
        row.allocated.map { WatchWords.bytes(perSecond($0.bytes)) } ?? "-",
        row.allocated.map { WatchWords.count($0.blocks) } ?? "-",
        row.freedBlocks.map { WatchWords.count($0) } ?? "-", row.life.map { Units.life($0) } ?? "-",
      ]
    }
    let widths = cells[0].indices.map { column in
      (cells.map { TextLayout.width($0[column]) }.max() ?? 0) &+ (column == 0 ? 0 : 2)
    }
    let room = max(8, TextLayout.columns &- widths.reduce(2, &+))
    let names = [grouping.title] + TopTable.texts(of: rows.map(\.row.site), by: grouping, columns: room)
    for (row, name) in zip(cells, names) {
      lines.append("\(zip(row, widths).map { TextLayout.padded($0, left: $1) }.joined())  \(name)")
    }
    let hidden = rowCount &- rows.count
    if hidden > 0 {
      lines.append(
        "  \(Units.countOf(UInt64(clamping: hidden), "\(grouping.rawValue) is", "\(grouping.rawValue)s are")) not shown"
      )
    }
    if uncomparedCount > 0 {
      let count = Units.countOf(
        UInt64(clamping: uncomparedCount), "\(grouping.rawValue) is", "\(grouping.rawValue)s are")
      let listed = UInt64(clamping: max(first.rows.count, last.rows.count))
      lines.append("  \(count) not compared: a look lists \(Units.grouped(listed))")
    }
    return TextLayout.text(of: lines)
  }

  /// One JSON object, without a newline.
  package var json: String {
    var writer = ByteWriter(capacity: 4096)
    func whole(_ name: StaticString, _ value: Double) { writer.append(name, decimal: ShortNumbers.whole(value)) }
    func number(_ name: StaticString, _ value: Double, places: Int) {
      writer.append(name)
      writer.append(decimal: value, places: places)
    }
    func append(_ allocated: (bytes: Double, blocks: Double)?) {
      guard let allocated else { return }
      whole(",\"allocated_bytes\":", allocated.bytes)
      whole(",\"allocated_blocks\":", allocated.blocks)
      whole(",\"bytes_per_second\":", perSecond(allocated.bytes))
    }
    writer.append("{\"pid\":", decimal: UInt64(clamping: last.processID))
    writer.append(",\"command\":")
    writer.appendArray(last.command)
    if last.hasEnded { writer.append(",\"ended\":true") }
    number(",\"watched_seconds\":", watched, places: 3)
    whole(",\"first_bytes\":", first.total.bytes)
    whole(",\"last_bytes\":", last.total.bytes)
    append(allocated)
    writer.append(",\"group\":", string: grouping.rawValue)
    writer.append(",\"row_count\":", decimal: UInt64(clamping: rowCount))
    if uncomparedCount > 0 { writer.append(",\"uncompared_count\":", decimal: UInt64(clamping: uncomparedCount)) }
    writer.append(",\"rows\":[")
    for (index, row) in rows.enumerated() {
      writer.append(text: index > 0 ? ",{" : "{")
      // Fields begin with a comma, so the first one is one that each row has.
      writer.append("\"key\":", string: ForeignText(row.row.key))
      if let first = row.first {
        whole(",\"first_bytes\":", first.bytes)
        whole(",\"first_blocks\":", first.blocks)
      }
      if let last = row.last {
        whole(",\"last_bytes\":", last.bytes)
        whole(",\"last_blocks\":", last.blocks)
      }
      append(row.allocated)
      if let freed = row.freedBlocks { whole(",\"freed_blocks\":", freed) }
      if let life = row.life { number(",\"mean_life_seconds\":", life, places: 9) }
      row.row.appendNames(to: &writer)
      writer.append("}")
    }
    writer.append("]")
    if last.lostBlocks > 0 { whole(",\"lost_blocks\":", last.lostBlocks) }
    writer.append("}")
    return writer.takeString()
  }
}
