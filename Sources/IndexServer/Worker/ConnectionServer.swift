// SPDX-License-Identifier: Apache-2.0
// Serves Hummingbird's responder on a socket that is already bound.
//
// Hummingbird's own server binds its address itself. So it can serve neither a socket that systemd passed nor a socket
// whose file must not be replaced while another server lives. The part of it that handles one connection is public and
// is used here: HTTP1Channel turns a connection into requests and responses.
//
// - A connection belongs to the user who opened it (SO_PEERCRED). Each request's context carries that user.
// - Connections are limited, in all and for each user, and are closed when idle. A client that opens many connections
//   and says nothing keeps nobody else out, and leaves descriptors for the answers (DescriptorBudget.swift).
// - Where descriptors are short, new connections wait in the socket's queue until some are free.

import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import ServerProtocol
import ServiceLifecycle
import Synchronization
import SystemAccess

/// The limits of connections and requests.
struct ConnectionLimits: Sendable {
  /// Open connections of all users other than root together, and of one such user.
  var connections = 512
  var connectionsOfOneUser = 64
  /// Open connections in all, root's included.
  var connectionsWithRoot = 1024
  /// Seconds after which a connection is closed while no request is in progress on it, or while a request has begun and
  /// doesn't go on.
  var idleSeconds: Int64 = 60
  /// Bytes of a request's body: about four million addresses.
  var bodySize = 64 << 20
}

/// Accepts connections and answers their requests until a graceful shutdown.
struct ConnectionServer<Responder: HTTPResponder>: Service where Responder.Context == CallerContext {
  private let descriptor: Int32
  private let responder: Responder
  private let limits: ConnectionLimits
  private let onListening: @Sendable () -> Void
  private let logger: Logger

  /// Takes over `descriptor`, a listening Unix socket. `run` may be called once.
  init(
    descriptor: Int32, responder: Responder, limits: ConnectionLimits, logger: Logger,
    onListening: @escaping @Sendable () -> Void
  ) {
    self.descriptor = descriptor
    self.responder = responder
    self.limits = limits
    self.logger = logger
    self.onListening = onListening
  }

  func run() async throws {
    let open = OpenConnections(limits: limits)
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          // NIO has shortened the queue of the adopted socket to 128 connections. A user who connects faster than
          // connections are accepted would keep the other users out.
          guard listen(descriptor, SOMAXCONN) == 0 else { throw IOError(errnoCode: errno, reason: "listen") }
          try channel.pipeline.syncOperations.addHandler(AcceptPause(logger: logger))
        }
      }
      .childChannelOption(ChannelOptions.allowRemoteHalfClosure, value: true)
      .bind(descriptor) { channel in prepare(channel, open) }
    onListening()

    try await withGracefulShutdownHandler {
      try await withThrowingDiscardingTaskGroup { group in
        try await listener.executeThenClose { connections in
          for try await connection in connections {
            switch connection {
            case .accepted(let http, let channel):
              group.addTask(executorPreference: EventLoopExecutor(channel.channel.eventLoop)) {
                await http.handle(value: channel, logger: logger)
              }
            case .refused(let channel): group.addTask { await refuse(channel) }
            }
          }
        }
      }
    } onGracefulShutdown: {
      listener.channel.close(promise: nil)
      open.quiesce()
    }
  }

  private enum Connection: Sendable {
    case accepted(HTTP1Channel, HTTP1Channel.Value)
    /// The connection exceeds a limit.
    case refused(any Channel)
  }

  /// Sets up a new connection on its event loop.
  private func prepare(_ channel: any Channel, _ open: OpenConnections) -> EventLoopFuture<Connection> {
    guard let options = channel as? any SocketOptionProvider else {
      return channel.eventLoop.makeSucceededFuture(.refused(channel))
    }
    return options.unsafeGetSocketOption(level: .socket, name: .init(rawValue: SO_PEERCRED)).flatMap {
      (credentials: SocketCredentials) in
      let caller = credentials.peer
      guard open.add(channel, of: caller) else {
        logger.debug("connection refused, too many are open", metadata: ["uid": "\(caller.userID)"])
        Metric.Count.connectionsRefused.increment()
        return channel.eventLoop.makeSucceededFuture(.refused(channel))
      }
      channel.closeFuture.whenComplete { _ in open.remove(channel, of: caller) }
      let http = HTTP1Channel(
        responder: { request, writer, channel in
          try await respond(to: request, of: caller, closing: channel.closeFuture, writer)
        },
        configuration: .init(idleTimeout: .seconds(limits.idleSeconds)))
      return http.setup(channel: channel, logger: logger).map { .accepted(http, $0) }
    }
  }

  /// Tells the client why the connection is refused, without waiting for a request, and closes it.
  private func refuse(_ channel: any Channel) async {
    let body = Complaint(
      .shortage, what: "the server has no room for another connection of yours",
      advice: "close some, or try again later"
    ).httpBody
    let answer = """
      HTTP/1.1 503 Service Unavailable\r
      Content-Type: \(MediaKind.json.rawValue)\r
      Content-Length: \(body.utf8.count)\r
      Connection: close\r
      \r
      \(body)
      """
    try? await channel.writeAndFlush(ByteBuffer(string: answer))
    try? await channel.close()
  }

  private func respond(
    to request: Request, of caller: Peer, closing: EventLoopFuture<Void>, _ writer: consuming ResponseWriter
  ) async throws {
    if let size = request.headers[.contentLength].flatMap({ Int($0) }), size > limits.bodySize {
      let response = Response(
        Complaint(
          .usage, what: "the request's body is longer than \(limits.bodySize) bytes",
          advice: "send it in several requests"), status: .contentTooLarge)
      var head = response.head
      head.headerFields[.connection] = "close"
      try await writer.write(response: head, body: response.body)
      // The announced body is not to be received, so the connection ends here.
      throw ChannelError.inputClosed
    }
    // A client that asks for permission first, as curl does before it sends a long body, waits a second for this
    // answer.
    if request.headers[.expect]?.lowercased() == "100-continue" {
      try await writer.writeInformationalHead(HTTPResponse(status: .continue))
    }
    let context = CallerContext(source: .init(logger: logger, caller: caller, closing: closing))
    let response: Response
    do {
      response = try await responder.respond(to: request, context: context)
    } catch {
      logger.error("request failed", metadata: ["path": "\(request.uri.path)", "error": "\(error)"])
      response = Response(Complaint(.obstacle, what: "the server failed to answer", advice: "see its log"))
    }
    try await writer.write(response: response.head, body: response.body)
  }
}

