// One request about a process: the questions in it are answered from one reading of what may change meanwhile.
//
// Order of the rules, for an address that no live allocation holds:
//   live process: its mappings decide. A file's → static if it is a module's, else mapping. Anonymous → static within a
//     module's bounds (.bss), stack within a thread's, free where memory of that mapping was ever heap, else mapping.
//     Not mapped → free if it was ever heap, else unmapped.
//   otherwise: the segment alone. Module bounds → static, stack bounds → stack, ever heap or near live blocks → free, else unmapped.

import IndexReader
import Provenance
import SharedLayout
import Symbols

/// A request. Used from one thread; make one for each request, as it sees the process as of its start.
public struct Inquiry: ~Copyable {
  let view: ProcessView
  /// That of `view`: named here, as a batch goes to it several times for each address.
  let shared: SharedSegment
  let clock: SegmentClock
  let surroundings: Surroundings
  /// Those of `surroundings`, none if they are not known: not optional, so that a batch needs no copy of them.
  private let mappings: ProcessMaps
  private let hasFullStacks: Bool
  /// What is noted as mapped, as of the first question about it.
  var mappedRecords: [MappingRecord]?
  private let stopsThreads: Bool
  /// A thread should have been stopped, and could not.
  public internal(set) var hasFailedToStop = false
  /// nil: not read yet.
  private var initialStack: InitialStack??
  /// For each mapping that was asked about: whether memory of it was ever heap.
  private var heapMappings: [Int: Bool] = [:]
  private var modules: [Module]?
  private var threads: [ThreadIdentity]?
  private var waitingThreads: [(id: UInt32, top: UInt64)]?
  /// By mapping; nil in those that were looked through in vain.
  var threadDescriptors: [Int: ThreadDescriptor?] = [:]
  var origins: OriginCache
  var attribution: StackNaming
  /// nil: as the process was started.
  private let level: Level?
  private let hasSuballocations: Bool
  private let losses: Losses
  /// Their JSON, for each answer.
  private let lossesJSON: [UInt8]
  /// The JSON of each mapping that was answered with, by its index.
  private var mappingJSON: [[UInt8]]

  /// Reads the process's mappings. `wrappers` are passed over in the search for the site of an allocation. `level` is
  /// what answers lead with where a suballocator's block is in a chunk; nil: as the process was started.
  /// `stopsThreads`: a thread in whose stack an address lies is stopped for a moment, to say which frame it is in.
  public init(
    _ view: ProcessView, wrappers: Wrappers = .standard, level: Level? = nil, stopsThreads: Bool = false
  ) {
    self.stopsThreads = stopsThreads
    self.view = view
    self.level = level
    shared = view.shared
    hasSuballocations = shared.segment.hasSuballocations
    attribution = StackNaming(view.tables, wrappers: wrappers)
    hasFullStacks = shared.segment.hasFullStacks
    surroundings = Surroundings(of: view)
    clock = shared.segment.clock(isAlive: surroundings.isAlive)
    mappings = surroundings.maps ?? ProcessMaps([])
    origins = OriginCache(
      surroundings: surroundings, clock: clock, isAlive: surroundings.isAlive)
    mappingJSON = Array(repeating: [], count: mappings.mappings.count)
    losses = view.losses(isWriting: surroundings.isWriting)
    var json = ByteWriter(capacity: 0)
    losses.appendJSONFields(to: &json)
    lossesJSON = json.take()
  }

  /// What is at `address`.
  public mutating func answer(_ address: UInt64, stacks: Bool = true) -> Answer {
    var answer = bareAnswer(address, stacks: stacks)
    answer.losses = losses
    return answer
  }

  private mutating func bareAnswer(_ address: UInt64, stacks: Bool) -> Answer {
    let lookup = shared.segment.lookup(address)
    if let answer = nested(address, lookup, stacks: stacks) { return answer }
    if let allocation = lookup.containing {
      return heap(address, allocation, lookup, stacks: stacks)
    }
    return answer(address, lookup, stacks: stacks)
  }

