// SPDX-License-Identifier: Apache-2.0
// The part of an inquiry beyond blocks and symbols: who mapped memory, arenas, thread-local variables, guard pages,
// frames of stopped threads.

import Bounds
import Glibc
import IndexReader
import SharedLayout
import Symbols
import SystemAccess

extension Inquiry {
  // MARK: who mapped

  /// The record of the mapping at `address`, if it can describe the present mapping there.
  mutating func record(at address: UInt64) -> MappingRecord? {
    recordIndex(at: address, mapping: mappings.index(containing: address)).map { mappedRecords[$0] }
  }

  /// Index in `mappedRecords` of the record of the mapping at `address`, if it can describe the present mapping there,
  /// which is number `mapping` of `mappings`.
  mutating func recordIndex(at address: UInt64, mapping: Int?) -> Int? {
    if !hasMappedRecords {
      mappedRecords = view.mappedRanges.records(of: shared.segment)
      hasMappedRecords = true
    }
    guard let index = mappedRecords.index(containing: address) else { return nil }
    // Memory that was unmapped without libc's functions stays in the table, and something else may be mapped there now.
    if surroundings.knownMaps == nil { return index }
    guard let mapping else { return nil }
    if !mappedRecords[index].isMoved {
      let (record, mapping) = (mappedRecords[index], mappings.mappings[mapping])
      guard record.isBreak == mapping.isBreak || !mapping.isBreak && mapping.isAnonymous else { return nil }
      if !record.isBreak, record.isAnonymous != mapping.isAnonymousMemory { return nil }
    }
    return index
  }

  mutating func mappedBy(_ record: MappingRecord, stacks: Bool) -> Answer.MappedBy {
    var mapped = Answer.MappedBy(
      range: record.range, age: clock.age(ofTicks: record.ticks),
      permissions: record.isMoved ? nil : record.permissions, path: record.path,
      fileOffset: record.path == nil ? nil : record.fileOffset)
    guard let index = origins.originIndex(ofContext: record.context, in: shared.segment) else { return mapped }
    let origin = origins.origin(at: index)
    mapped.function = origin.function
    if let slot = origin.threadSlot {
      mapped.thread = origins.thread(ofSlot: slot, at: record.ticks, in: shared.segment)
    }
    if stacks, origin.node != 0 { mapped.stack = attribution.stack(ofNode: origin.node, at: record.ticks) }
    return mapped
  }

  // MARK: arenas

  /// The allocator's arena that holds the block, or that holds `address` beside such a block.
  mutating func arena(at address: UInt64, of block: Answer.Block?, allocator: ForeignText?) -> Answer.Arena? {
    guard let allocator else { return nil }
    guard Self.isLibc(allocator) else {
      return record(at: address).map { Answer.Arena(range: $0.range, kind: .mapped) }
    }
    guard surroundings.knownMaps != nil, let index = mappings.index(containing: address) else { return nil }
    let mapping = mappings.mappings[index]
    if mapping.isBreak {
      let arena = Answer.Arena(range: mapping.range, kind: .main)
      mainArena = (index, arena)
      return arena
    }
    guard mapping.isAnonymous else { return nil }
    // glibc malloc/arena.c: heaps of threads are aligned to their greatest size, and what is not used yet is reserved.
    let heapSize: UInt64 = 64 << 20
    let heap = address & ~(heapSize &- 1)
    let heapEnd = heap &+ heapSize
    let above = index &+ 1 < mappings.mappings.count ? mappings.mappings[index &+ 1] : nil
    let isReserved =
      mapping.end == heapEnd
      || above.map { $0.start == mapping.end && $0.isInaccessible && $0.end >= heapEnd } ?? false
    if mapping.start == heap, isReserved, heap < heapEnd {
      return Answer.Arena(range: heap..<heapEnd, kind: .thread)  // bounded: both were just compared
    }
    // A chunk that libc mapped by itself begins with 16 bytes of description, and its end is rounded up to a page.
    guard let block, block.base & 4095 == 16 else { return nil }
    let start = block.base &- 16
    let chunk = (Foreign(block.size) + 8 + 15) & ~15
    // bounded: start is below the mapping's end, as the guard says first, and below end
    guard start >= mapping.start, start < mapping.end,
      let end = (start + ((chunk + 8 + 4095) & ~4095)).value(in: start...mapping.end)
    else { return nil }
    return Answer.Arena(range: start..<end, kind: .single)
  }

  static func isLibc(_ allocator: ForeignText) -> Bool {
    allocator.hasPrefix("libc.so") || allocator.hasPrefix("libc-2")
  }

