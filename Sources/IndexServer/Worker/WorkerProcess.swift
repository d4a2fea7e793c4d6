// SPDX-License-Identifier: Apache-2.0
// A worker's life. It becomes its user before anything else, and gives up what answering questions doesn't need before
// it reads a byte that anybody else wrote. Then it serves the connections that the broker hands over, until the broker
// says that it is to stop or has gone.

import Answers
import Bounds
import Broker
import CMalloc
import Confinement
import Dispatch
import EventExport
import FileFacts
import Glibc
import Hummingbird
import IndexReader
import Logging
import Metrics
import NIOCore
import NIOPosix
import ServiceLifecycle
import Synchronization
import SystemAccess

/// A value that threads share.
final class Shared<Value: Sendable>: Sendable {
  private let value: Mutex<Value>

  init(_ value: Value) { self.value = Mutex(value) }

  func set(_ new: Value) { value.withLock { $0 = new } }
  func get() -> Value { value.withLock { $0 } }
}

/// What a worker is, beside its options.
struct WorkerPlace: Sendable {
  /// The user whose processes it answers for; nil: the gatherer, which answers for none.
  var user: UInt32?
  /// Whether it is one of several: what concerns other users is asked elsewhere.
  var isOneOfMany: Bool
}

extension Allocsd {
  /// Seconds for which a worker that was told to stop answers requests in progress.
  private static let stopPatience = 4.0

  /// Serves as a worker or the gatherer, and never returns.
  func runWorker() throws -> Never {
    let link = try BrokerLink(adopting: 3)
    Self.ignoreSignals()
    let isOneOfMany = user != nil || role == .gatherer
    let broker = getppid()
    let identity: Identity
    switch role {
    case .gatherer: identity = .ofGatherer
    default: identity = user.map { Identity(ofUser: $0, group: group) } ?? .current()
    }
    // Afterwards the file would be root's.
    Self.name(role.rawValue)
    try become(identity)
    if isOneOfMany, identity.uid == 0 { TrustedFiles.trustRootsOnly() }
    try endWithParent(broker)
    try closeAllDescriptors(but: [0, 1, 2, 3])
    Self.keepFreedMemory()
    takeShortTurns()
    let mayUseRings = export != nil && !noIoUring && EventExporter.isIOUringAllowed
    var limits = Limits()
    limits.allowsRings = mayUseRings
    if export != nil { limits.fileBytes = nil }
    try confine(limits)

    let (logger, metrics) = startLog()
    let loops = MultiThreadedEventLoopGroup(numberOfThreads: min(4, max(2, System.coreCount)))
    let workers = NIOThreadPool(numberOfThreads: role == .gatherer ? 2 : 8)
    workers.start()
    Budget.shareMemory(bytes: Self.memoryOfQuestions(within: limits))
    try Watchdog.endWorker(afterSeconds: max(1, answerWithin.seconds), logger)
    let place = WorkerPlace(user: role == .gatherer ? nil : geteuid(), isOneOfMany: isOneOfMany)
    let worker = try RunningWorker(
      self, place, link: link, loops: loops, workers: workers, mayUseRings: mayUseRings, logger: logger,
      metrics: metrics)
    let serving = DispatchSemaphore(value: 0)
    Task.detached {
      do { try await worker.run() } catch { logger.error("\(error)") }
      serving.signal()
    }
    serving.wait()
    // What still runs is of no use to anybody: the process ends as it is.
    _exit(0)
  }

  func runOpener() throws -> Never {
    let link = try BrokerLink(adopting: 3)
    guard let target = try exportTarget() else { throw Complaint(.usage, what: "the opener needs --export") }
    Self.ignoreSignals()
    Self.name(role.rawValue)
    Opener(target: target, link: link).run()
  }

  private func startLog() -> (Logger, PrometheusMetrics) {
    let level = logLevel
    LoggingSystem.bootstrap { PrintableLogHandler(label: $0, level: level) }
    let metrics = PrometheusMetrics()
    MetricsSystem.bootstrap(metrics)
    Metric.begin()
    return (Logger(label: "allocsd"), metrics)
  }

  /// Keeps memory that was freed, for the next piece of a batch.
  private static func keepFreedMemory() {
    // Each piece of a batch is a megabyte or so; one thread makes it and another frees it. If the memory went back to
    // the kernel each time, its pages would be cleared again for the next piece: a fifth of the work.
    _ = (mallopt(M_MMAP_THRESHOLD, 4 << 20), mallopt(M_TRIM_THRESHOLD, 8 << 20))
    // What an answer's thread has freed stays in that thread's arena, and counts as the worker's. With an arena for
    // each of the pool's threads, or with two, large answers that come one after the other run out of its memory.
    _ = mallopt(M_ARENA_MAX, 1)
  }

