// SPDX-License-Identifier: Apache-2.0
// The last sign of life in an index: for prune, where no sweep has noted when the process ended.

import SegmentFiles
import SystemAccess

extension SegmentDirectory {
  /// Removes the files that ended processes of `ofUser` (nil: of all users whose files the caller
  /// may remove) have left, if they ended at least `age` seconds ago: segments, and control files
  /// without a segment.
  ///
  /// When a process ended is known where a sweep has found it dead; else the latest time that
  /// stands in its index counts. `isTrial`: nothing is removed. Throws as `list(in:)` does.
  public static func prune(
    olderThan age: Double, in directories: [String]? = nil, ofUser: UInt32?, isTrial: Bool
  ) throws(Complaint) -> SweepResult {
    try prune(olderThan: age, in: directories, ofUser: ofUser, isTrial: isTrial) { $0.lastSign }
  }
}

extension SegmentFile {
  /// The latest time that stands in the index, in seconds since 1970-01-01 UTC: the process ended
  /// then or later.
  fileprivate var lastSign: Double {
    guard let segment = try? Segment(path: path) else { return modified }
    let clock = segment.clock(isAlive: false)
    var last = modified
    for thread in segment.threads {
      last = max(last, clock.wallTime(ofTicks: thread.startTicks))
      if thread.state != .live, let end = thread.endTicks { last = max(last, clock.wallTime(ofTicks: end)) }
    }
    segment.forEachAllocation { last = max(last, clock.wallTime(ofTicks: $0.ticks)) }
    return last
  }
}
