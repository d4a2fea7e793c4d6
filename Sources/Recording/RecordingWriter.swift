// From records of rings to the bytes of a recording. Knows nothing of files: whoever uses it writes what it has collected.
//
// Invariant: what a chunk of events refers to (nodes, contexts, modules) stands in chunks before it.

import CZstd
import Glibc
import IndexReader
import SharedLayout
import Symbols

/// Makes the chunks of one recording. Used by one thread.
final class RecordingWriter {
  /// Bytes that are to be written next.
  private(set) var output: [UInt8] = []
  private(set) var events: UInt64 = 0
  private(set) var lost: UInt64 = 0

  private let shared: SharedSegment
  private let compressor: OpaquePointer?
  private var encoder = EventEncoder()
  private var chunks: UInt32 = 0
  private var eventsInChunks: UInt64 = 0
  private var losses: [RecordedLoss] = []
  private var knownContexts: [UInt64] = []
  private var knownNodes: [UInt64] = []
  private var newContexts: [(id: UInt32, context: RecordedContext)] = []
  private var newNodes: [(id: UInt32, node: StackNode)] = []
  private var modules = ModuleTableVersion()
  private var moduleTable: [Module] = []
  private var threads: [ThreadIdentity: Bool] = [:]
  private var names: Set<NameKey> = []

  /// Level of zstd: an eighth smaller than with 3, its default.
  private static let level: Int32 = 6

  init(_ shared: SharedSegment, isCompressed: Bool, isFromStart: Bool) {
    self.shared = shared
    compressor = isCompressed ? ZSTD_createCCtx() : nil
    output = RecordingFormat.fileHeader
    let segment = shared
    let process = RecordedProcess(
      processID: segment.segment.processID, startTime: segment.segment.startTime, command: segment.segment.command,
      monotonic: Self.now(CLOCK_MONOTONIC), realtime: Self.now(CLOCK_REALTIME),
      hasFullStacks: segment.segment.hasFullStacks, isFromStart: isFromStart)
    append(.process, process.encoded())
    noteTables()
  }

  deinit { if let compressor { ZSTD_freeCCtx(compressor) } }

