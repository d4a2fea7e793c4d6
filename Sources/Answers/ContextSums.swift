// SPDX-License-Identifier: Apache-2.0
// One pass over all live blocks of a process, summed by context: what every table of live memory begins with.
//
// Where a table is by a property that blocks of one context need not share (thread, size, age), the sums are by that
// property instead. In either case a block leads to a number (a place), by which its sum is found.

import Bounds
import ByteText
import IndexReader
import Provenance
import Synchronization
import SystemAccess

/// Which live blocks of a process a question is about, and how it sees them.
public struct HeapScope: Sendable {
  /// When they were made.
  public var window = TimeWindow()
  /// Functions that are passed over in the search for the sites.
  public var wrappers = Wrappers.standard
  /// Which blocks count where suballocators carve up chunks; nil: as the process was started. At the level of blocks, a
  /// chunk that blocks lie in counts with the bytes that they leave of it.
  public var level: Level?
  /// The group whose blocks alone are meant; nil: all are.
  public var group: GroupName?
  /// Whether memory that calls of mmap and mremap mapped counts as well, a mapping as a block: also where an allocator
  /// keeps blocks in it, which then count twice.
  public var countsMappings = false
  /// Whether what was ever allocated is asked for, too, where it is known.
  public var wantsTotals = false
  /// Moments at which the sums are divided by when the blocks were made.
  public var divisions: [Moment] = []

  /// Moments that sums may be divided at.
  public static let divisionLimit = 128

  public init(window: TimeWindow = TimeWindow(), wrappers: Wrappers = .standard, level: Level? = nil) {
    self.window = window
    self.wrappers = wrappers
    self.level = level
  }

  /// Whether times in it are to be placed first: only what is asked about knows which they are.
  var namesMoments: Bool { ([window.since, window.until] + divisions).contains { $0?.isPlaced == false } }
}

/// A group of blocks, by the `key` that a row of `top` has in JSON.
public struct GroupName: Hashable, Sendable {
  public var grouping: HeapGrouping
  public var key: String

  /// From `thread:4242@17`. Throws `.usage` for other texts.
  public init(_ text: String) throws(Complaint) {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let grouping = HeapGrouping(rawValue: String(parts[0])) else {
      throw Complaint(
        .usage, what: "\"\(TextLayout.fit(TextLayout.printable(text), columns: 40))\" is no group",
        advice: "give \(HeapGrouping.allCases.map(\.rawValue).joined(separator: ", ")), a colon, and the key that "
          + "`allocsctl top --group … --json` has")
    }
    self.grouping = grouping
    key = String(parts[1])
  }

  public init(_ grouping: HeapGrouping, _ key: String) {
    self.grouping = grouping
    self.key = key
  }

  /// The text that `init` takes for it.
  public var text: String { "\(grouping.rawValue):\(key)" }

  /// What is said where no live block of process `id` is in the group, of whatever time.
  func complaint(_ id: Int32) -> Complaint {
    let name = TextLayout.fit(TextLayout.printable(text), columns: 60)
    return Complaint(
      .noSuchGroup, what: "no live block of process \(id) is in the group \"\(name)\"",
      advice:
        "`allocsctl top \(id) --group \(grouping.rawValue) --json` lists the groups that there are, each with its key")
  }
}

/// Finds the group of each block of one process, as of one moment.
struct BlockGroups {
  let grouping: HeapGrouping
  private let view: ProcessView
  private let naming: GroupNaming
  /// Of `age`: the first order of each class but the last, the youngest class first.
  private let ageOrders: [UInt64]
  /// Of `thread`: the slot of each context, and the thread of each slot that was met last, with its number.
  private var slots: [UInt32: UInt32?] = [:]
  private var holders: [UInt32: (thread: ThreadIdentity, number: Int)] = [:]
  private var numbers: [GroupKey: Int] = [:]
  /// The contexts whose key is the wanted one.
  private var isWanted: [UInt32: Bool] = [:]

  init(_ grouping: HeapGrouping, _ view: ProcessView, _ wrappers: Wrappers, _ clock: SegmentClock) {
    self.grouping = grouping
    self.view = view
    naming = GroupNaming(grouping, view.tables, wrappers: wrappers)
    ageOrders = GroupKey.ageBounds.map { clock.order(ofAge: $0) }
  }

