// Declarations: the functions that ALLOCS_SUBALLOC names, found in the modules of the process and hooked at their entries.
//
// allocsctl has checked the text, and the program's modules, before it started the program. Who preloads the agent by himself has
// it checked here: what is wrong is left out, counted, and said on request.
//
// Hooked are the modules that are there when the agent's constructor runs. A library that the program opens later is not: its
// code would be changed while other threads may be in it.

import AgentMachine
import SharedLayout

enum Declarations {
  private typealias Module = UnsafeMutablePointer<link_map>
  private typealias Declared = UnsafeMutablePointer<allocs_declared>

  /// Runs once, at the agent's constructor, after EntryPoints.
  static func bind() {
    guard let text = allocs_process().pointee.suballocators else { return }
    let count = read(text)
    guard count > 0 else { return }
    let functions = allocs_declared_functions()
    var module = allocs_first_link_map()
    var mapped = Mapped()
    while let current = module {
      if !allocs_is_own_module(current) { find(functions, count, current) }
      module = current.pointee.l_next
    }
    findStatic(functions, count)
    guard Process.threadCount == 1 else {
      return refuseAll(functions, count, "the process has several threads already")
    }
    guard allocs_disassembler_open() else {
      return refuseAll(functions, count, "libZydis.so.4.0, a disassembler, is missing: install libzydis4.0")
    }
    module = allocs_first_link_map()
    while let current = module {
      if !allocs_is_own_module(current) { mapped.hook(functions, count, current) }
      module = current.pointee.l_next
    }
    for index in 0..<count where !functions[index].is_found { refuse(functions + index, "no module defines it") }
    let thread: Thread? = allocs_enter()
    allocs_disassembler_close()
    if let thread { allocs_leave(thread) }
  }

  // MARK: the text

  /// Reads the text into the table; gives how many functions are there.
  private static func read(_ text: UnsafePointer<CChar>) -> Int {
    let functions = allocs_declared_functions()
    var size = 0
    while text[size] != 0 { size += 1 }
    var reader = allocs_declaration_reader_of(text, UInt32(size))
    var count = 0
    while count < Int(ALLOCS_DECLARED_CAPACITY), allocs_read_declaration(&reader, &functions[count].is) { count += 1 }
    if reader.error != ALLOCS_DECLARATION_OK {
      // What was right before it stays.
      Index.count(ALLOCS_COUNTER_DECLARATIONS_REFUSED)
      var line = Text()
      line.append(" cannot read ALLOCS_SUBALLOC at character ")
      line.append(UInt64(reader.error_at - text) + 1)
      line.append(": ")
      if let why = allocs_declaration_error_text(reader.error) { line.append(cString: why) }
      line.sayOnRequest()
    }
    join(functions, count)
    for index in 0..<count {
      let allocator = functions[index].is.allocator
      for other in 0..<count
      where functions[other].is.allocator == allocator && functions[other].is.reset != UInt8(ALLOCS_DECLARATION_NONE) {
        functions[index].has_pools = true
        if functions[other].is.freed != UInt8(ALLOCS_DECLARATION_NONE) { functions[index].is_stack = true }
      }
    }
    return count
  }

  /// A function with "->symbol" belongs to the allocator of that one.
  private static func join(_ functions: Declared, _ count: Int) {
    for index in 0..<count where functions[index].is.belongs_to.size > 0 {
      let name = functions[index].is.belongs_to
      for other in 0..<count where isEqual(functions[other].is.function, name) {
        functions[index].is.allocator = functions[other].is.allocator
        functions[index].is.module = functions[other].is.module
      }
    }
  }

  private static func isEqual(_ one: allocs_text_part, _ other: allocs_text_part) -> Bool {
    guard one.size == other.size, let first = one.start, let second = other.start else { return false }
    for index in 0..<Int(one.size) where first[index] != second[index] { return false }
    return true
  }

  // MARK: the functions

  /// Looks for the functions among what `module` exports. The first module that has one wins, as it does for callers.
  private static func find(_ functions: Declared, _ count: Int, _ module: Module) {
    guard let symbols = DynamicSymbols(module) else { return }
    for index in 0..<count where !functions[index].is_found && isOf(functions[index].is.module, module) {
      var name = Text()
      name.append(functions[index].is.function)
      guard let symbol = name.withCString({ symbols.symbol(of: $0) }), symbol.type == DynamicSymbols.function else {
        continue
      }
      functions[index].is_found = true
      functions[index].address = symbol.address
      functions[index].size = symbol.size
    }
  }

