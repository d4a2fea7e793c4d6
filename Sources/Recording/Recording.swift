// SPDX-License-Identifier: Apache-2.0
// A recording as it is read: its tables in memory, its events chunk by chunk.
//
// Threat: the file may come from anybody. Lengths are bounded before memory is taken, and checksums
// are compared before bytes are believed. Bytes with a right checksum may still contradict the
// format: then their chunk counts as damaged. Damage is said and counted (`problems`, `losses`);
// the rest is kept.

import Answers
import ByteText
import CZstd
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
  /// In words: damage of the file, and what the recorder could not read.
  public private(set) var problems: [String] = []
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
  /// Where in `modules` the one with an index is.
  private var moduleOfIndex: [UInt32: Int] = [:]

  private var damagedRings: [DamagedRing] = []

  private let descriptor: Int32
  private let fileSize: Int
  private var eventChunks: [(offset: Int, header: ChunkHeader)] = []
  /// Offsets in the file at which whole chunks begin.
  public private(set) var chunkOffsets: [Int] = []
  /// Offsets in the file at which those chunks of events begin that can be read.
  public var eventChunkOffsets: [Int] { eventChunks.map { $0.offset - RecordingFormat.chunkHeaderSize } }
  private var nodes: [UInt32: StackNode] = [:]
  private var origins: [UInt32: Origin] = [:]
  /// Numbers of allocators, by their names, in the order in which contexts name them.
  private var allocators: [String: UInt32] = [:]
  private var threads: [UInt32: [ThreadIdentity]] = [:]
  /// The names at the file's end, and the names that were looked up since.
  private var functions: [NameKey: [Frame]] = [:]
  /// Names that were found with the standard wrappers.
  public let names = NameCache()
  /// The blocks that the recorder's look at the index found, each as it was when the look came by.
  public private(set) var blocks: [Allocation] = []
  /// Stamp of the end of that look; 0 if the file does not have all of it.
  public private(set) var blocksUntil: UInt64 = 0
  private let symbolizer = Symbolizer()
  private var unpackedTables = 0
  /// So many bytes of unpacked tables are taken into memory at most.
  private static let tableLimit = 2 << 30

  /// Opens the file at `path`, reads its tables and checks all checksums. Throws if it is no
  /// recording, or one of another version of the format, or so damaged that nobody knows whose it
  /// is.
  public init(path: String) throws(Complaint) {
    self.path = path
    process = RecordedProcess(
      processID: 0, startTime: 0, command: [], monotonic: 0, realtime: 0, hasFullStacks: false, isFromStart: false)
    descriptor = open(path.originalPath, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      fileSize = 0
      throw Complaint(
        .obstacle, what: "cannot read the recording \(path): \(systemWords(errno))", advice: "check the path")
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      fileSize = 0
      throw Complaint(.obstacle, what: "cannot read the recording \(path): it is not a file", advice: "check the path")
    }
    fileSize = Int(status.st_size)
    try checkHeader()
    load()
    guard process.processID != 0 else {
      throw Complaint(
        .obstacle, what: "cannot read the recording \(path): it was cut or damaged before it says what was recorded",
        advice: "record again")
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  // MARK: the file

  private func bytes(at offset: Int, _ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, read in
      read = 0
      while read < count {
        let result = pread(descriptor, buffer.baseAddress! + read, count - read, off_t(offset + read))
        if result < 0, errno == EINTR { continue }
        guard result > 0 else { break }
        read += result
      }
    }
  }

  /// Whether `path` leads to this recording's file.
  func isFile(at path: String) -> Bool {
    var own = stat()
    var other = stat()
    return fstat(descriptor, &own) == 0 && stat(path.originalPath, &other) == 0 && own.st_dev == other.st_dev
      && own.st_ino == other.st_ino
  }

  private func checkHeader() throws(Complaint) {
    let header = bytes(at: 0, RecordingFormat.headerSize)
    let magic = (0..<8).reduce(UInt64(0)) { $1 < header.count ? $0 | UInt64(header[$1]) << UInt64($1 * 8) : $0 }
    guard header.count >= 8, magic == RecordingFormat.magic else {
      throw Complaint(.obstacle, what: "\(path) is no recording", advice: "`allocsctl record` makes them")
    }
    guard header.count == RecordingFormat.headerSize else {
      throw Complaint(
        .obstacle, what: "cannot read the recording \(path): it has \(header.count) bytes, less than its header",
        advice: "record again")
    }
    guard header[28...].word(at: 28) == CRC32C.of(header[..<28]) else {
      throw Complaint(
        .obstacle, what: "cannot read the recording \(path): its header is damaged",
        advice: "take an undamaged copy, or record again")
    }
    let version = header[8...].word(at: 8)
    guard version == RecordingFormat.version else {
      throw Complaint(
        .obstacle,
        what:
          "cannot read the recording \(path): it has version \(version) of the format, and this allocsctl knows "
          + "version \(RecordingFormat.version)",
        advice: "use the allocsctl that made it")
    }
  }

  /// Reads the headers of all chunks and the tables, and checks every checksum.
  private func load() {
    var offset = RecordingFormat.headerSize
    var number: UInt32 = 0
    var events: UInt64 = 0
    var last: UInt64 = 0
    var isTailMissing = false
    while offset < fileSize {
      let head = bytes(at: offset, RecordingFormat.chunkHeaderSize)
      guard let header = ChunkHeader(head[...]) else {
        guard let next = nextChunk(after: offset) else {
          problems.append("the last \(fileSize - offset) bytes are no whole chunk")
          isTailMissing = true
          break
        }
        problems.append("\(next - offset) bytes at offset \(offset) are damaged")
        offset = next
        continue
      }
      let start = offset + RecordingFormat.chunkHeaderSize
      if header.number != number, header.number > number {
        problems.append("\(header.number - number) chunks before offset \(offset) are missing")
      }
      number = header.number &+ 1
      if header.eventsBefore > events {
        lose(header.eventsBefore - events, from: last, to: header.events > 0 ? header.firstStamp : .max)
        events = header.eventsBefore
      }
      guard Int(header.stored) <= fileSize - start else {
        problems.append("the last chunk has \(fileSize - start) of \(header.stored) bytes")
        lose(UInt64(header.events), from: header.firstStamp, to: header.lastStamp)
        isTailMissing = true
        break
      }
      let stored = bytes(at: start, Int(header.stored))
      chunkOffsets.append(offset)
      if CRC32C.of(stored) != header.payloadChecksum {
        problems.append("the chunk at offset \(offset) is damaged")
        lose(UInt64(header.events), from: header.firstStamp, to: header.lastStamp)
      } else if header.kind == RecordingFormat.ChunkKind.events.rawValue {
        eventChunks.append((start, header))
        eventCount &+= UInt64(header.events)
        if header.events > 0 {
          firstStamp = min(firstStamp, header.firstStamp)
          lastStamp = max(lastStamp, header.lastStamp)
        }
      } else {
        do { try table(header, stored) } catch {
          problems.append("the chunk at offset \(offset) contradicts the format")
        }
      }
      events &+= UInt64(header.events)
      if header.events > 0 { last = header.lastStamp }
      offset = start + Int(header.stored)
    }
    if end == nil, !isTailMissing { problems.append("it has no end: whoever recorded it was killed, or still records") }
    endStamp = max(endStamp, lastStamp)
    if firstStamp > lastStamp { firstStamp = endStamp }
    notePartsThatWereNotRecorded()
    index()
  }

  /// Notes what the recorder could not read, though the file is whole.
  private func notePartsThatWereNotRecorded() {
    for ring in damagedRings {
      problems.append(
        "ring \(ring.ring) of the process was damaged: what its thread did after "
          + "\(Units.duration(seconds(at: ring.stamp))) is not recorded")
    }
    if end == .sourceFailed {
      problems.append("the index of the process was cut short: what the process did after that is not recorded")
    }
  }

  private func lose(_ count: UInt64, from: UInt64, to: UInt64) {
    guard count > 0 else { return }
    losses.append(RecordedLoss(reason: .damaged, ring: 0, count: count, from: from, to: to))
  }

  /// The next whole header behind `offset`.
  private func nextChunk(after offset: Int) -> Int? {
    var start = offset + 1
    let window = 1 << 20
    while start < fileSize {
      let piece = bytes(at: start, min(window + RecordingFormat.chunkHeaderSize, fileSize - start))
      guard piece.count >= RecordingFormat.chunkHeaderSize else { return nil }
      for index in 0...(piece.count - RecordingFormat.chunkHeaderSize)
      where piece[index] == 0x43 && ChunkHeader(piece[index...]) != nil {
        return start + index
      }
      start += window
    }
    return nil
  }

  private func unpack(_ header: ChunkHeader, _ stored: [UInt8]) throws(MalformedChunk) -> [UInt8] {
    guard header.flags & RecordingFormat.flagZstd != 0 else {
      guard stored.count == Int(header.unpacked) else { throw MalformedChunk() }
      return stored
    }
    // The chunk's header bounds the memory, whatever the frame says of its size.
    let result = [UInt8](unsafeUninitializedCapacity: Int(header.unpacked)) { buffer, count in
      let size = ZSTD_decompress(buffer.baseAddress, buffer.count, stored, stored.count)
      count = ZSTD_isError(size) != 0 ? 0 : size
    }
    guard result.count == Int(header.unpacked) else { throw MalformedChunk() }
    return result
  }

  // MARK: tables

  private func table(_ header: ChunkHeader, _ stored: [UInt8]) throws(MalformedChunk) {
    // A kind that this reader doesn't know comes from a later writer, and is skipped.
    guard let kind = RecordingFormat.ChunkKind(rawValue: header.kind) else { return }
    unpackedTables += Int(header.unpacked)
    guard unpackedTables <= Self.tableLimit else { throw MalformedChunk() }
    var reader = NumberReader(try unpack(header, stored))
    switch kind {
    case .process: process = try RecordedProcess(&reader)
    case .modules:
      for module in try TableCoding.modules(&reader) {
        modules.removeAll { $0.index == module.index }
        modules.append(module)
      }
    case .nodes:
      let (first, rows) = try TableCoding.nodes(&reader)
      for (index, node) in rows.enumerated() { nodes[first + UInt32(index)] = node }
    case .contexts:
      let (first, rows) = try TableCoding.contexts(&reader)
      for (index, context) in rows.enumerated() { origins[first + UInt32(index)] = origin(context) }
    case .threads:
      for thread in try TableCoding.threads(&reader) {
        var holders = threads[thread.slot] ?? []
        holders.removeAll { $0.id == thread.id && $0.startTicks == thread.startTicks }
        holders.append(thread)
        threads[thread.slot] = holders
      }
    case .blocks:
      let (until, blocks) = try TableCoding.blocks(&reader)
      blocksUntil = max(blocksUntil, until)
      self.blocks += blocks
    case .losses: losses += try TableCoding.losses(&reader)
    case .damagedRings: damagedRings += try TableCoding.damagedRings(&reader)
    case .names: for (key, frames) in try TableCoding.names(&reader) { functions[key] = frames }
    case .end:
      end = RecordingEnd(rawValue: try reader.number())
      endStamp = try reader.number()
    case .events: break
    }
  }

  private func index() {
    modules.sort { $0.index < $1.index }
    moduleOfIndex = Dictionary(modules.enumerated().map { ($1.index, $0) }) { $1 }
    let byIndex = Dictionary(modules.map { ($0.index, $0) }) { $1 }
    for key in functions.keys {
      guard let module = byIndex[key.module] else { continue }
      for index in functions[key]!.indices {
        functions[key]![index].module = module.path
        guard functions[key]![index].function == nil else { continue }
        let instruction = key.isExact ? key.pc : key.pc &- 1
        functions[key]![index].place = Frame.FilePlace(address: instruction &- module.bias, buildID: module.buildID)
      }
    }
  }

  /// How many events are missing, whatever the reason.
  public var lostCount: UInt64 { losses.reduce(0) { $0 &+ $1.count } }

  // MARK: what events refer to

  private func origin(_ context: RecordedContext) -> Origin {
    var origin = Origin(node: context.node, threadSlot: context.threadSlot, function: context.function)
    guard let allocator = context.allocator else { return origin }
    let name = Origin.fileName(of: allocator)
    let number = allocators[name] ?? UInt32(allocators.count)
    allocators[name] = number
    (origin.allocator, origin.allocatorNumber) = (name, number)
    return origin
  }

  public func context(_ id: UInt32) -> Origin? { origins[id] }
  public func node(_ id: UInt32) -> StackNode? { nodes[id] }

  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? {
    guard let holders = threads[slot] else { return nil }
    // Of the threads that had begun by then, the latest.
    return holders.filter { allocs_ticks_between($0.startTicks, ticks) < 1 << (ALLOCS_TICK_BITS - 1) }
      .min { allocs_ticks_between($0.startTicks, ticks) < allocs_ticks_between($1.startTicks, ticks) }
  }

  public func module(at call: CallAddress, ticks: UInt32) -> Module? {
    switch call.holder {
    case .none, .dropped, .forgotten: return nil
    case .module(let index): return moduleOfIndex[index].map { modules[$0] }
    case .unsaid: break
    }
    let address = call.instruction
    return modules.last { module in
      guard Self.held(module, address), Module.wasLoaded(at: module.loadTicks, before: ticks) else { return false }
      guard let unloaded = module.unloadTicks else { return true }
      return allocs_ticks_between(ticks, unloaded) < 1 << (ALLOCS_TICK_BITS - 1)
    }
  }

  /// Whether a module held an address of which nodes say nothing.
  private static func held(_ module: Module, _ address: UInt64) -> Bool {
    module.start <= address && address < module.end && !module.isLater
  }

  public func isOnly(_ module: Module?, at address: UInt64) -> Bool {
    module?.unloadTicks == nil && modules.allSatisfy { $0.index == module?.index || !Self.held($0, address) }
  }

  public func isAgent(_ address: UInt64) -> Bool {
    modules.first { $0.isAgent }.map { $0.start <= address && address < $0.end } ?? false
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

  /// Seconds since 1970-01-01 UTC.
  public func wallTime(of stamp: UInt64) -> Double {
    (Double(process.realtime) + Double(Int64(bitPattern: stamp &- process.monotonic))) / 1e9
  }

  // MARK: events

  /// Gives `body` every event, in the order of stamps, until `body` returns false. A chunk that
  /// turns out to be damaged is added to `losses`.
  public func forEachEvent<Failure: Error>(_ body: (Event) throws(Failure) -> Bool) throws(Failure) {
    // Events of later chunks are not older than this.
    var later = [UInt64](repeating: .max, count: eventChunks.count + 1)
    for index in eventChunks.indices.reversed() {
      later[index] = min(later[index + 1], eventChunks[index].header.firstStamp)
    }
    // So many events wait at most for older ones of other rings; only a damaged file has more.
    let waitingLimit = 1 << 23
    var waiting: [allocs_event] = []
    var broken: [Int] = []
    defer {
      for index in broken.reversed() {
        let header = eventChunks.remove(at: index).header
        eventCount -= UInt64(header.events)
        problems.append("a chunk of events contradicts the format")
        lose(UInt64(header.events), from: header.firstStamp, to: header.lastStamp)
      }
    }
    for (index, chunk) in eventChunks.enumerated() {
      do {
        let payload = try unpack(chunk.header, bytes(at: chunk.offset, Int(chunk.header.stored)))
        for batch in try EventDecoder.decode(payload, count: Int(chunk.header.events)) { waiting += batch.records }
      } catch {
        broken.append(index)
        continue
      }
      Self.sort(&waiting)
      let limit = waiting.count > waitingLimit ? UInt64.max : later[index + 1]
      var done = 0
      while done < waiting.count, waiting[done].stamp < limit {
        guard try body(Event(waiting[done])) else { return }
        done += 1
      }
      waiting.removeFirst(done)
    }
    for record in waiting { guard try body(Event(record)) else { return } }
  }

  /// Sorts by stamp; records with equal stamps keep their order.
  private static func sort(_ records: inout [allocs_event]) {
    var isSorted = true
    for index in records.indices.dropFirst() where records[index].stamp < records[index - 1].stamp {
      isSorted = false
      break
    }
    if isSorted { return }
    let order = records.indices.sorted {
      (records[$0].stamp, $0) < (records[$1].stamp, $1)
    }
    records = order.map { records[$0] }
  }
}
