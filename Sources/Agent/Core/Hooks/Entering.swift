// SPDX-License-Identifier: Apache-2.0
// Entering: how a call of a hook gets its thread's block.
//
// There are three cases. The call is the outermost of its thread: it takes the block. Or another
// hook of the thread has taken it: the call is inside that hook. Or another thread is just starting
// the agent: there is nothing to record in yet. A hook whose thread has no block yet gives it one,
// and with the first call of the process that starts the agent (Start).
//
// A thread that is not indexed has a block as well, one without a region table: its calls take it
// like any other, and nothing is recorded.

import AgentMachine
import SharedLayout

enum Entering {
  /// The call is the outermost, and has taken the block. It must put it back: `allocs_leave`.
  case taken(Thread)
  /// The thread is inside another hook, which has taken its block.
  case inside(Thread)
  /// Another thread is starting the agent: the call passes through.
  case starting

  /// For a call that does not look whether the other hook is still under way.
  @inline(__always)
  static func enter() -> Entering {
    if let thread = allocs_enter() { return .taken(thread) }
    return enterSlowly()
  }

  /// The rest of `enter`, for a call that `allocs_enter` gave null.
  @inline(__always)
  static func enterSlowly() -> Entering {
    if let outer = allocs_registered_block() { return .inside(outer) }
    return new()
  }

  /// For a call by `caller` that looks whether the other hook is still under way: if something
  /// jumped out of that hook, this call takes the block back from it (LeftCalls).
  @inline(__always)
  static func enter(from caller: Caller) -> Entering {
    if let thread = allocs_enter() { return .taken(thread) }
    return enterSlowly(from: caller)
  }

  /// The rest of `enter(from:)`, for a call that `allocs_enter` gave null.
  @inline(__always)
  static func enterSlowly(from caller: Caller) -> Entering {
    guard let outer = allocs_registered_block() else { return new() }
    return LeftCalls.takeBack(outer, caller) ? .taken(outer) : .inside(outer)
  }

  /// For a call that must not start the agent: before the agent has started, the call passes
  /// through.
  static func enterStarted() -> Entering {
    if let thread = allocs_enter() { return .taken(thread) }
    if let outer = allocs_registered_block() { return .inside(outer) }
    return allocs_process().pointee.phase == ALLOCS_PHASE_READY.rawValue ? new() : .starting
  }

  /// The thread has no block yet.
  @inline(__always)
  private static func new() -> Entering {
    guard let thread = Start.enterNewThread() else { return .starting }
    return .taken(thread)
  }
}
