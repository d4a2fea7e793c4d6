// SPDX-License-Identifier: Apache-2.0
// Hook: every exported function of the malloc family gets here with its caller
// (Entry/MallocFamily.c), as one of three things: an allocation, a free, a resize. A hook calls the
// function below (Terminal) and reports the event before or after that call (Event).
//
// Invariants:
// - The outermost hook records. A hook that runs inside it only notes what it allocates for the
//   outer one, or passes the call through (Entering).
// - A free is reported before the block goes back, an allocation after the block came: nobody else
//   can own the address between.
// - The program gets errno, results and side effects from the function below, and that function
//   gets the program's own arguments, always.
//
// A function is *tight* if its blocks may lie closer to each other than 32 bytes; only glibc's
// functions are not. Where the function below works by calling another function that is hooked, the
// inner function counts.

import AgentMachine
import SharedLayout

typealias Block = UnsafeMutableRawPointer
typealias Thread = UnsafeMutablePointer<allocs_thread_block>

// MARK: allocation

/// An allocation of `size` bytes by the function that `caller` called, `function` of `allocator`.
/// `make` calls the function below. `isTight`: nil stands for what Terminal knows of `function`.
@inline(__always)
func allocate(
  _ size: Int, alignment: Int = 0, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0,
  isTight: Bool? = nil, _ make: () -> Block?
) -> Block? {
  guard let thread = allocs_enter() else {
    return allocateSlowly(
      size, alignment: alignment, caller, function, allocator: allocator,
      isTight: isTight ?? Terminal.isTight(function), make)
  }
  return allocateOutermost(
    thread, size, alignment: alignment, caller, function, allocator: allocator,
    isTight: isTight ?? Terminal.isTight(function), make)
}

/// The caller has taken `thread` (allocs_enter).
@inline(__always)
private func allocateOutermost(
  _ thread: Thread, _ size: Int, alignment: Int, _ caller: Caller, _ function: allocs_function, allocator: UInt32,
  isTight: Bool, _ make: () -> Block?
) -> Block? {
  let (block, isTight) = delegating(thread, caller, isTight: isTight, make)
  if let block {
    Event.postAlloc(thread, block, size, alignment, caller, function, allocator: allocator, isTight: isTight)
  }
  allocs_leave(thread)
  return block
}

/// Runs the function below, which may call another hook for the block that it will return, as a
/// calloc does that calls malloc. Gives whether the function that made the block is tight.
@inline(__always)
private func delegating(
  _ thread: Thread, _ caller: Caller, isTight: Bool, _ body: () -> Block?
) -> (Block?, isTight: Bool) {
  thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
  thread.pointee.outer_return_slot = UInt64(caller.returnSlot)
  let result = body()
  return (result, Event.endDelegation(thread, result, isTight: isTight))
}

/// `allocs_enter` gave null.
@inline(never)
private func allocateSlowly(
  _ size: Int, alignment: Int, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0,
  isTight: Bool, _ make: () -> Block?
) -> Block? {
  switch Entering.enterSlowly(from: caller) {
  case .taken(let thread):
    return allocateOutermost(
      thread, size, alignment: alignment, caller, function, allocator: allocator, isTight: isTight, make)
  case .inside(let outer):
    let block = make()
    Event.innerAlloc(outer, block, size, caller, function, allocator: allocator, isTight: isTight)
    return block
  case .starting:
    return allocateEarly(make)
  }
}

/// While another thread is starting the agent.
@inline(__always)
private func allocateEarly(_ make: () -> Block?) -> Block? {
  let block = make()
  if block != nil { Start.countEarly() }
  return block
}

// MARK: malloc

// Programs call hardly anything but malloc and free. The hooks' paths for a known context and known
// memory call nothing but the allocator; for anything new they hand over to another function as the
// last thing they do. So they save no registers.

/// For a thread that has no block to take.
@c(allocs_hook_malloc)
func hookMalloc(_ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  allocateSlowly(
    size, alignment: 0, Caller(returnSlot: returnSlot, framePointer: framePointer), ALLOCS_FUNCTION_MALLOC,
    isTight: Terminal.isTight(ALLOCS_FUNCTION_MALLOC)
  ) { Terminal.malloc(size) }
}

