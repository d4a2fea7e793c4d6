// Hook: the narrow waist. Every exported function of the User layer comes here with its caller, as
// one of three things: an allocation, a free, a resize. Calls Event around Terminal.
//
// Invariants:
// - The outermost hook records; one that runs inside it passes straight through (`allocs_enter`
//   gave null).
// - A free is an event before the block goes back, an allocation after it came: nobody else can own
//   the address between.
// - errno, results and side effects are those of the function below, and so are its arguments: none
//   is ever another than the program's.
//
// A function is *tight* if its blocks may lie closer than 32 bytes: any but glibc's. What counts is
// the one that served the call: where the function below works by calling another that is hooked,
// that one.

import AgentMachine
import SharedLayout

typealias Block = UnsafeMutableRawPointer
typealias Thread = UnsafeMutablePointer<allocs_thread_block>

// MARK: allocation

/// `make` calls the function below; `function` is what the caller called, of `allocator`.
/// `isTight`: nil stands for what Terminal knows of `function`.
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
  let (block, isTight) = delegating(thread, caller, isTight: isTight ?? Terminal.isTight(function), make)
  if let block {
    Event.postAlloc(thread, block, size, alignment, caller, function, allocator: allocator, isTight: isTight)
  }
  allocs_leave(thread)
  return block
}

/// Runs the function below, which may come back through a hook for the same block, as a calloc that
/// calls malloc does. Gives whether the one that made the block is tight.
@inline(__always)
private func delegating(
  _ thread: Thread, _ caller: Caller, isTight: Bool, _ body: () -> Block?
) -> (Block?, isTight: Bool) {
  thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
  thread.pointee.outer_place = UInt64(caller.place)
  let result = body()
  return (result, Event.endDelegation(thread, result, isTight: isTight))
}

/// The thread is inside a hook, or has not been seen before.
@inline(never)
private func allocateSlowly(
  _ size: Int, alignment: Int, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0,
  isTight: Bool, _ make: () -> Block?
) -> Block? {
  var registered = allocs_registered_block()
  if let outer = registered {
    guard LeftCalls.takeBack(outer, caller) else {
      let block = make()
      Event.innerAlloc(outer, block, size, caller, function, allocator: allocator, isTight: isTight)
      return block
    }
  } else {
    registered = Start.enterNewThread()
  }
  guard let thread = registered else {
    let block = make()
    if block != nil { Start.countEarly() }
    return block
  }
  let (block, isTight) = delegating(thread, caller, isTight: isTight, make)
  if let block {
    Event.postAlloc(thread, block, size, alignment, caller, function, allocator: allocator, isTight: isTight)
  }
  allocs_leave(thread)
  return block
}

// malloc and free are nearly all that programs call. Their paths for what is known call nothing but the allocator, and
// hand over to another function, as the last thing they do, when something is new: so they save no registers.

@c(allocs_hook_malloc)
func hookMalloc(_ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  allocateSlowly(
    size, alignment: 0, Caller(place: place, framePointer: framePointer), ALLOCS_FUNCTION_MALLOC,
    isTight: Terminal.isTight(ALLOCS_FUNCTION_MALLOC)
  ) { Terminal.malloc(size) }
}

@c(allocs_hook_malloced)
func hookMalloced(_ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  guard let block, thread.pointee.regions != nil else {
    if let block, Gate.hasEverClosed || Event.isUnentered(thread) {
      return mallocedUnknown(block, size, place, framePointer)
    }
    allocs_leave(thread)
    return block
  }
  // Two functions, because the stack's needs more registers.
  if thread.pointee.full_stacks != 0 { return mallocedWithStack(block, size, place, framePointer) }
  let site = Caller(place: place, framePointer: framePointer).site
  return malloced(thread, block, size, place, framePointer, origin: site)
}

@inline(never)
private func mallocedWithStack(_ block: Block, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  let node = Stack.last(thread, Caller(place: place, framePointer: framePointer))
  return malloced(thread, block, size, place, framePointer, origin: UInt64(node))
}

@inline(__always)
private func malloced(
  _ thread: Thread, _ block: Block, _ size: Int, _ place: UInt, _ framePointer: UInt64, origin: UInt64
) -> Block? {
  let context = Contexts.known(thread, origin: origin, ALLOCS_FUNCTION_MALLOC)
  guard let regions = thread.pointee.regions, Event.postKnownAlloc(thread, regions, block, size, context) else {
    return mallocedUnknown(block, size, place, framePointer)
  }
  allocs_leave(thread)
  return block
}

