// SPDX-License-Identifier: Apache-2.0
// The support that all tests rely on: that waiting ends, that a hanging test ends the run, that random numbers come
// again.

import Foundation
import Testing

@testable import TestSupport

@Suite("Support of tests", .bounded)
struct SupportTests {
  @Test("a wait ends when its condition holds")
  func holds() throws {
    var asked = 0
    try wait(for: "the third question", pause: 1) {
      asked += 1
      return asked == 3
    }
    #expect(asked == 3)
  }

  @Test("a wait in vain ends with an error that says what did not come")
  func inVain() throws {
    #expect {
      try wait(for: "the moon", patience: 0.01, pause: 1) { false }
    } throws: { error in
      "\(error)".contains("the moon")
    }
  }

  @Test("a wait for a program ends with the program")
  func ofProgram() throws {
    let program = try ChildProcess(["sh", "-c", "echo broken >&2; exit 3"], environment: ChildProcess.baseEnvironment)
    #expect {
      try wait(for: "its answer", of: program) { false }
    } throws: { error in
      "\(error)".contains("its answer") && "\(error)".contains("broken")
    }
    #expect(try program.wait().ending == .exit(3))
  }

  @Test("a program that does not end is given up, and killed")
  func endless() throws {
    let program = try ChildProcess(["sleep", "1000"], environment: ChildProcess.baseEnvironment)
    #expect(throws: HarnessError.self) { try program.wait(patience: 0.01) }
    #expect(!program.hasEnded)
  }

  @Test("a test beyond its limit ends the run with an error, and what it has started with it")
  func watchdog() async throws {
    let result = try await #require(
      processExitsWith: .exitCode(1), observing: [\.standardErrorContent, \.standardOutputContent]
    ) {
      let program = try ChildProcess(["sleep", "1000"], environment: ChildProcess.baseEnvironment)
      FileHandle.standardOutput.write(Data("started \(program.pid).\n".utf8))
      _ = Bounded.watchdog("\"hangs\"", seconds: 0.1)
      // A test that blocks its thread: no cancellation reaches it.
      while true { pause() }
    }
    let said = String(decoding: result.standardErrorContent, as: UTF8.self)
    #expect(said.contains("✘ Test \"hangs\" did not end within") && said.contains("sleep (process "), "\(said)")
    let output = String(decoding: result.standardOutputContent, as: UTF8.self)
    let pid = try #require(output.firstMatch(of: /started ([0-9]+)\./).flatMap { Int32($0.1) })
    try wait(for: "the program is dead") {
      let status = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)
      return status?.contains(") Z ") ?? true
    }
  }

  @Test("the same test draws the same numbers, another one others; a seed of its own gives its own")
  func randomNumbers() {
    func numbers(_ generator: RandomNumbers) -> [UInt64] {
      var generator = generator
      return (0..<4).map { _ in generator.next() }
    }
    #expect(numbers(RandomNumbers()) == numbers(RandomNumbers()))
    #expect(numbers(RandomNumbers()) != numbers(RandomNumbers(ofTest: "another")))
    // From the reference implementation, of seed 1234567.
    let known: [UInt64] = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
    #expect(Array(numbers(RandomNumbers(seed: 1_234_567)).prefix(2)) == known)
  }

  @Test("a test that has drawn numbers says its seed when it fails")
  func seedIsSaid() {
    withKnownIssue {
      _ = RandomNumbers()
      Issue.record("on purpose")
    } matching: { issue in
      // The trait adds the seed after this; here is only that the use was noted.
      issue.comments.contains("on purpose") && RandomNumbers.use?.isNoted == true
    }
  }
}
