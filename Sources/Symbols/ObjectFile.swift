// One ELF file, opened for reading.
//
// The file may be anything: it is named by another process. It is opened only if it is a regular file, and it is read,
// not mapped: sections are private copies, so a file that is cut short or overwritten under us can't raise SIGBUS or
// change after it was checked. Not thread-safe: the owner holds a lock.

import ByteText
import CLibdw
import Glibc

/// An open descriptor, closed with its owner.
struct OpenFile: ~Copyable {
  let descriptor: Int32
  /// Bytes.
  let size: Int

  /// Nil if there is no regular file at `path` that we may read.
  init?(path: String) {
    // O_NONBLOCK: a FIFO that was put in the file's place must not stop us before fstat can tell.
    let descriptor = open(path.originalPath, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard descriptor >= 0 else { return nil }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size > 0 else {
      close(descriptor)
      return nil
    }
    self.descriptor = descriptor
    size = Int(status.st_size)
  }

  deinit { close(descriptor) }

  /// CRC-32 (the polynomial 0xEDB88320 of gzip) of the whole file, as .gnu_debuglink records it.
  func checksum() -> UInt32? {
    var crc: UInt32 = 0xFFFF_FFFF
    let table = (0..<256).map { (byte: UInt32) -> UInt32 in
      var value = byte
      for _ in 0..<8 { value = value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
      return value
    }
    var buffer = [UInt8](repeating: 0, count: 1 << 18)
    var offset = 0
    while true {
      let count = pread(descriptor, &buffer, buffer.count, offset)
      if count < 0 { return nil }
      if count == 0 { return ~crc }
      for byte in buffer[..<count] { crc = table[Int((crc ^ UInt32(byte)) & 0xFF)] ^ (crc >> 8) }
      offset += count
    }
  }
}

/// An ELF executable, shared object or debug file of either.
final class ObjectFile {
  let path: String
  let elf: OpaquePointer
  /// Nil after `closeDescriptor`.
  private var file: OpenFile?
  /// Bytes.
  let size: Int
  /// Empty if it has none.
  let buildID: [UInt8]
  let sections: [Section]

  struct Section {
    var index: Int
    var name: String
    var type: UInt32
    var flags: UInt64
    var address: UInt64
    var size: UInt64
    /// What `sh_link` says: for a symbol table, the section with its strings.
    var link: Int
    /// Size in memory, above `size` if it is compressed.
    var unpackedSize: UInt64

    var isAllocated: Bool { flags & UInt64(SHF_ALLOC) != 0 }
    var isThreadLocal: Bool { flags & UInt64(SHF_TLS) != 0 }
    var isExecutable: Bool { flags & UInt64(SHF_EXECINSTR) != 0 }
    func contains(_ address: UInt64) -> Bool { address >= self.address && address - self.address < size }
  }

  enum Kind {
    /// What is mapped as a module, and its debug file.
    case module
    /// What `dwz` has moved out of several debug files; it calls it relocatable.
    case common
  }

  /// Nil if the file can't be read or isn't an ELF file of this kind.
  init?(path: String, kind: Kind = .module) {
    guard elf_version(UInt32(EV_CURRENT)) != EV_NONE, let file = OpenFile(path: path) else { return nil }
    guard let elf = elf_begin(file.descriptor, ELF_C_READ, nil) else { return nil }
    var header = GElf_Ehdr()
    guard elf_kind(elf) == ELF_K_ELF, gelf_getehdr(elf, &header) != nil,
      header.e_type == ET_EXEC || header.e_type == ET_DYN || (kind == .common && header.e_type == ET_REL)
    else {
      elf_end(elf)
      return nil
    }
    var bytes: UnsafeRawPointer?
    let count = dwelf_elf_gnu_build_id(elf, &bytes)
    buildID = count > 0 ? [UInt8](UnsafeRawBufferPointer(start: bytes, count: count)) : []
    sections = Self.readSections(elf)
    self.path = path
    self.elf = elf
    size = file.size
    self.file = consume file
  }

  deinit { elf_end(elf) }

  /// CRC-32 of the whole file, nil if it can't be read.
  func checksum() -> UInt32? { file?.checksum() }

  /// Gives the descriptor back when all sections that will be needed have been read, so that a server with many modules
  /// doesn't run out of them.
  func closeDescriptor() {
    _ = elf_cntl(elf, ELF_C_FDDONE)
    file = nil
  }

  private static func readSections(_ elf: OpaquePointer) -> [Section] {
    var result: [Section] = []
    var names = 0
    guard elf_getshdrstrndx(elf, &names) == 0 else { return [] }
    var next = elf_nextscn(elf, nil)
    while let section = next {
      next = elf_nextscn(elf, section)
      var header = GElf_Shdr()
      guard gelf_getshdr(section, &header) != nil else { continue }
      var compression = GElf_Chdr()
      let unpacked =
        header.sh_flags & UInt64(SHF_COMPRESSED) != 0 && gelf_getchdr(section, &compression) != nil
        ? compression.ch_size : header.sh_size
      let name: UnsafeMutablePointer<CChar>? = elf_strptr(elf, names, Int(header.sh_name))
      result.append(
        Section(
          index: elf_ndxscn(section), name: name.map { String(cString: $0) } ?? "",
          type: header.sh_type, flags: header.sh_flags, address: header.sh_addr, size: header.sh_size,
          link: Int(header.sh_link), unpackedSize: unpacked))
    }
    return result
  }

  func section(named name: String) -> Section? { sections.first { $0.name == name } }

  /// The section that holds an address of the file. Those of thread-local variables have no place in memory.
  func section(at address: UInt64) -> Section? {
    sections.first { $0.isAllocated && !($0.isThreadLocal && $0.type == SHT_NOBITS) && $0.contains(address) }
  }

  /// Makes the last byte of the section zero, in memory; unpacks it first.
  func terminate(_ section: Section) {
    guard let place = elf_getscn(elf, section.index) else { return }
    if section.flags & UInt64(SHF_COMPRESSED) != 0 {
      guard elf_compress(place, 0, 0) >= 0 else { return }
    } else if section.name.hasPrefix(".z") {
      guard elf_compress_gnu(place, 0, 0) >= 0 else { return }
    }
    guard let data = elf_getdata(place, nil), data.pointee.d_size > 0, let bytes = data.pointee.d_buf else { return }
    bytes.storeBytes(of: 0, toByteOffset: data.pointee.d_size - 1, as: UInt8.self)
  }

  /// The separate debug file that this one names, with its checksum.
  var debugLink: (name: String, checksum: UInt32)? {
    var checksum: GElf_Word = 0
    guard let name = dwelf_elf_gnu_debuglink(elf, &checksum) else { return nil }
    return (String(cString: name), checksum)
  }

  /// Lowest address and one past the highest that the file's segments take, not rounded to pages; nil if it has none.
  var loadedSpan: (start: UInt64, end: UInt64)? {
    var count = 0
    guard elf_getphdrnum(elf, &count) == 0 else { return nil }
    var span: (start: UInt64, end: UInt64)?
    for index in 0..<count {
      var header = GElf_Phdr()
      guard gelf_getphdr(elf, Int32(truncatingIfNeeded: index), &header) != nil, header.p_type == PT_LOAD else {
        continue
      }
      let end = header.p_vaddr &+ header.p_memsz
      span = (min(span?.start ?? .max, header.p_vaddr), max(span?.end ?? 0, end))
    }
    return span
  }
}
