// SPDX-License-Identifier: Apache-2.0
// HookedFunction: the hook of functions that are hooked at their entries and known by a signature
// (allocs_family.h). As in Hook, each call is an allocation, a free or a resize; the signature
// tells which argument has what meaning. The function below is the hooked function's own
// trampoline, so several allocators in a process never meet.
//
// Invariants:
// - All six arguments in registers are passed on, also where the function takes fewer, which does
//   no harm. The result of the function is returned.
// - A function that is hooked here is taken for tight ("tight" is explained in Hook).

import AgentMachine
import SharedLayout

private typealias Hooked = UnsafeMutablePointer<allocs_hooked>
private typealias Arguments = UnsafeMutablePointer<UInt64>

/// The hook of functions named malloc, which programs call most.
@c(allocs_hook_malloc_at_entry)
func hookMallocAtEntry(
  _ size: Int, _ hooked: UnsafeMutablePointer<allocs_hooked>, _ returnSlot: UInt, _ framePointer: UInt64
) -> Block? {
  let below = hooked.pointee.below.unsafelyUnwrapped
  let allocator = hooked.pointee.allocator
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  guard let thread = allocs_enter() else { return mallocSlowly(size, hooked, caller) }
  thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
  let block = allocs_call_for_block(below, UInt64(UInt(bitPattern: size)))
  let isTight = Event.endDelegation(thread, block, isTight: true)
  if let block, let regions = thread.pointee.regions {
    func context() -> UInt64? {
      let origin = thread.pointee.full_stacks != 0 ? UInt64(Stack.known(thread, caller)) : caller.site
      return Contexts.known(thread, origin: origin, ALLOCS_FUNCTION_MALLOC, allocator: allocator)
    }
    guard !Events.areOn,
      Fine.holds(UInt(bitPattern: block), UInt(bitPattern: size), isTight: isTight)
        ? Event.postKnownFineAlloc(thread, regions, block, size, context())
        : Event.postKnownAlloc(thread, regions, block, size, context())
    else { return mallocedSlowly(thread, block, size, caller, allocator, isTight) }
  } else if let block, Gate.hasEverClosed || Event.isUnentered(thread) {
    return mallocedSlowly(thread, block, size, caller, allocator, isTight)
  }
  allocs_leave(thread)
  return block
}

@inline(never)
private func mallocedSlowly(
  _ thread: Thread, _ block: Block, _ size: Int, _ caller: Caller, _ allocator: UInt32, _ isTight: Bool
) -> Block? {
  Event.postAlloc(thread, block, size, 0, caller, ALLOCS_FUNCTION_MALLOC, allocator: allocator, isTight: isTight)
  allocs_leave(thread)
  return block
}

@inline(never)
private func mallocSlowly(_ size: Int, _ hooked: Hooked, _ caller: Caller) -> Block? {
  allocate(size, caller, ALLOCS_FUNCTION_MALLOC, allocator: hooked.pointee.allocator, isTight: true) {
    allocs_call_for_block(hooked.pointee.below.unsafelyUnwrapped, UInt64(UInt(bitPattern: size)))
  }
}

/// The hook of functions that take the block, and nothing else that matters, as their first
/// argument.
@c(allocs_hook_free_at_entry)
func hookFreeAtEntry(
  _ block: Block?, _ second: UInt64, _ hooked: UnsafeMutablePointer<allocs_hooked>, _ returnSlot: UInt,
  _ framePointer: UInt64
) {
  freeOutside(block, Caller(returnSlot: returnSlot, framePointer: framePointer)) {
    allocs_call_with_block(hooked.pointee.below.unsafelyUnwrapped, $0, second)
  }
}

/// For operator new, whose hook is in C (Entry/Families.c).
@c(allocs_request)
func request(
  _ hooked: UnsafeMutablePointer<allocs_hooked>, _ arguments: UnsafeMutablePointer<UInt64>,
  _ alignment: UnsafeMutablePointer<Int>
) -> Int {
  let request = Request(hooked.pointee.signature, arguments)
  alignment.pointee = request.alignment
  return request.size
}

