// SPDX-License-Identifier: Apache-2.0
// The lists of DWARF that entries refer to by a place in another section: of ranges of addresses, and of locations.
// Format: DWARF 4, 2.6.2 and 2.17.3; DWARF 5, 7.7.3 and 7.25.
//
// libdw 0.188 takes the place that a table of places gives (DW_FORM_rnglistx, loclistx) without a look at the section's
// end, and the length of a location of 2^63 bytes and more for a step backwards, which it makes without end. So the
// lists are read here. Bytes are anybody's: each read is within its section, and each loop asks the question's budget.

import Bounds
import CLibdw

struct AddressLists {
  private struct Sections {
    var ranges, rangeLists, locations, locationLists, addresses: UnsafeRawBufferPointer?
  }

  /// By the file's handle of libdw.
  private var sections: [OpaquePointer: Sections] = [:]

  /// Makes the lists of a file known, which lives as long as this does.
  mutating func add(_ dwarf: OpaquePointer, _ file: ObjectFile) {
    func contents(_ name: String) -> UnsafeRawBufferPointer? { DebugInformation.contents(name, of: file) }
    sections[dwarf] = Sections(
      ranges: contents("ranges"), rangeLists: contents("rnglists"), locations: contents("loc"),
      locationLists: contents("loclists"), addresses: contents("addr"))
  }

  /// The unit that an attribute stands in.
  private struct Unit {
    var entry: Dwarf_Die
    var version: Int
    var offsetSize: Int
    var sections: Sections

    init?(_ attribute: Dwarf_Attribute, _ sections: [OpaquePointer: Sections]) {
      var version: Dwarf_Half = 0
      var offsetSize: UInt8 = 0
      entry = Dwarf_Die()
      // The argument for the other half stays null: libdw would open the .dwo file that the unit names.
      guard let unit = attribute.cu, dwarf_cu_info(unit, &version, nil, &entry, nil, nil, nil, &offsetSize) == 0,
        let dwarf = dwarf_cu_getdwarf(unit), let known = sections[dwarf]
      else { return nil }
      self.version = Int(truncatingIfNeeded: version)
      self.offsetSize = offsetSize == 8 ? 8 : 4
      self.sections = known
    }

    func number(_ name: Int) -> UInt64? { DebugInformation.ownNumber(name, of: entry) }

    /// The address from which the lists count until they say another.
    var base: UInt64 {
      var entry = entry
      var address: Dwarf_Addr = 0
      return dwarf_lowpc(&entry, &address) == 0 ? address : 0
    }

    /// The address with an index, in the unit's part of .debug_addr.
    func address(_ index: UInt64?) -> UInt64? {
      guard let index, let section = sections.addresses else { return nil }
      let start = number(DW_AT_addr_base) ?? number(DW_AT_GNU_addr_base) ?? 0
      guard let place = (Foreign(start) + Foreign(index) * 8).int(upTo: section.count) else { return nil }
      var cursor = SectionCursor(section, at: place)
      return cursor.number(8)
    }

    /// Where the list begins whose number in the table behind `base` is `index`.
    func place(_ index: UInt64, _ base: Int, in section: UnsafeRawBufferPointer) -> UInt64? {
      // Without a base, the table follows the head of the section's first part.
      let start = number(base) ?? (offsetSize == 8 ? 20 : 12)
      let entry = Foreign(start) + Foreign(index) * UInt64(truncatingIfNeeded: offsetSize)
      guard let place = entry.int(upTo: section.count) else { return nil }
      var cursor = SectionCursor(section, at: place)
      guard let offset = cursor.number(offsetSize) else { return nil }
      return (Foreign(start) + offset).value
    }
  }

  // MARK: ranges

  /// Calls `body` with the ranges of addresses of an entry, until it returns false.
  func forEachRange(of entry: Dwarf_Die, _ body: (UInt64, UInt64) -> Bool) {
    var entry = entry
    var low: Dwarf_Addr = 0
    var high: Dwarf_Addr = 0
    if dwarf_highpc(&entry, &high) == 0, dwarf_lowpc(&entry, &low) == 0 {
      _ = body(low, high)
      return
    }
    var attribute = Dwarf_Attribute()
    var number: Dwarf_Word = 0
    guard dwarf_attr(&entry, UInt32(truncatingIfNeeded: DW_AT_ranges), &attribute) != nil,
      dwarf_formudata(&attribute, &number) == 0, let unit = Unit(attribute, sections)
    else { return }
    if unit.version < 5 {
      oldRanges(unit, at: number, body)
    } else if let section = unit.sections.rangeLists {
      let isIndex = dwarf_whatform(&attribute) == UInt32(truncatingIfNeeded: DW_FORM_rnglistx)
      guard let place = isIndex ? unit.place(number, DW_AT_rnglists_base, in: section) : number,
        let start = Foreign(place).int(upTo: section.count)
      else { return }
      newRanges(unit, SectionCursor(section, at: start), body)
    }
  }

  /// Whether an entry's ranges hold `address`.
  func holds(_ entry: Dwarf_Die, _ address: UInt64) -> Bool {
    var isFound = false
    forEachRange(of: entry) { start, end in
      isFound = start <= address && address < end
      return !isFound
    }
    return isFound
  }

  private func oldRanges(_ unit: Unit, at offset: UInt64, _ body: (UInt64, UInt64) -> Bool) {
    guard let section = unit.sections.ranges, let start = Foreign(offset).int(upTo: section.count) else { return }
    var cursor = SectionCursor(section, at: start)
    var base = unit.base
    var meter = BudgetMeter()
    while meter.goesOn(), let low = cursor.number(8), let high = cursor.number(8) {
      if low == 0, high == 0 { return }
      if low == .max {
        base = high
      } else if !body(low &+ base, high &+ base) {
        return
      }
    }
  }

