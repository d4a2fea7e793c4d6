// SPDX-License-Identifier: Apache-2.0
// Live memory of a process by who allocated it: one pass over all live allocations, summed by context. From the sums by
// context, SiteTable makes those by allocation site.

import IndexReader
import Provenance
import SystemAccess

/// Live bytes and blocks of a process by allocation site, of now or of a moment of a recording.
public struct TopTable: Hashable, Sendable {
  public typealias Total = SiteTable.Total
  public typealias Site = SiteTable.Site

  public var processID: Int32
  public var command: [ForeignText]
  public var table: SiteTable
  /// The known losses of the index.
  public var losses: Losses
  /// Of a recording: the number of events that are missing from it.
  public var lostEvents: UInt64 = 0

  public init(processID: Int32, command: [ForeignText], table: SiteTable, losses: Losses = Losses()) {
    self.processID = processID
    self.command = command
    self.table = table
    self.losses = losses
  }

  public var total: Total { table.total }
  /// The number of sites, shown or not.
  public var siteCount: Int { table.siteCount }
  /// The sites that are shown.
  public var sites: [Site] { table.sites }
  /// The sum of the sites that are not shown.
  public var other: Total { table.other }
}

extension ProcessView {
  /// The `limit` sites with the most live bytes. Reads every slot that was ever used: about a second for 10 million
  /// allocations.
  ///
  /// `wrappers` are passed over in the search for the sites. `level` says which blocks count where suballocators carve
  /// up chunks; nil: as the process was started. At the level of blocks, a chunk that blocks lie in counts with the
  /// bytes that they leave of it.
  public func top(
    limit: Int = 20, wrappers: Wrappers = .standard, level: Level? = nil
  ) throws(Complaint) -> TopTable {
    let tally = Tally(of: shared.segment, level)
    let table = TopTable(
      processID: processID, command: shared.segment.command,
      table: SiteTable(of: tally.sums, in: tables, wrappers: wrappers, limit: limit),
      losses: losses(isWriting: Surroundings(of: self).isWriting, budget: nil))
    try checkIntact()
    return table
  }
}

/// Sums by context, indexed by its id.
private struct Tally {
  struct Entry {
    var total = SiteTable.Total()
    /// The time of one of the allocations, which tells which modules were loaded then.
    var ticks: UInt32 = 0
  }

  private var entries: [Entry] = []
  /// The memory of `entries`: there may be 16 million contexts.
  private let share = MemoryShare()

  init(of segment: borrowing Segment, _ level: Level?) {
    var entries: [Entry] = Array(repeating: Entry(), count: 1024)
    segment.forEachAllocation { Self.add($0, of: segment, to: &entries, share) }
    self.entries = entries
    if level != .chunk, segment.hasSuballocations { addSuballocations(of: segment, level) }
  }

  var sums: some Sequence<ContextSum> {
    entries.enumerated().lazy.map {
      ContextSum(context: UInt32(truncatingIfNeeded: $0), total: $1.total, ticks: $1.ticks)
    }
  }

  private static func add(
    _ allocation: Allocation, of segment: borrowing Segment, to entries: inout [Entry], _ share: MemoryShare
  ) {
    var context = Int(truncatingIfNeeded: allocation.context)
    if context >= entries.count {
      // An id that was never given out is damage. It counts as id 0, "not known".
      let known = segment.contextCount
      if context < known {
        let more = min(max(entries.count, context &+ 1 &- entries.count), known)
        share.hold((entries.count &+ more) &* MemoryLayout<Entry>.stride &* 2)
        entries += repeatElement(Entry(), count: more)  // bounded: no more than there are contexts
      } else {
        context = 0
      }
    }
    entries[context].total.bytes &+= allocation.size
    entries[context].total.blocks &+= 1
    entries[context].ticks = allocation.ticks
  }

  private mutating func addSuballocations(of segment: borrowing Segment, _ level: Level?) {
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
      Self.add(block.block, of: segment, to: &entries, share)
      if let context = container.map({ Int(truncatingIfNeeded: $0.context) }), context < entries.count {
        // A container that was made after the chunks were counted has no bytes to take the block's from.
        let bytes = entries[context].total.bytes
        entries[context].total.bytes = bytes &- min(bytes, block.block.size)
      }
    }
    self.entries = entries
  }
}
