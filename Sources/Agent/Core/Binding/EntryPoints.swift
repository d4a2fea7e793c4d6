// SPDX-License-Identifier: Apache-2.0
// EntryPoints: the second way of binding. An allocator whose callers do not all reach the agent by
// name is hooked where it is defined, by a jump at the entry of each of its functions
// (Trampolines):
//
// - A module before the agent that defines malloc: callers get its definition. The agent's function
//   of that name takes its place, and the trampoline is the function below (Terminal). If the
//   module only forwards to the agent, as a library that counts the calls of malloc does, it is
//   left as it is (Predecessor).
// - A module behind the agent that serves the agent's callers. Some callers call it straight: by
//   names of its own (mallocx, mi_malloc), or past all other definitions (dlsym, -Bsymbolic). It is
//   hooked in the same way, unless it is glibc.
// - Everything else: definitions that only the module's own code can call, families with a prefix,
//   allocators of modules that come later (LaterModules). Each function gets a record with its
//   signature, its own function below, and its allocator (HookedFunction).
//
// A call that passes several hooks is recorded once, by the outermost: the others find that the
// thread is inside a hook.
//
// Invariants:
// - If a function that frees must be left alone, so are all functions of its family: an index that
//   misses frees would be wrong. If callers get that family before the agent's, the process runs
//   unindexed.
// - A module is hooked wholly or not at all: if a step fails, the steps before it are undone
//   (Code).
// - No thread is in a module's code while that changes: in the agent's constructor the process has
//   one thread, and later only new modules are changed. The tables of records and gates are changed
//   by the constructor, and later under the dynamic linker's lock.

import AgentMachine
import SharedLayout

enum EntryPoints {
  typealias Module = UnsafeMutablePointer<link_map>

  /// Hooks the modules that are there. Runs once, in the agent's constructor.
  static func bind() {
    var targets = Targets()
    var position = Targets.Position.before
    var isAlone: Bool?
    var module = allocs_first_link_map()
    while let current = module {
      module = current.pointee.l_next
      if allocs_is_own_module(current) {
        position = .behind
        continue
      }
      if position == .behind, Terminal.isLibc(current) { continue }
      targets.collect(current, position)
      guard targets.count > 0 else { continue }
      if isAlone == nil { isAlone = Process.threadCount == 1 }
      if Predecessor.isSanitizer(current) {
        // A sanitizer behind the agent ends the process by itself, or lets the agent be the first.
        if position == .before { giveUp(current, targets, position, ALLOCS_BYPASS_SANITIZER) }
        continue
      }
      guard isAlone == true else {
        giveUp(current, targets, position, ALLOCS_BYPASS_SEVERAL_THREADS)
        continue
      }
      if position == .before, targets.hasMalloc(Targets.winning) {
        if Predecessor.isAllocator(targets, current) {
          Terminal.takeFirst()
        } else {
          targets.remove(Targets.winning)
          Predecessor.pass()
        }
      }
      if targets.count > 0 { bind(current, targets, position) }
    }
    targets.unmap()
  }

  /// Hooks the functions of a module that nobody has called yet.
  static func bind(later module: Module, _ targets: inout Targets) {
    targets.collect(module, .apart)
    guard targets.count > 0, !Predecessor.isSanitizer(module) else { return }
    guard !DynamicSymbols.hasRelocatedCode(module) else {
      return giveUp(module, targets, .apart, ALLOCS_BYPASS_RELOCATED)
    }
    bind(module, targets, .apart)
  }

