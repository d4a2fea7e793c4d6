// SPDX-License-Identifier: Apache-2.0
// What a watched table looks like: from the state and the size of the terminal to lines. A line is never wider than the
// terminal, whatever that says of itself, and has no character that a terminal would act upon.

import Answers
import ByteText
import Provenance

/// A line of the screen.
package struct ScreenLine: Hashable, Sendable {
  package enum Style: Hashable, Sendable { case plain, title, heading, selected, grown, shrunk, warning }
  package var text: String
  package var style: Style

  package init(_ text: String, _ style: Style = .plain) {
    self.text = text
    self.style = style
  }
}

extension WatchState {
  /// Columns that a terminal without a size is taken to have, and its rows.
  package static let standardSize = (columns: 80, rows: 24)
  private static let mostColumns = 1000
  private static let mostRows = 500

  /// A column of numbers.
  private struct Column {
    var kind: WatchColumn
    var width: Int
  }

  /// The columns, the most important first: of a narrow terminal, the last ones are left out.
  private static let columns: [Column] = [
    Column(kind: .bytes, width: 6), Column(kind: .blocks, width: 7), Column(kind: .change, width: 7),
    Column(kind: .rate, width: 8), Column(kind: .share, width: 6), Column(kind: .oldest, width: 7),
    Column(kind: .median, width: 7), Column(kind: .life, width: 6),
  ]
  /// The order in which they stand.
  private static let places: [WatchColumn] = [
    .bytes, .share, .blocks, .change, .rate, .life, .growth, .oldest, .median, .newest,
  ]
  /// Columns that a name has at least, as long as there are numbers beside the bytes.
  private static let nameWidth = 24
  /// Columns that are left out before a name is cut.
  private static let dispensable: [WatchColumn] = [.share, .oldest, .median]
  /// Columns of what tells a row from others, without its brackets, for which numbers are left out.
  private static let pieceWidth = 10

  /// The columns that a name takes before it loses what matters: of a function the own name and the line.
  private func leastColumns(of shown: Shown) -> Int {
    let piece = shown.piece.isEmpty ? 0 : min(TextLayout.width(shown.piece), Self.pieceWidth) + 3
    return shown.row.site.leastColumns(by: grouping) &+ piece
  }

  /// The columns that a terminal has room for beside names of `nameWidth`; that of the order is always among them.
  private func columns(_ width: Int, nameWidth: Int) -> [Column] {
    var all = Self.columns
    if sort == .growth { all.insert(Column(kind: .growth, width: 10), at: 1) }
    if sort == .newest { all.insert(Column(kind: .newest, width: 7), at: 1) }
    // How long blocks live belongs to how many are made.
    if sort == .rate, let place = all.firstIndex(where: { $0.kind == .life }) {
      all.insert(all.remove(at: place), at: 1)
    }
    if let place = all.firstIndex(where: { $0.kind == sort }) { all.insert(all.remove(at: place), at: 0) }
    // bounded: columns of a terminal, of which 1,000 are believed
    var room = width - Self.nameWidth
    var spare = width - nameWidth
    var chosen: [Column] = []
    for column in all {
      let isDispensable = !chosen.isEmpty && Self.dispensable.contains(column.kind)
      guard chosen.isEmpty || room >= column.width + 1, !isDispensable || spare >= column.width + 1 else { break }
      spare -= column.width + 1
      chosen.append(column)
      room -= column.width + 1
    }
    return chosen.sorted {
      (Self.places.firstIndex(of: $0.kind) ?? 0) < (Self.places.firstIndex(of: $1.kind) ?? 0)
    }
  }

  /// The whole screen: exactly `rows` lines. A size of nothing is taken for 80 × 24.
  package mutating func lines(columns: Int, rows: Int) -> [ScreenLine] {
    let width = columns > 0 ? min(columns, Self.mostColumns) : Self.standardSize.columns
    let height = rows > 0 ? min(rows, Self.mostRows) : Self.standardSize.rows
    var lines = page == nil ? table(width, height) : pageLines(width, height)
    lines = Array(lines.prefix(height))  // bounded: the height is 1 at least
    while lines.count < height { lines.append(ScreenLine("")) }
    return lines.map { line in
      let text = TextLayout.fit(TextLayout.printable(line.text), columns: width)
      return ScreenLine(
        line.style == .heading || line.style == .selected ? TextLayout.padded(text, right: width) : text, line.style)
    }
  }

  // MARK: the table

  private var title: String {
    guard let look else { return "process \(processID)" }
    let name = look.command.first.flatMap { $0.isEmpty ? nil : "\($0.fileName), " } ?? ""
    let sums = "\(ShortNumbers.bytes(look.total.bytes)) in \(ShortNumbers.count(look.total.blocks)) blocks"
    let lost = look.lostBlocks > 0 ? ", \(ShortNumbers.count(look.lostBlocks)) not in the index" : ""
    return "\(name)process \(processID): \(sums)\(lost)"
  }

  /// How the process is watched, in phrases.
  private var status: String {
    var phrases: [String] = []
    if let ending {
      phrases.append("ended: \(ending)")
    } else if isPaused {
      phrases.append("paused")
    } else {
      let every = "every \(Units.tenths(interval)) s"
      phrases.append(interval > 1.05 ? "\(every), as a look takes \(Units.duration(cost))" : every)
    }
    if look != nil, ending == nil { phrases.append("watched for \(ShortNumbers.duration(watched))") }
    if look != nil, compared + 0.5 < watched { phrases.append("CHANGE of \(ShortNumbers.duration(compared))") }
    if let sinceMark { phrases.append("made since \(sinceMark)") }
    if let windowWords { phrases.append(windowWords) }
    if !filter.isEmpty { phrases.append("with \"\(filter)\"") }
    if let mark = look?.marks.last, sinceMark == nil {
      phrases.append("mark \(mark.name) \(ShortNumbers.duration(mark.age)) ago")
    }
    return phrases.joined(separator: ", ")
  }

