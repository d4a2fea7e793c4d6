// A stream of events as the body of a response: rendered on a worker, written as fast as the client takes it.
//
// While the client doesn't read, nothing is rendered, and the stream's queue fills: its memory is bounded, and what it
// loses is counted and said. The stream ends with the process, with the connection, also while there are no events, and
// when the server stops.

import Answers
import Hummingbird
import NIOCore
import NIOPosix
import ServerProtocol
import ServiceLifecycle

/// Sends one stream of events.
struct EventResponse: Sendable {
  private let workers: NIOThreadPool
  private let isText: Bool
  private let news: AsyncStream<Void>
  private let continuation: AsyncStream<Void>.Continuation

  /// So long events are collected before they are sent: fifty pieces a second at most.
  private static let collecting = Duration.milliseconds(20)

  /// `closing`: completes with the connection.
  init(workers: NIOThreadPool, closing: EventLoopFuture<Void>, isText: Bool) {
    self.workers = workers
    self.isText = isText
    (news, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    closing.whenComplete { [continuation] _ in continuation.finish() }
  }

  /// To be called when the stream has news.
  var ring: @Sendable () -> Void {
    { [continuation] in continuation.yield() }
  }

  /// Waits until the process's events are on. Throws why they can't be.
  func begin(_ stream: EventStream) async throws {
    var iterator = news.makeAsyncIterator()
    _ = await iterator.next()
    guard !stream.hasBegun, let error = stream.next().end?.answerError else { return }
    throw Problem(error)
  }

  /// Sends until the end. Throws, so that the body has no end mark, if the events can't be read any more.
  func send(_ stream: EventStream, to writer: inout any ResponseBodyWriter) async throws {
    defer { stream.cancel() }
    if isText { try await writer.write(ByteBuffer(string: EventReport.header)) }
    // What came between the beginning and this is there already.
    continuation.yield()
    for await _ in news.cancelOnGracefulShutdown() {
      let (bytes, end) = try await workers.runIfActive { stream.next() }
      if !bytes.isEmpty { try await writer.write(ByteBuffer(bytes: bytes)) }
      if let error = end?.answerError { throw error }
      if end != nil { break }
      try await Task.sleep(for: Self.collecting)
    }
    try await writer.finish(nil)
  }
}
