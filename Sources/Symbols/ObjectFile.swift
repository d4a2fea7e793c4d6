// SPDX-License-Identifier: Apache-2.0
// One ELF file, opened for reading.
//
// The file may be anything: it is named by another process. It is opened only if it is a regular file, and it is read,
// not mapped: sections are private copies, so a file that is cut short or overwritten under us can't raise SIGBUS or
// change after it was checked. Not thread-safe: the owner holds a lock.

import ByteText
import CLibdw
import FileFacts
import Glibc

/// An open descriptor, closed with its owner.
struct OpenFile: ~Copyable, Sendable {
  let descriptor: Int32
  /// As of the opening.
  let state: FileState
  private let mode: mode_t
  private let ownerID: uid_t

  /// Bytes.
  var size: Int { Int(state.size) }

  /// Nil if there is no regular file at `path` that we may read. `directory`: what a relative path starts from.
  init?(path: String, in directory: Int32 = AT_FDCWD) {
    // O_NONBLOCK: a FIFO that was put in the file's place must not stop us before fstat can tell.
    let flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    self.init(adopting: openat(directory, path.originalPath, flags))
  }

  private init?(adopting descriptor: Int32) {
    guard descriptor >= 0 else { return nil }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size > 0 else {
      close(descriptor)
      errno = ENOENT
      return nil
    }
    self.descriptor = descriptor
    state = FileState(status)
    mode = status.st_mode
    ownerID = status.st_uid
  }

  /// Whether user `id` may read it, as far as the permissions for its owner and for all tell. Who is not root is told
  /// by the kernel.
  func isReadable(by id: UInt32) -> Bool {
    if id == 0 || geteuid() != 0 { return true }
    return mode & (id == ownerID ? S_IRUSR : S_IROTH) != 0
  }

  /// Whether nobody has changed it since it was opened.
  var isUnchanged: Bool {
    var status = stat()
    return fstat(descriptor, &status) == 0 && FileState(status) == state
  }

  func duplicate() -> OpenFile? { OpenFile(adopting: fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) }

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

/// An ELF executable, shared object or debug file of either; or an image of one in memory.
final class ObjectFile {
  /// By its bytes (ByteText).
  let path: String
  let elf: OpaquePointer
  /// Nil after `closeDescriptor`, and for an image.
  private var file: OpenFile?
  /// The bytes of an image. `elf` points into them.
  private var image: UnsafeMutableRawBufferPointer?
  /// Sections that libelf can't unpack, by their numbers.
  private var unpacked: [Int: UnsafeMutableRawBufferPointer] = [:]
  /// Bytes.
  let size: Int
  /// As of the opening; nil for an image.
  let state: FileState?
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
    /// The section that `sh_link` names: for a symbol table, the section with its strings.
    var link: Int
    /// Size in memory, above `size` if it is compressed.
    var unpackedSize: UInt64
    /// How it is compressed: ELFCOMPRESS_ZLIB and others; nil if it isn't, or in the manner of .zdebug_….
    var compression: UInt32?

    var isAllocated: Bool { flags & UInt64(SHF_ALLOC) != 0 }
    var isThreadLocal: Bool { flags & UInt64(SHF_TLS) != 0 }
    var isExecutable: Bool { flags & UInt64(SHF_EXECINSTR) != 0 }
    func isSplit(_ part: String) -> Bool { name == ".debug_\(part).dwo" || name == ".zdebug_\(part).dwo" }
    func contains(_ address: UInt64) -> Bool { address >= self.address && address - self.address < size }
  }

  enum Kind {
    /// A file that is mapped as a module, or the debug file of one.
    case module
    /// A file with the information that `dwz` has moved out of several debug files; `dwz` calls it relocatable.
    case common
    /// A .dwo or .dwp file, which is relocatable, too.
    case split

    fileprivate func allows(_ type: GElf_Half) -> Bool {
      type == ET_EXEC || type == ET_DYN || (self != .module && type == ET_REL)
    }
  }

