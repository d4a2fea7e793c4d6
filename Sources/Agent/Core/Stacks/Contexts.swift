// SPDX-License-Identifier: Apache-2.0
// Contexts: from a call to the id that a slot holds. A context says which stack a block was
// allocated with (as a node of StackNodes; in mode `site`, the node of the call site alone), by
// which thread, with which function, from which allocator.
//
// Each thread keeps a cache of the contexts that it has allocated in. A context that is not in the
// cache is found in, or added to, the table of the segment (InternTable.swift).

import AgentMachine
import SharedLayout

enum Contexts {
  // MARK: the path of a hook

  /// The id of (stack, thread, function, allocator); 0 if it cannot be recorded.
  @inline(__always)
  static func context(
    _ thread: Thread, _ caller: Caller, _ function: allocs_function, allocator: UInt32 = 0
  ) -> UInt32 {
    let others = others(function, allocator)
    // Malloc's path has looked there.
    if others != 0, thread.pointee.full_stacks != 0 {
      let context = known(thread, caller, others)
      if context != 0 { return context }
    }
    // The origin is a node with whole stacks, else the address of the call site.
    var origin = thread.pointee.full_stacks != 0 ? UInt64(Stack.node(thread, caller)) : caller.site
    if OwnFrames.isOwn(origin) { origin = OwnFrames.siteBehind(thread, caller) }
    guard origin != 0 else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_CONTEXTS)
      return 0
    }
    let (index, key) = cache(origin, function, allocator: allocator)
    let cached = allocs_sites(thread) + Int(index)
    if cached.pointee.key == key {
      keep(thread, origin, others, cached)
      return UInt32(truncatingIfNeeded: cached.pointee.bits >> 9)
    }
    // With whole stacks the capture has looked (Stack.swift).
    if thread.pointee.full_stacks == 0, Stack.hasNoRoomForSite(thread) {
      Index.count(ALLOCS_COUNTER_UNKNOWN_CONTEXTS)
      return 0
    }
    let context = intern(thread, origin, function, allocator, cached, key)
    if context != 0 { keep(thread, origin, others, cached) }
    return context
  }

  /// The id of the context of a call at `site`, in the function that the hook of `outer`'s call has
  /// called. `outer` is unknown if it is not under way any more: then the call site is all there
  /// is.
  @inline(never)
  static func context(
    _ thread: Thread, site: UInt64, below outer: Caller, _ function: allocs_function, allocator: UInt32
  ) -> UInt32 {
    let origin = thread.pointee.full_stacks != 0 ? UInt64(node(thread, site: site, below: outer)) : site
    guard origin != 0 else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_CONTEXTS)
      return 0
    }
    let (index, key) = cache(origin, function, allocator: allocator)
    let cached = allocs_sites(thread) + Int(index)
    if cached.pointee.key == key { return UInt32(truncatingIfNeeded: cached.pointee.bits >> 9) }
    return intern(thread, origin, function, allocator, cached, key)
  }

  private static func node(_ thread: Thread, site: UInt64, below outer: Caller) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    let parent = outer.isKnown ? Stack.node(ofOuter: outer, thread) : 0
    if outer.isKnown, parent == 0 { return 0 }
    // Readers take no deeper stacks.
    var depth: UInt32 = 1
    var next = parent
    while next != 0, StackNodes.all(header)[Int(next)].flags & ALLOCS_NODE_DEPTH_LIMIT.rawValue == 0 {
      depth += 1
      next = StackNodes.all(header)[Int(next)].parent
    }
    let isWhole = parent != 0 && depth < ALLOCS_FRAMES_MAX
    return StackNodes.child(
      thread, shared, header, isWhole ? parent : 0, site, isWhole ? 0 : ALLOCS_NODE_TRUNCATED.rawValue)
  }

  /// The id of the context that the stack's record has, if it is of this function and allocator;
  /// else 0. Inside a hook that delegates, a handler's hooks may change the memo meanwhile.
  ///
  /// By itself, so that the hooks with call sites save no registers for it.
  @inline(never)
  private static func known(_ thread: Thread, _ caller: Caller, _ others: UInt64) -> UInt32 {
    guard thread.pointee.delegating == 0, let bits = Stack.knownContext(thread, caller, others) else { return 0 }
    return UInt32(truncatingIfNeeded: bits >> 9)
  }

  /// The next allocation by the same function with the same stack finds the context in the memo of
  /// stacks. Not inside a hook that delegates: a handler's hooks may replace the record meanwhile.
  @inline(__always)
  private static func keep(
    _ thread: Thread, _ origin: UInt64, _ others: UInt64, _ cached: UnsafeMutablePointer<allocs_site>
  ) {
    guard thread.pointee.full_stacks != 0, thread.pointee.delegating == 0 else { return }
    Stack.keep(thread, origin, cached.pointee.bits, others)
  }

  /// The id of (node or call site, thread, function, allocator), where the head of a slot has it,
  /// if it is in the thread's cache; else nil. Calls nothing.
  @inline(__always)
  static func known(
    _ thread: Thread, origin: UInt64, _ function: allocs_function, allocator: UInt32 = 0
  ) -> UInt64? {
    let (index, key) = cache(origin, function, allocator: allocator)
    return allocs_site_key(thread, index) == key && origin != 0 ? allocs_site_bits(thread, index) : nil
  }

  /// As `known`, of malloc at `site`, which is not 0.
  @inline(__always)
  static func known(_ thread: Thread, site: UInt64) -> UInt64? {
    let (index, key) = cache(site, ALLOCS_FUNCTION_MALLOC, allocator: 0)
    return allocs_site_key(thread, index) == key ? allocs_site_bits(thread, index) : nil
  }

  /// The index of the entry of the thread's cache in which the context of `origin`, `function` and
  /// `allocator` lies if the cache has it, and the key that the entry has then.
  @inline(__always)
  private static func cache(
    _ origin: UInt64, _ function: allocs_function, allocator: UInt32
  ) -> (index: UInt32, key: UInt64) {
    let index = (UInt32(truncatingIfNeeded: origin) &* 0x9E37_79B9) >> ALLOCS_SITE_SHIFT
    return (index, origin | others(function, allocator))
  }

  /// The function and the allocator, in bits that neither an address nor a slot's context has: 0
  /// for malloc by libc.
  @inline(__always)
  private static func others(_ function: allocs_function, _ allocator: UInt32) -> UInt64 {
    UInt64(function.rawValue ^ ALLOCS_FUNCTION_MALLOC.rawValue) << 56 | UInt64(allocator) << 48
  }

  @inline(never)
  private static func intern(
    _ thread: Thread, _ origin: UInt64, _ function: allocs_function, _ allocator: UInt32,
    _ cached: UnsafeMutablePointer<allocs_site>, _ key: UInt64
  ) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    let node =
      thread.pointee.full_stacks != 0
      ? UInt32(truncatingIfNeeded: origin) : StackNodes.child(thread, shared, header, 0, origin, 0)
    let context =
      node == 0 ? 0 : context(shared, header, node, thread.pointee.slot, function, allocator, of: thread)
    guard context != 0 else {
      Index.count(ALLOCS_COUNTER_UNKNOWN_CONTEXTS)
      return 0
    }
    cached.pointee.bits = allocs_slot_context_bits(context)
    cached.pointee.key = key
    return context
  }

  // MARK: the table

  /// The id of (node, slot of the thread, function, allocator); 0 if it cannot be recorded.
  /// `thread`: the thread of that slot, if it may be in no other call of this function.
  static func context(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>, _ node: UInt32,
    _ slot: UInt32, _ function: allocs_function, _ allocator: UInt32, of thread: Thread? = nil
  ) -> UInt32 {
    let word = allocs_context_word(node, slot, function.rawValue, allocator)
    return withUnsafeMutablePointer(to: &shared.pointee.contexts) { state in
      let table = InternTable<UInt64>(state, header, ALLOCS_SECTION_CONTEXTS)
      let contexts = table.entries
      return table.id(
        owner: node, tag: InternTable<UInt64>.tag(word), hash: InternTable<UInt64>.hash(word),
        matches: { contexts[Int($0)] == word },
        create: {
          if shared.pointee.totals != nil { return Totals.newContext(table, word, of: thread, shared, header) }
          return table.append { id in allocs_store_release_u64(contexts + id, word) }
        })
    }
  }
}
