// SPDX-License-Identifier: Apache-2.0
// The export's figures about itself, for /metrics and tests.

import Synchronization

/// Counts since the start, and present numbers. Thread-safe.
public final class ExportFigures: Sendable {
  let events = Atomic<UInt64>(0)
  let eventsOverwritten = Atomic<UInt64>(0)
  let eventsUnrecorded = Atomic<UInt64>(0)
  let eventsDropped = Atomic<UInt64>(0)
  let bytes = Atomic<UInt64>(0)
  let writes = Atomic<UInt64>(0)
  let failures = Atomic<UInt64>(0)
  let turns = Atomic<UInt64>(0)
  let sources = Atomic<UInt64>(0)
  let subscribers = Atomic<UInt64>(0)
  let waitingBytes = Atomic<UInt64>(0)

  /// A reading, each number as it was at one moment.
  public struct Reading: Sendable, Equatable {
    /// Records that were read from rings.
    public var events: UInt64
    /// Records that the process had overwritten before they were read.
    public var eventsOverwritten: UInt64
    /// Events that the process could not record.
    public var eventsUnrecorded: UInt64
    /// Records that a subscriber had no room for, each counted for each such subscriber.
    public var eventsDropped: UInt64
    /// Bytes that destinations took.
    public var bytes: UInt64
    /// Writes by which destinations took bytes.
    public var writes: UInt64
    /// Subscribers that ended because their destination or source failed.
    public var failures: UInt64
    /// Turns of the drain loop.
    public var turns: UInt64
    /// Sources that are read: one for each process, and one more for each of its lossless subscribers.
    public var sources: UInt64
    /// Subscribers that have not ended.
    public var subscribers: UInt64
    /// Bytes that wait for destinations.
    public var waitingBytes: UInt64

    /// How much a sum has grown since an earlier reading, or since the start. The losses are what processes say: their
    /// sum may be any number, and wrap.
    public func growth(of figure: KeyPath<Reading, UInt64>, since earlier: Reading?) -> Int64 {
      Int64(clamping: self[keyPath: figure] &- (earlier?[keyPath: figure] ?? 0))
    }
  }

  /// The figures as they are now.
  public func reading() -> Reading {
    func value(_ atomic: borrowing Atomic<UInt64>) -> UInt64 { atomic.load(ordering: .relaxed) }
    return Reading(
      events: value(events), eventsOverwritten: value(eventsOverwritten), eventsUnrecorded: value(eventsUnrecorded),
      eventsDropped: value(eventsDropped), bytes: value(bytes), writes: value(writes), failures: value(failures),
      turns: value(turns), sources: value(sources), subscribers: value(subscribers), waitingBytes: value(waitingBytes))
  }
}
