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
//   events goes on; if it still has when it is long, it gets no effect, and its events are
//   unpacked. While it goes on, a second span begins where it might have ended, and wins if it gets
//   few rows first. So the start of a program, which makes what stays, doesn't weigh on the spans
//   after it.
// - Where events are missing, effects list all bases (NetEffect), and spans become longer. Rows of
//   bases only become more: a span that has too many of them even for a long one is without hope,
//   and nothing is done for the next events, each time for more of them. Else a recorder that has
//   lost events, because it had no time, would have less.
//
// Memory is bounded: `Limits.mostWaiting` events wait, and of two spans the rows have a limit each.

import Bounds
import IndexReader
import SharedLayout

/// Makes net effects of events. Used by one thread at a time.
final class SpanBuilder {
  struct Limits: Sendable {
    /// Events of a span, as a rule; it ends where it is cheapest between half of those that wait
    /// and all of them.
    var least = 1 << 18
    /// Events of a span that goes on because it has many rows, about.
    var most: UInt64 = 1 << 22
    /// Events for each row, in a span that ends early, and in one that must end.
    var eventsPerRow: UInt64 = 192
    var leastEventsPerRow: UInt64 = 128
    /// Rows at most.
    var rows = NetEffect.rowLimit
    /// The last span needs no effect if it has fewer events: they are unpacked in no time.
    var leastOfLast: UInt64 = 1 << 14
    /// Events of a span without hope, the first time; then twice as many, up to 16 times.
    var pause: UInt64 = 1 << 20
    /// Events that wait for older ones, about: of more, the first are taken to have none before
    /// them.
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
    /// Whether it can't, as it has too many rows.
    var isHopeless = false

    init(from: UInt64, listsAll: Bool) {
      effect = NetEffect(from: from, until: from, seen: 0, listsAll: listsAll)
    }

    var rows: Int { born.count &+ ended.count &+ passing.count }

    mutating func giveUp() {
      isSound = false
      (born, ended, passing) = (BlockTable(), BlockTable(), BlockTable())
    }

    /// Whether it has so many events for each row.
    func has(_ eventsPerRow: UInt64) -> Bool {
      UInt64(truncatingIfNeeded: rows) &* eventsPerRow <= effect.events
    }

    /// Goes on by these events; gives up where there are more rows than `rowLimit`, or bases than
    /// `baseLimit`.
    mutating func add(_ records: UnsafeBufferPointer<allocs_event>, rowLimit: Int, baseLimit: Int) {
      effect.events &+= UInt64(records.count)
      effect.until = records.last?.stamp ?? effect.until
      guard isSound else { return }
      for index in records.indices {
        let ahead = index &+ Replay.lookAhead
        if ahead < records.count { born.prefetch(allocs_event_address(records[ahead].place)) }
        add(records[index])
        isHopeless = rows > rowLimit || ended.count &+ passing.count > baseLimit
        guard isSound, !isHopeless else { return giveUp() }
      }
    }

