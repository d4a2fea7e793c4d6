// Event: what happened, for whoever keeps account of it. Today that is the Index.
//
// All run with the thread's `self` taken. "Inner" events come from a hook inside another hook.

import AgentMachine
import SharedLayout

enum Event {
  /// The allocator below returned `block` for `size` bytes; nobody else knows it yet.
  @inline(__always)
  static func postAlloc(
    _ thread: Thread, _ block: Block, _ size: Int, _ alignment: Int, _ caller: Caller, _ function: allocs_function,
    allocator: UInt32 = 0
  ) {
    guard let regions = thread.pointee.regions else { return }
    let context = Contexts.context(thread, caller, function, allocator: allocator)
    record(thread, regions, block, size, alignment, context)
  }

  /// The same for an allocation like one before: its `context` is known, its 2 KiB of heap are in use. False, and nothing
  /// done, if it is not. Calls nothing.
  @inline(__always)
  static func postKnownAlloc(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ context: UInt32
  ) -> Bool {
    guard context != 0,
      Index.recordKnown(regions, UInt(bitPattern: block), UInt(bitPattern: size), context)
    else { return false }
    thread.pointee.entry.pointee.identity.allocations &+= 1
    return true
  }

  @inline(__always)
  private static func record(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ alignment: Int, _ context: UInt32
  ) {
    if Index.record(regions, UInt(bitPattern: block), UInt(bitPattern: size), UInt(bitPattern: alignment), context) {
      thread.pointee.entry.pointee.identity.allocations &+= 1
    }
  }

  /// `block` is about to go back. False, and nothing done, if it has no record, or more must be done. Calls nothing.
  @inline(__always)
  static func preKnownFree(_ thread: Thread, _ block: Block) -> Bool {
    guard let regions = thread.pointee.free_regions, Index.erase(regions, UInt(bitPattern: block)) != 0 else {
      return false
    }
    thread.pointee.entry.pointee.identity.frees &+= 1
    return true
  }

  /// `block` is about to go back. Gives its erased record, 0 if it had none.
  @inline(__always) @discardableResult
  static func preFree(_ thread: Thread, _ block: Block) -> UInt64 {
    guard let regions = thread.pointee.regions else { return 0 }
    let old = Index.erase(regions, UInt(bitPattern: block))
    if old != 0 {
      thread.pointee.entry.pointee.identity.frees &+= 1
      if thread.pointee.free_regions == nil { dropNested(regions, block, old) }
    } else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_FREES)
    }
    return old
  }

  /// What suballocators have handed out of `block`, erased with record `old`, goes with it.
  @inline(never)
  private static func dropNested(_ regions: Regions, _ block: Block, _ old: UInt64) {
    let base = UInt(bitPattern: block)
    Nested.dropChunk(base, old, Index.size(regions, base, erased: old))
  }

  /// A realloc failed: `block`, erased with record `old` by `preFree`, lives on.
  @inline(never)
  static func reallocFailed(_ thread: Thread, _ block: Block, _ old: UInt64) {
    guard old != 0, let regions = thread.pointee.regions else { return }
    Index.restore(regions, UInt(bitPattern: block), old)
    thread.pointee.entry.pointee.identity.frees &-= 1
    Index.count(ALLOCS_COUNTER_REALLOC_FAILED)
  }

  // MARK: inside another hook

  /// An allocation inside a hook of `outer`. Where the outer function works by calling this one, the outer event
  /// will tell of the block; so it is only noted. Elsewhere it is the allocator's own, or a signal handler's.
  @inline(never)
  static func innerAlloc(
    _ outer: Thread, _ block: Block?, _ size: Int, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0
  ) {
    guard outer.pointee.delegating != 0 else {
      if block != nil { Index.count(ALLOCS_COUNTER_NESTED) }
      return
    }
    guard let block else {
      // operator new found no memory and will call the new-handler, which is the program's code: from here on the
      // thread is outside, and operator new itself will be recorded once more when it succeeds.
      if outer.pointee.delegating == ALLOCS_DELEGATING_OPERATOR.rawValue {
        outer.pointee.delegating = 0
        allocs_leave(outer)
      }
      return
    }
    // operator new(nothrow) calls operator new, which calls malloc: one block, noted once.
    guard outer.pointee.inner_base != UInt64(UInt(bitPattern: block)) else { return }
    // First of all: it may allocate.
    let isBusy = outer.pointee.regions == nil || outer.pointee.capturing != 0
    let context = isBusy ? 0 : Contexts.context(outer, caller, function, allocator: allocator)
    noteInner(outer)
    outer.pointee.inner_base = UInt64(UInt(bitPattern: block))
    outer.pointee.inner_size = UInt64(UInt(bitPattern: size))
    outer.pointee.inner_context = context
  }

  /// A free inside a hook: erases the record if there is one, which a signal handler's free has.
  @inline(never) @discardableResult
  static func innerFree(_ outer: Thread, _ block: Block) -> UInt64 {
    if outer.pointee.inner_base == UInt64(UInt(bitPattern: block)) { outer.pointee.inner_base = 0 }
    guard let regions = outer.pointee.regions else { return 0 }
    let old = Index.erase(regions, UInt(bitPattern: block))
    if old != 0 {
      outer.pointee.entry.pointee.identity.frees &+= 1
      if outer.pointee.free_regions == nil { dropNested(regions, block, old) }
    }
    return old
  }

  /// The outer function returned `block`. An inner block that is not it is one of its own.
  @inline(__always)
  static func endDelegation(_ thread: Thread, _ block: Block?) {
    thread.pointee.delegating = 0
    if thread.pointee.inner_base == UInt64(UInt(bitPattern: block)) {
      thread.pointee.inner_base = 0
    } else {
      noteInner(thread)
    }
  }

  /// operator new returned `block` after the new-handler had run: the malloc inside it was recorded like any other,
  /// and gives way to the record of operator new.
  @inline(never)
  static func replaceInner(_ thread: Thread, _ block: Block) {
    guard let regions = thread.pointee.regions else { return }
    if Index.erase(regions, UInt(bitPattern: block)) != 0 { thread.pointee.entry.pointee.identity.frees &+= 1 }
  }

  /// Records the noted inner block, if there is one.
  @inline(never)
  private static func noteInner(_ thread: Thread) {
    guard thread.pointee.inner_base != 0, let block = Block(bitPattern: UInt(thread.pointee.inner_base)) else { return }
    thread.pointee.inner_base = 0
    guard let regions = thread.pointee.regions else { return }
    record(
      thread, regions, block, Int(bitPattern: UInt(thread.pointee.inner_size)), 0, thread.pointee.inner_context)
  }
}
