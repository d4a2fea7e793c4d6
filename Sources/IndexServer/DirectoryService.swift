// Keeps up with the directories of segments: notices segments that appear and go, and removes those of dead processes
// by the retention policy.

import Dispatch
import Glibc
import IndexReader
import Logging
import Metrics
import ServerProtocol
import ServiceLifecycle

/// Watches the directories of segments until a graceful shutdown.
struct DirectoryService: Service {
  let registry: ProcessRegistry
  let retention: RetentionPolicy
  let exports: Exports
  let logger: Logger

  /// Deaths make no event in the directory, so it is looked at now and then as well.
  private static let sweepInterval = Duration.seconds(10)

  init(registry: ProcessRegistry, retention: RetentionPolicy, exports: Exports, logger: Logger) {
    self.registry = registry
    self.retention = retention
    self.exports = exports
    self.logger = logger
  }

  func run() async throws {
    let wakeups = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    let timer = Task {
      while !Task.isCancelled {
        try await Task.sleep(for: Self.sweepInterval)
        wakeups.continuation.yield()
      }
    }
    defer { timer.cancel() }

    let directories = SegmentDirectory.searchPaths
    do {
      var watcher = try DirectoryWatcher(directories)
      logger.info("watching for segments", metadata: ["directories": "\(directories.joined(separator: " "))"])
      let readiness = try Readiness(of: watcher.descriptor) { wakeups.continuation.yield() }
      defer { readiness.cancel() }
      await keepUp(wakeups.stream) { watcher.changes() }
    } catch let error as SocketError {
      logger.warning("\(error); segments are noticed every \(Self.sweepInterval) only")
      await keepUp(wakeups.stream) { [.unknown] }
    }
  }

  /// Looks at the directories now and at each wake-up, until a graceful shutdown.
  private func keepUp(_ wakeups: AsyncStream<Void>, changes: () -> [DirectoryChange]) async {
    var live: [String: UInt64] = [:]
    look(&live)
    for await _ in wakeups.cancelOnGracefulShutdown() {
      for change in changes() {
        switch change {
        case .disappeared(let path): registry.forget(path)
        case .unknown: registry.forgetMissing()
        case .appeared: break
        }
      }
      look(&live)
      // Where processes start by the hundred a second, a look at all segments for each would be most of the work.
      try? await Task.sleep(for: .milliseconds(50))
    }
  }

  /// Compares what there is with `live`, the segments of running processes at the last look, paths and inodes, and sweeps.
  private func look(_ live: inout [String: UInt64]) {
    let swept = SegmentDirectory.sweep(retention)
    for file in swept.removed {
      registry.forget(file.path)
      logger.info("removed the segment of a dead process", metadata: Self.metadata(file))
    }
    Counter(label: "allocsd_segments_removed_total").increment(by: swept.removed.count)
    for (path, why) in swept.failed {
      logger.warning("cannot remove the segment of a dead process: \(why)", metadata: ["segment": "\(path)"])
    }

    let files: [SegmentFile]
    do {
      files = try SegmentDirectory.list()
    } catch {
      // What was known stays so: processes have not ended because nobody could look.
      logger.warning("\(error)")
      return
    }
    let running = files.filter(\.isLive)
    // A program that replaces itself by exec makes another file with the same name.
    for file in running where live[file.path] != file.inode {
      logger.info("process is indexed", metadata: Self.metadata(file))
      exports.begin(file)
    }
    for file in files where !file.isLive && live[file.path] != nil {
      logger.info("process ended", metadata: Self.metadata(file))
    }
    live = Dictionary(running.lazy.map { ($0.path, $0.inode) }) { $1 }
    Meter(label: "allocsd_segments", dimensions: [("process", "live")]).set(running.count)
    Meter(label: "allocsd_segments", dimensions: [("process", "dead")]).set(files.count - running.count)
    Meter(label: "allocsd_segments_bytes").set(files.reduce(0) { $0 + Double($1.allocatedBytes) })
  }

  private static func metadata(_ file: SegmentFile) -> Logger.Metadata {
    ["pid": "\(file.processID)", "segment": "\(file.path)"]
  }
}

/// Calls a handler whenever a descriptor has something to read. It watches a duplicate, so the descriptor's owner may
/// close it at any time.
private struct Readiness {
  private let source: any DispatchSourceRead

  init(of descriptor: Int32, _ handler: @escaping @Sendable () -> Void) throws(SocketError) {
    let duplicate = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard duplicate >= 0 else {
      throw SocketError(code: errno, "cannot wait for new segments: \(SocketError.words(errno))")
    }
    source = DispatchSource.makeReadSource(fileDescriptor: duplicate)
    source.setEventHandler(handler: handler)
    source.setCancelHandler { close(duplicate) }
    source.resume()
  }

  func cancel() { source.cancel() }
}
