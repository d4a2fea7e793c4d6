// SPDX-License-Identifier: Apache-2.0
// Follows the directories of segments: notices segments that appear and disappear, notes with each segment how its
// process ended, and removes segments of dead processes by the retention policy.

import Answers
import Dispatch
import Glibc
import IndexReader
import Logging
import ServiceLifecycle
import SystemAccess

/// Watches the directories of segments until a graceful shutdown.
struct DirectoryService: Service {
  let registry: ProcessRegistry
  let retention: RetentionPolicy
  /// The longest time between two looks at the directories: not every death wakes the service (EndingWatcher.swift).
  let lookInterval: Duration
  /// Processes whose ends may be watched at a time.
  let watchLimit: Int
  let exports: Exports
  let logger: Logger

  init(
    registry: ProcessRegistry, retention: RetentionPolicy, lookInterval: Duration, watchLimit: Int, exports: Exports,
    logger: Logger
  ) {
    self.registry = registry
    self.retention = retention
    self.lookInterval = lookInterval
    self.watchLimit = watchLimit
    self.exports = exports
    self.logger = logger
  }

  func run() async throws {
    let wakeups = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
    let timer = Task {
      while !Task.isCancelled {
        try await Task.sleep(for: lookInterval)
        wakeups.continuation.yield()
      }
    }
    defer { timer.cancel() }

    let wake: @Sendable () -> Void = { wakeups.continuation.yield() }
    let hangUps = HangUps {
      logger.info("SIGHUP: there is nothing to read again, as all options are given at the start; looking for segments")
      wake()
    }
    defer { hangUps.cancel() }
    var endings: EndingWatcher?
    var deaths: Readiness?
    defer { deaths?.cancel() }
    do {
      let watcher = try EndingWatcher(limit: watchLimit)
      deaths = try Readiness(of: watcher.descriptor, wake)
      endings = watcher
    } catch {
      logger.warning("\(error); how processes end will not be known")
    }

    let directories = SegmentDirectory.searchPaths
    do {
      let watcher = try ArrivalWatcher(directories, arrived: { [endings] in endings?.watchArrival($0) }, wake: wake)
      logger.info("watching for segments", metadata: ["directories": "\(directories.joined(separator: " "))"])
      await keepUp(wakeups.stream, endings, wake) { watcher.takeChanges() }
    } catch {
      logger.warning("\(error); segments are noticed every \(lookInterval) only")
      await keepUp(wakeups.stream, endings, wake) { [.unknown] }
    }
  }

  /// The knowledge that is kept from one look to the next.
  private struct Memory {
    /// The segments of running processes: the inode by path.
    var live: [String: UInt64] = [:]
    /// The paths of the segments of ended processes. Nil before the first look: of processes that ended before it,
    /// nobody asks how.
    var dead: Set<String>?
    var marks = SweeperMarks()
    let threadEnds = ThreadEnds()
    var keeper: FileKeeper
  }

