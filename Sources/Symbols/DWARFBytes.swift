// SPDX-License-Identifier: Apache-2.0
// DWARF as bytes: what has to be read of units and abbreviations before libdw may see them.
//
// The bytes are anybody's: each read is within bounds or throws.

import Bounds
import CLibdw

struct MalformedDWARF: Error {}

/// Reads numbers one after another, lowest byte first.
struct DWARFCursor {
  let bytes: [UInt8]
  var offset: Int

  /// So many bytes, 8 at most.
  mutating func number(_ size: Int) throws(MalformedDWARF) -> UInt64 {
    guard offset >= 0, size <= bytes.count &- offset else { throw MalformedDWARF() }
    var value: UInt64 = 0
    for index in stride(from: 0, to: size, by: 1) {
      value |= UInt64(truncatingIfNeeded: bytes[offset &+ index]) << UInt64(clamping: 8 &* index)
    }
    offset &+= size
    return value
  }

  mutating func unsigned() throws(MalformedDWARF) -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while true {
      let byte = try number(1)
      if shift < 64 { value |= (byte & 0x7F) << shift }
      shift &+= 7
      if byte & 0x80 == 0 { return value }
    }
  }

  mutating func skip(_ size: UInt64) throws(MalformedDWARF) {
    guard offset >= 0, let size = Foreign(size).int(upTo: bytes.count &- offset) else { throw MalformedDWARF() }
    offset &+= size
  }

  mutating func skipString() throws(MalformedDWARF) {
    while try number(1) != 0 {}
  }
}

extension [UInt8] {
  /// As DWARF writes a number of any size.
  mutating func append(unsigned value: UInt64) {
    var value = value
    repeat {
      let low = UInt8(value & 0x7F)
      value >>= 7
      append(value == 0 ? low : low | 0x80)
    } while value != 0
  }

  /// Writes a signed number so; `value` is below 2^63.
  mutating func append(positive value: UInt64) {
    var value = value
    while value >= 0x40 {
      append(UInt8(value & 0x7F) | 0x80)
      value >>= 7
    }
    append(UInt8(truncatingIfNeeded: value))
  }

  /// Writes the `size` lowest bytes of `value` over what is at `offset`.
  mutating func overwrite(_ value: UInt64, size: Int, at offset: Int) {
    for index in stride(from: 0, to: size, by: 1) {
      self[offset &+ index] = UInt8(truncatingIfNeeded: value >> UInt64(clamping: 8 &* index))
    }
  }
}

/// The head of a unit.
struct UnitHeader {
  var start: Int
  /// One past the unit's last byte.
  var end: Int
  /// Bytes of an offset: 4, or 8 in the 64-bit format.
  var offsetSize: Int
  var version: Int
  /// DW_UT_compile and others; of DWARF 4 what the section says.
  var type: Int
  /// Where `type` stands; nil in DWARF 4.
  var typeOffset: Int?
  var addressSize: Int
  /// Where the abbreviations' offset stands, and what it says.
  var abbreviationsOffset: Int
  var abbreviations: UInt64
  /// The id of a split unit, or the signature of a type; nil where the header has none.
  var id: UInt64?
  /// Where the first entry is.
  var root: Int

  /// The unit at `offset` of .debug_info, or of .debug_types.
  init(_ bytes: [UInt8], at offset: Int, isTypes: Bool = false) throws(MalformedDWARF) {
    var cursor = DWARFCursor(bytes: bytes, offset: offset)
    start = offset
    var length = try cursor.number(4)
    offsetSize = length == 0xFFFF_FFFF ? 8 : 4
    if offsetSize == 8 { length = try cursor.number(8) }
    var last = cursor
    try last.skip(length)
    end = last.offset
    version = Int(truncatingIfNeeded: try cursor.number(2))
    switch version {
    case 5:
      typeOffset = cursor.offset
      type = Int(truncatingIfNeeded: try cursor.number(1))
      addressSize = Int(truncatingIfNeeded: try cursor.number(1))
      abbreviationsOffset = cursor.offset
      abbreviations = try cursor.number(offsetSize)
      if [DW_UT_skeleton, DW_UT_split_compile, DW_UT_type, DW_UT_split_type].contains(type) {
        id = try cursor.number(8)
      }
      if type == DW_UT_type || type == DW_UT_split_type { try cursor.skip(UInt64(clamping: offsetSize)) }
    case 2...4:
      type = isTypes ? DW_UT_type : DW_UT_compile
      abbreviationsOffset = cursor.offset
      abbreviations = try cursor.number(offsetSize)
      addressSize = Int(truncatingIfNeeded: try cursor.number(1))
      if isTypes {
        id = try cursor.number(8)
        try cursor.skip(UInt64(clamping: offsetSize))
      }
    default: throw MalformedDWARF()
    }
    root = cursor.offset
    guard root < end else { throw MalformedDWARF() }
  }
}

