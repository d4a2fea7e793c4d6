// SPDX-License-Identifier: Apache-2.0
// One ELF file, opened for reading.
//
// The file may be anything: it is named by another process. It is opened only if it is a regular file (RegularFile),
// and it is read, not mapped: sections are private copies, so a file that is cut short or overwritten under us can't
// raise SIGBUS or change after it was checked. Not thread-safe: the owner holds a lock.
//
// libelf takes memory by the file's word: for the tables of sections and segments, for each section that is asked for,
// for what a compressed section says that it unpacks to. A file with holes makes any word good. So each word is bounded
// before libelf acts on it, and small parts (notes, links, heads of compressed sections) are read past libelf.

import Bounds
import ByteText
import CLibdw
import FileFacts
import Glibc

/// An ELF executable, shared object or debug file of either; or an image of one in memory.
final class ObjectFile {
  /// By its bytes (ByteText).
  let path: ForeignText
  let elf: OpaquePointer
  /// Nil after `closeDescriptor`, and for an image.
  private var file: RegularFile?
  /// The file's bytes; none after `closeDescriptor`.
  private var source: ELFBytes
  /// The bytes of an image. `elf` points into them.
  private var image: UnsafeMutableRawBufferPointer?
  /// Sections that libelf can't unpack, by their numbers.
  private var unpacked: [Int: UnsafeMutableRawBufferPointer] = [:]
  /// Sections that were compressed in zlib's format. `elf` points into them.
  private var inflated: [UnsafeMutableRawBufferPointer] = []
  /// Sections that nobody sees any more, by their numbers.
  private var hidden: Set<Int> = []
  /// Sections that `terminate` has seen, by their numbers.
  private var terminated: Set<Int> = []
  /// Bytes.
  let size: Int
  /// As of the opening; nil for an image.
  let state: FileState?
  /// The user who owns it, as of the opening; nil for an image.
  let ownerID: UInt32?
  /// Empty if it has none.
  let buildID: [UInt8]
  let sections: [Section]

  struct Section {
    var index: Int
    var name: String
    var type: UInt32
    var flags: UInt64
    var address: UInt64
    /// Of its first byte in the file.
    var offset: UInt64
    var size: UInt64
    /// Bytes that its place is a multiple of.
    var alignment: UInt64
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
    func contains(_ address: UInt64) -> Bool { address >= self.address && address &- self.address < size }
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

  /// Sections and segments that a file may have: of those with a section for each type's unit some have 100,000.
  private static let mostSections: UInt64 = 1 << 17
  private static let mostSegments: UInt64 = 0xFFFE
  /// Bytes of all names of sections, and of one of them.
  private static let namesLimit: UInt64 = 16 << 20
  private static let longestSectionName = 1023
  /// Bytes of a section that is read as a whole, packed or unpacked.
  static let sectionLimit: UInt64 = 1 << 30
  /// Bytes of a segment or section of notes, and how many of each are read.
  private static let (notesLimit, mostNoteParts) = (1 << 16, 64)
  /// Bytes of a file whose checksum is taken.
  private static let checksumLimit: UInt64 = 4 << 30

  /// Nil if the file can't be read or isn't an ELF file of this kind.
  convenience init?(path: ForeignText, kind: Kind = .module) {
    guard let file = try? RegularFile(path: path) else { return nil }
    self.init(file, path: path, kind: kind)
  }

  /// A file that another one, of user `owner`, leads to: nil also if it is neither trusted nor that user's.
  convenience init?(path: ForeignText, kind: Kind = .module, besideFileOf owner: UInt32?) {
    guard let file = try? RegularFile(path: path), file.isTrusted || file.ownerID == owner else { return nil }
    self.init(file, path: path, kind: kind)
  }

  /// `path`: what led to the file.
  init?(_ file: consuming RegularFile, path: ForeignText, kind: Kind = .module) {
    let bytes = ELFBytes(descriptor: file.descriptor)
    guard Self.isUsable(bytes, kind), elf_version(UInt32(EV_CURRENT)) != EV_NONE else { return nil }
    guard let elf = elf_begin(file.descriptor, ELF_C_READ, nil) else { return nil }
    guard elf_kind(elf) == ELF_K_ELF else {
      elf_end(elf)
      return nil
    }
    self.elf = elf
    source = bytes
    sections = Self.readSections(elf, bytes)
    buildID = Self.readBuildID(elf, sections, bytes)
    self.path = path
    size = Int(clamping: file.size)
    state = file.state
    ownerID = file.ownerID
    self.file = consume file
  }

