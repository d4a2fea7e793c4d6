// SPDX-License-Identifier: Apache-2.0
// Split DWARF: units of which the program has only a skeleton, and a .dwo file, or a package (.dwp) of many, the rest.
//
// libdw 0.188 finds a .dwo file by opening whatever path the program names, without a bound, and knows no packages. So
// the other halves are found by us, and made into units that are whole: an image in memory with the sections under
// their ordinary names, in which a unit's first entry has got what its skeleton and the package's index say:
//
// - the abbreviation of that entry is written anew, with the bases of the sections as constants that take no bytes;
// - DWARF 5: a split unit's header is 8 bytes longer than an ordinary one's, by the id; the entry moves up, and the
//   unit's base address, which the skeleton has, comes behind its code: no other offset in the unit changes;
// - DWARF 4: the base address takes the place of the id, which is an attribute there, and offsets of ranges, which
//   count from a base in the skeleton, are written anew.
//
// Proof that a half belongs to a skeleton: the id of 8 bytes, a hash of the unit that the compiler wrote into both. The
// files are anybody's; all reads are checked (DWARFBytes), and what is added is bounded. libdw sees of the image what
// it would see of a program's own sections (DWARFCheck).

import Bounds
import ByteText
import CLibdw

/// The part of a split unit that the program has.
struct Skeleton: Hashable {
  var id: UInt64
  /// Where the unit's part of .debug_addr begins, and of .debug_ranges (DWARF 4).
  var addresses: UInt64
  var ranges: UInt64
  /// The address to which ranges and locations are relative.
  var baseAddress: UInt64
  /// Of the .dwo file, and the directory that it was compiled in.
  var name: ForeignText
  var directory: ForeignText?

  /// Where the compiler put the .dwo file: absolute, if it says where it worked.
  var path: ForeignText {
    guard let directory, !name.isAbsolutePath else { return name }
    return "\(directory)/\(name)"
  }

  /// Bytes of memory, about.
  var cost: Int { 96 &+ name.byteCount &+ (directory?.byteCount ?? 0) }

  /// Nil for a unit that isn't split.
  init?(_ entry: Dwarf_Die) {
    var entry = entry
    var version: Dwarf_Half = 0
    var type: UInt8 = 0
    var id: UInt64 = 0
    // The argument that stays null would make libdw open the file. From version 5 on a unit's head says whether it is
    // split.
    guard dwarf_cu_info(entry.cu, &version, &type, nil, nil, &id, nil, nil) == 0,
      version < 5 || Int(truncatingIfNeeded: type) != DW_UT_compile,
      let name = DebugInformation.ownPath(DW_AT_dwo_name, of: entry)
        ?? DebugInformation.ownPath(DW_AT_GNU_dwo_name, of: entry)
    else { return nil }
    if version < 5 {
      guard let found = DebugInformation.ownNumber(DW_AT_GNU_dwo_id, of: entry) else { return nil }
      id = found
    }
    self.id = id
    self.name = name
    directory = DebugInformation.ownPath(DW_AT_comp_dir, of: entry)
    addresses =
      DebugInformation.ownNumber(DW_AT_addr_base, of: entry) ?? DebugInformation.ownNumber(
        DW_AT_GNU_addr_base, of: entry)
      ?? 0
    ranges = DebugInformation.ownNumber(DW_AT_GNU_ranges_base, of: entry) ?? 0
    var address: Dwarf_Addr = 0
    baseAddress = dwarf_lowpc(&entry, &address) == 0 ? address : 0
  }
}

/// The halves in one .dwo or .dwp file, made whole.
final class SplitFile {
  private let object: ObjectFile
  private let dwarf: OpaquePointer
  /// Offsets of the units' first entries in the image, by their ids.
  private let roots: [UInt64: UInt64]
  /// Bytes of memory.
  var cost: Int { object.size }

