// SPDX-License-Identifier: Apache-2.0
// Allocators: the table in the segment that says whose memory a block is (allocs_allocator.h).
//
// A number is given out once and means one allocator until the process ends: contexts hold it, and
// so do the threads' caches of contexts.

import AgentMachine
import SharedLayout

enum Allocators {
  /// A text that is part of a longer one, of an environment variable or a symbol table.
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

  @inline(__always)
  static func table(_ header: UnsafeMutablePointer<allocs_header>) -> SegmentTable<allocs_allocator> {
    SegmentTable(header, ALLOCS_SECTION_ALLOCATORS)
  }

  /// Enters an allocator and gives its number. Gives 0, the number of the allocator that the
  /// agent's malloc calls, if the table is full or there is no memory. May run on any thread that
  /// has taken its `self`, in a hook's slow path, but not under the lock.
  ///
  /// - `address`: of any code of the allocator; it tells the module.
  /// - `name`: none if the allocator is called by its module's file name.
  /// - `function`: the function that hands out its blocks; none if contexts say which function of
  ///   the malloc family it was.
  /// - `group`: the number of the first entry of the same allocator; nil if this is the first.
  static func register(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, address: UInt64,
    kind: allocs_allocator_kind, name: Name = Name(), function: Name = Name(), group: UInt32? = nil, flags: UInt32 = 0
  ) -> UInt32 {
    Modules.note(shared, header, address: address)
    return locked(shared) {
      let table = table(header)
      guard let number = table.reserve() else { return 0 }
      let entry = table[number]
      // A name for which there is no room is left out: the name of the module has to do.
      let ownName = name.start.flatMap { Strings.add(shared, header, $0, name.size) } ?? Strings.Extent()
      let functionName = function.start.flatMap { Strings.add(shared, header, $0, function.size) } ?? Strings.Extent()
      entry.pointee.name = ownName.offset
      entry.pointee.name_size = ownName.size
      entry.pointee.function = functionName.offset
      entry.pointee.function_size = functionName.size
      entry.pointee.module = Modules.number(header, of: address)
      entry.pointee.kind = kind.rawValue
      entry.pointee.group = group ?? UInt32(truncatingIfNeeded: number)
      entry.pointee.flags = flags
      table.publish(number + 1)
      return UInt32(truncatingIfNeeded: number)
    }
  }

  /// The number of an allocator in a module that the dynamic linker has mapped but does not find by
  /// address yet. The allocator is called by its module's file name if `name` is empty. An
  /// allocator of one name in one file keeps its number, however often the module comes and goes.
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
      let table = table(header)
      for number in 1..<max(1, table.count) {
        let entry = table[number].pointee
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
      guard let extent = Strings.add(shared, header, text, path.size) else { return }
      let entry = table(header)[Int(number)]
      entry.pointee.path = extent.offset
      entry.pointee.path_size = UInt64(extent.size)
    }
    return number
  }
}
