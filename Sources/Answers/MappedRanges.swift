// SPDX-License-Identifier: Apache-2.0
// The segment's table of mappings, read again only when it has changed.

import Bounds
import IndexReader
import Synchronization

/// The records of one process in order of address. Thread-safe.
final class MappedRanges: Sendable {
  private struct Reading {
    var changes: UInt64
    var records: [MappingRecord]
  }

  private let reading = Mutex<Reading?>(nil)

  func records(of segment: borrowing Segment) -> [MappingRecord] {
    let changes = segment.mappingChanges
    if changes == 0 { return [] }
    if let known = reading.withLock({ $0 }), known.changes == changes { return known.records }
    let records = segment.mappingRecords
    // A table that was not read to its end is for this question alone, which ends.
    if Budget.current?.isExhausted == true { return records }
    reading.withLock { $0 = Reading(changes: changes, records: records) }
    return records
  }
}

extension [MappingRecord] {
  /// Index of the record that holds `address`.
  func index(containing address: UInt64) -> Int? {
    let low = partitioningIndex { $0.range.upperBound > address }
    return low < count && self[low].range.contains(address) ? low : nil
  }
}
