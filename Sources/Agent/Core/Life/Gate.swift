// Gate: keeps the index still while a thread forks whose child gets a copy of it (Heritage.swift).
//
// What lies inside the gate is writing to the segment, not allocating. The thread that forks takes the region tables of
// all threads away; a hook that finds none and the gate closed waits here, before it records or erases. So the hooks'
// paths test nothing that they did not test before. What was taken from the allocator below and is not yet recorded
// belongs to a call that has not returned; what is still recorded has not been freed: a copy made meanwhile says of
// each block what is true in the child.
//
// Invariants:
// - `fork_gate` is odd while the gate is closed, and only ever counts up. It is closed under the lock of the slow
//   paths, under which threads get their blocks: a thread that the closing one did not see, sees the gate closed.
// - A hook that loaded its region table before it was taken away ends before the gate counts as closed: membarrier
//   orders the taking before the look at `self`, and the hook's own order is that of Hook.swift: enter, load the table,
//   store, leave.
// - `at_gate` is set before the gate is looked at and cleared before the table is loaded again; with the fence between,
//   a closing thread that has seen it set knows that the waiting one will find its table gone (store, fence, load on
//   both sides).
// - Nobody waits for ever. What a fork handler that runs after the closing waits for may be a lock whose holder waits
//   here: after a while the waiting thread breaks the gate. Then the copy may not be exact, and the child runs without
//   an index.

import AgentMachine
import SharedLayout

enum Gate {
  /// The thread's region table, to be asked for before anything is written to the segment; nil if it is not indexed.
  /// Waits at the gate. The caller has taken its `self`.
  @inline(__always)
  static func regions(_ thread: Thread) -> Regions? {
    if let regions = thread.pointee.regions { return regions }
    return hasEverClosed ? pass(thread) : nil
  }

  /// Whether a region table may be missing for another reason than that the thread is not indexed.
  @inline(__always)
  static var hasEverClosed: Bool {
    // Pairs with the release of the table's taking.
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

  // MARK: who waits

  @inline(never)
  private static func pass(_ thread: Thread) -> Regions? {
    let process = allocs_process()
    guard thread.pointee.entry != nil else { return nil }
    while true {
      let count = allocs_load_acquire_u32(gate)
      if isClosed(count) {
        // A fork handler of the program's, or a signal handler, on the thread that forks.
        if process.pointee.fork_gate_owner == thread.pointee.tid { breakOpen() }
        guard isBroken(count), let shared = process.pointee.shared else {
          wait(thread)
          continue
        }
        Threads.giveRegions(thread, shared)
        // Another gate may have been closed meanwhile; then it has taken the table, or is about to.
        allocs_fence_full()
        if allocs_load_relaxed_u32(gate) == count { return thread.pointee.regions }
        continue
      }
      if let regions = thread.pointee.regions { return regions }
      allocs_fence_acquire()
      if allocs_load_relaxed_u32(gate) == count { return nil }
    }
  }

  /// For a thread that does not go on to record before this returns.
  static func wait(_ thread: Thread) {
    let flag = withUnsafeMutablePointer(to: &thread.pointee.at_gate) { $0 }
    _ = allocs_exchange_u32(flag, 1)
    waitUntilOpen()
    _ = allocs_exchange_u32(flag, 0)
  }

  /// For a thread that has no block yet. Not under the lock.
  static func waitUntilOpen() {
    let count = allocs_load_acquire_u32(gate)
    guard isClosed(count), !isBroken(count) else { return }
    // The copy of a large index takes its time; the fork itself is not waited for any longer than this.
    let patience: UInt64 = 2_000_000_000
    var start: UInt64 = 0
    while allocs_load_acquire_u32(gate) == count {
      System.wait(on: gate, while: count, nanoseconds: 100_000_000)
      if isBroken(count) { return }
      guard Heritage.isCopied else { continue }
      let now = System.nanoseconds(.monotonic)
      if start == 0 { start = now }
      if now &- start > patience { return breakOpen() }
    }
  }

  /// Whether the gate is closed; asked under the lock of the slow paths.
  static var isClosed: Bool {
    let count = allocs_load_acquire_u32(gate)
    return isClosed(count) && !isBroken(count)
  }

  // MARK: whether the copy is exact

  /// In a page that parent and child share, so that the child sees what happened up to its start: the count of the last
  /// gate that was broken.
  private static var broken: UnsafeMutablePointer<UInt32>? { allocs_process().pointee.broken_gate }

  /// Whether the gate that was closed as `count`, or a later one, was broken: something was recorded after the copy.
  static func isBroken(_ count: UInt32) -> Bool { broken.map { allocs_load_acquire_u32($0) >= count } ?? true }

  /// Lets everybody go on who waits.
  static func breakOpen() {
    guard let broken else { return }
    let count = allocs_load_acquire_u32(gate)
    guard isClosed(count) else { return }
    if allocs_exchange_u32(broken, count) != count { Index.count(ALLOCS_COUNTER_FORKS_UNFOLLOWED) }
    System.wakeAll(gate)
  }

  /// In a child of fork: the gate is open. False if the copy that was made while it was closed is not exact.
  static func openInChild() -> Bool {
    let count = allocs_load_relaxed_u32(gate)
    let isExact = isClosed(count) && !isBroken(count)
    if isClosed(count) { allocs_store_release_u32(gate, count &+ 1) }
    allocs_process().pointee.fork_gate_owner = 0
    return isExact
  }

  // MARK: who closes it

  enum Closing {
    case closed
    /// Another thread has closed it.
    case busy
    case failed
  }

  /// Takes all region tables away, and waits until no other thread can write to the segment. If that cannot be had, the
  /// gate is open. Calls nothing but the kernel: it may run in a signal handler.
  static func close(_ shared: UnsafeMutablePointer<allocs_shared>) -> Closing {
    let process = allocs_process()
    // In a signal handler inside a hook, this thread may itself be what the others wait for.
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
      thread.pointee.free_regions = nil
      thread.pointee.regions = nil
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

  /// Whether another thread is inside a hook and not at the gate. Its `self` is looked at through the kernel: a thread
  /// that has ended may have taken its thread-local storage with it, and then it is not.
  private static func isInside(_ thread: Thread, _ local: UnsafePointer<allocs_thread_local>) -> Bool {
    let flag = withUnsafeMutablePointer(to: &thread.pointee.at_gate) { $0 }
    if allocs_load_acquire_u32(flag) != 0 { return false }
    let words = UnsafeMutableRawPointer(mutating: UnsafeRawPointer(local)).assumingMemoryBound(to: UInt32.self)
    let own = UInt32(truncatingIfNeeded: UInt(bitPattern: thread))
    return System.holds(words, 0) && System.holds(words + 2, own)
  }

  // MARK: the lock of the slow paths, with patience

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