  /// The file whose bytes these are; `path` is where they come from. Takes `image`, also if it returns nil.
  init?(image: UnsafeMutableRawBufferPointer, path: ForeignText, kind: Kind) {
    let bytes = ELFBytes(memory: UnsafeRawBufferPointer(image))
    guard Self.isUsable(bytes, kind), elf_version(UInt32(EV_CURRENT)) != EV_NONE, let start = image.baseAddress,
      let elf = elf_memory(start.assumingMemoryBound(to: CChar.self), image.count)
    else {
      image.deallocate()
      return nil
    }
    guard elf_kind(elf) == ELF_K_ELF else {
      elf_end(elf)
      image.deallocate()
      return nil
    }
    self.elf = elf
    source = bytes
    sections = Self.readSections(elf, bytes)
    buildID = Self.readBuildID(elf, sections, bytes)
    self.path = path
    size = image.count
    state = nil
    ownerID = nil
    self.image = image
  }

  /// Whether it is an ELF file of this kind, of 64 bits and lowest byte first, for whose tables libelf may take memory.
  private static func isUsable(_ bytes: ELFBytes, _ kind: Kind) -> Bool {
    let head = bytes.bytes(at: 0, count: 64)
    guard let machine = ELFMachine(head), machine.isWide, machine.isLittleEndian,
      let type = head.number(at: 16, size: 2), kind.allows(GElf_Half(truncatingIfNeeded: type)),
      let table = head.number(at: 40, size: 8), let segments = head.number(at: 56, size: 2), segments <= mostSegments,
      var count = head.number(at: 60, size: 2)
    else { return false }
    if count == 0, table != 0 {
      // The number stands where the first section would have its size.
      count = bytes.bytes(at: table, count: 64).number(at: 32, size: 8) ?? 0
    }
    return count <= mostSections
  }

  /// From its notes: those of sections first, as a debug file keeps no others.
  private static func readBuildID(_ elf: OpaquePointer, _ sections: [Section], _ bytes: ELFBytes) -> [UInt8] {
    var parts: [(offset: UInt64, size: UInt64, alignment: UInt64)] = []
    for section in sections where section.type == SHT_NOTE && section.compression == nil {
      parts.append((section.offset, section.size, section.alignment))
      if parts.count == mostNoteParts { break }
    }
    var segments = 0
    if elf_getphdrnum(elf, &segments) == 0 {
      var left = mostNoteParts
      for index in 0..<max(0, min(segments, Int(mostSegments))) where left > 0 {  // bounded: a number of 16 bits
        var segment = GElf_Phdr()
        guard gelf_getphdr(elf, Int32(truncatingIfNeeded: index), &segment) != nil, segment.p_type == PT_NOTE else {
          continue
        }
        left &-= 1
        parts.append((segment.p_offset, segment.p_filesz, segment.p_align))
      }
    }
    for part in parts {
      guard let size = Foreign(part.size).int(upTo: notesLimit) else { continue }
      let notes = bytes.bytes(at: part.offset, count: size)
      // A linker may have put notes that are aligned to 4 bytes into a part that is aligned to 8.
      for alignment in part.alignment == 8 ? [8, 4] : [4] {
        let found = ELFNote.buildID(among: ELFNote.all(in: notes, alignment: alignment))
        if !found.isEmpty { return found }
      }
    }
    return []
  }

  deinit {
    elf_end(elf)
    image?.deallocate()
    for bytes in inflated { bytes.deallocate() }
    for bytes in unpacked.values { bytes.deallocate() }
  }

