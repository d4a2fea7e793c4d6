// DisarmedStack: an alternate signal stack that the kernel does not tell of, because it was set with SS_AUTODISARM: while the
// handler runs, the thread has none.
//
// The kernel wrote the stack's bounds into the signal frame, at the stack's upper end. So the handler's frames are walked from the
// stack pointer to that frame, and only if the bounds in it include all that was walked is the stack one. On the way each
// new page is asked for before it is read: what lies above an unknown stack pointer is not known to be mapped.

import AgentMachine
import SharedLayout

enum DisarmedStack {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)
  private static let mostFrames = 128
  private static let mostPages = 64

  /// One past the stack's highest address; 0 if the stack pointer lies in none.
  @inline(never)
  static func end(_ thread: Thread, _ start: Registers) -> UInt64 {
    guard let rules = allocs_process().pointee.shared?.pointee.frame_rules else { return 0 }
    // A coroutine that allocates does so again: nobody walks to the end of its stack each time.
    let now = allocs_now()
    if start.sp >= thread.pointee.foreign_low, start.sp < thread.pointee.foreign_high,
      thread.pointee.foreign_ticks == now
    {
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
          if low <= start.sp, words - low < size, words - low <= size - 24, low &+ size > low { return low &+ size }
          break
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
    thread.pointee.foreign_low = start.sp & ~(pageSize - 1)
    thread.pointee.foreign_high = high
    thread.pointee.foreign_ticks = now
    return 0
  }
}
