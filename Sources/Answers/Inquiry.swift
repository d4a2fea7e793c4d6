// SPDX-License-Identifier: Apache-2.0
// One request about a process: all its questions are answered from one reading of the facts that may change meanwhile.
//
// The order of the rules, for an address that no live allocation holds:
//
//   live process: its mappings decide.
//     file of a module → static; another file → mapping
//     anonymous memory within a module's bounds (.bss) → static; within a thread's stack → stack;
//       in a mapping of which any memory was ever heap → free; else mapping
//     not mapped, but heap once → free; else unmapped
//   otherwise: the segment alone decides.
//     within a module's bounds → static; within a stack's bounds → stack;
//     heap once, or between live blocks → free; else unmapped

import IndexReader
import Provenance
import SharedLayout
import Symbols

/// A request. To be used from one thread, and to be made anew for each request, as it sees the process as of its start.
public struct Inquiry: ~Copyable {
  let view: ProcessView
  /// The segment of `view`, kept here as a batch reads it several times for each address.
  let shared: SharedSegment
  let clock: SegmentClock
  let surroundings: Surroundings
  /// The mappings in `surroundings`, or those that were asked for; none if they are not known. They are not optional,
  /// so that a batch needs no copy.
  private(set) var mappings: ProcessMaps
  let hasFullStacks: Bool
  /// The table of mappings in the segment, as of the first question about it.
  var mappedRecords: [MappingRecord] = []
  var hasMappedRecords = false
  /// The arena of libc's that is the memory of `brk`, and the index of its mapping, once it was found.
  var mainArena: (index: Int, arena: Answer.Arena)?
  private let stopsThreads: Bool
  /// Whether a thread that should have been stopped could not be stopped.
  public internal(set) var hasFailedToStop = false
  /// Nil if it was not read yet.
  private var initialStack: InitialStack??
  /// Whether memory of a mapping was ever heap, by the index of each mapping that was asked about.
  private var heapMappings: [Int: Bool] = [:]
  private var modules: [Module]?
  /// The ranges of `modules`; and of `threads`, their stacks.
  private var moduleRanges = AddressRanges([])
  private var threads: [ThreadIdentity]?
  private var stackRanges = AddressRanges([])
  /// The thread pointers of `threads` that have not ended, in order, with the threads' places in `threads`.
  private(set) var threadPointers: [(pointer: UInt64, index: Int)] = []
  /// The last place in `threads` of each thread that has not ended.
  private var threadPlaces: [UInt32: Int] = [:]
  /// The modules with thread-local variables.
  private(set) var threadLocalModules: [Module] = []
  /// Whether memory of a range was ever heap.
  private var heapRanges: [Range<UInt64>: Bool] = [:]
  /// The thread whose stack an inaccessible mapping guards, by the mapping's index; nil for none.
  var guardedThreads: [Int: Answer.Thread?] = [:]
  private var waitingThreads: [(id: UInt32, top: UInt64)]?
  /// libc's descriptions of threads, by the index of the mapping; nil for mappings without one.
  var threadDescriptors: [Int: ThreadDescriptor?] = [:]
  var origins: OriginCache
  var attribution: StackNaming
  /// Nil means: as the process was started.
  let level: Level?
  let hasSuballocations: Bool
  private let losses: Losses
  /// The JSON of `losses`, which ends each answer.
  let lossesJSON: [UInt8]
  /// The JSON of each mapping in an answer, by the mapping's index; empty until it is needed.
  var mappingJSON: [[UInt8]]

