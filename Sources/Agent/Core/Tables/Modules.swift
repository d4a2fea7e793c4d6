// Modules: notes in the segment which module lies where, so that return addresses mean something after dlclose and
// after the process is gone.
//
// A module is noted when the agent starts, or when the first call from it is seen: _dl_find_object finds it without a
// lock, so a thread that holds the dynamic linker's lock cannot be waited for. dlclose is hooked to note which modules
// went. libc unloads modules of its own (converters, name services) past that hook, and between a dlclose and the note
// another thread may load something in the same place. So the question is asked again before anything new is mapped:
// the dynamic linker allocates the description of a new module first, by calloc.
//
// From the first unloading on, each new node of the stack trie names the entry of its module, so that records tell
// modules apart that lay at the same addresses, however soon after each other. A file that is loaded again at its place
// gets its entry again: a program that loads a plugin a million times has one entry for it. Where the table is full,
// the entry of a module that was unloaded is given to another, and counted; `first_node` keeps their nodes apart.
//
// Entries of loaded modules are found by binary search in their order of address (`place`). The search takes no lock:
// one that meets a change may miss, and who misses asks again under the lock.

import AgentMachine
import SharedLayout

enum Modules {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  /// What a node says of its module, where that is none or has no entry.
  private static let none = UInt32(ALLOCS_NODE_MODULE_NONE)
  private static let dropped = UInt32(ALLOCS_NODE_MODULE_DROPPED)

  /// Notes the module that covers `address`, if it is new. What a node is to say of it: 1 + its index, or why it has
  /// none.
  @discardableResult
  static func note(_ shared: Shared, _ header: Header, address: UInt64) -> UInt32 {
    let known = known(shared, header, address)
    if known != 0 { return known }
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_module(address, &start, &end, &map), let map else { return none }
    let number = locked(shared) {
      let known = Self.number(shared, header, of: address)
      return known != 0 ? known : add(shared, header, start, end, map)
    }
    Events.tellNews(shared, header)
    return number
  }

  /// Notes all modules of the program.
  static func noteAll(_ shared: Shared, _ header: Header) {
    ModuleFiles.noteRoot(shared)
    var map = allocs_first_link_map()
    while let current = map {
      // Its dynamic section lies within it.
      note(shared, header, address: UInt64(UInt(bitPattern: current.pointee.l_ld)))
      map = current.pointee.l_next
    }
  }

  static func findLoader() {
    var start: UInt64 = 0
    var end: UInt64 = 0
    guard allocs_find_loader(&start, &end) else { return }
    allocs_process().pointee.loader_start = start
    allocs_process().pointee.loader_size = end &- start
  }

  /// Whether the dynamic linker calls: it may be about to map a module.
  @inline(__always)
  static func isLoader(_ site: UInt64) -> Bool {
    site &- allocs_process().pointee.loader_start < allocs_process().pointee.loader_size
  }

  /// dlclose has returned, or a module is about to be mapped: which of the noted modules are gone?
  static func noteUnloaded() {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    locked(shared) {
      let table = entries(header)
      var changed = false
      var rank = Int(shared.pointee.loaded_modules)
      while rank > 0 {
        rank -= 1
        let index = places(header)[rank].place
        var start: UInt64 = 0
        var end: UInt64 = 0
        var map: UnsafeMutablePointer<link_map>?
        let module = table + Int(index)
        if allocs_find_module(module.pointee.start, &start, &end, &map), start == module.pointee.start { continue }
        unload(shared, header, rank: rank)
        changed = true
      }
      if changed {
        flushAll(shared, header)
        Terminal.forgetOperators()
      }
    }
    Events.tellNews(shared, header)
  }

  /// The place of the module that covers `address`, counted from 1; 0 if it is not known.
  static func number(_ header: Header, of address: UInt64) -> UInt32 {
    guard let shared = allocs_process().pointee.shared else { return 0 }
    return number(shared, header, of: address)
  }

