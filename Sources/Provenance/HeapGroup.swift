// SPDX-License-Identifier: Apache-2.0
// By what live blocks are put together in a table: their allocation site, or another property that blocks share. Each
// grouping is a way from a block to a key (`GroupKey`); all that is done with groups needs nothing but the key.
//
// Site, function, module, file and allocator depend on the block's context alone. Thread, size and age do not: whoever
// sums up blocks keeps apart what such a grouping tells apart, by a number (a bucket) of its own.

import Bounds
import ByteText
import IndexReader
import Symbols

/// A property by which blocks are put together.
public enum HeapGrouping: String, CaseIterable, Sendable {
  /// The call that allocated, with the function that was called.
  case site
  /// The function that allocated, whatever its line.
  case function
  /// The module, and the source file, of the function that allocated.
  case module, file
  /// Who allocated.
  case thread
  /// Whose memory it is.
  case allocator
  /// Bytes asked for, by powers of two.
  case size
  /// How long ago it was allocated.
  case age

  /// Whether all blocks of a context are of one group.
  package var isOfContexts: Bool { !dependsOnBlock }

  /// Whether blocks of one context may be of different groups.
  package var dependsOnBlock: Bool { self == .thread || self == .size || self == .age }
}

/// Tells the groups of one process's blocks apart.
public enum GroupKey: Hashable, Comparable, Sendable {
  /// `pc` and `module` as of `Site.Key`, 0 if not known; `allocator`: its number plus 1, 0 if not known.
  case site(pc: UInt64, module: UInt32, allocator: UInt32, function: ForeignText)
  /// A function, module, file or allocator; empty if not known.
  case name(ForeignText)
  /// `start`: when it made its first call, in ticks, as a thread's id may be another's later. 0 and 0 if not known.
  case thread(id: UInt32, start: UInt32)
  /// A size or an age: the number of its class.
  case bucket(UInt32)

  /// One text for each key, for programs.
  public var text: ForeignText {
    switch self {
    case .site(let pc, let module, let allocator, let function):
      "0x\(String(pc, radix: 16))/\(module)/\(allocator)/\(function)"
    case .name(let name): Self.shortened(name)
    case .thread(let id, let start): "\(id)@\(start)"
    case .bucket(let number): "\(number)"
    }
  }

  /// A name that fits into a request: of a longer one the beginning, and a sum of all of it (FNV-1a, 64 bits).
  private static func shortened(_ name: ForeignText) -> ForeignText {
    let bytes = name.originalBytes
    guard bytes.count > 512 else { return name }
    let sum = bytes.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64(truncatingIfNeeded: $1)) &* 0x100_0000_01b3 }
    return "\(ForeignText(reversibly: bytes.prefix(256)))…\(String(sum, radix: 16))"
  }

  // MARK: classes of sizes and ages

  /// The class of a size: the number of its bits.
  @inlinable package static func sizeClass(_ size: UInt64) -> Int { 64 &- size.leadingZeroBitCount }

  /// The sizes of a class.
  public static func sizes(ofClass number: UInt32) -> ClosedRange<UInt64> {
    guard number > 0 else { return 0...0 }
    let least: UInt64 = 1 << UInt64(truncatingIfNeeded: min(number, 64) &- 1)
    let most = least &- 1 &+ least
    return least...max(least, most)
  }

  /// Where each class of ages but the last ends, in seconds.
  public static let ageBounds: [Double] = [1, 10, 60, 600, 3600, 86_400, 7 * 86_400]
}

/// Finds the groups of contexts. Made for one request and used from one thread.
package struct GroupNaming {
  package let grouping: HeapGrouping
  private let tables: any OriginTables
  private let naming: StackNaming

  package init(_ grouping: HeapGrouping, _ tables: any OriginTables, wrappers: Wrappers) {
    self.grouping = grouping
    self.tables = tables
    naming = StackNaming(tables, wrappers: wrappers)
  }

  /// The group of blocks of a context. `ticks`: the time of one of them; `bucket`: their class of sizes or ages.
  package func key(_ origin: Origin?, ticks: UInt32, bucket: UInt32) -> GroupKey {
    switch grouping {
    case .site:
      let site = naming.siteKey(ofNode: origin?.node ?? 0, at: ticks)
      return .site(
        pc: site?.pc ?? 0, module: site?.module ?? 0, allocator: origin?.allocatorNumber.map { $0 &+ 1 } ?? 0,
        function: origin?.function ?? "")
    case .function: return .name(frame(origin, ticks).flatMap { $0.function ?? $0.placeName } ?? "")
    case .module: return .name(frame(origin, ticks)?.module ?? "")
    case .file: return .name(frame(origin, ticks)?.file ?? "")
    case .thread:
      let thread = thread(origin, ticks)
      return .thread(id: thread?.id ?? 0, start: thread?.startTicks ?? 0)
    case .allocator: return .name(origin?.allocator ?? "")
    case .size, .age: return .bucket(bucket)
    }
  }

  private func frame(_ origin: Origin?, _ ticks: UInt32) -> Frame? { frames(origin, ticks: ticks).first }

  /// The frames of the allocation site.
  package func frames(_ origin: Origin?, ticks: UInt32) -> [Frame] {
    naming.site(ofNode: origin?.node ?? 0, at: ticks)?.frames ?? []
  }

  package func thread(_ origin: Origin?, _ ticks: UInt32) -> ThreadIdentity? {
    origin?.threadSlot.flatMap { tables.thread(slot: $0, at: ticks) }
  }
}
