// SPDX-License-Identifier: Apache-2.0
// Random numbers that can be had again.
//
// A run of the tests has one seed: $ALLOCS_TEST_SEED, else another one each time. Each test draws its numbers from the
// seed and a name of its own, so that it gets the same ones whether it runs alone or among all others. A test that has
// drawn any and fails says the seed (Bounded.swift).

import Foundation
import Synchronization

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
package struct RandomNumbers: RandomNumberGenerator, Sendable {
  package static let variable = "ALLOCS_TEST_SEED"

  /// The seed of this run.
  package static let seedOfRun: UInt64 = {
    guard let text = ProcessInfo.processInfo.environment[variable] else { return .random(in: 0 ... .max) }
    guard let seed = UInt64(text) else { fatalError("\(variable) is no number: \(text)") }
    return seed
  }()

  /// Notes that a test has drawn numbers from the run's seed.
  final class Use: Sendable {
    private let noted = Atomic(false)
    func note() { noted.store(true, ordering: .relaxed) }
    var isNoted: Bool { noted.load(ordering: .relaxed) }
  }
  @TaskLocal static var use: Use?

  private var state: UInt64

  /// The numbers of one seed, for a test that names all the seeds that it runs with.
  package init(seed: UInt64) { state = seed }

  /// Numbers from the run's seed, for a test of this name.
  package init(ofTest name: String = #function) {
    Self.use?.note()
    // FNV-1a: Swift's own hashes differ from run to run.
    state = name.utf8.reduce(0xCBF2_9CE4_8422_2325 ^ Self.seedOfRun) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
  }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}