  /// Reads the process's mappings. `wrappers` are passed over in the search for the site of an allocation. `level`:
  /// which block answers lead with where a suballocator's block is in a chunk; nil: as the process was started.
  /// `stopsThreads`: a thread in whose stack an address lies is stopped for a moment, to say which frame it is in.
  /// `addresses`: the request is about these few, and not all mappings need be read if they are in blocks.
  public init(
    _ view: ProcessView, wrappers: Wrappers = .standard, level: Level? = nil, stopsThreads: Bool = false,
    about addresses: [UInt64] = []
  ) {
    self.stopsThreads = stopsThreads
    self.view = view
    self.level = level
    shared = view.shared
    hasSuballocations = shared.segment.hasSuballocations
    attribution = StackNaming(view.tables, wrappers: wrappers)
    hasFullStacks = shared.segment.hasFullStacks
    surroundings = Surroundings(of: view, about: addresses)
    clock = shared.segment.clock(isAlive: surroundings.isAlive)
    mappings = surroundings.knownMaps ?? ProcessMaps([])
    origins = OriginCache(
      surroundings: surroundings, clock: clock, isAlive: surroundings.isAlive)
    mappingJSON = Array(repeating: [], count: mappings.mappings.count)
    losses = view.losses(isWriting: surroundings.isWriting)
    var json = ByteWriter(capacity: 0)
    losses.appendJSONFields(to: &json)
    lossesJSON = json.take()
  }

  /// Whether the process ran as the request began.
  public var isOfLiveProcess: Bool { surroundings.isAlive }

  /// Reads the mappings that were not asked for. Indices of mappings, and what is kept by them, have another meaning
  /// afterwards.
  mutating func readAllMappings() {
    guard surroundings.knowsSome else { return }
    mappings = surroundings.maps ?? ProcessMaps([])
    mappingJSON = Array(repeating: [], count: mappings.mappings.count)
    mainArena = nil
  }

  /// The answer about `address`.
  public mutating func answer(_ address: UInt64, stacks: Bool = true) -> Answer {
    var answer = bareAnswer(address, stacks: stacks)
    answer.losses = losses
    return answer
  }

  private mutating func bareAnswer(_ address: UInt64, stacks: Bool) -> Answer {
    let lookup = shared.segment.lookup(address)
    if let answer = nested(address, lookup, stacks: stacks) { return answer }
    if let allocation = lookup.containing {
      return answer(heap(address, allocation, previous: lookup.previous, next: lookup.next, stacks: stacks))
    }
    return answer(address, lookup, stacks: stacks)
  }

  private mutating func answer(_ address: UInt64, _ lookup: Lookup, stacks: Bool) -> Answer {
    readAllMappings()
    var answer = elsewhere(address, lookup)
    answer.hasFullStack = hasFullStacks
    if answer.kind == .free {
      answer.previous = lookup.previous.map { neighbour($0, isNamed: stacks) }
      answer.next = lookup.next.map { neighbour($0, isNamed: stacks) }
      let allocator = allocator(beside: lookup, in: answer.mapping)
      answer.arena = arena(at: address, of: nil, allocator: allocator)
    }
    if answer.part == nil, answer.kind != .static, answer.kind != .stack, let record = record(at: address) {
      answer.mappedBy = mappedBy(record, stacks: stacks && answer.kind != .free)
      // If the process is gone, only the record tells of the mapping.
      if answer.kind == .unmapped, surroundings.maps == nil {
        answer.kind = .mapping
        answer.note = nil
      }
    }
    if stopsThreads, answer.kind == .stack, answer.part == nil {
      addFrame(to: &answer)
      if answer.frameFailure != nil { hasFailedToStop = true }
    }
    return answer
  }

  /// Appends the answer as a line of JSON: the same bytes as the JSON of `answer(_:stacks:)`, in a fraction of the time
  /// if the address is in a block of the heap.
  public mutating func appendJSONLine(of address: UInt64, stacks: Bool, to writer: inout ByteWriter) {
    let lookup = shared.segment.lookup(address)
    if var answer = nested(address, lookup, stacks: stacks) {
      answer.losses = losses
      answer.appendJSON(to: &writer)
    } else if let allocation = lookup.containing {
      appendJSON(
        heap(address, allocation, previous: lookup.previous, next: lookup.next, stacks: stacks), to: &writer)
    } else {
      var answer = answer(address, lookup, stacks: stacks)
      answer.losses = losses
      answer.appendJSON(to: &writer)
    }
    writer.append(byte: UInt8(ascii: "\n"))
  }

