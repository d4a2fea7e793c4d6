// CallFrameInformation: what .eh_frame says about one program counter, as a rule.
//
// Reads the sections of modules that are loaded, found through their .eh_frame_hdr with its sorted table, or, where a
// module has none, through one that was made of its .eh_frame (FrameTables.swift). Follows the DWARF 4 standard,
// section 6.4, and the Linux Standard Base's "Exception Frames". Keeps track of three columns: the canonical frame
// address, the frame pointer, the return address. Whatever else a function may use ends the stack.
//
// Every read is checked against the end of the segment it is in, and every loop is bounded: a damaged table must not
// crash the host. A module may have room between its segments, where nothing can be read; a table is in another one
// than the code.

import AgentMachine
import SharedLayout

enum CallFrameInformation {
  /// The rule for the call that returns to `pc`, or, if `isExact`, for the instruction at `pc` that a signal
  /// interrupted.
  static func rule(for pc: UInt64, isExact: Bool) -> FrameRule {
    let address = isExact ? pc : pc &- 1
    var start: UInt64 = 0
    var end: UInt64 = 0
    var table: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_frame_table(address, &start, &end, &map, &table), let map else { return .withoutInformation }
    var segment = Segment(start: start, end: end)
    switch find(address, table, map, &segment) {
    case .entry(let place):
      guard segment.moved(to: place, of: map) else { return .unsupported }
      guard let entry = FrameEntry(covering: address, at: place, start: segment.start, end: segment.end) else {
        return withoutEntry(address)
      }
      return entry.rule(at: address)
    case .nothing: return withoutEntry(address)
    case .unreadable: return .unsupported
    }
  }

  private static func withoutEntry(_ address: UInt64) -> FrameRule {
    allocs_is_entry(address) ? .outermost : .withoutInformation
  }

  /// What can be read around an address.
  struct Segment {
    var start: UInt64
    var end: UInt64

    /// Makes it the one around `address`; false if that is not one of the module's.
    mutating func moved(to address: UInt64, of map: UnsafeMutablePointer<link_map>) -> Bool {
      address >= start && address < end || allocs_find_segment(address, map, &start, &end)
    }
  }

  enum Found {
    /// The entry that begins last before the address: there.
    case entry(UInt64)
    /// The module has none for it.
    case nothing
    /// The module has some, which are not understood.
    case unreadable
  }

  private static func find(
    _ address: UInt64, _ table: UInt64, _ map: UnsafeMutablePointer<link_map>, _ segment: inout Segment
  ) -> Found {
    if table != 0 {
      guard segment.moved(to: table, of: map) else { return .unreadable }
      switch FrameEntry.find(address, table, segment.end) {
      case .unreadable: break
      case let found: return found
      }
    }
    return FrameTables.find(address, map)
  }

  /// Whether the module's own table is of the form that linkers write.
  static func isSearchable(_ table: UInt64, _ map: UnsafeMutablePointer<link_map>, _ segment: Segment) -> Bool {
    var segment = segment
    guard table != 0, segment.moved(to: table, of: map) else { return false }
    if case .unreadable = FrameEntry.find(0, table, segment.end) { return false }
    return true
  }

  // MARK: for FrameTables

  /// What follows the entry at `place` of a section that ends with its segment; nil if there is none.
  static func next(after place: UInt64, end: UInt64) -> UInt64? {
    var cursor = Cursor(place, end: end)
    return FrameEntry.length(&cursor)
  }
  /// Whether a common entry of the form that compilers write is at `place`.
  static func isCommon(_ place: UInt64, end: UInt64) -> Bool {
    FrameEntry(commonAt: place, end: end)?.isOrdinary ?? false
  }
  /// The code that the entry at `place` is for; nil if it is not one.
  static func code(ofEntry place: UInt64, start: UInt64, end: UInt64) -> (start: UInt64, size: UInt64)? {
    FrameEntry(at: place, start: start, end: end)?.code
  }
}

// MARK: reading

/// A place in a module's frame sections. Reads beyond the end give zeros and mark it as broken.
private struct Cursor {
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