  private static func number(_ shared: Shared, _ header: Header, of address: UInt64) -> UInt32 {
    let table = entries(header)
    let places = places(header)
    var low = 0
    var high = Int(allocs_load_acquire_u32(&shared.pointee.loaded_modules))
    while low < high {
      let middle = (low + high) / 2
      let index = Int(allocs_load_relaxed_u32(&places[middle].place))
      if table[index].start <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return 0 }
    let index = allocs_load_relaxed_u32(&places[low - 1].place)
    return covers(table + Int(index), address) ? index + 1 : 0
  }

  /// The first node of the module in entry `number`: those below were made for another module, which had the entry
  /// before.
  @inline(__always)
  static func firstNode(_ header: Header, ofModule number: UInt32) -> UInt32 {
    number < dropped ? places(header)[Int(number) - 1].first_node : 0
  }

  /// The module at `address` has its thread-local variables of this thread at `block`. Those of modules that are loaded
  /// at the start lie at the same distance from every thread's pointer.
  static func noteThreadLocalBlock(_ address: UInt64, _ block: UInt64, _ size: UInt64) {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    let number = number(header, of: address)
    guard number > 0 else { return }
    let module = entries(header) + Int(number - 1)
    module.pointee.thread_local_offset = block &- allocs_thread_pointer()
    allocs_store_release_u64(&module.pointee.thread_local_size, size)
  }

  /// Most questions are about the module of the last one.
  private static func known(_ shared: Shared, _ header: Header, _ address: UInt64) -> UInt32 {
    let index = allocs_load_relaxed_u32(&shared.pointee.last_module)
    let used = allocs_load_acquire_u64(&Segment.section(header, ALLOCS_SECTION_MODULES).pointee.used)
    if UInt64(index) < used, covers(entries(header) + Int(index), address) { return index + 1 }
    let number = number(shared, header, of: address)
    if number > 0 { shared.pointee.last_module = number - 1 }
    return number
  }

  private static func covers(_ module: UnsafeMutablePointer<allocs_module>, _ address: UInt64) -> Bool {
    module.pointee.start <= address && address < module.pointee.end
      && allocs_load_relaxed_u32(&module.pointee.state) == ALLOCS_MODULE_LOADED.rawValue
  }

  private static func entries(_ header: Header) -> UnsafeMutablePointer<allocs_module> {
    Segment.start(header, ALLOCS_SECTION_MODULES).assumingMemoryBound(to: allocs_module.self)
  }

  private static func places(_ header: Header) -> UnsafeMutablePointer<allocs_module_file> {
    Segment.start(header, ALLOCS_SECTION_MODULE_FILES).assumingMemoryBound(to: allocs_module_file.self)
  }

  /// The module at `rank` among those that are loaded is gone. The caller holds the lock.
  private static func unload(_ shared: Shared, _ header: Header, rank: Int) {
    let places = places(header)
    let index = places[rank].place
    let last = Int(shared.pointee.loaded_modules) - 1
    for next in rank..<last { allocs_store_relaxed_u32(&places[next].place, places[next + 1].place) }
    allocs_store_release_u32(&shared.pointee.loaded_modules, UInt32(last))
    shared.pointee.modules_unloaded = 1
    let module = entries(header) + Int(index)
    FrameTables.forget(from: module.pointee.start, to: module.pointee.end)
    module.pointee.unload_ticks = allocs_now()
    allocs_store_release_u32(&module.pointee.state, ALLOCS_MODULE_UNLOADED.rawValue)
    Index.count(ALLOCS_COUNTER_MODULES_CHANGED)
    Events.addNews(shared, module: index, isUnloaded: true)
  }

  /// Threads that go on may have cached sites of the module. Their caches are theirs; an empty key does no harm there.
  private static func flushAll(_ shared: Shared, _ header: Header) {
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    var chunk = shared.pointee.chunk_first
    while let current = chunk {
      for index in 0..<UInt64(ALLOCS_BLOCKS_PER_CHUNK) { StackCaches.flush(allocs_chunk_thread(current, index)) }
      chunk = current.pointee.next
    }
  }

  // MARK: a module that comes

