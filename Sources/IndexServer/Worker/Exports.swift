// SPDX-License-Identifier: Apache-2.0
// The server's export of events: its one loop; the destination of all processes' events, if one was named; and its
// figures.

import ByteText
import EventExport
import Glibc
import IndexReader
import Logging
import NIOPosix
import Synchronization
import SystemAccess

/// The destination of all events, as the option --export has it. `{pid}` in it stands for the process's number. Where a
/// file of that name exists, `-2`, `-3` and so on follow the number: the file is of a program that the process ran
/// before, or of an earlier process with that number.
struct ExportTarget: Sendable {
  private let text: String

  /// Throws if the text is no destination, or names a file that all processes would share.
  init(_ text: String) throws(Complaint) {
    self.text = text
    if case .file = try Self.address(text, process: "1"), !text.contains("{pid}") {
      throw Complaint(
        .usage, what: "the file \(text) would be written by all processes", advice: "put {pid} into its name")
    }
  }

  /// Creates the file, or connects.
  func open(processID: Int32) throws(Complaint) -> Destination {
    var number = 1
    while true {
      do throws(Complaint) {
        return try Self.address(text, process: number == 1 ? "\(processID)" : "\(processID)-\(number)").open()
      } catch {
        guard error.code == EEXIST, number < 1000 else { throw error }
        number += 1
      }
    }
  }

  private static func address(_ text: String, process: String) throws(Complaint) -> DestinationAddress {
    try DestinationAddress(
      text.split(separator: "{pid}", omittingEmptySubsequences: false).joined(separator: process))
  }
}

/// The export of one server. Thread-safe.
final class Exports: Sendable {
  let exporter: EventExporter
  private let target: ExportTarget?
  private let policy: DeliveryPolicy
  private let workers: NIOThreadPool
  private let logger: Logger
  /// The figures as of the last publication: counters are increased by the difference.
  private let published = Mutex<ExportFigures.Reading?>(nil)

  init(
    allowIOUring: Bool, target: ExportTarget?, policy: DeliveryPolicy, workers: NIOThreadPool, logger: Logger
  ) throws(Complaint) {
    self.target = target
    self.policy = policy
    self.workers = workers
    self.logger = logger
    exporter = try EventExporter(allowIOUring: allowIOUring) { method in
      switch method {
      case .ioUring: logger.info("events are exported by io_uring")
      case .plain(let reason):
        logger.notice("events are exported by plain writes, not by io_uring", metadata: ["reason": "\(reason)"])
      }
    }
  }

  /// Exports the events of a process that has begun or has replaced its program, if the server exports events at all.
  func begin(_ file: SegmentFile) {
    guard let target else { return }
    let (logger, policy) = (logger, policy)
    let metadata: Logger.Metadata = ["pid": "\(file.processID)"]
    // A connection may take long, so a worker makes it.
    workers.submit { [exporter] state in
      guard state == .active else { return }
      do throws(Complaint) {
        guard let segment = try Self.open(file) else { return }
        let destination = try target.open(processID: file.processID)
        let name = destination.name
        let subscriber = RecordStream { end in
          switch end {
          case .sourceFailed(let error), .destinationFailed(let error):
            logger.warning("export of events failed: \(error)", metadata: metadata)
          default: logger.info("export of events ended", metadata: metadata)
          }
        }
        exporter.add(
          ExportRequest(
            subscriber: subscriber, key: file.path, policy: policy, destination: destination, waitsForSpace: true
          ) { () throws(Complaint) in
            try RingSource(segment, policy: policy)
          })
        logger.info("exporting events", metadata: metadata.merging(["to": "\(name)"]) { $1 })
      } catch {
        logger.warning("\(error)", metadata: metadata)
      }
    }
  }

  /// The segment of a process that may have begun a moment ago: until then the segment may be half-written, or have no
  /// control file. Returns nil if another file has taken the segment's place after an exec: the new program is exported
  /// by itself.
  private static func open(_ file: SegmentFile) throws(Complaint) -> SharedSegment? {
    var patience = 100
    let path = file.path
    while true {
      do throws(Complaint) {
        let segment = try SharedSegment(path: path)
        var status = stat()
        guard stat(path.originalPath, &status) == 0, UInt64(status.st_ino) == file.inode else { return nil }
        guard access(EventConsumer.controlPath(ofSegment: path).originalPath, F_OK) != 0, patience > 0 else {
          return segment
        }
      } catch {
        guard patience > 0, access(path.originalPath, F_OK) == 0 else { throw error }
      }
      patience -= 1
      usleep(10_000)
    }
  }

  /// Brings the metrics up to date.
  func publishFigures() {
    published.withLock { published in
      let now = exporter.figures.reading()
      func added(_ field: KeyPath<ExportFigures.Reading, UInt64>) -> Int64 {
        Int64(clamping: now[keyPath: field] - (published?[keyPath: field] ?? 0))
      }
      Metric.Count.events.increment(by: added(\.events))
      Metric.Count.eventsLost.increment(by: added(\.eventsOverwritten), "overwritten")
      Metric.Count.eventsLost.increment(by: added(\.eventsUnrecorded), "unrecorded")
      Metric.Count.eventsLost.increment(by: added(\.eventsDropped), "no_room")
      Metric.Count.eventBytes.increment(by: added(\.bytes))
      Metric.Count.eventWrites.increment(by: added(\.writes))
      Metric.Count.eventFailures.increment(by: added(\.failures))
      Metric.Count.eventTurns.increment(by: added(\.turns))
      Metric.Level.eventSources.set(Double(now.sources))
      Metric.Level.eventSubscribers.set(Double(now.subscribers))
      Metric.Level.eventBytesWaiting.set(Double(now.waitingBytes))
      published = now
    }
  }
}
