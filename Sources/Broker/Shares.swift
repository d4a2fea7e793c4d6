// SPDX-License-Identifier: Apache-2.0
// What one user may have of the broker: connections a second, lines of the log, starts of workers. Times are seconds of
// CLOCK_MONOTONIC, which the caller passes, so that tests need no clock.

import SystemAccess

/// A user, as the broker knows them: what stays when their worker goes.
struct UserShares {
  var connections: Allowance
  /// Who has used these up is told nothing any more, and then barred.
  var refusals: Allowance
  var lines: Allowance
  var linesDropped = 0
  var backOff = BackOff()

  init(at now: Double) {
    // A script that asks a thousand times by a tool of its own is no attack.
    connections = Allowance(burst: 4000, rate: 1000, at: now)
    refusals = Allowance(burst: 1000, rate: 250, at: now)
    lines = Allowance(burst: 1000, rate: 50, at: now)
  }

  mutating func isForgettable(at now: Double) -> Bool {
    connections.isFull(at: now) && lines.isFull(at: now) && linesDropped == 0 && backOff.isClear(at: now)
  }
}