  /// What a node is to say of it. The caller holds the lock.
  private static func add(
    _ shared: Shared, _ header: Header, _ start: UInt64, _ end: UInt64, _ map: UnsafeMutablePointer<link_map>
  ) -> UInt32 {
    // A module that was here and is not any more went without a call of dlclose that we saw.
    var isReplaced = false
    var rank = Int(shared.pointee.loaded_modules)
    while rank > 0 {
      rank -= 1
      let other = entries(header)[Int(places(header)[rank].place)]
      if other.start >= end { continue }
      if other.end <= start { break }
      unload(shared, header, rank: rank)
      isReplaced = true
    }
    if isReplaced { flushAll(shared, header) }
    var module = allocs_module()
    var file = allocs_module_file()
    module.start = start
    module.end = end
    module.bias = UInt64(map.pointee.l_addr)
    module.load_ticks = allocs_now()
    if shared.pointee.modules_unloaded != 0 { module.flags |= ALLOCS_MODULE_LATER.rawValue }
    #if !ALLOCS_INEXE
      if allocs_is_own_module(map) { module.flags |= ALLOCS_MODULE_AGENT.rawValue }
    #endif
    FrameTables.prepare(map, at: UInt64(UInt(bitPattern: map.pointee.l_ld)))
    ModuleFiles.readBuildID(&module)
    // The name is written where the strings end, and stays there only if it is new.
    let draft = Strings.draft(shared, header)
    var size = 0
    if let draft { size = ModuleFiles.name(draft, Strings.limit, &module, &file, map, shared) }
    let former = draft == nil ? nil : Self.former(header, module, file, draft, size)
    guard let index = former ?? room(shared, header) else {
      // From now on nodes say that their module has no entry.
      shared.pointee.modules_unloaded = 1
      Index.count(ALLOCS_COUNTER_MODULES_DROPPED)
      return dropped
    }
    if former != nil {
      allocs_store_release_u32(&entries(header)[index].state, ALLOCS_MODULE_LOADED.rawValue)
    } else {
      fill(shared, header, index, &module, &file, draft, size, map)
    }
    insert(shared, header, index)
    // What was code without information there may have some now.
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    let used = Segment.section(header, ALLOCS_SECTION_MODULES)
    if UInt64(index) >= used.pointee.used {
      Segment.section(header, ALLOCS_SECTION_MODULE_FILES).pointee.used = UInt64(index) + 1
      allocs_store_release_u64(&used.pointee.used, UInt64(index) + 1)
    }
    allocs_store_release_u32(&shared.pointee.loaded_modules, shared.pointee.loaded_modules + 1)
    Index.count(ALLOCS_COUNTER_MODULES_CHANGED)
    Events.addNews(shared, module: UInt32(index), isUnloaded: false)
    return UInt32(index) + 1
  }

  /// The entry that this very file had when it was loaded at this very place before.
  private static func former(
    _ header: Header, _ module: allocs_module, _ file: allocs_module_file, _ name: UnsafeMutablePointer<UInt8>?,
    _ size: Int
  ) -> Int? {
    guard let name, size > 0, module.build_id_size > 0 || file.inode != 0 else { return nil }
    let table = entries(header)
    let strings = Segment.start(header, ALLOCS_SECTION_STRINGS)
    for index in 0..<Int(Segment.section(header, ALLOCS_SECTION_MODULES).pointee.used) {
      let old = table + index
      guard old.pointee.start == module.start, old.pointee.end == module.end, old.pointee.bias == module.bias,
        old.pointee.state == ALLOCS_MODULE_UNLOADED.rawValue, Int(old.pointee.path_size) == size,
        ModuleFiles.isSameFile(old.pointee, places(header)[index], module, file),
        ModuleFiles.isEqual(strings + Int(old.pointee.path), UnsafeRawPointer(name), size)
      else { continue }
      return index
    }
    return nil
  }

