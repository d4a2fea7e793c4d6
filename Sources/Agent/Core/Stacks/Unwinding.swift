// SPDX-License-Identifier: Apache-2.0
// Unwinding: one step, from the registers of a frame to the registers of its caller's frame.
//
// A step reads only words of a stack whose bounds are known (StackBounds.swift): the thread's own
// stack, or the alternate signal stack that the thread is on.

import AgentMachine
import SharedLayout

/// Where a hook was called from.
struct Caller {
  /// The address of the word that holds the call's return address.
  let returnSlot: UInt
  /// The caller's frame pointer register.
  let framePointer: UInt64

  /// The caller of a hook that was not told who called it.
  static var unknown: Caller { Caller(returnSlot: 0, framePointer: 0) }
  @inline(__always) var isKnown: Bool { returnSlot != 0 }

  /// The return address of the call.
  @inline(__always) var site: UInt64 {
    UnsafePointer<UInt64>(bitPattern: returnSlot).unsafelyUnwrapped.pointee
  }
  /// The caller's stack pointer after the call has returned.
  @inline(__always) var stackPointer: UInt64 { UInt64(returnSlot) &+ 8 }
}

/// The word at `address`, which lies in a stack.
@inline(__always)
func load(_ address: UInt64) -> UInt64 {
  UnsafePointer<UInt64>(bitPattern: UInt(address)).unsafelyUnwrapped.pointee
}

/// The registers of a frame, as far as unwinding needs them.
struct Registers {
  enum Outcome {
    /// The registers are the caller's now.
    case stepped
    /// The registers now belong to the code that a signal interrupted. That code may run on another
    /// stack, whose bounds have to be found.
    case crossedSignal
    /// The frame was the outermost frame.
    case ended
    /// The frame has a caller, but the rule doesn't lead to it.
    case lost
  }

  /// Set in the pc of a frame that a signal interrupted: this pc is not a return address.
  static let interrupted: UInt64 = 1 << 63

  var sp: UInt64
  var pc: UInt64
  var fp: UInt64
  /// The return address of an interrupted function that has not stored it yet, on a machine that
  /// keeps return addresses in a register; else 0.
  private var link: UInt64 = 0

  init(sp: UInt64, pc: UInt64, fp: UInt64) {
    self.sp = sp
    self.pc = pc
    self.fp = fp
  }

  /// A step by a rule of kind `frame`, from a frame whose CFA and bounds are known from an earlier
  /// step. False, and nothing done, if the return address is not a plain address.
  @inline(__always)
  mutating func stepAgain(_ rule: FrameRule, cfa: UInt64) -> Bool {
    let returnAddress = Machine.address(load(cfa &- rule.returnAddress))
    guard returnAddress &- 1 < 1 << Machine.addressBits &- 1 else { return false }
    if rule.savesFramePointer { fp = load(cfa &- rule.framePointer) }
    sp = cfa
    pc = returnAddress
    return true
  }

  /// A step by a rule of kind `frame`, from a frame whose CFA is known. False, and nothing done, if
  /// `step` has to look at it.
  @inline(__always)
  mutating func stepFirst(_ rule: FrameRule, cfa: UInt64, high: UInt64) -> Bool {
    guard cfa > sp, canRead(cfa &- rule.returnAddress, high),
      !rule.savesFramePointer || canRead(cfa &- rule.framePointer, high)
    else { return false }
    return stepAgain(rule, cfa: cfa)
  }

  /// Whether the word at `address` may be read. Words below the stack pointer are never read: a
  /// frame lies above the frame that it called.
  @inline(__always)
  private func canRead(_ address: UInt64, _ high: UInt64) -> Bool {
    address >= sp && address & 7 == 0 && address < high && high - address >= 8
  }

  /// From this frame to its caller. Reads words from the stack pointer up to `high` only.
  mutating func step(_ rule: FrameRule, high: UInt64) -> Outcome {
    func isReadable(_ address: UInt64) -> Bool { canRead(address, high) }
    var cfa: UInt64
    var returnSlot: UInt64
    var callerFramePointer = fp
    switch rule.kind {
    case .frame:
      cfa = (rule.isBasedOnFramePointer ? fp : sp) &+ rule.offset
      returnSlot = cfa &- rule.returnAddress
      guard cfa > sp, isReadable(returnSlot) else { return .lost }
      if rule.savesFramePointer {
        guard isReadable(cfa &- rule.framePointer) else { return .lost }
        callerFramePointer = load(cfa &- rule.framePointer)
      }
    case .realigned:
      guard isReadable(fp &- rule.offset), isReadable(fp) else { return .lost }
      cfa = load(fp &- rule.offset)
      returnSlot = cfa &- 8
      guard cfa > sp, isReadable(returnSlot) else { return .lost }
      callerFramePointer = load(fp)
    case .signalFrame:
      guard isReadable(sp &+ Machine.interruptedFramePointer), isReadable(sp &+ Machine.interruptedCounter) else {
        return .lost
      }
      let context = sp
      fp = load(context &+ Machine.interruptedFramePointer)
      sp = load(context &+ Machine.interruptedStackPointer)
      pc = Trampolines.original(load(context &+ Machine.interruptedCounter)) | Self.interrupted
      if let interruptedLink = Machine.interruptedLink { link = load(context &+ interruptedLink) }
      return .crossedSignal
    case .unstored:
      let returnAddress = Machine.address(link)
      guard returnAddress != 0, returnAddress >> Machine.addressBits == 0 else { return .lost }
      sp = sp &+ rule.offset
      pc = returnAddress
      link = 0
      return .stepped
    case .withoutInformation:
      // Code that was made at run time or written by hand. If the code keeps a frame pointer, its
      // frame record has the way to the caller. In a function without local variables the frame
      // pointer equals the stack pointer.
      returnSlot = fp &+ 8
      guard isReadable(fp), isReadable(returnSlot) else { return .lost }
      cfa = Machine.stackPointer(aboveRecord: fp)
      callerFramePointer = load(fp)
    case .outermost:
      return .ended
    case .unsupported, .none:
      return .lost
    }
    let returnAddress = Machine.address(load(returnSlot))
    guard returnAddress != 0 else {
      return .ended
    }
    guard returnAddress >> Machine.addressBits == 0 else { return .lost }
    sp = cfa
    pc = returnAddress
    fp = callerFramePointer
    return .stepped
  }
}
