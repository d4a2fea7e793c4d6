// SPDX-License-Identifier: Apache-2.0
// Whether a series of numbers rises or falls, and how fast: robust against noise, steps and outliers, as the live bytes
// of a site have all of them.
//
// - The slope is the Theil–Sen estimator, the median of the slopes of all pairs of points: P. K. Sen, "Estimates of the
//   Regression Coefficient Based on Kendall's Tau", Journal of the American Statistical Association 63 (1968), with the
//   confidence interval of the same paper.
// - Whether there is a trend at all is the Mann–Kendall test: H. B. Mann, Econometrica 13 (1945); M. G. Kendall, Rank
//   Correlation Methods (1948), whose variance with ties is used.
// - A series that falls back now and then (a restart, a flush) is several series: pairs are formed within each only,
//   and the sums added, as in the seasonal test of R. M. Hirsch, J. R. Slack, R. A. Smith, "Techniques of Trend
//   Analysis for Monthly Water Quality Data", Water Resources Research 18 (1982).
//
// bounded: values and times are floating point, which never traps; whole numbers count points, or are places among
// slopes, of which there are some thousands

import Glibc

/// The trend of a series.
package struct Trend: Hashable, Sendable {
  /// A point of a series: seconds, and a number.
  package struct Point: Hashable, Sendable {
    package var time: Double
    package var value: Double

    package init(_ time: Double, _ value: Double) {
      self.time = time
      self.value = value
    }
  }

  /// The slope, in units a second.
  package var slope: Double
  /// Where the slope lies with a confidence of 95 %.
  package var low: Double
  package var high: Double
  /// Kendall's tau: from -1, each later point is lower, to 1, each is higher.
  package var tau: Double
  /// How likely so much order is without a trend, from 0 to 1 (two-sided).
  package var chance: Double

  /// Fewer points say nothing.
  package static let fewest = 5

  /// The trend of pieces of a series, whose points come by time; nil if there are too few points.
  package init?(of pieces: [[Point]]) {
    var slopes: [Double] = []
    var (sum, pairs, variance) = (0.0, 0.0, 0.0)
    for piece in pieces {
      for (index, later) in piece.enumerated() {
        for earlier in piece[..<index] where later.time > earlier.time {
          let rise = later.value - earlier.value
          slopes.append(rise / (later.time - earlier.time))
          sum += rise > 0 ? 1 : rise < 0 ? -1 : 0
          pairs += 1
        }
      }
      variance += Self.variance(piece)
    }
    guard slopes.count >= Self.fewest * (Self.fewest - 1) / 2 else { return nil }
    slopes.sort()
    slope = Self.quantile(slopes, Double(slopes.count - 1) / 2)
    tau = sum / pairs
    guard variance > 0 else {
      // All points are equal.
      (low, high, chance) = (slope, slope, 1)
      return
    }
    let deviation = variance.squareRoot()
    let score = sum == 0 ? 0 : (sum - (sum > 0 ? 1 : -1)) / deviation
    chance = erfc(abs(score) / 2.0.squareRoot())
    let reach = 1.96 * deviation
    low = Self.quantile(slopes, (Double(slopes.count) - reach) / 2 - 1)
    high = Self.quantile(slopes, (Double(slopes.count) + reach) / 2)
  }

  package init?(_ points: [Point]) { self.init(of: [points]) }

  /// Of Kendall's sum, where nothing has a trend.
  private static func variance(_ piece: [Point]) -> Double {
    func term(_ count: Int) -> Double {
      let count = Double(count)
      return count * (count - 1) * (2 * count + 5)
    }
    var ties: [Double: Int] = [:]
    for point in piece { ties[point.value, default: 0] += 1 }
    return (term(piece.count) - ties.values.reduce(0) { $0 + term($1) }) / 18
  }

  /// The number at a place of a sorted list, between two of them in proportion.
  private static func quantile(_ sorted: [Double], _ place: Double) -> Double {
    let place = max(0, min(place, Double(sorted.count - 1)))
    let low = Int(place.rounded(.down))
    let high = min(low + 1, sorted.count - 1)
    return sorted[low] + (sorted[high] - sorted[low]) * (place - place.rounded(.down))
  }

  /// Whether it rises, or falls, beyond what chance does once in a hundred times.
  package var isRise: Bool { chance < 0.01 && low > 0 }
  package var isFall: Bool { chance < 0.01 && high < 0 }
}

extension [Trend.Point] {
  /// The pieces between the falls by more than `part` of the range of all values, and their number.
  package func pieces(fallingBack part: Double) -> [[Trend.Point]] {
    guard let least = map(\.value).min(), let most = map(\.value).max(), most > least else { return [self] }
    let fall = (most - least) * part
    var pieces: [[Trend.Point]] = [[]]
    for (index, point) in enumerated() {
      if index > 0, self[index - 1].value - point.value > fall { pieces.append([]) }
      pieces[pieces.count - 1].append(point)
    }
    return pieces
  }
}
