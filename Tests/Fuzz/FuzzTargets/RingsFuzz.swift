// SPDX-License-Identifier: Apache-2.0
// The reader of event rings on rings whose headers and records are anything: what is read, what is lost, and the
// events' report.
//
// Three things hold whatever a ring says: every position is either read or counted as lost, once; nothing outside the
// ring is read; and reading comes to an end.

import Answers
import IndexReader
import SharedLayout

enum RingsFuzz {
  static func run(_ script: ArraySlice<UInt8>) {
    stage.run(script) { path, whileOpen in
      guard let view = try? ProcessView(file: path) else { return }
      var cursors = (0..<Int(ALLOCS_RING_COUNT)).map { RingCursor(ring: $0) }
      read(view, &cursors)
      whileOpen()
      read(view, &cursors)
      // From positions that a reader may have come to by an earlier lie.
      for ring in cursors.indices { cursors[ring] = RingCursor(ring: ring, position: 1 << 40 + UInt64(ring)) }
      read(view, &cursors)
    }
  }

  private static func read(_ view: ProcessView, _ cursors: inout [RingCursor]) {
    let segment = view.shared
    let capacity = segment.segment.ringCapacity
    var report = EventReport(view, form: .jsonLines, stacks: true, filter: EventFilter())
    withUnsafeTemporaryAllocation(of: allocs_event.self, capacity: 100) { buffer in
      for ring in 0..<min(segment.segment.ringCount, cursors.count) {
        var budget = capacity + buffer.count
        while true {
          let before = cursors[ring]
          let batch = segment.segment.read(&cursors[ring], into: buffer)
          precondition(batch.records.upperBound <= buffer.count)
          precondition(
            cursors[ring].position - before.position == UInt64(batch.records.count) + cursors[ring].lost - before.lost,
            "every position is read or lost")
          // The ring of a dead process doesn't grow: it is read once.
          budget -= batch.records.count
          precondition(budget >= 0, "more than a ring holds")
          if let first = batch.records.first {
            report.append(Event(buffer[first]), ring: ring, position: batch.position)
          }
          if cursors[ring].position == before.position { break }
        }
        segment.segment.withMappedRecords(ofRing: ring, from: cursors[ring].position, limit: .max) { first, second in
          precondition(first.count + second.count <= capacity * 32)
        }
        _ = (segment.segment.slot(ofRing: ring), segment.segment.unrecorded(inRing: ring))
      }
    }
    _ = report.take()
  }
}
