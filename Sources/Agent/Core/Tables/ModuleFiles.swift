// SPDX-License-Identifier: Apache-2.0
// ModuleFiles: which file a module is of. The module's build id, which lies in its memory, and an
// absolute path tell. Only where one of the two is missing is the kernel asked:
// /proc/self/map_files/START-END is a link to the file that is mapped there, and any process may
// read it (not follow it). No descriptor is opened.
//
// The identity of the file (device, inode, size, time of change) is noted when the module is noted,
// before the first stack node that refers to the module. A file that is overwritten in place
// changes the code that runs. So the records of the module are about what the file held at that
// moment; a reader that finds another time of change says that nothing is proved.

import AgentMachine
import SharedLayout

enum ModuleFiles {
  private typealias Shared = UnsafeMutablePointer<allocs_shared>
  private static let slash = UInt8(ascii: "/")
  private static let deleted: StaticString = " (deleted)"

  // MARK: the name

  /// Writes the module's path into `bytes`, and the facts of its file into `module` and `file`.
  /// Gives the path's size in bytes.
  static func name(
    _ bytes: UnsafeMutablePointer<UInt8>, _ limit: Int, _ module: inout allocs_module, _ file: inout allocs_module_file,
    _ map: UnsafeMutablePointer<link_map>, _ shared: UnsafeMutablePointer<allocs_shared>
  ) -> Int {
    let isMain = allocs_is_main_module(map)
    if isMain { module.flags |= ALLOCS_MODULE_MAIN.rawValue }
    var size = copyLinkerName(bytes, limit, map)
    if module.start == allocs_vdso_start() {
      module.flags |= ALLOCS_MODULE_VDSO.rawValue
      return size
    }
    // Where ld.so was called to start the program, /proc/self/exe is ld.so.
    if isMain, size == 0, !allocs_is_started_by_loader() { return nameExecutable(bytes, limit, module, &file) }
    if module.build_id_size > 0, size > 0, bytes[0] == slash, !isOfProcess(bytes, size) { return size }
    let named = size
    size = askKernel(bytes, limit, module)
    guard size > 0 else {
      // The kernel may have left something over the name.
      return named > 0 ? copyLinkerName(bytes, limit, map) : 0
    }
    file.flags |= ALLOCS_MODULE_FILE_ASKED.rawValue
    file.noted_ns = System.nanoseconds(.realtime)
    if isDeleted(bytes, size) {
      file.flags |= ALLOCS_MODULE_FILE_DELETED.rawValue
      size -= deleted.utf8CodeUnitCount
    } else if hasSameRoot(shared) {
      identify(bytes, size, limit, &file)
    }
    return size
  }

  private static func nameExecutable(
    _ bytes: UnsafeMutablePointer<UInt8>, _ limit: Int, _ module: allocs_module, _ file: inout allocs_module_file
  ) -> Int {
    let link: StaticString = "/proc/self/exe"
    let path = UnsafeRawPointer(link.utf8Start).assumingMemoryBound(to: CChar.self)
    let found = System.readLink(path, bytes, limit)
    // A path that fills all of the room may be cut.
    guard found > 0, found < limit else { return 0 }
    file.flags |= ALLOCS_MODULE_FILE_ASKED.rawValue
    let hasMark = isDeleted(bytes, found)
    if module.build_id_size > 0, !hasMark { return found }
    file.noted_ns = System.nanoseconds(.realtime)
    // The link is the file itself, even if the file has no path any more.
    System.identify(path, &file)
    guard hasMark else { return found }
    var named = allocs_module_file()
    identify(bytes, found, limit, &named)
    // The name of a file may really end in the kernel's mark " (deleted)".
    if isSame(named, file) { return found }
    file.flags |= ALLOCS_MODULE_FILE_DELETED.rawValue
    return found - deleted.utf8CodeUnitCount
  }

  /// Writes the dynamic linker's name of the module, as far as there is room; gives its size in
  /// bytes.
  private static func copyLinkerName(
    _ bytes: UnsafeMutablePointer<UInt8>, _ limit: Int, _ map: UnsafeMutablePointer<link_map>
  ) -> Int {
    var size = 0
    guard let name = map.pointee.l_name else { return 0 }
    while size < limit, name[size] != 0 {
      bytes[size] = UInt8(bitPattern: name[size])
      size += 1
    }
    return size
  }

  /// Whether the path means another file in other processes, as /proc/self/fd/3 and /dev/fd/3 do.
  private static func isOfProcess(_ bytes: UnsafeMutablePointer<UInt8>, _ size: Int) -> Bool {
    hasPrefix(bytes, size, "/proc/") || hasPrefix(bytes, size, "/dev/fd/")
  }

  private static func hasPrefix(_ bytes: UnsafeMutablePointer<UInt8>, _ size: Int, _ prefix: StaticString) -> Bool {
    size >= prefix.utf8CodeUnitCount && isEqual(bytes, prefix.utf8Start, prefix.utf8CodeUnitCount)
  }

  private static func isDeleted(_ bytes: UnsafeMutablePointer<UInt8>, _ size: Int) -> Bool {
    let mark = deleted.utf8CodeUnitCount
    return size > mark && isEqual(bytes + (size - mark), deleted.utf8Start, mark)
  }

  static func isEqual(_ one: UnsafeRawPointer, _ other: UnsafeRawPointer, _ size: Int) -> Bool {
    for index in 0..<size
    where one.load(fromByteOffset: index, as: UInt8.self) != other.load(fromByteOffset: index, as: UInt8.self) {
      return false
    }
    return true
  }

  // MARK: the kernel's links