/// As `hookMalloced`, for a block that goes to a fine slot; events may be on.
@c(allocs_hook_malloced_fine)
func hookMallocedFine(_ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  guard let block, thread.pointee.regions != nil else {
    if let block, Gate.hasEverClosed || Event.isUnentered(thread) {
      return mallocedUnknown(block, size, place, framePointer)
    }
    allocs_leave(thread)
    return block
  }
  if Events.areOn { return mallocedUnknown(block, size, place, framePointer) }
  if thread.pointee.full_stacks != 0 { return mallocedFineWithStack(block, size, place, framePointer) }
  let site = Caller(place: place, framePointer: framePointer).site
  return mallocedFine(thread, block, size, place, framePointer, origin: site)
}

@inline(never)
private func mallocedFineWithStack(_ block: Block, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  let node = Stack.last(thread, Caller(place: place, framePointer: framePointer))
  return mallocedFine(thread, block, size, place, framePointer, origin: UInt64(node))
}

@inline(__always)
private func mallocedFine(
  _ thread: Thread, _ block: Block, _ size: Int, _ place: UInt, _ framePointer: UInt64, origin: UInt64
) -> Block? {
  let context = Contexts.known(thread, origin: origin, ALLOCS_FUNCTION_MALLOC)
  guard let regions = thread.pointee.regions, Event.postKnownFineAlloc(thread, regions, block, size, context) else {
    return mallocedUnknown(block, size, place, framePointer)
  }
  allocs_leave(thread)
  return block
}

/// As `hookMalloced`, while events are on.
@c(allocs_hook_malloced_recorded)
func hookMallocedRecorded(_ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  if let block, let regions = thread.pointee.regions {
    let caller = Caller(place: place, framePointer: framePointer)
    let origin = thread.pointee.full_stacks != 0 ? UInt64(Stack.last(thread, caller)) : caller.site
    let context = Contexts.known(thread, origin: origin, ALLOCS_FUNCTION_MALLOC)
    guard Event.postKnownAllocRecorded(thread, regions, block, size, context) else {
      return mallocedUnknown(block, size, place, framePointer)
    }
  } else if let block, Gate.hasEverClosed || Event.isUnentered(thread) {
    return mallocedUnknown(block, size, place, framePointer)
  }
  allocs_leave(thread)
  return block
}

@inline(never)
private func mallocedUnknown(_ block: Block, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let thread = allocs_registered_block().unsafelyUnwrapped
  let caller = Caller(place: place, framePointer: framePointer)
  Event.postAlloc(
    thread, block, size, 0, caller, ALLOCS_FUNCTION_MALLOC, isTight: Terminal.isTight(ALLOCS_FUNCTION_MALLOC))
  allocs_leave(thread)
  return block
}

@c(allocs_hook_calloc)
func hookCalloc(_ count: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  let total = product(count, size)
  if Modules.isLoader(caller.site) { noteUnloaded() }
  return allocate(total, caller, ALLOCS_FUNCTION_CALLOC) { Terminal.calloc(count, size) }
}

/// Bytes asked for; -1 if they are more than there can be: the function below fails, and it must
/// not look like a request for nothing.
@inline(__always)
private func product(_ count: Int, _ size: Int) -> Int {
  let (bytes, overflow) = UInt(bitPattern: count).multipliedReportingOverflow(by: UInt(bitPattern: size))
  return overflow ? -1 : Int(bitPattern: bytes)
}

/// Unless inside a hook.
@inline(never)
private func noteUnloaded() {
  guard let thread = allocs_enter() else { return }
  if Gate.regions(thread) != nil { Modules.noteUnloaded() }
  allocs_leave(thread)
}

@c(allocs_hook_memalign)
func hookMemalign(_ alignment: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  return allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_MEMALIGN) {
    Terminal.memalign(alignment, size)
  }
}

@c(allocs_hook_aligned_alloc)
func hookAlignedAlloc(_ alignment: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  return allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_ALIGNED_ALLOC) {
    Terminal.alignedAlloc(alignment, size)
  }
}

