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

  /// Sizes have 48 bits: a larger one is damage, and counts as the largest.
  static let sizeLimit: UInt64 = 1 << 48 &- 1

  /// Whether `address` is in the block. A block of no bytes has its base.
  public func contains(_ address: UInt64) -> Bool { address >= base && address &- base < max(size, 1) }
}

/// The live blocks of a moment, which events move forward.
public struct Replay {
  /// The live blocks.
  public private(set) var blocks = BlockTable()
  /// Bytes of all live blocks.
  public private(set) var bytes: UInt64 = 0
  /// Ends of blocks that were not known to live: their beginning was lost.
  public private(set) var unknownEnds: UInt64 = 0
  /// The memory of `blocks`: a small file may have events of any number of blocks.
  private let share = MemoryShare()
  private var held = 0

  /// The blocks that lived at the recording's start.
  public init(_ recording: Recording) {
    recording.forEachBlocks { blocks in
      for block in blocks { add(block) }
    }
    guard recording.blocksUntil > 0 else { return }
    var seen: Set<UInt64> = []
    let seenShare = MemoryShare()
    // A stamp may be older than its event by a timer interrupt, 4 ms, and a little more.
    let limit = recording.blocksUntil &+ 20_000_000
    let start = allocs_event_ticks(recording.process.monotonic)
    recording.forEachRecords(through: limit) { records in
      seenShare.hold(seen.count &* 32)
      for record in records {
        let event = Event(record)
        switch event.kind {
        case .alloc, .reallocNew:
          if seen.insert(event.address).inserted { _ = remove(event.address) }
        case .free, .reallocOld:
          if seen.insert(event.address).inserted, blocks[event.address] == nil {
            add(ReplayedBlock(base: event.address, size: event.size, context: event.origin, ticks: start))
          }
        case .reallocFailed, .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .resumed, .map, .unmap, nil: break
        }
      }
      return true
    }
  }

  @inline(__always)
  mutating func add(_ block: ReplayedBlock) {
    if let old = blocks.update(block) { bytes &-= old.size }
    bytes &+= block.size
    guard blocks.memory > held else { return }
    held = blocks.memory
    share.hold(held)
  }

  @inline(__always)
  mutating func remove(_ base: UInt64) -> ReplayedBlock? {
    guard let block = blocks.remove(base) else { return nil }
    bytes &-= block.size
    return block
  }

  /// For so many events ahead, slots are brought into the cache: most of the time went into waiting
  /// for them.
  static let lookAhead = 12

  /// Brings the memory into the cache that `apply` of the event needs.
  @inline(__always)
  mutating func prefetch(_ record: allocs_event) { blocks.prefetch(allocs_event_address(record.place)) }

  /// Moves on by one event.
  @inline(__always)
  mutating func apply(_ record: allocs_event) {
    switch allocs_event_subject_of(allocs_event_kind_of(record.place)) {
    case ALLOCS_ABOUT_LIVE_BLOCK.rawValue:
      add(
        ReplayedBlock(
          base: allocs_event_address(record.place), size: allocs_event_size(record.extent),
          context: allocs_event_context(record.source), ticks: allocs_event_ticks(record.stamp)))
    case ALLOCS_ABOUT_ENDED_BLOCK.rawValue:
      if remove(allocs_event_address(record.place)) == nil { unknownEnds &+= 1 }
    default: break
    }
  }

