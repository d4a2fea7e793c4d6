// SPDX-License-Identifier: Apache-2.0
// Decodes chunks of events ahead of whoever goes through them, on other threads: each chunk is
// decoded on its own, and decoding takes most of the time of a replay.
//
// - Chunks come out in the order of the file. A chunk is decoded by one thread, which is joined
//   before anybody else touches its records.
// - So many chunks are under way at a time as there are processors, and at least one: a chunk has
//   32 MB of records, and 16 MB of tables while it is decoded. This memory is counted.

import Answers
import Bounds
import Glibc
import SharedLayout

/// Gives the records of chunks, one chunk after another. Used by one thread.
final class ChunkDecoder {
  typealias Records = Result<[allocs_event], MalformedChunk>
  /// The records of the chunk with an index, in the order of their stamps. Called on any thread.
  typealias Decode = @Sendable (Int) -> Records

  private let count: Int
  private let decode: Decode
  private var jobs: [Job] = []
  private var begun = 0
  private let share = MemoryShare()

  private static let chunkMemory = 48 << 20
  private static let mostAhead = 8
  private static let ahead: Int = {
    let processors = Foreign(sysconf(Int32(truncatingIfNeeded: _SC_NPROCESSORS_ONLN)))
    return max(1, min(processors.int(upTo: 1 << 20) ?? 1, mostAhead))
  }()

  /// `count`: of the chunks, which have the indices below it.
  init(count: Int, decode: @escaping Decode) {
    self.count = count
    self.decode = decode
  }

  deinit { for job in jobs { _ = job.result() } }

  /// The records of the next chunk; nil behind the last.
  func next() -> Records? {
    while begun < count, jobs.count < Self.ahead, jobs.isEmpty || share.hold((jobs.count &+ 1) &* Self.chunkMemory) {
      jobs.append(Job(begun, decode))
      begun &+= 1
    }
    return jobs.isEmpty ? nil : jobs.removeFirst().result()
  }

  /// A chunk and the thread that decodes it. The records belong to the thread until it was joined.
  private final class Job {
    private let index: Int
    private let decode: Decode
    private var records: Records?
    private var thread: pthread_t?

    init(_ index: Int, _ decode: @escaping Decode) {
      (self.index, self.decode) = (index, decode)
      var created = pthread_t()
      let code = pthread_create(
        &created, nil,
        { argument in
          if let argument { Unmanaged<Job>.fromOpaque(argument).takeUnretainedValue().run() }
          return nil
        }, Unmanaged.passUnretained(self).toOpaque())
      // Without a thread, the chunk is decoded here.
      if code == 0 { thread = created } else { run() }
    }

    private func run() { records = decode(index) }

    func result() -> Records {
      if let thread { pthread_join(thread, nil) }
      thread = nil
      return records ?? .failure(MalformedChunk())
    }
  }
}
