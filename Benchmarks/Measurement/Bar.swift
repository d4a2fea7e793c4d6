// SPDX-License-Identifier: Apache-2.0
/// What a figure has to reach.
public enum Bar: Equatable, Sendable {
  case atMost(Double)
  case atLeast(Double)

  public func isMet(by value: Double) -> Bool {
    switch self {
    case .atMost(let limit): value <= limit
    case .atLeast(let limit): value >= limit
    }
  }

  public var limit: Double {
    switch self {
    case .atMost(let limit), .atLeast(let limit): limit
    }
  }

  /// "met" or "missed by 12 %" (of the limit).
  public func verdict(on value: Double) -> String {
    guard !isMet(by: value) else { return "met" }
    let percent = abs(value - limit) / limit * 100
    return percent < 1 ? "missed by <1 %" : "missed by \(Int(percent.rounded())) %"
  }
}
