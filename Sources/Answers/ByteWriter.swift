// SPDX-License-Identifier: Apache-2.0
// A growing sequence of bytes. Answers are rendered into it, millions a second, without a string for each field.
//
// Invariants: `count <= capacity`; the bytes below `count` are initialized; the memory is owned by the writer alone.

import Bounds
import ByteText

/// A growing sequence of bytes. Not safe to use from two threads at once.
public struct ByteWriter: ~Copyable {
  private var start: UnsafeMutablePointer<UInt8>
  private var capacity: Int
  /// Bytes written since the last `take` or `removeAll`.
  public private(set) var count = 0

  /// A writer that takes `capacity` bytes before it grows.
  public init(capacity: Int = 4096) {
    self.capacity = max(capacity, 64)
    start = .allocate(capacity: self.capacity)
  }

  deinit { start.deallocate() }

  // MARK: getting the bytes out

  /// The written bytes, copied out; the writer is empty afterwards and keeps its memory.
  public mutating func take() -> [UInt8] {
    defer { count = 0 }
    return Array(UnsafeBufferPointer(start: start, count: count))
  }

  /// The written bytes as a string; the writer is empty afterwards and keeps its memory.
  public mutating func takeString() -> String {
    defer { count = 0 }
    return String(decoding: UnsafeBufferPointer(start: start, count: count), as: UTF8.self)
  }

  /// The written bytes in place, for as long as `body` runs.
  public func withBytes<Result>(_ body: (RawSpan) -> Result) -> Result {
    body(UnsafeRawBufferPointer(start: start, count: count).bytes)
  }

  public mutating func removeAll() { count = 0 }

  // MARK: bytes

  /// Makes room for `extra` more bytes, and returns where they go. The caller then adds the number of bytes written to
  /// `count`.
  @inline(__always)
  private mutating func room(_ extra: Int) -> UnsafeMutablePointer<UInt8> {
    if capacity &- count < extra { grow(extra) }
    return start.advanced(by: count)
  }

  @inline(never)
  private mutating func grow(_ extra: Int) {
    let newCapacity = max(capacity &* 2, count &+ extra)
    let new = UnsafeMutablePointer<UInt8>.allocate(capacity: newCapacity)
    new.update(from: start, count: count)
    start.deallocate()
    start = new
    capacity = newCapacity
  }

  @inline(__always)
  public mutating func append(byte: UInt8) {
    room(1).pointee = byte
    count &+= 1
  }

  /// Appends a literal.
  @inline(__always)
  public mutating func append(_ literal: StaticString) {
    let size = literal.utf8CodeUnitCount
    room(size).update(from: literal.utf8Start, count: size)
    count &+= size
  }

  public mutating func append(bytes: [UInt8]) {
    bytes.withUnsafeBufferPointer { append(buffer: $0) }
  }

  /// Appends the string's UTF-8 as it is: of lines that TextLayout made, and of JSON that another writer made.
  public mutating func append(text: String) {
    var text = text
    text.withUTF8 { append(buffer: $0) }
  }

  /// Appends one line of text for people, with its newline (TextLayout.text(of:)).
  mutating func append(line: String) {
    append(text: line.escapedAsForeign)
    append(byte: UInt8(ascii: "\n"))
  }

  /// The text in quotes, escaped as JSON (RFC 8259) asks.
  @inline(__always)
  public mutating func appendJSONString(_ text: ForeignText) {
    appendJSONString(text.unescaped)  // raw: the escapes are those of JSON
  }

  @inline(__always)
  private mutating func append(buffer: UnsafeBufferPointer<UInt8>) {
    guard let source = buffer.baseAddress else { return }
    room(buffer.count).update(from: source, count: buffer.count)
    count &+= buffer.count
  }

  // MARK: numbers

  @inline(__always)
  public mutating func append(decimal value: UInt64) {
    // Numbers are mostly short, so their digits are counted first and written where they belong.
    var digits = 1
    var bound: UInt64 = 10
    while value >= bound {
      digits &+= 1
      if digits == 20 { break }
      bound &*= 10
    }
    let place = room(20)
    var rest = value
    var index = digits
    repeat {
      index &-= 1
      let (quotient, remainder) = rest.quotientAndRemainder(dividingBy: 10)
      place[index] = 0x30 &+ UInt8(truncatingIfNeeded: remainder)
      rest = quotient
    } while rest != 0
    count &+= digits
  }

  /// `0x` and the digits, in lower case, without leading zeros.
  @inline(__always)
  public mutating func append(address: UInt64) {
    let digits = max(1, (67 &- address.leadingZeroBitCount) / 4)
    let place = UnsafeMutableRawPointer(room(18))
    place.storeBytes(of: UInt16(littleEndian: 0x7830), as: UInt16.self)  // 0x
    // All sixteen digits are stored, the first digit first; the next append overwrites those behind the last one.
    let aligned = address << UInt64(truncatingIfNeeded: 64 &- 4 &* digits)
    place.storeBytes(of: Self.digits(UInt32(truncatingIfNeeded: aligned >> 32)), toByteOffset: 2, as: UInt64.self)
    place.storeBytes(of: Self.digits(UInt32(truncatingIfNeeded: aligned)), toByteOffset: 10, as: UInt64.self)
    count &+= 2 &+ digits
  }

