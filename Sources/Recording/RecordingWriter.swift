// SPDX-License-Identifier: Apache-2.0
// From records of rings to the bytes of a recording. The writer knows nothing of files: the
// recorder takes the bytes and writes them.
//
// Invariant: the nodes, contexts and modules that a chunk of events refers to stand in chunks
// before it.

import Answers
import Bounds
import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import SystemAccess

/// Makes the chunks of one recording. Used by one thread.
final class RecordingWriter {
  /// Bytes that are to be written next.
  private(set) var output: [UInt8] = []
  /// Events so far.
  private(set) var events: UInt64 = 0
  /// Events that are missing so far.
  private(set) var lost: UInt64 = 0

  let shared: SharedSegment
  private let compressor: ChunkCompressor?
  private var encoder = EventEncoder()
  private let spans = SpanWorker()
  /// The rings that had records: a bit for each.
  private var knownRings: [UInt64] = []
  /// No events with stamps up to this one are expected any more.
  private var completeUntil: UInt64 = 0
  /// When the last reading of all rings began; 0 before the first.
  private var lastRead: UInt64 = 0
  private var chunks: UInt32 = 0
  private var eventsInChunks: UInt64 = 0
  private var losses: [RecordedLoss] = []
  private(set) var damagedRings = 0
  /// A bit for each context of the segment that has a number in the recording.
  private var knownContexts: [UInt64] = []
  /// The numbers of nodes in the recording, by their ids in the segment; 0 while a node's stack is
  /// being noted.
  private var nodeNumbers: [UInt32: UInt32] = [:]
  /// The numbers of contexts in the recording, from 1, by their ids in the segment.
  private var contextNumbers: [UInt32: UInt32] = [:]
  /// The contexts that are in no chunk yet. They have the highest numbers.
  private var newContexts: [RecordedContext] = []
  /// The time that is added to the recorder's clock to get the process's, in which stamps count:
  /// the process may be in another time namespace.
  private let shift: UInt64
  private var nodeCount: UInt32 = 0
  /// The nodes that are in no chunk yet. They have the highest numbers.
  private var newNodes: [StackNode] = []
  private var modules = ModuleTableVersion()
  /// The segment's table of modules, each module with its number in the recording as its index.
  private var moduleTable: [Module] = []
  /// Modules that have gone, and whose entries in the table other modules have now.
  private var formerModules: [Module] = []
  /// Numbers in the recording, by index in the table, of modules whose entries other modules had
  /// before. The number of any other module is its index.
  private var moduleNumbers: [UInt32: UInt32] = [:]
  private var nextModuleNumber = ALLOCS_MODULE_CAPACITY
  private var threads: [ThreadIdentity: Bool] = [:]
  private var names: Set<NameKey> = []
  /// Calls that lie in no module: in code that the process has made.
  private var madeCalls: Set<UInt64> = []
  /// The memory of these tables: the segment may have any number of stacks, of any depth.
  private let share = MemoryShare()
  private let madeCode: MadeCode

  init(_ shared: SharedSegment, isCompressed: Bool, isFromStart: Bool) {
    self.shared = shared
    madeCode = MadeCode(of: ModuleReference.Process(of: shared.segment), innerID: shared.segment.processID)
    compressor = isCompressed ? ChunkCompressor() : nil
    output = RecordingFormat.fileHeader
    let segment = shared
    shift = UInt64(bitPattern: segment.segment.monotonicShift)
    let process = RecordedProcess(
      processID: segment.segment.processID, startTime: segment.segment.startTime, command: segment.segment.command,
      monotonic: nanoseconds(of: CLOCK_MONOTONIC) &+ shift, realtime: nanoseconds(of: CLOCK_REALTIME),
      hasFullStacks: segment.segment.hasFullStacks, isFromStart: isFromStart)
    append(.process, process.encoded())
    noteTables()
  }

  /// Now, as the process would stamp an event.
  var stampNow: UInt64 { nanoseconds(of: CLOCK_MONOTONIC) &+ shift }

  /// The bytes that are to be written next; the writer keeps none of them.
  func takeOutput() -> [UInt8] {
    appendEffects(all: false)
    collect(all: false)
    defer { output.removeAll(keepingCapacity: true) }
    return output
  }

  // MARK: blocks and events

