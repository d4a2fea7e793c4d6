// The place in a program that a block is attributed to, by the rule of docs/json.md: the innermost function that is no wrapper.

import Answers
import IndexReader
import Symbols

/// Finds sites, each stack's once. Used by one thread.
public final class SiteNames {
  private let origins: any OriginTables
  private let wrappers: Wrappers
  private var sites: [UInt32: Frame?] = [:]

  public init(_ origins: any OriginTables, wrappers: Wrappers = .standard) {
    self.origins = origins
    self.wrappers = wrappers
  }

  /// The site of what was done in a context; nil if it is not known.
  public func site(of context: UInt32, at ticks: UInt32) -> Frame? {
    guard let node = origins.context(context)?.node, node != 0 else { return nil }
    if let known = sites[node] { return known }
    let stack = origins.stack(of: context, at: ticks)
    let site = stack.first { $0.function.map { !wrappers.contains($0) } ?? true } ?? stack.last
    sites[node] = site
    return site
  }
}

/// Live bytes and blocks of a replayed moment by site, largest first.
public struct ReplayTable: Sendable {
  public struct Row: Sendable {
    public var site: Frame?
    public var function: String?
    public var bytes: UInt64
    public var blocks: UInt64
  }
  public var rows: [Row] = []
  public var bytes: UInt64 = 0
  public var blocks: UInt64 = 0

  private struct Key: Hashable {
    var site: Frame?
    var function: String?
  }

  public init(_ replay: Replay, in recording: Recording, wrappers: Wrappers = .standard) {
    let names = SiteNames(recording, wrappers: wrappers)
    var sums: [UInt32: (bytes: UInt64, blocks: UInt64, ticks: UInt32)] = [:]
    for block in replay.blocks.values {
      var sum = sums[block.context] ?? (0, 0, block.ticks)
      sum.bytes &+= block.size
      sum.blocks += 1
      sums[block.context] = sum
    }
    var sites: [Key: (bytes: UInt64, blocks: UInt64)] = [:]
    for (context, sum) in sums {
      let key = Key(site: names.site(of: context, at: sum.ticks), function: recording.context(context)?.function)
      var total = sites[key] ?? (0, 0)
      total.bytes &+= sum.bytes
      total.blocks += sum.blocks
      sites[key] = total
    }
    rows = sites.map { Row(site: $0.site, function: $0.function, bytes: $1.bytes, blocks: $1.blocks) }
      .sorted { a, b in
        (a.bytes, a.blocks, a.site?.pc ?? 0) > (b.bytes, b.blocks, b.site?.pc ?? 0)
      }
    bytes = replay.bytes
    blocks = UInt64(replay.blocks.count)
  }
}
