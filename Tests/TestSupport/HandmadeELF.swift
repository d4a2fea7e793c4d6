// SPDX-License-Identifier: Apache-2.0
// ELF files and DWARF written byte by byte, for tests and fuzzers: sound ones, and ones that no compiler would write.

/// Bytes that are written one number after another, lowest byte first.
public struct HandmadeBytes {
  public var bytes: [UInt8] = []

  public init() {}
  public init(_ bytes: [UInt8]) { self.bytes = bytes }

  public var count: Int { bytes.count }

  /// The `size` lowest bytes of `value`.
  public mutating func put(_ value: UInt64, _ size: Int) {
    for index in 0..<size { bytes.append(UInt8(truncatingIfNeeded: index < 8 ? value >> UInt64(8 * index) : 0)) }
  }

  public mutating func put(_ more: [UInt8]) { bytes += more }

  public mutating func put(text: String) { bytes += Array(text.utf8) + [0] }

  /// In DWARF's form of a number of any size.
  public mutating func put(unsigned value: UInt64) {
    var value = value
    repeat {
      let low = UInt8(value & 0x7F)
      value >>= 7
      bytes.append(value == 0 ? low : low | 0x80)
    } while value != 0
  }

  public mutating func put(signed value: Int64) {
    var value = value
    while true {
      let low = UInt8(truncatingIfNeeded: value & 0x7F)
      value >>= 7
      if (value == 0 && low & 0x40 == 0) || (value == -1 && low & 0x40 != 0) {
        bytes.append(low)
        return
      }
      bytes.append(low | 0x80)
    }
  }

  /// Writes the `size` lowest bytes of `value` over what is at `offset`.
  public mutating func overwrite(_ value: UInt64, _ size: Int, at offset: Int) {
    for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
  }
}

/// An ELF shared object of 64 bits with one loaded segment, which begins at address 0.
public struct HandmadeELF {
  public struct Section {
    public var name: String
    /// SHT_PROGBITS is 1, SHT_SYMTAB 2, SHT_STRTAB 3, SHT_NOTE 7, SHT_NOBITS 8.
    public var type: UInt32
    public var flags: UInt64
    public var address: UInt64
    public var bytes: [UInt8]
    public var link: UInt32
    public var entrySize: UInt64
    /// The size that the header claims; nil for the bytes' own.
    public var claimedSize: UInt64?
    /// The place that the header claims; nil for the bytes' own.
    public var claimedOffset: UInt64?

    public init(
      _ name: String, type: UInt32 = 1, flags: UInt64 = 0, address: UInt64 = 0, _ bytes: [UInt8] = [],
      link: UInt32 = 0, entrySize: UInt64 = 0, claimedSize: UInt64? = nil, claimedOffset: UInt64? = nil
    ) {
      self.name = name
      self.type = type
      self.flags = flags
      self.address = address
      self.bytes = bytes
      self.link = link
      self.entrySize = entrySize
      self.claimedSize = claimedSize
      self.claimedOffset = claimedOffset
    }
  }

  public var sections: [Section] = []
  /// Bytes of memory that the segment takes.
  public var span: UInt64 = 0x2000
  /// Segments of notes: where they are in the file, and their bytes.
  public var noteSegments: [(offset: UInt64, size: UInt64)] = []
  /// e_shnum, where it is not the number of sections.
  public var claimedSections: UInt16?
  /// The size of the first section, which counts the sections where e_shnum is 0.
  public var firstSectionSize: UInt64 = 0

  public init() {}

