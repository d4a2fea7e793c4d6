// SPDX-License-Identifier: Apache-2.0
// Declarations: finds the functions that ALLOCS_SUBALLOC declares in the modules of the process,
// and hooks them at their entries.
//
// allocsctl checks the text, and the program's modules, before it starts a program. Where the agent
// is preloaded by hand, the text is checked here: a part that is wrong is left out, counted, and
// said on request.
//
// A library that the program opens later is looked through when it comes (LaterModules.swift), for
// functions that no module has had so far. When it goes, its functions are looked for again.

import AgentMachine
import SharedLayout

enum Declarations {
  typealias Module = UnsafeMutablePointer<link_map>
  private typealias Declared = UnsafeMutablePointer<allocs_declared>

  /// Runs once, at the agent's constructor, after EntryPoints.
  static func bind() {
    guard let setting = allocs_process().pointee.suballocators, let text = copy(setting) else { return }
    let count = read(text)
    allocs_process().pointee.declared_count = UInt32(count)
    guard count > 0 else { return }
    let functions = allocs_declared_functions()
    var module = allocs_first_link_map()
    while let current = module {
      if !allocs_is_own_module(current) { find(functions, count, current) }
      module = current.pointee.l_next
    }
    findStatic(functions, count)
    guard Process.threadCount == 1 else {
      return refuseAll(functions, count, ALLOCS_BYPASS_SEVERAL_THREADS)
    }
    module = allocs_first_link_map()
    while let current = module {
      if !allocs_is_own_module(current) { hook(functions, count, current, isLater: false) }
      module = current.pointee.l_next
    }
    // A function that is declared for a module by name may still come, with that module.
    for index in 0..<count where !functions[index].is_found && functions[index].is.module.size == 0 {
      functions[index].is_missed = true
      refuse(functions + index, "no module defines it")
    }
  }

  /// Hooks those declared functions that were not found so far and that the new module has.
  static func bind(later module: Module) {
    let count = Int(allocs_process().pointee.declared_count)
    guard count > 0, !DynamicSymbols.hasRelocatedCode(module) else { return }
    let functions = allocs_declared_functions()
    find(functions, count, module)
    hook(functions, count, module, isLater: true)
  }

  /// A module is gone whose functions have their trampolines in the `size` bytes at `start`.
  static func release(within start: UnsafeMutablePointer<UInt8>, _ size: UInt64) {
    let functions = allocs_declared_functions()
    for index in 0..<Int(allocs_process().pointee.declared_count) {
      guard let below = functions[index].below, UInt64(UInt(bitPattern: below) &- UInt(bitPattern: start)) < size else {
        continue
      }
      functions[index].below = nil
      functions[index].is_found = false
    }
  }

  // MARK: the text

  /// A copy of the text. The names in it are looked for again later, and the program may write over
  /// its environment.
  private static func copy(_ text: UnsafePointer<CChar>) -> UnsafePointer<CChar>? {
    var size: UInt64 = 1
    while text[Int(size) - 1] != 0 { size += 1 }
    guard let memory = System.map(size) else { return nil }
    allocs_copy(memory, text, size)
    return UnsafePointer(memory.assumingMemoryBound(to: CChar.self))
  }

