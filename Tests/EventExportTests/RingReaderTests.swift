// SPDX-License-Identifier: Apache-2.0
// The reader of a process's rings, and the share that it has of a turn.

import IndexReader
import SharedLayout
import TestSupport
import Testing

@testable import EventExport

@Suite("Shares of a turn", .bounded)
struct RingReaderTests {
  /// Counts what it gets, by ring.
  private struct Counter: EventReceiver {
    var read: [Int: Int] = [:]
    var lost: UInt64 = 0
    var damaged: [Int] = []

    mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
      read[ring, default: 0] += records.count
      return records.count
    }
    mutating func lost(_ loss: EventLoss, ring: Int?) { lost &+= loss.count }
    mutating func damaged(ring: Int) { damaged.append(ring) }
  }

  @Test("rings that are always full are read in turn, each look no more than its share")
  func share() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.rings = 40
    let synthetic = SyntheticSegment(capacities: capacities)
    for _ in 0..<40 { synthetic.addRing(slot: 0, written: 500, context: 0) }
    let reader = RingReader(try SharedSegment(path: synthetic.path))
    var all = Counter()
    var looks = 0
    while true {
      var counter = Counter()
      let status = reader.read(limit: 8192, share: 1000, now: 0, into: &counter)
      looks += 1
      #expect(counter.read.values.reduce(0, +) <= 1000 + 500)
      for (ring, count) in counter.read { all.read[ring, default: 0] += count }
      guard status.isCut, looks < 100 else { break }
    }
    #expect(looks >= 20 && looks < 100)
    #expect(all.read.count == 40 && all.read.values.allSatisfy { $0 == 500 })
  }

  @Test("each process has an equal part, however many listen to one, and none less than it needs")
  func shares() {
    typealias Shares = DrainLoop.Shares
    let one = Shares(of: [(7, 1)])
    #expect(one.records(ofProcess: 7, hasEnded: false) == Shares.ofTurn)
    let crowd = Shares(of: [(7, 1)] + (0..<60).map { _ in (Int32(8), 1) } + [(8, 60)])
    #expect(crowd.records(ofProcess: 7, hasEnded: false) == Shares.ofTurn / 2)
    #expect(crowd.records(ofProcess: 8, hasEnded: false) == Shares.ofTurn / 2 / 120)
    let many = Shares(of: (0..<5000).map { (Int32($0), 1) })
    #expect(many.records(ofProcess: 7, hasEnded: false) == Shares.least)
    // Of a process that has ended, one turn looks at every ring.
    #expect(many.records(ofProcess: 7, hasEnded: true) > 2 * Int(ALLOCS_RING_COUNT))
    #expect(Shares(of: []).records(ofProcess: 1, hasEnded: false) == Shares.ofTurn)
  }

  @Test("losses and counts that add up to more than there can be don't trap")
  func sums() throws {
    var loss = EventLoss(count: .max, from: 5, to: 6)
    loss.merge(EventLoss(count: .max, from: 1, to: .max))
    #expect(loss == EventLoss(count: .max, from: 1, to: .max))
    var capacities = SyntheticSegment.Capacities()
    capacities.rings = 4096
    let synthetic = SyntheticSegment(capacities: capacities)
    for _ in 0..<4096 { synthetic.addRing(slot: 0, written: 1 << 51, context: 0) }
    var counter = Counter()
    let reader = RingReader(try SharedSegment(path: synthetic.path))
    let status = reader.read(limit: 8192, now: .max, into: &counter)
    #expect(status.records > 0 && counter.lost > 1 << 60 && counter.damaged.isEmpty)
  }
}