  static func now(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// Takes the bytes away.
  func takeOutput() -> [UInt8] {
    defer { output.removeAll(keepingCapacity: true) }
    return output
  }

  // MARK: what there is

  /// The index as it is now: what lives. Events must be on already; what changes meanwhile, they tell.
  func appendBlocks() {
    var blocks: [Allocation] = []
    var isDone = false
    func flush() {
      noteTables()
      appendNewOrigins()
      append(.blocks, TableCoding.encode(blocks, until: isDone ? Self.now(CLOCK_MONOTONIC) : 0))
      blocks.removeAll(keepingCapacity: true)
    }
    shared.segment.forEachAllocation { allocation in
      blocks.append(allocation)
      note(context: allocation.context, at: allocation.ticks)
      if blocks.count == 1 << 18 { flush() }
    }
    isDone = true
    flush()
  }

  /// Records of one ring; `first` is the position of the first.
  func append(_ records: UnsafeBufferPointer<allocs_event>, ring: Int, first: UInt64) {
    var rest = records
    var position = first
    while !rest.isEmpty {
      let taken = encoder.add(rest, ring: ring, first: position)
      for record in rest[..<taken] { note(record) }
      events += UInt64(taken)
      position += UInt64(taken)
      rest = UnsafeBufferPointer(rebasing: rest[taken...])
      if encoder.isFull { appendEvents() }
    }
  }

  func lose(_ loss: RecordedLoss) {
    lost &+= loss.count
    losses.append(loss)
    if losses.count >= 4096 { appendLosses() }
  }

  /// Makes a chunk of what has been collected.
  func appendEvents() {
    noteTables()
    appendNewOrigins()
    appendLosses()
    guard encoder.count > 0 else { return }
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    header.events = UInt32(encoder.count)
    header.firstStamp = encoder.firstStamp
    header.lastStamp = encoder.lastStamp
    append(header, encoder.take())
    eventsInChunks += UInt64(header.events)
  }

  private func appendLosses() {
    guard !losses.isEmpty else { return }
    append(.losses, TableCoding.encode(losses))
    losses.removeAll()
  }

  /// The last chunks: names of all addresses in stacks, and how it ended.
  func finish(_ end: RecordingEnd, symbolizer: Symbolizer?) {
    appendEvents()
    if let symbolizer { appendNames(symbolizer) }
    var bytes: [UInt8] = []
    bytes.append(number: end.rawValue)
    bytes.append(number: Self.now(CLOCK_MONOTONIC))
    bytes.append(number: events)
    bytes.append(number: lost)
    append(.end, bytes)
  }

  private func appendNames(_ symbolizer: Symbolizer) {
    var rows: [(key: NameKey, frames: [Frame])] = []
    let byIndex = Dictionary(moduleTable.map { ($0.index, $0) }) { $1 }
    for key in names.sorted(by: { ($0.module, $0.pc) < ($1.module, $1.pc) }) {
      guard let module = byIndex[key.module] else { continue }
      let frames = symbolizer.frames(pc: key.pc, isExact: key.isExact, in: module)
      guard frames.contains(where: { $0.function != nil }) else { continue }
      rows.append((key, frames))
      if rows.count == 4096 {
        append(.names, TableCoding.encode(rows))
        rows.removeAll()
      }
    }
    if !rows.isEmpty { append(.names, TableCoding.encode(rows)) }
  }

  // MARK: what events refer to

  @inline(__always)
  private func note(_ record: allocs_event) {
    switch allocs_event_kind_of(record.place) {
    case ALLOCS_EVENT_MODULE_LOAD.rawValue, ALLOCS_EVENT_MODULE_UNLOAD.rawValue,
      ALLOCS_EVENT_THREAD_START.rawValue, ALLOCS_EVENT_THREAD_END.rawValue:
      break
    default:
      let context = allocs_event_context(record.source)
      let origin = allocs_event_origin(record.source)
      if context != 0, !Self.contains(knownContexts, context) { note(context: context, at: Event(record).ticks) }
      if origin != 0, !Self.contains(knownContexts, origin) { note(context: origin, at: Event(record).ticks) }
    }
  }

  @inline(__always)
  private static func contains(_ set: [UInt64], _ id: UInt32) -> Bool {
    Int(id >> 6) < set.count && set[Int(id >> 6)] & 1 << UInt64(id & 63) != 0
  }

  private static func insert(_ id: UInt32, into set: inout [UInt64]) {
    let word = Int(id >> 6)
    if word >= set.count { set += Array(repeating: 0, count: max(set.count, word + 1 - set.count)) }
    set[word] |= 1 << UInt64(id & 63)
  }

  private func note(context id: UInt32, at ticks: UInt32) {
    // An id beyond the table is damage, and no reason to take memory.
    guard id != 0, id < ALLOCS_NODE_LIMIT, !Self.contains(knownContexts, id) else { return }
    guard let context = shared.segment.context(id) else { return }
    Self.insert(id, into: &knownContexts)
    newContexts.append((id, RecordedContext(context)))
    var next = context.node
    while next != 0, !Self.contains(knownNodes, next), let node = shared.segment.node(next) {
      Self.insert(next, into: &knownNodes)
      newNodes.append((next, node))
      if let module = module(containing: node.pc, at: ticks) {
        names.insert(NameKey(pc: node.pc, isExact: node.isInterrupted, module: module))
      }
      next = node.parent
    }
  }

  private func module(containing pc: UInt64, at ticks: UInt32) -> UInt32? {
    if shared.segment.moduleTableVersion != modules { noteModules() }
    return moduleTable.last { $0.start <= pc && pc < $0.end && $0.unloadTicks == nil }?.index
      ?? shared.segment.module(containing: pc, at: ticks)?.index
  }

  private func appendNewOrigins() {
    if !newNodes.isEmpty {
      append(.nodes, TableCoding.encode(newNodes))
      newNodes.removeAll(keepingCapacity: true)
    }
    if !newContexts.isEmpty {
      append(.contexts, TableCoding.encode(newContexts))
      newContexts.removeAll(keepingCapacity: true)
    }
  }

  /// Modules and threads that are new or changed.
  func noteTables() {
    if shared.segment.moduleTableVersion != modules { noteModules() }
    var changed: [ThreadIdentity] = []
    for var thread in shared.segment.formerThreads + shared.segment.threads {
      // Its counters and bounds are no part of the recording, and change all the time.
      (thread.allocations, thread.frees, thread.stack) = (0, 0, nil)
      if threads.updateValue(true, forKey: thread) == nil { changed.append(thread) }
    }
    if !changed.isEmpty { append(.threads, TableCoding.encode(changed)) }
  }

  private func noteModules() {
    modules = shared.segment.moduleTableVersion
    let known = Set(moduleTable)
    moduleTable = shared.segment.modules
    let changed = moduleTable.filter { !known.contains($0) }
    if !changed.isEmpty { append(.modules, TableCoding.encode(changed)) }
  }

  // MARK: chunks

  private func append(_ kind: RecordingFormat.ChunkKind, _ payload: [UInt8]) {
    append(ChunkHeader(kind: kind.rawValue), payload)
  }

  private func append(_ header: ChunkHeader, _ payload: [UInt8]) {
    var header = header
    var stored = payload
    if let compressor, let packed = Self.compress(payload, compressor), packed.count < payload.count {
      stored = packed
      header.flags |= RecordingFormat.flagZstd
    }
    header.unpacked = UInt32(payload.count)
    header.number = chunks
    header.eventsBefore = eventsInChunks
    chunks &+= 1
    output += header.chunk(of: stored)
  }

  private static func compress(_ bytes: [UInt8], _ compressor: OpaquePointer) -> [UInt8]? {
    var result = 0
    let packed = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
      result = ZSTD_compressCCtx(compressor, buffer.baseAddress, buffer.count, bytes, bytes.count, level)
      count = ZSTD_isError(result) != 0 ? 0 : result
    }
    return ZSTD_isError(result) != 0 ? nil : packed
  }
}
