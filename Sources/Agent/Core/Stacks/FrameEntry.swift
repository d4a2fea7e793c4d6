// SPDX-License-Identifier: Apache-2.0
// FrameEntry: one entry of .eh_frame (a frame description entry), with the common entry that it
// names; and the search for an entry in a table of .eh_frame_hdr.

import AgentMachine
import SharedLayout

struct FrameEntry {
  /// The result of a search for the entry of a code address.
  enum Found {
    /// The address of the last entry that begins at or before the code address asked for.
    case entry(UInt64)
    /// The module has entries, but none for the address.
    case nothing
    /// The module has entries of a form that is not understood.
    case unreadable
  }

  /// The code that the entry is for: where it starts, and how many bytes it has.
  private(set) var code: (start: UInt64, size: UInt64) = (0, 0)
  private(set) var isSignalFrame = false
  private(set) var codeAlignment: UInt64 = 1
  private(set) var dataAlignment: Int64 = 1
  private(set) var returnColumn: UInt64 = 0
  private(set) var pointerEncoding: UInt8 = 0
  private(set) var instructions: FrameCursor
  private(set) var commonInstructions: FrameCursor
  private let segmentEnd: UInt64

  /// The entry at `address` of a segment, if there is one and its code includes `codeAddress`.
  init?(covering codeAddress: UInt64, at address: UInt64, in segment: FrameSegment) {
    self.init(at: address, in: segment)
    guard codeAddress >= code.start, codeAddress - code.start < code.size else { return nil }
  }

  /// The entry at `address` of a segment; nil if there is none.
  init?(at address: UInt64, in segment: FrameSegment) {
    self.init(end: segment.end)
    guard address >= segment.start, address < segment.end, read(entry: address, segment.start) else { return nil }
  }

  private init(end: UInt64) {
    segmentEnd = end
    instructions = FrameCursor(end, end: end)
    commonInstructions = instructions
  }

  // MARK: for FrameTables

  /// Whether a common entry lies at `address`, of the form that compilers write for this machine.
  static func isCommon(_ address: UInt64, end: UInt64) -> Bool {
    var entry = FrameEntry(end: end)
    return entry.read(common: address) != nil && entry.isOrdinary
  }
  private var isOrdinary: Bool {
    // Pointers are absolute or relative to their own place.
    let otherBases: UInt8 = 0x60
    return returnColumn == Machine.returnAddressColumn && dataAlignment == -8
      && (codeAlignment == 1 || codeAlignment == 4) && pointerEncoding & otherBases == 0
      && commonInstructions.address < commonInstructions.end
  }

  /// The address behind the record at `address`, in a section that ends with its segment; nil if
  /// there is no record.
  static func next(after address: UInt64, end: UInt64) -> UInt64? {
    var cursor = FrameCursor(address, end: end)
    return recordEnd(&cursor)
  }

  // MARK: the table of .eh_frame_hdr

  /// Whether the table at `address` has the form that linkers write.
  static func isSearchable(_ address: UInt64, _ map: UnsafeMutablePointer<link_map>, _ segment: FrameSegment) -> Bool {
    var segment = segment
    guard address != 0, segment.moved(to: address, of: map) else { return false }
    if case .unreadable = find(0, inTable: address, end: segment.end) { return false }
    return true
  }

  /// Searches the sorted table of an .eh_frame_hdr, in the one form that linkers write.
  static func find(_ address: UInt64, inTable table: UInt64, end: UInt64) -> Found {
    var cursor = FrameCursor(table, end: end)
    let version = cursor.byte()
    let frameEncoding = cursor.byte()
    let countEncoding = cursor.byte()
    let tableEncoding = cursor.byte()
    let sortedOffsets = DWARF.PointerBase.dataRelative.rawValue | DWARF.PointerFormat.signed4.rawValue
    guard version == 1, tableEncoding == sortedOffsets, cursor.pointer(frameEncoding, dataBase: table) != nil,
      let count = cursor.pointer(countEncoding, dataBase: table), count > 0, count < 1 << 28
    else { return .unreadable }
    let first = cursor.address
    guard count * 8 <= end - first, let base = UnsafeRawPointer(bitPattern: UInt(first)) else { return .unreadable }
    func location(_ index: UInt64) -> UInt64 {
      table &+ UInt64(bitPattern: Int64(base.loadUnaligned(fromByteOffset: Int(index * 8), as: Int32.self)))
    }
    guard location(0) <= address else { return .nothing }
    var low: UInt64 = 0
    var high = count
    while high - low > 1 {
      let middle = (low + high) / 2
      if location(middle) <= address { low = middle } else { high = middle }
    }
    let offset = base.loadUnaligned(fromByteOffset: Int(low * 8 + 4), as: Int32.self)
    return .entry(table &+ UInt64(bitPattern: Int64(offset)))
  }

  // MARK: reading

  private mutating func read(entry: UInt64, _ segmentStart: UInt64) -> Bool {
    var cursor = FrameCursor(entry, end: segmentEnd)
    guard let bodyEnd = Self.recordEnd(&cursor) else { return false }
    let back = UInt64(cursor.read(UInt32.self, 0))
    guard back != 0 else { return false }
    let common = cursor.address - 4 - back
    guard common >= segmentStart, common < entry, let hasAugmentation = read(common: common) else { return false }
    guard let start = cursor.pointer(pointerEncoding, dataBase: 0),
      let size = cursor.pointer(pointerEncoding & DWARF.PointerFormat.mask, dataBase: 0)
    else { return false }
    code = (start, size)
    if hasAugmentation {
      let count = cursor.unsigned()
      guard count <= bodyEnd - min(cursor.address, bodyEnd) else { return false }
      cursor.address += count
    }
    instructions = FrameCursor(cursor.address, end: bodyEnd)
    return !cursor.isBroken
  }