  /// `skeletons`: those of the program, by their ids. Nil if the file has a half for none of them, or can't be read.
  ///
  /// - `addresses`, `ranges`: the program's .debug_addr and .debug_ranges, as far as the skeletons' bases lie in them.
  init?(
    _ file: ObjectFile, skeletons: [UInt64: Skeleton], addresses: UnsafeRawBufferPointer?,
    ranges: UnsafeRawBufferPointer?
  ) {
    var units = WholeUnits(
      info: file.allContents(ofSplit: "info"), types: file.allContents(ofSplit: "types"),
      abbreviations: file.allContents(ofSplit: "abbrev"), skeletons: skeletons)
    for (section, keyPath) in [
      ("str_offsets", \WholeUnits.stringOffsets), ("loclists", \WholeUnits.locations), ("rnglists", \WholeUnits.ranges),
    ] {
      units[keyPath: keyPath] = file.contents(ofSplit: section)
    }
    if let index = file.section(named: ".debug_cu_index").flatMap({ file.contents(of: $0) }) {
      let types = file.section(named: ".debug_tu_index").flatMap { file.contents(of: $0) }
      units.makeWhole(units: PackageIndex(index), types: types.flatMap { PackageIndex($0) })
    } else {
      units.makeWhole()
    }
    roots = units.roots
    guard !roots.isEmpty else { return nil }

    var image = ELFImage(machine: file.machine)
    image.append(".debug_info", units.info)
    if !units.types.isEmpty { image.append(".debug_types", units.types) }
    image.append(".debug_abbrev", units.abbreviations)
    // Not .debug_line.dwo: it names files of types only. Not .debug_loc.dwo, whose form libdw knows of split units
    // only.
    for name in ["str", "str_offsets", "loclists", "rnglists"] {
      if let bytes = file.contents(ofSplit: name) { image.append(".debug_\(name)", bytes) }
    }
    if let addresses { image.append(".debug_addr", addresses) }
    if let ranges { image.append(".debug_ranges", ranges) }
    guard !Budget.hasEnded, let object = ObjectFile(image: image.build(), path: file.path, kind: .split) else {
      return nil
    }
    for section in object.sections where section.name == ".debug_str" { object.terminate(section) }
    var problem: String?
    DebugInformation.cutUnsound(object, &problem)
    guard !Budget.hasEnded, let dwarf = dwarf_begin_elf(object.elf, DWARF_C_READ, nil) else { return nil }
    self.object = object
    self.dwarf = dwarf
  }

  deinit { dwarf_end(dwarf) }

  /// Makes its lists of ranges and locations known.
  func add(to lists: inout AddressLists) { lists.add(dwarf, object) }

  /// The first entry of the unit with an id.
  func root(_ id: UInt64) -> Dwarf_Die? {
    var entry = Dwarf_Die()
    guard let offset = roots[id], dwarf_offdie(dwarf, offset, &entry) != nil else { return nil }
    return entry
  }
}

/// The sections that change while units are made whole.
private struct WholeUnits {
  var info: [UInt8]
  var types: [UInt8]
  var abbreviations: [UInt8]
  let skeletons: [UInt64: Skeleton]
  var stringOffsets: UnsafeRawBufferPointer?
  var locations: UnsafeRawBufferPointer?
  var ranges: UnsafeRawBufferPointer?
  private(set) var roots: [UInt64: UInt64] = [:]

  private let originalAbbreviations: Int
  /// A table for each unit, and one for the types of each file that went into a package: more than this is a lie.
  private let abbreviationLimit: Int
  private struct TableKey: Hashable {
    var table: UInt64
    var code: UInt64
    var strings: UInt64
  }
  private var tables: [TableKey: Int] = [:]

  init(info: [UInt8], types: [UInt8], abbreviations: [UInt8], skeletons: [UInt64: Skeleton]) {
    self.info = info
    self.types = types
    self.abbreviations = abbreviations
    self.skeletons = skeletons
    originalAbbreviations = abbreviations.count
    abbreviationLimit = min(abbreviations.count &* 8 &+ (1 << 16), Int(clamping: UInt32.max))
  }

  /// Where a unit's part of each section begins.
  struct Bases {
    var abbreviations: UInt64 = 0
    var strings: UInt64 = 0
    var locations: UInt64 = 0
    var ranges: UInt64 = 0
  }

  /// All units of a .dwo file.
  mutating func makeWhole() {
    var offset = 0
    var meter = BudgetMeter(interval: 16)
    while offset < info.count, meter.goesOn(), let header = try? UnitHeader(info, at: offset) {
      if header.type == DW_UT_split_type, let place = header.typeOffset {
        info[place] = UInt8(truncatingIfNeeded: DW_UT_type)
      } else if header.version < 5 || header.type == DW_UT_split_compile && header.id.flatMap({ skeletons[$0] }) != nil
      {
        try? makeWhole(header, Bases(), id: header.id)
      }
      offset = header.end
    }
  }

