// SPDX-License-Identifier: Apache-2.0
// The header's counters: how much was not indexed or not recorded, and why. All facts of a counter
// but its value stand in one table of the layout, allocs_counter.h, and are read from there.

import SharedLayout

/// A counter of the segment's header: its facts, without its value.
public struct IndexCounter: Hashable, Sendable {
  /// The kinds of counters; the raw values come from enum allocs_counter_kind.
  public enum Kind: UInt32, Hashable, Sendable {
    /// Blocks that were allocated and are not in the index; they make no event either.
    case lostBlocks = 1
    /// Blocks given back whose allocation was not seen; they make no event either.
    case unknownFrees
    /// Events that are in no ring.
    case lostEvents
    /// Anything else that is missing, refused or wrong.
    case faults
    /// How often something happened; nothing is missing.
    case figures
    /// How often something happened, shown as a part of another figure or not at all.
    case sums
    /// Blocks that are not in the index, allocated inside a call of the allocator: its own, or a
    /// signal handler's.
    case innerBlocks
  }

  /// The name in JSON, such as `arenas_exhausted`.
  public let name: String
  /// The counter's kind: whether it counts a loss.
  public let kind: Kind
  /// The thing that is counted, in the singular, and the words that are said of it.
  let noun: String
  let words: String
  let number: Int

  /// All counters of the layout, in the order of their numbers.
  public static let all: [IndexCounter] = (0..<UInt32(ALLOCS_COUNTER_COUNT.rawValue)).compactMap { number in
    let facts = allocs_counter_facts(number)
    guard let kind = Kind(rawValue: facts.kind) else { return nil }
    return IndexCounter(
      name: String(cString: facts.name), kind: kind, noun: String(cString: facts.noun),
      words: String(cString: facts.words), number: Int(truncatingIfNeeded: number))
  }

  /// The counter with this name in JSON; nil if this version has none.
  public static func named(_ name: String) -> IndexCounter? { all.first { $0.name == name } }

  static let lostBlocks = all.filter { $0.kind == .lostBlocks }
  static let unknownFrees = all.filter { $0.kind == .unknownFrees }
  static let innerBlocks = all.filter { $0.kind == .innerBlocks }
  static let lostEvents = all.filter { $0.kind == .lostEvents }

  /// A sentence for people, such as `2 blocks not indexed: no arena was left`. `grouped` writes the
  /// number.
  public func sentence(of value: UInt64, grouped: (UInt64) -> String) -> String {
    "\(grouped(value)) \(noun)\(value == 1 ? "" : "s") \(words)"
  }
}

extension Segment {
  /// All counters with their values, zeros too, in the order of their numbers. Values count since
  /// the start of the process, and may go on growing. Any thread may ask.
  public var counters: [(name: String, value: UInt64)] {
    IndexCounter.all.map { ($0.name, value(of: $0)) }
  }

  func value(of counter: IndexCounter) -> UInt64 {
    // bounded: a counter's number is below ALLOCS_COUNTER_COUNT
    allocs_load_relaxed_u64(headerField(\.counters, as: UInt64.self) + counter.number)
  }

  func sum(of counters: [IndexCounter]) -> UInt64 {
    counters.reduce(0) { $0 &+ value(of: $1) }
  }
  func sum(of kind: IndexCounter.Kind) -> UInt64 {
    switch kind {
    case .lostBlocks: sum(of: IndexCounter.lostBlocks)
    case .unknownFrees: sum(of: IndexCounter.unknownFrees)
    case .lostEvents: sum(of: IndexCounter.lostEvents)
    case .innerBlocks: sum(of: IndexCounter.innerBlocks)
    case .faults, .figures, .sums: sum(of: IndexCounter.all.filter { $0.kind == kind })
    }
  }

  /// Blocks that were allocated since the start and are not in the index. A few loads.
  public var lostBlocks: UInt64 { sum(of: .lostBlocks) }
  /// Blocks that are not in the index because they were allocated inside a call of the allocator:
  /// by the allocator for itself, or by a signal handler that interrupted it. One load.
  public var innerBlocks: UInt64 { sum(of: .innerBlocks) }
  /// Blocks that were given back since the start and whose allocation was not seen. A few loads.
  public var unknownFrees: UInt64 { sum(of: .unknownFrees) }
}
