// SPDX-License-Identifier: Apache-2.0
// The contexts and threads of allocations, decoded once a request: with their names, and with the JSON that a batch of
// answers repeats for each address.
//
// A thread slot has one holder after another. The present holder of a slot is kept, and is used only for records that
// are not younger than the request: a later record may belong to a later holder. Former holders are looked up each
// time.

import IndexReader
import Provenance
import SharedLayout

struct OriginCache {
  private struct Entry {
    var origin: Origin
    /// `,"allocator":"…","allocator_module":"…","function":"…"`, as far as known.
    var json: [UInt8]
    /// Whether the allocator is libc's.
    var isLibc: Bool
  }

  struct Holder {
    var startTicks: UInt32
    var thread: Answer.Thread
    /// `,"thread":{…}`
    var json: [UInt8]
  }

  private let surroundings: Surroundings
  private let clock: SegmentClock
  /// Ticks of the request's start; nil if the process is gone, and no slot can change hands any more.
  private let limit: UInt32?
  /// Indices into `origins`, by context id.
  private var originOfContext = IndexTable()
  private var origins: [Entry] = []
  /// Indices into `holders`, by thread slot.
  private var holderOfSlot = IndexTable()
  private var holders: [Holder] = []

  init(surroundings: Surroundings, clock: SegmentClock, isAlive: Bool) {
    self.surroundings = surroundings
    self.clock = clock
    limit = isAlive ? clock.ticksNow : nil
  }

  // MARK: contexts

  /// Index for `origin(at:)` of the context `id`; nil if it is not known.
  @inline(__always)
  mutating func originIndex(ofContext id: UInt32, in segment: borrowing Segment) -> Int? {
    if let known = originOfContext.index(of: id) { return known }
    return lookUp(context: id, in: segment)
  }

  func origin(at index: Int) -> Origin { origins[index].origin }

  // The functions below make no copy of the origin, whose reference counts would cost more than its bytes.
  @inline(__always)
  func appendOrigin(at index: Int, to writer: inout ByteWriter) { writer.append(bytes: origins[index].json) }

  @inline(__always)
  func threadSlot(ofOriginAt index: Int) -> UInt32? { origins[index].origin.threadSlot }

  @inline(__always)
  func node(ofOriginAt index: Int) -> UInt32 { origins[index].origin.node }

  @inline(__always)
  func allocator(ofOriginAt index: Int) -> ForeignText? { origins[index].origin.allocator }

  @inline(__always)
  func isLibc(ofOriginAt index: Int) -> Bool { origins[index].isLibc }

  @inline(never)
  private mutating func lookUp(context id: UInt32, in segment: borrowing Segment) -> Int? {
    // An id without a context now may have one soon, so its absence is not kept.
    guard let context = segment.context(id) else { return nil }
    let origin = Origin(context)
    var writer = ByteWriter(capacity: 128)
    writer.appendOrigin(allocator: origin.allocator, module: origin.allocatorModule, function: origin.function)
    origins.append(
      Entry(origin: origin, json: writer.take(), isLibc: origin.allocator.map { Inquiry.isLibc($0) } ?? false))
    originOfContext.add(origins.count - 1, of: id)
    return origins.count - 1
  }

  // MARK: threads

  /// The thread that held `slot` at the time of a record with `ticks`; nil if that is not known.
  mutating func thread(ofSlot slot: UInt32, at ticks: UInt32, in segment: borrowing Segment) -> Answer.Thread? {
    if let index = holderIndex(ofSlot: slot, at: ticks) { return holders[index].thread }
    return lookUp(slot: slot, at: ticks, in: segment)?.thread
  }

  /// Appends the JSON of that thread, if it is known.
  @inline(__always)
  mutating func appendThread(
    ofSlot slot: UInt32, at ticks: UInt32, in segment: borrowing Segment, to writer: inout ByteWriter
  ) {
    if let index = holderIndex(ofSlot: slot, at: ticks) {
      writer.append(bytes: holders[index].json)
    } else if let holder = lookUp(slot: slot, at: ticks, in: segment) {
      writer.append(bytes: holder.json)
    }
  }

  /// Index in `holders` of the present holder of `slot`, if the record with `ticks` is certainly its own.
  @inline(__always)
  private func holderIndex(ofSlot slot: UInt32, at ticks: UInt32) -> Int? {
    guard let known = holderOfSlot.index(of: slot), isCertain(holders[known], at: ticks) else { return nil }
    return known
  }

  @inline(__always)
  private func isCertain(_ holder: Holder, at ticks: UInt32) -> Bool {
    // Ticks wrap around after 388 days: a distance of less than half of that tells before from after.
    let half: UInt32 = 1 << (ALLOCS_TICK_BITS - 1)
    guard allocs_ticks_between(holder.startTicks, ticks) < half else { return false }
    guard let limit else { return true }
    return allocs_ticks_between(ticks, limit) < half
  }

  /// Looks up the holder of `slot` at a record's time, and keeps it if it is the present holder.
  @inline(never)
  private mutating func lookUp(slot: UInt32, at ticks: UInt32, in segment: borrowing Segment) -> Holder? {
    guard let identity = segment.thread(slot: slot, at: ticks) else { return nil }
    let holder = self.holder(of: identity)
    guard identity.state == .live else { return holder }
    // A slot has one entry: a holder that is not certain for a record is looked up for each such record.
    if let known = holderOfSlot.index(of: slot) {
      holders[known] = holder
    } else {
      holders.append(holder)
      holderOfSlot.add(holders.count - 1, of: slot)
    }
    return holder
  }

  /// The thread with its name as of now: the kernel's, if the thread still runs, else the recorded one.
  func holder(of identity: ThreadIdentity) -> Holder {
    var name = identity.name
    if identity.state == .live,
      let present = surroundings.name(
        ofThread: identity.id, runningFor: clock.age(ofTicks: identity.startTicks))
    {
      name = present
    }
    let thread = Answer.Thread(id: identity.id, name: name.isEmpty ? nil : name)
    var writer = ByteWriter(capacity: 64)
    writer.append(thread: thread)
    return Holder(startTicks: identity.startTicks, thread: thread, json: writer.take())
  }
}
