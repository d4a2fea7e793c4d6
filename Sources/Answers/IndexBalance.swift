// SPDX-License-Identifier: Apache-2.0
// Whether an index accounts for all allocations of its process: a check that finds losses without knowing their cause.
// Allocations less frees must equal the live blocks. Where that difference exceeds the live blocks, some blocks were
// given back unseen, and other blocks took their places.
//
// The process goes on while the blocks are counted. So the sums are taken before and after the count: the count may be
// off by the number of calls in between, and by one for each thread that may be in the middle of a hook. A sleeping
// thread is not in a hook: no hook sleeps between storing a slot and counting it. If blocks are missing beyond these
// bounds, the index is looked at a second time.

import Bounds
import Glibc
import IndexReader
import Provenance
import Synchronization

/// The last finding about one process's index. Thread-safe.
final class IndexBalance: Sendable {
  private struct Finding {
    /// Allocations less frees, less the live blocks; 0 if they are equal, or it is not known.
    var imbalance: Int64
    var sums: CallSums?
    var seconds: Double
    /// Whether nothing that happens later can change the finding.
    var isFinal: Bool
  }
  private let finding = Mutex<Finding?>(nil)

  /// The number of blocks that are counted for an answer that does not itself need a count: they take a millisecond.
  static let budget: UInt64 = 100_000
  private static let freshSeconds = 5.0

  /// Whether the next request can do without a count.
  func isKnown(of segment: borrowing Segment) -> Bool {
    guard let finding = finding.withLock({ $0 }) else { return false }
    return isFresh(finding, segment)
  }

  private func isFresh(_ finding: Finding, _ segment: borrowing Segment) -> Bool {
    // bounded: seconds in floating point
    finding.isFinal || SystemClock.sinceBoot() - finding.seconds < Self.freshSeconds
      || finding.sums != nil && finding.sums == segment.callSums
  }

  /// `runsIn`: the process whose threads may be writing to the index; nil if it has ended or left this index. `budget`:
  /// how many live blocks are counted at most; nil: any number. `count`: looks at all blocks anyway, and tells how many
  /// there are; called once at most, and not if the finding is known.
  func imbalance(
    of segment: borrowing Segment, runsIn process: Int32?, budget: UInt64? = IndexBalance.budget,
    count: (() -> UInt64)? = nil
  ) -> Int64 {
    if let known = finding.withLock({ $0 }), isFresh(known, segment) { return known.imbalance }
    let sums = segment.callSums
    if let budget, sums.map({ $0.live > budget }) ?? true {
      note(Finding(imbalance: 0, sums: sums, seconds: SystemClock.sinceBoot(), isFinal: false))
      return 0
    }
    var imbalance = Self.measure(segment, process, count)
    if imbalance != 0 {
      // A thread that was interrupted in the middle of a hook has had time to leave it.
      usleep(2_000)
      let again = Self.measure(segment, process)
      imbalance =
        again.signum() != imbalance.signum() ? 0 : again.magnitude < imbalance.magnitude ? again : imbalance
    }
    note(
      Finding(
        imbalance: imbalance, sums: sums, seconds: SystemClock.sinceBoot(), isFinal: imbalance != 0))
    return imbalance
  }

  private func note(_ new: Finding) {
    // A count that was cut short says nothing.
    if Budget.current?.isExhausted != true { finding.withLock { $0 = new } }
  }

  /// The imbalance; 0 if nothing is missing beyond the calls that may have happened meanwhile.
  private static func measure(
    _ segment: borrowing Segment, _ process: Int32?, _ count: (() -> UInt64)? = nil
  ) -> Int64 {
    // If no call was counted, nothing is known of calls.
    guard let before = segment.callSums, before.allocations > 0 else { return 0 }
    let live = count?() ?? UInt64(truncatingIfNeeded: segment.totals().count)
    let unfinished: UInt64
    if let process {
      unfinished = UInt64(clamping: threadsAwake(process) ?? segment.unfinishedThreadCount)
    } else {
      // A process that ran its exit handlers ended outside of hooks.
      unfinished = UInt64(clamping: segment.unfinishedThreadCount &- (segment.state == .exited ? 1 : 0))
    }
    guard let after = segment.callSums, after.allocations >= before.allocations, after.frees >= before.frees else {
      return 0
    }
    if Budget.current?.isExhausted == true { return 0 }
    let difference = Int64(bitPattern: before.live &- live)
    let meanwhile = (after.allocations &- before.allocations) &+ (after.frees &- before.frees)
    return difference.magnitude > meanwhile &+ unfinished ? difference : 0
  }

  /// Threads of the process that do not sleep; nil if there are too many to ask, or they can't be asked.
  private static func threadsAwake(_ process: Int32) -> Int? {
    let most = 64
    guard let directory = opendir("/proc/\(process)/task") else { return nil }
    defer { closedir(directory) }
    var awake = 0
    var count = 0
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard name.first != "." else { continue }
      count &+= 1
      guard count <= most else { return nil }
      let file = open("/proc/\(process)/task/\(name)/stat", O_RDONLY | O_CLOEXEC)
      // A thread that has just ended was in no hook.
      guard file >= 0 else { continue }
      var bytes = [UInt8](repeating: 0, count: 512)
      let size = read(file, &bytes, bytes.count)
      close(file)
      // The state stands behind the name, which is in parentheses and may hold any byte.
      guard size > 0, let end = bytes[..<size].lastIndex(of: UInt8(ascii: ")")), end &+ 2 < size else { continue }
      let state = bytes[end &+ 2]
      if state != UInt8(ascii: "S"), state != UInt8(ascii: "Z"), state != UInt8(ascii: "X") { awake &+= 1 }
    }
    return count > 0 ? awake : nil
  }
}

extension Losses {
  /// The known losses of an index, for an answer that is given once.
  package init(of segment: borrowing Segment) {
    self.init(countedIn: segment)
    let isWriting = segment.isProcessAlive && segment.isAtItsPath
    imbalance = IndexBalance().imbalance(of: segment, runsIn: isWriting ? segment.processID : nil)
  }
}

extension ProcessView {
  /// The known losses of the index. `isWriting`: whether the process runs and writes to this index.
  func losses(isWriting: Bool, budget: UInt64? = IndexBalance.budget, count: (() -> UInt64)? = nil) -> Losses {
    var losses = Losses(countedIn: shared.segment)
    losses.imbalance = balance.imbalance(
      of: shared.segment, runsIn: isWriting ? processID : nil, budget: budget, count: count)
    return losses
  }

  /// The known losses of the index, now.
  package func knownLosses() -> Losses { losses(isWriting: Surroundings(of: self).isWriting, budget: nil) }

  /// The sums of all blocks, and the known losses of the index, by one pass over the index. `scope` is placed. Throws
  /// `.noSuchGroup` if no block, of whatever time, is in the scope's group.
  func sums(
    _ scope: HeapScope, clock: SegmentClock, by grouping: HeapGrouping = .site
  ) throws(Complaint) -> (sums: ContextSums, losses: Losses) {
    var sums: ContextSums?
    let losses = losses(isWriting: Surroundings(of: self).isWriting, budget: nil) {
      let counted = ContextSums(of: self, scope, clock: clock, by: grouping)
      sums = counted
      return counted.blocksSeen
    }
    let counted = sums ?? ContextSums(of: self, scope, clock: clock, by: grouping)
    if let group = scope.group, !counted.hasGroup {
      try Budget.current?.check()
      try checkIntact()
      throw group.complaint(processID)
    }
    return (counted, losses)
  }
}
