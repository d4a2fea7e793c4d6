// SPDX-License-Identifier: Apache-2.0
// The names of one process's addresses, kept from one request to the next.
//
// Nodes of the stack trie never change once they are published, and rows of the module table change only with the
// table's version. So a name holds until the version changes, and then all names are dropped. Two more conditions
// decide whether a name that was kept is used:
// - It may be right for some records only: for the records that are not older than the module (`Span`).
// - A module's file may be missing, and appear: names that were found without it are kept for some seconds only. A name
//   that depends on anything else is not kept: of memory from which a module was unloaded, say, or of a damaged trie.

import IndexReader
import Symbols
import Synchronization

/// Names of one process, with one list of wrappers, in about `budget` bytes of memory. Thread-safe.
public final class NameCache: Sendable {
  /// The functions at the address of a call.
  struct NamedAddress {
    /// At least one; innermost first.
    var frames: [Frame]
    /// Index in `frames` of the innermost function that is no wrapper; nil if all are wrappers.
    var site: Int?
    /// Index in the module table, plus 1; 0 for none.
    var module: UInt32
    /// The records for which the names are right; nil if only for the record that they were looked up for.
    var span: Span?
  }

  /// For which records, and until when, names are right.
  package struct Span {
    /// When the modules that the names depend on were loaded: the first and the last of them; nil if there are none.
    var loaded: (first: UInt32, last: UInt32)?
    /// Seconds of CLOCK_MONOTONIC.
    var end: Int

    package init(end: Int = .max) { self.end = end }

    /// Whether the names are right for a record with `ticks`.
    func covers(_ ticks: UInt32) -> Bool {
      guard let loaded else { return true }
      return Module.wasLoaded(at: loaded.first, before: ticks) && Module.wasLoaded(at: loaded.last, before: ticks)
    }

    /// Leaves the records and the time for which the names of `other` are right as well.
    mutating func narrow(to other: Span) {
      end = min(end, other.end)
      guard let new = other.loaded else { return }
      guard let old = loaded else {
        loaded = new
        return
      }
      // Ticks wrap around: of two loads, the earlier load is less than half a wrap before the later.
      loaded = (
        Module.wasLoaded(at: old.first, before: new.first) ? old.first : new.first,
        Module.wasLoaded(at: old.last, before: new.last) ? new.last : old.last
      )
    }
  }

  private struct RenderedStack {
    var json: [UInt8]
    var span: Span
  }

  private struct Tables {
    var version = ModuleTableVersion()
    var addresses: GenerationCache<CallAddress, NamedAddress>
    var stacks: GenerationCache<UInt32, RenderedStack>
  }

  /// Bytes for each process that a server has open: enough for some thousand addresses and some hundred stacks.
  public static let defaultBudget = 3 << 20

  private let budget: Int
  private let tables: Mutex<Tables>

  /// An empty cache of about `budget` bytes.
  public init(budget: Int = NameCache.defaultBudget) {
    self.budget = budget
    tables = Mutex(Self.empty(budget))
  }

  private static func empty(_ budget: Int) -> Tables {
    Tables(
      addresses: GenerationCache(budget: budget / 3) { address in address.frames.reduce(64) { $0 &+ $1.cost } },
      stacks: GenerationCache(budget: budget / 3 &* 2) { 64 &+ $0.json.count })
  }

  /// The names at `call` for a record with `ticks`, if they are known as of `version` and the second `now`.
  func find(
    _ call: CallAddress, ticks: UInt32, version: ModuleTableVersion, now: Int
  ) -> NamedAddress? {
    tables.withLock { tables in
      guard tables.version == version, let found = tables.addresses.find(call), let span = found.span,
        span.end > now, span.covers(ticks)
      else { return nil }
      return found
    }
  }

  /// Keeps names that were looked up as of `version`.
  func store(_ names: NamedAddress, at call: CallAddress, version: ModuleTableVersion) {
    guard names.span != nil else { return }
    tables.withLock { tables in
      guard advance(&tables, to: version) else { return }
      tables.addresses.store(call, names)
    }
  }

  /// The rendered form of the stack that ends in `node`, under the conditions of `find`.
  package func json(ofNode node: UInt32, ticks: UInt32, version: ModuleTableVersion, now: Int) -> [UInt8]? {
    tables.withLock { tables in
      guard tables.version == version, let stack = tables.stacks.find(node), stack.span.end > now,
        stack.span.covers(ticks)
      else { return nil }
      return stack.json
    }
  }

  /// Keeps the rendered form of a stack whose names were looked up as of `version` and are right in `span`.
  package func store(json: [UInt8], ofNode node: UInt32, span: Span, version: ModuleTableVersion) {
    tables.withLock { tables in
      guard advance(&tables, to: version) else { return }
      tables.stacks.store(node, RenderedStack(json: json, span: span))
    }
  }

  /// Whether names of `version` may be stored. The first names of a later version replace all names
  /// of the earlier version.
  private func advance(_ tables: inout Tables, to version: ModuleTableVersion) -> Bool {
    if tables.version == version { return true }
    guard tables.version < version else { return false }
    tables = Self.empty(budget)
    tables.version = version
    return true
  }
}
