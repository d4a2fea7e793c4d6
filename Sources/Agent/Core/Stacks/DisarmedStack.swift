// SPDX-License-Identifier: Apache-2.0
// DisarmedStack: an alternate signal stack that the kernel does not tell of, because it was set
// with SS_AUTODISARM: while the handler runs, the thread has no alternate stack.
//
// The kernel wrote the bounds of the stack into the signal frame, at the upper end of the stack. So
// the handler's frames are walked from the stack pointer up to the signal frame. Only if the bounds
// in that frame include all that was walked is the stack believed to be one. On the way the kernel
// is asked for each new page before the page is read: memory above an unknown stack pointer may not
// be mapped.
//
// The walk itself may take more of the stack than is left. So the room that is left is learned
// first, by looking, word by word, for the words that the kernel wrote. Bounds found in that way
// are trusted for one decision alone: to record less.

import AgentMachine
import SharedLayout

enum DisarmedStack {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let mostFrames = 128
  private static let mostPages = 64

  /// Bytes that are left on the alternate stack that the thread is on; UInt64.max if it is on none.
  static func room(_ thread: Thread, _ alternate: System.AlternateStack) -> UInt64 {
    let sp = allocs_stack_address()
    if alternate.holds(sp) { return sp - alternate.low }
    return alternate.high == 0 && thread.pointee.foreign_skips == 0 ? roomByFrame(sp) : .max
  }

  /// The room that is left, by a signal frame that lies not far above `sp`.
  private static func roomByFrame(_ sp: UInt64) -> UInt64 {
    let autoDisarm: UInt64 = 1 << 31
    var address = (sp + 7) & ~7
    var readable = (sp | (pageSize - 1)) &+ 1
    let end = readable &+ 3 &* pageSize
    while address < end {
      // uc_stack: address, flags, size.
      if address &+ 24 > readable {
        guard System.canRead(readable, pageSize) else { return .max }
        readable &+= pageSize
      }
      if load(address &+ 8) & 0xFFFF_FFFF == autoDisarm {
        let low = load(address)
        let size = load(address &+ 16)
        if low <= sp, address - low < size { return sp - low }
      }
      address &+= 8
    }
    return .max
  }

  /// One past the highest address of the stack that `start` is on; 0 if the stack pointer lies in
  /// no disarmed stack.
  @inline(never)
  static func end(_ thread: Thread, _ start: Registers) -> UInt64 {
    guard let rules = allocs_process().pointee.shared?.pointee.frame_rules else { return 0 }
    if thread.pointee.foreign_skips != 0 {
      thread.pointee.foreign_skips -= 1
      return 0
    }
    var registers = start
    var high = (start.sp | (pageSize - 1)) &+ 1
    var pages = 1
    var frames = 0
    while frames < mostFrames {
      let rule = FrameRules.rule(registers.pc, rules)
      if rule == .signalFrame {
        let words = registers.sp &+ Machine.signalStack
        if words &+ 24 <= high {
          let (low, size) = (load(words), load(words &+ 16))
          guard low <= start.sp, words - low < size, size - (words - low) >= 24, low &+ size > low else { break }
          thread.pointee.foreign_misses = 0
          return low &+ size
        }
      } else {
        let outcome = rule == .withoutInformation ? .lost : registers.step(rule, high: high)
        if outcome == .stepped {
          frames += 1
          continue
        }
        guard outcome == .lost, rule.isFrame || rule.kind == .realigned else { break }
      }
      // The step may have failed only because the page that may be read ends too early.
      guard pages < mostPages, System.canRead(high, pageSize) else { break }
      high &+= pageSize
      pages += 1
    }
    // The stack is a coroutine's. If a thread runs on such stacks often, they are looked at more
    // and more rarely.
    let mostMisses: UInt32 = 10
    thread.pointee.foreign_misses = min(thread.pointee.foreign_misses + 1, mostMisses)
    thread.pointee.foreign_skips = 1 << thread.pointee.foreign_misses - 1
    return 0
  }
}
