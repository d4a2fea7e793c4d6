// SPDX-License-Identifier: Apache-2.0
// Which sites grow: judged by looks at a process over a while, and by the births of the blocks that lived at the last
// look, which tell of the time before.
//
// What is told apart:
//   grows      rises beyond chance, to the end, and what it makes stays; perhaps after each of a few falls (restarts)
//   fills      rose, and then stays where it is: a cache
//   swings     goes up and down, or makes blocks and frees them: a buffer
//   shrinks    falls beyond chance
//   steady     does not change by more than a hundredth
//
// bounded: bytes and times are floating point, which never traps; whole numbers count looks, of which there are some
// hundred, or are places of moments among those

import Answers
import Bounds
import ByteText
import Provenance

/// What several looks tell of one site.
package struct GrowthOfSite: Sendable {
  package enum Verdict: String, CaseIterable, Sendable {
    case grows, fills, swings, shrinks, steady
    /// Too few looks to tell.
    case unknown
  }

  package var row: WatchLook.Row
  package var verdict = Verdict.unknown
  /// In bytes a second; nil if too few looks tell.
  package var trend: Trend?
  /// How often it fell back by a quarter of its range or more.
  package var falls = 0
  /// Whether there were looks, one after another, for a fifth of the time, at which it had not grown.
  package var hasPauses = false
  /// Of the bytes that were new at a look, the part that lived still at the last one; nil if none were new.
  package var survival: Double?
  /// Seconds before the last look from which on it has grown as it does now, by the births of what lives; nil if they
  /// do not tell.
  package var growingFor: Double?
  /// Whether it has grown so from the beginning of the index.
  package var isSinceStart = false
  package var first = 0.0
  package var last = 0.0
}