  /// The place of the block's sum, for groupings that depend on the block.
  mutating func place(_ block: Allocation, _ order: UInt64) -> Int {
    switch grouping {
    case .size: return GroupKey.sizeClass(block.size)
    case .age: return ageOrders.firstIndex { order >= $0 } ?? ageOrders.count
    case .thread: return threadNumber(block)
    case .site, .function, .module, .file, .allocator: return Int(truncatingIfNeeded: block.context)
    }
  }

  /// 0 where the thread is not known.
  private mutating func threadNumber(_ block: Allocation) -> Int {
    let slot: UInt32?
    if let known = slots[block.context] {
      slot = known
    } else {
      slot = view.tables.context(block.context)?.threadSlot
      slots[block.context] = .some(slot)
    }
    guard let slot else { return 0 }
    if let holder = holders[slot], holder.thread.held(slotAt: block.ticks) { return holder.number }
    guard let thread = view.tables.thread(slot: slot, at: block.ticks) else { return 0 }
    let key = GroupKey.thread(id: thread.id, start: thread.startTicks)
    let number = numbers[key] ?? numbers.count &+ 1
    numbers[key] = number
    holders[slot] = (thread, number)
    return number
  }

  /// Whether the block is in the group with that key.
  mutating func contains(_ block: Allocation, _ order: UInt64, _ key: String) -> Bool {
    switch grouping {
    case .size, .age: return String(place(block, order)) == key
    case .thread: return self.key(block) == key
    case .site, .function, .module, .file, .allocator:
      if let known = isWanted[block.context] { return known }
      let fits = self.key(block) == key
      isWanted[block.context] = fits
      return fits
    }
  }

  private func key(_ block: Allocation) -> String {
    let key = naming.key(view.tables.context(block.context), ticks: block.ticks, bucket: 0).text
    return key.unescaped.withBytesEscaped  // raw: compared with a key that was read from JSON
  }
}

/// Finds the blocks of one group of a process, as of one moment.
package struct GroupSearch {
  private let group: GroupName
  private let view: ProcessView
  private let clock: SegmentClock
  private var groups: BlockGroups
  /// Whether a block was in the group.
  private var hasGroup = false

  package init(_ group: GroupName, _ view: ProcessView, _ wrappers: Wrappers) {
    (self.group, self.view) = (group, view)
    clock = view.shared.segment.clock()
    groups = BlockGroups(group.grouping, view, wrappers, clock)
  }

  package mutating func contains(_ block: Allocation) -> Bool {
    guard groups.contains(block, clock.order(ofTicks: block.ticks), group.key) else { return false }
    hasGroup = true
    return true
  }

  /// Throws `.noSuchGroup` if none of the blocks was in the group.
  package func check() throws(Complaint) {
    if !hasGroup { throw group.complaint(view.processID) }
  }
}

extension ThreadIdentity {
  /// Whether a record of the thread's slot with `ticks` is surely this thread's: it has not ended, and began before.
  fileprivate func held(slotAt ticks: UInt32) -> Bool {
    // Half a wrap back is as far as a start is told from an end.
    endTicks == nil && (ticks &- startTicks) & 0x7FFF_FFFF < 1 << 30
  }
}

/// Sums by context, indexed by its id; or by another place.
struct ContextSums {
  private struct Entry {
    var total = SiteTable.Total()
    var births = SiteTable.Births()
    /// The context and the time of one of the allocations, which tells which modules were loaded then.
    var context: UInt32 = 0
    var ticks: UInt32 = 0
    /// Where in `parts` the sums by time begin. The only block of a sum needs none: `births` tells its time.
    var parts = -1

    @inline(__always)
    mutating func add(_ block: Allocation, _ order: UInt64) {
      total.add(SiteTable.Total(bytes: block.size, blocks: 1))
      births.add(order)
      context = block.context
      ticks = block.ticks
    }
  }

  /// Blocks that were looked at, those of allocators in the process's own chunks left out.
  private(set) var blocksSeen: UInt64 = 0
  /// Whether a block is in the group that is meant, of whatever time; true if all blocks are meant.
  private(set) var hasGroup = true
  private var entries: [Entry] = Array(repeating: Entry(), count: 1024)
  private var parts: [SiteTable.Total] = []
  /// What was ever allocated in each context, by its id; empty if that was not asked for, or is not known.
  private var allocated: [SiteTable.Total] = []
  private let allocatedShare = MemoryShare()
  private let divisions: [UInt64]
  /// The part that was found last, with the orders in it: blocks that lie together were often made together.
  private var lastPart: (orders: Range<UInt64>, number: Int) = (0..<0, 0)
  /// Sums by time that are kept, in all: 64 MiB of them.
  private static let partLimit = 4 << 20
  private let grouping: HeapGrouping
  private let knownContexts: Int
  /// The memory of `entries` and `parts`: there may be 16 million contexts.
  private let share = MemoryShare()
  private let partShare = MemoryShare()

