// SPDX-License-Identifier: Apache-2.0
// Who allocated: contexts, allocators, call stacks and modules.

import Bounds
import ByteText
import SharedLayout

extension Segment {
  /// One above the highest context id that was given out.
  public var contextCount: Int { used(ALLOCS_SECTION_CONTEXTS) }

  /// The context with this id; nil for id 0, which stands for "not known", and for an id that leads
  /// nowhere. Any thread may ask.
  public func context(_ id: UInt32) -> Context? {
    guard id != 0, Int(truncatingIfNeeded: id) < used(ALLOCS_SECTION_CONTEXTS) else { return nil }
    let word = allocs_load_acquire_u64(entry(Int(truncatingIfNeeded: id), of: ALLOCS_SECTION_CONTEXTS, as: UInt64.self))
    guard word != 0 else { return nil }
    let name = ForeignText(reversibly: allocs_function_name(allocs_context_function(word)))
    let allocator = allocator(allocs_context_allocator(word))
    let thread = allocs_context_thread(word)
    return Context(
      id: id, node: allocs_context_node(word),
      threadSlot: thread == ALLOCS_THREAD_UNKNOWN ? nil : thread,
      function: allocator?.function ?? (name.isEmpty ? nil : name), allocator: allocator)
  }

  // MARK: allocators

  /// All allocators that the agent has met so far. The first is the allocator below the agent's
  /// malloc.
  public var allocators: [Allocator] {
    read(ALLOCS_SECTION_ALLOCATORS) { allocator(UInt32(truncatingIfNeeded: $0)) }
  }

  /// Entry `number` of the table of allocators; nil if there is none, or it contradicts itself.
  public func allocator(_ number: UInt32) -> Allocator? {
    let index = Int(truncatingIfNeeded: number)
    guard index < used(ALLOCS_SECTION_ALLOCATORS) else { return nil }
    var entry = allocs_allocator()
    copyWords(of: self.entry(index, of: ALLOCS_SECTION_ALLOCATORS, as: allocs_allocator.self), into: &entry)
    let kind: Allocator.Kind
    switch entry.kind {
    case ALLOCS_ALLOCATOR_PRIMARY.rawValue: kind = .primary
    case ALLOCS_ALLOCATOR_SUBALLOCATOR.rawValue: kind = .suballocator
    default: return nil
    }
    return Allocator(
      number: number, group: entry.group, kind: kind, name: string(at: entry.name, size: entry.name_size),
      function: string(at: entry.function, size: entry.function_size),
      module: module(index: Int(truncatingIfNeeded: entry.module) &- 1),
      isAnnounced: entry.flags & ALLOCS_ALLOCATOR_ANNOUNCED.rawValue != 0,
      isShownAsChunk: entry.flags & ALLOCS_ALLOCATOR_SHOWN_AS_CHUNK.rawValue != 0)
  }

  /// A text of the strings section; nil if it is empty or does not lie there.
  private func string(at offset: UInt64, size: UInt32) -> ForeignText? {
    size > 0 ? path(at: offset, size: size) : nil
  }

  /// A node of the trie of call stacks; nil if `id` is 0, the root's, or leads outside the table.
  public func node(_ id: UInt32) -> StackNode? {
    let index = Int(truncatingIfNeeded: id)
    guard id != 0, index < used(ALLOCS_SECTION_NODES) else { return nil }
    var entry = allocs_node()
    copyWords(of: self.entry(index, of: ALLOCS_SECTION_NODES, as: allocs_node.self), into: &entry)
    let isAtLimit = entry.flags & ALLOCS_NODE_DEPTH_LIMIT.rawValue != 0
    let isCut = entry.flags & (ALLOCS_NODE_DEPTH_LIMIT.rawValue | ALLOCS_NODE_TRUNCATED.rawValue) != 0
    return StackNode(
      pc: entry.pc, parent: isCut ? 0 : entry.parent,
      isInterrupted: entry.flags & ALLOCS_NODE_INTERRUPTED.rawValue != 0,
      truncation: !isCut ? nil : isAtLimit ? .depthLimit : .unwinder,
      framesCut: isAtLimit && entry.parent != 0 ? entry.parent : nil, holder: holder(id, entry.flags))
  }

  private func holder(_ id: UInt32, _ flags: UInt32) -> CallHolder {
    let number = allocs_node_module(flags)
    switch number {
    case 0: return .unsaid
    case ALLOCS_NODE_MODULE_NONE: return .none
    case ALLOCS_NODE_MODULE_DROPPED: return .dropped
    default:
      let index = number &- 1  // not 0: that case stands above
      guard let file = moduleFile(Int(truncatingIfNeeded: index)) else { return .module(index) }
      return id < file.first_node ? .forgotten : .module(index)
    }
  }

  /// The call stack whose innermost frame is a node of the trie. Node 0, the root, is the empty
  /// stack. A damaged trie gives a stack that says so, after at most `Stack.depthLimit` frames.
  public func stack(ofNode node: UInt32) -> Stack {
    Stack(ofNode: node, isAgent: { isAgent($0) }) { self.node($0) }
  }

