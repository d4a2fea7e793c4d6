// Stack: from the caller's registers to a node of the trie of call stacks.
//
// Each thread keeps its last capture as a list of frames, outermost first: stack pointer, program counter and frame pointer on
// entry to the frame, the rule that leads out of it, and its node. A new capture unwinds from the inside only
// until it meets a frame of the old list, and takes the rest from there. Why that is the same as unwinding to the end:
//
// - A rule depends on nothing but the program counter. With the same rule, stack pointer and frame pointer, the caller's
//   stack pointer (the CFA) is the same, and so are the places where its return address and saved frame pointer lie.
// - So if a frame agrees with an old one in all three registers, and the words in those places are what they were, the
//   caller agrees in all three. `isUnchanged` looks at the words of each outer frame: two loads and comparisons.
// - A frame whose rule needs more than that (signal frames, realigned frames, code without information) is unwound
//   again, and the result compared.
// - The places lie between the present stack pointer and the stack's end, which unwinding checked when they were found.
//
// Loads are confined to the thread's own stack, or the alternate signal stack it is on. A stack pointer anywhere else, as of a
// coroutine, gives the call site alone, marked as truncated.

import AgentMachine
import SharedLayout

/// Where a hook was called from.
struct Caller {
  /// The address of the call's return address.
  let place: UInt
  /// The caller's frame pointer register.
  let framePointer: UInt64

  @inline(__always) var site: UInt64 {
    UnsafePointer<UInt64>(bitPattern: place).unsafelyUnwrapped.pointee
  }
  @inline(__always) var stackPointer: UInt64 { UInt64(place) &+ 8 }
}

enum Stack {
  typealias Frame = UnsafeMutablePointer<allocs_frame>

  /// Set in a frame's pc: a signal interrupted it there, it is not a return address.
  private static let interrupted: UInt64 = 1 << 63

  /// The node of the caller's stack; 0 if it cannot be recorded.
  @inline(__always)
  static func node(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let node = last(thread, caller)
    return node != 0 ? node : capture(thread, caller)
  }

  /// The node of the caller's stack if it is that of the last capture, and has only frames whose rules are plain; else 0.
  /// Calls nothing.
  @inline(__always)
  static func last(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let count = Int(thread.pointee.frame_count)
    guard count > 0 else { return 0 }
    let frames = frames(thread)
    let last = frames + (count - 1)
    guard last.pointee.sp == caller.stackPointer, last.pointee.pc == caller.site,
      last.pointee.fp == caller.framePointer
    else { return 0 }
    var frame = last
    while true {
      let rule = FrameRule(bits: frame.pointee.rule)
      guard rule.isFrame else { break }  // as at frames[0], always
      frame -= 1
      guard isUnchanged(rule, frame) else { return 0 }
    }
    return frame == frames ? last.pointee.node : 0
  }

  /// Whether the frames outside frames[count - 1] are still what they were, given that it is.
  private static func isUnchanged(_ frames: Frame, _ count: Int) -> Bool {
    var frame = frames + (count - 1)
    while frame > frames {
      let outer = frame - 1
      let rule = FrameRule(bits: frame.pointee.rule)
      guard rule.isFrame ? isUnchanged(rule, outer) : isUnchangedByUnwinding(frame, outer) else { return false }
      frame = outer
    }
    return true
  }

  /// Whether the words that led out of a frame by `rule`, to `outer`, are still there.
  @inline(__always)
  private static func isUnchanged(_ rule: FrameRule, _ outer: Frame) -> Bool {
    let cfa = outer.pointee.sp
    guard load(cfa &- 8) == outer.pointee.pc else { return false }
    return !rule.savesFramePointer || load(cfa &- rule.saved) == outer.pointee.fp
  }

  @inline(never)
  private static func isUnchangedByUnwinding(_ frame: Frame, _ outer: Frame) -> Bool {
    let rule = FrameRule(bits: frame.pointee.rule)
    // Where the step looks is where it looked before, as long as the CFA is the same.
    switch rule.kind {
    case FrameRule.Kind.realigned.rawValue:
      guard load(frame.pointee.fp &- rule.offset) == outer.pointee.sp else { return false }
    case FrameRule.Kind.withoutInformation.rawValue:
      guard frame.pointee.fp &+ 16 == outer.pointee.sp else { return false }
    default: break
    }
    var registers = Registers(sp: frame.pointee.sp, pc: frame.pointee.pc, fp: frame.pointee.fp)
    switch registers.step(rule, high: .max) {
    case .stepped, .crossedSignal: break
    case .ended, .lost: return false
    }
    return registers.sp == outer.pointee.sp && registers.pc == outer.pointee.pc && registers.fp == outer.pointee.fp
  }

