// SPDX-License-Identifier: Apache-2.0
// Terminal: the functions below the hooks. For each name, this is the next definition after the
// agent's in the order in which the dynamic linker searches: the function that the caller would
// have got without the agent.
//
// If another module defines a function before the agent does, callers reach that definition. If the
// definition forwards to the agent's (say by dlsym(RTLD_NEXT)), the agent must not call it back. If
// it belongs to an allocator that never calls the agent, it is hooked at its entry, and becomes the
// function below (EntryPoints).
//
// The definitions are looked up by hand in the modules' hash tables: dlsym may allocate, and the
// first call of malloc is made before libc is ready.

import AgentMachine
import SharedLayout

enum Terminal {
  // MARK: calls

  @inline(__always) static func malloc(_ size: Int) -> Block? {
    #if ALLOCS_INEXE
      allocs_real_malloc(size)
    #else
      allocs_terminal().pointee.malloc(size)
    #endif
  }
  @inline(__always) static func free(_ block: Block?) {
    #if ALLOCS_INEXE
      allocs_real_free(block)
    #else
      allocs_terminal().pointee.free(block)
    #endif
  }
  @inline(__always) static func calloc(_ count: Int, _ size: Int) -> Block? {
    #if ALLOCS_INEXE
      allocs_real_calloc(count, size)
    #else
      allocs_terminal().pointee.calloc(count, size)
    #endif
  }
  @inline(__always) static func realloc(_ block: Block?, _ size: Int) -> Block? {
    #if ALLOCS_INEXE
      allocs_real_realloc(block, size)
    #else
      allocs_terminal().pointee.realloc(block, size)
    #endif
  }
  static func reallocarray(_ block: Block?, _ count: Int, _ size: Int) -> Block? {
    allocs_terminal().pointee.reallocarray(block, count, size)
  }
  static func memalign(_ alignment: Int, _ size: Int) -> Block? { allocs_terminal().pointee.memalign(alignment, size) }
  static func alignedAlloc(_ alignment: Int, _ size: Int) -> Block? {
    allocs_terminal().pointee.aligned_alloc(alignment, size)
  }
  static func posixMemalign(_ result: UnsafeMutablePointer<Block?>, _ alignment: Int, _ size: Int) -> CInt {
    allocs_terminal().pointee.posix_memalign(result, alignment, size)
  }
  static func valloc(_ size: Int) -> Block? { allocs_terminal().pointee.valloc(size) }
  static func pvalloc(_ size: Int) -> Block? { allocs_terminal().pointee.pvalloc(size) }
  static func freeSized(_ block: Block?, _ size: Int) {
    if let function = allocs_terminal().pointee.free_sized { function(block, size) } else { free(block) }
  }
  static func freeAlignedSized(_ block: Block?, _ alignment: Int, _ size: Int) {
    if let function = allocs_terminal().pointee.free_aligned_sized {
      function(block, alignment, size)
    } else {
      free(block)
    }
  }
  static func dlclose(_ handle: UnsafeMutableRawPointer?) -> CInt { allocs_terminal().pointee.dlclose(handle) }

  // MARK: finding them

  /// Fills the table. Runs before anything else of the agent; allocates nothing; may run twice.
  static func resolve() {
    guard allocs_process().pointee.has_entries == 0 else { return }  // names lead to the agent's own functions now
    var count: UInt32 = 0
    while allocs_terminal_function(count) != nil { count += 1 }
    // From the last to the first, malloc: a thread that finds the first of them finds all.
    while count > 1 {
      count -= 1
      resolve(count)
    }
    #if ALLOCS_INEXE
      allocs_complete_terminal()
    #endif
    noteTight { first(cString: $0).module }
    resolve(0)
  }

  /// Where nothing defines a function, the kit's substitute stays.
  private static func resolve(_ index: UInt32) {
    guard let entry = allocs_terminal_function(index), let function = next(cString: entry.pointee.name).function
    else { return }
    entry.pointee.below.pointee = function
  }

  /// An allocator before the agent is the allocator below. Callers get its definitions, also of
  /// functions that cannot be hooked.
  static func takeFirst() {
    guard allocs_process().pointee.has_entries == 0 else { return }
    var index: UInt32 = 0
    while let entry = allocs_terminal_function(index) {
      index += 1
      if entry.pointee.is_of_family, let function = first(cString: entry.pointee.name).function {
        entry.pointee.below.pointee = function
      }
    }
  }

  /// The malloc that callers get forwards to the agent: the allocator is the one after the agent.
  static func takeNext() {
    #if !ALLOCS_INEXE
      noteTight { next(cString: $0).module }
    #endif
  }

  // MARK: functions that are tight

  /// Whether the blocks of `function` may lie closer than 32 bytes ("tight" is explained in Hook).
  /// The operators of C++ are taken for tight; where they work by calling malloc, malloc's hook
  /// knows better.
  @inline(__always)
  static func isTight(_ function: allocs_function) -> Bool {
    allocs_terminal().pointee.tight >> UInt64(function.rawValue) & 1 != 0
  }