/// malloc's entry has taken the thread's block, and malloc has returned `block`; events are off.
@c(allocs_hook_malloced)
func hookMalloced(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  guard let regions = thread.pointee.site_regions,
    Event.postKnownAlloc(thread, regions, block, size, Contexts.known(thread, site: load(UInt64(returnSlot))))
  else { return mallocedWithStack(block, size, returnSlot, framePointer) }
  allocs_leave(thread)
  return block
}

/// As `hookMalloced`, for an allocation whose origin is its whole stack: that needs more registers.
@c(allocs_malloced_with_stack) @inline(never)
func mallocedWithStack(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  // The stack is what is not known most often, so it comes first.
  guard let regions = thread.pointee.regions, thread.pointee.full_stacks != 0,
    let context = knownStack(thread, returnSlot, framePointer),
    Event.postKnownAlloc(thread, regions, block, size, context)
  else { return mallocedSlowly(block, size, returnSlot, framePointer) }
  allocs_leave(thread)
  return allocs_unknown(block)
}

/// The context of malloc with the caller's stack, as Contexts.known gives it.
@inline(__always)
private func knownStack(_ thread: Thread, _ returnSlot: UInt, _ framePointer: UInt64) -> UInt64? {
  Stack.knownContext(thread, Caller(returnSlot: returnSlot, framePointer: framePointer))
}

/// The context of malloc with the caller's stack or call site, as Contexts.known gives it.
@inline(__always)
private func knownOrigin(_ thread: Thread, _ returnSlot: UInt, _ framePointer: UInt64) -> UInt64? {
  thread.pointee.full_stacks != 0
    ? knownStack(thread, returnSlot, framePointer) : Contexts.known(thread, site: load(UInt64(returnSlot)))
}

/// As `hookMalloced`, for a block that gets a fine slot; events may be on.
@c(allocs_hook_malloced_fine)
func hookMallocedFine(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  guard let known = block, let regions = thread.pointee.regions, !Events.areOn,
    Event.postKnownFineAlloc(thread, regions, known, size, knownOrigin(thread, returnSlot, framePointer))
  else { return mallocedSlowly(block, size, returnSlot, framePointer) }
  allocs_leave(thread)
  return block
}

/// As `hookMalloced`, while events are on.
@c(allocs_hook_malloced_recorded)
func hookMallocedRecorded(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  guard let known = block, let regions = thread.pointee.regions,
    Event.postKnownAllocRecorded(thread, regions, known, size, knownOrigin(thread, returnSlot, framePointer))
  else { return mallocedSlowly(block, size, returnSlot, framePointer) }
  allocs_leave(thread)
  return block
}

/// Records a block whatever it takes: its context or its memory is new, the clock has moved, the
/// gate may be closed, or the thread is not indexed. Malloc may have returned no block.
@c(allocs_malloced_slowly) @inline(never)
func mallocedSlowly(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  if let block {
    Event.postAlloc(
      thread, block, size, 0, Caller(returnSlot: returnSlot, framePointer: framePointer), ALLOCS_FUNCTION_MALLOC,
      isTight: Terminal.isTight(ALLOCS_FUNCTION_MALLOC))
  }
  allocs_leave(thread)
  return allocs_unknown(block)
}

// MARK: the other functions that allocate

@c(allocs_hook_calloc)
func hookCalloc(_ count: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  let total = product(count, size)
  if Modules.isLoader(caller.site) { noteUnloaded() }
  return allocate(total, caller, ALLOCS_FUNCTION_CALLOC) { Terminal.calloc(count, size) }
}

/// Bytes asked for; -1 if they are more than there can be: the function below fails then, and the
/// call must not look like a request for nothing.
@inline(__always)
private func product(_ count: Int, _ size: Int) -> Int {
  let (bytes, overflow) = UInt(bitPattern: count).multipliedReportingOverflow(by: UInt(bitPattern: size))
  return overflow ? -1 : Int(bitPattern: bytes)
}

