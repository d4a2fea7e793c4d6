// SPDX-License-Identifier: Apache-2.0
// A segment with one block, asked at the block's edges: coarse slots and fine ones answer alike.

import IndexReader
import TestSupport
import Testing

/// Expects that `block`, the only one in `segment`, is found by its first byte and its last one, at no address beside
/// it, and from there as a neighbour.
func expectOnly(_ block: Allocation, in segment: borrowing Segment, sourceLocation: SourceLocation = #_sourceLocation) {
  let end = block.base + max(block.size, 1)
  for address in [block.base, block.base + block.size / 2, end - 1] {
    let found = segment.allocation(containing: address)
    #expect(found == block, sourceLocation: sourceLocation)
  }
  for address in [block.base - 1, end] {
    let found = segment.allocation(containing: address)
    #expect(found == nil, sourceLocation: sourceLocation)
  }
  let before = [block.base, block.base + 1, .max].map { segment.allocation(before: $0) }
  #expect(before == [nil, block, block], sourceLocation: sourceLocation)
  let after = [block.base, block.base - 1, 0].map { segment.allocation(after: $0) }
  #expect(after == [nil, block, block], sourceLocation: sourceLocation)
}
