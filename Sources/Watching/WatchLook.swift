// SPDX-License-Identifier: Apache-2.0
// One look at a process's live memory, read from the JSON of `top` (docs/json.md): from a server or from the index
// itself, in one form.
//
// The numbers may be anything that JSON can say. They are worked on as floating point, which never traps.

import Answers
import ByteText
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// Live memory of a process by site or another group, as of one moment.
package struct WatchLook: Sendable {
  /// A site, or another group of blocks.
  package struct Row: Sendable {
    /// Tells it from the others, and is the same in each look.
    package var key: String
    package var bytes: Double
    package var blocks: Double
    /// Bytes and blocks that were ever allocated there; nil if that is not known.
    package var allocated: (bytes: Double, blocks: Double)?
    /// Seconds since its oldest block was made.
    package var oldest: Double?
    /// And its newest.
    package var newest: Double?
    /// Bytes and blocks by when they were made: before the first moment that was asked for, …, since the last.
    package var parts: [(bytes: Double, blocks: Double)]
    /// What is known of it, for its name.
    package var site: SiteTable.Site

    package init(
      key: String, bytes: Double, blocks: Double, oldest: Double? = nil, newest: Double? = nil,
      parts: [(Double, Double)] = [], site: SiteTable.Site
    ) {
      (self.key, self.bytes, self.blocks, self.site) = (key, bytes, blocks, site)
      (self.oldest, self.newest) = (oldest, newest)
      self.parts = parts.map { (bytes: $0.0, blocks: $0.1) }
    }
  }

  package var processID: Int32
  package var command: [ForeignText] = []
  package var total: (bytes: Double, blocks: Double) = (0, 0)
  /// What was ever allocated; nil if that is not known.
  package var allocated: (bytes: Double, blocks: Double)?
  /// Seconds since the oldest of all blocks was made.
  package var oldest: Double?
  package var rows: [Row] = []
  /// The rows that there are, listed or not.
  package var rowCount = 0.0
  package var hasEnded = false
  package var lostBlocks = 0.0
  /// The marks, the earliest first, and how many seconds ago each was set.
  package var marks: [(name: ForeignText, age: Double)] = []
  /// When it was taken, in seconds of CLOCK_MONOTONIC.
  package var time: Double

  package init(processID: Int32, time: Double) {
    self.processID = processID
    self.time = time
  }

  package init(json: [UInt8], by grouping: HeapGrouping, time: Double) throws(Complaint) {
    let value = try JSONValue(json)
    self.init(processID: Int32(exactly: value["pid"]?.number ?? 0) ?? 0, time: time)
    command = (value["command"]?.elements ?? []).compactMap(\.text)
    total = Self.total(value["total"])
    allocated = Self.allocated(value["total"])
    oldest = value["total"]?["oldest_seconds"]?.number
    rowCount = value["site_count"]?.number ?? value["group_count"]?.number ?? 0
    hasEnded = value["ended"]?.isTrue ?? false
    lostBlocks = value["lost_blocks"]?.number ?? 0
    marks = (value["marks"]?.elements ?? []).compactMap { mark in
      mark["name"]?.text.map { (name: $0, age: mark["age_seconds"]?.number ?? 0) }
    }
    rows = (value["sites"] ?? value["groups"])?.elements.map { Self.row($0, grouping) } ?? []
  }

  /// The look that found nothing where this one did: all blocks that it was about are gone.
  package func emptied(at time: Double) -> WatchLook {
    var empty = self
    (empty.total, empty.allocated, empty.oldest, empty.rows, empty.rowCount, empty.time) = (
      (0, 0), nil, nil, [], 0, time
    )
    return empty
  }

  private static func total(_ value: JSONValue?) -> (bytes: Double, blocks: Double) {
    (value?["bytes"]?.number ?? 0, value?["blocks"]?.number ?? 0)
  }

  private static func allocated(_ value: JSONValue?) -> (bytes: Double, blocks: Double)? {
    guard let bytes = value?["allocated_bytes"]?.number, let blocks = value?["allocated_blocks"]?.number else {
      return nil
    }
    return (bytes, blocks)
  }

  private static func row(_ value: JSONValue, _ grouping: HeapGrouping) -> Row {
    let (bytes, blocks) = total(value)
    var site = SiteTable.Site(
      total: SiteTable.Total(bytes: value["bytes"]?.count ?? 0, blocks: value["blocks"]?.count ?? 0),
      frames: (value["stack"]?.elements ?? []).map { frame($0) }, function: value["function"]?.text,
      allocator: value["allocator"]?.text)
    let key = value["key"]?.text ?? ""
    site.key = self.key(key, value, grouping)
    if grouping == .thread, let thread = value["thread"], let id = thread["id"]?.count {
      site.thread = ThreadIdentity(
        id: UInt32(truncatingIfNeeded: id), name: thread["name"]?.text ?? "", slot: 0,
        state: value["ended"]?.isTrue == true ? .ended : .live, startTicks: 0, endTicks: nil)
    }
    var row = Row(
      key: key.unescaped,  // raw: compared, and given back to who gave it
      bytes: bytes, blocks: blocks, oldest: value["oldest_seconds"]?.number, newest: value["newest_seconds"]?.number,
      parts: (value["parts"]?.elements ?? []).map { part in
        (part.elements.first?.number ?? 0, part.elements.last?.number ?? 0)
      }, site: site)
    row.allocated = allocated(value)
    return row
  }

  private static func key(_ text: ForeignText, _ value: JSONValue, _ grouping: HeapGrouping) -> GroupKey {
    let words = text.unescaped.split(separator: "/", maxSplits: 3)  // raw: numbers are read from it
    func number(_ place: Int) -> UInt32 {
      guard words.indices.contains(place), let number = UInt32(words[place]) else { return 0 }
      return number
    }
    switch grouping {
    case .site:
      return .site(
        pc: words.first.flatMap { UInt64($0.dropFirst(2), radix: 16) } ?? 0,
        module: number(1), allocator: number(2), function: value["function"]?.text ?? "")
    case .size, .age: return .bucket(number(0))
    case .thread: return .thread(id: UInt32(truncatingIfNeeded: value["thread"]?["id"]?.count ?? 0), start: 0)
    case .function, .module, .file, .allocator: return .name(value["name"]?.text ?? "")
    }
  }

  private static func frame(_ value: JSONValue) -> Frame {
    func hexadecimal(_ value: JSONValue?) -> UInt64? {
      value?.text.flatMap { UInt64($0.unescaped.dropFirst(2), radix: 16) }  // raw: a number is read from it
    }
    var frame = Frame(
      pc: hexadecimal(value["pc"]) ?? 0, module: value["module"]?.text, function: value["function"]?.text,
      file: value["file"]?.text, line: value["line"]?.count.flatMap { Int(exactly: $0) },
      inlined: value["inlined"]?.isTrue ?? false)
    if let offset = value["offset"]?.count { frame.place = Frame.FilePlace(address: offset, buildID: []) }
    return frame
  }
}

