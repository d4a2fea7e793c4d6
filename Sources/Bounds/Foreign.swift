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

  @inlinable init(bits: Value, isKnown: Bool) {
    self.bits = bits
    self.isKnown = isKnown
  }

  /// The number of another type; unknown if it doesn't fit.
  @inlinable public init<Other>(_ other: Foreign<Other>) {
    let fitting = Value(exactly: other.bits)
    self.init(bits: fitting ?? 0, isKnown: other.isKnown && fitting != nil)
  }

  /// The whole part of a floating-point number; unknown if there is none, or it doesn't fit.
  @inlinable public init(wholePartOf other: Double) {
    let fitting = Value(exactly: other.rounded(.towardZero))
    self.init(bits: fitting ?? 0, isKnown: fitting != nil)
  }

  /// The number that no range holds.
  @inlinable public static var unknown: Foreign { Foreign(bits: 0, isKnown: false) }

  // MARK: ways out

  /// The number as an ordinary one; nil if it is unknown.
  @inlinable public var value: Value? { isKnown ? bits : nil }

  /// The number, if it is known and lies in `range`.
  @inlinable public func value(in range: ClosedRange<Value>) -> Value? { isKnown && range.contains(bits) ? bits : nil }

  /// The number, if it is known and lies in `range`.
  @inlinable public func value(in range: Range<Value>) -> Value? { isKnown && range.contains(bits) ? bits : nil }

  /// The number as an `Int` from 0 to `limit`; nil if it is unknown or lies elsewhere. For sizes, counts and indexes.
  @inlinable public func int(upTo limit: Int) -> Int? {
    guard isKnown, let number = Int(exactly: bits), number >= 0, number <= limit else { return nil }
    return number
  }

  /// The range of `count` numbers from this one on, where all of it lies in 0..<`limit`: a piece of a file, of a
  /// section or of an array. Nil if it doesn't, or a number is unknown.
  @inlinable public func range(count: Foreign, within limit: Int) -> Range<Int>? {
    guard let end = (self + count).int(upTo: limit), let start = int(upTo: end), count >= 0 else { return nil }
    return start..<end
  }

  /// The number, or `limit` where it is unknown or greater. For figures that are shown, where a false one harms nobody.
  @inlinable public func saturated(at limit: Value = .max) -> Value { isKnown ? Swift.min(bits, limit) : limit }

  // MARK: steps

  @inlinable static func step(_ a: Foreign, _ b: Foreign, _ result: (partialValue: Value, overflow: Bool)) -> Foreign {
    Foreign(bits: result.partialValue, isKnown: a.isKnown && b.isKnown && !result.overflow)
  }

  @inlinable public static func + (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.addingReportingOverflow(b.bits))
  }
  @inlinable public static func - (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.subtractingReportingOverflow(b.bits))
  }
  @inlinable public static func * (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.multipliedReportingOverflow(by: b.bits))
  }
  /// Unknown where `b` is 0.
  @inlinable public static func / (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.dividedReportingOverflow(by: b.bits))
  }
  /// Unknown where `b` is 0.
  @inlinable public static func % (a: Foreign, b: Foreign) -> Foreign {
    step(a, b, a.bits.remainderReportingOverflow(dividingBy: b.bits))
  }

  @inlinable public static func + (a: Foreign, b: Value) -> Foreign { a + Foreign(b) }
  @inlinable public static func - (a: Foreign, b: Value) -> Foreign { a - Foreign(b) }
  @inlinable public static func * (a: Foreign, b: Value) -> Foreign { a * Foreign(b) }
  @inlinable public static func / (a: Foreign, b: Value) -> Foreign { a / Foreign(b) }
  @inlinable public static func % (a: Foreign, b: Value) -> Foreign { a % Foreign(b) }
  @inlinable public static func + (a: Value, b: Foreign) -> Foreign { Foreign(a) + b }
  @inlinable public static func - (a: Value, b: Foreign) -> Foreign { Foreign(a) - b }
  @inlinable public static func * (a: Value, b: Foreign) -> Foreign { Foreign(a) * b }

  @inlinable public static func += (a: inout Foreign, b: Foreign) { a = a + b }
  @inlinable public static func += (a: inout Foreign, b: Value) { a = a + b }
  @inlinable public static func -= (a: inout Foreign, b: Foreign) { a = a - b }
  @inlinable public static func -= (a: inout Foreign, b: Value) { a = a - b }

  /// Unknown where a bit that is set would be lost.
  @inlinable public static func << (a: Foreign, b: Int) -> Foreign {
    guard b >= 0, b < Value.bitWidth else { return Foreign(bits: 0, isKnown: a.isKnown && a.bits == 0) }
    let shifted = a.bits &<< Value(truncatingIfNeeded: b)
    return Foreign(bits: shifted, isKnown: a.isKnown && shifted &>> Value(truncatingIfNeeded: b) == a.bits)
  }

  /// `b` of 0 or more; any such number may be given.
  @inlinable public static func >> (a: Foreign, b: Int) -> Foreign {
    Foreign(bits: a.bits >> b, isKnown: a.isKnown && b >= 0)
  }
  @inlinable public static func & (a: Foreign, b: Value) -> Foreign { Foreign(bits: a.bits & b, isKnown: a.isKnown) }
  @inlinable public static func | (a: Foreign, b: Value) -> Foreign { Foreign(bits: a.bits | b, isKnown: a.isKnown) }

  /// The next multiple of `unit`, a power of two; the number itself if it is one.
  @inlinable public func aligned(to unit: Value) -> Foreign { (self + (unit &- 1)) & ~(unit &- 1) }

  /// The lesser of two numbers; unknown if one of them is.
  @inlinable public static func lesser(_ a: Foreign, _ b: Foreign) -> Foreign {
    Foreign(bits: Swift.min(a.bits, b.bits), isKnown: a.isKnown && b.isKnown)
  }

  // MARK: comparisons with ordinary numbers, and of order, in which an unknown number takes no part: each is false

  @inlinable public static func < (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits < b }
  @inlinable public static func <= (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits <= b }
  @inlinable public static func > (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits > b }
  @inlinable public static func >= (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits >= b }
  @inlinable public static func == (a: Foreign, b: Value) -> Bool { a.isKnown && a.bits == b }
  @inlinable public static func < (a: Foreign, b: Foreign) -> Bool { a.isKnown && b.isKnown && a.bits < b.bits }
  @inlinable public static func <= (a: Foreign, b: Foreign) -> Bool { a.isKnown && b.isKnown && a.bits <= b.bits }
  @inlinable public static func > (a: Foreign, b: Foreign) -> Bool { b < a }
  @inlinable public static func >= (a: Foreign, b: Foreign) -> Bool { b <= a }
}
