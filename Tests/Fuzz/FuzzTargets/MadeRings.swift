// SPDX-License-Identifier: Apache-2.0
// Rings that a script makes: sound ones, with hostile numbers in places that the script chooses, read by the one reader
// of rings, while their headers change. A segment stays open, so that an execution makes no system call.
//
//   script: for each ring what its header says, and some records; then up to four rounds: changes, and a reading.
//
// Whatever the rings say: positions only grow; every position is read, lost, or beyond what is read; no receiver gets
// more than was asked for; a ring that is damaged is said to be so once, and gives nothing afterwards.

import Answers
import EventExport
import IndexReader
import SharedLayout

enum MadeRings {
  /// A segment with four rings, and all tables that events refer to.
  private final class Ground {
    let stage = Stage(name: "rings")
    let view: ProcessView

    init() {
      for number in 2..<4 { stage.synthetic.addRing(slot: 0, written: 5, context: UInt32(number)) }
      view = try! ProcessView(file: stage.path)
    }
  }
  nonisolated(unsafe) private static let ground = Ground()

  private struct Receiver: EventReceiver {
    var takesAll: Bool
    /// Of each batch, so many records are taken at most.
    var room: Int
    var positions: [UInt64] = [0, 0, 0, 0]
    var lost: [UInt64] = [0, 0, 0, 0]
    var read: [UInt64] = [0, 0, 0, 0]
    var damaged: Set<Int> = []
    var last: [EventRecord] = []

    mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
      precondition(records.count <= 8192 && !damaged.contains(ring))
      precondition(first >= positions[ring], "positions only grow")
      let taken = takesAll ? records.count : min(records.count, room)
      if let record = records.indices.last.map({ records[$0] }) { last.append(record) }
      read[ring] += UInt64(taken)
      positions[ring] = first + UInt64(taken)
      return taken
    }

    mutating func lost(_ loss: EventLoss, ring: Int?) {
      guard let ring else { return }
      precondition(!damaged.contains(ring) && loss.count > 0)
      lost[ring] &+= loss.count
    }

    mutating func damaged(ring: Int) { precondition(damaged.insert(ring).inserted, "damage is said once") }
  }

  static func run(_ bytes: ArraySlice<UInt8>) {
    var script = ScriptReader(bytes)
    let ground = ground
    let segment = ground.view.shared
    let capacity = segment.segment.ringCapacity
    for ring in 0..<4 { makeRing(ring, &script) }
    let mode = script.byte()
    var receiver = Receiver(takesAll: mode & 1 != 0, room: mode & 2 != 0 ? 100 : 10_000)
    let reader = RingReader(segment, began: mode & 4 != 0 ? script.extreme() : 0)
    var report = EventReport(
      ground.view, form: mode & 8 != 0 ? .text : .jsonLines, stacks: mode & 16 != 0, filter: EventFilter())
    for round in 0..<4 {
      if round > 0 {
        guard !script.isAtEnd else { break }
        for _ in 0..<script.choice(below: 4) { change(&script) }
      }
      let limit = script.byte() & 1 != 0 ? capacity : Int(script.byte()) + 1
      let share = script.byte() & 3 == 0 ? Int(script.byte()) : .max
      let status = reader.read(limit: limit, share: share, now: script.extreme(), into: &receiver)
      precondition(status.waiting >= 0 && status.records >= 0 && status.fullest >= 0)
      for ring in 0..<4 where !receiver.damaged.contains(ring) {
        precondition(receiver.read[ring] &+ receiver.lost[ring] >= receiver.positions[ring], "read or lost")
      }
      for record in receiver.last.prefix(8) { report.append(Event(record), ring: round, position: record.stamp) }
      receiver.last.removeAll()
    }
    _ = report.take()
    ground.stage.restore()
  }

  private static func ringStart(_ ring: Int) -> Int {
    let section = ground.stage.synthetic.section(Int(ALLOCS_SECTION_RINGS.rawValue))
    return ground.stage.place(ALLOCS_SECTION_RINGS) + ring * Int(section.pointee.entry_size)
  }

  /// A ring that is sound in itself, but for the numbers that the script wants otherwise.
  private static func makeRing(_ ring: Int, _ script: inout ScriptReader) {
    let what = script.byte()
    let capacity: UInt64 = 512
    let written = what & 1 != 0 ? script.extreme() : UInt64(script.byte()) * 4
    let chunk = UInt64(ALLOCS_RING_CHUNK)
    let reserved = what & 2 != 0 ? written &+ script.extreme() : (written / chunk &+ 1) &* chunk
    let start = ringStart(ring)
    ground.stage.store(at: start, written)
    ground.stage.store(at: start + 8, reserved)
    if what & 4 != 0 { ground.stage.store(at: start + 16, script.extreme()) }
    if what & 8 != 0 { ground.stage.store(at: start + 24, script.extreme()) }
    for back in 0..<UInt64(script.choice(below: 8)) {
      let place = start + Int(ALLOCS_RING_RECORDS_OFFSET) + Int((written &- back &- 1) % capacity) * 32
      let kind = UInt32(script.choice(below: 14))
      ground.stage.store(
        at: place, allocs_event_place(kind, script.extreme(bits: 48), UInt32(script.extreme(bits: 8))))
      ground.stage.store(at: place + 8, allocs_event_extent(script.extreme(bits: 48), UInt32(script.extreme(bits: 16))))
      ground.stage.store(
        at: place + 16, allocs_event_source(UInt32(script.choice(below: 4)), UInt32(script.extreme(bits: 32))))
      ground.stage.store(at: place + 24, script.extreme())
    }
  }

  /// What a writer, or a liar, does between two readings.
  private static func change(_ script: inout ScriptReader) {
    let start = ringStart(script.choice(below: 4))
    switch script.choice(below: 6) {
    case 0: ground.stage.store(at: start, script.extreme())
    case 1: ground.stage.store(at: start + 8, script.extreme())
    case 2:
      let written = script.extreme(bits: 52)
      ground.stage.store(at: start, written)
      ground.stage.store(at: start + 8, written &+ UInt64(ALLOCS_RING_CHUNK))
    case 3:
      let header = ground.stage.synthetic.section(Int(ALLOCS_SECTION_RINGS.rawValue))
      let used = UnsafeRawPointer(header) - UnsafeRawPointer(ground.stage.synthetic.start) + 24
      ground.stage.store(at: used, script.extreme())
    case 4: ground.stage.store(at: start + Int(script.byte()) * 8, script.extreme())
    default: makeRing(script.choice(below: 4), &script)
    }
  }
}
