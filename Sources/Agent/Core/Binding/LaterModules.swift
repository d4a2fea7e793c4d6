// SPDX-License-Identifier: Apache-2.0
// LaterModules: allocators in modules that come after the start.
//
// The dynamic linker calls an empty function when modules come or go, for debuggers to stop at. For
// a new module the call comes after the mapping and before relocation and constructors: no thread
// can be in the module's code. The agent puts a jump at the empty function, once, and hooks each
// new module as EntryPoints hooks the modules that are there at the start.
//
// Invariants:
// - This thread holds the dynamic linker's lock, and may be in the middle of anything, as in a hook
//   of an allocator that opens a library. So nothing here allocates, opens a module, or waits for
//   that lock; the agent reads what it needs of a module from the module itself. No thread that
//   holds the lock of the slow paths waits for the dynamic linker's lock.
// - The table of modules that were looked at is in the dynamic linker's order, as far as the
//   modules are still there. The gates and records of a module that is gone are given back before a
//   new module is looked at, which may lie where the old one lay: nothing grows with the number of
//   times that modules come and go.
// - The agent leaves that function alone if a debugger is there already, or if the function is more
//   than a return. Then it does not see modules that come later, and notes that.

import AgentMachine
import SharedLayout

enum LaterModules {
  typealias Module = UnsafeMutablePointer<link_map>

  /// Begins to watch. Runs once, in the agent's constructor.
  static func watch() {
    #if arch(x86_64)
      guard rememberAll(), Process.threadCount == 1, putJump() else {
        return note(ALLOCS_BYPASS_LATER_MODULES)
      }
      allocs_process().pointee.watches_modules = 1
    #else
      note(ALLOCS_BYPASS_LATER_MODULES)
    #endif
  }

  private static func note(_ reason: Bypasses.Reason) {
    let dynamic = allocs_debugger_function()
    var module = allocs_first_link_map()
    while let current = module {
      if let image = Image(current), image.contains(dynamic) { return Bypasses.note(current, Text(), reason) }
      module = current.pointee.l_next
    }
  }

  private static func putJump() -> Bool {
    let address = allocs_debugger_function()
    guard var target = target(address),
      let stub = Trampolines.Place(bitPattern: UInt(allocs_debugger_stub_address()))
    else { return false }
    return Trampolines.jump(&target, to: stub)
  }

  /// The dynamic linker's function, if it is one return, and nothing behind the return can be run
  /// before the next function.
  private static func target(_ address: UInt64) -> allocs_target? {
    var module = allocs_first_link_map()
    while let current = module {
      module = current.pointee.l_next
      guard let image = Image(current), image.contains(address) else { continue }
      return Trampolines.isEmpty(address, image) ? allocs_target(at: address) : nil
    }
    return nil
  }

  // MARK: modules that were looked at

  /// Enters the modules that are there, which EntryPoints has looked at.
  private static func rememberAll() -> Bool {
    var isComplete = true
    forEachModule { if !isSeen($0), !remember($0) { isComplete = false } }
    return isComplete
  }

  private static func forEachModule(_ body: (Module) -> Void) {
    var namespace = allocs_next_namespace(nil)
    while let current = namespace {
      var module = current.pointee.r_map
      while let map = module {
        body(map)
        module = map.pointee.l_next
      }
      namespace = allocs_next_namespace(current)
    }
  }

  private static func isSame(_ seen: allocs_seen_module, _ map: Module) -> Bool {
    seen.map == map && seen.dynamic == UnsafeRawPointer(map.pointee.l_ld) && seen.bias == UInt64(map.pointee.l_addr)
  }

  /// Whether the dynamic linker has the module, in any list.
  private static func isLoaded(_ seen: allocs_seen_module, _ next: inout Module?) -> Bool {
    // In most cases it comes right behind the module that was asked for before.
    if let map = next, isSame(seen, map) {
      next = map.pointee.l_next
      return true
    }
    var isThere = false
    var following: Module?
    forEachModule {
      if isSame(seen, $0) {
        isThere = true
        following = $0.pointee.l_next
      }
    }
    if isThere { next = following }
    return isThere
  }

