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
      ("_Dmain", "D main"),
      ("_D4shop5Shelf3putMFiZv", "shop.Shelf.put"),
      ("_D4shop5Shelf6__ctorMFNbNfAyaZC4shop5Shelf", "shop.Shelf.this"),
      ("_D3std5array__T8AppenderTAaZQn3putMFNaNbNfaZv", "std.array.Appender!(char[]).Appender.put"),
      ("_D3std5array17__T8AppenderTAyaZ8Appender6__initZ", "std.array.Appender!(immutable(char)[]).Appender.__init"),
      ("_D4core6memory2GC6mallocFNaNbmkxC8TypeInfoZPv", "core.memory.GC.malloc"),
      ("_D4shop4mainFAAyaZ5innerMFiZi", "shop.main.inner"),
      ("_D8demangle9__T4testZv", "demangle.test!()"),
      ("_D8demangle13__T4testTHiaZv", "demangle.test!(char[int])"),
      ("_D8demangle16__T4testTPFiaZdZv", "demangle.test!(double function(int, char))"),
      ("_D8demangle__T4testVAyaa3_616263Vbi1ViN12ZFZv", "demangle.test!(\"abc\", true, -12)"),
      ("_D8demangle__T4testSQs3fooZFZv", "demangle.test!(demangle.foo)"),
      ("_D4shop4growFZv.part.0", "shop.grow.part.0"),
      ("$s4main3fooyS2iF", "main.foo(Swift.Int) -> Swift.Int"),
      ("_$s4main3fooyS2iF", "main.foo(Swift.Int) -> Swift.Int"),
    ])
  func schemes(_ mangled: String, _ expected: String) {
    #expect(demangled(ForeignText(mangled)) == expected)
  }

  @Test(
    "a name of no scheme stays as it is",
    arguments: [
      "malloc", "", "_", "_Z", "_ZN", "_R", "$s", "$", "_T", "_start", "_D", "_D3", "_D99a",
      "_D3fooQ", "_D3fooQzzz", "_D0", "_Dynamic", "_D3foo__TZ", "_D3fooFQbZv", "_Zebra", "_ZNK", "a b\u{1}c", "$sNope!",
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

  @Test("a name of D in which references double what came before, again and again, stays mangled, and soon")
  func doublings() {
    // Each key and value of a map is the map before.
    var name = "_D3foo__T1fTHii"
    var last = name.utf8.count - 3
    for _ in 0..<80 {
      let start = name.utf8.count
      name += "TH"
      for _ in 0..<2 {
        var distance = name.utf8.count - last
        var letters = [UInt8(97 + distance % 26)]
        distance /= 26
        while distance > 0 {
          letters.insert(UInt8(65 + distance % 26), at: 0)
          distance /= 26
        }
        name += "Q" + String(decoding: letters, as: UTF8.self)
      }
      last = start + 1
    }
    let (mangled, few) = ("\(name)ZFZv", String(name.prefix(40)))
    #expect(demangled(ForeignText(mangled)) == ForeignText(mangled))
    #expect(demangled(ForeignText(few)).utf8.count <= 16_384)
  }

  @Test("any bytes behind _D are some name, which is not long")
  func anyD() {
    var random = RandomNumbers()
    let alphabet = Array("0123456789__TUZQSTVXHAGPDBFNxyOMiakfvabcQz.".utf8)
    for _ in 0..<20_000 {
      let rest = (0..<Int.random(in: 0..<60, using: &random)).map { _ in alphabet.randomElement(using: &random)! }
      #expect(demangled(ForeignText("_D" + String(decoding: rest, as: UTF8.self))).utf8.count <= 16_500)
    }
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