  /// Writes the blocks of the index as it is now, or those that are meant. Where a recording has
  /// events, they must be on already: they tell of the blocks that come and go meanwhile.
  func appendBlocks(where isMeant: (Allocation) -> Bool = { _ in true }) {
    var blocks: [Allocation] = []
    var isDone = false
    // A snapshot is written when it is whole. Where it takes more memory than a question may have,
    // the loop below ends early, and the question with it.
    let share = MemoryShare()
    func flush() {
      appendTables()
      append(.blocks, TableCoding.encode(blocks, until: isDone ? stampNow : 0))
      // With the chunk that is being made, and what it is compressed by.
      share.hold(output.count &* 2 &+ Self.chunkMemory)
      blocks.removeAll(keepingCapacity: true)
    }
    shared.segment.forEachAllocation { allocation in
      guard isMeant(allocation) else { return }
      note(context: allocation.context, at: allocation.ticks)
      var block = allocation
      block.context = number(ofContext: allocation.context)
      blocks.append(block)
      if blocks.count == 1 << 18 { flush() }
    }
    isDone = true
    flush()
  }

  private static let chunkMemory = 32 << 20

  /// The number of a context in the recording, which it gets if it has none; nil if the segment
  /// does not have the context.
  func number(noting id: UInt32, at ticks: UInt32) -> UInt32? {
    note(context: id, at: ticks)
    return contextNumbers[id]
  }

  /// Makes chunks of all that was noted since the last.
  func appendTables() {
    noteTables()
    appendNewOrigins()
  }

  /// Adds records of one ring, of which the first has the position `first`.
  func append(_ records: UnsafeBufferPointer<allocs_event>, ring: Int, first: UInt64) {
    for record in records { note(record) }
    noteGaps(in: records, ring: ring)
    var rest = records
    var position = first
    while !rest.isEmpty {
      let taken = encoder.add(rest, ring: ring, first: position, number: number(ofContext:))
      // bounded: the encoder takes no more than there are
      spans.append(UnsafeBufferPointer(rebasing: rest.prefix(taken)), completeUntil: completeUntil)
      events &+= UInt64(truncatingIfNeeded: taken)
      position &+= UInt64(truncatingIfNeeded: taken)
      rest = UnsafeBufferPointer(rebasing: rest[taken...])
      if encoder.isFull { appendEvents() }
    }
  }

  /// Events were off for a thread whose records came before: what it did meanwhile is missing, and
  /// nobody counts it.
  private func noteGaps(in records: UnsafeBufferPointer<allocs_event>, ring: Int) {
    guard let id = UInt32(exactly: ring), id < ALLOCS_RING_COUNT else { return }
    let isKnown = Self.contains(knownRings, id)
    Self.insert(id, into: &knownRings)
    let further = isKnown ? records[...] : records.dropFirst()
    if further.contains(where: { allocs_event_kind_of($0.place) == Event.Kind.resumed.rawValue }) { spans.listAll() }
  }

  /// Notes that all rings are read from now on, until `endRead`.
  func beginRead() {
    let now = stampNow
    // The process may have taken the recorder for dead, and turned events off for a while. Of a
    // thread that had no record before, `noteGaps` can't tell.
    if lastRead != 0, now > lastRead, now &- lastRead > ALLOCS_LEASE_NANOSECONDS / 2 { spans.listAll() }
    lastRead = now
  }

  /// Notes that all rings were read since `beginRead`. Stamps of events that come later are
  /// greater, but for the time that a thread takes between its stamp and its record: most of it is
  /// the timer's period by which the clock lags behind, and the time without a processor.
  func endRead() {
    completeUntil = max(completeUntil, lastRead > Self.lateness ? lastRead &- Self.lateness : 0)
  }

  /// Nanoseconds. An event that comes later costs the net effect of its span.
  private static let lateness: UInt64 = 50_000_000

  /// Notes events that are missing.
  func lose(_ loss: RecordedLoss) {
    lost &+= loss.count
    spans.listAll()
    losses.append(loss)
    if losses.count >= 4096 { appendLosses() }
  }

  /// Notes that nothing more is read from a ring, as its header contradicts itself.
  func noteDamage(ofRing ring: Int) {
    damagedRings &+= 1
    spans.listAll()
    append(.damagedRings, TableCoding.encode([DamagedRing(ring: UInt32(clamping: ring), stamp: stampNow)]))
  }

