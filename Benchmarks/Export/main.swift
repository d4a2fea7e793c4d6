// SPDX-License-Identifier: Apache-2.0
// allocs-export-bench: how fast one thread drains rings into a file, and into what it would be by plain means.
//
//   allocs-export-bench FILE SECONDS      FILE is made anew for each measurement, and removed
//
// The rings are four of the default size, 1 MiB, in a mapped file on tmpfs as a segment's are, and always have as much
// new as a look takes. Each measurement moves records for about SECONDS and prints "KIND EVENTS_PER_SECOND
// CPU_PER_SECOND": events, and the processor time of all threads, the kernel's workers included.
//
//   export BATCH        the drain loop, records in frames, by io_uring
//   plain BATCH         the same loop without io_uring
//   write BATCH         a loop that copies a batch out of the ring and writes it by one write(2): the least to do
//   copy BATCH          the batches copied to memory, as memcpy does
//
// BATCH is the number of records that one look takes from one ring.

import EventExport
import Glibc
import Measurement
import SharedLayout
import Synchronization
import SystemAccess

func fail(_ message: String) -> Never {
  let line = Array("allocs-export-bench: \(message)\n".utf8)
  _ = write(2, line, line.count)
  exit(1)
}

/// Four rings of records in a file's mapping.
final class Rings: @unchecked Sendable {
  static let count = 4
  static let capacity = Int(ALLOCS_RING_RECORDS_DEFAULT)
  let records: UnsafeMutableBufferPointer<EventRecord>

  init(beside path: String) {
    let file = path + ".rings"
    let descriptor = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    let bytes = Self.count * Self.capacity * MemoryLayout<EventRecord>.stride
    guard descriptor >= 0, ftruncate(descriptor, bytes) == 0 else { fail("cannot make \(file)") }
    let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
    unlink(file)
    close(descriptor)
    guard let memory, memory != MAP_FAILED else { fail("cannot map \(file)") }
    records = UnsafeMutableBufferPointer(
      start: memory.assumingMemoryBound(to: EventRecord.self), count: Self.count * Self.capacity)
    for index in records.indices {
      records[index] = EventRecord(
        place: allocs_event_place(ALLOCS_EVENT_ALLOC.rawValue, UInt64(index) * 64, 0),
        extent: allocs_event_extent(48, 1), source: 7, stamp: UInt64(index))
    }
  }

  /// Copies `count` records of a ring from a position on.
  @inline(__always)
  func copy(ring: Int, position: UInt64, _ count: Int, to target: UnsafeMutablePointer<EventRecord>) {
    let at = Int(position % UInt64(Self.capacity))
    let start = records.baseAddress! + ring * Self.capacity
    let first = min(count, Self.capacity - at)
    target.update(from: start + at, count: first)
    if first < count { (target + first).update(from: start, count: count - first) }
  }
}

/// Rings that are always as full as a look wants.
final class FullRings: EventSource {
  private let rings: Rings
  private let batch: Int
  private let buffer: UnsafeMutablePointer<EventRecord>
  private var positions = [UInt64](repeating: 0, count: Rings.count)

  init(_ rings: Rings, batch: Int) {
    self.rings = rings
    self.batch = batch
    buffer = .allocate(capacity: batch)
  }

  deinit { buffer.deallocate() }

  var processID: Int32 { getpid() }
  var isLive: Bool { true }

  func read(
    limit: Int, share: Int, now: UInt64, into receiver: inout some EventReceiver
  ) throws(Complaint) -> SourceStatus {
    var status = SourceStatus(records: 0, fullest: 1)
    let count = min(limit, batch)
    for ring in 0..<Rings.count {
      rings.copy(ring: ring, position: positions[ring], count, to: buffer)
      let part = UnsafeBufferPointer(start: buffer, count: count)
      let done = receiver.receive(part.span, ring: ring, first: positions[ring])
      positions[ring] += UInt64(done)
      status.records += done
      status.waiting += count - done
    }
    return status
  }
}

func seconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

func processorSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

