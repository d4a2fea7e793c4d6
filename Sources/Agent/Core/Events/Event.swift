// SPDX-License-Identifier: Apache-2.0
// Event: what happened, for those who keep account of it: the index always, and the thread's ring
// of events while events are on.
//
// All functions run with the thread's `self` taken. An *inner* allocation or free comes from a hook
// inside another hook, the *outer* one.

import AgentMachine
import SharedLayout

enum Event {
  /// The allocator returned `block` for `size` bytes; nobody else knows it yet. `isTight`: the
  /// blocks of the allocator that served the call may lie closer than 32 bytes.
  @inline(__always)
  static func postAlloc(
    _ thread: Thread, _ block: Block, _ size: Int, _ alignment: Int, _ caller: Caller, _ function: allocs_function,
    _ kind: allocs_event_kind = ALLOCS_EVENT_ALLOC, origin: UInt32 = 0, allocator: UInt32 = 0, isTight: Bool
  ) {
    guard let regions = Gate.regions(thread) else {
      if isUnentered(thread) { Index.count(ALLOCS_COUNTER_UNENTERED) }
      return
    }
    let context = Contexts.context(thread, caller, function, allocator: allocator)
    record(thread, regions, block, size, alignment, context, kind, origin: origin, isTight: isTight)
  }

  /// Whether the thread is not indexed though the process is: there was no memory for the thread's
  /// block. Then each block that it allocates is a loss.
  @inline(__always)
  static func isUnentered(_ thread: Thread) -> Bool {
    let process = allocs_process()
    return withUnsafeMutablePointer(to: &process.pointee.passive) { $0 == thread }
      && allocs_load_acquire_u32(&process.pointee.phase) == ALLOCS_PHASE_READY.rawValue
  }

  /// As `postAlloc`, for an allocation like earlier ones, while events are off. False, and nothing
  /// done, if its 2 KiB of heap were not in use, or the clock has moved since the thread looked, or
  /// `context`, which stands where the head of a slot has it, is nil. Calls nothing.
  ///
  /// `context` is found last: before, there is less to keep in registers.
  @inline(__always)
  static func postKnownAlloc(
    _ thread: Thread, _ regions: Regions, _ block: Block?, _ size: Int, _ context: @autoclosure () -> UInt64?
  ) -> Bool {
    // No block has the address 0, so the memory there was never in use.
    let base = unsafeBitCast(block, to: UInt.self)
    guard let arena = Index.knownArena(regions, base), Clock.isSame(thread), let context = context() else {
      return false
    }
    Totals.add(thread, context: context, size)
    Index.recordKnown(thread, arena, base, UInt(bitPattern: size), context: context)
    countAllocation(thread)
    return true
  }

  /// As `postKnownAlloc`, for a block that goes to a fine slot.
  @inline(__always)
  static func postKnownFineAlloc(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ context: UInt64?
  ) -> Bool {
    guard let context, Clock.isSame(thread),
      Fine.recordKnown(
        regions, UInt(bitPattern: block), UInt(bitPattern: size), context: context, time: thread.pointee.time,
        before: { Totals.add(thread, context: context, size) })
    else { return false }
    countAllocation(thread)
    return true
  }

  @inline(__always)
  private static func countAllocation(_ thread: Thread) {
    thread.pointee.entry.pointee.identity.allocations &+= 1
  }

  @inline(__always)
  private static func countFree(_ thread: Thread) { thread.pointee.entry.pointee.identity.frees &+= 1 }

  @inline(__always)
  private static func record(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ alignment: Int, _ context: UInt32,
    _ kind: allocs_event_kind = ALLOCS_EVENT_ALLOC, origin: UInt32 = 0, isTight: Bool
  ) {
    if Events.areOn { return recordAll(thread, regions, block, size, alignment, context, kind, origin, isTight) }
    Totals.add(thread, context, size)
    if Index.record(
      regions, UInt(bitPattern: block), UInt(bitPattern: size), UInt(bitPattern: alignment), context,
      UInt32(truncatingIfNeeded: Clock.time(thread) >> 33), isTight: isTight)
    {
      countAllocation(thread)
    } else {
      Totals.takeBack(thread, context, size)
    }
  }

