// SPDX-License-Identifier: Apache-2.0
// StackCaches: what a thread's block keeps of earlier calls, and how all of it is forgotten: when a
// module was unloaded, as another module may come to lie at its addresses, and before the block
// goes to another thread.
//
// The caches belong to their threads, which may go on while another thread empties them. An empty
// key does no harm there: the thread that meets it looks its entry up once more.

import AgentMachine
import SharedLayout

enum StackCaches {
  /// Forgets everything that `thread` has looked up. May be called by another thread: the frames
  /// that a capture of `thread` may be working on stay until that thread begins its next capture.
  static func flush(_ thread: Thread) {
    for index in 0..<Int(ALLOCS_SITE_COUNT) { allocs_sites(thread)[index].key = 0 }
    for index in 0..<Int(ALLOCS_CHILD_COUNT) { allocs_children(thread)[index].pc = 0 }
    for index in 0..<UInt64(ALLOCS_INNER_SITE_COUNT) { allocs_inner_site(thread, index << 4).pointee.pc = 0 }
    allocs_stacks(thread).pointee.must_forget = 1
    thread.pointee.frame_count = 0
  }

  /// Forgets the frames kept, whose rules may be wrong by now, and the memo, if a flush has asked
  /// for it. The thread itself calls this, before a capture; until then its hooks leave the memo
  /// alone.
  @inline(__always)
  static func forgetFramesIfAsked(_ thread: Thread) {
    guard allocs_stacks(thread).pointee.must_forget != 0 else { return }
    forget(thread)
  }

  @inline(never)
  private static func forget(_ thread: Thread) {
    allocs_stacks(thread).pointee.must_forget = 0
    Stack.forgetAll(thread)
    for index in 0..<Int(ALLOCS_FRAMES_KEPT) { allocs_frames(thread)[index].pc = 0 }
  }
}
