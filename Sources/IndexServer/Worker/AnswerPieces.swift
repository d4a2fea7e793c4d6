// SPDX-License-Identifier: Apache-2.0
// A large answer, made in pieces: one buffer for all of it would take as much again while it grows.

import Answers
import Bounds
import Hummingbird
import NIOCore
import Recording
import SystemAccess

/// Keeps the bytes of a file until they are sent, within the budget of the question.
final class AnswerPieces: ExportSink {
  private(set) var pieces: [ByteBuffer] = []
  private var count = 0
  private let share = MemoryShare()

  /// A buffer's memory is a power of two: a piece leaves nothing of it unused.
  private static let pieceBytes = 1 << 20

  func write(_ bytes: [UInt8]) throws(Complaint) {
    count &+= bytes.count
    guard share.hold(count) else { return try Budget.current?.check() ?? () }
    var rest = bytes[...]
    while !rest.isEmpty {
      if (pieces.last?.readableBytes ?? Self.pieceBytes) >= Self.pieceBytes { pieces.append(ByteBuffer()) }
      let last = pieces.count &- 1
      let room = max(0, Self.pieceBytes &- pieces[last].readableBytes)
      pieces[last].writeBytes(rest.prefix(room))  // bounded: at least 0
      rest = rest.dropFirst(room)  // bounded: at least 0
    }
  }
}

extension ResponseBody {
  /// A body of pieces that are there already.
  init(pieces: [ByteBuffer]) {
    // bounded: the sum of what is in memory
    self.init(contentLength: pieces.reduce(0) { $0 &+ $1.readableBytes }) { writer in
      for piece in pieces { try await writer.write(piece) }
      try await writer.finish(nil)
    }
  }
}
