// SPDX-License-Identifier: Apache-2.0
// A segment written from the layout headers alone, the way an agent does it: what the reader's tests are held against.
//
// The order of stores is the agent's: an arena before its directory entry, an entry before the region's bits, summary
// levels from the top down before the first slot, a tail before its head.

import Glibc
import SharedLayout

/// Owns a segment file and a writable mapping of it. Removed when it goes, unless the test took the file away.
package final class SyntheticSegment: @unchecked Sendable {
  package struct Capacities {
    package var modules = 64
    package var strings = 4096
    package var threads = 32
    package var formerThreads = 32
    package var nodes = 256
    package var contexts = 1024
    package var totals = 1024
    package var arenas = 8
    package var nested = 2
    package var rings = 4
    package var ringRecords = Int(ALLOCS_RING_RECORDS_MIN)
    /// Sections that a segment need not have, and that this one lacks.
    package var mappings = 0
    package var moduleFiles = 0

    package init() {}

    fileprivate func capacity(of facts: allocs_section_facts) -> Int {
      switch allocs_section_id(facts.id) {
      case ALLOCS_SECTION_MODULES: modules
      case ALLOCS_SECTION_STRINGS: strings
      case ALLOCS_SECTION_THREADS: threads
      case ALLOCS_SECTION_FORMER_THREADS: formerThreads
      case ALLOCS_SECTION_NODES: nodes
      case ALLOCS_SECTION_CONTEXTS: contexts
      case ALLOCS_SECTION_TOTALS: totals
      case ALLOCS_SECTION_ARENAS: arenas
      case ALLOCS_SECTION_NESTED: nested
      case ALLOCS_SECTION_RINGS: rings
      case ALLOCS_SECTION_MAPPINGS: mappings
      case ALLOCS_SECTION_MODULE_FILES: moduleFiles
      default: Int(facts.capacity)
      }
    }

    /// Entries that count from the start: all, or the entry of id 0, which stands for none.
    fileprivate func used(of facts: allocs_section_facts) -> Int {
      if facts.presence == ALLOCS_SECTION_WHOLE.rawValue { return capacity(of: facts) }
      return facts.id == ALLOCS_SECTION_NODES.rawValue || facts.id == ALLOCS_SECTION_CONTEXTS.rawValue ? 1 : 0
    }
  }

  package static let regionCount = 1 << Int(ALLOCS_ADDRESS_BITS - ALLOCS_REGION_SHIFT)
  package static let level0Words = regionCount / 64
  package static let level1Words = level0Words / 64
  package static let arenaSlots = 1 << Int(ALLOCS_REGION_SHIFT - ALLOCS_BLOCK_SHIFT)
  package static let nestedStride = 6 * Int(ALLOCS_PAGE_SIZE) + (8 << Int(ALLOCS_REGION_SHIFT - ALLOCS_NESTED_SHIFT))
  package static let arenaStride = 3 * Int(ALLOCS_PAGE_SIZE) + arenaSlots * 8

  package let path: String
  package let size: Int
  package let start: UnsafeMutableRawPointer
  package let header: UnsafeMutablePointer<allocs_header>
  private var isMapped = true
  private var arenaOfRegion: [Int: UnsafeMutableRawPointer] = [:]

  package init(
    processID: Int32 = getpid(), startTime: UInt64 = 1, in directory: String = TestDirectory.parent,
    name: String? = nil, capacities: Capacities = Capacities(), command: [String] = ["program", "--with", "arguments"],
    publish: Bool = true
  ) {
    var offset = Int(ALLOCS_PAGE_SIZE)
    var sections: [(id: allocs_section_id, section: allocs_section)] = []
    for row in 0..<UInt32(ALLOCS_SECTION_ROWS.rawValue) {
      let facts = allocs_section_facts(row)
      let capacity = capacities.capacity(of: facts)
      if capacity == 0, facts.presence == ALLOCS_SECTION_OPTIONAL.rawValue { continue }
      let entrySize =
        facts.id == ALLOCS_SECTION_RINGS.rawValue
        ? Int(ALLOCS_RING_RECORDS_OFFSET) + capacities.ringRecords * 32 : Int(facts.entry_size)
      sections.append(
        (
          allocs_section_id(facts.id),
          allocs_section(
            offset: UInt64(offset), entry_size: UInt64(entrySize), capacity: UInt64(capacity),
            used: UInt64(capacities.used(of: facts)))
        ))
      offset = (offset + entrySize * capacity + 4095) / 4096 * 4096
    }
    size = offset

    path = name.map { "\(directory)/\($0)" } ?? unusedPath("synthetic") + ".seg"
    let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
    precondition(descriptor >= 0 && ftruncate(descriptor, off_t(size)) == 0, "can't make \(path): \(errno)")
    start = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0)
    precondition(start != MAP_FAILED)
    close(descriptor)
    header = start.assumingMemoryBound(to: allocs_header.self)

    header.pointee.layout_version = ALLOCS_LAYOUT_VERSION
    header.pointee.header_size = UInt32(MemoryLayout<allocs_header>.size)
    header.pointee.file_size = UInt64(size)
    header.pointee.pid = UInt32(processID)
    header.pointee.uid = getuid()
    header.pointee.start_time = startTime
    header.pointee.state = ALLOCS_STATE_LIVE.rawValue
    header.pointee.clock = allocs_clock_start(
      monotonic_ns: Self.nanoseconds(CLOCK_MONOTONIC), realtime_ns: Self.nanoseconds(CLOCK_REALTIME))
    for (id, section) in sections { self.section(id).pointee = section }
    let text = Array(command.joined(separator: "\0").utf8) + [0]
    header.pointee.command_size = UInt32(text.count)
    withUnsafeMutableBytes(of: &header.pointee.command) { $0.copyBytes(from: text) }
    if publish { self.publish() }
  }

  deinit {
    unmap()
    unlink(path)
  }

  /// Takes the mapping away, and leaves the file: nothing but its path can be used any more. For segments that a sweep
  /// is to find in nobody's use: a child that another thread is starting has this process's mappings until it calls
  /// exec, and a file that any process has mapped is not swept away.
  package func unmap() {
    guard isMapped else { return }
    munmap(start, size)
    isMapped = false
  }

  package static func nanoseconds(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  package func publish() { allocs_store_release_u64(words(at: 0), ALLOCS_MAGIC) }

  // MARK: places

  private func words(at offset: Int) -> UnsafeMutablePointer<UInt64> {
    (start + offset).assumingMemoryBound(to: UInt64.self)
  }

  package func section(_ index: Int) -> UnsafeMutablePointer<allocs_section> {
    (start + MemoryLayout<allocs_header>.offset(of: \.sections)!).assumingMemoryBound(to: allocs_section.self) + index
  }

  private func section(_ id: allocs_section_id) -> UnsafeMutablePointer<allocs_section> { section(Int(id.rawValue)) }

  package func entries<Entry>(_ id: allocs_section_id, as type: Entry.Type) -> UnsafeMutablePointer<Entry> {
    (start + Int(section(id).pointee.offset)).assumingMemoryBound(to: type)
  }

  private func append<Entry>(_ id: allocs_section_id, _ entry: Entry) -> Int {
    let section = section(id)
    let index = section.pointee.used
    precondition(index < section.pointee.capacity, "no room left in section \(id.rawValue)")
    (entries(id, as: Entry.self) + Int(index)).pointee = entry
    allocs_store_release_u64(&section.pointee.used, index + 1)
    return Int(index)
  }

  private func setBit(_ words: UnsafeMutablePointer<UInt64>, _ bit: Int) {
    _ = allocs_fetch_or_u64(words + bit / 64, 1 << UInt64(bit % 64))
  }

  // MARK: the index

  /// The arena of `region`, made if there is none.
  package func arena(ofRegion region: Int) -> UnsafeMutableRawPointer {
    if let arena = arenaOfRegion[region] { return arena }
    let section = section(ALLOCS_SECTION_ARENAS)
    let number = section.pointee.used
    precondition(number < section.pointee.capacity, "no arena left")
    let arena = entries(ALLOCS_SECTION_ARENAS, as: UInt8.self) + Int(number) * Self.arenaStride
    UnsafeMutableRawPointer(arena).assumingMemoryBound(to: allocs_arena.self).pointee.region = UInt64(region)
    allocs_store_release_u64(&section.pointee.used, number + 1)
    let directory = entries(ALLOCS_SECTION_DIRECTORY, as: UInt32.self)
    allocs_store_release_u32(directory + region, UInt32(number) + 1)
    let level1 = entries(ALLOCS_SECTION_REGION_BITS, as: UInt64.self)
    setBit(words(at: MemoryLayout<allocs_header>.offset(of: \.region_level2)!), region >> 12)
    setBit(level1, region >> 6)
    setBit(level1 + Self.level1Words, region)
    arenaOfRegion[region] = UnsafeMutableRawPointer(arena)
    return UnsafeMutableRawPointer(arena)
  }

  package func slot(of base: UInt64) -> UnsafeMutablePointer<UInt64> {
    let arena = arena(ofRegion: Int(allocs_region_of_address(base)))
    let slots = (arena + 2 * Int(ALLOCS_PAGE_SIZE)).assumingMemoryBound(to: UInt64.self)
    return slots + Int(allocs_slot_index(base))
  }

  /// Marks the 2 KiB around `base` as used, from the top level down.
  package func summarize(_ base: UInt64) {
    let arena = arena(ofRegion: Int(allocs_region_of_address(base)))
    let words = arena.assumingMemoryBound(to: UInt64.self)
    let bit = Int(allocs_summary_index(base))
    setBit(words + 1, bit >> 12)
    setBit(words + 2, bit >> 6)
    setBit((arena + Int(ALLOCS_PAGE_SIZE)).assumingMemoryBound(to: UInt64.self), bit)
  }

  /// `alignment`: a logarithm to base 2, 0 for none; kept from 64 bytes on.
  package func allocate(_ base: UInt64, size: UInt64, alignment: UInt32 = 0, context: UInt32 = 0, ticks: UInt32 = 0) {
    summarize(base)
    store(at: slot(of: base), base, size: size, alignment: alignment, context: context, ticks: ticks)
  }

  /// Only the slot's stores, for a block whose group is summarized: what a writer in a hurry does.
  package func store(
    at slot: UnsafeMutablePointer<UInt64>, _ base: UInt64, size: UInt64, alignment: UInt32, context: UInt32,
    ticks: UInt32
  ) {
    let granule = allocs_granule_of_address(base)
    if size < UInt64(ALLOCS_SMALL_SIZE_LIMIT) {
      allocs_store_release_u64(slot, allocs_slot_small(granule, size, context, ticks))
    } else {
      allocs_store_release_u64(slot + 1, allocs_slot_tail(size, alignment, ticks))
      allocs_store_release_u64(slot, allocs_slot_large(granule, size, context, ticks))
    }
  }

  // MARK: fine slots

  /// For a block of up to 16 bytes, or at no multiple of 16.
  package func allocateFine(
    _ base: UInt64, size: UInt64, alignment: UInt32 = 0, context: UInt32 = 0, ticks: UInt32 = 0
  ) {
    summarizeNested(base, level: Int(ALLOCS_NESTED_FINE))
    let slot = fineSlot(of: base)
    if size >= UInt64(ALLOCS_SMALL_SIZE_LIMIT) {
      allocs_store_release_u64(slot + 1, allocs_slot_tail(size, alignment, ticks))
    }
    allocs_store_release_u64(
      slot, allocs_slot_head(allocs_slot_kind_of_size(size), allocs_fine_granule(base), size, context, ticks))
  }

  package func freeFine(_ base: UInt64) { allocs_store_release_u64(fineSlot(of: base), 0) }

  package func fineSlot(of base: UInt64) -> UnsafeMutablePointer<UInt64> {
    nestedSlot(of: base, level: Int(ALLOCS_NESTED_FINE))
  }

  // MARK: suballocations

  /// `level`: of suballocations; or ALLOCS_NESTED_FINE.
  private func nestedArena(of base: UInt64, level: Int) -> UnsafeMutableRawPointer {
    let primary = arena(ofRegion: Int(allocs_region_of_address(base)))
    let words = MemoryLayout<allocs_arena>.offset(of: \.nested)!
    let fineWord = MemoryLayout<allocs_arena>.offset(of: \.fine)!
    let number = (primary + (level == Int(ALLOCS_NESTED_FINE) ? fineWord : words + level * 4))
      .assumingMemoryBound(to: UInt32.self)
    let section = section(ALLOCS_SECTION_NESTED)
    if number.pointee == 0 {
      precondition(section.pointee.used < section.pointee.capacity, "no nested arena left")
      section.pointee.used += 1
      let start = entries(ALLOCS_SECTION_NESTED, as: UInt8.self) + (Int(section.pointee.used) - 1) * Self.nestedStride
      UnsafeMutableRawPointer(start).assumingMemoryBound(to: allocs_nested.self).pointee.region =
        allocs_region_of_address(base)
      allocs_store_release_u32(number, UInt32(section.pointee.used))
    }
    return UnsafeMutableRawPointer(entries(ALLOCS_SECTION_NESTED, as: UInt8.self))
      + (Int(number.pointee) - 1) * Self.nestedStride
  }

  private func nestedSlot(of base: UInt64, level: Int) -> UnsafeMutablePointer<UInt64> {
    (nestedArena(of: base, level: level) + 5 * Int(ALLOCS_PAGE_SIZE)).assumingMemoryBound(to: UInt64.self)
      + Int(allocs_nested_slot_index(base))
  }

  /// Marks the 512 bytes around `base` as used.
  private func summarizeNested(_ base: UInt64, level: Int) {
    let arena = nestedArena(of: base, level: level)
    let words = arena.assumingMemoryBound(to: UInt64.self)
    let bit = Int(allocs_nested_summary_index(base))
    setBit(words + 1, bit >> 12)
    setBit(words + 2, bit >> 6)
    setBit((arena + Int(ALLOCS_PAGE_SIZE)).assumingMemoryBound(to: UInt64.self), bit)
  }

  package func suballocate(
    _ base: UInt64, size: UInt64, level: Int = 0, isInChunk: Bool = true, context: UInt32 = 0, ticks: UInt32 = 0
  ) {
    summarizeNested(base, level: level)
    let slot = nestedSlot(of: base, level: level)
    let granule = isInChunk ? ALLOCS_NESTED_IN_CHUNK : ALLOCS_NESTED_OUTSIDE
    if size >= UInt64(ALLOCS_SMALL_SIZE_LIMIT) { allocs_store_release_u64(slot + 1, allocs_slot_tail(size, 0, ticks)) }
    allocs_store_release_u64(
      slot, allocs_slot_head(allocs_slot_kind_of_size(size), granule, size, context, ticks))
  }

  package func subfree(_ base: UInt64, level: Int = 0) {
    allocs_store_release_u64(nestedSlot(of: base, level: level), 0)
  }

  package func free(_ base: UInt64) { allocs_store_release_u64(slot(of: base), 0) }

  // MARK: the tables

  package func addNode(pc: UInt64, parent: UInt32 = 0, flags: UInt32 = 0) -> UInt32 {
    UInt32(append(ALLOCS_SECTION_NODES, allocs_node(pc: pc, parent: parent, flags: flags)))
  }

  package func addContext(
    node: UInt32, thread: UInt32 = ALLOCS_THREAD_UNKNOWN, function: allocs_function = ALLOCS_FUNCTION_MALLOC,
    allocator: UInt32 = 0
  ) -> UInt32 {
    UInt32(append(ALLOCS_SECTION_CONTEXTS, allocs_context_word(node, thread, function.rawValue, allocator)))
  }

  /// What was ever allocated in a context.
  package func setTotal(ofContext id: UInt32, bytes: UInt64, blocks: UInt64) {
    let section = section(ALLOCS_SECTION_TOTALS)
    precondition(UInt64(id) < section.pointee.capacity, "no room for the total of context \(id)")
    entries(ALLOCS_SECTION_TOTALS, as: allocs_total.self)[Int(id)] = allocs_total(bytes: bytes, blocks: blocks)
    allocs_store_release_u64(&section.pointee.used, max(section.pointee.used, UInt64(id) + 1))
  }

  /// Adds an event ring with `written` allocations, the last of which are still there.
  package func addRing(slot: UInt32, written: UInt64, context: UInt32) {
    let section = section(ALLOCS_SECTION_RINGS)
    let start = start + Int(section.pointee.offset) + Int(section.pointee.used * section.pointee.entry_size)
    let ring = start.assumingMemoryBound(to: allocs_ring.self)
    let records = (start + Int(ALLOCS_RING_RECORDS_OFFSET)).assumingMemoryBound(to: allocs_event.self)
    let capacity = (section.pointee.entry_size - UInt64(ALLOCS_RING_RECORDS_OFFSET)) / 32
    for position in written - min(written, capacity)..<written {
      records[Int(position % capacity)] = allocs_event(
        place: allocs_event_place(ALLOCS_EVENT_ALLOC.rawValue, position * 64, 0),
        extent: allocs_event_extent(48, slot), source: allocs_event_source(context, 0), stamp: position + 1)
    }
    ring.pointee.slot = slot
    ring.pointee.reserved = (written / UInt64(ALLOCS_RING_CHUNK) + 1) * UInt64(ALLOCS_RING_CHUNK)
    ring.pointee.written = written
    allocs_store_release_u64(&section.pointee.used, section.pointee.used + 1)
  }

  private func addString(_ text: String) -> UInt64 {
    let strings = section(ALLOCS_SECTION_STRINGS)
    let offset = strings.pointee.used
    UnsafeMutableRawBufferPointer(
      start: entries(ALLOCS_SECTION_STRINGS, as: UInt8.self) + Int(offset), count: text.utf8.count
    ).copyBytes(from: text.utf8)
    allocs_store_release_u64(&strings.pointee.used, offset + UInt64(text.utf8.count))
    return offset
  }

  /// An empty name stands for all of the allocator, an empty module for the executable.
  @discardableResult
  package func addBypass(_ function: String, of module: String, reason: UInt32) -> Int {
    var entry = allocs_bypass()
    entry.function = addString(function)
    entry.function_size = UInt32(function.utf8.count)
    entry.module = addString(module)
    entry.module_size = UInt32(module.utf8.count)
    entry.reason = reason
    return append(ALLOCS_SECTION_BYPASSES, entry)
  }

  /// `module`: 1 + its index, 0 for none; `group`: nil if the entry is its group's first.
  @discardableResult
  package func addAllocator(
    module: UInt32, kind: allocs_allocator_kind = ALLOCS_ALLOCATOR_PRIMARY, name: String = "", function: String = "",
    group: UInt32? = nil, flags: UInt32 = 0
  ) -> UInt32 {
    var entry = allocs_allocator()
    entry.name = addString(name)
    entry.name_size = UInt32(name.utf8.count)
    entry.function = addString(function)
    entry.function_size = UInt32(function.utf8.count)
    entry.module = module
    entry.kind = kind.rawValue
    entry.group = group ?? UInt32(section(ALLOCS_SECTION_ALLOCATORS).pointee.used)
    entry.flags = flags
    return UInt32(append(ALLOCS_SECTION_ALLOCATORS, entry))
  }

  @discardableResult
  package func addModule(
    path: String, range: Range<UInt64>, bias: UInt64 = 0, buildID: [UInt8] = [], loaded: UInt32 = 0,
    unloaded: UInt32? = nil, flags: UInt32 = 0
  ) -> Int {
    let offset = addString(path)
    var entry = allocs_module()
    entry.start = range.lowerBound
    entry.end = range.upperBound
    entry.bias = bias
    entry.load_ticks = loaded
    entry.unload_ticks = unloaded ?? 0
    entry.state = unloaded == nil ? ALLOCS_MODULE_LOADED.rawValue : ALLOCS_MODULE_UNLOADED.rawValue
    entry.build_id_size = UInt32(buildID.count)
    withUnsafeMutableBytes(of: &entry.build_id) { $0.copyBytes(from: buildID) }
    entry.path = offset
    entry.path_size = UInt32(path.utf8.count)
    entry.flags = flags
    return append(ALLOCS_SECTION_MODULES, entry)
  }

  package static func identity(id: UInt32, name: String, slot: UInt32, from start: UInt32, to end: UInt32 = 0)
    -> allocs_thread_identity
  {
    var identity = allocs_thread_identity()
    identity.tid = id
    identity.start_ticks = start
    identity.end_ticks = end
    identity.slot = slot
    withUnsafeMutableBytes(of: &identity.name) { $0.copyBytes(from: name.utf8.prefix(15)) }
    return identity
  }

  package func addThread(id: UInt32, name: String, from start: UInt32) -> UInt32 {
    var entry = allocs_thread()
    entry.state = ALLOCS_THREAD_LIVE.rawValue
    let slot = UInt32(section(ALLOCS_SECTION_THREADS).pointee.used)
    entry.identity = Self.identity(id: id, name: name, slot: slot, from: start)
    return UInt32(append(ALLOCS_SECTION_THREADS, entry))
  }

  /// Ends the holder of `slot` at `end` and gives the slot to a new thread.
  package func replaceThread(slot: UInt32, endingAt end: UInt32, by id: UInt32, name: String, from start: UInt32) {
    let entry = entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    let section = section(ALLOCS_SECTION_FORMER_THREADS)
    let number = section.pointee.used
    let former =
      entries(ALLOCS_SECTION_FORMER_THREADS, as: allocs_former_thread.self) + Int(number % section.pointee.capacity)
    allocs_store_relaxed_u64(&former.pointee.number, 0)
    allocs_fence_release()
    former.pointee.previous = entry.pointee.previous
    former.pointee.identity = entry.pointee.identity
    former.pointee.identity.end_ticks = end
    allocs_store_release_u64(&former.pointee.number, number + 1)
    allocs_store_release_u64(&section.pointee.used, number + 1)
    let sequence = entry.pointee.sequence
    allocs_store_relaxed_u32(&entry.pointee.sequence, sequence + 1)
    allocs_fence_release()
    entry.pointee.previous = number + 1
    entry.pointee.identity = Self.identity(id: id, name: name, slot: slot, from: start)
    allocs_store_release_u32(&entry.pointee.sequence, sequence + 2)
  }

  /// Bytes of memory that the file takes.
  package var allocatedBytes: Int {
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_blocks) * 512 : -1
  }
}