  private func newRanges(_ unit: Unit, _ list: SectionCursor, _ body: (UInt64, UInt64) -> Bool) {
    var cursor = list
    var base = unit.base
    var meter = BudgetMeter()
    while meter.goesOn(), let kind = cursor.number(1), kind != 0 {
      switch Self.range(kind, unit, &cursor, base) {
      case .base(let address): base = address
      case .range(let low, let high): if !body(low, high) { return }
      case nil: return
      }
    }
  }

  private enum Step {
    case base(UInt64)
    case range(UInt64, UInt64)
  }

  /// An entry of a list of ranges of DWARF 5. The lists of locations have the kinds 1 to 4 as well, and from 5 on one
  /// more, before the others.
  private static func range(_ kind: UInt64, _ unit: Unit, _ cursor: inout SectionCursor, _ base: UInt64) -> Step? {
    var low: UInt64?
    var high: UInt64?
    switch kind {
    case 1: return unit.address(cursor.unsigned()).map { .base($0) }  // base_addressx
    case 2: (low, high) = (unit.address(cursor.unsigned()), unit.address(cursor.unsigned()))  // startx_endx
    case 3:  // startx_length
      low = unit.address(cursor.unsigned())
      high = cursor.unsigned().flatMap { length in low.map { $0 &+ length } }
    case 4: (low, high) = (cursor.unsigned().map { $0 &+ base }, cursor.unsigned().map { $0 &+ base })  // offset_pair
    case 5: return cursor.number(8).map { .base($0) }  // base_address
    case 6: (low, high) = (cursor.number(8), cursor.number(8))  // start_end
    case 7:  // start_length
      low = cursor.number(8)
      high = cursor.unsigned().flatMap { length in low.map { $0 &+ length } }
    default: return nil
    }
    guard let low, let high else { return nil }
    return .range(low, high)
  }

  // MARK: locations

  /// Longest location that is taken, in bytes.
  private static let longestLocation = 64

  /// The bytes of the location that attribute `name` of `entry`, or of what it is an instance of, gives for the
  /// instruction at `address`.
  func location(_ name: Int, of entry: Dwarf_Die, at address: UInt64) -> UnsafeRawBufferPointer? {
    var entry = entry
    var attribute = Dwarf_Attribute()
    guard dwarf_attr_integrate(&entry, UInt32(truncatingIfNeeded: name), &attribute) != nil else { return nil }
    var block = Dwarf_Block()
    if dwarf_formblock(&attribute, &block) == 0 {
      guard let size = Foreign(block.length).int(upTo: Self.longestLocation) else { return nil }
      return UnsafeRawBufferPointer(start: block.data, count: size)
    }
    let form = Int(truncatingIfNeeded: dwarf_whatform(&attribute))
    var number: Dwarf_Word = 0
    guard [DW_FORM_sec_offset, DW_FORM_loclistx, DW_FORM_data4, DW_FORM_data8].contains(form),
      dwarf_formudata(&attribute, &number) == 0, let unit = Unit(attribute, sections),
      let section = unit.version < 5 ? unit.sections.locations : unit.sections.locationLists,
      let place = form == DW_FORM_loclistx ? unit.place(number, DW_AT_loclists_base, in: section) : number,
      let start = Foreign(place).int(upTo: section.count)
    else { return nil }
    let cursor = SectionCursor(section, at: start)
    return unit.version < 5 ? oldLocation(unit, cursor, at: address) : newLocation(unit, cursor, at: address)
  }

  private func oldLocation(_ unit: Unit, _ list: SectionCursor, at address: UInt64) -> UnsafeRawBufferPointer? {
    var cursor = list
    var base = unit.base
    var meter = BudgetMeter()
    while meter.goesOn(), let low = cursor.number(8), let high = cursor.number(8) {
      if low == 0, high == 0 { return nil }
      if low == .max {
        base = high
        continue
      }
      guard let size = cursor.number(2), let bytes = Self.block(size, &cursor) else { return nil }
      if low &+ base <= address, address < high &+ base { return bytes.count > Self.longestLocation ? nil : bytes }
    }
    return nil
  }

  private func newLocation(_ unit: Unit, _ list: SectionCursor, at address: UInt64) -> UnsafeRawBufferPointer? {
    var cursor = list
    var base = unit.base
    var meter = BudgetMeter()
    while meter.goesOn(), let kind = cursor.number(1), kind != 0 {
      // 5 is default_location, which holds where no other does.
      let step = kind == 5 ? .range(0, .max) : Self.range(kind < 5 ? kind : kind &- 1, unit, &cursor, base)
      switch step {
      case .base(let address): base = address
      case .range(let low, let high):
        guard let size = cursor.unsigned(), let bytes = Self.block(size, &cursor) else { return nil }
        if low <= address, address < high { return bytes.count > Self.longestLocation ? nil : bytes }
      case nil: return nil
      }
    }
    return nil
  }

  private static func block(_ size: UInt64, _ cursor: inout SectionCursor) -> UnsafeRawBufferPointer? {
    let start = cursor.offset
    guard cursor.skip(size) else { return nil }
    // bounded: the cursor only moves on
    return UnsafeRawBufferPointer(rebasing: cursor.bytes[start...].prefix(cursor.offset &- start))
  }
}
