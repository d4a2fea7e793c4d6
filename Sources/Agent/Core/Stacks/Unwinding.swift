// Unwinding: one step, from a frame's registers to its caller's, and the bounds within which it may read.
//
// Loads are confined to the thread's own stack, or the alternate signal stack it is on (DisarmedStack.swift). A stack
// pointer anywhere else, as of a coroutine, lies in no stack that is known.

import AgentMachine
import SharedLayout

/// Where a hook was called from.
struct Caller {
  /// The address of the call's return address.
  let returnSlot: UInt
  /// The caller's frame pointer register.
  let framePointer: UInt64

  /// Of a call whose caller was not asked for.
  static var unknown: Caller { Caller(returnSlot: 0, framePointer: 0) }
  @inline(__always) var isKnown: Bool { returnSlot != 0 }

  @inline(__always) var site: UInt64 {
    UnsafePointer<UInt64>(bitPattern: returnSlot).unsafelyUnwrapped.pointee
  }
  @inline(__always) var stackPointer: UInt64 { UInt64(returnSlot) &+ 8 }
}

/// The word at `address`, which lies in a stack.
@inline(__always)
func load(_ address: UInt64) -> UInt64 {
  UnsafePointer<UInt64>(bitPattern: UInt(address)).unsafelyUnwrapped.pointee
}

// MARK: bounds

/// The stack that a stack pointer lies in.
struct Bounds {
  /// One past the highest address; 0 if no stack is known there, or after its end.
  private(set) var high: UInt64 = 0
  /// Whether it is the thread's own, which lies where it lies for good.
  private(set) var isOwn = false

  /// `alternate`: the thread's alternate stack, if it has been asked for.
  init(_ thread: Thread, _ registers: Registers, _ alternate: System.AlternateStack? = nil) {
    if Self.isOwn(thread, registers.sp) {
      high = thread.pointee.stack_high
      isOwn = true
    } else {
      let alternate = alternate ?? System.alternateStack
      if alternate.holds(registers.sp) {
        high = alternate.high
      } else if alternate.high == 0 {
        high = DisarmedStack.end(thread, registers)
      }
    }
  }
  @inline(__always)
  static func isOwn(_ thread: Thread, _ sp: UInt64) -> Bool {
    sp >= thread.pointee.stack_low && sp < thread.pointee.stack_high
  }
  var isForeign: Bool { high == 0 }
}

// MARK: one step

struct Registers {
  enum Outcome {
    case stepped
    case crossedSignal
    /// This was the outermost frame.
    case ended
    case lost
  }

  /// Set in a frame's pc: a signal interrupted it there, it is not a return address.
  static let interrupted: UInt64 = 1 << 63

  var sp: UInt64
  var pc: UInt64
  var fp: UInt64
  /// Where a machine keeps it in a register: the return address of an interrupted function that has not stored it.
  private var link: UInt64 = 0

  init(sp: UInt64, pc: UInt64, fp: UInt64) {
    self.sp = sp
    self.pc = pc
    self.fp = fp
  }

  /// A step by a rule of kind FRAME, from a frame whose `cfa` and bounds are known from before. False, and nothing
  /// done, if it is not that simple.
  @inline(__always)
  mutating func stepAgain(_ rule: FrameRule, cfa: UInt64) -> Bool {
    let returnAddress = Machine.address(load(cfa &- rule.returnAddress))
    guard returnAddress &- 1 < 1 << Machine.addressBits &- 1 else { return false }
    if rule.savesFramePointer { fp = load(cfa &- rule.framePointer) }
    sp = cfa
    pc = returnAddress
    return true
  }

  /// From this frame to its caller. Loads from the stack pointer up to `high` only.
  mutating func step(_ rule: FrameRule, high: UInt64) -> Outcome {
    // Whatever was skipped stays skipped: a frame lies above the one it called.
    func isReadable(_ address: UInt64) -> Bool {
      address >= sp && address & 7 == 0 && address < high && high - address >= 8
    }
    var cfa: UInt64
    var place: UInt64  // of the return address
    var callerFramePointer = fp
    switch rule.kind {
    case FrameRule.Kind.frame.rawValue:
      cfa = (rule.isBasedOnFramePointer ? fp : sp) &+ rule.offset
      place = cfa &- rule.returnAddress
      guard cfa > sp, isReadable(place) else { return .lost }
      if rule.savesFramePointer {
        guard isReadable(cfa &- rule.framePointer) else { return .lost }
        callerFramePointer = load(cfa &- rule.framePointer)
      }
    case FrameRule.Kind.realigned.rawValue:
      guard isReadable(fp &- rule.offset), isReadable(fp) else { return .lost }
      cfa = load(fp &- rule.offset)
      place = cfa &- 8
      guard cfa > sp, isReadable(place) else { return .lost }
      callerFramePointer = load(fp)
    case FrameRule.Kind.signalFrame.rawValue:
      guard isReadable(sp &+ Machine.interruptedFramePointer), isReadable(sp &+ Machine.interruptedCounter) else {
        return .lost
      }
      let context = sp
      fp = load(context &+ Machine.interruptedFramePointer)
      sp = load(context &+ Machine.interruptedStackPointer)
      pc = Trampolines.original(load(context &+ Machine.interruptedCounter)) | Self.interrupted
      if let interruptedLink = Machine.interruptedLink { link = load(context &+ interruptedLink) }
      return .crossedSignal
    case FrameRule.Kind.unstored.rawValue:
      let returnAddress = Machine.address(link)
      guard returnAddress != 0, returnAddress >> Machine.addressBits == 0 else { return .lost }
      sp = sp &+ rule.offset
      pc = returnAddress
      link = 0
      return .stepped
    case FrameRule.Kind.withoutInformation.rawValue:
      // Code made at run time, or by hand: if it keeps a frame pointer, that leads on.
      // With no local variables, the frame pointer is where the call left the stack pointer.
      place = fp &+ 8
      guard isReadable(fp), isReadable(place) else { return .lost }
      cfa = Machine.stackPointer(aboveRecord: fp)
      callerFramePointer = load(fp)
    case FrameRule.Kind.outermost.rawValue:
      return .ended
    default:
      return .lost
    }
    let returnAddress = Machine.address(load(place))
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
