// The header's counters: what was not indexed or not recorded, and why. All that is known of a counter beside its value
// is in one table of the layout, allocs_counter.h; which counters are losses is read from there.

import SharedLayout

/// A number of the segment's header, and what it counts.
public struct IndexCounter: Hashable, Sendable {
  /// What a counter counts: enum allocs_counter_kind.
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
    /// The same, shown as a part of another figure or not at all.
    case sums
    /// Blocks that are not in the index, allocated inside a call of the allocator: its own, or a signal handler's.
    case innerBlocks
  }

  /// The name in JSON.
  public let name: String
  public let kind: Kind
  /// What is counted, in the singular, and what is said of it.
  let noun: String
  let words: String
  let number: Int

  /// All that the layout has, in the order of their numbers.
  public static let all: [IndexCounter] = (0..<UInt32(ALLOCS_COUNTER_COUNT.rawValue)).compactMap { number in
    let facts = allocs_counter_facts(number)
    guard let kind = Kind(rawValue: facts.kind) else { return nil }
    return IndexCounter(
      name: String(cString: facts.name), kind: kind, noun: String(cString: facts.noun),
      words: String(cString: facts.words), number: Int(number))
  }

  /// nil for a name that this version has no counter of.
  public static func named(_ name: String) -> IndexCounter? { all.first { $0.name == name } }

  static let lostBlocks = all.filter { $0.kind == .lostBlocks }
  static let unknownFrees = all.filter { $0.kind == .unknownFrees }
  static let innerBlocks = all.filter { $0.kind == .innerBlocks }
  static let lostEvents = all.filter { $0.kind == .lostEvents }

  /// `2 blocks not indexed: no arena was left`; `grouped` writes the number.
  public func sentence(of value: UInt64, grouped: (UInt64) -> String) -> String {
    "\(grouped(value)) \(noun)\(value == 1 ? "" : "s") \(words)"
  }
}

extension Segment {
  /// All counters, zeros too, in the segment's order: counts since the start.
  public var counters: [(name: String, value: UInt64)] {
    IndexCounter.all.map { ($0.name, value(of: $0)) }
  }

  func value(of counter: IndexCounter) -> UInt64 {
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

  /// Blocks that were allocated and are not in the index, since the start. A few loads.
  public var lostBlocks: UInt64 { sum(of: .lostBlocks) }
  /// Blocks that are not in the index either, which the allocator made for itself, or a signal handler inside it. A
  /// load.
  public var innerBlocks: UInt64 { sum(of: .innerBlocks) }
  /// Blocks given back whose allocation was not seen, since the start. A few loads.
  public var unknownFrees: UInt64 { sum(of: .unknownFrees) }
}
