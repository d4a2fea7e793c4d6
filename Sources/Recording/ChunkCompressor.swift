// SPDX-License-Identifier: Apache-2.0
// Compresses chunks on a thread other than the thread that drains the rings. When the draining
// thread compressed, rings filled up meanwhile, and the recorded process had to wait.
//
// - Chunks come out in the order in which they were put in.
// - Chunks are compressed one at a time, each on a thread of its own. The thread is joined before
//   anybody else touches the chunk's bytes or the compressor's state: both have one owner at any
//   time. `isDone` only says whether joining would wait.
// - The thread has a lower priority than others: a burst of events is read from the rings first,
//   and compressed later.

import CZstd

/// Makes zstd frames. Used by one thread.
final class ChunkCompressor {
  typealias Chunk = (header: ChunkHeader, payload: [UInt8])

  private let compressor: OpaquePointer
  private var job: Job?
  private var waiting: [Chunk] = []

  /// Frames are a fifth smaller than with level 3, zstd's default. Higher levels take much more
  /// time for little gain.
  private static let level: Int32 = 8
  /// How many chunks, of some megabytes each, may wait. If more wait, `take` blocks until a chunk
  /// is ready.
  private static let waitingLimit = 6
  private static let niceness: Int32 = 5

  /// nil if there is no memory for it.
  init?() {
    guard let compressor = ZSTD_createCCtx() else { return nil }
    self.compressor = compressor
  }

  deinit {
    job?.join()
    ZSTD_freeCCtx(compressor)
  }

  /// Takes a chunk, to be compressed when those before it are.
  func put(_ header: ChunkHeader, _ payload: [UInt8]) {
    waiting.append((header, payload))
    begin()
  }

  /// The next chunk with its frame, which is nil if compressing failed. Returns nil if no chunk is
  /// ready, but waits for one if `all` are wanted, or if too many wait.
  func take(all: Bool) -> (chunk: Chunk, frame: [UInt8]?)? {
    guard let job, all || waiting.count > Self.waitingLimit || job.isDone else { return nil }
    job.join()
    self.job = nil
    begin()
    return (job.chunk, job.frame)
  }

  private func begin() {
    guard job == nil, !waiting.isEmpty else { return }
    job = Job(waiting.removeFirst(), compressor)
  }

  /// A chunk and the thread that compresses it, to which all fields belong until it was joined.
  private final class Job {
    let chunk: Chunk
    private let compressor: OpaquePointer
    private(set) var frame: [UInt8]?
    private var call: BackgroundCall?

    init(_ chunk: Chunk, _ compressor: OpaquePointer) {
      (self.chunk, self.compressor) = (chunk, compressor)
      call = BackgroundCall(niceness: ChunkCompressor.niceness) { [unowned self] in run() }
    }

    var isDone: Bool { call?.isDone ?? true }

    private func run() {
      let payload = chunk.payload
      var result = 0
      let bytes = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(payload.count)) { buffer, count in
        result = ZSTD_compressCCtx(
          compressor, buffer.baseAddress, buffer.count, payload, payload.count, ChunkCompressor.level)
        count = ZSTD_isError(result) != 0 ? 0 : result
      }
      if ZSTD_isError(result) == 0 { frame = bytes }
    }

    func join() {
      call?.join()
      call = nil
    }
  }
}
