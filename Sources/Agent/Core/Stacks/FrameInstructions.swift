// SPDX-License-Identifier: Apache-2.0
// FrameInstructions: runs the instructions of an entry of .eh_frame up to a program counter, and
// makes a rule of the row that they describe there.

import AgentMachine
import SharedLayout

/// A row of the table that the instructions describe: for each of the three columns, how to find
/// it. A row has 16 bytes, because rows are worked on where little stack may be left.
private struct Row {
  /// How the caller's value of a register is found.
  enum Saved: UInt8 {
    /// The register still has it.
    case same
    /// Stored at an offset from the CFA.
    case offset
    /// Stored where the frame pointer points (DW_OP_breg of the frame pointer, 0): the way in which
    /// a realigned frame keeps it.
    case atFramePointer
    /// Nowhere: for the return address, this means that the frame has no caller.
    case undefined
    case unsupported
  }
  /// How the CFA is found.
  enum Base: UInt8 {
    /// The stack pointer plus an offset.
    case stackPointer
    /// The frame pointer plus an offset.
    case framePointer
    /// Stored at an offset from the frame pointer (DW_OP_breg of the frame pointer, offset,
    /// DW_OP_deref): a realigned frame.
    case memoryAtFramePointer
    /// By the expression that linkers write for stubs of the procedure linkage table.
    case procedureLinkage
    case unsupported
  }
  private(set) var base = Base.unsupported
  private(set) var framePointer = Saved.same
  private(set) var returnAddress = Saved.same
  private var baseOffset: Int32 = 0
  private var framePointerOffset: Int32 = 0
  private var returnAddressOffset: Int32 = 0

  var offset: Int64 { Int64(baseOffset) }
  /// The distance from the CFA at which the frame pointer is stored; nil if it is not stored so.
  var framePointerFromCFA: Int64? { framePointer == .offset ? Int64(framePointerOffset) : nil }
  /// The distance from the CFA at which the return address is stored; nil if it is not stored so.
  var returnAddressFromCFA: Int64? { returnAddress == .offset ? Int64(returnAddressOffset) : nil }

