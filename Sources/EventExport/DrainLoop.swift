// SPDX-License-Identifier: Apache-2.0
// The one loop that drains the rings of all processes into all destinations.
//
// A turn has four steps: the commands that came meanwhile; a look at every source, whose records go to its subscribers;
// a write for every destination that has bytes waiting and no write in progress; one wait, for the next look, the end
// of a write, or the wake-up. No step waits for a destination.
//
// Subscribers that overwrite share one source for each process. A lossless subscriber has a source of its own, with a
// place of its own in the rings. So its slowness holds up the process, which it asks for, and no other subscriber.
//
// No process takes more than its share of a turn (`Shares`), whatever its rings claim and however many listen to it.

import Bounds
import CLiburing
import Glibc
import SharedLayout
import Synchronization
import SystemAccess

/// The loop's state; used by its thread alone.
final class DrainLoop {
  /// A source and its subscribers.
  private final class Attachment {
    let id: UInt32
    /// Names the rings, for subscribers that share the source; nil if it is not shared.
    let key: String?
    let source: any EventSource
    var deliveries: [Delivery] = []
    let isLossless: Bool
    /// Ready to read when the process has ended; -1 if there is none.
    var processDescriptor: Int32 = -1
    /// The process has ended, or writes to other rings since an exec.
    var hasEnded = false
    /// When it is checked exactly whether the process still runs, in nanoseconds of CLOCK_MONOTONIC.
    var nextCheck: UInt64 = 0

    init(id: UInt32, key: String?, source: any EventSource, isLossless: Bool) {
      self.id = id
      self.key = key
      self.source = source
      self.isLossless = isLossless
    }

    deinit { if processDescriptor >= 0 { Glibc.close(processDescriptor) } }
  }

  /// Gives what a source reads to the subscribers of an attachment.
  private struct FanOut: EventReceiver {
    let deliveries: [Delivery]
    let figures: ExportFigures

    mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
      // An attachment has one lossless subscriber, whose number counts, or others, which take all records.
      var done = records.count
      for delivery in deliveries { done = min(done, delivery.deliver(records, ring: ring, first: first)) }
      figures.events.wrappingAdd(UInt64(truncatingIfNeeded: done), ordering: .relaxed)
      return done
    }

    mutating func lost(_ loss: EventLoss, ring: Int?) {
      if ring == nil {
        figures.eventsUnrecorded.wrappingAdd(loss.count, ordering: .relaxed)
      } else {
        figures.eventsOverwritten.wrappingAdd(loss.count, ordering: .relaxed)
      }
      for delivery in deliveries { delivery.lose(loss) }
    }

