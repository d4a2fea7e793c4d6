// DisarmedStack: an alternate signal stack that the kernel does not tell of, because it was set
// with SS_AUTODISARM: while the handler runs, the thread has none.
//
// The kernel wrote the stack's bounds into the signal frame, at the stack's upper end. So the
// handler's frames are walked from the stack pointer to that frame, and only if the bounds in it
// include all that was walked is the stack one. On the way each new page is asked for before it is
// read: what lies above an unknown stack pointer is not known to be mapped.
//
// That walk itself takes more of the stack than there may be. How much is left is learned by
// looking for what the kernel wrote, word by word; what is found that way is believed no further
// than to record less.

import AgentMachine
import SharedLayout

enum DisarmedStack {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let mostFrames = 128
  private static let mostPages = 64

  /// Bytes that are left on the alternate stack the thread is on; all there are if it is on none.
  static func room(_ thread: Thread, _ alternate: System.AlternateStack) -> UInt64 {
    let sp = allocs_stack_address()
    if alternate.holds(sp) { return sp - alternate.low }
    return alternate.high == 0 && thread.pointee.foreign_skips == 0 ? roomByFrame(sp) : .max
  }

  /// By the signal frame above, if it is not far.
  private static func roomByFrame(_ sp: UInt64) -> UInt64 {
    let autoDisarm: UInt64 = 1 << 31
    var place = (sp + 7) & ~7
    var readable = (sp | (pageSize - 1)) &+ 1
    let end = readable &+ 3 &* pageSize
    while place < end {
      // uc_stack: address, flags, size.
      if place &+ 24 > readable {
        guard System.canRead(readable, pageSize) else { return .max }
        readable &+= pageSize
      }
      if load(place &+ 8) & 0xFFFF_FFFF == autoDisarm {
        let low = load(place)
        let size = load(place &+ 16)
        if low <= sp, place - low < size { return sp - low }
      }
      place &+= 8
    }
    return .max
  }

  /// One past the stack's highest address; 0 if the stack pointer lies in none.
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
      let rule = Stack.rule(registers.pc, rules)
      if rule == .signalFrame {
        let words = registers.sp &+ Machine.signalStackPlace
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
        guard outcome == .lost, rule.isFrame || rule.kind == FrameRule.Kind.realigned.rawValue else { break }
      }
      // It may be the page that ends too early.
      guard pages < mostPages, System.canRead(high, pageSize) else { break }
      high &+= pageSize
      pages += 1
    }
    // A coroutine's. Of a thread that runs those, stacks are looked at more and more rarely.
    let mostMisses: UInt32 = 10
    thread.pointee.foreign_misses = min(thread.pointee.foreign_misses + 1, mostMisses)
    thread.pointee.foreign_skips = 1 << thread.pointee.foreign_misses - 1
    return 0
  }
}
