// SPDX-License-Identifier: Apache-2.0
// A worker's export of events: its one loop; the destination of all processes' events, if one was named; and its
// figures. The destination is opened by another process at the broker's word, and comes as a descriptor.

import Bounds
import Broker
import ByteText
import EventExport
import Glibc
import IndexReader
import Logging
import NIOPosix
import Synchronization
import SystemAccess

/// The export of one worker. Thread-safe.
final class Exports: Sendable {
  let exporter: EventExporter
  /// Whether the events of every process are exported.
  let exportsAll: Bool
  private let link: BrokerLink
  private let policy: DeliveryPolicy
  private let workers: NIOThreadPool
  private let logger: Logger
  /// The figures as of the last publication: counters are increased by the difference.
  private let published = Mutex<ExportFigures.Reading?>(nil)

  init(
    allowIOUring: Bool, exportsAll: Bool, policy: DeliveryPolicy, link: BrokerLink, workers: NIOThreadPool,
    logger: Logger
  ) throws(Complaint) {
    self.exportsAll = exportsAll
    self.link = link
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
    guard exportsAll else { return }
    let (logger, policy) = (logger, policy)
    let metadata: Logger.Metadata = ["pid": "\(file.processID)"]
    Task { [exporter, link, workers] in
      do {
        // Until the segment is whole, a thread waits that may wait.
        guard let segment = try await workers.runIfActive({ try Self.open(file) }) else { return }
        var answer = try await Self.destination(of: file, link)
        var patience = 50
        while answer.descriptor == nil, answer.message.value != 0, patience > 0, file.isStillLive {
          patience &-= 1
          try await Task.sleep(for: .milliseconds(100))
          answer = try await Self.destination(of: file, link)
        }
        let words = String(decoding: answer.message.text, as: UTF8.self)
        guard let descriptor = answer.descriptor else { throw Complaint(.obstacle, what: words) }
        let destination = try Destination(adopting: descriptor, name: words)
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
        logger.info("exporting events", metadata: metadata.merging(["to": "\(words)"]) { $1 })
      } catch {
        logger.warning("\(error)", metadata: metadata)
      }
    }
  }

  /// The broker's answer to a request for the destination; with a value other than 0 where it may be another one soon.
  private static func destination(of file: SegmentFile, _ link: BrokerLink) async throws -> BrokerLink.Answer {
    try await link.ask(
      .askDestination, value: UInt64(clamping: file.processID), text: Message.text([file.startTime, file.inode]))
  }

  /// The segment of a process that may have begun a moment ago: until then the segment may be half-written, or have no
  /// control file. Returns nil if another file has taken the segment's place after an exec: the new program is exported
  /// by itself.
  private static func open(_ file: SegmentFile) throws(Complaint) -> SharedSegment? {
    var patience = 100
    let path = file.path
    while true {
      do throws(Complaint) {
        let segment = try QuestionLimits().budget("a segment whose events are exported").run { () throws(Complaint) in
          try SharedSegment(path: path)
        }
        var status = stat()
        guard stat(path.originalPath, &status) == 0, status.st_ino == file.inode else { return nil }
        guard access(EventConsumer.controlPath(ofSegment: path).originalPath, F_OK) != 0, patience > 0 else {
          return segment
        }
      } catch {
        guard patience > 0, access(path.originalPath, F_OK) == 0 else { throw error }
      }
      patience &-= 1
      usleep(10_000)
    }
  }

  /// Brings the metrics up to date.
  func publishFigures() {
    published.withLock { published in
      let now = exporter.figures.reading()
      func added(_ field: KeyPath<ExportFigures.Reading, UInt64>) -> Int64 {
        now.growth(of: field, since: published)
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
