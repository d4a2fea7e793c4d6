// SPDX-License-Identifier: Apache-2.0
// What libdw would do by the word of debug information, told before libdw sees it.
//
// libdw reads within its sections, but takes as much time, memory and stack as they ask for:
// - each unit takes some hundred bytes, and a table of abbreviations of its own, also where a million units name one
//   table;
// - attributes that take no bytes make an entry of one byte cost as much as its abbreviation has of them;
// - a form that names another form (DW_FORM_indirect) is followed by recursion;
// - a row of a line table takes 100 bytes while it is read, and one byte in the file; each file in one gets its
//   directory's name, which may be as long as the file.
//
// So the heads of all units and all abbreviations that they name are read here first. What is behind the first unit
// that asks for too much, or that can't be read, is cut off. The reading agrees with libdw's about where each thing
// ends.

import Bounds
import CLibdw
import Glibc

/// Numbers of DWARF in a section, one after another, lowest byte first. Each number is within the bytes, or nil.
struct SectionCursor {
  let bytes: UnsafeRawBufferPointer
  /// From 0 to `limit`.
  private(set) var offset: Int
  /// One past the last byte that may be read; at most the bytes' count.
  private(set) var limit: Int

  init(_ bytes: UnsafeRawBufferPointer, at offset: Int = 0) {
    self.bytes = bytes
    limit = bytes.count
    self.offset = min(max(0, offset), bytes.count)
  }

  var left: Int { limit &- offset }

  /// So many bytes, 8 at most.
  mutating func number(_ size: Int) -> UInt64? {
    guard size <= left else { return nil }
    var value: UInt64 = 0
    for index in 0..<max(0, size) {  // bounded: of at most 8 bytes
      value |= UInt64(truncatingIfNeeded: bytes[offset &+ index]) &<< UInt64(truncatingIfNeeded: 8 &* index)
    }
    offset &+= size
    return value
  }

  /// A number of at most 10 bytes, of which libdw takes no more. Nearly all of them have one byte.
  @inline(__always)
  mutating func unsigned() -> UInt64? {
    guard offset < limit, bytes[offset] < 0x80 else { return longUnsigned() }
    offset &+= 1
    return UInt64(truncatingIfNeeded: bytes[offset &- 1])
  }

  /// Two such numbers.
  @inline(__always)
  mutating func unsignedPair() -> (UInt64, UInt64)? {
    if left >= 2 {
      let (first, second) = (bytes[offset], bytes[offset &+ 1])
      if (first | second) < 0x80 {
        offset &+= 2
        return (UInt64(truncatingIfNeeded: first), UInt64(truncatingIfNeeded: second))
      }
    }
    guard let first = unsigned(), let second = unsigned() else { return nil }
    return (first, second)
  }

  @inline(never)
  private mutating func longUnsigned() -> UInt64? {
    var value: UInt64 = 0
    for place in 0..<10 {
      guard left > 0 else { return nil }
      let byte = bytes[offset]
      offset &+= 1
      value |= UInt64(truncatingIfNeeded: byte & 0x7F) << UInt64(truncatingIfNeeded: 7 &* place)
      if byte & 0x80 == 0 { return value }
    }
    return nil
  }

  /// A signed number of at most 10 bytes, as its bits.
  mutating func signed() -> UInt64? {
    let start = offset
    guard let value = unsigned() else { return nil }
    let used = 7 &* (offset &- start)
    return used < 64 && bytes[offset &- 1] & 0x40 != 0 ? value | UInt64.max << UInt64(clamping: used) : value
  }

  /// Moves on by `size` bytes, if there are so many.
  mutating func skip(_ size: UInt64) -> Bool {
    guard let size = Int(exactly: size), size <= left else { return false }
    offset &+= size
    return true
  }

  /// Leaves at most `size` bytes to be read.
  mutating func cut(to size: Int) { limit = offset &+ min(max(0, size), left) }

  /// Moves behind the next zero. The bytes before it; nil if there are more than `limit`.
  mutating func text(limit: Int) -> Int? {
    for length in 0...max(0, limit) {
      guard left > 0 else { return nil }
      let byte = bytes[offset]
      offset &+= 1
      if byte == 0 { return length }
    }
    return nil
  }

  /// The length of a unit, and the bytes of an offset in it: 4, or 8 in the 64-bit format.
  mutating func length() -> (bytes: Int, offsetSize: Int)? {
    guard let short = number(4) else { return nil }
    guard short >= 0xFFFF_FFF0 else { return Foreign(short).int(upTo: left).map { ($0, 4) } }
    guard short == 0xFFFF_FFFF, let long = number(8) else { return nil }
    return Foreign(long).int(upTo: left).map { ($0, 8) }
  }
}

