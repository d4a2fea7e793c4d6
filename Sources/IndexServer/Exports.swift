// The server's export of events: its one loop, the destination that every process's events go to if one was named, and
// its figures.

import ByteText
import EventExport
import Glibc
import IndexReader
import Logging
import Metrics
import NIOPosix
import Synchronization

/// Where all events go, as its option has it: `{pid}` stands for the process, for its number and, where there is such a
/// file already, `-2`, `-3` and so on behind it: of a program that it ran before, or of another process with that
/// number.
struct ExportTarget: Sendable {
  private let text: String

  /// Throws if it can't be a destination, or is a file that all processes would share.
  init(_ text: String) throws(ExportError) {
    self.text = text
    if case .file = try Self.address(text, process: "1"), !text.contains("{pid}") {
      throw ExportError("the file \(text) would be written by all processes — put {pid} into its name")
    }
  }

  /// Creates the file, or connects.
  func open(processID: Int32) throws(ExportError) -> Destination {
    var number = 1
    while true {
      do throws(ExportError) {
        return try Self.address(text, process: number == 1 ? "\(processID)" : "\(processID)-\(number)").open()
      } catch {
        guard error.code == EEXIST, number < 1000 else { throw error }
        number += 1
      }
    }
  }

  private static func address(_ text: String, process: String) throws(ExportError) -> DestinationAddress {
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
  /// The figures as last published: counters are told what was added.
  private let published = Mutex<ExportFigures.Reading?>(nil)

  init(
    allowIOUring: Bool, target: ExportTarget?, policy: DeliveryPolicy, workers: NIOThreadPool, logger: Logger
  ) throws(ExportError) {
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

  /// Exports the events of a process that has begun, or has replaced its program, if all are to be.
  func begin(_ file: SegmentFile) {
    guard let target else { return }
    let (logger, policy) = (logger, policy)
    let metadata: Logger.Metadata = ["pid": "\(file.processID)"]
    // To connect may take long.
    workers.submit { [exporter] state in
      guard state == .active else { return }
      do throws(ExportError) {
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
          ) { () throws(ExportError) in
            try RingSource(segment, policy: policy)
          })
        logger.info("exporting events", metadata: metadata.merging(["to": "\(name)"]) { $1 })
      } catch {
        logger.warning("\(error)", metadata: metadata)
      }
    }
  }

  /// The segment of a process that may have begun a moment ago: it is half-written then, or has no control file yet.
  /// nil if another file has taken its place: after an exec, which is a beginning of its own.
  private static func open(_ file: SegmentFile) throws(ExportError) -> SharedSegment? {
    var patience = 100
    let path = file.path
    while true {
      do throws(SegmentError) {
        let segment = try SharedSegment(path: path)
        var status = stat()
        guard stat(path.originalPath, &status) == 0, UInt64(status.st_ino) == file.inode else { return nil }
        guard access(EventConsumer.controlPath(ofSegment: path).originalPath, F_OK) != 0, patience > 0 else {
          return segment
        }
      } catch {
        guard patience > 0, access(path.originalPath, F_OK) == 0 else { throw ExportError("\(error)") }
      }
      patience -= 1
      usleep(10_000)
    }
  }

  /// Brings the metrics up to date.
  func publishFigures() {
    published.withLock { published in
      let now = exporter.figures.reading()
      func count(_ name: String, _ labels: [(String, String)], _ field: KeyPath<ExportFigures.Reading, UInt64>) {
        let before = published?[keyPath: field] ?? 0
        Counter(label: name, dimensions: labels).increment(by: Int64(clamping: now[keyPath: field] - before))
      }
      count("allocsd_events_total", [], \.events)
      count("allocsd_events_lost_total", [("reason", "overwritten")], \.eventsOverwritten)
      count("allocsd_events_lost_total", [("reason", "unrecorded")], \.eventsUnrecorded)
      count("allocsd_events_lost_total", [("reason", "no_room")], \.eventsDropped)
      count("allocsd_events_bytes_total", [], \.bytes)
      count("allocsd_events_writes_total", [], \.writes)
      count("allocsd_events_failures_total", [], \.failures)
      count("allocsd_events_turns_total", [], \.turns)
      Meter(label: "allocsd_events_sources").set(Int64(clamping: now.sources))
      Meter(label: "allocsd_events_subscribers").set(Int64(clamping: now.subscribers))
      Meter(label: "allocsd_events_waiting_bytes").set(Int64(clamping: now.waitingBytes))
      published = now
    }
  }
}
