// EntryPoints: the second way of binding. Where the executable, or a library that wins over the agent, defines functions of the
// malloc family, nobody ever calls the agent's. So its own functions are put in front of theirs: the first instructions of
// each give way to a jump to the agent's function of that name, and move to a trampoline, which ends with a jump to what
// follows them. The trampoline is the function below (Terminal). Every caller is seen once, whichever way it was bound.
//
//   allocator's malloc: jmp ──► gate: jmp [agent's malloc] ──► hook ──► trampoline: moved instructions
//                       …   ◄────────────────────────────────────────── jmp [behind them]
//
// Invariants:
// - A function is left alone unless all of it could be decoded, nothing in it branches into the bytes that change, and what
//   moves means the same in its new place. If a function that frees must be left alone, all are, and the process runs
//   unindexed: an index that misses frees would lie.
// - No page is ever writable and executable. While a page is writable it cannot be run; so this happens only while the
//   process has one thread, in the agent's constructor.
// - An endbr64 at the start stays where it is, and a trampoline begins with one.
// - Sizes come from the symbol table. An IFUNC is left alone: who has asked for it has the address of something else.

import AgentMachine
import SharedLayout

enum EntryPoints {
  private typealias Module = UnsafeMutablePointer<link_map>
  private typealias Code = UnsafeMutablePointer<UInt8>

  private static let pageSize: UInt64 = 4096
  private static let jumpSize: UInt64 = 5
  private static let gateSize = 16
  private static let slotSize = 96  // a gate and a trampoline
  private static let longestInstruction: UInt64 = 15

  /// Hooks what wins over the agent. Runs once, at the agent's constructor.
  static func bind() {
    guard let winner = firstWinner(operators: false) ?? firstWinner(operators: true) else { return }
    guard Process.threadCount == 1 else { return giveUp(winner, "the process has several threads already") }
    guard allocs_disassembler_open() else {
      return giveUp(winner, "libZydis.so.4.0, a disassembler, is missing: install libzydis4.0")
    }
    var module = allocs_first_link_map()
    while let current = module, !allocs_is_own_module(current) {
      bind(current)
      module = current.pointee.l_next
    }
    // What it gives back may have come from an allocator that was not hooked then.
    let thread: Thread? = allocs_enter()
    allocs_disassembler_close()
    if let thread { allocs_leave(thread) }
  }

  /// Whether `function` is a trampoline, which no name leads to.
  static func isGate(_ function: UnsafeMutableRawPointer?) -> Bool {
    guard let function else { return false }
    for index in 0..<Int(ALLOCS_GATE_PAGES) {
      guard let gates = allocs_gates()[index] else { return false }
      if UInt(bitPattern: function) &- UInt(bitPattern: gates) < UInt(pageSize) { return true }
    }
    return false
  }

  /// The first module before the agent that defines a function of the malloc family, or an operator of C++.
  private static func firstWinner(operators: Bool) -> Module? {
    var module = allocs_first_link_map()
    while let current = module, !allocs_is_own_module(current) {
      var index: UInt32 = 0
      while let entry = allocs_entry_point(index) {
        if entry.pointee.is_operator == operators,
          DynamicSymbols(current)?.symbol(of: entry.pointee.name) != nil
        {
          return current
        }
        index += 1
      }
      module = current.pointee.l_next
    }
    return nil
  }

