// SPDX-License-Identifier: Apache-2.0
// The rings of one process's segment as a source of events: a reader of the rings, and the entry in the control file
// that keeps the process's events on.

import Glibc
import IndexReader
import SharedLayout
import SystemAccess

/// Reads the event rings of a process while it keeps the process's events on: from its creation to `detach` or its
/// release, unless others want them longer. Used by one thread.
public final class RingSource: EventSource {
  /// Where reading begins.
  public enum Beginning: Sendable {
    /// With the events that come after the source's creation. The process must still run.
    case now
    /// With the first record of each ring that is left, also of a process that has ended. The source acts as the
    /// recorder that the program was started with (ALLOCS_RECORDER): from now on events stay on only while somebody
    /// wants them.
    case programStart
  }

  private let shared: SharedSegment
  private let policy: EventConsumer.Policy
  private let reader: RingReader
  private var entry: EventConsumer?
  private var isDetached = false
  /// What is added to the reader's clock to get the process's, in which stamps count: the process may be in another
  /// time namespace.
  private let shift: UInt64
  /// How many events the process had not recorded at the last look, and the stamp of that look.
  private var unrecorded: UInt64
  private var lastLook: UInt64
  private var nextBeat: UInt64 = 0

  private static let beatInterval = ALLOCS_LEASE_NANOSECONDS / 5

  /// Attaches to the process of `segment`.
  ///
  /// With the policy `lossless`, a thread of the process waits for this source for at most `waitNanoseconds` at a time;
  /// 0: for as long as the process was told at its start (ALLOCS_EVENTS_WAIT).
  public init(
    _ segment: SharedSegment, policy: DeliveryPolicy, waitNanoseconds: UInt64 = 0, from beginning: Beginning = .now
  ) throws(Complaint) {
    shared = segment
    self.policy = policy == .lossless ? .lossless(waitNanoseconds: waitNanoseconds) : .overwrite
    shift = UInt64(bitPattern: segment.segment.monotonicShift)
    let now = DrainLoop.now() &+ shift
    switch beginning {
    case .now:
      (unrecorded, lastLook) = (segment.segment.unrecordedEvents, now)
      reader = RingReader(segment, began: now)
    case .programStart:
      (unrecorded, lastLook) = (0, 0)
      reader = RingReader(segment)
    }
    guard segment.segment.ringCapacity > 0 || !segment.segment.isProcessAlive else {
      throw Complaint(
        .obstacle,
        what: "process \(segment.segment.processID) has no event rings: there was no room for them when it started",
        advice: "start it with more address space (ulimit -v)")
    }
    let cursors = try attach()
    switch beginning {
    case .now:
      guard let cursors else {
        throw Complaint(
          .notIndexed, what: "process \(segment.segment.processID) has ended",
          advice: "its last events are still there: `allocsctl history` shows those of an address")
      }
      reader.begin(at: cursors)
    case .programStart: entry?.takeOver(segment.segment)
    }
  }

  /// Takes an entry in the control file, and returns where each ring is now; nil if the process has ended. Its entry
  /// would tell nobody anything then, and its rings can be read without.
  private func attach() throws(Complaint) -> [RingCursor]? {
    guard shared.segment.isProcessAlive else { return nil }
    var cursors: [RingCursor] = []
    do throws(Complaint) {
      entry = try EventConsumer(to: shared.segment, policy: policy, cursors: &cursors)
    } catch {
      // The process may have ended meanwhile, and taken its control file with it.
      guard shared.segment.isProcessAlive else { return nil }
      throw error
    }
    return cursors
  }

  /// Gives the entry in the control file back: events go off, unless others want them. What the rings still hold can be
  /// read.
  public func detach() {
    isDetached = true
    entry = nil
  }

  public var processID: Int32 { shared.segment.processID }

  public var isLive: Bool { shared.segment.isInUse }

  /// As the requirement, without a bound on the records of all rings together.
  public func read(
    limit: Int, now: UInt64, into receiver: inout some EventReceiver
  ) throws(Complaint) -> SourceStatus {
    try read(limit: limit, share: .max, now: now, into: &receiver)
  }

  public func read(
    limit: Int, share: Int, now: UInt64, into receiver: inout some EventReceiver
  ) throws(Complaint) -> SourceStatus {
    if now >= nextBeat, !isDetached {
      try renew()
      nextBeat = now &+ Self.beatInterval
    }
    let now = now &+ shift
    guard !shared.segment.isBroken else {
      try shared.segment.checkIntact()
      throw Complaint(
        .obstacle, what: "cannot read the events of process \(processID): its segment was cut short",
        advice: "run the process again")
    }
    let status = reader.read(limit: limit, share: share, now: now, into: &receiver) { ring, position in
      guard case .lossless = policy else { return }
      entry?.setPosition(position, ofRing: ring, in: shared.segment)
    }
    let missing = shared.segment.unrecordedEvents
    if missing > unrecorded {
      receiver.lost(EventLoss(count: missing &- unrecorded, from: lastLook, to: now), ring: nil)
      unrecorded = missing
    }
    lastLook = now
    return status
  }

  /// Keeps the entry in the control file, or takes another where the process took this reader for dead.
  private func renew() throws(Complaint) {
    switch entry {
    case .some(let held): if held.keepAlive() { return }
    case nil: break
    }
    entry = nil
    guard let cursors = try attach() else { return }
    reader.begin(at: cursors)
    guard case .lossless = policy else { return }
    for (ring, position) in reader.positions.enumerated() {
      entry?.setPosition(position, ofRing: ring, in: shared.segment)
    }
  }
}