  private var footer: ScreenLine {
    switch prompt {
    case .filter(let text): return ScreenLine("rows with: \(text)_")
    case .mark(let text): return ScreenLine("name of the mark: \(text)_")
    case nil: break
    }
    if !message.isEmpty { return ScreenLine(message, .warning) }
    if !problem.isEmpty { return ScreenLine(problem, .warning) }
    return ScreenLine("? help  Enter callers  b blocks  s sort  g group  / filter  m mark  q quit")
  }

  private mutating func table(_ width: Int, _ height: Int) -> [ScreenLine] {
    let hasStatus = height >= 5
    let hasHeading = height >= 4
    let hasFooter = height >= 6 || prompt != nil || !problem.isEmpty && height >= 3
    // bounded: rows and columns of a terminal, of which 500 and 1,000 are believed; places among rows
    let space = max(1, height - 1 - (hasStatus ? 1 : 0) - (hasHeading ? 1 : 0) - (hasFooter ? 1 : 0))
    pageSize = space
    var columns = columns(width, nameWidth: widestName)
    func room() -> Int { max(1, width - columns.reduce(0) { $0 + $1.width + 1 }) }
    /// The first row in sight; the selected one is.
    func top(_ rows: [Shown]) -> Int { max(0, min(self.selection(among: rows) - space / 2, rows.count - space)) }
    var rows = rows(columns: room())
    let widest = rows.dropFirst(top(rows)).prefix(space).map { leastColumns(of: $0) }.max() ?? 0
    if widest > widestName {
      widestName = widest
      let fewer = self.columns(width, nameWidth: widest)
      if fewer.count < columns.count {
        columns = fewer
        rows = self.rows(columns: room())
      }
    }
    var lines = [ScreenLine(title, .title)]
    if hasStatus { lines.append(ScreenLine(status, ending == nil ? .plain : .warning)) }
    if hasHeading {
      let cells = columns.map { column in
        let mark = column.kind == sort ? (isReversed ? "^" : "v") : ""
        return TextLayout.padded(mark + column.kind.title, left: column.width) + " "
      }
      lines.append(ScreenLine(cells.joined() + grouping.title, .heading))
    }
    let selection = self.selection(among: rows)
    for (index, shown) in rows.enumerated().dropFirst(top(rows)).prefix(space) {
      let cells = columns.map { TextLayout.padded(cell(shown, $0.kind), left: $0.width) + " " }
      let style: ScreenLine.Style =
        index == selection
        ? .selected : (shown.change ?? 0) > 0 ? .grown : (shown.change ?? 0) < 0 ? .shrunk : .plain
      lines.append(ScreenLine(cells.joined() + shown.name, style))
    }
    if rows.isEmpty {
      lines.append(
        ScreenLine(look == nil ? "looking …" : filter.isEmpty ? "no live blocks" : "no row has \"\(filter)\" in it"))
    }
    while lines.count < height - (hasFooter ? 1 : 0) { lines.append(ScreenLine("")) }
    if hasFooter { lines.append(footer) }
    return lines
  }

  private func cell(_ shown: Shown, _ column: WatchColumn) -> String {
    let row = shown.row
    return switch column {
    case .bytes: ShortNumbers.bytes(row.bytes)
    case .share: ShortNumbers.share(row.bytes, of: look?.total.bytes ?? 0)
    case .blocks: ShortNumbers.count(row.blocks)
    case .change: shown.change.map { ShortNumbers.change($0) } ?? "-"
    case .rate: shown.rate.map { ShortNumbers.flow($0) } ?? "-"
    case .life: shown.life.map { ShortNumbers.life($0) } ?? "-"
    case .growth:
      shown.growth.map { ($0.chance < 0.01 || $0.slope == 0 ? "" : "~") + ShortNumbers.rate($0.slope) } ?? "-"
    case .oldest: row.oldest.map { ShortNumbers.duration($0) } ?? "-"
    case .median: shown.median.map { ShortNumbers.duration($0) } ?? "-"
    case .newest: row.newest.map { ShortNumbers.duration($0) } ?? "-"
    case .name: shown.name
    }
  }

  // MARK: pages

  private mutating func pageLines(_ width: Int, _ height: Int) -> [ScreenLine] {
    guard let page else { return [] }
    let hasFooter = height >= 4
    // bounded: rows of a terminal, and of a page that is in memory
    pageSize = max(1, height - 1 - (hasFooter ? 1 : 0))
    var lines = [ScreenLine(page.title, .title)]
    lines += page.lines.dropFirst(page.top).prefix(pageSize).map { ScreenLine($0) }
    guard hasFooter else { return lines }
    while lines.count < height - 1 { lines.append(ScreenLine("")) }
    let more = page.lines.count - page.top - pageSize
    let place = more > 0 ? ", ↓ \(more) more lines" : ""
    switch page.kind {
    case .help: lines.append(ScreenLine("any key: back\(place)"))
    case .callers: lines.append(ScreenLine("Enter: what is called, b: blocks, any other key: back\(place)"))
    case .calls: lines.append(ScreenLine("Enter: callers, b: blocks, any other key: back\(place)"))
    case .blocks: lines.append(ScreenLine("any key: back\(place)"))
    }
    return lines
  }
}