  private static func bind(_ module: Module) {
    // Everything is examined before anything changes.
    var first: UInt64 = 0
    var refusesMalloc = false
    var hooksOperators = true
    forEach(module) { entry, symbol in
      var size: UInt64 = 0
      if let reason = examine(symbol, &size) {
        refuse(module, reason, entry.pointee.name)
        guard entry.pointee.is_essential else { return }
        if entry.pointee.is_operator { hooksOperators = false } else { refusesMalloc = true }
      } else if first == 0 {
        first = symbol.address
      }
    }
    guard !refusesMalloc else { return giveUp(module, "what it frees would not be known") }
    guard first != 0 else { return }
    var index = 0
    while index < Int(ALLOCS_GATE_PAGES), allocs_gates()[index] != nil { index += 1 }
    guard index < Int(ALLOCS_GATE_PAGES), let gates = pageNear(first) else {
      return giveUp(module, "there is no room for code near it")
    }
    var count = 0
    forEach(module) { entry, symbol in
      guard isHooked(entry, symbol, operators: hooksOperators) else { return }
      build(gates + count * slotSize, symbol, entry.pointee.own)
      count += 1
    }
    guard System.protect(UInt64(UInt(bitPattern: gates)), pageSize, .execute) else {
      return giveUp(module, "memory cannot be made executable here")
    }
    allocs_gates()[index] = gates
    count = 0
    forEach(module) { entry, symbol in
      guard isHooked(entry, symbol, operators: hooksOperators) else { return }
      let gate = gates + count * slotSize
      count += 1
      // The function below, before anything leads to it.
      let below = entry.pointee.below.pointee
      allocs_store_release_pointer(entry.pointee.below, gate + gateSize)
      if jump(from: start(symbol), to: gate) {
        Index.count(ALLOCS_COUNTER_ENTRIES_HOOKED)
      } else {
        allocs_store_release_pointer(entry.pointee.below, below)
        refuse(module, "its code cannot be changed", entry.pointee.name)
        if entry.pointee.is_essential { Start.giveUp() }
      }
    }
  }

  private static func isHooked(
    _ entry: UnsafePointer<allocs_entry_point>, _ symbol: DynamicSymbols.Symbol, operators: Bool
  ) -> Bool {
    var size: UInt64 = 0
    return (operators || !entry.pointee.is_operator) && examine(symbol, &size) == nil
  }

  /// The functions of the family that callers of these names get from `module`, each once.
  private static func forEach(
    _ module: Module, _ body: (UnsafePointer<allocs_entry_point>, DynamicSymbols.Symbol) -> Void
  ) {
    guard let symbols = DynamicSymbols(module) else { return }
    var index: UInt32 = 0
    while let entry = allocs_entry_point(index) {
      index += 1
      guard let symbol = symbols.symbol(of: entry.pointee.name), !isDefined(entry.pointee.name, before: module),
        !isAlias(symbol, symbols, before: index - 1)
      else { continue }
      body(entry, symbol)
    }
  }

  private static func isDefined(_ name: UnsafePointer<CChar>, before module: Module) -> Bool {
    var earlier = allocs_first_link_map()
    while let current = earlier, current != module {
      if DynamicSymbols(current)?.symbol(of: name) != nil { return true }
      earlier = current.pointee.l_next
    }
    return false
  }

  /// Whether an earlier name of the family stands for the same function, as cfree does for free.
  private static func isAlias(_ symbol: DynamicSymbols.Symbol, _ symbols: DynamicSymbols, before limit: UInt32) -> Bool
  {
    var index: UInt32 = 0
    while index < limit, let entry = allocs_entry_point(index) {
      if symbols.symbol(of: entry.pointee.name)?.address == symbol.address { return true }
      index += 1
    }
    return false
  }

  // MARK: what can be moved

  /// Behind an endbr64, if the function begins with one.
  private static func start(_ symbol: DynamicSymbols.Symbol) -> UInt64 {
    let endbr64: UInt32 = 0xFA1E_0FF3
    let first = UnsafePointer<UInt32>(bitPattern: UInt(symbol.address)).unsafelyUnwrapped
    return symbol.size >= 4 && UnsafeRawPointer(first).loadUnaligned(as: UInt32.self) == endbr64
      ? symbol.address + 4 : symbol.address
  }