  /// Reads the text into the table; gives how many functions are there.
  private static func read(_ text: UnsafePointer<CChar>) -> Int {
    let functions = allocs_declared_functions()
    var size = 0
    while text[size] != 0 { size += 1 }
    var reader = allocs_declaration_reader_of(text, UInt32(size))
    var count = 0
    while count < Int(ALLOCS_DECLARED_CAPACITY), allocs_read_declaration(&reader, &functions[count].is) { count += 1 }
    if reader.error != ALLOCS_DECLARATION_OK {
      // The declarations before the error stay.
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

  /// A function declared with "->symbol" belongs to the allocator of the function `symbol`.
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

  /// Looks for the functions among the exports of `module`. The first module that has a function
  /// wins, as it does for callers.
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

  /// Looks for functions that the executable does not export, in its static symbol table. A name
  /// that several functions have counts as not found.
  private static func findStatic(_ functions: Declared, _ count: Int) {
    guard let executable = allocs_first_link_map(), var symbols = StaticSymbols(executable) else { return }
    var isAmbiguous = InlineArray<256, Bool>(repeating: false)
    while let (name, symbol) = symbols.nextFunction() {
      for index in 0..<count
      where !isAmbiguous[index] && isOf(functions[index].is.module, executable)
        && isName(name, functions[index].is.function)
      {
        if functions[index].is_found {
          // The function is exported, too, or an alias of it was met before.
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

  /// Hooks the functions that lie in `module`. `isLater`: the module came after the start, and may
  /// go.
  private static func hook(_ functions: Declared, _ count: Int, _ module: Module, isLater: Bool) {
    var image: Image?
    var room: Gates.Room?
    var used = 0
    for index in 0..<count where functions[index].is_found && functions[index].below == nil {
      if image == nil { image = Image(module) }
      guard let image else { return }
      guard image.contains(functions[index].address) else { continue }
      var target = target(functions + index, isOfExecutable: module == allocs_first_link_map())
      if isHooked(functions, index) {
        refuse(functions + index, "it is hooked under another name already")
        continue
      }
      if let reason = Trampolines.examine(&target, image) {
        refuse(functions + index, reason)
        continue
      }
      if !Trampolines.callsOthers(target, image) { target.own = allocs_declared_stub(true) }
      if room == nil { room = Trampolines.room(near: image, count: count) }
      guard let gates = room?.pointee.start else {
        refuse(functions + index, ALLOCS_BYPASS_NO_ROOM)
        continue
      }
      let gate = gates + used * Trampolines.slotSize
      Trampolines.build(gate, target, record: UnsafeMutableRawPointer(functions + index))
      functions[index].below = UnsafeMutableRawPointer(Trampolines.trampoline(of: gate))
      used += 1
    }
    guard let room, let gates = room.pointee.start else { return }
    let size = room.pointee.size
    if isLater { room.pointee.module = module }
    let isReady = Code.makeExecutable(gates, size)
    var gate = gates
    for index in 0..<count {
      guard let below = functions[index].below, UInt64(UInt(bitPattern: below) &- UInt(bitPattern: gates)) < size else {
        continue
      }
      defer { gate += Trampolines.slotSize }
      guard isReady else {
        functions[index].below = nil
        refuse(functions + index, ALLOCS_BYPASS_NOT_EXECUTABLE)
        continue
      }
      enter(functions, index)
      var target = target(functions + index, isOfExecutable: false)
      if Trampolines.jump(&target, to: gate) {
        Index.count(ALLOCS_COUNTER_ENTRIES_HOOKED)
        if functions[index].is_missed {
          // The function had been refused as missing. It has come now, with a module that was
          // opened.
          functions[index].is_missed = false
          Index.count(ALLOCS_COUNTER_DECLARATIONS_REFUSED, .max)
        }
      } else {
        functions[index].below = nil
        refuse(functions + index, ALLOCS_BYPASS_UNCHANGEABLE)
      }
    }
    if !isReady { room.pointee = allocs_gate_room() }
  }

  /// Whether an earlier declaration hooks the function at this address.
  private static func isHooked(_ functions: Declared, _ index: Int) -> Bool {
    for other in 0..<index
    where functions[other].address == functions[index].address && functions[other].below != nil {
      return true
    }
    return false
  }

  private static func target(_ function: Declared, isOfExecutable: Bool) -> allocs_target {
    var target = allocs_target(at: function.pointee.address)
    target.size = function.pointee.size
    target.own = allocs_declared_stub(isOfExecutable)
    return target
  }

  /// Enters the function's allocator in the table of allocators.
  private static func enter(_ functions: Declared, _ index: Int) {
    // The module was here before, and has come again: its allocator is entered already.
    guard functions[index].group == 0 else { return }
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let function = functions + index
    var group: UInt32?
    for other in 0..<index
    where functions[other].is.allocator == function.pointee.is.allocator && functions[other].group != 0 {
      group = functions[other].group
      break
    }
    PoolCalls.turnOn(shared, header)
    if group == nil || function.pointee.is.allocates {
      let name = function.pointee.is.name
      let symbol = function.pointee.is.function
      let shownName = name.size > 0 ? name : firstName(functions, index)
      guard let nameStart = shownName.start, let symbolStart = symbol.start else { return }
      let flags = PoolCalls.flags(ofAllocator: shownName)
      let number = Allocators.register(
        shared, header, address: function.pointee.address, kind: ALLOCS_ALLOCATOR_SUBALLOCATOR,
        name: Allocators.Name(nameStart, size: Int(shownName.size)),
        function: Allocators.Name(symbolStart, size: Int(symbol.size)), group: group, flags: flags)
      function.pointee.allocator = number
      if group == nil { group = number }
    }
    function.pointee.group = group ?? 0
  }

  /// The name of the first function of the same allocator in the text.
  private static func firstName(_ functions: Declared, _ index: Int) -> allocs_text_part {
    for other in 0...index where functions[other].is.allocator == functions[index].is.allocator {
      return functions[other].is.function
    }
    return functions[index].is.function
  }

  // MARK: functions that are not hooked

  private static func refuseAll(_ functions: Declared, _ count: Int, _ reason: allocs_bypass_reason) {
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
