// SPDX-License-Identifier: Apache-2.0
// A cache of bounded size that costs a hit one dictionary look-up.
//
// Two generations: entries go into the young one; when that holds half of the budget it becomes the old one, and the
// old one is dropped. A hit in the old one moves the entry to the young one, so what is in use stays. Not
// thread-safe.

/// Keeps values by key as long as they are in use and there is room. Inlinable: unspecialized, a hit costs ten times as
/// much.
public struct GenerationCache<Key: Hashable, Value> {
  @usableFromInline var young: [Key: Value] = [:]
  @usableFromInline var old: [Key: Value] = [:]
  @usableFromInline var youngCost = 0
  @usableFromInline let budget: Int
  @usableFromInline let cost: (Value) -> Int

  /// `budget` and `cost` are bytes; `cost` is asked for each entry that is stored.
  @inlinable
  public init(budget: Int, cost: @escaping (Value) -> Int) {
    self.budget = budget
    self.cost = cost
  }

  /// Entries that are held.
  public var count: Int { young.count + old.count }

  /// The value that was stored for `key`, if it is still held.
  @inlinable
  public mutating func find(_ key: Key) -> Value? {
    if let value = young[key] { return value }
    guard let value = old.removeValue(forKey: key) else { return nil }
    store(key, value)
    return value
  }

  /// Holds `value` for `key`, in place of another.
  @inlinable
  public mutating func store(_ key: Key, _ value: Value) {
    let size = cost(value) &+ MemoryLayout<(Key, Value)>.stride &* 2
    // What is larger than a generation would drive out all else, and be gone with the next value.
    guard size <= budget / 2 else { return }
    if youngCost &+ size > budget / 2 {
      old = young
      young = [:]
      youngCost = 0
    }
    if young.updateValue(value, forKey: key) == nil { youngCost &+= size }
  }
}
