// SPDX-License-Identifier: Apache-2.0
// The event rings: copies of records, and exactly how many are missing. The protocol stands in
// allocs_ring.h.
//
// Invariants:
// - A record is given to the caller only after `reserved`, which is loaded after the copy was made,
//   has shown that the record was whole.
// - Whatever a ring's header says, no record outside the ring is read, and every position is either
//   read or counted as lost, once. A header that contradicts itself, or an earlier state of itself,
//   marks the cursor as damaged, and the ring is not read any more.

import Bounds
import SharedLayout

/// A place in an event ring, and the losses on the way there. A value: it belongs to one reader
/// of the ring.
public struct RingCursor: Hashable, Sendable {
  /// The number of the ring, from 0.
  public let ring: Int
  /// The position of the next record to read. All records of the ring before it were read or lost.
  public internal(set) var position: UInt64
  /// How many records were overwritten before they could be read.
  public internal(set) var lost: UInt64 = 0
  /// The stamp of the last record that was read, 0 before the first. The records that a batch says
  /// were lost came after that record, and before the batch's first record.
  public internal(set) var lastStamp: UInt64 = 0
  /// Whether the ring's header contradicted itself: then nothing more is read from the ring.
  public internal(set) var isDamaged = false

  /// A cursor that reads ring `ring` from `position` on.
  public init(ring: Int, position: UInt64 = 0) {
    self.ring = ring
    self.position = position
  }
}

/// The records that one reading of a ring gave.
public struct RingBatch: Hashable, Sendable {
  /// Where in the buffer the records are.
  public var records: Range<Int>
  /// The position of the first of them in the ring.
  public var position: UInt64
  /// How many records were lost right before the first of them.
  public var lost: UInt64
}

extension Segment {
  /// How many records each ring holds, a power of two; 0 if this segment has no rings.
  public var ringCapacity: Int { geometry.sections.ringRecords }
  /// How many rings are in use: they are 0..<ringCount. The number grows, and never shrinks.
  public var ringCount: Int { used(ALLOCS_SECTION_RINGS) }

  /// The slot of the thread that writes to a ring. `ring`: below `ringCount`, as in all functions
  /// of rings; of any other number everything is 0.
  public func slot(ofRing ring: Int) -> UInt32 {
    ringWord(ring, \.slot, as: UInt32.self).map { allocs_load_relaxed_u32($0) } ?? 0
  }
  /// How many records were ever written to a ring.
  public func written(toRing ring: Int) -> UInt64 {
    // Pairs with the writer's release after each record.
    ringWord(ring, \.written, as: UInt64.self).map { allocs_load_acquire_u64($0) } ?? 0
  }
  /// Whether the writer of a ring waits for a lossless consumer.
  public func isWaiting(_ ring: Int) -> Bool {
    ringWord(ring, \.waiting, as: UInt32.self).map { allocs_load_relaxed_u32($0) != 0 } ?? false
  }
  /// How many events of a ring's threads were not recorded.
  public func unrecorded(inRing ring: Int) -> UInt64 {
    ringWord(ring, \.unrecorded, as: UInt64.self).map { allocs_load_relaxed_u64($0) } ?? 0
  }
  /// How many events since the process's start were never in any ring: events of all threads that
  /// were not recorded, also of threads without a ring; and allocations and frees of blocks that
  /// the index lacks, which make no event.
  public var unrecordedEvents: UInt64 {
    sum(of: .lostEvents) &+ sum(of: .lostBlocks) &+ sum(of: .unknownFrees)
  }
  /// How many records of a ring a lossless consumer lost because it took too long.
  public func overrun(inRing ring: Int) -> UInt64 {
    ringWord(ring, \.overrun, as: UInt64.self).map { allocs_load_relaxed_u64($0) } ?? 0
  }

  /// The position below which records of a ring may be gone. A reader asks for it after it has
  /// copied records: its copies of records at or above this position are whole.
  public func oldestPosition(inRing ring: Int) -> UInt64 {
    // The records were copied before; pairs with the writer's fence after it stored `reserved`.
    allocs_fence_acquire()
    let reserved = ringWord(ring, \.reserved, as: UInt64.self).map { allocs_load_relaxed_u64($0) } ?? 0
    let capacity = UInt64(truncatingIfNeeded: ringCapacity)
    return reserved > capacity ? reserved &- capacity : 0
  }

  /// More records than a thread can have written to a ring: 50 million a second for 500 days. A
  /// ring that claims more is damaged. Sums over all rings of a segment fit into 64 bits.
  private static let mostRecords: UInt64 = 1 << 51

