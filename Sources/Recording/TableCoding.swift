// SPDX-License-Identifier: Apache-2.0
// The tables of a recording as chunks. docs/recording.md lists the fields of each, in order. A row
// that comes again replaces the earlier one.

import ByteText
import IndexReader
import Provenance
import SharedLayout
import Symbols

/// Which process was recorded, and how its stamps relate to the time of day.
public struct RecordedProcess: Hashable, Sendable {
  /// 0 if it is not known.
  public var processID: Int32
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64
  public var command: [ForeignText]
  /// One moment on two clocks, in nanoseconds: CLOCK_MONOTONIC of the process, which stamps count,
  /// and CLOCK_REALTIME.
  public var monotonic: UInt64
  public var realtime: UInt64
  /// Whether contexts have whole call stacks; else they have the call site alone.
  public var hasFullStacks: Bool
  /// Whether the rings were read from their first records on.
  public var isFromStart: Bool

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: max(0, processID)))
    bytes.append(number: startTime)
    bytes.append(number: UInt64(truncatingIfNeeded: command.count))
    for part in command { bytes.append(string: part) }
    bytes.append(number: monotonic)
    bytes.append(number: realtime)
    bytes.append(number: (hasFullStacks ? 1 : 0) | (isFromStart ? 2 : 0))
    return bytes
  }

  init(_ reader: inout NumberReader) throws(MalformedChunk) {
    processID = Int32(truncatingIfNeeded: try reader.number32())
    startTime = try reader.number()
    command = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(memory: 32)) { command.append(try reader.string()) }
    monotonic = try reader.number()
    realtime = try reader.number()
    let flags = try reader.number()
    hasFullStacks = flags & 1 != 0
    isFromStart = flags & 2 != 0
  }

  init(
    processID: Int32, startTime: UInt64, command: [ForeignText], monotonic: UInt64, realtime: UInt64,
    hasFullStacks: Bool, isFromStart: Bool
  ) {
    self.processID = processID
    self.startTime = startTime
    self.command = command
    self.monotonic = monotonic
    self.realtime = realtime
    self.hasFullStacks = hasFullStacks
    self.isFromStart = isFromStart
  }
}

/// A context as a recording has it.
struct RecordedContext: Hashable, Sendable {
  /// The number in the recording of the node of the stack's innermost call; 0 for none.
  var node: UInt32
  /// Slot of the thread table; nil for none.
  var threadSlot: UInt32?
  /// The function that was called.
  var function: ForeignText?
  /// Whose memory it is: an allocator's name, or the path of its module.
  var allocator: ForeignText?

  init(node: UInt32, threadSlot: UInt32? = nil, function: ForeignText? = nil, allocator: ForeignText? = nil) {
    self.node = node
    self.threadSlot = threadSlot
    self.function = function
    self.allocator = allocator
  }

  init(_ context: Context) {
    self.init(
      node: context.node, threadSlot: context.threadSlot, function: context.function,
      allocator: context.allocator.flatMap { $0.name ?? $0.module?.path })
  }
}

/// Events that a recording lacks.
public struct RecordedLoss: Hashable, Sendable {
  public enum Reason: UInt64, Sendable {
    /// They were overwritten before they were read.
    case overwritten = 0
    /// The process could not record them.
    case unrecorded = 1
    /// The chunk that held them is damaged. No file has this reason: the reader of the file finds
    /// it.
    case damaged = 2
  }
  public var reason: Reason
  /// The ring that had them; `.max` if no ring had them, 0 if that is not known.
  public var ring: UInt32
  public var count: UInt64
  /// The lost events lie between these stamps.
  public var from: UInt64
  public var to: UInt64
}

/// A ring that was damaged while it was recorded: its header contradicted itself, and nothing more
/// was read from it.
struct DamagedRing: Hashable, Sendable {
  var ring: UInt32
  /// When the recorder noticed it, as a stamp.
  var stamp: UInt64
}

/// Why a recording ends where it ends.
public enum RecordingEnd: UInt64, Sendable {
  case processEnded = 0
  /// The recorder was told to stop.
  case stopped = 1
  case durationOver = 2
  /// The rings could not be read any more: the index was cut short.
  case sourceFailed = 3
  /// The process called exec. It runs another program since, which has an index of its own.
  case replaced = 4
  /// It is a snapshot: the blocks of one look at the index, and no events.
  case snapshot = 5
}

