// allocsd: answers questions about the indexed processes of this machine, over HTTP on a Unix socket.
//
// It runs as who started it, in the foreground: it never changes its user and never forks. What it may read is what
// that user may read; what it tells whom is decided by who asks.

import Answers
import ArgumentParser
import ByteText
import CMalloc
import EventExport
import Glibc
import IndexReader
import Logging
import Metrics
import NIOPosix
import ServerProtocol
import ServiceLifecycle

@main
struct Allocsd: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "allocsd",
    abstract: "Answer questions about the allocations of indexed processes, over HTTP on a Unix socket.",
    usage: "allocsd [--socket <path>] [<options>]",
    discussion: """
      The server finds the segments in $ALLOCS_DIR, else in /run/allocs and /dev/shm/allocs, and notices by itself when \
      programs start under the agent. It answers a caller who is root or the user of the process asked about. SIGTERM \
      stops it when the requests in progress are answered; SIGHUP is noted in the log, as there is nothing to read again.

      Examples:
        allocsd
        allocsd --socket /tmp/mine.sock --keep-dead-for 1h
        curl --unix-socket /dev/shm/allocs/allocsd.sock http://localhost/v1/processes
      """,
    version: allocsVersion)

  @Option(
    help: .init(
      "Listen here, if systemd passed no socket (default: $ALLOCS_SOCKET, else allocsd.sock in /run/allocs or /dev/shm/allocs).",
      valueName: "path"))
  var socket: String?

  @Option(help: .init("Log messages of this level and above."))
  var logLevel: Logger.Level = .info

  @Option(
    help: .init(
      "Remove a segment this long after its process ended: a number with s, m, h or d, or \"forever\".",
      valueName: "time"))
  var keepDeadFor: KeepTime = KeepTime(seconds: 24 * 3600)

  @Option(
    help: .init(
      "Remove the oldest segments of ended processes while all of them take more: a number with K, M, G or T, or \"unlimited\".",
      valueName: "size"))
  var keepDeadSize: KeepSize = KeepSize(bytes: 1 << 30)

  @Option(
    help: .init(
      "Remove the oldest segments of ended processes while there are more: a number, or \"unlimited\".",
      valueName: "number"))
  var keepDeadCount: KeepCount = KeepCount(number: 1000)

  @Option(
    help: .init(
      "Look for ended processes this often, besides whenever something happens: a number with s, m, h or d.",
      valueName: "time"))
  var lookEvery: KeepTime = KeepTime(seconds: 10)

  @Option(help: .init("Close connections that are idle for this long, in seconds.", valueName: "seconds"))
  var idleTimeout: Int64 = 60

  @Option(
    help: .init(
      "Open connections of all users other than root; at most a quarter of the limit of open files.",
      valueName: "number"))
  var maxConnections: Int = 512

  @Option(help: .init("Open connections of one user other than root.", valueName: "number"))
  var maxConnectionsPerUser: Int = 64

  @Option(help: .init("Segments kept open between requests.", valueName: "number"))
  var maxOpenSegments: Int = 64

  @Option(
    help: .init(
      "Turn the events of every process on, and write them here: a file with {pid} in its name, unix:PATH, or tcp:HOST:PORT; see docs/events.md.",
      valueName: "destination"))
  var export: String?

  @Flag(help: "With --export: processes wait, a tenth of a second at most, rather than lose events.")
  var exportLossless = false

  @Flag(help: "Export events by plain system calls, as also with ALLOCSD_IO_URING=0.")
  var noIoUring = false

  /// Parses and runs, in place of the library's own: arguments are bytes, and errors have one line, as allocsctl's.
  static func main() async {
    do {
      var command = try parseAsRoot(CommandLine.argumentsReversibly)
      if let server = command as? Allocsd { try await server.run() } else { try command.run() }
    } catch {
      end(with: error)
    }
  }

  private static func end(with error: any Error) -> Never {
    let status = exitCode(for: error)
    if status.isSuccess {
      // --help, --version, completion scripts.
      print(fullMessage(for: error))
    } else if !message(for: error).isEmpty {
      var what = message(for: error).split(whereSeparator: \.isNewline).joined(separator: " ")
      while what.hasSuffix(".") { what.removeLast() }
      complain(what.contains(" — ") ? what : "\(what) — see `allocsd --help`")
    }
    Glibc.exit(status.rawValue)
  }

  func validate() throws {
    if let export {
      do throws(ExportError) { _ = try ExportTarget(export) } catch { throw ValidationError("--export: \(error)") }
    } else if exportLossless {
      throw ValidationError("--export-lossless says how to --export: give that, too.")
    }
    guard (1...86400).contains(lookEvery.seconds) else { throw ValidationError("--look-every must be 1s to 1d.") }
    guard (1...86400).contains(idleTimeout) else { throw ValidationError("--idle-timeout must be 1 to 86400 seconds.") }
    guard (1...100_000).contains(maxConnections), (1...100_000).contains(maxConnectionsPerUser) else {
      throw ValidationError("A number of connections must be 1 to 100000.")
    }
    // Each segment takes 517 GiB of the 128 TiB of address space.
    guard (1...200).contains(maxOpenSegments) else { throw ValidationError("--max-open-segments must be 1 to 200.") }
  }

  func run() async throws {
    Self.ignoreSignals()
    // Each piece of a batch is a megabyte or so, made on one thread and let go of on another. Given back to the kernel
    // each time, its pages would be cleared again for the next: a fifth of the work.
    _ = (mallopt(M_MMAP_THRESHOLD, 4 << 20), mallopt(M_TRIM_THRESHOLD, 8 << 20))
    let level = logLevel
    LoggingSystem.bootstrap { PrintableLogHandler(label: $0, level: level) }
    let metrics = PrometheusMetrics(help: Self.help)
    MetricsSystem.bootstrap(metrics)
    let logger = Logger(label: "allocsd")

    let budget = DescriptorBudget.raisingLimit()
    if maxConnections > budget.connectionsOfUsers {
      logger.warning(
        "no more than \(budget.connectionsOfUsers) connections instead of \(maxConnections): \(budget.limit) files may be open — raise the limit of open files (LimitNOFILE=)"
      )
    }
    var listening: ListeningSocket
    do throws(SocketError) {
      listening = try ListeningSocket.open(at: SocketLocation.named(socket) ?? SocketLocation.serverDefault)
    } catch {
      complain(error.description)
      throw ExitCode(1)
    }
    guard let descriptor = listening.takeDescriptor() else { return }
    let place = listening.place

    let registry = ProcessRegistry(openLimit: maxOpenSegments)
    ProcessView.sharedSymbolizer.heldFiles.setLimit(budget.heldFiles)
    let limits = ConnectionLimits(
      connections: min(maxConnections, budget.connectionsOfUsers), connectionsOfOneUser: maxConnectionsPerUser,
      connectionsWithRoot: budget.connections, idleSeconds: idleTimeout)
    let workers = NIOThreadPool(numberOfThreads: 8)
    workers.start()
    let exports: Exports
    do throws(ExportError) {
      var target: ExportTarget?
      if let export { target = try ExportTarget(export) }
      exports = try Exports(
        allowIOUring: !noIoUring && EventExporter.isIOUringAllowed, target: target,
        policy: exportLossless ? .lossless : .overwrite, workers: workers, logger: logger)
    } catch {
      complain(error.description)
      throw ExitCode(1)
    }
    let routes = Routes(registry: registry, metrics: metrics, limits: limits, workers: workers, exports: exports)
    let server = ConnectionServer(
      descriptor: descriptor, responder: routes.responder(), limits: limits, logger: logger
    ) {
      logger.info("serving", metadata: ["socket": "\(place)", "uid": "\(getuid())"])
      Notification.ready.send()
    }
    let directories = DirectoryService(
      registry: registry,
      retention: RetentionPolicy(
        maximumAge: keepDeadFor.seconds, maximumBytes: keepDeadSize.bytes, maximumCount: keepDeadCount.number),
      lookInterval: .seconds(lookEvery.seconds), watchLimit: budget.watchedProcesses, exports: exports, logger: logger)
    // The library logs each step of each service.
    var lifecycle = Logger(label: "lifecycle")
    lifecycle.logLevel = max(logLevel, .notice)
    var configuration = ServiceGroupConfiguration(
      services: [directories, server], gracefulShutdownSignals: [.sigterm, .sigint], logger: lifecycle)
    // A client that reads slowly, or not at all, must not keep the server from ending.
    configuration.maximumGracefulShutdownDuration = .seconds(5)
    configuration.maximumCancellationDuration = .seconds(5)
    try await ServiceGroup(configuration: configuration).run()
    exports.exporter.stop()
    Notification.stopping.send()
    withExtendedLifetime(listening) {}
    logger.info("stopped")
  }

  /// Lets no signal end the server but those that are there for it: SIGTERM and SIGINT, in order, and SIGQUIT and those
  /// of faults.
  private static func ignoreSignals() {
    // A client that goes away while it is written to is an error of that write. A SIGHUP is noted
    // (DirectoryService.swift); the others mean nothing to it, and a stray one, or a script that has the wrong process,
    // must do no harm.
    for number in [SIGPIPE, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT] {
      signal(number, SIG_IGN)
    }
    for number in __libc_current_sigrtmin()...__libc_current_sigrtmax() { signal(number, SIG_IGN) }
  }

  private static let help = [
    "allocsd_requests_total": "Requests answered, by route and status.",
    "allocsd_request_duration_seconds": "Time until the response began, by route.",
    "allocsd_addresses_total": "Addresses answered.",
    "allocsd_connections": "Open connections.",
    "allocsd_connections_refused_total": "Connections refused because too many were open.",
    "allocsd_connections_delayed_total": "Failures to accept a connection for want of descriptors: it waits.",
    "allocsd_segments": "Segments in the directories, by whether their process lives.",
    "allocsd_segments_bytes": "Memory that all segments take.",
    "allocsd_files_held": "Files held open for names, that no path leads to.",
    "allocsd_files_unheld": "Files that found no room among those.",
    "allocsd_segments_open": "Segments that are mapped at present.",
    "allocsd_endings_unknown_total": "Processes of which it could not be learned or noted how they ended.",
    "allocsd_segments_removed_total": "Segments of dead processes that were removed.",
    "allocsd_events_total": "Events read from the rings of processes.",
    "allocsd_events_lost_total": "Events lost: overwritten before they were read, not recorded, or without room.",
    "allocsd_events_bytes_total": "Bytes of events that destinations took.",
    "allocsd_events_writes_total": "Writes of events to destinations.",
    "allocsd_events_failures_total": "Exports and streams that ended by a failure, and full disks.",
    "allocsd_events_turns_total": "Looks at the rings of all processes.",
    "allocsd_events_sources": "Processes whose events are on, once for each reader's place in their rings.",
    "allocsd_events_subscribers": "Streams and exports of events at present.",
    "allocsd_events_waiting_bytes": "Bytes of events that wait for their destinations.",
  ]
}

/// Writes one line to standard error, without what a terminal would act upon.
private func complain(_ message: String) {
  let line = Array("allocsd: \(TextLayout.printable(message))\n".utf8)
  _ = write(STDERR_FILENO, line, line.count)
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
