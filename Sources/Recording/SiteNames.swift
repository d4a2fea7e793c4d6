// The place in a program that a block is attributed to, by the rule of docs/json.md: the innermost function that is no
// wrapper; and what lived at a moment of a recording, by such places: the table that `top` makes of a process.

import Answers
import IndexReader
import Symbols

/// Finds sites, each stack's once. Used by one thread.
public final class SiteNames {
  private let origins: any OriginTables
  private let wrappers: Wrappers
  private var sites: [UInt32: [Frame]] = [:]

  public init(_ origins: any OriginTables, wrappers: Wrappers = .standard) {
    self.origins = origins
    self.wrappers = wrappers
  }

  /// The site of what was done in a context, and the functions that it is inlined into; empty if it is not known.
  public func site(of context: UInt32, at ticks: UInt32) -> [Frame] {
    guard let node = origins.context(context)?.node, node != 0 else { return [] }
    if let known = sites[node] { return known }
    let stack = stack(of: context, at: ticks)
    var site: [Frame] = []
    if let index = stack.siteIndex {
      let pc = stack.frames[index].pc
      site = Array(stack.frames[index...].prefix { $0.pc == pc })
      // One address twice is recursion: what is inlined there ends with the function that is not.
      if let own = site.firstIndex(where: { !$0.inlined }) { site = Array(site[...own]) }
    }
    sites[node] = site
    return site
  }

  /// The call stack of a context, with names.
  public func stack(of context: UInt32, at ticks: UInt32) -> NamedStack {
    var named = NamedStack(frames: [], interrupted: [], siteIndex: nil, truncation: nil, framesCut: nil)
    guard let node = origins.context(context)?.node else { return named }
    let nodes = origins.nodes(from: node)
    for node in nodes {
      let frames = origins.frames(
        pc: node.pc, isExact: node.isInterrupted, at: ticks, in: node.holder)
      if named.siteIndex == nil,
        let site = frames.firstIndex(where: { $0.function.map { !wrappers.contains($0) } ?? true })
      {
        named.siteIndex = named.frames.count + site
      }
      named.frames += frames
      if node.isInterrupted { named.interrupted.append(named.frames.count - 1) }
    }
    if named.siteIndex == nil, !named.frames.isEmpty { named.siteIndex = named.frames.count - 1 }
    named.truncation = nodes.last?.truncation
    named.framesCut = nodes.last?.framesCut
    return named
  }
}

extension Recording {
  /// Live bytes and blocks of a replayed moment by site, the `limit` largest.
  public func top(_ replay: Replay, limit: Int, wrappers: Wrappers = .standard) -> TopTable {
    struct Key: Hashable {
      var site: [Frame]
      var function: String?
      var allocator: String?
    }
    let names = SiteNames(self, wrappers: wrappers)
    var contexts: [UInt32: (total: TopTable.Total, ticks: UInt32)] = [:]
    for block in replay.blocks.values {
      contexts[block.context, default: (.init(), block.ticks)].total.add(.init(bytes: block.size, blocks: 1))
    }
    var sums: [Key: TopTable.Total] = [:]
    for (id, sum) in contexts {
      let context = context(id)
      let allocator = context?.allocator.map { Answer.fileName(of: $0) }
      let key = Key(site: names.site(of: id, at: sum.ticks), function: context?.function, allocator: allocator)
      sums[key, default: .init()].add(sum.total)
    }
    func order(_ key: Key) -> (UInt64, String, String) {
      (key.site.first?.pc ?? 0, key.function ?? "", key.allocator ?? "")
    }
    let sites = sums.sorted { a, b in
      let left = (a.value.bytes, a.value.blocks)
      let right = (b.value.bytes, b.value.blocks)
      return left != right ? left > right : order(a.key) < order(b.key)
    }
    var total = TopTable.Total()
    var other = TopTable.Total()
    for (index, site) in sites.enumerated() {
      total.add(site.value)
      if index >= limit { other.add(site.value) }
    }
    var table = TopTable(
      processID: process.processID, command: process.command, total: total, siteCount: sites.count,
      sites: sites.prefix(limit).map {
        TopTable.Site(total: $0.value, frames: $0.key.site, function: $0.key.function, allocator: $0.key.allocator)
      }, other: other)
    table.lostEvents = lostCount
    return table
  }
}