  /// Makes a chunk of the events that have been collected, and of what they refer to.
  func appendEvents() {
    noteTables()
    // The files with the names of code that the process makes are read while it lives, for the
    // recording's end.
    if let call = madeCalls.first { _ = madeCode.functions(at: call) }
    appendNewOrigins()
    appendLosses()
    guard encoder.count > 0 else { return }
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    header.events = UInt32(truncatingIfNeeded: encoder.count)
    header.firstStamp = encoder.firstStamp
    header.lastStamp = encoder.lastStamp
    append(header, encoder.take())
    eventsInChunks &+= UInt64(truncatingIfNeeded: header.events)
    spans.endChunk(seen: eventsInChunks, completeUntil: completeUntil)
    appendEffects(all: false)
  }

  private func appendEffects(all: Bool) {
    for var effect in spans.take(all: all) {
      for index in effect.born.indices { effect.born[index].context = number(ofContext: effect.born[index].context) }
      var header = ChunkHeader(kind: RecordingFormat.ChunkKind.netEffect.rawValue)
      (header.firstStamp, header.lastStamp) = (effect.from, effect.until)
      append(header, effect.encoded())
    }
  }

  private func appendLosses() {
    guard !losses.isEmpty else { return }
    append(.losses, TableCoding.encode(losses))
    losses.removeAll()
  }

  /// Makes the last chunks: the names of all addresses in stacks, unless `symbolizer` is nil; and
  /// why the recording ends.
  func finish(_ end: RecordingEnd, symbolizer: Symbolizer?) {
    appendEvents()
    if eventsInChunks > 0 {
      spans.endChunk(seen: eventsInChunks, completeUntil: .max)
      appendEffects(all: true)
    }
    if let symbolizer { appendNames(symbolizer) }
    appendMarks()
    var bytes: [UInt8] = []
    bytes.append(number: end.rawValue)
    bytes.append(number: stampNow)
    bytes.append(number: events)
    bytes.append(number: lost)
    append(.end, bytes)
    collect(all: true)
  }

  private func appendNames(_ symbolizer: Symbolizer) {
    var rows: [(key: NameKey, frames: [Frame])] = []
    var size = 0
    let byIndex = Dictionary((formerModules + moduleTable).map { ($0.index, $0) }) { $1 }
    for key in names.sorted(by: { ($0.module, $0.pc) < ($1.module, $1.pc) }) {
      guard let module = byIndex[key.module] else { continue }
      let frames = symbolizer.functions(
        at: CallAddress(pc: key.pc, isExact: key.isExact), in: ModuleReference(module, in: shared.segment)
      ).frames
      guard frames.contains(where: { $0.function != nil }) else { continue }
      rows.append((key, frames))
      size &+= frames.reduce(32) { $0 &+ 16 &+ ($1.function?.byteCount ?? 0) &+ ($1.file?.byteCount ?? 0) }
      if rows.count == 4096 || size > Self.tableBytes {
        append(.names, TableCoding.encode(rows))
        rows.removeAll()
        size = 0
      }
    }
    if !rows.isEmpty { append(.names, TableCoding.encode(rows)) }
    appendMadeNames()
  }

  /// The names of code that the process has made, which its own files tell while it lives.
  private func appendMadeNames() {
    var rows: [(address: UInt64, function: MadeFunction)] = []
    var size = 0
    for address in madeCalls.sorted() {
      for function in madeCode.functions(at: address) {
        rows.append((address, function))
        size &+= 32 &+ function.name.byteCount &+ (function.file?.byteCount ?? 0)
      }
      if rows.count >= 4096 || size > Self.tableBytes {
        append(.madeNames, TableCoding.encode(made: rows))
        rows.removeAll()
        size = 0
      }
    }
    if !rows.isEmpty { append(.madeNames, TableCoding.encode(made: rows)) }
  }

  // MARK: contexts, stacks and modules