  /// Nil if the file can't be read or isn't an ELF file of this kind.
  convenience init?(path: String, kind: Kind = .module) {
    guard let file = OpenFile(path: path) else { return nil }
    self.init(file, path: path, kind: kind)
  }

  /// `path`: what led to the file.
  init?(_ file: consuming OpenFile, path: String, kind: Kind = .module) {
    guard elf_version(UInt32(EV_CURRENT)) != EV_NONE else { return nil }
    guard let elf = elf_begin(file.descriptor, ELF_C_READ, nil) else { return nil }
    guard Self.isUsable(elf, kind) else {
      elf_end(elf)
      return nil
    }
    self.elf = elf
    (buildID, sections) = (Self.readBuildID(elf), Self.readSections(elf))
    self.path = path
    size = file.size
    state = file.state
    self.file = consume file
  }

  /// The file whose bytes these are; `path` is where they come from. Takes `image`, also if it returns nil.
  init?(image: UnsafeMutableRawBufferPointer, path: String, kind: Kind) {
    guard elf_version(UInt32(EV_CURRENT)) != EV_NONE, let start = image.baseAddress,
      let elf = elf_memory(start.assumingMemoryBound(to: CChar.self), image.count)
    else {
      image.deallocate()
      return nil
    }
    guard Self.isUsable(elf, kind) else {
      elf_end(elf)
      image.deallocate()
      return nil
    }
    self.elf = elf
    (buildID, sections) = (Self.readBuildID(elf), Self.readSections(elf))
    self.path = path
    size = image.count
    state = nil
    self.image = image
  }

