// Live memory by who allocated it: one pass over all live allocations, summed by context, then by allocation site.
//
// A context is (stack, thread, function, allocator). Each stack is attributed once to its site (Attribution). Sites are
// told apart by return address, function and allocator; the stacks that lead through them, and threads, are merged.

import IndexReader
import Symbols

/// Live bytes and blocks by allocation site, largest first.
public struct TopTable: Hashable, Sendable {
  /// A sum.
  public struct Total: Hashable, Sendable {
    /// Bytes asked for.
    public var bytes: UInt64 = 0
    public var blocks: UInt64 = 0

    public init(bytes: UInt64 = 0, blocks: UInt64 = 0) {
      self.bytes = bytes
      self.blocks = blocks
    }

    package mutating func add(_ other: Total) {
      bytes &+= other.bytes
      blocks &+= other.blocks
    }
  }

  public struct Site: Hashable, Sendable {
    public var total: Total
    /// The allocation site, and the functions it is inlined into; empty if it is not known.
    public var frames: [Frame]
    /// The function that was called, such as `calloc`; nil if not known.
    public var function: String?
    /// Name of the allocator, else its module's file name; nil if not known.
    public var allocator: String?

    public init(total: Total, frames: [Frame], function: String?, allocator: String?) {
      self.total = total
      self.frames = frames
      self.function = function
      self.allocator = allocator
    }
  }

  public var processID: Int32
  public var command: [String]
  public var total: Total
  /// Number of sites, shown or not.
  public var siteCount: Int
  public var sites: [Site]
  /// Sum of the sites that are not shown.
  public var other: Total
  /// What the index is known to lack.
  public var losses: Losses
  /// Of a recording: events that are missing from it.
  public var lostEvents: UInt64 = 0

  public init(
    processID: Int32, command: [String], total: Total, siteCount: Int, sites: [Site], other: Total,
    losses: Losses = Losses()
  ) {
    self.processID = processID
    self.command = command
    self.total = total
    self.siteCount = siteCount
    self.sites = sites
    self.other = other
    self.losses = losses
  }
}

extension ProcessView {
  /// The `limit` sites with the most live bytes. Reads every slot that was ever used: about a second for 10 million
  /// allocations.
  /// `wrappers` are passed over in the search for the sites.
  /// `level`: what counts where suballocators carve up chunks; nil: as the process was started. At that of blocks, a
  /// chunk that blocks lie in counts with what they leave of it.
  public func top(
    limit: Int = 20, wrappers: Wrappers = .standard, level: Level? = nil
  ) throws(AnswerError) -> TopTable {
    let tally = Tally(of: shared.segment, level)
    let limit = max(0, limit)
    var attribution = Attribution(self, wrappers: wrappers)
    let sites = tally.sites(in: shared.segment, &attribution)
    let sorted = sites.sorted { a, b in
      let left = (a.value.total.bytes, a.value.total.blocks)
      let right = (b.value.total.bytes, b.value.total.blocks)
      // Equal sums in a fixed order, so that two tables of the same state are the same.
      return left != right ? left > right : a.key < b.key
    }
    var total = TopTable.Total()
    var other = TopTable.Total()
    for (index, site) in sorted.enumerated() {
      total.add(site.value.total)
      if index >= limit { other.add(site.value.total) }
    }
    var shown: [TopTable.Site] = []
    for (_, sum) in sorted.prefix(limit) {
      shown.append(
        TopTable.Site(
          total: sum.total, frames: attribution.site(ofNode: sum.node, at: sum.ticks)?.frames ?? [],
          function: sum.function, allocator: sum.allocator))
    }
    let table = TopTable(
      processID: processID, command: shared.segment.command, total: total, siteCount: sorted.count, sites: shown,
      other: other, losses: losses(isWriting: Surroundings(of: self).isWriting, budget: nil))
    try checkIntact()
    return table
  }
}

/// Sums by context, indexed by its id.
private struct Tally {
  struct Entry {
    var total = TopTable.Total()
    /// When one of the allocations was made: tells which modules were loaded.
    var ticks: UInt32 = 0
  }

  private(set) var entries: [Entry] = []

  init(of segment: borrowing Segment, _ level: Level?) {
    var entries: [Entry] = Array(repeating: Entry(), count: 1024)
    segment.forEachAllocation { Self.add($0, of: segment, to: &entries) }
    self.entries = entries
    if level != .chunk, segment.hasSuballocations { addSuballocations(of: segment, level) }
  }

  private static func add(_ allocation: Allocation, of segment: borrowing Segment, to entries: inout [Entry]) {
    var context = Int(allocation.context)
    if context >= entries.count {
      // An id that was never given out is damage. It means what 0 does, "not known".
      let known = segment.contextCount
      if context < known {
        entries += Array(repeating: Entry(), count: min(max(entries.count, context + 1 - entries.count), known))
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
      Self.add(block.block, of: segment, to: &entries)
      if let container, Int(container.context) < entries.count {
        // One that was made after the chunks were counted has nothing to be taken from.
        let bytes = entries[Int(container.context)].total.bytes
        entries[Int(container.context)].total.bytes = bytes - min(bytes, block.block.size)
      }
    }
    self.entries = entries
  }

  struct SiteKey: Hashable, Comparable {
    /// nil if not known.
    var site: Site.Key?
    var function: String
    var allocator: UInt32

    static func < (a: SiteKey, b: SiteKey) -> Bool {
      let none = Site.Key(pc: 0, module: 0)
      return a.site == b.site
        ? (a.function, a.allocator) < (b.function, b.allocator) : a.site ?? none < b.site ?? none
    }
  }

  struct SiteSum {
    var total = TopTable.Total()
    /// One of the stacks that are attributed to the site, and the time of a record of it.
    var node: UInt32 = 0
    var ticks: UInt32 = 0
    var function: String?
    var allocator: String?
  }

  func sites(in segment: borrowing Segment, _ attribution: inout Attribution) -> [SiteKey: SiteSum] {
    var sites: [SiteKey: SiteSum] = [:]
    for (id, entry) in entries.enumerated() where entry.total.blocks > 0 {
      let context = segment.context(UInt32(id))
      let node = context?.node ?? 0
      let key = SiteKey(
        site: attribution.siteKey(ofNode: node, at: entry.ticks), function: context?.function ?? "",
        allocator: context?.allocator.map { $0.number + 1 } ?? 0)
      if sites[key, default: SiteSum()].add(entry.total) {
        sites[key]?.node = node
        sites[key]?.ticks = entry.ticks
        sites[key]?.function = context?.function
        sites[key]?.allocator = context?.allocator.flatMap { Answer.name(of: $0) }
      }
    }
    return sites
  }
}

extension Tally.SiteSum {
  /// Adds `other`; true if it is the first.
  fileprivate mutating func add(_ other: TopTable.Total) -> Bool {
    defer { total.add(other) }
    return total.blocks == 0
  }
}