  /// The allocator of the nearest block, if that block lies in the same mapping.
  mutating func allocator(beside lookup: Lookup, in mapping: Mapping?) -> ForeignText? {
    guard let mapping else { return nil }
    for block in [lookup.previous, lookup.next] {
      guard let block, mapping.contains(block.base),
        let index = origins.originIndex(ofContext: block.context, in: shared.segment)
      else { continue }
      return origins.origin(at: index).allocator
    }
    return nil
  }

  // MARK: thread-local variables

  /// The answer for an address in a thread's copy of thread-local variables; nil for other addresses.
  mutating func threadLocalAnswer(_ address: UInt64) -> Answer? {
    let threads = allThreads()
    _ = loadedModules()
    // A thread's variables lie below its pointer and its description above: no pointer of another thread is between.
    let place = threadPointers.partitioningIndex { $0.pointer > address }
    // bounded: place is an index or the count
    for (pointer, index) in threadPointers[max(0, place &- 1)..<min(threadPointers.count, place &+ 1)] {
      guard var answer = threadLocalAnswer(address, threadPointer: pointer) else { continue }
      answer.thread = origins.holder(of: threads[index]).thread
      return answer
    }
    return nil
  }

  /// The answer for an address that belongs to the thread with this thread pointer: one of its variables, or libc's
  /// description of it.
  private mutating func threadLocalAnswer(_ address: UInt64, threadPointer pointer: UInt64) -> Answer? {
    // The variables of all modules lie below the thread pointer (x86-64; System V ABI supplement for thread-local
    // storage, variant II), and libc's description of the thread lies above it.
    if address >= pointer {
      guard address &- pointer < ThreadDescriptor.size else { return nil }
      var answer = Answer(address: address, kind: .mapping)
      answer.part = Answer.Part(.threadDescriptor, offset: address &- pointer)
      return answer
    }
    _ = loadedModules()
    var meter = BudgetMeter()
    for module in threadLocalModules {
      guard meter.goesOn() else { break }
      guard let block = module.threadLocal, 0 &- block.offset < 1 << 32 else { continue }
      let start = pointer &+ block.offset
      guard address >= start, address &- start < block.size else { continue }
      var answer = Answer(address: address, kind: .static)
      answer.isThreadLocal = true
      answer.module = module.path
      let reference = ModuleReference(module, in: shared.segment)
      if let symbol = view.symbolizer.threadLocalSymbol(atOffset: address &- start, in: reference) {
        answer.section = symbol.section
        answer.symbol = Answer.Symbol(
          name: symbol.name, size: symbol.size == 0 ? nil : symbol.size, offset: symbol.offset)
      }
      answer.variable = view.symbolizer.threadLocalVariable(atOffset: address &- start, in: reference)
      if answer.symbol == nil { answer.unnamed = view.symbolizer.loss(of: reference) }
      if answer.variable == nil { answer.variableProblem = variableProblem(in: reference) }
      return answer
    }
    return nil
  }

  // MARK: threads that never allocated

  /// The answer for an address that belongs to a thread that is not in the index: a part of the stack that libc mapped
  /// for it, which `range` holds.
  mutating func unlistedThreadAnswer(_ address: UInt64, _ index: Int, within range: Range<UInt64>) -> Answer? {
    guard let thread = unlistedThread(inMapping: index), range.contains(thread.pointer),
      address < thread.pointer &+ ThreadDescriptor.size
    else { return nil }
    var answer = Answer(address: address, kind: .stack)
    if let local = threadLocalAnswer(address, threadPointer: thread.pointer) {
      answer = local
    } else if thread.id == mainThread {
      // The main thread's stack is another mapping.
      return nil
    }
    answer.thread = Answer.Thread(id: thread.id, name: surroundings.name(ofThread: thread.id, runningFor: 0))
    return answer
  }

  /// The thread whose description by libc lies at the upper end of the mapping, and its thread pointer.
  mutating func unlistedThread(inMapping index: Int) -> ThreadDescriptor? {
    if let known = threadDescriptors[index] { return known }
    let found = surroundings.threadDescriptor(inMapping: index)
    threadDescriptors[index] = .some(found)
    return found
  }

  // MARK: guard pages

  /// The thread whose stack begins right above the inaccessible mapping at `index`.
  mutating func threadGuarded(by index: Int, _ maps: ProcessMaps) -> Answer.Thread? {
    guard maps.mappings[index].isInaccessible, index &+ 1 < maps.mappings.count else { return nil }
    if let known = guardedThreads[index] { return known }
    let found = findThreadGuarded(by: index, maps)
    guardedThreads[index] = .some(found)
    return found
  }