  @inline(__always)
  private func note(_ record: allocs_event) {
    let context = allocs_event_context(record.source)
    let origin = allocs_event_origin(record.source)
    switch Event.Kind.Subject(rawValue: allocs_event_subject_of(allocs_event_kind_of(record.place))) {
    case .module, .thread: return
    case .mapping: break
    case .liveBlock, .endedBlock, nil:
      if origin != 0, !Self.contains(knownContexts, origin) { note(context: origin, at: Event(record).ticks) }
    }
    if context != 0, !Self.contains(knownContexts, context) { note(context: context, at: Event(record).ticks) }
  }

  /// The number of a context in the recording; 0 for one that the segment doesn't have.
  private func number(ofContext id: UInt32) -> UInt32 { contextNumbers[id] ?? 0 }

  @inline(__always)
  private static func contains(_ set: [UInt64], _ id: UInt32) -> Bool {
    let word = Int(truncatingIfNeeded: id >> 6)
    return word < set.count && set[word] & 1 << UInt64(id & 63) != 0
  }

  private static func insert(_ id: UInt32, into set: inout [UInt64]) {
    let word = Int(truncatingIfNeeded: id >> 6)
    while word >= set.count { set.append(contentsOf: [UInt64](repeating: 0, count: 64)) }
    set[word] |= 1 << UInt64(id & 63)
  }

  private func note(context id: UInt32, at ticks: UInt32) {
    // An id beyond the table is damage: it must not make the set of bits grow.
    guard id != 0, id < ALLOCS_NODE_LIMIT, !Self.contains(knownContexts, id) else { return }
    guard let context = shared.segment.context(id) else { return }
    Self.insert(id, into: &knownContexts)
    var recorded = RecordedContext(context)
    recorded.node = note(node: context.node, at: ticks)
    newContexts.append(recorded)
    contextNumbers[id] = UInt32(truncatingIfNeeded: contextNumbers.count &+ 1)
  }

  /// Gives the nodes of a stack numbers, callers before the functions that they called. Returns the
  /// number of the innermost node.
  private func note(node id: UInt32, at ticks: UInt32) -> UInt32 {
    var path: [(id: UInt32, node: StackNode)] = []
    var next = id
    // Nodes are marked on the way to the root: a damaged trie may have a circle.
    var meter = BudgetMeter()
    while next != 0, nodeNumbers[next] == nil, let node = shared.segment.node(next), meter.goesOn() {
      share.hold((nodeNumbers.count &+ path.count &+ names.count) &* 96 &+ newNodes.count &* 48)
      nodeNumbers[next] = 0
      path.append((next, node))
      next = node.parent
    }
    var number = nodeNumbers[next] ?? 0
    for (id, var node) in path.reversed() {
      if number == 0, node.parent != 0, node.truncation == nil { node.truncation = .damaged }
      node.parent = number
      let module = module(of: node, at: ticks)
      if case .module = node.holder { node.holder = module.map { .module($0) } ?? .forgotten }
      newNodes.append(node)
      nodeCount &+= 1
      number = nodeCount
      nodeNumbers[id] = number
      if let module {
        names.insert(NameKey(pc: node.pc, isExact: node.isInterrupted, module: module))
      } else if CallAddress(node).loss == nil, madeCalls.count < Self.tableRows {
        madeCalls.insert(CallAddress(node).instruction)
      }
    }
    return number
  }

  /// The number of the module that the call of `node` lies in; nil if there is none, or none is
  /// known.
  private func module(of node: StackNode, at ticks: UInt32) -> UInt32? {
    if shared.segment.moduleTableVersion != modules { noteModules() }
    let pc = CallAddress(node).instruction
    switch node.holder {
    case .none, .dropped, .forgotten: return nil
    case .module(let index): return number(ofModule: index)
    case .unsaid:
      return moduleTable.last { $0.start <= pc && pc < $0.end && $0.unloadTicks == nil && !$0.isLater }?.index
        ?? shared.segment.module(of: .unsaid, containing: pc, at: ticks).map { number(ofModule: $0.index) }
    }
  }

  private func number(ofModule index: UInt32) -> UInt32 { moduleNumbers[index] ?? index }

  /// Rows of a table that a chunk has at most, and about the bytes: a chunk has a limit
  /// (RecordingFormat.chunkLimit), which the tables of a process may exceed.
  static let tableRows = 1 << 18
  private static let tableBytes = 16 << 20

