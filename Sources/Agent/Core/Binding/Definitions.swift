// SPDX-License-Identifier: Apache-2.0
// Definitions: the third way of binding. Some callers do not take the first definition of malloc in
// the search order, and reach the C library's, past the agent: objects opened with RTLD_DEEPBIND,
// callers of `__libc_malloc`, of dlsym with a handle or RTLD_NEXT. So the symbols of these
// definitions are changed, in the memory of this process alone, to mean the agent's functions. A
// caller that asks the dynamic linker for them from then on gets the agent's function, in whatever
// way. No code is touched.
//
// - A definition that is the function below the agent's is made to mean the agent's function of
//   that name. `&malloc` is one address, by whatever way a program finds it.
// - The C library's definition, where another allocator is below the agent, is made to mean a stub
//   with a record (allocs_family.h). Its blocks are indexed beside the other allocator's blocks,
//   and the function below the stub is the definition itself. If the caller is the allocator below,
//   or a library that counts calls, the call is part of one that the agent has seen.
//
// The symbols are changed as early as the dynamic linker lets the agent run: by a resolver, when
// all libraries are relocated and none of their code has run. The constructor does the rest:
// symbols of which it was not known by then whether they should be changed, and words that were
// bound before. These words are found by the relocations for names that begin with `__libc_`.
//
// Invariants:
// - A symbol's value is one aligned word, changed by one store: a thread that looks it up meanwhile
//   sees the old or the new value. Its page stays readable, and gets back the protection that the
//   file asks for.
// - The agent's own look-ups always find the file's values (`value(of:)`).
// - Nothing is changed unless the agent is the first definition of all names, or the constructor
//   has found out which module the first is.

import AgentMachine
import SharedLayout

