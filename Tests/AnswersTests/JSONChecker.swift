// SPDX-License-Identifier: Apache-2.0
// A strict reader of JSON (RFC 8259), written apart from the code under test: what it refuses is not JSON.

indirect enum JSON: Equatable {
  case null
  case bool(Bool)
  case number(String)
  case string(String)
  case array([JSON])
  case object([String: JSON])

  subscript(key: String) -> JSON? {
    guard case .object(let fields) = self else { return nil }
    return fields[key]
  }

  subscript(index: Int) -> JSON? {
    guard case .array(let elements) = self, index < elements.count else { return nil }
    return elements[index]
  }

  var string: String? {
    guard case .string(let text) = self else { return nil }
    return text
  }

  var number: Double? {
    guard case .number(let text) = self else { return nil }
    return Double(text)
  }

  var count: Int {
    switch self {
    case .array(let elements): elements.count
    case .object(let fields): fields.count
    default: 0
    }
  }
}

struct JSONFault: Error {
  var offset: Int
  var reason: String
}

/// The value that is all of `text`.
func parseJSON(_ text: [UInt8]) throws(JSONFault) -> JSON {
  guard String(validating: text, as: UTF8.self) != nil else { throw JSONFault(offset: 0, reason: "not UTF-8") }
  var reader = JSONReader(text: text)
  let value = try reader.value()
  guard reader.offset == text.count else { throw reader.fault("more than one value") }
  return value
}

func parseJSON(_ text: String) throws(JSONFault) -> JSON { try parseJSON(Array(text.utf8)) }

private struct JSONReader {
  var text: [UInt8]
  var offset = 0

  func fault(_ reason: String) -> JSONFault { JSONFault(offset: offset, reason: reason) }

  var next: UInt8? { offset < text.count ? text[offset] : nil }

  mutating func take(_ literal: String) -> Bool {
    let bytes = Array(literal.utf8)
    guard text.dropFirst(offset).starts(with: bytes) else { return false }
    offset += bytes.count
    return true
  }

  mutating func value() throws(JSONFault) -> JSON {
    switch next {
    case UInt8(ascii: "{"): return try object()
    case UInt8(ascii: "["): return try array()
    case UInt8(ascii: "\""): return .string(try string())
    default:
      if take("null") { return .null }
      if take("true") { return .bool(true) }
      if take("false") { return .bool(false) }
      return try number()
    }
  }

  mutating func object() throws(JSONFault) -> JSON {
    offset += 1
    var fields: [String: JSON] = [:]
    if take("}") { return .object(fields) }
    repeat {
      let name = try string()
      guard take(":") else { throw fault("no colon") }
      guard fields.updateValue(try value(), forKey: name) == nil else { throw fault("\(name) twice") }
    } while take(",")
    guard take("}") else { throw fault("object not closed") }
    return .object(fields)
  }

  mutating func array() throws(JSONFault) -> JSON {
    offset += 1
    var elements: [JSON] = []
    if take("]") { return .array(elements) }
    repeat { elements.append(try value()) } while take(",")
    guard take("]") else { throw fault("array not closed") }
    return .array(elements)
  }

  mutating func number() throws(JSONFault) -> JSON {
    let start = offset
    _ = take("-")
    let digits = offset
    while let byte = next, byte &- 0x30 < 10 { offset += 1 }
    guard offset > digits, text[digits] != 0x30 || offset == digits + 1 else { throw fault("no number") }
    if take(".") {
      let fraction = offset
      while let byte = next, byte &- 0x30 < 10 { offset += 1 }
      guard offset > fraction else { throw fault("no fraction") }
    }
    return .number(String(decoding: text[start..<offset], as: UTF8.self))
  }

  mutating func string() throws(JSONFault) -> String {
    guard take("\"") else { throw fault("no string") }
    var bytes: [UInt8] = []
    while let byte = next {
      offset += 1
      switch byte {
      case UInt8(ascii: "\""): return String(decoding: bytes, as: UTF8.self)
      case 0..<0x20: throw fault("control character")
      case UInt8(ascii: "\\"):
        guard let escape = next else { throw fault("cut") }
        offset += 1
        switch escape {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): bytes.append(escape)
        case UInt8(ascii: "b"): bytes.append(0x08)
        case UInt8(ascii: "f"): bytes.append(0x0C)
        case UInt8(ascii: "n"): bytes.append(0x0A)
        case UInt8(ascii: "r"): bytes.append(0x0D)
        case UInt8(ascii: "t"): bytes.append(0x09)
        case UInt8(ascii: "u"):
          func unit(at start: Int) -> UInt32? {
            let digits = text[min(start, text.count)..<min(start + 4, text.count)]
            return digits.count == 4 ? UInt32(String(decoding: digits, as: UTF8.self), radix: 16) : nil
          }
          guard var code = unit(at: offset) else { throw fault("bad \\u") }
          offset += 4
          // A character beyond 16 bits is a pair of surrogates.
          if (0xD800..<0xDC00).contains(code), text[offset...].starts(with: "\\u".utf8), let low = unit(at: offset + 2),
            (0xDC00..<0xE000).contains(low)
          {
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            offset += 6
          }
          guard let scalar = Unicode.Scalar(code) else { throw fault("bad \\u") }
          bytes += Array(String(Character(scalar)).utf8)
        default: throw fault("bad escape")
        }
      default: bytes.append(byte)
      }
    }
    throw fault("string not closed")
  }
}
