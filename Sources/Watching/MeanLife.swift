// SPDX-License-Identifier: Apache-2.0
// How long the blocks of a site live, from how many were allocated meanwhile and how many lived: Little's law
// (J. D. C. Little, Operations Research 9, 1961). The mean number in a system is the rate of arrivals times the mean
// stay. The mean number is taken over the looks, so it is an estimate: what comes and goes between two looks counts as
// an arrival, and lives for less than a look sees.
//
// bounded: all numbers are floating point, which never traps

/// What a row had at one look.
struct Flow: Hashable {
  /// Seconds of CLOCK_MONOTONIC.
  var time: Double
  /// Ever allocated.
  var bytes: Double
  var blocks: Double
  /// Live blocks.
  var live: Double
}

enum MeanLife {
  /// Seconds; nil if it can't be told: nothing was freed meanwhile, so no life has ended; or no look saw a live block.
  static func seconds(_ flows: [Flow]) -> Double? {
    guard let first = flows.first, let last = flows.last, last.time > first.time else { return nil }
    let arrived = last.blocks - first.blocks
    let live = flows.reduce(0) { $0 + $1.live } / Double(flows.count)
    guard arrived > 0, arrived > last.live - first.live, live > 0 else { return nil }
    return live * (last.time - first.time) / arrived
  }
}
