// SPDX-License-Identifier: Apache-2.0
// OwnFrames: frames of the agent between frames of the program. They come from the stubs around
// declared functions (Pools/Declarations.swift), and from operators of C++, which may run the
// program's new-handler. Readers never see them.

import AgentMachine
import SharedLayout

enum OwnFrames {
  /// Whether `pc` lies in the agent's code. The node of a stack, which is a small number, never
  /// does.
  @inline(__always)
  static func isOwn(_ pc: UInt64) -> Bool {
    pc &- allocs_process().pointee.own_start < allocs_process().pointee.own_size
  }

  /// The return address of the program's call that led, through functions of the agent, to the call
  /// of `caller`; the site of `caller` itself if the program's call cannot be found.
  @inline(never)
  static func siteBehind(_ thread: Thread, _ caller: Caller) -> UInt64 {
    var registers = Registers(sp: caller.stackPointer, pc: caller.site, fp: caller.framePointer)
    let bounds = Bounds(thread, registers)
    while isOwn(registers.pc) {
      guard !bounds.isForeign, registers.step(FrameRules.rule(registers.pc, nil), high: bounds.high) == .stepped else {
        return caller.site
      }
    }
    return registers.pc
  }
}