  /// The index of an entry for a new module, backed by memory: that of one that was unloaded, if the table is full.
  private static func room(_ shared: Shared, _ header: Header) -> Int? {
    let section = Segment.section(header, ALLOCS_SECTION_MODULES)
    let used = section.pointee.used
    guard used >= section.pointee.capacity else {
      let size = section.pointee.entry_size
      let lastPage = ((used + 1) * size - 1) / pageSize
      let entriesPerPage = pageSize / UInt64(MemoryLayout<allocs_module_file>.stride)
      guard
        used * size / pageSize == lastPage && used != 0
          || System.commit(UnsafeMutableRawPointer(entries(header)) + Int(lastPage * pageSize), pageSize),
        used % entriesPerPage != 0 || System.commit(UnsafeMutableRawPointer(places(header) + Int(used)), pageSize)
      else { return nil }
      return Int(used)
    }
    for _ in 0..<used {
      let index = Int(shared.pointee.next_forgotten)
      shared.pointee.next_forgotten = UInt64(index) + 1 < used ? UInt32(index) + 1 : 0
      guard entries(header)[index].state == ALLOCS_MODULE_UNLOADED.rawValue, !isAllocator(header, index) else {
        continue
      }
      Index.count(ALLOCS_COUNTER_MODULES_FORGOTTEN)
      return index
    }
    return nil
  }

  /// Whether an allocator is named by the module.
  private static func isAllocator(_ header: Header, _ index: Int) -> Bool {
    let used = Int(Segment.section(header, ALLOCS_SECTION_ALLOCATORS).pointee.used)
    for number in 0..<used where Int(Allocators.entries(header)[number].module) == index + 1 { return true }
    return false
  }

  /// Writes the entry at `index`, with the name that stands in `draft`; without one, the name goes where that of the
  /// entry's former module stood.
  private static func fill(
    _ shared: Shared, _ header: Header, _ index: Int, _ module: inout allocs_module, _ file: inout allocs_module_file,
    _ draft: UnsafeMutablePointer<UInt8>?, _ size: Int, _ map: UnsafeMutablePointer<link_map>
  ) {
    let entry = entries(header) + index
    let place = places(header) + index
    let isTaken = entry.pointee.state != ALLOCS_MODULE_NONE.rawValue
    let (oldPath, oldRoom) = (entry.pointee.path, place.pointee.path_room)
    let sequence = place.pointee.sequence
    allocs_store_relaxed_u32(&place.pointee.sequence, sequence &+ 1)
    allocs_fence_release()
    allocs_store_release_u32(&entry.pointee.state, ALLOCS_MODULE_NONE.rawValue)
    file.path_room = oldRoom
    module.path = oldPath
    let strings = Segment.start(header, ALLOCS_SECTION_STRINGS).assumingMemoryBound(to: UInt8.self)
    if let draft {
      module.path_size = UInt32(size)
      if size <= Int(oldRoom) {
        for next in 0..<size { strings[Int(oldPath) + next] = draft[next] }
      } else {
        module.path = Strings.keep(header, size)
        file.path_room = module.path_size
      }
    } else if oldRoom > 0 {
      let name = ModuleFiles.name(strings + Int(oldPath), Int(oldRoom), &module, &file, map, shared)
      module.path_size = UInt32(name)
    }
    if isTaken {
      module.flags |= ALLOCS_MODULE_LATER.rawValue
      file.first_node = UInt32(truncatingIfNeeded: allocs_load_acquire_u64(&shared.pointee.nodes.next_id))
    }
    file.place = place.pointee.place
    file.sequence = sequence &+ 1
    module.state = ALLOCS_MODULE_NONE.rawValue
    entry.pointee = module
    place.pointee = file
    allocs_store_release_u32(&entry.pointee.state, ALLOCS_MODULE_LOADED.rawValue)
    allocs_store_release_u32(&place.pointee.sequence, sequence &+ 2)
  }

  /// Puts the entry at `index` among those that are loaded, in order of address. They are one more then; the caller
  /// says so.
  private static func insert(_ shared: Shared, _ header: Header, _ index: Int) {
    let places = places(header)
    let table = entries(header)
    var rank = Int(shared.pointee.loaded_modules)
    while rank > 0, table[Int(places[rank - 1].place)].start > table[index].start {
      allocs_store_relaxed_u32(&places[rank].place, places[rank - 1].place)
      rank -= 1
    }
    allocs_store_relaxed_u32(&places[rank].place, UInt32(index))
  }
}

@c(allocs_note_thread_local_block)
func noteThreadLocalBlock(_ module: UInt64, _ block: UInt64, _ size: UInt64) {
  Modules.noteThreadLocalBlock(module, block, size)
}
