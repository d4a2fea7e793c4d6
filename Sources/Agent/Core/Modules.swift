// Modules: notes in the segment which module lies where, so that return addresses mean something after dlclose and after
// the process is gone.
//
// A module is noted when the agent starts, or when the first call from it is seen: _dl_find_object finds it without a lock,
// so a thread that holds the dynamic linker's lock cannot be waited for. dlclose is hooked to note which modules went.
// libc unloads modules of its own (converters, name services) past that hook, and between a dlclose and the note another
// thread may load something in the same place. So the question is asked again before anything new is mapped: the
// dynamic linker allocates the description of a new module first, by calloc.

import AgentMachine
import SharedLayout

enum Modules {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  /// Notes the module that covers `address`, if it is new.
  static func note(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, address: UInt64
  ) {
    if isKnown(shared, header, address) { return }
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_module(address, &start, &end, &map), let map else { return }
    locked(shared) {
      if !isKnown(shared, header, address) { add(shared, header, start, end, map) }
    }
    Events.tellNews(shared, header)
  }

  /// Notes all modules of the program.
  static func noteAll(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
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
      for index in 0..<Int(Segment.section(header, ALLOCS_SECTION_MODULES).pointee.used)
      where table[index].state == ALLOCS_MODULE_LOADED.rawValue {
        var start: UInt64 = 0
        var end: UInt64 = 0
        var map: UnsafeMutablePointer<link_map>?
        if allocs_find_module(table[index].start, &start, &end, &map), start == table[index].start { continue }
        unload(shared, table + index, UInt32(index))
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
  static func number(_ header: UnsafeMutablePointer<allocs_header>, of address: UInt64) -> UInt32 {
    let table = entries(header)
    let used = Int(allocs_load_acquire_u64(&Segment.section(header, ALLOCS_SECTION_MODULES).pointee.used))
    for index in 0..<used
    where table[index].start <= address && address < table[index].end
      && allocs_load_relaxed_u32(&table[index].state) == ALLOCS_MODULE_LOADED.rawValue
    {
      return UInt32(index + 1)
    }
    return 0
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
  private static func isKnown(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ address: UInt64
  ) -> Bool {
    let index = allocs_load_relaxed_u32(&shared.pointee.last_module)
    let last = entries(header) + Int(index)
    let used = allocs_load_acquire_u64(&Segment.section(header, ALLOCS_SECTION_MODULES).pointee.used)
    if UInt64(index) < used, last.pointee.start <= address, address < last.pointee.end,
      allocs_load_relaxed_u32(&last.pointee.state) == ALLOCS_MODULE_LOADED.rawValue
    {
      return true
    }
    let number = number(header, of: address)
    guard number > 0 else { return false }
    shared.pointee.last_module = number - 1
    return true
  }

  private static func entries(_ header: UnsafeMutablePointer<allocs_header>) -> UnsafeMutablePointer<allocs_module> {
    Segment.start(header, ALLOCS_SECTION_MODULES).assumingMemoryBound(to: allocs_module.self)
  }

  private static func unload(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ module: UnsafeMutablePointer<allocs_module>, _ index: UInt32
  ) {
    shared.pointee.modules_unloaded = 1
    FrameTables.forget(from: module.pointee.start, to: module.pointee.end)
    module.pointee.unload_ticks = allocs_now()
    allocs_store_release_u32(&module.pointee.state, ALLOCS_MODULE_UNLOADED.rawValue)
    Events.addNews(shared, module: index, isUnloaded: true)
  }

  /// Threads that go on may have cached sites of the module. Their caches are theirs; an empty key does no harm there.
  private static func flushAll(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    var chunk = shared.pointee.chunk_first
    while let current = chunk {
      for index in 0..<UInt64(ALLOCS_BLOCKS_PER_CHUNK) { Contexts.flush(allocs_chunk_thread(current, index)) }
      chunk = current.pointee.next
    }
  }

  // MARK: a new entry

  /// The caller holds the lock.
  private static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ start: UInt64,
    _ end: UInt64, _ map: UnsafeMutablePointer<link_map>
  ) {
    let section = Segment.section(header, ALLOCS_SECTION_MODULES)
    let index = section.pointee.used
    let table = entries(header)
    let size = section.pointee.entry_size
    let lastByte = (index + 1) * size - 1
    guard index < section.pointee.capacity,
      index * size / pageSize == lastByte / pageSize && index != 0
        || System.commit(UnsafeMutableRawPointer(table) + Int(lastByte / pageSize * pageSize), pageSize)
    else {
      Index.count(ALLOCS_COUNTER_MODULES_DROPPED)
      return
    }
    // A module that was here and is not any more went without a call of dlclose that we saw.
    for other in 0..<Int(index)
    where table[other].state == ALLOCS_MODULE_LOADED.rawValue && table[other].start < end && start < table[other].end {
      unload(shared, table + other, UInt32(other))
    }
    let module = table + Int(index)
    module.pointee.start = start
    module.pointee.end = end
    module.pointee.bias = UInt64(map.pointee.l_addr)
    module.pointee.load_ticks = allocs_now()
    module.pointee.state = ALLOCS_MODULE_LOADED.rawValue
    #if !ALLOCS_INEXE
      if allocs_is_own_module(map) { module.pointee.flags |= ALLOCS_MODULE_AGENT.rawValue }
    #endif
    readBuildID(module)
    name(module, map, shared, header)
    FrameTables.prepare(map, at: UInt64(UInt(bitPattern: map.pointee.l_ld)))
    // What was code without information there may have some now.
    if let rules = shared.pointee.frame_rules { FrameRules.flush(rules) }
    allocs_store_release_u64(&section.pointee.used, index + 1)
    Events.addNews(shared, module: UInt32(index), isUnloaded: false)
  }

  private static func name(
    _ module: UnsafeMutablePointer<allocs_module>, _ map: UnsafeMutablePointer<link_map>,
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) {
    let place = Strings.add(shared, header) { bytes in
      var size = 0
      if let name = map.pointee.l_name, name.pointee != 0 {
        while size < Strings.limit, name[size] != 0 {
          bytes[size] = UInt8(bitPattern: name[size])
          size += 1
        }
      } else if allocs_is_main_module(map) {
        module.pointee.flags |= ALLOCS_MODULE_MAIN.rawValue
        let path: StaticString = "/proc/self/exe"
        size = max(
          0,
          System.readLink(
            UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), bytes, Strings.limit))
      }
      return size
    }
    guard let place else { return }
    module.pointee.path = place.offset
    module.pointee.path_size = place.size
  }

  /// From the notes in the module's first page, which holds its ELF header where it is mapped at all.
  private static func readBuildID(_ module: UnsafeMutablePointer<allocs_module>) {
    guard let image = UnsafeRawPointer(bitPattern: UInt(module.pointee.start)) else { return }
    let header = image.assumingMemoryBound(to: Elf64_Ehdr.self).pointee
    let magic: UInt32 = 0x464C_457F
    guard image.loadUnaligned(as: UInt32.self) == magic,
      Int(header.e_phentsize) == MemoryLayout<Elf64_Phdr>.size,
      header.e_phoff + UInt64(header.e_phnum) * UInt64(header.e_phentsize) <= pageSize
    else { return }
    let segments = (image + Int(header.e_phoff)).assumingMemoryBound(to: Elf64_Phdr.self)
    let noteSegment: UInt32 = 4
    for index in 0..<Int(header.e_phnum) where segments[index].p_type == noteSegment {
      let start = module.pointee.bias &+ segments[index].p_vaddr
      let size = segments[index].p_filesz
      guard start >= module.pointee.start, size <= module.pointee.end - module.pointee.start,
        start + size <= module.pointee.end, let notes = UnsafeRawPointer(bitPattern: UInt(start)),
        readBuildID(module, notes, Int(size))
      else { continue }
      return
    }
  }

  private static func readBuildID(
    _ module: UnsafeMutablePointer<allocs_module>, _ notes: UnsafeRawPointer, _ size: Int
  ) -> Bool {
    let buildIDNote: UInt32 = 3
    var offset = 0
    while offset + 12 <= size {
      let nameSize = Int(notes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      let dataSize = Int(notes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self))
      let type = notes.loadUnaligned(fromByteOffset: offset + 8, as: UInt32.self)
      let data = offset + 12 + (nameSize + 3) / 4 * 4
      guard nameSize < 256, dataSize < 1 << 20, data + dataSize <= size else { return false }
      if type == buildIDNote, nameSize == 4, dataSize > 0, dataSize <= Int(ALLOCS_BUILD_ID_SIZE),
        notes.loadUnaligned(fromByteOffset: offset + 12, as: UInt32.self) == 0x0055_4E47  // "GNU"
      {
        withUnsafeMutablePointer(to: &module.pointee.build_id) {
          let bytes = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
          for index in 0..<dataSize { bytes[index] = notes.load(fromByteOffset: data + index, as: UInt8.self) }
        }
        module.pointee.build_id_size = UInt32(dataSize)
        return true
      }
      offset = data + (dataSize + 3) / 4 * 4
    }
    return false
  }
}

@c(allocs_note_thread_local_block)
func noteThreadLocalBlock(_ module: UInt64, _ block: UInt64, _ size: UInt64) {
  Modules.noteThreadLocalBlock(module, block, size)
}