  /// Copies records from the cursor on into `buffer`, at most as many as fit, and moves the cursor
  /// behind them. Returns the part of the buffer that holds them, which is empty if there are none
  /// yet. No system call. Any thread may call it, with a cursor of its own.
  public func read(
    _ cursor: inout RingCursor, into buffer: UnsafeMutableBufferPointer<allocs_event>
  ) -> RingBatch {
    var batch = RingBatch(records: 0..<0, position: cursor.position, lost: 0)
    guard !cursor.isDamaged, cursor.ring >= 0, cursor.ring < ringCount else { return batch }
    let written = written(toRing: cursor.ring)
    // Not above `written`: records that the writer has begun since belong to the next batch.
    let start = min(max(cursor.position, oldestPosition(inRing: cursor.ring)), written)
    // Of a ring that can be read: cursor.position <= start <= written <= mostRecords.
    guard written >= cursor.position, written <= Self.mostRecords,
      let waiting = (Foreign(written) - start).int(upTo: ringCapacity)
    else {
      cursor.isDamaged = true
      return batch
    }
    let count = min(waiting, buffer.count)
    copy(ofRing: cursor.ring, from: start, count, to: buffer)
    let whole = oldestPosition(inRing: cursor.ring)
    let gone = whole > start ? min(Int(clamping: whole &- start), count) : 0
    batch.records = gone..<max(gone, count)
    batch.lost = start &- cursor.position &+ UInt64(truncatingIfNeeded: gone)
    batch.position = start &+ UInt64(truncatingIfNeeded: gone)
    cursor.position = start &+ UInt64(truncatingIfNeeded: count)
    cursor.lost &+= batch.lost
    if gone < count { cursor.lastStamp = buffer[count &- 1].stamp }
    return batch
  }

  /// Calls `body` with the records of a ring where they lie, from `position` on, at most `limit`,
  /// as one or two pieces of mapped memory; for a caller who hands them to the kernel. The records
  /// may be overwritten at any moment: when they have been taken, records at or above
  /// `oldestPosition(inRing:)` were whole. `body` may not keep the pointers longer than this
  /// segment is open.
  public func withMappedRecords<Result>(
    ofRing ring: Int, from position: UInt64, limit: Int,
    _ body: (_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> Result
  ) -> Result {
    let empty = UnsafeRawBufferPointer(start: nil, count: 0)
    guard ring >= 0, ring < ringCount else { return body(empty, empty) }
    let written = written(toRing: ring)
    let oldest = oldestPosition(inRing: ring)
    guard position >= oldest, position < written else { return body(empty, empty) }
    guard let start = ringStart(ring) else { return body(empty, empty) }
    let count = min(Int(clamping: written &- position), max(limit, 0), ringCapacity)
    let (first, second) = pieces(from: position, count)
    return body(
      UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(start: start, count: rings.stride)[first]),
      UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(start: start, count: rings.stride)[second]))
  }

  /// Where `count` records from `position` on lie in their ring, in bytes from the ring's start: up
  /// to the ring's end, and from its beginning on. `count`: at most the ring's capacity.
  private func pieces(from position: UInt64, _ count: Int) -> (Range<Int>, Range<Int>) {
    // bounded: a ring has 2^25 records of 32 bytes at most, and the index and both counts are at
    // most its capacity, which is a power of two
    let size = MemoryLayout<allocs_event>.stride
    let records = Int(ALLOCS_RING_RECORDS_OFFSET)
    let index = Int(truncatingIfNeeded: position) & (ringCapacity - 1)
    let first = min(count, ringCapacity - index)
    let start = records + index * size
    return (start..<start + first * size, records..<records + (count - first) * size)
  }

  private func copy(
    ofRing ring: Int, from position: UInt64, _ count: Int, to buffer: UnsafeMutableBufferPointer<allocs_event>
  ) {
    guard count > 0, let target = buffer.baseAddress, let start = ringStart(ring) else { return }
    let (first, second) = pieces(from: position, min(count, buffer.count, ringCapacity))
    // bounded: both pieces lie in the ring, and together are no more than the buffer
    UnsafeMutableRawPointer(target).copyMemory(from: start + first.lowerBound, byteCount: first.count)
    (UnsafeMutableRawPointer(target) + first.count).copyMemory(from: start + second.lowerBound, byteCount: second.count)
  }

  private func ringStart(_ ring: Int) -> UnsafeRawPointer? { rings.start(ofEntry: ring) }

  private func ringWord<Root, Value>(
    _ ring: Int, _ field: KeyPath<allocs_ring, Root>, as type: Value.Type
  ) -> UnsafePointer<Value>? {
    // bounded: the field lies in the ring's first page
    ringStart(ring).map { ($0 + MemoryLayout<allocs_ring>.offset(of: field)!).assumingMemoryBound(to: type) }
  }
}
