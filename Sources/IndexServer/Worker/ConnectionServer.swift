// SPDX-License-Identifier: Apache-2.0
// Serves Hummingbird's responder on the connections that the broker hands over.
//
// The part of Hummingbird that handles one connection is public and is used here: HTTP1Channel turns a connection into
// requests and responses.
//
// - A connection belongs to the user who opened it (SO_PEERCRED, which the hand-over doesn't change). Each request's
//   context carries that user.
// - Connections are limited by the broker for each user, and here by the descriptors that answers must find
//   (DescriptorBudget.swift). They are closed when idle, and when their client takes nothing of a long answer for as
//   long.

import Answers
import Broker
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
  /// Open connections at most.
  var connections = 512
  /// Seconds after which a connection is closed while no request is in progress on it, or while a request has begun and
  /// doesn't go on.
  var idleSeconds: Int64 = 60
  /// Bytes of a request's body: about four million addresses.
  var bodySize = 64 << 20
  /// What one question may cost.
  var question = QuestionLimits()
}

/// Answers the requests of connections until the broker says that no more come.
struct ConnectionServer<Responder: HTTPResponder>: Service where Responder.Context == CallerContext {
  let link: BrokerLink
  let loops: MultiThreadedEventLoopGroup
  let open: OpenConnections
  let responder: Responder
  let limits: ConnectionLimits
  let logger: Logger

  /// May be called once.
  func run() async throws {
    await withDiscardingTaskGroup { group in
      for await handed in link.connections {
        let loop = loops.next()
        group.addTask(executorPreference: EventLoopExecutor(loop)) { await serve(handed, on: loop) }
      }
      open.quiesce()
    }
    // A service that ends before its group was told to would be taken for one that failed.
    try await gracefulShutdown()
  }

  private func serve(_ handed: HandedConnection, on loop: any EventLoop) async {
    defer { link.closed(isOfRoot: handed.isOfRoot) }
    let socket = UnixSocket(adopting: handed.descriptor)
    guard let caller = try? socket.peer() else { return }
    let bootstrap = ClientBootstrap(group: loop).channelOption(ChannelOptions.allowRemoteHalfClosure, value: true)
    let descriptor = socket.release()
    do {
      let connection = try await bootstrap.withConnectedSocket(descriptor) { channel in prepare(channel, of: caller) }
      switch connection {
      case .accepted(let http, let channel): await http.handle(value: channel, logger: logger)
      case .refused(let channel): await refuse(channel)
      }
    } catch {
      // The client has gone meanwhile, or the system is short of something; the descriptor is closed by now.
      logger.debug("connection lost", metadata: ["error": "\(error)"])
    }
  }

  private enum Connection: Sendable {
    case accepted(HTTP1Channel, HTTP1Channel.Value)
    /// The connection exceeds a limit.
    case refused(any Channel)
  }

  /// Sets up a new connection on its event loop.
  private func prepare(_ channel: any Channel, of caller: Peer) -> EventLoopFuture<Connection> {
    guard open.add(channel) else {
      logger.debug("connection refused, too many are open", metadata: ["uid": "\(caller.userID)"])
      Metric.Count.connectionsRefused.increment()
      return channel.eventLoop.makeSucceededFuture(.refused(channel))
    }
    let asker = Asker()
    channel.closeFuture.whenComplete { _ in
      asker.leave()
      open.remove(channel)
    }
    let requests = RequestCount()
    let http = HTTP1Channel(
      responder: { request, writer, channel in
        let isFirst = requests.next() == 1
        try await respond(
          to: request, of: caller, asker, isFirst: isFirst, closing: channel.closeFuture, writer)
      },
      configuration: .init(
        additionalChannelHandlers: [StalledWriter(patience: .seconds(limits.idleSeconds))],
        idleTimeout: .seconds(limits.idleSeconds)))
    return http.setup(channel: channel, logger: logger).map { .accepted(http, $0) }
  }

  /// Tells the client why the connection is refused, without waiting for a request, and closes it.
  private func refuse(_ channel: any Channel) async {
    try? await channel.writeAndFlush(ByteBuffer(bytes: Refusal.noRoom))
    try? await channel.close()
  }