  /// The file: header, segments, contents, section headers.
  public func build() -> [UInt8] {
    var names = HandmadeBytes([0])
    let all = sections + [Section(".shstrtab", type: 3)]
    let nameOffsets = all.map { section in
      let offset = names.count
      names.put(text: section.name)
      return offset
    }
    var file = HandmadeBytes([UInt8](repeating: 0, count: 64 + 56 * (1 + noteSegments.count)))
    var headers = HandmadeBytes([UInt8](repeating: 0, count: 64))
    headers.overwrite(firstSectionSize, 8, at: 32)
    for (index, section) in all.enumerated() {
      let bytes = index == sections.count ? names.bytes : section.bytes
      while file.count % 16 != 0 { file.put(0, 1) }
      let offset = UInt64(file.count)
      file.put(bytes)
      headers.put(UInt64(nameOffsets[index]), 4)
      headers.put(UInt64(section.type), 4)
      headers.put(section.flags, 8)
      headers.put(section.address, 8)
      headers.put(section.claimedOffset ?? offset, 8)
      headers.put(section.claimedSize ?? UInt64(bytes.count), 8)
      headers.put(UInt64(section.link), 4)
      headers.put(section.type == 2 ? 1 : 0, 4)
      headers.put(1, 8)
      headers.put(section.entrySize, 8)
    }
    while file.count % 16 != 0 { file.put(0, 1) }
    let table = UInt64(file.count)
    file.put(headers.bytes)

    var head = HandmadeBytes([0x7F, 0x45, 0x4C, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9))
    head.put(3, 2)
    head.put(62, 2)
    head.put(1, 4)
    head.put(0, 8)
    head.put(64, 8)
    head.put(table, 8)
    head.put(0, 4)
    head.put(64, 2)
    head.put(56, 2)
    head.put(UInt64(1 + noteSegments.count), 2)
    head.put(64, 2)
    head.put(UInt64(claimedSections ?? UInt16(all.count + 1)), 2)
    head.put(UInt64(all.count), 2)
    segment(&head, type: 1, offset: 0, fileSize: span, memorySize: span)
    for note in noteSegments {
      segment(&head, type: 4, offset: note.offset, fileSize: note.size, memorySize: note.size)
    }
    file.bytes.replaceSubrange(0..<head.count, with: head.bytes)
    return file.bytes
  }

  private func segment(
    _ head: inout HandmadeBytes, type: UInt64, offset: UInt64, fileSize: UInt64, memorySize: UInt64
  ) {
    head.put(type, 4)
    head.put(5, 4)
    for value in [offset, offset, offset, fileSize, memorySize, type == 1 ? 4096 : 4] { head.put(value, 8) }
  }
}

/// Units and abbreviations of DWARF, put together.
public struct HandmadeDWARF {
  public var info = HandmadeBytes()
  public var abbreviations = HandmadeBytes()

  public init() {}

  /// Adds an abbreviation with attributes and forms by their numbers.
  public mutating func abbreviation(_ code: UInt64, tag: UInt64, children: Bool, _ attributes: [(UInt64, UInt64)]) {
    abbreviations.put(unsigned: code)
    abbreviations.put(unsigned: tag)
    abbreviations.put(children ? 1 : 0, 1)
    for (name, form) in attributes {
      abbreviations.put(unsigned: name)
      abbreviations.put(unsigned: form)
    }
    abbreviations.put(0, 2)
  }

  /// Adds a unit of version 4 with these entries. They begin 11 bytes behind the unit's start.
  public mutating func unit(_ entries: [UInt8], abbreviationsAt offset: UInt64 = 0, version: UInt64 = 4) {
    info.put(UInt64(entries.count + 7), 4)
    info.put(version, 2)
    info.put(offset, 4)
    info.put(8, 1)
    info.put(entries)
  }

  /// The sections, and those that are needed to ask for addresses from 0x1000 to 0x2000.
  public func file(_ more: [HandmadeELF.Section] = []) -> HandmadeELF {
    var file = HandmadeELF()
    file.sections = [
      .init(".text", flags: 6, address: 0x1000, [UInt8](repeating: 0, count: 16), claimedSize: 0x1000),
      .init(".debug_info", info.bytes), .init(".debug_abbrev", abbreviations.bytes + [0]),
    ]
    file.sections += more
    return file
  }
}
