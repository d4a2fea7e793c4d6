// SPDX-License-Identifier: Apache-2.0
// Rows of a table that do not look alike. Names are shortened to the room that there is, and instantiations of one
// template, or lines of two files of one name, may look the same then. Each row of such ones gets a piece in brackets
// behind it: the part of its whole text that the others have otherwise. Where the whole texts are equal (one line that
// was compiled twice), the piece is the row's address.
//
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [int]
//   shop::Shelf::put (shelf.h:12)   →   shop::Shelf::put (shelf.h:12) [std::string]

import Bounds

package enum DistinctRows {
  /// One row: its text in a number of columns, its whole text, and a short text that no other row has.
  package struct Row {
    var text: (_ columns: Int) -> String
    var whole: String
    var tag: String

    package init(text: @escaping (_ columns: Int) -> String, whole: String, tag: String) {
      self.text = text
      self.whole = whole
      self.tag = tag
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
    for alike in groups(texts) {
      guard meter.goesOn() else { break }
      let pieces = pieces(of: alike.map { rows[$0].whole })
      for (index, piece) in zip(alike, pieces) { texts[index] = text(rows[index], piece, columns) }
    }
    for alike in groups(texts) {
      for index in alike { texts[index] = text(rows[index], rows[index].tag, columns) }
    }
    return texts
  }

  private static func text(_ row: Row, _ piece: String, _ columns: Int) -> String {
    let room = min(pieceWidth, columns / 2)
    guard !piece.isEmpty, room > 3 else { return TextLayout.fit(row.text(columns), columns: columns) }
    let behind = " [\(TextLayout.fit(piece, columns: room &- 3))]"
    let left = columns &- TextLayout.width(behind)
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