  private mutating func answer(_ address: UInt64, _ lookup: Lookup, stacks: Bool) -> Answer {
    var answer = elsewhere(address, lookup)
    answer.hasFullStack = hasFullStacks
    if answer.kind == .free {
      answer.previous = lookup.previous.map { Answer.Block($0) }
      answer.next = lookup.next.map { Answer.Block($0) }
      let allocator = allocator(beside: lookup, in: answer.mapping)
      answer.arena = arena(at: address, of: nil, allocator: allocator)
    }
    if answer.part == nil, answer.kind != .static, answer.kind != .stack, let record = record(at: address) {
      answer.mappedBy = mappedBy(record, stacks: stacks && answer.kind != .free)
      // Of a process that is gone, nobody else knows.
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

  /// Appends the answer as a line of JSON: the same bytes as `answer(_:stacks:)` gives, at a fraction of the time if it
  /// is about a block of the heap.
  public mutating func appendJSONLine(of address: UInt64, stacks: Bool, to writer: inout ByteWriter) {
    let lookup = shared.segment.lookup(address)
    if var answer = nested(address, lookup, stacks: stacks) {
      answer.losses = losses
      answer.appendJSON(to: &writer)
    } else if let allocation = lookup.containing {
      appendJSON(of: address, allocation, lookup, stacks: stacks, to: &writer)
    } else {
      var answer = answer(address, lookup, stacks: stacks)
      answer.losses = losses
      answer.appendJSON(to: &writer)
    }
    writer.append(byte: UInt8(ascii: "\n"))
  }

  /// Whether the answer is a matter of microseconds, and no file must be read for it: the address is in a block whose
  /// stack has been named before.
  public mutating func isQuick(_ address: UInt64, stacks: Bool) -> Bool {
    guard let allocation = shared.segment.allocation(containing: address) else { return false }
    guard stacks, let index = origins.originIndex(ofContext: allocation.context, in: shared.segment) else {
      return true
    }
    let node = origins.node(ofOriginAt: index)
    return node == 0 || attribution.knows(node: node, at: allocation.ticks)
  }

  // MARK: heap

  private mutating func heap(
    _ address: UInt64, _ allocation: Allocation, _ lookup: Lookup, stacks: Bool
  ) -> Answer {
    heap(
      address, allocation, previous: lookup.previous, next: lookup.next, stacks: stacks)
  }

  private mutating func heap(
    _ address: UInt64, _ allocation: Allocation, previous: Allocation?, next: Allocation?, stacks: Bool
  ) -> Answer {
    var answer = Answer(address: address, kind: .heap)
    answer.block = Answer.Block(allocation)
    answer.alignment = allocation.alignment
    answer.age = clock.age(ofTicks: allocation.ticks)
    answer.previous = previous.map { Answer.Block($0) }
    answer.next = next.map { Answer.Block($0) }
    answer.mapping = surroundings.maps?.mapping(containing: address)
    answer.hasFullStack = hasFullStacks
    if let record = record(at: address) { answer.mappedBy = mappedBy(record, stacks: false) }
    guard let index = origins.originIndex(ofContext: allocation.context, in: shared.segment) else { return answer }
    let origin = origins.origin(at: index)
    answer.function = origin.function
    answer.allocator = origin.allocator
    answer.allocatorModule = origin.allocatorModule
    answer.arena = arena(at: address, of: Answer.Block(allocation), allocator: origin.allocator)
    if let slot = origin.threadSlot {
      if let holder = origins.holderIndex(ofSlot: slot, at: allocation.ticks) {
        answer.thread = origins.holder(at: holder).thread
      } else {
        answer.thread = origins.lookUp(slot: slot, at: allocation.ticks, in: shared.segment)?.thread
      }
    }
    if stacks, origin.node != 0 {
      if let stack = attribution.stack(ofNode: origin.node, at: allocation.ticks) {
        answer.stack = stack.frames
        answer.siteIndex = stack.siteIndex
        answer.interruptedFrames = stack.interrupted
        answer.stackTruncation = stack.truncation
        answer.stackFramesCut = stack.framesCut
      }
    }
    return answer
  }

  // MARK: suballocations

  /// The answer for an address in a block of a suballocator; nil if it is in none.
  private mutating func nested(_ address: UInt64, _ lookup: Lookup, stacks: Bool) -> Answer? {
    guard hasSuballocations else { return nil }
    let blocks = shared.segment.suballocations(containing: address, in: lookup.containing)
    // Memory that was unmapped holds nothing, whatever the pool said.
    guard let innermost = blocks.first, lookup.containing != nil || isMapped(address) else { return nil }
    var links = blocks.map { ($0.block, Answer.Container.Kind.suballocation) }
    if let chunk = lookup.containing { links.append((chunk, .chunk)) }
    let lead = isShownAsChunk(innermost) ? links.count - 1 : 0
    var previous = lookup.previous
    var next = lookup.next
    if lead < blocks.count {
      let place = blocks.count - 1 - lead
      let container = place > 0 ? blocks[lead + 1].block : lookup.containing
      (previous, next) = shared.segment.neighbours(of: blocks[lead], level: place, in: container)
    }
    var answer = heap(address, links[lead].0, previous: previous, next: next, stacks: stacks)
    for (index, (block, kind)) in links.enumerated() where index != lead {
      let container = container(kind, heap(address, block, previous: nil, next: nil, stacks: stacks))
      if index < lead { answer.contents.append(container) } else { answer.containers.append(container) }
    }
    return answer
  }

  private func isMapped(_ address: UInt64) -> Bool {
    surroundings.maps.map { $0.index(containing: address) != nil } ?? true
  }

  private func isShownAsChunk(_ block: Suballocation) -> Bool {
    if let level { return level == .chunk }
    return shared.segment.context(block.block.context)?.allocator?.isShownAsChunk ?? false
  }

  private func container(_ kind: Answer.Container.Kind, _ answer: Answer) -> Answer.Container {
    var container = Answer.Container(kind: kind, block: answer.block ?? Answer.Block(base: answer.address, size: 0))
    container.allocator = answer.allocator
    container.allocatorModule = answer.allocatorModule
    container.function = answer.function
    container.thread = answer.thread
    container.age = answer.age
    container.stack = answer.stack
    container.siteIndex = answer.siteIndex
    container.interruptedFrames = answer.interruptedFrames
    container.stackTruncation = answer.stackTruncation
    container.stackFramesCut = answer.stackFramesCut
    return container
  }

  /// What `heap` answers, from parts that were rendered before.
  private mutating func appendJSON(
    of address: UInt64, _ allocation: Allocation, _ lookup: Lookup, stacks: Bool, to writer: inout ByteWriter
  ) {
    writer.appendHead(address, .heap)
    writer.append(block: Answer.Block(allocation), offset: address - allocation.base)
    if let alignment = allocation.alignment { writer.append(",\"alignment\":", decimal: alignment) }
    var node: UInt32 = 0
    var arena: Answer.Arena?
    if let index = origins.originIndex(ofContext: allocation.context, in: shared.segment) {
      if stacks { node = origins.node(ofOriginAt: index) }
      origins.appendOrigin(at: index, to: &writer)
      arena = self.arena(
        at: address, of: Answer.Block(allocation), allocator: origins.origin(at: index).allocator)
      if let slot = origins.threadSlot(ofOriginAt: index) {
        if let holder = origins.holderIndex(ofSlot: slot, at: allocation.ticks) {
          origins.appendHolder(at: holder, to: &writer)
        } else if let holder = origins.lookUp(slot: slot, at: allocation.ticks, in: shared.segment) {
          writer.append(bytes: holder.json)
        }
      }
    }
    writer.append(age: clock.age(ofTicks: allocation.ticks))
    if node != 0 { attribution.appendJSON(ofNode: node, at: allocation.ticks, to: &writer) }
    if let previous = lookup.previous {
      writer.append(neighbour: Answer.Block(previous), opening: ",\"previous\":{\"base\":\"")
    }
    if let next = lookup.next { writer.append(neighbour: Answer.Block(next), opening: ",\"next\":{\"base\":\"") }
    if let arena { writer.append(arena: arena) }
    if let record = record(at: address) { writer.append(mappedBy: mappedBy(record, stacks: false)) }
    if let index = mappings.index(containing: address) {
      if mappingJSON[index].isEmpty { renderMapping(index) }
      writer.append(bytes: mappingJSON[index])
    }
    writer.append(bytes: lossesJSON)
    writer.append("}")
  }

  private mutating func renderMapping(_ index: Int) {
    var part = ByteWriter(capacity: 256)
    part.append(mapping: mappings.mappings[index])
    mappingJSON[index] = part.take()
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
      answer.mappingBelow = maps.mappings.last { $0.end <= address }
      answer.mappingAbove = maps.mappings.first { $0.start > address }
      let stackGap: UInt64 = 256 * 4096  // stack_guard_gap of the kernel
      if let above = answer.mappingAbove, above.isMainStack, above.start - address <= stackGap {
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
    // One mapping of the kernel's may be made by several calls, of an allocator and of others; a thread's stack is all
    // in that of one.
    let record = record(at: address)
    let range = (record?.range ?? mapping.start..<mapping.end).clamped(to: mapping.start..<mapping.end)
    if !mapping.isBreak {
      if let answer = unlistedThreadAnswer(address, index, within: range) { return answer }
      // Without bounds, memory is a thread's stack if the thread is seen in it.
      if let thread = threadIn(range, ofMapping: index, around: address) { return stack(address, ofThread: thread) }
    }
    if record != nil {
      return Answer(address: address, kind: shared.segment.wasHeap(in: range) ? .free : .mapping)
    }
    return Answer(address: address, kind: wasHeap(mapping, index) ? .free : .mapping)
  }

  /// What the kernel, libc or the agent has put there, and thread-local variables.
  private mutating func special(
    _ address: UInt64, _ mapping: Mapping, _ index: Int, _ maps: ProcessMaps
  ) -> Answer? {
    func answer(_ kind: Answer.Kind, _ part: Answer.Part) -> Answer {
      var answer = Answer(address: address, kind: kind)
      answer.part = part
      return answer
    }
    let offset = address - mapping.start
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
      var found = answer(.mapping, Answer.Part(.guardPages, offset: offset, size: mapping.end - mapping.start))
      found.thread = thread
      return found
    }
    return nil
  }

  /// Whether any memory of the mapping was ever heap.
  private mutating func wasHeap(_ mapping: Mapping, _ index: Int) -> Bool {
    if let known = heapMappings[index] { return known }
    let known = shared.segment.wasHeap(in: mapping.start..<mapping.end)
    heapMappings[index] = known
    return known
  }

  // MARK: static

  /// The module whose file, or zeroed data behind its file, is mapped at `address`.
  mutating func module(at address: UInt64, _ index: Int, _ maps: ProcessMaps) -> ModuleReference? {
    if let module = loadedModules().first(where: { address >= $0.start && address < $0.end }) {
      // The segment may learn late that a module is gone, so the mappings must agree: its file is mapped here, or
      // directly below the anonymous memory here.
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
    return loaded
  }

  private func staticAnswer(_ address: UInt64, _ module: ModuleReference) -> Answer {
    var answer = Answer(address: address, kind: .static)
    answer.module = module.path
    if let symbol = view.symbolizer.staticSymbol(at: address, in: module) {
      answer.section = symbol.section
      answer.symbol = Answer.Symbol(
        name: symbol.name, size: symbol.size == 0 ? nil : symbol.size, offset: symbol.offset)
    }
    // Where it is not known whether the memory holds code, the debug information tells.
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

  /// Why a variable of a module has no name, or its symbol's alone.
  func variableProblem(in module: ModuleReference) -> String? {
    view.symbolizer.variableProblem(in: module).map { "\(Answer.lastComponent(module.path)): \($0)" }
  }

  // MARK: stacks

  mutating func allThreads() -> [ThreadIdentity] {
    if let threads { return threads }
    let all = shared.segment.threads
    threads = all
    return all
  }

  /// The thread, not known to have ended, in whose stack `address` is.
  private mutating func threadWithStack(at address: UInt64) -> ThreadIdentity? {
    allThreads().first { $0.state != .ended && $0.stack?.contains(address) == true }
  }

  /// The thread in whose stack `address` must be if it is in one, as `range` of a mapping holds a stack: a thread's
  /// stack pointer is in it, as far as can be seen, or libc's description of one. Libc describes the main thread
  /// elsewhere than on its stack, and others at the upper end of theirs.
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
    if let identity = allThreads().last(where: { $0.id == id && $0.state != .ended }) {
      answer.thread = origins.holder(of: identity).thread
    } else {
      answer.thread = Answer.Thread(id: id, name: surroundings.name(ofThread: id, runningFor: 0))
    }
    return answer
  }

  // MARK: without mappings

  private mutating func elsewhereInSegment(_ address: UInt64, _ lookup: Lookup) -> Answer {
    if let module = loadedModules().first(where: { address >= $0.start && address < $0.end }) {
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
      lookup.previous.map { allocs_region_of_address($0.end - 1) == region } ?? false
      && lookup.next.map { allocs_region_of_address($0.base) == region } ?? false
    var answer = Answer(address: address, kind: shared.segment.wasUsed(address) || isBetween ? .free : .unmapped)
    if answer.kind == .unmapped {
      answer.note = address >> UInt64(ALLOCS_ADDRESS_BITS) != 0 ? .outsideUserSpace : surroundings.absence
    }
    return answer
  }
}

extension Answer.Block {
  init(_ allocation: Allocation) { self.init(base: allocation.base, size: allocation.size) }
}