/// Pauses for a moment when a connection can't be accepted for want of descriptors or memory. NIO's own handler delays
/// the next read, but leaves the socket registered as readable: the socket stays readable, so the event loop would
/// spin.
private final class AcceptPause: ChannelInboundHandler {
  typealias InboundIn = any Channel

  /// With this pause a queue of a thousand connections is accepted within seconds, a dozen at a time; failed attempts
  /// take a hundredth of a processor.
  private static let rest = TimeAmount.milliseconds(10)
  /// Seconds between two lines of the log about waiting connections.
  private static let logInterval = Duration.seconds(10)
  private let logger: Logger
  private var lastLog: ContinuousClock.Instant?

  init(logger: Logger) { self.logger = logger }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // The error is not forwarded to NIO's own handler, which would pause for a whole second.
    guard error is IOError, context.channel.isActive else { return context.fireErrorCaught(error) }
    Metric.Count.connectionsDelayed.increment()
    let now = ContinuousClock.now
    if lastLog.map({ now - $0 > Self.logInterval }) ?? true {
      logger.warning("cannot accept connections: \(error); they wait — raise the limit of open files (LimitNOFILE=)")
      lastLog = now
    }
    let channel = context.channel
    channel.setOption(.autoRead, value: false).whenSuccess {
      channel.eventLoop.scheduleTask(in: Self.rest) { channel.setOption(.autoRead, value: true) }
    }
  }
}

/// The context of a request: the caller, and the connection.
struct CallerContext: RequestContext {
  struct Source: RequestContextSource {
    var logger: Logger
    var caller: Peer
    var closing: EventLoopFuture<Void>
  }

  var coreContext: CoreRequestContextStorage
  let caller: Peer
  /// Completes when either side has closed the connection.
  let closing: EventLoopFuture<Void>

  init(source: Source) {
    coreContext = .init(source: source)
    caller = source.caller
    closing = source.closing
  }
}

/// The connections that are open, counted for each user. Thread-safe.
private final class OpenConnections: Sendable {
  private struct State {
    var channels: [ObjectIdentifier: any Channel] = [:]
    var ofUser: [UInt32: Int] = [:]
    var isQuiescing = false
  }
  private let state = Mutex(State())
  private let limits: ConnectionLimits

  init(limits: ConnectionLimits) { self.limits = limits }

  /// Whether the connection may stay.
  func add(_ channel: any Channel, of caller: Peer) -> Bool {
    let added = state.withLock { state in
      let count = state.ofUser[caller.userID, default: 0]
      // Root is called when something is wrong, so root finds room whatever other users hold.
      let hasRoom =
        if caller.userID == 0 {
          state.channels.count < limits.connectionsWithRoot
        } else {
          count < limits.connectionsOfOneUser
            && state.channels.count - state.ofUser[0, default: 0] < limits.connections
        }
      guard hasRoom, !state.isQuiescing else { return false }
      state.channels[ObjectIdentifier(channel)] = channel
      state.ofUser[caller.userID] = count + 1
      return true
    }
    if added { Metric.Level.connections.change(by: 1) }
    return added
  }

  func remove(_ channel: any Channel, of caller: Peer) {
    state.withLock { state in
      state.channels[ObjectIdentifier(channel)] = nil
      let count = state.ofUser[caller.userID, default: 0] - 1
      state.ofUser[caller.userID] = count > 0 ? count : nil
    }
    Metric.Level.connections.change(by: -1)
  }

  /// Tells each connection to close when its request is answered. Idle connections close at once.
  func quiesce() {
    let channels = state.withLock { state in
      state.isQuiescing = true
      return Array(state.channels.values)
    }
    for channel in channels { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
  }
}
