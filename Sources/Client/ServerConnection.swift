// SPDX-License-Identifier: Apache-2.0
// A connection to allocsd, kept between requests: HTTP/1.1 on a Unix socket, one request at a time.

import Answers
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import ServerProtocol
import Synchronization
import SystemAccess

/// Talks to one server. Not thread-safe, except `close`. It makes threads, so no fork or exec may come after it.
final class ServerConnection: @unchecked Sendable {
  struct Response {
    var status: UInt
    var body: [UInt8]
    /// What the index lacks that the answer was made from, where its form has no place for that.
    var missing: String?
    /// Of a comparison: the bytes that live in the second and not in the first.
    var growth: Int64?
  }

  private let path: String
  private let requireTrust: Bool
  private let group: MultiThreadedEventLoopGroup
  private var channel: any Channel
  /// Whether the connection has answered before. The server may have closed it since, for idleness.
  private var isUsed = false
  private let isClosing = Mutex(false)

  /// Connects to the server at `path`. With `requireTrust`, the server must run as root or as the caller: anybody may
  /// put a socket into a directory that all users share, and a false server could tell false answers.
  init(path: String, requireTrust: Bool) throws(Complaint) {
    let socket = try Self.connect(path, requireTrust)
    self.path = path
    self.requireTrust = requireTrust
    group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    channel = try Self.adopt(socket, path, group)
  }

  private static func connect(_ path: String, _ requireTrust: Bool) throws(Complaint) -> UnixSocket {
    try UnixSocket.connected(to: path, isTrusted: requireTrust)
  }

  private static func adopt(
    _ socket: consuming UnixSocket, _ path: String, _ group: MultiThreadedEventLoopGroup
  ) throws(Complaint) -> any Channel {
    do {
      return try ClientBootstrap(group: group)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHTTPClientHandlers()
            try channel.pipeline.syncOperations.addHandler(Exchange())
          }
        }
        .withConnectedSocket(socket.release()).wait()
    } catch {
      throw Complaint(
        .obstacle, what: "cannot use the connection to the server at \(path): \(error)",
        advice: "try again, or use --direct")
    }
  }

  /// The server's response, whatever its status.
  func send(
    _ method: HTTPMethod, _ uri: String, accept: String, body: [UInt8] = []
  ) throws(Complaint) -> Response {
    do {
      defer { isUsed = true }
      do {
        let response = try exchange(method, uri, accept, body)
        guard response.status == 421, isUsed else { return response }
        // The connection is served by the process of another user; a new one comes to the right one.
        channel.close(promise: nil)
        channel = try Self.adopt(Self.connect(path, requireTrust), path, group)
        return try exchange(method, uri, accept, body)
      } catch  where isUsed && !isClosing.withLock({ $0 }) {
        // No request changes anything, so it may be sent twice.
        channel = try Self.adopt(Self.connect(path, requireTrust), path, group)
        return try exchange(method, uri, accept, body)
      }
    } catch let complaint as Complaint {
      throw complaint
    } catch {
      if isClosing.withLock({ $0 }) { throw Complaint(.budget, what: "whoever asked has gone", code: ECANCELED) }
      let why = "\(error)"
      throw Complaint(
        .obstacle, what: "the server at \(path) broke off its answer: \(why)",
        advice: "see its log; --direct does without it")
    }
  }

  /// Receives a response that may have no end: its body is written to standard output as it comes, in whole lines.
  /// Returns at its end, or when `close` has closed the connection; if the status is an error, with the body.
  func receive(_ uri: String, accept: String) throws(Complaint) -> Response {
    do {
      return try exchange(.GET, uri, accept, [], isStream: true)
    } catch {
      if let complaint = error as? Complaint { throw complaint }
      if isClosing.withLock({ $0 }) { return Response(status: 200, body: []) }
      let why = "\(error)"
      throw Complaint(
        .obstacle, what: "the server at \(path) broke off its answer: \(why)",
        advice: "see its log; --direct does without it")
    }
  }

  /// Ends a response that is received, from any thread.
  func close() {
    isClosing.withLock { $0 = true }
    channel.close(promise: nil)
  }

  private func exchange(
    _ method: HTTPMethod, _ uri: String, _ accept: String, _ body: [UInt8], isStream: Bool = false
  ) throws -> Response {
    var head = HTTPRequestHead(version: .http1_1, method: method, uri: uri)
    head.headers = ["Host": "localhost", "Accept": accept]
    if method == .POST {
      head.headers.add(name: "Content-Type", value: "text/plain")
      head.headers.add(name: "Content-Length", value: "\(body.count)")
    }
    let promise = channel.eventLoop.makePromise(of: Response.self)
    let request = Exchange.Request(head: head, body: ByteBuffer(bytes: body), isStream: isStream, promise: promise)
    channel.writeAndFlush(request).cascadeFailure(to: promise)
    return try promise.futureResult.wait()
  }
}

