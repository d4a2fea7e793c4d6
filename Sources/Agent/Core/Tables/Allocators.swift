// Allocators: the table in the segment that says whose memory a block is (allocs_allocator.h).
//
// A number is given out once and means the same until the process ends: contexts hold it, and thread's caches of
// contexts.

import AgentMachine
import SharedLayout

enum Allocators {
  /// A text that is part of another: of an environment variable, of a symbol table.
  struct Name {
    var start: UnsafePointer<CChar>?
    var size = 0

    init() {}
    init(_ start: UnsafePointer<CChar>, size: Int) {
      self.start = start
      self.size = size
    }
    init(cString text: UnsafePointer<CChar>) {
      start = text
      while text[size] != 0 { size += 1 }
    }
  }

  /// Enters an allocator and gives its number. 0, the allocator below the agent's malloc, if the table or memory is
  /// exhausted. May run on any thread that has taken its `self`, in a hook's slow path; not under the lock.
  ///
  /// - `address`: of any of its code: the module that it lies in.
  /// - `name`: what it is called; none if that is its module's file name.
  /// - `function`: what hands out its blocks; none if contexts say which of the malloc family it was.
  /// - `group`: the number of its first entry; nil if this is it.
  static func register(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, address: UInt64,
    kind: allocs_allocator_kind, name: Name = Name(), function: Name = Name(), group: UInt32? = nil, flags: UInt32 = 0
  ) -> UInt32 {
    Modules.note(shared, header, address: address)
    return locked(shared) {
      let section = Segment.section(header, ALLOCS_SECTION_ALLOCATORS)
      let number = section.pointee.used
      guard number < section.pointee.capacity else { return 0 }
      let entry = entries(header) + Int(number)
      let entriesPerPage = UInt64(ALLOCS_PAGE_SIZE) / section.pointee.entry_size
      if number % entriesPerPage == 0 {
        guard System.commit(UnsafeMutableRawPointer(entry), UInt64(ALLOCS_PAGE_SIZE)) else { return 0 }
      }
      // A name that finds no room is left out: its module's has to do.
      let ownName = name.start.flatMap { Strings.add(shared, header, $0, name.size) } ?? Strings.Place()
      let functionName = function.start.flatMap { Strings.add(shared, header, $0, function.size) } ?? Strings.Place()
      entry.pointee.name = ownName.offset
      entry.pointee.name_size = ownName.size
      entry.pointee.function = functionName.offset
      entry.pointee.function_size = functionName.size
      entry.pointee.module = Modules.number(header, of: address)
      entry.pointee.kind = kind.rawValue
      entry.pointee.group = group ?? UInt32(truncatingIfNeeded: number)
      entry.pointee.flags = flags
      allocs_store_release_u64(&section.pointee.used, number + 1)
      return UInt32(truncatingIfNeeded: number)
    }
  }

  /// The number of an allocator in a module that the dynamic linker has mapped and not yet entered among those that it
  /// finds by address. It is called by its module's file name if it has no other. The same one of the same file keeps
  /// its number, however often it comes and goes.
  static func register(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    later module: UnsafeMutablePointer<link_map>, name: Name
  ) -> UInt32 {
    guard let text = module.pointee.l_name else { return 0 }
    let path = Name(cString: text)
    var name = name
    if name.size == 0 {
      var start = 0
      for index in 0..<path.size where text[index] == CChar(UInt8(ascii: "/")) { start = index + 1 }
      name = Name(text + start, size: path.size - start)
    }
    let known: UInt32? = locked(shared) {
      for number in 1..<max(1, Int(Segment.section(header, ALLOCS_SECTION_ALLOCATORS).pointee.used)) {
        let entry = entries(header)[number]
        if entry.path_size > 0, Strings.holds(header, entry.path, Int(entry.path_size), path),
          Strings.holds(header, entry.name, Int(entry.name_size), name)
        {
          return UInt32(number)
        }
      }
      return nil
    }
    if let known { return known }
    let number = register(shared, header, address: 0, kind: ALLOCS_ALLOCATOR_PRIMARY, name: name)
    guard number != 0 else { return 0 }
    locked(shared) {
      guard let place = Strings.add(shared, header, text, path.size) else { return }
      entries(header)[Int(number)].path = place.offset
      entries(header)[Int(number)].path_size = UInt64(place.size)
    }
    return number
  }

  static func entries(_ header: UnsafeMutablePointer<allocs_header>) -> UnsafeMutablePointer<allocs_allocator> {
    Segment.start(header, ALLOCS_SECTION_ALLOCATORS).assumingMemoryBound(to: allocs_allocator.self)
  }
}
