// Stack: from the caller's registers to a node of the trie of call stacks.
//
// Unwinding is a function of the registers it begins with and the words of the stack it reads: a rule depends on
// nothing but the program counter, and what lies where the rule says is all that a step looks at. So a capture that
// begins with the same registers as an earlier one, and finds in all those words what was there then, gives the same
// stack. The same holds from any frame on outwards. Two kinds of memory of earlier captures follow from that, both the
// thread's own:
//
// - The frames kept: any frame met of late, with its way out (the CFA), where its caller's frame is kept, and its node.
//   A walk follows these links from frame to frame instead of looking up rules, and reads the words on the way to see
//   that they still lead there; the innermost frame's node is that of the stack if each was made from the very node
//   that the caller's frame has.
// - The list: frames that two walks in a row have met, outermost first, with all words that led from each to the end. A
//   walk that meets a frame of the list, and finds its words unchanged, has the rest of the stack.
//
// In the list, what a frame's frame pointer register holds counts only if a frame outside is found by it before it is
// loaded again; else neither it nor the word it was saved in takes part, for functions use that register as any other.
//
// What is kept is used only for frames on the thread's own stack, whose bounds never change: a word that was inside
// them when the frame was met is inside them now.
//
// A frame has at most one place in the list, and counts as there only if frame and entry name each other: an entry
// whose frame gave way to another is passed over. One walk does not replace a frame it has met; if both of a pair were,
// the next goes to room that no later walk looks at.
//
// With ALLOCS_STACKS=check, each stack is unwound a second time with nothing kept, and compared (StackCheck.swift).
//
// A stack deeper than the limit keeps its innermost frames, and its outermost node says how many were cut. That number
// is carried along from one capture to the next; a capture that has none to begin with walks on to count, within a
// budget (CutFrames.swift).

import AgentMachine
import SharedLayout

enum Stack {
  typealias Frame = UnsafeMutablePointer<allocs_frame>
  typealias Header = UnsafeMutablePointer<allocs_header>
  typealias Rules = UnsafeMutablePointer<UInt64>

  /// The node of the caller's stack; 0 if it cannot be recorded.
  @inline(__always)
  static func node(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let node = last(thread, caller)
    if node != 0 { return node }
    return Bounds.isOwn(thread, caller.stackPointer) ? capture(thread, caller) : captureForeign(thread, caller)
  }

  /// The node of the caller's stack if it is the list; else 0. Calls nothing.
  @inline(__always)
  static func last(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let count = Int(thread.pointee.frame_count)
    guard count > 0 else { return 0 }
    let entry = allocs_listed(thread) + (count - 1)
    let frame = allocs_frames(thread) + Int(entry.pointee.frame)
    guard frame.pointee.pc == caller.site, frame.pointee.sp == caller.stackPointer,
      frame.pointee.place == thread.pointee.frame_count &- 1,
      entry.pointee.needs_fp == 0 || entry.pointee.fp == caller.framePointer,
      areUnchanged(allocs_words(thread), Int(entry.pointee.words))
    else { return 0 }
    return entry.pointee.node
  }

  /// Whether the stack still holds the first `count` words of the list.
  @inline(__always)
  private static func areUnchanged(_ words: UnsafeMutablePointer<allocs_word>, _ count: Int) -> Bool {
    var word = words
    let end = words + count
    while word < end {
      guard load(word.pointee.address) == word.pointee.value else { return false }
      word += 1
    }
    return true
  }

  /// Forgets what earlier captures met: its rules may have changed. May be called by another thread, which leaves alone
  /// what a capture under way works on.
  static func forget(_ thread: Thread) {
    LeftCalls.forgetSites(thread)
    thread.pointee.must_forget = 1
    thread.pointee.frame_count = 0
    thread.pointee.checked_frame_count = 0
  }

  // MARK: a capture

  // What a capture takes of the stack it runs on, and what interning a call site takes; measured, and some more.
  private static let roomForAll: UInt64 = 1408
  private static let roomForSite: UInt64 = 768

  /// On a stack that the thread did not start with. A signal handler may have an alternate stack that is just large
  /// enough for what the program does there; then less is recorded.
  @inline(never)
  private static func captureForeign(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let alternate = System.alternateStack
    let room = DisarmedStack.room(thread, alternate)
    if room >= roomForAll { return capture(thread, caller, alternate) }
    return room >= roomForSite && thread.pointee.capturing == 0 ? site(thread, caller) : 0
  }

