// SPDX-License-Identifier: Apache-2.0
// An ELF file by its headers: what kernel and dynamic linker look at. Format: System V gABI, chapters 4 and 5; files of
// this machine's class and byte order only, 64 bits and lowest byte first.
//
// No other place outside the agent reads ELF headers by hand. This file needs a few hundred bytes of an ELF file, where
// libelf (ObjectFile) takes it as a whole. The file is foreign: each number in it is checked before it is used.

import ByteText

/// The headers of an executable or shared object.
public struct ELFFile {
  /// A program header: a segment of the file, and where it lies in memory.
  public struct ProgramHeader: Hashable, Sendable {
    /// p_type
    public let type: UInt32
    /// Of the segment's first byte in the file.
    public let offset: UInt64
    /// Of the segment's first byte in memory, before the file is moved: p_vaddr.
    public let address: UInt64
    /// Bytes in the file, and in memory.
    public let fileSize, memorySize: UInt64
    /// A power of two in a sound file.
    public let alignment: UInt64
  }

  private enum SegmentType {
    static let load: UInt32 = 1
    static let dynamic: UInt32 = 2
    static let interpreter: UInt32 = 3
    static let note: UInt32 = 4
  }
  private static let (executable, sharedObject): (UInt64, UInt64) = (2, 3)  // ET_EXEC, ET_DYN
  private static let (headerSize, programHeaderSize) = (64, 56)
  /// Notes beyond this many bytes of a segment are not read.
  private static let notesLimit = 1 << 16
  /// Segments of notes beyond so many are not read: no linker makes more than a few, and 65,535 could be the same one.
  private static let mostNoteSegments = 16

  private let bytes: ELFBytes
  private let headers: [ProgramHeader]

  /// Nil if the file is no executable or shared object of 64 bits, or its headers are cut short.
  public init?(_ bytes: ELFBytes) {
    let head = bytes.bytes(at: 0, count: Self.headerSize)
    guard let machine = ELFMachine(head), machine.isWide, machine.isLittleEndian, head.count == Self.headerSize,
      let type = head.number(at: 16, size: 2), type == Self.executable || type == Self.sharedObject,
      let table = head.number(at: 32, size: 8), head.number(at: 54, size: 2) == UInt64(Self.programHeaderSize),
      let count = head.number(at: 56, size: 2), count > 0
    else { return nil }
    let size = Int(clamping: count) &* Self.programHeaderSize
    let entries = bytes.bytes(at: table, count: size)
    guard entries.count == size else { return nil }
    self.bytes = bytes
    headers = stride(from: 0, to: size, by: Self.programHeaderSize).map { start in
      func number(_ offset: Int, _ size: Int) -> UInt64 { entries.number(at: start &+ offset, size: size) ?? 0 }
      return ProgramHeader(
        type: UInt32(truncatingIfNeeded: number(0, 4)), offset: number(8, 8), address: number(16, 8),
        fileSize: number(32, 8),
        memorySize: number(40, 8), alignment: number(48, 8))
    }
  }

  /// The dynamic linker that it names (PT_INTERP); nil if it names none.
  public var interpreter: ForeignText? {
    guard let header = headers.first(where: { $0.type == SegmentType.interpreter }) else { return nil }
    return bytes.text(at: header.offset, limit: Int(clamping: min(4096, max(1, header.fileSize))))
  }

  /// The notes of all its segments of notes.
  public var notes: [ELFNote] {
    headers.lazy.filter { $0.type == SegmentType.note }.prefix(Self.mostNoteSegments).flatMap { header -> [ELFNote] in
      let content = bytes.bytes(at: header.offset, count: min(Int(clamping: header.fileSize), Self.notesLimit))
      // A linker may have put notes that are aligned to 4 bytes into a segment that is aligned to 8.
      let notes: [ELFNote] = header.alignment == 8 ? ELFNote.all(in: content, alignment: 8) : []
      return notes + ELFNote.all(in: content, alignment: 4)
    }
  }

  /// The GNU build id; empty if it has none.
  public var buildID: [UInt8] { ELFNote.buildID(among: notes) }

  /// The addresses that its loaded segments take, zeroed data included, before it is moved: from that of the file's
  /// first byte on. Nil if no segment holds the first byte, or the addresses can't be.
  public var loadedAddresses: Range<UInt64>? {
    let loaded = headers.filter { $0.type == SegmentType.load }
    guard let first = loaded.first, first.offset < 4096, first.address >= first.offset else { return nil }
    var end: UInt64 = 0
    for header in loaded {
      let (next, overflow) = header.address.addingReportingOverflow(header.memorySize)
      guard !overflow else { return nil }
      end = max(end, next)
    }
    let start = first.address &- first.offset
    return start <= end ? start..<max(start, end) : nil
  }

  // MARK: the dynamic section

  /// The file's words to the dynamic linker (PT_DYNAMIC).
  public struct Dynamic {
    /// Whether it is linked with others when it runs, as programs and libraries are. A static program that can lie
    /// anywhere has such a section, too: it names no library, and says that it is a program.
    public let linksOthers: Bool
    /// The name by which others are linked with it (DT_SONAME).
    public let sharedName: ForeignText?
  }

  /// Nil if it has no dynamic section: it is a static program.
  public var dynamic: Dynamic? {
    guard let section = headers.first(where: { $0.type == SegmentType.dynamic }) else { return nil }
    let (needed, strings, sharedNameTag, flags): (UInt64, UInt64, UInt64, UInt64) = (1, 5, 14, 0x6FFF_FFFB)
    let (isPIE, mostEntries, entrySize): (UInt64, Int, Int) = (0x0800_0000, 4096, 16)
    let entries = bytes.bytes(at: section.offset, count: min(Int(clamping: section.fileSize), mostEntries &* entrySize))
    var found: [UInt64: UInt64] = [:]
    for start in stride(from: 0, to: entries.count, by: entrySize) {  // bounded: entries have 16 bytes
      guard let tag = entries.number(at: start, size: 8), let value = entries.number(at: start &+ 8, size: 8), tag != 0
      else { break }
      found[tag] = value
    }
    let linksOthers = found[needed] != nil || found[sharedNameTag] != nil || (found[flags] ?? 0) & isPIE == 0
    guard let name = found[sharedNameTag], let table = found[strings], let offset = fileOffset(ofAddress: table) else {
      return Dynamic(linksOthers: linksOthers, sharedName: nil)
    }
    return Dynamic(linksOthers: linksOthers, sharedName: bytes.text(at: offset &+ name))
  }

  /// Where the byte that a loaded segment has at `address` is in the file.
  private func fileOffset(ofAddress address: UInt64) -> UInt64? {
    headers.first {
      $0.type == SegmentType.load && address >= $0.address && address &- $0.address < $0.fileSize
    }.map { $0.offset &+ (address &- $0.address) }
  }
}
