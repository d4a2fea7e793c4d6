// SPDX-License-Identifier: Apache-2.0
// Numbers from outside: whatever they are, no step traps, and what left the type is unknown.

import Bounds
import TestSupport
import Testing

@Suite("foreign numbers", .bounded)
struct ForeignTests {
  @Test("steps on all pairs of 8-bit numbers are exact, or unknown")
  func everyPair() {
    for left in UInt8.min...UInt8.max {
      var wrong: [UInt8] = []
      for right in UInt8.min...UInt8.max where !Self.isRight(left, right) { wrong.append(right) }
      #expect(wrong.isEmpty, "with \(left) on the left")
    }
  }

  private static func isRight(_ left: UInt8, _ right: UInt8) -> Bool {
    let (a, b, x, y) = (Foreign(left), Foreign(right), Int(left), Int(right))
    func fits(_ result: Foreign<UInt8>, _ expected: Int?) -> Bool {
      result.value.map(Int.init) == expected.flatMap { (0...255).contains($0) ? $0 : nil }
    }
    let shifted = y < 8 ? x << y : x == 0 ? 0 : nil
    return fits(a + b, x + y) && fits(a - b, x - y) && fits(a * b, x * y) && fits(a / b, y == 0 ? nil : x / y)
      && fits(a % b, y == 0 ? nil : x % y) && fits(a << y, shifted)
  }

  @Test("signed extremes do not trap")
  func signed() {
    let least = Foreign(Int64.min)
    #expect((least / -1).value == nil)
    #expect((least % -1).value == nil)
    #expect((least - 1).value == nil)
    #expect((least * -1).value == nil)
    #expect(Foreign<UInt64>(least).value == nil)
    #expect(Foreign<Int32>(Foreign(UInt64.max)).value == nil)
    #expect((Foreign(Int64(1)) << -1).value == nil)
    #expect((Foreign(Int64(1)) << Int.max).value == nil)
  }

  @Test("what is unknown stays unknown, is in no range, and compares with nothing")
  func unknown() {
    let number = Foreign(UInt64.max) + 1
    #expect(!number.isKnown)
    #expect((number - 1).value == nil)
    #expect(number.value(in: 0...UInt64.max) == nil)
    #expect(number.int(upTo: .max) == nil)
    #expect(number.saturated() == .max)
    #expect(!(number < 5) && !(number >= 5) && !(number == 0))
  }

  @Test("a range is given only if all of it lies in the bytes")
  func ranges() {
    let limit = 200
    for start in UInt8.min...UInt8.max {
      for count in UInt8.min...UInt8.max {
        let expected = Int(start) + Int(count) <= min(limit, 255) ? Int(start)..<Int(start) + Int(count) : nil
        guard Foreign(start).range(count: Foreign(count), within: limit) != expected else { continue }
        Issue.record("\(count) numbers from \(start)")
      }
    }
    #expect(Foreign(UInt64.max).range(count: Foreign(2), within: .max) == nil)
    #expect(Foreign(Int64(-1)).range(count: Foreign(2), within: .max) == nil)
    #expect(Foreign(Int64(5)).range(count: Foreign(-2), within: .max) == nil)
  }

  @Test("alignment, the lesser of two, and whole parts of any floating-point number")
  func others() {
    #expect(Foreign(UInt64(5)).aligned(to: 8).value == 8 && Foreign(UInt64(16)).aligned(to: 8).value == 16)
    #expect(Foreign(UInt64.max).aligned(to: 8).value == nil)
    #expect(Foreign.lesser(Foreign(UInt32(3)), Foreign(UInt32(4))).value == 3)
    #expect(Foreign.lesser(Foreign(UInt32(3)), .unknown).value == nil)
    for number in [Double.nan, .infinity, -.infinity, -1, 1e30] {
      #expect(Foreign<UInt64>(wholePartOf: number).value == nil)
    }
    #expect(Foreign<UInt64>(wholePartOf: 7.9).value == 7)
  }

  @Test("a way out gives what fits its range, and nothing else")
  func waysOut() {
    #expect(Foreign(UInt64(10)).int(upTo: 10) == 10)
    #expect(Foreign(UInt64(11)).int(upTo: 10) == nil)
    #expect(Foreign(UInt64.max).int(upTo: .max) == nil)
    #expect(Foreign(Int64(-1)).int(upTo: .max) == nil)
    #expect(Foreign(UInt32(7)).value(in: 7..<8) == 7)
    #expect(Foreign(UInt32(7)).saturated(at: 5) == 5)
  }
}
