// SPDX-License-Identifier: Apache-2.0
// Questions about processes that are made to be slow or large to look at.

import Bounds
import Glibc
import IndexReader
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Budgets of answers", .bounded)
struct BudgetTests {
  /// Runs `body` within a budget that it must exceed; returns the complaint's code.
  private func limit(
    seconds: Double = 1e6, bytes: Int = 1 << 40, _ body: (Budget) throws(Complaint) -> Void
  ) -> Int32? {
    let budget = Budget(seconds: seconds, bytes: bytes)
    do throws(Complaint) {
      try budget.run { () throws(Complaint) in try body(budget) }
      return nil
    } catch {
      return error.kind == .budget ? error.code : nil
    }
  }

  private static let manyMappings: [UInt8] = (0..<50_000).flatMap { index in
    Array(
      "\(String(0x1000 + index * 0x2000, radix: 16))-\(String(0x2000 + index * 0x2000, radix: 16)) rw-p 0 0:0 0 /x\n"
        .utf8)
  }

  @Test("the mappings of a process that has too many of them take no more memory and time than a question may")
  func mappings() {
    var count = 0
    #expect(limit(bytes: 1 << 20) { _ in count = ProcessMaps(text: Self.manyMappings).mappings.count } == ENOMEM)
    #expect(count < 20_000)
    #expect(limit(seconds: 0) { _ in count = ProcessMaps(text: Self.manyMappings).mappings.count } == ETIME)
    #expect(
      limit { budget in
        budget.cancel()
        count = ProcessMaps(text: Self.manyMappings).mappings.count
      } == ECANCELED)
    #expect(count < 5000)
    // What was cut short serves no other question.
    let latest = LatestMaps()
    _ = limit { budget in
      budget.cancel()
      _ = latest.parse(Array(Self.manyMappings.prefix(100_000)))
    }
    #expect(latest.parse(Array(Self.manyMappings.prefix(100_000))).mappings.count > 2000)
    #expect(ProcessMaps(text: Self.manyMappings).mappings.count == 50_000)
  }

  @Test("the mappings beside an address are found by halving")
  func neighbours() {
    let maps = ProcessMaps(text: Self.manyMappings)
    // A look at each mapping would be fifty thousand times fifty thousand looks.
    for index in UInt64(0)..<50_000 {
      let (below, above) = maps.neighbours(of: 0x2800 + index * 0x2000)
      #expect(
        below?.start == 0x1000 + index * 0x2000 && above?.start == (index == 49_999 ? nil : 0x3000 + index * 0x2000))
    }
    #expect(maps.neighbours(of: 0).below == nil && maps.neighbours(of: 0).above?.start == 0x1000)
    #expect(ProcessMaps([]).neighbours(of: 5).below == nil)
  }

  @Test("ranges that hold an address are those that a search through all finds")
  func ranges() {
    var random = RandomNumbers()
    for _ in 0..<300 {
      let bounds = (0..<Int.random(in: 0...12, using: &random)).map { _ in
        (start: UInt64.random(in: 0...20, using: &random), end: UInt64.random(in: 0...20, using: &random))
      }
      let ranges = AddressRanges(bounds)
      for address in UInt64(0)...21 {
        var found: [Int] = []
        ranges.forEach(holding: address) { index in
          found.append(index)
          return true
        }
        let all = bounds.indices.filter { bounds[$0].start <= address && address < bounds[$0].end }
        #expect(found.sorted() == all && ranges.first(holding: address) == all.first)
      }
    }
    let top = AddressRanges([(.max - 1, .max), (0, .max)])
    #expect(top.first(holding: .max - 1) == 0 && top.first(holding: .max) == nil)
  }

  @Test("many ranges that all overlap are walked no longer than a question may take")
  func overlaps() {
    let ranges = AddressRanges((0..<100_000).lazy.map { (UInt64($0), .max - 1) })
    var count = 0
    let code = limit { budget in
      budget.cancel()
      ranges.forEach(holding: 1 << 40) { _ in
        count += 1
        return true
      }
    }
    #expect(code == ECANCELED && count < 5000)
  }

  @Test("memory of a collection is taken off in pieces, and comes back with it")
  func shares() {
    let budget = Budget(seconds: 1e6, bytes: 10 << 20)
    #expect(throws: Never.self) {
      try budget.run { () throws(Complaint) in
        for _ in 0..<100 {
          let share = MemoryShare()
          for bytes in stride(from: 0, to: 8 << 20, by: 1000) { share.hold(bytes) }
        }
      }
    }
    #expect(limit(bytes: 10 << 20) { _ in MemoryShare().hold(11 << 20) } == ENOMEM)
    // Without a budget nothing is counted.
    MemoryShare().hold(.max)
  }

  @Test("a filter takes so many names of a kind, and no more")
  func filters() throws {
    var filter = EventFilter()
    for _ in 0..<100 { try filter.add("site", "a*b") }
    #expect(throws: Complaint.self) { try filter.add("site", "a") }
    let code = limit { budget in
      budget.cancel()
      let patterns = Array(repeating: Array(String(repeating: "a*", count: 500).utf8), count: 1000)
      _ = EventFilter.fits(ForeignText(String(repeating: "a", count: 1000) + "b"), patterns)
    }
    #expect(code == ECANCELED)
  }
}
