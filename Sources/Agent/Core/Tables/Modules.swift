// SPDX-License-Identifier: Apache-2.0
// Modules: notes in the segment which module lay where, so that return addresses mean something
// after dlclose and after the process is gone (allocs_module.h).
//
// A module is noted when the agent starts, or when a call from it is first seen. _dl_find_object
// finds it without a lock, so nobody waits for a thread that holds the dynamic linker's lock.
// dlclose is hooked, to note which modules went. libc unloads modules of its own (converters, name
// services) past that hook, and between a dlclose and the note of it another thread may load
// something in the same place. So before anything new is mapped, the agent checks once more which
// modules are gone. It notices in time, because the dynamic linker first allocates the description
// of a new module, by calloc.
//
// From the first unloading on, each new stack node names the entry of its module. So records tell
// apart modules that lay at the same addresses, however soon after each other. A file that is
// loaded again in its old place gets its old entry: a program that loads a plugin a million times
// has one entry for it. Where the table is full, a new module is given the entry of a module that
// was unloaded, which is counted; `first_node` of the entry keeps the nodes of the two apart.
//
// Each module has two entries of one index, in the table of modules and in the table of their files
// (allocs_module_file). The second table also keeps, in `place`, the indexes of the loaded modules
// in the order of their addresses; the position of a module in that order is its *rank* here. A
// binary search over the ranks finds the module of an address. It takes no lock: a search that
// meets a change may miss, and then asks again under the lock.

import AgentMachine
import SharedLayout

enum Modules {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  /// The word that a node has in place of its module's number, if its address lies in no module, or
  /// in one that has no entry.
  private static let none = UInt32(ALLOCS_NODE_MODULE_NONE)
  private static let dropped = UInt32(ALLOCS_NODE_MODULE_DROPPED)

