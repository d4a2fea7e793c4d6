// SPDX-License-Identifier: Apache-2.0
// Numbers as bytes: little-endian words; and numbers in LEB128, 7 bits a byte, the lowest bits
// first. Signed numbers are zigzag-coded: 0, -1, 1, -2, …

import Bounds
import ByteText

extension [UInt8] {
  mutating func append(word: UInt32) {
    for shift in stride(from: 0, to: 32, by: 8) { append(UInt8(truncatingIfNeeded: word >> shift & 255)) }
  }
  mutating func append(word: UInt64) {
    append(word: UInt32(truncatingIfNeeded: word))
    append(word: UInt32(truncatingIfNeeded: word >> 32))
  }

  @inline(__always)
  mutating func append(number: UInt64) {
    var rest = number
    while rest >= 0x80 {
      append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    append(UInt8(truncatingIfNeeded: rest))
  }
  mutating func append(signed: Int64) { append(number: UInt64(bitPattern: signed << 1 ^ signed >> 63)) }

  mutating func append(string: ForeignText) {
    let bytes = string.originalBytes
    append(number: UInt64(truncatingIfNeeded: bytes.count))
    append(contentsOf: bytes)
  }
}

extension ArraySlice<UInt8> {
  /// The word at `index`. The slice holds all of it.
  func word(at index: Int) -> UInt32 {
    // bounded: index and the three behind it are indices
    self[index..<index + 4].reversed().reduce(0) { $0 << 8 | UInt32(truncatingIfNeeded: $1) }
  }
}

/// The payload of a chunk can't be used, though its checksum is right.
struct MalformedChunk: Error {
  /// Whether it may follow the format, and would take more memory than a recording may; else it
  /// contradicts the format.
  var isTooLarge = false
}

/// Reads numbers, one after another, from bytes. Throws if the bytes end too early.
///
/// A byte of a file may become a hundred bytes of rows, and a chunk may be packed a thousandfold.
/// So whoever makes rows says how much memory each takes, before it is taken: `room` is what is
/// left.
struct NumberReader {
  private let bytes: [UInt8]
  private(set) var index: Int
  private let end: Int
  /// Bytes of memory that rows and strings may still take.
  private(set) var room: Int
  /// Bytes of memory that a string or an array takes beside its contents.
  private static let objectOverhead = 48

  init(_ bytes: [UInt8], in range: Range<Int>? = nil, room: Int = .max) {
    self.bytes = bytes
    self.room = room
    index = range?.lowerBound ?? 0
    end = range?.upperBound ?? bytes.count
  }

  var isAtEnd: Bool { index >= end }
  var remaining: Int { end &- index }

  mutating func byte() throws(MalformedChunk) -> UInt8 {
    guard index < end else { throw MalformedChunk() }
    defer { index &+= 1 }
    return bytes[index]
  }

  mutating func number() throws(MalformedChunk) -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while true {
      let byte = try byte()
      guard shift < 63 || byte <= 1 else { throw MalformedChunk() }
      value |= UInt64(truncatingIfNeeded: byte & 0x7F) << shift
      if byte < 0x80 { return value }
      shift &+= 7
    }
  }

  mutating func number32() throws(MalformedChunk) -> UInt32 {
    guard let value = UInt32(exactly: try number()) else { throw MalformedChunk() }
    return value
  }

  mutating func signed() throws(MalformedChunk) -> Int64 {
    let value = try number()
    return Int64(bitPattern: value >> 1) ^ -Int64(truncatingIfNeeded: value & 1)
  }

  /// A count of rows, each of which takes at least `size` bytes of the file, and `memory` bytes
  /// when it is read. Throws if the bytes have no room for so many rows, or the memory has none.
  mutating func count(of size: Int = 1, memory: Int = 0) throws(MalformedChunk) -> Int {
    guard let count = Foreign(try number()).int(upTo: remaining / max(size, 1)) else { throw MalformedChunk() }
    try take(Foreign(count) * memory)
    return count
  }

