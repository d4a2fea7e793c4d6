// EntryPoints: the second way of binding. Where the executable, or a library that wins over the agent, is an allocator of its
// own, nobody ever calls the agent's functions. So they are put in front of its functions, at their entries
// (Trampolines). Every caller is seen once, whichever way it was bound.
//
// Where what wins over the agent only leads on to it, as a library that counts the calls of malloc does, it is left as it is:
// the agent is called all the same (Predecessor).
//
// There are two kinds:
// - What callers of malloc get from a module before the agent: the agent's function of that name takes its place, and the
//   trampoline is the function below (Terminal).
// - What lies beside that: definitions that only the executable's own code can call, and families with a prefix (mi_malloc).
//   Each gets a record with its signature, its own function below, and its allocator (HookedFunction).
//
// Invariants:
// - If a function that frees must be left alone, so are all of its family: an index that misses frees would lie. If it
//   is the family that wins over the agent, the process runs unindexed.
// - No page is ever writable and executable. While a page is writable it cannot be run; so this happens only while the
//   process has one thread, in the agent's constructor.

import AgentMachine
import SharedLayout

enum EntryPoints {
  private typealias Module = UnsafeMutablePointer<link_map>

  /// Hooks what wins over the agent. Runs once, at the agent's constructor.
  static func bind() {
    var targets = Targets()
    var failure: Trampolines.Reason?
    var isReady = false
    var module = allocs_first_link_map()
    while let current = module, !allocs_is_own_module(current) {
      targets.collect(current)
      if targets.hasMalloc(Targets.winning) {
        if Predecessor.isSanitizer(current) {
          giveUp(current, targets, ALLOCS_BYPASS_SANITIZER)
          targets.removeAll()
        } else if Process.threadCount == 1 {
          if Predecessor.isAllocator(targets, current) {
            Terminal.takeFirst()
          } else {
            targets.remove(Targets.winning)
            Predecessor.pass()
          }
        }
      }
      if targets.count > 0 {
        if !isReady, failure == nil {
          if Process.threadCount != 1 {
            failure = ALLOCS_BYPASS_SEVERAL_THREADS
          } else if allocs_disassembler_open() {
            isReady = true
          } else {
            failure = ALLOCS_BYPASS_START_UNDECODED
          }
        }
        if let failure { giveUp(current, targets, failure) } else { bind(current, targets) }
      }
      module = current.pointee.l_next
    }
    targets.unmap()
    guard isReady else { return }
    // What it gives back may have come from an allocator that was not hooked then.
    let thread: Thread? = allocs_enter()
    allocs_disassembler_close()
    if let thread { allocs_leave(thread) }
  }

  private static func bind(_ module: Module, _ targets: Targets) {
    // Everything is examined before anything changes.
    for index in 0..<targets.count {
      if let reason = Trampolines.examine(&targets[index]) { refuse(module, reason, targets[index]) }
      if targets[index].moved != 0, !Trampolines.callsOthers(targets[index]) { targets.preserveRegisters(of: index) }
      let callee = Trampolines.jumpTarget(targets[index])
      for other in 0..<targets.count where other != index && targets[other].address == callee {
        targets[index].leads_to = UInt16(other + 1)
      }
    }
    leaveAlone(module, targets)
    var index = 0
    while index < targets.count, targets[index].moved == 0 { index += 1 }
    guard index < targets.count else { return }
    var place = 0
    while place < Int(ALLOCS_GATED_MODULES), allocs_gates()[place] != nil { place += 1 }
    guard place < Int(ALLOCS_GATED_MODULES), targets.count * Trampolines.slotSize <= Int(ALLOCS_GATES_SIZE),
      let gates = Trampolines.room(near: targets[index].address, UInt64(ALLOCS_GATES_SIZE))
    else { return giveUp(module, targets, ALLOCS_BYPASS_NO_ROOM) }
    var allocators = InlineArray<8, UInt32>(repeating: 0)
    for index in 0..<targets.count where targets[index].moved != 0 {
      var record: UnsafeMutablePointer<allocs_hooked>?
      if let signature = targets[index].signature {
        let family = Int(targets[index].family)
        if family != Targets.winning, allocators[family] == 0 {
          allocators[family] = noteAllocator(family, at: targets[index].address)
        }
        record = allocs_next_hooked(signature, allocators[family])
        guard let record else {
          System.unmap(gates, UInt64(ALLOCS_GATES_SIZE))
          return giveUp(module, targets, ALLOCS_BYPASS_TOO_MANY)
        }
        targets[index].below = UnsafeMutableRawPointer(record).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
      }
      Trampolines.build(gates + index * Trampolines.slotSize, targets[index], record: record)
    }
    guard System.protect(UInt64(UInt(bitPattern: gates)), UInt64(ALLOCS_GATES_SIZE), .execute) else {
      return giveUp(module, targets, ALLOCS_BYPASS_NOT_EXECUTABLE)
    }
    allocs_gates()[place] = gates
    for index in 0..<targets.count where targets[index].moved != 0 {
      let target = targets[index]
      let gate = gates + index * Trampolines.slotSize
      guard let place = target.below else { continue }
      // The function below, before anything leads to it.
      let below = place.pointee
      let end = targets.end(of: index)
      allocs_store_release_pointer(place, Trampolines.trampoline(of: gates + end * Trampolines.slotSize))
      if Trampolines.jump(from: Trampolines.start(target), to: gate) {
        Index.count(ALLOCS_COUNTER_ENTRIES_HOOKED)
      } else {
        allocs_store_release_pointer(place, below)
        refuse(module, ALLOCS_BYPASS_UNCHANGEABLE, target)
        if target.is_essential { Start.giveUp() }
      }
    }
  }

  /// The number of a new allocator, whose code lies at `address`, as contexts have it.
  private static func noteAllocator(_ family: Int, at address: UInt64) -> UInt32 {
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return 0 }
    return Allocators.register(
      shared, header, address: address, kind: ALLOCS_ALLOCATOR_PRIMARY,
      name: Allocators.Name(cString: allocs_family(UInt32(family)).pointee.allocator))
  }

  // MARK: what was left alone

  /// Takes out what must be left alone because something else is: all of a family of which a function that frees cannot be hooked.
  private static func leaveAlone(_ module: Module, _ targets: Targets) {
    for index in 0..<targets.count where targets[index].is_essential && targets[index].moved == 0 {
      let missing = targets[index]
      if missing.family == Targets.winning, !missing.is_operator {
        return giveUp(module, targets, ALLOCS_BYPASS_FREES_UNKNOWN)
      }
      // Operators that win over the agent call a malloc that can be hooked all the same.
      for other in 0..<targets.count
      where targets[other].family == missing.family
        && (missing.family != Targets.winning || targets[other].is_operator)
      {
        targets[other].moved = 0
      }
    }
  }

  /// Leaves all functions of the module alone. If malloc itself is among those that win over the agent, the process runs
  /// unindexed: blocks would be recorded that others free.
  private static func giveUp(_ module: Module, _ targets: Targets, _ reason: Trampolines.Reason) {
    for index in 0..<targets.count {
      targets[index].moved = 0
      if targets[index].family == Targets.winning, !targets[index].is_operator { Start.giveUp() }
    }
    refuse(module, reason)
  }

  private static func refuse(_ module: Module, _ reason: Trampolines.Reason, _ target: allocs_target? = nil) {
    var name = Text()
    if let target {
      name.append(cString: target.prefix)
      name.append(cString: target.name)
    }
    Bypasses.note(module, name, reason)
  }
}
