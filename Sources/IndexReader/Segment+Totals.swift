// SPDX-License-Identifier: Apache-2.0
// Totals: the blocks and bytes that were ever allocated, by context (allocs_total.h).

import Bounds
import SharedLayout

/// The blocks and bytes that were ever allocated in one context, whether they live or not. The
/// numbers of a damaged index may be any.
public struct AllocatedTotal: Hashable, Sendable {
  /// Bytes as asked for, modulo 2^64.
  public var bytes: UInt64
  public var blocks: UInt64

  public init(bytes: UInt64, blocks: UInt64) {
    self.bytes = bytes
    self.blocks = blocks
  }
}

extension Segment {
  /// Whether the process keeps totals: not with `ALLOCS_TOTALS=0`, nor with an agent before them.
  public var hasTotals: Bool { geometry.sections[ALLOCS_SECTION_TOTALS].capacity > 0 }

  /// The blocks and bytes ever allocated in a context; nil if they are not known: the process keeps
  /// no totals, or the context's threads have no entry (allocs_total.h), or there is no such
  /// context. A thread that asks after it has seen a live block finds it counted. Any thread may
  /// ask.
  public func total(ofContext id: UInt32) -> AllocatedTotal? {
    let index = Int(truncatingIfNeeded: id)
    guard index != 0, index < used(ALLOCS_SECTION_TOTALS), index < used(ALLOCS_SECTION_CONTEXTS) else { return nil }
    let word = allocs_load_acquire_u64(entry(index, of: ALLOCS_SECTION_CONTEXTS, as: UInt64.self))
    guard word != 0, allocs_context_thread(word) != ALLOCS_THREAD_UNKNOWN else { return nil }
    return total(at: index)
  }

  /// Calls `body` with each context in which something was allocated, and what was; as far as the
  /// budget goes.
  public func forEachTotal(_ body: (_ context: UInt32, AllocatedTotal) -> Void) {
    let count = min(used(ALLOCS_SECTION_TOTALS), used(ALLOCS_SECTION_CONTEXTS))
    let contexts = entries(ALLOCS_SECTION_CONTEXTS, as: UInt64.self)
    var meter = BudgetMeter(interval: 1 << 12)
    var index = 1
    while index < count, meter.goesOn() {
      let word = allocs_load_acquire_u64(contexts + index)  // bounded: the index is below the section's capacity
      if word != 0, allocs_context_thread(word) != ALLOCS_THREAD_UNKNOWN {
        let total = total(at: index)
        if total.blocks != 0 { body(UInt32(truncatingIfNeeded: index), total) }
      }
      index &+= 1
    }
  }

  private func total(at index: Int) -> AllocatedTotal {
    // bounded: the index is below the section's capacity, and both words lie in the entry
    let words = UnsafeRawPointer(entry(index, of: ALLOCS_SECTION_TOTALS, as: allocs_total.self))
      .assumingMemoryBound(to: UInt64.self)
    return AllocatedTotal(
      bytes: allocs_load_relaxed_u64(words), blocks: allocs_load_relaxed_u64(words.successor()))
  }
}