  private static func isUsable(_ elf: OpaquePointer, _ kind: Kind) -> Bool {
    var header = GElf_Ehdr()
    return elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &header) != nil && kind.allows(header.e_type)
  }

  private static func readBuildID(_ elf: OpaquePointer) -> [UInt8] {
    var bytes: UnsafeRawPointer?
    let count = dwelf_elf_gnu_build_id(elf, &bytes)
    if count > 0 { return [UInt8](UnsafeRawBufferPointer(start: bytes, count: count)) }
    // libelf takes no note whose length is no multiple of 4 and that ends with its segment, as linkers write it.
    var segments = 0
    guard elf_getphdrnum(elf, &segments) == 0 else { return [] }
    for index in 0..<min(segments, 1024) {
      var segment = GElf_Phdr()
      guard gelf_getphdr(elf, Int32(index), &segment) != nil, segment.p_type == PT_NOTE, segment.p_filesz <= 1 << 16,
        let data = elf_getdata_rawchunk(elf, Int64(bitPattern: segment.p_offset), Int(segment.p_filesz), ELF_T_BYTE),
        let start = data.pointee.d_buf
      else { continue }
      let notes = UnsafeRawBufferPointer(start: start, count: data.pointee.d_size)
      let found = ELFNote.buildID(among: ELFNote.all(in: notes, alignment: 4))
      if !found.isEmpty { return found }
    }
    return []
  }

  deinit {
    elf_end(elf)
    image?.deallocate()
    for bytes in unpacked.values { bytes.deallocate() }
  }

  /// CRC-32 of the whole file, nil if it can't be read.
  func checksum() -> UInt32? { file?.checksum() }

  /// Whether nobody has changed it since it was opened; true without a descriptor.
  var isUnchanged: Bool { file?.isUnchanged ?? true }

  /// The file once more.
  func duplicate() -> OpenFile? { file?.duplicate() }

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
      let isCompressed = header.sh_flags & UInt64(SHF_COMPRESSED) != 0 && gelf_getchdr(section, &compression) != nil
      let name: UnsafeMutablePointer<CChar>? = elf_strptr(elf, names, Int(header.sh_name))
      result.append(
        Section(
          index: elf_ndxscn(section), name: name.map { String(cString: $0) } ?? "",
          type: header.sh_type, flags: header.sh_flags, address: header.sh_addr, size: header.sh_size,
          link: Int(header.sh_link), unpackedSize: isCompressed ? compression.ch_size : header.sh_size,
          compression: isCompressed ? compression.ch_type : nil))
    }
    return result
  }

  /// The machine for which the file was made, by its own word: EM_X86_64 and others.
  var machine: UInt16 {
    var header = GElf_Ehdr()
    return gelf_getehdr(elf, &header) == nil ? 0 : header.e_machine
  }

  func section(named name: String) -> Section? { sections.first { $0.name == name } }

  /// The section that holds an address of the file. Sections of thread-local variables have no place in memory.
  func section(at address: UInt64) -> Section? {
    sections.first { $0.isAllocated && !($0.isThreadLocal && $0.type == SHT_NOBITS) && $0.contains(address) }
  }

  /// Makes the last byte of the section zero, in memory; unpacks it first.
  func terminate(_ section: Section) {
    guard let data = unpack(section) else { return }
    guard data.pointee.d_size > 0, let bytes = data.pointee.d_buf else { return }
    bytes.storeBytes(of: 0, toByteOffset: data.pointee.d_size - 1, as: UInt8.self)
  }

  /// libelf's own view of a section, unpacked; nil if libelf can't do that.
  private func unpack(_ section: Section) -> UnsafeMutablePointer<Elf_Data>? {
    guard section.type != SHT_NOBITS, let place = elf_getscn(elf, section.index) else { return nil }
    // Unpacked, it has no such flag any more.
    var header = GElf_Shdr()
    guard gelf_getshdr(place, &header) != nil else { return nil }
    if header.sh_flags & UInt64(SHF_COMPRESSED) != 0 {
      guard elf_compress(place, 0, 0) >= 0 else { return nil }
    } else if section.name.hasPrefix(".z"), elf_compress_gnu(place, 0, 0) < 0 {
      // If the call failed because the section was unpacked before, the mark at its start is gone.
      guard let data = elf_getdata(place, nil), let start = data.pointee.d_buf,
        !UnsafeRawBufferPointer(start: start, count: data.pointee.d_size).starts(with: "ZLIB".utf8)
      else { return nil }
      return data
    }
    return elf_getdata(place, nil)
  }

  /// The contents of a section, unpacked, as long as the file is there; nil if it can't be unpacked. The caller has
  /// looked at `unpackedSize`.
  func contents(of section: Section) -> UnsafeRawBufferPointer? {
    if section.compression == Compression.zstd { return zstdContents(of: section) }
    guard let data = unpack(section) else { return nil }
    return UnsafeRawBufferPointer(start: data.pointee.d_buf, count: data.pointee.d_buf == nil ? 0 : data.pointee.d_size)
  }

  /// The contents of a section of split debug information: `info` for .debug_info.dwo.
  func contents(ofSplit name: String) -> UnsafeRawBufferPointer? {
    sections.first { $0.isSplit(name) }.flatMap { contents(of: $0) }
  }

  /// The contents of all sections of that name: gcc gives each type that has a unit of its own a section of its own,
  /// too.
  func allContents(ofSplit name: String) -> [UInt8] {
    sections.reduce(into: []) { bytes, section in
      if section.isSplit(name), let part = contents(of: section) { bytes += part }
    }
  }

  /// Gives back the memory of what `contents` has unpacked by itself.
  func releaseUnpacked() {
    for bytes in unpacked.values { bytes.deallocate() }
    unpacked = [:]
  }

  private func zstdContents(of section: Section) -> UnsafeRawBufferPointer? {
    if let known = unpacked[section.index] { return UnsafeRawBufferPointer(known) }
    guard let place = elf_getscn(elf, section.index), let data = elf_rawdata(place, nil),
      let start = data.pointee.d_buf, let size = Int(exactly: section.unpackedSize)
    else { return nil }
    let headerSize = gelf_fsize(elf, ELF_T_CHDR, 1, UInt32(EV_CURRENT))
    guard headerSize > 0, data.pointee.d_size > headerSize,
      let bytes = Compression.zstd(
        UnsafeRawBufferPointer(start: start, count: data.pointee.d_size)[headerSize...], size: size)
    else { return nil }
    unpacked[section.index] = bytes
    return UnsafeRawBufferPointer(bytes)
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
