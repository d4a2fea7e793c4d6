// SPDX-License-Identifier: Apache-2.0
// A recording as it is read: its tables in memory, its events chunk by chunk.
//
// Threat: the file may come from anybody. Lengths are bounded before memory is taken, and checksums
// are compared before bytes are believed. Bytes with a right checksum may still contradict the
// format: then their chunk counts as damaged. Damage is said and counted (`problems`, `losses`);
// the rest is kept.
//
// A small file may stand for much: a frame of zstd may unpack to a thousand times its size, and a
// byte of it may become a row of a hundred bytes. So memory is counted by rows (NumberReader.room),
// and no step takes longer than in proportion to the bytes or rows that it is about: what is looked
// up for each event or row is looked up by hash or by halving. Loops over the file ask the budget
// of whoever reads the recording.

import Answers
import Bounds
import ByteText
import CZstd
import FileFacts
import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import SystemAccess

/// An open recording. Used by one thread.
///
/// Its tables are all that naming stacks (StackNaming) and summing up sites (SiteTable) need.
public final class Recording: OriginTables {
  /// The path of the file.
  public let path: String
  /// Whose recording it is.
  public private(set) var process: RecordedProcess
  /// The events that are missing, whatever the reason.
  public private(set) var losses: [RecordedLoss] = []
  /// In words: damage of the file, and what the recorder could not read. Of many problems, the
  /// first, and how many more there are.
  public var problems: [String] {
    furtherProblems == 0 ? foundProblems : foundProblems + ["\(Units.count(furtherProblems, "further problem"))"]
  }
  private var foundProblems: [String] = []
  private var furtherProblems: UInt64 = 0
  private static let problemLimit = 1000
  public private(set) var eventCount: UInt64 = 0
  /// Why it ends; nil if its end is missing.
  public private(set) var end: RecordingEnd?
  /// Stamp of the oldest event; `endStamp` if there are none. Stamps are nanoseconds of the
  /// process's CLOCK_MONOTONIC.
  public private(set) var firstStamp = UInt64.max
  /// Stamp of the newest event; 0 if there are none.
  public private(set) var lastStamp: UInt64 = 0
  /// The stamp at which it begins: when the recorder began, or at the first event if the rings had
  /// older ones (`run --record`). A stamp may also be a little older than its event.
  public var startStamp: UInt64 { min(process.monotonic, firstStamp) }
  /// The stamp at which it ends; of a recording without an end, the stamp of the last event.
  public private(set) var endStamp: UInt64 = 0
  /// The modules of the process, each with its number in the recording as its index.
  public private(set) var modules: [Module] = []
  /// The rows of the table of modules, by their indices.
  private var moduleRows: [UInt32: Module] = [:]
  /// Where in `modules` the one with an index is.
  private var moduleOfIndex: [UInt32: Int] = [:]
  /// The ranges of `modules`, but of those that nodes name (`Module.isLater`).
  private var moduleRanges = AddressRanges([])
  private var agentRange: (start: UInt64, end: UInt64)?

  private var damagedRings: [DamagedRing] = []
  /// All that was ever allocated: of a snapshot whose process kept it.
  private(set) var totals: RecordedTotals?
  /// The marks that the process had when the recording was finished.
  private(set) var marks: [RecordedMark] = []

