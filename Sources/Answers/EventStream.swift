// SPDX-License-Identifier: Apache-2.0
// The events of one process as bytes, in pieces. The server sends them, and `allocsctl events --direct` prints them.
//
// The export's thread fills a bounded queue. The caller of `next` names the events in it and renders them, at its own
// pace. Events that find no room in the queue are counted, and the stream says at their place how many are missing.

import Bounds
import EventExport
import Glibc
import IndexReader
import Provenance
import SharedLayout
import Synchronization
import SystemAccess

/// A stream of one process's events. `next` is for one thread at a time; `cancel` for any.
public final class EventStream: Sendable {
  private let view: ProcessView
  private let form: EventReport.Form
  private let stacks: Bool
  private let filter: EventFilter
  private let wrappers: Wrappers
  private let exporter: EventExporter
  private let queue: EventQueue
  private let subscription: EventExporter.Subscription
  private let hasSaidLosses = Atomic(false)

  /// Begins: turns the process's events on. `onNews` is called, on another thread, when `next` has something new to
  /// give after it gave everything; it must not wait.
  public init(
    of view: ProcessView, form: EventReport.Form, stacks: Bool, filter: EventFilter, wrappers: Wrappers,
    policy: DeliveryPolicy, exporter: EventExporter, onNews: @escaping @Sendable () -> Void
  ) {
    self.view = view
    self.form = form
    self.stacks = stacks
    self.filter = filter
    self.wrappers = wrappers
    self.exporter = exporter
    let records = RecordFilter(
      sizes: filter.sizes, addresses: filter.addresses, kinds: filter.kinds.map { Set($0.map(\.rawValue)) })
    queue = EventQueue(filter: records, policy: policy, figures: exporter.figures, onNews: onNews)
    subscription = exporter.add(
      ExportRequest(subscriber: queue, key: view.path, policy: policy) { () throws(Complaint) in
        try RingSource(view.shared, policy: policy)
      })
  }

  deinit { cancel() }

  /// Whether the process's events could be turned on; if not, `next` gives an end with an error.
  public var hasBegun: Bool { queue.hasBegun }

  /// Ends the stream: events are turned off soon, unless others want them; `next` gives the rest and the end.
  public func cancel() { exporter.remove(subscription) }

  /// The events since the last call, rendered; empty if none of them is wanted. `end`: there will be no more.
  public func next() -> (bytes: [UInt8], end: DeliveryEnd?) {
    let (entries, end) = queue.take()
    guard !entries.isEmpty || end != nil else { return ([], nil) }
    var report = EventReport(view, form: form, stacks: stacks, filter: filter, wrappers: wrappers)
    if !hasSaidLosses.exchange(true, ordering: .relaxed) { report.append(Losses(of: view.shared.segment)) }
    var meter = BudgetMeter(interval: 64)
    for entry in Self.sorted(entries) {
      guard meter.goesOn() else { break }
      switch entry {
      case .record(let record, let ring, let position):
        report.append(Event(record), ring: ring, position: position)
      case .loss(let loss): report.appendLoss(count: loss.count, from: loss.from, to: loss.to)
      case .damaged(let ring): report.appendDamage(ring: ring)
      }
    }
    if let error = end?.complaint { report.append(error) } else if let end { report.appendEnd(reason: end.words) }
    return (report.take(), end)
  }

  /// The entries, with records between two losses ordered by their stamps: the rings of several threads were read one
  /// after the other.
  private static func sorted(_ entries: [EventQueue.Entry]) -> [EventQueue.Entry] {
    func stamp(_ entry: EventQueue.Entry) -> UInt64? {
      if case .record(let record, _, _) = entry { record.stamp } else { nil }
    }
    var result = entries
    var start = 0
    while start < result.count {
      var end = start
      var isSorted = true
      while end < result.count, let time = stamp(result[end]) {
        if end > start, let before = stamp(result[end &- 1]), before > time { isSorted = false }
        end &+= 1
      }
      // The sort is stable: records of one ring stay in order whatever their stamps.
      // bounded: end begins at start
      if !isSorted { result[start..<end].sort { (stamp($0) ?? 0) < (stamp($1) ?? 0) } }
      start = end &+ 1
    }
    return result
  }
}

extension DeliveryEnd {
  /// The words for people.
  public var words: String {
    switch self {
    case .processEnded: "the process has ended"
    case .removed: "the stream was ended"
    case .destinationGone: "the reader is gone"
    case .destinationFailed: "the destination failed"
    case .sourceFailed: "the events can't be read"
    }
  }

  /// The failure, if it is one.
  public var complaint: Complaint? {
    switch self {
    case .destinationFailed(let complaint), .sourceFailed(let complaint): complaint
    case .processEnded, .removed, .destinationGone: nil
    }
  }
}