    @inline(__always)
    private mutating func add(_ record: allocs_event) {
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
  /// The span that began later, while the one under way has too many rows.
  private var second: Fold?
  /// Events that are in no span yet, in the order of their stamps.
  private(set) var waiting: [allocs_event] = []
  /// Events with stamps below it are in spans, or in none for good.
  private var begin: UInt64 = 0
  /// Effects of spans that ended since the last chunk did.
  private var effects: [NetEffect] = []
  private var listsAll = false
  /// Events of a span without hope.
  private var pause: UInt64
  /// Bases that a span may list.
  private let baseLimit: Int

  init(limits: Limits = Limits()) {
    self.limits = limits
    pause = limits.pause
    // bounded: divided by one at least
    baseLimit = Int(truncatingIfNeeded: limits.most / max(limits.leastEventsPerRow, 1))
  }

  /// Takes the next events. `completeUntil`: no older ones than this are expected; the greatest
  /// number if there are no more.
  func add(_ new: [allocs_event], completeUntil: UInt64) {
    var records = new
    EventMerge.sort(&records)
    let late = records.partitioningIndex { $0.stamp >= begin }
    if late > 0 { lack(from: records[0].stamp, through: records[late &- 1].stamp) }
    wait(records[late...])
    let isLast = completeUntil == .max
    var complete = isLast ? waiting.count : waiting.partitioningIndex { $0.stamp > completeUntil }
    if waiting.count > limits.mostWaiting { complete = max(complete, min(limits.least, waiting.count)) }
    guard complete >= limits.least || isLast else { return }
    advance(to: isLast ? complete : border(below: complete))
    if fold.effect.events > 0 { end(isLast: isLast) }
    // No process has so many events with one stamp, but its rings may say so.
    if waiting.count > limits.mostWaiting, let first = waiting.first, let last = waiting.last {
      passOver(from: first.stamp, through: last.stamp)
    }
  }

  /// Puts records, which are in order, among those that wait.
  private func wait(_ records: ArraySlice<allocs_event>) {
    guard let first = records.first else { return }
    let place = waiting.partitioningIndex { $0.stamp > first.stamp }
    var behind = Array(waiting[place...])
    waiting.removeLast(behind.count)  // bounded: they are the last
    behind.append(contentsOf: records)
    EventMerge.sort(&behind)
    waiting.append(contentsOf: behind)
  }

  /// Ends a chunk: returns the effects of the spans that ended since the last one. `seen`: events
  /// in all chunks so far.
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
    (fold, second) = (Fold(from: begin, listsAll: listsAll), nil)
  }

  /// Notes that events are missing: from here on, effects list all bases.
  func listAll() {
    listsAll = true
    second = nil
    if fold.effect.events > 0 { fold.giveUp() } else { fold = Fold(from: begin, listsAll: true) }
  }

  /// Gives up the effects that should have had events that came too late. The reader can tell of
  /// those that have been given out, by the events' chunk, but not of those of this chunk.
  private func lack(from first: UInt64, through last: UInt64) {
    effects.removeAll { first <= $0.until }
    if last >= fold.effect.from { fold.giveUp() }
    if let from = second?.effect.from, last >= from { second = nil }
  }

  /// How many of the first `complete` events a span should end with: at least half of them.
  private func border(below complete: Int) -> Int {
    var (balance, least, best) = (0, Int.max, 0)
    for index in 0..<max(complete, 0) {  // bounded: no more than wait
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

  /// Folds the first `count` of the waiting events into the span, or both.
  private func advance(to count: Int) {
    guard count > 0 else { return }
    waiting.withUnsafeBufferPointer { records in
      let records = UnsafeBufferPointer(rebasing: records[..<count])
      fold.add(records, rowLimit: limits.rows, baseLimit: baseLimit)
      second?.add(records, rowLimit: limits.rows, baseLimit: baseLimit)
    }
    begin = waiting[count &- 1].stamp &+ 1
    waiting.removeFirst(count)  // bounded: no more than wait
  }

  /// Ends the span under way, if it is time to; it may have an effect.
  private func end(isLast: Bool) {
    let cheap = [fold, second].compactMap(\.self).first {
      $0.isSound && $0.effect.events > 0 && $0.has(limits.eventsPerRow)
    }
    var ended = cheap
    if cheap == nil {
      if fold.isSound, !isLast, fold.effect.events < limits.most {
        if second?.isSound != true { second = Fold(from: begin, listsAll: listsAll) }
        return
      }
      if fold.isSound, fold.has(limits.leastEventsPerRow) {
        ended = fold
      } else if let second, second.isSound {
        (fold, self.second) = (second, nil)
        return
      } else if fold.isHopeless {
        if fold.effect.events < pause { return }
        pause = min(2 &* pause, 16 &* limits.pause)
      }
    }
    if let ended, !isLast || ended.effect.events >= limits.leastOfLast { effects.append(ended.finished) }
    if ended != nil { pause = limits.pause }
    (fold, second) = (Fold(from: begin, listsAll: listsAll), nil)
  }
}
