// SPDX-License-Identifier: Apache-2.0
// The symbolizer's caches: the same answers with them, without room for them, and from many threads.

import Dispatch
import Symbols
import Synchronization
import TestSupport
import Testing

@Suite(.bounded) struct CacheTests {
  @Test("answers are the same when asked again, and for another process that maps the file elsewhere")
  func again() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
    let symbolizer = Symbolizer()
    let first = try program.frames("inlined", symbolizer)
    #expect(try program.frames("inlined", symbolizer) == first)
    var other = program.module
    let shift: UInt64 = 0x55_0000_0000
    (other.start, other.end, other.bias) = (other.start + shift, other.end + shift, other.bias + shift)
    let address = first[0].pc + shift
    let moved = symbolizer.frames(returnAddress: address, in: other)
    #expect(moved.map(\.seen) == first.map(\.seen))
    #expect(moved.allSatisfy { $0.pc == address })
  }

  @Test("a symbolizer with next to no memory gives the same answers")
  func evicted() throws {
    let programs = try [
      TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"]),
      TestProgram("templates.cpp", compiler: "g++", ["-O2", "-g"]),
      TestProgram("plain.c", compiler: "gcc", ["-O0", "-g"]),
    ]
    let roomy = Symbolizer()
    let tight = Symbolizer(limits: .init(modules: 1, moduleBytes: 1, answerBytes: 1))
    for _ in 0..<3 {
      for program in programs {
        for probe in program.probes.keys {
          #expect(try program.frames(probe, tight) == program.frames(probe, roomy))
        }
      }
    }
  }

  @Test("many threads get the answers that one gets")
  func threads() throws {
    let programs = try [
      TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"]),
      TestProgram("templates.cpp", compiler: "g++", ["-O2", "-g"]),
    ]
    struct Question: Sendable {
      var address: UInt64
      var module: ModuleReference
      var frames: [Frame]
      var symbol: StaticSymbol?
    }
    var questions: [Question] = []
    let alone = Symbolizer()
    for program in programs {
      for address in stride(from: UInt64(0x1000), to: 0x3000, by: 7).map({ $0 + TestProgram.bias }) {
        questions.append(
          Question(
            address: address, module: program.module, frames: alone.frames(returnAddress: address, in: program.module),
            symbol: alone.staticSymbol(at: address, in: program.module)))
      }
    }
    #expect(questions.contains { $0.frames.count > 1 })
    let all = questions
    let wrong = Atomic<Int>(0)
    for limits in [Symbolizer.Limits(), .init(modules: 1, moduleBytes: 1 << 20, answerBytes: 10_000)] {
      let shared = Symbolizer(limits: limits)
      DispatchQueue.concurrentPerform(iterations: 8) { thread in
        for step in 0..<1_500 {
          let question = all[(step * (2 * thread + 1)) % all.count]
          if shared.frames(returnAddress: question.address, in: question.module) != question.frames
            || shared.staticSymbol(at: question.address, in: question.module) != question.symbol
          {
            wrong.add(1, ordering: .relaxed)
          }
        }
      }
    }
    // A program's file goes with it.
    withExtendedLifetime(programs) {}
    #expect(wrong.load(ordering: .relaxed) == 0)
  }
}