/// The hook of all others.
@c(allocs_hook_at_entry)
func hookAtEntry(
  _ hooked: UnsafeMutablePointer<allocs_hooked>, _ arguments: UnsafeMutablePointer<UInt64>, _ returnSlot: UInt,
  _ framePointer: UInt64
) -> UInt64 {
  let signature = hooked.pointee.signature
  let below = hooked.pointee.below.unsafelyUnwrapped
  let caller = Caller(returnSlot: returnSlot, framePointer: framePointer)
  let block = signature.pointee.block == 0 ? nil : Block(bitPattern: UInt(arguments[Int(signature.pointee.block) - 1]))
  switch UInt32(signature.pointee.operation) {
  case ALLOCS_FREE.rawValue:
    var result: UInt64 = 0
    free(block, caller) { _ in result = allocs_call(below, arguments) }
    return result
  case ALLOCS_FREE_ARRAY.rawValue:
    return freeArray(block, count: arguments[Int(signature.pointee.count) - 1]) { allocs_call(below, arguments) }
  case ALLOCS_FREE_HEAP.rawValue:
    return freeHeap(hooked, block) { allocs_call(below, arguments) }
  case ALLOCS_ALLOCATE_TEXT.rawValue:
    return allocateText(hooked, arguments, caller)
  case ALLOCS_ALLOCATE_SEVERAL.rawValue:
    return allocateSeveral(hooked, arguments, caller)
  default:
    let request = Request(signature, arguments)
    if signature.pointee.operation == ALLOCS_RESIZE.rawValue, let result = Result(signature, arguments) {
      // The caller's variable holds the block that is resized before the call, and the new one
      // after it.
      return result.pointee.map { resize(hooked, arguments, request, caller, $0, storedIn: result) }
        ?? allocate(hooked, arguments, request, caller)
    }
    return block == nil
      ? allocate(hooked, arguments, request, caller)
      : resize(hooked, arguments, request, caller, block.unsafelyUnwrapped)
  }
}

/// The size and the alignment that a call asks for.
private struct Request {
  /// Bytes; -1 if it is more than there can be.
  let size: Int
  /// In bytes; 0 if the call asks for none.
  let alignment: Int

  init(_ signature: UnsafePointer<allocs_signature>, _ arguments: Arguments) {
    let size = arguments[Int(signature.pointee.size) - 1]
    let isProduct = signature.pointee.count != 0
    let (total, overflow) = size.multipliedReportingOverflow(
      by: isProduct ? arguments[Int(signature.pointee.count) - 1] : 1)
    self.size = overflow ? -1 : Int(truncatingIfNeeded: total)
    alignment =
      if signature.pointee.alignment != 0 {
        Int(truncatingIfNeeded: arguments[Int(signature.pointee.alignment) - 1])
      } else if signature.pointee.flags != 0 {
        // MALLOCX_LG_ALIGN of jemalloc(3); 0 stands for none.
        Int(1) << Int(arguments[Int(signature.pointee.flags) - 1] & 63) & ~1
      } else {
        0
      }
  }
}

/// The caller's variable in which the function stores the block; nil if it returns the block.
private typealias Result = UnsafeMutablePointer<Block?>
extension Result {
  fileprivate init?(_ signature: UnsafePointer<allocs_signature>, _ arguments: Arguments) {
    guard signature.pointee.result != 0 else { return nil }
    self.init(bitPattern: UInt(arguments[Int(signature.pointee.result) - 1]))
  }
}

/// The block that a function has allocated, after it has returned `returned`.
private func block(
  _ signature: UnsafePointer<allocs_signature>, _ arguments: Arguments, _ returned: UInt64
) -> Block? {
  guard signature.pointee.result != 0 else { return Block(bitPattern: UInt(returned)) }
  // The function returns an int, 0 on success: the upper half of the register means nothing.
  guard UInt32(truncatingIfNeeded: returned) == 0, let result = Result(signature, arguments) else { return nil }
  return result.pointee
}

