// SPDX-License-Identifier: Apache-2.0
// Stack+Walk: from the innermost frame outwards, until the walk joins the list, or comes to the end
// of the stack or to the limit of depth; and the kept frames that the walk follows. The argument
// why they may be followed is at the head of Stack.swift.

import AgentMachine
import SharedLayout

extension Stack {
  /// Where a walk along the stack has ended, and what it found.
  ///
  ///     innermost                                                            outermost
  ///     |<-------------- count frames met ------------------>|<-- joined frames ---->|
  ///     |<-- unresolved -->|                |<-- repeated -->|      of the list
  struct Walk {
    /// Frames of the list with which the stack goes on, counted from the outermost; 0 if the walk
    /// did not join the list.
    var joined = 0
    /// Frames that the walk met before it joined. Their indices are in `allocs_met_frames`,
    /// innermost first.
    var count = 0
    /// How many of the frames met, counted from the innermost, may have wrong nodes: a node is
    /// right only if it was made from the node of the caller's frame.
    var unresolved = 0
    /// How many of the frames met, counted from the outermost, the walk before this one met, too.
    var repeated = 0
    /// Flags of the outermost node, if the walk did not join the list.
    var end: UInt32 = 0
    /// Frames that were cut off, if the walk did not join the list.
    var cut: UInt32 = 0
    /// How many frames of the list and of the walk are to be cut off: the list begins further out
    /// than the stack.
    var excess = 0

    /// Forgets the outermost frames met.
    @inline(__always)
    mutating func drop(_ outermost: Int) {
      count -= outermost
      repeated = max(0, repeated - outermost)
    }
  }

  /// The relation of a kept frame, which a walk meets, to the list.
  private enum Meeting {
    /// The frame is this entry of the list, and the words from there on are unchanged.
    case joined(UnsafeMutablePointer<allocs_listed>)
    /// The frame is in the list, but a word has changed: the list is of another stack, but for so
    /// many of its outermost entries.
    case stale(UInt32)
    /// The frame is not in the list, or its frame pointer register, on which the entry depends, has
    /// another value.
    case elsewhere
  }

  /// How a kept frame stands to the list, of which the first `listCount` entries are in use.
  @inline(__always)
  private static func meeting(
    _ thread: Thread, _ frame: Frame, _ registers: Registers, _ listCount: UInt32
  ) -> Meeting {
    guard frame.pointee.list_index < listCount else { return .elsewhere }
    let entry = allocs_listed(thread) + Int(frame.pointee.list_index)
    guard allocs_frames(thread) + Int(entry.pointee.frame) == frame,
      entry.pointee.needs_fp == 0 || entry.pointee.fp == registers.fp
    else { return .elsewhere }
    let unchanged = unchanged(allocs_list_words(thread), Int(entry.pointee.words))
    if unchanged == Int(entry.pointee.words) { return .joined(entry) }
    var left = frame.pointee.list_index
    while left > 0, Int(allocs_listed(thread)[Int(left - 1)].words) > unchanged { left -= 1 }
    return .stale(left)
  }

  @inline(__always)
  static func walk(
    _ thread: Thread, _ caller: Caller, _ rules: FrameRules.Cache, _ limit: Int, _ alternate: System.AlternateStack?
  ) -> Walk {
    let frames = allocs_frames(thread)
    let met = allocs_met_frames(thread)
    let number = thread.pointee.walk &+ 1
    thread.pointee.walk = number
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    var bounds = Bounds(thread, registers, alternate)
    var nextSpare = Int(ALLOCS_FRAMES_KEPT)  // the first spare place that this walk has not used
    var listCount = thread.pointee.frame_count  // less as soon as a part of the list is of no use
    var depth = 0  // of the whole stack, if the list tells it
    var most = CutFrames.most(limit)  // frames that the stack may keep, as far as is known
    var walk = Walk()
    // The frame met last. At first it is the last place, which stands for no frame.
    var callee = frames + Int(ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT)
    while !bounds.isForeign {
      // The remainder keeps the number of a spare place, used by an earlier walk, out of the way.
      var frame = frames + Int(callee.pointee.outer % ALLOCS_FRAMES_KEPT)
      let isKept = bounds.isOwn && (isSame(frame, registers) || find(&frame, frames, registers))
      if isKept {
        switch meeting(thread, frame, registers, listCount) {
        case .elsewhere: break
        case .stale(let left): listCount = left
        case .joined(let entry):
          let known = Int(frame.pointee.list_index) + 1
          let found = known + walk.count
          let all = found + Int(thread.pointee.frames_cut)
          let kept = CutFrames.kept(of: all, limit)
          if found >= kept {
            callee.pointee.outer = UInt32(entry.pointee.frame)
            if callee.pointee.parent != entry.pointee.node { walk.unresolved = walk.count }
            walk.joined = known
            walk.excess = found - kept
            return walk
          }
          // The list was cut, and is too short for this stack. But it tells how much lies beyond.
          depth = all
          most = kept
          listCount = 0
        }
      }
      if walk.count == most {
        // Where the list said that the stack keeps all frames, other frames lie beyond by now.
        guard depth == most else { return cut(walk, thread, registers, bounds, rules, limit, depth) }
        depth = 0
        most = CutFrames.most(limit)
        if walk.count == most { return cut(walk, thread, registers, bounds, rules, limit, depth) }
      }
      if isKept {
        frame.pointee.fp = registers.fp
        walk.repeated = frame.pointee.walk == number &- 1 ? walk.repeated + 1 : 0
        frame.pointee.walk = number
      } else {
        frame = place(thread, registers, number, &nextSpare, listCount, canBeFound: bounds.isOwn)
        frame.pointee = made(registers, FrameRules.rule(registers.pc, rules), number)
        walk.repeated = 0
      }
      let index = frame - frames
      if callee.pointee.parent != frame.pointee.node { walk.unresolved = walk.count }
      callee.pointee.outer = UInt32(truncatingIfNeeded: index)
      met[walk.count] = UInt16(truncatingIfNeeded: index)
      walk.count += 1
      callee = frame
      let rule = FrameRule(bits: frame.pointee.rule)
      if rule.isFrame {
        let cfa = frame.pointee.cfa
        if isKept ? registers.stepAgain(rule, cfa: cfa) : registers.stepFirst(rule, cfa: cfa, high: bounds.high) {
          continue
        }
      }
      // In a copy, so that the registers need not be in memory for the common step.
      var copy = registers
      let outcome = copy.step(rule, high: bounds.high)
      registers = copy
      switch outcome {
      case .stepped: continue
      case .crossedSignal: bounds = Bounds(thread, registers)
      case .ended: return walk
      case .lost:
        // The frame is not to be found again: its rule may lead further another time.
        frame.pointee.sp = 0
        walk.end = ALLOCS_NODE_TRUNCATED.rawValue
        return walk
      }
    }
    return foreign(walk, frames, met, registers, number, nextSpare)
  }

