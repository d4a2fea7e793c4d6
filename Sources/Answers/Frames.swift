// Call stacks with names: each return address in the module that held it when the stack was recorded.

import IndexReader
import SharedLayout
import Symbols

extension ProcessView {
  /// The frames of `stack`, innermost first, as of the time of a record.
  func frames(of stack: Stack, at ticks: UInt32) -> [Frame] {
    var frames: [Frame] = []
    frames.reserveCapacity(stack.addresses.count)
    for pc in stack.addresses { frames += self.frames(at: pc, ticks) }
    return frames
  }

  /// The frames of one return address: the function it is in, after those that were inlined there.
  func frames(at pc: UInt64, _ ticks: UInt32) -> [Frame] {
    // The call instruction, one byte below, decides: a call may be the last instruction of its module.
    guard let module = shared.segment.module(containing: pc &- 1, at: ticks) else {
      return [Frame(pc: pc, module: nil)]
    }
    let frames = symbolizer.frames(returnAddress: pc, in: ModuleReference(module))
    return frames.isEmpty ? [Frame(pc: pc, module: module.path)] : frames
  }
}

extension Segment {
  /// Whether any memory in `range` was ever heap. Groups beyond the first 64 MiB are judged by live allocations alone.
  func wasHeap(in range: Range<UInt64>) -> Bool {
    guard let last = range.last else { return false }
    if let next = allocation(after: range.lowerBound &- 1), range.contains(next.base) { return true }
    if let previous = allocation(before: last), previous.end > range.lowerBound { return true }
    let group: UInt64 = 1 << UInt64(ALLOCS_SUMMARY_SHIFT)
    var address = range.lowerBound & ~(group - 1)
    let region: UInt64 = 1 << UInt64(ALLOCS_REGION_SHIFT)
    let limit = address + min(range.upperBound - address, region)
    while address < limit {
      if wasUsed(address) { return true }
      address += group
    }
    return false
  }
}
