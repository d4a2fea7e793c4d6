// Contexts: from a call site to the id that a slot holds. Each thread caches the sites it allocates at; what it has not
// seen is interned in the segment's tables.
//
// The interning tables are private to the agent and lock-free. Each is a cascade of arrays of cells (id:24, tag:8),
// each array 16 times as large as the one before. A key may lie in one line of 16 cells of each array, and goes into
// the first empty one in cascade order. Cells are only ever filled, so who meets an empty cell knows that the key is in
// none that follow: a look-up costs one line for each array in use, and a lost race is found by reading the cell again.
//
// An entry is written to the segment before its id enters a cell (compare-and-exchange, release), and the id
// enters a slot after that: whoever reads an id may read the entry.

import AgentMachine
import SharedLayout

enum Contexts {
  // MARK: the path

  /// The id of (stack, thread, function, allocator); 0 if it cannot be recorded.
  @inline(__always)
  static func context(
    _ thread: Thread, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0
  ) -> UInt32 {
    // With whole stacks a node stands for the stack, else the call site itself.
    var origin = thread.pointee.full_stacks != 0 ? UInt64(Stack.node(thread, caller)) : caller.site
    if isOwn(origin) { origin = OwnFrames.siteBehind(thread, caller) }
    let (cached, key) = cache(thread, origin, function, allocator: allocator)
    if cached.pointee.key == key { return UInt32(truncatingIfNeeded: cached.pointee.context) }
    return intern(thread, origin, function, allocator, cached, key)
  }

  /// The id of (node or call site, thread, function, allocator) if the thread has it in its cache; else 0. Calls
  /// nothing.
  @inline(__always)
  static func known(
    _ thread: Thread, origin: UInt64, _ function: allocs_function, allocator: UInt32 = 0
  ) -> UInt32 {
    let (cached, key) = cache(thread, origin, function, allocator: allocator)
    return cached.pointee.key == key ? UInt32(truncatingIfNeeded: cached.pointee.context) : 0
  }

  /// Where the thread keeps the context of `origin`, `function` and `allocator`, if it has it, and under which key.
  @inline(__always)
  private static func cache(
    _ thread: Thread, _ origin: UInt64, _ function: allocs_function, allocator: UInt32
  ) -> (UnsafeMutablePointer<allocs_site>, UInt64) {
    let index = Int((origin &* 0x9E37_79B9_7F4A_7C15) >> UInt64(ALLOCS_SITE_SHIFT))
    return (allocs_sites(thread) + index, origin | UInt64(function.rawValue) << 56 | UInt64(allocator) << 48)
  }

