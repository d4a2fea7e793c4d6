// MachineARM: what the unwinder must know of AArch64, and nothing else knows. Register numbers are those of the "DWARF
// for the Arm 64-bit Architecture", frame records those of the AAPCS64 (section 6.4.6), signal frames as Linux builds
// them.
//
// A call leaves its return address in register x30; a function that calls others stores it, nearly always in a frame
// record: the caller's x29, and the return address above it. Where in its frame a function keeps the record is up to
// the compiler.

import AgentMachine

#if arch(arm64)
  enum Machine {
    /// User addresses are below 2 to this power. With 52 bits, the kernel gives out higher ones only to who asks for
    /// them.
    static let addressBits: UInt64 = 48
    static let framePointerColumn: UInt64 = 29  // x29
    static let stackPointerColumn: UInt64 = 31  // sp
    static let returnAddressColumn: UInt64 = 30  // x30
    static let framePointerOperation: UInt8 = 0x8D  // DW_OP_breg29
    static let stackPointerOperation: UInt8 = 0x8F  // DW_OP_breg31
    static let signsReturnAddresses = true

    /// The address in a word that was stored as one. Pointer authentication puts a signature above the address, which
    /// is the same with and without.
    @inline(__always) static func address(_ word: UInt64) -> UInt64 { word & (1 << addressBits - 1) }

    /// The caller's stack pointer, where code without information keeps frame pointers. A record does not tell: it lies
    /// above. This odd address stands for it, by which whatever lies above the record may be read, and from which no
    /// rule leads on that needs the stack pointer itself: what it would find is not aligned.
    @inline(__always) static func stackPointer(aboveRecord fp: UInt64) -> UInt64 { fp &+ 9 }

    /// Stubs of the procedure linkage table leave the stack as it is, and have no information.
    static func isProcedureLinkage(_ address: UInt64, _ size: UInt64) -> Bool { false }
    static func procedureLinkageOffset(at address: UInt64) -> Int64 { 0 }

    /// Where the interrupted registers are, from the stack pointer of the signal return stub: there lies a siginfo of
    /// 128 bytes, then a ucontext, whose uc_mcontext, 176 bytes on, has x0 to x30, sp and pc after a first word.
    static let interruptedFramePointer: UInt64 = registers + 29 * 8
    static let interruptedStackPointer: UInt64 = registers + 31 * 8
    static let interruptedCounter: UInt64 = registers + 32 * 8
    /// Where uc_stack is, likewise: the alternate stack's address, flags and size as they were before the signal.
    static let signalStackPlace: UInt64 = 128 + 16
    /// Of the register with the return address, which an interrupted function may not have stored yet.
    static let interruptedLink: UInt64? = registers + 30 * 8
    private static let registers: UInt64 = 128 + 176 + 8

    // MARK: rules

    // Stack pointers are multiples of 16. Frames of up to 256 KiB, their record at most 64 KiB below the CFA: gcc puts
    // it below the local variables.
    static let offsetBits: UInt32 = 14
    static let offsetShift: UInt32 = 4
    static let savedBits: UInt32 = 13
  }

  /// `saved` is the return address's place; the frame pointer is below it, if it is saved.
  extension FrameRule {
    @inline(__always) var returnAddress: UInt64 { saved }
    @inline(__always) var framePointer: UInt64 { saved &+ 8 }

    /// `offset` in bytes from the register, the places from the CFA.
    init(isBasedOnFramePointer: Bool, offset: Int64, returnAddressAt place: Int64, framePointerAt saved: Int64?) {
      guard place < 0, saved.map({ $0 == place - 8 }) ?? true else {
        self = .unsupported
        return
      }
      self.init(
        isBasedOnFramePointer: isBasedOnFramePointer, offset: offset, savesFramePointer: saved != nil, saved: -place)
    }
  }
#endif
