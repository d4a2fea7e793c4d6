// SPDX-License-Identifier: Apache-2.0
// A list of addresses in a request's body, answered while it still arrives.
//
// Each piece of the body is answered as a piece of the response, so that a list of any length takes no more memory than
// one piece, and a client that sends a line at a time gets an answer at a time. Reading, answering and writing overlap:
// the event loop reads and writes while this task renders.

import Answers
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

  /// Answers `body` line by line. A line that is no address gets its error in its place. An error that makes the rest
  /// meaningless is the last line, and the response is broken off without its end mark.
  func answer(_ body: RequestBody, to writer: inout any ResponseBodyWriter) async throws {
    var lines = AddressLines()
    var received = 0
    for try await piece in body {
      received += piece.readableBytes
      guard received <= sizeLimit else {
        try await write(
          failed(
            Complaint(
              .usage, what: "the list of addresses is longer than \(sizeLimit) bytes",
              advice: "send it in several requests")), to: &writer)
        return
      }
      try await write(render(&lines, piece), to: &writer)
    }
    try await write(render(&lines, nil), to: &writer)
    try await writer.finish(nil)
  }

  /// Calls `rendered` on a worker: the next piece is received meanwhile.
  private func render(_ lines: inout AddressLines, _ piece: ByteBuffer?) async throws -> Rendered {
    let before = lines
    let result = try await workers.runIfActive {
      var lines = before
      let rendered = rendered(&lines, piece)
      return (lines, rendered)
    }
    lines = result.0
    return result.1
  }

  private struct Rendered {
    var bytes: ByteBuffer
    var error: Complaint?
  }

  private func write(_ rendered: Rendered, to writer: inout any ResponseBodyWriter) async throws {
    if rendered.bytes.readableBytes > 0 { try await writer.write(rendered.bytes) }
    if let error = rendered.error { throw error }
  }

  /// The answers to the lines that end in `piece`, or to the last line if `piece` is nil. Each piece has an inquiry of
  /// its own, which looks at the process anew: a list may arrive over hours.
  private func rendered(_ lines: inout AddressLines, _ piece: ByteBuffer?) -> Rendered {
    // An answer without its stack takes about 250 bytes, ten to twenty times the line that asks for it.
    var list = AnswerList(form: form, capacity: (piece?.readableBytes ?? 64) * 16)
    var inquiry = Inquiry(view, wrappers: wrappers, level: level)
    var count = 0
    func take(_ line: AddressLine) {
      count += 1
      switch line {
      case .address(let address): list.append(address, from: &inquiry, stacks: stacks)
      case .rejected(let error): list.append(error)
      }
    }
    if let piece {
      lines.feed(piece.readableBytesUInt8Span, take)
    } else {
      lines.finish(take)
    }
    Metric.Count.addresses.increment(by: Int64(count))
    do {
      try view.checkIntact()
    } catch {
      return failed(error)
    }
    return Rendered(bytes: ByteBuffer(taking: &list), error: nil)
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
