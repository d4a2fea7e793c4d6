// MachineX86: what the unwinder must know of x86-64, and nothing else knows. Register numbers are those of the System V
// ABI's DWARF mapping (section 3.6.2), signal frames as Linux builds them. MachineARM says the same of AArch64.

import AgentMachine

#if arch(x86_64)
  enum Machine {
    /// User addresses are below 2 to this power.
    static let addressBits: UInt64 = 47
    static let framePointerColumn: UInt64 = 6  // rbp
    static let stackPointerColumn: UInt64 = 7  // rsp
    static let returnAddressColumn: UInt64 = 16
    static let framePointerOperation: UInt8 = 0x76  // DW_OP_breg6
    static let stackPointerOperation: UInt8 = 0x77  // DW_OP_breg7
    static let signsReturnAddresses = false

    /// The address in a word that was stored as one.
    @inline(__always) static func address(_ word: UInt64) -> UInt64 { word }

    /// The caller's stack pointer, where code without information keeps frame pointers: the call left them right above.
    @inline(__always) static func stackPointer(aboveRecord fp: UInt64) -> UInt64 { fp &+ 16 }

    /// Whether the expression is the one that linkers write for stubs of the procedure linkage table: rsp + 8, and 8
    /// more once the stub has pushed its index, at its 11th byte.
    static func isProcedureLinkage(_ address: UInt64, _ size: UInt64) -> Bool {
      // breg7 8, breg16 0, lit15, and, lit11, ge, lit3, shl, plus
      let expected: InlineArray<11, UInt8> = [0x77, 0x08, 0x80, 0x00, 0x3F, 0x1A, 0x3B, 0x2A, 0x33, 0x24, 0x22]
      guard size == 11, let bytes = UnsafePointer<UInt8>(bitPattern: UInt(address)) else { return false }
      for index in 0..<11 where bytes[index] != expected[index] { return false }
      return true
    }
    static func procedureLinkageOffset(at address: UInt64) -> Int64 { address & 15 >= 11 ? 16 : 8 }

    /// Where the interrupted registers are, from the stack pointer of the signal return stub: in uc_mcontext of the
    /// ucontext that lies there.
    static let interruptedFramePointer: UInt64 = 120
    static let interruptedStackPointer: UInt64 = 160
    static let interruptedCounter: UInt64 = 168
    /// Where uc_stack is, likewise: the alternate stack's address, flags and size as they were before the signal.
    static let signalStackPlace: UInt64 = 16
    /// Of the register with the return address: there is none.
    static let interruptedLink: UInt64? = nil

    // MARK: rules

    // Frames of up to 8 MiB, as large as stacks commonly are; registers are saved right below the return address.
    static let offsetBits: UInt32 = 20
    static let offsetShift: UInt32 = 3
    static let savedBits: UInt32 = 7
  }

  /// `saved` is the frame pointer's place: the return address is where the call put it.
  extension FrameRule {
    @inline(__always) var returnAddress: UInt64 { 8 }
    @inline(__always) var framePointer: UInt64 { saved }

    /// `offset` in bytes from the register, the places from the CFA.
    init(isBasedOnFramePointer: Bool, offset: Int64, returnAddressAt place: Int64, framePointerAt saved: Int64?) {
      guard place == -8, saved.map({ $0 < 0 }) ?? true else {
        self = .unsupported
        return
      }
      self.init(
        isBasedOnFramePointer: isBasedOnFramePointer, offset: offset, savesFramePointer: saved != nil,
        saved: -(saved ?? 0))
    }
  }
#endif
