// SPDX-License-Identifier: Apache-2.0
// Trampolines: whether a function can be hooked at its entry, and the code that leads to the hook
// and back.
//
//   function: jmp ──► gate: (r11 = its record) jmp [hook] … ──► trampoline: moved instructions
//             …   ◄───────────────────────────────────────────  jmp [behind them]
//
// Invariants:
// - A function is left alone unless all of it could be decoded, nothing in it branches into the
//   bytes that change, and each instruction that moves has one meaning in its new place and in the
//   old one.
// - An endbr64 at the start stays where it is, and a trampoline begins with one.
// - Only the module's code is read, and only bytes that were examined are written.
// - Sizes come from the symbol table. An IFUNC is left alone: a caller that asked for it has got
//   the address of another function.

import AgentMachine
import SharedLayout

enum Trampolines {
  typealias Place = UnsafeMutablePointer<UInt8>
  typealias Reason = allocs_bypass_reason

  private static let pageSize: UInt64 = 4096
  private static let jumpSize: UInt64 = 5
  static let slotSize = 128  // a gate and a trampoline
  private static let trampolineOffset = 32
  // Behind the trampoline: for each instruction that was moved, its size and the size of the code
  // that was written for it; and the address of the first.
  private static let sizesOffset = 104
  private static let mostMoved = 5
  private static let addressOffset = 120
  private static let longestInstruction: UInt64 = 15
  private static let endbr64: UInt32 = 0xFA1E_0FF3

  static func trampoline(of gate: Place) -> Place { gate + trampolineOffset }

  // MARK: which instructions can be moved

  /// The address of the first instruction; behind an endbr64, if the function begins with one.
  static func start(_ target: allocs_target) -> UInt64 {
    let first = UnsafeRawPointer(bitPattern: UInt(target.address)).unsafelyUnwrapped
    return target.size >= 4 && first.loadUnaligned(as: UInt32.self) == endbr64 ? target.address + 4 : target.address
  }

