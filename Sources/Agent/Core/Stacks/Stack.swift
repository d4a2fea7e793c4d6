// SPDX-License-Identifier: Apache-2.0
// Stack: from the caller's registers to a node of the trie of call stacks.
//
// Why earlier captures can be used. Unwinding has two inputs: the registers that it begins with,
// and the words of the stack that it reads. Nothing else takes part, because the rule for a frame
// depends on the program counter alone, and a step reads only the words that the rule names. So a
// capture that begins with the registers of an earlier capture, and finds the earlier values in all
// words that the earlier capture read, has the stack of the earlier capture. The argument holds not
// only for the innermost frame: from any frame on outwards, equal registers and equal words give
// equal frames.
//
// So a thread keeps the stacks that it has captured more than once, each with the registers and all
// words: the memo (Stack+Memo.swift). Most captures end there, whichever of the kept stacks was the
// last one.
//
// Any other capture walks from the innermost frame outwards. For that, a thread keeps two things:
//
// - The kept frames: frames that its walks have met of late. Each has its registers, its way out
//   (the rule and the CFA), the kept frame that its caller had last (`outer`), its node, and the
//   node from which this node was made (`parent`). A walk follows `outer` from frame to frame
//   instead of looking up rules, and reads the words on the way to see that they still lead there.
//   The node of the innermost frame is the node of the stack if the `parent` of every frame is the
//   node of its caller's frame.
// - The list: the frames that two walks in a row have met, outermost first, with all words that
//   lead from each of these frames to the end of the stack. A walk that meets a frame of the list,
//   and finds the words from that frame on unchanged, has *joined* the list: it knows the rest of
//   the stack. If a word has changed, the part of the list further out than that word still counts.
//
// The frame pointer register of a frame in the list, or of the capture in the memo, is compared
// only if a frame further out is found by its value before the register is loaded again. Else
// neither the register nor the word in which it was saved takes part: functions use that register
// like any other.
//
// Memo, kept frames and list serve only frames on the thread's own stack, whose bounds never
// change: a word that lay within the bounds when the frame was met still lies within them. A stack
// of which a walk has met a signal frame, or whose end was not found, does not enter the memo.
//
// A rule depends on the program counter only as long as no other module comes to lie there. When
// one was unloaded, memo and kept frames are forgotten before the thread looks at them again
// (StackCaches.swift). A thread that runs the new module's code has learned of the module after
// that.
//
// Frames and list entries point at each other. An entry whose frame now points elsewhere is stale
// and is skipped. A kept frame may lie in one of two places, which frames with other registers
// share (a pair). Frames of the list are evicted last. A walk never evicts a frame that it has
// itself met: if both frames of a pair were met, the new frame goes to a spare place that later
// walks ignore.
//
// With ALLOCS_STACKS=check, each stack is unwound a second time with nothing kept, and compared
// (StackCheck.swift).
//
// A stack much deeper than the limit keeps its innermost frames, and its outermost node says how
// many frames were cut off. That number follows from the stack's depth (CutFrames.swift), which is
// carried along from one capture to the next: a walk that joins the list knows how many frames lie
// beyond, those that were cut off the list included. A walk that does not join counts them, within
// a budget. The memo has no words of the frames that were cut off.
//
// This file has the ways in; Stack+Memo.swift the memo; Stack+Walk.swift the walk and the kept
// frames; Stack+List.swift the list, and the node of a stack that was walked.

import AgentMachine
import SharedLayout

enum Stack {
  typealias Frame = UnsafeMutablePointer<allocs_frame>
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>

  /// The node of the caller's stack; 0 if it cannot be recorded.
  @inline(__always)
  static func node(_ thread: Thread, _ caller: Caller) -> UInt32 {
    Bounds.isOwn(thread, caller.stackPointer) ? capture(thread, caller) : captureForeign(thread, caller)
  }

  /// As above, for a call further out than the code that asks, which may be a signal handler on a
  /// small stack of its own.
  static func node(ofOuter caller: Caller, _ thread: Thread) -> UInt32 {
    let isOwn = Bounds.isOwn(thread, allocs_stack_address())
    guard isOwn || DisarmedStack.room(thread, System.alternateStack) >= roomForAll else { return 0 }
    return node(thread, caller)
  }

  /// How many of the first `count` words of the list the stack still holds, up to the first that
  /// it does not.
  @inline(__always)
  static func unchanged(_ words: UnsafeMutablePointer<allocs_words>, _ count: Int) -> Int {
    allocs_words_are_unchanged(words, UInt64(count)) ? count : firstChange(words, count)
  }

  @inline(never)
  private static func firstChange(_ words: UnsafeMutablePointer<allocs_words>, _ count: Int) -> Int {
    var index = 0
    while index < count, load(allocs_words_address(words, UInt64(index))) == allocs_words_value(words, UInt64(index)) {
      index += 1
    }
    return index
  }

  // MARK: a capture

