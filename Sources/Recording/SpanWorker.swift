// SPDX-License-Identifier: Apache-2.0
// Makes net effects beside the recorder, as ChunkCompressor compresses beside it: the thread that
// drains the rings only copies the records.
//
// - The builder and the records of a job belong to its thread until it was joined. Jobs run one at
//   a time, in the order of the events.
// - The thread has the priority of others: what it does with an event takes less time than to read
//   it, and it is done while the records are in the processor's cache.
// - Nobody waits for a job before the recording's end. Where events come faster than that, some are
//   passed over: then there is no effect of their time, and a replay unpacks them.

import SharedLayout

/// Makes net effects of the events of chunks. Used by one thread.
final class SpanWorker {
  private struct Work {
    var records: [allocs_event] = []
    var completeUntil: UInt64 = 0
    /// The range of the stamps of events that are not kept.
    var passedOver: ClosedRange<UInt64>?
    /// Where the records end a chunk, the events in all chunks so far.
    var seen: UInt64?
    /// Whether events are missing from here on.
    var listsAll = false
  }

  private let builder: SpanBuilder
  private var job: Job?
  private var waiting: [Work] = []
  private var effects: [NetEffect] = []
  /// The memory of records that are not needed any more.
  private var spare: [[allocs_event]] = []
  private var current = Work()

  /// Records of a job, of 32 bytes each: few enough to stay in a processor's cache.
  private static let recordsPerJob = 1 << 16
  /// So many times that may wait.
  private static let waitingLimit = 24

  init(limits: SpanBuilder.Limits = SpanBuilder.Limits()) { builder = SpanBuilder(limits: limits) }

  deinit { job?.join() }

  /// Takes records of the chunk that is being filled. `completeUntil`: as of `SpanBuilder.add`.
  func append(_ records: UnsafeBufferPointer<allocs_event>, completeUntil: UInt64) {
    current.records.append(contentsOf: records)
    current.completeUntil = completeUntil
    if current.records.count >= Self.recordsPerJob { hand() }
  }

  /// Notes that events are missing, from the last ones that it has taken on.
  func listAll() { current.listsAll = true }

  /// Ends the chunk. `seen`: as of `SpanBuilder.endChunk`.
  func endChunk(seen: UInt64, completeUntil: UInt64) {
    (current.seen, current.completeUntil) = (seen, completeUntil)
    hand()
  }

  /// The effects that are ready; with `all`, those of all events.
  func take(all: Bool) -> [NetEffect] {
    collect(all: all)
    defer { effects = [] }
    return effects
  }

  private func hand() {
    collect(all: false)
    if waiting.count >= Self.waitingLimit, let first = current.records.first {
      current.passedOver = current.records.reduce(first.stamp...first.stamp) {
        min($0.lowerBound, $1.stamp)...max($0.upperBound, $1.stamp)  // bounded: grows on both sides
      }
      current.records.removeAll(keepingCapacity: true)
    }
    waiting.append(current)
    current = Work(records: spare.popLast() ?? [])
    begin()
  }

  private func collect(all: Bool) {
    while let job, all || job.isDone {
      job.join()
      self.job = nil
      effects += job.effects
      spare = job.takeRecords()
      begin()
    }
  }

  private func begin() {
    guard job == nil, !waiting.isEmpty else { return }
    job = Job(waiting, builder)
    waiting = []
  }

  private final class Job {
    private(set) var work: [Work]
    private let builder: SpanBuilder
    private(set) var effects: [NetEffect] = []
    private var call: BackgroundCall?

    init(_ work: [Work], _ builder: SpanBuilder) {
      (self.work, self.builder) = (work, builder)
      call = BackgroundCall { [unowned self] in run() }
    }

    var isDone: Bool { call?.isDone ?? true }

    private func run() {
      for work in work {
        if work.listsAll { builder.listAll() }
        if let range = work.passedOver { builder.passOver(from: range.lowerBound, through: range.upperBound) }
        builder.add(work.records, completeUntil: work.completeUntil)
        if let seen = work.seen { effects += builder.endChunk(seen: seen) }
      }
    }

    func join() {
      call?.join()
      call = nil
    }

    /// The memory of a few of the records, which are not needed any more.
    func takeRecords() -> [[allocs_event]] {
      work.removeLast(max(0, work.count &- 4))  // bounded: no more than there are
      return work.indices.map { index in
        var records: [allocs_event] = []
        swap(&records, &work[index].records)
        records.removeAll(keepingCapacity: true)
        return records
      }
    }
  }
}