/// The error of a connection that ended too early.
private struct Interrupted: Error, CustomStringConvertible {
  /// The part of the body that the server had sent.
  var body: [UInt8]

  /// A server that can't go on says why in its last line.
  var description: String {
    let last = body.split(separator: UInt8(ascii: "\n")).last.map { String(decoding: $0, as: UTF8.self) } ?? ""
    return ErrorBody.message(last) ?? "the connection was closed"
  }
}

/// Why this client takes no more of a response.
private struct Refused: Error, CustomStringConvertible {
  var description: String
}

/// Turns a request into its parts, and the parts of the response into one. One exchange at a time.
private final class Exchange: ChannelDuplexHandler {
  typealias InboundIn = HTTPClientResponsePart
  typealias OutboundIn = Request
  typealias OutboundOut = HTTPClientRequestPart

  struct Request: Sendable {
    var head: HTTPRequestHead
    var body: ByteBuffer
    /// Whether the response's body goes to standard output as it comes.
    var isStream: Bool
    var promise: EventLoopPromise<ServerConnection.Response>
  }

  /// Bytes of the largest response that is kept whole: an answer to 64 KiB of addresses has some megabytes. A server
  /// that sends without end must not fill the memory.
  private static let bodyLimit = 1 << 30
  /// How long the server may be silent before and within a response, but within a stream: longer than a question takes
  /// that a server answers.
  private static let patience = TimeAmount.seconds(90)

  private var timeout: Scheduled<Void>?
  private var pending: EventLoopPromise<ServerConnection.Response>?
  private var status: UInt = 0
  private var missing: String?
  private var growth: Int64?
  private var body: [UInt8] = []
  private var isStream = false

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let request = unwrapOutboundIn(data)
    guard context.channel.isActive else {
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    }
    pending = request.promise
    body = []
    isStream = request.isStream
    wait(context)
    context.write(wrapOutboundOut(.head(request.head)), promise: nil)
    if request.body.readableBytes > 0 { context.write(wrapOutboundOut(.body(.byteBuffer(request.body))), promise: nil) }
    context.write(wrapOutboundOut(.end(nil)), promise: promise)
  }

  /// Gives the server its time anew.
  private func wait(_ context: ChannelHandlerContext) {
    timeout?.cancel()
    let context = NIOLoopBound(context, eventLoop: context.eventLoop)
    timeout = context.value.eventLoop.assumeIsolated().scheduleTask(in: Self.patience) { [self] in
      end(context.value, "it has been silent for \(Self.patience.nanoseconds / 1_000_000_000) seconds")
    }
  }

  private func end(_ context: ChannelHandlerContext, _ why: String) {
    pending?.fail(Refused(description: why))
    pending = nil
    body = []
    context.close(promise: nil)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if isStream { timeout?.cancel() } else { wait(context) }
    switch unwrapInboundIn(data) {
    case .head(let head):
      status = head.status.code
      missing = head.headers.first(name: MissingHeader.name)
      growth = head.headers.first(name: GrowthHeader.name).flatMap { Int64($0) }  // bounded: an optional of a text
    case .body(let piece):
      body.append(contentsOf: piece.readableBytesView)
      if isStream, status == 200 { printLines(context) }
      if body.count > Self.bodyLimit { end(context, "it is larger than \(Self.bodyLimit >> 20) MiB") }
    case .end:
      timeout?.cancel()
      pending?.succeed(ServerConnection.Response(status: status, body: body, missing: missing, growth: growth))
      pending = nil
      body = []
    }
  }

  /// Writes whole lines. This thread reads nothing meanwhile, so a slow reader slows down the server's writes.
  private func printLines(_ context: ChannelHandlerContext) {
    guard let end = body.lastIndex(of: UInt8(ascii: "\n")) else { return }
    do throws(Complaint) {
      try StandardOutput.write(TextLayout.lines(fromServer: Array(body[...end])))
      body.removeSubrange(...end)
    } catch {
      pending?.fail(error)
      pending = nil
      context.close(promise: nil)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    timeout?.cancel()
    pending?.fail(Interrupted(body: body))
    pending = nil
    context.fireChannelInactive()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // The decoder reports a response that ends early before the channel does.
    pending?.fail(body.isEmpty ? error : Interrupted(body: body))
    pending = nil
    context.close(promise: nil)
  }
}
