// SPDX-License-Identifier: Apache-2.0
// Net effects of spans: a replay that goes by them shows what a replay of all events shows, at any moment, of any
// program's history, whatever is missing or cut off.

import IndexReader
import SharedLayout
import TestSupport
import Testing

@testable import Recording

/// A recording of a history of several threads that is made up, with the effects that a recorder would have made.
private struct MadeRecording {
  let small = SmallRecording()
  /// Stamps at which something ends: of effects, chunks, and the whole.
  var borders: [UInt64] = [0, SmallRecording.start]
  var effects: [NetEffect] = []
  var lost = 0

  enum Kind: CaseIterable {
    case whole
    /// Now and then a record is missing, and the recording says so.
    case lossy
    /// Records come later than the recorder believed that they could.
    case late
    /// Some records were passed over, as there was no time for effects.
    case hurried
  }

  /// `count`: of events. Where `hasFewAddresses`, most events are about a block that lived and ended before.
  init(_ kind: Kind, _ count: Int, seed: UInt64, hasFewAddresses: Bool) {
    var numbers = RandomNumbers(seed: seed)
    var limits = SpanBuilder.Limits()
    (limits.least, limits.most, limits.leastOfLast, limits.pause) = (1 + Int(numbers.next() % 200), 700, 0, 200)
    (limits.eventsPerRow, limits.leastEventsPerRow) = numbers.next() % 2 == 0 ? (0, 0) : (20, 5)
    let builder = SpanBuilder(limits: limits)
    // The events that every small recording has.
    builder.passOver(from: 0, through: SmallRecording.start + 110_000_000)
    var live: [UInt64: allocs_event] = [:]
    var rings = [[allocs_event]](repeating: [], count: 3)
    var stamp = SmallRecording.start + 120_000_000
    var basesOfStamp: Set<UInt64> = []
    let bases: UInt64 = hasFewAddresses ? 20 : 2000
    for index in 0..<count {
      let base = SmallRecording.heap + 0x10_0000 + numbers.next() % bases * 48
      // Events of different blocks may have one stamp.
      if basesOfStamp.contains(base) || numbers.next() % 4 != 0 {
        stamp += 1 + numbers.next() % 20_000
        basesOfStamp = []
      }
      basesOfStamp.insert(base)
      var record: allocs_event
      if let block = live.removeValue(forKey: base) {
        let isOld = numbers.next() % 8 == 0
        record = allocs_event(
          place: allocs_event_place(isOld ? Event.Kind.reallocOld.rawValue : Event.Kind.free.rawValue, base, 0),
          extent: block.extent, source: allocs_event_source(0, allocs_event_context(block.source)), stamp: stamp)
      } else if numbers.next() % 30 == 0 {
        record = allocs_event(
          place: allocs_event_place(Event.Kind.threadStart.rawValue, 77, 0), extent: 0, source: 0, stamp: stamp)
      } else {
        let isNew = numbers.next() % 8 == 0
        record = allocs_event(
          place: allocs_event_place(isNew ? Event.Kind.reallocNew.rawValue : Event.Kind.alloc.rawValue, base, 4),
          extent: allocs_event_extent(numbers.next() % 5000, 1),
          source: allocs_event_source(UInt32(2 + numbers.next() % 2), 0), stamp: stamp)
        live[base] = record
      }
      if kind == .lossy, index > count / 3, numbers.next() % 300 == 0 {
        lost += 1
        let loss = RecordedLoss(reason: .overwritten, ring: 1, count: 1, from: record.stamp, to: record.stamp)
        small.add(.losses, TableCoding.encode([loss]))
        builder.listAll()
      } else {
        rings[Int(numbers.next() % 3)].append(record)
      }
      guard numbers.next() % 300 == 0 || index == count - 1 else { continue }
      // What was read, ring after ring; a ring may keep its last records until the next time.
      var batches: [(ring: Int, records: [allocs_event])] = []
      var complete = stamp
      for ring in rings.indices {
        let kept = index == count - 1 ? 0 : min(rings[ring].count, Int(numbers.next() % 10))
        let first = rings[ring].suffix(kept).first?.stamp ?? .max
        if kind != .late || numbers.next() % 3 != 0 { complete = min(complete, first - 1) }
        batches.append((ring, Array(rings[ring].dropLast(kept))))
        rings[ring] = Array(rings[ring].suffix(kept))
      }
      let isLast = index == count - 1
      small.add(batches: batches.filter { !$0.records.isEmpty })
      let records = batches.flatMap(\.records)
      if kind == .hurried, numbers.next() % 4 == 0, let first = records.map(\.stamp).min() {
        builder.passOver(from: first, through: records.map(\.stamp).max()!)
      } else {
        builder.add(records, completeUntil: isLast ? .max : complete)
      }
      for effect in builder.endChunk(seen: small.events) {
        small.add(effect)
        effects.append(effect)
        borders += [effect.from, effect.until]
      }
      borders.append(stamp)
    }
    var end: [UInt8] = []
    for value in [RecordingEnd.stopped.rawValue, stamp + 1000, small.events, 0] { end.append(number: value) }
    small.add(.end, end)
  }