  /// As `postKnownAlloc`, while events are on. The thread's ring must be ready, too, and the event
  /// must need no clock. Calls nothing.
  @inline(__always)
  static func postKnownAllocRecorded(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ context: UInt64?
  ) -> Bool {
    let base = UInt(bitPattern: block)
    guard let context = context.map({ allocs_slot_context($0) }), let arena = Index.knownArena(regions, base),
      Events.beginKnown(thread)
    else {
      Events.end(thread)
      return false
    }
    let stamp = Stamps.ofKnownAllocation(thread, arena, base, UInt(bitPattern: size))
    guard stamp != 0 else {
      Events.end(thread)
      return false
    }
    thread.pointee.events.stamp = stamp
    Totals.add(thread, context, size)
    Index.write(Index.place(arena, base), base, UInt(bitPattern: size), 0, context, thread.pointee.events.ticks)
    countAllocation(thread)
    Events.append(
      thread, ALLOCS_EVENT_ALLOC, base, UInt64(UInt(bitPattern: size)), context: context, stamp: stamp)
    Events.end(thread)
    return true
  }

  /// Records an allocation in the index and in the thread's ring.
  @inline(never)
  private static func recordAll(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ size: Int, _ alignment: Int, _ context: UInt32,
    _ kind: allocs_event_kind, _ origin: UInt32, _ isTight: Bool
  ) {
    let base = UInt(bitPattern: block)
    guard let place = Index.place(regions, base, UInt(bitPattern: size), isTight: isTight) else { return }
    let isRecorded = Events.begin(thread)
    let stamp = isRecorded ? Stamps.ofAllocation(thread, place.arena, base, UInt(bitPattern: size)) : 0
    Totals.add(thread, context, size)
    Index.write(
      place, base, UInt(bitPattern: size), UInt(bitPattern: alignment), context,
      isRecorded ? thread.pointee.events.ticks : allocs_now())
    countAllocation(thread)
    guard isRecorded else { return }
    Events.append(
      thread, kind, base, UInt64(UInt(bitPattern: size)),
      alignment: alignment == 0 ? 0 : UInt32(truncatingIfNeeded: alignment.trailingZeroBitCount), context: context,
      origin: origin, stamp: stamp)
    Events.end(thread)
  }

  /// `block` is about to go back to its allocator, while events are off. False, and nothing done,
  /// if it has no record in a coarse slot, or is nil. Calls nothing.
  @inline(__always)
  static func preKnownFree(_ thread: Thread, _ block: Block?) -> Bool {
    guard let regions = thread.pointee.free_regions,
      Index.eraseKnown(regions, unsafeBitCast(block, to: UInt.self))
    else { return false }
    countFree(thread)
    return true
  }

  /// As `preKnownFree`, for a block that has a fine slot.
  @inline(__always)
  static func preKnownFineFree(_ thread: Thread, _ block: Block) -> Bool {
    guard let regions = thread.pointee.free_regions, Fine.erase(regions, UInt(bitPattern: block)) != 0 else {
      return false
    }
    countFree(thread)
    return true
  }

  /// As `preKnownFree`, while events are on. The thread's ring must be ready, too, and the event
  /// must need no clock. Calls nothing.
  @inline(__always)
  static func preKnownFreeRecorded(_ thread: Thread, _ block: Block) -> Bool {
    let base = UInt(bitPattern: block)
    guard let regions = thread.pointee.free_regions, let arena = Index.knownArena(regions, base) else { return false }
    let slot = arena.slot(base)
    let head = allocs_load_relaxed_u64(slot)
    guard allocs_slot_is_head_of(head, allocs_granule_of_address(UInt64(base))),
      allocs_process().pointee.free_stacks == 0
    else { return false }
    let size = Slot.size(slot, head)
    guard Events.beginKnown(thread) else {
      Events.end(thread)
      return false
    }
    let stamp = Stamps.ofKnownFree(thread, arena, base, size, head)
    guard stamp != 0 else {
      Events.end(thread)
      return false
    }
    thread.pointee.events.stamp = stamp
    Events.append(thread, ALLOCS_EVENT_FREE, base, UInt64(size), origin: allocs_slot_context(head), stamp: stamp)
    Events.end(thread)
    allocs_store_relaxed_u64(slot, 0)
    countFree(thread)
    return true
  }