  private mutating func findThreadGuarded(by index: Int, _ maps: ProcessMaps) -> Answer.Thread? {
    let mapping = maps.mappings[index]
    let above = maps.mappings[index &+ 1]
    guard above.start == mapping.end, above.permissions.hasPrefix("rw") else { return nil }
    if let thread = allThreads().first(where: { thread in
      thread.state != .ended
        && thread.stack.map {
          $0.lowerBound <= above.start && $0.upperBound > above.start && $0.upperBound <= above.end
        }
          ?? false
    }) {
      return origins.holder(of: thread).thread
    }
    guard let id = threadIn(above.range, ofMapping: index &+ 1, around: above.start) else { return nil }
    return Answer.Thread(id: id, name: surroundings.name(ofThread: id, runningFor: 0))
  }

  // MARK: frames

  /// Adds the frame that holds the address of `answer`, in a thread's stack, by stopping the thread for a moment.
  mutating func addFrame(to answer: inout Answer) {
    guard let thread = answer.thread, let mapping = answer.mapping else {
      answer.frameFailure = "the thread is not known, or its process has ended"
      return
    }
    guard surroundings.knowsThreads else {
      answer.frameFailure = "its thread has another id in this pid namespace"
      return
    }
    let end =
      allThreads().last { $0.id == thread.id && $0.state != .ended }?.stack?.upperBound
      ?? surroundings.maps?.index(containing: answer.address).flatMap { unlistedThread(inMapping: $0)?.pointer }
    let stack: StoppedStack
    do throws(StoppedStack.Failure) {
      stack = try StoppedStack(
        thread: thread.id, stackEnd: min(end ?? mapping.end, mapping.end),
        address: answer.address)
    } catch {
      answer.frameFailure = failure(error, thread)
      return
    }
    let address = answer.address
    guard let innermost = stack.frames.first else {
      answer.frameFailure = "the thread's stack can't be unwound: its modules' files can't be read"
      return
    }
    var frame = Answer.StackFrame(role: .frame, index: 0, functions: [], stopped: stack.seconds)
    defer { answer.frame = frame }
    let sp = innermost.registers.stackPointer
    guard address >= sp else {
      frame.role = sp &- address <= 128 ? .redZone : .unused
      if frame.role == .redZone { frame.functions = functions(of: innermost) }
      return
    }
    let found = stack.frames.lastIndex { $0.registers.stackPointer <= address } ?? 0
    let holder = stack.frames[found]
    frame.index = found
    if holder.isLast, found &+ 1 == stack.frames.count, found > 0 || !holder.isExact {
      // The frame is the outermost one, or the one at which unwinding ended.
      frame.functions = functions(of: holder)
      return
    }
    frame.functions = functions(of: holder)
    guard !holder.isLast else { return }
    frame.cfa = holder.registers.cfa
    // The call pushed the return address right below the canonical frame address.
    if holder.registers.cfa &- address <= 8 { frame.role = .returnAddress }
    let pc = holder.isExact ? holder.pc : holder.pc &- 1
    if let module = module(ofCode: pc) {
      frame.variable = view.symbolizer.local(at: address, executing: pc, holder.registers, in: module)
    }
  }

  private mutating func functions(of frame: StoppedStack.Frame) -> [Frame] {
    let instruction = frame.isExact ? frame.pc : frame.pc &- 1
    guard let module = module(ofCode: instruction) else { return [Frame(pc: frame.pc, module: nil)] }
    return view.symbolizer.frames(returnAddress: instruction &+ 1, in: module).map { found in
      var found = found
      found.pc = frame.pc
      return found
    }
  }

  private mutating func module(ofCode address: UInt64) -> ModuleReference? {
    guard let maps = surroundings.maps, let index = maps.index(containing: address) else { return nil }
    return module(at: address, index, maps)
  }

  private func failure(_ error: StoppedStack.Failure, _ thread: Answer.Thread) -> String {
    switch error {
    case .notSupported: return "threads can't be stopped on this machine — ask on an x86-64 one"
    case .gone: return "thread \(thread.id) has ended meanwhile — ask again"
    case .didNotStop:
      return "thread \(thread.id) did not stop within a second, as in an uninterruptible wait — ask again later"
    case .notReadable(let number):
      return "the memory of thread \(thread.id) can't be read: \(systemWords(number)) — ask again"
    case .notPermitted(let number):
      if let tracer = surroundings.tracer(ofThread: thread.id) {
        return "thread \(thread.id) is traced by process \(tracer) already — detach that debugger, or ask it"
      }
      return "thread \(thread.id) can't be stopped: \(systemWords(number))"
        + " — ask as root, or set kernel.yama.ptrace_scope to 0"
    }
  }
}

extension Mapping {
  /// Whether no file is mapped; also where the kernel shows the pseudo file of shared anonymous memory.
  fileprivate var isAnonymousMemory: Bool { isAnonymous || isBreak || path?.hasPrefix("/dev/zero") == true }
}
