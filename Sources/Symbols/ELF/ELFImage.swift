// SPDX-License-Identifier: Apache-2.0
// An ELF file put together in memory: sections with names, for libdw to find debug information in.

import CLibdw

struct ELFImage {
  private static let headerSize = 64
  private static let sectionHeaderSize = 64
  private static let alignment = 16

  /// Of the machine that the debug information is for.
  var machine: UInt16
  private var sections: [(name: String, bytes: [UInt8]?, borrowed: UnsafeRawBufferPointer)] = []

  init(machine: UInt16) { self.machine = machine }

  /// Adds a section whose bytes the caller keeps until `build` has copied them.
  mutating func append(_ name: String, _ bytes: UnsafeRawBufferPointer) { sections.append((name, nil, bytes)) }

  mutating func append(_ name: String, _ bytes: [UInt8]) {
    sections.append((name, bytes, UnsafeRawBufferPointer(start: nil, count: 0)))
  }

  /// The file's bytes: for a 64-bit machine, lowest byte first. The caller owns them. Sections of strings get one zero
  /// more, so that none of them runs on.
  consuming func build() -> UnsafeMutableRawBufferPointer {
    var names: [UInt8] = [0]
    var places: [(name: Int, offset: Int, size: Int)] = []
    var offset = Self.headerSize
    let nameTable = ".shstrtab"
    for section in sections {
      let size = section.bytes?.count ?? section.borrowed.count
      places.append((names.count, offset, size))
      names += Array(section.name.utf8) + [0]
      offset = Self.aligned(offset &+ size &+ 1)
    }
    places.append((names.count, offset, names.count + nameTable.utf8.count + 1))
    names += Array(nameTable.utf8) + [0]
    offset = Self.aligned(offset &+ names.count)

    let size = offset &+ (places.count &+ 1) &* Self.sectionHeaderSize
    let image = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: Self.alignment)
    func clear(_ range: Range<Int>) {
      UnsafeMutableRawBufferPointer(rebasing: image[range]).initializeMemory(as: UInt8.self, repeating: 0)
    }
    clear(0..<Self.headerSize)
    clear(offset..<size)  // bounded: the table of sections has a header at least
    func put<Number: FixedWidthInteger>(_ value: Number, at offset: Int) {
      image.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Number.self)
    }
    let identification: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, UInt8(ELFCLASS64), UInt8(ELFDATA2LSB), UInt8(EV_CURRENT)]
    for (index, byte) in identification.enumerated() { image[index] = byte }
    put(UInt16(ET_DYN), at: 16)
    put(machine, at: 18)
    put(UInt32(EV_CURRENT), at: 20)
    put(UInt64(clamping: offset), at: 40)
    put(UInt16(Self.headerSize), at: 52)
    put(UInt16(Self.sectionHeaderSize), at: 58)
    put(UInt16(clamping: places.count &+ 1), at: 60)
    put(UInt16(clamping: places.count), at: 62)
    for (index, place) in places.enumerated() {
      let name = index < sections.count ? sections[index].name : nameTable
      let end = index &+ 1 < places.count ? places[index &+ 1].offset : offset
      // bounded: the sections follow each other, each with a byte more than its size
      let target = UnsafeMutableRawBufferPointer(rebasing: image[place.offset..<end])
      if index < sections.count {
        if let bytes = sections[index].bytes {
          target.copyBytes(from: bytes)
        } else {
          target.copyMemory(from: sections[index].borrowed)
        }
      } else {
        target.copyBytes(from: names)
      }
      clear(place.offset &+ place.size..<end)
      let header = offset &+ (index &+ 1) &* Self.sectionHeaderSize
      put(UInt32(clamping: place.name), at: header)
      put(UInt32(clamping: index < sections.count ? SHT_PROGBITS : SHT_STRTAB), at: header &+ 4)
      put(UInt64(clamping: place.offset), at: header &+ 24)
      put(UInt64(clamping: place.size &+ (name.hasSuffix("str") ? 1 : 0)), at: header &+ 32)
      put(UInt64(1), at: header &+ 48)
    }
    return image
  }

  private static func aligned(_ offset: Int) -> Int { (offset &+ alignment &- 1) & ~(alignment &- 1) }
}