  private static func bind(_ module: Module, _ targets: Targets, _ position: Targets.Position) {
    guard let image = Image(module) else { return giveUp(module, targets, position, ALLOCS_BYPASS_UNREADABLE) }
    // Everything is examined before anything changes.
    examine(module, targets, image)
    leaveAlone(module, targets, position)
    var isAnyLeft = false
    for index in 0..<targets.count where targets[index].moved != 0 { isAnyLeft = true }
    guard isAnyLeft else { return }
    guard let room = Trampolines.room(near: image, count: targets.count) else {
      return giveUp(module, targets, position, ALLOCS_BYPASS_NO_ROOM)
    }
    // Code for modules that are there at the start stays.
    room.pointee.module = position == .apart ? module : nil
    if let reason = hook(module, targets, room, position) { return giveUp(module, targets, position, reason) }
    for index in 0..<targets.count where targets[index].moved != 0 {
      Index.count(ALLOCS_COUNTER_ENTRIES_HOOKED)
      if targets[index].signature == nil { allocs_process().pointee.has_entries = 1 }
    }
  }

  /// Finds out which targets can be hooked, with which stub, and which of them only jump to
  /// another.
  private static func examine(_ module: Module, _ targets: Targets, _ image: Image) {
    for index in 0..<targets.count {
      if let reason = Trampolines.examine(&targets[index], image) { refuse(module, targets, index, reason) }
      if targets[index].moved != 0, !Trampolines.callsOthers(targets[index], image) {
        targets.preserveRegisters(of: index)
      }
      let callee = Trampolines.jumpTarget(targets[index])
      for other in 0..<targets.count where other != index && targets[other].address == callee {
        targets[index].leads_to = UInt16(other + 1)
      }
    }
    if targets.dropped > 0 { Bypasses.note(module, Text(), ALLOCS_BYPASS_TOO_MANY) }
  }

  /// Fills the room, and puts a jump at each entry. Gives a reason if that cannot be done; then
  /// everything is as it was, and the room is given back.
  private static func hook(
    _ module: Module, _ targets: Targets, _ room: Gates.Room, _ position: Targets.Position
  ) -> Trampolines.Reason? {
    guard let gates = room.pointee.start else { return ALLOCS_BYPASS_NO_ROOM }
    if let reason = prepare(targets, module, gates, position) {
      undo(targets, room)
      return reason
    }
    guard Code.makeExecutable(gates, room.pointee.size) else {
      room.pointee = allocs_gate_room()
      undo(targets, nil)
      return ALLOCS_BYPASS_NOT_EXECUTABLE
    }
    for index in 0..<targets.count where targets[index].moved != 0 {
      guard hook(targets, index, gates) else {
        for earlier in 0..<index where targets[earlier].moved != 0 { unhook(targets, earlier) }
        undo(targets, room)
        return ALLOCS_BYPASS_UNCHANGEABLE
      }
    }
    return nil
  }

  private static func isOfHeap(_ target: allocs_target) -> Bool {
    target.signature.map { UInt32($0.pointee.operation) == ALLOCS_FREE_HEAP.rawValue } ?? false
  }

  /// Writes gates and trampolines, and takes the records. Gives a reason if that cannot be done.
  private static func prepare(
    _ targets: Targets, _ module: Module, _ gates: Trampolines.Place, _ position: Targets.Position
  ) -> Trampolines.Reason? {
    var allocators = InlineArray<16, UInt32>(repeating: 0)
    for index in 0..<targets.count where targets[index].moved != 0 {
      let target = targets[index]
      let gate = gates + index * Trampolines.slotSize
      if let signature = target.signature {
        let family = Int(target.family)
        if family != Targets.winning, allocators[family] == 0 {
          allocators[family] = noteAllocator(family, module, at: target.address, position)
        }
        guard let record = allocs_next_hooked(signature, allocators[family]) else { return ALLOCS_BYPASS_TOO_MANY }
        record.pointee.address = target.address
        if isOfHeap(target), targets.knowsHeaps {
          record.pointee.visit = unsafeBitCast(
            UnsafeMutableRawPointer(bitPattern: UInt(targets.visitor)), to: type(of: record.pointee.visit))
          record.pointee.backing = unsafeBitCast(
            UnsafeMutableRawPointer(bitPattern: UInt(targets.backing)), to: type(of: record.pointee.backing))
        }
        targets[index].record = record
        targets[index].below = UnsafeMutableRawPointer(record).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      }
      Trampolines.build(gate, targets[index], record: targets[index].record.map { UnsafeMutableRawPointer($0) })
    }
    return nil
  }