  /// How many bytes of whole instructions give way to a jump. A reason if the function must be left alone.
  private static func examine(_ symbol: DynamicSymbols.Symbol, _ size: inout UInt64) -> StaticString? {
    guard symbol.type == DynamicSymbols.function else { return "it is not an ordinary function" }
    let start = start(symbol)
    let end = max(symbol.address + symbol.size, start + jumpSize)
    guard isPadding(from: symbol.address + symbol.size, to: end) else { return "it is too short" }
    var next = start
    var instruction = allocs_instruction()
    var isMoved = true
    while isMoved {
      guard allocs_decode(next, longestInstruction, &instruction) else {
        return "its first instructions cannot be decoded"
      }
      if instruction.relative_at != 0, !reaches(start, instruction.target) {
        return "what it refers to is too far away"
      }
      // A branch of one byte grows, which loop and jrcxz cannot.
      if instruction.is_branch, instruction.relative_size == 1, instruction.opcode != 0xEB,
        instruction.opcode & 0xF0 != 0x70
      {
        return "its first instructions cannot be moved"
      }
      next += UInt64(instruction.length)
      isMoved = next < start + jumpSize
      // The callee must return to where it always did, for whoever unwinds the stack.
      if instruction.is_call, isMoved || !instruction.is_branch { return "it calls another in its first instructions" }
    }
    size = next - start
    while next < end {
      guard allocs_decode(next, min(longestInstruction, end - next), &instruction) else {
        return "it cannot be decoded to its end"
      }
      next += UInt64(instruction.length)
    }
    // From anywhere in it, the moved instructions included.
    next = start
    while next < end, allocs_decode(next, min(longestInstruction, end - next), &instruction) {
      if instruction.is_branch, instruction.target > start, instruction.target < start + size {
        return "it branches into its first instructions"
      }
      next += UInt64(instruction.length)
    }
    return nil
  }

  /// Whether `target` is near enough for a displacement in a page near the module: each lies within 1 GiB of the code.
  private static func reaches(_ start: UInt64, _ target: UInt64) -> Bool {
    let reach: Int64 = 1 << 30
    let distance = Int64(bitPattern: target &- start)
    return distance > -reach && distance < reach
  }

  /// Whether only padding lies between a function's end and the next place where another may begin.
  private static func isPadding(from start: UInt64, to end: UInt64) -> Bool {
    let alignment: UInt64 = 16
    guard start < end else { return true }
    guard (start - 1) / alignment == (end - 1) / alignment else { return false }
    var next = start
    var instruction = allocs_instruction()
    while next < end {
      guard allocs_decode(next, longestInstruction, &instruction), instruction.is_padding
      else { return false }
      next += UInt64(instruction.length)
    }
    return true
  }

  // MARK: gates and trampolines

  /// A page from which a jump reaches the module, below it: above, the heap may want to grow.
  private static func pageNear(_ address: UInt64) -> Code? {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: Module?
    guard allocs_find_module(address, &start, &end, &map) else { return nil }
    let reach: UInt64 = 1 << 30
    let step: UInt64 = 16 * pageSize
    var candidate = start & ~(step - 1)
    while candidate > step, start - candidate < reach, end - candidate < 2 * reach {
      candidate -= step
      if let page = System.map(at: candidate, pageSize) {
        if UInt64(UInt(bitPattern: page)) == candidate { return page.assumingMemoryBound(to: UInt8.self) }
        System.unmap(page, pageSize)  // a kernel that takes the place for a hint
        return nil
      }
    }
    return nil
  }

  /// Writes the gate to `function`, and the trampoline for the first instructions of the symbol's code, which `examine` has
  /// approved.
  private static func build(_ gate: Code, _ symbol: DynamicSymbols.Symbol, _ function: UnsafeMutableRawPointer) {
    var size: UInt64 = 0
    guard examine(symbol, &size) == nil else { return }
    var output = Output(next: gate)
    output.jump(to: UInt64(UInt(bitPattern: function)))
    output.next = gate + gateSize
    output.append(0xFA1E_0FF3 as UInt32)  // endbr64
    let start = start(symbol)
    var next = start
    var instruction = allocs_instruction()
    while next < start + size, allocs_decode(next, longestInstruction, &instruction) {
      output.move(next, instruction)
      next += UInt64(instruction.length)
    }
    output.jump(to: next)
  }

