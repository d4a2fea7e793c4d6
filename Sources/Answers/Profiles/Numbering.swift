// SPDX-License-Identifier: Apache-2.0
// Numbers for items that a file has once and refers to by number: texts, frames.

/// Numbers items in the order in which they are met, from 0 on.
struct Numbering<Item: Hashable> {
  /// The items, by their numbers.
  private(set) var items: [Item] = []
  private var numbers: [Item: Int] = [:]

  /// The items that have the first numbers.
  init(_ first: [Item] = []) {
    for item in first { _ = number(of: item) }
  }

  mutating func number(of item: Item) -> Int {
    if let known = numbers[item] { return known }
    numbers[item] = items.count
    items.append(item)
    return items.count &- 1
  }
}