/// How entries of one kind are written.
struct Abbreviation {
  struct Attribute {
    var name: UInt64
    var form: UInt64
    /// The bytes of DW_FORM_implicit_const's value.
    var constant: [UInt8] = []
  }
  var code: UInt64
  var tag: UInt64
  var hasChildren: UInt8
  var attributes: [Attribute]
  /// Where it stands in its table.
  var range: Range<Int>

  /// All of the table at `offset`, and where that ends: behind its final zero.
  /// At most `mostEntries` of them, each with at most `mostAttributes`.
  static func table(_ bytes: [UInt8], at offset: Int) throws(MalformedDWARF) -> (entries: [Abbreviation], end: Int) {
    var cursor = DWARFCursor(bytes: bytes, offset: offset)
    var entries: [Abbreviation] = []
    while entries.count < mostEntries {
      let start = cursor.offset
      let code = try cursor.unsigned()
      // Some writers end a table at the section's end.
      if code == 0 { return (entries, cursor.offset) }
      let tag = try cursor.unsigned()
      let hasChildren = UInt8(truncatingIfNeeded: try cursor.number(1))
      var attributes: [Attribute] = []
      while true {
        var attribute = Attribute(name: try cursor.unsigned(), form: try cursor.unsigned())
        if attribute.form == UInt64(truncatingIfNeeded: DW_FORM_implicit_const) {
          let start = cursor.offset
          _ = try cursor.unsigned()
          attribute.constant = Array(bytes[start..<cursor.offset])  // bounded: the number's bytes were read
        }
        if attribute.name == 0, attribute.form == 0 { break }
        guard attributes.count < mostAttributes else { throw MalformedDWARF() }
        attributes.append(attribute)
      }
      entries.append(
        Abbreviation(
          // bounded: the code alone took a byte
          code: code, tag: tag, hasChildren: hasChildren, attributes: attributes, range: start..<cursor.offset))
      if cursor.offset == bytes.count { return (entries, cursor.offset) }
    }
    throw MalformedDWARF()
  }

  private static let (mostEntries, mostAttributes) = (1 << 17, 512)

  /// As it stands in a table.
  var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(unsigned: code)
    bytes.append(unsigned: tag)
    bytes.append(hasChildren)
    for attribute in attributes {
      bytes.append(unsigned: attribute.name)
      bytes.append(unsigned: attribute.form)
      bytes += attribute.constant
    }
    return bytes + [0, 0]
  }
}

extension DWARFCursor {
  /// Moves behind a value of this form.
  mutating func skip(form: UInt64, _ unit: UnitHeader) throws(MalformedDWARF) {
    guard let form = Int(exactly: form) else { throw MalformedDWARF() }
    switch form {
    case DW_FORM_flag_present, DW_FORM_implicit_const: break
    case DW_FORM_data1, DW_FORM_ref1, DW_FORM_flag, DW_FORM_strx1, DW_FORM_addrx1: try skip(1)
    case DW_FORM_data2, DW_FORM_ref2, DW_FORM_strx2, DW_FORM_addrx2: try skip(2)
    case DW_FORM_strx3, DW_FORM_addrx3: try skip(3)
    case DW_FORM_data4, DW_FORM_ref4, DW_FORM_strx4, DW_FORM_addrx4, DW_FORM_ref_sup4: try skip(4)
    case DW_FORM_data8, DW_FORM_ref8, DW_FORM_ref_sig8, DW_FORM_ref_sup8: try skip(8)
    case DW_FORM_data16: try skip(16)
    case DW_FORM_addr: try skip(UInt64(clamping: unit.addressSize))
    case DW_FORM_strp, DW_FORM_line_strp, DW_FORM_strp_sup, DW_FORM_sec_offset, DW_FORM_GNU_ref_alt,
      DW_FORM_GNU_strp_alt:
      try skip(UInt64(clamping: unit.offsetSize))
    case DW_FORM_ref_addr: try skip(UInt64(clamping: unit.version == 2 ? unit.addressSize : unit.offsetSize))
    case DW_FORM_sdata, DW_FORM_udata, DW_FORM_ref_udata, DW_FORM_strx, DW_FORM_addrx, DW_FORM_loclistx,
      DW_FORM_rnglistx, DW_FORM_GNU_addr_index, DW_FORM_GNU_str_index:
      _ = try unsigned()
    case DW_FORM_block, DW_FORM_exprloc: try skip(try unsigned())
    case DW_FORM_block1: try skip(try number(1))
    case DW_FORM_block2: try skip(try number(2))
    case DW_FORM_block4: try skip(try number(4))
    case DW_FORM_string: try skipString()
    // DW_FORM_indirect among them: no compiler writes it.
    default: throw MalformedDWARF()
    }
  }
}