  // Bytes of stack: what a capture takes, and what interning a call site takes; measured, and some
  // more.
  private static let roomForAll: UInt64 = 1408
  private static let roomForSite: UInt64 = 768

  /// On a stack that the thread did not start with. A signal handler may have an alternate stack
  /// that is just large enough for the program's own calls there; then less is recorded.
  @inline(never)
  private static func captureForeign(_ thread: Thread, _ caller: Caller) -> UInt32 {
    let alternate = System.alternateStack
    let room = DisarmedStack.room(thread, alternate)
    if room >= roomForAll { return capture(thread, caller, alternate) }
    return room >= roomForSite && thread.pointee.capturing == 0 ? site(thread, caller) : 0
  }

  /// Whether the thread is on a stack that it did not start with, with less room than interning a
  /// call site takes.
  @inline(never)
  static func hasNoRoomForSite(_ thread: Thread) -> Bool {
    !Bounds.isOwn(thread, allocs_stack_address())
      && DisarmedStack.room(thread, System.alternateStack) < roomForSite
  }

  /// The node of the call site alone.
  @inline(never)
  private static func site(_ thread: Thread, _ caller: Caller) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    return StackNodes.child(thread, shared, header, 0, caller.site, ALLOCS_NODE_TRUNCATED.rawValue)
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
    StackCaches.forgetFramesIfAsked(thread)
    let limit = Int(shared.pointee.depth_limit)
    // 0 if the memory was wiped: a signal handler has just called fork, and this is the child.
    guard limit > 0 else { return 0 }
    if shared.pointee.checks_stacks == 0 { return node(thread, caller, shared, header, rules, limit, alternate) }
    return StackCheck.node(thread, caller, header, limit) {
      node(thread, caller, shared, header, rules, limit, alternate)
    }
  }

  @inline(__always)
  private static func node(
    _ thread: Thread, _ caller: Caller, _ shared: Shared, _ header: Header, _ rules: FrameRules.Cache, _ limit: Int,
    _ alternate: System.AlternateStack?
  ) -> UInt32 {
    // Records are of the thread's own stack.
    if alternate == nil, let memo = allocs_stacks(thread).pointee.memo {
      let node = known(memo, caller)
      if node != 0 { return node }
    }
    let newest = allocs_load_relaxed_u64(&shared.pointee.nodes.next_id)
    let walk = walk(thread, caller, rules, limit, alternate)
    let node = node(thread, shared, header, walk)
    // A stack that comes for the first time may come but once, and a new thread may end soon.
    if node != 0, node < newest, alternate == nil, walk.excess == 0,
      thread.pointee.entry.pointee.identity.allocations >= allocationsBeforeMemo
    {
      remember(thread, caller, walk, node)
    }
    return node
  }

  private static var allocationsBeforeMemo: UInt64 { 64 }

  // MARK: a capture inside a hook

  /// The node of the caller's stack, unwound without memo, kept frames and list, and with nothing
  /// of the thread's changed: for a call inside a hook, which may have interrupted a capture. 0 if
  /// it cannot be recorded.
  @inline(never)
  static func nodeAnew(_ thread: Thread, _ caller: Caller, _ shared: Shared, _ header: Header) -> UInt32 {
    let roomAnew = roomForAll + UInt64(ALLOCS_DEPTH_MAX) * 8
    if !Bounds.isOwn(thread, caller.stackPointer), DisarmedStack.room(thread, System.alternateStack) < roomAnew {
      return 0
    }
    return unwindAnew(thread, caller, shared, header)
  }

  @inline(never)
  private static func unwindAnew(_ thread: Thread, _ caller: Caller, _ shared: Shared, _ header: Header) -> UInt32 {
    guard let rules = shared.pointee.frame_rules else { return 0 }
    let limit = Int(shared.pointee.depth_limit)
    return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Int(ALLOCS_DEPTH_MAX)) { buffer in
      guard let pcs = buffer.baseAddress, limit > 0 else { return 0 }
      var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
      var bounds = Bounds(thread, registers)
      var count = 0
      var end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      unwinding: while count < limit {
        pcs[count] = registers.pc
        count += 1
        guard !bounds.isForeign else {
          end = ALLOCS_NODE_TRUNCATED.rawValue
          break
        }
        switch registers.step(FrameRules.rule(registers.pc, rules), high: bounds.high) {
        case .stepped: break
        case .crossedSignal: bounds = Bounds(thread, registers)
        case .ended:
          end = 0
          break unwinding
        case .lost:
          end = ALLOCS_NODE_TRUNCATED.rawValue
          break unwinding
        }
      }
      var node: UInt32 = 0
      for index in (0..<count).reversed() {
        let pc = pcs[index]
        node = StackNodes.node(
          shared, header, parent: node, pc: pc & ~Registers.interrupted,
          flags: StackNodes.flags(pc, isOutermost: index == count - 1, end))
        if node == 0 { return 0 }
      }
      return node
    }
  }
}