  /// All units that the indices of a package name.
  mutating func makeWhole(units: PackageIndex?, types: PackageIndex?) {
    guard let units else { return }
    var meter = BudgetMeter(interval: 1)
    for (id, row) in units.rows where skeletons[id] != nil {
      guard meter.goesOn() else { return }
      guard let place = units.offset(of: .info, row), let header = try? UnitHeader(info, at: place) else { continue }
      try? makeWhole(header, bases(units, row), id: id)
    }
    guard let types else { return }
    for (id, row) in types.rows {
      guard meter.goesOn() else { return }
      let isOwn = types.column(.types) != nil
      guard let place = types.offset(of: isOwn ? .types : .info, row),
        let header = try? UnitHeader(isOwn ? self.types : info, at: place, isTypes: isOwn), header.id == id
      else { continue }
      try? makeTypeWhole(header, bases(types, row), isOwn)
    }
  }

  private func bases(_ index: PackageIndex, _ row: Int) -> Bases {
    func base(_ column: PackageIndex.Column) -> UInt64 { UInt64(clamping: index.offset(of: column, row) ?? 0) }
    return Bases(
      abbreviations: base(.abbreviations), strings: base(.strings), locations: base(.locations), ranges: base(.ranges))
  }

  private func root(
    _ header: UnitHeader, _ table: UInt64, in bytes: [UInt8]
  ) throws(MalformedDWARF) -> (entries: [Abbreviation], end: Int, root: Abbreviation, attributes: Int) {
    guard let table = Int(exactly: table), table < originalAbbreviations, header.addressSize == 8 else {
      throw MalformedDWARF()
    }
    let (entries, end) = try Abbreviation.table(abbreviations, at: table)
    var cursor = DWARFCursor(bytes: bytes, offset: header.root)
    let code = try cursor.unsigned()
    guard let root = entries.first(where: { $0.code == code }) else { throw MalformedDWARF() }
    return (entries, end, root, cursor.offset)
  }

  /// Adds a copy of a table with another abbreviation for the first entry. Returns where it begins.
  private mutating func append(
    _ entries: [Abbreviation], _ old: Abbreviation, _ new: Abbreviation, end: Int
  ) throws(MalformedDWARF) -> Int {
    let start = abbreviations.count
    guard let first = entries.first, abbreviations.count &+ (end &- first.range.lowerBound) < abbreviationLimit else {
      throw MalformedDWARF()
    }
    // bounded: `old` is one of the entries, which stand in their order, and `end` is behind the last of them
    let others =
      Array(abbreviations[first.range.lowerBound..<old.range.lowerBound])
      + Array(abbreviations[old.range.upperBound..<end])
    abbreviations.append(contentsOf: new.bytes)
    abbreviations.append(contentsOf: others)
    if abbreviations.last != 0 { abbreviations.append(0) }
    return start
  }

  private static func constant(_ name: Int, _ value: UInt64) throws(MalformedDWARF) -> Abbreviation.Attribute {
    guard value < 1 << 62 else { throw MalformedDWARF() }
    var bytes: [UInt8] = []
    bytes.append(positive: value)
    return Abbreviation.Attribute(
      name: UInt64(truncatingIfNeeded: name), form: UInt64(truncatingIfNeeded: DW_FORM_implicit_const), constant: bytes)
  }

  /// The first offset behind the head of a unit's part of a section; nil if there is no section.
  private static func behindHead(_ section: UnsafeRawBufferPointer?, _ base: UInt64, size: Int) -> UInt64? {
    guard let section, let end = (Foreign(base) + UInt64(clamping: size)).int(upTo: section.count) else { return nil }
    let isLong = section[(end &- size)...].prefix(4).allSatisfy { $0 == 0xFF }
    return UInt64(clamping: end &+ (isLong ? 8 : 0))
  }

  private static let replaced = Set(
    [
      DW_AT_GNU_dwo_id, DW_AT_addr_base, DW_AT_GNU_addr_base, DW_AT_str_offsets_base, DW_AT_rnglists_base,
      DW_AT_loclists_base, DW_AT_GNU_ranges_base, DW_AT_dwo_name, DW_AT_GNU_dwo_name,
    ].map { UInt64(truncatingIfNeeded: $0) })