  func moments(_ numbers: inout RandomNumbers, _ count: Int) -> [UInt64] {
    var moments: [UInt64] = [0, .max]
    let (first, last) = (borders.dropFirst().min()!, borders.max()!)
    for _ in 0..<count {
      moments.append(UInt64.random(in: first...last, using: &numbers))
      moments.append(borders[Int(numbers.next() % UInt64(borders.count))] &+ numbers.next() % 3 &- 1)
    }
    return moments
  }
}

private func expectSame(_ with: Recording, _ without: Recording, at moment: UInt64, _ comment: String) {
  without.usesEffects = false
  let (one, other) = (with.replay(until: moment), without.replay(until: moment))
  #expect(one.blocks.sorted == other.blocks.sorted && one.bytes == other.bytes, "\(comment), at \(moment)")
  #expect(one.unknownEnds == other.unknownEnds, "\(comment), at \(moment)")
  for asked in [ReplayMoment.stamp(moment), .peak, .end] {
    let (one, other) = (
      with.summaryAndReplay(at: asked, needsBlocks: true), without.summaryAndReplay(at: asked, needsBlocks: true)
    )
    #expect(one.summary == other.summary, "\(comment), \(asked)")
    #expect(one.replay?.blocks.sorted == other.replay?.blocks.sorted, "\(comment), \(asked)")
  }
  #expect(with.problems == without.problems && with.losses == without.losses, "\(comment)")
}

@Suite("net effects of a recording", .bounded)
struct NetEffectTests {
  @Test(
    "a replay by net effects shows what a replay of all events shows, at any moment",
    arguments: MadeRecording.Kind.allCases)
  fileprivate func truth(kind: MadeRecording.Kind) throws {
    var numbers = RandomNumbers()
    var (effects, lost) = (0, 0)
    for round in 0..<6 {
      let seed = numbers.next()
      let made = MadeRecording(kind, 2000, seed: seed, hasFewAddresses: round % 2 == 0)
      (effects, lost) = (effects + made.effects.count, lost + made.lost)
      let (with, without) = (try made.small.open(), try made.small.open())
      for moment in made.moments(&numbers, 3) { expectSame(with, without, at: moment, "\(kind), seed \(seed)") }
    }
    #expect(effects > 6 && (lost > 0) == (kind == .lossy), "\(effects) effects, \(lost) lost")
  }

  @Test("a recording that is cut anywhere is replayed by the effects that are left as by its events")
  func cut() throws {
    var numbers = RandomNumbers()
    for kind in MadeRecording.Kind.allCases {
      let made = MadeRecording(kind, 1500, seed: numbers.next(), hasFewAddresses: true)
      var lengths = made.small.offsets.dropFirst(2).map { $0 }
      for _ in 0..<10 { lengths.append(Int.random(in: lengths[0]...made.small.bytes.count, using: &numbers)) }
      for length in lengths {
        let bytes = Array(made.small.bytes[..<length])
        let moment = made.moments(&numbers, 1)[2]
        expectSame(try made.small.open(bytes), try made.small.open(bytes), at: moment, "\(kind), cut at \(length)")
      }
    }
  }