  // MARK: unwinding

  @inline(never)
  private static func capture(_ thread: Thread, _ caller: Caller) -> UInt32 {
    guard thread.pointee.capturing == 0 else { return 0 }  // a signal handler interrupted a capture
    thread.pointee.capturing = 1
    defer { thread.pointee.capturing = 0 }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      let rules = shared.pointee.frame_rules
    else { return 0 }
    if thread.pointee.has_asked_for_stack == 0 { Threads.findStack(thread, site: caller.site) }
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    let limit = Int(shared.pointee.depth_limit)
    guard limit > 0 else { return 0 }  // wiped: a child was forked a moment ago, by a signal handler
    let frames = frames(thread)
    let fresh = frames + Int(ALLOCS_FRAME_LIMIT)
    var bounds = Bounds(thread, registers.sp)
    // Old frames that may yet be met: those below `old`.
    var old = Int(thread.pointee.frame_count)
    var count = 0  // of fresh ones, innermost first
    var end: UInt32 = 0
    if bounds.isForeign {
      old = 0
      fresh[0] = allocs_frame(sp: registers.sp, pc: registers.pc, fp: registers.fp, node: 0, rule: 0)
      count = 1
      end = ALLOCS_NODE_TRUNCATED.rawValue
    }
    unwinding: while !bounds.isForeign {
      while old > 0, frames[old - 1].sp < registers.sp { old -= 1 }
      if old > 0, frames[old - 1].sp == registers.sp {
        let candidate = frames + (old - 1)
        if candidate.pointee.pc == registers.pc, candidate.pointee.fp == registers.fp {
          // A list that was cut is of no use to a stack that has become shorter.
          if isUnchanged(frames, old), thread.pointee.is_cut == 0 || old + count >= limit { break unwinding }
          old = 0
        } else {
          old -= 1
        }
      }
      if count == limit {
        old = 0
        end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
        break unwinding
      }
      let rule =
        registers.pc & interrupted == 0
        ? FrameRules.rule(rules, registers.pc)
        : CallFrameInformation.rule(for: registers.pc & ~interrupted, isExact: true)
      fresh[count] = allocs_frame(sp: registers.sp, pc: registers.pc, fp: registers.fp, node: 0, rule: rule.bits)
      count += 1
      switch registers.step(rule, high: bounds.high) {
      case .stepped: continue
      case .crossedSignal:
        bounds = Bounds(thread, registers.sp)
        if !bounds.isForeign { continue }
        end = ALLOCS_NODE_TRUNCATED.rawValue
      case .ended: end = 0
      case .lost: end = ALLOCS_NODE_TRUNCATED.rawValue
      }
      old = 0
      break unwinding
    }
    return keep(thread, shared, header, frames, fresh, old: old, count: count, limit: limit, end: end)
  }

  /// Makes frames[..<old] and the fresh frames the thread's list, and gives the innermost one's node.
  private static func keep(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ frames: Frame, _ fresh: Frame, old: Int, count: Int, limit: Int, end: UInt32
  ) -> UInt32 {
    var first = old  // the first frame that needs a node
    var flags = end
    if old == 0 { thread.pointee.is_cut = end == ALLOCS_NODE_DEPTH_LIMIT.rawValue ? 1 : 0 }
    var kept = old
    if old + count > limit {
      // The outermost go, and with them the roots of all nodes.
      let excess = old + count - limit
      kept = old - excess
      for index in 0..<kept { frames[index] = frames[index + excess] }
      first = 0
      flags = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      thread.pointee.is_cut = 1
    }
    for index in 0..<count { frames[kept + index] = fresh[count - 1 - index] }
    let total = kept + count
    var parent = first == 0 ? 0 : frames[first - 1].node
    for index in first..<total {
      let pc = frames[index].pc
      let nodeFlags = (index == 0 ? flags : 0) | (pc & interrupted == 0 ? 0 : ALLOCS_NODE_INTERRUPTED.rawValue)
      parent = Contexts.child(thread, shared, header, parent, pc & ~interrupted, nodeFlags)
      guard parent != 0 else {
        thread.pointee.frame_count = 0
        return 0
      }
      frames[index].node = parent
    }
    // Nothing is kept of what it leads to, should the stack go on.
    frames[0].rule = FrameRule.outermost.bits
    thread.pointee.frame_count = UInt32(total)
    return parent
  }

