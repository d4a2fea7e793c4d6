// SPDX-License-Identifier: Apache-2.0
// How often a watched process is looked at.

/// The next look comes a second after the last one, or later, where looks cost so much that the source would spend more
/// than 3 % of its time on them.
package enum WatchPace {
  /// The part of the time in which the source may be at work for a watch.
  package static let load = 0.03

  /// Seconds from the end of a look to the next one; `cost`: seconds that the look took. In halves of a second, so that
  /// the interval that is shown is not another one each time.
  package static func interval(afterLookOf cost: Double) -> Double {
    max(1, (min(cost / load, 600.0) * 2.0).rounded(.up) / 2)  // bounded: in floating point
  }
}