/// The check of one file's units.
struct DWARFCheck {
  /// Units, of types and of all else.
  private let mostUnits: Int
  /// Bytes of memory that libdw takes for each: where it lies, and a table of its abbreviations.
  static let unitBytes = 1100
  /// Bytes of a unit: libdw passes over all entries of one in one call.
  private static let largestUnit = 256 << 20
  /// Entries of a unit times the attributes of each, which libdw passes over in one call: seconds.
  private static let mostSteps = 2 << 30
  /// Attributes of an abbreviation. Compilers write up to 30 in all, and up to 15 that take no bytes.
  private static let (mostAttributes, mostEmptyAttributes) = (512, 64)
  /// Abbreviations that all units have, those of a shared table once for each unit.
  private static let mostAbbreviations = 8 << 20

  /// Why a unit, and all behind it, is left out.
  private(set) var problem: String?
  private var units = 0
  private var abbreviations = 0
  private var tables: [UInt64: Table] = [:]
  private let section: UnsafeRawBufferPointer
  /// Bytes of tables that may still be read: honest ones don't overlap.
  private var bytesLeft: Int

  private struct Table {
    var count: Int
    /// The most attributes that take no bytes in one abbreviation.
    var mostEmpty: Int
  }

  /// `abbreviations`: .debug_abbrev. `mostUnits`: another number for tests; of so many, half of a question's memory is
  /// left.
  init(abbreviations: UnsafeRawBufferPointer?, mostUnits: Int = 1 << 17) {
    self.mostUnits = mostUnits
    section = abbreviations ?? UnsafeRawBufferPointer(start: nil, count: 0)
    bytesLeft = min(section.count, 1 << 40) &* 2 &+ (1 << 20)
  }

  /// The bytes of .debug_info, or .debug_types, from its start that libdw may see.
  mutating func soundSize(of bytes: UnsafeRawBufferPointer, named name: String, isTypes: Bool) -> Int {
    var cursor = SectionCursor(bytes)
    var meter = BudgetMeter(interval: 256)
    while cursor.left > 0 {
      let start = cursor.offset
      guard meter.goesOn() else { return start }
      guard let end = unit(&cursor, isTypes: isTypes) else {
        // Zeros to the end are no unit, and no damage.
        if bytes[start...].contains(where: { $0 != 0 }) {
          problem = problem ?? "its debug information is damaged, or too large, from byte \(start) of \(name) on"
        }
        return start
      }
      cursor = SectionCursor(bytes, at: end)
    }
    return bytes.count
  }

  /// Where the unit ends; nil if it can't be read.
  private mutating func unit(_ cursor: inout SectionCursor, isTypes: Bool) -> Int? {
    guard let (length, offsetSize) = cursor.length(), length <= Self.largestUnit, units < mostUnits else {
      return nil
    }
    units &+= 1
    let end = cursor.offset &+ length
    cursor.cut(to: length)
    guard let version = cursor.number(2), version >= 2, version <= 5 else { return nil }
    var type = UInt64(truncatingIfNeeded: isTypes ? DW_UT_type : DW_UT_compile)
    var offset: UInt64?
    var addressSize: UInt64?
    if version == 5 {
      type = cursor.number(1) ?? 0
      addressSize = cursor.number(1)
      offset = cursor.number(offsetSize)
    } else {
      offset = cursor.number(offsetSize)
      addressSize = cursor.number(1)
    }
    // The addresses of a 64-bit machine.
    guard let offset, addressSize == 8 else { return nil }
    switch Int(truncatingIfNeeded: type) {
    case DW_UT_compile, DW_UT_partial: break
    case DW_UT_skeleton, DW_UT_split_compile: guard cursor.skip(8) else { return nil }
    case DW_UT_type, DW_UT_split_type: guard cursor.skip(8), cursor.skip(offsetSize == 8 ? 8 : 4) else { return nil }
    default: return nil
    }
    guard cursor.left > 0, let table = table(at: offset) else { return nil }
    abbreviations &+= table.count
    let (steps, overflow) = length.multipliedReportingOverflow(by: table.mostEmpty &+ 1)
    guard abbreviations <= Self.mostAbbreviations, !overflow, steps <= Self.mostSteps else { return nil }
    return end
  }

  /// The table at `offset` of .debug_abbrev; nil if it can't be read.
  private mutating func table(at offset: UInt64) -> Table? {
    if let known = tables[offset] { return known }
    guard let start = Foreign(offset).int(upTo: section.count) else { return nil }
    var cursor = SectionCursor(section, at: start)
    cursor.cut(to: bytesLeft)
    let isCut = cursor.limit < section.count
    var table = Table(count: 0, mostEmpty: 0)
    var meter = BudgetMeter(interval: 1024)
    // Some writers end a table at the section's end.
    while cursor.left > 0 || isCut {
      guard meter.goesOn(), let code = cursor.unsigned() else { return nil }
      if code == 0 { break }
      guard code <= 0xFFFF_FFFF, let tag = cursor.unsigned(), tag <= 0xFFFF, cursor.number(1) != nil,
        let empty = attributes(&cursor)
      else { return nil }
      table.count &+= 1
      table.mostEmpty = max(table.mostEmpty, empty)
    }
    bytesLeft &-= cursor.offset &- start
    tables[offset] = table
    return table
  }

