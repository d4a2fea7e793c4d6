// SPDX-License-Identifier: Apache-2.0
// allocsd: answers questions about the indexed processes of this machine, over HTTP on a Unix socket.
//
// One program, in several roles. The process that is started is the broker (Sources/Broker): it accepts connections and
// hands each to a worker, which is this program again, as the user who asks (Worker/WorkerProcess.swift). Who asks
// decides what is answered.

import Answers
import ArgumentParser
import Broker
import ByteText
import EventExport
import Glibc
import IndexReader
import Logging
import ServerProtocol
import SystemAccess

/// What a process of this program is.
enum Role: String, ExpressibleByArgument {
  case broker, worker, gatherer, opener, front
}

@main
struct Allocsd: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "allocsd",
    abstract: "Answer questions about the allocations of indexed processes, over HTTP on a Unix socket.",
    usage: "allocsd [--socket <path>] [<options>]",
    discussion: """
      The server finds the segments in $ALLOCS_DIR, else in /run/allocs and /dev/shm/allocs, and notices by itself \
      when programs start under the agent. It answers a caller who is root or the user of the process asked about: \
      started by root, by a process of that user's for each user who asks. SIGTERM stops it when the requests in \
      progress are answered; SIGHUP is noted in the log, as there is nothing to \
      read again.

      Examples:
        allocsd
        allocsd --socket /tmp/mine.sock --keep-dead-for 1h
        curl --unix-socket /dev/shm/allocs/allocsd.sock http://localhost/v1/processes
      """,
    version: allocsVersion)

  @Option(
    help: .init(
      """
      Listen here, if systemd passed no socket (default: $ALLOCS_SOCKET, else allocsd.sock in /run/allocs or \
      /dev/shm/allocs).
      """,
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
      """
      Remove the oldest segments of ended processes while all of them take more: a number with K, M, G or T, or \
      "unlimited".
      """,
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
      """
      Turn the events of every process on, and write them here: a file with {pid} in its name, unix:PATH, or \
      tcp:HOST:PORT; see docs/events.md.
      """,
      valueName: "destination"))
  var export: String?

  @Flag(help: "With --export: processes wait, a tenth of a second at most, rather than lose events.")
  var exportLossless = false

  @Flag(help: "Export events by plain system calls, as also with ALLOCSD_IO_URING=0.")
  var noIoUring = false

  @Option(
    help: .init(
      """
      Serve the page and all else over TCP, too, to whoever has the token: an address of this machine and a port, \
      127.0.0.1:8080. A link with the token is printed once.
      """,
      valueName: "address:port"))
  var listen: String?

  @Option(
    help: .init(
      "Take the token from this file's first line, and don't print it; needed for addresses that others reach.",
      valueName: "file"),
    completion: .file())
  var tokenFile: String?

  @Option(
    help: .init(
      "A user's worker ends after this long without connections: a number with s, m, h or d.", valueName: "time"))
  var workerIdle: KeepTime = KeepTime(seconds: 30)

  @Option(
    help: .init(
      """
      End a question that takes longer, and each piece of a list of answers: a number with ms, s or m. A worker in \
      which a question can't be ended after as long again ends itself.
      """, valueName: "time"))
  var answerWithin: KeepTime = KeepTime(seconds: 30)

  @Option(help: .hidden)
  var workerPatience: KeepTime = KeepTime(seconds: 10)

  @Option(help: .hidden)
  var role: Role = .broker

  @Option(help: .hidden)
  var user: UInt32?

  @Option(help: .hidden)
  var group: UInt32?

  /// Parses and runs, in place of the library's own `main`: arguments are bytes, and an error has one line, as those of
  /// allocsctl.
  static func main() {
    do {
      var command = try parseAsRoot(CommandLine.argumentsReversibly)
      try command.run()
    } catch {
      end(with: error)
    }
  }

  private static func end(with error: any Error) -> Never {
    if let complaint = error as? Complaint {
      complain(complaint.description)
      // EX_USAGE of sysexits.h, as the library itself ends with.
      Glibc.exit(complaint.kind == .usage ? 64 : 1)
    }
    let status = exitCode(for: error)
    if status.isSuccess {
      // --help, --version, completion scripts.
      print(fullMessage(for: error))
    } else if !message(for: error).isEmpty {
      var what = message(for: error).split(whereSeparator: \.isNewline).joined(separator: " ")
      while what.hasSuffix(".") { what.removeLast() }
      complain("\(what) — see `allocsd --help`")
    }
    Glibc.exit(status.rawValue)
  }

  func validate() throws {
    if export == nil, exportLossless {
      throw ValidationError("--export-lossless says how to --export: give that, too.")
    }
    if listen == nil, tokenFile != nil {
      throw ValidationError("--token-file is for --listen: give that, too.")
    }
    guard (1...86400).contains(lookEvery.seconds) else { throw ValidationError("--look-every must be 1s to 1d.") }
    guard (1...86400).contains(workerPatience.seconds) else {
      throw ValidationError("--worker-patience must be 1s to 1d.")
    }
    guard (0.1...86400).contains(workerIdle.seconds) else {
      throw ValidationError("--worker-idle must be 1s to 1d.")
    }
    guard (0.01...3600).contains(answerWithin.seconds) else {
      throw ValidationError("--answer-within must be 10ms to 60m.")
    }
    guard (1...86400).contains(idleTimeout) else { throw ValidationError("--idle-timeout must be 1 to 86400 seconds.") }
    guard (1...100_000).contains(maxConnections), (1...100_000).contains(maxConnectionsPerUser) else {
      throw ValidationError("A number of connections must be 1 to 100000.")
    }
    // Each segment takes 517 GiB of the 128 TiB of address space.
    guard (1...200).contains(maxOpenSegments) else { throw ValidationError("--max-open-segments must be 1 to 200.") }
  }

  // MARK: serving

  func run() throws {
    switch role {
    case .broker: try runBroker()
    case .worker, .gatherer: try runWorker()
    case .opener: try runOpener()
    case .front: try runFront()
    }
  }

  private func runBroker() throws {
    _ = try exportTarget()
    var options = BrokerOptions()
    options.retention = RetentionPolicy(
      maximumAge: keepDeadFor.seconds, maximumBytes: keepDeadSize.bytes, maximumCount: keepDeadCount.number)
    options.lookInterval = lookEvery.seconds
    options.connections = maxConnections
    options.connectionsOfOneUser = maxConnectionsPerUser
    options.exportsEvents = export != nil
    options.workerPatience = workerPatience.seconds
    options.logLevel = LogLevel(rawValue: logLevel.rawValue) ?? .info
    options.arguments = CommandLine.argumentsReversibly
    options.front = try front()
    let broker = try Broker(
      socketPath: SocketLocation.named(socket) ?? SocketLocation.serverDefault, options: options)
    broker.run()
  }

  /// The destination of all events that --export names; nil without that option.
  func exportTarget() throws(Complaint) -> ExportTarget? {
    guard let export else { return nil }
    do throws(Complaint) {
      return try ExportTarget(export)
    } catch {
      var error = error
      error.what = "--export: \(error.what)"
      throw error
    }
  }
}

/// Writes one line to standard error, without characters that a terminal would act upon.
private func complain(_ message: String) {
  _ = writeAll(Array("allocsd: \(TextLayout.printable(message))\n".utf8), to: STDERR_FILENO)
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
