// SPDX-License-Identifier: Apache-2.0
// Whether memory was ever heap.

import IndexReader
import SharedLayout

extension Segment {
  /// Whether any memory in `range` was ever heap. Groups beyond the first 64 MiB are judged by live allocations alone.
  func wasHeap(in range: Range<UInt64>) -> Bool {
    guard let last = range.last else { return false }
    if let next = allocation(after: range.lowerBound &- 1), range.contains(next.base) { return true }
    if let previous = allocation(before: last), previous.end > range.lowerBound { return true }
    let group: UInt64 = 1 << UInt64(ALLOCS_SUMMARY_SHIFT)
    var address = range.lowerBound & ~(group &- 1)
    let region: UInt64 = 1 << UInt64(ALLOCS_REGION_SHIFT)
    // bounded: a region's groups are counted
    let count = (min(range.upperBound &- address, region) &+ group &- 1) / group
    for _ in 0..<count {
      if wasUsed(address) { return true }
      address &+= group
    }
    return false
  }
}