  /// The memory of all questions that a worker answers at one time. What remains of its limit is for its own: stacks,
  /// connections, caches, and what an answer takes while a longer one replaces it.
  private static func memoryOfQuestions(within limits: Limits) -> Int { Int(clamping: limits.memoryBytes / 8 * 5) }

  /// The name that tools list for the process: it was executed by a link of another name.
  static func name(_ role: String) {
    let file = open("/proc/self/comm", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return }
    _ = writeAll(Array("allocsd-\(role)".utf8), to: file)
    close(file)
  }

  /// The broker says when a worker stops. A signal of a terminal or of systemd, which all processes get, ends none.
  static func ignoreSignals() { StraySignals.ignore([SIGHUP, SIGINT, SIGTERM]) }

  /// The services of a worker.
  private struct RunningWorker: Sendable {
    let services: [any Service]
    let link: BrokerLink
    let loops: MultiThreadedEventLoopGroup
    let wake: @Sendable () -> Void
    let exporter: EventExporter?

    init(
      _ options: Allocsd, _ place: WorkerPlace, link: BrokerLink, loops: MultiThreadedEventLoopGroup,
      workers: NIOThreadPool, mayUseRings: Bool, logger: Logger, metrics: PrometheusMetrics
    ) throws {
      self.link = link
      self.loops = loops
      let budget = DescriptorBudget.raisingLimit()
      let limits = ConnectionLimits(
        connections: budget.connections, idleSeconds: options.idleTimeout,
        question: QuestionLimits(seconds: options.answerWithin.seconds))
      let open = OpenConnections(limits: limits)
      let liveCount = Shared(0)
      guard let user = place.user else {
        let gatherer = Gatherer(link: link, metrics: metrics)
        let server = ConnectionServer(
          link: link, loops: loops, open: open, responder: gatherer.responder(), limits: limits, logger: logger)
        let idleness = Idleness(link: link, open: open, seconds: options.workerIdle.seconds) { false }
        services = [server, idleness]
        wake = {}
        exporter = nil
        return
      }
      let registry = ProcessRegistry(place: place, user: user, openLimit: options.maxOpenSegments)
      let heldFiles = ProcessView.sharedSymbolizer.heldFiles
      heldFiles.setLimit(budget.heldFiles)
      let exports = try Exports(
        allowIOUring: mayUseRings, exportsAll: options.export != nil,
        policy: options.exportLossless ? .lossless : .overwrite, link: link, workers: workers, logger: logger)
      // Root's questions don't wait for the user's.
      let rootWorkers = place.isOneOfMany ? NIOThreadPool(numberOfThreads: 2) : workers
      if place.isOneOfMany { rootWorkers.start() }
      let routes = Routes(
        place: place, registry: registry, metrics: metrics, limits: limits, workers: workers,
        rootWorkers: rootWorkers, exports: exports, link: link)
      let server = ConnectionServer(
        link: link, loops: loops, open: open, responder: routes.responder(), limits: limits, logger: logger)
      let segments = SegmentService(
        user: user, registry: registry, exports: exports, lookInterval: .seconds(options.lookEvery.seconds),
        liveCount: liveCount, logger: logger)
      // Files that no path leads to are held for live processes.
      let idleness = Idleness(link: link, open: open, seconds: options.workerIdle.seconds) {
        heldFiles.counts.held > 0 && liveCount.get() > 0
      }
      services = [server, idleness, segments]
      wake = segments.wake
      exporter = exports.exporter
    }

    /// Runs until the broker says that it is to stop.
    func run() async throws {
      var quiet = Logger(label: "lifecycle")
      quiet.logLevel = .error
      let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(services: services, logger: quiet))
      link.begin(
        loops: Array(loops.makeIterator()), onLook: wake,
        onStop: {
          Task { await group.triggerGracefulShutdown() }
          // A client that reads slowly, or not at all, must not keep the worker from ending.
          DispatchQueue.global().asyncAfter(deadline: .now() + stopPatience) { _exit(0) }
        })
      try await group.run()
      exporter?.stop()
    }
  }
}

/// Tells the broker when the worker has had nothing to do for a while.
private struct Idleness: Service {
  let link: BrokerLink
  let open: OpenConnections
  let seconds: Double
  /// Whether the worker is needed though nobody is connected.
  let isNeeded: @Sendable () -> Bool

  func run() async throws {
    try? await cancelWhenGracefulShutdown {
      var since = ContinuousClock.now
      while !Task.isCancelled {
        try await Task.sleep(for: .seconds(max(0.1, min(5, seconds / 4))))
        if open.count > 0 || open.takeActivity() || isNeeded() {
          since = .now
        } else if since.duration(to: .now) >= .seconds(seconds) {
          link.idle()
        }
      }
    }
  }
}
