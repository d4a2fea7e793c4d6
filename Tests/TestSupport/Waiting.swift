// SPDX-License-Identifier: Apache-2.0
// Waiting for what a test needs to have happened; and letting time pass, where time itself is the test's subject.
//
// No test sleeps but by these two functions: SourceRulesTests.swift holds all of them to it.

import Foundation

/// Waits until `isTrue` says so. Throws after `patience` seconds, or when `process` has ended without it.
///
/// `what` says what is waited for, for the error: "redis-server answers".
package func wait(
  for what: @autoclosure () -> String, of process: ChildProcess? = nil, patience: Double = ChildProcess.patience,
  pause microseconds: UInt32 = 5000, until isTrue: () throws -> Bool
) throws {
  let limit = ContinuousClock.now + .seconds(patience)
  while try !isTrue() {
    if let process, process.hasEnded {
      // It may have become true just before the end.
      if try isTrue() { return }
      throw HarnessError("\(process.name) ended, and this had not come: \(what()); standard error: \(process.errors)")
    }
    guard ContinuousClock.now < limit else {
      throw HarnessError(
        "this did not come within \(Int(patience)) s: \(what())"
          + (process.map { "; standard error of \($0.name): \($0.errors)" } ?? ""))
    }
    usleep(microseconds)
  }
}

/// Lets programs run for a time: how far they get until then is what a test varies (a kill at any moment), or the test
/// measures something over that time. A comment at each use says which of the two. An event that must have happened is
/// waited for with `wait(for:)` instead.
package func letRun(microseconds: UInt32) { usleep(microseconds) }
