// Terminal: the functions below the hooks. For each name, the next definition after the agent's in the order in which
// the dynamic linker searches: what the caller would have got if the agent were not there.
//
// A definition before the agent's is what callers get. Either it leads on to the agent's, as one found by
// dlsym(RTLD_NEXT): then the agent must not lead back to it. Or it is an allocator of its own, and nobody ever calls
// the agent's: then it is hooked at its entry, and becomes the function below (EntryPoints).
//
// Found by hand in the modules' hash tables: dlsym may allocate, and the first malloc comes before libc is ready.

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
    let terminal = allocs_terminal()
    func pointer(_ name: StaticString) -> UnsafeMutableRawPointer? { next(name).function }
    terminal.pointee.calloc = unsafeBitCast(pointer("calloc"), to: type(of: terminal.pointee.calloc))
    terminal.pointee.realloc = unsafeBitCast(pointer("realloc"), to: type(of: terminal.pointee.realloc))
    terminal.pointee.reallocarray = unsafeBitCast(pointer("reallocarray"), to: type(of: terminal.pointee.reallocarray))
    terminal.pointee.memalign = unsafeBitCast(pointer("memalign"), to: type(of: terminal.pointee.memalign))
    terminal.pointee.posix_memalign = unsafeBitCast(
      pointer("posix_memalign"), to: type(of: terminal.pointee.posix_memalign))
    terminal.pointee.aligned_alloc = unsafeBitCast(
      pointer("aligned_alloc"), to: type(of: terminal.pointee.aligned_alloc))
    terminal.pointee.valloc = unsafeBitCast(pointer("valloc"), to: type(of: terminal.pointee.valloc))
    terminal.pointee.pvalloc = unsafeBitCast(pointer("pvalloc"), to: type(of: terminal.pointee.pvalloc))
    terminal.pointee.malloc_usable_size = unsafeBitCast(
      pointer("malloc_usable_size"), to: type(of: terminal.pointee.malloc_usable_size))
    terminal.pointee.free_sized = unsafeBitCast(pointer("free_sized"), to: type(of: terminal.pointee.free_sized))
    terminal.pointee.free_aligned_sized = unsafeBitCast(
      pointer("free_aligned_sized"), to: type(of: terminal.pointee.free_aligned_sized))
    terminal.pointee.dlclose = unsafeBitCast(pointer("dlclose"), to: type(of: terminal.pointee.dlclose))
    terminal.pointee.fork = unsafeBitCast(pointer("_Fork"), to: type(of: terminal.pointee.fork))
    terminal.pointee.mmap = unsafeBitCast(pointer("mmap"), to: type(of: terminal.pointee.mmap))
    terminal.pointee.munmap = unsafeBitCast(pointer("munmap"), to: type(of: terminal.pointee.munmap))
    allocs_set_terminal_mremap(pointer("mremap"))
    terminal.pointee.brk = unsafeBitCast(pointer("brk"), to: type(of: terminal.pointee.brk))
    terminal.pointee.sbrk = unsafeBitCast(pointer("sbrk"), to: type(of: terminal.pointee.sbrk))
    terminal.pointee.free = unsafeBitCast(pointer("free"), to: type(of: terminal.pointee.free))
    #if ALLOCS_INEXE
      allocs_complete_terminal()
    #endif
    let malloc = next("malloc")
    noteTight { first(cString: $0).module }
    terminal.pointee.malloc = unsafeBitCast(malloc.function, to: type(of: terminal.pointee.malloc))
  }

  /// An allocator before the agent is the one below: what it defines, also where that cannot be hooked, is what callers
  /// get.
  static func takeFirst() {
    guard allocs_process().pointee.has_entries == 0 else { return }
    var index: UInt32 = 0
    while let entry = allocs_entry_point(index) {
      index += 1
      if !entry.pointee.is_operator, let function = first(cString: entry.pointee.name).function {
        entry.pointee.below.pointee = function
      }
    }
    if let function = first("malloc_usable_size").function {
      allocs_terminal().pointee.malloc_usable_size = unsafeBitCast(
        function, to: type(of: allocs_terminal().pointee.malloc_usable_size))
    }
  }

  /// What callers of malloc get leads on to the agent: the allocator is the one after it.
  static func takeNext() {
    #if !ALLOCS_INEXE
      noteTight { next(cString: $0).module }
    #endif
  }

  // MARK: which are tight

  /// Whether the blocks of `function` may lie closer than 32 bytes: see Hook. Operators of C++ are
  /// taken for that; where they work by calling malloc, malloc's hook knows better.
  @inline(__always)
  static func isTight(_ function: allocs_function) -> Bool {
    allocs_terminal().pointee.tight >> UInt64(function.rawValue) & 1 != 0
  }

  /// glibc's smallest chunk is 32 bytes. Others have smaller classes. What is before the agent may
  /// turn out to be one, so `module` gives the module that callers get a function from, while
  /// nothing is known of that.
  private static func noteTight(_ module: (UnsafePointer<CChar>) -> UnsafeMutablePointer<link_map>?) {
    func isTightBelow(_ name: StaticString) -> Bool {
      let name = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
      #if ALLOCS_INEXE
        if allocs_linked_definition(name) != nil { return !allocs_linked_is_libc() }
      #endif
      if let module = module(name) { return !isLibc(module) }
      #if ALLOCS_INEXE
        // The kit's own stands for what nobody defines, and calls what the executable is linked
        // with.
        return !allocs_linked_is_libc()
      #else
        return true
      #endif
    }
    var tight: UInt64 = ~0
    func note(_ name: StaticString, _ function: allocs_function) {
      if !isTightBelow(name) { tight &= ~(1 << UInt64(function.rawValue)) }
    }
    note("malloc", ALLOCS_FUNCTION_MALLOC)
    note("calloc", ALLOCS_FUNCTION_CALLOC)
    note("realloc", ALLOCS_FUNCTION_REALLOC)
    note("reallocarray", ALLOCS_FUNCTION_REALLOCARRAY)
    note("memalign", ALLOCS_FUNCTION_MEMALIGN)
    note("posix_memalign", ALLOCS_FUNCTION_POSIX_MEMALIGN)
    note("aligned_alloc", ALLOCS_FUNCTION_ALIGNED_ALLOC)
    note("valloc", ALLOCS_FUNCTION_VALLOC)
    note("pvalloc", ALLOCS_FUNCTION_PVALLOC)
    let terminal = allocs_terminal()
    terminal.pointee.tight = tight
    terminal.pointee.fine_size = isTight(ALLOCS_FUNCTION_MALLOC) ? Int(ALLOCS_FINE_SIZE) + 1 : 0
  }

  /// A module was unloaded: the operators of C++, which are found when they are first called, may have been in it.
  static func forgetOperators() {
    withUnsafeMutablePointer(to: &allocs_process().pointee.operators) {
      let operators = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      for index in 0..<Int(ALLOCS_OPERATOR_COUNT.rawValue) {
        allocs_store_release_pointer(operators + index, nil)
      }
    }
  }

  /// An address inside the module that is the allocator, before anything is known of what is before the agent: the
  /// first there is.
  static var mallocAddress: UInt64 {
    #if ALLOCS_INEXE
      let function = unsafeBitCast(allocs_terminal().pointee.malloc, to: UnsafeMutableRawPointer?.self)
    #else
      let function = first("malloc").function
    #endif
    return UInt64(UInt(bitPattern: function))
  }

  /// Of a preloaded agent and one in the executable, each must not take the other for the function below.
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
    // The loader's list begins with the search order: the executable, what is preloaded, what they need.
    var own = allocs_first_link_map()
    while let current = own, !allocs_is_own_module(current) { own = current.pointee.l_next }
    let found = first(cString: name, from: own?.pointee.l_next)
    // Opened by dlopen, the agent is the last, and nobody calls it.
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

  /// The address of the function that `module` defines under `name`; nil if it does not, or is the agent itself.
  private static func lookUp(
    cString name: UnsafePointer<CChar>, in module: UnsafeMutablePointer<link_map>
  ) -> UnsafeMutableRawPointer? {
    guard !allocs_is_own_module(module), let symbols = DynamicSymbols(module),
      let symbol = symbols.symbol(of: name), symbol.type == DynamicSymbols.function, !isAnotherAgent(module)
    else { return nil }
    return UnsafeMutableRawPointer(bitPattern: UInt(symbol.address))
  }
}
