// SPDX-License-Identifier: Apache-2.0
// One subscriber in the drain loop: its destination, the losses that it has not been told yet, and how it ends.
//
//   running ──(process ended, removed, export stopped)──► finishing ──(all written, or time over)──► over
//      └──────(destination gone or failed)────────────────────────────────────────────────────────────┘

import Glibc
import SystemAccess

/// The delivery of events to one subscriber. Used by the drain loop's thread alone.
final class Delivery {
  let id: UInt32
  let subscriber: any EventSubscriber
  let policy: DeliveryPolicy
  /// Identifies the attachment, in the drain loop, that the subscriber belongs to.
  let source: ObjectIdentifier
  /// Whether a destination that is full is tried again; else a full destination ends the delivery.
  let waitsForSpace: Bool
  private var destination: Destination?
  private var output: EventOutput
  private let figures: ExportFigures
  /// Events that the subscriber lost and has not been told of.
  private(set) var pendingLoss: EventLoss?
  private(set) var isWriting = false
  /// Why the delivery ends; nil until that is known.
  private(set) var end: DeliveryEnd?
  /// The subscriber has put out all that it has to say.
  private var isFinished = false
  // Moments, in nanoseconds of CLOCK_MONOTONIC.
  /// No write begins before this moment.
  private var retryAt: UInt64 = 0
  /// The oldest waiting bytes have waited since this moment; 0 if none wait.
  private var waitingSince: UInt64 = 0
  /// At this moment all is over, whether the waiting bytes were written or not.
  private var deadline = UInt64.max
  /// The failure because of which a write is repeated.
  private var obstacle: Complaint?

  /// So many bytes are worth a write of their own while many events come. Fewer bytes wait for more, for at most
  /// `patience` nanoseconds.
  private static let worthWriting = 64 << 10
  private static let patience: UInt64 = 20_000_000
  /// Nanoseconds until a full destination is tried again.
  private static let retryDelay: UInt64 = 250_000_000

  init(
    id: UInt32, subscriber: any EventSubscriber, policy: DeliveryPolicy, source: ObjectIdentifier, waitsForSpace: Bool,
    destination: consuming Destination?, bufferBytes: Int, figures: ExportFigures
  ) throws(Complaint) {
    let ring: ByteRing?
    switch destination {
    case .some: ring = try ByteRing(capacity: bufferBytes)
    case nil: ring = nil
    }
    self.id = id
    self.subscriber = subscriber
    self.policy = policy
    self.source = source
    self.waitsForSpace = waitsForSpace
    self.destination = consume destination
    output = EventOutput(ring: consume ring)
    self.figures = figures
  }

  /// Bytes that wait for the destination.
  var waiting: Int { output.waiting }

  func begin(_ writer: any EventWriter) {
    switch destination {
    case .some(let destination):
      writer.add(id, destination, memory: output.memory)
      if destination.kind == .pipe || destination.kind == .socket {
        // Hang-ups and errors are reported whatever the events.
        writer.watch(id, descriptor: destination.descriptor, events: 0)
      }
    case nil: break
    }
    subscriber.begin(&output)
  }

  // MARK: events

  /// Gives records to the subscriber; returns how many are done with, which is all of them unless it is lossless.
  func deliver(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
    guard end == nil else { return records.count }
    var taken = 0
    if sayLoss() {
      // A subscriber that claims to have taken more than there were has taken all.
      taken = min(max(subscriber.take(records, ring: ring, first: first, &output), 0), records.count)
    }
    guard taken < records.count, policy == .overwrite else { return taken }
    let untaken = UInt64(truncatingIfNeeded: records.count &- taken)  // above 0: the guard saw it
    drop(EventLoss(count: untaken, from: records[taken].stamp, to: records[records.count &- 1].stamp))
    return records.count
  }

  /// Notes a loss, which the subscriber is told of before its next events.
  func lose(_ loss: EventLoss) {
    guard end == nil else { return }
    if pendingLoss == nil { pendingLoss = loss } else { pendingLoss?.merge(loss) }
  }

  func damaged(ring: Int) { if end == nil { subscriber.damaged(ring: ring, &output) } }

  private func drop(_ loss: EventLoss) {
    figures.eventsDropped.wrappingAdd(loss.count, ordering: .relaxed)
    lose(loss)
  }

  /// Tells the subscriber of its losses; returns whether it knows of all of them now.
  private func sayLoss() -> Bool {
    guard let loss = pendingLoss else { return true }
    guard subscriber.lost(loss, &output) else { return false }
    pendingLoss = nil
    return true
  }