  /// `block` is about to go back to its allocator. Gives the head of its record, which is erased; 0
  /// if it had none.
  @inline(__always) @discardableResult
  static func preFree(
    _ thread: Thread, _ block: Block, _ caller: Caller = .unknown, _ function: allocs_function = ALLOCS_FUNCTION_FREE,
    _ kind: allocs_event_kind = ALLOCS_EVENT_FREE
  ) -> UInt64 {
    guard let regions = Gate.regions(thread) else { return 0 }
    let old = erase(thread, regions, block, caller, function, kind, isInner: false)
    if old == 0 { Index.count(ALLOCS_COUNTER_UNKNOWN_FREES) }
    return old
  }

  /// Erases the record of `block`, with all that pools have handed out of the block. Gives the
  /// record's head, 0 if there was none. `isInner`: the free comes from inside another hook,
  /// perhaps from a signal handler.
  @inline(__always)
  private static func erase(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ caller: Caller, _ function: allocs_function,
    _ kind: allocs_event_kind, isInner: Bool
  ) -> UInt64 {
    let old: UInt64
    if Events.areOn {
      old = eraseAll(thread, regions, block, caller, function, kind, isInner: isInner)
    } else {
      old = Index.eraseAnywhere(regions, UInt(bitPattern: block))
      if old != 0 { countFree(thread) }
    }
    if old != 0, thread.pointee.free_regions == nil { dropChunk(regions, block, old) }
    return old
  }

  /// Erases the blocks that pools have handed out of `block`, which is being freed. `old` is the
  /// head of the erased record of `block`.
  @inline(never)
  private static func dropChunk(_ regions: Regions, _ block: Block, _ old: UInt64) {
    let base = UInt(bitPattern: block)
    Chunk.drop(base, Index.size(regions, base, erased: old))
  }

  /// Erases the block's record from the index and records the free in the thread's ring.
  @inline(never)
  private static func eraseAll(
    _ thread: Thread, _ regions: Regions, _ block: Block, _ caller: Caller, _ function: allocs_function,
    _ kind: allocs_event_kind, isInner: Bool
  ) -> UInt64 {
    let base = UInt(bitPattern: block)
    guard let place = Index.place(regions, base) else { return 0 }
    let head = place.head
    let context =
      allocs_process().pointee.free_stacks != 0 && caller.isKnown && !isInner
      ? Contexts.context(thread, caller, function) : 0
    if Events.begin(thread, isInner: isInner) {
      let size = Slot.size(place.slot, head)
      let stamp = Stamps.ofFree(thread, place.arena, base, size, head)
      Events.append(
        thread, kind, base, UInt64(size), context: context, origin: allocs_slot_context(head), stamp: stamp)
      Events.end(thread)
    }
    allocs_store_relaxed_u64(place.slot, 0)
    countFree(thread)
    return head
  }

  /// A realloc failed: `block` lives on. `old` is the head of its record, which `preFree` has
  /// erased.
  @inline(never)
  static func reallocFailed(_ thread: Thread, _ block: Block, _ old: UInt64) {
    guard old != 0, let regions = Gate.regions(thread) else { return }
    let base = UInt(bitPattern: block)
    Index.restore(regions, base, old)
    thread.pointee.entry.pointee.identity.frees &-= 1
    Index.count(ALLOCS_COUNTER_REALLOC_FAILED)
    guard Events.areOn, let place = Index.place(regions, base, of: old), Events.begin(thread, isInner: true) else {
      return
    }
    let stamp = Stamps.next(thread)
    Stamps.raiseFloor(to: stamp)
    Events.append(
      thread, ALLOCS_EVENT_REALLOC_FAILED, base, UInt64(Slot.size(place.slot, old)),
      context: allocs_slot_context(old), origin: allocs_slot_context(old), stamp: stamp)
    Events.end(thread)
  }

  // MARK: inside another hook

  // The block that a function inside an outer hook makes is *noted* in the thread's block, and not
  // recorded: likely the outer function returns it. A second such block, of code that the outer
  // function runs on the way (a signal handler, an operator new of the program's own that keeps a
  // log), has the first one recorded as an allocation of its own, and takes its place. If the outer
  // function returns a block that was recorded so, that record gives way to the outer function's.
  //
  // Invariants:
  // - A noted block is in no index. A free or a resize of it leaves `wasFreed` in its place, which
  //   says that a block noted earlier may be recorded.
  // - Signal handlers may allocate and free at any instruction. Where the note changes, noting
  //   stops: a block that a handler makes there is counted as nested.

