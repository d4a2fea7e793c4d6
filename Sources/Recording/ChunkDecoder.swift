// SPDX-License-Identifier: Apache-2.0
// Decodes chunks of events or blocks ahead of whoever goes through them, on other threads: each
// chunk is decoded on its own, and decoding takes most of the time of a replay.
//
// - Chunks come out in the order of the file. A chunk is decoded by one thread, which is joined
//   before anybody else touches its rows.
// - So many chunks are under way at a time as there are processors, and at least one. Their memory
//   is counted.

import Answers
import Bounds
import Glibc

/// Gives the rows of chunks, one chunk after another. Used by one thread.
final class ChunkDecoder<Rows> {
  /// Puts the rows of the chunk with an index in place of those that are there. Called on any
  /// thread.
  typealias Decode = @Sendable (Int, inout Rows) throws(MalformedChunk) -> Void

  private let count: Int
  private let decode: Decode
  private var jobs: [Job] = []
  private var begun = 0
  /// Rows that are not needed any more: their memory is used again, as the kernel takes longer to
  /// make up new pages than a chunk to be decoded.
  private var spare: [Rows] = []
  private let none: Rows
  private let chunkMemory: Int
  private let share = MemoryShare()

  private static var mostAhead: Int { 8 }
  private let ahead: Int

  /// `count`: of the chunks, which have the indices below it. `memory`: bytes that a chunk takes
  /// while it is decoded, with its rows. `none`: no rows.
  init(count: Int, memory: Int, none: Rows, decode: @escaping Decode) {
    let processors = Foreign(sysconf(Int32(truncatingIfNeeded: _SC_NPROCESSORS_ONLN)))
    ahead = max(1, min(processors.int(upTo: 1 << 20) ?? 1, Self.mostAhead))
    self.count = count
    chunkMemory = memory
    self.none = none
    self.decode = decode
  }

  deinit { for job in jobs { _ = job.result() } }

  /// The rows of the next chunk; nil behind the last.
  func next() -> Result<Rows, MalformedChunk>? {
    while begun < count, jobs.count < ahead, jobs.isEmpty || share.hold((jobs.count &+ 1) &* chunkMemory) {
      jobs.append(Job(begun, spare.popLast() ?? none, decode))
      begun &+= 1
    }
    return jobs.isEmpty ? nil : jobs.removeFirst().result()
  }

  /// Takes rows that have been used, whose memory is filled again.
  func recycle(_ used: [Rows]) {
    for rows in used where spare.count <= ahead { spare.append(rows) }
  }

  /// A chunk and the thread that decodes it. The rows belong to the thread until it was joined.
  private final class Job {
    private let index: Int
    private let decode: Decode
    private var rows: Rows
    private var failure: MalformedChunk?
    private var call: BackgroundCall?

    init(_ index: Int, _ room: Rows, _ decode: @escaping Decode) {
      (self.index, self.decode, rows) = (index, decode, room)
      call = BackgroundCall { [unowned self] in run() }
    }

    private func run() {
      do throws(MalformedChunk) { try decode(index, &rows) } catch { failure = error }
    }

    func result() -> Result<Rows, MalformedChunk> {
      call?.join()
      call = nil
      if let failure { return .failure(failure) }
      return .success(rows)
    }
  }
}
