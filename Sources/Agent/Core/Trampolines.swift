// Trampolines: whether a function can be hooked at its entry, and the code that leads to the hook and back.
//
//   function: jmp ──► gate: (r11 = its record) jmp [hook] … ──► trampoline: moved instructions
//             …   ◄───────────────────────────────────────────  jmp [behind them]
//
// Invariants:
// - A function is left alone unless all of it could be decoded, nothing in it branches into the bytes that change, and what
//   moves means the same in its new place.
// - An endbr64 at the start stays where it is, and a trampoline begins with one.
// - Sizes come from the symbol table. An IFUNC is left alone: who has asked for it has the address of something else.

import AgentMachine
import SharedLayout

enum Trampolines {
  typealias Code = UnsafeMutablePointer<UInt8>
  typealias Reason = allocs_bypass_reason

  static let pageSize: UInt64 = 4096
  private static let jumpSize: UInt64 = 5
  static let slotSize = 128  // a gate and a trampoline
  private static let trampolineOffset = 32
  private static let longestInstruction: UInt64 = 15
  private static let endbr64: UInt32 = 0xFA1E_0FF3

  static func trampoline(of gate: Code) -> Code { gate + trampolineOffset }

  // MARK: what can be moved

  /// Behind an endbr64, if the function begins with one.
  static func start(_ target: allocs_target) -> UInt64 {
    let first = UnsafeRawPointer(bitPattern: UInt(target.address)).unsafelyUnwrapped
    return target.size >= 4 && first.loadUnaligned(as: UInt32.self) == endbr64 ? target.address + 4 : target.address
  }

  /// Notes how many bytes of whole instructions give way to a jump. A reason if the function must be left alone.
  static func examine(_ target: inout allocs_target) -> Reason? {
    guard !target.is_ambiguous else { return ALLOCS_BYPASS_AMBIGUOUS }
    guard target.type == DynamicSymbols.function else { return ALLOCS_BYPASS_NOT_ORDINARY }
    let start = start(target)
    let end = max(target.address + target.size, start + jumpSize)
    guard isPadding(from: target.address + target.size, to: end) else { return ALLOCS_BYPASS_SHORT }
    var next = start
    var instruction = allocs_instruction()
    var isMoved = true
    while isMoved {
      guard allocs_decode(next, longestInstruction, &instruction) else {
        return ALLOCS_BYPASS_START_UNDECODED
      }
      if instruction.relative_at != 0, !reaches(start, instruction.target) {
        return ALLOCS_BYPASS_FAR
      }
      // A branch of one byte grows, which loop and jrcxz cannot.
      if instruction.is_branch, instruction.relative_size == 1, instruction.opcode != 0xEB,
        instruction.opcode & 0xF0 != 0x70
      {
        return ALLOCS_BYPASS_UNMOVABLE
      }
      next += UInt64(instruction.length)
      isMoved = next < start + jumpSize
      // The callee must return to where it always did, for whoever unwinds the stack.
      if instruction.is_call, isMoved || !instruction.is_branch { return ALLOCS_BYPASS_CALLS }
    }
    let size = next - start
    while next < end {
      guard allocs_decode(next, min(longestInstruction, end - next), &instruction) else {
        return ALLOCS_BYPASS_END_UNDECODED
      }
      next += UInt64(instruction.length)
    }
    // From anywhere in it, the moved instructions included.
    next = start
    while next < end, allocs_decode(next, min(longestInstruction, end - next), &instruction) {
      if instruction.is_branch, instruction.target > start, instruction.target < start + size {
        return ALLOCS_BYPASS_BRANCHES_IN
      }
      next += UInt64(instruction.length)
    }
    target.moved = size
    return nil
  }

  /// Whether some way through the function leads to a function of another module. Then its callers hold nothing in registers that
  /// a call may change. Else the compiler, which knew the function, may have let them (-fipa-ra of gcc).
  static func callsOthers(_ target: allocs_target) -> Bool {
    var places = InlineArray<256, UInt64>(repeating: 0)
    places[0] = target.address
    var known = 1
    var visited = 0
    var budget = 20_000  // instructions: what is not found by then is taken for not there
    var instruction = allocs_instruction()
    while visited < known {
      var next = places[visited]
      visited += 1
      let end = allocs_code_end(next)
      while next + longestInstruction <= end, budget > 0, allocs_decode(next, longestInstruction, &instruction) {
        budget -= 1
        if instruction.is_foreign { return true }
        if instruction.is_branch, known < 256 {
          var index = 0
          while index < known, places[index] != instruction.target { index += 1 }
          if index == known {
            places[known] = instruction.target
            known += 1
          }
        }
        if instruction.ends_flow { break }
        next += UInt64(instruction.length)
      }
    }
    return false
  }

  /// Where the function jumps to, if it does nothing but that; else 0.
  static func jumpTarget(_ target: allocs_target) -> UInt64 {
    var instruction = allocs_instruction()
    guard target.moved != 0, allocs_decode(start(target), longestInstruction, &instruction), instruction.is_branch,
      instruction.opcode == 0xE9 || instruction.opcode == 0xEB
    else { return 0 }
    return instruction.target
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

  /// Room for gates from which a jump reaches the module, below it: above, the heap may want to grow.
  static func room(near address: UInt64, _ size: UInt64) -> Code? {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_module(address, &start, &end, &map) else { return nil }
    let reach: UInt64 = 1 << 30
    let step: UInt64 = 16 * pageSize
    var candidate = start & ~(step - 1)
    while candidate > step, start - candidate < reach, end - candidate < 2 * reach {
      candidate -= step
      if let room = System.map(at: candidate, size) {
        if UInt64(UInt(bitPattern: room)) == candidate { return room.assumingMemoryBound(to: UInt8.self) }
        System.unmap(room, size)  // a kernel that takes the place for a hint
        return nil
      }
    }
    return nil
  }

  /// Writes the gate to what takes the target's place, which finds `record` in r11 if there is one, and the trampoline for
  /// its first instructions, which `examine` has approved.
  static func build(_ gate: Code, _ target: allocs_target, record: UnsafeMutableRawPointer?) {
    var output = Output(next: gate)
    if let record, target.preserves {
      output.append(0x35FF as UInt16)  // push [rip + 14], which is behind the jump
      output.append(14 as UInt32)
      output.jump(to: UInt64(UInt(bitPattern: target.own)))
      output.append(UInt64(UInt(bitPattern: record)))
    } else if let record {
      output.append(0xBB49 as UInt16)  // mov r11, …
      output.append(UInt64(UInt(bitPattern: record)))
    }
    if !target.preserves { output.jump(to: UInt64(UInt(bitPattern: target.own))) }
    output.next = trampoline(of: gate)
    output.append(endbr64)
    let start = start(target)
    var next = start
    var instruction = allocs_instruction()
    while next < start + target.moved, allocs_decode(next, longestInstruction, &instruction) {
      output.move(next, instruction)
      next += UInt64(instruction.length)
    }
    output.jump(near: next)
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
    /// The same to what lies within 2 GiB, without a load.
    mutating func jump(near address: UInt64) {
      append(0xE9 as UInt8)
      append(relative: address)
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
  static func jump(from address: UInt64, to gate: Code) -> Bool {
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
}
