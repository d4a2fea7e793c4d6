// SPDX-License-Identifier: Apache-2.0
// Mappings: the table of which call mapped which addresses (allocs_mapping.h), kept by the hooks of
// mmap and its like.
//
// A call is noted after it succeeded, and no lock is held in between. Another thread may meanwhile
// have mapped something new where this call unmapped. So each call takes a number before it is
// made, and its unmapping ends only entries with lower numbers. A new mapping gets its number
// afterwards, and ends whatever is listed at its addresses.
//
// These functions may be called where malloc may not: in a signal handler, under an allocator's
// locks, in a child of vfork, which works on its parent's memory. Therefore nothing of libc is
// called here, and the agent's lock is taken only by a thread that does not hold it. A call that
// interrupted a hook, or that comes from the allocator below a hook, may find the thread's cache of
// stacks half changed: that cache is left alone, and the stack is unwound anew.

import AgentMachine
import SharedLayout

enum Mappings {
  private typealias Shared = UnsafeMutablePointer<allocs_shared>
  private typealias Header = UnsafeMutablePointer<allocs_header>
  /// The agent's own part of the table: the entries in order of address, and the free entries.
  private typealias Table = UnsafeMutablePointer<allocs_mapping_table>

  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  /// The number of the last call that mapped something.
  static var number: UInt64 {
    guard let shared = allocs_process().pointee.shared else { return 0 }
    return allocs_load_acquire_u64(&shared.pointee.mapping_number)
  }

  /// Called after a call has changed the process's mappings.
  @inline(never)
  static func changed(_ call: UnsafePointer<allocs_mapping_call>) {
    guard allocs_process().pointee.shared != nil else { return }
    let before = allocs_set_noting(1)
    // This function itself takes little stack, as it may have little.
    if allocs_holds_lock() || hasLittleStack {
      Index.count(ALLOCS_COUNTER_MAPPINGS_MISSED)
    } else {
      noteChange(call)
    }
    _ = allocs_set_noting(before)
  }

  @inline(never)
  private static func noteChange(_ call: UnsafePointer<allocs_mapping_call>) {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let caller = Caller(
      returnSlot: UInt(call.pointee.return_slot), framePointer: call.pointee.frame_pointer)
    let own = enter()
    let isSeen = isSeenAtGate(own)
    let context =
      call.pointee.new_size > 0
      ? context(own, caller, allocs_function(call.pointee.function), shared, header) : 0
    note(call, context, isSeen: isSeen, shared, header)
    if Events.areOn, let thread = own ?? allocs_registered_block() {
      recordEvents(call, thread, isInner: own == nil, isMappedBy: context) {
        Self.context(own, caller, $0, shared, header)
      }
    }
    if let own { allocs_leave(own) }
  }

  /// Records the addresses that the call has unmapped and mapped, while events are on. `thread` may
  /// be inside another hook: if that is recording an event, this one is counted as lost.
  @inline(never)
  private static func recordEvents(
    _ call: UnsafePointer<allocs_mapping_call>, _ thread: Thread, isInner: Bool, isMappedBy mapper: UInt32,
    _ context: (allocs_function) -> UInt32
  ) {
    if call.pointee.old_size > 0 {
      // The context of a call that maps, too, is known already.
      let unmapper = call.pointee.new_size > 0 ? mapper : context(allocs_function(call.pointee.function))
      Events.mapping(
        thread, ALLOCS_EVENT_UNMAP, UInt(call.pointee.old_start), call.pointee.old_size, context: unmapper, detail: 0,
        isInner: isInner)
    }
    if call.pointee.new_size > 0 {
      Events.mapping(
        thread, ALLOCS_EVENT_MAP, UInt(call.pointee.new_start), call.pointee.new_size, context: mapper,
        detail: call.pointee.flags, isInner: isInner)
    }
  }