/// Looks at a process, one after another, as `growth` takes them.
package struct GrowthSeries: Sendable {
  /// One site's numbers: at each look the live bytes, and of these what was made since the look before.
  private struct Site {
    var row: WatchLook.Row
    var bytes: [Double?]
    var new: [Double]
  }

  package private(set) var times: [Double] = []
  package private(set) var totals: [Double] = []
  private var sites: [String: Site] = [:]
  package private(set) var last: WatchLook?

  package init() {}

  /// Adds a look. Its sums are divided at the moment of the look before, but for the first look.
  package mutating func add(_ look: WatchLook) {
    // A site that is not listed among the largest has bytes that are not known; where all are listed, it has none.
    let missing: Double? = look.rowCount <= Double(look.rows.count) ? 0 : nil
    let count = times.count
    for row in look.rows {
      var site = sites[row.key] ?? Site(row: row, bytes: [], new: [])
      site.row = row
      if site.bytes.isEmpty { site.bytes = Array(repeating: isWhole ? 0 : nil, count: count) }
      while site.bytes.count < count { site.bytes.append(missing) }
      while site.new.count < count { site.new.append(0) }
      site.bytes.append(row.bytes)
      site.new.append(count > 0 ? row.parts.last?.bytes ?? 0 : 0)
      sites[row.key] = site
    }
    isWhole = isWhole && missing != nil
    times.append(look.time)
    totals.append(look.total.bytes)
    for key in sites.keys where (sites[key]?.bytes.count ?? 0) <= count {
      sites[key]?.bytes.append(missing)
      sites[key]?.new.append(0)
    }
    last = look
  }

  /// About how much memory the looks take, in bytes: a site has its names, and a number or two for each look.
  package var bytes: Int {
    let rows = sites.count + (last?.rows.count ?? 0)
    return rows * 2048 + sites.count * times.count * 24
  }

  /// Whether all sites were listed at each look.
  private var isWhole = true

  /// What the looks tell, the fastest growing first. `final`: one more look, whose sums are divided at `past`, and then
  /// at the moments of the other looks. `past`: ages in seconds, the greatest first and that of the first look last.
  /// `uptime`: seconds since the index began.
  package func report(final: WatchLook, past: [Double], uptime: Double) -> [GrowthOfSite] {
    let finals = Dictionary(final.rows.map { ($0.key, $0) }, uniquingKeysWith: { first, _ in first })
    var results: [GrowthOfSite] = []
    // A site has thousands of pairs of looks.
    var meter = BudgetMeter(interval: 1)
    for (key, site) in sites {
      guard meter.goesOn() else { break }
      results.append(judge(site, finals[key], past: past, uptime: uptime))
    }
    func rank(_ site: GrowthOfSite) -> Int {
      switch site.verdict {
      case .grows: site.falls == 0 ? 0 : 1
      case .fills: 2
      case .swings: 3
      case .shrinks: 4
      case .steady: 5
      case .unknown: 6
      }
    }
    return results.sorted { a, b in
      if rank(a) != rank(b) { return rank(a) < rank(b) }
      let (left, right) = (a.trend?.slope.magnitude ?? 0, b.trend?.slope.magnitude ?? 0)
      if a.verdict != .steady, left != right { return left > right }
      return (b.last, a.row.key) < (a.last, b.row.key)
    }
  }

  private func judge(_ site: Site, _ final: WatchLook.Row?, past: [Double], uptime: Double) -> GrowthOfSite {
    var result = GrowthOfSite(row: final ?? site.row)
    let points = zip(times, site.bytes).compactMap { time, bytes in bytes.map { Trend.Point(time, $0) } }
    result.first = points.first?.value ?? 0
    result.last = points.last?.value ?? 0
    let parts = final?.parts ?? []
    // Part 0 lies before the first moment of the past, whose last is that of the first look.
    let own = parts.dropFirst(past.count)
    let made = site.new.dropFirst().reduce(0, +)
    if made > 0, own.count == times.count {
      // What was made since a look and before the next: the part between the two. The last part is of after the last.
      let kept = own.dropLast().reduce(0) { $0 + $1.bytes }
      result.survival = max(0, min(1, kept / made))
    } else if made > 0, final == nil {
      result.survival = 0
    }
    let pieces = points.pieces(fallingBack: 0.25)
    result.falls = pieces.count - 1
    guard points.count >= GrowthSeries.fewestLooks, let whole = Trend(points) else {
      result.trend = Trend(points)
      return result
    }
    let range = (points.map(\.value).max() ?? 0) - (points.map(\.value).min() ?? 0)
    let most = points.map(\.value).max() ?? 0
    result.trend = whole
    let within = Trend(of: pieces)
    let stays = (result.survival ?? 1) >= 0.5
    if range <= most / 100 {
      result.verdict = .steady
    } else if Self.hasFilled(points, range) {
      result.verdict = whole.slope < 0 ? .shrinks : stays ? .fills : .swings
    } else if whole.isRise, result.falls == 0 || whole.tau > 0.5 {
      result.verdict = .grows
    } else if result.falls > 0, result.falls <= points.count / 8, let within, within.isRise, stays || result.falls > 1 {
      // It grows anew after each fall.
      result.verdict = .grows
      result.trend = within
    } else if whole.isFall {
      result.verdict = .shrinks
    } else {
      result.verdict = .swings
    }
    if result.verdict == .grows, result.falls == 0 {
      result.hasPauses = Self.hasPauses(points)
      (result.growingFor, result.isSinceStart) = Self.growingFor(
        parts, past: past, slope: result.trend?.slope ?? 0, uptime: uptime)
    }
    return result
  }

  /// Fewer looks tell nothing of a site.
  package static let fewestLooks = 8

  /// Whether nearly all of the change came before the last third, in which the site stays where it is.
  private static func hasFilled(_ points: [Trend.Point], _ range: Double) -> Bool {
    let tail = points.suffix(max(3, points.count / 3)).map(\.value)
    guard let least = tail.min(), let most = tail.max(), let first = points.first?.value, let last = tail.last else {
      return false
    }
    return most - least <= range / 20 && abs(last - first) >= range / 2
  }

  /// Whether it stood still for a fifth of the looks, one after another.
  private static func hasPauses(_ points: [Trend.Point]) -> Bool {
    var (longest, current) = (0, 0)
    for (later, earlier) in zip(points.dropFirst(), points) {
      current = later.value > earlier.value ? 0 : current + 1
      longest = max(longest, current)
    }
    return longest >= max(3, points.count / 5)
  }

  /// How long it has grown as it does now: back from the looks, as long as each part of the past has a quarter of the
  /// bytes at least that the slope gives it.
  private static func growingFor(
    _ parts: [(bytes: Double, blocks: Double)], past: [Double], slope: Double, uptime: Double
  ) -> (Double?, Bool) {
    guard slope > 0, past.count >= 2, parts.count > past.count, let watched = past.last else { return (nil, false) }
    var since = watched
    // Part i lies between the moments i - 1 and i.
    for index in stride(from: past.count - 1, to: 0, by: -1) {
      let length = past[index - 1] - past[index]
      guard length > 0, parts[index].bytes >= slope * length / 4 else { return (since, false) }
      since = past[index - 1]
    }
    return (min(since, uptime), true)
  }
}