  /// Notes the module that covers `address`, if it is new. Gives its number, which is 1 + the index
  /// of its entries, or why it has none (`none`, `dropped`): nodes say either.
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
    Events.recordModules(shared, header)
    return number
  }

  /// Notes all modules of the program.
  static func noteAll(_ shared: Shared, _ header: Header) {
    ModuleFiles.noteRoot(shared)
    var map = allocs_first_link_map()
    while let current = map {
      // A module's dynamic section lies within the module.
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

  /// Whether the caller at `site` is the dynamic linker, which may be about to map a module.
  @inline(__always)
  static func isLoader(_ site: UInt64) -> Bool {
    site &- allocs_process().pointee.loader_start < allocs_process().pointee.loader_size
  }

  /// Notes which of the known modules are gone. dlclose has returned, or a module is about to be
  /// mapped.
  static func noteUnloaded() {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    locked(shared) {
      let table = table(header)
      let files = files(header)
      var changed = false
      var rank = Int(shared.pointee.loaded_modules)
      while rank > 0 {
        rank -= 1
        let module = table[Int(files[rank].pointee.place)]
        var start: UInt64 = 0
        var end: UInt64 = 0
        var map: UnsafeMutablePointer<link_map>?
        if allocs_find_module(module.pointee.start, &start, &end, &map), start == module.pointee.start { continue }
        unload(shared, header, rank: rank)
        changed = true
      }
      if changed {
        flushAll(shared, header)
        Terminal.forgetOperators()
      }
    }
    Events.recordModules(shared, header)
  }

  /// The number of the module that covers `address`; 0 if no known module does.
  static func number(_ header: Header, of address: UInt64) -> UInt32 {
    guard let shared = allocs_process().pointee.shared else { return 0 }
    return number(shared, header, of: address)
  }

  private static func number(_ shared: Shared, _ header: Header, of address: UInt64) -> UInt32 {
    let table = table(header)
    let files = files(header)
    var low = 0
    var high = Int(allocs_load_acquire_u32(&shared.pointee.loaded_modules))
    while low < high {
      let middle = (low + high) / 2
      let index = Int(allocs_load_relaxed_u32(&files[middle].pointee.place))
      if table[index].pointee.start <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return 0 }
    let index = allocs_load_relaxed_u32(&files[low - 1].pointee.place)
    return covers(table[Int(index)], address) ? index + 1 : 0
  }

  /// The first node that may be of the module with this number: nodes with lower ids were made for
  /// the module that had its entries before.
  @inline(__always)
  static func firstNode(_ header: Header, ofModule number: UInt32) -> UInt32 {
    number < dropped ? files(header)[Int(number) - 1].pointee.first_node : 0
  }

  /// The module at `address` has this thread's thread-local variables at `block`. Of a module that
  /// is loaded at the start, they lie at one distance from the thread pointer in every thread.
  static func noteThreadLocalBlock(_ address: UInt64, _ block: UInt64, _ size: UInt64) {
    guard let header = allocs_process().pointee.shared?.pointee.header else { return }
    let number = number(header, of: address)
    guard number > 0 else { return }
    let module = table(header)[Int(number - 1)]
    module.pointee.thread_local_offset = block &- allocs_thread_pointer()
    allocs_store_release_u64(&module.pointee.thread_local_size, size)
  }

  /// The number of the module that covers `address`, 0 if it is not known. Most questions are about
  /// the module that the last question was about.
  private static func known(_ shared: Shared, _ header: Header, _ address: UInt64) -> UInt32 {
    let index = allocs_load_relaxed_u32(&shared.pointee.last_module)
    let table = table(header)
    let used = allocs_load_acquire_u64(&table.section.pointee.used)
    if UInt64(index) < used, covers(table[Int(index)], address) { return index + 1 }
    let number = number(shared, header, of: address)
    if number > 0 { shared.pointee.last_module = number - 1 }
    return number
  }

  private static func covers(_ module: UnsafeMutablePointer<allocs_module>, _ address: UInt64) -> Bool {
    module.pointee.start <= address && address < module.pointee.end
      && allocs_load_relaxed_u32(&module.pointee.state) == ALLOCS_MODULE_LOADED.rawValue
  }

  private static func table(_ header: Header) -> SegmentTable<allocs_module> {
    SegmentTable(header, ALLOCS_SECTION_MODULES)
  }

  private static func files(_ header: Header) -> SegmentTable<allocs_module_file> {
    SegmentTable(header, ALLOCS_SECTION_MODULE_FILES)
  }

  /// The loaded module at `rank` is gone. The caller holds the lock.
  private static func unload(_ shared: Shared, _ header: Header, rank: Int) {
    let files = files(header)
    let index = files[rank].pointee.place
    let last = Int(shared.pointee.loaded_modules) - 1
    for next in rank..<last { allocs_store_relaxed_u32(&files[next].pointee.place, files[next + 1].pointee.place) }
    allocs_store_release_u32(&shared.pointee.loaded_modules, UInt32(last))
    shared.pointee.modules_unloaded = 1
    let module = table(header)[Int(index)]
    FrameTables.forget(from: module.pointee.start, to: module.pointee.end)
    module.pointee.unload_ticks = allocs_now()
    allocs_store_release_u32(&module.pointee.state, ALLOCS_MODULE_UNLOADED.rawValue)
    Index.count(ALLOCS_COUNTER_MODULES_CHANGED)
    Events.noteModule(shared, module: index, isUnloaded: true)
  }

  /// Empties all caches in which the module's code may stand. The caches of contexts belong to
  /// threads that run meanwhile: an empty key does no harm there.
  private static func flushAll(_ shared: Shared, _ header: Header) {
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    Threads.forEach(shared) { StackCaches.flush($0) }
  }

  // MARK: a module that comes

  /// Enters a module and gives its number, or `dropped`. The caller holds the lock.
  private static func add(
    _ shared: Shared, _ header: Header, _ start: UInt64, _ end: UInt64, _ map: UnsafeMutablePointer<link_map>
  ) -> UInt32 {
    // A known module that covers some of these addresses is gone, and no dlclose was seen for it.
    var isReplaced = false
    var rank = Int(shared.pointee.loaded_modules)
    while rank > 0 {
      rank -= 1
      let other = table(header)[Int(files(header)[rank].pointee.place)].pointee
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
    // The name is drafted behind the last of the strings, and stays there only if it is new.
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
      allocs_store_release_u32(&table(header)[index].pointee.state, ALLOCS_MODULE_LOADED.rawValue)
    } else {
      fill(shared, header, index, &module, &file, draft, size, map)
    }
    insert(shared, header, index)
    // Code at these addresses for which there was no unwinding rule may have a rule now.
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    if index >= table(header).count {
      files(header).publish(index + 1)
      table(header).publish(index + 1)
    }
    allocs_store_release_u32(&shared.pointee.loaded_modules, shared.pointee.loaded_modules + 1)
    Index.count(ALLOCS_COUNTER_MODULES_CHANGED)
    Events.noteModule(shared, module: UInt32(index), isUnloaded: false)
    return UInt32(index) + 1
  }

  /// The index of the entry that the file had when it was loaded in the same place before.
  private static func former(
    _ header: Header, _ module: allocs_module, _ file: allocs_module_file, _ name: UnsafeMutablePointer<UInt8>?,
    _ size: Int
  ) -> Int? {
    guard let name, size > 0, module.build_id_size > 0 || file.inode != 0 else { return nil }
    let table = table(header)
    let strings = Strings.table(header)
    for index in 0..<table.count {
      let old = table[index]
      guard old.pointee.start == module.start, old.pointee.end == module.end, old.pointee.bias == module.bias,
        old.pointee.state == ALLOCS_MODULE_UNLOADED.rawValue, Int(old.pointee.path_size) == size,
        ModuleFiles.isSameFile(old.pointee, files(header)[index].pointee, module, file),
        ModuleFiles.isEqual(strings[Int(old.pointee.path)], name, size)
      else { continue }
      return index
    }
    return nil
  }

  /// The index of an entry for a new module, backed by memory. If the table is full, that is the
  /// entry of a module that was unloaded.
  private static func room(_ shared: Shared, _ header: Header) -> Int? {
    let table = table(header)
    let used = table.count
    if used < table.capacity { return files(header).back(used) ? table.reserve() : nil }
    for _ in 0..<used {
      let index = Int(shared.pointee.next_forgotten)
      shared.pointee.next_forgotten = index + 1 < used ? UInt32(index) + 1 : 0
      guard table[index].pointee.state == ALLOCS_MODULE_UNLOADED.rawValue, !isAllocator(header, index) else {
        continue
      }
      Index.count(ALLOCS_COUNTER_MODULES_FORGOTTEN)
      return index
    }
    return nil
  }

  /// Whether the module gives an allocator its name: its entry is not forgotten.
  private static func isAllocator(_ header: Header, _ index: Int) -> Bool {
    let allocators = Allocators.table(header)
    for number in 0..<allocators.count where Int(allocators[number].pointee.module) == index + 1 { return true }
    return false
  }

  /// Writes the two entries at `index`, under the sequence lock of the second, with the name that
  /// stands in `draft`. Where there is no draft, the name goes where the name of the entry's former
  /// module stood.
  private static func fill(
    _ shared: Shared, _ header: Header, _ index: Int, _ module: inout allocs_module, _ file: inout allocs_module_file,
    _ draft: UnsafeMutablePointer<UInt8>?, _ size: Int, _ map: UnsafeMutablePointer<link_map>
  ) {
    let entry = table(header)[index]
    let isTaken = entry.pointee.state != ALLOCS_MODULE_NONE.rawValue
    files(header)[index].change { fileEntry in
      allocs_store_release_u32(&entry.pointee.state, ALLOCS_MODULE_NONE.rawValue)
      file.path_room = fileEntry.pointee.path_room
      module.path = entry.pointee.path
      writeName(header, &module, &file, draft, size, map, shared)
      if isTaken {
        module.flags |= ALLOCS_MODULE_LATER.rawValue
        file.first_node = UInt32(truncatingIfNeeded: allocs_load_acquire_u64(&shared.pointee.nodes.next_id))
      }
      // `place` belongs to the order of loaded modules, not to this module.
      file.place = fileEntry.pointee.place
      module.state = ALLOCS_MODULE_NONE.rawValue
      entry.pointee = module
      fileEntry.write(file)
      allocs_store_release_u32(&entry.pointee.state, ALLOCS_MODULE_LOADED.rawValue)
    }
  }

  /// Puts the module's name among the strings: over the name of the entries' former module, at
  /// `module.path` with room for `file.path_room` bytes, if it fits there.
  private static func writeName(
    _ header: Header, _ module: inout allocs_module, _ file: inout allocs_module_file,
    _ draft: UnsafeMutablePointer<UInt8>?, _ size: Int, _ map: UnsafeMutablePointer<link_map>, _ shared: Shared
  ) {
    let former = Strings.table(header)[Int(module.path)]
    let room = Int(file.path_room)
    if let draft {
      module.path_size = UInt32(size)
      if size <= room {
        for next in 0..<size { former[next] = draft[next] }
      } else {
        module.path = Strings.keep(header, size)
        file.path_room = module.path_size
      }
    } else if room > 0 {
      module.path_size = UInt32(ModuleFiles.name(former, room, &module, &file, map, shared))
    }
  }

  /// Puts the module at `index` among the loaded modules, by its address. Their number is one more
  /// then, which the caller stores.
  private static func insert(_ shared: Shared, _ header: Header, _ index: Int) {
    let files = files(header)
    let table = table(header)
    var rank = Int(shared.pointee.loaded_modules)
    while rank > 0, table[Int(files[rank - 1].pointee.place)].pointee.start > table[index].pointee.start {
      allocs_store_relaxed_u32(&files[rank].pointee.place, files[rank - 1].pointee.place)
      rank -= 1
    }
    allocs_store_relaxed_u32(&files[rank].pointee.place, UInt32(index))
  }
}

@c(allocs_note_thread_local_block)
func noteThreadLocalBlock(_ module: UInt64, _ block: UInt64, _ size: UInt64) {
  Modules.noteThreadLocalBlock(module, block, size)
}