  /// Whether the thread is on an alternate signal stack with less room, in bytes, than noting a
  /// file takes.
  private static var hasLittleStack: Bool {
    guard let thread = allocs_registered_block(), !Bounds.isOwn(thread, allocs_stack_address()) else { return false }
    let enough: UInt64 = 3500
    return DisarmedStack.room(thread, System.alternateStack) < enough
  }

  /// A function of its own, never inlined: its local names and entries take no room on the stack
  /// while the stack is unwound.
  @inline(never)
  private static func note(
    _ call: UnsafePointer<allocs_mapping_call>, _ context: UInt32, isSeen: Bool, _ shared: Shared, _ header: Header
  ) {
    var draft = allocs_mapping()
    if call.pointee.new_size > 0 {
      draft.context = context
      if context == 0 { Index.count(ALLOCS_COUNTER_MAPPINGS_UNKNOWN) }
      draft.ticks = allocs_now()
      draft.protection = call.pointee.protection
      draft.flags = call.pointee.flags
      draft.offset = call.pointee.offset
    }
    if call.pointee.descriptor >= 0, call.pointee.new_size > 0,
      let file = System.identity(of: call.pointee.descriptor)
    {
      noteFile(call, &draft, file, isSeen: isSeen, shared, header)
    } else {
      lockedAtGate(shared, isSeen: isSeen) {
        if let table = tableOrDropped(shared, header) { apply(call.pointee, draft, shared, header, table) }
      }
    }
    Index.count(ALLOCS_COUNTER_MAPPINGS_CHANGED)
  }

  @inline(never)
  private static func noteFile(
    _ call: UnsafePointer<allocs_mapping_call>, _ draft: inout allocs_mapping, _ file: allocs_mapped_file,
    isSeen: Bool, _ shared: Shared, _ header: Header
  ) {
    var name = Text()
    if !isKnown(file, shared) { name = Self.name(of: call.pointee.descriptor) }
    lockedAtGate(shared, isSeen: isSeen) {
      guard let table = tableOrDropped(shared, header) else { return }
      setPath(&draft, file, name, table, shared, header)
      apply(call.pointee, draft, shared, header, table)
    }
  }

  private static func tableOrDropped(_ shared: Shared, _ header: Header) -> Table? {
    if let table = table(shared, header) { return table }
    Index.count(ALLOCS_COUNTER_MAPPINGS_DROPPED)
    return nil
  }

  /// The agent has mapped memory for itself. `isLocked`: the caller holds the agent's lock.
  static func noteOwn(_ memory: Address, _ size: UInt64, isLocked: Bool = false) {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    var draft = allocs_mapping()
    draft.ticks = allocs_now()
    draft.protection = 3
    draft.flags = ALLOCS_MAPPING_ANONYMOUS.rawValue | ALLOCS_MAPPING_AGENT.rawValue
    var call = allocs_mapping_call()
    call.new_start = UInt64(UInt(bitPattern: memory))
    call.new_size = size
    if isLocked {
      if let table = table(shared, header) { apply(call, draft, shared, header, table) }
    } else if !allocs_holds_lock() {
      locked(shared) {
        if let table = table(shared, header) { apply(call, draft, shared, header, table) }
      }
    }
    Index.count(ALLOCS_COUNTER_MAPPINGS_CHANGED)
  }

  // MARK: who called

  /// The thread, taken; nil if it is inside a hook, or the agent has not started: a call of mmap
  /// does not start it.
  private static func enter() -> Thread? {
    guard case .taken(let thread) = Entering.enterStarted() else { return nil }
    return thread
  }

  private static func context(
    _ own: Thread?, _ caller: Caller, _ function: allocs_function, _ shared: Shared, _ header: Header
  ) -> UInt32 {
    if let own {
      guard Gate.regions(own) != nil else { return 0 }
      return Contexts.context(own, caller, function)
    }
    guard let inside = allocs_registered_block(), Gate.isIndexed(inside) else { return 0 }
    let node =
      shared.pointee.full_stacks != 0
      ? Stack.nodeAnew(inside, caller, shared, header)
      : StackNodes.node(shared, header, parent: 0, pc: caller.site, flags: 0)
    return node == 0 ? 0 : Contexts.context(shared, header, node, inside.pointee.slot, function, 0)
  }

