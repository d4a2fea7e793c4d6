// SPDX-License-Identifier: Apache-2.0
// PoolCalls: the agent's work at each call of a pool's function. ALLOCS_SUBALLOC declares such
// functions (Declarations.swift), and a program may call functions of allocs_pool.h to announce its
// pools itself.
//
// Invariants:
// - Where declared functions call each other, the outermost call records: apr_pcalloc calls
//   apr_palloc, and both are one block. A free or a reset counts at any depth, and before the
//   function runs: from then on the memory is nobody's.
// - The thread is not inside a hook while the pool's function runs: a chunk that the pool takes
//   from malloc is an allocation like any other.
// - A call that an exception or longjmp has left never returns. It is recognized by comparing its
//   record with the stack pointer. A call's record lies on the stack: above the stack pointer while
//   the call is under way, and below it once the call was left. The record of a new call lies at
//   the stack pointer, so `entered` compares the two records.
//
// A block is recorded after the function returned it, and before its caller knows it.

import AgentMachine
import SharedLayout

enum PoolCalls {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  typealias Header = UnsafeMutablePointer<allocs_header>
  typealias Call = UnsafeMutablePointer<allocs_declared_call>

  // MARK: on and off

  /// The first suballocator is there: from here on, each free also looks for suballocations in the
  /// block. No fence is needed: a thread that frees a chunk of which this thread hands out blocks
  /// got the chunk from this thread, and so sees what was stored here before.
  static func turnOn(_ shared: Shared, _ header: Header) {
    guard shared.pointee.nested_regions.0 == nil else { return }
    let size = UInt64(ALLOCS_REGION_COUNT) * 8
    guard let first = System.map(size), let second = System.map(size) else { return }
    locked(shared) {
      guard shared.pointee.nested_regions.0 == nil else {
        System.unmap(first, size)
        System.unmap(second, size)
        return
      }
      shared.pointee.nested_regions.1 = second.assumingMemoryBound(to: UnsafeMutablePointer<UInt8>?.self)
      shared.pointee.nested_regions.0 = first.assumingMemoryBound(to: UnsafeMutablePointer<UInt8>?.self)
      Threads.forEach(shared) { $0.pointee.free_regions = nil }
    }
  }

  /// The flags that ALLOCS_LEVEL asks for: the setting says `block` or `chunk` for all allocators,
  /// `name=block` or `name=chunk` for one.
  static func flags(ofAllocator name: allocs_text_part) -> UInt32 {
    guard let text = allocs_process().pointee.level else { return 0 }
    return allocs_level_is_chunk(text, name) ? ALLOCS_ALLOCATOR_SHOWN_AS_CHUNK.rawValue : 0
  }

  // MARK: a block, whichever way it was told of

  private static func allocated(
    _ thread: Thread, _ block: UInt, _ size: UInt, allocator: UInt32, group: UInt32, pool: UInt64?, isStack: Bool,
    _ caller: Caller
  ) {
    guard Gate.regions(thread) != nil, let shared = allocs_process().pointee.shared,
      let header = shared.pointee.header
    else { return }
    let context = Contexts.context(thread, caller, ALLOCS_FUNCTION_UNKNOWN, allocator: allocator)
    guard context != 0, let level = NestedIndex.record(thread, shared, header, block, size, group, context), let pool
    else {
      return
    }
    Pools.handedOut(shared, thread, pool, group, isStack: isStack, level, block, block &+ max(size, 1))
  }

  private static func freed(_ block: UInt, group: UInt32) -> NestedIndex.Erased {
    guard block != 0, let shared = allocs_process().pointee.shared, let header = shared.pointee.header else {
      return NestedIndex.Erased()
    }
    let erased = NestedIndex.erase(shared, header, block, group)
    if erased.head == 0 { Index.count(ALLOCS_COUNTER_UNKNOWN_SUBFREES) }
    return erased
  }

  private static func reset(_ pool: UInt64, group: UInt32, since block: UInt) {
    guard let shared = allocs_process().pointee.shared else { return }
    Pools.reset(shared, pool, group, from: block)
  }

