// SPDX-License-Identifier: Apache-2.0
// From events to the net effects of spans (NetEffect), while a recording is made.
//
// - A span is a range of stamps. Events come chunk by chunk, and a chunk has those of many rings:
//   so they wait, sorted by stamp, until no older ones are expected (`completeUntil`), and are then
//   folded into the span under way. Where one comes later all the same, the reader sees by its
//   chunk's header that an effect lacks it.
// - A span may end at any stamp. It ends where few blocks live that were born since events wait: a
//   program that does one thing after another gives back most of its memory in between, so that an
//   effect has a hundredth of the rows that it would have elsewhere. That number needs no table: it
//   is allocations less frees.
// - An effect's rows take room in the file, and time to read. A span with too many rows for its
//   events goes on; if it still has when it is long, it gets no effect, and its events are unpacked.
// - Where events are missing, effects list all bases (NetEffect), and spans become longer.
//
// Memory is bounded: events wait until they are `Limits.least` and no older ones are expected, 2^20
// of 32 bytes at most; and rows have a limit.

import Bounds
import IndexReader
import SharedLayout

/// Makes net effects of events. Used by one thread at a time.
final class SpanBuilder {
  struct Limits: Sendable {
    /// Events of a span, as a rule; it ends where it is cheapest between half of those that wait and
    /// all of them.
    var least = 1 << 18
    /// Events of a span that goes on because it has many rows, about.
    var most = 1 << 22
    /// Events for each row, in a span that ends early, and in one that must end.
    var eventsPerRow = 48
    var leastEventsPerRow = 12
    /// Rows at most.
    var rows = 1 << 18
    /// The last span needs no effect if it has fewer events: they are unpacked in no time.
    var leastOfLast = 1 << 14
    /// Events that wait for older ones, at most; more are taken to have none before them.
    var mostWaiting = 1 << 20
  }

  /// The span under way, as far as it goes.
  private struct Fold {
    var effect: NetEffect
    var born = BlockTable()
    var ended = BlockTable()
    var passing = BlockTable()
    var bytes: Int64 = 0
    var blocks: Int64 = 0
    /// Whether it can have an effect.
    var isSound = true

    init(from: UInt64, listsAll: Bool) {
      effect = NetEffect(from: from, until: from, seen: 0, listsAll: listsAll)
    }

    var rows: Int { born.count &+ ended.count &+ passing.count }

    mutating func giveUp() {
      isSound = false
      (born, ended, passing) = (BlockTable(), BlockTable(), BlockTable())
    }

    @inline(__always)
    mutating func add(_ record: allocs_event) {
      let kind = allocs_event_kind_of(record.place)
      if kind < NetEffect.kinds { effect.counts[Int(truncatingIfNeeded: kind)] &+= 1 }
      let (base, size) = (allocs_event_address(record.place), allocs_event_size(record.extent))
      switch allocs_event_subject_of(kind) {
      case ALLOCS_ABOUT_LIVE_BLOCK.rawValue:
        let block = ReplayedBlock(
          base: base, size: size, context: allocs_event_context(record.source),
          ticks: allocs_event_ticks(record.stamp))
        // No legal history.
        if born.update(block) != nil { isSound = false }
        bytes &+= Int64(bitPattern: size)
        blocks &+= 1
        if bytes > 0, UInt64(bitPattern: bytes) > effect.peakBytes {
          (effect.peakBytes, effect.peakBlocks, effect.peakStamp) = (UInt64(bitPattern: bytes), blocks, record.stamp)
        }
      case ALLOCS_ABOUT_ENDED_BLOCK.rawValue:
        if let block = born.remove(base) {
          if block.size != size { isSound = false }
          if effect.listsAll, ended[base] == nil { _ = passing.update(Self.row(base)) }
        } else {
          if ended.update(Self.row(base)) != nil { isSound = false }
          effect.endedBytes &+= size
        }
        bytes &-= Int64(bitPattern: size)
        blocks &-= 1
      default: break
      }
    }

    private static func row(_ base: UInt64) -> ReplayedBlock {
      ReplayedBlock(base: base, size: 0, context: 0, ticks: 0)
    }

    /// The effect of what was added.
    var finished: NetEffect {
      var effect = effect
      effect.ended = ended.map(\.base).sorted()
      effect.passing = passing.map(\.base).sorted()
      effect.born = born.sorted
      return effect
    }
  }

  private let limits: Limits
  private var fold = Fold(from: 0, listsAll: false)
  /// Events that are in no span yet, in the order of their stamps.
  private var waiting: [allocs_event] = []
  /// Events with stamps below it are in spans, or in none for good.
  private var begin: UInt64 = 0
  /// Effects of spans that ended since the last chunk did.
  private var effects: [NetEffect] = []
  private var listsAll = false

