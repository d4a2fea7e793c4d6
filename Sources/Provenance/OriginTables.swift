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

  /// The functions that have been at a call that lies in no module, the earliest first, if it lies in code that the
  /// process has made itself and that has names.
  func madeFunctions(at call: CallAddress) -> [MadeFunction]

  /// Whether `address` lies in `module` (nil: in no module), whatever the time of the record: no other module was ever
  /// there, and this module still is. Asked only of calls whose nodes say nothing of their modules.
  func isOnly(_ module: Module?, at address: UInt64) -> Bool

  /// The state of the module table: names that were found in one state hold until the next.
  var moduleTableVersion: ModuleTableVersion { get }

  /// Keeps the names that were found with the standard wrappers.
  var names: NameCache { get }
}

extension OriginTables {
  public func madeFunctions(at call: CallAddress) -> [MadeFunction] { [] }

  /// The call stack that ends in `node`; the empty stack for node 0.
  public func stack(ofNode node: UInt32) -> Stack {
    Stack(ofNode: node, isAgent: { isAgent($0) }) { self.node($0) }
  }

  /// The functions at a call in a record with `ticks`, innermost inlined one first: at least one frame, which has no
  /// function if none is known. With the module that the call lies in.
  public func names(at call: CallAddress, ticks: UInt32) -> AddressNames {
    guard let module = module(at: call, ticks: ticks) else {
      if call.loss == nil { return madeNames(at: call, ticks) }
      return AddressNames(frames: [Frame(pc: call.pc, module: nil, unnamed: call.loss)], isFinal: true)
    }
    let (frames, isFinal) = functions(at: call, in: module)
    return AddressNames(
      frames: frames.isEmpty ? [Frame(pc: call.pc, module: module.path, unnamed: call.loss)] : frames, module: module,
      isFinal: isFinal)
  }

  /// The names of code that the process has made: of the function that was at the call last before the record. It may
  /// be replaced, so no name is final.
  private func madeNames(at call: CallAddress, _ ticks: UInt32) -> AddressNames {
    let functions = madeFunctions(at: call)
    var names = AddressNames(frames: [Frame(pc: call.pc, module: nil)], isFinal: false)
    guard let last = functions.last else { return names }
    var chosen: MadeFunction? = last
    if functions.count > 1, last.time != nil {
      chosen = functions.last { function in
        function.ticks.map { Module.wasLoaded(at: $0, before: ticks) } ?? false
      }
      names.since = chosen == last ? last.ticks : nil
      names.isOfRecord = chosen != last
    }
    guard let chosen else { return names }
    names.frames = [
      Frame(
        pc: call.pc, module: Frame.madeCode, function: chosen.name, file: chosen.file, line: chosen.line)
    ]
    return names
  }
}

/// The names at an address, and for which records they are right.
public struct AddressNames {
  public var frames: [Frame]
  public var module: Module?
  /// False if the answer may be a better one some seconds later.
  public var isFinal: Bool
  /// Ticks from which on records have these names; nil: all records do that lie in `module`, or in none.
  var since: UInt32?
  /// Whether the names are those of the one record alone that was asked about.
  var isOfRecord = false

  init(frames: [Frame], module: Module? = nil, isFinal: Bool) {
    (self.frames, self.module, self.isFinal) = (frames, module, isFinal)
  }
}

extension MadeFunction {
  /// When it came to its place, in ticks; nil if that is not known.
  fileprivate var ticks: UInt32? { time.map { Module.ticks(ofNanoseconds: $0) } }
}