  /// Reads every slot that was ever used, on several processors where there are: some 100 ms for 10 million
  /// allocations. `scope` is placed.
  init(of view: ProcessView, _ scope: HeapScope, clock: SegmentClock, by grouping: HeapGrouping = .site) {
    self.grouping = grouping
    divisions = scope.divisions.map { $0.order(on: clock) }.sorted()
    knownContexts = view.shared.segment.contextCount
    addAll(of: view, scope, clock)
    // Behind the look at what lives: so no context has more live blocks than it ever had.
    if scope.wantsTotals, view.totalsObstacle(scope, by: grouping) == nil { addTotals(of: view, scope, clock) }
  }

  /// No sums yet, of what `other` sums up.
  private init(like other: ContextSums) {
    (grouping, divisions, knownContexts) = (other.grouping, other.divisions, other.knownContexts)
  }

  /// Contexts of which each thread has sums of its own: where there are more, to add the sums of all threads up takes
  /// more than it saves.
  private static let fewContexts = 1 << 18

  /// The threads that the blocks are divided among. Numbers of threads, and parts by time, are given out in the order
  /// of the blocks, to one thread.
  private func threadCount(_ scope: HeapScope) -> Int {
    let isDivisible = scope.group == nil && divisions.isEmpty && grouping != .thread
    return isDivisible && knownContexts <= Self.fewContexts ? Concurrently.threadCount : 1
  }

  private mutating func addBlocks(
    of view: ProcessView, _ scope: HeapScope, _ clock: SegmentClock, _ isMeant: (Allocation, UInt64) -> Bool,
    _ place: (Allocation, UInt64) -> Int
  ) {
    let threads = threadCount(scope)
    guard threads > 1 else {
      return view.shared.segment.forEachAllocation { block in
        blocksSeen &+= 1
        let order = clock.order(ofTicks: block.ticks)
        if isMeant(block, order) { add(block, order, at: place(block, order)) }
      }
    }
    let orders = scope.window.orders(on: clock)
    let dependsOnBlock = grouping.dependsOnBlock
    let empty = ContextSums(like: self)
    let all = Mutex<[Result]>([])
    view.shared.segment.divideAllocations(among: threads) { forEach in
      var groups = BlockGroups(empty.grouping, view, scope.wrappers, clock)
      var sums = ContextSums(like: empty)
      forEach { block in
        sums.blocksSeen &+= 1
        let order = clock.order(ofTicks: block.ticks)
        if let orders, !orders.contains(order) { return }
        sums.add(block, order, at: dependsOnBlock ? groups.place(block, order) : Int(truncatingIfNeeded: block.context))
      }
      let result = Result(sums: sums)
      all.withLock { $0.append(result) }
    }
    for result in all.withLock({ $0 }) { add(result.sums) }
  }

  /// The sums of a thread that is done with them.
  private struct Result: @unchecked Sendable {
    let sums: ContextSums
  }

  /// Adds the sums of one thread, which have no parts by time.
  private mutating func add(_ sums: ContextSums) {
    blocksSeen &+= sums.blocksSeen
    let more = sums.entries.count &- entries.count
    if more > 0 {
      guard share.hold(sums.entries.count &* MemoryLayout<Entry>.stride &* 2) else { return }
      entries += repeatElement(Entry(), count: more)  // bounded: as many as the other sums have
    }
    for (place, entry) in sums.entries.enumerated() where entry.total.blocks > 0 {
      entries[place].total.add(entry.total)
      entries[place].births.add(entry.births)
      (entries[place].context, entries[place].ticks) = (entry.context, entry.ticks)
    }
  }

