// SPDX-License-Identifier: Apache-2.0
// LeftCalls: calls of a hook that never return, because something jumped out of them. A signal
// handler does so by siglongjmp, out of an allocator that faulted on a wild pointer; a forced
// unwinding does so, of a thread that is cancelled.
//
// Such a hook has taken its thread's block and does not put it back. The thread's next allocation
// finds the block taken, as it would inside the hook, and has to tell the two cases apart. It looks
// outwards along the stack: if the hook still runs, its frame is there. The hook counts as left
// only if the stack is known to its end, or to beyond the call of the hook. Where a frame cannot be
// left by call frame information, as in a coroutine that was switched to inside an allocator, the
// block stays taken, and the thread's blocks are counted as nested.
//
// The paths of malloc and free note nothing for this. Where operator new calls malloc, the agent is
// nearly always the caller's caller: call sites where that was seen are kept, each with the
// distance of the word on the stack that is the agent's return address. Such a site's stack is the
// stack of the operator's caller and one frame more, so that it need not be captured (`isDirect`).

import AgentMachine
import SharedLayout

enum LeftCalls {
  /// Where the agent's own code lies.
  static func findAgent(_ process: UnsafeMutablePointer<allocs_process>) {
    #if !ALLOCS_INEXE
      var map: UnsafeMutablePointer<link_map>?
      let own = UInt64(UInt(bitPattern: allocs_own_module))
      if !allocs_find_module(own, &process.pointee.agent_start, &process.pointee.agent_end, &map) {
        process.pointee.agent_end = 0
      }
    #endif
  }

  /// Called when another hook has the thread's block. True if the program jumped out of that hook:
  /// the block is then as just after `allocs_enter`.
  @inline(__always)
  static func takeBack(_ outer: Thread, _ caller: Caller) -> Bool {
    isKnownInside(outer, caller) ? false : takeBackSlowly(outer, caller)
  }

  @inline(__always)
  private static func isKnownInside(_ outer: Thread, _ caller: Caller) -> Bool {
    guard caller.isKnown else { return false }
    if isAgent(caller.site) { return true }  // the function below only jumps to the hook
    let site = allocs_inner_site(outer, caller.site)
    return site.pointee.pc == caller.site && isAgent(load(UInt64(caller.returnSlot) &+ site.pointee.distance))
  }

  @inline(__always)
  private static func isAgent(_ pc: UInt64) -> Bool {
    let process = allocs_process()
    return pc &- process.pointee.agent_start < process.pointee.agent_end &- process.pointee.agent_start
  }

  /// Whether the outermost operator new has called the function that calls the hook here, with no
  /// frame between. The agent's return address is the one that was seen above this site, so the
  /// frame above it is as large as it was then; and where it ends lies the return address of that
  /// operator.
  @inline(__always)
  static func isDirect(_ outer: Thread, _ caller: Caller) -> Bool {
    guard caller.isKnown else { return false }
    let site = allocs_inner_site(outer, caller.site)
    let slot = UInt64(caller.returnSlot)
    return site.pointee.pc == caller.site && slot &+ site.pointee.hook_distance == outer.pointee.operator_return_slot
      && load(slot &+ site.pointee.distance) == site.pointee.agent_pc
  }

  @inline(never)
  private static func takeBackSlowly(_ outer: Thread, _ caller: Caller) -> Bool {
    guard hasLeft(outer, caller) else { return false }
    Index.count(ALLOCS_COUNTER_CALLS_LEFT)
    if outer.pointee.resizing != 0 {
      // The allocator may have freed it, or not.
      Index.count(ALLOCS_COUNTER_BLOCKS_LEFT)
      outer.pointee.resizing = 0
    }
    // A signal may have interrupted the agent's own work.
    outer.pointee.capturing = 0
    outer.pointee.events.recording = 0
    StackCaches.flush(outer)
    outer.pointee.operator_return_slot = 0  // something else may lie there by now
    Event.endDelegation(outer, nil)
    return true
  }

  private static func hasLeft(_ outer: Thread, _ caller: Caller) -> Bool {
    let process = allocs_process()
    guard caller.isKnown, outer.pointee.entry != nil, !allocs_holds_lock(), let shared = process.pointee.shared,
      let rules = shared.pointee.frame_rules
    else { return false }
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    var bounds = Bounds(outer, registers)
    // Where the hook was called.
    let hook = outer.pointee.outer_return_slot
    let isHookOnOwn = hook >= outer.pointee.stack_low && hook < outer.pointee.stack_high
    // No call can be made from inside another whose return address lies below its own.
    if bounds.isOwn, isHookOnOwn, UInt64(caller.returnSlot) >= hook { return true }
    // Linked into the executable, the agent's code cannot be told from the program's.
    guard process.pointee.agent_end != 0 else { return false }
    let mostFrames = 1 << 16
    for count in 0..<mostFrames {
      if isAgent(registers.pc & ~Registers.interrupted) {
        if count == 1 { keep(outer, caller, FrameRules.rule(caller.site, rules), registers, rules, bounds) }
        return false
      }
      guard !bounds.isForeign else { return false }
      if bounds.isOwn, isHookOnOwn, registers.sp > hook &+ 8 { return true }
      let rule = FrameRules.rule(registers.pc, rules)
      // A step by the frame pointer may skip frames.
      if rule == .withoutInformation { return false }
      switch registers.step(rule, high: bounds.high) {
      case .stepped: break
      case .crossedSignal: bounds = Bounds(outer, registers)
      case .ended: return true
      case .lost: return false
      }
    }
    return false
  }

  /// Notes a call site in a function that the agent has called. If the frame of that function is
  /// found by the stack pointer, the return address to the agent lies at one distance from the
  /// stack pointer, in every call.
  /// `agent`: the registers of the agent's frame.
  private static func keep(
    _ outer: Thread, _ caller: Caller, _ rule: FrameRule, _ agent: Registers, _ rules: FrameRules.Cache,
    _ bounds: Bounds
  ) {
    guard rule.isFrame, !rule.isBasedOnFramePointer else { return }
    let site = allocs_inner_site(outer, caller.site)
    site.pointee.pc = 0
    allocs_fence_signal()
    site.pointee.distance = 8 &+ rule.offset &- rule.returnAddress
    site.pointee.agent_pc = agent.pc
    site.pointee.hook_distance = 0
    var behind = agent
    if !bounds.isForeign, behind.step(FrameRules.rule(agent.pc, rules), high: bounds.high) == .stepped {
      // The return address of a hook lies right below the frame of its caller.
      site.pointee.hook_distance = behind.sp &- 8 &- UInt64(caller.returnSlot)
    }
    allocs_fence_signal()
    site.pointee.pc = caller.site
  }
}