  @Test("a chunk that is damaged costs what it costs a replay of all events, no more and no less")
  func damaged() throws {
    var numbers = RandomNumbers()
    let made = MadeRecording(.whole, 1500, seed: numbers.next(), hasFewAddresses: true)
    for chunk in made.small.offsets.indices.dropFirst(2).dropLast() {
      var bytes = made.small.bytes
      bytes[made.small.offsets[chunk + 1] - 1] ^= 4
      expectSame(
        try made.small.open(bytes), try made.small.open(bytes), at: made.moments(&numbers, 1)[2], "chunk \(chunk)")
    }
  }

  @Test("of spans that a moment does not lie in, no events are unpacked")
  func unpacked() throws {
    let small = SmallRecording()
    let moment = { (milliseconds: UInt64) in SmallRecording.start + milliseconds * 1_000_000 }
    // A chunk with the right checksum that contradicts the format.
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    (header.events, header.firstStamp, header.lastStamp) = (5, moment(60), moment(62))
    small.add(header, [9, 9, 9])
    var effect = NetEffect(from: 0, until: moment(70), seen: 10)
    (effect.events, effect.counts[1], effect.counts[2]) = (10, 8, 2)
    (effect.ended, effect.endedBytes) = ([SmallRecording.heap], 1000)
    effect.born = [(0x2000, 500), (0x3000, 24), (0x4000, 77)].map {
      ReplayedBlock(base: SmallRecording.heap + $0, size: $1, context: 2, ticks: 5)
    }
    (effect.peakBytes, effect.peakBlocks, effect.peakStamp) = (900, 2, moment(61))
    small.add(effect)
    let recording = try small.open()
    let summary = recording.summary()
    #expect(summary.endBytes == 601 && summary.endBlocks == 3 && summary.counts == [.alloc: 8, .free: 2])
    #expect(summary.peakBytes == 1900 && summary.peakBlocks == 3 && summary.peakStamp == moment(61))
    #expect(recording.replay(until: moment(70)).bytes == 601 && recording.replay(until: .max).bytes == 601)
    #expect(recording.replay(until: moment(45)).bytes == 500 && recording.lostCount == 0, "no damage until then")
    // A moment within the span wants its events.
    #expect(recording.replay(until: moment(69)).bytes == 524 && recording.lostCount == 5)
    #expect(recording.replay(until: .max).bytes == 524, "what the span changed is not known any more")
  }

  @Test("effects come out as they went in; with a byte changed or missing they are others, or errors")
  func coding() throws {
    var (read, refused) = (0, 0)
    let lossy: [NetEffect] = (1...8).flatMap {
      MadeRecording(.lossy, 3000, seed: $0, hasFewAddresses: $0 % 2 == 0).effects
    }
    let listing = lossy.filter { !$0.passing.isEmpty && !$0.born.isEmpty && !$0.ended.isEmpty }.prefix(3)
    #expect(!listing.isEmpty)
    for effect in listing + MadeRecording(.whole, 3000, seed: 4, hasFewAddresses: true).effects.prefix(3) {
      let payload = effect.encoded()
      #expect(try NetEffect(payload) == effect)
      for index in payload.indices {
        #expect(throws: MalformedChunk.self) { try NetEffect(Array(payload[..<index])) }
        for change in [UInt8(1), 0x80, 0xFF] {
          var other = payload
          other[index] ^= change
          if (try? NetEffect(other)) == nil { refused += 1 } else { read += 1 }
        }
      }
    }
    #expect(read > 100 && refused > 100, "\(read) were read, \(refused) refused")
  }

