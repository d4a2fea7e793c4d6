// SPDX-License-Identifier: Apache-2.0
// The tables of a process's index: contexts, stacks, threads and modules as its segment has them, and names from the
// files of its modules.

import IndexReader
import Provenance
import Symbols

/// The tables of a segment. May be used from several threads at once.
public final class SegmentTables: OriginTables, Sendable {
  private let shared: SharedSegment
  private let symbolizer: Symbolizer
  private let madeCode: MadeCode
  public let names = NameCache()

  /// The tables of `shared`. `symbolizer` finds the names; views of several processes may share one.
  public init(_ shared: SharedSegment, symbolizer: Symbolizer = Symbolizer()) {
    self.shared = shared
    self.symbolizer = symbolizer
    madeCode = MadeCode(of: ModuleReference.Process(of: shared.segment), innerID: shared.segment.processID)
  }

  public func context(_ id: UInt32) -> Origin? { shared.segment.context(id).map { Origin($0) } }

  public func node(_ id: UInt32) -> StackNode? { shared.segment.node(id) }

  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? {
    shared.segment.thread(slot: slot, at: ticks)
  }

  public func module(at call: CallAddress, ticks: UInt32) -> Module? {
    shared.segment.module(of: call.holder, containing: call.instruction, at: ticks)
  }

  public func isAgent(_ address: UInt64) -> Bool { shared.segment.isAgent(address) }

  public func functions(at call: CallAddress, in module: Module) -> (frames: [Frame], isFinal: Bool) {
    symbolizer.functions(at: call, in: ModuleReference(module, in: shared.segment))
  }

  public func madeFunctions(at call: CallAddress) -> [MadeFunction] { madeCode.functions(at: call.instruction) }

  public func isOnly(_ module: Module?, at address: UInt64) -> Bool { shared.segment.isOnly(module, at: address) }

  public var moduleTableVersion: ModuleTableVersion { shared.segment.moduleTableVersion }
}