  init(limits: Limits = Limits()) { self.limits = limits }

  /// Takes the next events. `completeUntil`: no older ones than this are expected; the greatest
  /// number if there are no more.
  func add(_ new: [allocs_event], completeUntil: UInt64) {
    var records = new
    EventMerge.sort(&records)
    let late = records.partitioningIndex { $0.stamp >= begin }
    if late > 0 { lack(from: records[0].stamp, through: records[late &- 1].stamp) }
    let isInOrder = waiting.last.map { last in late >= records.count || last.stamp <= records[late].stamp } ?? true
    waiting.append(contentsOf: records[late...])
    if !isInOrder { EventMerge.sort(&waiting) }
    let isLast = completeUntil == .max
    var complete = isLast ? waiting.count : waiting.partitioningIndex { $0.stamp > completeUntil }
    complete = max(complete, waiting.count &- limits.mostWaiting)
    if complete >= limits.least || isLast { advance(to: isLast ? complete : border(below: complete)) }
    if fold.effect.events > 0 { end(isLast: isLast) }
  }

  /// Ends a chunk: returns the effects of the spans that ended since the last one. `seen`: events in
  /// all chunks so far.
  func endChunk(seen: UInt64) -> [NetEffect] {
    defer { effects = [] }
    return effects.map { effect in
      var effect = effect
      effect.seen = seen
      return effect
    }
  }

  /// Notes that events are passed over, with stamps of a range: no effect has any of them.
  func passOver(from first: UInt64, through last: UInt64) {
    lack(from: first, through: last)
    begin = max(last, waiting.last?.stamp ?? 0, begin) &+ 1
    waiting.removeAll(keepingCapacity: true)
    fold = Fold(from: begin, listsAll: listsAll)
  }

  /// Notes that events are missing: from here on, effects list all bases.
  func listAll() {
    listsAll = true
    if fold.effect.events > 0 { fold.giveUp() } else { fold = Fold(from: begin, listsAll: true) }
  }

  /// Gives up the effects that should have had events that came too late. The reader can tell of
  /// those that have been given out, by the events' chunk, but not of those of this chunk.
  private func lack(from first: UInt64, through last: UInt64) {
    effects.removeAll { first <= $0.until }
    if last >= fold.effect.from { fold.giveUp() }
  }

  /// How many of the first `complete` events a span should end with: at least half of them.
  private func border(below complete: Int) -> Int {
    var (balance, least, best) = (0, Int.max, 0)
    for index in 0..<max(complete, 0) {
      switch allocs_event_subject_of(allocs_event_kind_of(waiting[index].place)) {
      case ALLOCS_ABOUT_LIVE_BLOCK.rawValue: balance &+= 1
      case ALLOCS_ABOUT_ENDED_BLOCK.rawValue: balance &-= 1
      default: break
      }
      // Events with equal stamps are in one span.
      guard index >= complete / 2, balance <= least,
        index &+ 1 >= waiting.count
          || waiting[index].stamp != waiting[index &+ 1].stamp
      else { continue }
      (least, best) = (balance, index &+ 1)
    }
    return best
  }

  /// Folds the first `count` of the waiting events into the span.
  private func advance(to count: Int) {
    guard count > 0 else { return }
    // A field of an object would be checked for other accesses with each event.
    var fold = self.fold
    self.fold = Fold(from: begin, listsAll: listsAll)
    fold.effect.events &+= UInt64(count)
    if fold.isSound {
      waiting.withUnsafeBufferPointer { records in
        for index in 0..<count {  // bounded: greater than 0
          fold.add(records[index])
          guard fold.isSound, fold.rows <= limits.rows else { return fold.giveUp() }
        }
      }
    }
    fold.effect.until = waiting[count &- 1].stamp
    begin = fold.effect.until &+ 1
    self.fold = fold
    waiting.removeFirst(count)  // bounded: no more than wait
  }

  /// Ends the span under way, if it is time to; it may have an effect.
  private func end(isLast: Bool) {
    let (rows, events) = (UInt64(fold.rows), fold.effect.events)
    let isCheap = rows &* UInt64(limits.eventsPerRow) <= events
    guard !fold.isSound || isCheap || events >= UInt64(limits.most) || isLast else { return }
    if fold.isSound, rows &* UInt64(limits.leastEventsPerRow) <= events,
      !isLast || events >= UInt64(limits.leastOfLast)
    {
      effects.append(fold.finished)
    }
    fold = Fold(from: begin, listsAll: listsAll)
  }
}