/// The dynamic linker allocates: it may have unloaded modules before. Inside a hook this is not
/// noted.
@inline(never)
private func noteUnloaded() {
  if let thread = allocs_enter() { noteUnloaded(thread) }
}

/// Puts the thread's block back.
@inline(__always)
private func noteUnloaded(_ thread: Thread) {
  if Gate.regions(thread) != nil { Modules.noteUnloaded() }
  allocs_leave(thread)
}

@c(allocs_hook_memalign)
func hookMemalign(_ alignment: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  return allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_MEMALIGN) {
    Terminal.memalign(alignment, size)
  }
}

@c(allocs_hook_aligned_alloc)
func hookAlignedAlloc(_ alignment: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  return allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_ALIGNED_ALLOC) {
    Terminal.alignedAlloc(alignment, size)
  }
}

@c(allocs_hook_posix_memalign)
func hookPosixMemalign(
  _ result: UnsafeMutablePointer<Block?>, _ alignment: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64
) -> CInt {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  var status: CInt = 0
  _ = allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_POSIX_MEMALIGN) {
    status = Terminal.posixMemalign(result, alignment, size)
    return status == 0 ? result.pointee : nil
  }
  return status
}

@c(allocs_hook_valloc)
func hookValloc(_ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  return allocate(size, alignment: Int(ALLOCS_PAGE_SIZE), caller, ALLOCS_FUNCTION_VALLOC) {
    Terminal.valloc(size)
  }
}

@c(allocs_hook_pvalloc)
func hookPvalloc(_ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  return allocate(size, alignment: Int(ALLOCS_PAGE_SIZE), caller, ALLOCS_FUNCTION_PVALLOC) {
    Terminal.pvalloc(size)
  }
}

// MARK: free

/// `release` calls the function below, inside the hook.
@inline(__always)
func free(_ block: Block?, _ caller: Caller = .unknown, _ release: (Block?) -> Void) {
  guard let thread = allocs_enter() else { return freeSlowly(block, caller, release) }
  freeOutermost(thread, block, caller, release)
}

/// The caller has taken `thread` (allocs_enter).
@inline(__always)
private func freeOutermost(_ thread: Thread, _ block: Block?, _ caller: Caller, _ release: (Block?) -> Void) {
  if let block { Event.preFree(thread, block, caller, ALLOCS_FUNCTION_FREE) }
  release(block)
  allocs_leave(thread)
}

/// `allocs_enter` gave null.
@inline(never)
private func freeSlowly(_ block: Block?, _ caller: Caller, _ release: (Block?) -> Void) {
  switch Entering.enterSlowly() {
  case .taken(let thread):
    freeOutermost(thread, block, caller, release)
  case .inside(let outer):
    if let block { Event.innerFree(outer, block) }
    release(block)
  case .starting:
    release(block)
  }
}

/// `release` calls the allocator's free outside the hook: an allocation that it may make is
/// recorded like any other.
@inline(__always)
func freeOutside(_ block: Block?, _ caller: Caller, _ release: (Block?) -> Void) {
  guard let thread = allocs_enter() else { return freeSlowly(block, caller, release) }
  if let block {
    guard !Events.areOn, Event.preKnownFree(thread, block) else { return eraseSlowly(block, caller, release) }
  }
  allocs_leave(thread)
  release(block)
}

/// Erases a record that the quick path did not find, or whose event must be recorded; then the
/// block goes back outside the hook.
@inline(never)
private func eraseSlowly(_ block: Block, _ caller: Caller, _ release: (Block?) -> Void) {
  let thread = allocs_registered_block().unsafelyUnwrapped
  if Events.areOn || !Event.preKnownFineFree(thread, block) {
    Event.preFree(thread, block, caller, ALLOCS_FUNCTION_FREE)
  }
  allocs_leave(thread)
  release(block)
}

/// While events are off.
@c(allocs_hook_free)
func hookFree(_ block: Block?) {
  guard let thread = allocs_enter() else { return freeInside(block) }
  guard Event.preKnownFree(thread, block) else { return freeUnknown(block) }
  allocs_leave(thread)
  Terminal.free(block)
}

