// SPDX-License-Identifier: Apache-2.0
// How often something may be done. Times are seconds of CLOCK_MONOTONIC, which the caller passes, so that tests need no
// clock.

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