  /// In place of the base of a noted block that is gone. No block has this address.
  private static let wasFreed: UInt64 = 1

  /// An allocation inside a hook of the thread `outer`. Where the outer function works by calling
  /// this one, the outer event will tell of the block: the block is only noted here. Anywhere else
  /// it is a block of the allocator's own, or of a signal handler.
  @inline(never)
  static func innerAlloc(
    _ outer: Thread, _ block: Block?, _ size: Int, _ caller: Caller, _ function: allocs_function,
    allocator: UInt32 = 0, isTight: Bool
  ) {
    let delegating = outer.pointee.delegating
    guard delegating != 0, delegating != ALLOCS_DELEGATING_PAUSED.rawValue else {
      // Once the new-handler has run, a hook inside the operator is the outermost, and has recorded
      // the block.
      if block != nil, allocs_is_inside() { Index.count(ALLOCS_COUNTER_NESTED) }
      return
    }
    guard let block else {
      // operator new found no memory and will call the new-handler, which is the program's code. So
      // the thread counts as outside from here on; if operator new succeeds in the end, it is
      // recorded then.
      if delegating == ALLOCS_DELEGATING_OPERATOR.rawValue {
        stopNoting(outer, ALLOCS_DELEGATING_NOT)
        noteInner(outer)
        allocs_leave(outer)
      }
      return
    }
    // operator new(nothrow) calls operator new, which calls malloc: that is one block, noted once.
    guard outer.pointee.inner_base != UInt64(UInt(bitPattern: block)) else { return }
    stopNoting(outer, ALLOCS_DELEGATING_PAUSED)
    // Nearly always operator new returns the block, and its hook captures the stack: then the
    // context of the call here is never asked for.
    let isDirect = delegating == ALLOCS_DELEGATING_OPERATOR.rawValue && LeftCalls.isDirect(outer, caller)
    let context =
      isDirect || Gate.regions(outer) == nil
      ? 0 : Contexts.context(outer, caller, function, allocator: allocator)
    var isTight = isTight
    if outer.pointee.inner_base != 0 {
      noteInner(outer)
      // An inner operator comes with the block of the malloc that it has called, which may be
      // recorded by now.
      isTight = replaceInner(outer, block) ?? isTight
    }
    note(
      outer,
      Note(
        base: UInt64(UInt(bitPattern: block)), size: UInt64(UInt(bitPattern: size)), context: context,
        isTight: isTight ? 1 : 0, site: isDirect ? caller.site : 0, function: function.rawValue | allocator << 8))
    goOnNoting(outer, delegating)
  }

  /// From here on, signal handlers note nothing.
  @inline(__always)
  private static func stopNoting(_ thread: Thread, _ state: allocs_delegating) {
    thread.pointee.delegating = state.rawValue
    allocs_fence_signal()
  }

  @inline(__always)
  private static func goOnNoting(_ thread: Thread, _ delegating: UInt32) {
    allocs_fence_signal()
    thread.pointee.delegating = delegating
  }

  /// A free inside a hook of the thread `outer`. Erases the block's record if it has one, as a
  /// block that a signal handler frees has. Gives the head of that record, 0 if there is none.
  @inline(never) @discardableResult
  static func innerFree(_ outer: Thread, _ block: Block) -> UInt64 {
    let old = eraseInner(outer, block)
    // A noted block with a record is just being recorded (`noteInner`), and done with.
    if outer.pointee.inner_base == UInt64(UInt(bitPattern: block)) {
      outer.pointee.inner_base = old == 0 ? wasFreed : 0
    }
    return old
  }

  private static func eraseInner(_ outer: Thread, _ block: Block) -> UInt64 {
    guard let regions = Gate.regions(outer) else { return 0 }
    return erase(
      outer, regions, block, .unknown, ALLOCS_FUNCTION_UNKNOWN, ALLOCS_EVENT_FREE, isInner: true)
  }

  /// A noted block.
  struct Note {
    fileprivate let base: UInt64
    fileprivate let size: UInt64
    fileprivate let context: UInt32
    fileprivate let isTight: UInt32
    fileprivate let site: UInt64
    fileprivate let function: UInt32
  }

  /// Noting has stopped, and no block is noted.
  @inline(__always)
  private static func note(_ outer: Thread, _ note: Note) {
    outer.pointee.inner_size = note.size
    outer.pointee.inner_context = note.context
    outer.pointee.inner_is_tight = note.isTight
    outer.pointee.inner_site = note.site
    outer.pointee.inner_function = note.function
    outer.pointee.inner_base = note.base
  }