/// For a thread that has no block to take.
@c(allocs_free_inside) @inline(never)
func freeInside(_ block: Block?) {
  freeSlowly(block, .unknown) { Terminal.free($0) }
}

/// For a block whose record the quick path did not find, and for no block. The thread's block is
/// taken.
@c(allocs_free_unknown) @inline(never)
func freeUnknown(_ block: Block?) {
  guard let block else {
    allocs_leave(allocs_registered_block())
    return Terminal.free(nil)
  }
  eraseSlowly(block, .unknown) { Terminal.free($0) }
}

/// While events are on.
@c(allocs_hook_free_recorded)
func hookFreeRecorded(_ block: Block?, _ returnSlot: UInt, _ framePointer: UInt64) {
  guard let thread = allocs_enter() else {
    return freeSlowly(block, Caller(returnSlot: returnSlot, framePointer: framePointer)) { Terminal.free($0) }
  }
  if let block {
    guard Event.preKnownFreeRecorded(thread, block) else {
      return eraseSlowly(block, Caller(returnSlot: returnSlot, framePointer: framePointer)) { Terminal.free($0) }
    }
  }
  allocs_leave(thread)
  Terminal.free(block)
}

@c(allocs_hook_free_sized)
func hookFreeSized(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) {
  free(block, Caller(returnSlot: returnSlot, framePointer: framePointer)) { Terminal.freeSized($0, size) }
}

@c(allocs_hook_free_aligned_sized)
func hookFreeAlignedSized(_ block: Block?, _ alignment: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) {
  free(block, Caller(returnSlot: returnSlot, framePointer: framePointer)) {
    Terminal.freeAlignedSized($0, alignment, size)
  }
}

// MARK: resize

/// The old record is erased before the call: afterwards another thread may own the address. The
/// record comes back if the call fails, unless the block is gone then (`failureFrees`): it is gone
/// when nothing was asked for, as realloc(block, 0) frees in glibc.
@inline(__always)
func resize(
  _ block: Block, _ size: Int, alignment: Int = 0, _ caller: Caller, _ function: allocs_function,
  allocator: UInt32 = 0, isTight: Bool? = nil, failureFrees: Bool, _ change: () -> Block?
) -> Block? {
  let own = isTight ?? Terminal.isTight(function)
  let thread: Thread
  switch Entering.enter(from: caller) {
  case .taken(let taken):
    thread = taken
  case .inside(let outer):
    return resizeInside(outer, block, size, caller, function, allocator, isTight: own, failureFrees, change)
  case .starting:
    return allocateEarly(change)
  }
  let old = Event.preFree(thread, block, caller, function, ALLOCS_EVENT_REALLOC_OLD)
  thread.pointee.resizing = old == 0 ? 0 : UInt64(UInt(bitPattern: block))
  let (result, isTight) = delegating(thread, caller, isTight: own, change)
  thread.pointee.resizing = 0
  if let result {
    Event.postAlloc(
      thread, result, size, alignment, caller, function, ALLOCS_EVENT_REALLOC_NEW, origin: allocs_slot_context(old),
      allocator: allocator, isTight: isTight)
  } else if !failureFrees {
    Event.reallocFailed(thread, block, old)
  }
  allocs_leave(thread)
  return result
}

@inline(never)
private func resizeInside(
  _ outer: Thread, _ block: Block, _ size: Int, _ caller: Caller, _ function: allocs_function, _ allocator: UInt32,
  isTight: Bool, _ failureFrees: Bool, _ change: () -> Block?
) -> Block? {
  let note = Event.takeNote(outer, block)
  let old = note == nil ? Event.innerFree(outer, block) : 0
  let result = change()
  if result != nil {
    Event.innerAlloc(outer, result, size, caller, function, allocator: allocator, isTight: isTight)
  } else if !failureFrees {
    if let note { Event.putBack(outer, note) } else { Event.reallocFailed(outer, block, old) }
  }
  return result
}

@c(allocs_hook_realloc)
func hookRealloc(_ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  guard let block else {
    return allocate(size, caller, ALLOCS_FUNCTION_REALLOC) { Terminal.realloc(nil, size) }
  }
  return resize(block, size, caller, ALLOCS_FUNCTION_REALLOC, failureFrees: size == 0) { Terminal.realloc(block, size) }
}

