// SPDX-License-Identifier: Apache-2.0
// Search by halving, for tables that are in order.

extension Array {
  /// The index of the first element that `isBehind`; `count` if none is. Elements behind are at the array's end.
  package func partitioningIndex(_ isBehind: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = low &+ (high &- low) >> 1
      if isBehind(self[middle]) { high = middle } else { low = middle &+ 1 }
    }
    return low
  }
}