  mutating func unsigned() -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while true {
      let byte = byte()
      if shift < 64 { value |= UInt64(byte & 0x7F) << shift }
      shift += 7
      if byte & 0x80 == 0 { return value }
    }
  }
  mutating func signed() -> Int64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while true {
      let byte = byte()
      if shift < 64 { value |= UInt64(byte & 0x7F) << shift }
      shift += 7
      if byte & 0x80 == 0 {
        if byte & 0x40 != 0 && shift < 64 { value |= ~0 << shift }
        return Int64(bitPattern: value)
      }
    }
  }

  /// A pointer in one of the encodings of DW_EH_PE; nil for one that needs what is not known here.
  mutating func pointer(_ encoding: UInt8, dataBase: UInt64) -> UInt64? {
    let place = address
    var value: UInt64
    switch encoding & 0x0F {
    case 0x00, 0x04, 0x0C: value = read(UInt64.self, 0)
    case 0x01: value = unsigned()
    case 0x02: value = UInt64(read(UInt16.self, 0))
    case 0x03: value = UInt64(read(UInt32.self, 0))
    case 0x09: value = UInt64(bitPattern: signed())
    case 0x0A: value = UInt64(bitPattern: Int64(Int16(bitPattern: read(UInt16.self, 0))))
    case 0x0B: value = UInt64(bitPattern: Int64(Int32(bitPattern: read(UInt32.self, 0))))
    default: return nil
    }
    switch encoding & 0x70 {
    case 0x00: break
    case 0x10: value = value &+ place
    case 0x30: value = value &+ dataBase
    default: return nil
    }
    return isBroken ? nil : value
  }
}

// MARK: an entry

/// A frame description entry and the common entry it belongs to.
private struct FrameEntry {
  private var start: UInt64 = 0
  private var instructions: Cursor
  private var commonInstructions: Cursor
  private var codeAlignment: UInt64 = 1
  private var dataAlignment: Int64 = 1
  private var returnColumn: UInt64 = 0
  private var pointerEncoding: UInt8 = 0
  private var isSignalFrame = false
  private let moduleEnd: UInt64

  init?(covering address: UInt64, at entry: UInt64, start moduleStart: UInt64, end: UInt64) {
    self.init(at: entry, start: moduleStart, end: end)
    guard address >= start, address - start < size else { return nil }
  }

  init?(at entry: UInt64, start moduleStart: UInt64, end: UInt64) {
    moduleEnd = end
    instructions = Cursor(end, end: end)
    commonInstructions = instructions
    guard entry >= moduleStart, entry < end, read(entry: entry, moduleStart) else { return nil }
  }

  init?(commonAt place: UInt64, end: UInt64) {
    moduleEnd = end
    instructions = Cursor(end, end: end)
    commonInstructions = instructions
    guard read(common: place) != nil else { return nil }
  }

  private var size: UInt64 = 0
  var code: (start: UInt64, size: UInt64) { (start, size) }
  /// Whether a common entry is one as compilers write it for this machine.
  var isOrdinary: Bool {
    returnColumn == Machine.returnAddressColumn && dataAlignment == -8 && (codeAlignment == 1 || codeAlignment == 4)
      && pointerEncoding & 0x60 == 0 && commonInstructions.address < commonInstructions.end
  }

  /// By the binary search table of .eh_frame_hdr, in the one form that linkers write.
  static func find(_ address: UInt64, _ table: UInt64, _ end: UInt64) -> CallFrameInformation.Found {
    var cursor = Cursor(table, end: end)
    let version = cursor.byte()
    let frameEncoding = cursor.byte()
    let countEncoding = cursor.byte()
    let tableEncoding = cursor.byte()
    let sortedOffsets: UInt8 = 0x3B  // relative to the table, signed, 4 bytes
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

  private mutating func read(entry: UInt64, _ moduleStart: UInt64) -> Bool {
    var cursor = Cursor(entry, end: moduleEnd)
    guard let bodyEnd = Self.length(&cursor) else { return false }
    let back = UInt64(cursor.read(UInt32.self, 0))
    guard back != 0 else { return false }
    let common = cursor.address - 4 - back
    guard common >= moduleStart, common < entry, let hasAugmentation = read(common: common) else { return false }
    guard let start = cursor.pointer(pointerEncoding, dataBase: 0),
      let size = cursor.pointer(pointerEncoding & 0x0F, dataBase: 0)
    else { return false }
    self.start = start
    self.size = size
    if hasAugmentation {
      let count = cursor.unsigned()
      guard count <= bodyEnd - min(cursor.address, bodyEnd) else { return false }
      cursor.address += count
    }
    instructions = Cursor(cursor.address, end: bodyEnd)
    return !cursor.isBroken
  }

  /// Whether entries have augmentation data; nil if the common entry is of an unknown kind.
  private mutating func read(common: UInt64) -> Bool? {
    var cursor = Cursor(common, end: moduleEnd)
    guard let bodyEnd = Self.length(&cursor), cursor.read(UInt32.self, 1) == 0 else { return nil }
    let version = cursor.byte()
    guard version == 1 || version == 3 else { return nil }
    let augmentation = cursor.address
    while cursor.byte() != 0 {}
    guard !cursor.isBroken else { return nil }
    codeAlignment = cursor.unsigned()
    dataAlignment = cursor.signed()
    returnColumn = version == 1 ? UInt64(cursor.byte()) : cursor.unsigned()
    var letters = Cursor(augmentation, end: moduleEnd)
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
          _ = cursor.pointer(encoding & 0x7F, dataBase: 0)
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
    commonInstructions = Cursor(cursor.address, end: bodyEnd)
    return cursor.isBroken ? nil : hasData
  }

  /// The end of the record whose length is next; 0 ends the section.
  static func length(_ cursor: inout Cursor) -> UInt64? {
    let short = cursor.read(UInt32.self, 0)
    let length = short == UInt32.max ? cursor.read(UInt64.self, 0) : UInt64(short)
    guard !cursor.isBroken, length != 0, length <= cursor.end - cursor.address else { return nil }
    return cursor.address + length
  }
}

// MARK: the instructions

/// A row of the table that the instructions describe. In 16 bytes: rows are worked on where little stack may be left.
private struct Row {
  enum Saved: UInt8 {
    case same
    case offset  // from the canonical frame address
    case atFramePointer  // DW_OP_breg of the frame pointer, 0: where a realigned frame keeps it
    case undefined
    case unsupported
  }
  enum Base: UInt8 {
    case stackPointer
    case framePointer
    case memoryAtFramePointer  // DW_OP_breg of the frame pointer, offset, DW_OP_deref: a realigned frame
    case procedureLinkage  // the expression of PLT stubs
    case unsupported
  }
  private(set) var base = Base.unsupported
  private(set) var framePointer = Saved.same
  private(set) var returnAddress = Saved.same
  private var baseOffset: Int32 = 0
  private var framePointerOffset: Int32 = 0
  private var returnAddressOffset: Int32 = 0

