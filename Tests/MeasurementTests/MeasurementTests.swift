import Measurement
import Testing

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
  let values = (1...200).map(Double.init).shuffled()
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
  #expect(order.count == 12)
  for round in 0..<4 { #expect(Set(order[round * 3..<round * 3 + 3]) == Set(Variant.allCases)) }
  #expect(order[0] != order[3] && order[3] != order[6] && order[6] != order[9])
}

@Test("ratios are taken within a round, so a slow round changes none")
func ratios() {
  var calls = 0
  let rounds = Rounds(3, of: [.plain, .agent]) { variant in
    calls += 1
    let slowness = calls <= 2 ? 10.0 : 1.0
    return slowness * (variant == .agent ? 3 : 2)
  }
  let ratio = rounds.ratio(of: .agent)
  #expect(ratio == Spread([1.5, 1.5, 1.5]))
  #expect(rounds.spread(of: .plain)?.maximum == 20)
  #expect(rounds.ratio(of: .heaptrack) == nil)
}

@Test("the cost over plain is compared, not the time")
func costs() {
  let times: [Variant: Double] = [.plain: 10, .agent: 12, .heaptrack: 110]
  let rounds = Rounds(2, of: Variant.allCases) { times[$0]! }
  #expect(rounds.costShare(of: .agent, in: .heaptrack) == Spread([0.02, 0.02]))
  #expect(Rounds(2, of: [.plain, .agent]) { times[$0]! }.costShare(of: .agent, in: .heaptrack) == nil)
}

@Test("a bar is met at its limit, and a miss is told in percent of it")
func bars() {
  #expect(Bar.atMost(2).verdict(on: 2) == "met")
  #expect(Bar.atMost(2).verdict(on: 2.5) == "missed by 25 %")
  #expect(Bar.atLeast(500_000).verdict(on: 500_001) == "met")
  #expect(Bar.atLeast(500_000).verdict(on: 400_000) == "missed by 20 %")
  #expect(Bar.atMost(2).verdict(on: 2.001) == "missed by <1 %")
}
