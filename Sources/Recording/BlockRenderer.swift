// SPDX-License-Identifier: Apache-2.0
// The course of the heap in a recording, for formats that know no events but the beginnings and
// ends of blocks.

import Answers
import SystemAccess

/// A renderer of a format that is told of blocks: each block once at its beginning and once at its
/// end, if it has one.
protocol BlockRenderer: ExportRenderer {
  /// The renderer's own record of a live block, given back at the block's end.
  associatedtype Block

  /// Is called before each event, with its stamp, and before each block that lived at the
  /// recording's start. The place to write out what has been collected.
  mutating func advance(to stamp: UInt64) throws(Complaint)

  /// A block of `size` bytes begins. It was allocated with the call stack that ends in `node`, 0 if
  /// none is known; `ticks` is the time of its record.
  mutating func begin(size: UInt64, node: UInt32, ticks: UInt32) -> Block

  mutating func end(_ block: Block)
}

extension BlockRenderer {
  /// Tells the blocks that lived at the recording's start, by address, and then the beginnings and
  /// ends of blocks in the order of time.
  /// With `moment`, those that lived at it, and no events.
  mutating func tellBlocks(of recording: Recording, at moment: ExportedMoment?) throws(Complaint) {
    var live: [UInt64: Block] = [:]
    let share = MemoryShare()
    var nodes: [UInt32: UInt32] = [:]
    func node(ofContext id: UInt32) -> UInt32 {
      if let known = nodes[id] { return known }
      let node = recording.context(id)?.node ?? 0
      nodes[id] = node
      return node
    }
    let hasEvents = moment == nil && recording.eventCount > 0
    try recording.forEachFirstBlock(at: moment) { block throws(Complaint) in
      try advance(to: moment?.stamp ?? recording.startStamp)
      let begun = begin(size: block.size, node: node(ofContext: block.context), ticks: block.ticks)
      // Without events, none of them ends.
      guard hasEvents else { return }
      share.hold((live.count &+ 1) &* (MemoryLayout<Block>.stride &+ 8) &* 2)
      live[block.base] = begun
    }
    guard hasEvents else { return }
    try recording.forEachEvent { event throws(Complaint) in
      try advance(to: event.stamp)
      share.hold(live.count &* (MemoryLayout<Block>.stride &+ 8) &* 2)
      switch event.kind {
      case .alloc, .reallocNew, .reallocFailed:
        // A block that begins where one lives: the end of the earlier one was lost.
        if let former = live.removeValue(forKey: event.address) { end(former) }
        live[event.address] = begin(size: event.size, node: node(ofContext: event.context), ticks: event.ticks)
      case .free, .reallocOld:
        if let block = live.removeValue(forKey: event.address) { end(block) }
      case .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .resumed, .map, .unmap, nil: break
      }
      return true
    }
  }
}