  /// CRC-32 (the polynomial 0xEDB88320 of gzip) of the whole file, as .gnu_debuglink records it; nil if it can't be
  /// read, or is larger than any debug file.
  func checksum() -> UInt32? {
    guard let size = file?.size, size <= Self.checksumLimit, let descriptor = file?.descriptor else { return nil }
    var crc: UInt32 = 0xFFFF_FFFF
    let table = (UInt32(0)...255).map { (byte: UInt32) -> UInt32 in
      var value = byte
      for _ in 0..<8 { value = value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
      return value
    }
    var buffer = [UInt8](repeating: 0, count: 1 << 18)  // bounded: a constant size
    var offset = 0
    var meter = BudgetMeter(interval: 1)
    // A file that grows while it is read ends here, too.
    while meter.goesOn(), offset <= Int(clamping: Self.checksumLimit) {
      let count = pread(descriptor, &buffer, buffer.count, offset)
      if count < 0 { return nil }
      if count == 0 { return ~crc }
      table.withUnsafeBufferPointer { table in
        for byte in buffer[..<count] {
          crc = table[Int(truncatingIfNeeded: (crc ^ UInt32(truncatingIfNeeded: byte)) & 0xFF)] ^ (crc >> 8)
        }
      }
      offset &+= count
    }
    return nil
  }

  /// Whether nobody has changed it since it was opened; true without a descriptor.
  var isUnchanged: Bool { file?.isUnchanged ?? true }

  /// The file once more.
  func duplicate() -> RegularFile? { file?.duplicate() }

  /// Gives the descriptor back when all sections that will be needed have been read, so that a server with many modules
  /// doesn't run out of them.
  func closeDescriptor() {
    guard file != nil else { return }
    _ = elf_cntl(elf, ELF_C_FDDONE)
    source = ELFBytes([])
    file = nil
  }

  /// None where names are longer than any that is looked for: libdw would compare each of them with each of its own.
  private static func readSections(_ elf: OpaquePointer, _ bytes: ELFBytes) -> [Section] {
    var result: [Section] = []
    var names = 0
    var nameHeader = GElf_Shdr()
    guard elf_getshdrstrndx(elf, &names) == 0, let nameSection = elf_getscn(elf, names),
      gelf_getshdr(nameSection, &nameHeader) != nil, nameHeader.sh_size <= namesLimit,
      nameHeader.sh_flags & UInt64(SHF_COMPRESSED) == 0
    else { return [] }
    var next = elf_nextscn(elf, nil)
    while let section = next {
      next = elf_nextscn(elf, section)
      var header = GElf_Shdr()
      guard gelf_getshdr(section, &header) != nil else { continue }
      var name = ""
      if let text = elf_strptr(elf, names, Int(truncatingIfNeeded: header.sh_name)) {
        guard strnlen(text, longestSectionName &+ 1) <= longestSectionName else { return [] }
        name = String(bounded: text)
      }
      var found = Section(
        index: elf_ndxscn(section), name: name, type: header.sh_type, flags: header.sh_flags, address: header.sh_addr,
        offset: header.sh_offset, size: header.sh_size, alignment: header.sh_addralign,
        link: Int(truncatingIfNeeded: header.sh_link), unpackedSize: header.sh_size, compression: nil)
      if header.sh_flags & UInt64(SHF_COMPRESSED) != 0 {
        // Elf64_Chdr: type, a reserved word, size, alignment.
        let head = bytes.bytes(at: header.sh_offset, count: 24)
        if let type = head.number(at: 0, size: 4), let size = head.number(at: 8, size: 8) {
          found.compression = UInt32(truncatingIfNeeded: type)
          found.unpackedSize = size
        }
      } else if name.hasPrefix(".z") {
        // "ZLIB" and the size, highest byte first.
        let head = bytes.bytes(at: header.sh_offset, count: 12)
        if head.starts(with: "ZLIB".utf8), let size = head.number(at: 4, size: 8) {
          found.unpackedSize = size.byteSwapped
        }
      }
      result.append(found)
    }
    return result
  }

  /// Bytes of the file, past libelf; fewer than `count` at its end.
  func bytes(at offset: UInt64, count: Int) -> [UInt8] { source.bytes(at: offset, count: count) }

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

  /// Makes the last byte of a section of texts zero, in memory, and takes it out of the section: libdw reads a text to
  /// its zero, also past the section's end, and takes the section's size itself for the place of a text.
  func terminate(_ section: Section) {
    guard terminated.insert(section.index).inserted, let data = unpack(section), data.pointee.d_size > 0,
      let bytes = data.pointee.d_buf
    else { return }
    data.pointee.d_size &-= 1
    bytes.storeBytes(of: 0, toByteOffset: data.pointee.d_size, as: UInt8.self)
  }

  /// Leaves the first `count` bytes of a section, in memory.
  func cut(_ section: Section, to count: Int) {
    guard let data = unpack(section), data.pointee.d_size > count, count >= 0 else { return }
    data.pointee.d_size = count
  }

  /// Takes a section away, in memory, before it is read: libdw would read each that it knows by its name.
  func hide(_ section: Section) {
    guard let place = elf_getscn(elf, section.index), let header = elf64_getshdr(place) else { return }
    header.pointee.sh_type = Elf64_Word(SHT_NOBITS)
    hidden.insert(section.index)
  }

  /// libelf's own view of a section, unpacked; nil if libelf can't do that.
  private func unpack(_ section: Section) -> UnsafeMutablePointer<Elf_Data>? {
    guard section.type != SHT_NOBITS, !hidden.contains(section.index),
      max(section.size, section.unpackedSize) <= Self.sectionLimit,
      let place = elf_getscn(elf, section.index)
    else { return nil }
    // Unpacked, it has no such flag any more.
    var header = GElf_Shdr()
    guard gelf_getshdr(place, &header) != nil else { return nil }
    if header.sh_flags & UInt64(SHF_COMPRESSED) != 0 {
      guard inflate(section, place) || elf_compress(place, 0, 0) >= 0 else { return nil }
    } else if section.name.hasPrefix(".z"), elf_compress_gnu(place, 0, 0) < 0 {
      // If the call failed because the section was unpacked before, the mark at its start is gone.
      guard let data = elf_getdata(place, nil), let start = data.pointee.d_buf,
        !UnsafeRawBufferPointer(start: start, count: data.pointee.d_size).starts(with: "ZLIB".utf8)
      else { return nil }
      return data
    }
    return elf_getdata(place, nil)
  }

  /// Does for a section in zlib's format what elf_compress does. False, and nothing done, if that is not possible.
  private func inflate(_ section: Section, _ place: OpaquePointer) -> Bool {
    let headerSize = 24  // Elf64_Chdr
    guard section.compression == Compression.zlib,
      let size = Foreign(section.unpackedSize).int(upTo: Int(clamping: Self.sectionLimit)),
      let header = elf64_getshdr(place), let data = elf_getdata(place, nil), let start = data.pointee.d_buf,
      data.pointee.d_size > headerSize,
      let bytes = Compression.zlib(
        UnsafeRawBufferPointer(start: start, count: data.pointee.d_size)[headerSize...], size: size)
    else { return false }
    inflated.append(bytes)
    header.pointee.sh_flags &= ~UInt64(SHF_COMPRESSED)
    header.pointee.sh_size = UInt64(clamping: size)
    data.pointee.d_buf = bytes.baseAddress
    data.pointee.d_size = size
    data.pointee.d_type = ELF_T_BYTE
    return true
  }

  /// The contents of a section, unpacked, as long as the file is there; nil if it can't be unpacked, or is larger than
  /// `sectionLimit`.
  func contents(of section: Section) -> UnsafeRawBufferPointer? {
    if hidden.contains(section.index) { return nil }
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
      if section.isSplit(name), let part = contents(of: section) { bytes.append(contentsOf: part) }
    }
  }

