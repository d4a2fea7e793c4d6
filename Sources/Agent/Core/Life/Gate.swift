// SPDX-License-Identifier: Apache-2.0
// Gate: keeps the index still while a thread forks whose child gets a copy of it (ForkCopy.swift).
//
// The gate stops writes to the segment; it does not stop allocation. The forking thread takes every
// thread's region table away. A hook that finds no table, and the gate closed, waits here before it
// records or erases. The fast paths of the hooks need no extra test, because they test for the
// table anyway. The copy is right for the child: an allocation that is not recorded yet belongs to
// a call that has not returned in the parent, and a block that is still recorded has not been freed
// yet.
//
// The model of the gate, for all interleavings, is Tests/Models/gate.pml.
//
// Invariants:
// - `fork_gate` is odd while the gate is closed, and only ever counts up. The gate is closed under
//   the lock of the slow paths, and threads get their blocks under that lock: a thread that the
//   closing thread did not see will see the gate closed.
// - A hook that loaded its region table before the table was taken away ends before the gate counts
//   as closed. On the closing side, membarrier orders the taking of the tables before the look at
//   each thread's `self`. The hook has the order of Hook.swift: enter, load the table, store,
//   leave.
// - A waiting thread sets `at_gate` before it looks at the gate, and clears it before it loads its
//   table again. Each of the two threads stores, then fences, then loads: the closing thread takes
//   the table away and then reads `at_gate`; the waiting thread clears `at_gate` and then loads its
//   table. So a closing thread that has seen `at_gate` set knows that the waiting thread will find
//   its table gone.
// - No thread waits for ever. A fork handler of the program may run after the gate was closed, and
//   wait for a lock whose holder waits here. So after a while a waiting thread breaks the gate
//   open. Then the copy may not be exact, and the child runs without an index.

import AgentMachine
import SharedLayout

enum Gate {
  /// The thread's region table; nil if the thread is not indexed. A hook asks for it before it
  /// writes anything to the segment, and waits here while the gate is closed. The hook has taken
  /// its `self`.
  @inline(__always)
  static func regions(_ thread: Thread) -> Regions? {
    if let regions = thread.pointee.regions { return regions }
    return hasEverClosed ? pass(thread) : nil
  }

  /// Whether a gate was ever closed, so that the region table of an indexed thread may be missing.
  @inline(__always)
  static var hasEverClosed: Bool {
    // Pairs with the release fence in `close`, after the tables were taken away.
    allocs_fence_acquire()
    return allocs_load_relaxed_u32(gate) != 0
  }

  /// Whether the thread is indexed, though its region table may have been taken away.
  static func isIndexed(_ thread: Thread) -> Bool {
    thread.pointee.regions != nil || hasEverClosed && thread.pointee.gated != 0
  }

  @inline(__always)
  private static var gate: UnsafeMutablePointer<UInt32> {
    withUnsafeMutablePointer(to: &allocs_process().pointee.fork_gate) { $0 }
  }
  private static func isClosed(_ count: UInt32) -> Bool { count & 1 != 0 }

  // MARK: threads that wait

  /// Waits until the thread has its region table again; nil if it is not indexed.
  @inline(never)
  private static func pass(_ thread: Thread) -> Regions? {
    let process = allocs_process()
    guard thread.pointee.entry != nil else { return nil }
    while true {
      let count = allocs_load_acquire_u32(gate)
      if isClosed(count) {
        // The thread that forks comes here itself: from a fork handler of the program, or from a
        // signal handler.
        if process.pointee.fork_gate_owner == thread.pointee.tid { breakOpen() }
        guard isBroken(count), let shared = process.pointee.shared else {
          wait(thread)
          continue
        }
        Threads.giveRegions(thread, shared)
        // Another thread may have closed the gate meanwhile. Then it has taken the table away, or
        // is about to.
        allocs_fence_full()
        if allocs_load_relaxed_u32(gate) == count { return thread.pointee.regions }
        continue
      }
      if let regions = thread.pointee.regions { return regions }
      allocs_fence_acquire()
      if allocs_load_relaxed_u32(gate) == count { return nil }
    }
  }

  /// Waits until the gate is open. For a thread with a block, which records nothing before this
  /// returns: so the closing thread need not wait for it.
  static func wait(_ thread: Thread) {
    let flag = withUnsafeMutablePointer(to: &thread.pointee.at_gate) { $0 }
    _ = allocs_exchange_u32(flag, 1)
    waitUntilOpen()
    _ = allocs_exchange_u32(flag, 0)
  }

  /// Waits until the gate is open. For a thread that has no block yet. Not under the lock.
  static func waitUntilOpen() {
    let count = allocs_load_acquire_u32(gate)
    guard isClosed(count), !isBroken(count) else { return }
    // The copy of a large index takes its time, and is waited for. The fork itself is waited for
    // no longer than this.
    let patience: UInt64 = 2_000_000_000
    var start: UInt64 = 0
    while allocs_load_acquire_u32(gate) == count {
      System.wait(on: gate, while: count, nanoseconds: 100_000_000)
      if isBroken(count) { return }
      guard ForkCopy.isCopied else { continue }
      let now = System.nanoseconds(.monotonic)
      if start == 0 { start = now }
      if now &- start > patience { return breakOpen() }
    }
  }

  /// Whether the gate is closed. Called under the lock of the slow paths.
  static var isClosed: Bool {
    let count = allocs_load_acquire_u32(gate)
    return isClosed(count) && !isBroken(count)
  }

