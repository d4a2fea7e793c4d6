// What the addresses of one process are called, kept from one request to the next.
//
// Nodes of the stack trie never change once they are published, and rows of the module table only with its version; so
// what was found holds until that changes, and then all of it is dropped. Two things more decide whether it is used:
// - A name may be right for a part of the records: those not older than the module (`Span`).
// - A module's file may be missing, and appear: names that were found without it are kept for some seconds only.
// What depends on more than that (memory from which a module was unloaded, a damaged trie) is not kept.

import IndexReader
import Symbols
import Synchronization

/// Names of one process, with one list of wrappers. Thread-safe; takes no more memory than `budget`, about.
final class NameCache: Sendable {
  /// An address as it stands in the stack trie.
  struct Address: Hashable {
    var pc: UInt64
    /// Not a return address, but the instruction itself.
    var isExact: Bool
    /// What its node says of its module.
    var holder = CallHolder.unsaid
  }

  /// What one address leads to.
  struct Place {
    /// At least one; innermost first.
    var frames: [Frame]
    /// Index in `frames` of the innermost function that is no wrapper.
    var site: Int?
    /// Index in the module table, plus 1; 0 for none.
    var module: UInt32
    /// The records for which it is right; nil if only for the one that it was looked up for.
    var span: Span?
  }

  /// For which records, and until when, something that was looked up is right.
  struct Span {
    /// When the modules that it depends on were loaded: the first and the last of them; nil if it depends on none.
    var loaded: (first: UInt32, last: UInt32)?
    /// Monotonic seconds.
    var end = Int.max

    /// Whether it is right for a record with `ticks`.
    func covers(_ ticks: UInt32) -> Bool {
      guard let loaded else { return true }
      return Module.wasLoaded(at: loaded.first, before: ticks) && Module.wasLoaded(at: loaded.last, before: ticks)
    }

    mutating func narrow(to other: Span) {
      end = min(end, other.end)
      guard let new = other.loaded else { return }
      guard let old = loaded else {
        loaded = new
        return
      }
      // Between the two, the order of time is that of distances from the first.
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
    var places: GenerationCache<Address, Place>
    var stacks: GenerationCache<UInt32, RenderedStack>
  }

  /// Bytes for each process that a server has open: some thousand addresses, and some hundred stacks of them.
  static let defaultBudget = 3 << 20

  private let budget: Int
  private let tables: Mutex<Tables>

  init(budget: Int = NameCache.defaultBudget) {
    self.budget = budget
    tables = Mutex(Self.empty(budget))
  }

  private static func empty(_ budget: Int) -> Tables {
    Tables(
      places: GenerationCache(budget: budget / 3) { place in place.frames.reduce(64) { $0 + $1.cost } },
      stacks: GenerationCache(budget: budget / 3 * 2) { 64 + $0.json.count })
  }

  /// The place at `address` in a record with `ticks`, if it is known as of `version` and the second `now`.
  func place(
    at address: Address, ticks: UInt32, version: ModuleTableVersion, now: Int
  ) -> Place? {
    tables.withLock { tables in
      guard tables.version == version, let place = tables.places.find(address), let span = place.span,
        span.end > now, span.covers(ticks)
      else { return nil }
      return place
    }
  }

  /// Keeps `place`, which was looked up as of `version`.
  func store(_ place: Place, at address: Address, version: ModuleTableVersion) {
    guard place.span != nil else { return }
    tables.withLock { tables in
      guard advance(&tables, to: version) else { return }
      tables.places.store(address, place)
    }
  }

  /// The JSON of the stack that ends in `node`, as `place(at:)`.
  func json(ofNode node: UInt32, ticks: UInt32, version: ModuleTableVersion, now: Int) -> [UInt8]? {
    tables.withLock { tables in
      guard tables.version == version, let stack = tables.stacks.find(node), stack.span.end > now,
        stack.span.covers(ticks)
      else { return nil }
      return stack.json
    }
  }

  func store(json: [UInt8], ofNode node: UInt32, span: Span, version: ModuleTableVersion) {
    tables.withLock { tables in
      guard advance(&tables, to: version) else { return }
      tables.stacks.store(node, RenderedStack(json: json, span: span))
    }
  }

  /// Whether something of `version` may be stored: a later version replaces what there is.
  private func advance(_ tables: inout Tables, to version: ModuleTableVersion) -> Bool {
    if tables.version == version { return true }
    guard tables.version < version else { return false }
    tables = Self.empty(budget)
    tables.version = version
    return true
  }
}
