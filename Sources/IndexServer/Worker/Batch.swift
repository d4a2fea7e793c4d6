// SPDX-License-Identifier: Apache-2.0
// A list of addresses in a request's body, answered while it still arrives.
//
// Each piece of the body is answered as a piece of the response, so that a list of any length takes no more memory than
// one piece, and a client that sends a line at a time gets an answer at a time. Reading, answering and writing overlap:
// the event loop reads and writes while this task renders.

import Answers
import Bounds
import Hummingbird
import NIOCore
import NIOPosix
import Provenance
import SystemAccess

struct Batch: Sendable {
  let view: ProcessView
  let form: AnswerList.Form
  let stacks: Bool
  let wrappers: Wrappers
  let level: Level?
  /// Bytes of the body that are accepted at most.
  let sizeLimit: Int
  /// The threads on which the answers are made.
  let workers: NIOThreadPool
  let asker: Asker
  /// What a piece may cost.
  let limits: QuestionLimits
  let question: Question

  /// Bytes of answers after which a piece ends, though more of the list is there; and bytes of the list that are
  /// answered before that is looked at. A piece, and its copy that is sent, stay below the size from which malloc maps
  /// each block by itself (WorkerProcess.swift): to have such memory cleared for each piece took a fifth of the time.
  private static let (pieceSize, step) = (1 << 20, 8 << 10)

  /// Answers `body` line by line. A line that is no address gets its error in its place. An error that makes the rest
  /// meaningless is the last line, and the response is broken off without its end mark.
  func answer(_ body: RequestBody, to writer: inout any ResponseBodyWriter) async throws {
    var lines = AddressLines()
    var received = 0
    for try await piece in body {
      received &+= piece.readableBytes
      guard received <= sizeLimit else {
        try await write(
          failed(
            Complaint(
              .usage, what: "the list of addresses is longer than \(sizeLimit) bytes",
              advice: "send it in several requests")), to: &writer)
        return
      }
      var rest = piece
      while rest.readableBytes > 0 { try await write(render(&lines, &rest), to: &writer) }
    }
    var end: ByteBuffer?
    try await write(render(&lines, &end), to: &writer)
    try await writer.finish(nil)
  }

  private func render(_ lines: inout AddressLines, _ piece: inout ByteBuffer) async throws -> Rendered {
    var rest: ByteBuffer? = piece
    let rendered = try await render(&lines, &rest)
    piece = rest ?? ByteBuffer()
    return rendered
  }

  /// Calls `rendered` on a worker: the next piece is received meanwhile.
  private func render(_ lines: inout AddressLines, _ piece: inout ByteBuffer?) async throws -> Rendered {
    let before = (lines, piece)
    let result = try await workers.runIfActive {
      var (lines, piece) = before
      let rendered = rendered(&lines, &piece)
      return (lines, piece, rendered)
    }
    (lines, piece) = (result.0, result.1)
    return result.2
  }

  private struct Rendered {
    var bytes: ByteBuffer
    var error: Complaint?
  }

  private func write(_ rendered: Rendered, to writer: inout any ResponseBodyWriter) async throws {
    if rendered.bytes.readableBytes > 0 { try await writer.write(rendered.bytes) }
    if let error = rendered.error { throw error }
  }

  /// The answers to the lines that end in `piece`, or to the last line if `piece` is nil. What remains of `piece` is to
  /// be answered as another piece. Each has an inquiry of its own, which looks at the process anew: a list may arrive
  /// over hours.
  private func rendered(_ lines: inout AddressLines, _ piece: inout ByteBuffer?) -> Rendered {
    do {
      let bytes = try asker.answer(question, within: limits) { () throws(Complaint) in try answers(&lines, &piece) }
      return Rendered(bytes: bytes, error: nil)
    } catch {
      return failed(error)
    }
  }

  private func answers(_ lines: inout AddressLines, _ piece: inout ByteBuffer?) throws(Complaint) -> ByteBuffer {
    // An answer without its stack takes about 250 bytes, ten to twenty times the line that asks for it.
    var list = AnswerList(form: form, capacity: (piece?.readableBytes ?? 64) * 16)
    var inquiry = Inquiry(view, wrappers: wrappers, level: level)
    var count = 0
    var meter = BudgetMeter(interval: 64)
    let share = MemoryShare()
    func take(_ line: AddressLine) {
      guard meter.goesOn() else { return }
      count += 1
      switch line {
      case .address(let address): list.append(address, from: &inquiry, stacks: stacks)
      case .rejected(let error): list.append(error)
      }
      // The list, and its copy that is sent.
      share.hold(2 &* list.count)
    }
    if piece == nil { lines.finish(take) }
    if var rest = piece {
      while list.count < Self.pieceSize, rest.readableBytes > 0,
        let slice = rest.readSlice(length: min(Self.step, rest.readableBytes))
      {
        lines.feed(slice.readableBytesUInt8Span, take)
      }
      piece = rest
    }
    Metric.Count.addresses.increment(by: Int64(clamping: count))
    try view.checkIntact()
    return ByteBuffer(taking: &list)
  }

  private func failed(_ error: Complaint) -> Rendered {
    var list = AnswerList(form: form)
    list.append(error)
    return Rendered(bytes: ByteBuffer(taking: &list), error: error)
  }
}

extension ByteBuffer {
  /// The bytes that `list` has collected, copied once.
  init(taking list: inout AnswerList) {
    self = list.take { bytes in
      var buffer = ByteBuffer()
      buffer.reserveCapacity(bytes.byteCount)
      buffer.writeBytes(bytes)
      return buffer
    }
  }
}