  /// The thread's block, taken; nil if the thread is inside a hook, as in a signal handler, or the
  /// agent is being started.
  private static func enter(_ caller: Caller = .unknown) -> Thread? {
    switch Entering.enter(from: caller) {
    case .taken(let thread): return thread
    case .inside:
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return nil
    case .starting: return nil
    }
  }

  // MARK: declared functions

  /// A declared function is called, and runs next.
  static func entered(_ call: Call) {
    let function = call.pointee.function
    call.pointee.old_head = 0
    call.pointee.below = function.pointee.below.unsafelyUnwrapped
    let outermost = allocs_declared_outermost()
    if let outermost, UInt(bitPattern: call) < UInt(bitPattern: outermost) {
      call.pointee.outer = outermost
    } else {
      call.pointee.outer = nil
      allocs_set_declared_outermost(call)
    }
    let declaration = function.pointee.is
    guard declaration.freed != UInt8(ALLOCS_DECLARATION_NONE) || declaration.reset != UInt8(ALLOCS_DECLARATION_NONE),
      let thread = enter(caller(call))
    else { return }
    defer { allocs_leave(thread) }
    guard Gate.regions(thread) != nil else { return }
    if declaration.reset != UInt8(ALLOCS_DECLARATION_NONE) {
      let since = declaration.freed == UInt8(ALLOCS_DECLARATION_NONE) ? 0 : argument(call, declaration.freed)
      return reset(UInt64(argument(call, declaration.reset)), group: function.pointee.group, since: since)
    }
    let erased = freed(argument(call, declaration.freed), group: function.pointee.group)
    call.pointee.old_head = erased.head
    call.pointee.old_level = UInt64(erased.level)
  }

  /// A declared function has returned; its caller runs next.
  static func returned(_ call: Call) {
    guard call.pointee.outer == nil else { return }
    allocs_set_declared_outermost(nil)
    let function = call.pointee.function
    let declaration = function.pointee.is
    guard declaration.allocates, function.pointee.allocator != 0 else { return }
    guard call.pointee.result != 0 else { return resizeFailed(call, declaration) }
    guard let thread = enter(caller(call)) else { return }
    allocated(
      thread, UInt(call.pointee.result), size(call, declaration), allocator: function.pointee.allocator,
      group: function.pointee.group,
      pool: function.pointee.has_pools && declaration.pool != UInt8(ALLOCS_DECLARATION_NONE)
        ? UInt64(argument(call, declaration.pool)) : nil,
      isStack: function.pointee.is_stack, caller(call))
    allocs_leave(thread)
  }

  private static func caller(_ call: Call) -> Caller {
    Caller(
      returnSlot: UInt(bitPattern: call) + UInt(ALLOCS_DECLARED_RETURN_ADDRESS),
      framePointer: call.pointee.frame_pointer)
  }

  /// The function returned nothing. If it was to resize a block, to more than no bytes, that block
  /// lives on.
  private static func resizeFailed(_ call: Call, _ declaration: allocs_declaration) {
    guard call.pointee.old_head != 0, size(call, declaration) != 0, let thread = enter() else { return }
    if Gate.regions(thread) != nil, let shared = allocs_process().pointee.shared {
      NestedIndex.restore(
        shared, argument(call, declaration.freed),
        NestedIndex.Erased(head: call.pointee.old_head, level: Int(call.pointee.old_level)))
    }
    allocs_leave(thread)
  }

  private static func argument(_ call: Call, _ index: UInt8) -> UInt {
    withUnsafePointer(to: &call.pointee.arguments) {
      UInt(UnsafeRawPointer($0).assumingMemoryBound(to: UInt64.self)[Int(index)])
    }
  }

  /// The size that was asked for: the product of the arguments that the declaration names. If that
  /// overflows, any value will do: the function has failed.
  private static func size(_ call: Call, _ declaration: allocs_declaration) -> UInt {
    var size: UInt = 1
    for index in 0..<UInt8(ALLOCS_DECLARATION_ARGUMENTS) where declaration.sizes >> index & 1 != 0 {
      let (product, overflow) = size.multipliedReportingOverflow(by: argument(call, index))
      if overflow { return .max }
      size = product
    }
    return size
  }