  mutating func setBase(register: UInt64) {
    base =
      register == Machine.stackPointerColumn
      ? .stackPointer : register == Machine.framePointerColumn ? .framePointer : .unsupported
  }
  mutating func setBase(_ new: Base) { base = new }
  /// No frame has an offset of more than 2 GiB.
  mutating func setOffset(_ new: Int64) {
    if let offset = Int32(exactly: new) { baseOffset = offset } else { base = .unsupported }
  }
  mutating func set(_ column: UInt64, _ saved: Saved) {
    if column == Machine.framePointerColumn { framePointer = saved }
    if column == Machine.returnAddressColumn { returnAddress = saved }
  }
  mutating func set(_ column: UInt64, at offset: Int64) {
    guard let distance = Int32(exactly: offset) else { return set(column, .unsupported) }
    set(column, .offset)
    if column == Machine.framePointerColumn { framePointerOffset = distance }
    if column == Machine.returnAddressColumn { returnAddressOffset = distance }
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
  /// The rule for the instruction at `address`, which lies in the entry's code.
  func rule(at address: UInt64) -> FrameRule {
    if isSignalFrame { return .signalFrame }
    guard returnColumn == Machine.returnAddressColumn else { return .unsupported }
    var row = Row()
    var location = code.start
    var common = commonInstructions
    guard run(&common, &row, initial: Row(), &location, until: .max) else { return .unsupported }
    let initial = row
    var own = instructions
    guard run(&own, &row, initial: initial, &location, until: address) else { return .unsupported }
    return FrameRule(row, address: address)
  }

  /// Runs instructions as far as they concern `address`. False if an instruction is not known.
  private func run(
    _ cursor: inout FrameCursor, _ row: inout Row, initial: Row, _ location: inout UInt64, until address: UInt64
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
      let byte = cursor.byte()
      let operand = UInt64(byte & DWARF.PackedInstruction.operandMask)
      switch DWARF.PackedInstruction(rawValue: byte & DWARF.PackedInstruction.mask) {
      case .advanceLocation:
        if !advance(operand, &location) { return true }
        continue
      case .offset:
        row.set(operand, at: Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
        continue
      case .restore:
        row.restore(operand, initial)
        continue
      case nil: break
      }
      guard let instruction = DWARF.Instruction(rawValue: byte) else { return false }
      switch instruction {
      case .nop: break
      case .setLocation:
        guard let next = cursor.pointer(pointerEncoding, dataBase: 0) else { return false }
        if next > address { return true }
        location = next
      case .advanceLocation1: if !advance(UInt64(cursor.byte()), &location) { return true }
      case .advanceLocation2: if !advance(UInt64(cursor.read(UInt16.self, 0)), &location) { return true }
      case .advanceLocation4: if !advance(UInt64(cursor.read(UInt32.self, 0)), &location) { return true }
      case .offsetExtended:
        let column = cursor.unsigned()
        row.set(column, at: Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
      case .restoreExtended: row.restore(cursor.unsigned(), initial)
      case .undefined: row.set(cursor.unsigned(), .undefined)
      case .sameValue: row.set(cursor.unsigned(), .same)
      case .rememberState:
        guard depth < 8 else { return false }
        remembered[depth] = row
        depth += 1
      case .restoreState:
        guard depth > 0 else { return false }
        depth -= 1
        row = remembered[depth]
      case .defineCFA:
        row.setBase(register: cursor.unsigned())
        row.setOffset(Int64(bitPattern: cursor.unsigned()))
      case .defineCFARegister: row.setBase(register: cursor.unsigned())
      case .defineCFAOffset: row.setOffset(Int64(bitPattern: cursor.unsigned()))
      case .defineCFAExpression: readBaseExpression(&cursor, &row)
      case .expression:
        let column = cursor.unsigned()
        row.set(column, readSavedExpression(&cursor))
      case .offsetExtendedSigned:
        let column = cursor.unsigned()
        row.set(column, at: cursor.signed() &* dataAlignment)
      case .defineCFASigned:
        row.setBase(register: cursor.unsigned())
        row.setOffset(cursor.signed() &* dataAlignment)
      case .defineCFAOffsetSigned: row.setOffset(cursor.signed() &* dataAlignment)
      case .register, .valueOffset, .valueOffsetSigned:
        row.set(cursor.unsigned(), .unsupported)
        _ = cursor.unsigned()
      case .valueExpression:
        row.set(cursor.unsigned(), .unsupported)
        skipBlock(&cursor)
      case .negateReturnAddressState: guard Machine.signsReturnAddresses else { return false }
      case .gnuArgumentsSize: _ = cursor.unsigned()
      case .gnuNegativeOffsetExtended:
        let column = cursor.unsigned()
        row.set(column, at: 0 &- Int64(bitPattern: cursor.unsigned()) &* dataAlignment)
      }
    }
    return !cursor.isBroken
  }

  // MARK: expressions

  /// The block that follows: its length, then so many bytes. The cursor goes behind it.
  private func block(_ cursor: inout FrameCursor) -> FrameCursor {
    let size = cursor.unsigned()
    let rest = cursor.end - min(cursor.address, cursor.end)
    let block = FrameCursor(cursor.address, end: cursor.address + min(size, rest))
    cursor.address = block.end
    return block
  }

  private func skipBlock(_ cursor: inout FrameCursor) { _ = block(&cursor) }

  private func readBaseExpression(_ cursor: inout FrameCursor, _ row: inout Row) {
    var block = block(&cursor)
    let start = block.address
    row.setBase(.unsupported)
    let first = block.byte()
    if first == DWARF.Operation.registerPlus(Machine.framePointerColumn) {
      let offset = block.signed()
      if block.byte() == DWARF.Operation.dereference && block.address == block.end {
        row.setBase(.memoryAtFramePointer)
        row.setOffset(offset)
      }
    } else if first == DWARF.Operation.registerPlus(Machine.stackPointerColumn),
      Machine.isProcedureLinkage(start, block.end - start)
    {
      row.setBase(.procedureLinkage)
    }
  }

  private func readSavedExpression(_ cursor: inout FrameCursor) -> Row.Saved {
    var block = block(&cursor)
    let isPlain =
      block.byte() == DWARF.Operation.registerPlus(Machine.framePointerColumn) && block.signed() == 0
      && block.address == block.end
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
      if let returnAddress = row.returnAddressFromCFA, isSavedAsUsual {
        self.init(
          isBasedOnFramePointer: isFramePointer, offset: offset, returnAddressAt: returnAddress,
          framePointerAt: row.framePointerFromCFA)
      } else if row.returnAddress == .same, row.framePointer == .same, !isFramePointer, Machine.interruptedLink != nil {
        self.init(unstoredAt: offset)
      } else {
        self = .unsupported
      }
    case .memoryAtFramePointer where row.returnAddressFromCFA == -8 && row.framePointer == .atFramePointer:
      self.init(realignedAt: row.offset)
    case .memoryAtFramePointer, .unsupported: self = .unsupported
    }
  }
}
