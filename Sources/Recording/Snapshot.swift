// SPDX-License-Identifier: Apache-2.0
// A snapshot: a recording that has the blocks of one look at the index and no events. So whatever
// reads a recording reads a snapshot.
//
// The process is not stopped, and no events are turned on. The look takes a while, and the snapshot
// says how long: each block in it lived at a moment of the look, with the size, stack, thread and
// time that are told; a block that lived all through the look is in it, unless the index lacks it
// (`lost` counts those); a block that was made or freed meanwhile may be in it or not.

import Answers
import Bounds
import Glibc
import IndexReader
import Symbols
import SystemAccess

/// Writes snapshots.
public enum Snapshot {
  /// The file, in numbers.
  public struct Result: Hashable, Sendable {
    public var blocks: UInt64
    /// Bytes of the file.
    public var bytes: UInt64
    /// How long the look at the index took.
    public var seconds: Double
    /// Blocks that may live and are not in the index.
    public var lost: UInt64
  }

  /// Writes the live blocks of `shared`, and all that is needed to name their stacks, to a file at
  /// `path`, which is replaced when the new one is whole. Throws if the file can't be written, or
  /// the index is cut short meanwhile.
  public static func write(_ shared: SharedSegment, to path: String) throws(Complaint) -> Result {
    let output = try ExportOutput(path: path)
    let (bytes, result) = try take(shared)
    try output.write(bytes)
    try output.finish()
    return result
  }

  /// The bytes of a snapshot.
  static func take(_ shared: SharedSegment) throws(Complaint) -> (bytes: [UInt8], result: Result) {
    let writer = RecordingWriter(shared, isCompressed: true, isFromStart: false)
    let began = writer.stampNow
    let lost = shared.segment.lostBlocks
    if lost > 0 {
      writer.lose(RecordedLoss(reason: .unrecorded, ring: .max, count: lost, from: began, to: began))
    }
    let blocks = writer.appendBlocks()
    writer.appendTotals()
    let seconds = Double(writer.stampNow &- began) / 1e9
    writer.finish(.snapshot, symbolizer: Symbolizer())
    try shared.segment.checkIntact()
    // A snapshot whose budget is exhausted has a part of the blocks.
    try Budget.current?.check()
    let bytes = writer.takeOutput()
    return (bytes, Result(blocks: blocks, bytes: UInt64(clamping: bytes.count), seconds: seconds, lost: lost))
  }
}
