// SPDX-License-Identifier: Apache-2.0
// JSON that a source of answers gave, read: what commands need that work on with the numbers of an answer.
//
// A server may be another user's, so the text may be anything: what is no JSON, or is nested deeper than any answer,
// is an error. Texts become ForeignText.

import ByteText
import SystemAccess

/// A value of JSON (RFC 8259).
package indirect enum JSONValue {
  case null
  case bool(Bool)
  case number(Double)
  case string(ForeignText)
  case array([JSONValue])
  case object([String: JSONValue])

  /// The value that is all of `bytes`, but for a newline.
  package init(_ bytes: [UInt8]) throws(Complaint) {
    let value = bytes.withUnsafeBufferPointer { bytes -> JSONValue? in
      var reader = JSONReader(bytes)
      guard let value = reader.value(depth: 0), reader.isAtEnd else { return nil }
      return value
    }
    guard let value else {
      throw Complaint(
        .obstacle, what: "the answer is not the JSON that was asked for",
        advice: "server and allocsctl may be of different versions; --direct does without a server")
    }
    self = value
  }

  package subscript(name: String) -> JSONValue? {
    guard case .object(let fields) = self else { return nil }
    return fields[name]
  }

  package var elements: [JSONValue] {
    guard case .array(let elements) = self else { return [] }
    return elements
  }

  package var number: Double? {
    guard case .number(let number) = self else { return nil }
    return number
  }

  /// A whole number from 0 to 2^53.
  package var count: UInt64? { number.flatMap { UInt64(exactly: $0) } }

  package var text: ForeignText? {
    guard case .string(let text) = self else { return nil }
    return text
  }

  package var isTrue: Bool {
    guard case .bool(let value) = self else { return false }
    return value
  }
}

private struct JSONReader {
  private let bytes: UnsafeBufferPointer<UInt8>
  private var index = 0
  private static let deepest = 32

  init(_ bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

  private var next: UInt8? { index < bytes.count ? bytes[index] : nil }

  private mutating func skipBlanks() {
    while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { index += 1 }
  }

  var isAtEnd: Bool {
    mutating get {
      skipBlanks()
      return next == nil
    }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    skipBlanks()
    guard next == byte else { return false }
    index += 1
    return true
  }

  private mutating func take(_ word: StaticString) -> Bool {
    let count = word.utf8CodeUnitCount
    // bounded: the index is never behind the end, and a word has some letters
    guard bytes.count - index >= count, (0..<count).allSatisfy({ bytes[index + $0] == word.utf8Start[$0] }) else {
      return false
    }
    index += count
    return true
  }

  mutating func value(depth: Int) -> JSONValue? {
    guard depth < Self.deepest else { return nil }
    skipBlanks()
    switch next {
    case UInt8(ascii: "{"): return object(depth)
    case UInt8(ascii: "["): return array(depth)
    case UInt8(ascii: "\""): return string().map { .string(ForeignText($0)) }
    case UInt8(ascii: "t"): return take("true") ? .bool(true) : nil
    case UInt8(ascii: "f"): return take("false") ? .bool(false) : nil
    case UInt8(ascii: "n"): return take("null") ? .null : nil
    default: return number()
    }
  }

  private mutating func object(_ depth: Int) -> JSONValue? {
    index += 1
    var fields: [String: JSONValue] = [:]
    if take(UInt8(ascii: "}")) { return .object(fields) }
    repeat {
      skipBlanks()
      guard let name = string(), take(UInt8(ascii: ":")), let value = value(depth: depth &+ 1) else { return nil }
      fields[name] = value
    } while take(UInt8(ascii: ","))
    return take(UInt8(ascii: "}")) ? .object(fields) : nil
  }

  private mutating func array(_ depth: Int) -> JSONValue? {
    index += 1
    var elements: [JSONValue] = []
    if take(UInt8(ascii: "]")) { return .array(elements) }
    repeat {
      guard let value = value(depth: depth &+ 1) else { return nil }
      elements.append(value)
    } while take(UInt8(ascii: ","))
    return take(UInt8(ascii: "]")) ? .array(elements) : nil
  }

  private mutating func number() -> JSONValue? {
    let start = index
    while let byte = next, byte &- UInt8(ascii: "0") < 10 || "+-.eE".utf8.contains(byte) { index += 1 }
    // No number of an answer is greater than 2^64: sums and products of these stay numbers.
    // bounded: the index only grows
    guard let number = Double(String(decoding: bytes[start..<index], as: UTF8.self)), number.magnitude < 1e20 else {
      return nil
    }
    return .number(number)
  }

  private mutating func string() -> String? {
    guard next == UInt8(ascii: "\"") else { return nil }
    index += 1
    let start = index
    // bounded: the index only grows, and is above 0 here. Nearly all texts have no escapes.
    while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") { index += 1 }
    var text = String(decoding: bytes[start..<index], as: UTF8.self)
    while let byte = next {
      index += 1
      switch byte {
      case UInt8(ascii: "\""): return text
      case UInt8(ascii: "\\"):
        guard let scalar = escaped() else { return nil }
        text.unicodeScalars.append(scalar)
      default:
        let start = index - 1
        while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") { index += 1 }
        text += String(decoding: bytes[start..<index], as: UTF8.self)
      }
    }
    return nil
  }

  private mutating func escaped() -> Unicode.Scalar? {
    guard let byte = next else { return nil }
    index += 1
    switch byte {
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{C}"
    case UInt8(ascii: "u"):
      guard let high = unit() else { return nil }
      guard 0xD800..<0xDC00 ~= high else { return Unicode.Scalar(high) }
      guard take("\\u"), let low = unit(), 0xDC00..<0xE000 ~= low else { return nil }
      // bounded: both are in the ranges above, so 20 bits are added
      return Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00))
    default: return Unicode.Scalar(byte)
    }
  }

  private mutating func unit() -> UInt32? {
    // bounded: the index is never behind the end, of which four bytes are left
    guard bytes.count - index >= 4 else { return nil }
    defer { index += 4 }
    return UInt32(String(decoding: bytes[index..<(index + 4)], as: UTF8.self), radix: 16)
  }
}
