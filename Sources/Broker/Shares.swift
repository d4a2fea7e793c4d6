// SPDX-License-Identifier: Apache-2.0
// What one user may have of the broker: connections a second, lines of the log, starts of workers. Times are seconds of
// CLOCK_MONOTONIC, which the caller passes, so that tests need no clock.

import SystemAccess

/// How long a user waits for a new worker after one has failed: the first failure costs nothing, each further one
/// doubles the time, and a worker that lived for a minute makes up for all.
struct BackOff {
  private(set) var failures = 0
  private(set) var nextStart = 0.0

  static let first = 0.25
  static let longest = 30.0
  static let forgetsAfter = 60.0

  mutating func failed(at now: Double, started: Double) {
    if now - started >= Self.forgetsAfter { failures = 0 }
    failures += 1
    // The exponent is bounded, as a user may make a worker fail for years.
    let wait = failures == 1 ? 0 : min(Self.longest, Self.first * Double(1 << min(failures &- 2, 16)))
    nextStart = now + wait
  }

  /// Seconds until the next start; 0 if it may be now.
  func wait(at now: Double) -> Double { max(0, nextStart - now) }

  /// Whether it is as a new one.
  func isClear(at now: Double) -> Bool { now - nextStart >= Self.forgetsAfter }
}

/// A user, as the broker knows them: what stays when their worker goes.
struct UserShares {
  var connections: Allowance
  var refusals: Allowance
  var lines: Allowance
  var linesDropped = 0
  var backOff = BackOff()

  init(at now: Double) {
    // A script that asks a thousand times by a tool of its own is no attack.
    connections = Allowance(burst: 4000, rate: 1000, at: now)
    refusals = connections
    lines = Allowance(burst: 1000, rate: 50, at: now)
  }

  mutating func isForgettable(at now: Double) -> Bool {
    connections.isFull(at: now) && lines.isFull(at: now) && linesDropped == 0 && backOff.isClear(at: now)
  }
}