  /// Those that the executable keeps to itself, from its static symbol table. A name that several have is none.
  private static func findStatic(_ functions: Declared, _ count: Int) {
    guard let executable = allocs_first_link_map(), var symbols = StaticSymbols(executable) else { return }
    var isAmbiguous = InlineArray<256, Bool>(repeating: false)
    while let (name, symbol) = symbols.nextFunction() {
      for index in 0..<count
      where !isAmbiguous[index] && isOf(functions[index].is.module, executable)
        && isName(name, functions[index].is.function)
      {
        if functions[index].is_found {
          // One that is exported, or that an earlier name led to.
          if functions[index].address == symbol.address { continue }
          if functions[index].below == nil { continue }
          isAmbiguous[index] = true
          functions[index].is_found = false
          refuse(functions + index, "the executable has several functions of that name")
          continue
        }
        functions[index].is_found = true
        functions[index].address = symbol.address
        functions[index].size = symbol.size
        // Marks it as found here until it is hooked.
        functions[index].below = UnsafeMutableRawPointer(functions + index)
      }
    }
    symbols.unmap()
    for index in 0..<count { functions[index].below = nil }
  }

  private static func isName(_ name: UnsafePointer<CChar>, _ part: allocs_text_part) -> Bool {
    guard let start = part.start else { return false }
    for index in 0..<Int(part.size) where name[index] != start[index] { return false }
    return name[Int(part.size)] == 0
  }

  /// Whether `name`, empty for any, is the file name of the module, or its path.
  private static func isOf(_ name: allocs_text_part, _ module: Module) -> Bool {
    guard name.size > 0 else { return true }
    var path = InlineArray<512, UInt64>(repeating: 0)
    return withUnsafeMutablePointer(to: &path) {
      let bytes = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
      var text = module.pointee.l_name.map { UnsafePointer($0) }
      if text == nil || text?.pointee == 0 {
        let link: StaticString = "/proc/self/exe"
        let size = System.readLink(
          UnsafeRawPointer(link.utf8Start).assumingMemoryBound(to: CChar.self), bytes, 4095)
        guard size > 0 else { return false }
        bytes[size] = 0
        text = UnsafeRawPointer(bytes).assumingMemoryBound(to: CChar.self)
      }
      guard let text else { return false }
      if isName(text, name) { return true }
      var last = text
      var next = text
      while next.pointee != 0 {
        if next.pointee == CChar(UInt8(ascii: "/")) { last = next + 1 }
        next += 1
      }
      return isName(last, name)
    }
  }

  // MARK: hooking

  /// What was hooked so far.
  private struct Mapped {
    var place = 0

    /// Hooks the functions that lie in `module`.
    mutating func hook(_ functions: Declared, _ count: Int, _ module: Module) {
      var gates: Trampolines.Code?
      var used = 0
      for index in 0..<count where functions[index].is_found && functions[index].below == nil {
        var start: UInt64 = 0
        var end: UInt64 = 0
        var map: Module?
        guard allocs_find_module(functions[index].address, &start, &end, &map), map == module else { continue }
        var target = target(functions + index)
        if isHooked(functions, index) {
          refuse(functions + index, "it is hooked under another name already")
          continue
        }
        if let reason = Trampolines.examine(&target) {
          refuse(functions + index, reason)
          continue
        }
        if !Trampolines.callsOthers(target) { target.own = allocs_declared_stub(true) }
        if gates == nil {
          gates = Trampolines.room(near: target.address, UInt64(ALLOCS_GATES_SIZE))
          if let gates { keep(gates) }
        }
        guard let gates, (used + 1) * Trampolines.slotSize <= Int(ALLOCS_GATES_SIZE) else {
          refuse(functions + index, "there is no room for code near it")
          continue
        }
        let gate = gates + used * Trampolines.slotSize
        Trampolines.build(gate, target, record: UnsafeMutableRawPointer(functions + index))
        functions[index].below = UnsafeMutableRawPointer(Trampolines.trampoline(of: gate))
        used += 1
      }
      guard let gates else { return }
      guard System.protect(UInt64(UInt(bitPattern: gates)), UInt64(ALLOCS_GATES_SIZE), .execute) else {
        return refuseAll(functions, count, "memory cannot be made executable here")
      }
      used = 0
      for index in 0..<count {
        guard let below = functions[index].below,
          UInt(bitPattern: below) &- UInt(bitPattern: gates) < UInt(ALLOCS_GATES_SIZE)
        else { continue }
        enter(functions, index)
        if Trampolines.jump(
          from: Trampolines.start(target(functions + index)), to: gates + used * Trampolines.slotSize)
        {
          Index.count(ALLOCS_COUNTER_ENTRIES_HOOKED)
        } else {
          refuse(functions + index, "its code cannot be changed")
        }
        used += 1
      }
    }