  var offset: Int64 { Int64(baseOffset) }
  /// From the canonical frame address; nil if it is not saved there.
  var framePointerPlace: Int64? { framePointer == .offset ? Int64(framePointerOffset) : nil }
  var returnAddressPlace: Int64? { returnAddress == .offset ? Int64(returnAddressOffset) : nil }

  /// Offsets of more than 2 GiB are no frame's.
  mutating func setBase(register: UInt64) {
    base =
      register == Machine.stackPointerColumn
      ? .stackPointer : register == Machine.framePointerColumn ? .framePointer : .unsupported
  }
  mutating func setBase(_ new: Base) { base = new }
  mutating func setOffset(_ new: Int64) {
    if let offset = Int32(exactly: new) { baseOffset = offset } else { base = .unsupported }
  }
  mutating func set(_ column: UInt64, _ saved: Saved) {
    if column == Machine.framePointerColumn { framePointer = saved }
    if column == Machine.returnAddressColumn { returnAddress = saved }
  }
  mutating func set(_ column: UInt64, at offset: Int64) {
    guard let place = Int32(exactly: offset) else { return set(column, .unsupported) }
    set(column, .offset)
    if column == Machine.framePointerColumn { framePointerOffset = place }
    if column == Machine.returnAddressColumn { returnAddressOffset = place }
  }
  mutating func restore(_ column: UInt64, _ initial: Row) {
    if column == Machine.framePointerColumn {
      framePointer = initial.framePointer
      framePointerOffset = initial.framePointerOffset
    }
    if column == Machine.returnAddressColumn {
      returnAddress = initial.returnAddress
      returnAddressOffset = initial.returnAddressOffset
    }
  }
}

extension FrameEntry {
  func rule(at address: UInt64) -> FrameRule {
    if isSignalFrame { return .signalFrame }
    guard returnColumn == Machine.returnAddressColumn else { return .unsupported }
    var row = Row()
    var location = start
    var common = commonInstructions
    guard run(&common, &row, initial: Row(), &location, until: .max) else { return .unsupported }
    let initial = row
    var own = instructions
    guard run(&own, &row, initial: initial, &location, until: address) else { return .unsupported }
    return FrameRule(row, address: address)
  }

