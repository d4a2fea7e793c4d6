// Compresses chunks beside the thread that drains the rings: while that one did it itself, full rings had the recorded
// process wait.
//
// - Chunks come out in the order in which they were put in.
// - Each is compressed on a thread of its own, one at a time, which is joined before anybody else touches what it works
//   on: the chunk's bytes and the compressor's state have one owner at any time. `isDone` only says whether joining
//   would wait.
// - The thread is a little less important than others: a burst of events is taken in first and compressed after.

import CZstd
import Glibc
import Synchronization

/// Makes zstd frames. Used by one thread.
final class ChunkCompressor {
  typealias Chunk = (header: ChunkHeader, payload: [UInt8])

  private let compressor: OpaquePointer
  private var job: Job?
  private var waiting: [Chunk] = []

  /// Smaller than with 3, zstd's default, by a fifth; higher levels take much more time for little.
  private static let level: Int32 = 8
  /// Chunks that wait at most, some megabytes each: then whoever brings another one waits.
  private static let waitingLimit = 6
  private static let niceness: Int32 = 5

  /// nil where there is no memory.
  init?() {
    guard let compressor = ZSTD_createCCtx() else { return nil }
    self.compressor = compressor
  }

  deinit {
    job?.join()
    ZSTD_freeCCtx(compressor)
  }

  func put(_ header: ChunkHeader, _ payload: [UInt8]) {
    waiting.append((header, payload))
    begin()
  }

  /// The next chunk and its frame, if that succeeded; nil if none is ready. Waits for it if `all` are wanted or too
  /// many wait.
  func take(all: Bool) -> (chunk: Chunk, frame: [UInt8]?)? {
    guard let job, all || waiting.count > Self.waitingLimit || job.isDone.load(ordering: .acquiring) else { return nil }
    job.join()
    self.job = nil
    begin()
    return (job.chunk, job.frame)
  }

  private func begin() {
    guard job == nil, !waiting.isEmpty else { return }
    job = Job(waiting.removeFirst(), compressor)
  }

  /// A chunk and the thread that compresses it. All but `isDone` is the thread's until it was joined.
  private final class Job {
    let chunk: Chunk
    private let compressor: OpaquePointer
    private(set) var frame: [UInt8]?
    let isDone = Atomic<Bool>(false)
    private var thread: pthread_t?

    init(_ chunk: Chunk, _ compressor: OpaquePointer) {
      (self.chunk, self.compressor) = (chunk, compressor)
      var created = pthread_t()
      let code = pthread_create(
        &created, nil,
        { argument in
          setpriority(__priority_which_t(UInt32(PRIO_PROCESS.rawValue)), 0, ChunkCompressor.niceness)
          Unmanaged<Job>.fromOpaque(argument!).takeUnretainedValue().run()
          return nil
        }, Unmanaged.passUnretained(self).toOpaque())
      if code == 0 { thread = created } else { run() }
    }

    private func run() {
      let payload = chunk.payload
      var result = 0
      let bytes = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(payload.count)) { buffer, count in
        result = ZSTD_compressCCtx(
          compressor, buffer.baseAddress, buffer.count, payload, payload.count, ChunkCompressor.level)
        count = ZSTD_isError(result) != 0 ? 0 : result
      }
      if ZSTD_isError(result) == 0 { frame = bytes }
      isDone.store(true, ordering: .releasing)
    }

    func join() {
      if let thread { pthread_join(thread, nil) }
      thread = nil
    }
  }
}
