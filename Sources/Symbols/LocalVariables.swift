// SPDX-License-Identifier: Apache-2.0
// The variables of a function that lie in its frame, at one moment of its execution.

import Bounds
import CLibdw

/// The registers of a frame, as far as debug information refers to them.
public struct FrameRegisters: Hashable, Sendable {
  /// Where the caller's frame begins.
  public var cfa: UInt64
  public var stackPointer: UInt64
  public var framePointer: UInt64

  public init(cfa: UInt64, stackPointer: UInt64, framePointer: UInt64) {
    self.cfa = cfa
    self.stackPointer = stackPointer
    self.framePointer = framePointer
  }
}

extension DebugInformation {
  private static let deepestScope = 64

  /// The variable or parameter that holds `memory`, in the frame of the function that executes the instruction at
  /// `address` (of the ELF file).
  mutating func local(at memory: UInt64, executing address: UInt64, _ registers: FrameRegisters) -> Variable? {
    guard let unit = units.innermost(at: address)?.payload,
      let function = functions(ofUnit: unit).innermost(at: address)?.payload
    else { return nil }
    let base = operation(DW_AT_frame_base, of: function, at: address).flatMap {
      Self.place($0, base: nil, registers)
    }
    var budget = 100_000
    guard
      let (entry, offset) = local(at: memory, in: function, executing: address, base: base, registers, 0, &budget)
    else { return nil }
    let name = Self.string(DW_AT_name, of: entry).map { String(bounded: $0) } ?? "(unnamed)"
    return describe(entry, inUnit: unit, named: name, at: offset)
  }

  private func local(
    at memory: UInt64, in scope: Dwarf_Die, executing address: UInt64, base: UInt64?, _ registers: FrameRegisters,
    _ depth: Int, _ budget: inout Int
  ) -> (entry: Dwarf_Die, offset: UInt64)? {
    var parent = scope
    var entry = Dwarf_Die()
    guard depth < Self.deepestScope, dwarf_child(&parent, &entry) == 0 else { return nil }
    var found: (entry: Dwarf_Die, offset: UInt64)?
    // All below an entry is passed over in one call.
    var meter = BudgetMeter(interval: 8)
    while budget > 0, meter.goesOn() {
      budget &-= 1
      switch Int(dwarf_tag(&entry)) {
      case DW_TAG_variable, DW_TAG_formal_parameter:
        if found == nil { found = variable(entry, at: memory, executing: address, base: base, registers) }
      case DW_TAG_lexical_block, DW_TAG_inlined_subroutine, DW_TAG_try_block, DW_TAG_catch_block:
        // The innermost scope is the one that is meant.
        if lists.holds(entry, address),
          let inner = local(
            at: memory, in: entry, executing: address, base: base, registers, depth &+ 1, &budget)
        {
          return inner
        }
      default: break
      }
      var next = Dwarf_Die()
      guard dwarf_siblingof(&entry, &next) == 0 else { break }
      entry = next
    }
    return found
  }

  private func variable(
    _ entry: Dwarf_Die, at memory: UInt64, executing address: UInt64, base: UInt64?, _ registers: FrameRegisters
  ) -> (entry: Dwarf_Die, offset: UInt64)? {
    guard let operation = operation(DW_AT_location, of: entry, at: address),
      let start = Self.place(operation, base: base, registers), start <= memory,
      let type = TypeWalk.type(ofVariable: entry)
    else { return nil }
    var walk = TypeWalk(language: nil)
    guard let size = walk.size(of: type), memory &- start < size else { return nil }
    return (entry, memory &- start)
  }

  private struct Operation {
    var atom: UInt8
    var number: UInt64
  }

  /// The only operation of a location, as of the instruction at `address`; nil for what must be computed.
  private func operation(_ attribute: Int, of entry: Dwarf_Die, at address: UInt64) -> Operation? {
    guard let bytes = lists.location(attribute, of: entry, at: address) else { return nil }
    var cursor = SectionCursor(bytes)
    guard let atom = cursor.number(1).map({ UInt8(truncatingIfNeeded: $0) }) else { return nil }
    var operation = Operation(atom: atom, number: 0)
    switch Int(truncatingIfNeeded: atom) {
    case DW_OP_fbreg, DW_OP_breg6, DW_OP_breg7:
      guard let number = cursor.signed() else { return nil }
      operation.number = number
    default: break
    }
    return cursor.left == 0 ? operation : nil
  }

  /// Where in memory it points to; nil if it means a register's contents or something else.
  private static func place(_ operation: Operation, base: UInt64?, _ registers: FrameRegisters) -> UInt64? {
    switch Int(truncatingIfNeeded: operation.atom) {
    case DW_OP_call_frame_cfa: registers.cfa
    case DW_OP_fbreg: base.map { $0 &+ operation.number }
    case DW_OP_breg6: registers.framePointer &+ operation.number
    case DW_OP_breg7: registers.stackPointer &+ operation.number
    // As a frame base: the register points there.
    case DW_OP_reg6: base == nil ? registers.framePointer : nil
    default: nil
    }
  }
}
