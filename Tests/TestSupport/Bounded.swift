// SPDX-License-Identifier: Apache-2.0
// The trait that every suite has: its tests end, and what they drew at random can be drawn again.
//
// Swift Testing's own `.timeLimit` cancels a test's task and then waits for it. Tests here block: they run programs,
// read pipes and spin on shared memory, and no cancellation ends that. So a thread beside them ends the run.
//
// The package is also built with the static standard library, beside which there is no module Testing.

#if canImport(Testing)
  import Dispatch
  import Foundation
  import Testing

  package struct Bounded: SuiteTrait, TestTrait, TestScoping {
    /// Minutes that one case of a test may take, many times as many as the slowest takes: unit tests run all at once on
    /// a few threads, so that the clock of each runs while others work. $ALLOCS_TEST_MINUTES sets another limit.
    static let minutes = ProcessInfo.processInfo.environment["ALLOCS_TEST_MINUTES"].flatMap { Double($0) } ?? 10

    private static let watchdogs = DispatchQueue(label: "watchdogs of tests")

    package var isRecursive: Bool { true }

    package func provideScope(
      for test: Test, testCase: Test.Case?, performing body: @Sendable () async throws -> Void
    ) async throws {
      let watchdog = Self.watchdog(
        "\"\(test.displayName ?? test.name)\" (\(test.sourceLocation))", seconds: Self.minutes * 60)
      defer { watchdog.cancel() }
      let use = RandomNumbers.Use()
      let naming = IssueHandlingTrait.compactMapIssues { issue in
        guard use.isNoted else { return issue }
        var issue = issue
        issue.comments.append("run again with \(RandomNumbers.variable)=\(RandomNumbers.seedOfRun)")
        return issue
      }
      try await RandomNumbers.$use.withValue(use) {
        try await naming.provideScope(for: test, testCase: testCase, performing: body)
      }
    }

    /// Ends this process after a time, unless it is cancelled before.
    static func watchdog(_ name: String, seconds: Double) -> DispatchWorkItem {
      let watchdog = DispatchWorkItem {
        let running = ChildProcess.killAll()
        let message = """
          ✘ Test \(name) did not end within \(Int(seconds)) s: the run ends here. It left running: \
          \(running.isEmpty ? "nothing" : running.joined(separator: ", "))

          """
        FileHandle.standardError.write(Data(message.utf8))
        _exit(1)
      }
      watchdogs.asyncAfter(deadline: .now() + seconds, execute: watchdog)
      return watchdog
    }
  }

  extension Trait where Self == Bounded {
    /// The tests of this suite have a limit of time, and say their seed when they fail.
    package static var bounded: Self { Bounded() }
  }
#endif