  /// Gives back the memory of what `contents` has unpacked by itself.
  func releaseUnpacked() {
    for bytes in unpacked.values { bytes.deallocate() }
    unpacked = [:]
  }

  private func zstdContents(of section: Section) -> UnsafeRawBufferPointer? {
    if let known = unpacked[section.index] { return UnsafeRawBufferPointer(known) }
    guard let size = Foreign(section.unpackedSize).int(upTo: Int(clamping: Self.sectionLimit)),
      section.size <= Self.sectionLimit, let place = elf_getscn(elf, section.index),
      let data = elf_rawdata(place, nil), let start = data.pointee.d_buf
    else { return nil }
    let headerSize = 24  // Elf64_Chdr
    guard data.pointee.d_size > headerSize,
      let bytes = Compression.zstd(
        UnsafeRawBufferPointer(start: start, count: data.pointee.d_size)[headerSize...], size: size)
    else { return nil }
    unpacked[section.index] = bytes
    return UnsafeRawBufferPointer(bytes)
  }

  /// The separate debug file that this one names, with its checksum: a text, and behind its zero, at a multiple of 4
  /// bytes, a number.
  var debugLink: (name: ForeignText, checksum: UInt32)? {
    guard let section = section(named: ".gnu_debuglink"), section.type != SHT_NOBITS, section.compression == nil,
      let size = Foreign(section.size).int(upTo: 8192)
    else { return nil }
    let content = source.bytes(at: section.offset, count: size)
    guard let end = content.firstIndex(of: 0), let checksum = content.number(at: (end &+ 4) & ~3, size: 4) else {
      return nil
    }
    return (ForeignText(reversibly: content[..<end]), UInt32(truncatingIfNeeded: checksum))
  }

  /// Lowest address and one past the highest that the file's segments take, not rounded to pages; nil if it has none.
  var loadedSpan: (start: UInt64, end: UInt64)? {
    var count = 0
    guard elf_getphdrnum(elf, &count) == 0 else { return nil }
    var span: (start: UInt64, end: UInt64)?
    for index in 0..<max(0, count) {  // bounded: below 65,535 segments
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
