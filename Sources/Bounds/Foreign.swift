// SPDX-License-Identifier: Apache-2.0
// A number that comes from outside: from a segment, a file, a recording or a caller. It may be any number, so no
// operator on it may trap.
//
// Each operator keeps, beside the result, whether every step so far stayed within the type: once a step left it, the
// number is unknown and stays unknown, as NaN does among floating-point numbers. So a chain of steps is written as
// usual and is judged once, where the number becomes an ordinary one: `value(in:)` and its like are the only ways out,
// and each names the range that its caller can bear.

/// A whole number from outside, with operators that never trap.
public struct Foreign<Value: FixedWidthInteger & Sendable>: Hashable, Sendable {
  @usableFromInline let bits: Value
  /// Whether every step that led to this number stayed within `Value`.
  public let isKnown: Bool

  /// The number `value`, as it stands in foreign bytes.
  @inlinable public init(_ value: Value) { self.init(bits: value, isKnown: true) }

  @usableFromInline init(bits: Value, isKnown: Bool) {
    self.bits = bits
    self.isKnown = isKnown
  }

  /// The number of another type; unknown if it doesn't fit.
  public init<Other>(_ other: Foreign<Other>) {
    let fitting = Value(exactly: other.bits)
    self.init(bits: fitting ?? 0, isKnown: other.isKnown && fitting != nil)
  }

  /// The number that no range holds.
  public static var unknown: Foreign { Foreign(bits: 0, isKnown: false) }

  // MARK: ways out

  /// The number as an ordinary one; nil if it is unknown.
  public var value: Value? { isKnown ? bits : nil }

  /// The number, if it is known and lies in `range`.
  public func value(in range: ClosedRange<Value>) -> Value? { isKnown && range.contains(bits) ? bits : nil }

  /// The number, if it is known and lies in `range`.
  public func value(in range: Range<Value>) -> Value? { isKnown && range.contains(bits) ? bits : nil }

  /// The number as an `Int` from 0 to `limit`; nil if it is unknown or lies elsewhere. For sizes, counts and indexes.
  public func int(upTo limit: Int) -> Int? {
    guard isKnown, let number = Int(exactly: bits), number >= 0, number <= limit else { return nil }
    return number
  }

  /// The number, or `limit` where it is unknown or greater. For figures that are shown, where a false one harms nobody.
  public func saturated(at limit: Value = .max) -> Value { isKnown ? Swift.min(bits, limit) : limit }

  // MARK: steps

  private static func step(_ a: Foreign, _ b: Foreign, _ result: (partialValue: Value, overflow: Bool)) -> Foreign {
    Foreign(bits: result.partialValue, isKnown: a.isKnown && b.isKnown && !result.overflow)
  }

  public static func + (a: Foreign, b: Foreign) -> Foreign { step(a, b, a.bits.addingReportingOverflow(b.bits)) }
  public static func - (a: Foreign, b: Foreign) -> Foreign { step(a, b, a.bits.subtractingReportingOverflow(b.bits)) }
  public static func * (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.multipliedReportingOverflow(by: b.bits))
  }
  /// Unknown where `b` is 0.
  public static func / (a: Foreign, b: Foreign) -> Foreign { step(a, b, a.bits.dividedReportingOverflow(by: b.bits)) }
  /// Unknown where `b` is 0.
  public static func % (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.remainderReportingOverflow(dividingBy: b.bits))
  }

  public static func + (a: Foreign, b: Value) -> Foreign { a + Foreign(b) }
  public static func - (a: Foreign, b: Value) -> Foreign { a - Foreign(b) }
  public static func * (a: Foreign, b: Value) -> Foreign { a * Foreign(b) }
  public static func / (a: Foreign, b: Value) -> Foreign { a / Foreign(b) }
  public static func % (a: Foreign, b: Value) -> Foreign { a % Foreign(b) }
  public static func + (a: Value, b: Foreign) -> Foreign { Foreign(a) + b }
  public static func - (a: Value, b: Foreign) -> Foreign { Foreign(a) - b }
  public static func * (a: Value, b: Foreign) -> Foreign { Foreign(a) * b }

  public static func += (a: inout Foreign, b: Foreign) { a = a + b }
  public static func += (a: inout Foreign, b: Value) { a = a + b }
  public static func -= (a: inout Foreign, b: Foreign) { a = a - b }
  public static func -= (a: inout Foreign, b: Value) { a = a - b }

  /// Unknown where a bit that is set would be lost.
  public static func << (a: Foreign, b: Int) -> Foreign {
    guard b >= 0, b < Value.bitWidth else { return Foreign(bits: 0, isKnown: a.isKnown && a.bits == 0) }
    let shifted = a.bits &<< Value(truncatingIfNeeded: b)
    return Foreign(bits: shifted, isKnown: a.isKnown && shifted &>> Value(truncatingIfNeeded: b) == a.bits)
  }

  /// `b` of 0 or more; any such number may be given.
  public static func >> (a: Foreign, b: Int) -> Foreign { Foreign(bits: a.bits >> b, isKnown: a.isKnown && b >= 0) }
  public static func & (a: Foreign, b: Value) -> Foreign { Foreign(bits: a.bits & b, isKnown: a.isKnown) }
  public static func | (a: Foreign, b: Value) -> Foreign { Foreign(bits: a.bits | b, isKnown: a.isKnown) }

  // MARK: comparisons, in which an unknown number takes no part: each is false

  public static func < (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits < b }
  public static func <= (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits <= b }
  public static func > (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits > b }
  public static func >= (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits >= b }
  public static func == (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits == b }
  public static func < (a: Foreign, b: Foreign) -> Bool { a.isKnown && b.isKnown && a.bits < b.bits }
  public static func <= (a: Foreign, b: Foreign) -> Bool { a.isKnown && b.isKnown && a.bits <= b.bits }
}
