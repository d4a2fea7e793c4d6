// SPDX-License-Identifier: Apache-2.0
// The part of TOML (toml.io, version 1.0) that a flat configuration needs: key = value, one a line, with comments.
//
//   key       bare: letters, digits, _ and -
//   value     "basic string" or 'literal string', both also with three quotes over several lines;
//             a decimal integer; true or false; an array of strings, over several lines if need be
//
// Tables, dotted keys, dates and floating-point numbers are errors that say so. TOMLKit does not serve here: it knows
// the line of text that is not TOML, but an unknown key, or a wrong letter in a string, must be named with its line,
// too.
//
// bounded: places in a text that is in memory, from the left to the right, and numbers of its lines

enum TOML {
  struct Text {
    var text: String
    /// The line of the value's first character.
    var line: Int
  }

  enum Value {
    case string(String, line: Int)
    case integer(Int)
    case boolean(Bool)
    case array([Text])
  }

  struct Entry {
    var key: String
    var line: Int
    var value: Value
  }

  struct Failure: Error {
    var line: Int
    var what: String
    var advice: String
  }

  /// The entries in their order. A key that comes twice is an error.
  static func parse(_ bytes: [UInt8]) throws(Failure) -> [Entry] {
    var parser = Parser(bytes: bytes)
    return try parser.entries()
  }
}

private struct Parser {
  let bytes: [UInt8]
  var next = 0
  var line = 1

  init(bytes: [UInt8]) { self.bytes = bytes }

  private var byte: UInt8? { next < bytes.count ? bytes[next] : nil }

  private func failure(_ what: String, _ advice: String) -> TOML.Failure {
    TOML.Failure(line: line, what: what, advice: advice)
  }

  private mutating func skipBlanks() {
    while let byte, byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") { next += 1 }
  }

  /// Skips blanks, comments and line ends.
  private mutating func skipSpace() {
    while true {
      skipBlanks()
      if byte == UInt8(ascii: "#") {
        while let byte, byte != UInt8(ascii: "\n") { next += 1 }
      }
      if byte == UInt8(ascii: "\r"), next + 1 < bytes.count, bytes[next + 1] == UInt8(ascii: "\n") { next += 1 }
      guard byte == UInt8(ascii: "\n") else { return }
      next += 1
      line += 1
    }
  }

