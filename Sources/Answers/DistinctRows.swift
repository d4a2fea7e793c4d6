// SPDX-License-Identifier: Apache-2.0
// Rows of a table that do not look alike. Names are shortened to the room that there is, and instantiations of one
// template, or lines of two files of one name, may look the same then. Each row of such ones gets a piece in brackets
// behind it: the part of its whole text that the others have otherwise. Where the whole texts are equal (one line that
// was compiled twice), or their pieces are once they are cut, the piece is the row's address; and where the room is too
// narrow for that, its number in the table.
//
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [int]
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [std::string]

import Bounds
import Symbols

package enum DistinctRows {
  /// One row: its text in a number of columns, its whole text, and short texts that tell it from others whose whole
  /// texts are equal, the best first.
  package struct Row {
    var text: (_ columns: Int) -> String
    var whole: String
    var tags: [String]

    package init(text: @escaping (_ columns: Int) -> String, whole: String, tags: [String]) {
      self.text = text
      self.whole = whole
      self.tags = tags
    }
  }

  /// Columns of a piece, without its brackets.
  private static let pieceWidth = 28
  /// Characters of a text that are compared: a name may have megabytes.
  private static let limit = 16_384

  /// The texts of rows, in `columns` at most each; as many as the question's budget allows, and empty ones behind them.
  package static func texts(_ rows: [Row], columns: Int) -> [String] {
    var meter = BudgetMeter(interval: 16)
    var texts: [String] = []
    for row in rows { texts.append(meter.goesOn() ? text(row, "", columns) : "") }
    let room = pieceRoom(columns)
    for alike in groups(texts) {
      guard meter.goesOn() else { break }
      // Where pieces are alike once they are cut, each is the tag of its row.
      let pieces = pieces(of: alike.map { rows[$0].whole }).map { TextLayout.fit($0, columns: room) }
      let chosen = Set(pieces).count == pieces.count ? pieces : tags(of: alike.map { rows[$0] }, room)
      for (index, piece) in zip(alike, chosen) { texts[index] = text(rows[index], piece, columns) }
    }
    // A name may end in brackets of its own, so there is no end to what may look alike; but a number is one row's.
    for _ in 0..<3 {
      for alike in groups(texts) {
        for index in alike { texts[index] = text(rows[index], "#\(index &+ 1)", columns) }
      }
    }
    return texts
  }

  /// Columns of a piece in a row of so many: with its brackets, at most half of them is taken from the name.
  private static func pieceRoom(_ columns: Int) -> Int { min(pieceWidth, max(5, columns / 2)) &- 3 }

  /// The first tags of rows that differ; of those that are too long, the end. Else as many empty texts.
  private static func tags(of rows: [Row], _ room: Int) -> [String] {
    let count = rows.map(\.tags.count).min() ?? 0
    for choice in 0..<max(0, count) {  // bounded: a row has two tags
      let tags = rows.map { TextLayout.fit($0.tags[choice], columns: room, head: 0) }
      if Set(tags).count == tags.count { return tags }
    }
    return rows.map { _ in "" }
  }

  private static func text(_ row: Row, _ piece: String, _ columns: Int) -> String {
    let behind = " [\(piece)]"
    let left = columns &- TextLayout.width(behind)
    guard !piece.isEmpty, left > 0 else { return TextLayout.fit(row.text(columns), columns: columns) }
    return TextLayout.fit(row.text(left), columns: left) + behind
  }

  /// The places of texts that occur more than once, those of one text together.
  private static func groups(_ texts: [String]) -> [[Int]] {
    var places: [String: [Int]] = [:]
    for (index, text) in texts.enumerated() where !text.isEmpty { places[text, default: []].append(index) }
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
    let isEnough = words.allSatisfy { !$0.isEmpty } && Set(words).count == words.count
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
      whole: (all.map(Answer.wholeText) + [function ?? ""]).joined(separator: " "),
      tags: [site.map { hex($0.pc) } ?? ""])
  }
}
