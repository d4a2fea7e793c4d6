// SPDX-License-Identifier: Apache-2.0
// allocs-drain-bench: records every event of a process into a file, by the server's own drain loop and with the policy
// lossless: what that costs the process.
//
//   allocs-drain-bench SEGMENT FILE      until the process ends; prints "RECORDS LOST BYTES"
//
// RECORDS are those read from the rings from the beginning on, LOST those that were overwritten, dropped or never
// recorded meanwhile, BYTES what the file got. FILE is removed at the end.

import EventExport
import Glibc
import IndexReader
import Synchronization
import SystemAccess

func fail(_ message: String) -> Never {
  let line = Array("allocs-drain-bench: \(message)\n".utf8)
  _ = write(2, line, line.count)
  exit(1)
}

guard CommandLine.arguments.count == 3 else { fail("usage: allocs-drain-bench SEGMENT FILE") }
let path = CommandLine.arguments[2]
do {
  let segment = try SharedSegment(path: CommandLine.arguments[1])
  let end = Mutex<DeliveryEnd?>(nil)
  let exporter = try EventExporter()
  let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  guard file >= 0 else { fail("cannot make \(path): \(String(cString: strerror(errno)))") }
  let subscriber = RecordStream { reason in end.withLock { $0 = reason } }
  exporter.add(
    ExportRequest(
      subscriber: subscriber, key: "bench", policy: .lossless,
      destination: try Destination(duplicating: file, name: path)
    ) { () throws(Complaint) in try RingSource(segment, policy: .lossless) })
  close(file)
  while end.withLock({ $0 == nil }) { usleep(5000) }
  guard end.withLock({ $0 }) == .processEnded else { fail("the export ended early: \(end.withLock { $0 }!)") }
  let figures = exporter.figures.reading()
  exporter.stop()
  unlink(path)
  let rings = 0..<segment.segment.ringCount
  let unrecorded = rings.reduce(0) { $0 + segment.segment.unrecorded(inRing: $1) + segment.segment.overrun(inRing: $1) }
  print(figures.events, figures.eventsOverwritten + figures.eventsDropped + unrecorded, figures.bytes)
} catch {
  fail("\(error)")
}
