// SPDX-License-Identifier: Apache-2.0
// When `growth` looks at a process, and what it asks then. Whoever watches takes the looks and waits between them: the
// command asks its source of answers, the server its worker.

import Answers
import Glibc
import Provenance
import SystemAccess

/// A watch over a process: the looks so far, and when the next one is due.
package struct GrowthWatch: Sendable {
  /// Seconds that it lasts, and between two looks.
  package let length: Double
  private let step: Double
  package let grouping: HeapGrouping
  /// Sites that are told.
  private let limit: Int
  package private(set) var series = GrowthSeries()
  /// The moments of the looks, in seconds since 1970.
  private var moments: [Double] = []
  /// Seconds of CLOCK_MONOTONIC.
  private let start: Double
  /// What the dearest look took for which the next one had to wait; 0 if all came when they should.
  private var delay = 0.0
  /// Looks that come if each takes little time.
  package let plannedLooks: Int
  /// Looks that come at the pace of the last one, if it was too slow for the plan, and what it took in seconds.
  package private(set) var slowPace: (looks: Int, cost: Double)?
  /// When the next look is due, in seconds of CLOCK_MONOTONIC; nil behind the last.
  package private(set) var next: Double?

  /// Looks that are taken at most: the last one is divided at the moments of all of them.
  package static let mostLooks = 96
  /// Rows of a look.
  package static let rowLimit = 2000
  /// Moments at which the time before is divided.
  private static let pastMoments = 32
  /// A look may cost this part of the time between two looks at most: one in so many.
  private static let share = 10.0

  /// A watch that begins now. `step`: nil for a second; longer where that would be too many looks, and shorter, down to
  /// a fifth of one, where it would be too few to tell what grows.
  package init(for length: Double, every step: Double?, by grouping: HeapGrouping, limit: Int) {
    (self.length, self.grouping, self.limit) = (length, grouping, limit)
    let enough = max(0.2, min(1, length / Double(GrowthSeries.fewestLooks &+ 2)))
    self.step = step ?? max(enough, length / Double(Self.mostLooks - 1))
    start = seconds(of: CLOCK_MONOTONIC)
    // The first look is taken at once, and the last one half a step after the end at most; but there are two.
    // bounded: by the greatest number of looks
    plannedLooks = Int(max(2, min(Double(Self.mostLooks), 1 + (length / self.step + 0.5).rounded(.down))))
    next = start
  }

  /// Whether so many looks with this time between them are no more than are taken.
  package static func mayLast(_ length: Double, every step: Double) -> Bool {
    length / step < Double(mostLooks)
  }

  /// The moments at which the sums of the next look are divided.
  package var divisions: [Moment] { moments.last.map { [.time($0)] } ?? [] }

  /// Adds a look that was taken now, at the moment `now` in seconds since 1970.
  package mutating func add(_ look: WatchLook, at now: Double) {
    moments.append(now)
    series.add(look)
    let clock = seconds(of: CLOCK_MONOTONIC)
    let taken = clock - start
    // One look is no watch: where it took longer than that, another comes at once.
    let isOver = taken + step / 2 > length
    guard !look.hasEnded, !isOver || moments.count == 1, moments.count < Self.mostLooks else {
      next = nil
      return
    }
    // By the clock, so that looks that take long do not add up.
    let cost = clock - look.time  // bounded: seconds in floating point
    let planned = start + min(length, Double(moments.count) * step)
    // bounded: seconds in floating point
    let due = isOver ? max(planned, clock) : max(planned, look.time + cost * Self.share)
    slowPace = nil
    // The first look reads all names, which is done once.
    if due > planned, moments.count > 1 {
      delay = max(delay, cost)
      // bounded: 100 looks more than there are at most
      let rest = min(100, max(0, length - taken) / max(1e-6, cost * Self.share))
      // bounded: by that number, and the greatest number of looks
      slowPace = (moments.count + Int(rest), cost)
    }
    next = due
  }

  /// Seconds that it has lasted.
  package var taken: Double { seconds(of: CLOCK_MONOTONIC) - start }

  /// What is asked at the end, in a look more, which tells the births of what lives.
  package struct Closing {
    /// The moment of the question, in seconds since 1970.
    fileprivate let now: Double
    fileprivate let past: [Double]
    fileprivate let uptime: Double
    /// The moments at which the sums are divided.
    package let divisions: [Moment]
  }

  package func closing() -> Closing {
    let now = seconds(of: CLOCK_REALTIME)
    let watched = moments.first.map { now - $0 } ?? 0  // bounded: seconds in floating point
    // Since the oldest block, or since the index began: nothing lives of the time before. A server may say anything: a
    // moment that a question has lies less than 10^10 seconds back.
    // bounded: seconds in floating point
    let uptime = max(min(series.last?.oldest ?? 0, 9e9), watched + 1)
    let before = uptime - watched  // bounded: seconds in floating point
    let past = (0..<Self.pastMoments).map { index in
      // bounded: seconds in floating point
      watched + before * Double(Self.pastMoments - 1 - index) / Double(Self.pastMoments - 1)
    }
    // bounded: lists of some moments
    let divisions = past.dropLast().map { Moment.ago($0) } + moments.map { Moment.time($0) }
    return Closing(now: now, past: past, uptime: uptime, divisions: divisions)
  }

  /// What all looks say. `isCutShort`: whoever watched ended it before its time.
  package func report(_ closing: Closing, _ final: WatchLook, isCutShort: Bool) -> GrowthReport {
    var report = GrowthReport(
      of: series, final: final, past: closing.past, uptime: closing.uptime, by: grouping, limit: limit,
      now: closing.now)
    let hasEnded = series.last?.hasEnded ?? false
    if delay > 0, report.looks < plannedLooks, !hasEnded, !isCutShort { report.delay = delay }
    return report
  }
}
