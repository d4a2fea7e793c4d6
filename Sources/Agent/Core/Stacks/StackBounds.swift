// SPDX-License-Identifier: Apache-2.0
// Bounds: the stack that a stack pointer lies in, and so the words that an unwinding step may read.
//
// A stack is known if it is the thread's own, or the alternate signal stack that the thread is on
// (DisarmedStack.swift for the stacks that the kernel does not tell of). A stack pointer anywhere
// else, for example a coroutine's, lies in no known stack: it is called foreign.

import AgentMachine
import SharedLayout

struct Bounds {
  /// One past the highest address of the stack; 0 if no stack is known there.
  private(set) var high: UInt64 = 0
  /// Whether it is the thread's own stack, whose bounds never change.
  private(set) var isOwn = false

  /// The bounds of the stack at `registers.sp`. `alternate` is the thread's alternate stack, if the
  /// kernel has been asked for it already.
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

  /// Whether `sp` lies in the thread's own stack.
  @inline(__always)
  static func isOwn(_ thread: Thread, _ sp: UInt64) -> Bool {
    sp >= thread.pointee.stack_low && sp < thread.pointee.stack_high
  }

  /// Whether no stack is known there, so that nothing may be read.
  var isForeign: Bool { high == 0 }
}
