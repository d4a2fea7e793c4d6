// SPDX-License-Identifier: Apache-2.0
// The tables that blocks and events refer to: contexts, call stacks, threads and modules of one process. The process's
// live index has such tables (SegmentTables, in Answers), and so has a recording of the process (Recording). The naming
// of stacks (StackNaming) and the table of sites (SiteTable) need nothing else, so both sources get the same names.

import IndexReader
import Symbols

/// Contexts, call stacks, threads and modules of one process. One thread at a time may use the tables, unless their
/// type says more.
///
/// Times are ticks, as records have them: 1/64 s of CLOCK_MONOTONIC, modulo 2^31.
public protocol OriginTables: AnyObject {
  /// The context with this number; nil if there is none.
  func context(_ id: UInt32) -> Origin?

  /// A node of the trie of call stacks; nil if there is none.
  func node(_ id: UInt32) -> StackNode?

  /// The thread that held a slot of the thread table when a record with `ticks` was made; nil if not known.
  func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity?

  /// The module that a call lay in when a record with `ticks` was made; nil if there was none, or none is known.
  func module(at call: CallAddress, ticks: UInt32) -> Module?

  /// Whether `address` lies in the agent's own code.
  func isAgent(_ address: UInt64) -> Bool

  /// The functions at a call that lies in `module`, innermost inlined one first. `isFinal` is false if the answer may
  /// be a better one some seconds later.
  func functions(at call: CallAddress, in module: Module) -> (frames: [Frame], isFinal: Bool)

  /// The name of the function at a call that lies in no module, if code that the process has made itself has one.
  func madeFunction(at call: CallAddress) -> ForeignText?

  /// Whether `address` lies in `module` (nil: in no module), whatever the time of the record: no other module was ever
  /// there, and this module still is. Asked only of calls whose nodes say nothing of their modules.
  func isOnly(_ module: Module?, at address: UInt64) -> Bool

  /// The state of the module table: names that were found in one state hold until the next.
  var moduleTableVersion: ModuleTableVersion { get }

  /// Keeps the names that were found with the standard wrappers.
  var names: NameCache { get }
}

extension OriginTables {
  public func madeFunction(at call: CallAddress) -> ForeignText? { nil }

  /// The call stack that ends in `node`; the empty stack for node 0.
  public func stack(ofNode node: UInt32) -> Stack {
    Stack(ofNode: node, isAgent: { isAgent($0) }) { self.node($0) }
  }

  /// The functions at a call in a record with `ticks`, innermost inlined one first: at least one frame, which has no
  /// function if none is known. With the module that the call lies in.
  public func names(
    at call: CallAddress, ticks: UInt32
  ) -> (frames: [Frame], module: Module?, isFinal: Bool) {
    guard let module = module(at: call, ticks: ticks) else {
      if call.loss == nil, let name = madeFunction(at: call) {
        // The process may replace the code.
        return ([Frame(pc: call.pc, module: Frame.madeCode, function: name)], nil, false)
      }
      return ([Frame(pc: call.pc, module: nil, unnamed: call.loss)], nil, call.loss != nil)
    }
    let (frames, isFinal) = functions(at: call, in: module)
    return (frames.isEmpty ? [Frame(pc: call.pc, module: module.path, unnamed: call.loss)] : frames, module, isFinal)
  }
}