@c(allocs_hook_posix_memalign)
func hookPosixMemalign(
  _ result: UnsafeMutablePointer<Block?>, _ alignment: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64
) -> CInt {
  let caller = Caller(place: place, framePointer: framePointer)
  var status: CInt = 0
  _ = allocate(size, alignment: alignment, caller, ALLOCS_FUNCTION_POSIX_MEMALIGN) {
    status = Terminal.posixMemalign(result, alignment, size)
    return status == 0 ? result.pointee : nil
  }
  return status
}

@c(allocs_hook_valloc)
func hookValloc(_ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  return allocate(size, alignment: Int(ALLOCS_PAGE_SIZE), caller, ALLOCS_FUNCTION_VALLOC) {
    Terminal.valloc(size)
  }
}

@c(allocs_hook_pvalloc)
func hookPvalloc(_ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  return allocate(size, alignment: Int(ALLOCS_PAGE_SIZE), caller, ALLOCS_FUNCTION_PVALLOC) {
    Terminal.pvalloc(size)
  }
}

// MARK: free

@inline(__always)
func free(_ block: Block?, _ caller: Caller = .unknown, _ release: (Block?) -> Void) {
  guard let thread = allocs_enter() else { return freeSlowly(block, caller, release) }
  if let block { Event.preFree(thread, block, caller, ALLOCS_FUNCTION_FREE) }
  release(block)
  allocs_leave(thread)
}

@inline(never)
private func freeSlowly(_ block: Block?, _ caller: Caller, _ release: (Block?) -> Void) {
  if let outer = allocs_registered_block() {
    if let block { Event.innerFree(outer, block) }
    return release(block)
  }
  let thread = Start.enterNewThread()
  if let thread, let block { Event.preFree(thread, block, caller, ALLOCS_FUNCTION_FREE) }
  release(block)
  if let thread { allocs_leave(thread) }
}

/// The allocator's free runs outside the hook: an allocation it may make is one like any other.
@inline(__always)
func freeOutside(_ block: Block?, _ caller: Caller, _ release: (Block?) -> Void) {
  guard let thread = allocs_enter() else { return freeSlowly(block, caller, release) }
  if let block {
    guard !Events.areOn, Event.preKnownFree(thread, block) else { return freeUnknown(block, caller, release) }
  }
  allocs_leave(thread)
  release(block)
}

@inline(never)
private func freeUnknown(_ block: Block, _ caller: Caller, _ release: (Block?) -> Void) {
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
  guard let thread = allocs_enter() else { return freeSlowly(block, .unknown) { Terminal.free($0) } }
  if let block {
    guard Event.preKnownFree(thread, block) else { return freeUnknown(block, .unknown) { Terminal.free($0) } }
  }
  allocs_leave(thread)
  Terminal.free(block)
}

/// While they are on.
@c(allocs_hook_free_recorded)
func hookFreeRecorded(_ block: Block?, _ place: UInt, _ framePointer: UInt64) {
  guard let thread = allocs_enter() else {
    return freeSlowly(block, Caller(place: place, framePointer: framePointer)) { Terminal.free($0) }
  }
  if let block {
    guard Event.preKnownFreeRecorded(thread, block) else {
      return freeUnknown(block, Caller(place: place, framePointer: framePointer)) { Terminal.free($0) }
    }
  }
  allocs_leave(thread)
  Terminal.free(block)
}

@c(allocs_hook_free_sized)
func hookFreeSized(_ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64) {
  free(block, Caller(place: place, framePointer: framePointer)) { Terminal.freeSized($0, size) }
}

@c(allocs_hook_free_aligned_sized)
func hookFreeAlignedSized(_ block: Block?, _ alignment: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64) {
  free(block, Caller(place: place, framePointer: framePointer)) {
    Terminal.freeAlignedSized($0, alignment, size)
  }
}

// MARK: resize