  private func respond(
    to request: Request, of caller: Peer, _ asker: Asker, isFirst: Bool, closing: EventLoopFuture<Void>,
    _ writer: consuming ResponseWriter
  ) async throws {
    if let size = request.headers[.contentLength].flatMap({ Int($0, radix: 10) }), size > limits.bodySize {
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
    let context = CallerContext(
      source: .init(logger: logger, caller: caller, asker: asker, isFirst: isFirst, closing: closing))
    let response: Response
    do {
      response = try await responder.respond(to: request, context: context)
    } catch {
      logger.error("request failed", metadata: ["path": "\(request.uri.path)", "error": "\(error)"])
      response = Response(Complaint(.obstacle, what: "the server failed to answer", advice: "see its log"))
    }
    guard response.status == .misdirectedRequest else {
      return try await writer.write(response: response.head, body: response.body)
    }
    // Whoever asks anew on this connection would come to this worker again.
    var head = response.head
    head.headerFields[.connection] = "close"
    try await writer.write(response: head, body: response.body)
    throw ChannelError.inputClosed
  }
}

/// Counts the requests of a connection.
private final class RequestCount: Sendable {
  private let count = Mutex(0)

  func next() -> Int {
    count.withLock { count in
      count &+= 1
      return count
    }
  }
}

/// Closes a connection whose client takes nothing of an answer for long, while much of it waits: one that never reads
/// would hold the memory for ever. A stream of events holds less, and waits as long as its reader likes.
private final class StalledWriter: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = Any
  typealias OutboundIn = Any

  private static let tolerated = 2 << 20
  private let patience: TimeAmount
  private var check: Scheduled<Void>?
  private var waiting = 0

  init(patience: TimeAmount) { self.patience = patience }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      check?.cancel()
      check = nil
    } else if check == nil {
      waiting = 0
      look(context)
    }
    context.fireChannelWritabilityChanged()
  }

  func channelInactive(context: ChannelHandlerContext) {
    check?.cancel()
    check = nil
    context.fireChannelInactive()
  }

  private func look(_ context: ChannelHandlerContext) {
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    check = context.eventLoop.scheduleTask(in: patience) {
      let (handler, context) = bound.value
      guard context.channel.isActive else { return }
      let now = (try? context.channel.syncOptions?.getOption(ChannelOptions.bufferedWritableBytes)) ?? 0
      if now >= Self.tolerated, now == handler.waiting { return context.close(promise: nil) }
      handler.waiting = now
      handler.look(context)
    }
  }
}

/// The context of a request: the caller, and the connection.
struct CallerContext: RequestContext {
  struct Source: RequestContextSource {
    var logger: Logger
    var caller: Peer
    var asker: Asker
    var isFirst: Bool
    var closing: EventLoopFuture<Void>
  }

  var coreContext: CoreRequestContextStorage
  let caller: Peer
  let asker: Asker
  /// Whether it is the first request of its connection: the broker chose this worker for it.
  let isFirst: Bool
  /// Completes when either side has closed the connection.
  let closing: EventLoopFuture<Void>

  init(source: Source) {
    coreContext = .init(source: source)
    caller = source.caller
    asker = source.asker
    isFirst = source.isFirst
    closing = source.closing
  }
}

/// The connections that are open. Thread-safe.
final class OpenConnections: Sendable {
  private struct State {
    var channels: [ObjectIdentifier: any Channel] = [:]
    var wasActive = false
    var isQuiescing = false
  }
  private let state = Mutex(State())
  private let limits: ConnectionLimits

  init(limits: ConnectionLimits) { self.limits = limits }

  var count: Int { state.withLock { $0.channels.count } }

  /// Whether connections have come since the last call.
  func takeActivity() -> Bool {
    state.withLock { state in
      defer { state.wasActive = false }
      return state.wasActive
    }
  }

  /// Whether the connection may stay.
  func add(_ channel: any Channel) -> Bool {
    let added = state.withLock { state in
      guard state.channels.count < limits.connections, !state.isQuiescing else { return false }
      state.channels[ObjectIdentifier(channel)] = channel
      state.wasActive = true
      return true
    }
    if added { Metric.Level.connections.change(by: 1) }
    return added
  }

  func remove(_ channel: any Channel) {
    state.withLock { $0.channels[ObjectIdentifier(channel)] = nil }
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
