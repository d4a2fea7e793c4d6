// SPDX-License-Identifier: Apache-2.0

import Measurement
import TestSupport
import Testing

@Suite("Figures of a benchmark", .bounded)
struct MeasurementTests {
  @Test("the median of an odd number is the middle value, of an even number the mean of the middle two")
  func medians() {
    #expect(Spread([3, 1, 2])?.median == 2)
    #expect(Spread([4, 1, 3, 2])?.median == 2.5)
    #expect(Spread([7])?.median == 7)
    #expect(Spread([]) == nil)
  }

  @Test("a spread ends at the least and the greatest value")
  func extremes() {
    let spread = Spread([5, 9, 1, 3])
    #expect(spread?.minimum == 1)
    #expect(spread?.maximum == 9)
  }

  @Test("a percentile is a value that was measured, the last one for 100 %")
  func percentiles() {
    var random = RandomNumbers()
    let values = (1...200).map(Double.init).shuffled(using: &random)
    #expect(percentile(99, of: values) == 198)
    #expect(percentile(50, of: values) == 100)
    #expect(percentile(100, of: values) == 200)
    #expect(percentile(0, of: values) == 1)
    #expect(percentile(99, of: []) == nil)
  }

  @Test("each round measures every variant once, and starts with another one than the round before")
  func interleaving() {
    var order: [Variant] = []
    _ = Rounds(4, of: Variant.allCases) { variant in
      order.append(variant)
      return 1
    }
    #expect(order.count == 16)
    for round in 0..<4 { #expect(Set(order[round * 4..<round * 4 + 4]) == Set(Variant.allCases)) }
    #expect(Set([order[0], order[4], order[8], order[12]]) == Set(Variant.allCases))
  }

  @Test("a round repeats what it is told to, in turns with the others, and keeps the least")
  func repetition() {
    var order: [Variant] = []
    let rounds = Rounds(2, of: [.plain, .full, .heaptrack], repeats: [.plain: 3, .full: 2]) { variant in
      order.append(variant)
      return Double(100 - order.count)
    }
    #expect(order.count == 12)
    #expect(order[..<6].count { $0 == .plain } == 3)
    #expect(order[..<6].count { $0 == .full } == 2)
    // In turns: not one variant's repetitions one after the other.
    #expect(Set(order[..<3]) == [.plain, .full, .heaptrack])
    for variant in [Variant.plain, .full, .heaptrack] {
      let ends = [order[..<6].lastIndex(of: variant)!, order.lastIndex(of: variant)!]
      #expect(rounds.values[variant] == ends.map { Double(99 - $0) })
    }
  }

  @Test("of several figures that a run gives, each keeps its own least")
  func severalFigures() {
    var calls = 0
    let figures = [[5.0, 20], [7.0, 10]]
    let rounds = Rounds.several(1, of: [.plain], repeats: [.plain: 2]) { _ in
      calls += 1
      return figures[calls - 1]
    }
    #expect(rounds.map { $0.values[.plain] } == [[5], [10]])
  }

  @Test("ratios are taken within a round, so a slow round changes none")
  func ratios() {
    var calls = 0
    let rounds = Rounds(3, of: [.plain, .site]) { variant in
      calls += 1
      let slowness = calls <= 2 ? 10.0 : 1.0
      return slowness * (variant == .site ? 3 : 2)
    }
    let ratio = rounds.ratio(of: .site)
    #expect(ratio == Spread([1.5, 1.5, 1.5]))
    #expect(rounds.spread(of: .plain)?.maximum == 20)
    #expect(rounds.ratio(of: .heaptrack) == nil)
  }

  @Test("the cost over plain is compared, not the time")
  func costs() {
    let times: [Variant: Double] = [.plain: 10, .site: 12, .full: 20, .heaptrack: 110]
    let rounds = Rounds(2, of: Variant.allCases) { times[$0]! }
    #expect(rounds.costShare(of: .site, in: .heaptrack) == Spread([0.02, 0.02]))
    #expect(rounds.costs(of: .full, over: .site) == [8, 8])
    #expect(rounds.costs(of: .plain, over: .full) == [-10, -10])
    #expect(Rounds(2, of: [.plain, .site]) { times[$0]! }.costShare(of: .site, in: .heaptrack) == nil)
  }

  @Test("a bar is met at its limit, and a miss is told in percent of it")
  func bars() {
    #expect(Bar.atMost(2).verdict(on: 2) == "met")
    #expect(Bar.atMost(2).verdict(on: 2.5) == "missed by 25 %")
    #expect(Bar.atLeast(500_000).verdict(on: 500_001) == "met")
    #expect(Bar.atLeast(500_000).verdict(on: 400_000) == "missed by 20 %")
    #expect(Bar.atMost(2).verdict(on: 2.001) == "missed by <1 %")
  }
}