@inline(never)
private func allocate(_ hooked: Hooked, _ arguments: Arguments, _ request: Request, _ caller: Caller) -> UInt64 {
  let signature = hooked.pointee.signature
  let below = hooked.pointee.below.unsafelyUnwrapped
  var returned: UInt64 = 0
  _ = allocate(
    request.size, alignment: request.alignment, caller, allocs_function(UInt32(signature.pointee.function)),
    allocator: hooked.pointee.allocator, isTight: true
  ) {
    returned = allocs_call(below, arguments)
    return block(signature, arguments, returned)
  }
  return returned
}

/// The block is as large as the text in it, with the zero at its end. A function that fills a
/// buffer of its caller's has allocated nothing.
@inline(never)
private func allocateText(_ hooked: Hooked, _ arguments: Arguments, _ caller: Caller) -> UInt64 {
  let signature = hooked.pointee.signature
  let below = hooked.pointee.below.unsafelyUnwrapped
  let function = allocs_function(UInt32(signature.pointee.function))
  let given = (arguments[0], arguments[1], arguments[2])
  func text(_ returned: UInt64) -> (block: Block, size: Int)? {
    guard let block = block(signature, arguments, returned) else { return nil }
    let address = UInt64(UInt(bitPattern: block))
    guard address != given.0, address != given.1, address != given.2 else { return nil }
    var size = 0
    if signature.pointee.count == 1 {
      while block.load(fromByteOffset: size, as: UInt8.self) != 0 { size += 1 }
      return (block, size + 1)
    }
    while block.load(fromByteOffset: size, as: UInt16.self) != 0 { size += 2 }
    return (block, size + 2)
  }
  let thread: Thread
  switch Entering.enter() {
  case .taken(let taken): thread = taken
  case .inside(let outer):
    let returned = allocs_call(below, arguments)
    if let text = text(returned) {
      Event.innerAlloc(
        outer, text.block, text.size, caller, function, allocator: hooked.pointee.allocator, isTight: true)
    }
    return returned
  case .starting: return allocs_call(below, arguments)
  }
  // A block that the function allocates on the way and gives back is none of the program's.
  thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
  let returned = allocs_call(below, arguments)
  let made = text(returned)
  let isTight = Event.endDelegation(thread, made?.block, isTight: true)
  if let made {
    Event.postAlloc(
      thread, made.block, made.size, 0, caller, function, allocator: hooked.pointee.allocator, isTight: isTight)
  }
  allocs_leave(thread)
  return returned
}

/// The allocator cuts one block into several. Their addresses are stored in an array of the
/// caller's, or in an array that is itself a block.
@inline(never)
private func allocateSeveral(_ hooked: Hooked, _ arguments: Arguments, _ caller: Caller) -> UInt64 {
  let signature = hooked.pointee.signature
  let below = hooked.pointee.below.unsafelyUnwrapped
  let count = Int(truncatingIfNeeded: arguments[Int(signature.pointee.count) - 1])
  let size = arguments[Int(signature.pointee.size) - 1]
  let isGivenArray = arguments[Int(signature.pointee.result) - 1] != 0
  let function = allocs_function(UInt32(signature.pointee.function))
  guard case .taken(let thread) = Entering.enter() else {
    let returned = allocs_call(below, arguments)
    if returned != 0 { Index.count(ALLOCS_COUNTER_NESTED, UInt64(max(count, 1))) }
    return returned
  }
  thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
  let returned = allocs_call(below, arguments)
  thread.pointee.inner_base = 0
  thread.pointee.delegating = 0
  if let blocks = UnsafePointer<Block?>(bitPattern: UInt(returned)) {
    func record(_ block: Block, _ size: Int) {
      Event.postAlloc(
        thread, block, size, 0, caller, function, allocator: hooked.pointee.allocator, isTight: true)
    }
    // Each block has its own size, or all blocks have one size.
    let sizes = signature.pointee.flags == 0 ? nil : UnsafePointer<Int>(bitPattern: UInt(size))
    for index in 0..<max(count, 0) {
      if let block = blocks[index] { record(block, sizes?[index] ?? Int(truncatingIfNeeded: size)) }
    }
    if !isGivenArray { record(Block(mutating: blocks), count &* 8) }
  }
  allocs_leave(thread)
  return returned
}

