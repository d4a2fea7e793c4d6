// SPDX-License-Identifier: Apache-2.0
/// A median with the least and the greatest of the values it stands for. Values keep their unit.
public struct Spread: Equatable, Sendable {
  public let median: Double
  public let minimum: Double
  public let maximum: Double

  /// The spread of `values`; nil if there are none. The median of an even number of values is the mean of the middle
  /// two.
  public init?(_ values: [Double]) {
    let sorted = values.sorted()
    guard let least = sorted.first, let greatest = sorted.last else { return nil }
    let middle = sorted.count / 2
    minimum = least
    maximum = greatest
    median = sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }
}

/// The value below which `percent` percent (0 to 100) of `values` lie, by the nearest rank; nil if there are none.
public func percentile(_ percent: Double, of values: [Double]) -> Double? {
  let sorted = values.sorted()
  guard !sorted.isEmpty else { return nil }
  let rank = Int((percent / 100 * Double(sorted.count)).rounded(.up))
  return sorted[min(max(rank, 1), sorted.count) - 1]
}
