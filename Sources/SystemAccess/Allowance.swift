// SPDX-License-Identifier: Apache-2.0
// How often something may be done, and how soon again. Times are seconds of CLOCK_MONOTONIC, which the caller passes:
// tests need no clock.

/// So many events at once, and so many a second after that.
package struct Allowance {
  let burst: Double
  let rate: Double
  private var left: Double
  private var time: Double

  package init(burst: Double, rate: Double, at time: Double) {
    (self.burst, self.rate, left, self.time) = (burst, rate, burst, time)
  }

  /// Whether one more event is allowed now; it is counted then.
  package mutating func take(at now: Double) -> Bool {
    fill(now)
    guard left >= 1 else { return false }
    left -= 1
    return true
  }

  /// Whether nothing has been taken for so long that a new allowance would be no different.
  package mutating func isFull(at now: Double) -> Bool {
    fill(now)
    return left >= burst
  }

  private mutating func fill(_ now: Double) {
    left = min(burst, left + max(0, now - time) * rate)
    time = max(time, now)
  }
}

/// How long somebody waits who has failed, or gone too far, again and again: the first time costs nothing, each further
/// one doubles the wait, and a minute without one makes up for all.
package struct BackOff {
  package private(set) var failures = 0
  private var nextStart = 0.0

  private static let first = 0.25
  package static let longest = 30.0
  private static let forgetsAfter = 60.0

  package init() {}

  /// `started`: since when all was well before this failure.
  package mutating func failed(at now: Double, started: Double) {
    if now - started >= Self.forgetsAfter { failures = 0 }
    failures += 1
    // The exponent is bounded, as a user may make a worker fail for years.
    let wait = failures == 1 ? 0 : min(Self.longest, Self.first * Double(1 << min(failures &- 2, 16)))
    nextStart = now + wait
  }

  /// Seconds until the next start; 0 if it may be now.
  package func wait(at now: Double) -> Double { max(0, nextStart - now) }

  /// Seconds since the wait was over.
  package func rest(at now: Double) -> Double { max(0, now - nextStart) }

  /// Whether it is as a new one.
  package func isClear(at now: Double) -> Bool { now - nextStart >= Self.forgetsAfter }
}
