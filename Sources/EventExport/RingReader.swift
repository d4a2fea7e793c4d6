// SPDX-License-Identifier: Apache-2.0
// The one reading of event rings: a place in each ring of a process, from which records, losses and damage go to a
// receiver. Whatever reads rings does it here: exports and recordings through RingSource, which also keeps events on,
// and histories of addresses directly.
//
// Threat: the rings are another process's, and any word of them may change at any moment. `Segment.read` copies records
// before it believes them. A ring whose header contradicts itself, or an earlier reading, is damaged: the receiver is
// told so once, and nothing more is read from the ring.

import Bounds
import IndexReader
import SharedLayout

/// Reads the event rings of one process. Used by one thread at a time.
public final class RingReader {
  private let shared: SharedSegment
  private var cursors: [RingCursor] = []
  /// For each ring, the stamp of its last record that was taken; before the first, `began`. Records that are lost next
  /// are later.
  private var stamps: [UInt64] = []
  private let began: UInt64
  private var damaged: Set<Int> = []
  /// The ring that the next look begins with.
  private var next = 0
  private let buffer: UnsafeMutableBufferPointer<allocs_event>

  private static let bufferRecords = 8192

  /// A reader of all rings of `shared`, each from its first record on. No record is older than the stamp `began`; 0 if
  /// that is not known.
  public init(_ shared: SharedSegment, began: UInt64 = 0) {
    self.shared = shared
    self.began = began
    buffer = .allocate(capacity: Self.bufferRecords)
    buffer.initialize(repeating: allocs_event())
  }

  deinit { buffer.deallocate() }

  /// Adds the places of `fresh` for the rings that the reader doesn't know yet. Reading of the others goes on where it
  /// was.
  func begin(at fresh: [RingCursor]) {
    for cursor in fresh.dropFirst(cursors.count) { add(cursor) }
  }

  private func add(_ cursor: RingCursor) {
    cursors.append(cursor)
    stamps.append(began)
  }

  /// The positions of the next records to read, by ring.
  var positions: [UInt64] { cursors.map(\.position) }

  /// A look at a ring without news counts as so many records of a share.
  static let recordsOfALook = 2

  /// Reads all rings, at most about `limit` records of each, and `share` of all together: what the share did not reach
  /// comes first the next time. A receiver gets no more than 8,192 records at a time.
  ///
  /// `now` is the present as a stamp: an upper bound for the times of lost records. `taken` is told the position behind
  /// the records of a ring that are done with.
  public func read(
    limit: Int, share: Int = .max, now: UInt64, into receiver: inout some EventReceiver,
    taken: (_ ring: Int, _ position: UInt64) -> Void = { _, _ in }
  ) -> SourceStatus {
    // Rings that were made since have been read from their first records on.
    while cursors.count < shared.segment.ringCount { add(RingCursor(ring: cursors.count)) }
    var status = SourceStatus()
    let capacity = max(shared.segment.ringCapacity, 1)
    var left = share
    var looked = 0
    // Of the drain loop's thread, which has no budget, the share alone is the bound.
    var meter = BudgetMeter(interval: 16)
    while looked < cursors.count {
      guard left > 0, meter.goesOn() else {
        status.isCut = true
        break
      }
      let ring = next < cursors.count ? next : 0
      next = ring &+ 1
      looked &+= 1
      left &-= Self.recordsOfALook
      let written = shared.segment.written(toRing: ring)
      guard written != cursors[ring].position, !damaged.contains(ring) else { continue }
      // More records than were ever announced: to read on would take for ever, and give some that were not written.
      let announced = shared.segment.oldestPosition(inRing: ring) &+ UInt64(truncatingIfNeeded: capacity)
      guard written <= announced else {
        noteDamage(of: ring, &receiver)
        continue
      }
      var count = 0
      while count < limit, left > 0, meter.goesOn() {
        // bounded: the count is below the limit
        let asked = min(limit - count, Self.bufferRecords, max(left, Self.recordsOfALook))
        let part = read(ring, limit: asked, now: now, into: &receiver, taken: taken)
        count = (Foreign(count) + part.done).saturated()
        status.waiting &+= part.waiting  // at most the records of all rings
        left &-= part.copied
        // The ring is empty, or the receiver has no room.
        if part.done < asked { break }
      }
      status.records = (Foreign(status.records) + count).saturated()
      status.fullest = max(status.fullest, Double(count) / Double(capacity))
    }
    return status
  }

  /// Reads one ring once; returns how many records were new, lost ones included, how many were copied, and how many
  /// were not taken.
  private func read(
    _ ring: Int, limit: Int, now: UInt64, into receiver: inout some EventReceiver, taken: (Int, UInt64) -> Void
  ) -> (done: Int, copied: Int, waiting: Int) {
    let before = stamps[ring]
    let part = UnsafeMutableBufferPointer(rebasing: buffer[..<min(max(1, limit), Self.bufferRecords)])
    let batch = shared.segment.read(&cursors[ring], into: part)
    let records = UnsafeBufferPointer(rebasing: buffer[batch.records])
    if let last = records.last { stamps[ring] = last.stamp }
    if batch.lost > 0 {
      receiver.lost(
        EventLoss(count: batch.lost, from: before, to: max(before, records.first?.stamp ?? now)), ring: ring)
    }
    if cursors[ring].isDamaged {
      noteDamage(of: ring, &receiver)
      return (0, 0, 0)
    }
    var done = 0
    // The records are copies: their thread may go on while they are worked on.
    if receiver.takesAll { taken(ring, cursors[ring].position) }
    if !records.isEmpty {
      done = min(max(receiver.receive(records.span, ring: ring, first: batch.position), 0), records.count)
      if done < records.count {
        cursors[ring] = RingCursor(ring: ring, position: batch.position &+ UInt64(truncatingIfNeeded: done))
        stamps[ring] = done == 0 ? before : records[done &- 1].stamp
      }
    }
    if !receiver.takesAll, done > 0 || batch.lost > 0 { taken(ring, cursors[ring].position) }
    let new = (Foreign(batch.lost) + UInt64(truncatingIfNeeded: done)).saturated()
    return (Int(clamping: new), records.count, records.count &- done)
  }

  private func noteDamage(of ring: Int, _ receiver: inout some EventReceiver) {
    damaged.insert(ring)
    receiver.damaged(ring: ring)
  }
}
