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
  /// of rings; any other number ends the program.
  public func slot(ofRing ring: Int) -> UInt32 { allocs_load_relaxed_u32(ringWord(ring, \.slot, as: UInt32.self)) }
  /// How many records were ever written to a ring.
  public func written(toRing ring: Int) -> UInt64 {
    // Pairs with the writer's release after each record.
    allocs_load_acquire_u64(ringWord(ring, \.written, as: UInt64.self))
  }
  /// Whether the writer of a ring waits for a lossless consumer.
  public func isWaiting(_ ring: Int) -> Bool {
    allocs_load_relaxed_u32(ringWord(ring, \.waiting, as: UInt32.self)) != 0
  }
  /// How many events of a ring's threads were not recorded.
  public func unrecorded(inRing ring: Int) -> UInt64 {
    allocs_load_relaxed_u64(ringWord(ring, \.unrecorded, as: UInt64.self))
  }
  /// How many events since the process's start were never in any ring: events of all threads that
  /// were not recorded, also of threads without a ring; and allocations and frees of blocks that
  /// the index lacks, which make no event.
  public var unrecordedEvents: UInt64 {
    sum(of: .lostEvents) &+ sum(of: .lostBlocks) &+ sum(of: .unknownFrees)
  }
  /// How many records of a ring a lossless consumer lost because it took too long.
  public func overrun(inRing ring: Int) -> UInt64 {
    allocs_load_relaxed_u64(ringWord(ring, \.overrun, as: UInt64.self))
  }

  /// The position below which records of a ring may be gone. A reader asks for it after it has
  /// copied records: its copies of records at or above this position are whole.
  public func oldestPosition(inRing ring: Int) -> UInt64 {
    // The records were copied before; pairs with the writer's fence after it stored `reserved`.
    allocs_fence_acquire()
    let reserved = allocs_load_relaxed_u64(ringWord(ring, \.reserved, as: UInt64.self))
    return reserved > UInt64(ringCapacity) ? reserved - UInt64(ringCapacity) : 0
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
    guard !cursor.isDamaged, cursor.ring < ringCount else { return batch }
    let written = written(toRing: cursor.ring)
    // Not above `written`: records that the writer has begun since belong to the next batch.
    let start = min(max(cursor.position, oldestPosition(inRing: cursor.ring)), written)
    guard written >= cursor.position, written <= Self.mostRecords, written - start <= UInt64(ringCapacity) else {
      cursor.isDamaged = true
      return batch
    }
    let count = Int(min(written - start, UInt64(buffer.count)))
    copy(ofRing: cursor.ring, from: start, count, to: buffer)
    let whole = oldestPosition(inRing: cursor.ring)
    let gone = Int(min(whole > start ? whole - start : 0, UInt64(count)))
    batch.records = gone..<count
    batch.lost = start - cursor.position + UInt64(gone)
    batch.position = start + UInt64(gone)
    cursor.position = start + UInt64(count)
    cursor.lost &+= batch.lost
    if gone < count { cursor.lastStamp = buffer[count - 1].stamp }
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
    let capacity = ringCapacity
    let count = Int(min(written - position, UInt64(min(max(limit, 0), capacity))))
    let index = Int(position % UInt64(capacity))
    let firstCount = min(count, capacity - index)
    let size = MemoryLayout<allocs_event>.stride
    let start = ringStart(ring) + Int(ALLOCS_RING_RECORDS_OFFSET)
    return body(
      UnsafeRawBufferPointer(start: start + index * size, count: firstCount * size),
      UnsafeRawBufferPointer(start: start, count: (count - firstCount) * size))
  }

  private func copy(
    ofRing ring: Int, from position: UInt64, _ count: Int, to buffer: UnsafeMutableBufferPointer<allocs_event>
  ) {
    guard count > 0, let target = buffer.baseAddress else { return }
    let capacity = ringCapacity
    let index = Int(position % UInt64(capacity))
    let size = MemoryLayout<allocs_event>.stride
    let start = ringStart(ring) + Int(ALLOCS_RING_RECORDS_OFFSET)
    let firstCount = min(count, capacity - index)
    UnsafeMutableRawPointer(target).copyMemory(from: start + index * size, byteCount: firstCount * size)
    let rest = min(count - firstCount, capacity)
    UnsafeMutableRawPointer(target + firstCount).copyMemory(from: start, byteCount: rest * size)
  }

  private func ringStart(_ ring: Int) -> UnsafeRawPointer {
    precondition(ring >= 0 && ring < geometry.sections[ALLOCS_SECTION_RINGS].capacity, "no such ring")
    return UnsafeRawPointer(entries(ALLOCS_SECTION_RINGS, as: UInt8.self)) + ring * ringStride
  }

  private var ringStride: Int { Int(Layout.ringRecordsOffset) + ringCapacity * Int(Layout.eventSize) }

  private func ringWord<Root, Value>(
    _ ring: Int, _ field: KeyPath<allocs_ring, Root>, as type: Value.Type
  ) -> UnsafePointer<Value> {
    (ringStart(ring) + MemoryLayout<allocs_ring>.offset(of: field)!).assumingMemoryBound(to: type)
  }
}
