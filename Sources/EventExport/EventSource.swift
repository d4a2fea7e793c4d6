// SPDX-License-Identifier: Apache-2.0
// The interface between the rings of a process and what takes their events: a source reads, a receiver takes.

import Bounds
import SharedLayout
import SystemAccess

/// One record of a ring (allocs_ring.h), 32 bytes.
public typealias EventRecord = allocs_event

/// Events that a receiver did not get: how many, and when the first and the last of them can have happened.
public struct EventLoss: Sendable, Equatable {
  /// How many events were lost.
  public var count: UInt64
  /// Nanoseconds of the process's CLOCK_MONOTONIC, as stamps are. The lost events happened from `from` to `to`; the
  /// range may be wider than need be.
  public var from: UInt64
  public var to: UInt64

  public init(count: UInt64, from: UInt64, to: UInt64) {
    self.count = count
    self.from = from
    self.to = to
  }

  /// Makes this loss both losses together.
  public mutating func merge(_ other: EventLoss) {
    // Counts are foreign: a process may claim any number of losses.
    count = (Foreign(count) + other.count).saturated()
    from = min(from, other.from)
    to = max(to, other.to)
  }
}

/// The outcome of one look at all rings of a process.
public struct SourceStatus: Sendable, Equatable {
  /// Records that are done with, lost ones included.
  public var records = 0
  /// Records that a lossless receiver had no room for: they are still in the rings.
  public var waiting = 0
  /// How full the fullest ring was, as a part of its capacity: 0 to 1.
  public var fullest = 0.0
  /// Whether the share was used up before all rings were looked at: the next look begins with the
  /// others.
  public var isCut = false

  public init(records: Int = 0, waiting: Int = 0, fullest: Double = 0, isCut: Bool = false) {
    self.records = records
    self.waiting = waiting
    self.fullest = fullest
    self.isCut = isCut
  }
}

/// Receives the events that are read from rings.
public protocol EventReceiver {
  /// Whether the receiver is always done with all records that it gets. Then a thread of the process that waits for
  /// room goes on before the receiver has worked on them.
  var takesAll: Bool { get }

  /// Takes records of one ring, in their order, without a gap between them; `first` is the position of the first one in
  /// its ring. Returns how many are done with: the next look begins behind them.
  mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int

  /// Is told of events that will not come: of one ring, whose records were overwritten before they were read; or, if
  /// `ring` is nil, of events that the process recorded in no ring.
  mutating func lost(_ loss: EventLoss, ring: Int?)

  /// Is told once that the ring's header contradicts itself: nothing more is read from the ring.
  mutating func damaged(ring: Int)
}

extension EventReceiver {
  public var takesAll: Bool { false }
}

/// The rings of one process, with a place in each. Used by one thread, from its creation to its release, which turns
/// the process's events off unless others want them.
public protocol EventSource: AnyObject {
  /// The id of the process.
  var processID: Int32 { get }

  /// Whether the process still runs and still writes to these rings: false after an exec. A few system calls.
  var isLive: Bool { get }

  /// Reads all rings, at most about `limit` records of each and `share` of all together, and renews the reader's lease
  /// when that is due. `now` is the present in nanoseconds of CLOCK_MONOTONIC.
  /// Throws if the rings can't be read any more.
  func read(limit: Int, share: Int, now: UInt64, into receiver: inout some EventReceiver) throws(Complaint)
    -> SourceStatus
}