  /// Whether the answer takes microseconds and needs no file: the address is in a block whose stack has been named
  /// before, as have the sites of its neighbours.
  public mutating func isQuick(_ address: UInt64, stacks: Bool) -> Bool {
    let lookup = shared.segment.lookup(address)
    guard let allocation = lookup.containing else { return false }
    guard stacks else { return true }
    let node = node(of: allocation)
    guard node == 0 || attribution.knows(node: node, at: allocation.ticks) else { return false }
    for neighbour in [lookup.previous, lookup.next] {
      guard let neighbour else { continue }
      let node = self.node(of: neighbour)
      guard node == 0 || attribution.knowsSite(ofNode: node, at: neighbour.ticks) else { return false }
    }
    return true
  }

  /// The node of the call stack that allocated a block; 0 if none is known.
  private mutating func node(of block: Allocation) -> UInt32 {
    guard let index = origins.originIndex(ofContext: block.context, in: shared.segment) else { return 0 }
    return origins.node(ofOriginAt: index)
  }

  // MARK: elsewhere

  private mutating func elsewhere(_ address: UInt64, _ lookup: Lookup) -> Answer {
    guard let maps = surroundings.maps else { return elsewhereInSegment(address, lookup) }
    guard let index = maps.index(containing: address) else {
      if shared.segment.wasUsed(address) {
        var answer = Answer(address: address, kind: .free)
        answer.note = .givenBack
        return answer
      }
      var answer = Answer(address: address, kind: .unmapped)
      (answer.mappingBelow, answer.mappingAbove) = maps.neighbours(of: address)
      let stackGap: UInt64 = 256 * 4096  // stack_guard_gap of the kernel
      if let above = answer.mappingAbove, above.isMainStack, above.start &- address <= stackGap {
        answer.note = .stackGap
      }
      if address >> UInt64(ALLOCS_ADDRESS_BITS) != 0 { answer.note = .outsideUserSpace }
      return answer
    }
    let mapping = maps.mappings[index]
    var answer = classify(address, mapping, index, maps)
    answer.mapping = mapping
    return answer
  }

  private mutating func classify(
    _ address: UInt64, _ mapping: Mapping, _ index: Int, _ maps: ProcessMaps
  ) -> Answer {
    if let answer = special(address, mapping, index, maps) { return answer }
    if mapping.isMainStack { return stack(address, ofThread: mainThread) }
    if !mapping.isBreak, let module = module(at: address, index, maps) { return staticAnswer(address, module) }
    guard mapping.isBreak || mapping.isAnonymous else { return Answer(address: address, kind: .mapping) }
    if !mapping.isBreak, let thread = threadWithStack(at: address) {
      var answer = Answer(address: address, kind: .stack)
      answer.thread = origins.holder(of: thread).thread
      return answer
    }
    if shared.segment.wasUsed(address) { return Answer(address: address, kind: .free) }
    // Several calls, of an allocator and of others, may have made one mapping of the kernel's; a thread's stack is made
    // by one call.
    let record = record(at: address)
    let range = (record?.range ?? mapping.range).clamped(to: mapping.range)
    if !mapping.isBreak {
      if let answer = unlistedThreadAnswer(address, index, within: range) { return answer }
      // Where no bounds are known, memory is a thread's stack if the thread is seen in it.
      if let thread = threadIn(range, ofMapping: index, around: address) { return stack(address, ofThread: thread) }
    }
    if record != nil {
      return Answer(address: address, kind: wasHeap(range) ? .free : .mapping)
    }
    return Answer(address: address, kind: wasHeap(mapping, index) ? .free : .mapping)
  }