  @Test("an effect that lies is not used, or leaves a state whose sums are those of its blocks")
  func lies() throws {
    var numbers = RandomNumbers()
    let made = MadeRecording(.whole, 1000, seed: numbers.next(), hasFewAddresses: true)
    for _ in 0..<50 {
      let small = MadeRecording(.whole, 100, seed: 5, hasFewAddresses: true).small
      var effect = made.effects[Int(numbers.next() % UInt64(made.effects.count))]
      for _ in 0..<3 {
        switch numbers.next() % 8 {
        case 0: effect.endedBytes = numbers.next()
        case 1: effect.peakBytes = numbers.next()
        case 2: effect.peakBlocks = Int64(bitPattern: numbers.next())
        case 3: effect.ended.removeAll()
        case 4:
          effect.born = effect.born.map { ReplayedBlock(base: $0.base, size: 1 << 48 - 1, context: .max, ticks: 1) }
        case 5: effect.counts = effect.counts.map { _ in numbers.next() }
        case 6: (effect.from, effect.until) = (0, .max)
        default: effect.seen = numbers.next()
        }
      }
      small.add(effect)
      let recording = try small.open()
      for moment in [SmallRecording.start + 121_000_000, .max] {
        let (summary, replay) = recording.summaryAndReplay(at: .stamp(moment), needsBlocks: true)
        let blocks = try #require(replay).blocks
        #expect(blocks.reduce(0) { $0 &+ $1.size } == replay?.bytes)
        _ = recording.text(of: summary)
        _ = recording.top(replay, at: min(moment, recording.endStamp), limit: 5).text
      }
    }
  }

  @Test("effects that don't fit, however many, don't unpack a chunk once for each")
  func misfits() throws {
    let small = SmallRecording()
    small.add(
      events: (0..<200_000).map { (index: UInt64) in (index % 2 == 0 ? .alloc : .free, 0x9000, 16, 2, 200 + index) })
    for index: UInt64 in 0..<20_000 {
      let stamp = SmallRecording.start + (200 + index * 10) * 1_000_000
      var effect = NetEffect(from: stamp, until: stamp + 1, seen: .max)
      (effect.ended, effect.endedBytes) = ([1], 0)
      small.add(effect)
    }
    let (with, without) = (try small.open(), try small.open())
    without.usesEffects = false
    #expect(with.summary() == without.summary())
  }

  @Test(
    "an effect that is larger than effects are is not unpacked; and none is used where there are no events"
  )
  func limits() throws {
    let effect = { (rows: UInt64, until: UInt64) in
      var effect = NetEffect(from: 0, until: until, seen: .max, events: 5)
      effect.passing = (1...rows).map { $0 * 16 }
      return effect
    }
    let most = UInt64(NetEffect.rowLimit)
    #expect(try NetEffect(effect(most, 1).encoded()).rows == NetEffect.rowLimit)
    #expect(throws: MalformedChunk.self) { try NetEffect(effect(most + 1, 1).encoded()) }
    var other = effect(1, 9)
    (other.peakBytes, other.peakStamp) = (1, 9)
    #expect(try NetEffect(other.encoded()) == other)
    other.peakStamp = 10
    #expect(throws: MalformedChunk.self, "a peak behind its span") { try NetEffect(other.encoded()) }

    // A thousandth of it in the file, and all of its numbers right.
    let small = SmallRecording()
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.netEffect.rawValue)
    (header.flags, header.lastStamp) = (RecordingFormat.flagZstd, .max - 1)
    small.add(header, [UInt8](repeating: 0, count: NetEffect.payloadLimit + 1))
    let (with, without) = (try small.open(), try small.open())
    without.usesEffects = false
    #expect(with.summary() == without.summary() && without.problems.isEmpty)
    #expect(with.problems.map { $0.contains("net effect") } == [true], "\(with.problems)")