  private static func isSeen(_ map: Module) -> Bool {
    let process = allocs_process()
    guard let seen = process.pointee.seen else { return false }
    // The dynamic linker itself is in the lists of all namespaces, each with its own struct
    // link_map.
    for index in 0..<Int(process.pointee.seen_count)
    where isSame(seen[index], map)
      || seen[index].dynamic == UnsafeRawPointer(map.pointee.l_ld) && seen[index].bias == UInt64(map.pointee.l_addr)
    {
      return true
    }
    return false
  }

  private static func remember(_ map: Module) -> Bool {
    let process = allocs_process()
    let stride = UInt64(MemoryLayout<allocs_seen_module>.stride)
    if process.pointee.seen_count == process.pointee.seen_capacity {
      let capacity = max(process.pointee.seen_capacity * 2, 512)
      guard let memory = System.map(capacity * stride) else { return false }
      if let old = process.pointee.seen {
        allocs_copy(memory, old, process.pointee.seen_count * stride)
        System.unmap(old, process.pointee.seen_capacity * stride)
      }
      process.pointee.seen = memory.assumingMemoryBound(to: allocs_seen_module.self)
      process.pointee.seen_capacity = capacity
    }
    process.pointee.seen?[Int(process.pointee.seen_count)] = allocs_seen_module(
      map: map, dynamic: UnsafeRawPointer(map.pointee.l_ld), bias: UInt64(map.pointee.l_addr))
    process.pointee.seen_count += 1
    return true
  }

  // MARK: a change

  /// Modules came, or went. Nothing is done until the dynamic linker says that its lists are
  /// consistent.
  static func changed() {
    let process = allocs_process()
    guard process.pointee.watches_modules != 0, process.pointee.phase == ALLOCS_PHASE_READY.rawValue,
      process.pointee.shared?.pointee.header != nil, isConsistent
    else { return }
    // A signal handler that has interrupted the agent's own work can do nothing here; no handler
    // may open a module.
    guard !allocs_holds_lock() else { return }
    switch Entering.enter() {
    case .taken(let thread):
      if Gate.isIndexed(thread) { lookAtAll(thread) }
      allocs_leave(thread)
    case .inside(let outer):
      if Gate.isIndexed(outer) { lookAtAll(nil) }
    case .starting: break
    }
  }

  private static var isConsistent: Bool {
    var namespace = allocs_next_namespace(nil)
    while let current = namespace {
      if current.pointee.r_state != RT_CONSISTENT { return false }
      namespace = allocs_next_namespace(current)
    }
    return true
  }

  private static func lookAtAll(_ thread: Thread?) {
    // While another thread forks, nothing is written.
    if let thread, Gate.regions(thread) == nil { return }
    forgetGone()
    var targets = Targets()
    forEachModule { map in
      guard !isSeen(map) else { return }
      guard remember(map) else { return Bypasses.note(map, Text(), ALLOCS_BYPASS_TOO_MANY) }
      EntryPoints.bind(later: map, &targets)
      Declarations.bind(later: map)
    }
    targets.unmap()
  }

  private static func forgetGone() {
    let process = allocs_process()
    guard let seen = process.pointee.seen else { return }
    var next: Module?
    var kept = 0
    for index in 0..<Int(process.pointee.seen_count) {
      if isLoaded(seen[index], &next) {
        seen[kept] = seen[index]
        kept += 1
        continue
      }
      for place in 0..<Int(ALLOCS_GATED_MODULES) where allocs_gates()[place].start != nil {
        let room = allocs_gates() + place
        guard room.pointee.module == seen[index].map, let start = room.pointee.start else { continue }
        allocs_release_hooked_within(start, room.pointee.size)
        Declarations.release(within: start, room.pointee.size)
        Gates.giveBack(room)
      }
    }
    process.pointee.seen_count = UInt64(kept)
  }
}

@c(allocs_modules_changed) func modulesChanged() { LaterModules.changed() }