/// Ages at which the sums of a look are divided, to tell the age of which half of the blocks are younger.
package enum WatchAges {
  /// Each is a third more than the one before: from a quarter of a second to six weeks.
  package static let bounds: [Double] = (0..<64).map { index in
    (0..<index).reduce(0.25) { bound, _ in bound * 1.3 }  // bounded: indices of 64 numbers
  }

  /// The moments, for a question.
  package static var moments: [Moment] { bounds.reversed().map { .ago($0) } }

  /// The age of which half of a row's blocks are younger, to a few parts in a hundred; nil if it is not known.
  package static func median(of row: WatchLook.Row) -> Double? {
    let blocks = row.parts.map(\.blocks)
    let total = blocks.reduce(0, +)  // bounded: in floating point
    guard blocks.count == bounds.count + 1, total > 0 else { return nil }
    if total == 1 { return row.oldest }
    // The youngest stand last.
    var before = 0.0
    for (index, count) in blocks.reversed().enumerated() where count > 0 {
      // bounded: numbers of blocks and ages are floating point; the index is one of the bounds, or behind the last
      if before + count >= total / 2 {
        let least = index > 0 ? bounds[index - 1] : 0
        let most = min(index < bounds.count ? bounds[index] : .infinity, max(row.oldest ?? .infinity, least))
        guard most.isFinite else { return least }
        return least + (most - least) * (total / 2 - before) / count
      }
      before += count
    }
    return row.oldest
  }
}
