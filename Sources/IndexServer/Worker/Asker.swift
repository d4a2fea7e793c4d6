// SPDX-License-Identifier: Apache-2.0
// Whoever asks on one connection, and what each of their questions may cost (Bounds/Budget.swift).
//
// - A question, and each piece of a long list or of a stream of events, is answered within a budget of its own: a piece
//   is what is made between two writes, so a list of any length is answered.
// - When the connection is closed, the question in progress ends, and no other begins.
// - A question is answered on a thread of a pool. Of event loops' work, only the quick way of a query is done within a
//   budget there (Routes.swift).

import Answers
import Bounds
import Glibc
import HTTPTypes
import Hummingbird
import Logging
import Synchronization
import SystemAccess

/// What one question may cost.
struct QuestionLimits: Sendable {
  var seconds = 30.0
  /// Memory, in bytes: less than a worker may have in all (Confinement/Limits.swift).
  var bytes = 256 << 20

  /// For a piece of a stream of events, whose queue holds little.
  var ofEvents: QuestionLimits { QuestionLimits(seconds: min(seconds, 10), bytes: min(bytes, 64 << 20)) }

  /// For a question that an event loop answers by itself: a longer one is answered by a thread of the pool.
  static let quick = QuestionLimits(seconds: 0.05, bytes: 16 << 20)

  func budget(_ question: String? = nil) -> Budget { Budget(seconds: seconds, bytes: bytes, question: question) }
}

/// A question, as far as it concerns how it is answered.
struct Question: Sendable {
  /// The request as one line, for the log.
  let words: String
  /// Columns of a line of an answer that is text.
  let columns: Int

  init(_ request: Request) {
    words = "\(request.method) \(request.uri.description.prefix(300))"
    columns = request.columns
  }
}

/// The asker at the other end of a connection. Thread-safe.
final class Asker: Sendable {
  private struct State {
    var hasGone = false
    var running: [ObjectIdentifier: Budget] = [:]
  }
  private let state = Mutex(State())

  /// The connection is closed: ends what is in progress.
  func leave() {
    let running = state.withLock { state in
      state.hasGone = true
      return Array(state.running.values)
    }
    for budget in running { budget.cancel() }
  }

  /// Answers a question on this thread, within `limits`.
  func answer<Result>(
    _ question: Question, within limits: QuestionLimits, _ body: () throws(Complaint) -> Result
  ) throws(Complaint) -> Result {
    let budget = limits.budget(question.words)
    let hasGone = state.withLock { state in
      if !state.hasGone { state.running[ObjectIdentifier(budget)] = budget }
      return state.hasGone
    }
    if hasGone { budget.cancel() }
    defer { state.withLock { _ = $0.running.removeValue(forKey: ObjectIdentifier(budget)) } }
    return try budget.run { () throws(Complaint) in
      try TextLayout.withLines(of: question.columns, body)
    }
  }
}

extension Watchdog {
  /// Ends the worker where a question can't be ended: its user loses the answers in progress, and the broker starts
  /// another worker for the next connection.
  static func endWorker(afterSeconds patience: Double, _ logger: Logger) throws(Complaint) {
    try begin(patience: patience) { question in
      // Nobody may take the log.
      var log = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
      if poll(&log, 1, 1000) == 1, log.revents & Int16(POLLOUT) != 0 {
        logger.critical("a question can't be ended, the worker ends", metadata: ["question": "\(question)"])
      }
      _exit(1)
    }
  }
}