enum TableCoding {
  /// About the bytes of memory that a row takes in a dictionary, half of whose places may be empty,
  /// and once more in a list while it is read.
  private static func rowMemory<Row>(of row: Row.Type) -> Int { MemoryLayout<Row>.stride &* 3 }

  // MARK: modules

  static func encode(_ modules: [Module]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: modules.count))
    for module in modules {
      bytes.append(number: UInt64(truncatingIfNeeded: module.index))
      let path = module.path.originalBytes
      bytes.append(number: UInt64(truncatingIfNeeded: path.count))
      bytes.append(contentsOf: path)
      bytes.append(number: UInt64(truncatingIfNeeded: module.buildID.count))
      bytes.append(contentsOf: module.buildID)
      bytes.append(number: module.start)
      bytes.append(number: module.end)
      bytes.append(number: module.bias)
      bytes.append(number: UInt64(truncatingIfNeeded: module.loadTicks))
      bytes.append(number: module.unloadTicks.map { UInt64(truncatingIfNeeded: $0) &+ 1 } ?? 0)
      bytes.append(number: (module.isMain ? 1 : 0) | (module.isAgent ? 2 : 0) | (module.isLater ? 4 : 0))
    }
    return bytes
  }

  static func modules(_ reader: inout NumberReader) throws(MalformedChunk) -> [Module] {
    var modules: [Module] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 9, memory: rowMemory(of: Module.self))) {
      let index = try reader.number32()
      let path = try reader.data(try reader.count())
      let buildID = try reader.data(try reader.count())
      let start = try reader.number()
      let end = try reader.number()
      let bias = try reader.number()
      let load = try reader.number32()
      let unload = try reader.number()
      let flags = try reader.number()
      guard index < 1 << 24, unload <= 1 << 32 - 1 else { throw MalformedChunk() }
      modules.append(
        Module(
          index: index, path: ForeignText(reversibly: path), buildID: buildID, start: start, end: end, bias: bias,
          loadTicks: load, unloadTicks: unload == 0 ? nil : UInt32(truncatingIfNeeded: unload &- 1),
          isMain: flags & 1 != 0,
          isAgent: flags & 2 != 0, isLater: flags & 4 != 0))
    }
    return modules
  }

  // MARK: stacks

  // Nodes are written in columns, so that values of one sort stand together. Mostly a child follows
  // its parent, and has one of the few addresses that were called from the parent's before.

  private static func code(of holder: CallHolder) -> UInt64 {
    switch holder {
    case .unsaid: 0
    case .none: 1
    case .dropped: 2
    case .forgotten: 3
    case .module(let index): UInt64(truncatingIfNeeded: index) &+ 4
    }
  }

  private static func holder(ofCode number: UInt64) throws(MalformedChunk) -> CallHolder {
    switch number {
    case 0: return .unsaid
    case 1: return .none
    case 2: return .dropped
    case 3: return .forgotten
    default:
      guard number < 1 << 24 else { throw MalformedChunk() }
      return .module(UInt32(truncatingIfNeeded: number &- 4))
    }
  }

  /// `first` is the number of the first node; the others follow it. A parent has a smaller number
  /// than its children.
  static func encode(_ nodes: [StackNode], from first: UInt32) -> [UInt8] {
    var callees = CalleeRanks()
    var parents: [UInt8] = []
    var ranks: [UInt8] = []
    var addresses: [UInt8] = []
    var flags: [UInt8] = []
    var lastPC: UInt64 = 0
    for (index, node) in nodes.enumerated() {
      let number = first &+ UInt32(truncatingIfNeeded: index)
      parents.append(number: UInt64(truncatingIfNeeded: number &- node.parent))
      let caller = node.parent >= first ? nodes[Int(truncatingIfNeeded: node.parent &- first)].pc : 0
      if let rank = callees.take(node.pc, calledFrom: caller) {
        ranks.append(number: UInt64(truncatingIfNeeded: rank) &+ 1)
      } else {
        ranks.append(number: 0)
        addresses.append(signed: Int64(bitPattern: node.pc &- lastPC))
        lastPC = node.pc
      }
      let truncation: UInt64 =
        switch node.truncation {
        case nil: 0
        case .unwinder: 1
        case .depthLimit: 2
        case .damaged: 3
        }
      flags.append(number: truncation | (node.isInterrupted ? 4 : 0) | code(of: node.holder) << 3)
      if truncation == 2 { flags.append(number: UInt64(truncatingIfNeeded: node.framesCut ?? 0)) }
    }
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: first))
    bytes.append(number: UInt64(truncatingIfNeeded: nodes.count))
    for column in [parents, ranks, addresses, flags] { bytes.append(number: UInt64(truncatingIfNeeded: column.count)) }
    return [bytes, parents, ranks, addresses, flags].flatMap { $0 }
  }

  static func nodes(_ reader: inout NumberReader) throws(MalformedChunk) -> (first: UInt32, nodes: [StackNode]) {
    let first = try reader.number32()
    let count = try reader.count(of: 3, memory: rowMemory(of: StackNode.self))
    guard first > 0, first <= ALLOCS_NODE_LIMIT, count <= Int(truncatingIfNeeded: ALLOCS_NODE_LIMIT &- first) else {
      throw MalformedChunk()
    }
    var columns = try self.columns(4, &reader)
    var callees = CalleeRanks()
    var nodes: [StackNode] = []
    var lastPC: UInt64 = 0
    // bounded: a count is not negative
    for index in 0..<count {
      let number = first &+ UInt32(truncatingIfNeeded: index)
      let distance = try columns[0].number32()
      guard distance > 0, distance <= number else { throw MalformedChunk() }
      let parent = number &- distance
      let caller = parent >= first ? nodes[Int(truncatingIfNeeded: parent &- first)].pc : 0
      let rank = try columns[1].number32()
      var pc = lastPC
      if rank == 0 {
        pc = lastPC &+ UInt64(bitPattern: try columns[2].signed())
        lastPC = pc
        callees.add(pc, calledFrom: caller)
      } else {
        guard let known = callees.take(rank: Int(truncatingIfNeeded: rank) &- 1, calledFrom: caller) else {
          throw MalformedChunk()
        }
        pc = known
      }
      let flags = try columns[3].number()
      let holder = try holder(ofCode: flags >> 3)
      let truncations: [Stack.Truncation?] = [nil, .unwinder, .depthLimit, .damaged]
      let truncation = truncations[Int(truncatingIfNeeded: flags & 3)]
      let cut = truncation == .depthLimit ? try columns[3].number32() : 0
      nodes.append(
        StackNode(
          pc: pc, parent: parent, isInterrupted: flags & 4 != 0, truncation: truncation,
          framesCut: cut == 0 ? nil : cut, holder: holder))
    }
    return (first, nodes)
  }

  /// `first` is the number of the first context; the others follow it.
  static func encode(_ contexts: [RecordedContext], from first: UInt32) -> [UInt8] {
    var strings: [ForeignText: Int] = [:]
    var table: [ForeignText] = []
    func number(_ string: ForeignText?) -> UInt64 {
      guard let string else { return 0 }
      if let known = strings[string] { return UInt64(truncatingIfNeeded: known) }
      table.append(string)
      strings[string] = table.count
      return UInt64(truncatingIfNeeded: table.count)
    }
    var columns: [[UInt8]] = [[], [], [], []]
    var lastNode: UInt32 = 0
    for context in contexts {
      columns[0].append(signed: Int64(truncatingIfNeeded: context.node) &- Int64(truncatingIfNeeded: lastNode))
      lastNode = context.node
      columns[1].append(number: context.threadSlot.map { UInt64(truncatingIfNeeded: $0) &+ 1 } ?? 0)
      columns[2].append(number: number(context.function))
      columns[3].append(number: number(context.allocator))
    }
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: table.count))
    for string in table { bytes.append(string: string) }
    bytes.append(number: UInt64(truncatingIfNeeded: first))
    bytes.append(number: UInt64(truncatingIfNeeded: contexts.count))
    for column in columns { bytes.append(number: UInt64(truncatingIfNeeded: column.count)) }
    return columns.reduce(into: bytes) { $0.append(contentsOf: $1) }
  }

  static func contexts(_ reader: inout NumberReader) throws(MalformedChunk) -> (first: UInt32, [RecordedContext]) {
    var table: [ForeignText?] = [nil]
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(memory: 32)) { table.append(try reader.string()) }
    let first = try reader.number32()
    let count = try reader.count(of: 4, memory: rowMemory(of: RecordedContext.self))
    guard first > 0, first <= 1 << 24, count <= Int(truncatingIfNeeded: 1 << 24 &- first) else {
      throw MalformedChunk()
    }
    var columns = try self.columns(4, &reader)
    var contexts: [RecordedContext] = []
    var node: Int64 = 0
    // bounded: a count is not negative
    for _ in 0..<count {
      node &+= try columns[0].signed()
      let thread = try columns[1].number()
      let function = try columns[2].number()
      let allocator = try columns[3].number()
      guard let number = UInt32(exactly: node), thread <= 1 << 32 - 1,
        function < UInt64(truncatingIfNeeded: table.count),
        allocator < UInt64(truncatingIfNeeded: table.count)
      else { throw MalformedChunk() }
      contexts.append(
        RecordedContext(
          node: number, threadSlot: thread == 0 ? nil : UInt32(truncatingIfNeeded: thread &- 1),
          function: table[Int(truncatingIfNeeded: function)],
          allocator: table[Int(truncatingIfNeeded: allocator)]))
    }
    return (first, contexts)
  }

  /// Readers of `count` columns, whose sizes stand before them.
  private static func columns(_ count: Int, _ reader: inout NumberReader) throws(MalformedChunk) -> [NumberReader] {
    var sizes: [Int] = []
    // bounded: a count is not negative
    for _ in 0..<count { sizes.append(try reader.count()) }
    var columns: [NumberReader] = []
    for size in sizes { columns.append(try reader.part(size)) }
    return columns
  }

  // MARK: threads

  static func encode(_ threads: [ThreadIdentity]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: threads.count))
    for thread in threads {
      bytes.append(number: UInt64(truncatingIfNeeded: thread.slot))
      bytes.append(number: UInt64(truncatingIfNeeded: thread.id))
      bytes.append(string: thread.name)
      bytes.append(number: UInt64(truncatingIfNeeded: thread.startTicks))
      bytes.append(number: thread.endTicks.map { UInt64(truncatingIfNeeded: $0) &+ 1 } ?? 0)
    }
    return bytes
  }

  static func threads(_ reader: inout NumberReader) throws(MalformedChunk) -> [ThreadIdentity] {
    var threads: [ThreadIdentity] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 5, memory: rowMemory(of: ThreadIdentity.self))) {
      let slot = try reader.number32()
      let id = try reader.number32()
      let name = try reader.string()
      let start = try reader.number32()
      let end = try reader.number()
      guard slot < 1 << 16, end <= 1 << 32 - 1 else { throw MalformedChunk() }
      threads.append(
        ThreadIdentity(
          id: id, name: name, slot: slot, state: end == 0 ? .live : .ended, startTicks: start,
          endTicks: end == 0 ? nil : UInt32(truncatingIfNeeded: end &- 1), stack: nil, allocations: 0, frees: 0))
    }
    return threads
  }

  // MARK: blocks

  /// `until` is the stamp at which the look at the index ended; 0 if it goes on. It began when
  /// events did.
  static func encode(_ blocks: [Allocation], until: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: until)
    bytes.append(number: UInt64(truncatingIfNeeded: blocks.count))
    var last: UInt64 = 0
    for block in blocks {
      bytes.append(signed: Int64(bitPattern: block.base &- last))
      last = block.base
      bytes.append(number: block.size)
      bytes.append(number: UInt64(truncatingIfNeeded: block.alignment.map { $0.trailingZeroBitCount } ?? 0))
      bytes.append(number: UInt64(truncatingIfNeeded: block.context))
      bytes.append(number: UInt64(truncatingIfNeeded: block.ticks))
    }
    return bytes
  }

  /// Puts the blocks of a chunk in place of those that `rows` has.
  static func blocks(_ payload: [UInt8], into rows: inout BlockRows) throws(MalformedChunk) {
    var reader = NumberReader(payload)
    rows.until = try reader.number()
    let count = try reader.count(of: 5)
    rows.setCount(count)
    let isWhole = payload.withUnsafeBufferPointer { bytes in
      var numbers = FastNumbers(bytes, from: reader.index)
      return rows.blocks.withUnsafeMutableBufferPointer { fill($0, from: &numbers) }
    }
    guard isWhole else { throw MalformedChunk() }
  }

  /// Returns whether the numbers are those of blocks.
  private static func fill(_ blocks: UnsafeMutableBufferPointer<ReplayedBlock>, from numbers: inout FastNumbers) -> Bool
  {
    var base: UInt64 = 0
    for index in blocks.indices {
      let hasRoom = numbers.hasRoom(for: 5)
      let difference = numbers.next(hasRoom)
      base = base &+ (difference >> 1 ^ (0 &- (difference & 1)))
      let size = numbers.next(hasRoom)
      _ = numbers.next(hasRoom)  // the logarithm of the alignment
      let context = numbers.next(hasRoom)
      let ticks = numbers.next(hasRoom)
      guard !numbers.isMalformed, (context | ticks) >> 32 == 0 else { return false }
      blocks[index] = ReplayedBlock(
        base: base, size: min(size, ReplayedBlock.sizeLimit), context: UInt32(truncatingIfNeeded: context),
        ticks: UInt32(truncatingIfNeeded: ticks))
    }
    return true
  }

  // MARK: losses, names

  static func encode(_ losses: [RecordedLoss]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: losses.count))
    for loss in losses {
      for value in [loss.reason.rawValue, UInt64(truncatingIfNeeded: loss.ring), loss.count, loss.from, loss.to] {
        bytes.append(number: value)
      }
    }
    return bytes
  }

  static func losses(_ reader: inout NumberReader) throws(MalformedChunk) -> [RecordedLoss] {
    var losses: [RecordedLoss] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 5, memory: rowMemory(of: RecordedLoss.self))) {
      guard let reason = RecordedLoss.Reason(rawValue: try reader.number()) else { throw MalformedChunk() }
      losses.append(
        RecordedLoss(
          reason: reason, ring: try reader.number32(), count: try reader.number(), from: try reader.number(),
          to: try reader.number()))
    }
    return losses
  }

  static func encode(_ totals: ArraySlice<RecordedTotals.Row>, of all: RecordedTotals) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: all.nanoseconds)
    bytes.append(number: all.withoutContext)
    bytes.append(number: UInt64(truncatingIfNeeded: totals.count))
    for row in totals {
      bytes.append(number: UInt64(truncatingIfNeeded: row.context))
      bytes.append(number: row.total.blocks)
      bytes.append(number: row.total.bytes)
    }
    return bytes
  }

  static func totals(_ reader: inout NumberReader) throws(MalformedChunk) -> RecordedTotals {
    var totals = RecordedTotals(nanoseconds: try reader.number(), withoutContext: try reader.number())
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 3, memory: rowMemory(of: RecordedTotals.Row.self))) {
      let context = try reader.number32()
      let blocks = try reader.number()
      totals.rows.append((context, SiteTable.Total(bytes: try reader.number(), blocks: blocks)))
    }
    return totals
  }

  static func encode(_ marks: [RecordedMark]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: marks.count))
    for mark in marks {
      bytes.append(string: mark.name)
      bytes.append(number: mark.stamp)
    }
    return bytes
  }

  static func marks(_ reader: inout NumberReader) throws(MalformedChunk) -> [RecordedMark] {
    var marks: [RecordedMark] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 2, memory: rowMemory(of: RecordedMark.self))) {
      marks.append(RecordedMark(name: try reader.string(), stamp: try reader.number()))
    }
    return marks
  }

  static func encode(_ rings: [DamagedRing]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: rings.count))
    for ring in rings {
      bytes.append(number: UInt64(truncatingIfNeeded: ring.ring))
      bytes.append(number: ring.stamp)
    }
    return bytes
  }

  static func damagedRings(_ reader: inout NumberReader) throws(MalformedChunk) -> [DamagedRing] {
    var rings: [DamagedRing] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 2, memory: rowMemory(of: DamagedRing.self))) {
      rings.append(DamagedRing(ring: try reader.number32(), stamp: try reader.number()))
    }
    return rings
  }

  static func encode(_ names: [(key: NameKey, frames: [Frame])]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: names.count))
    for (key, frames) in names {
      bytes.append(number: key.pc)
      bytes.append(number: UInt64(truncatingIfNeeded: key.module) << 1 | (key.isExact ? 1 : 0))
      bytes.append(number: UInt64(truncatingIfNeeded: frames.count))
      for frame in frames {
        bytes.append(string: frame.function ?? "")
        bytes.append(string: frame.file ?? "")
        bytes.append(number: UInt64(truncatingIfNeeded: max(0, frame.line ?? 0)) << 1 | (frame.inlined ? 1 : 0))
      }
    }
    return bytes
  }

  /// The names without the frames' modules, which the caller adds from the table of modules.
  static func names(_ reader: inout NumberReader) throws(MalformedChunk) -> [(key: NameKey, frames: [Frame])] {
    var names: [(key: NameKey, frames: [Frame])] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 3, memory: rowMemory(of: (NameKey, [Frame]).self))) {
      let pc = try reader.number()
      let module = try reader.number()
      guard let index = UInt32(exactly: module >> 1) else { throw MalformedChunk() }
      let key = NameKey(pc: pc, isExact: module & 1 != 0, module: index)
      var frames: [Frame] = []
      // bounded: a count is not negative
      for _ in 0..<(try reader.count(of: 3, memory: rowMemory(of: Frame.self))) {
        let function = try reader.string()
        let file = try reader.string()
        let line = try reader.number()
        frames.append(
          Frame(
            pc: pc, module: nil, function: function.isEmpty ? nil : function, file: file.isEmpty ? nil : file,
            line: line >> 1 == 0 ? nil : Int(clamping: line >> 1), inlined: line & 1 != 0))
      }
      guard !frames.isEmpty else { throw MalformedChunk() }
      names.append((key, frames))
    }
    return names
  }

  static func encode(made rows: [(address: UInt64, function: MadeFunction)]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(number: UInt64(truncatingIfNeeded: rows.count))
    for (address, function) in rows {
      bytes.append(number: address)
      // 0: the time is not known.
      bytes.append(number: function.time.map { $0 &+ 1 } ?? 0)
      bytes.append(string: function.name)
      bytes.append(string: function.file ?? "")
      bytes.append(number: UInt64(clamping: function.line ?? 0))
    }
    return bytes
  }

  static func madeNames(
    _ reader: inout NumberReader
  ) throws(MalformedChunk) -> [(address: UInt64, function: MadeFunction)] {
    var rows: [(address: UInt64, function: MadeFunction)] = []
    // bounded: a count is not negative
    for _ in 0..<(try reader.count(of: 5, memory: rowMemory(of: (UInt64, MadeFunction).self))) {
      let address = try reader.number()
      let time = try reader.number()
      let name = try reader.string()
      let file = try reader.string()
      let line = try reader.number()
      rows.append(
        (
          address,
          MadeFunction(
            name: name, time: time == 0 ? nil : time &- 1, file: file.isEmpty ? nil : file,
            line: line == 0 ? nil : Int(clamping: line))
        ))
    }
    return rows
  }
}

