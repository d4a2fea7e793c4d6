// SPDX-License-Identifier: Apache-2.0
// CutFrames: which frames of a stack are cut off, the outermost ones, and how many.
//
// A stack keeps as many frames as the limit of depth says, or some more: the number of frames that
// are cut off is a multiple of a step, of 64 frames, or of the limit if that is more. So stacks
// that have their outer frames in common are cut at the same frame, and have the nodes of the
// frames that both keep in common. Cut to exactly the limit, a stack that is one frame deeper than
// another would begin at another frame, and all its nodes would be new. With a step of only the
// limit, a recursive evaluator took a tenth longer with a limit of 16 frames than with 128.

import AgentMachine
import SharedLayout

enum CutFrames {
  /// The most frames that a stack keeps.
  @inline(__always)
  static func most(_ limit: Int) -> Int { limit + step(limit) - 1 }

  @inline(__always)
  private static func step(_ limit: Int) -> Int { max(64, limit) }

  /// How many frames, its innermost, a stack of `depth` frames keeps.
  @inline(__always)
  static func kept(of depth: Int, _ limit: Int) -> Int {
    depth <= most(limit)
      ? depth : limit + Int(UInt32(truncatingIfNeeded: depth - limit) % UInt32(truncatingIfNeeded: step(limit)))
  }

  /// Frames from `start` outwards, at least one, and at most as many as the thread's budget allows.
  /// The budget is worth some 20 ms at first, and grows a little with each allocation, so that no
  /// pattern of calls makes allocations slow without bound.
  @inline(never)
  static func count(_ thread: Thread, _ start: Registers, _ bounds: Bounds, _ rules: FrameRules.Cache) -> UInt32 {
    let atFirst: UInt64 = 1 << 22
    let perAllocation: UInt64 = 16
    let budget = atFirst &+ thread.pointee.entry.pointee.identity.allocations &* perAllocation
    var registers = start
    var bounds = bounds
    var count: UInt64 = 1
    counting: while thread.pointee.frames_counted &+ count < budget {
      switch registers.step(FrameRules.rule(registers.pc, rules), high: bounds.high) {
      case .stepped: break
      case .crossedSignal:
        bounds = Bounds(thread, registers)
        if bounds.isForeign { break counting }
      case .ended, .lost: break counting
      }
      count += 1
    }
    thread.pointee.frames_counted &+= count
    return UInt32(truncatingIfNeeded: count)
  }

  /// `count` rounded down, by less than 1 in 64. The number is part of the outermost node, so each
  /// number makes nodes of its own, and a recursion shall not make nodes for each of its depths.
  static func rounded(_ count: UInt32) -> UInt32 {
    let precision = 7  // bits
    let low = max(0, UInt32.bitWidth - count.leadingZeroBitCount - precision)
    return (count >> UInt32(low)) << UInt32(low)
  }
}
