// SPDX-License-Identifier: Apache-2.0
// How text is fitted to lines of 80 columns, or as many as were asked for: the width of a string, cutting it in its
// middle, breaking lines; and the one way by which lines become an answer.

import ByteText

package enum TextLayout {
  /// Columns of a line, unless somebody asks for others: whatever the width of the real terminal is, so that every
  /// program prints the same answer.
  package static let usualColumns = 80
  /// Columns that may be asked for. Tables have numbers for which fewer are not enough.
  private static let columnLimits = (least: 80, most: 1000)

  @TaskLocal private static var askedColumns = usualColumns

  /// Columns of a line of what is made on this thread.
  package static var columns: Int { askedColumns }

  /// The columns that a text asks for, such as the value of COLUMNS: the nearest number that is allowed; nil if the
  /// text is no whole number above 0.
  package static func columns(askedFor text: some StringProtocol) -> Int? {
    let digits = text.utf8
    guard !digits.isEmpty, digits.allSatisfy({ $0 &- UInt8(ascii: "0") < 10 }), digits.contains(where: { $0 != 0x30 })
    else { return nil }
    // More digits than a number can have are more columns than are allowed.
    let asked = Int(text) ?? .max  // bounded: an optional, of a text
    return max(columnLimits.least, min(asked, columnLimits.most))
  }

  /// Runs `body`, which makes lines of so many columns on this thread.
  package static func withLines<Result, Failure>(
    of columns: Int, _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try $askedColumns.withValue(columns) { () -> Swift.Result<Result, Failure> in
      do throws(Failure) {
        return .success(try body())
      } catch {
        return .failure(error)
      }
    }.get()
  }

  /// Columns that a terminal gives to `text`: two for wide East Asian characters and emoji, none for marks upon other
  /// characters, one for all others.
  package static func width(_ text: some StringProtocol) -> Int {
    // Nearly all text is ASCII.
    if text.utf8.allSatisfy({ $0 < 0x80 }) { return text.utf8.count }
    return text.unicodeScalars.reduce(0) { $0 &+ width($1) }
  }

  private static func width(_ scalar: Unicode.Scalar) -> Int {
    switch scalar.value {
    case 0..<0x300: return 1
    case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F, 0xFF00...0xFF60,
      0xFFE0...0xFFE6, 0x1F300...0x1FAFF, 0x20000...0x3FFFD:
      return 2
    default: return scalar.properties.isGraphemeExtend ? 0 : 1
    }
  }

  /// `text` as ForeignText shows it: names come from other processes, and may be made to deceive.
  package static func printable(_ text: ForeignText) -> String { text.escaped }

  /// Text that is put together already, with the same result where it has been escaped.
  package static func printable(_ text: String) -> String { text.escapedAsForeign }

  /// The lines of an answer, each with a newline: the one way by which text goes to people. What a line has of foreign
  /// text was escaped where it was made a part of the line; it is once more here, so that nothing passes that was
  /// forgotten there. So a line has one line.
  package static func text(of lines: [String]) -> String {
    var text = ""
    for line in lines {
      text += line.escapedAsForeign
      text += "\n"
    }
    return text
  }

  /// Lines that were put together already, each with its newline, in the same way.
  package static func text(ofWhole text: String) -> String {
    if text.utf8.allSatisfy({ $0 == UInt8(ascii: "\n") || $0 >= 0x20 && $0 < 0x7F }) { return text }
    return self.text(of: text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init))
  }

  /// Lines of text or JSON that a server sent, as they may go to a terminal. A server has escaped all text in them; the
  /// worker that made them may be another's by now, so what is not escaped is escaped here.
  package static func lines(fromServer bytes: [UInt8]) -> [UInt8] {
    func isPlain(_ byte: UInt8) -> Bool { byte >= 0x20 && byte < 0x7F || byte == UInt8(ascii: "\n") }
    // Long answers are ASCII, nearly always.
    if bytes.allSatisfy(isPlain) { return bytes }
    let text = String(decoding: bytes, as: UTF8.self)
    if text.unicodeScalars.allSatisfy({ $0 == "\n" || $0.isInert }) { return Array(text.utf8) }
    var shown: [UInt8] = []
    for scalar in text.unicodeScalars {
      shown += (scalar == "\n" || scalar.isInert ? String(scalar) : String(scalar).escapedAsForeign).utf8
    }
    return shown
  }

  /// `text` in at most `columns`: the middle is replaced by `…`, as both ends of a path or a C++ name tell more.
  /// The head gets `head` fifths of the room: by default the larger half, as a function's name mostly stands before its
  /// arguments.
  package static func fit(_ text: String, columns: Int, head share: Int = 3) -> String {
    if text.utf8.count <= columns { return text }
    // A name of megabytes must not cost a pass over each of its characters for each line.
    let isLong = text.utf8.count > 16_384
    let scalars =
      isLong
      ? Array(text.unicodeScalars.prefix(4096)) + Array(text.unicodeScalars.suffix(4096)) : Array(text.unicodeScalars)
    let widths = scalars.map { width($0) }
    if !isLong, widths.reduce(0, &+) <= columns { return text }
    guard columns > 1 else { return columns == 1 ? "…" : "" }

    // bounded: the widths of eight thousand characters, and columns of a line
    let available = columns - 1
    var head = 0
    var headWidth = 0
    while head < scalars.count, headWidth + widths[head] <= (available * share + 4) / 5 {
      headWidth += widths[head]
      head += 1
    }
    var tail = scalars.count
    var tailWidth = 0
    while tail > head, headWidth + tailWidth + widths[tail - 1] <= available {
      tail -= 1
      tailWidth += widths[tail]
    }
    // A mark belongs to the character before it, which is left out.
    while tail < scalars.count, widths[tail] == 0 { tail += 1 }
    var result = String.UnicodeScalarView(scalars[..<head])
    result.append("…")
    result.append(contentsOf: scalars[tail...])
    return String(result)
  }

  /// A path in at most `columns`, with whole directories left out: `/srv/…/bin/prog`. The first one stays, and as many
  /// of the last as there is room for; nil if there is none for the first and the file's name.
  package static func fitPath(_ path: String, columns: Int) -> String? {
    if width(path) <= columns { return path }
    let parts = path.split(separator: "/", omittingEmptySubsequences: true)
    guard path.hasPrefix("/"), parts.count > 2, let last = parts.last else { return nil }
    let head = "/\(parts[0])/…"
    var tail = "/\(last)"
    guard width(head) &+ width(tail) <= columns else { return nil }
    for part in parts.dropFirst().dropLast().reversed() {
      let longer = "/\(part)\(tail)"
      if width(head) &+ width(longer) > columns { break }
      tail = longer
    }
    return "\(head)\(tail)"
  }

  /// `phrases` joined by commas, in lines that begin with `indent`; a phrase stays whole unless it is longer than a
  /// line.
  package static func wrap(_ phrases: [String], indent: String) -> [String] {
    var lines: [String] = []
    var current = ""
    for (index, phrase) in phrases.enumerated() {
      let comma = index &+ 1 < phrases.count ? "," : ""
      let room = columns &- width(indent) &- comma.count
      let fitted = "\(fit(phrase, columns: room))\(comma)"
      if current.isEmpty {
        current = indent + fitted
      } else if width(current) &+ 1 &+ width(fitted) <= columns {
        current += " " + fitted
      } else {
        lines.append(current)
        current = indent + fitted
      }
    }
    if !current.isEmpty { lines.append(current) }
    return lines
  }

  /// `text` broken at its blanks into lines that begin with `indent`.
  package static func fill(_ text: String, indent: String) -> [String] {
    var lines: [String] = []
    var current = indent
    for word in text.split(separator: " ") {
      let fitted = fit(String(word), columns: columns &- width(indent))
      if current.count > indent.count, width(current) &+ 1 &+ width(fitted) > columns {
        lines.append(current)
        current = indent
      }
      current += (current.count > indent.count ? " " : "") + fitted
    }
    if current.count > indent.count { lines.append(current) }
    return lines
  }

  private static func blank(_ columns: Int) -> String {
    String(repeating: " ", count: max(0, columns))  // bounded: the columns of a cell, or what is left of a line
  }

  package static func padded(_ text: String, left columns: Int) -> String {
    blank(columns &- width(text)) + text
  }

  package static func padded(_ text: String, right columns: Int) -> String {
    text + blank(columns &- width(text))
  }
}
