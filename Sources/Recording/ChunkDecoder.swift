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
  /// Puts the records of the chunk with an index into an array, in the order of their stamps, in
  /// place of those that are there. Called on any thread.
  typealias Decode = @Sendable (Int, inout [allocs_event]) throws(MalformedChunk) -> Void

  private let count: Int
  private let decode: Decode
  private var jobs: [Job] = []
  private var begun = 0
  /// Arrays that are not needed any more: their memory is used again, as the kernel takes longer to
  /// make up new pages than a chunk to be decoded.
  private var spare: [[allocs_event]] = []
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
      jobs.append(Job(begun, spare.popLast() ?? [], decode))
      begun &+= 1
    }
    return jobs.isEmpty ? nil : jobs.removeFirst().result()
  }

  /// Takes arrays of records that have been used, to be filled again.
  func recycle(_ used: [[allocs_event]]) {
    for records in used where spare.count <= Self.ahead { spare.append(records) }
  }

  /// A chunk and the thread that decodes it. The records belong to the thread until it was joined.
  private final class Job {
    private let index: Int
    private let decode: Decode
    private var records: [allocs_event]
    private var failure: MalformedChunk?
    private var thread: pthread_t?

    init(_ index: Int, _ room: [allocs_event], _ decode: @escaping Decode) {
      (self.index, self.decode) = (index, decode)
      records = room
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

    private func run() {
      do throws(MalformedChunk) { try decode(index, &records) } catch { failure = error }
    }

    func result() -> Records {
      if let thread { pthread_join(thread, nil) }
      thread = nil
      if let failure { return .failure(failure) }
      return .success(records)
    }
  }
}
