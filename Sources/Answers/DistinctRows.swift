// SPDX-License-Identifier: Apache-2.0
// Rows of a table that do not look alike. Names are shortened to the room that there is, and instantiations of one
// template, or lines of two files of one name, may look the same then. Each row of such ones gets a piece in brackets
// behind it: the part of its whole text that the others have otherwise. Where several rows have one piece, a second
// piece tells these apart, and where their whole texts are equal (one line that was compiled twice), the row's address.
//
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [int 0x55d0c0de1270]
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [int 0x55d0c0de12a4]
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [std::string]
//
// The function's own name and the line come first: the piece gets what they leave, and is cut to it. Where it tells
// nothing then, it is the row's number in the table.

import Bounds
import Symbols

package enum DistinctRows {
  /// One row: its text in a number of columns, the columns below which it loses what must stay of it, its whole text,
  /// and short texts that tell it from others whose whole texts are equal, the best first.
  package struct Row {
    var text: (_ columns: Int) -> String
    var least: () -> Int
    var whole: String
    var tags: [String]

    package init(
      text: @escaping (_ columns: Int) -> String, least: @escaping () -> Int, whole: String, tags: [String]
    ) {
      self.text = text
      self.least = least
      self.whole = whole
      self.tags = tags
    }
  }

  /// A row's text, and the whole of the piece that tells it from others: empty where there are none like it.
  package struct Text {
    package var text: String
    package var piece = ""
  }

  /// Columns of a piece, with its brackets.
  private static let pieceWidth = 28
  /// Characters of a text that are compared: a name may have megabytes.
  private static let limit = 16_384
  /// Characters of a cut piece that are no brackets and no sign of the cut: fewer tell nothing.
  private static let leastOfCut = 4

  /// The texts of rows, in `columns` at most each; as many as the question's budget allows, and empty ones behind them.
  package static func texts(_ rows: [Row], columns: Int) -> [String] {
    distinct(rows, columns: columns).map(\.text)
  }

  /// The texts of rows, with what tells each from others.
  package static func distinct(_ rows: [Row], columns: Int) -> [Text] {
    var meter = BudgetMeter(interval: 16)
    var texts: [Text] = []
    for row in rows { texts.append(Text(text: meter.goesOn() ? text(row, "", columns) : "")) }
    for alike in groups(texts) {
      guard meter.goesOn() else { break }
      let labels = labels(of: alike.map { rows[$0] }, depth: 0)
      let rooms = alike.map { min(columns &- rows[$0].least(), max(5, columns / 2), pieceWidth) &- 3 }
      let chosen = cut(labels, numbers: alike.map { $0 &+ 1 }, rooms)
      for (place, index) in alike.enumerated() {
        texts[index] = Text(
          text: text(rows[index], chosen[place], columns), piece: labels[place].joined(separator: " "))
      }
    }
    // A name may end in brackets of its own, so there is no end to what may look alike; but a number is one row's.
    for _ in 0..<3 {
      for alike in groups(texts) {
        for index in alike { texts[index].text = text(rows[index], "#\(index &+ 1)", columns) }
      }
    }
    return texts
  }

  /// What tells each of these rows from the others: words from the widest difference to the narrowest.
  private static func labels(of rows: [Row], depth: Int) -> [[String]] {
    let wholes = rows.map(\.whole)
    // Whole texts may differ beyond the characters that are compared; and rows that are alike once more are few.
    guard depth < 4, Set(wholes).count > 1 else { return tags(of: rows).map { $0.isEmpty ? [] : [$0] } }
    let pieces = pieces(of: wholes)
    var labels = pieces.map { $0.isEmpty ? [] : [$0] }
    var places: [String: [Int]] = [:]
    for (index, piece) in pieces.enumerated() { places[piece, default: []].append(index) }
    for alike in places.values where alike.count > 1 {
      let inner =
        alike.count == rows.count
        ? tags(of: rows).map { $0.isEmpty ? [] : [$0] } : self.labels(of: alike.map { rows[$0] }, depth: depth &+ 1)
      for (index, words) in zip(alike, inner) { labels[index].append(contentsOf: words) }
    }
    return labels
  }

  /// The first tags of rows that differ. Else as many empty texts.
  private static func tags(of rows: [Row]) -> [String] {
    let count = rows.map(\.tags.count).min() ?? 0
    for choice in 0..<max(0, count) {  // bounded: a row has two tags
      let tags = rows.map { $0.tags[choice] }
      if Set(tags).count == tags.count { return tags }
    }
    return rows.map { _ in "" }
  }

  /// The labels in so many columns each, no two alike: whole ones, and of those that do not fit what still tells them
  /// apart, else the numbers of their rows, behind a word of the label where there is room.
  private static func cut(_ labels: [[String]], numbers: [Int], _ rooms: [Int]) -> [String] {
    var chosen: [String?] = labels.map { _ in nil }
    var used: Set<String> = []
    func fitted(_ text: String, _ room: Int, head: Int = 3) -> String? {
      if TextLayout.width(text) <= room { return text }
      return room > leastOfCut ? TextLayout.fit(text, columns: room, head: head) : nil
    }
    /// The first words in what `last` leaves, and `last` behind them.
    func behindWords(_ words: some Collection<String>, _ last: String, _ room: Int) -> String? {
      let left = room &- TextLayout.width(last) &- 1
      return words.isEmpty ? nil : fitted(words.joined(separator: " "), left).map { "\($0) \(last)" }
    }
    let forms: [([String], _ number: String, _ room: Int) -> String?] = [
      { label, _, room in
        let whole = label.joined(separator: " ")
        return TextLayout.width(whole) <= max(0, room) ? whole : nil
      },
      { label, _, room in behindWords(label.dropLast(), label.last ?? "", room) },
      { label, _, room in
        label.count == 1 ? label.last.flatMap { fitted($0, room, head: isAddress($0) ? 0 : 3) } : nil
      },
      { label, number, room in behindWords(label.dropLast(), number, room) },
      { label, number, _ in number },
    ]
    for form in forms {
      var texts: [Int: String] = [:]
      var counts: [String: Int] = [:]
      for place in labels.indices where chosen[place] == nil {
        guard let text = form(labels[place], "#\(numbers[place])", rooms[place]) else { continue }
        texts[place] = text
        counts[text, default: 0] += 1
      }
      for (place, text) in texts where counts[text] == 1 && !used.contains(text) { chosen[place] = text }
      used.formUnion(chosen.compactMap { $0 })
    }
    return chosen.map { $0 ?? "" }
  }

  private static func isAddress(_ text: String) -> Bool { text.hasPrefix("0x") }

  private static func text(_ row: Row, _ piece: String, _ columns: Int) -> String {
    let behind = " [\(piece)]"
    let left = columns &- TextLayout.width(behind)
    guard !piece.isEmpty, left > 0 else { return TextLayout.fit(row.text(columns), columns: columns) }
    return TextLayout.fit(row.text(left), columns: left) + behind
  }

  /// The places of texts that occur more than once, those of one text together.
  private static func groups(_ texts: [Text]) -> [[Int]] {
    var places: [String: [Int]] = [:]
    for (index, text) in texts.enumerated() where !text.text.isEmpty { places[text.text, default: []].append(index) }
    return places.values.filter { $0.count > 1 }.sorted { ($0.first ?? 0) < ($1.first ?? 0) }
  }

  /// The part of each text that lies between what all of them begin with and what all of them end with, in whole words.
  static func pieces(of texts: [String]) -> [String] {
    let texts = texts.map { Array($0.unicodeScalars.prefix(Self.limit)) }
    guard let first = texts.first else { return [] }
    var head = first.count
    var tail = first.count
    for text in texts.dropFirst() {
      head = min(head, zip(first, text).prefix { $0 == $1 }.count)
      tail = min(tail, zip(first.reversed(), text.reversed()).prefix { $0 == $1 }.count)
    }
    while head > 0, isWord(first[head &- 1]) { head &-= 1 }
    while tail > 0, isWord(first[first.count &- tail]) { tail &-= 1 }
    let pieces = texts.map { text in
      text.prefix(max(head, text.count &- tail)).dropFirst(head)  // bounded: lengths of texts in memory
    }
    // `int` says as much as `int>::put(int`.
    let words = pieces.map { $0.prefix { isWord($0) } }
    let isEnough = zip(words, pieces).allSatisfy { $0.isEmpty == $1.isEmpty } && Set(words).count == Set(pieces).count
    return (isEnough ? words : pieces).map { String(String.UnicodeScalarView($0)) }
  }

  private static func isWord(_ scalar: Unicode.Scalar) -> Bool {
    scalar == "_" || scalar == ":" || scalar.properties.isAlphabetic || scalar.properties.numericType != nil
  }
}

extension DistinctRows.Row {
  /// The row of a site, or of a stack: `site` is its text, and all its frames tell it from others. `called`: the
  /// function that was called.
  init(ofSite site: Frame?, called: ForeignText?, all: [Frame]) {
    let function = called.map { TextLayout.printable($0) }
    self.init(
      text: { columns in
        site.map { Answer.describe($0, columns: columns) }
          ?? TextLayout.fit(function.map { "caller not known: \($0)" } ?? "not known", columns: columns)
      },
      least: { site.map { Answer.leastColumns(of: $0) } ?? 0 },
      whole: (all.map(Answer.wholeText) + [function ?? ""]).joined(separator: " "),
      tags: [site.map { hex($0.pc) } ?? ""])
  }
}