  // MARK: whether the copy is exact

  /// The count of the last gate that was broken open. The word lies in a page that parent and child
  /// share, so that the child sees whether its gate was broken open before it started.
  private static var broken: UnsafeMutablePointer<UInt32>? { allocs_process().pointee.broken_gate }

  /// Whether the gate that was closed as `count`, or a later one, was broken open: then something
  /// was recorded after the copy.
  static func isBroken(_ count: UInt32) -> Bool { broken.map { allocs_load_acquire_u32($0) >= count } ?? true }

  /// Lets all waiting threads go on, though the gate is closed.
  static func breakOpen() {
    guard let broken else { return }
    let count = allocs_load_acquire_u32(gate)
    guard isClosed(count) else { return }
    if allocs_exchange_u32(broken, count) != count { Index.count(ALLOCS_COUNTER_FORKS_UNFOLLOWED) }
    System.wakeAll(gate)
  }

  /// Opens the gate in a child of fork. False if the copy that was made while the gate was closed
  /// is not exact.
  static func openInChild() -> Bool {
    let count = allocs_load_relaxed_u32(gate)
    let isExact = isClosed(count) && !isBroken(count)
    if isClosed(count) { allocs_store_release_u32(gate, count &+ 1) }
    allocs_process().pointee.fork_gate_owner = 0
    return isExact
  }

  // MARK: the thread that closes it

  enum Closing {
    case closed
    /// Another thread has closed the gate.
    case busy
    case failed
  }

  /// Takes all region tables away, and waits until no other thread can write to the segment. If the
  /// threads do not come to rest in time, the gate is open afterwards. Calls nothing but the
  /// kernel, because it may run in a signal handler.
  static func close(_ shared: UnsafeMutablePointer<allocs_shared>) -> Closing {
    let process = allocs_process()
    // In a signal handler that interrupted a hook, the other threads may be waiting for this
    // thread.
    let patience: UInt64 = allocs_is_inside() ? 200_000_000 : 2_000_000_000
    let deadline = System.nanoseconds(.monotonic) &+ patience
    guard takeLock(shared, until: deadline) else { return .failed }
    let count = allocs_load_acquire_u32(gate)
    guard !isClosed(count) else {
      freeLock(shared)
      return .busy
    }
    process.pointee.fork_gate_owner = System.threadID
    _ = allocs_exchange_u32(gate, count &+ 1)
    Threads.forEach(shared) { thread in
      guard thread.pointee.regions != nil else { return }
      thread.pointee.gated = 1
      Threads.takeRegions(thread)
    }
    allocs_fence_release()
    freeLock(shared)
    guard System.synchronizeThreads(), waitForAll(shared, until: deadline) else {
      open(shared)
      return .failed
    }
    return .closed
  }

  static func open(_ shared: UnsafeMutablePointer<allocs_shared>) {
    giveBack(shared)
    allocs_process().pointee.fork_gate_owner = 0
    allocs_store_release_u32(gate, allocs_load_relaxed_u32(gate) &+ 1)
    System.wakeAll(gate)
  }

  private static func giveBack(_ shared: UnsafeMutablePointer<allocs_shared>) {
    Threads.forEach(shared) { thread in
      guard thread.pointee.gated != 0 else { return }
      thread.pointee.gated = 0
      Threads.giveRegions(thread, shared)
    }
  }

  private static func waitForAll(_ shared: UnsafeMutablePointer<allocs_shared>, until deadline: UInt64) -> Bool {
    let own = allocs_own_thread_local()
    while true {
      var isQuiet = allocs_load_acquire_u32(&shared.pointee.lock) == 0
      Threads.forEach(shared) { thread in
        guard let local = thread.pointee.local, local != own else { return }
        if isInside(thread, local) { isQuiet = false }
      }
      if isQuiet { return true }
      if System.nanoseconds(.monotonic) > deadline { return false }
      System.sleep(nanoseconds: 50_000)
    }
  }

  /// Whether another thread is inside a hook and not at the gate. Its `self` is read by the kernel,
  /// because a thread that has ended may have taken its thread-local storage with it; such a thread
  /// is in no hook.
  private static func isInside(_ thread: Thread, _ local: UnsafePointer<allocs_thread_local>) -> Bool {
    let flag = withUnsafeMutablePointer(to: &thread.pointee.at_gate) { $0 }
    if allocs_load_acquire_u32(flag) != 0 { return false }
    let words = UnsafeMutableRawPointer(mutating: UnsafeRawPointer(local)).assumingMemoryBound(to: UInt32.self)
    let own = UInt32(truncatingIfNeeded: UInt(bitPattern: thread))
    return System.holds(words, 0) && System.holds(words + 2, own)
  }

  // MARK: the lock of the slow paths, with a deadline

  private static func takeLock(_ shared: UnsafeMutablePointer<allocs_shared>, until deadline: UInt64) -> Bool {
    let word = withUnsafeMutablePointer(to: &shared.pointee.lock) { $0 }
    while !allocs_compare_exchange_u32(word, 0, 1) {
      if System.nanoseconds(.monotonic) > deadline { return false }
      System.sleep(nanoseconds: 20_000)
    }
    return true
  }
  private static func freeLock(_ shared: UnsafeMutablePointer<allocs_shared>) {
    let word = withUnsafeMutablePointer(to: &shared.pointee.lock) { $0 }
    if allocs_exchange_u32(word, 0) == 2 { System.wakeOne(word) }
  }
}