  /// glibc's smallest chunk is 32 bytes; other allocators have smaller classes. `module` gives the
  /// module whose definition of a name counts: as long as nothing is known of a definition before
  /// the agent, that is the first, since it may turn out to be an allocator.
  private static func noteTight(_ module: (UnsafePointer<CChar>) -> UnsafeMutablePointer<link_map>?) {
    func isTightBelow(_ name: UnsafePointer<CChar>) -> Bool {
      #if ALLOCS_INEXE
        if allocs_linked_definition(name) != nil { return !allocs_linked_is_libc() }
      #endif
      if let module = module(name) { return !isLibc(module) }
      #if ALLOCS_INEXE
        // The kit's own stands for a function that nobody defines, and calls functions that the
        // executable is linked with.
        return !allocs_linked_is_libc()
      #else
        return true
      #endif
    }
    var tight: UInt64 = ~0
    var index: UInt32 = 0
    while let entry = allocs_terminal_function(index) {
      index += 1
      let function = UInt64(entry.pointee.function)
      if function != 0, !isTightBelow(entry.pointee.name) { tight &= ~(1 << function) }
    }
    allocs_terminal().pointee.tight = tight
    allocs_set_fine_size(isTight(ALLOCS_FUNCTION_MALLOC) ? Int(ALLOCS_FINE_SIZE) + 1 : 0)
  }

  /// A module was unloaded: it may have defined operators of C++, which are found when they are
  /// first called.
  static func forgetOperators() {
    withUnsafeMutablePointer(to: &allocs_process().pointee.operators) {
      let operators = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      for index in 0..<Int(ALLOCS_OPERATOR_COUNT.rawValue) {
        allocs_store_release_pointer(operators + index, nil)
      }
    }
  }

  /// An address inside the module that is the allocator. Nothing is known yet of definitions before
  /// the agent, so the first counts.
  static var mallocAddress: UInt64 {
    #if ALLOCS_INEXE
      let function = unsafeBitCast(allocs_terminal().pointee.malloc, to: UnsafeMutableRawPointer?.self)
    #else
      let function = first("malloc").function
    #endif
    return UInt64(UInt(bitPattern: function))
  }

  /// Of a preloaded agent and one in the executable, neither must take the other for the function
  /// below.
  private static func isAnotherAgent(_ module: UnsafeMutablePointer<link_map>) -> Bool {
    #if ALLOCS_INEXE
      DynamicSymbols.isAgent(module)
    #else
      DynamicSymbols.hasKit(module)
    #endif
  }

  static func isLibc(_ module: UnsafeMutablePointer<link_map>?) -> Bool {
    guard let module, !allocs_is_own_module(module), !isAnotherAgent(module) else { return false }
    return DynamicSymbols(module).map(Libc.isLibrary) ?? false
  }

  /// The next definition of `name` after the agent's, and the module it is in.
  static func next(_ name: StaticString) -> (
    function: UnsafeMutableRawPointer?, module: UnsafeMutablePointer<link_map>?
  ) {
    next(cString: UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self))
  }

  static func next(
    cString name: UnsafePointer<CChar>
  ) -> (function: UnsafeMutableRawPointer?, module: UnsafeMutablePointer<link_map>?) {
    #if ALLOCS_INEXE
      if let linked = allocs_linked_definition(name) { return (linked, nil) }
    #endif
    // The dynamic linker's list begins with its search order: the executable, preloaded libraries,
    // the libraries that these need.
    var own = allocs_first_link_map()
    while let current = own, !allocs_is_own_module(current) { own = current.pointee.l_next }
    let found = first(cString: name, from: own?.pointee.l_next)
    // An agent that was opened by dlopen is the last, and nobody calls it.
    return found.function == nil ? first(cString: name) : found
  }

  /// The first definition of `name` that is not the agent's, and the module it is in.
  private static func first(_ name: StaticString) -> (
    function: UnsafeMutableRawPointer?, module: UnsafeMutablePointer<link_map>?
  ) {
    first(cString: UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self))
  }

  private static func first(
    cString name: UnsafePointer<CChar>, from module: UnsafeMutablePointer<link_map>? = allocs_first_link_map()
  ) -> (function: UnsafeMutableRawPointer?, module: UnsafeMutablePointer<link_map>?) {
    var module = module
    while let current = module {
      if let found = lookUp(cString: name, in: current) { return (found, current) }
      module = current.pointee.l_next
    }
    return (nil, nil)
  }

  /// The address of the function that `module` defines under `name`; nil if it does not, or is the
  /// agent itself.
  private static func lookUp(
    cString name: UnsafePointer<CChar>, in module: UnsafeMutablePointer<link_map>
  ) -> UnsafeMutableRawPointer? {
    guard !allocs_is_own_module(module), let symbols = DynamicSymbols(module),
      let symbol = symbols.symbol(of: name), symbol.type == DynamicSymbols.function, !isAnotherAgent(module)
    else { return nil }
    return UnsafeMutableRawPointer(bitPattern: UInt(symbol.address))
  }
}
