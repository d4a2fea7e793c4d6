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
// With ALLOCS_STACKS=check, each capture is made a second time with nothing kept of earlier ones, and compared.
//
// A stack deeper than the limit keeps its innermost frames, and its outermost node says how many were cut. That number is carried
// along from one capture to the next; a capture that has none to begin with walks on to count, within a budget.
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
    guard Machine.address(load(cfa &- rule.returnAddress)) == outer.pointee.pc else { return false }
    return !rule.savesFramePointer || load(cfa &- rule.framePointer) == outer.pointee.fp
  }

  @inline(never)
  private static func isUnchangedByUnwinding(_ frame: Frame, _ outer: Frame) -> Bool {
    let rule = FrameRule(bits: frame.pointee.rule)
    // Where the step looks is where it looked before, as long as the CFA is the same.
    switch rule.kind {
    case FrameRule.Kind.realigned.rawValue:
      guard load(frame.pointee.fp &- rule.offset) == outer.pointee.sp else { return false }
    case FrameRule.Kind.withoutInformation.rawValue:
      guard Machine.stackPointer(aboveRecord: frame.pointee.fp) == outer.pointee.sp else { return false }
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

  /// Where a walk along the stack has ended.
  private struct Walk {
    /// Frames of the list that it goes on with, outermost ones; 0 if it met none.
    var old = 0
    /// Fresh frames inside those, innermost first.
    var count = 0
    /// Flags of the outermost node, if the walk met no frame of the list.
    var end: UInt32 = 0
    /// Frames beyond the limit of depth.
    var cut: UInt32 = 0
  }

  @inline(never)
  private static func capture(_ thread: Thread, _ caller: Caller) -> UInt32 {
    guard thread.pointee.capturing == 0 else { return 0 }  // a signal handler interrupted a capture
    thread.pointee.capturing = 1
    defer { thread.pointee.capturing = 0 }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      let rules = shared.pointee.frame_rules
    else { return 0 }
    if thread.pointee.has_asked_for_stack == 0 { Threads.findStack(thread, site: caller.site) }
    let limit = Int(shared.pointee.depth_limit)
    guard limit > 0 else { return 0 }  // wiped: a child was forked a moment ago, by a signal handler
    if shared.pointee.checks_stacks != 0 { return checkedNode(thread, caller, shared, header, rules, limit) }
    return unwoundNode(thread, caller, shared, header, rules, limit)
  }

  @inline(__always)
  private static func unwoundNode(
    _ thread: Thread, _ caller: Caller, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>, _ rules: UnsafeMutablePointer<UInt64>, _ limit: Int
  ) -> UInt32 {
    let walk = unwind(thread, caller, rules, limit, old: Int(thread.pointee.frame_count))
    return keep(thread, shared, header, walk, limit)
  }

  /// Unwinds to frames[..<old] of the last capture, or to the end, with the fresh frames in the room behind the list.
  /// Without `rules`, each rule is decoded anew, and frames that were cut are not counted.
  @inline(__always)
  private static func unwind(
    _ thread: Thread, _ caller: Caller, _ rules: UnsafeMutablePointer<UInt64>?, _ limit: Int, old: Int
  ) -> Walk {
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    let frames = frames(thread)
    let fresh = freshFrames(thread)
    var bounds = Bounds(thread, registers.sp)
    // Old frames that may yet be met: those below `old`.
    var walk = Walk(old: old)
    var depth = 0  // of the whole stack, if the list knows
    if bounds.isForeign {
      fresh[0] = allocs_frame(sp: registers.sp, pc: registers.pc, fp: registers.fp, node: 0, rule: 0)
      return Walk(count: 1, end: ALLOCS_NODE_TRUNCATED.rawValue)
    }
    while true {
      while walk.old > 0, frames[walk.old - 1].sp < registers.sp { walk.old -= 1 }
      if walk.old > 0, frames[walk.old - 1].sp == registers.sp {
        let candidate = frames + (walk.old - 1)
        if candidate.pointee.pc == registers.pc, candidate.pointee.fp == registers.fp {
          if isUnchanged(frames, walk.old) {
            let known = walk.old + walk.count
            if thread.pointee.frames_cut == 0 || known >= limit { return walk }
            // A list that was cut is too short for this stack; but it tells how much is beyond.
            depth = known + Int(thread.pointee.frames_cut)
          }
          walk.old = 0
        } else {
          walk.old -= 1
        }
      }
      if walk.count == limit {
        walk.end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
        if depth > limit {
          walk.cut = UInt32(truncatingIfNeeded: depth - limit)
        } else if let rules {
          walk.cut = countOutwards(thread, registers, bounds, rules)
        }
        break
      }
      let rule = rule(registers.pc, rules)
      fresh[walk.count] = allocs_frame(
        sp: registers.sp, pc: registers.pc, fp: registers.fp, node: 0, rule: rule.bits)
      walk.count += 1
      let outcome = registers.step(rule, high: bounds.high)
      if outcome == .stepped { continue }
      if outcome == .crossedSignal {
        bounds = Bounds(thread, registers.sp)
        if !bounds.isForeign { continue }
      }
      if outcome != .ended { walk.end = ALLOCS_NODE_TRUNCATED.rawValue }
      break
    }
    walk.old = 0
    return walk
  }

  @inline(__always)
  private static func rule(_ pc: UInt64, _ rules: UnsafeMutablePointer<UInt64>?) -> FrameRule {
    guard pc & interrupted == 0, let rules else {
      return CallFrameInformation.rule(for: pc & ~interrupted, isExact: pc & interrupted != 0)
    }
    return FrameRules.rule(rules, pc)
  }

  /// Makes frames[..<old] and the fresh frames the thread's list, and gives the innermost one's node.
  private static func keep(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ walk: Walk, _ limit: Int
  ) -> UInt32 {
    let frames = frames(thread)
    let fresh = freshFrames(thread)
    let count = walk.count
    var first = walk.old  // the first frame that needs a node
    var flags = walk.end
    if walk.old == 0 { thread.pointee.frames_cut = walk.cut }
    var kept = walk.old
    if walk.old + count > limit {
      // The outermost go, and with them the roots of all nodes.
      let excess = walk.old + count - limit
      kept = walk.old - excess
      for index in 0..<kept { frames[index] = frames[index + excess] }
      first = 0
      flags = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      thread.pointee.frames_cut &+= UInt32(truncatingIfNeeded: excess)
    }
    for index in 0..<count { frames[kept + index] = fresh[count - 1 - index] }
    let total = kept + count
    var parent = first == 0 ? rounded(thread.pointee.frames_cut) : frames[first - 1].node
    for index in first..<total {
      let pc = frames[index].pc
      parent = Contexts.child(
        thread, shared, header, parent, pc & ~interrupted, nodeFlags(pc, isOutermost: index == 0, flags))
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

  @inline(__always)
  private static func nodeFlags(_ pc: UInt64, isOutermost: Bool, _ end: UInt32) -> UInt32 {
    (isOutermost ? end : 0) | (pc & interrupted == 0 ? 0 : ALLOCS_NODE_INTERRUPTED.rawValue)
  }

  // MARK: frames that are cut

  /// Frames from `start` outwards, at least one; as many as its budget lets the thread count. That is some 20 ms' worth at
  /// first, and then a little for each allocation, so that no pattern of calls makes allocations slow without bound.
  @inline(never)
  private static func countOutwards(
    _ thread: Thread, _ start: Registers, _ bounds: Bounds, _ rules: UnsafeMutablePointer<UInt64>
  ) -> UInt32 {
    let atFirst: UInt64 = 1 << 22
    let perAllocation: UInt64 = 16
    let budget = atFirst &+ thread.pointee.entry.pointee.identity.allocations &* perAllocation
    var registers = start
    var bounds = bounds
    var count: UInt64 = 1
    counting: while thread.pointee.frames_counted &+ count < budget {
      switch registers.step(rule(registers.pc, rules), high: bounds.high) {
      case .stepped: break
      case .crossedSignal:
        bounds = Bounds(thread, registers.sp)
        if bounds.isForeign { break counting }
      case .ended, .lost: break counting
      }
      count += 1
    }
    thread.pointee.frames_counted &+= count
    return UInt32(truncatingIfNeeded: count)
  }

  /// Rounded down, by less than 1 in 64: a recursion has as many nodes as there are numbers.
  private static func rounded(_ count: UInt32) -> UInt32 {
    let precision = 7  // bits
    let low = max(0, UInt32.bitWidth - count.leadingZeroBitCount - precision)
    return (count >> UInt32(low)) << UInt32(low)
  }

  // MARK: checking

  /// The node as always; then the stack once more by unwinding alone, with no list and no cached rule, compared with what
  /// readers will find.
  @inline(never)
  private static func checkedNode(
    _ thread: Thread, _ caller: Caller, _ shared: UnsafeMutablePointer<allocs_shared>,
    _ header: UnsafeMutablePointer<allocs_header>, _ rules: UnsafeMutablePointer<UInt64>, _ limit: Int
  ) -> UInt32 {
    // Between captures the list has no frames, so that all come here.
    thread.pointee.frame_count = thread.pointee.checked_frame_count
    let last = last(thread, caller)
    let node = last != 0 ? last : unwoundNode(thread, caller, shared, header, rules, limit)
    thread.pointee.checked_frame_count = thread.pointee.frame_count
    thread.pointee.frame_count = 0
    guard node != 0 else { return 0 }
    let walk = unwind(thread, caller, nil, limit, old: 0)
    Index.count(ALLOCS_COUNTER_STACKS_CHECKED)
    if !isRecorded(walk, freshFrames(thread), node, header) { Index.count(ALLOCS_COUNTER_STACKS_DIFFERING) }
    return node
  }

  /// Whether `node` stands for the fresh frames, to the word.
  private static func isRecorded(
    _ walk: Walk, _ fresh: Frame, _ node: UInt32, _ header: UnsafeMutablePointer<allocs_header>
  ) -> Bool {
    let nodes = Segment.start(header, ALLOCS_SECTION_NODES).assumingMemoryBound(to: allocs_node.self)
    var next = node
    for index in 0..<walk.count {
      guard next != 0 else { return false }
      let entry = nodes + Int(next)
      let pc = fresh[index].pc
      guard entry.pointee.pc == pc & ~interrupted,
        entry.pointee.flags == nodeFlags(pc, isOutermost: index == walk.count - 1, walk.end)
      else { return false }
      next = entry.pointee.flags & ALLOCS_NODE_DEPTH_LIMIT.rawValue == 0 ? entry.pointee.parent : 0
    }
    return next == 0
  }

  /// Forgets the last capture: its rules may have changed.
  static func forget(_ thread: Thread) {
    thread.pointee.frame_count = 0
    thread.pointee.checked_frame_count = 0
  }

  @inline(__always)
  private static func frames(_ thread: Thread) -> Frame {
    withUnsafeMutablePointer(to: &allocs_stacks(thread).pointee.frames) {
      UnsafeMutableRawPointer($0).assumingMemoryBound(to: allocs_frame.self)
    }
  }

  /// The room behind the list.
  @inline(__always)
  private static func freshFrames(_ thread: Thread) -> Frame { frames(thread) + Int(ALLOCS_FRAME_LIMIT) }

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
  /// Where a machine keeps it in a register: the return address of an interrupted function that has not stored it.
  private var link: UInt64 = 0

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
    var place: UInt64  // of the return address
    var callerFramePointer = fp
    switch rule.kind {
    case FrameRule.Kind.frame.rawValue:
      cfa = (rule.isBasedOnFramePointer ? fp : sp) &+ rule.offset
      place = cfa &- rule.returnAddress
      guard cfa > sp, isReadable(place) else { return .lost }
      if rule.savesFramePointer {
        guard isReadable(cfa &- rule.framePointer) else { return .lost }
        callerFramePointer = Stack.load(cfa &- rule.framePointer)
      }
    case FrameRule.Kind.realigned.rawValue:
      guard isReadable(fp &- rule.offset), isReadable(fp) else { return .lost }
      cfa = Stack.load(fp &- rule.offset)
      place = cfa &- 8
      guard cfa > sp, isReadable(place) else { return .lost }
      callerFramePointer = Stack.load(fp)
    case FrameRule.Kind.signalFrame.rawValue:
      guard isReadable(sp &+ Machine.interruptedFramePointer), isReadable(sp &+ Machine.interruptedCounter) else {
        return .lost
      }
      let context = sp
      fp = Stack.load(context &+ Machine.interruptedFramePointer)
      sp = Stack.load(context &+ Machine.interruptedStackPointer)
      pc = Stack.load(context &+ Machine.interruptedCounter) | 1 << 63
      if let interruptedLink = Machine.interruptedLink { link = Stack.load(context &+ interruptedLink) }
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
      callerFramePointer = Stack.load(fp)
    case FrameRule.Kind.outermost.rawValue:
      return .ended
    default:
      return .lost
    }
    let returnAddress = Machine.address(Stack.load(place))
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
