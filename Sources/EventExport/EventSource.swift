// Where events come from, as the drain loop sees it: the rings of one process and one reader's place in them.

import SharedLayout

/// One record of a ring (allocs_ring.h), 32 bytes.
public typealias EventRecord = allocs_event

/// Events that a subscriber did not get: how many, and when the first and the last of them can have happened.
public struct EventLoss: Sendable, Equatable {
  public var count: UInt64
  /// Nanoseconds of the process's CLOCK_MONOTONIC, as stamps are. The lost events lie in this range, which may be wider
  /// than they are.
  public var from: UInt64
  public var to: UInt64

  public init(count: UInt64, from: UInt64, to: UInt64) {
    self.count = count
    self.from = from
    self.to = to
  }

  /// Both together.
  public mutating func merge(_ other: EventLoss) {
    count += other.count
    from = min(from, other.from)
    to = max(to, other.to)
  }
}

/// What one look at all rings of a process found.
public struct SourceStatus: Sendable, Equatable {
  /// Records that were read.
  public var records = 0
  /// Records that a lossless receiver had no room for: they are still in the rings.
  public var waiting = 0
  /// How full the fullest ring was, as a part of its capacity: 0 to 1.
  public var fullest = 0.0

  public init(records: Int = 0, waiting: Int = 0, fullest: Double = 0) {
    self.records = records
    self.waiting = waiting
    self.fullest = fullest
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

/// A process's rings. Used by the drain loop's thread alone, from its creation to its release, which detaches.
public protocol EventSource: AnyObject {
  var processID: Int32 { get }

  /// Whether the process still runs and still writes to these rings: false after an exec. A few system calls.
  var isLive: Bool { get }

  /// Reads what all rings hold, at most about `limit` records of each, and renews the reader's lease where that is due.
  /// `now`: nanoseconds of CLOCK_MONOTONIC. Throws if the rings can't be read any more.
  func read(limit: Int, now: UInt64, into receiver: inout some EventReceiver) throws(ExportError) -> SourceStatus
}
