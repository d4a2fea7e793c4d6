// SPDX-License-Identifier: Apache-2.0
// Predecessor: a module that defines malloc before the agent, so that callers get its definition.
// It is one of three things:
//
// - The runtime of a sanitizer has an index of its own, and checks what the agent would change: the
//   process runs unindexed.
// - An allocator serves its callers itself.
// - Anything else forwards to the next definition, which is the agent's, and from there to the
//   allocator.
//
// The agent tells the last two apart by asking the module for a block: does the call reach the
// function below the agent? Any constructor of a library may allocate, too. A library whose own
// constructor has not run may serve from an array of its own until then: if it asks dlsym for
// functions, it will forward.

import AgentMachine
import SharedLayout

enum Predecessor {
  typealias Module = UnsafeMutablePointer<link_map>

  /// Whether the module has the runtime of a sanitizer that replaces malloc.
  static func isSanitizer(_ module: Module) -> Bool {
    let name: StaticString = "__sanitizer_get_allocated_size"
    let text = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
    return DynamicSymbols(module)?.symbol(of: text) != nil
  }

  /// Whether blocks come from the module itself. The process has one thread.
  static func isAllocator(_ targets: Targets, _ module: Module) -> Bool {
    // A module that cannot free what it allocates is no allocator.
    guard let malloc = UnsafeMutableRawPointer(bitPattern: UInt(targets.winner("malloc"))),
      let free = UnsafeMutableRawPointer(bitPattern: UInt(targets.winner("free")))
    else { return false }
    let terminal = allocs_terminal()
    let process = allocs_process()
    process.pointee.seen_below = 0
    (terminal.pointee.malloc, terminal.pointee.free) = (seenMalloc, seenFree)
    let block = unsafeBitCast(malloc, to: type(of: terminal.pointee.malloc))(32)
    unsafeBitCast(free, to: type(of: terminal.pointee.free))(block)
    terminal.pointee.malloc = unsafeBitCast(
      Terminal.next("malloc").function, to: type(of: terminal.pointee.malloc))
    terminal.pointee.free = unsafeBitCast(Terminal.next("free").function, to: type(of: terminal.pointee.free))
    return process.pointee.seen_below == 0 && !isNotReady(module, block)
  }

  private static func isNotReady(_ module: Module, _ block: UnsafeMutableRawPointer?) -> Bool {
    // The executable is the first module, and may have other reasons to ask dlsym for something.
    guard module != allocs_first_link_map(), DynamicSymbols(module)?.imports("dlsym") == true else { return false }
    var start: UInt64 = 0
    var end: UInt64 = 0
    var holder: Module?
    return allocs_find_module(UInt64(UInt(bitPattern: block)), &start, &end, &holder) && holder == module
  }

  /// The definition before the agent only forwards: the allocator is the next definition after the
  /// agent's.
  static func pass() {
    Terminal.takeNext()
    guard let shared = allocs_process().pointee.shared, let header = shared.pointee.header else { return }
    let address = UInt64(UInt(bitPattern: Terminal.next("malloc").function))
    Modules.note(shared, header, address: address)
    Allocators.table(header)[0].pointee.module = Modules.number(header, of: address)
  }
}

@c(allocs_seen_malloc) func seenMalloc(_ size: Int) -> UnsafeMutableRawPointer? {
  allocs_process().pointee.seen_below = 1
  return unsafeBitCast(Terminal.next("malloc").function, to: type(of: allocs_terminal().pointee.malloc))(size)
}
@c(allocs_seen_free) func seenFree(_ block: UnsafeMutableRawPointer?) {
  allocs_process().pointee.seen_below = 1
  unsafeBitCast(Terminal.next("free").function, to: type(of: allocs_terminal().pointee.free))(block)
}
