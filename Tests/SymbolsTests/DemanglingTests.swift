// SPDX-License-Identifier: Apache-2.0
// Names of each mangling scheme, and names of none.

import Symbols
import TestSupport
import Testing

@Suite(.bounded) struct DemanglingTests {
  @Test(
    "each scheme's names come out as its language writes them",
    arguments: [
      ("_ZN4shop5ShelfIiE3putERKi", "shop::Shelf<int>::put(int const&)"),
      ("_ZTV6Widget", "vtable for Widget"),
      ("_Z3runi.cold", "run(int) [clone .cold]"),
      ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
      ("_RNvC6_123foo3bar", "123foo::bar"),
      (
        "_RNvMNtCs5l0EXMQXRMU_21rustc_data_structures5graphNtB2_5Graph3new",
        "<rustc_data_structures::graph::Graph>::new"
      ),
      ("$s4main3fooyS2iF", "main.foo(Swift.Int) -> Swift.Int"),
      ("_$s4main3fooyS2iF", "main.foo(Swift.Int) -> Swift.Int"),
    ])
  func schemes(_ mangled: String, _ expected: String) {
    #expect(demangled(ForeignText(mangled)) == expected)
  }

  @Test(
    "a name of no scheme stays as it is",
    arguments: [
      "malloc", "", "_", "_Z", "_ZN", "_R", "$s", "$", "_T", "_start", "_Zebra", "_ZNK", "a b\u{1}c", "$sNope!",
    ])
  func plain(_ name: String) {
    #expect(demangled(ForeignText(name)) == name)
  }

  @Test("a short name that stands for an endless one stays mangled")
  func bomb() {
    // Each substitution doubles what the one before stands for.
    var name = "_Z1fIiE1AI"
    var digits = "S_"
    for step in 0..<60 {
      name += "1BI\(digits)\(digits)E"
      digits = "S\(String(step, radix: 36).uppercased())_"
    }
    let result = demangled("\(name)Ev")
    #expect(result.utf8.count <= 16_384)
  }

  @Test("a deeply nested or very long name stays mangled")
  func deep() {
    for name in [
      "_Z1f" + String(repeating: "P", count: 100_000) + "i", "_Z1f" + String(repeating: "P", count: 8_000) + "i",
      "_RNvC3foo" + String(repeating: "N", count: 5_000), "$s" + String(repeating: "Sg", count: 4_000),
    ] {
      #expect(demangled(ForeignText(name)).utf8.count <= max(16_384, name.utf8.count))
    }
  }
}