  private let source: RecordingSource
  private let fileSize: Int
  private var eventChunks: [(offset: Int, header: ChunkHeader)] = []
  /// Offsets in the file at which whole chunks begin.
  public private(set) var chunkOffsets: [Int] = []
  /// Offsets in the file at which those chunks of events begin that can be read.
  public var eventChunkOffsets: [Int] { eventChunks.map { $0.offset &- RecordingFormat.chunkHeaderSize } }
  /// The least stamp from which on events are missing.
  private var firstLoss = UInt64.max
  /// Net effects, by their places in the file, that were said to contradict the format.
  private var notedEffects: Set<Int> = []
  private var effectChunks: [(offset: Int, header: ChunkHeader)] = []
  /// Whether net effects are used; the tests compare what comes of it.
  var usesEffects = true
  private var nodes: [UInt32: StackNode] = [:]
  private var origins: [UInt32: Origin] = [:]
  private var greatestContext: UInt32 = 0
  /// Numbers of allocators, by their names, in the order in which contexts name them.
  private var allocators: [ForeignText: UInt32] = [:]
  private struct ThreadKey: Hashable {
    var slot: UInt32
    var id: UInt32
    var startTicks: UInt32
  }
  /// The rows of the table of threads; and the threads of each slot, by the tick of their start.
  private var threadRows: [ThreadKey: ThreadIdentity] = [:]
  private var threads: [UInt32: [ThreadIdentity]] = [:]
  /// The names at the file's end, and the names that were looked up since.
  private var functions: [NameKey: [Frame]] = [:]
  /// The functions that have been at a call in code that the process had made, the earliest first.
  private var made: [UInt64: [MadeFunction]] = [:]
  /// Names that were found with the standard wrappers.
  public let names = NameCache()
  /// Chunks with the blocks that the recorder's look at the index found.
  private var blockChunks: [(offset: Int, header: ChunkHeader)] = []
  /// Stamp of the end of that look; 0 if the file does not have all of it, or `forEachBlocks` was
  /// not called yet.
  public private(set) var blocksUntil: UInt64 = 0
  /// The knowledge about the blocks of a recording without events, when they were read once.
  private var still: (sums: BlockSums, areDistinct: Bool, areSorted: Bool)?
  private let symbolizer: Symbolizer
  /// Bytes of memory that rows of tables may still take.
  private var room: Int
  private let limit: Int
  /// The part that tables have taken of the budget of whoever reads the recording.
  private let tables = MemoryShare()
  /// A file that says to be larger is none: no file system has it.
  private static let sizeLimit: UInt64 = 1 << 48
  /// Losses that are kept apart; further ones are added to the last.
  private static let lossLimit = 1 << 16

  /// Bytes of memory that a recording and what is made of it may take: half of the machine's, and
  /// 2 GiB at least. A recording of a large heap takes gigabytes in earnest.
  public static let memoryLimit: Int = {
    let pages = Foreign(sysconf(Int32(truncatingIfNeeded: _SC_PHYS_PAGES)))
    let bytes = pages * Foreign(sysconf(Int32(truncatingIfNeeded: _SC_PAGESIZE)))
    return max(2 << 30, (bytes >> 1).int(upTo: 1 << 40) ?? 0)
  }()

  /// Opens the file at `path`, reads its tables and checks all checksums. Throws if it is no
  /// recording, or one of another version of the format, or so damaged that nobody knows whose it
  /// is.
  public convenience init(path: String) throws(Complaint) { try self.init(path: path, memoryLimit: Self.memoryLimit) }

  /// A snapshot that has no file (`Snapshot.take`). `path` stands for it in what is said of it.
  public convenience init(snapshot bytes: [UInt8], path: String) throws(Complaint) {
    // The files of its process were read a moment ago.
    try self.init(
      path: path, source: .memory(bytes), memoryLimit: Self.memoryLimit, symbolizer: ProcessView.sharedSymbolizer)
  }

  /// `memoryLimit`: bytes that the rows of tables may take.
  convenience init(path: String, memoryLimit: Int) throws(Complaint) {
    try self.init(path: path, source: .file(Self.open(path)), memoryLimit: memoryLimit)
  }

  private init(
    path: String, source: consuming RecordingSource, memoryLimit: Int, symbolizer: Symbolizer = Symbolizer()
  ) throws(Complaint) {
    (self.path, self.symbolizer) = (path, symbolizer)
    (room, limit) = (memoryLimit, memoryLimit)
    process = RecordedProcess(
      processID: 0, startTime: 0, command: [], monotonic: 0, realtime: 0, hasFullStacks: false, isFromStart: false)
    self.source = source
    fileSize = Int(clamping: self.source.size)
    try checkHeader()
    try load()
    guard process.processID != 0 else {
      throw Self.unreadable(path, "it was cut or damaged before it says what was recorded", "record again")
    }
  }

  private static func open(_ path: String) throws(Complaint) -> RegularFile {
    do throws(RegularFile.Refusal) {
      return try RegularFile(path: ForeignText(path), sizeLimit: sizeLimit)
    } catch {
      switch error {
      case .system(let code): throw unreadable(path, systemWords(code), "check the path")
      case .notRegular: throw unreadable(path, "it is not a file", "check the path")
      case .tooLarge: throw unreadable(path, "no file is as large as it says to be", "take an undamaged copy")
      }
    }
  }