    private func keep(_ gates: Trampolines.Code) {
      var place = 0
      while place < Int(ALLOCS_GATED_MODULES), allocs_gates()[place] != nil { place += 1 }
      if place < Int(ALLOCS_GATED_MODULES) { allocs_gates()[place] = gates }
    }
  }

  private static func isHooked(_ functions: Declared, _ index: Int) -> Bool {
    for other in 0..<index
    where functions[other].address == functions[index].address && functions[other].below != nil {
      return true
    }
    return false
  }

  private static func target(_ function: Declared) -> allocs_target {
    allocs_target(
      prefix: allocs_family(0).pointee.prefix, name: allocs_family(0).pointee.prefix, address: function.pointee.address,
      size: function.pointee.size, moved: 0, own: allocs_declared_stub(isOfExecutable(function)), below: nil,
      signature: nil,
      type: DynamicSymbols.function, family: 0, is_essential: false, is_operator: false, is_ambiguous: false,
      preserves: true,
      leads_to: 0)
  }

  private static func isOfExecutable(_ function: Declared) -> Bool {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: Module?
    return !allocs_find_module(function.pointee.address, &start, &end, &map) || map == allocs_first_link_map()
  }

  /// Enters what the function allocates for in the table of allocators.
  private static func enter(_ functions: Declared, _ index: Int) {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let function = functions + index
    var group: UInt32?
    for other in 0..<index
    where functions[other].is.allocator == function.pointee.is.allocator && functions[other].group != 0 {
      group = functions[other].group
      break
    }
    Suballocations.turnOn(shared, header)
    if group == nil || function.pointee.is.allocates {
      let name = function.pointee.is.name
      let symbol = function.pointee.is.function
      let shownName = name.size > 0 ? name : firstName(functions, index)
      guard let nameStart = shownName.start, let symbolStart = symbol.start else { return }
      let flags = Suballocations.flags(ofAllocator: shownName)
      let number = Allocators.register(
        shared, header, address: function.pointee.address, kind: ALLOCS_ALLOCATOR_SUBALLOCATOR,
        name: Allocators.Name(nameStart, size: Int(shownName.size)),
        function: Allocators.Name(symbolStart, size: Int(symbol.size)), group: group, flags: flags)
      function.pointee.allocator = number
      if group == nil { group = number }
    }
    function.pointee.group = group ?? 0
  }

  /// That of the first function of the same allocator in the text.
  private static func firstName(_ functions: Declared, _ index: Int) -> allocs_text_part {
    for other in 0...index where functions[other].is.allocator == functions[index].is.allocator {
      return functions[other].is.function
    }
    return functions[index].is.function
  }

  // MARK: what was left alone

  private static func refuseAll(_ functions: Declared, _ count: Int, _ reason: StaticString) {
    for index in 0..<count { refuse(functions + index, reason) }
  }

  private static func refuse(_ function: Declared, _ reason: allocs_bypass_reason) {
    var line = refusal(of: function)
    if let text = allocs_bypass_reason_text(reason.rawValue) { line.append(cString: text) }
    line.sayOnRequest()
  }

  private static func refuse(_ function: Declared, _ reason: StaticString) {
    var line = refusal(of: function)
    line.append(reason)
    line.sayOnRequest()
  }

  private static func refusal(of function: Declared) -> Text {
    Index.count(ALLOCS_COUNTER_DECLARATIONS_REFUSED)
    var line = Text()
    line.append(" does not see ")
    line.append(function.pointee.is.function)
    line.append(" of ALLOCS_SUBALLOC: ")
    return line
  }
}

extension Text {
  mutating func append(_ part: allocs_text_part) {
    guard let start = part.start else { return }
    for index in 0..<Int(part.size) { append(byte: UInt8(bitPattern: start[index])) }
  }
}