  /// The eight hexadecimal digits of `value`, the highest in the lowest byte of memory.
  @inline(__always)
  private static func digits(_ value: UInt32) -> UInt64 {
    // One digit in each byte.
    var spread = UInt64(truncatingIfNeeded: value)
    spread = (spread | spread << 16) & 0x0000_FFFF_0000_FFFF
    spread = (spread | spread << 8) & 0x00FF_00FF_00FF_00FF
    spread = (spread | spread << 4) & 0x0F0F_0F0F_0F0F_0F0F
    // From 10 on a letter, which is 0x27 further on than a decimal digit would be.
    let isLetter = (spread &+ 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101
    return (spread &+ 0x3030_3030_3030_3030 &+ isLetter &* 0x27).bigEndian
  }

  /// `value` with at most `places` digits after the point, and never more than 15, without zeros at the end. A value
  /// below zero, or that is not a number, is written as 0; a value above 2^53, as 2^53.
  public mutating func append(decimal value: Double, places: Int) {
    var scale: UInt64 = 1
    for _ in stride(from: 0, to: min(places, 15), by: 1) { scale &*= 10 }
    let limited = value > 0 ? min(value, 9_007_199_254_740_992) : 0
    let whole = Foreign<UInt64>(wholePartOf: limited).saturated()
    let rest = (limited - Double(whole)) * Double(scale)
    var fraction = Foreign<UInt64>(wholePartOf: rest.rounded()).saturated()
    append(decimal: fraction >= scale ? whole &+ 1 : whole)
    if fraction == 0 || fraction >= scale { return }
    append(byte: UInt8(ascii: "."))
    // bounded: the divisor is a power of ten, 1 at least
    var digit = scale / 10
    while fraction > 0, digit > 0 {
      append(byte: 0x30 &+ UInt8(truncatingIfNeeded: fraction / digit))
      fraction %= digit
      digit /= 10
    }
  }

  // MARK: JSON strings

  /// The string in quotes, escaped as JSON (RFC 8259) asks.
  @inline(__always)
  public mutating func appendJSONString(_ text: String) {
    var text = text
    text.withUTF8 { appendJSONString($0) }
  }

  @inline(__always)
  private mutating func appendJSONString(_ source: UnsafeBufferPointer<UInt8>) {
    // bounded: the longest escape, \u001f, has six bytes, and stands for at least one
    var place = room(source.count &* 6 &+ 2)
    let first = place
    place.pointee = UInt8(ascii: "\"")
    place += 1
    var index = 0
    while index < source.count {
      let byte = source[index]
      if byte >= 0x20, byte < 0x7F, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") {
        place.pointee = byte
        place += 1
        index += 1
      } else if byte < 0x80 {
        place = Self.escape(byte, at: place)
        index += 1
      } else {
        place = Self.copy(scalarIn: source, at: &index, to: place)
      }
    }
    place.pointee = UInt8(ascii: "\"")
    count &+= first.distance(to: place) &+ 1
  }

  @inline(never)
  private static func escape(_ byte: UInt8, at place: UnsafeMutablePointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
    place[0] = UInt8(ascii: "\\")
    let short: UInt8? =
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"): byte
      case 0x08: UInt8(ascii: "b")
      case 0x09: UInt8(ascii: "t")
      case 0x0A: UInt8(ascii: "n")
      case 0x0C: UInt8(ascii: "f")
      case 0x0D: UInt8(ascii: "r")
      default: nil
      }
    if let short {
      place[1] = short
      return place.advanced(by: 2)
    }
    return escape(unit: UInt16(truncatingIfNeeded: byte), at: place)
  }

  /// `\u001f`
  private static func escape(unit: UInt16, at place: UnsafeMutablePointer<UInt8>) -> UnsafeMutablePointer<UInt8> {
    let digits: StaticString = "0123456789abcdef"
    place[0] = UInt8(ascii: "\\")
    place[1] = UInt8(ascii: "u")
    for digit in 0..<4 {
      place[2 &+ digit] = digits.utf8Start[Int(truncatingIfNeeded: unit >> UInt16(clamping: 12 &- 4 &* digit) & 15)]
    }
    return place.advanced(by: 6)
  }

  /// Copies a scalar from 0x80 up, which begins at `index` of a String's UTF-8. A scalar that a terminal would act upon
  /// is escaped, as ForeignText does. A byte that is no text becomes `\\xE9`, which a reader of JSON sees as
  /// `\xE9`.
  @inline(never)
  private static func copy(
    scalarIn source: UnsafeBufferPointer<UInt8>, at index: inout Int, to place: UnsafeMutablePointer<UInt8>
  ) -> UnsafeMutablePointer<UInt8> {
    // bounded: a String's UTF-8 is valid, so that all bytes of the scalar are there
    let first = source[index]
    let length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4
    var value = UInt32(first) & (0xFF >> UInt32(length + 1))
    for next in 1..<length { value = value << 6 | UInt32(source[index + next]) & 0x3F }
    defer { index += length }
    let scalar = Unicode.Scalar(value) ?? "\u{FFFD}"
    if let byte = scalar.originalByte {
      var end = place
      for character in "\\\(byte.escaped)".utf8 {
        end.pointee = character
        end += 1
      }
      return end
    }
    if scalar.isInert {
      for next in 0..<length { place[next] = source[index + next] }
      return place + length
    }
    var end = place
    for unit in UTF16.encode(scalar) ?? UTF16.encodedReplacementCharacter { end = escape(unit: unit, at: end) }
    return end
  }
}
