// SPDX-License-Identifier: Apache-2.0
// StackCheck: ALLOCS_STACKS=check. Each stack is unwound once more, without kept frames and without
// cached rules, and compared with the stack that readers will find. For tests: a stack takes
// microseconds.

import AgentMachine
import SharedLayout

enum StackCheck {
  /// The node that `capture` returns. It is checked, and both the check and a difference are
  /// counted.
  @inline(never)
  static func node(
    _ thread: Thread, _ caller: Caller, _ header: StackNodes.Header, _ limit: Int, _ capture: () -> UInt32
  ) -> UInt32 {
    let node = capture()
    guard node != 0 else { return 0 }
    Index.count(ALLOCS_COUNTER_STACKS_CHECKED)
    if !isRecorded(thread, caller, node, header, limit) { Index.count(ALLOCS_COUNTER_STACKS_DIFFERING) }
    return node
  }

  /// Whether `node` stands for the caller's stack, frame by frame to its end.
  private static func isRecorded(
    _ thread: Thread, _ caller: Caller, _ node: UInt32, _ header: StackNodes.Header, _ limit: Int
  ) -> Bool {
    let nodes = StackNodes.all(header)
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    var bounds = Bounds(thread, registers)
    var next = node
    for count in 1...CutFrames.most(limit) {
      guard next != 0 else { return false }
      let entry = nodes[Int(next)]
      let pc = registers.pc
      // If this frame is the outermost one, the flags of its node that say how the stack ends
      // there; nil if there is a frame further out.
      var end: UInt32? = bounds.isForeign ? ALLOCS_NODE_TRUNCATED.rawValue : nil
      if !bounds.isForeign {
        switch registers.step(FrameRules.rule(pc, nil), high: bounds.high) {
        case .stepped: break
        case .crossedSignal:
          bounds = Bounds(thread, registers)
          if bounds.isForeign { end = ALLOCS_NODE_TRUNCATED.rawValue }
        case .ended: end = 0
        case .lost: end = ALLOCS_NODE_TRUNCATED.rawValue
        }
      }
      // A frame of the agent has the node of the frame further out.
      if end == nil, OwnFrames.isOwn(pc & ~Registers.interrupted) { continue }
      if end == nil, count >= limit, entry.flags & ALLOCS_NODE_DEPTH_LIMIT.rawValue != 0 {
        end = ALLOCS_NODE_DEPTH_LIMIT.rawValue
      }
      guard entry.pc == pc & ~Registers.interrupted,
        entry.flags & (1 << ALLOCS_NODE_MODULE_SHIFT - 1) == StackNodes.flags(pc, isOutermost: end != nil, end ?? 0)
      else { return false }
      if let end { return end == ALLOCS_NODE_DEPTH_LIMIT.rawValue || entry.parent == 0 }
      next = entry.parent
    }
    return false
  }
}