@inline(never)
private func resize(
  _ hooked: Hooked, _ arguments: Arguments, _ request: Request, _ caller: Caller, _ block: Block,
  storedIn result: Result? = nil
) -> UInt64 {
  let signature = hooked.pointee.signature
  let below = hooked.pointee.below.unsafelyUnwrapped
  let operation = UInt32(signature.pointee.operation)
  let isInPlace = operation == ALLOCS_RESIZE_IN_PLACE.rawValue || operation == ALLOCS_RESIZE_TO.rawValue
  var returned: UInt64 = 0
  _ = resize(
    block, request.size, alignment: request.alignment, caller, allocs_function(UInt32(signature.pointee.function)),
    allocator: hooked.pointee.allocator, isTight: true,
    failureFrees: result == nil
      && (operation == ALLOCS_RESIZE_OR_FREE.rawValue || request.size == 0 && !isInPlace)
  ) {
    returned = allocs_call(below, arguments)
    if operation == ALLOCS_RESIZE_TO.rawValue {
      return returned >= UInt64(UInt(bitPattern: request.size)) ? block : nil
    }
    if let result { return UInt32(truncatingIfNeeded: returned) == 0 ? result.pointee : nil }
    return Block(bitPattern: UInt(returned))
  }
  return returned
}

private func freeArray(_ array: Block?, count: UInt64, _ release: () -> UInt64) -> UInt64 {
  var returned: UInt64 = 0
  let blocks = array?.assumingMemoryBound(to: Block?.self)
  // Without a block of its own, the hook only takes the thread around the whole.
  free(nil) { _ in
    if let blocks, let thread = allocs_registered_block() {
      for index in 0..<Int(truncatingIfNeeded: count) {
        if let block = blocks[index] { Event.preFree(thread, block) }
      }
    }
    returned = release()
  }
  return returned
}

/// All blocks of a heap go back. Before, the allocator is asked which blocks these are; where it
/// has no function for that, the heap is counted.
private func freeHeap(_ hooked: Hooked, _ heap: Block?, _ release: () -> UInt64) -> UInt64 {
  var returned: UInt64 = 0
  free(nil) { _ in
    // Blocks of the backing heap outlive it.
    if let heap, hooked.pointee.backing?() != heap {
      if let visit = hooked.pointee.visit {
        _ = visit(heap, true, allocs_block_visitor(), nil)
      } else {
        if Index.value(of: ALLOCS_COUNTER_HEAPS_DESTROYED) == 0 { noteUnknownHeap(hooked) }
        Index.count(ALLOCS_COUNTER_HEAPS_DESTROYED)
      }
    }
    returned = release()
  }
  return returned
}

/// The first heap whose blocks nobody tells: from now on the index may list blocks that are gone.
@inline(never)
private func noteUnknownHeap(_ hooked: Hooked) {
  var (start, end): (UInt64, UInt64) = (0, 0)
  var module: UnsafeMutablePointer<link_map>?
  guard allocs_find_module(hooked.pointee.address, &start, &end, &module), let module else { return }
  let signature = hooked.pointee.signature
  var name = Text()
  name.append(cString: allocs_family(UInt32(signature.pointee.families.trailingZeroBitCount)).pointee.prefix)
  name.append(cString: signature.pointee.name)
  Bypasses.note(module, name, ALLOCS_BYPASS_HEAP_UNKNOWN, isRefused: false)
}

/// The allocator calls this for each block of a heap that is about to go back, and for each area of
/// blocks, before its blocks and without a block. An aligned block begins somewhere inside the
/// memory that the allocator counts as the block.
@c(allocs_visited_block)
func visitedBlock(
  _ heap: UnsafeRawPointer?, _ area: UnsafeRawPointer?, _ block: Block?, _ size: Int, _ argument: UnsafeRawPointer?
) -> Bool {
  guard let block, let thread = allocs_registered_block() else { return true }
  var offset = 0
  repeat {
    if Event.innerFree(thread, block + offset) != 0 { break }
    offset += 16
  } while offset < size
  return true
}
