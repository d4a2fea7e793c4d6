// SPDX-License-Identifier: Apache-2.0
// A stream of events as the body of a response: rendered on a worker, written as fast as the client takes it.
//
// While the client doesn't read, nothing is rendered, and the stream's queue fills. The queue's memory is bounded;
// events that find no room in it are counted, and the stream says how many. The stream ends with the process, with the
// connection (also while there are no events), and when the server stops.

import Answers
import EventExport
import Hummingbird
import NIOCore
import NIOPosix
import ServiceLifecycle
import SystemAccess

/// Sends one stream of events.
struct EventResponse: Sendable {
  private let workers: NIOThreadPool
  private let asker: Asker
  /// What a piece of the stream may cost.
  private let limits: QuestionLimits
  private let question: Question
  private let isText: Bool
  private let news: AsyncStream<Void>
  private let continuation: AsyncStream<Void>.Continuation

  /// The time for which events are collected before they are sent: fifty pieces a second at most.
  private static let collecting = Duration.milliseconds(20)

  /// `closing`: completes with the connection.
  init(
    workers: NIOThreadPool, asker: Asker, limits: QuestionLimits, question: Question,
    closing: EventLoopFuture<Void>, isText: Bool
  ) {
    self.workers = workers
    self.asker = asker
    self.limits = limits
    self.question = question
    self.isText = isText
    (news, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    closing.whenComplete { [continuation] _ in continuation.finish() }
  }

  /// The stream calls this when it has news.
  var ring: @Sendable () -> Void {
    { [continuation] in continuation.yield() }
  }

  /// Waits until the process's events are on. Throws the reason if they can't be turned on.
  func begin(_ stream: EventStream) async throws {
    var iterator = news.makeAsyncIterator()
    _ = await iterator.next()
    if !stream.hasBegun, let complaint = try await next(of: stream).end?.complaint { throw complaint }
  }

  private func next(of stream: EventStream) async throws -> (bytes: [UInt8], end: DeliveryEnd?) {
    try await workers.runIfActive {
      try asker.answer(question, within: limits) { () throws(Complaint) in stream.next() }
    }
  }

  /// Sends the stream until its end. Throws if the events can't be read any more, so that the body has no end mark.
  func send(_ stream: EventStream, to writer: inout any ResponseBodyWriter) async throws {
    defer { stream.cancel() }
    if isText { try await writer.write(ByteBuffer(string: EventReport.header)) }
    // Events that came since `begin` are waiting already.
    continuation.yield()
    for await _ in news.cancelOnGracefulShutdown() {
      let bytes: [UInt8]
      let end: DeliveryEnd?
      do {
        (bytes, end) = try await next(of: stream)
      } catch let complaint as Complaint {
        try await writer.write(ByteBuffer(string: isText ? "\(complaint)\n" : complaint.httpBody))
        throw complaint
      }
      if !bytes.isEmpty { try await writer.write(ByteBuffer(bytes: bytes)) }
      if let complaint = end?.complaint { throw complaint }
      if end != nil { break }
      try await Task.sleep(for: Self.collecting)
    }
    try await writer.finish(nil)
  }
}
