// SPDX-License-Identifier: Apache-2.0
// A worker's looks at its user's segments: events of new processes are exported, files that names are read from are
// held open, and segments that are gone are closed. The broker says when to look; it alone follows the directories.

import Answers
import Bounds
import Glibc
import IndexReader
import Logging
import ServiceLifecycle
import SystemAccess

/// Looks at the segments until a graceful shutdown.
struct SegmentService: Service {
  let user: UInt32
  let registry: ProcessRegistry
  let exports: Exports
  /// The longest time between two looks.
  let lookInterval: Duration
  let liveCount: Shared<Int>
  let logger: Logger
  let wakeups = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))

  /// Has the service look soon.
  var wake: @Sendable () -> Void { { [continuation = wakeups.continuation] in continuation.yield() } }

  func run() async throws {
    let timer = Task { [wake, lookInterval] in
      while !Task.isCancelled {
        wake()
        try await Task.sleep(for: lookInterval)
      }
    }
    defer { timer.cancel() }
    var keeper = FileKeeper(ProcessView.sharedSymbolizer.heldFiles)
    var live: [String: UInt64] = [:]
    for await _ in wakeups.stream.cancelOnGracefulShutdown() {
      // A look that is cut short is made good by the next one.
      try? QuestionLimits().budget("a look at the segments").run { () throws(Complaint) in look(&keeper, &live) }
      if keeper.isEarly {
        Task { [wake] in
          try await Task.sleep(for: .milliseconds(200))
          wake()
        }
      }
      // Where hundreds of processes start each second, a look at all segments for each of them would be most of the
      // work.
      try? await Task.sleep(for: .milliseconds(50))
    }
  }

  private func look(_ keeper: inout FileKeeper, _ live: inout [String: UInt64]) {
    registry.forgetMissing()
    let files: [SegmentFile]
    do {
      files = try SegmentDirectory.list().filter { $0.ownerID == user }
    } catch {
      logger.warning("\(error)")
      return
    }
    let running = files.filter(\.isLive)
    // A program that replaces itself by exec makes another file with the same name.
    for file in running where live[file.path] != file.inode { exports.begin(file) }
    keeper.look(at: files)
    live = Dictionary(running.lazy.map { ($0.path, $0.inode) }) { $1 }
    liveCount.set(running.count)
    Metric.Level.segments.set(Double(running.count), "live")
    Metric.Level.segments.set(Double(files.count - running.count), "dead")
    Metric.Level.segmentBytes.set(files.reduce(0) { $0 + Double($1.allocatedBytes) })
  }
}
