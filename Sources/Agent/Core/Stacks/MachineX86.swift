// SPDX-License-Identifier: Apache-2.0
// MachineX86: everything that the unwinder must know of x86-64. MachineARM.swift says the same
// things of AArch64; a port to another processor adds a third file (docs/porting.md). Registers
// have their numbers from the System V ABI's DWARF mapping (section 3.6.2); signal frames are as
// Linux builds them.

import AgentMachine

#if arch(x86_64)
  enum Machine {
    /// User addresses are below 2 to this power.
    static let addressBits: UInt64 = 47
    static let framePointerColumn: UInt64 = 6  // rbp
    static let stackPointerColumn: UInt64 = 7  // rsp
    static let returnAddressColumn: UInt64 = 16
    static let signsReturnAddresses = false

    /// The address in a word that was stored as a return address.
    @inline(__always) static func address(_ word: UInt64) -> UInt64 { word }

    /// The caller's stack pointer, in code without call frame information that keeps a frame
    /// pointer: the call left the frame record right below the caller's frame.
    @inline(__always) static func stackPointer(aboveRecord fp: UInt64) -> UInt64 { fp &+ 16 }

    /// Whether an expression is the expression that linkers write for stubs of the procedure
    /// linkage table: rsp + 8, and 8 more once the stub has pushed its index, at its 11th byte.
    static func isProcedureLinkage(_ address: UInt64, _ size: UInt64) -> Bool {
      let expected: InlineArray<11, UInt8> = [
        DWARF.Operation.registerPlus(stackPointerColumn), 8, DWARF.Operation.registerPlus(returnAddressColumn), 0,
        DWARF.Operation.literal(15), DWARF.Operation.and, DWARF.Operation.literal(11), DWARF.Operation.greaterOrEqual,
        DWARF.Operation.literal(3), DWARF.Operation.shiftLeft, DWARF.Operation.plus,
      ]
      guard size == 11, let bytes = UnsafePointer<UInt8>(bitPattern: UInt(address)) else { return false }
      for index in 0..<11 where bytes[index] != expected[index] { return false }
      return true
    }
    static func procedureLinkageOffset(at address: UInt64) -> Int64 { address & 15 >= 11 ? 16 : 8 }

    /// Distances of the interrupted registers from the stack pointer of the signal return stub: the
    /// registers are in uc_mcontext of the ucontext that lies there.
    static let interruptedFramePointer: UInt64 = 120
    static let interruptedStackPointer: UInt64 = 160
    static let interruptedCounter: UInt64 = 168
    /// The distance of the interrupted register with the return address: there is none.
    static let interruptedLink: UInt64? = nil
    /// The distance of uc_stack from the stack pointer of the signal return stub: address, flags
    /// and size of the alternate stack as they were before the signal.
    static let signalStack: UInt64 = 16

    // MARK: rules

    // Frames of up to 8 MiB, as large as stacks commonly are. Registers are saved right below the
    // return address.
    static let offsetBits: UInt32 = 20
    static let offsetShift: UInt32 = 3
    static let savedBits: UInt32 = 7
  }

  /// The field `saved` tells where the frame pointer is stored. The return address is where the
  /// call put it.
  extension FrameRule {
    /// Bytes below the CFA.
    @inline(__always) var returnAddress: UInt64 { 8 }
    /// Bytes below the CFA.
    @inline(__always) var framePointer: UInt64 { saved }

    /// `offset` in bytes from the register; the other two are distances from the CFA.
    init(
      isBasedOnFramePointer: Bool, offset: Int64, returnAddressAt returnAddress: Int64, framePointerAt saved: Int64?
    ) {
      guard returnAddress == -8, saved.map({ $0 < 0 }) ?? true else {
        self = .unsupported
        return
      }
      self.init(
        isBasedOnFramePointer: isBasedOnFramePointer, offset: offset, savesFramePointer: saved != nil,
        saved: -(saved ?? 0))
    }
  }
#endif