  private mutating func take(_ bytes: Foreign<Int>) throws(MalformedChunk) {
    guard let bytes = bytes.int(upTo: room) else { throw MalformedChunk(isTooLarge: true) }
    room &-= bytes
  }

  mutating func slice(_ count: Int) throws(MalformedChunk) -> Range<Int> {
    guard count >= 0, count <= remaining else { throw MalformedChunk() }
    defer { index &+= count }
    return index..<index + count  // bounded: no more than remain
  }

  /// A reader of the next `count` bytes. This reader goes on behind them.
  mutating func part(_ count: Int) throws(MalformedChunk) -> NumberReader { NumberReader(bytes, in: try slice(count)) }

  mutating func data(_ count: Int) throws(MalformedChunk) -> [UInt8] {
    try take(Foreign(count) + Self.objectOverhead)
    return Array(bytes[try slice(count)])
  }

  mutating func string() throws(MalformedChunk) -> ForeignText {
    let size = try count()
    // A byte that is no UTF-8 becomes a character of four.
    try take(Foreign(size) * 4 + Self.objectOverhead)
    return ForeignText(reversibly: bytes[try slice(size)])
  }
}

/// Reads many numbers, one after another, where checks of each would take most of the time. A
/// malformed number is noted, and those behind it are 0: whoever reads looks at `isMalformed` once
/// for some numbers. Used while the bytes stay where they are.
struct FastNumbers {
  private var place: UnsafePointer<UInt8>
  private let end: UnsafePointer<UInt8>
  private(set) var isMalformed = false
  /// Bytes of the longest number.
  static let longest = 10

  /// `bytes`: not empty.
  init(_ bytes: UnsafeBufferPointer<UInt8>, from index: Int) {
    // bounded: an index of the bytes, or their end
    place = bytes.baseAddress.unsafelyUnwrapped + max(0, min(index, bytes.count))
    end = bytes.baseAddress.unsafelyUnwrapped + bytes.count  // bounded: as many as there are
  }

  /// Whether so many numbers have room before the bytes end, however long they are.
  @inline(__always)
  func hasRoom(for count: Int) -> Bool { place.distance(to: end) >= count &* Self.longest }

  /// The next number. `hasRoom`: whether it surely ends before the bytes do.
  @inline(__always)
  mutating func next(_ hasRoom: Bool) -> UInt64 {
    guard hasRoom else { return nextAtEnd() }
    let first = place.pointee
    if first < 0x80 {
      place = place.successor()
      return UInt64(truncatingIfNeeded: first)
    }
    // Eight bytes at once: the first without its highest bit is the number's last.
    let word = UInt64(littleEndian: UnsafeRawPointer(place).loadUnaligned(as: UInt64.self))
    let ends = ~word & 0x8080_8080_8080_8080
    guard ends != 0 else { return nextAtEnd() }
    let bits = ends ^ (ends &- 1)
    place += ends.trailingZeroBitCount >> 3 &+ 1  // bounded: from 1 to 8
    var value = word & bits & 0x7F7F_7F7F_7F7F_7F7F
    value = (value & 0x007F_007F_007F_007F) | (value & 0x7F00_7F00_7F00_7F00) >> 1
    value = (value & 0x0000_3FFF_0000_3FFF) | (value & 0x3FFF_0000_3FFF_0000) >> 2
    return (value & 0x0FFF_FFFF) | (value & 0x0FFF_FFFF_0000_0000) >> 4
  }

  /// As NumberReader has it.
  @inline(never)
  private mutating func nextAtEnd() -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while !isMalformed {
      guard place < end, shift < 63 || place.pointee <= 1 else { break }
      let byte = place.pointee
      place = place.successor()
      value |= UInt64(truncatingIfNeeded: byte & 0x7F) << shift
      if byte < 0x80 { return value }
      shift &+= 7
    }
    isMalformed = true
    return 0
  }
}
