// SPDX-License-Identifier: Apache-2.0
// Makes net effects beside the recorder, as ChunkCompressor compresses beside it: the thread that
// drains the rings only copies the records.
//
// - The builder and the records of a job belong to its thread until it was joined. Jobs run one at
//   a time, in the order of the events.
// - The thread has a lower priority than the thread that drains the rings, and than the one that
//   compresses chunks, for which the first may have to wait: no event is lost because of it.
// - Nobody waits for a job before the recording's end. Where events come faster than that, or the
//   thread gets no processor, some are passed over: then there is no effect of their time, and a
//   replay unpacks them. So memory is bounded: `handedLimit` times `recordsPerJob` records.

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

    /// The range of the stamps of its records; nil if there are none.
    var range: ClosedRange<UInt64>? {
      guard let first = records.first else { return nil }
      // bounded: one stamp is a range
      return records.reduce(first.stamp...first.stamp) {
        min($0.lowerBound, $1.stamp)...max($0.upperBound, $1.stamp)  // bounded: grows on both sides
      }
    }

    /// Becomes the work of both, of which neither has records: what ended earlier is said to have
    /// ended with `next`.
    mutating func join(_ next: Work) {
      if let range = next.passedOver {
        let own = passedOver ?? range
        // bounded: grows on both sides
        passedOver = min(own.lowerBound, range.lowerBound)...max(own.upperBound, range.upperBound)
      }
      (seen, completeUntil, listsAll) = (next.seen ?? seen, next.completeUntil, listsAll || next.listsAll)
    }
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
  /// Pieces of records that are handed over at a time, at most.
  static let handedLimit = 24
  private static let niceness: Int32 = 10

  init(limits: SpanBuilder.Limits = SpanBuilder.Limits()) { builder = SpanBuilder(limits: limits) }

  deinit { job?.join() }

  /// Pieces of records that are handed over.
  var handed: Int { waiting.count &+ (job?.work.count ?? 0) }

  /// Takes records of the chunk that is being filled. `completeUntil`: as of `SpanBuilder.add`.
  func append(_ records: UnsafeBufferPointer<allocs_event>, completeUntil: UInt64) {
    current.completeUntil = completeUntil
    var rest = records[...]
    while !rest.isEmpty {
      if current.records.isEmpty { current.records.reserveCapacity(Self.recordsPerJob) }
      // bounded: no more than there are
      let piece = rest.prefix(max(1, Self.recordsPerJob &- current.records.count))
      current.records.append(contentsOf: UnsafeBufferPointer(rebasing: piece))
      rest = rest[piece.endIndex...]
      if current.records.count >= Self.recordsPerJob { hand() }
    }
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
    var next = current
    current = Work(records: spare.popLast() ?? [], completeUntil: next.completeUntil)
    if handed >= Self.handedLimit {
      next.passedOver = next.range
      swap(&current.records, &next.records)
      current.records.removeAll(keepingCapacity: true)
      next.records = []
    }
    if next.records.isEmpty, let last = waiting.indices.last, waiting[last].records.isEmpty {
      waiting[last].join(next)
    } else {
      waiting.append(next)
    }
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
      call = BackgroundCall(niceness: SpanWorker.niceness) { [unowned self] in run() }
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