  /// Looks at the directories now and at each wake-up, until a graceful shutdown.
  private func keepUp(
    _ wakeups: AsyncStream<Void>, _ endings: EndingWatcher?, _ wake: @escaping @Sendable () -> Void,
    changes: () -> [DirectoryChange]
  ) async {
    var memory = Memory(keeper: FileKeeper(ProcessView.sharedSymbolizer.heldFiles))
    look(&memory, endings)
    for await _ in wakeups.cancelOnGracefulShutdown() {
      for change in changes() {
        switch change {
        case .disappeared(let path): registry.forget(path)
        case .unknown: registry.forgetMissing()
        case .appeared: break
        }
      }
      look(&memory, endings)
      if memory.keeper.isEarly {
        DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(200), execute: wake)
      }
      // Where hundreds of processes start each second, a look at all segments for each of them would be most of the
      // work.
      try? await Task.sleep(for: .milliseconds(50))
    }
  }

  /// Compares the segments with those of the last look, and sweeps.
  private func look(_ memory: inout Memory, _ endings: EndingWatcher?) {
    memory.marks.renew(in: SegmentDirectory.searchPaths)
    memory.threadEnds?.take()
    for (file, ending) in endings?.ended() ?? [] { note(ending ?? memory.threadEnds?.ending(of: file), file) }
    let swept = SegmentDirectory.sweep(retention)
    for file in swept.removed {
      registry.forget(file.path)
      logger.info("removed the segment of a dead process", metadata: Self.metadata(file))
    }
    Metric.Count.segmentsRemoved.increment(by: Int64(swept.removed.count))
    for (path, why) in swept.failed {
      logger.warning("cannot remove the segment of a dead process: \(why)", metadata: ["segment": "\(path)"])
    }

    let files: [SegmentFile]
    do {
      files = try SegmentDirectory.list()
    } catch {
      // The memory stays as it is: processes have not ended because nobody could look.
      logger.warning("\(error)")
      return
    }
    let running = files.filter(\.isLive)
    // A program that replaces itself by exec makes another file with the same name.
    for file in running where memory.live[file.path] != file.inode {
      logger.info("process is indexed", metadata: Self.metadata(file))
      exports.begin(file)
      guard SegmentFile.mayBeNoted(file) else { continue }
      switch endings.map({ $0.watch(file) }) ?? .system(ENOSYS) {
      case nil: break
      case .tooMany: missed("cannot learn how the process ends", .tooMany, file)
      case .gone:
        // A live process that can't be seen here runs in a pid namespace that this server's namespace does not hold.
        let isLive = (try? SegmentDirectory.file(at: file.path))?.isLive == true
        if !isLive, let ending = memory.threadEnds?.ending(of: file) {
          note(ending, file)
        } else {
          missed("how the process ends is not known", isLive ? .notVisible : .notSeen, file)
        }
      case .system(let code):
        missed("cannot learn how the process ends: \(systemWords(code))", .notTold, file)
      }
    }
    let dead = files.filter { !$0.isLive }
    for file in dead where memory.live[file.path] != nil {
      var metadata = Self.metadata(file)
      metadata["ending"] = ProcessEnding(ofSegment: file.path).map { "\($0)" }
      logger.info("process ended", metadata: metadata)
    }
    // Processes that ended since the last look and were not watched.
    if let known = memory.dead {
      for file in dead
      where !known.contains(file.path) && SegmentFile.mayBeNoted(file)
        && endings?.isWatching(file.path) != true && ProcessEnding(ofSegment: file.path) == nil
      {
        if let ending = memory.threadEnds?.ending(of: file) {
          note(ending, file)
        } else if UnknownEnding(ofSegment: file.path) == nil {
          missed("how the process ended is not known", .notSeen, file)
        }
      }
    }
    memory.keeper.look(at: files)
    memory.dead = Set(dead.lazy.map(\.path))
    memory.live = Dictionary(running.lazy.map { ($0.path, $0.inode) }) { $1 }
    Metric.Level.segments.set(Double(running.count), "live")
    Metric.Level.segments.set(Double(files.count - running.count), "dead")
    Metric.Level.segmentBytes.set(files.reduce(0) { $0 + Double($1.allocatedBytes) })
  }

  private func note(_ ending: ProcessEnding?, _ file: SegmentFile) {
    guard let ending else { return missed("how the process ended is not known: that takes Linux 6.15", .notTold, file) }
    let failure = ending.note(with: file)
    // A segment that is gone needs no note.
    guard failure != 0, failure != ENOENT else { return }
    Metric.Count.endingsUnknown.increment()
    logger.debug(
      "cannot note how the process ended, \(ending): \(systemWords(failure))", metadata: Self.metadata(file))
  }

  private func missed(_ why: String, _ reason: UnknownEnding, _ file: SegmentFile) {
    Metric.Count.endingsUnknown.increment()
    reason.note(with: file)
    logger.debug("\(why): \(reason)", metadata: Self.metadata(file))
  }

  private static func metadata(_ file: SegmentFile) -> Logger.Metadata {
    ["pid": "\(file.processID)", "segment": "\(file.path)"]
  }
}

/// Calls a handler whenever a descriptor has something to read. It watches a duplicate, so the descriptor's owner may
/// close it at any time.
private struct Readiness {
  private let source: any DispatchSourceRead

  init(of descriptor: Int32, _ handler: @escaping @Sendable () -> Void) throws(Complaint) {
    let duplicate = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard duplicate >= 0 else {
      throw Complaint(.obstacle, what: "cannot wait for new segments: \(systemWords(errno))", code: errno)
    }
    source = DispatchSource.makeReadSource(fileDescriptor: duplicate)
    source.setEventHandler(handler: handler)
    source.setCancelHandler { close(duplicate) }
    source.resume()
  }

  func cancel() { source.cancel() }
}

/// The marks by which the server says that it sweeps the directories itself (SweeperMark.swift).
private final class SweeperMarks {
  private final class Holder {
    let mark: SweeperMark
    init(_ mark: consuming SweeperMark) { self.mark = mark }
  }

  private var held: [String: Holder] = [:]

  /// Puts a mark into each of `directories` that has none: also into a directory that was removed and made again.
  func renew(in directories: [String]) {
    for directory in directories where held[directory]?.mark.isInPlace != true {
      held[directory] = nil
      if let mark = SweeperMark(in: directory) { held[directory] = Holder(mark) }
    }
  }
}

/// Calls a handler for each SIGHUP, which would otherwise end the server.
private struct HangUps {
  private let source: any DispatchSourceSignal

  init(_ handler: @escaping @Sendable () -> Void) {
    source = DispatchSource.makeSignalSource(signal: SIGHUP)
    source.setEventHandler(handler: handler)
    source.resume()
  }

  func cancel() { source.cancel() }
}
