// SPDX-License-Identifier: Apache-2.0
// A list of addresses, one a line, that arrives in pieces: the body of a POST, or standard input.
//
// Blank lines and blanks around an address don't matter. A line that is not an address is reported in its place, and
// the list goes on. A line that lies whole in one piece is read in place; of any other line at most `lineLimit` bytes
// are kept.

import SystemAccess

/// One line of a list of addresses.
public enum AddressLine: Equatable, Sendable {
  case address(UInt64)
  /// The line is not an address; the error names its number.
  case rejected(Complaint)
}

/// Splits pieces of a list into lines, and reads the addresses in them. It is inlinable, so that a batch makes no call
/// through a closure for each of millions of lines.
public struct AddressLines: Sendable {
  /// Bytes of the longest line that can be an address.
  public static let lineLimit = 256

  @usableFromInline var partial: [UInt8] = []
  /// Lines that have ended so far.
  public internal(set) var count = 0

  public init() {}

  /// Calls `body` for each line that ends within `bytes`, in order.
  @inlinable
  public mutating func feed<Failure: Error>(
    _ bytes: Span<UInt8>, _ body: (AddressLine) throws(Failure) -> Void
  ) throws(Failure) {
    var start = 0
    // bounded: a line begins behind the newline before it, and all indices are in the piece
    for index in 0..<bytes.count where bytes[index] == UInt8(ascii: "\n") {
      if partial.isEmpty {
        try take(bytes.extracting(start..<index), body)
      } else {
        keep(bytes.extracting(start..<index))
        try takePartial(body)
      }
      start = index + 1
    }
    if start < bytes.count { keep(bytes.extracting(start..<bytes.count)) }
  }

  /// Calls `body` for a last line that has no end.
  @inlinable
  public mutating func finish<Failure: Error>(_ body: (AddressLine) throws(Failure) -> Void) throws(Failure) {
    if !partial.isEmpty { try takePartial(body) }
  }

  /// Keeps one byte more than the limit, so that a line that exceeds the limit can be told.
  @usableFromInline
  mutating func keep(_ bytes: Span<UInt8>) {
    var index = 0
    while index < bytes.count, partial.count <= Self.lineLimit {
      partial.append(bytes[index])
      index &+= 1
    }
  }

  @inlinable
  mutating func takePartial<Failure: Error>(_ body: (AddressLine) throws(Failure) -> Void) throws(Failure) {
    let line = partial
    partial.removeAll(keepingCapacity: true)
    try take(line.span, body)
  }

  @inlinable
  mutating func take<Failure: Error>(
    _ line: Span<UInt8>, _ body: (AddressLine) throws(Failure) -> Void
  ) throws(Failure) {
    if let result = read(line) { try body(result) }
  }

  /// The meaning of the next line; nil if it is blank.
  @usableFromInline
  mutating func read(_ line: Span<UInt8>) -> AddressLine? {
    count += 1
    if let address = Self.plainAddress(line) { return .address(address) }
    return examine(line)
  }

  /// The address in a line that is nothing but `0x` and up to 16 hexadecimal digits, as programs write it. Nil for
  /// other lines: they may be addresses, too.
  private static func plainAddress(_ line: Span<UInt8>) -> UInt64? {
    guard line.count > 2, line.count <= 18, line[0] == UInt8(ascii: "0"), line[1] == UInt8(ascii: "x") else {
      return nil
    }
    var value: UInt64 = 0
    for index in 2..<line.count {  // bounded: it has 3 bytes at least
      let byte = line[index]
      var digit = byte &- UInt8(ascii: "0")
      if digit > 9 {
        digit = (byte | 0x20) &- UInt8(ascii: "a")
        guard digit < 6 else { return nil }
        digit &+= 10
      }
      value = value << 4 | UInt64(truncatingIfNeeded: digit)
    }
    return value
  }

  /// The meaning of any other line; nil if it is blank.
  private func examine(_ line: Span<UInt8>) -> AddressLine? {
    var bytes: [UInt8] = []
    for index in stride(from: 0, to: min(line.count, Self.lineLimit), by: 1) { bytes.append(line[index]) }
    let text = String(decoding: bytes, as: UTF8.self)
    do throws(Complaint) {
      if line.count > Self.lineLimit {
        throw Complaint(
          .usage, what: "the line is longer than \(Self.lineLimit) bytes", advice: "write one address on each line")
      }
      if bytes.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) { return nil }
      return .address(try parseAddress(text))
    } catch {
      var error = error
      error.what = "line \(count): \(error.what)"
      return .rejected(error)
    }
  }
}
