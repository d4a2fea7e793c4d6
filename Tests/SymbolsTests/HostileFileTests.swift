// SPDX-License-Identifier: Apache-2.0
// Files that are cut short, damaged or made to mislead: an answer or none, never a crash.

import Foundation
import Symbols
import TestSupport
import Testing

@Suite(.bounded) struct HostileFileTests {
  /// Asks for everything that a whole file would answer.
  private func interrogate(_ program: TestProgram) {
    let symbolizer = Symbolizer(debugRoots: [])
    for address in program.probes.values {
      let frames = symbolizer.frames(returnAddress: address + TestProgram.bias, in: program.module)
      #expect(!frames.isEmpty && frames.allSatisfy { $0.pc == address + TestProgram.bias })
    }
    for address in stride(from: UInt64(0x1000), to: 0x6000, by: 0x333) {
      _ = symbolizer.staticSymbol(at: address + TestProgram.bias, in: program.module)
    }
  }

  @Test("a file that is cut short anywhere is survived", arguments: ["plain.c", "templates.cpp"])
  func truncated(_ source: String) throws {
    let program = try TestProgram(source, compiler: source.hasSuffix("c") ? "gcc" : "g++", ["-O2", "-g"])
    let whole = try Data(contentsOf: URL(fileURLWithPath: program.path))
    let lengths = Array(0..<256) + stride(from: 256, to: whole.count, by: max(1, whole.count / 400))
    for length in lengths {
      try whole.prefix(length).write(to: URL(fileURLWithPath: program.path))
      interrogate(program)
    }
  }

  @Test("damaged bytes are survived", arguments: ["plain.c", "templates.cpp"])
  func damaged(_ source: String) throws {
    let program = try TestProgram(source, compiler: source.hasSuffix("c") ? "gcc" : "g++", ["-O2", "-g"])
    let whole = try Data(contentsOf: URL(fileURLWithPath: program.path))
    let id = try #require(whole.range(of: Data(program.buildID)))
    var random = RandomNumbers()
    for round in 0..<400 {
      var copy = whole
      // Headers, names and debug information lie at both ends; code and the build id stay as they are.
      for _ in 0..<(1 + round % 40) {
        let position =
          Bool.random(using: &random)
          ? Int.random(in: 0..<0x400, using: &random) : Int.random(in: whole.count / 3..<whole.count, using: &random)
        if !id.contains(position) {
          copy[position] = [0, 0xFF, 0x7F, 0x80, UInt8.random(in: 0...255, using: &random)].randomElement(
            using: &random)!
        }
      }
      try copy.write(to: URL(fileURLWithPath: program.path))
      interrogate(program)
    }
  }

  @Test("bytes that are no ELF file are survived")
  func noise() throws {
    var program = try TestProgram("plain.c", compiler: "gcc", ["-O2"])
    program.buildID = []
    var random = RandomNumbers()
    for size in [1, 4, 64, 5_000, 100_000] {
      var bytes = Data((0..<size).map { _ in UInt8.random(in: 0...255, using: &random) })
      try bytes.write(to: URL(fileURLWithPath: program.path))
      interrogate(program)
      bytes.replaceSubrange(0..<min(7, size), with: Data([0x7F, 0x45, 0x4C, 0x46, 2, 1, 1]).prefix(size))
      try bytes.write(to: URL(fileURLWithPath: program.path))
      interrogate(program)
    }
  }

  @Test("a file that is cut or overwritten after it was opened keeps its answers")
  func cutWhileInUse() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
    let symbolizer = Symbolizer()
    let address = try #require(program.probes["hidden"]) + TestProgram.bias
    #expect(symbolizer.frames(returnAddress: address, in: program.module).first?.function == "hidden")
    #expect(truncate(program.path, 100) == 0)
    // Asks for what was not asked before, so that no cached answer hides the file.
    #expect(try program.frames("inlined", symbolizer).map(\.function) == ["innermost", "middle", "outer"])
    let counters = symbolizer.staticSymbol(at: address &- 1, in: program.module)
    #expect(counters?.name == "hidden")
  }
}