  /// The answer for memory that the kernel, libc or the agent uses for itself, and for thread-local variables.
  private mutating func special(
    _ address: UInt64, _ mapping: Mapping, _ index: Int, _ maps: ProcessMaps
  ) -> Answer? {
    func answer(_ kind: Answer.Kind, _ part: Answer.Part) -> Answer {
      var answer = Answer(address: address, kind: kind)
      answer.part = part
      return answer
    }
    let offset = address &- mapping.start
    if mapping.path == "[vdso]" { return answer(.mapping, Answer.Part(.vdso, offset: offset)) }
    if mapping.path?.hasPrefix("[vvar") == true { return answer(.mapping, Answer.Part(.vvar, offset: offset)) }
    if mapping.isSegment(of: view) { return answer(.mapping, Answer.Part(.agent, name: "the index of this process")) }
    if let record = record(at: address), record.isAgent {
      return answer(.mapping, Answer.Part(.agent, name: "the agent's private memory"))
    }
    if let local = threadLocalAnswer(address) { return local }
    if mapping.isMainStack {
      if case .none = initialStack { initialStack = .some(surroundings.initialStack()) }
      guard case .some(.some(let initial)) = initialStack, let part = initial.part(at: address) else { return nil }
      var found = answer(.stack, part)
      found.thread = stack(address, ofThread: mainThread).thread
      return found
    }
    if let thread = threadGuarded(by: index, maps) {
      var found = answer(.mapping, Answer.Part(.guardPages, offset: offset, size: mapping.end &- mapping.start))
      found.thread = thread
      return found
    }
    return nil
  }

  /// Whether any memory of the mapping was ever heap.
  private mutating func wasHeap(_ mapping: Mapping, _ index: Int) -> Bool {
    if let known = heapMappings[index] { return known }
    let known = shared.segment.wasHeap(in: mapping.range)
    heapMappings[index] = known
    return known
  }

  private mutating func wasHeap(_ range: Range<UInt64>) -> Bool {
    if let known = heapRanges[range] { return known }
    let known = shared.segment.wasHeap(in: range)
    heapRanges[range] = known
    return known
  }

  // MARK: static

  /// The module whose file, or zeroed data behind its file, is mapped at `address`.
  mutating func module(at address: UInt64, _ index: Int, _ maps: ProcessMaps) -> ModuleReference? {
    if let module = loadedModule(at: address) {
      // The segment may learn late that a module is gone, so the mappings must agree: the module's file is mapped here,
      // or directly below the anonymous memory here.
      if maps.file(behind: index)?.start ?? .max >= module.start { return ModuleReference(module, in: shared.segment) }
    }
    guard let file = maps.file(behind: index) else { return nil }
    return view.elfFiles.module(
      of: file, at: address, in: maps, of: ModuleReference.Process(of: shared.segment),
      readableAs: surroundings.readableID ?? view.processID,
      since: IndexedProcess.wallTime(ofStart: view.startTime, shared.segment.clockOffsets) ?? 0)
  }

  mutating func loadedModules() -> [Module] {
    if let modules { return modules }
    let loaded = shared.segment.modules.filter { $0.unloadTicks == nil }
    modules = loaded
    moduleRanges = AddressRanges(loaded.lazy.map { ($0.start, $0.end) })
    threadLocalModules = loaded.filter { $0.threadLocal != nil }
    return loaded
  }

  private mutating func loadedModule(at address: UInt64) -> Module? {
    let modules = loadedModules()
    return moduleRanges.first(holding: address).map { modules[$0] }
  }

  private func staticAnswer(_ address: UInt64, _ module: ModuleReference) -> Answer {
    var answer = Answer(address: address, kind: .static)
    answer.module = module.path
    if let symbol = view.symbolizer.staticSymbol(at: address, in: module) {
      answer.section = symbol.section
      answer.symbol = Answer.Symbol(
        name: symbol.name, size: symbol.size == 0 ? nil : symbol.size, offset: symbol.offset)
    }
    // The debug information tells whether the memory holds code.
    let code = view.symbolizer.frames(returnAddress: address &+ 1, in: module).first
    if let code, let file = code.file {
      answer.source = Answer.SourceLine(file: file, line: code.line)
    } else {
      answer.variable = view.symbolizer.variable(at: address, in: module)
      if answer.variable == nil { answer.variableProblem = variableProblem(in: module) }
    }
    if answer.symbol == nil, answer.source == nil { answer.unnamed = view.symbolizer.loss(of: module) }
    return answer
  }