  // MARK: while a thread forks

  /// Whether a thread that closes the gate (Gate.swift) waits for this thread. A thread inside a
  /// hook must not wait in turn: it may hold the allocator's locks, which fork takes.
  private static func isSeenAtGate(_ own: Thread?) -> Bool {
    if let own { return Gate.regions(own) != nil }
    guard let inside = allocs_registered_block(), inside.pointee.entry != nil else { return false }
    // A signal handler on a thread that waits at the gate.
    if inside.pointee.at_gate != 0 { Gate.waitUntilOpen() }
    return true
  }

  /// Runs `body` under the lock and while no thread forks, unless the forking thread waits for this
  /// one (`isSeen`).
  private static func lockedAtGate(_ shared: Shared, isSeen: Bool, _ body: () -> Void) {
    var isDone = false
    while !isDone {
      if !isSeen { Gate.waitUntilOpen() }
      locked(shared) {
        guard isSeen || !Gate.isClosed else { return }
        body()
        isDone = true
      }
    }
  }

  // MARK: files

  /// Where the cache of file names keeps `file`.
  @inline(__always)
  private static func line(_ table: Table, _ file: allocs_mapped_file) -> UnsafeMutablePointer<allocs_mapped_file> {
    let hash = (file.device &* 31 &+ file.inode) &* 0x9E37_79B9_7F4A_7C15
    return allocs_mapping_files(table) + Int(hash >> 32 & UInt64(ALLOCS_MAPPED_FILE_COUNT - 1))
  }

  private static func isSame(_ one: allocs_mapped_file, _ other: allocs_mapped_file) -> Bool {
    one.inode == other.inode && one.device == other.device && one.seconds == other.seconds
      && one.nanoseconds == other.nanoseconds
  }

  /// Whether the file's name is known, so that the kernel need not be asked. Called without the
  /// lock: if the line changes meanwhile, this mapping has no name, and nothing worse happens.
  private static func isKnown(_ file: allocs_mapped_file, _ shared: Shared) -> Bool {
    guard let table = shared.pointee.mappings else { return false }
    return isSame(line(table, file).pointee, file)
  }

