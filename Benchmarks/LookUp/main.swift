// SPDX-License-Identifier: Apache-2.0
// allocs-lookup-bench: times single look-ups in a mapped segment, without symbols, and checks each answer.
//
//   allocs-lookup-bench times SEGMENT                    random live allocations and the gaps between them
//   allocs-lookup-bench inside SEGMENT BASE LOW HIGH     random addresses in LOW..<HIGH, all in the allocation at BASE
//   allocs-lookup-bench free SEGMENT ADDRESS             one free address, with the search for its neighbours
//   allocs-lookup-bench addresses SEGMENT COUNT          prints COUNT random live addresses, one a line
//   allocs-lookup-bench count SEGMENT COUNT              COUNT look-ups in an order that is the same in each run; times
//                                                        nothing, for a count of instructions
//   allocs-lookup-bench calls SEGMENT                    prints how many blocks all threads have allocated so far
//   allocs-lookup-bench stack SEGMENT ADDRESS            prints "FRAMES NODES": the frames of the stack that allocated
//                                                        ADDRESS, which must be whole, and of all stacks together
//   allocs-lookup-bench nodes SEGMENT                    prints the number of frames of all stacks together
//
// Numbers are decimal or 0x… . Each kind prints "KIND MEDIAN P99", in nanoseconds: each look-up is timed by two
// readings of the clock, of which the cost of reading it is taken off.

import Glibc
import IndexReader
import Measurement

func fail(_ message: String) -> Never {
  let line = Array("allocs-lookup-bench: \(message)\n".utf8)
  _ = write(2, line, line.count)
  exit(1)
}

func number(_ text: String) -> UInt64 {
  let value = text.hasPrefix("0x") ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
  guard let value else { fail("'\(text)' is not a number") }
  return value
}

@inline(__always)
func nanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// The frames of all stacks together, those that stacks have in common counted once.
func nodeCount(of segment: borrowing Segment) -> UInt32 {
  var count: UInt32 = 0
  while segment.node(count + 1) != nil { count += 1 }
  return count
}

/// What two readings of the clock differ by if there is nothing between them.
let clockCost: UInt64 = {
  let differences = (0..<10_000).map { _ in
    let before = nanoseconds()
    return Double(nanoseconds() - before)
  }
  return UInt64(percentile(50, of: differences) ?? 0)
}()

/// Looks each of `addresses` up with `lookUp` and prints the time of one; `isRight` judges the answer to number i.
func time<Answer>(
  _ kind: String, _ addresses: [UInt64], lookUp: (UInt64) -> Answer, isRight: (Int, Answer) -> Bool
) {
  var times: [Double] = []
  times.reserveCapacity(addresses.count)
  for (index, address) in addresses.enumerated() {
    let before = nanoseconds()
    let answer = lookUp(address)
    let elapsed = nanoseconds() - before
    guard isRight(index, answer) else { fail("\(kind): wrong answer for 0x\(String(address, radix: 16)): \(answer)") }
    times.append(Double(elapsed > clockCost ? elapsed - clockCost : 0))
  }
  guard let median = percentile(50, of: times), let high = percentile(99, of: times) else {
    fail("\(kind): the segment has no address to ask for")
  }
  print("\(kind) \(median) \(high)")
}

/// A live allocation with the one behind it.
struct Sample {
  var allocation: Allocation
  var next: Allocation
}

/// `count` of the live allocations of `segment`, each as likely as any other, in random order.
func sample(_ count: Int, of segment: borrowing Segment) -> [Sample] {
  var random = SystemRandomNumberGenerator()
  var samples: [Sample] = []
  var seen = 0
  var previous: Allocation?
  segment.forEachAllocation { allocation in
    if let previous {
      seen += 1
      if samples.count < count {
        samples.append(Sample(allocation: previous, next: allocation))
      } else if case let place = Int.random(in: 0..<seen, using: &random), place < count {
        samples[place] = Sample(allocation: previous, next: allocation)
      }
    }
    previous = allocation
  }
  return samples.shuffled()
}