  /// Whether `address` lies in the agent's own code.
  public func isAgent(_ address: UInt64) -> Bool {
    var meter = BudgetMeter()
    var index = 0
    while index < used(ALLOCS_SECTION_MODULES), meter.goesOn() {
      var entry = allocs_module()
      copyWords(of: self.entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self), into: &entry)
      if entry.flags & ALLOCS_MODULE_AGENT.rawValue != 0 { return entry.start <= address && address < entry.end }
      index &+= 1
    }
    return false
  }

  // MARK: modules

  /// The state of the table of modules: as long as it is equal, so are the modules. Where the agent
  /// does not count changes (layout version 2), one word of each module is read.
  public var moduleTableVersion: ModuleTableVersion {
    // bounded: a counter's number is below ALLOCS_COUNTER_COUNT
    let changes = allocs_load_acquire_u64(
      headerField(\.counters, as: UInt64.self) + Int(ALLOCS_COUNTER_MODULES_CHANGED.rawValue))
    if changes > 0 { return ModuleTableVersion(changes: changes) }
    let count = used(ALLOCS_SECTION_MODULES)
    var unloaded = 0
    // bounded: the table has 65,536 entries at most
    for index in 0..<count {
      let entry = self.entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self)
      let state = UnsafeRawPointer(entry) + MemoryLayout<allocs_module>.offset(of: \.state)!
      // Pairs with the writer's release of the state, which it makes after the time of unloading.
      if allocs_load_acquire_u32(state.assumingMemoryBound(to: UInt32.self)) == ALLOCS_MODULE_UNLOADED.rawValue {
        unloaded += 1
      }
    }
    return ModuleTableVersion(count: count, unloaded: unloaded)
  }

  /// All modules in the table, in the order in which the agent met them.
  public var modules: [Module] {
    read(ALLOCS_SECTION_MODULES) { module(index: $0) }
  }

  /// The module that held the call to `address` at a record's time; nil if no module is known to
  /// have held it. `holder`: what the call's node says, which is exact. `ticks`: the record's time,
  /// which tells where the node says nothing.
  public func module(of holder: CallHolder, containing address: UInt64, at ticks: UInt32) -> Module? {
    switch holder {
    case .unsaid: module(containing: address, at: ticks, isLater: false)
    case .module(let index):
      module(index: Int(truncatingIfNeeded: index)).flatMap { $0.start <= address && address < $0.end ? $0 : nil }
    case .none, .dropped, .forgotten: nil
    }
  }

  /// The module that held `address` at a time in ticks, as far as the time tells; nil if no module
  /// is known to have held it. Where a record's node says in which module it lies,
  /// `module(of:containing:at:)` is exact, and this is not.
  public func module(containing address: UInt64, at ticks: UInt32) -> Module? {
    module(containing: address, at: ticks, isLater: true)
  }

  /// `isLater`: whether modules count, too, that were noted when nodes said already in which module
  /// they lie.
  private func module(containing address: UInt64, at ticks: UInt32, isLater: Bool) -> Module? {
    var meter = BudgetMeter(interval: 1 << 14)
    var next = used(ALLOCS_SECTION_MODULES)
    // The latest entry first: within one tick a module may be unloaded and another loaded in its
    // place.
    while next > 0, meter.goesOn() {
      next &-= 1
      let index = next
      guard covers(index, address) else { continue }
      var entry = allocs_module()
      copyWords(of: self.entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self), into: &entry)
      guard entry.start <= address, address < entry.end, Self.wasLoaded(entry, at: ticks),
        isLater || entry.flags & ALLOCS_MODULE_LATER.rawValue == 0
      else { continue }
      return module(index: index)
    }
    return nil
  }

  /// Whether the module of entry `index` covers an address. Only such an entry is copied: the table
  /// may have tens of thousands of entries.
  @inline(__always)
  private func covers(_ index: Int, _ address: UInt64) -> Bool {
    let entry = entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self)
    let bounds = UnsafeRawPointer(entry).assumingMemoryBound(to: UInt64.self)
    return allocs_load_relaxed_u64(bounds) <= address && address < allocs_load_relaxed_u64(bounds.successor())
  }

  /// Whether `address` means `module` (nil: no module) in all records whose nodes say nothing: no
  /// other module has ever been there, and `module` still is.
  public func isOnly(_ module: Module?, at address: UInt64) -> Bool {
    // bounded: the table has 65,536 entries at most
    for index in 0..<used(ALLOCS_SECTION_MODULES) where index != module.map({ Int(truncatingIfNeeded: $0.index) }) {
      guard covers(index, address) else { continue }
      var entry = allocs_module()
      copyWords(of: self.entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self), into: &entry)
      if entry.flags & ALLOCS_MODULE_LATER.rawValue == 0 { return false }
    }
    return module?.unloadTicks == nil
  }

  private static func wasLoaded(_ entry: allocs_module, at ticks: UInt32) -> Bool {
    switch entry.state {
    case ALLOCS_MODULE_LOADED.rawValue:
      return Module.wasLoaded(at: entry.load_ticks, before: ticks)
    case ALLOCS_MODULE_UNLOADED.rawValue:
      let loaded = Module.earliestRecord(ofLoad: entry.load_ticks)
      return allocs_ticks_between(loaded, ticks) <= allocs_ticks_between(loaded, entry.unload_ticks)
    default:
      return false
    }
  }

  /// Entry `index` of the module table; nil if there is none, it contradicts itself, or it is being
  /// changed.
  public func module(index: Int) -> Module? {
    guard index >= 0, index < used(ALLOCS_SECTION_MODULES) else { return nil }
    // The agent may give an entry to another module, path and all, while the reader copies it.
    for _ in 0..<4 {
      let before = moduleFile(index)
      if let before, before.sequence & 1 == 1 { continue }
      let module = module(index: index, before)
      allocs_fence_acquire()
      if moduleFile(index)?.sequence == before?.sequence { return module }
    }
    return nil
  }

  private func module(index: Int, _ file: allocs_module_file?) -> Module? {
    var entry = allocs_module()
    copyWords(of: self.entry(index, of: ALLOCS_SECTION_MODULES, as: allocs_module.self), into: &entry)
    guard entry.state != ALLOCS_MODULE_NONE.rawValue, entry.start < entry.end,
      entry.build_id_size <= ALLOCS_BUILD_ID_SIZE, let path = path(at: entry.path, size: entry.path_size)
    else { return nil }
    return Module(
      index: UInt32(truncatingIfNeeded: index), path: path,
      // bounded: 32 bits hold no negative number
      buildID: withUnsafeBytes(of: entry.build_id) { Array($0.prefix(Int(truncatingIfNeeded: entry.build_id_size))) },
      start: entry.start, end: entry.end, bias: entry.bias, loadTicks: entry.load_ticks,
      unloadTicks: entry.state == ALLOCS_MODULE_UNLOADED.rawValue ? entry.unload_ticks : nil,
      isMain: entry.flags & ALLOCS_MODULE_MAIN.rawValue != 0,
      isAgent: entry.flags & ALLOCS_MODULE_AGENT.rawValue != 0,
      threadLocal: entry.thread_local_size == 0
        ? nil : Module.ThreadLocal(offset: entry.thread_local_offset, size: entry.thread_local_size),
      file: file.flatMap { FileState($0) }, notedNanoseconds: file?.noted_ns ?? 0,
      isDeleted: (file?.flags ?? 0) & ALLOCS_MODULE_FILE_DELETED.rawValue != 0,
      isLater: entry.flags & ALLOCS_MODULE_LATER.rawValue != 0)
  }

  /// The entry of the file of module `index`; nil if the segment has no such table.
  private func moduleFile(_ index: Int) -> allocs_module_file? {
    guard index >= 0, index < used(ALLOCS_SECTION_MODULE_FILES) else { return nil }
    var entry = allocs_module_file()
    copyWords(of: self.entry(index, of: ALLOCS_SECTION_MODULE_FILES, as: allocs_module_file.self), into: &entry)
    return entry
  }

  /// A text of the strings section, which may be empty; nil if it would lie outside the section, is
  /// longer than the agent's texts, or the question may take no more memory.
  func path(at offset: UInt64, size: UInt32) -> ForeignText? {
    let strings = used(ALLOCS_SECTION_STRINGS)
    guard size <= Self.longestText, let place = Foreign(offset).range(count: Foreign(Foreign(size)), within: strings),
      Budget.spendCurrent(bytes: place.count + 64)
    else { return nil }
    // Copied before it is decoded: the bytes may change under the decoder.
    let text = UnsafeRawBufferPointer(start: entries(ALLOCS_SECTION_STRINGS, as: UInt8.self), count: strings)
    return ForeignText(reversibly: Array(text[place]))
  }

  /// The agent cuts texts to a page (Strings.swift).
  private static var longestText: UInt32 { ALLOCS_PAGE_SIZE }
}

