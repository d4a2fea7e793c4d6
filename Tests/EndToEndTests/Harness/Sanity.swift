// SPDX-License-Identifier: Apache-2.0
// Whether an index can be right, judged without knowing what the program allocated.

import Foundation
import IndexReader
import TestSupport
import Testing

enum Sanity {
  /// The faults of the index: none if it is valid, complete by its own counters, and each block has its origin.
  static func faults(of segment: borrowing Segment, balanced: Bool = true) -> [String] {
    var faults: [String] = []
    let all = segment.allAllocations()
    for (one, next) in zip(all, all.dropFirst()) where one.base + max(one.size, 1) > next.base {
      faults.append("the blocks at \(one.base) and \(next.base) overlap")
    }
    var contexts: [UInt32: Bool] = [:]
    var unknown = 0
    for allocation in all {
      let known =
        contexts[allocation.context]
        ?? (segment.context(allocation.context).map {
          $0.function != nil && $0.allocator != nil && !segment.stack(ofNode: $0.node).addresses.isEmpty
        } ?? false)
      contexts[allocation.context] = known
      if !known { unknown += 1 }
    }
    if unknown > 0 { faults.append("\(unknown) of \(all.count) blocks have no origin") }
    faults += segment.unindexed
    if balanced, segment.balance != Int64(all.count) {
      faults.append("\(all.count) blocks, but allocations less frees are \(segment.balance)")
    }
    if segment.isBroken { faults.append("the segment is broken") }
    return faults.count > 10 ? Array(faults.prefix(10)) + ["\(faults.count) faults"] : faults
  }

  /// Checks every index that a run left in `directory`; returns the number of live blocks for each program's name.
  static func check(
    _ directory: TestDirectory, sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> [String: [UInt64]] {
    var live: [String: [UInt64]] = [:]
    for path in try directory.segments() {
      let segment = try Segment(path: path)
      let name = ((segment.command.first?.unescaped ?? "") as NSString).lastPathComponent
      let faults = faults(of: segment)
      #expect(faults == [], "\(name), \(segment.command)", sourceLocation: sourceLocation)
      live[name, default: []].append(segment.totals().count)
    }
    return live
  }
}
