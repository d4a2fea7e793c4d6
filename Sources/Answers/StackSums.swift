// SPDX-License-Identifier: Apache-2.0
// Live memory of a process by call stack: what the call tree and the profiles of other programs are made of.

import Bounds
import ByteText
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// Live bytes and blocks of a process by call stack.
public struct StackSums: Sendable {
  /// One call stack, and what lives of its allocations.
  public struct Row: Sendable {
    /// The stack; empty if it is not known.
    public var stack: NamedStack
    /// The function that was called, such as `calloc`; nil if not known.
    public var function: ForeignText?
    /// The allocator's name, else its module's file name; nil if not known.
    public var allocator: ForeignText?
    public var total: SiteTable.Total
    /// What was ever allocated there; nil if that was not asked for, or is not known.
    public var allocated: SiteTable.Total?
  }

  /// The rows. A row's stack is put together when the row is asked for: those of all rows at once would take hundreds
  /// of megabytes where there are tens of thousands of deep stacks.
  public struct Rows: RandomAccessCollection, Sendable {
    struct Entry: Sendable {
      var stack: NamedStacks.Entry
      var function: ForeignText?
      var allocator: ForeignText?
      var total: SiteTable.Total
      var allocated: SiteTable.Total?
    }

    var stacks = NamedStacks()
    var entries: [Entry] = []
    /// The memory that they have of the question's budget, for as long as they are there.
    private let share = MemoryShare()

    public var startIndex: Int { 0 }
    public var endIndex: Int { entries.count }

    mutating func append(_ entry: Entry) {
      entries.append(entry)
      share.hold(stacks.size &+ entries.count &* 3 &* MemoryLayout<Entry>.stride)
    }

    public subscript(position: Int) -> Row {
      let entry = entries[position]
      return Row(
        stack: stacks[entry.stack], function: entry.function, allocator: entry.allocator, total: entry.total,
        allocated: entry.allocated)
    }
  }

  public var processID: Int32
  /// Field 22 of the process's /proc/PID/stat; 0 if it is not known.
  public var startTime: UInt64 = 0
  public var command: [ForeignText]
  /// The rows, most bytes first.
  public internal(set) var rows = Rows()
  public var total = SiteTable.Total()
  /// Whether the rows say what was ever allocated. Then there are rows also of stacks of which nothing lives.
  public var hasTotals = false
  /// The modules that the process has, and had.
  public var modules: [Module] = []
  /// When they were looked at.
  let look: Look
  /// The known losses of the index.
  public var losses: Losses
  /// The marks of the process, or of the recording.
  package var marks: MarkList?

  /// The frames of a row from the allocation site to the outermost caller; the row's whole stack if `isWhole`.
  static func frames(of row: Row, isWhole: Bool = false) -> ArraySlice<Frame> {
    row.stack.frames[(isWhole ? 0 : min(row.stack.siteIndex ?? 0, row.stack.frames.count))...]
  }
}

extension StackSums {
  private struct Key: Hashable {
    var node: UInt32
    var function: ForeignText
    var allocator: UInt32
  }

  private struct Sum {
    var origin: Origin?
    var total = SiteTable.Total()
    var allocated: SiteTable.Total?
    var ticks: UInt32
  }

  /// No rows yet.
  init(processID: Int32, command: [ForeignText], clock: SegmentClock, losses: Losses) {
    (self.processID, self.command, self.losses) = (processID, command, losses)
    look = Look(clock: clock, window: TimeWindow())
  }

  /// The sums of `contexts`, with names from `tables`; `moment`: of a recording, in seconds since 1970. Threads are
  /// merged: one stack may stand in the contexts of many. `freed`: contexts in which something was allocated of which
  /// nothing lives; nil if what was ever allocated is not told. `hasEnded`: whether the process has, of which these are
  /// the blocks of now.
  package init(
    of contexts: some Sequence<ContextSum>, freed: (some Sequence<ContextSum>)? = [ContextSum]?.none,
    in tables: any OriginTables, wrappers: Wrappers, processID: Int32,
    command: [ForeignText], modules: [Module], clock: SegmentClock, window: TimeWindow = TimeWindow(), losses: Losses,
    moment: Double? = nil, hasEnded: Bool = false
  ) {
    (self.processID, self.command, self.modules, self.losses) = (processID, command, modules, losses)
    look = Look(clock: clock, window: window, moment: moment, hasEnded: hasEnded)
    hasTotals = freed != nil
    var sums: [Key: Sum] = [:]
    var meter = BudgetMeter(interval: 64)
    let share = MemoryShare()
    func add(_ context: ContextSum) {
      let origin = tables.context(context.context)
      let key = Key(
        node: origin?.node ?? 0, function: origin?.function ?? "",
        allocator: origin?.allocatorNumber.map { $0 &+ 1 } ?? 0)
      var sum = sums[key] ?? Sum(origin: origin, ticks: context.ticks)
      sum.total.add(context.total)
      if let more = context.allocated {
        sum.allocated = sum.allocated ?? SiteTable.Total()
        sum.allocated?.add(more)
      }
      sums[key] = sum
      // The table grows by doubling, and is sorted as a list.
      share.hold(sums.count &* 4 &* (MemoryLayout<Key>.stride &+ MemoryLayout<Sum>.stride))
    }
    for context in contexts where context.total.blocks > 0 {
      guard meter.goesOn() else { break }
      add(context)
    }
    if let freed {
      for context in freed {
        guard meter.goesOn() else { break }
        add(context)
      }
    }
    let sorted = sums.sorted { a, b in
      let (left, right) = (a.value.total, b.value.total)
      if left != right { return (left.bytes, left.blocks) > (right.bytes, right.blocks) }
      return (a.key.node, a.key.function, a.key.allocator) < (b.key.node, b.key.function, b.key.allocator)
    }
    let naming = StackNaming(tables, wrappers: wrappers)
    for (key, sum) in sorted {
      guard meter.goesOn() else { break }
      total.add(sum.total)
      rows.append(
        Rows.Entry(
          stack: rows.stacks.add(node: key.node, at: sum.ticks, naming), function: sum.origin?.function,
          allocator: sum.origin?.allocator, total: sum.total, allocated: hasTotals ? sum.allocated : nil))
    }
  }
}

extension ProcessView {
  /// Live memory by call stack. Reads every slot that was ever used, and names every stack that has live blocks; all
  /// that were ever allocated on, if the scope wants totals, and they are known for it.
  public func stackSums(_ scope: HeapScope = HeapScope()) throws(Complaint) -> StackSums {
    let isAlive = isProcessAlive
    let clock = shared.segment.clock(isAlive: isAlive)
    let scope = try placed(scope, on: clock)
    let (sums, losses) = try sums(scope, clock: clock)
    let hasTotals = scope.wantsTotals && totalsObstacle(scope, by: .site) == nil
    var result = StackSums(
      of: sums.sums, freed: hasTotals ? sums.freed(at: clock.ticksNow) : nil, in: tables, wrappers: scope.wrappers,
      processID: processID, command: shared.segment.command, modules: shared.segment.modules, clock: clock,
      window: scope.window, losses: losses, hasEnded: !isAlive)
    result.startTime = startTime
    result.marks = marks(on: clock)
    try Budget.current?.check()
    try checkIntact()
    return result
  }
}