  /// The end of a walk that has met as many frames as a stack may keep, or all that this one keeps.
  /// `depth` is the depth of the stack, 0 if it is not known.
  @inline(__always)
  private static func cut(
    _ walk: Walk, _ thread: Thread, _ registers: Registers, _ bounds: Bounds, _ rules: FrameRules.Cache, _ limit: Int,
    _ depth: Int
  ) -> Walk {
    var walk = walk
    let depth = depth > 0 ? depth : walk.count + Int(CutFrames.count(thread, registers, bounds, rules))
    let kept = CutFrames.kept(of: depth, limit)
    walk.drop(walk.count - kept)
    walk.end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
    walk.cut = UInt32(truncatingIfNeeded: depth - kept)
    return walk
  }

  /// The end of a walk on a stack that is not known. There the stack has the call site at least.
  @inline(__always)
  private static func foreign(
    _ walk: Walk, _ frames: Frame, _ met: UnsafeMutablePointer<UInt16>, _ registers: Registers, _ number: UInt32,
    _ nextSpare: Int
  ) -> Walk {
    var walk = walk
    walk.end = ALLOCS_NODE_TRUNCATED.rawValue
    guard walk.count == 0 else { return walk }
    frames[nextSpare] = made(registers, .unsupported, number)
    met[0] = UInt16(nextSpare)
    walk.count = 1
    return walk
  }

  // MARK: kept frames

  /// The frame with these registers, as a walk that meets it for the first time keeps it.
  @inline(__always)
  private static func made(_ registers: Registers, _ rule: FrameRule, _ number: UInt32) -> allocs_frame {
    let base = rule.isBasedOnFramePointer ? registers.fp : registers.sp
    return allocs_frame(
      sp: registers.sp, pc: registers.pc, fp: registers.fp, cfa: base &+ rule.offset, rule: rule.bits, node: 0,
      parent: 0, walk: number, outer: 0, list_index: ALLOCS_FRAME_NOT_LISTED, unused: 0)
  }

  /// Whether `frame`, a kept frame, has the same caller as the frame with these registers.
  @inline(__always)
  private static func isSame(_ frame: Frame, _ registers: Registers) -> Bool {
    frame.pointee.pc == registers.pc && frame.pointee.sp == registers.sp
      && (!FrameRule(bits: frame.pointee.rule).needsFramePointer || frame.pointee.fp == registers.fp)
  }

  /// The first of the two places in which the frame with these registers may be kept.
  @inline(__always)
  private static func pair(_ frames: Frame, _ registers: Registers) -> Frame {
    let hash = ((registers.sp >> 3) ^ (registers.pc << 20)) &* 0x9E37_79B9_7F4A_7C15
    return frames + Int(hash >> UInt64(ALLOCS_FRAME_SHIFT)) * 2
  }

  /// Whether the frame with these registers is kept; then `frame` is its place.
  @inline(__always)
  private static func find(_ frame: inout Frame, _ frames: Frame, _ registers: Registers) -> Bool {
    frame = pair(frames, registers)
    if isSame(frame, registers) { return true }
    frame += 1
    return isSame(frame, registers)
  }

  /// The place for a frame that is not kept yet: of the two kept frames that share its pair, the
  /// place of the one that is not among the first `listCount` of the list, or else of the older
  /// one; a spare place if this very walk has met both of them, or if the frame is not to be found
  /// again.
  @inline(__always)
  private static func place(
    _ thread: Thread, _ registers: Registers, _ walk: UInt32, _ nextSpare: inout Int, _ listCount: UInt32,
    canBeFound: Bool
  ) -> Frame {
    let frames = allocs_frames(thread)
    if canBeFound {
      // 0 if this walk has met the frame; else more, the less it is needed. A walk that has joined
      // the list does not meet the frames further out, which are needed most.
      func age(_ frame: Frame) -> UInt32 { allocs_frame_age(allocs_stacks(thread), frame, walk, listCount) }
      let first = pair(frames, registers)
      let (one, other) = (age(first), age(first + 1))
      let older = one >= other ? first : first + 1
      if older.pointee.walk != walk { return older }
      let newer = one >= other ? first + 1 : first
      if newer.pointee.walk != walk { return newer }
    }
    defer { nextSpare += 1 }
    return frames + nextSpare
  }
}