  /// Forgets the last capture: its rules may have changed.
  static func forget(_ thread: Thread) { thread.pointee.frame_count = 0 }

  @inline(__always)
  private static func frames(_ thread: Thread) -> Frame {
    withUnsafeMutablePointer(to: &allocs_stacks(thread).pointee.frames) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: allocs_frame.self)
    }
  }

  @inline(__always)
  fileprivate static func load(_ address: UInt64) -> UInt64 {
    UnsafePointer<UInt64>(bitPattern: UInt(address)).unsafelyUnwrapped.pointee
  }
}

// MARK: bounds

/// The stack that a stack pointer lies in.
private struct Bounds {
  /// One past the highest address; 0 if no stack is known there, or after its end.
  private(set) var high: UInt64 = 0

  init(_ thread: Thread, _ sp: UInt64) {
    if sp >= thread.pointee.stack_low, sp < thread.pointee.stack_high {
      high = thread.pointee.stack_high
    } else if let alternate = System.alternateSignalStack, sp >= alternate.low, sp < alternate.high {
      high = alternate.high
    }
  }
  var isForeign: Bool { high == 0 }
}

// MARK: one step

private struct Registers {
  enum Outcome {
    case stepped
    case crossedSignal
    /// This was the outermost frame.
    case ended
    case lost
  }

  var sp: UInt64
  var pc: UInt64
  var fp: UInt64

  init(sp: UInt64, pc: UInt64, fp: UInt64) {
    self.sp = sp
    self.pc = pc
    self.fp = fp
  }

  /// From this frame to its caller. Loads from the stack pointer up to `high` only.
  mutating func step(_ rule: FrameRule, high: UInt64) -> Outcome {
    // Whatever was skipped stays skipped: a frame lies above the one it called.
    func isReadable(_ address: UInt64) -> Bool {
      address >= sp && address & 7 == 0 && address < high && high - address >= 8
    }
    var cfa: UInt64
    var callerFramePointer = fp
    switch rule.kind {
    case FrameRule.Kind.frame.rawValue:
      cfa = (rule.isBasedOnFramePointer ? fp : sp) &+ rule.offset
      guard cfa > sp, isReadable(cfa &- 8) else { return .lost }
      if rule.savesFramePointer {
        guard isReadable(cfa &- rule.saved) else { return .lost }
        callerFramePointer = Stack.load(cfa &- rule.saved)
      }
    case FrameRule.Kind.realigned.rawValue:
      guard isReadable(fp &- rule.offset), isReadable(fp) else { return .lost }
      cfa = Stack.load(fp &- rule.offset)
      guard cfa > sp, isReadable(cfa &- 8) else { return .lost }
      callerFramePointer = Stack.load(fp)
    case FrameRule.Kind.signalFrame.rawValue:
      guard isReadable(sp &+ Machine.interruptedFramePointer), isReadable(sp &+ Machine.interruptedCounter) else {
        return .lost
      }
      let context = sp
      fp = Stack.load(context &+ Machine.interruptedFramePointer)
      sp = Stack.load(context &+ Machine.interruptedStackPointer)
      pc = Stack.load(context &+ Machine.interruptedCounter) | 1 << 63
      return .crossedSignal
    case FrameRule.Kind.withoutInformation.rawValue:
      // Code made at run time, or by hand: if it keeps a frame pointer, that leads on.
      // With no local variables, the frame pointer is where the call left the stack pointer.
      guard isReadable(fp), isReadable(fp &+ 8) else { return .lost }
      cfa = fp &+ 16
      callerFramePointer = Stack.load(fp)
    case FrameRule.Kind.outermost.rawValue:
      return .ended
    default:
      return .lost
    }
    let returnAddress = Stack.load(cfa &- 8)
    guard returnAddress != 0 else {
      return .ended
    }
    guard returnAddress >> 47 == 0 else { return .lost }
    sp = cfa
    pc = returnAddress
    fp = callerFramePointer
    return .stepped
  }
}