  /// False if an instruction is not known.
  private func run(
    _ cursor: inout Cursor, _ row: inout Row, initial: Row, _ location: inout UInt64, until address: UInt64
  ) -> Bool {
    // Functions remember one row, rarely two.
    var remembered = InlineArray<8, Row>(repeating: Row())
    var depth = 0
    func advance(_ delta: UInt64, _ location: inout UInt64) -> Bool {
      let next = location &+ delta &* codeAlignment
      if next > address { return false }
      location = next
      return true
    }
    while cursor.address < cursor.end, !cursor.isBroken {
      let operation = cursor.byte()
      let operand = UInt64(operation & 0x3F)
      switch operation & 0xC0 {
      case 0x40:
        if !advance(operand, &location) { return true }
        continue
      case 0x80:
        row.set(operand, at: Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
        continue
      case 0xC0:
        row.restore(operand, initial)
        continue
      default: break
      }
      switch operation {
      case 0x00: break
      case 0x01:
        guard let next = cursor.pointer(pointerEncoding, dataBase: 0) else { return false }
        if next > address { return true }
        location = next
      case 0x02: if !advance(UInt64(cursor.byte()), &location) { return true }
      case 0x03: if !advance(UInt64(cursor.read(UInt16.self, 0)), &location) { return true }
      case 0x04: if !advance(UInt64(cursor.read(UInt32.self, 0)), &location) { return true }
      case 0x05:
        let column = cursor.unsigned()
        row.set(column, at: Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
      case 0x06: row.restore(cursor.unsigned(), initial)
      case 0x07: row.set(cursor.unsigned(), .undefined)
      case 0x08: row.set(cursor.unsigned(), .same)
      case 0x09:
        row.set(cursor.unsigned(), .unsupported)
        _ = cursor.unsigned()
      case 0x0A:
        guard depth < 8 else { return false }
        remembered[depth] = row
        depth += 1
      case 0x0B:
        guard depth > 0 else { return false }
        depth -= 1
        row = remembered[depth]
      case 0x0C:
        row.setBase(register: cursor.unsigned())
        row.setOffset(Int64(bitPattern: cursor.unsigned()))
      case 0x0D: row.setBase(register: cursor.unsigned())
      case 0x0E: row.setOffset(Int64(bitPattern: cursor.unsigned()))
      case 0x0F: readBaseExpression(&cursor, &row)
      case 0x10:
        let column = cursor.unsigned()
        row.set(column, readSavedExpression(&cursor))
      case 0x11:
        let column = cursor.unsigned()
        row.set(column, at: cursor.signed() &* dataAlignment)
      case 0x12:
        row.setBase(register: cursor.unsigned())
        row.setOffset(cursor.signed() &* dataAlignment)
      case 0x13: row.setOffset(cursor.signed() &* dataAlignment)
      case 0x14, 0x15:
        row.set(cursor.unsigned(), .unsupported)
        _ = cursor.unsigned()
      case 0x16:
        row.set(cursor.unsigned(), .unsupported)
        skipBlock(&cursor)
      case 0x2D where Machine.signsReturnAddresses: break  // DW_CFA_AARCH64_negate_ra_state
      case 0x2E: _ = cursor.unsigned()  // DW_CFA_GNU_args_size
      case 0x2F:
        let column = cursor.unsigned()
        row.set(column, at: 0 &- Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
      default: return false
      }
    }
    return !cursor.isBroken
  }

  private func skipBlock(_ cursor: inout Cursor) {
    let count = cursor.unsigned()
    cursor.address += min(count, cursor.end - min(cursor.address, cursor.end))
  }

  private func readBaseExpression(_ cursor: inout Cursor, _ row: inout Row) {
    let size = cursor.unsigned()
    var block = Cursor(cursor.address, end: cursor.address + min(size, cursor.end - min(cursor.address, cursor.end)))
    cursor.address = block.end
    row.setBase(.unsupported)
    let dereference: UInt8 = 0x06
    let first = block.byte()
    if first == Machine.framePointerOperation {
      let offset = block.signed()
      if block.byte() == dereference && block.address == block.end {
        row.setBase(.memoryAtFramePointer)
        row.setOffset(offset)
      }
    } else if first == Machine.stackPointerOperation,
      Machine.isProcedureLinkage(block.address - 1, block.end - block.address + 1)
    {
      row.setBase(.procedureLinkage)
    }
  }

  private func readSavedExpression(_ cursor: inout Cursor) -> Row.Saved {
    let size = cursor.unsigned()
    var block = Cursor(cursor.address, end: cursor.address + min(size, cursor.end - min(cursor.address, cursor.end)))
    cursor.address = block.end
    let isPlain = block.byte() == Machine.framePointerOperation && block.signed() == 0 && block.address == block.end
    return isPlain ? .atFramePointer : .unsupported
  }
}

// MARK: rows as rules

extension FrameRule {
  fileprivate init(_ row: Row, address: UInt64) {
    if row.returnAddress == .undefined {
      self = .outermost
      return
    }
    switch row.base {
    case .stackPointer, .framePointer, .procedureLinkage:
      let offset = row.base == .procedureLinkage ? Machine.procedureLinkageOffset(at: address) : row.offset
      let isFramePointer = row.base == .framePointer
      let isSavedAsUsual = row.framePointer == .same || row.framePointer == .offset
      if let place = row.returnAddressPlace, isSavedAsUsual {
        self.init(
          isBasedOnFramePointer: isFramePointer, offset: offset, returnAddressAt: place,
          framePointerAt: row.framePointerPlace)
      } else if row.returnAddress == .same, row.framePointer == .same, !isFramePointer, Machine.interruptedLink != nil {
        self.init(unstoredAt: offset)
      } else {
        self = .unsupported
      }
    case .memoryAtFramePointer where row.returnAddressPlace == -8 && row.framePointer == .atFramePointer:
      self.init(realignedAt: row.offset)
    default: self = .unsupported
    }
  }
}