let arguments = CommandLine.arguments
guard arguments.count == 3, let duration = Double(arguments[2]), duration > 0 else {
  fail("usage: allocs-export-bench FILE SECONDS")
}
let path = arguments[1]
let rings = Rings(beside: path)
/// A file that grew without bound would fill the machine's memory: it begins anew at this size.
let fileLimit = 1 << 30

func report(_ kind: String, _ batch: Int, events: UInt64, _ elapsed: Double, _ processor: Double) {
  print("\(kind)-\(batch) \(Double(events) / elapsed) \(processor / elapsed)")
}

/// The drain loop with one file as its destination. Lossless: what is counted has reached the file.
func export(_ kind: String, batch: Int, ioUring: Bool) throws {
  unlink(path)
  let method = Mutex<ExportMethod?>(nil)
  let exporter = try EventExporter(allowIOUring: ioUring) { found in method.withLock { $0 = found } }
  let (began, processor) = (seconds(), processorSeconds())
  let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  exporter.add(
    ExportRequest(
      subscriber: RecordStream(), key: "bench", policy: .lossless,
      destination: try Destination(duplicating: descriptor, name: path)
    ) { () throws(Complaint) in FullRings(rings, batch: batch) })
  var written: UInt64 = 0
  while seconds() - began < duration {
    usleep(5000)
    written = exporter.figures.reading().bytes
    // Its size stays bounded; the position goes on, so what was written before becomes a hole.
    if written > fileLimit { break }
  }
  let elapsed = seconds() - began
  let used = processorSeconds() - processor
  if ioUring, method.withLock({ $0 }) != .ioUring { fail("io_uring is not to be had here") }
  // Frames have a head of 32 bytes, a record's size, for up to a batch of records.
  report(kind, batch, events: written / 32 * UInt64(batch) / UInt64(batch + 1), elapsed, used)
  exporter.stop()
  close(descriptor)
  unlink(path)
}

/// What one look takes from one ring, copied and written by one call.
func writeLoop(batch: Int) {
  unlink(path)
  let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  let buffer = UnsafeMutablePointer<EventRecord>.allocate(capacity: batch)
  defer { buffer.deallocate() }
  var events: UInt64 = 0
  let (began, processor) = (seconds(), processorSeconds())
  while seconds() - began < duration, events * 32 < fileLimit {
    for round in 0..<UInt64(max(1, 4096 / batch)) {
      for ring in 0..<Rings.count {
        rings.copy(ring: ring, position: (events / UInt64(Rings.count)) + round * UInt64(batch), batch, to: buffer)
        guard write(descriptor, buffer, batch * 32) == batch * 32 else { fail("cannot write \(path)") }
      }
    }
    events += UInt64(Rings.count * batch * max(1, 4096 / batch))
  }
  report("write", batch, events: events, seconds() - began, processorSeconds() - processor)
  close(descriptor)
  unlink(path)
}

func copyLoop(batch: Int) {
  let target = UnsafeMutablePointer<EventRecord>.allocate(capacity: Rings.count * Rings.capacity)
  target.initialize(repeating: EventRecord(), count: Rings.count * Rings.capacity)
  defer { target.deallocate() }
  var events: UInt64 = 0
  let (began, processor) = (seconds(), processorSeconds())
  while seconds() - began < duration / 4 {
    for ring in 0..<Rings.count {
      for start in stride(from: 0, to: Rings.capacity, by: batch) {
        rings.copy(
          ring: ring, position: UInt64(start), min(batch, Rings.capacity - start),
          to: target + ring * Rings.capacity + start)
      }
    }
    events += UInt64(Rings.count * Rings.capacity)
  }
  report("copy", batch, events: events, seconds() - began, processorSeconds() - processor)
}

do {
  for batch in [16, 64, 512, 8192] {
    try export("export", batch: batch, ioUring: true)
    try export("plain", batch: batch, ioUring: false)
    writeLoop(batch: batch)
  }
  copyLoop(batch: 8192)
} catch {
  fail("\(error)")
}
