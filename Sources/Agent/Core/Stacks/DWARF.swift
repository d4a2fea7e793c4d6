// SPDX-License-Identifier: Apache-2.0
// DWARF: the numbers of call frame information that are used here, by name. The names come from
// the DWARF 4 standard (sections 7.7 and 7.23) and, for pointers, from the Linux Standard Base's
// "Exception Frames" (DW_EH_PE_…), with words written out.

enum DWARF {
  /// An instruction whose operand lies in its lower six bits (DW_CFA_advance_loc and so on).
  enum PackedInstruction: UInt8 {
    case advanceLocation = 0x40
    case offset = 0x80
    case restore = 0xC0

    static let mask: UInt8 = 0xC0
    static let operandMask: UInt8 = 0x3F
  }

  /// An instruction of its own byte (DW_CFA_…). `signed` stands for the suffix _sf.
  enum Instruction: UInt8 {
    case nop = 0x00
    case setLocation = 0x01
    case advanceLocation1 = 0x02
    case advanceLocation2 = 0x03
    case advanceLocation4 = 0x04
    case offsetExtended = 0x05
    case restoreExtended = 0x06
    case undefined = 0x07
    case sameValue = 0x08
    case register = 0x09
    case rememberState = 0x0A
    case restoreState = 0x0B
    case defineCFA = 0x0C
    case defineCFARegister = 0x0D
    case defineCFAOffset = 0x0E
    case defineCFAExpression = 0x0F
    case expression = 0x10
    case offsetExtendedSigned = 0x11
    case defineCFASigned = 0x12
    case defineCFAOffsetSigned = 0x13
    case valueOffset = 0x14
    case valueOffsetSigned = 0x15
    case valueExpression = 0x16
    /// DW_CFA_AARCH64_negate_ra_state
    case negateReturnAddressState = 0x2D
    case gnuArgumentsSize = 0x2E
    case gnuNegativeOffsetExtended = 0x2F
  }

  /// How many bytes a pointer has, and of which kind: the lower four bits of its encoding.
  enum PointerFormat: UInt8 {
    case absolute = 0x00
    case unsignedLEB128 = 0x01
    case unsigned2 = 0x02
    case unsigned4 = 0x03
    case unsigned8 = 0x04
    case signedLEB128 = 0x09
    case signed2 = 0x0A
    case signed4 = 0x0B
    case signed8 = 0x0C

    static let mask: UInt8 = 0x0F
  }

  /// The address that a pointer is relative to: three bits of its encoding.
  enum PointerBase: UInt8 {
    case absolute = 0x00
    /// The place of the pointer itself.
    case pcRelative = 0x10
    /// The start of the section.
    case dataRelative = 0x30

    static let mask: UInt8 = 0x70
  }

  /// The bit of an encoding which says that the pointer is the address of a word with the address
  /// of the thing, not the thing's own address.
  static let indirect: UInt8 = 0x80

  /// Operations of expressions (DW_OP_…).
  enum Operation {
    static let dereference: UInt8 = 0x06
    static let and: UInt8 = 0x1A
    static let plus: UInt8 = 0x22
    static let shiftLeft: UInt8 = 0x24
    static let greaterOrEqual: UInt8 = 0x2A
    /// Pushes `number`, 0 to 31.
    @inline(__always) static func literal(_ number: UInt8) -> UInt8 { 0x30 + number }
    /// Pushes the value of register `column`, 0 to 31, plus the signed number that follows.
    @inline(__always) static func registerPlus(_ column: UInt64) -> UInt8 { 0x70 + UInt8(truncatingIfNeeded: column) }
  }
}