  private static func name(of descriptor: Int32) -> Text {
    var link = Text()
    link.append("/proc/self/fd/")
    link.append(UInt64(descriptor))
    return link.withCString { path in
      withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Text.capacity + 1) { buffer in
        var name = Text()
        guard let bytes = buffer.baseAddress else { return name }
        let size = System.readLink(path, bytes, Text.capacity + 1)
        // A path that was cut would be another file's.
        guard size > 0, size <= Text.capacity else { return name }
        for index in 0..<size { name.append(byte: bytes[index]) }
        return name
      }
    }
  }

  /// Gives the draft the file's path, which becomes one of the strings if it is new. The caller
  /// holds the lock.
  private static func setPath(
    _ draft: inout allocs_mapping, _ file: allocs_mapped_file, _ name: borrowing Text, _ table: Table, _ shared: Shared,
    _ header: Header
  ) {
    let line = line(table, file)
    if !isSame(line.pointee, file) {
      guard name.count > 0 else { return }
      var path = line.pointee.path
      var isSameName = line.pointee.path_size == UInt64(name.count)
      if isSameName { isSameName = holds(header, path, name) }
      if !isSameName {
        guard let stored = store(name, table, shared, header) else { return }
        path = stored
      }
      line.pointee = file
      line.pointee.path = path
      line.pointee.path_size = UInt64(name.count)
    }
    draft.path = line.pointee.path
    draft.path_size = UInt32(truncatingIfNeeded: line.pointee.path_size)
  }

  private static func holds(_ header: Header, _ path: UInt64, _ name: borrowing Text) -> Bool {
    let bytes = Strings.table(header)[Int(path)]
    for index in 0..<name.count where bytes[index] != name[index] { return false }
    return true
  }

  /// Adds the name to the strings and gives its offset; nil if there is no room. Half of the
  /// section is left for modules.
  private static func store(
    _ name: borrowing Text, _ table: Table, _ shared: Shared, _ header: Header
  ) -> UInt64? {
    let limit = UInt64(Strings.table(header).capacity / 2)
    let size = name.count
    guard table.pointee.strings_used + UInt64(size) <= limit,
      let extent = name.withCString({ Strings.add(shared, header, $0, size) })
    else { return nil }
    table.pointee.strings_used += UInt64(size)
    return extent.offset
  }

  // MARK: the table

  private static func table(_ shared: Shared, _ header: Header) -> Table? {
    if let table = shared.pointee.mappings { return table }
    let size = UInt64(MemoryLayout<allocs_mapping_table>.size)
    guard let memory = System.map(size) else { return nil }
    let table = memory.assumingMemoryBound(to: allocs_mapping_table.self)
    shared.pointee.mappings = table
    noteOwn(memory, size, isLocked: true)
    return table
  }

  @inline(__always)
  private static func entries(_ header: Header) -> SegmentTable<allocs_mapping> {
    SegmentTable(header, ALLOCS_SECTION_MAPPINGS)
  }

  /// Lists what the call did. The caller holds the lock.
  private static func apply(
    _ call: allocs_mapping_call, _ draft: allocs_mapping, _ shared: Shared, _ header: Header, _ table: Table
  ) {
    var draft = draft
    if call.source != 0, call.new_size > 0 { inherit(&draft, from: call.source, header, table) }
    if call.old_size > 0 {
      remove(call.old_start, end(call.old_start, call.old_size, draft.flags), upTo: call.number, header, table)
    }
    guard call.new_size > 0 else { return }
    let next = shared.pointee.mapping_number + 1
    allocs_store_release_u64(&shared.pointee.mapping_number, next)
    draft.number = next
    draft.start = call.new_start
    draft.end = end(call.new_start, call.new_size, draft.flags)
    remove(draft.start, draft.end, upTo: .max, header, table)
    if draft.flags & ALLOCS_MAPPING_BREAK.rawValue != 0, grow(draft, header, table) { return }
    insert(draft, header, table)
  }

  /// One past the last address of a mapping. The kernel maps whole pages; only the program break
  /// may be at any byte.
  private static func end(_ start: UInt64, _ size: UInt64, _ flags: UInt32) -> UInt64 {
    if flags & ALLOCS_MAPPING_BREAK.rawValue != 0 { return start &+ size }
    return start &+ (size &+ pageSize &- 1) & ~(pageSize - 1)
  }

  /// mremap moved a mapping: gives the draft the known facts of the mapping that `source` lay in.
  private static func inherit(_ draft: inout allocs_mapping, from source: UInt64, _ header: Header, _ table: Table) {
    let rank = rank(above: source, header, table)
    let old = rank > 0 ? entries(header)[Int(allocs_mapping_order(table)[rank - 1])] : nil
    guard let old, source < old.pointee.end else {
      draft.flags |= ALLOCS_MAPPING_MOVED.rawValue
      return
    }
    draft.protection = old.pointee.protection
    draft.flags = old.pointee.flags
    draft.path = old.pointee.path
    draft.path_size = old.pointee.path_size
    draft.offset = old.pointee.offset
    if old.pointee.path_size > 0 { draft.offset += source - old.pointee.start }
  }

  /// How many live entries start at or below `address`: the position, in the order of addresses, of
  /// the first entry above it.
  private static func rank(above address: UInt64, _ header: Header, _ table: Table) -> Int {
    let order = allocs_mapping_order(table)
    let entries = entries(header)
    var low = 0
    var high = Int(table.pointee.live_count)
    while low < high {
      let middle = (low + high) / 2
      if entries[Int(order[middle])].pointee.start <= address { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// The calls up to `number` have nothing mapped any more from `start` to `end`: entries that
  /// reach into that range shrink, end, or become two.
  private static func remove(
    _ start: UInt64, _ end: UInt64, upTo number: UInt64, _ header: Header, _ table: Table
  ) {
    let order = allocs_mapping_order(table)
    let entries = entries(header)
    var next = rank(above: start, header, table)
    // The entry that starts below may reach into the range.
    if next > 0, entries[Int(order[next - 1])].pointee.end > start { next -= 1 }
    var kept = next
    let count = Int(table.pointee.live_count)
    var rest: allocs_mapping?
    while next < count {
      let index = order[next]
      let entry = entries[Int(index)]
      guard entry.pointee.start < end else { break }
      var isGone = false
      if entry.pointee.number <= number {
        let old = entry.pointee
        if old.start < start {
          if old.end > end { rest = part(of: old, from: end) }
          entry.change { $0.pointee.end = start }
        } else if old.end > end {
          let part = part(of: old, from: end)
          entry.change {
            $0.pointee.start = part.start
            $0.pointee.offset = part.offset
          }
        } else {
          entry.change {
            $0.pointee.start = 0
            $0.pointee.end = 0
          }
          isGone = true
        }
      }
      next += 1
      if isGone {
        allocs_mapping_free(table)[Int(table.pointee.free_count)] = index
        table.pointee.free_count += 1
      } else {
        order[kept] = index
        kept += 1
      }
    }
    if kept < next {
      allocs_mapping_move(order + kept, order + next, UInt64(count - next))
      table.pointee.live_count = UInt64(count - (next - kept))
    }
    if let rest { insert(rest, header, table) }
  }

  /// The rest of a mapping, from `start` on.
  private static func part(of old: allocs_mapping, from start: UInt64) -> allocs_mapping {
    var part = old
    part.start = start
    if old.flags & ALLOCS_MAPPING_ANONYMOUS.rawValue == 0 { part.offset += start - old.start }
    return part
  }

  /// Adds `draft` to the entry that ends where `draft` begins, if both have one context. Gives
  /// whether it did. A program that moves its break in small steps has one entry for all of them.
  private static func grow(_ draft: allocs_mapping, _ header: Header, _ table: Table) -> Bool {
    let rank = rank(above: draft.start, header, table)
    guard rank > 0 else { return false }
    let below = entries(header)[Int(allocs_mapping_order(table)[rank - 1])]
    guard below.pointee.end == draft.start, below.pointee.context == draft.context,
      below.pointee.flags == draft.flags
    else { return false }
    below.change {
      $0.pointee.end = draft.end
      $0.pointee.ticks = draft.ticks
      $0.pointee.number = draft.number
    }
    return true
  }

  private static func insert(_ draft: allocs_mapping, _ header: Header, _ table: Table) {
    guard let index = newEntry(header, table) else {
      Index.count(ALLOCS_COUNTER_MAPPINGS_DROPPED)
      return
    }
    entries(header)[Int(index)].replace(with: draft)
    let order = allocs_mapping_order(table)
    let rank = rank(above: draft.start, header, table)
    let count = Int(table.pointee.live_count)
    allocs_mapping_move(order + rank + 1, order + rank, UInt64(count - rank))
    order[rank] = index
    table.pointee.live_count += 1
  }

  /// The index of a free entry, backed by memory; nil if there is none.
  private static func newEntry(_ header: Header, _ table: Table) -> UInt32? {
    guard table.pointee.free_count == 0 else {
      table.pointee.free_count -= 1
      return allocs_mapping_free(table)[Int(table.pointee.free_count)]
    }
    return entries(header).append().map { UInt32(truncatingIfNeeded: $0) }
  }
}

@c(allocs_mapping_number) func hookMappingNumber() -> UInt64 { Mappings.number }
@c(allocs_hook_mapped) func hookMapped(_ call: UnsafePointer<allocs_mapping_call>) { Mappings.changed(call) }