  /// Notes how many bytes of whole instructions give way to a jump. Gives a reason if the function
  /// must be left alone.
  static func examine(_ target: inout allocs_target, _ image: Image) -> Reason? {
    guard !target.is_ambiguous else { return ALLOCS_BYPASS_AMBIGUOUS }
    guard target.type == DynamicSymbols.function else { return ALLOCS_BYPASS_NOT_ORDINARY }
    let codeEnd = image.codeEnd(target.address)
    guard codeEnd != 0 else { return ALLOCS_BYPASS_UNREADABLE }
    guard target.size <= codeEnd - target.address else { return ALLOCS_BYPASS_NOT_ORDINARY }
    let start = start(target)
    let end = max(target.address + target.size, start + jumpSize)
    guard end <= codeEnd, isPadding(from: target.address + target.size, to: end, codeEnd) else {
      return ALLOCS_BYPASS_SHORT
    }
    var next = start
    var instruction = allocs_instruction()
    var isMoved = true
    while isMoved {
      guard allocs_decode(next, min(longestInstruction, codeEnd - next), &instruction) else {
        return ALLOCS_BYPASS_START_UNDECODED
      }
      if instruction.relative_at != 0, !reaches(start, instruction.target) {
        return ALLOCS_BYPASS_FAR
      }
      // A branch with a displacement of one byte gets one of four; loop and jrcxz have no such
      // form.
      if instruction.is_branch, instruction.relative_size == 1, instruction.opcode != 0xEB,
        instruction.opcode & 0xF0 != 0x70
      {
        return ALLOCS_BYPASS_UNMOVABLE
      }
      let breakpoint: UInt8 = 0xCC
      if instruction.opcode == breakpoint { return ALLOCS_BYPASS_START_UNDECODED }  // a debugger's, maybe
      next += UInt64(instruction.length)
      isMoved = next < start + jumpSize
      // The callee must return to its old return address, for code that unwinds the stack.
      if instruction.is_call, isMoved || !instruction.is_branch { return ALLOCS_BYPASS_CALLS }
    }
    let size = next - start
    while next < end {
      guard allocs_decode(next, min(longestInstruction, end - next), &instruction) else {
        return ALLOCS_BYPASS_END_UNDECODED
      }
      next += UInt64(instruction.length)
    }
    // No branch of the function may go into the moved bytes, also none of the moved instructions.
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

  /// Whether some way through the function calls a function of another module. Then the function's
  /// callers hold nothing in registers that a call may change. Else the compiler, which knew the
  /// whole function, may have let callers do so (-fipa-ra of gcc).
  static func callsOthers(_ target: allocs_target, _ image: Image) -> Bool {
    var places = InlineArray<256, UInt64>(repeating: 0)
    places[0] = target.address
    var known = 1
    var visited = 0
    var budget = 20_000  // instructions: a call that is not found by then is taken for not there
    var instruction = allocs_instruction()
    while visited < known {
      var next = places[visited]
      visited += 1
      let end = image.codeEnd(next)
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

  /// The function that this one jumps to, if it does nothing but jump; else 0.
  static func jumpTarget(_ target: allocs_target) -> UInt64 {
    var instruction = allocs_instruction()
    guard target.moved != 0, allocs_decode(start(target), longestInstruction, &instruction), instruction.is_branch,
      instruction.opcode == 0xE9 || instruction.opcode == 0xEB
    else { return 0 }
    return instruction.target
  }

  /// Whether a displacement in a page near the module can reach `target`: the page and the target
  /// must each lie within 1 GiB of the code.
  private static func reaches(_ start: UInt64, _ target: UInt64) -> Bool {
    let reach: Int64 = 1 << 30
    let distance = Int64(bitPattern: target &- start)
    return distance > -reach && distance < reach
  }

  /// Whether only padding lies between a function's end and the next address at which another may
  /// begin.
  private static func isPadding(from start: UInt64, to end: UInt64, _ codeEnd: UInt64) -> Bool {
    let alignment: UInt64 = 16
    guard start < end else { return true }
    guard (start - 1) / alignment == (end - 1) / alignment else { return false }
    var next = start
    var instruction = allocs_instruction()
    while next < end {
      guard allocs_decode(next, min(longestInstruction, codeEnd - next), &instruction), instruction.is_padding
      else { return false }
      next += UInt64(instruction.length)
    }
    return true
  }

  /// Whether the function is only a return, with room behind it for a jump.
  static func isEmpty(_ address: UInt64, _ image: Image) -> Bool {
    let codeEnd = image.codeEnd(address)
    guard codeEnd >= address + jumpSize + 4 else { return false }
    let start = start(allocs_target(at: address))
    let justReturn: UInt8 = 0xC3
    guard UnsafePointer<UInt8>(bitPattern: UInt(start))?.pointee == justReturn else { return false }
    return isPadding(from: start + 1, to: start + jumpSize, codeEnd)
  }

  // MARK: gates and trampolines

  /// Room for `count` gates from which a jump reaches the module. It lies below the module: above
  /// it, the heap may want to grow.
  static func room(near image: Image, count: Int) -> UnsafeMutablePointer<allocs_gate_room>? {
    let size = (UInt64(count * slotSize) + pageSize - 1) & ~(pageSize - 1)
    let (start, end) = image.range
    guard count > 0, end != 0, let place = Gates.free else { return nil }
    let reach: UInt64 = 1 << 30
    let step: UInt64 = 16 * pageSize
    var candidate = start & ~(step - 1)
    while candidate > step, start - candidate < reach, end - candidate < 2 * reach {
      candidate -= step
      if let room = System.map(at: candidate, size) {
        if UInt64(UInt(bitPattern: room)) == candidate {
          place.pointee.start = room.assumingMemoryBound(to: UInt8.self)
          place.pointee.size = size
          return place
        }
        System.unmap(room, size)  // an old kernel takes the address for a hint
        return nil
      }
    }
    return nil
  }

  /// Writes the gate to the stub that takes the target's place; the stub finds `record` in r11, if
  /// there is a record. Writes the trampoline for the target's first instructions, which `examine`
  /// has approved.
  static func build(_ gate: Place, _ target: allocs_target, record: UnsafeMutableRawPointer?) {
    var output = Output(next: gate)
    if let record, target.preserves {
      output.append(0x35FF as UInt16)  // push [rip + 14]: the word behind the jump
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
    var count = 0
    var instruction = allocs_instruction()
    while next < start + target.moved, allocs_decode(next, longestInstruction, &instruction) {
      let before = output.next
      output.move(next, instruction)
      if count < mostMoved {
        gate[sizesOffset + 2 * count] = instruction.length
        gate[sizesOffset + 2 * count + 1] = UInt8(truncatingIfNeeded: output.next - before)
      }
      count += 1
      next += UInt64(instruction.length)
    }
    output.jump(near: next)
    // The function's address, for `original`.
    UnsafeMutableRawPointer(gate + addressOffset).storeBytes(of: start, as: UInt64.self)
  }

  /// For a `pc` in a gate or a trampoline: the address of the moved instruction in its function.
  /// Else `pc`.
  static func original(_ pc: UInt64) -> UInt64 {
    for place in 0..<Int(ALLOCS_GATED_MODULES) {
      guard let rooms = allocs_gates()[place].start else { continue }
      let offset = pc &- UInt64(UInt(bitPattern: rooms))
      guard offset < allocs_gates()[place].size else { continue }
      let gate = rooms + Int(offset) / slotSize * slotSize
      var next = UnsafeMutableRawPointer(gate + addressOffset).load(as: UInt64.self)
      // The end of the code that was written for the instructions before `next`.
      var end = trampolineOffset + 4
      for index in 0..<mostMoved where Int(offset) % slotSize >= end && gate[sizesOffset + 2 * index] != 0 {
        end += Int(gate[sizesOffset + 2 * index + 1])
        if Int(offset) % slotSize < end { break }
        next += UInt64(gate[sizesOffset + 2 * index])
      }
      return next
    }
    return pc
  }

  private struct Output {
    var next: Place

    init(next: Place) { self.next = next }

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
    /// A jump to an address within 2 GiB, without a load.
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
        // push [rip + 5]; jmp; the word that is pushed, the return address of the call in the
        // function.
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
          // The displacement counts from behind the instruction, which may have an immediate after
          // it.
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

  /// Puts a jump to `place` over the code of the target, and notes the target's first bytes. False
  /// if that cannot be done; then nothing is changed.
  static func jump(_ target: inout allocs_target, to place: Place) -> Bool {
    let address = start(target)
    let distance = Int64(bitPattern: UInt64(UInt(bitPattern: place)) &- (address + jumpSize))
    guard distance == Int64(Int32(truncatingIfNeeded: distance)), let code = Place(bitPattern: UInt(address)) else {
      return false
    }
    var bytes = InlineArray<8, UInt8>(repeating: 0xE9)
    return withUnsafeMutablePointer(to: &bytes) { bytes in
      let bytes = UnsafeMutableRawPointer(bytes)
      bytes.storeBytes(of: Int32(truncatingIfNeeded: distance), toByteOffset: 1, as: Int32.self)
      withUnsafeMutablePointer(to: &target.original) {
        allocs_copy(UnsafeMutableRawPointer($0), code, jumpSize)
      }
      return Code.write(address, bytes.assumingMemoryBound(to: UInt8.self), Int(jumpSize))
    }
  }

  /// Takes the jump away again.
  static func restore(_ target: inout allocs_target) {
    let address = start(target)
    withUnsafeMutablePointer(to: &target.original) {
      let bytes = UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
      _ = Code.write(address, bytes, Int(jumpSize))
    }
  }
}

/// The table of the rooms with gates and trampolines.
enum Gates {
  typealias Room = UnsafeMutablePointer<allocs_gate_room>

  /// An entry that is not in use.
  static var free: Room? {
    for index in 0..<Int(ALLOCS_GATED_MODULES) where allocs_gates()[index].start == nil {
      return allocs_gates() + index
    }
    return nil
  }

  static func giveBack(_ room: Room) {
    if let start = room.pointee.start { System.unmap(start, room.pointee.size) }
    room.pointee = allocs_gate_room()
  }
}

extension allocs_target {
  /// A function of which only the address is known; it is long enough to begin with an endbr64.
  init(at address: UInt64) {
    self.init(
      prefix: allocs_family(0).pointee.prefix, name: allocs_family(0).pointee.prefix, address: address, size: 4,
      moved: 0, own: allocs_preserving_stub(), below: nil, signature: nil, type: DynamicSymbols.function, family: 0,
      is_essential: false, is_operator: false, is_ambiguous: false, preserves: true, leads_to: 0, token: 0,
      original: (0, 0, 0, 0, 0, 0, 0, 0), record: nil)
  }
}