    // A snapshot has no events, so nothing has changed.
    let snapshot = SmallRecording(snapshot: [[Allocation(base: SmallRecording.heap, size: 1000, context: 2, ticks: 0)]])
    var lie = NetEffect(from: 0, until: .max - 1, seen: 0)
    (lie.ended, lie.endedBytes) = ([SmallRecording.heap], 1000)
    snapshot.add(lie)
    let recording = try snapshot.open()
    #expect(recording.isStill && recording.replay(until: .max).bytes == 1000)
  }

  @Test("events that wait for older ones are no more than a limit, whatever stamps they have", arguments: [0, 1, 7])
  func waiting(step: UInt64) {
    var limits = SpanBuilder.Limits()
    (limits.least, limits.mostWaiting, limits.leastOfLast) = (1000, 3000, 0)
    let builder = SpanBuilder(limits: limits)
    var (most, stamp): (Int, UInt64) = (0, 5)
    for round in 0..<100 {
      let records = (0..<500).map { _ in
        stamp += step
        return allocs_event(
          place: allocs_event_place(Event.Kind.threadStart.rawValue, 1, 0), extent: 0, source: 0, stamp: stamp)
      }
      // One ring lags behind the others.
      builder.add(round % 2 == 0 ? records : records.reversed(), completeUntil: 1)
      most = max(most, builder.waiting.count)
    }
    let effects = builder.endChunk(seen: 50_000)
    #expect(most >= 3000 && most <= 3500, "\(most)")
    // Where all have one stamp, no span can end between them.
    #expect(effects.isEmpty == (step == 0) && effects.allSatisfy { $0.from <= $0.until })
  }

  @Test("a worker that does not get on passes events over, keeps no more than a limit, and makes no effect of a part")
  func overload() {
    let worker = SpanWorker()
    let count: UInt64 = 32 << 16
    var effects: [NetEffect] = []
    var (handed, seen): (Int, UInt64) = (0, 0)
    let piece = (0..<UInt64(1 << 16)).map { index in
      allocs_event(
        place: allocs_event_place(
          (index % 2 == 0 ? Event.Kind.alloc : .free).rawValue, 0x1000 + index % 64 / 2 * 32, 0),
        extent: allocs_event_extent(20, 1), source: 0, stamp: 0)
    }
    var records = piece
    while seen < count {
      for index in records.indices { records[index].stamp = 1 + seen + UInt64(index) }
      records.withUnsafeBufferPointer { worker.append($0, completeUntil: seen) }
      seen += UInt64(records.count)
      worker.endChunk(seen: seen, completeUntil: seen)
      handed = max(handed, worker.handed)
    }
    worker.endChunk(seen: seen, completeUntil: .max)
    effects += worker.take(all: true)
    // Two more say what is passed over: one of the job under way, one that waits.
    #expect(handed <= SpanWorker.handedLimit + 2, "\(handed)")
    #expect(effects.allSatisfy { $0.events == min($0.until, count) - max($0.from, 1) + 1 })
    #expect(zip(effects, effects.dropFirst()).allSatisfy { $0.until < $1.from && $0.seen <= $1.seen })
  }

  @Test(
    "the worker beside the recorder makes effects of all events that it takes, in their order",
    arguments: [1, 7, 30_000])
  func worker(piece: Int) {
    var limits = SpanBuilder.Limits()
    limits.least = 1 << 16
    let worker = SpanWorker(limits: limits)
    var effects: [NetEffect] = []
    let records = (0..<300_000).map { (index: UInt64) in
      allocs_event(
        place: allocs_event_place(
          (index % 2 == 0 ? Event.Kind.alloc : .free).rawValue, 0x1000 + index % 64 / 2 * 32, 0),
        extent: allocs_event_extent(20, 1), source: 0, stamp: 1 + index)
    }
    var seen: UInt64 = 0
    for start in stride(from: 0, to: records.count, by: 30_000) {
      for place in stride(from: start, to: start + 30_000, by: piece) {
        records[place..<min(place + piece, start + 30_000)].withUnsafeBufferPointer {
          worker.append($0, completeUntil: UInt64(max(0, place - 1000)))
        }
      }
      seen += 30_000
      worker.endChunk(seen: seen, completeUntil: seen - 1000)
      // No chunk is passed over where the worker is waited for.
      effects += worker.take(all: true)
    }
    worker.endChunk(seen: seen, completeUntil: .max)
    effects += worker.take(all: true)
    #expect(effects.reduce(0) { $0 + $1.events } == 300_000 && effects.count > 2)
    #expect(effects.allSatisfy { $0.born.count <= 1 && $0.ended.count <= 1 })
    #expect(zip(effects, effects.dropFirst()).allSatisfy { $0.until + 1 == $1.from && $0.seen <= $1.seen })
  }
}