  mutating func entries() throws(TOML.Failure) -> [TOML.Entry] {
    if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { next = 3 }
    var entries: [TOML.Entry] = []
    while true {
      skipSpace()
      guard byte != nil else { return entries }
      let start = line
      let key = try key()
      if let first = entries.first(where: { $0.key == key }) {
        throw failure("\(key) is set twice, first in line \(first.line)", "keep one of them")
      }
      skipBlanks()
      guard byte == UInt8(ascii: "=") else { throw failure("there is no = behind \(key)", "write \(key) = value") }
      next += 1
      skipBlanks()
      entries.append(TOML.Entry(key: key, line: start, value: try value(of: key)))
      skipBlanks()
      if byte == UInt8(ascii: "#") || byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n") || byte == nil {
        continue
      }
      throw failure("something follows the value of \(key)", "put each key on a line of its own")
    }
  }

  private mutating func key() throws(TOML.Failure) -> String {
    if byte == UInt8(ascii: "[") { throw failure("there are no tables in this file", "write key = value") }
    let start = next
    while let byte, isBare(byte) { next += 1 }
    guard next > start else { throw failure("a key is missing", "write key = value; comments begin with #") }
    return String(decoding: bytes[start..<next], as: UTF8.self)
  }

  private func isBare(_ byte: UInt8) -> Bool {
    (byte | 0x20) &- UInt8(ascii: "a") < 26 || byte &- UInt8(ascii: "0") < 10 || byte == UInt8(ascii: "_")
      || byte == UInt8(ascii: "-")
  }

  private mutating func value(of key: String) throws(TOML.Failure) -> TOML.Value {
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "'"):
      let text = try string()
      return .string(text.text, line: text.line)
    case UInt8(ascii: "["): return .array(try array())
    default:
      let start = next
      while let byte,
        isBare(byte) || byte == UInt8(ascii: "+") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: ":")
      {
        next += 1
      }
      let word = String(decoding: bytes[start..<next], as: UTF8.self)
      if word == "true" || word == "false" { return .boolean(word == "true") }
      let digits = word.filter { $0 != "_" }
      if let number = Int(digits), !word.isEmpty { return .integer(number) }
      throw failure(
        word.isEmpty ? "\(key) has no value" : "\(word) is no value", "give a string in quotes, a number, true or false"
      )
    }
  }

  private mutating func array() throws(TOML.Failure) -> [TOML.Text] {
    let start = line
    next += 1
    var items: [TOML.Text] = []
    while true {
      skipSpace()
      switch byte {
      case UInt8(ascii: "]"):
        next += 1
        return items
      case UInt8(ascii: "\""), UInt8(ascii: "'"): items.append(try string())
      case nil: throw TOML.Failure(line: start, what: "an array has no end", advice: "close it with ]")
      default: throw failure("an array has something else than strings", "put each item in quotes")
      }
      skipSpace()
      if byte == UInt8(ascii: ",") {
        next += 1
      } else if byte != UInt8(ascii: "]") {
        throw failure("between the items of an array there is no comma", "write [\"one\", \"two\"]")
      }
    }
  }

  // MARK: strings

  private mutating func string() throws(TOML.Failure) -> TOML.Text {
    let start = line
    let quote = bytes[next]
    let isBasic = quote == UInt8(ascii: "\"")
    let isLong = next + 2 < bytes.count && bytes[next + 1] == quote && bytes[next + 2] == quote
    next += isLong ? 3 : 1
    var first = start
    if isLong {
      if byte == UInt8(ascii: "\r") { next += 1 }
      if byte == UInt8(ascii: "\n") {
        next += 1
        line += 1
        first += 1
      }
    }
    var text: [UInt8] = []
    while let byte {
      if byte == quote, !isLong || (next + 2 < bytes.count && bytes[next + 1] == quote && bytes[next + 2] == quote) {
        next += isLong ? 3 : 1
        guard let valid = String(validating: text, as: UTF8.self), !text.contains(0) else {
          throw failure("a string is not UTF-8, or has a zero byte", "save the file as UTF-8")
        }
        return TOML.Text(text: valid, line: first)
      }
      if byte == UInt8(ascii: "\n") {
        guard isLong else { break }
        line += 1
      }
      next += 1
      if isBasic, byte == UInt8(ascii: "\\") { try appendEscape(isLong: isLong, to: &text) } else { text.append(byte) }
    }
    throw TOML.Failure(line: start, what: "a string has no end", advice: "close it with its quote")
  }

  private mutating func appendEscape(isLong: Bool, to text: inout [UInt8]) throws(TOML.Failure) {
    guard let byte else { return }
    next += 1
    switch byte {
    case UInt8(ascii: "b"): text.append(8)
    case UInt8(ascii: "t"): text.append(9)
    case UInt8(ascii: "n"): text.append(10)
    case UInt8(ascii: "f"): text.append(12)
    case UInt8(ascii: "r"): text.append(13)
    case UInt8(ascii: "\""), UInt8(ascii: "\\"): text.append(byte)
    case UInt8(ascii: "u"), UInt8(ascii: "U"):
      let count = byte == UInt8(ascii: "u") ? 4 : 8
      let digits = bytes[next..<min(bytes.count, next + count)]
      guard digits.count == count, let value = UInt32(String(decoding: digits, as: UTF8.self), radix: 16),
        let scalar = UnicodeScalar(value)
      else { throw failure("a string has a \\u without a character's number", "write \\u00e9, say") }
      next += count
      text += Array(String(scalar).utf8)
    case UInt8(ascii: "\n") where isLong, UInt8(ascii: " ") where isLong, UInt8(ascii: "\t") where isLong,
      UInt8(ascii: "\r") where isLong:
      // A backslash at the end of a line removes the line's end and the blanks behind it.
      next -= 1
      while let byte = self.byte, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D {
        if byte == 0x0A { line += 1 }
        next += 1
      }
    default: throw failure("a string has a \\ before something else", "write \\\\ for a backslash")
    }
  }
}