  /// Why a variable of a module has no name, or only its symbol's name.
  func variableProblem(in module: ModuleReference) -> ForeignText? {
    view.symbolizer.variableProblem(in: module).map { "\(module.path.fileName): \($0)" }
  }

  // MARK: stacks

  mutating func allThreads() -> [ThreadIdentity] {
    if let threads { return threads }
    let all = shared.segment.threads
    threads = all
    let running = all.enumerated().filter { $0.element.state != .ended }
    stackRanges = AddressRanges(
      all.lazy.map { thread in
        thread.state == .ended ? (0, 0) : thread.stack.map { ($0.lowerBound, $0.upperBound) } ?? (0, 0)
      })
    threadPointers = running.compactMap { index, thread in thread.threadPointer.map { ($0, index) } }
    threadPointers.sort { ($0.pointer, $0.index) < ($1.pointer, $1.index) }
    for (index, thread) in running { threadPlaces[thread.id] = index }
    return all
  }

  /// The thread that is not known to have ended and in whose stack `address` is.
  private mutating func threadWithStack(at address: UInt64) -> ThreadIdentity? {
    let threads = allThreads()
    return stackRanges.first(holding: address).map { threads[$0] }
  }

  /// The thread to whose stack `address` must belong, if it belongs to one, as `range` of the mapping holds a stack:
  /// the stack pointer of a waiting thread is in it, or libc's description of a thread. Libc describes the main thread
  /// elsewhere than on its stack, and other threads at the upper end of their stacks.
  mutating func threadIn(_ range: Range<UInt64>, ofMapping index: Int, around address: UInt64) -> UInt32? {
    if let thread = unlistedThread(inMapping: index), range.contains(thread.pointer), thread.id != mainThread {
      return address < thread.pointer &+ ThreadDescriptor.size ? thread.id : nil
    }
    let waiting = waitingThreads ?? surroundings.waitingThreads()
    waitingThreads = waiting
    return waiting.last { range.contains($0.top) }?.id
  }

  var mainThread: UInt32 { UInt32(bitPattern: view.processID) }

  private mutating func stack(_ address: UInt64, ofThread id: UInt32) -> Answer {
    var answer = Answer(address: address, kind: .stack)
    let threads = allThreads()
    if let place = threadPlaces[id] {
      answer.thread = origins.holder(of: threads[place]).thread
    } else {
      answer.thread = Answer.Thread(id: id, name: surroundings.name(ofThread: id, runningFor: 0))
    }
    return answer
  }

  // MARK: without mappings

  private mutating func elsewhereInSegment(_ address: UInt64, _ lookup: Lookup) -> Answer {
    if let module = loadedModule(at: address) {
      return staticAnswer(address, ModuleReference(module, in: shared.segment))
    }
    if let local = threadLocalAnswer(address) { return local }
    if let thread = threadWithStack(at: address) {
      var answer = Answer(address: address, kind: .stack)
      answer.thread = origins.holder(of: thread).thread
      return answer
    }
    let region = allocs_region_of_address(address)
    let isBetween =
      lookup.previous.map { allocs_region_of_address($0.end &- 1) == region } ?? false
      && lookup.next.map { allocs_region_of_address($0.base) == region } ?? false
    var answer = Answer(address: address, kind: shared.segment.wasUsed(address) || isBetween ? .free : .unmapped)
    if answer.kind == .unmapped {
      answer.note = address >> UInt64(ALLOCS_ADDRESS_BITS) != 0 ? .outsideUserSpace : surroundings.absence
    }
    return answer
  }
}
