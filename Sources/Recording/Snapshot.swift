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
import Provenance
import SystemAccess

/// Makes snapshots.
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

  /// The bytes of a snapshot of the live blocks of `view`, and of all that is needed to name their
  /// stacks. Throws if the index is cut short meanwhile. `group`: this group's blocks alone, then
  /// without what was ever allocated; throws `.noSuchGroup` if it has none. `wrappers`: what tells
  /// the allocation sites of such a group.
  public static func take(
    _ view: ProcessView, group: GroupName? = nil, wrappers: Wrappers = .standard
  ) throws(Complaint) -> (bytes: [UInt8], result: Result) {
    let shared = view.shared
    var search = group.map { GroupSearch($0, view, wrappers) }
    let writer = RecordingWriter(shared, isCompressed: true, isFromStart: false)
    let began = writer.stampNow
    let lost = shared.segment.lostBlocks
    if lost > 0 {
      writer.lose(RecordedLoss(reason: .unrecorded, ring: .max, count: lost, from: began, to: began))
    }
    var blocks: UInt64 = 0
    writer.appendBlocks { block in
      guard search?.contains(block) ?? true else { return false }
      blocks &+= 1
      return true
    }
    if search == nil { writer.appendTotals() }
    let seconds = Double(writer.stampNow &- began) / 1e9
    writer.finish(.snapshot, symbolizer: ProcessView.sharedSymbolizer)
    try shared.segment.checkIntact()
    // A snapshot whose budget is exhausted has a part of the blocks.
    try Budget.current?.check()
    try search?.check()
    let bytes = writer.takeOutput()
    return (bytes, Result(blocks: blocks, bytes: UInt64(clamping: bytes.count), seconds: seconds, lost: lost))
  }

  /// The numbers of a snapshot that somebody else made: a server, which may be of another version,
  /// or no friend. Throws if it is not whole.
  public static func check(_ bytes: [UInt8], of name: String) throws(Complaint) -> Result {
    let recording = try Recording(snapshot: bytes, path: name)
    var blocks: UInt64 = 0
    recording.forEachBlocks { blocks &+= UInt64(clamping: $0.count) }
    guard recording.end == .snapshot, recording.problems.isEmpty else {
      throw Complaint(
        .obstacle, what: "the snapshot of \(name) is not whole",
        advice: "server and allocsctl may be of different versions; --direct does without a server")
    }
    try Budget.current?.check()
    let looked = recording.blocksUntil
    return Result(
      blocks: blocks, bytes: UInt64(clamping: bytes.count),
      seconds: looked > recording.startStamp ? Double(looked &- recording.startStamp) / 1e9 : 0,
      lost: recording.lostCount)
  }
}