  private mutating func makeWhole(
    _ header: UnitHeader, _ bases: Bases, id known: UInt64?
  ) throws(MalformedDWARF) {
    let (sum, overflow) = header.abbreviations.addingReportingOverflow(bases.abbreviations)
    guard !overflow else { throw MalformedDWARF() }
    let (entries, end, old, attributes) = try root(header, sum, in: info)
    guard old.tag == UInt64(truncatingIfNeeded: DW_TAG_compile_unit) else { throw MalformedDWARF() }
    // In DWARF 4 the id is an attribute, and its bytes are the room for the address.
    var id = known
    var room: Int?
    if header.version < 5 {
      var cursor = DWARFCursor(bytes: info, offset: attributes)
      for attribute in old.attributes {
        if attribute.name == UInt64(truncatingIfNeeded: DW_AT_GNU_dwo_id),
          attribute.form == UInt64(truncatingIfNeeded: DW_FORM_data8)
        {
          room = cursor.offset
          let own = try cursor.number(8)
          guard known == nil || known == own else { throw MalformedDWARF() }
          id = own
        } else {
          try cursor.skip(form: attribute.form, header)
        }
      }
      guard let room, room &+ 8 <= header.end else { throw MalformedDWARF() }
    } else {
      guard header.type == DW_UT_split_compile, header.id == known else { throw MalformedDWARF() }
    }
    guard let id, let skeleton = skeletons[id], roots[id] == nil else { return }

    var new = old
    let address = Abbreviation.Attribute(
      name: UInt64(truncatingIfNeeded: DW_AT_low_pc), form: UInt64(truncatingIfNeeded: DW_FORM_addr))
    if header.version < 5 {
      new.attributes = old.attributes.compactMap { attribute in
        attribute.name == UInt64(truncatingIfNeeded: DW_AT_GNU_dwo_id) ? address : Self.renamed(attribute)
      }
      new.attributes.append(try Self.constant(DW_AT_GNU_addr_base, skeleton.addresses))
      new.attributes.append(try Self.constant(DW_AT_str_offsets_base, bases.strings))
    } else {
      new.attributes = [address] + old.attributes.map { Self.renamed($0) }
      new.attributes.append(try Self.constant(DW_AT_addr_base, skeleton.addresses))
      if let base = Self.behindHead(stringOffsets, bases.strings, size: 8) {
        new.attributes.append(try Self.constant(DW_AT_str_offsets_base, base))
      }
      if let base = Self.behindHead(locations, bases.locations, size: 12) {
        new.attributes.append(try Self.constant(DW_AT_loclists_base, base))
      }
      if let base = Self.behindHead(ranges, bases.ranges, size: 12) {
        new.attributes.append(try Self.constant(DW_AT_rnglists_base, base))
      }
    }
    if header.version < 5, skeleton.ranges != 0 {
      for (offset, value) in try ranges(header, entries) {
        info.overwrite(value &+ skeleton.ranges, size: header.offsetSize, at: offset)
      }
    }
    let table = try append(entries, old, new, end: end)
    info.overwrite(UInt64(clamping: table), size: header.offsetSize, at: header.abbreviationsOffset)
    var root = header.root
    if let room {
      info.overwrite(skeleton.baseAddress, size: 8, at: room)
    } else if let place = header.typeOffset {
      // The id goes; the entry's code moves to its place, and the address behind that.
      info[place] = UInt8(truncatingIfNeeded: DW_UT_compile)
      let codeSize = attributes &- header.root
      root = header.root &- 8
      for place in stride(from: header.root, to: attributes, by: 1) { info[place &- 8] = info[place] }
      info.overwrite(skeleton.baseAddress, size: 8, at: root &+ codeSize)
    }
    roots[id] = UInt64(clamping: root)
  }

  /// Attributes that our own replace keep their bytes, under a name that nobody asks for.
  private static func renamed(_ attribute: Abbreviation.Attribute) -> Abbreviation.Attribute {
    var attribute = attribute
    if replaced.contains(attribute.name) { attribute.name = UInt64(truncatingIfNeeded: DW_AT_hi_user) }
    return attribute
  }

  /// Where the unit's entries have offsets of ranges, and which (DWARF 4).
  private func ranges(
    _ header: UnitHeader, _ entries: [Abbreviation]
  ) throws(MalformedDWARF) -> [(offset: Int, value: UInt64)] {
    let kinds = Dictionary(entries.map { ($0.code, $0) }) { first, _ in first }
    var cursor = DWARFCursor(bytes: info, offset: header.root)
    var found: [(offset: Int, value: UInt64)] = []
    var meter = BudgetMeter()
    while cursor.offset < header.end {
      guard meter.goesOn() else { throw MalformedDWARF() }
      let code = try cursor.unsigned()
      if code == 0 { continue }
      guard let kind = kinds[code] else { throw MalformedDWARF() }
      for attribute in kind.attributes {
        if attribute.name == UInt64(truncatingIfNeeded: DW_AT_ranges),
          attribute.form == UInt64(truncatingIfNeeded: DW_FORM_sec_offset)
        {
          let offset = cursor.offset
          found.append((offset, try cursor.number(header.offsetSize)))
        } else {
          try cursor.skip(form: attribute.form, header)
        }
      }
    }
    return found
  }