  private static func unreadable(_ path: String, _ why: String, _ advice: String) -> Complaint {
    Complaint(.obstacle, what: "cannot read the recording \(path): \(why)", advice: advice)
  }

  // MARK: the file

  private func bytes(at offset: Int, _ count: Int) -> [UInt8] { source.bytes(at: offset, count) }

  /// Whether `path` leads to this recording's file.
  func isFile(at path: String) -> Bool { source.isFile(at: path) }

  private func checkHeader() throws(Complaint) {
    let header = bytes(at: 0, RecordingFormat.headerSize)
    let magic = header.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64(truncatingIfNeeded: $1) }
    guard header.count >= 8, magic == RecordingFormat.magic else {
      throw Complaint(.obstacle, what: "\(path) is no recording", advice: "`allocsctl record` makes them")
    }
    guard header.count == RecordingFormat.headerSize else {
      throw Self.unreadable(path, "it has \(header.count) bytes, less than its header", "record again")
    }
    guard header[28...].word(at: 28) == CRC32C.of(header[..<28]) else {
      throw Self.unreadable(path, "its header is damaged", "take an undamaged copy, or record again")
    }
    let version = header[8...].word(at: 8)
    guard version == RecordingFormat.version else {
      throw Self.unreadable(
        path,
        "it has version \(version) of the format, and this allocsctl knows version \(RecordingFormat.version)",
        "use the allocsctl that made it")
    }
  }

  /// Reads the headers of all chunks and the tables, and checks every checksum.
  private func load() throws(Complaint) {
    // bounded: offsets lie in the file, whose size is below sizeLimit; a chunk is below chunkLimit
    var offset = RecordingFormat.headerSize
    var number: UInt32 = 0
    var events: UInt64 = 0
    var last: UInt64 = 0
    var isTailMissing = false
    var meter = BudgetMeter(interval: 1)
    let share = MemoryShare()
    while offset < fileSize, meter.goesOn() {
      share.hold((eventChunks.count + blockChunks.count + effectChunks.count) * 128 + chunkOffsets.count * 16)
      tables.hold(limit - room)
      Budget.current?.note(done: offset, of: fileSize)
      let head = bytes(at: offset, RecordingFormat.chunkHeaderSize)
      guard let header = ChunkHeader(head[...]) else {
        guard let next = nextChunk(after: offset) else {
          note("the last \(fileSize - offset) bytes are no whole chunk")
          isTailMissing = true
          break
        }
        note("\(next - offset) bytes at offset \(offset) are damaged")
        offset = next
        continue
      }
      let start = offset + RecordingFormat.chunkHeaderSize
      if header.number != number, header.number > number {
        note("\(header.number - number) chunks before offset \(offset) are missing")
      }
      number = header.number &+ 1
      if header.eventsBefore > events {
        lose(header.eventsBefore - events, from: last, to: header.events > 0 ? header.firstStamp : .max)
        events = header.eventsBefore
      }
      let size = Int(truncatingIfNeeded: header.stored)
      guard size <= fileSize - start else {
        note("the last chunk has \(fileSize - start) of \(header.stored) bytes")
        lose(UInt64(truncatingIfNeeded: header.events), from: header.firstStamp, to: header.lastStamp)
        isTailMissing = true
        break
      }
      let stored = bytes(at: start, size)
      chunkOffsets.append(offset)
      if CRC32C.of(stored) != header.payloadChecksum {
        note("the chunk at offset \(offset) is damaged")
        lose(UInt64(truncatingIfNeeded: header.events), from: header.firstStamp, to: header.lastStamp)
      } else if header.kind == RecordingFormat.ChunkKind.events.rawValue {
        eventChunks.append((start, header))
        eventCount &+= UInt64(truncatingIfNeeded: header.events)
        if header.events > 0 {
          firstStamp = min(firstStamp, header.firstStamp)
          lastStamp = max(lastStamp, header.lastStamp)
        }
      } else if header.kind == RecordingFormat.ChunkKind.blocks.rawValue {
        blockChunks.append((start, header))
      } else if header.kind == RecordingFormat.ChunkKind.netEffect.rawValue {
        effectChunks.append((start, header))
      } else {
        do throws(MalformedChunk) {
          try table(header, stored)
        } catch {
          if error.isTooLarge {
            throw Complaint(
              .budget,
              what: "the tables of the recording \(path) take more than \(limit >> 20) MiB of memory",
              advice: "read it on a machine with more memory, if you trust it", code: ENOMEM)
          }
          note("the chunk at offset \(offset) contradicts the format")
        }
      }
      events &+= UInt64(truncatingIfNeeded: header.events)
      if header.events > 0 { last = header.lastStamp }
      offset = start + size
    }
    try Budget.current?.check()

    if end == nil, !isTailMissing { note("it has no end: whoever recorded it was killed, or still records") }
    endStamp = max(endStamp, lastStamp)
    if firstStamp > lastStamp { firstStamp = endStamp }
    notePartsThatWereNotRecorded()
    index()
  }

  private func note(_ problem: String) {
    if foundProblems.count < Self.problemLimit { foundProblems.append(problem) } else { furtherProblems &+= 1 }
  }

  /// Notes what the recorder could not read, though the file is whole.
  private func notePartsThatWereNotRecorded() {
    for ring in damagedRings {
      // The damage was noticed when the ring was read the next time.
      firstLoss = min(firstLoss, ring.stamp > 1_000_000_000 ? ring.stamp &- 1_000_000_000 : 0)
      note(
        "ring \(ring.ring) of the process was damaged: what its thread did after "
          + "\(Units.duration(seconds(at: ring.stamp))) is not recorded")
    }
    if end == .sourceFailed {
      note("the index of the process was cut short: what the process did after that is not recorded")
    }
  }

  private func lose(_ count: UInt64, from: UInt64, to: UInt64) {
    guard count > 0 else { return }
    lose(RecordedLoss(reason: .damaged, ring: 0, count: count, from: from, to: to))
  }

  private func lose(_ loss: RecordedLoss) {
    firstLoss = min(firstLoss, loss.from)
    guard let last = losses.indices.last, losses.count >= Self.lossLimit else { return losses.append(loss) }
    losses[last].count &+= loss.count
    losses[last].from = min(losses[last].from, loss.from)
    losses[last].to = max(losses[last].to, loss.to)
  }

  /// The next whole header behind `offset`.
  private func nextChunk(after offset: Int) -> Int? {
    // bounded: offsets lie in the file, whose size is below sizeLimit
    var start = offset + 1
    // Mostly the next chunk is near: so that many damages cost no more than one pass, the search
    // begins with little.
    var window = 1 << 12
    var meter = BudgetMeter(interval: 1)
    while start < fileSize, meter.goesOn() {
      // A hole has no chunk.
      guard let data = source.data(from: start) else { return nil }
      start = data
      let piece = bytes(at: start, min(window + RecordingFormat.chunkHeaderSize, fileSize - start))
      guard piece.count >= RecordingFormat.chunkHeaderSize else { return nil }
      for index in 0...(piece.count - RecordingFormat.chunkHeaderSize)
      where piece[index] == 0x43 && ChunkHeader(piece[index...]) != nil {
        return start + index
      }
      start += window
      window = min(window * 2, 1 << 20)
    }
    return nil
  }

  private static func unpack(_ header: ChunkHeader, _ stored: [UInt8]) throws(MalformedChunk) -> [UInt8] {
    let size = Int(truncatingIfNeeded: header.unpacked)
    guard header.flags & RecordingFormat.flagZstd != 0 else {
      guard stored.count == size else { throw MalformedChunk() }
      return stored
    }
    // The chunk's header bounds the memory, whatever the frame says of its size.
    let result = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      let size = ZSTD_decompress(buffer.baseAddress, buffer.count, stored, stored.count)
      count = ZSTD_isError(size) != 0 ? 0 : size
    }
    guard result.count == size else { throw MalformedChunk() }
    return result
  }

  // MARK: tables

  private func table(_ header: ChunkHeader, _ stored: [UInt8]) throws(MalformedChunk) {
    // A kind that this reader doesn't know comes from a later writer, and is skipped.
    guard let kind = RecordingFormat.ChunkKind(rawValue: header.kind) else { return }
    var reader = NumberReader(try Self.unpack(header, stored), room: room)
    // Also of a chunk that turns out to be damaged, as part of it may have been taken in.
    defer { room = reader.room }
    switch kind {
    case .process: process = try RecordedProcess(&reader)
    case .modules:
      for module in try TableCoding.modules(&reader) { moduleRows[module.index] = module }
    case .nodes:
      let (first, rows) = try TableCoding.nodes(&reader)
      for (index, node) in rows.enumerated() { nodes[first &+ UInt32(truncatingIfNeeded: index)] = node }
    case .contexts:
      let (first, rows) = try TableCoding.contexts(&reader)
      for (index, context) in rows.enumerated() {
        let number = first &+ UInt32(truncatingIfNeeded: index)
        origins[number] = origin(context)
        greatestContext = max(greatestContext, number)
      }
    case .threads:
      for thread in try TableCoding.threads(&reader) {
        threadRows[ThreadKey(slot: thread.slot, id: thread.id, startTicks: thread.startTicks)] = thread
      }
    case .losses: for loss in try TableCoding.losses(&reader) { lose(loss) }
    case .damagedRings: damagedRings.append(contentsOf: try TableCoding.damagedRings(&reader))
    case .totals:
      let more = try TableCoding.totals(&reader)
      totals = totals ?? RecordedTotals(nanoseconds: more.nanoseconds, withoutContext: more.withoutContext)
      totals?.rows.append(contentsOf: more.rows)
    case .marks: marks.append(contentsOf: try TableCoding.marks(&reader))
    case .names: for (key, frames) in try TableCoding.names(&reader) { functions[key] = frames }
    case .madeNames:
      for (address, function) in try TableCoding.madeNames(&reader) { made[address, default: []].append(function) }
    case .end:
      end = RecordingEnd(rawValue: try reader.number())
      endStamp = try reader.number()
    case .blocks, .events, .netEffect: break
    }
  }

  private func index() {
    modules = moduleRows.values.sorted { $0.index < $1.index }
    moduleRows = [:]
    for (place, module) in modules.enumerated() { moduleOfIndex[module.index] = place }
    moduleRanges = AddressRanges(modules.lazy.map { $0.isLater ? (0, 0) : ($0.start, $0.end) })
    agentRange = modules.first { $0.isAgent }.map { ($0.start, $0.end) }
    for thread in threadRows.values { threads[thread.slot, default: []].append(thread) }
    threadRows = [:]
    for slot in threads.keys { threads[slot]?.sort { Self.start($0) < Self.start($1) } }
    for (key, frames) in functions {
      guard let place = moduleOfIndex[key.module] else { continue }
      let module = modules[place]
      functions[key] = frames.map { frame in
        var frame = frame
        frame.module = module.path
        if frame.function == nil {
          let instruction = key.isExact ? key.pc : key.pc &- 1
          frame.place = Frame.FilePlace(address: instruction &- module.bias, buildID: module.buildID)
        }
        return frame
      }
    }
  }

  /// When a thread began, in ticks of one wrap; of two threads that began in the same tick, the one
  /// with the lower id comes first.
  private static func start(_ thread: ThreadIdentity) -> (UInt32, UInt32) {
    (thread.startTicks & ((1 << ALLOCS_TICK_BITS) &- 1), thread.id)
  }

  /// How many events are missing, whatever the reason.
  public var lostCount: UInt64 { losses.reduce(0) { $0 &+ $1.count } }

  // MARK: what events refer to

  private func origin(_ context: RecordedContext) -> Origin {
    var origin = Origin(node: context.node, threadSlot: context.threadSlot, function: context.function)
    guard let allocator = context.allocator else { return origin }
    let name = allocator.fileName
    let number = allocators[name] ?? UInt32(truncatingIfNeeded: allocators.count)
    allocators[name] = number
    (origin.allocator, origin.allocatorNumber) = (name, number)
    return origin
  }

  public func context(_ id: UInt32) -> Origin? { origins[id] }
  public func node(_ id: UInt32) -> StackNode? { nodes[id] }

  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? {
    guard let holders = threads[slot], let last = holders.last else { return nil }
    // Of the threads that had begun by then, the latest. Ticks wrap around: where none began at a
    // lower tick, the one with the highest tick began last.
    let now = ticks & ((1 << ALLOCS_TICK_BITS) &- 1)
    let place = holders.partitioningIndex { Self.start($0).0 > now }
    let holder = place > 0 ? holders[place &- 1] : last
    return allocs_ticks_between(holder.startTicks, ticks) < 1 << (ALLOCS_TICK_BITS &- 1) ? holder : nil
  }

  public func module(at call: CallAddress, ticks: UInt32) -> Module? {
    switch call.holder {
    case .none, .dropped, .forgotten: return nil
    case .module(let index): return moduleOfIndex[index].map { modules[$0] }
    case .unsaid: break
    }
    var found: Int?
    moduleRanges.forEach(holding: call.instruction) { index in
      let module = modules[index]
      guard index > found ?? -1, Module.wasLoaded(at: module.loadTicks, before: ticks) else { return true }
      if let unloaded = module.unloadTicks,
        allocs_ticks_between(ticks, unloaded) >= 1 << (ALLOCS_TICK_BITS &- 1)
      {
        return true
      }
      found = index
      return true
    }
    return found.map { modules[$0] }
  }

  public func isOnly(_ module: Module?, at address: UInt64) -> Bool {
    guard module?.unloadTicks == nil else { return false }
    var isOnly = true
    moduleRanges.forEach(holding: address) { index in
      isOnly = modules[index].index == module?.index
      return isOnly
    }
    return isOnly
  }

  public func isAgent(_ address: UInt64) -> Bool {
    agentRange.map { $0.start <= address && address < $0.end } ?? false
  }

  public var moduleTableVersion: ModuleTableVersion { ModuleTableVersion() }

  public func functions(at call: CallAddress, in module: Module) -> (frames: [Frame], isFinal: Bool) {
    let key = NameKey(pc: call.pc, isExact: call.isExact, module: module.index)
    if let known = functions[key] { return (known, true) }
    // The file's end, with its names, is missing; or there were none when it was made.
    let (found, isFinal) = symbolizer.functions(at: call, in: ModuleReference(module, process: nil))
    functions[key] = found
    return (found, isFinal)
  }

  public func madeFunctions(at call: CallAddress) -> [MadeFunction] { made[call.instruction] ?? [] }

  /// Seconds since 1970-01-01 UTC.
  public func wallTime(of stamp: UInt64) -> Double {
    (Double(process.realtime) + Double(Int64(bitPattern: stamp &- process.monotonic))) / 1e9
  }

  // MARK: blocks

  /// Gives `body` the blocks that the recorder's look at the index found, each as it was when the
  /// look came by, some at a time, unless the budget is exhausted. A chunk that turns out to be
  /// damaged is noted.
  func forEachBlocks(_ body: ([ReplayedBlock]) -> Void) {
    let share = MemoryShare()
    // A row has five bytes at least.
    // bounded: a chunk has less than chunkLimit
    let most = blockChunks.map { Int(truncatingIfNeeded: $0.header.unpacked) }.max() ?? 0
    let memory = most &+ most / 5 &* MemoryLayout<ReplayedBlock>.stride
    guard share.hold(memory) else { return }
    var broken: [Int] = []
    var meter = BudgetMeter(interval: 1)
    let (chunks, reader) = (blockChunks, source.reader)
    let decoder = ChunkDecoder(count: chunks.count, memory: memory, none: BlockRows()) {
      (index, rows) throws(MalformedChunk) in
      let (offset, header) = chunks[index]
      let stored = reader.bytes(at: offset, Int(truncatingIfNeeded: header.stored))
      try TableCoding.blocks(try Self.unpack(header, stored), into: &rows)
    }
    for index in chunks.indices {
      Budget.current?.note(done: index, of: chunks.count)
      guard meter.goesOn(), let rows = decoder.next() else { break }
      switch rows {
      case .success(let rows):
        blocksUntil = max(blocksUntil, rows.until)
        body(rows.blocks)
        decoder.recycle([rows])
      case .failure:
        broken.append(index)
        note("a chunk of blocks contradicts the format")
      }
    }
    let gone = Set(broken)
    blockChunks = chunks.enumerated().filter { !gone.contains($0.offset) }.map(\.element)
  }

  /// Whether it has no events, as a snapshot, and no two of its blocks have one base: then each
  /// moment of it has all its blocks, and nothing needs to be replayed.
  public var isStill: Bool { eventChunks.isEmpty && knowledgeOfBlocks().areDistinct }

  /// The sums of all blocks, by their times relative to the recording's end; nil unless it
  /// `isStill`.
  var stillSums: BlockSums? { isStill ? knowledgeOfBlocks().sums : nil }

  /// Whether the chunks of blocks have all that live at each moment, by address.
  var areStillBlocksSorted: Bool { isStill && knowledgeOfBlocks().areSorted }

  /// All blocks by address; nil unless it `isStill`.
  var stillBlocks: [ReplayedBlock]? {
    guard isStill else { return nil }
    var blocks: [ReplayedBlock] = []
    let share = MemoryShare()
    forEachBlocks { rows in
      guard share.hold(2 &* (blocks.count &+ rows.count) &* MemoryLayout<ReplayedBlock>.stride) else { return }
      blocks.append(contentsOf: rows)
    }
    if !knowledgeOfBlocks().areSorted { blocks.sort { $0.base < $1.base } }
    return blocks
  }

  private func knowledgeOfBlocks() -> (sums: BlockSums, areDistinct: Bool, areSorted: Bool) {
    if let still { return still }
    var sums = BlockSums(contexts: contextCount)
    var runs = AscendingRuns()
    let now = allocs_event_ticks(endStamp)
    forEachBlocks { blocks in
      for block in blocks {
        runs.add(block.base)
        sums.add(block, at: Self.place(ofTicks: block.ticks, from: now))
      }
    }
    let known = (sums: sums, areDistinct: runs.areDistinct, areSorted: runs.isOne)
    // Where the budget ended the reading, this is a part, which nobody keeps.
    if Budget.current?.isExhausted != true { still = known }
    return known
  }

  /// Ticks from `now` to a record's ticks, which wrap around: what is half a wrap older is younger,
  /// as a damaged recording may have it.
  @inline(__always)
  static func place(ofTicks ticks: UInt32, from now: UInt32) -> Int64 {
    let age = Int64(truncatingIfNeeded: (now &- ticks) & UInt32(truncatingIfNeeded: ALLOCS_TICK_MASK))
    return age < 1 << (Int64(ALLOCS_TICK_BITS) &- 1) ? 0 &- age : 1 << Int64(ALLOCS_TICK_BITS) &- age
  }

  /// Ids of contexts below it are those of rows of the table, most of them.
  var contextCount: Int {
    let greatest = Int(truncatingIfNeeded: greatestContext)
    return greatest <= 4 &* origins.count &+ 1024 ? greatest &+ 1 : 1024
  }

  // MARK: events

  /// Gives `body` every event, in the order of stamps, until `body` returns false, or the budget is
  /// exhausted. A chunk that turns out to be damaged is added to `losses`.
  public func forEachEvent<Failure: Error>(_ body: (Event) throws(Failure) -> Bool) throws(Failure) {
    try forEachRecords { (records) throws(Failure) in
      for record in records { guard try body(Event(record)) else { return false } }
      return true
    }
  }

  /// Bytes that a chunk of events takes: 32 MB of records, and 16 MB of tables while it is decoded.
  private static let eventMemory = 48 << 20

  /// As `forEachEvent`, of records as the process wrote them, some at a time; of those with stamps
  /// in a range. Chunks whose headers have none of these are not unpacked.
  func forEachRecords<Failure: Error>(
    from: UInt64 = 0, through: UInt64 = .max, _ body: (ArraySlice<allocs_event>) throws(Failure) -> Bool
  ) throws(Failure) {
    let all = eventChunks
    let places = all.indices.filter { all[$0].header.firstStamp <= through && all[$0].header.lastStamp >= from }
    // Events of later chunks are not older than this.
    var later = Array(repeating: UInt64.max, count: places.count &+ 1)  // bounded: as many as chunks
    for index in places.indices.reversed() {
      later[index] = min(later[index &+ 1], all[places[index]].header.firstStamp)
    }
    // Records behind the range wait in vain.
    let end = through == .max ? nil : through &+ 1
    func within(_ records: ArraySlice<allocs_event>) -> ArraySlice<allocs_event> {
      guard let last = records.last, last.stamp > through else { return records }
      return records.prefix { $0.stamp <= through }
    }
    var merge = EventMerge()
    var broken: [Int] = []
    defer { giveUp(broken) }
    var meter = BudgetMeter(interval: 1)
    let reader = source.reader
    let decoder = ChunkDecoder(count: places.count, memory: Self.eventMemory, none: [] as [allocs_event]) {
      (index, records) throws(MalformedChunk) in
      let (offset, header) = all[places[index]]
      try Self.decode(header, reader.bytes(at: offset, Int(truncatingIfNeeded: header.stored)), into: &records)
    }
    for (index, place) in places.enumerated() {
      Budget.current?.note(done: place, of: all.count)
      guard meter.goesOn(), let records = decoder.next() else { return }
      switch records {
      case .success(let records): merge.add(records, from: from)
      case .failure:
        broken.append(place)
        continue
      }
      let limit = min(later[index &+ 1], end ?? .max)
      guard try merge.drain(below: limit, { (records) throws(Failure) in try body(within(records)) }) else { return }
      decoder.recycle(merge.takeUsed())
    }
    _ = try merge.drain(below: end) { (records) throws(Failure) in try body(within(records)) }
  }

  /// Puts the records of a chunk that is stored so into `records`, in the order of their stamps.
  private static func decode(
    _ header: ChunkHeader, _ stored: [UInt8], into records: inout [allocs_event]
  ) throws(MalformedChunk) {
    // bounded: a chunk's events, which are few enough to be multiplied
    let count = Int(truncatingIfNeeded: header.events)
    guard count <= RecordingFormat.eventsPerChunk, header.unpacked <= RecordingFormat.mostBytes(ofEvents: count) else {
      throw MalformedChunk()
    }
    try EventDecoder.decode(try unpack(header, stored), count: count, into: &records)
    EventMerge.sort(&records)
  }

  // MARK: net effects

  /// The net effects in the order of their spans, where they may be used.
  func effectPlan() -> EffectPlan {
    guard usesEffects, !effectChunks.isEmpty, !eventChunks.isEmpty else { return EffectPlan() }
    return EffectPlan(effectChunks.map(\.header), of: eventChunks.map(\.header))
  }

  /// The net effect in a chunk of an `EffectPlan`; nil if it may not be used. `share`: of effects,
  /// of which one at a time is in memory.
  func effect(_ span: EffectPlan.Span, _ share: MemoryShare) -> NetEffect? {
    let (offset, header) = effectChunks[span.index]
    do throws(MalformedChunk) {
      let size = Int(truncatingIfNeeded: header.unpacked)
      guard size <= NetEffect.payloadLimit else { throw MalformedChunk() }
      guard share.hold(size &* NetEffect.unpackedMemory) else { return nil }
      let effect = try NetEffect(
        Self.unpack(header, bytes(at: offset, Int(truncatingIfNeeded: header.stored))))
      guard effect.from == span.from, effect.until == span.until else { throw MalformedChunk() }
      // A block whose end is missing would live on.
      return effect.listsAll || effect.until < firstLoss ? effect : nil
    } catch {
      if notedEffects.insert(offset).inserted { note("a net effect contradicts the format: events are taken instead") }
      return nil
    }
  }

  /// Counts the events of chunks that turned out to be damaged, by their indices, as lost.
  private func giveUp(_ broken: [Int]) {
    guard !broken.isEmpty else { return }
    for index in broken {
      let header = eventChunks[index].header
      eventCount &-= UInt64(truncatingIfNeeded: header.events)
      note("a chunk of events contradicts the format")
      lose(UInt64(truncatingIfNeeded: header.events), from: header.firstStamp, to: header.lastStamp)
    }
    let gone = Set(broken)
    eventChunks = eventChunks.enumerated().filter { !gone.contains($0.offset) }.map(\.element)
  }
}