  /// Moves behind the attributes of an abbreviation. How many take no bytes; nil if they can't be read.
  @inline(__always)
  private func attributes(_ cursor: inout SectionCursor) -> Int? {
    var empty = 0
    for _ in 0..<Self.mostAttributes {
      guard let (name, form) = cursor.unsignedPair(), name <= 0xFFFF, form <= 0xFFFF else { return nil }
      if name | form == 0 { return empty }
      switch Int(truncatingIfNeeded: form) {
      // No compiler writes it.
      case DW_FORM_indirect: return nil
      case DW_FORM_implicit_const:
        guard cursor.unsigned() != nil else { return nil }
        empty &+= 1
      case DW_FORM_flag_present: empty &+= 1
      default: break
      }
      if empty > Self.mostEmptyAttributes { return nil }
    }
    return nil
  }
}

/// What a unit's line table costs, of which libdw reads all rows and makes all names at once.
struct LineTableCheck {
  /// Bytes of a table.
  private static let largest = 32 << 20
  /// Rows of a table: one of 100 MiB of code has some 10 million.
  var mostRows = 4 << 20
  /// Bytes of one name, and of all names that libdw makes: of each file's directory and the file's own.
  private static let (longestName, namesLimit) = (4096, 128 << 20)

  /// .debug_line, .debug_line_str, .debug_str
  let lines, lineTexts, texts: UnsafeRawBufferPointer?

  private struct Names {
    var count = 0
    var longest = 0

    mutating func add(_ length: Int) {
      count &+= 1
      longest = max(longest, length)
    }
  }

  /// The rows that the table at `offset` of .debug_line makes; nil if libdw should not read it. `directory`: the one in
  /// which the unit was compiled.
  func rows(at offset: UInt64, directory: UnsafePointer<CChar>?) -> Int? {
    guard let lines, let start = Foreign(offset).int(upTo: lines.count) else { return nil }
    var cursor = SectionCursor(lines, at: start)
    guard let (length, offsetSize) = cursor.length(), length <= Self.largest else { return nil }
    cursor.cut(to: length)
    guard let version = cursor.number(2), version >= 2, version <= 5, version < 5 || cursor.skip(2),
      cursor.number(offsetSize) != nil
    else { return nil }
    // Length of an instruction, operations of one (from version 4 on), whether rows begin statements, the lowest and
    // the number of line steps; the first opcode that makes a row by itself.
    guard cursor.skip(version >= 4 ? 5 : 4), let base = cursor.number(1) else { return nil }
    let lengths = cursor.offset
    guard cursor.skip(max(base, 1) &- 1) else { return nil }
    var directories = Names()
    var files = Names()
    if version < 5 {
      let compiled = directory.map { strnlen($0, Self.longestName &+ 1) } ?? 0
      guard compiled <= Self.longestName else { return nil }
      directories.add(compiled)
      guard oldNames(&cursor, &directories, numbers: 0), oldNames(&cursor, &files, numbers: 3) else { return nil }
    } else {
      guard newNames(&cursor, &directories, offsetSize), newNames(&cursor, &files, offsetSize) else { return nil }
    }
    guard let count = program(&cursor, base: base, lengths: lengths, &files), count <= mostRows else { return nil }
    let cost = Foreign(files.count) * (Foreign(files.longest) + Foreign(directories.longest))
    return cost.int(upTo: Self.namesLimit) == nil ? nil : count
  }

  /// Names up to an empty one, each with so many numbers behind it. Until version 4.
  private func oldNames(_ cursor: inout SectionCursor, _ names: inout Names, numbers: Int) -> Bool {
    var meter = BudgetMeter()
    while meter.goesOn(), let length = cursor.text(limit: Self.longestName) {
      if length == 0 { return true }
      names.add(length)
      for _ in 0..<max(0, numbers) where cursor.unsigned() == nil { return false }  // bounded: the caller's own number
    }
    return false
  }

