// SPDX-License-Identifier: Apache-2.0
// Filters of records, and the queue to another thread.

import EventExport
import SharedLayout
import Synchronization
import SystemAccess
import TestSupport
import Testing

@Suite("Record filters and queues", .bounded)
struct FilterAndQueueTests {
  private func record(_ kind: allocs_event_kind, _ address: UInt64, _ size: UInt64) -> EventRecord {
    EventRecord(
      place: allocs_event_place(kind.rawValue, address, 0), extent: allocs_event_extent(size, 3), source: 0, stamp: 9)
  }

  @Test("sizes, addresses and kinds are exact at their edges; threads have neither size nor place")
  func filter() {
    let sizes = RecordFilter(sizes: 16...32)
    for (size, wanted) in [(15, false), (16, true), (32, true), (33, false)] as [(UInt64, Bool)] {
      #expect(sizes.wants(record(ALLOCS_EVENT_ALLOC, 0x1000, size)) == wanted)
    }
    #expect(!sizes.wants(record(ALLOCS_EVENT_THREAD_START, 4242, 20)))
    let range = RecordFilter(addresses: 0x1000..<0x1010)
    for (address, size, wanted) in [
      (0xFF0, 0x10, false), (0xFF0, 0x11, true), (0x1000, 0, true), (0x100F, 1, true), (0x1010, 1, false),
    ] as [(UInt64, UInt64, Bool)] {
      #expect(range.wants(record(ALLOCS_EVENT_FREE, address, size)) == wanted)
    }
    let kinds = RecordFilter(kinds: [ALLOCS_EVENT_FREE.rawValue])
    #expect(kinds.wants(record(ALLOCS_EVENT_FREE, 1, 1)) && !kinds.wants(record(ALLOCS_EVENT_ALLOC, 1, 1)))
    #expect(RecordFilter().wants(record(ALLOCS_EVENT_RESUMED, 0, 0)))
  }

  @Test("a sum of losses that processes have said beyond its end has grown by what was added, or by the most there is")
  func wrappedFigures() throws {
    var earlier = try EventExporter().figures.reading()
    var later = earlier
    (earlier.eventsUnrecorded, later.eventsUnrecorded) = (.max - 1, 5)
    #expect(later.growth(of: \.eventsUnrecorded, since: earlier) == 7)
    #expect(earlier.growth(of: \.eventsUnrecorded, since: later) == .max)
    #expect(earlier.growth(of: \.eventsUnrecorded, since: nil) == .max)
    #expect(later.growth(of: \.events, since: earlier) == 0)
  }

  @Test("a full queue counts what it drops, at its place, and only what is wanted")
  func queue() throws {
    let script = Script()
    let exporter = try EventExporter()
    let queue = EventQueue(
      filter: RecordFilter(addresses: 0x1000..<0x1000 + 200 * 16), policy: .overwrite, capacity: 50,
      figures: exporter.figures, onNews: {})
    script.add(300)
    exporter.add(
      ExportRequest(subscriber: queue, key: "process") { () throws(Complaint) in ScriptedSource(script) })
    try wait(for: "every record is taken") { script.state.withLock { $0.rings[0].isEmpty } }
    #expect(exporter.figures.reading().eventsDropped == 150)
    let (entries, end) = queue.take()
    #expect(end == nil)
    #expect(entries.count == 51)
    guard case .loss(let loss)? = entries.last else {
      Issue.record("no loss at the end")
      return
    }
    #expect(loss == EventLoss(count: 150, from: 51, to: 200))
    script.end()
    var ending: DeliveryEnd?
    try wait(for: "the end comes through the queue") {
      ending = queue.take().end
      return ending != nil
    }
    #expect(ending == .processEnded)
    exporter.stop()
  }

  @Test("a lossless queue gets every record, as fast as it is emptied")
  func lossless() throws {
    let script = Script()
    let exporter = try EventExporter()
    func queue(_ policy: DeliveryPolicy) -> EventQueue {
      let queue = EventQueue(
        filter: RecordFilter(), policy: policy, capacity: 10, figures: exporter.figures, onNews: {})
      exporter.add(
        ExportRequest(subscriber: queue, key: "process", policy: policy) { () throws(Complaint) in
          ScriptedSource(script)
        })
      return queue
    }
    let patient = queue(.lossless)
    script.add(25)
    var taken: [UInt64] = []
    try wait(for: "every record comes through the queue") {
      for case .record(_, _, let position) in patient.take().entries { taken.append(position) }
      return taken.count == 25
    }
    #expect(taken == Array(0..<25))
    #expect(exporter.figures.reading().eventsDropped == 0)
    exporter.stop()
  }
}