  private mutating func addAll(of view: ProcessView, _ scope: HeapScope, _ clock: SegmentClock) {
    let orders = scope.window.orders(on: clock)
    let dependsOnBlock = grouping.dependsOnBlock
    var groups = BlockGroups(grouping, view, scope.wrappers, clock)
    var wanted = scope.group.map { BlockGroups($0.grouping, view, scope.wrappers, clock) }
    let wantedKey = scope.group?.key ?? ""
    var hasGroup = scope.group == nil
    func isMeant(_ block: Allocation, _ order: UInt64) -> Bool {
      let isInTime = orders?.contains(order) ?? true
      guard isInTime || !hasGroup else { return false }
      guard wanted?.contains(block, order, wantedKey) ?? true else { return false }
      hasGroup = true
      return isInTime
    }
    defer { self.hasGroup = hasGroup }
    func place(_ block: Allocation, _ order: UInt64) -> Int {
      dependsOnBlock ? groups.place(block, order) : Int(truncatingIfNeeded: block.context)
    }
    addBlocks(of: view, scope, clock, isMeant, place)
    if scope.countsMappings {
      // Files are no memory of the program's own, and the agent's mappings are none of the program's.
      for record in view.shared.segment.mappingRecords where record.isAnonymous && !record.isBreak && !record.isAgent {
        let block = Allocation(
          base: record.range.lowerBound, size: record.range.upperBound &- record.range.lowerBound,
          context: record.context, ticks: record.ticks)
        let order = clock.order(ofTicks: record.ticks)
        if isMeant(block, order) { add(block, order, at: place(block, order)) }
      }
    }
    guard scope.level != .chunk, view.shared.segment.hasSuballocations else { return }
    let hidden = Set(
      scope.level == nil ? view.shared.segment.allocators.filter { $0.isShownAsChunk }.map(\.number) : [])
    var isHidden: [UInt32: Bool] = [:]
    view.shared.segment.forEachSuballocation { block, _, container in
      let context = block.block.context
      if !hidden.isEmpty {
        let known =
          isHidden[context] ?? view.shared.segment.context(context)?.allocator.map { hidden.contains($0.number) }
          ?? false
        isHidden[context] = known
        if known { return }
      }
      let order = clock.order(ofTicks: block.block.ticks)
      if isMeant(block.block, order) { add(block.block, order, at: place(block.block, order)) }
      // The bytes of a block are taken from those of its container, if the container was counted.
      guard let container else { return }
      let containerOrder = clock.order(ofTicks: container.ticks)
      guard isMeant(container, containerOrder) else { return }
      subtract(block.block.size, from: place(container, containerOrder), containerOrder)
    }
  }

  /// Adds what was ever allocated, in the contexts that the scope means.
  private mutating func addTotals(of view: ProcessView, _ scope: HeapScope, _ clock: SegmentClock) {
    // The index may have more contexts by now.
    let count = view.shared.segment.contextCount
    guard allocatedShare.hold(count &* MemoryLayout<SiteTable.Total>.stride) else { return }
    allocated = Array(repeating: SiteTable.Total(), count: count)  // bounded: the memory is held, above
    let hidden = hiddenAllocators(of: view, scope)
    var groups = scope.group.map { BlockGroups($0.grouping, view, scope.wrappers, clock) }
    let now = clock.ticksNow
    view.shared.segment.forEachTotal { id, total in
      let place = Int(truncatingIfNeeded: id)
      guard place < count else { return }
      if let hidden, let allocator = view.shared.segment.context(id)?.allocator, hidden.contains(allocator.number) {
        return
      }
      if let group = scope.group {
        let block = Allocation(base: 0, size: 0, context: id, ticks: now)
        guard groups?.contains(block, 0, group.key) == true else { return }
        // There is such a group, though nothing of it may live.
        hasGroup = true
      }
      allocated[place] = SiteTable.Total(bytes: total.bytes, blocks: total.blocks)
    }
  }

  /// The allocators whose blocks don't count, as they lie in chunks that do; nil if all count.
  private func hiddenAllocators(of view: ProcessView, _ scope: HeapScope) -> Set<UInt32>? {
    guard view.shared.segment.hasSuballocations else { return nil }
    let isHidden: (Allocator) -> Bool =
      switch scope.level {
      case .chunk: { $0.kind == .suballocator }
      case .block: { _ in false }
      case nil: { $0.isShownAsChunk }
      }
    let hidden = view.shared.segment.allocators.filter(isHidden).map(\.number)
    return hidden.isEmpty ? nil : Set(hidden)
  }