  /// A list of formats, and a list of names. From version 5 on.
  private func newNames(_ cursor: inout SectionCursor, _ names: inout Names, _ offsetSize: Int) -> Bool {
    var meter = BudgetMeter()
    guard let formatCount = cursor.number(1) else { return false }
    var forms: [UInt64] = []
    for _ in 0..<Int(truncatingIfNeeded: formatCount) {  // bounded: it is one byte
      guard cursor.unsigned() != nil, let form = cursor.unsigned() else { return false }
      forms.append(form)
    }
    guard let number = cursor.unsigned(), let count = Foreign(number).int(upTo: cursor.left),
      !forms.isEmpty || count == 0
    else { return false }
    for _ in 0..<max(0, count) {
      guard meter.goesOn() else { return false }
      var longest = 0
      for form in forms {
        guard let length = length(form, &cursor, offsetSize) else { return false }
        longest = max(longest, length)
      }
      names.add(longest)
    }
    return true
  }

  /// Moves behind a value. Its length if it is a text, else 0; nil if it can't be read.
  private func length(_ form: UInt64, _ cursor: inout SectionCursor, _ offsetSize: Int) -> Int? {
    func skip(_ size: UInt64?) -> Int? { size.flatMap { cursor.skip($0) ? 0 : nil } }
    switch Int(truncatingIfNeeded: form) {
    case DW_FORM_string: return cursor.text(limit: Self.longestName)
    case DW_FORM_line_strp: return cursor.number(offsetSize).flatMap { Self.length(in: lineTexts, at: $0) }
    case DW_FORM_strp: return cursor.number(offsetSize).flatMap { Self.length(in: texts, at: $0) }
    case DW_FORM_data1: return skip(1)
    case DW_FORM_data2: return skip(2)
    case DW_FORM_data4: return skip(4)
    case DW_FORM_data8: return skip(8)
    case DW_FORM_data16: return skip(16)
    case DW_FORM_udata: return cursor.unsigned() == nil ? nil : 0
    case DW_FORM_block: return skip(cursor.unsigned())
    case DW_FORM_block1: return skip(cursor.number(1))
    case DW_FORM_block2: return skip(cursor.number(2))
    case DW_FORM_block4: return skip(cursor.number(4))
    // No compiler writes another one, and DW_FORM_indirect would be followed by recursion.
    default: return nil
    }
  }

  private static func length(in section: UnsafeRawBufferPointer?, at offset: UInt64) -> Int? {
    guard let section, let start = Foreign(offset).int(upTo: section.count) else { return nil }
    var cursor = SectionCursor(section, at: start)
    if let length = cursor.text(limit: longestName) { return length }
    // The zero of the last text is behind the section's end (ObjectFile.terminate).
    return cursor.left == 0 ? cursor.offset &- start : nil
  }

  /// The rows of the program; nil if it can't be read. Files that it defines are added. What libdw takes for an
  /// instruction's end counts here, too: not the length that an extended instruction gives.
  private func program(
    _ cursor: inout SectionCursor, base: UInt64, lengths: Int, _ files: inout Names
  ) -> Int? {
    var count = 0
    var meter = BudgetMeter()
    while let opcode = cursor.number(1) {
      guard meter.goesOn() else { return nil }
      if opcode >= base {
        count &+= 1
        continue
      }
      switch opcode {
      case 0: guard extended(&cursor, &count, &files) else { return nil }
      case 1: count &+= 1  // DW_LNS_copy
      case 9: guard cursor.skip(2) else { return nil }  // DW_LNS_fixed_advance_pc
      // DW_LNS_advance_pc, advance_line, set_file, set_column, set_isa
      case 2, 3, 4, 5, 12: guard cursor.unsigned() != nil else { return nil }
      // DW_LNS_negate_stmt, set_basic_block, const_add_pc, set_prologue_end, set_epilogue_begin
      case 6, 7, 8, 10, 11: break
      default:
        // Below `base`, so that its length is there.
        let place = lengths &+ Int(truncatingIfNeeded: opcode) &- 1
        for _ in 0..<Int(truncatingIfNeeded: cursor.bytes[place]) {  // bounded: it is one byte
          guard cursor.unsigned() != nil else { return nil }
        }
      }
    }
    return count
  }

  private func extended(_ cursor: inout SectionCursor, _ rows: inout Int, _ files: inout Names) -> Bool {
    guard let length = cursor.number(1), length > 0, let opcode = cursor.number(1) else { return false }
    switch opcode {
    case 1: rows &+= 1  // DW_LNE_end_sequence
    case 2: return cursor.skip(8)  // DW_LNE_set_address
    case 3:  // DW_LNE_define_file
      guard let name = cursor.text(limit: Self.longestName) else { return false }
      files.add(name)
      for _ in 0..<3 where cursor.unsigned() == nil { return false }
    case 4, 0x91: return cursor.unsigned() != nil  // DW_LNE_set_discriminator, NVIDIA_set_function_name
    case 0x90: return cursor.unsigned() != nil && cursor.unsigned() != nil  // DW_LNE_NVIDIA_inlined_call
    default: return cursor.skip(length &- 1)
    }
    return true
  }
}