  // MARK: announced calls

  static func announcedAllocation(
    _ kind: UnsafeMutablePointer<allocs_pool_kind>, _ pool: UInt64, _ block: UInt, _ size: UInt, _ caller: Caller
  ) {
    guard let thread = enter(caller) else { return }
    if Gate.regions(thread) != nil, let number = number(of: kind, at: caller.site) {
      allocated(
        thread, block, size, allocator: number, group: number, pool: pool == 0 ? nil : pool, isStack: true, caller)
    }
    allocs_leave(thread)
  }

  static func announcedFree(_ kind: UnsafeMutablePointer<allocs_pool_kind>, _ block: UInt) {
    guard let number = known(kind), let thread = enter() else { return }
    if Gate.regions(thread) != nil { _ = freed(block, group: number) }
    allocs_leave(thread)
  }

  static func announcedReset(_ kind: UnsafeMutablePointer<allocs_pool_kind>, _ pool: UInt64, _ since: UInt) {
    guard let number = known(kind), let thread = enter() else { return }
    if Gate.regions(thread) != nil { reset(pool, group: number, since: since) }
    allocs_leave(thread)
  }

  /// The number of an announced allocator that has been entered; nil if it has not, or could not
  /// be.
  private static func known(_ kind: UnsafeMutablePointer<allocs_pool_kind>) -> UInt32? {
    let number = allocs_load_acquire_u64(&kind.pointee.number)
    return number == 0 || number >= UInt64(ALLOCS_ALLOCATOR_CAPACITY) ? nil : UInt32(number)
  }

  /// The number of an announced allocator, which is entered now if it is new. Nil, and counted, if
  /// the table is full.
  private static func number(of kind: UnsafeMutablePointer<allocs_pool_kind>, at site: UInt64) -> UInt32? {
    if let number = known(kind) { return number }
    guard allocs_load_acquire_u64(&kind.pointee.number) == 0, let shared = allocs_process().pointee.shared,
      let header = shared.pointee.header
    else { return nil }
    turnOn(shared, header)
    let name = Allocators.Name(cString: kind.pointee.name)
    let function = kind.pointee.function.map { Allocators.Name(cString: $0) } ?? Allocators.Name()
    let flags = flags(ofAllocator: allocs_text_part(start: name.start, size: UInt32(name.size)))
    let number = Allocators.register(
      shared, header, address: site, kind: ALLOCS_ALLOCATOR_SUBALLOCATOR, name: name, function: function,
      flags: flags | ALLOCS_ALLOCATOR_ANNOUNCED.rawValue)
    // Another thread may have entered the allocator at the same time: the number that is stored
    // first counts.
    _ = allocs_compare_exchange_u64(
      &kind.pointee.number, 0, number == 0 ? UInt64(ALLOCS_ALLOCATOR_CAPACITY) : UInt64(number))
    if number == 0 { Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST) }
    return known(kind)
  }
}

// MARK: called from C

@c(allocs_declared_entered)
func declaredEntered(_ call: UnsafeMutablePointer<allocs_declared_call>) { PoolCalls.entered(call) }
@c(allocs_declared_returned)
func declaredReturned(_ call: UnsafeMutablePointer<allocs_declared_call>) { PoolCalls.returned(call) }

@c(allocs_announced_allocation)
func announcedAllocation(
  _ kind: UnsafeMutablePointer<allocs_pool_kind>, _ pool: UInt64, _ block: UInt, _ size: UInt, _ returnSlot: UInt,
  _ framePointer: UInt64
) {
  PoolCalls.announcedAllocation(
    kind, pool, block, size, Caller(returnSlot: returnSlot, framePointer: framePointer))
}
@c(allocs_announced_free)
func announcedFree(_ kind: UnsafeMutablePointer<allocs_pool_kind>, _ block: UInt) {
  PoolCalls.announcedFree(kind, block)
}
@c(allocs_announced_reset)
func announcedReset(_ kind: UnsafeMutablePointer<allocs_pool_kind>, _ pool: UInt64, _ since: UInt) {
  PoolCalls.announcedReset(kind, pool, since)
}