  /// The node of the call site alone.
  @inline(never)
  private static func site(_ thread: Thread, _ caller: Caller) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    return Contexts.child(thread, shared, header, 0, caller.site, ALLOCS_NODE_TRUNCATED.rawValue)
  }

  @inline(never)
  private static func capture(
    _ thread: Thread, _ caller: Caller, _ alternate: System.AlternateStack? = nil
  ) -> UInt32 {
    guard thread.pointee.capturing == 0 else { return 0 }  // a signal handler interrupted a capture
    thread.pointee.capturing = 1
    defer { thread.pointee.capturing = 0 }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header,
      let rules = shared.pointee.frame_rules
    else { return 0 }
    if thread.pointee.must_forget != 0 {
      thread.pointee.must_forget = 0
      for index in 0..<Int(ALLOCS_FRAMES_KEPT) { allocs_frames(thread)[index].pc = 0 }
    }
    let limit = Int(shared.pointee.depth_limit)
    guard limit > 0 else { return 0 }  // wiped: a child was forked a moment ago, by a signal handler
    if shared.pointee.checks_stacks == 0 {
      return node(thread, shared, header, walk(thread, caller, rules, limit, alternate), limit)
    }
    return StackCheck.node(thread, caller, shared, header, limit) {
      let last = last(thread, caller)
      return last != 0 ? last : node(thread, shared, header, walk(thread, caller, rules, limit, alternate), limit)
    }
  }

  /// The node of the caller's stack, unwound with nothing kept and nothing of the thread's changed: for a call inside a
  /// hook. 0 if it cannot be recorded.
  @inline(never)
  static func nodeAnew(
    _ thread: Thread, _ caller: Caller, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: Header
  ) -> UInt32 {
    let roomAnew = roomForAll + UInt64(ALLOCS_FRAME_LIMIT) * 8
    if !Bounds.isOwn(thread, caller.stackPointer), DisarmedStack.room(thread, System.alternateStack) < roomAnew {
      return 0
    }
    return allAnew(thread, caller, shared, header)
  }

  @inline(never)
  private static func allAnew(
    _ thread: Thread, _ caller: Caller, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: Header
  ) -> UInt32 {
    guard let rules = shared.pointee.frame_rules else { return 0 }
    let limit = Int(shared.pointee.depth_limit)
    return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(ALLOCS_FRAME_LIMIT)) { buffer in
      guard let pcs = buffer.baseAddress, limit > 0 else { return 0 }
      var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
      var bounds = Bounds(thread, registers)
      var count = 0
      var end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      while count < limit {
        pcs[count] = registers.pc
        count += 1
        var isEnded = bounds.isForeign
        if isEnded {
          end = ALLOCS_NODE_TRUNCATED.rawValue
        } else {
          switch registers.step(rule(registers.pc, rules), high: bounds.high) {
          case .stepped: break
          case .crossedSignal: bounds = Bounds(thread, registers)
          case .ended:
            end = 0
            isEnded = true
          case .lost:
            end = ALLOCS_NODE_TRUNCATED.rawValue
            isEnded = true
          }
        }
        if isEnded { break }
      }
      var node: UInt32 = 0
      for index in (0..<count).reversed() {
        let pc = pcs[index]
        node = Contexts.node(
          shared, header, parent: node, pc: pc & ~Registers.interrupted,
          flags: nodeFlags(pc, isOutermost: index == count - 1, end))
        if node == 0 { return 0 }
      }
      return node
    }
  }

  /// Where a walk along the stack has ended.
  private struct Walk {
    /// Frames of the list that it goes on with, outermost ones; 0 if it met none.
    var joined = 0
    /// Fresh frames inside those, innermost first.
    var count = 0
    /// The innermost ones of those whose nodes may be wrong.
    var stale = 0
    /// The outermost ones that the walk before met, too.
    var steady = 0
    /// Flags of the outermost node, if the walk met no frame of the list.
    var end: UInt32 = 0
    /// Frames beyond the limit of depth.
    var cut: UInt32 = 0
  }

  /// From the innermost frame outwards until it meets the list, the end or the limit.
  @inline(__always)
  private static func walk(
    _ thread: Thread, _ caller: Caller, _ rules: Rules, _ limit: Int, _ alternate: System.AlternateStack?
  ) -> Walk {
    let frames = allocs_frames(thread)
    let listed = allocs_listed(thread)
    let fresh = allocs_fresh(thread)
    let number = thread.pointee.walk &+ 1
    thread.pointee.walk = number
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    var bounds = Bounds(thread, registers, alternate)
    var spare = Int(ALLOCS_FRAMES_KEPT)
    var listCount = thread.pointee.frame_count  // 0 as soon as the list is of no use
    var depth = 0  // of the whole stack, if the list knows
    var walk = Walk()
    var count = 0
    var stale = 0
    var steady = 0
    var isEnded = false  // at the stack's end, or at the list
    var inner = frames + Int(ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT)  // the frame last met; at first, none
    walking: while !bounds.isForeign {
      var frame = frames + Int(inner.pointee.outer % ALLOCS_FRAMES_KEPT)  // never what an earlier walk had no place for
      let isKept = bounds.isOwn && (isSame(frame, registers) || find(&frame, frames, registers))
      if isKept {
        if frame.pointee.place < listCount {
          let entry = listed + Int(frame.pointee.place)
          if frames + Int(entry.pointee.frame) == frame,
            entry.pointee.needs_fp == 0 || entry.pointee.fp == registers.fp
          {
            if areUnchanged(allocs_words(thread), Int(entry.pointee.words)) {
              let known = Int(frame.pointee.place) + 1 + count
              if thread.pointee.frames_cut == 0 || known >= limit {
                inner.pointee.outer = UInt32(entry.pointee.frame)
                if inner.pointee.parent != entry.pointee.node { stale = count }
                walk.joined = known - count
                isEnded = true
                break walking
              }
              // A list that was cut is too short for this stack; but it tells how much is beyond.
              depth = known + Int(thread.pointee.frames_cut)
            }
            listCount = 0
          }
        }
        if count == limit { break walking }
        frame.pointee.fp = registers.fp
        steady = frame.pointee.walk == number &- 1 ? steady + 1 : 0
        frame.pointee.walk = number
      } else {
        if count == limit { break walking }
        frame = room(frames, registers, number, &spare, canBeFound: bounds.isOwn)
        let rule = rule(registers.pc, rules)
        let base = rule.isBasedOnFramePointer ? registers.fp : registers.sp
        frame.pointee = allocs_frame(
          sp: registers.sp, pc: registers.pc, fp: registers.fp, cfa: base &+ rule.offset, rule: rule.bits, node: 0,
          parent: 0, walk: number, outer: 0, place: ALLOCS_FRAME_NOWHERE, unused: 0)
        steady = 0
      }
      let index = frame - frames
      if inner.pointee.parent != frame.pointee.node { stale = count }
      inner.pointee.outer = UInt32(truncatingIfNeeded: index)
      fresh[count] = UInt16(truncatingIfNeeded: index)
      count += 1
      inner = frame
      let rule = FrameRule(bits: frame.pointee.rule)
      if isKept, rule.isFrame, registers.stepAgain(rule, cfa: frame.pointee.cfa) { continue }
      // In a copy, so that the registers need not be in memory for the common step.
      var copy = registers
      let outcome = copy.step(rule, high: bounds.high)
      registers = copy
      switch outcome {
      case .stepped: continue
      case .crossedSignal: bounds = Bounds(thread, registers)
      case .ended:
        isEnded = true
        break walking
      case .lost:
        frame.pointee.sp = 0  // never to be found: what it led to may make more sense another time
        walk.end = ALLOCS_NODE_TRUNCATED.rawValue
        isEnded = true
        break walking
      }
    }
    walk.count = count
    walk.stale = stale
    walk.steady = steady
    if isEnded { return walk }
    if !bounds.isForeign {
      walk.end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      walk.cut =
        depth > limit
        ? UInt32(truncatingIfNeeded: depth - limit) : CutFrames.count(thread, registers, bounds, rules)
      return walk
    }
    if walk.count == 0 {
      // The call site alone.
      frames[spare] = allocs_frame(
        sp: registers.sp, pc: registers.pc, fp: registers.fp, cfa: 0, rule: FrameRule.unsupported.bits, node: 0,
        parent: 0, walk: number, outer: 0, place: ALLOCS_FRAME_NOWHERE, unused: 0)
      fresh[0] = UInt16(spare)
      walk.count = 1
    }
    walk.end = ALLOCS_NODE_TRUNCATED.rawValue
    return walk
  }

  /// The rule for the frame with `pc`; without `rules`, decoded anew.
  @inline(__always)
  static func rule(_ pc: UInt64, _ rules: Rules?) -> FrameRule {
    guard pc & Registers.interrupted == 0, let rules else {
      return CallFrameInformation.rule(
        for: pc & ~Registers.interrupted, isExact: pc & Registers.interrupted != 0)
    }
    return FrameRules.rule(rules, pc)
  }

  // MARK: frames kept

  /// Whether the way out of `frame` is that of the frame with these registers.
  @inline(__always)
  private static func isSame(_ frame: Frame, _ registers: Registers) -> Bool {
    frame.pointee.pc == registers.pc && frame.pointee.sp == registers.sp
      && (!FrameRule(bits: frame.pointee.rule).needsFramePointer || frame.pointee.fp == registers.fp)
  }

  /// The pair of places of the frame with these registers.
  @inline(__always)
  private static func pair(_ frames: Frame, _ registers: Registers) -> Frame {
    let hash = ((registers.sp >> 3) ^ (registers.pc << 20)) &* 0x9E37_79B9_7F4A_7C15
    return frames + Int(hash >> UInt64(ALLOCS_FRAME_SHIFT)) * 2
  }

  @inline(__always)
  private static func find(_ frame: inout Frame, _ frames: Frame, _ registers: Registers) -> Bool {
    frame = pair(frames, registers)
    if isSame(frame, registers) { return true }
    frame += 1
    return isSame(frame, registers)
  }

  /// Where a frame goes that is not kept: to the one of its pair that was met longer ago.
  @inline(__always)
  private static func room(
    _ frames: Frame, _ registers: Registers, _ walk: UInt32, _ spare: inout Int, canBeFound: Bool
  ) -> Frame {
    if canBeFound {
      let first = pair(frames, registers)
      let older = walk &- first[0].walk >= walk &- first[1].walk ? first : first + 1
      if older.pointee.walk != walk { return older }
    }
    defer { spare += 1 }
    return frames + spare
  }

  // MARK: the node

  /// The node of the stack that was walked; 0 if it cannot be recorded.
  @inline(__always)
  private static func node(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: Header, _ walk: Walk, _ limit: Int
  ) -> UInt32 {
    if walk.joined == 0 || walk.stale > 0 || walk.joined + walk.count > limit {
      return staleNode(thread, shared, header, walk, limit)
    }
    let frames = allocs_frames(thread)
    if walk.steady > 0 { list(thread, walk, from: walk.joined) }
    return walk.count > 0
      ? frames[Int(allocs_fresh(thread)[0])].node
      : allocs_listed(thread)[walk.joined - 1].node
  }

  /// The same where nodes have to be looked up.
  @inline(never)
  private static func staleNode(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: Header, _ walk: Walk, _ limit: Int
  ) -> UInt32 {
    let frames = allocs_frames(thread)
    let fresh = allocs_fresh(thread)
    var joined = walk.joined
    var stale = walk.stale
    var end = walk.end
    var cut = walk.cut
    if joined + walk.count > limit {
      // The outermost go, and with them the roots of all nodes.
      let excess = joined + walk.count - limit
      cut = thread.pointee.frames_cut &+ UInt32(truncatingIfNeeded: excess)
      end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      joined -= excess
      stale = walk.count
      guard joined == 0 || shorten(thread, shared, header, walk.joined, by: excess) else {
        thread.pointee.frame_count = 0
        return 0
      }
    }
    var parent: UInt32
    if joined > 0 {
      parent = allocs_listed(thread)[joined - 1].node
    } else {
      let outermost = frames + Int(fresh[walk.count - 1])
      parent = Contexts.child(
        thread, shared, header, CutFrames.rounded(cut), outermost.pointee.pc & ~Registers.interrupted,
        nodeFlags(outermost.pointee.pc, isOutermost: true, end))
      stale = walk.count - 1
      outermost.pointee.node = parent
      outermost.pointee.parent = 0
    }
    if stale < walk.count { parent = frames[Int(fresh[stale])].node }
    while stale > 0, parent != 0 {
      stale -= 1
      let frame = frames + Int(fresh[stale])
      if frame.pointee.parent != parent {
        let pc = frame.pointee.pc
        frame.pointee.parent = parent
        frame.pointee.node = Contexts.child(
          thread, shared, header, parent, pc & ~Registers.interrupted, nodeFlags(pc, isOutermost: false, 0))
        if frame.pointee.node == 0 { frame.pointee.parent = 0 }  // ids or memory have run out; ask again
      }
      parent = frame.pointee.node
    }
    if walk.steady > 0, parent != 0 {
      if joined == 0 { thread.pointee.frames_cut = cut }
      list(thread, walk, from: joined)
    }
    return parent
  }

  @inline(__always)
  static func nodeFlags(_ pc: UInt64, isOutermost: Bool, _ end: UInt32) -> UInt32 {
    (isOutermost ? end : 0) | (pc & Registers.interrupted == 0 ? 0 : ALLOCS_NODE_INTERRUPTED.rawValue)
  }

  // MARK: the list

  /// Puts the steady ones of the fresh frames behind the first `count` of the list.
  @inline(never)
  private static func list(_ thread: Thread, _ walk: Walk, from count: Int) {
    let frames = allocs_frames(thread)
    let listed = allocs_listed(thread)
    let fresh = allocs_fresh(thread)
    var count = count
    for next in (walk.count - walk.steady..<walk.count).reversed() {
      let frame = frames + Int(fresh[next])
      let rule = FrameRule(bits: frame.pointee.rule)
      var needsFramePointer = rule.needsFramePointer
      var words: UInt16 = 0
      // Nothing is kept of what the outermost frame leads to, should the stack go on.
      if count > 0 {
        let outer = listed[count - 1]
        var word = allocs_words(thread) + Int(outer.words)
        if rule.isFrame {
          note(&word, frame.pointee.cfa &- rule.returnAddress)
          if outer.needs_fp != 0 {
            if rule.savesFramePointer {
              note(&word, frame.pointee.cfa &- rule.framePointer)
            } else {
              needsFramePointer = true
            }
          }
        } else {
          noteUncommon(&word, frame, frames + Int(outer.frame), rule)
        }
        words = UInt16(truncatingIfNeeded: word - allocs_words(thread))
      }
      frame.pointee.place = UInt32(truncatingIfNeeded: count)
      listed[count] = allocs_listed(
        fp: frame.pointee.fp, node: frame.pointee.node, frame: fresh[next], words: words,
        needs_fp: needsFramePointer ? 1 : 0)
      count += 1
    }
    thread.pointee.frame_count = UInt32(truncatingIfNeeded: count)
  }

  @inline(__always)
  private static func note(_ word: inout UnsafeMutablePointer<allocs_word>, _ address: UInt64) {
    word.pointee = allocs_word(address: address, value: load(address))
    word += 1
  }

  /// The words that the uncommon kinds of step have read; see Registers.step.
  @inline(never)
  private static func noteUncommon(
    _ word: inout UnsafeMutablePointer<allocs_word>, _ frame: Frame, _ outer: Frame, _ rule: FrameRule
  ) {
    let (sp, fp) = (frame.pointee.sp, frame.pointee.fp)
    switch rule.kind {
    case FrameRule.Kind.realigned.rawValue:
      note(&word, fp &- rule.offset)
      note(&word, fp)
      note(&word, outer.pointee.sp &- 8)
    case FrameRule.Kind.withoutInformation.rawValue:
      note(&word, fp)
      note(&word, fp &+ 8)
    case FrameRule.Kind.signalFrame.rawValue:
      note(&word, sp &+ Machine.interruptedFramePointer)
      note(&word, sp &+ Machine.interruptedStackPointer)
      note(&word, sp &+ Machine.interruptedCounter)
      if let interruptedLink = Machine.interruptedLink { note(&word, sp &+ interruptedLink) }
    default: break  // all that it needs is in registers
    }
  }

  /// Cuts the outermost `excess` of the list's first `count` frames, and finds the nodes of the rest anew, as their
  /// root is another. False if there is a node that cannot be recorded.
  @inline(never)
  private static func shorten(
    _ thread: Thread, _ shared: UnsafeMutablePointer<allocs_shared>, _ header: Header, _ count: Int, by excess: Int
  ) -> Bool {
    let frames = allocs_frames(thread)
    let listed = allocs_listed(thread)
    let words = allocs_words(thread)
    thread.pointee.frames_cut &+= UInt32(truncatingIfNeeded: excess)
    let left = count - excess
    let unneeded = listed[excess].words
    for index in unneeded..<listed[count - 1].words { words[Int(index - unneeded)] = words[Int(index)] }
    // The frames themselves may have given way to others; the trie knows their program counters.
    let nodes = Segment.start(header, ALLOCS_SECTION_NODES).assumingMemoryBound(to: allocs_node.self)
    var parent = CutFrames.rounded(thread.pointee.frames_cut)
    for index in 0..<left {
      listed[index] = listed[index + excess]
      listed[index].words -= unneeded
      let old = nodes[Int(listed[index].node)]
      let flags = old.flags & ALLOCS_NODE_INTERRUPTED.rawValue | (index == 0 ? ALLOCS_NODE_DEPTH_LIMIT.rawValue : 0)
      parent = Contexts.child(thread, shared, header, parent, old.pc, flags)
      guard parent != 0 else { return false }
      listed[index].node = parent
      let frame = frames + Int(listed[index].frame)
      if Int(frame.pointee.place) == index + excess { frame.pointee.place = UInt32(truncatingIfNeeded: index) }
    }
    thread.pointee.frame_count = UInt32(truncatingIfNeeded: left)
    return true
  }
}
