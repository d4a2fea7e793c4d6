// SPDX-License-Identifier: Apache-2.0
// Wrappers that a person adds.

import Provenance
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Wrappers that are added", .bounded)
struct WrapperAdditionsTests {
  @Test("added patterns: plain names, or whole ones where they have < or (")
  func adding() throws {
    let wrappers = try Wrappers.standard.adding(["pool_*", " Pool::get ", "*<int>::make(*"])
    #expect(wrappers.contains("malloc") && wrappers.contains("pool_get"))
    #expect(wrappers.contains("Pool::get(unsigned long)") && !Wrappers.standard.contains("Pool::get(unsigned long)"))
    #expect(wrappers.contains("Maker<int>::make()") && !wrappers.contains("Maker<char>::make()"))
  }

  @Test("patterns that are none are refused")
  func refused() {
    for patterns in [[""], [" \t"], [String(repeating: "a", count: 1001)], Array(repeating: "a", count: 101)] {
      let error = #expect(throws: Complaint.self) { try Wrappers.standard.adding(patterns) }
      #expect(error?.kind == .usage)
    }
  }
}