  /// The block that an address is in.
  public func block(containing address: UInt64) -> ReplayedBlock? {
    if let exact = blocks[address] { return exact }
    // Of blocks that overlap, as those of a damaged recording may, the one with the highest base.
    return blocks.reduce(nil) { found, block in
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

/// A moment at which a recording is looked at.
public enum ReplayMoment: Hashable, Sendable {
  case end
  /// The moment at which most bytes lived.
  case peak
  /// Right after the events up to this stamp.
  case stamp(UInt64)
}

extension Recording {
  /// Replays all of it.
  public func summary() -> RecordingSummary { summaryAndReplay(at: .end, needsBlocks: false).summary }

  /// The numbers of a recording that `isStill`; nil of another.
  private var stillSummary: RecordingSummary? {
    guard let total = stillSums?.total else { return nil }
    var summary = RecordingSummary()
    (summary.peakBytes, summary.peakBlocks, summary.peakStamp) = (total.bytes, total.blocks, firstStamp)
    (summary.endBytes, summary.endBlocks) = (total.bytes, total.blocks)
    return summary
  }

  /// Replays all of it, once, or for the peak twice: its numbers, and the state at a moment, which
  /// is nil of a recording that `isStill`, unless blocks are looked for in it.
  public func summaryAndReplay(
    at moment: ReplayMoment, needsBlocks: Bool
  ) -> (summary: RecordingSummary, replay: Replay?) {
    if !needsBlocks, let summary = stillSummary { return (summary, nil) }
    let keepAfter = if case .stamp(let stamp) = moment { stamp } else { UInt64.max }
    var course = Course(Replay(self), startingAt: firstStamp, keepAfter: keepAfter)
    run(&course, through: .max)
    let summary = course.finished
    if moment == .peak { return (summary, self.replay(until: summary.peakStamp)) }
    return (summary, course.kept ?? course.replay)
  }

  /// The state right after the events up to `stamp`.
  public func replay(until stamp: UInt64) -> Replay {
    var course = Course(Replay(self), startingAt: firstStamp)
    run(&course, through: stamp)
    return course.replay
  }

  /// Takes a replay from the start through the events up to `end`: by net effects where there are
  /// any that may be used, and by events elsewhere.
  private func run(_ course: inout Course, through end: UInt64) {
    var plan = effectPlan()
    let share = MemoryShare()
    var meter = BudgetMeter(interval: 1)
    // The stamp up to which, but not with which, all is done.
    var position: UInt64 = 0
    var place = 0
    while position <= end, meter.goesOn() {
      course.keep(before: position)
      while place < plan.spans.count, plan.spans[place].from < position { place &+= 1 }
      let span = place < plan.spans.count ? plan.spans[place] : nil
      var next: UInt64?
      if let span, span.from == position, span.until <= end, !course.keeps(within: span.from, span.until),
        let effect = effect(span, share), plan.isWhole(effect), course.apply(effect)
      {
        next = span.until
      } else {
        place &+= span?.from == position ? 1 : 0
        // To the next span that is the whole of an effect.
        let following = place < plan.spans.count ? plan.spans[place].from : nil
        let last = min(end, following.map { $0 &- 1 } ?? .max)
        plan.unpack(from: position, through: last)
        forEachRecords(from: position, through: last) { records in
          course.apply(records)
          return true
        }
        next = last
      }
      guard let next, next < .max else { return }
      position = next &+ 1
    }
    course.keep(before: position)
  }
}

/// A replay under way, and the recording's numbers so far.
private struct Course {
  private(set) var replay: Replay
  private var summary = RecordingSummary()
  private var counts = InlineArray<16, UInt64>(repeating: 0)
  /// The state after the events up to `keepAfter`, when it was reached.
  private(set) var kept: Replay?
  private let keepAfter: UInt64

  init(_ start: Replay, startingAt stamp: UInt64, keepAfter: UInt64 = .max) {
    (replay, self.keepAfter) = (start, keepAfter)
    (summary.peakBytes, summary.peakStamp) = (replay.bytes, stamp)
    summary.peakBlocks = UInt64(truncatingIfNeeded: replay.blocks.count)
  }

  /// Whether the state within a span is to be kept.
  func keeps(within from: UInt64, _ until: UInt64) -> Bool { from <= keepAfter && keepAfter < until }

  /// Notes that all events before `stamp` were applied, and none later.
  mutating func keep(before stamp: UInt64) { if stamp > keepAfter, kept == nil { kept = replay } }

  mutating func apply(_ records: ArraySlice<allocs_event>) {
    for index in records.indices {
      let record = records[index]
      let ahead = index &+ Replay.lookAhead
      if ahead < records.endIndex { replay.prefetch(records[ahead]) }
      keep(before: record.stamp)
      let kind = allocs_event_kind_of(record.place)
      if kind < 16 { counts[Int(truncatingIfNeeded: kind)] &+= 1 }
      replay.apply(record)
      if replay.bytes > summary.peakBytes {
        summary.peakBytes = replay.bytes
        summary.peakBlocks = UInt64(truncatingIfNeeded: replay.blocks.count)
        summary.peakStamp = record.stamp
      }
    }
  }

  /// Returns false, and changes nothing, if the effect doesn't fit.
  mutating func apply(_ effect: NetEffect) -> Bool {
    let (bytes, blocks) = (replay.bytes, UInt64(truncatingIfNeeded: replay.blocks.count))
    guard replay.apply(effect) else { return false }
    for kind in effect.counts.indices { counts[kind] &+= effect.counts[kind] }
    if effect.peakBytes > 0, bytes &+ effect.peakBytes > summary.peakBytes {
      summary.peakBytes = bytes &+ effect.peakBytes
      summary.peakBlocks = blocks &+ UInt64(bitPattern: effect.peakBlocks)
      summary.peakStamp = effect.peakStamp
    }
    return true
  }

  /// The numbers, at the end.
  var finished: RecordingSummary {
    var summary = summary
    for (number, count) in counts.indices.map({ ($0, counts[$0]) }) where count > 0 {
      if let kind = Event.Kind(rawValue: UInt32(truncatingIfNeeded: number)) { summary.counts[kind] = count }
    }
    summary.endBytes = replay.bytes
    summary.endBlocks = UInt64(truncatingIfNeeded: replay.blocks.count)
    summary.unknownEnds = replay.unknownEnds
    return summary
  }
}