extension FileState {
  /// nil if the agent did not learn which file it was.
  fileprivate init?(_ file: allocs_module_file) {
    guard file.inode != 0 else { return nil }
    self.init(
      device: file.device, inode: file.inode, size: file.size, seconds: file.mtime_seconds,
      nanoseconds: file.mtime_nanoseconds)
  }
}

extension Module {
  /// Whether a module that was noted at `load`, and not unloaded since, was there when a record
  /// with `ticks` was made; both in ticks of 1/64 s modulo 2^31.
  public static func wasLoaded(at load: UInt32, before ticks: UInt32) -> Bool {
    // Without an end, times from half a wrap on count as before the start.
    allocs_ticks_between(earliestRecord(ofLoad: load), ticks) < 1 << (ALLOCS_TICK_BITS - 1)
  }

  /// A module is noted after the time was taken of the record that first shows the module: a tick
  /// may lie between the two.
  fileprivate static func earliestRecord(ofLoad load: UInt32) -> UInt32 { (load &- 1) & ALLOCS_TICK_MASK }

  /// The tick of a moment, in nanoseconds of CLOCK_MONOTONIC.
  public static func ticks(ofNanoseconds moment: UInt64) -> UInt32 {
    allocs_ticks(moment / 1_000_000_000, moment % 1_000_000_000)
  }
}