  @inline(never)
  private static func intern(
    _ thread: Thread, _ origin: UInt64, _ function: allocs_function, _ allocator: UInt32,
    _ cached: UnsafeMutablePointer<allocs_site>, _ key: UInt64
  ) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    let node =
      thread.pointee.full_stacks != 0
      ? UInt32(truncatingIfNeeded: origin) : child(thread, shared, header, 0, origin, 0)
    let context = node == 0 ? 0 : context(shared, header, node, thread.pointee.slot, function, allocator)
    guard context != 0 else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_CONTEXTS)
      return 0
    }
    cached.pointee.context = UInt64(context)
    cached.pointee.key = key
    return context
  }

  /// The node of the call that returns to `pc`, made from `parent`; 0 if it cannot be recorded.
  @inline(__always)
  static func child(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ parent: UInt32, _ pc: UInt64, _ flags: UInt32
  ) -> UInt32 {
    // Flags are rare; they take part in the key where no address has bits.
    let key = pc | UInt64(flags) << 56
    let index = Int(((pc &+ UInt64(parent) << 32) &* 0x9E37_79B9_7F4A_7C15) >> UInt64(ALLOCS_CHILD_SHIFT))
    let cached = allocs_children(thread) + index
    if cached.pointee.pc == key, cached.pointee.parent == parent { return cached.pointee.node }
    let node = node(shared, header, parent: parent, pc: pc, flags: flags)
    if node != 0 { cached.pointee = allocs_child(pc: key, parent: parent, node: node) }
    return node
  }

  /// Forgets what `thread` has looked up: a module was unloaded, and another may come to lie at its addresses.
  static func flush(_ thread: Thread) {
    for index in 0..<Int(ALLOCS_SITE_COUNT) { allocs_sites(thread)[index].key = 0 }
    for index in 0..<Int(ALLOCS_CHILD_COUNT) { allocs_children(thread)[index].pc = 0 }
    Stack.forget(thread)
  }

  /// Whether `pc` lies in the agent's code. Nodes of stacks, which are small numbers, never do.
  @inline(__always)
  static func isOwn(_ pc: UInt64) -> Bool {
    pc &- allocs_process().pointee.own_start < allocs_process().pointee.own_size
  }

  // MARK: the two tables

  static func node(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, parent: UInt32,
    pc: UInt64, flags: UInt32
  ) -> UInt32 {
    // A frame of the agent's is none of the program's: who called it takes its place.
    if isOwn(pc), parent != 0 { return parent }
    // The call itself lies before the address that it returns to.
    let place = flags & ALLOCS_NODE_INTERRUPTED.rawValue == 0 ? pc &- 1 : pc
    var flags = flags
    var first: UInt32 = 0
    if shared.pointee.modules_unloaded != 0 {
      let module = Modules.note(shared, header, address: place)
      flags |= module << ALLOCS_NODE_MODULE_SHIFT
      first = Modules.firstNode(header, ofModule: module)
    }
    let nodes = Segment.start(header, ALLOCS_SECTION_NODES).assumingMemoryBound(to: allocs_node.self)
    let mixed = UInt64(flags >> ALLOCS_NODE_MODULE_SHIFT) &* 0x9E37_79B9_7F4A_7C15
    return withUnsafeMutablePointer(to: &shared.pointee.nodes) { table in
      intern(
        table, hash: mix(pc ^ UInt64(parent) << 40 ^ UInt64(flags) << 60 ^ mixed),
        matches: { id in
          nodes[Int(id)].pc == pc && nodes[Int(id)].parent == parent && nodes[Int(id)].flags == flags && id >= first
        },
        create: {
          if flags >> ALLOCS_NODE_MODULE_SHIFT == 0 { Modules.note(shared, header, address: place) }
          return create(table, header, ALLOCS_SECTION_NODES) { id in
            nodes[id].pc = pc
            nodes[id].parent = parent
            nodes[id].flags = flags
          }
        })
    }
  }

  static func context(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ node: UInt32,
    _ slot: UInt32, _ function: allocs_function, _ allocator: UInt32
  ) -> UInt32 {
    let word = allocs_context_word(node, slot, function.rawValue, allocator)
    let contexts = Segment.start(header, ALLOCS_SECTION_CONTEXTS).assumingMemoryBound(to: UInt64.self)
    return withUnsafeMutablePointer(to: &shared.pointee.contexts) { table in
      intern(
        table, hash: mix(word),
        matches: { contexts[Int($0)] == word },
        create: {
          create(table, header, ALLOCS_SECTION_CONTEXTS) { id in allocs_store_release_u64(contexts + id, word) }
        })
    }
  }

  private static func mix(_ value: UInt64) -> UInt64 {
    var hash = (value ^ value >> 32) &* 0xD6E8_FEB8_6659_FD93
    hash = (hash ^ hash >> 32) &* 0xD6E8_FEB8_6659_FD93
    return hash ^ hash >> 32
  }

  /// Hands out the next id, backs its entry with memory, lets `write` fill it. 0 if ids or memory have run out.
  private static func create(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ header: UnsafeMutablePointer<allocs_header>,
    _ id: allocs_section_id, _ write: (Int) -> Void
  ) -> UInt32 {
    let section = Segment.section(header, id)
    let limit = min(section.pointee.capacity, UInt64(ALLOCS_CONTEXT_LIMIT))
    guard allocs_load_relaxed_u64(&table.pointee.next_id) < limit else { return 0 }
    let next = allocs_fetch_add_u64(&table.pointee.next_id, 1)
    guard next < limit, commit(table, header, id, upTo: next + 1) else { return 0 }
    write(Int(next))
    var used = allocs_load_acquire_u64(&section.pointee.used)
    while used < next + 1, !allocs_compare_exchange_u64(&section.pointee.used, used, next + 1) {
      used = allocs_load_acquire_u64(&section.pointee.used)
    }
    return UInt32(truncatingIfNeeded: next)
  }

  /// Two threads may both commit the same pages; that does no harm.
  private static func commit(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ header: UnsafeMutablePointer<allocs_header>,
    _ id: allocs_section_id, upTo count: UInt64
  ) -> Bool {
    let section = Segment.section(header, id)
    var committed = allocs_load_acquire_u64(&table.pointee.committed)
    while committed < count {
      let start = committed * section.pointee.entry_size
      // A quarter more, so that a call for memory is rare; a page at least, 256 KiB at most.
      let step = min(max(start / 4, 4096), 256 << 10) & ~4095
      guard System.commit(Segment.start(header, id) + Int(start), step) else { return false }
      let grown = (start + step) / section.pointee.entry_size
      if !allocs_compare_exchange_u64(&table.pointee.committed, committed, grown) {
        committed = allocs_load_acquire_u64(&table.pointee.committed)
      } else {
        committed = grown
      }
    }
    return true
  }

  // MARK: the cascade

  private static let firstLevelCells: UInt64 = 1 << 12
  private static let cellsPerLine: UInt64 = 16

  @inline(__always)
  private static func intern(
    _ table: UnsafeMutablePointer<allocs_intern_table>, hash: UInt64, matches: (UInt32) -> Bool, create: () -> UInt32
  ) -> UInt32 {
    let tag = UInt32(truncatingIfNeeded: hash >> 56) << 24
    var created: UInt32 = 0
    for level in 0..<Int(ALLOCS_INTERN_LEVELS) {
      let cellCount = firstLevelCells << UInt64(4 * level)
      guard let cells = cells(table, level, cellCount) else { return 0 }
      let line = cells + Int((hash & (cellCount / cellsPerLine - 1)) * cellsPerLine)
      for index in 0..<Int(cellsPerLine) {
        let cell = line + index
        var value = allocs_load_acquire_u32(cell)
        while true {
          if value == 0 {
            if created == 0 { created = create() }
            if created == 0 { return 0 }
            if allocs_compare_exchange_u32(cell, 0, created | tag) { return created }
            value = allocs_load_acquire_u32(cell)
          } else {
            let id = value & (ALLOCS_CONTEXT_LIMIT - 1)
            // An id created in a lost race stays unused.
            if value & ~(ALLOCS_CONTEXT_LIMIT - 1) == tag && matches(id) { return id }
            break
          }
        }
      }
    }
    return 0
  }

  private static func cells(
    _ table: UnsafeMutablePointer<allocs_intern_table>, _ level: Int, _ count: UInt64
  ) -> UnsafeMutablePointer<UInt32>? {
    let word = withUnsafeMutablePointer(to: &table.pointee.levels) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self) + level
    }
    if let cells = allocs_load_acquire_pointer(word) { return cells.assumingMemoryBound(to: UInt32.self) }
    guard let made = System.map(count * 4) else { return nil }
    if allocs_compare_exchange_pointer(word, nil, made) {
      Mappings.noteOwn(made, count * 4)
    } else {
      System.unmap(made, count * 4)
    }
    return allocs_load_acquire_pointer(word)?.assumingMemoryBound(to: UInt32.self)
  }
}

/// Frames of the agent's between the program's: the stubs around declared functions, and operators of C++ that run the
/// program's new-handler.
enum OwnFrames {
  /// Where the call was made that led, by functions of the agent's, to that of `caller`; the caller's own site if that
  /// cannot be found.
  @inline(never)
  static func siteBehind(_ thread: Thread, _ caller: Caller) -> UInt64 {
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    let bounds = Bounds(thread, registers)
    while Contexts.isOwn(registers.pc) {
      guard !bounds.isForeign, registers.step(Stack.rule(registers.pc, nil), high: bounds.high) == .stepped else {
        return caller.site
      }
    }
    return registers.pc
  }
}
