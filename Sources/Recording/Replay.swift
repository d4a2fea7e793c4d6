// SPDX-License-Identifier: Apache-2.0
// The blocks that lived at a moment of a recording: those of the index at its start, changed by the
// events until the moment.
//
// The recorder's look at the index takes a while, and events are on meanwhile. So a block whose
// first event is its end lived at the start, whether the look found it or not; a block whose first
// event is its beginning did not.

import Answers
import Bounds
import IndexReader
import SharedLayout

/// A block that lived at the moment of a replay.
public struct ReplayedBlock: Hashable, Sendable {
  public var base: UInt64
  /// Bytes asked for.
  public var size: UInt64
  /// Who allocated it, for `Recording.context(_:)`.
  public var context: UInt32
  /// When it was allocated, in ticks.
  public var ticks: UInt32

  /// Whether `address` is in the block. A block of no bytes has its base.
  public func contains(_ address: UInt64) -> Bool { address >= base && address &- base < max(size, 1) }
}

/// The live blocks of a moment, which events move forward.
public struct Replay {
  /// The live blocks, by their bases.
  public private(set) var blocks: [UInt64: ReplayedBlock] = [:]
  /// Bytes of all live blocks.
  public private(set) var bytes: UInt64 = 0
  /// Ends of blocks that were not known to live: their beginning was lost.
  public private(set) var unknownEnds: UInt64 = 0
  /// The memory of `blocks`: a small file may have events of any number of blocks.
  private let share = MemoryShare()
  /// Bytes of a block in a dictionary, half of whose places may be empty.
  private static let blockMemory = 80

  /// The blocks that lived at the recording's start.
  public init(_ recording: Recording) {
    for block in recording.blocks {
      add(ReplayedBlock(base: block.base, size: block.size, context: block.context, ticks: block.ticks))
    }
    guard recording.blocksUntil > 0 else { return }
    var seen: Set<UInt64> = []
    let seenShare = MemoryShare()
    // A stamp may be older than its event by a timer interrupt, 4 ms, and a little more.
    let limit = recording.blocksUntil &+ 20_000_000
    let start = allocs_event_ticks(recording.process.monotonic)
    recording.forEachEvent { event in
      guard event.stamp <= limit else { return false }
      seenShare.hold(seen.count &* 32)
      switch event.kind {
      case .alloc, .reallocNew:
        if seen.insert(event.address).inserted { _ = remove(event.address) }
      case .free, .reallocOld:
        if seen.insert(event.address).inserted, blocks[event.address] == nil {
          add(ReplayedBlock(base: event.address, size: event.size, context: event.origin, ticks: start))
        }
      case .reallocFailed, .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .resumed, .map, .unmap, nil: break
      }
      return true
    }
  }

  private mutating func add(_ block: ReplayedBlock) {
    if let old = blocks.updateValue(block, forKey: block.base) { bytes &-= old.size }
    bytes &+= block.size
    share.hold(blocks.count &* Self.blockMemory)
  }

  private mutating func remove(_ base: UInt64) -> ReplayedBlock? {
    guard let block = blocks.removeValue(forKey: base) else { return nil }
    bytes &-= block.size
    return block
  }

  /// Moves on by one event.
  public mutating func apply(_ event: Event) {
    switch event.kind {
    case .alloc, .reallocNew, .reallocFailed:
      add(ReplayedBlock(base: event.address, size: event.size, context: event.context, ticks: event.ticks))
    case .free, .reallocOld:
      if remove(event.address) == nil { unknownEnds &+= 1 }
    case .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .resumed, .map, .unmap, nil: break
    }
  }

  /// The block that an address is in.
  public func block(containing address: UInt64) -> ReplayedBlock? {
    if let exact = blocks[address] { return exact }
    // Of blocks that overlap, as those of a damaged recording may, the one with the highest base.
    return blocks.values.reduce(nil) { found, block in
      guard block.contains(address) else { return found }
      return found.map { $0.base > block.base } ?? false ? found : block
    }
  }
}

/// A recording in numbers.
public struct RecordingSummary: Hashable, Sendable {
  /// Events of each kind.
  public var counts: [Event.Kind: UInt64] = [:]
  /// Most bytes that lived at once; how many blocks they were; and the stamp of that moment.
  public var peakBytes: UInt64 = 0
  public var peakBlocks: UInt64 = 0
  public var peakStamp: UInt64 = 0
  /// Bytes and blocks that lived at the end.
  public var endBytes: UInt64 = 0
  public var endBlocks: UInt64 = 0
  /// Ends of blocks that were not known to live: their beginning was lost.
  public var unknownEnds: UInt64 = 0
}

extension Recording {
  /// Replays all of it. About a second for 5 million events.
  public func summary() -> RecordingSummary {
    var summary = RecordingSummary()
    var replay = Replay(self)
    func look(_ stamp: UInt64) {
      guard replay.bytes > summary.peakBytes else { return }
      summary.peakBytes = replay.bytes
      summary.peakBlocks = UInt64(truncatingIfNeeded: replay.blocks.count)
      summary.peakStamp = stamp
    }
    look(firstStamp)
    forEachEvent { event in
      if let kind = event.kind { summary.counts[kind, default: 0] &+= 1 }
      replay.apply(event)
      look(event.stamp)
      return true
    }
    summary.endBytes = replay.bytes
    summary.endBlocks = UInt64(truncatingIfNeeded: replay.blocks.count)
    summary.unknownEnds = replay.unknownEnds
    return summary
  }

  /// The state right after the events up to `stamp`.
  public func replay(until stamp: UInt64) -> Replay {
    var replay = Replay(self)
    forEachEvent { event in
      guard event.stamp <= stamp else { return false }
      replay.apply(event)
      return true
    }
    return replay
  }
}