@c(allocs_hook_reallocarray)
func hookReallocarray(
  _ block: Block?, _ count: Int, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64
) -> Block? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  let total = product(count, size)
  // libc's reallocarray calls realloc, whose hook runs inside this one.
  guard let block else {
    return allocate(total, caller, ALLOCS_FUNCTION_REALLOCARRAY) { Terminal.reallocarray(nil, count, size) }
  }
  return resize(block, total, caller, ALLOCS_FUNCTION_REALLOCARRAY, failureFrees: total == 0) {
    Terminal.reallocarray(block, count, size)
  }
}

// MARK: operators of C++

// An exception may leave operator new, so its frame is one of C (Operators.c), which calls these
// functions before and after the operator below.

/// Before operator new calls the operator below. Gives the thread, taken; nil if it is inside a
/// hook.
@c(allocs_operator_enter)
func operatorEnter(_ returnSlot: UInt, _ framePointer: UInt64) -> Thread? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  guard case .taken(let thread) = Entering.enter(from: caller) else { return nil }
  thread.pointee.operator_return_slot = UInt64(returnSlot)
  thread.pointee.operator_frame_pointer = framePointer
  thread.pointee.delegating = ALLOCS_DELEGATING_OPERATOR.rawValue
  return thread
}

/// After the operator below has returned `block`, or null, to the outermost hook.
/// `functionAndAllocator`: enum allocs_function in the lowest eight bits, above them the allocator.
@c(allocs_operator_leave)
func operatorLeave(
  _ thread: Thread, _ block: Block?, _ size: Int, _ alignment: Int, _ returnSlot: UInt, _ framePointer: UInt64,
  _ functionAndAllocator: UInt32
) {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  // The new-handler may have run in between, outside the hook: the block is taken again.
  _ = allocs_enter()
  let function = allocs_function(functionAndAllocator & 0xFF)
  var isTight = Terminal.isTight(function)
  if thread.pointee.delegating == 0, let block { isTight = Event.replaceInner(thread, block) ?? isTight }
  isTight = Event.endDelegation(thread, block, isTight: isTight)
  if let block {
    Event.postAlloc(
      thread, block, size, alignment, caller, function, allocator: functionAndAllocator >> 8, isTight: isTight)
  }
  allocs_leave(thread)
}

/// An operator inside another hook: notes the block for the outer one.
@c(allocs_operator_inner)
func operatorInner(
  _ block: Block?, _ size: Int, _ returnSlot: UInt, _ framePointer: UInt64, _ functionAndAllocator: UInt32
) {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  let function = allocs_function(functionAndAllocator & 0xFF)
  if let outer = allocs_registered_block() {
    Event.innerAlloc(
      outer, block, size, caller, function, allocator: functionAndAllocator >> 8, isTight: Terminal.isTight(function))
  }
}

/// An exception has left operator new.
@c(allocs_operator_unwound)
func operatorUnwound() {
  if allocs_is_inside(), let thread = allocs_registered_block() {
    Event.endDelegation(thread, nil)
    allocs_leave(thread)
  }
}

/// Before operator delete calls the operator below. Gives the thread, to be put back with
/// allocs_leave; nil if it is inside a hook.
@c(allocs_operator_deleting)
func operatorDeleting(_ block: Block?, _ returnSlot: UInt, _ framePointer: UInt64) -> Thread? {
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  switch Entering.enter(from: caller) {
  case .taken(let thread):
    if let block { Event.preFree(thread, block, caller, ALLOCS_FUNCTION_DELETE) }
    return thread
  case .inside(let outer):
    if let block { Event.innerFree(outer, block) }
    return nil
  case .starting:
    return nil
  }
}

// MARK: modules

@c(allocs_hook_dlclose)
func hookDlclose(_ handle: UnsafeMutableRawPointer?) -> CInt {
  let result = Terminal.dlclose(handle)
  if case .taken(let thread) = Entering.enter() { noteUnloaded(thread) }
  return result
}
