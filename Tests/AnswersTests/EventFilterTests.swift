// SPDX-License-Identifier: Apache-2.0
// Conditions on events, as people write them.

import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Event filters", .bounded)
struct EventFilterTests {
  private func filter(_ conditions: [(String, String)]) throws -> EventFilter {
    var filter = EventFilter()
    for (name, value) in conditions { try filter.add(name, value) }
    return filter
  }

  @Test(
    "sizes and ranges",
    arguments: [
      ("96", 96...96), ("64-128", 64...128), ("-64", 0...64), ("4K-", 4096...UInt64.max), ("1M-2M", 1 << 20...2 << 20),
      ("0", 0...0), ("3g", 3 << 30...3 << 30), ("1T-", 1 << 40...UInt64.max), ("-2MiB", 0...2 << 20),
    ] as [(String, ClosedRange<UInt64>)])
  func sizes(_ text: String, _ sizes: ClosedRange<UInt64>) throws {
    #expect(try filter([("size", text)]).sizes == sizes)
  }

  @Test(
    "what is no condition is an error that says what to write",
    arguments: [
      ("size", ""), ("size", "-"), ("size", "x"), ("size", "9-3"), ("size", "1P"), ("size", "99999999999999999999"),
      ("size", "20000000000G"), ("range", "0x2000-0x1000"), ("range", "5-5"), ("range", ""), ("range", "0x1000-"),
      ("kind", "allocs"), ("function", ""), ("site", String(repeating: "x", count: 1001)), ("color", "red"),
    ])
  func wrong(_ name: String, _ value: String) {
    #expect {
      _ = try filter([(name, value)])
    } throws: { error in
      (error as? Complaint)?.kind == .usage
    }
  }

  @Test("kinds add up; patterns fit any of their values")
  func several() throws {
    let filter = try filter([("kind", "alloc,free"), ("kind", "map"), ("range", "0x1000-0x2000"), ("site", "parse_*")])
    #expect(filter.kinds == [.alloc, .free, .map, .unmap])
    #expect(filter.addresses == 0x1000..<0x2000)
    #expect(EventFilter.fits("parse_line(char const*)", filter.sites))
    #expect(!EventFilter.fits("reparse_line", filter.sites))
    #expect(!EventFilter.fits(nil, filter.sites))
    #expect(EventFilter.fits(nil, []))
  }
}
