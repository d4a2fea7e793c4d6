// SPDX-License-Identifier: Apache-2.0
// One pass over all live blocks of a process, summed by context: what every table of live memory begins with.

import Bounds
import IndexReader
import Provenance

/// Which live blocks of a process a question is about, and how it sees them.
public struct HeapScope: Sendable {
  /// When they were made.
  public var window = TimeWindow()
  /// Functions that are passed over in the search for the sites.
  public var wrappers = Wrappers.standard
  /// Which blocks count where suballocators carve up chunks; nil: as the process was started. At the level of blocks, a
  /// chunk that blocks lie in counts with the bytes that they leave of it.
  public var level: Level?

  public init(window: TimeWindow = TimeWindow(), wrappers: Wrappers = .standard, level: Level? = nil) {
    self.window = window
    self.wrappers = wrappers
    self.level = level
  }
}

/// Sums by context, indexed by its id.
struct ContextSums {
  private struct Entry {
    var total = SiteTable.Total()
    var births = SiteTable.Births()
    /// The time of one of the allocations, which tells which modules were loaded then.
    var ticks: UInt32 = 0
  }

  private var entries: [Entry] = Array(repeating: Entry(), count: 1024)
  /// The memory of `entries`: there may be 16 million contexts.
  private let share = MemoryShare()

  /// Reads every slot that was ever used: about a second for 10 million allocations.
  init(of segment: borrowing Segment, _ scope: HeapScope, clock: SegmentClock) {
    let orders = scope.window.orders(on: clock)
    var entries = entries
    let share = share
    segment.forEachAllocation { allocation in
      let order = clock.order(ofTicks: allocation.ticks)
      if let orders, !orders.contains(order) { return }
      Self.add(allocation, order, of: segment, to: &entries, share)
    }
    self.entries = entries
    if scope.level != .chunk, segment.hasSuballocations {
      addSuballocations(of: segment, scope.level, orders, clock)
    }
  }

  var sums: some Sequence<ContextSum> {
    entries.enumerated().lazy.map {
      ContextSum(
        context: UInt32(truncatingIfNeeded: $0), total: $1.total, births: $1.births, ticks: $1.ticks)
    }
  }

  private static func add(
    _ allocation: Allocation, _ order: UInt64, of segment: borrowing Segment, to entries: inout [Entry],
    _ share: MemoryShare
  ) {
    var context = Int(truncatingIfNeeded: allocation.context)
    if context >= entries.count {
      // An id that was never given out is damage. It counts as id 0, "not known".
      let known = segment.contextCount
      let more = min(max(entries.count, context &+ 1 &- entries.count), known)
      // A question that may not have the memory ends, and what it has counted is thrown away.
      if context < known, share.hold((entries.count &+ more) &* MemoryLayout<Entry>.stride &* 2) {
        entries += repeatElement(Entry(), count: more)  // bounded: no more than there are contexts
      } else {
        context = 0
      }
    }
    entries[context].total.add(SiteTable.Total(bytes: allocation.size, blocks: 1))
    entries[context].births.add(order)
    entries[context].ticks = allocation.ticks
  }

  private mutating func addSuballocations(
    of segment: borrowing Segment, _ level: Level?, _ orders: Range<UInt64>?, _ clock: SegmentClock
  ) {
    let hidden = Set(level == nil ? segment.allocators.filter { $0.isShownAsChunk }.map { $0.number } : [])
    var isHidden: [UInt32: Bool] = [:]
    var entries = entries
    segment.forEachSuballocation { block, _, container in
      let context = block.block.context
      if !hidden.isEmpty {
        let known =
          isHidden[context] ?? segment.context(context)?.allocator.map { hidden.contains($0.number) } ?? false
        isHidden[context] = known
        if known { return }
      }
      let order = clock.order(ofTicks: block.block.ticks)
      if orders?.contains(order) ?? true { Self.add(block.block, order, of: segment, to: &entries, share) }
      // The bytes of a block are taken from those of its container, if the container was counted.
      guard let container, orders?.contains(clock.order(ofTicks: container.ticks)) ?? true else { return }
      let index = Int(truncatingIfNeeded: container.context)
      guard index < entries.count else { return }
      // A container that was made after the chunks were counted has no bytes to take the block's from.
      let bytes = entries[index].total.bytes
      entries[index].total.bytes = bytes &- min(bytes, block.block.size)
    }
    self.entries = entries
  }
}