/// The blocks of a chunk.
struct BlockRows {
  /// When the look at the index was over; 0 if it was not yet.
  var until: UInt64 = 0
  var blocks: [ReplayedBlock] = []

  /// Makes room for so many blocks, in the memory that there is.
  fileprivate mutating func setCount(_ count: Int) {
    blocks.removeLast(max(0, blocks.count &- count))  // bounded: no more than there are
    let none = ReplayedBlock(base: 0, size: 0, context: 0, ticks: 0)
    blocks.append(contentsOf: repeatElement(none, count: max(0, count &- blocks.count)))
  }
}

/// For each address of a caller, the addresses that were called from there, the last one first.
/// Encoder and decoder take the same addresses in the same order, and so have the same lists.
private struct CalleeRanks {
  private var lists: [UInt64: [UInt64]] = [:]
  /// Addresses beyond this rank are forgotten: it bounds the time that a search in a list takes.
  private static let limit = 512

  /// The rank of an address, which moves to the front; nil if it was not in the list, and is now.
  mutating func take(_ pc: UInt64, calledFrom caller: UInt64) -> Int? {
    guard let rank = lists[caller]?.firstIndex(of: pc) else {
      add(pc, calledFrom: caller)
      return nil
    }
    moveToFront(rank, of: caller)
    return rank
  }

  mutating func take(rank: Int, calledFrom caller: UInt64) -> UInt64? {
    guard let list = lists[caller], rank < list.count else { return nil }
    moveToFront(rank, of: caller)
    return list[rank]
  }

  mutating func add(_ pc: UInt64, calledFrom caller: UInt64) {
    var list = lists.removeValue(forKey: caller) ?? []
    list.insert(pc, at: 0)
    if list.count > Self.limit { list.removeLast() }
    lists[caller] = list
  }

  private mutating func moveToFront(_ rank: Int, of caller: UInt64) {
    guard rank > 0 else { return }
    guard var list = lists.removeValue(forKey: caller) else { return }
    list.insert(list.remove(at: rank), at: 0)
    lists[caller] = list
  }
}

/// An address of a stack in the module that held it.
struct NameKey: Hashable {
  var pc: UInt64
  var isExact: Bool
  /// Index in the table of modules.
  var module: UInt32
}