  private func appendNewOrigins() {
    for start in stride(from: 0, to: newNodes.count, by: Self.tableRows) {
      let rows = Array(newNodes[start...].prefix(Self.tableRows))
      append(.nodes, TableCoding.encode(rows, from: Self.number(start, of: newNodes.count, Int(nodeCount))))
    }
    newNodes.removeAll(keepingCapacity: true)
    for start in stride(from: 0, to: newContexts.count, by: Self.tableRows) {
      let rows = Array(newContexts[start...].prefix(Self.tableRows))
      append(
        .contexts, TableCoding.encode(rows, from: Self.number(start, of: newContexts.count, contextNumbers.count)))
    }
    newContexts.removeAll(keepingCapacity: true)
  }

  /// The number in the recording of the row at `index` of the last `count` of `all` rows. Numbers
  /// begin with 1.
  private static func number(_ index: Int, of count: Int, _ all: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: all &- count &+ index &+ 1)
  }

  /// Makes chunks of the modules and threads that are new or have changed.
  func noteTables() {
    if shared.segment.moduleTableVersion != modules { noteModules() }
    var changed: [ThreadIdentity] = []
    for var thread in [shared.segment.formerThreads, shared.segment.threads].joined() {
      // A thread's counters and bounds are no part of the recording, and change all the time.
      (thread.allocations, thread.frees, thread.stack) = (0, 0, nil)
      if threads.updateValue(true, forKey: thread) == nil { changed.append(thread) }
    }
    for start in stride(from: 0, to: changed.count, by: Self.tableRows) {
      append(.threads, TableCoding.encode(Array(changed[start...].prefix(Self.tableRows))))
    }
  }

  private func noteModules() {
    modules = shared.segment.moduleTableVersion
    let known = Dictionary(moduleTable.map { ($0.index, $0) }) { $1 }
    var changed: [Module] = []
    moduleTable = shared.segment.modules.map { module in
      var module = module
      let index = module.index
      module.index = number(ofModule: index)
      if let old = known[module.index], !old.isSameFile(as: module) {
        formerModules.append(old)
        moduleNumbers[index] = nextModuleNumber
        module.index = nextModuleNumber
        // The format has no numbers from 2^24 on: a later module takes the place of the last.
        nextModuleNumber = min(nextModuleNumber &+ 1, 1 << 24 - 1)
      }
      if known[module.index] != module { changed.append(module) }
      return module
    }
    // A path has 4096 bytes at most.
    for start in stride(from: 0, to: changed.count, by: 4096) {
      append(.modules, TableCoding.encode(Array(changed[start...].prefix(4096))))
    }
  }

  // MARK: chunks

  func append(_ kind: RecordingFormat.ChunkKind, _ payload: [UInt8]) {
    append(ChunkHeader(kind: kind.rawValue), payload)
  }

  private func append(_ header: ChunkHeader, _ payload: [UInt8]) {
    var header = header
    guard payload.count <= RecordingFormat.chunkLimit else {
      // No reader would take it: texts that are longer than any in earnest, or events of which
      // nothing could be guessed. The next chunk's header says how many events are missing.
      lost &+= UInt64(truncatingIfNeeded: header.events)
      return
    }
    header.unpacked = UInt32(truncatingIfNeeded: payload.count)
    header.number = chunks
    header.eventsBefore = eventsInChunks
    chunks &+= 1
    guard let compressor else { return append(header, payload, frame: nil) }
    compressor.put(header, payload)
    collect(all: false)
  }

  /// Takes the chunks that the compressor is done with; with `all`, waits for those that it has.
  private func collect(all: Bool) {
    while let (chunk, frame) = compressor?.take(all: all) { append(chunk.header, chunk.payload, frame: frame) }
  }

  private func append(_ header: ChunkHeader, _ payload: [UInt8], frame: [UInt8]?) {
    var header = header
    if let frame, frame.count < payload.count {
      header.flags |= RecordingFormat.flagZstd
      output += header.chunk(of: frame)
    } else {
      output += header.chunk(of: payload)
    }
  }
}

extension Module {
  /// Whether both are one file at one place: one module, whose entry in the table has changed.
  fileprivate func isSameFile(as other: Module) -> Bool {
    start == other.start && end == other.end && bias == other.bias && path == other.path
      && buildID == other.buildID && file == other.file && notedNanoseconds == other.notedNanoseconds
  }
}