/// The old record goes before the call: afterwards another thread may own the address. It comes back if the call fails,
/// unless the block is gone then: it is when nothing was asked for, as realloc(block, 0) frees in glibc.
@inline(__always)
func resize(
  _ block: Block, _ size: Int, alignment: Int = 0, _ caller: Caller, _ function: allocs_function,
  allocator: UInt32 = 0, isTight: Bool? = nil, failureFrees: Bool, _ change: () -> Block?
) -> Block? {
  let own = isTight ?? Terminal.isTight(function)
  var registered: Thread? = allocs_enter()
  if registered == nil {
    registered = allocs_registered_block()
    if let outer = registered {
      guard LeftCalls.takeBack(outer, caller) else {
        return resizeInside(outer, block, size, caller, function, allocator, isTight: own, failureFrees, change)
      }
    } else {
      registered = Start.enterNewThread()
    }
  }
  guard let thread = registered else {
    let result = change()
    if result != nil { Start.countEarly() }
    return result
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
  let old = Event.innerFree(outer, block)
  let result = change()
  if result != nil {
    Event.innerAlloc(outer, result, size, caller, function, allocator: allocator, isTight: isTight)
  } else if !failureFrees {
    Event.reallocFailed(outer, block, old)
  }
  return result
}

@c(allocs_hook_realloc)
func hookRealloc(_ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  guard let block else {
    return allocate(size, caller, ALLOCS_FUNCTION_REALLOC) { Terminal.realloc(nil, size) }
  }
  return resize(block, size, caller, ALLOCS_FUNCTION_REALLOC, failureFrees: size == 0) { Terminal.realloc(block, size) }
}

@c(allocs_hook_reallocarray)
func hookReallocarray(_ block: Block?, _ count: Int, _ size: Int, _ place: UInt, _ framePointer: UInt64) -> Block? {
  let caller = Caller(place: place, framePointer: framePointer)
  let total = product(count, size)
  // libc's comes back through the hook of realloc.
  guard let block else {
    return allocate(total, caller, ALLOCS_FUNCTION_REALLOCARRAY) { Terminal.reallocarray(nil, count, size) }
  }
  return resize(block, total, caller, ALLOCS_FUNCTION_REALLOCARRAY, failureFrees: total == 0) {
    Terminal.reallocarray(block, count, size)
  }
}

// MARK: operators of C++

// An exception may leave operator new, so C holds its frame (see Operators.c): it enters, calls the operator below,
// and leaves through these.

@c(allocs_operator_enter)
func operatorEnter(_ place: UInt, _ framePointer: UInt64) -> Thread? {
  var thread: Thread? = allocs_enter()
  if thread == nil {
    thread = allocs_registered_block()
    if let outer = thread {
      guard LeftCalls.takeBack(outer, Caller(place: place, framePointer: framePointer)) else { return nil }
    } else {
      thread = Start.enterNewThread()
    }
  }
  thread?.pointee.delegating = ALLOCS_DELEGATING_OPERATOR.rawValue
  return thread
}

/// `functionAndAllocator`: one of allocs_function, and above its eight bits the allocator.
@c(allocs_operator_leave)
func operatorLeave(
  _ thread: Thread, _ block: Block?, _ size: Int, _ alignment: Int, _ place: UInt, _ framePointer: UInt64,
  _ functionAndAllocator: UInt32
) {
  let caller = Caller(place: place, framePointer: framePointer)
  // The new-handler may have run as an ordinary caller in between; take the thread back from it.
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
  _ block: Block?, _ size: Int, _ place: UInt, _ framePointer: UInt64, _ functionAndAllocator: UInt32
) {
  let caller = Caller(place: place, framePointer: framePointer)
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

/// Before operator delete calls the one below. Gives the thread to put back with allocs_leave, or nil.
@c(allocs_operator_deleting)
func operatorDeleting(_ block: Block?, _ place: UInt, _ framePointer: UInt64) -> Thread? {
  let caller = Caller(place: place, framePointer: framePointer)
  var thread: Thread? = allocs_enter()
  if thread == nil {
    thread = allocs_registered_block()
    if let outer = thread {
      guard LeftCalls.takeBack(outer, caller) else {
        if let block { Event.innerFree(outer, block) }
        return nil
      }
    } else {
      thread = Start.enterNewThread()
    }
  }
  if let thread, let block { Event.preFree(thread, block, caller, ALLOCS_FUNCTION_DELETE) }
  return thread
}

// MARK: modules

@c(allocs_hook_dlclose)
func hookDlclose(_ handle: UnsafeMutableRawPointer?) -> CInt {
  let result = Terminal.dlclose(handle)
  var thread: Thread? = allocs_enter()
  if thread == nil, allocs_registered_block() == nil { thread = Start.enterNewThread() }
  if let thread {
    if Gate.regions(thread) != nil { Modules.noteUnloaded() }
    allocs_leave(thread)
  }
  return result
}
