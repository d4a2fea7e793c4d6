// SPDX-License-Identifier: Apache-2.0
// MachineARM: everything that the unwinder must know of AArch64, as MachineX86.swift says it of
// x86-64. Registers have their numbers from the "DWARF for the Arm 64-bit Architecture". Frame
// records are as the AAPCS64 has them (section 6.4.6), signal frames are as Linux builds them.
//
// A call leaves its return address in register x30. A function that calls others stores it, nearly
// always in a frame record: the caller's x29, and the return address above it. The compiler decides
// where in its frame a function keeps the record.

import AgentMachine

#if arch(arm64)
  enum Machine {
    /// User addresses are below 2 to this power. On machines with addresses of 52 bits, the kernel
    /// gives higher addresses only to programs that ask for them.
    static let addressBits: UInt64 = 48
    static let framePointerColumn: UInt64 = 29  // x29
    static let stackPointerColumn: UInt64 = 31  // sp
    static let returnAddressColumn: UInt64 = 30  // x30
    static let signsReturnAddresses = true

    /// The address in a word that was stored as a return address. Pointer authentication puts a
    /// signature into the bits above the address.
    @inline(__always) static func address(_ word: UInt64) -> UInt64 { word & (1 << addressBits - 1) }

    /// A stand-in for the caller's stack pointer, in code without call frame information that keeps
    /// a frame pointer. The frame record does not tell the stack pointer, which lies somewhere
    /// above. This odd address allows everything above the record to be read. A rule that needs the
    /// stack pointer itself goes no further from here, because the words that it would read are not
    /// aligned.
    @inline(__always) static func stackPointer(aboveRecord fp: UInt64) -> UInt64 { fp &+ 9 }

    /// Stubs of the procedure linkage table leave the stack as it is, and have no information.
    static func isProcedureLinkage(_ address: UInt64, _ size: UInt64) -> Bool { false }
    static func procedureLinkageOffset(at address: UInt64) -> Int64 { 0 }

    /// Distances of the interrupted registers from the stack pointer of the signal return stub. A
    /// siginfo of 128 bytes lies there, then a ucontext, whose uc_mcontext, 176 bytes on, has a
    /// first word, then x0 to x30, sp and pc.
    static let interruptedFramePointer: UInt64 = registers + 29 * 8
    static let interruptedStackPointer: UInt64 = registers + 31 * 8
    static let interruptedCounter: UInt64 = registers + 32 * 8
    /// The distance of the register with the return address, which an interrupted function may not
    /// have stored yet.
    static let interruptedLink: UInt64? = registers + 30 * 8
    private static let registers: UInt64 = 128 + 176 + 8
    /// The distance of uc_stack from the stack pointer of the signal return stub: address, flags
    /// and size of the alternate stack as they were before the signal.
    static let signalStack: UInt64 = 128 + 16

    // MARK: rules

    // Stack pointers are multiples of 16. Frames of up to 256 KiB, with their record at most 64 KiB
    // below the CFA: gcc puts it below the local variables.
    static let offsetBits: UInt32 = 14
    static let offsetShift: UInt32 = 4
    static let savedBits: UInt32 = 13
  }

  /// The field `saved` tells where the return address is stored. The frame pointer, if it is saved,
  /// lies below the return address.
  extension FrameRule {
    /// Bytes below the CFA.
    @inline(__always) var returnAddress: UInt64 { saved }
    /// Bytes below the CFA.
    @inline(__always) var framePointer: UInt64 { saved &+ 8 }

    /// `offset` in bytes from the register; the other two are distances from the CFA.
    init(
      isBasedOnFramePointer: Bool, offset: Int64, returnAddressAt returnAddress: Int64, framePointerAt saved: Int64?
    ) {
      guard returnAddress < 0, saved.map({ $0 == returnAddress - 8 }) ?? true else {
        self = .unsupported
        return
      }
      self.init(
        isBasedOnFramePointer: isBasedOnFramePointer, offset: offset, savesFramePointer: saved != nil,
        saved: -returnAddress)
    }
  }
#endif