#if !ALLOCS_INEXE
  enum Definitions {
    typealias Module = UnsafeMutablePointer<link_map>
    typealias Entry = UnsafePointer<Elf64_Sym>

    /// The value that the file has for a symbol, relative to its module.
    static func value(of entry: Entry) -> UInt64 {
      let state = allocs_definitions()
      for index in 0..<Int(state.pointee.count) where allocs_changed_symbols()[index].symbol == entry {
        return allocs_changed_symbols()[index].value
      }
      return entry.pointee.st_value
    }

    // MARK: when

    /// Before any constructor. Nothing of the agent has run yet, nor has the executable been
    /// relocated.
    static func bindEarly() {
      guard let executable = allocs_first_link_map(), !DynamicSymbols.hasKit(executable), isFirst, allocs_find_libc()
      else { return }
      Terminal.resolve()
      noteModulesBelow()
      bindAll()
      // The constructor will find out whether this is needed.
      if hasPassingFree { takeFree() }
    }

    /// In the agent's constructor, when it is known which allocator is below.
    static func bind() {
      noteModulesBelow()
      if !bindAll() {
        Index.count(ALLOCS_COUNTER_ENTRIES_REFUSED)
        var line = Text()
        line.append(" does not see calls of the C library's own malloc: its table of symbols cannot be changed")
        line.sayOnRequest()
      }
      var module = allocs_first_link_map()
      while let current = module {
        if !allocs_is_own_module(current) { rebind(current) }
        module = current.pointee.l_next
      }
      if hasPassingFree, !callsFreeOfLibc {
        giveFreeBack()
      } else if hasPassingFree {
        takeFree()
      }
    }

    /// Whether no module before the agent defines a function of the malloc family.
    private static var isFirst: Bool {
      var module = allocs_first_link_map()
      while let current = module, !allocs_is_own_module(current) {
        if let symbols = DynamicSymbols(current) {
          var index: UInt32 = 0
          while let point = allocs_entry_point(index) {
            index += 1
            if !point.pointee.is_operator, symbols.symbol(of: point.pointee.name) != nil { return false }
          }
        }
        module = current.pointee.l_next
      }
      return module != nil
    }

    // MARK: symbols

    /// False if something had to be left as it is.
    @discardableResult
    private static func bindAll() -> Bool {
      var isComplete = true
      var module = allocs_first_link_map()
      while let current = module {
        if !allocs_is_own_module(current), let symbols = DynamicSymbols(current),
          !bind(current, symbols)
        {
          isComplete = false
        }
        module = current.pointee.l_next
      }
      return isComplete
    }

    private static func bind(_ module: Module, _ symbols: DynamicSymbols) -> Bool {
      let passes = Terminal.isLibc(module)
      // Once to find the entries, and once to change them.
      var first = UInt64.max
      var last: UInt64 = 0
      var isComplete = forEachChange(module, symbols, passes: passes) { entry, _ in
        first = min(first, UInt64(UInt(bitPattern: entry)))
        last = max(last, UInt64(UInt(bitPattern: entry)))
      }
      guard first <= last else { return isComplete }
      let size = UInt64(MemoryLayout<Elf64_Sym>.stride)
      let done = writing(module, from: first, to: last + size) {
        isComplete =
          forEachChange(module, symbols, passes: passes) { entry, address in
            change(entry, to: address &- UInt64(module.pointee.l_addr))
          } && isComplete
      }
      return isComplete && done
    }

    /// Calls `body` with each entry of the module's table that is to be changed, and the address
    /// that it is to mean. False if there is no such address for an entry.
    private static func forEachChange(
      _ module: Module, _ symbols: DynamicSymbols, passes: Bool, _ body: (Entry, UInt64) -> Void
    ) -> Bool {
      var isComplete = true
      var index: UInt32 = 0
      while let point = allocs_entry_point(index) {
        let number = index
        index += 1
        guard !point.pointee.is_operator else { continue }
        Libc.forEachName(of: point.pointee.name) { name in
          symbols.forEachDefinition(of: name) { entry in
            guard entry.pointee.st_info & 15 == DynamicSymbols.function, !isChanged(entry) else { return true }
            let address = UInt64(module.pointee.l_addr) &+ entry.pointee.st_value
            if address == UInt64(UInt(bitPattern: point.pointee.below.pointee)) {
              body(entry, UInt64(UInt(bitPattern: point.pointee.own)))
            } else if passes {
              if let stub = passingStub(number, point.pointee.name, address) {
                body(entry, stub)
              } else {
                isComplete = false
              }
            }
            return true
          }
        }
      }
      return isComplete
    }

    /// The stub for a definition; nil if there is none, or its record stands for another definition
    /// of the name.
    private static func passingStub(_ index: UInt32, _ name: UnsafePointer<CChar>, _ address: UInt64) -> UInt64? {
      guard let stub = allocs_passing_stub(index) else { return nil }
      let record = allocs_passing_record(index)
      if let below = record.pointee.below {
        return UInt64(UInt(bitPattern: below)) == address ? UInt64(UInt(bitPattern: stub)) : nil
      }
      var number: UInt32 = 0
      while let signature = allocs_signature(number), !StaticSymbols.isEqual(signature.pointee.name, name) {
        number += 1
      }
      guard let signature = allocs_signature(number) else { return nil }
      record.pointee.signature = signature
      record.pointee.below = UnsafeMutableRawPointer(bitPattern: UInt(address))
      return UInt64(UInt(bitPattern: stub))
    }

    private static func isChanged(_ entry: Entry) -> Bool {
      for index in 0..<Int(allocs_definitions().pointee.count) where allocs_changed_symbols()[index].symbol == entry {
        return true
      }
      return false
    }

    private static func change(_ entry: Entry, to value: UInt64) {
      let state = allocs_definitions()
      guard state.pointee.count < ALLOCS_CHANGED_SYMBOLS else { return }
      allocs_changed_symbols()[Int(state.pointee.count)] = allocs_changed_symbol(
        symbol: entry, value: entry.pointee.st_value)
      state.pointee.count += 1
      allocs_change_symbol(entry, value)
    }

    // MARK: words that are bound already

    /// Changes the words in which the dynamic linker has stored addresses of names that begin with
    /// `__libc_`.
    private static func rebind(_ module: Module) {
      guard let symbols = DynamicSymbols(module), wants(symbols) else { return }
      var tables = InlineArray<2, (start: UInt, size: UInt)>(repeating: (start: 0, size: 0))
      var entry = module.pointee.l_ld
      while let current = entry, current.pointee.d_tag != 0 {
        let value = UInt(current.pointee.d_un.d_ptr)
        switch current.pointee.d_tag {
        case 7: tables[0].start = value  // DT_RELA
        case 8: tables[0].size = value  // DT_RELASZ
        case 23: tables[1].start = value  // DT_JMPREL
        case 2: tables[1].size = value  // DT_PLTRELSZ
        default: break
        }
        entry = current + 1
      }
      for index in 0..<2 {
        let relocations = UnsafePointer<Elf64_Rela>(bitPattern: tables[index].start)
        for number in 0..<Int(tables[index].size) / MemoryLayout<Elf64_Rela>.stride {
          if let relocation = relocations.map({ $0[number] }) { rebind(module, symbols, relocation) }
        }
      }
    }

    private static func wants(_ symbols: DynamicSymbols) -> Bool {
      for index in 0..<symbols.importCount where Libc.isOwn(symbols.name(of: symbols.entry(index))) { return true }
      return false
    }

    private static func rebind(_ module: Module, _ symbols: DynamicSymbols, _ relocation: Elf64_Rela) {
      #if arch(arm64)
        let (word, data, call): (UInt64, UInt64, UInt64) = (257, 1025, 1026)
      #else
        let (word, data, call): (UInt64, UInt64, UInt64) = (1, 6, 7)  // R_X86_64_64, GLOB_DAT, JUMP_SLOT
      #endif
      let kind = relocation.r_info & 0xFFFF_FFFF
      let index = Int(relocation.r_info >> 32)
      guard kind == word || kind == data || kind == call, index < symbols.importCount else { return }
      let wanted = symbols.entry(index)
      guard wanted.pointee.st_shndx == 0, Libc.isOwn(symbols.name(of: wanted)) else { return }
      // Only words for data have an addend.
      let addend = kind == word ? UInt64(bitPattern: relocation.r_addend) : 0
      let place = UInt64(module.pointee.l_addr) &+ relocation.r_offset
      guard let slot = UnsafeMutablePointer<UInt64>(bitPattern: UInt(place)) else { return }
      let state = allocs_definitions()
      for number in 0..<Int(state.pointee.count) {
        let changed = allocs_changed_symbols()[number]
        guard let symbol = changed.symbol else { continue }
        var definer: Module? = allocs_first_link_map()
        while let current = definer {
          if let theirs = DynamicSymbols(current), theirs.holds(symbol) {
            let bias = UInt64(current.pointee.l_addr)
            if slot.pointee == bias &+ changed.value &+ addend,
              StaticSymbols.isEqual(theirs.name(of: symbol), symbols.name(of: wanted))
            {
              _ = writing(module, from: place, to: place + 8) {
                allocs_store_word(slot, bias &+ symbol.pointee.st_value &+ addend)
              }
              return
            }
            break
          }
          definer = current.pointee.l_next
        }
      }
    }

    // MARK: memory that may not be written

    /// Runs `body` while the range, which lies in one segment of the module's file, can be written.
    /// False if it cannot be made writable; then `body` is not run.
    private static func writing(_ module: Module, from start: UInt64, to end: UInt64, _ body: () -> Void) -> Bool {
      let (readable, writable, executable) = (1, 2, 4)
      let flags = Int(allocs_protection(module, start))
      guard flags & readable != 0 else { return false }
      if flags & writable != 0 {
        body()
        return true
      }
      // Another thread may be running code there.
      if flags & executable != 0, Process.threadCount != 1 { return false }
      let page = UInt64(ALLOCS_PAGE_SIZE)
      let first = start & ~(page - 1)
      let size = ((end + page - 1) & ~(page - 1)) - first
      guard System.protect(first, size, flags: readable | writable) else { return false }
      body()
      _ = System.protect(first, size, flags: flags)
      return true
    }

    // MARK: calls inside calls

    private static func noteModulesBelow() {
      let state = allocs_definitions()
      var count = 0
      func note(_ module: Module) {
        var start: UInt64 = 0
        var end: UInt64 = 0
        guard count < Int(ALLOCS_MODULES_BELOW), allocs_module_range(module, &start, &end) else { return }
        allocs_modules_below()[count] = allocs_address_range(start: start, end: end)
        count += 1
      }
      var module = allocs_first_link_map()
      while let current = module {
        let name: StaticString = "malloc"
        let cString = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
        if allocs_is_own_module(current)
          || !Terminal.isLibc(current) && DynamicSymbols(current)?.symbol(of: cString) != nil
        {
          note(current)
        }
        module = current.pointee.l_next
      }
      state.pointee.below_count = UInt32(count)
    }

    @inline(__always)
    static func isBelow(_ address: UInt64) -> Bool {
      for index in 0..<Int(allocs_definitions().pointee.below_count) {
        let range = allocs_modules_below()[index]
        if address >= range.start, address < range.end { return true }
      }
      return false
    }

    /// Whether the C library's free means a stub: then another allocator is below the agent.
    private static var hasPassingFree: Bool {
      guard let index = freeIndex else { return false }
      return allocs_passing_stub(index) != nil && allocs_passing_record(index).pointee.below != nil
    }
    private static var freeIndex: UInt32? {
      let name: StaticString = "free"
      let cString = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
      var index: UInt32 = 0
      while let point = allocs_entry_point(index) {
        if StaticSymbols.isEqual(point.pointee.name, cString) { return index }
        index += 1
      }
      return nil
    }

    /// The hook of free ends before it calls the function below. If that function calls the C
    /// library's free, by a symbol that means the agent's, the agent would see a second call. So
    /// then Terminal gets a function of the agent's, which runs the function below inside a hook.
    private static func takeFree() {
      let state = allocs_definitions()
      guard state.pointee.free_below == nil else { return }
      state.pointee.free_below = allocs_terminal().pointee.free
      allocs_terminal().pointee.free = freeBelow
    }
    private static func giveFreeBack() {
      let state = allocs_definitions()
      guard let below = state.pointee.free_below else { return }
      // Not cleared: another thread may be about to call it.
      allocs_terminal().pointee.free = below
    }

    /// The variable that holds the address of the function below `point`, one of the agent's own
    /// functions: a variable of Terminal; or, if that holds `freeBelow`, `free_below`, from
    /// which `freeBelow` takes the address.
    static func placeOfBelow(
      _ point: UnsafePointer<allocs_entry_point>
    ) -> UnsafeMutablePointer<UnsafeMutableRawPointer?> {
      let between: @convention(c) (UnsafeMutableRawPointer?) -> Void = freeBelow
      guard point.pointee.below.pointee == unsafeBitCast(between, to: UnsafeMutableRawPointer.self) else {
        return point.pointee.below
      }
      return withUnsafeMutablePointer(to: &allocs_definitions().pointee.free_below) {
        UnsafeMutableRawPointer($0).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      }
    }

    /// Whether an allocator that is not libc's has any way to reach libc's free. Most have none.
    /// An allocator without a way should not be called before the program calls it: its first call
    /// may do more than allocate.
    private static var mayCallFreeOfLibc: Bool {
      let name: StaticString = "malloc"
      let malloc = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
      var module = allocs_first_link_map()
      while let current = module {
        module = current.pointee.l_next
        guard !allocs_is_own_module(current), !Terminal.isLibc(current), let symbols = DynamicSymbols(current),
          symbols.symbol(of: malloc) != nil
        else { continue }
        if symbols.imports("dlsym") || symbols.imports("dlvsym") || symbols.imports("free")
          || symbols.imports(Libc.free)
        {
          return true
        }
      }
      return false
    }

    /// Whether the function below calls libc's free. The agent allocates a block, gives it back,
    /// and sees.
    private static var callsFreeOfLibc: Bool {
      guard mayCallFreeOfLibc else { return false }
      guard let index = freeIndex, let own = allocs_enter() else { return true }
      let record = allocs_passing_record(index)
      let below = record.pointee.below
      let process = allocs_process()
      process.pointee.seen_below = 0
      allocs_definitions().pointee.seen_free = unsafeBitCast(below, to: type(of: allocs_terminal().pointee.free))
      let seen: @convention(c) (UnsafeMutableRawPointer?) -> Void = seenFreeBelow
      record.pointee.below = unsafeBitCast(seen, to: UnsafeMutableRawPointer.self)
      delegate(own)
      let free = allocs_definitions().pointee.free_below ?? allocs_terminal().pointee.free
      free?(allocs_terminal().pointee.malloc(32))
      record.pointee.below = below
      Event.endDelegation(own, nil)
      allocs_leave(own)
      return process.pointee.seen_below != 0
    }

    /// Before the agent itself calls a function below: a block that the function allocates
    /// meanwhile, in another hook, is the function's own. The caller calls it from its own frame.
    static func delegate(_ thread: Thread) {
      thread.pointee.delegating = ALLOCS_DELEGATING.rawValue
      thread.pointee.outer_return_slot = allocs_stack_address()
    }

    /// Gives the C library an entry in the table of allocators, when a function of it is first
    /// called past the allocator below.
    @inline(never)
    static func enterAllocator(_ hooked: UnsafeMutablePointer<allocs_hooked>) {
      let state = allocs_definitions()
      let flag = withUnsafeMutablePointer(to: &state.pointee.is_entering) { $0 }
      guard case .taken(let thread) = Entering.enter() else { return }
      defer { allocs_leave(thread) }
      guard Gate.regions(thread) != nil, let shared = allocs_process().pointee.shared,
        let header = shared.pointee.header,
        allocs_compare_exchange_u32(flag, 0, 1)
      else { return }
      let number = Allocators.register(
        shared, header, address: UInt64(UInt(bitPattern: hooked.pointee.below)), kind: ALLOCS_ALLOCATOR_PRIMARY)
      allocs_store_release_u32(&state.pointee.allocator, number)
    }
  }

  @c(allocs_bind_early) func bindEarly() { Definitions.bindEarly() }

  @c(allocs_seen_free_below) func seenFreeBelow(_ block: UnsafeMutableRawPointer?) {
    allocs_process().pointee.seen_below = 1
    allocs_definitions().pointee.seen_free(block)
  }

  /// Stands for free in Terminal: see `takeFree`. A block that the function below allocates
  /// meanwhile is recorded like any inner block.
  @c(allocs_free_below) func freeBelow(_ block: UnsafeMutableRawPointer?) {
    let thread: Thread? = allocs_enter()
    if let thread { Definitions.delegate(thread) }
    allocs_definitions().pointee.free_below(block)
    guard let thread else { return }
    Event.endDelegation(thread, nil)
    allocs_leave(thread)
  }

  @c(allocs_hook_passing)
  func hookPassing(
    _ hooked: UnsafeMutablePointer<allocs_hooked>, _ arguments: UnsafeMutablePointer<UInt64>, _ returnSlot: UInt,
    _ framePointer: UInt64
  ) -> UInt64 {
    if allocs_is_inside(), Definitions.isBelow(Caller(returnSlot: returnSlot, framePointer: framePointer).site) {
      return allocs_call(hooked.pointee.below.unsafelyUnwrapped, arguments)
    }
    let allocator = allocs_definitions().pointee.allocator
    if allocator == 0 { Definitions.enterAllocator(hooked) }
    hooked.pointee.allocator = allocs_definitions().pointee.allocator
    return hookAtEntry(hooked, arguments, returnSlot, framePointer)
  }
#else
  /// Linked into the executable, the agent changes no library's symbols.
  enum Definitions {
    static func value(of entry: UnsafePointer<Elf64_Sym>) -> UInt64 { entry.pointee.st_value }
  }
#endif