  private struct Output {
    var next: Code

    init(next: Code) { self.next = next }

    mutating func append<Value: FixedWidthInteger>(_ value: Value) {
      UnsafeMutableRawPointer(next).storeBytes(of: value, as: Value.self)
      next += MemoryLayout<Value>.size
    }
    /// jmp [rip + 0], and the address.
    mutating func jump(to address: UInt64) {
      append(0x25FF as UInt16)
      append(0 as UInt32)
      append(address)
    }
    private mutating func append(relative target: UInt64) {
      let here = UInt64(UInt(bitPattern: next)) + 4
      let distance = Int64(bitPattern: target &- here)
      append(Int32(truncatingIfNeeded: distance))
    }
    mutating func move(_ address: UInt64, _ instruction: allocs_instruction) {
      if instruction.is_call {
        // push [rip + 5], jmp, and the return address: that behind the call, not one in the trampoline.
        append(0x35FF as UInt16)
        append(5 as UInt32)
        append(0xE9 as UInt8)
        append(relative: instruction.target)
        return append(address + UInt64(instruction.length))
      }
      let code = UnsafePointer<UInt8>(bitPattern: UInt(address)).unsafelyUnwrapped
      if instruction.is_branch, instruction.relative_size == 1 {
        if instruction.opcode == 0xEB {
          append(0xE9 as UInt8)
        } else {
          append(0x0F as UInt8)
          append(0x80 | instruction.opcode & 15)
        }
        return append(relative: instruction.target)
      }
      var index = 0
      while index < Int(instruction.length) {
        if instruction.relative_at != 0, index == Int(instruction.relative_at) {
          // From behind the instruction, which may have an immediate after this.
          let behind = Int(instruction.length) - index - 4
          append(relative: instruction.target &- UInt64(behind))
          index += 4
        } else {
          append(code[index])
          index += 1
        }
      }
    }
  }

  /// Puts a jump to the gate over the code at `address`.
  private static func jump(from address: UInt64, to gate: Code) -> Bool {
    let firstPage = address & ~(pageSize - 1)
    let size = (address + jumpSize - 1 & ~(pageSize - 1)) + pageSize - firstPage
    let distance = Int64(bitPattern: UInt64(UInt(bitPattern: gate)) &- (address + jumpSize))
    guard distance == Int64(Int32(truncatingIfNeeded: distance)), System.protect(firstPage, size, .readWrite) else {
      return false
    }
    let code = UnsafeMutablePointer<UInt8>(bitPattern: UInt(address)).unsafelyUnwrapped
    code[0] = 0xE9
    UnsafeMutableRawPointer(code + 1).storeBytes(of: Int32(truncatingIfNeeded: distance), as: Int32.self)
    return System.protect(firstPage, size, .execute)
  }

  // MARK: what was left alone

  /// Leaves all functions of the module alone. If it has more than operators of C++, which call malloc, the process runs
  /// unindexed: blocks would be recorded that others free.
  private static func giveUp(_ module: Module, _ reason: StaticString) {
    if firstWinner(operators: false) != nil { Start.giveUp() }
    refuse(module, reason)
  }

  private static func refuse(_ module: Module, _ reason: StaticString, _ name: UnsafePointer<CChar>? = nil) {
    Index.count(ALLOCS_COUNTER_ENTRIES_REFUSED)
    var line = Text()
    line.append(" does not see ")
    if let name {
      line.append(cString: name)
    } else {
      line.append("the allocator")
    }
    line.append(" of ")
    if let path = module.pointee.l_name, path.pointee != 0 {
      line.append(cString: path)
    } else {
      line.append("the executable")
    }
    line.append(": ")
    line.append(reason)
    line.sayOnRequest()
  }
}
