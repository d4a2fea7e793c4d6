// SPDX-License-Identifier: Apache-2.0
// Interleaved rounds: every round measures each variant, and variants are compared within a round only, so that
// whatever slows the machine for a while slows all of them.

/// What a program runs under.
public enum Variant: String, CaseIterable, Sendable {
  case plain
  /// The agent, which records the call site of each allocation.
  case site
  /// The agent, which records the whole call stack: its default.
  case full
  case heaptrack
}

/// The measurements of interleaved rounds: for each variant one value a round, all in one unit.
public struct Rounds: Sendable {
  public private(set) var values: [Variant: [Double]] = [:]

  /// Calls `measure` for each of `variants` in each of `count` rounds. Each round starts with another variant than the
  /// one before, so that none always follows the same other.
  ///
  /// A variant of which `repeats` has more than 1 is measured so often in each round, in turns with the others, and the
  /// least is its value: what disturbs a program can only slow it down.
  public init(
    _ count: Int, of variants: [Variant], repeats: [Variant: Int] = [:], measure: (Variant) throws -> Double
  ) rethrows {
    self = try Self.several(count, of: variants, repeats: repeats) { [try measure($0)] }.first ?? Rounds(values: [:])
  }

  /// As the initializer, where one run gives several figures: returns one `Rounds` for each, in the order in which
  /// `measure` gives them. The least of each figure is taken for itself.
  public static func several(
    _ count: Int, of variants: [Variant], repeats: [Variant: Int] = [:], measure: (Variant) throws -> [Double]
  ) rethrows -> [Rounds] {
    var results: [Rounds] = []
    for round in 0..<count {
      var least: [Variant: [Double]] = [:]
      for pass in 0..<(variants.map { repeats[$0] ?? 1 }.max() ?? 1) {
        for position in variants.indices {
          let variant = variants[(position + round + pass) % variants.count]
          guard pass < repeats[variant] ?? 1 else { continue }
          let figures = try measure(variant)
          least[variant] = least[variant].map { zip($0, figures).map(min) } ?? figures
        }
      }
      for (variant, figures) in least {
        while results.count < figures.count { results.append(Rounds(values: [:])) }
        for (index, figure) in figures.enumerated() { results[index].values[variant, default: []].append(figure) }
      }
    }
    return results
  }

  /// Rounds that were measured beside others: `values` holds one value a round for each variant, all in the same order.
  public init(values: [Variant: [Double]]) { self.values = values }

  public func spread(of variant: Variant) -> Spread? { Spread(values[variant] ?? []) }

  /// How many times as long `variant` takes as `base`, round by round.
  public func ratio(of variant: Variant, to base: Variant = .plain) -> Spread? {
    Spread(pairs(variant, base).map { $0 / $1 })
  }

  /// How much longer `variant` takes than `base`, round by round; below 0 where it took less.
  public func costs(of variant: Variant, over base: Variant) -> [Double] { pairs(variant, base).map { $0 - $1 } }

  /// The cost of `variant` over plain as a share of the cost of `other` over plain, round by round. Rounds in which
  /// `other` cost nothing are left out.
  public func costShare(of variant: Variant, in other: Variant) -> Spread? {
    Spread(
      zip(costs(of: variant, over: .plain), costs(of: other, over: .plain)).compactMap { $1 > 0 ? $0 / $1 : nil })
  }

  private func pairs(_ first: Variant, _ second: Variant) -> [(Double, Double)] {
    Array(zip(values[first] ?? [], values[second] ?? []))
  }
}