  /// Whether the entries that name this common entry have augmentation data; nil if the common
  /// entry is of an unknown kind.
  private mutating func read(common: UInt64) -> Bool? {
    var cursor = FrameCursor(common, end: segmentEnd)
    guard let bodyEnd = Self.recordEnd(&cursor), cursor.read(UInt32.self, 1) == 0 else { return nil }
    let version = cursor.byte()
    guard version == 1 || version == 3 else { return nil }
    let augmentation = cursor.address
    while cursor.byte() != 0 {}
    guard !cursor.isBroken else { return nil }
    codeAlignment = cursor.unsigned()
    dataAlignment = cursor.signed()
    returnColumn = version == 1 ? UInt64(cursor.byte()) : cursor.unsigned()
    var letters = FrameCursor(augmentation, end: segmentEnd)
    var letter = letters.byte()
    let hasData = letter == UInt8(ascii: "z")
    if hasData {
      let count = cursor.unsigned()
      guard count <= bodyEnd - min(cursor.address, bodyEnd) else { return nil }
      let dataEnd = cursor.address + count
      letter = letters.byte()
      while letter != 0 {
        switch letter {
        case UInt8(ascii: "R"): pointerEncoding = cursor.byte()
        case UInt8(ascii: "P"):
          let encoding = cursor.byte()
          _ = cursor.pointer(encoding & ~DWARF.indirect, dataBase: 0)
        case UInt8(ascii: "L"): _ = cursor.byte()
        case UInt8(ascii: "S"): isSignalFrame = true
        case UInt8(ascii: "B"): break
        default: return nil
        }
        letter = letters.byte()
      }
      cursor.address = dataEnd
    } else if letter != 0 {
      return nil
    }
    commonInstructions = FrameCursor(cursor.address, end: bodyEnd)
    return cursor.isBroken ? nil : hasData
  }

  /// Reads the length of the record at the cursor; the address at which the record ends. nil for
  /// the length 0, which ends the section.
  private static func recordEnd(_ cursor: inout FrameCursor) -> UInt64? {
    let short = cursor.read(UInt32.self, 0)
    let length = short == UInt32.max ? cursor.read(UInt64.self, 0) : UInt64(short)
    guard !cursor.isBroken, length != 0, length <= cursor.end - cursor.address else { return nil }
    return cursor.address + length
  }
}

// MARK: the cursor

/// A position in a module's frame sections. Reads beyond the end give zeros and mark the cursor as
/// broken.
struct FrameCursor {
  var address: UInt64
  let end: UInt64
  var isBroken = false

  init(_ address: UInt64, end: UInt64) {
    self.address = address
    self.end = end
  }

  mutating func read<Value: BitwiseCopyable>(_: Value.Type, _ zero: Value) -> Value {
    let size = UInt64(MemoryLayout<Value>.size)
    guard address < end, end - address >= size, let pointer = UnsafeRawPointer(bitPattern: UInt(address)) else {
      isBroken = true
      return zero
    }
    address += size
    return pointer.loadUnaligned(as: Value.self)
  }
  mutating func byte() -> UInt8 { read(UInt8.self, 0) }

  /// An unsigned LEB128.
  mutating func unsigned() -> UInt64 { number().value }
  /// A signed LEB128.
  mutating func signed() -> Int64 {
    let (value, bits, isNegative) = number()
    return Int64(bitPattern: isNegative && bits < 64 ? value | ~0 << bits : value)
  }
  /// The value of a LEB128, the bits that it has, and the last byte's sign bit.
  private mutating func number() -> (value: UInt64, bits: UInt64, isNegative: Bool) {
    var value: UInt64 = 0
    var bits: UInt64 = 0
    while true {
      let byte = byte()
      if bits < 64 { value |= UInt64(byte & 0x7F) << bits }
      bits += 7
      if byte & 0x80 == 0 { return (value, bits, byte & 0x40 != 0) }
    }
  }

  /// A pointer in one of the encodings of DW_EH_PE; nil for an encoding that needs a base which is
  /// not known here.
  mutating func pointer(_ encoding: UInt8, dataBase: UInt64) -> UInt64? {
    let own = address
    guard let format = DWARF.PointerFormat(rawValue: encoding & DWARF.PointerFormat.mask) else { return nil }
    var value: UInt64
    switch format {
    case .absolute, .unsigned8, .signed8: value = read(UInt64.self, 0)
    case .unsignedLEB128: value = unsigned()
    case .unsigned2: value = UInt64(read(UInt16.self, 0))
    case .unsigned4: value = UInt64(read(UInt32.self, 0))
    case .signedLEB128: value = UInt64(bitPattern: signed())
    case .signed2: value = UInt64(bitPattern: Int64(Int16(bitPattern: read(UInt16.self, 0))))
    case .signed4: value = UInt64(bitPattern: Int64(Int32(bitPattern: read(UInt32.self, 0))))
    }
    switch DWARF.PointerBase(rawValue: encoding & DWARF.PointerBase.mask) {
    case .absolute: break
    case .pcRelative: value = value &+ own
    case .dataRelative: value = value &+ dataBase
    case nil: return nil
    }
    return isBroken ? nil : value
  }
}