  /// Writes the path of the file that is mapped where the module is, and gives its size; 0 if the
  /// kernel does not tell.
  private static func askKernel(
    _ bytes: UnsafeMutablePointer<UInt8>, _ limit: Int, _ module: allocs_module
  ) -> Int {
    guard let segments = segments(module) else { return 0 }
    let page = UInt64(ALLOCS_PAGE_SIZE)
    // The kernel's link has the bounds of a mapping as its name. Not every segment is a mapping of
    // its own: the kernel joins neighbours that agree.
    for index in 0..<segments.count where segments[index].p_type == 1 {  // PT_LOAD
      let start = module.bias &+ segments[index].p_vaddr
      let end = (start &+ segments[index].p_filesz &+ page &- 1) & ~(page - 1)
      var link = Text()
      link.append("/proc/self/map_files/")
      link.append(hexadecimal: start & ~(page - 1))
      link.append("-")
      link.append(hexadecimal: end)
      let size = link.withCString { System.readLink($0, bytes, limit) }
      if size > 0, size < limit, bytes[0] == slash { return size }
    }
    return 0
  }

  /// The program headers, if they lie in the module's first page with the ELF header, as they do
  /// where they are mapped.
  private static func segments(_ module: allocs_module) -> UnsafeBufferPointer<Elf64_Phdr>? {
    guard let image = UnsafeRawPointer(bitPattern: UInt(module.start)) else { return nil }
    let header = image.assumingMemoryBound(to: Elf64_Ehdr.self).pointee
    let magic: UInt32 = 0x464C_457F
    guard image.loadUnaligned(as: UInt32.self) == magic,
      Int(header.e_phentsize) == MemoryLayout<Elf64_Phdr>.size,
      header.e_phoff <= UInt64(ALLOCS_PAGE_SIZE),
      header.e_phoff + UInt64(header.e_phnum) * UInt64(header.e_phentsize) <= UInt64(ALLOCS_PAGE_SIZE)
    else { return nil }
    let start = (image + Int(header.e_phoff)).assumingMemoryBound(to: Elf64_Phdr.self)
    return UnsafeBufferPointer(start: start, count: Int(header.e_phnum))
  }

  // MARK: identity

  /// Notes which directory is the root now. A path that the kernel gives later is only good while
  /// that directory is the root.
  static func noteRoot(_ shared: UnsafeMutablePointer<allocs_shared>) {
    let root = Self.root
    shared.pointee.root_device = root.device
    shared.pointee.root_inode = root.inode
  }

  private static func hasSameRoot(_ shared: UnsafeMutablePointer<allocs_shared>) -> Bool {
    let root = Self.root
    return root.inode != 0 && root.device == shared.pointee.root_device && root.inode == shared.pointee.root_inode
  }

  private static var root: allocs_module_file {
    var file = allocs_module_file()
    let path: StaticString = "/"
    System.identify(UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), &file)
    return file
  }

  /// Notes the identity of the file at the path that fills `size` bytes. A zero is put behind the
  /// path for that.
  private static func identify(
    _ bytes: UnsafeMutablePointer<UInt8>, _ size: Int, _ limit: Int, _ file: inout allocs_module_file
  ) {
    guard size < limit else { return }
    bytes[size] = 0
    System.identify(UnsafeRawPointer(bytes).assumingMemoryBound(to: CChar.self), &file)
  }

  private static func isSame(_ one: allocs_module_file, _ other: allocs_module_file) -> Bool {
    one.inode != 0 && one.inode == other.inode && one.device == other.device && one.size == other.size
      && one.mtime_seconds == other.mtime_seconds && one.mtime_nanoseconds == other.mtime_nanoseconds
  }

  /// Whether two modules are of one file in one state.
  static func isSameFile(
    _ one: allocs_module, _ file: allocs_module_file, _ other: allocs_module, _ otherFile: allocs_module_file
  ) -> Bool {
    guard one.build_id_size == other.build_id_size else { return false }
    guard one.build_id_size > 0 else { return isSame(file, otherFile) }
    return withUnsafeBytes(of: one.build_id) { one in
      withUnsafeBytes(of: other.build_id) { other in
        guard let one = one.baseAddress, let other = other.baseAddress else { return false }
        return isEqual(one, other, Int(ALLOCS_BUILD_ID_SIZE))
      }
    }
  }

  // MARK: the build id

  static func readBuildID(_ module: inout allocs_module) {
    guard let segments = segments(module) else { return }
    let noteSegment: UInt32 = 4
    for index in 0..<segments.count where segments[index].p_type == noteSegment {
      let start = module.bias &+ segments[index].p_vaddr
      let size = segments[index].p_filesz
      guard start >= module.start, size <= module.end - module.start, start <= module.end - size,
        let notes = UnsafeRawPointer(bitPattern: UInt(start)), readBuildID(&module, notes, Int(size))
      else { continue }
      return
    }
  }

  private static func readBuildID(_ module: inout allocs_module, _ notes: UnsafeRawPointer, _ size: Int) -> Bool {
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
        withUnsafeMutablePointer(to: &module.build_id) {
          let bytes = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
          for index in 0..<dataSize { bytes[index] = notes.load(fromByteOffset: data + index, as: UInt8.self) }
        }
        module.build_id_size = UInt32(dataSize)
        return true
      }
      offset = data + (dataSize + 3) / 4 * 4
    }
    return false
  }
}

extension Text {
  fileprivate mutating func append(hexadecimal number: UInt64) {
    if number >= 16 { append(hexadecimal: number / 16) }
    let digit = UInt8(number % 16)
    append(byte: digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
  }
}