  // MARK: turns

  /// Lets the subscriber go on, and starts a write if one is due.
  func turn(isIdle: Bool, now: UInt64, _ writer: any EventWriter) {
    if end == nil {
      if isIdle { _ = sayLoss() }
      subscriber.turn(isIdle: isIdle, &output)
    } else if !isFinished, let end {
      isFinished = sayLoss() && subscriber.finish(end, &output)
    }
    startWrite(isIdle: isIdle || end != nil, now: now, writer)
  }

  private func startWrite(isIdle: Bool, now: UInt64, _ writer: any EventWriter) {
    guard !isWriting, now >= retryAt, now < deadline else { return }
    let waiting = output.waiting
    guard waiting > 0 else {
      waitingSince = 0
      return
    }
    if waitingSince == 0 { waitingSince = now }
    guard isIdle || waiting >= min(Self.worthWriting, output.capacity / 2) || now &- waitingSince >= Self.patience
    else { return }
    var range = output.contiguous
    // While this part of the memory is written, other parts are filled.
    range = range.prefix(max(4096, output.capacity / 4))  // bounded: at least 4096
    let isLast = range.count == waiting
    isWriting = true
    writer.write(id, range, sync: output.wantsSync && isLast)
    if isLast { output.wantsSync = false }
    waitingSince = now
  }

  /// Takes note of the end of a write: `result` is the number of bytes, or a negative errno value.
  func wrote(_ result: Int, now: UInt64) {
    isWriting = false
    if result >= 0 {
      output.ring?.take(result)
      if result > 0 {
        obstacle = nil
        figures.bytes.wrappingAdd(UInt64(truncatingIfNeeded: result), ordering: .relaxed)
        figures.writes.wrappingAdd(1, ordering: .relaxed)
      }
      return
    }
    let code = Int32(truncatingIfNeeded: 0 &- result)
    switch code {
    case ECANCELED: break
    case EPIPE, ECONNRESET, ECONNABORTED, ENOTCONN: abandon(.destinationGone)
    default:
      let error = Complaint(
        .obstacle, what: "cannot write events to \(name): \(systemWords(code))", advice: Self.advice(code), code: code)
      if code == ENOSPC || code == EDQUOT, waitsForSpace {
        if obstacle == nil { figures.failures.wrappingAdd(1, ordering: .relaxed) }
        obstacle = error
        retryAt = now &+ Self.retryDelay
      } else {
        figures.failures.wrappingAdd(1, ordering: .relaxed)
        abandon(.destinationFailed(error))
      }
    }
  }

  private var name: String {
    switch destination {
    case .some(let destination): destination.name
    case nil: "a queue"
    }
  }

  private static func advice(_ code: Int32) -> String {
    switch code {
    case ENOSPC, EDQUOT: "make room there, or name another place"
    case EFBIG: "raise the limit of file sizes (ulimit -f), or name another place"
    default: "check the destination"
    }
  }

  // MARK: the end

  /// Ends the delivery: no more events come. Waiting bytes are still written, until `deadline`.
  func finish(_ end: DeliveryEnd, deadline: UInt64) {
    self.deadline = min(self.deadline, deadline)
    if self.end == nil { self.end = end }
  }

  /// Ends the delivery at once: nothing more can be written.
  func abandon(_ end: DeliveryEnd) {
    self.end = end
    isFinished = true
    deadline = 0
  }

  /// Whether the delivery is over, and can be closed. Asks a write to end that takes longer than the deadline.
  func isOver(now: UInt64, _ writer: any EventWriter) -> Bool {
    guard end != nil else { return false }
    let isLate = now >= deadline
    if isWriting {
      if isLate { writer.cancel(id) }
      return false
    }
    return isLate || isFinished && output.waiting == 0
  }

  /// Closes the destination and tells the subscriber.
  func close(_ writer: any EventWriter) {
    writer.unwatch(id)
    writer.remove(id)
    destination = nil
    var end = end ?? .removed
    // If bytes could not be written for want of space, that is the reason, whatever happened later.
    if let obstacle { end = .destinationFailed(obstacle) }
    subscriber.ended(end)
  }

  /// The next moment, in nanoseconds of CLOCK_MONOTONIC, at which there is something to do even if nothing happens
  /// until then.
  var nextMoment: UInt64 {
    var moment = end == nil ? UInt64.max : deadline
    if retryAt != 0, obstacle != nil { moment = min(moment, retryAt) }
    return moment
  }
}