let sampleSize = 100_000

func timeSamples(_ segment: borrowing Segment) {
  let samples = sample(sampleSize, of: segment)
  let interior = samples.map { $0.allocation.base + UInt64.random(in: 0..<max($0.allocation.size, 1)) }
  // glibc keeps 8 bytes between two blocks, so there is always a gap.
  let gaps = samples.map { UInt64.random(in: $0.allocation.end..<$0.next.base) }
  time("base", samples.map(\.allocation.base), lookUp: { segment.allocation(containing: $0) }) {
    $1 == samples[$0].allocation
  }
  time("interior", interior, lookUp: { segment.allocation(containing: $0) }) { $1 == samples[$0].allocation }
  time("free", gaps, lookUp: { segment.allocation(containing: $0) }) { $1 == nil }
  time("neighbours", interior, lookUp: { segment.lookup($0) }) {
    $1.containing == samples[$0].allocation && $1.next == samples[$0].next
  }
}

/// Looks up an address inside each of some live allocations, far from the one before, `count` times in all.
func lookUp(_ count: Int, in segment: borrowing Segment) {
  var addresses: [(inside: UInt64, base: UInt64)] = []
  segment.forEachAllocation { allocation in
    if addresses.count < 1009 { addresses.append((allocation.base + allocation.size / 2, allocation.base)) }
  }
  guard addresses.count == 1009 else { fail("the segment has too few allocations") }
  for number in 0..<count {
    // The number of addresses is a prime.
    let (inside, base) = addresses[number * 389 % 1009]
    guard segment.allocation(containing: inside)?.base == base else { fail("wrong answer for \(inside)") }
  }
}

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { fail("usage: times|inside|free|addresses|calls|count|stack SEGMENT …") }
let path = arguments[2]
do {
  let opened = nanoseconds()
  let segment = try Segment(path: path)
  switch (arguments[1], arguments.count) {
  case ("times", 3): timeSamples(segment)
  case ("inside", 6):
    let base = number(arguments[3])
    let range = number(arguments[4])..<number(arguments[5])
    let first = segment.allocation(containing: range.lowerBound)
    let elapsed = nanoseconds() - opened
    guard first?.base == base else { fail("nothing is found at \(arguments[4])") }
    print("open \(elapsed) \(elapsed)")
    let addresses = (0..<sampleSize).map { _ in UInt64.random(in: range) }
    time("inside", addresses, lookUp: { segment.allocation(containing: $0) }) { $1?.base == base }
  case ("free", 4):
    let addresses = Array(repeating: number(arguments[3]), count: 25)
    time("free", addresses, lookUp: { segment.lookup($0) }) { $1.containing == nil && $1.previous != nil }
  case ("addresses", 4):
    for sample in sample(Int(number(arguments[3])), of: segment) {
      print("0x" + String(sample.allocation.base, radix: 16))
    }
  case ("calls", 3):
    guard let sums = segment.callSums else { fail("the sums of calls are not known") }
    print(sums.allocations)
  case ("count", 4): lookUp(Int(number(arguments[3])), in: segment)
  case ("stack", 4):
    guard let allocation = segment.allocation(containing: number(arguments[3])),
      let context = segment.context(allocation.context)
    else { fail("nothing is known of \(arguments[3])") }
    let stack = segment.stack(ofNode: context.node)
    guard stack.truncation == nil else {
      fail("the stack of \(arguments[3]) ends after \(stack.addresses.count) frames: \(stack.truncation!)")
    }
    print("\(stack.addresses.count) \(nodeCount(of: segment))")
  case ("nodes", 3): print(nodeCount(of: segment))
  default: fail("usage: times|inside|free|addresses|calls|count|stack|nodes SEGMENT …")
  }
} catch {
  fail("\(error)")
}