  /// What was ever allocated in the context that a place stands for; nil if that is not known.
  private func allocated(at place: Int) -> SiteTable.Total? {
    guard place < allocated.count, allocated[place].blocks > 0 else { return nil }
    return allocated[place]
  }

  /// The contexts in which something was allocated of which nothing lives. `ticks`: of this moment; no block says at
  /// which time the context was used.
  func freed(at ticks: UInt32) -> some Sequence<ContextSum> {
    allocated.indices.lazy.filter { place in
      allocated(at: place) != nil && (place >= entries.count || entries[place].total.blocks == 0)
    }.map { place in
      var sum = ContextSum(
        context: UInt32(truncatingIfNeeded: place), total: SiteTable.Total(), births: SiteTable.Births(), ticks: ticks)
      sum.allocated = allocated(at: place)
      return sum
    }
  }

  var sums: some Sequence<ContextSum> {
    entries.enumerated().lazy.map { place, entry in
      var sum = ContextSum(
        context: entry.context, total: entry.total, births: entry.births, ticks: entry.ticks)
      sum.allocated = allocated(at: place)
      sum.bucket = UInt32(truncatingIfNeeded: place)
      sum.parts = parts(of: entry)
      return sum
    }
  }

  private func parts(of entry: Entry) -> [SiteTable.Total]? {
    guard !divisions.isEmpty else { return [] }
    let start = entry.parts
    // bounded: the count of what is in memory, and one
    if start >= 0 { return Array(parts[start...].prefix(divisions.count + 1)) }
    guard entry.total.blocks == 1 else { return nil }
    var single = Array(repeating: SiteTable.Total(), count: divisions.count + 1)
    single[part(of: entry.births.oldest)] = entry.total
    return single
  }

  /// Which of the times between the divisions an order falls into: the number of divisions that are no later.
  private func part(of order: UInt64) -> Int {
    var low = 0
    var high = divisions.count
    while low < high {
      let middle = (low &+ high) / 2
      if divisions[middle] <= order { low = middle &+ 1 } else { high = middle }
    }
    return low
  }

  private mutating func add(_ block: Allocation, _ order: UInt64, at place: Int) {
    var place = place
    if place >= entries.count {
      // An id that was never given out is damage. It counts as id 0, "not known".
      let known = grouping.dependsOnBlock ? Int.max : knownContexts
      let more = min(max(entries.count, place &+ 1 &- entries.count), known)
      // A question that may not have the memory ends, and what it has counted is thrown away.
      if place < known, share.hold((entries.count &+ more) &* MemoryLayout<Entry>.stride &* 2) {
        entries += repeatElement(Entry(), count: more)  // bounded: no more than there are contexts, or twice as many
      } else {
        place = 0
      }
    }
    if !divisions.isEmpty, entries[place].total.blocks > 0 {
      divide(SiteTable.Total(bytes: block.size, blocks: 1), order, at: place)
    }
    entries[place].add(block, order)
  }

  /// Adds a block to the sums by time, beside the blocks of the place that were added before.
  private mutating func divide(_ sum: SiteTable.Total, _ order: UInt64, at place: Int) {
    let entry = entries[place]
    var start = entry.parts
    if start < 0 {
      let more = divisions.count + 1
      guard entry.total.blocks == 1, parts.count &+ more <= Self.partLimit,
        partShare.hold((parts.count &+ more) &* MemoryLayout<SiteTable.Total>.stride)
      else { return }
      start = parts.count
      parts += repeatElement(SiteTable.Total(), count: more)  // bounded: a part for each division, and one
      entries[place].parts = start
      parts[start &+ part(of: entry.births.oldest)].add(entry.total)
    }
    if !lastPart.orders.contains(order) {
      let number = part(of: order)
      let first = number > 0 ? divisions[number &- 1] : 0
      lastPart = (first..<max(first, number < divisions.count ? divisions[number] : .max), number)
    }
    parts[start &+ lastPart.number].add(sum)
  }

  private mutating func subtract(_ size: UInt64, from place: Int, _ order: UInt64) {
    // A container that was made after the chunks were counted has no bytes to take the block's from.
    guard place < entries.count else { return }
    let bytes = entries[place].total.bytes
    entries[place].total.bytes = bytes &- min(bytes, size)
    let start = entries[place].parts
    guard start >= 0 else { return }
    let part = start &+ part(of: order)
    parts[part].bytes &-= min(parts[part].bytes, size)
  }
}