    mutating func damaged(ring: Int) {
      for delivery in deliveries { delivery.damaged(ring: ring) }
    }
  }

  private let writer: any EventWriter
  private let figures: ExportFigures
  private var attachments: [Attachment] = []
  private var deliveries: [UInt32: Delivery] = [:]
  private var nextID: UInt32 = 1
  private var period = AdaptivePeriod()
  private var reports = WriterReports()
  private var isStopping = false

  /// Records of one ring that are read in one look. They are 256 KiB, which are still in the processor's cache when
  /// they are written.
  private static let recordsAtATime = 8192
  /// Nanoseconds between two exact checks whether a process still runs. Most ends are reported at once, without them.
  private static let checkInterval: UInt64 = 1_000_000_000
  /// Nanoseconds for which waiting bytes are still written after their subscriber was removed.
  private static let grace: UInt64 = 1_000_000_000

  init(writer: any EventWriter, figures: ExportFigures) {
    self.writer = writer
    self.figures = figures
  }

  /// Nanoseconds of CLOCK_MONOTONIC.
  static func now() -> UInt64 { nanoseconds(of: CLOCK_MONOTONIC) }

  // MARK: commands

  /// Adds a subscriber, or tells it the end if its source can't be opened.
  func add(_ request: ExportRequest, id: UInt32) {
    let subscriber = request.subscriber
    guard !isStopping else {
      subscriber.ended(.removed)
      return
    }
    do throws(Complaint) {
      let attachment = try attachment(for: request)
      let delivery = try Delivery(
        id: id, subscriber: subscriber, policy: request.policy, source: ObjectIdentifier(attachment),
        waitsForSpace: request.waitsForSpace, destination: request.takeDestination(), bufferBytes: request.bufferBytes,
        figures: figures)
      attachment.deliveries.append(delivery)
      deliveries[id] = delivery
      delivery.begin(writer)
      period.reset()
    } catch {
      figures.failures.wrappingAdd(1, ordering: .relaxed)
      subscriber.ended(.sourceFailed(error))
    }
    detachUnused()
    publishNumbers()
  }

  private func attachment(for request: ExportRequest) throws(Complaint) -> Attachment {
    let isLossless = request.policy == .lossless
    if !isLossless, let shared = attachments.first(where: { $0.key == request.key && !$0.hasEnded }) { return shared }
    let source = try request.makeSource()
    let attachment = Attachment(
      id: takeID(), key: isLossless ? nil : request.key, source: source, isLossless: isLossless)
    attachments.append(attachment)
    attachment.processDescriptor = allocs_pidfd_open(source.processID)
    if attachment.processDescriptor >= 0 {
      writer.watch(attachment.id, descriptor: attachment.processDescriptor, events: Int32(POLLIN))
    }
    // Asked after the opening: the descriptor may be that of another process, which has got the process id.
    attachment.hasEnded = !source.isLive
    return attachment
  }

  /// Attachments have numbers above all subscribers'.
  private func takeID() -> UInt32 {
    defer { nextID &+= 1 }
    return 1 << 31 | nextID
  }

  func remove(_ id: UInt32) { deliveries[id]?.finish(.removed, deadline: Self.now() &+ Self.grace) }

  func stop() {
    isStopping = true
    for delivery in deliveries.values { delivery.finish(.removed, deadline: Self.now() &+ Self.grace) }
  }

  var isOver: Bool { isStopping && deliveries.isEmpty }

  // MARK: a turn

  /// The records that each source may read in one turn. A turn is for a number of records, counted once for each
  /// delivery that gets them; each process has an equal part of it, and each source of a process an equal part of that.
  struct Shares {
    /// Records of a turn: about 10 ms.
    static let ofTurn = 1 << 18
    /// A source that has less could hardly come round its rings.
    static let least = 1024
    // bounded: all are constants of a few thousand
    static let leastOfEnded = least + RingReader.recordsOfALook * Int(ALLOCS_RING_COUNT)

    private let ofProcess: Int
    /// How many deliveries each process has.
    private var listeners: [Int32: Int] = [:]

    init(of sources: [(processID: Int32, deliveries: Int)]) {
      for (process, deliveries) in sources {
        listeners[process, default: 0] &+= max(deliveries, 1)
      }
      ofProcess = Self.ofTurn / max(listeners.count, 1)  // bounded: the divisor is 1 at least
    }

    /// Records of a source of that process. A process that has ended gets enough to look at all its rings in one turn,
    /// which shows whether there is more to come.
    func records(ofProcess process: Int32, hasEnded: Bool) -> Int {
      let all = max(listeners[process] ?? 1, 1)
      let least = hasEnded ? Self.leastOfEnded : Self.least
      return max(least, ofProcess / all)  // bounded: the divisor is 1 at least
    }
  }

  func turn() {
    figures.turns.wrappingAdd(1, ordering: .relaxed)
    let now = Self.now()
    var status = SourceStatus()
    let shares = Shares(of: attachments.map { ($0.source.processID, $0.deliveries.count) })
    for attachment in attachments {
      let share = shares.records(ofProcess: attachment.source.processID, hasEnded: attachment.hasEnded)
      let found = look(at: attachment, share: share, now: now)
      status.records = (Foreign(status.records) + found.records).saturated()
      // Where a share was used up, more is waiting.
      status.fullest = max(status.fullest, found.isCut && found.records > 0 ? 1 : found.fullest)
      status.isCut = status.isCut || found.isCut
    }
    let isIdle = status.records == 0 && !status.isCut
    for delivery in deliveries.values { delivery.turn(isIdle: isIdle, now: now, writer) }
    close(now: now)
    period.note(
      records: status.records, fullest: status.fullest, lossless: attachments.contains { $0.isLossless })
    publishNumbers()
    if !isOver { wait(now: now) }
  }

  private func look(at attachment: Attachment, share: Int, now: UInt64) -> SourceStatus {
    var receiver = FanOut(deliveries: attachment.deliveries, figures: figures)
    do throws(Complaint) {
      // The end of the process must be known before the look that finds nothing more: then nothing more can come.
      let hadEnded = attachment.hasEnded
      let status = try attachment.source.read(limit: Self.recordsAtATime, share: share, now: now, into: &receiver)
      if hadEnded, status.records == 0, status.waiting == 0, !status.isCut {
        for delivery in attachment.deliveries { delivery.finish(.processEnded, deadline: .max) }
      } else if now >= attachment.nextCheck, !attachment.hasEnded {
        attachment.nextCheck = now &+ Self.checkInterval
        attachment.hasEnded = !attachment.source.isLive
      }
      return status
    } catch {
      for delivery in attachment.deliveries where delivery.end == nil {
        figures.failures.wrappingAdd(1, ordering: .relaxed)
        delivery.finish(.sourceFailed(error), deadline: now &+ Self.grace)
      }
      return SourceStatus()
    }
  }

  private func wait(now: UInt64) {
    var time = attachments.isEmpty ? 3_600_000_000_000 : period.nanoseconds
    if !deliveries.isEmpty {
      for delivery in deliveries.values {
        let moment = delivery.nextMoment
        time = min(time, moment > now ? moment &- now : 1_000_000)
      }
    }
    reports.removeAll()
    writer.wait(nanoseconds: time, &reports)
    if reports.ended.isEmpty, reports.gone.isEmpty { return }
    let now = Self.now()
    for write in reports.ended { deliveries[write.id]?.wrote(write.result, now: now) }
    for id in reports.gone {
      if let delivery = deliveries[id] {
        delivery.abandon(.destinationGone)
      } else if let attachment = attachments.first(where: { $0.id == id }) {
        // The exact check tells the process from another one that has got its process id.
        attachment.hasEnded = !attachment.source.isLive
      }
    }
  }

  /// Removes deliveries that are over, and sources that nobody reads any more.
  private func close(now: UInt64) {
    var over: [Delivery] = []
    for delivery in deliveries.values where delivery.isOver(now: now, writer) { over.append(delivery) }
    for delivery in over {
      deliveries[delivery.id] = nil
      attachments.first { ObjectIdentifier($0) == delivery.source }?.deliveries.removeAll { $0 === delivery }
    }
    // Events are off before any subscriber is told the end.
    detachUnused()
    for delivery in over { delivery.close(writer) }
  }

  private func detachUnused() {
    attachments.removeAll { attachment in
      // Deliveries that only finish need no source any more: the process's events go off as soon as possible.
      guard attachment.deliveries.allSatisfy({ $0.end != nil }) else { return false }
      writer.unwatch(attachment.id)
      return true
    }
  }

  private func publishNumbers() {
    figures.sources.store(UInt64(truncatingIfNeeded: attachments.count), ordering: .relaxed)
    figures.subscribers.store(UInt64(truncatingIfNeeded: deliveries.count), ordering: .relaxed)
    figures.waitingBytes.store(
      deliveries.values.reduce(0) { $0 &+ UInt64(truncatingIfNeeded: $1.waiting) }, ordering: .relaxed)
  }
}