  /// Puts the jump at the entry. Then `original` has the first bytes of the function, and the word
  /// at `below` the address of the trampoline. The word's former value is kept in `size`, which
  /// nobody needs any more.
  private static func hook(_ targets: Targets, _ index: Int, _ gates: Trampolines.Place) -> Bool {
    guard let place = targets[index].below else { return false }
    let end = targets.end(of: index)
    // The word of the function below is set before any call can need it.
    targets[index].size = UInt64(UInt(bitPattern: place.pointee))
    allocs_store_release_pointer(place, Trampolines.trampoline(of: gates + end * Trampolines.slotSize))
    if Trampolines.jump(&targets[index], to: gates + index * Trampolines.slotSize) { return true }
    allocs_store_release_pointer(place, UnsafeMutableRawPointer(bitPattern: UInt(targets[index].size)))
    return false
  }

  private static func unhook(_ targets: Targets, _ index: Int) {
    Trampolines.restore(&targets[index])
    guard let place = targets[index].below else { return }
    allocs_store_release_pointer(place, UnsafeMutableRawPointer(bitPattern: UInt(targets[index].size)))
  }

  /// Gives back the records, and the room for gates and trampolines.
  private static func undo(_ targets: Targets, _ room: Gates.Room?) {
    for index in 0..<targets.count {
      if let record = targets[index].record { allocs_release_hooked(record) }
      targets[index].record = nil
    }
    if let room { Gates.giveBack(room) }
  }

  /// The number of the allocator, as contexts have it.
  private static func noteAllocator(
    _ family: Int, _ module: Module, at address: UInt64, _ position: Targets.Position
  ) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    let name = Allocators.Name(cString: allocs_family(UInt32(family)).pointee.allocator)
    if position == .apart { return Allocators.register(shared, header, later: module, name: name) }
    return Allocators.register(shared, header, address: address, kind: ALLOCS_ALLOCATOR_PRIMARY, name: name)
  }

  // MARK: functions that are left alone

  /// Takes out functions that must be left alone because another is: all of a family in which a
  /// function that frees cannot be hooked.
  private static func leaveAlone(_ module: Module, _ targets: Targets, _ position: Targets.Position) {
    for index in 0..<targets.count where targets[index].is_essential && targets[index].moved == 0 {
      let missing = targets[index]
      // A family that was taken out is noted once.
      if missing.leads_to == Self.takenOut { continue }
      if missing.family == Targets.winning, !missing.is_operator {
        return giveUp(module, targets, position, ALLOCS_BYPASS_FREES_UNKNOWN)
      }
      // The operators that win over the agent's call malloc, which can be hooked without them.
      for other in 0..<targets.count
      where targets[other].family == missing.family
        && (missing.family != Targets.winning || targets[other].is_operator)
      {
        targets[other].moved = 0
        targets[other].leads_to = Self.takenOut
      }
      if missing.family != Targets.winning { Bypasses.note(module, Text(), ALLOCS_BYPASS_FREES_UNKNOWN) }
    }
  }
  private static let takenOut = UInt16.max

  /// Leaves all functions of the module alone. If callers get the module's malloc before the
  /// agent's, the process runs unindexed: blocks would be recorded that functions free which the
  /// agent does not see.
  private static func giveUp(
    _ module: Module, _ targets: Targets, _ position: Targets.Position, _ reason: Trampolines.Reason
  ) {
    for index in 0..<targets.count {
      targets[index].moved = 0
      if position == .before, targets[index].family == Targets.winning, !targets[index].is_operator { Start.giveUp() }
    }
    Bypasses.note(module, Text(), reason)
  }

  private static func refuse(_ module: Module, _ targets: Targets, _ index: Int, _ reason: Trampolines.Reason) {
    Bypasses.note(module, targets.name(of: index), reason)
  }
}