  /// `block` is about to be resized inside a hook of the thread `outer`. Gives what was noted of
  /// it; nil if it is not the noted block.
  static func takeNote(_ outer: Thread, _ block: Block) -> Note? {
    let base = UInt64(UInt(bitPattern: block))
    let delegating = outer.pointee.delegating
    guard delegating != 0, delegating != ALLOCS_DELEGATING_PAUSED.rawValue, outer.pointee.inner_base == base else {
      return nil
    }
    let note = Note(
      base: base, size: outer.pointee.inner_size, context: outer.pointee.inner_context,
      isTight: outer.pointee.inner_is_tight, site: outer.pointee.inner_site, function: outer.pointee.inner_function)
    outer.pointee.inner_base = wasFreed
    return note
  }

  /// The block of the note was not resized, and lives on.
  static func putBack(_ outer: Thread, _ noted: Note) {
    let delegating = outer.pointee.delegating
    stopNoting(outer, ALLOCS_DELEGATING_PAUSED)
    noteInner(outer)
    note(outer, noted)
    if delegating == 0 { noteInner(outer) }
    goOnNoting(outer, delegating)
  }

  /// The outer function returned `block`. A noted inner block of another address is an allocation
  /// of its own. Gives whether the allocator that served the call is tight; `isTight` says so of
  /// the outer function, and counts if no function inside it made the block.
  @inline(__always) @discardableResult
  static func endDelegation(_ thread: Thread, _ block: Block?, isTight: Bool = false) -> Bool {
    stopNoting(thread, ALLOCS_DELEGATING_NOT)
    thread.pointee.outer_return_slot = 0
    guard thread.pointee.inner_base != 0 else { return isTight }
    guard thread.pointee.inner_base == UInt64(UInt(bitPattern: block)) else {
      return endDelegationOfOther(thread, block, isTight: isTight)
    }
    thread.pointee.inner_base = 0
    return thread.pointee.inner_is_tight != 0
  }

  /// The block that was noted last is another one, such as a signal handler's, which came after the
  /// block that is returned now, or was freed. Then the returned block may be recorded already.
  @inline(never)
  private static func endDelegationOfOther(_ thread: Thread, _ block: Block?, isTight: Bool) -> Bool {
    noteInner(thread)
    return block.flatMap { replaceInner(thread, $0) } ?? isTight
  }

  /// The outer function returned `block`, which a function inside it may have recorded as an
  /// allocation of its own: so does the malloc inside an operator new after the new-handler has
  /// run. That record is erased, for the outer function's, and counts in no total. Gives whether
  /// the allocator is tight, as far as that matters for a block of this size; nil if the block was
  /// not recorded.
  @inline(never)
  static func replaceInner(_ thread: Thread, _ block: Block) -> Bool? {
    let old = eraseInner(thread, block)
    guard old != 0 else { return nil }
    if let regions = Gate.regions(thread) { Totals.takeBack(thread, regions, block, replaced: old) }
    return Index.isFine(old, UInt(bitPattern: block))
  }

  /// Records the inner block that was noted, if there is one. Noting has stopped.
  @inline(never)
  private static func noteInner(_ thread: Thread) {
    let base = thread.pointee.inner_base
    defer { thread.pointee.inner_base = 0 }
    guard base > wasFreed, let block = Block(bitPattern: UInt(base)), let regions = Gate.regions(thread) else { return }
    var context = thread.pointee.inner_context
    if thread.pointee.inner_site != 0 {
      context = Contexts.context(
        thread, site: thread.pointee.inner_site,
        below: Caller(
          returnSlot: UInt(thread.pointee.operator_return_slot), framePointer: thread.pointee.operator_frame_pointer),
        allocs_function(thread.pointee.inner_function & 0xFF), allocator: thread.pointee.inner_function >> 8)
    }
    record(
      thread, regions, block, Int(bitPattern: UInt(thread.pointee.inner_size)), 0, context,
      isTight: thread.pointee.inner_is_tight != 0)
    allocs_fence_signal()
    // A signal handler has freed its block before it was recorded.
    if thread.pointee.inner_base == wasFreed { _ = eraseInner(thread, block) }
  }
}
