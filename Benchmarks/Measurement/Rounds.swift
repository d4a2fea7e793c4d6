// Interleaved rounds: every round measures each variant once, and variants are compared within a round only, so that
// whatever slows the machine for a while slows all of them.

/// What a program runs under.
public enum Variant: String, CaseIterable, Sendable {
  case plain, agent, heaptrack
}

/// The measurements of interleaved rounds: for each variant one value a round, all in one unit.
public struct Rounds: Sendable {
  public private(set) var values: [Variant: [Double]] = [:]

  /// Calls `measure` for each of `variants` once in each of `count` rounds. Each round starts with another variant than the
  /// one before, so that none always follows the same other.
  public init(_ count: Int, of variants: [Variant], measure: (Variant) throws -> Double) rethrows {
    for round in 0..<count {
      for position in variants.indices {
        let variant = variants[(position + round) % variants.count]
        values[variant, default: []].append(try measure(variant))
      }
    }
  }

  /// Rounds that were measured beside others: `values` holds one value a round for each variant, all in the same order.
  public init(values: [Variant: [Double]]) { self.values = values }

  public func spread(of variant: Variant) -> Spread? { Spread(values[variant] ?? []) }

  /// How many times as long `variant` takes as `base`, round by round.
  public func ratio(of variant: Variant, to base: Variant = .plain) -> Spread? {
    Spread(pairs(variant, base).map { $0 / $1 })
  }

  /// The cost of `variant` over plain as a share of the cost of `other` over plain, round by round. Rounds in which `other`
  /// cost nothing are left out.
  public func costShare(of variant: Variant, in other: Variant) -> Spread? {
    guard let plain = values[.plain] else { return nil }
    return Spread(
      zip(pairs(variant, other), plain).compactMap { pair, plain in
        pair.1 > plain ? (pair.0 - plain) / (pair.1 - plain) : nil
      })
  }

  private func pairs(_ first: Variant, _ second: Variant) -> [(Double, Double)] {
    Array(zip(values[first] ?? [], values[second] ?? []))
  }
}
