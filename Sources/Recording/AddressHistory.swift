// SPDX-License-Identifier: Apache-2.0
// The events of all blocks that covered an address, as far back as events go: from a recording, or
// from the rings of a process, which may have ended.

import Answers
import EventExport
import IndexReader

/// One event of a block that covers the address.
public struct HistoryEntry: Hashable, Sendable {
  public var event: Event
  /// Bytes from the block's base to the address.
  public var offset: UInt64
}

/// The events of one address, newest first.
public struct AddressHistory: Sendable {
  public var address: UInt64
  /// The events, newest first: the newest `limit` of them.
  public private(set) var entries: [HistoryEntry]
  /// The events of blocks that covered the address, kept or not.
  public private(set) var covering: UInt64 = 0
  /// How many are kept. Twice as many may be held while events are looked through.
  public static let limit = 100_000
  /// Events that were looked through.
  public var events: UInt64
  /// The oldest and the newest stamp of these events; 0 if there are none.
  public var firstStamp: UInt64
  public var lastStamp: UInt64
  /// Events that are gone: overwritten in the rings, or missing in the recording.
  public var lost: UInt64
  /// Events that the process never recorded, at any time since its start. Of a recording, they are
  /// among `lost`.
  public var unrecorded: UInt64 = 0
  /// From this stamp on no event of any thread is missing; 0 if nothing is lost.
  public var completeFrom: UInt64
  /// Events were off at times, the last time until this stamp; 0 if they never were.
  public var offUntil: UInt64 = 0
  /// Rings whose headers contradict themselves, so that they were not read to the end. A recording
  /// names its damaged rings among its problems.
  public var damagedRings = 0
  /// The blocks that the index of the process is known to lack; empty for a recording.
  public var losses = Losses()
  /// Events are off, or were off when the process ended: nothing is known of the time after
  /// `lastStamp`.
  public var isOff = false

  public init(address: UInt64) {
    self.address = address
    (entries, events, firstStamp, lastStamp, lost, completeFrom) = ([], 0, 0, 0, 0, 0)
  }

  fileprivate mutating func look(at event: Event) {
    events &+= 1
    if firstStamp == 0 || event.stamp < firstStamp { firstStamp = event.stamp }
    lastStamp = max(lastStamp, event.stamp)
    switch event.kind {
    case .resumed: offUntil = max(offUntil, event.stamp)
    case .alloc, .free, .reallocOld, .reallocNew, .reallocFailed:
      guard address >= event.address, address &- event.address < max(event.size, 1) else { return }
      covering &+= 1
      entries.append(HistoryEntry(event: event, offset: address &- event.address))
      if entries.count >= 2 * Self.limit { sort() }
    case .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .map, .unmap, nil: break
    }
  }

  /// Puts the newest first. Of events with equal stamps, the event that was looked at last is taken
  /// for the newest.
  fileprivate mutating func finish() {
    sort()
    entries.reverse()
  }

  /// Puts the oldest first, and drops all but the newest.
  private mutating func sort() {
    let order = entries.indices.sorted { (entries[$0].event.stamp, $0) < (entries[$1].event.stamp, $1) }
    entries = order.suffix(Self.limit).map { entries[$0] }
  }

  /// From the rings of a segment, of which every record that is still whole is read.
  public init(of address: UInt64, in shared: SharedSegment) {
    self.init(address: address)
    var receiver = Receiver(history: self)
    // No ring is read for longer than it can be filled once: a busy thread would never let this
    // end.
    let now = shared.segment.clock().stampNow
    _ = RingReader(shared).read(limit: shared.segment.ringCapacity, now: now, into: &receiver)
    self = receiver.history
    unrecorded = shared.segment.unrecordedEvents
    losses = Losses(of: shared.segment)
    isOff = !EventConsumer.areEventsOn(of: shared.segment)
    finish()
  }

  /// Looks at every event that is read from the rings.
  private struct Receiver: EventReceiver {
    var history: AddressHistory

    mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
      for index in records.indices { history.look(at: Event(records[index])) }
      return records.count
    }

    mutating func lost(_ loss: EventLoss, ring: Int?) {
      history.lost &+= loss.count
      history.completeFrom = max(history.completeFrom, loss.to)
    }

    mutating func damaged(ring: Int) { history.damagedRings &+= 1 }
  }

  /// From a recording, of its events up to the stamp `end`.
  public init(of address: UInt64, in recording: Recording, until end: UInt64 = .max) {
    self.init(address: address)
    recording.forEachEvent { event in
      guard event.stamp <= end else { return false }
      look(at: event)
      return true
    }
    lost = recording.lostCount
    completeFrom = recording.losses.reduce(0) { max($0, $1.to) }
    finish()
  }
}