  private func code(_ header: UnitHeader, _ isOwn: Bool) throws(MalformedDWARF) -> UInt64 {
    var cursor = DWARFCursor(bytes: isOwn ? types : info, offset: header.root)
    return try cursor.unsigned()
  }

  private mutating func makeTypeWhole(
    _ header: UnitHeader, _ bases: Bases, _ isOwn: Bool
  ) throws(MalformedDWARF) {
    guard isOwn || header.type == DW_UT_split_type || header.type == DW_UT_type else { throw MalformedDWARF() }
    let (sum, overflow) = header.abbreviations.addingReportingOverflow(bases.abbreviations)
    guard !overflow else { throw MalformedDWARF() }
    let key = TableKey(table: sum, code: try code(header, isOwn), strings: bases.strings)
    let table: Int
    if let known = tables[key] {
      table = known
    } else {
      let (entries, end, old, _) = try root(header, sum, in: isOwn ? types : info)
      var new = old
      new.attributes = old.attributes.map { Self.renamed($0) }
      let base = header.version < 5 ? bases.strings : Self.behindHead(stringOffsets, bases.strings, size: 8)
      if let base { new.attributes.append(try Self.constant(DW_AT_str_offsets_base, base)) }
      table = try append(entries, old, new, end: end)
      tables[key] = table
    }
    if isOwn {
      types.overwrite(UInt64(clamping: table), size: header.offsetSize, at: header.abbreviationsOffset)
    } else if let place = header.typeOffset {
      info[place] = UInt8(truncatingIfNeeded: DW_UT_type)
      info.overwrite(UInt64(clamping: table), size: header.offsetSize, at: header.abbreviationsOffset)
    }
  }
}

/// The index of a package: which part of each section belongs to which unit. Version 2 is GNU's, 5 that of DWARF 5.
private struct PackageIndex {
  enum Column { case info, types, abbreviations, strings, locations, ranges }

  /// Ids of the units, and their rows.
  private(set) var rows: [(id: UInt64, row: Int)] = []
  private let bytes: [UInt8]
  private var columns: [UInt32: Int] = [:]
  private let offsets: Int
  private let width: Int
  private let version: UInt64

  init?(_ section: UnsafeRawBufferPointer) {
    bytes = Array(section)
    var cursor = DWARFCursor(bytes: bytes, offset: 0)
    guard let word = try? cursor.number(4), let columnCount = try? cursor.number(4), let used = try? cursor.number(4),
      let slots = try? cursor.number(4), columnCount <= 16
    else { return nil }
    // In DWARF 5 two of these bytes are padding.
    version = word & 0xFFFF
    guard version == 2 || version == 5 else { return nil }
    // All numbers have 32 bits, and there are 16 columns at most: no sum comes near the end of an Int.
    let (ids, slotCount) = (cursor.offset, Int(clamping: slots))
    let numbers = ids &+ slotCount &* 8
    width = Int(clamping: columnCount)
    offsets = numbers &+ slotCount &* 4 &+ width &* 4
    guard used <= slots, offsets &+ Int(clamping: used) &* width &* 4 <= bytes.count else { return nil }
    var meter = BudgetMeter()
    for slot in stride(from: 0, to: slotCount, by: 1) {
      guard meter.goesOn() else { return nil }
      cursor.offset = numbers &+ slot &* 4
      guard let row = try? cursor.number(4), row > 0, row <= used else { continue }
      cursor.offset = ids &+ slot &* 8
      guard let id = try? cursor.number(8) else { continue }
      rows.append((id, Int(clamping: row &- 1)))
    }
    cursor.offset = numbers &+ slotCount &* 4
    for index in stride(from: 0, to: width, by: 1) {
      guard let column = try? cursor.number(4) else { return nil }
      columns[UInt32(truncatingIfNeeded: column)] = index
    }
  }

  func column(_ column: Column) -> Int? {
    switch column {
    case .info: columns[1]
    case .types: version == 2 ? columns[2] : nil
    case .abbreviations: columns[3]
    case .locations: columns[5]
    case .strings: columns[6]
    case .ranges: version == 5 ? columns[8] : nil
    }
  }

  func offset(of column: Column, _ row: Int) -> Int? {
    guard let column = self.column(column) else { return nil }
    var cursor = DWARFCursor(bytes: bytes, offset: offsets &+ (row &* width &+ column) &* 4)
    return (try? cursor.number(4)).map { Int(clamping: $0) }
  }
}
