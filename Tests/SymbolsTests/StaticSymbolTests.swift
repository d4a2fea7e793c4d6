// SPDX-License-Identifier: Apache-2.0
// Variables and functions by their addresses.

import Symbols
import TestSupport
import Testing

@Suite(.bounded) struct StaticSymbolTests {
  let program: TestProgram
  let symbolizer = Symbolizer()

  init() throws {
    program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
  }

  private func symbol(_ address: UInt64) -> StaticSymbol? {
    symbolizer.staticSymbol(at: address + TestProgram.bias, in: program.module)
  }

  @Test(
    "a variable is found from its first byte to its last, and not one past the end",
    arguments: [
      ("counters", ".data", 64...64), ("zeroed", ".bss", 4096...4096), ("words", ".data.rel.ro", 16...16),
      // How much code it is, the compiler decides.
      ("outer", ".text", 1...1000),
    ] as [(String, String, ClosedRange<UInt64>)])
  func extent(_ name: String, _ section: String, _ sizes: ClosedRange<UInt64>) throws {
    let known = try program.symbol(name)
    #expect(sizes.contains(known.size))
    for offset in [0, 1, known.size / 2, known.size - 1] {
      #expect(
        symbol(known.address + offset)
          == StaticSymbol(name: ForeignText(name), offset: offset, size: known.size, section: ForeignText(section)))
    }
    #expect(symbol(known.address + known.size)?.name.unescaped != name)
    #expect(symbol(known.address &- 1)?.name.unescaped != name)
  }

  @Test("the offset of a thread-local variable is not taken for an address")
  func threadLocal() throws {
    for offset in UInt64(0)..<16 { #expect(symbol(offset) == nil) }
  }

  @Test("an address outside of the module has no symbol")
  func outside() throws {
    let module = program.module
    for address in [0, module.start - 1, module.end, module.end + 1, .max] {
      #expect(symbolizer.staticSymbol(at: address, in: module) == nil)
      #expect(symbolizer.frames(returnAddress: address, in: module).count == 1)
    }
  }

  @Test("every symbol that nm lists is found at its own address")
  func againstNM() throws {
    let program = try TestProgram("templates.cpp", compiler: "g++", ["-O1"])
    var known: [UInt64: Set<String>] = [:]
    for line in try run("nm", ["-S", "-C", "--defined-only", program.path]).split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 3)
      guard words.count == 4, let address = UInt64(words[0], radix: 16), UInt64(words[1], radix: 16) ?? 0 > 0 else {
        continue
      }
      known[address, default: []].insert(String(words[3]))
    }
    #expect(known.count > 10)
    let symbolizer = Symbolizer()
    for (address, names) in known {
      let found = symbolizer.staticSymbol(at: address + TestProgram.bias, in: program.module)
      let name = try #require(found?.name.unescaped)
      #expect(found?.offset == 0)
      #expect(names.contains { $0 == name || $0.hasPrefix("\(name)@") }, "\(name) not in \(names)")
    }
  }
}
