// SPDX-License-Identifier: Apache-2.0
// Which net effects of a recording a replay may use, and in which order.
//
// An effect stands for all events of its span. It does if no chunk that it was made without has an
// event of the span; the headers of chunks say so. And it may be used if no event before its end is
// missing (`Recording.effect`).
//
// A file may have any effects. Effects that don't begin after the end of the one before are left
// out, so a replay goes through spans in the order of time. Between spans chunks are unpacked, a
// chunk for each of two spans that it lies in, as a rule; a file whose effects want more of it than
// that has them no longer (`unpack`).

import Bounds

/// The spans of a recording that have effects, in the order of time. No two of them overlap.
struct EffectPlan {
  struct Span {
    var from: UInt64
    var until: UInt64
    /// Of the effect among the recording's.
    var index: Int
  }

  private(set) var spans: [Span] = []
  private let chunks: [ChunkHeader]
  /// The least first stamp of the chunks of events from one on; and the events before each.
  private var laterStamps: [UInt64] = []
  private var eventsBefore: [UInt64] = []
  /// Events that may still be unpacked, and chunks that may be looked at for that.
  private var room: UInt64 = 0

  init() { chunks = [] }

  /// `effects`, `chunks`: headers of the net effects, and of the chunks of events.
  init(_ effects: [ChunkHeader], of chunks: [ChunkHeader]) {
    let all = effects.indices.map { Span(from: effects[$0].firstStamp, until: effects[$0].lastStamp, index: $0) }
    var end: UInt64?
    for span in all.sorted(by: { ($0.from, $0.index) < ($1.from, $1.index) }) {
      guard span.from <= span.until, end.map({ span.from > $0 }) ?? true else { continue }
      spans.append(span)
      end = span.until
    }
    self.chunks = chunks
    eventsBefore = chunks.map(\.eventsBefore)
    laterStamps = chunks.map(\.firstStamp)
    for index in laterStamps.indices.dropLast().reversed() {
      laterStamps[index] = min(laterStamps[index], laterStamps[index &+ 1])
    }
    let events = chunks.reduce(0) { $0 &+ UInt64(truncatingIfNeeded: $1.events) }
    room = 4 &* events &+ 256 &* UInt64(chunks.count)
  }

  /// Notes that the events between two stamps are unpacked.
  mutating func unpack(from: UInt64, through: UInt64) {
    guard !spans.isEmpty else { return }
    let cost = chunks.reduce(UInt64(chunks.count)) {
      $1.firstStamp <= through && $1.lastStamp >= from ? $0 &+ UInt64(truncatingIfNeeded: $1.events) : $0
    }
    room = room > cost ? room &- cost : 0
    if room == 0 { spans = [] }
  }

  /// Whether no chunk that the effect was made without has an event of its span.
  func isWhole(_ effect: NetEffect) -> Bool {
    let later = eventsBefore.partitioningIndex { $0 >= effect.seen }
    return later == laterStamps.count || laterStamps[later] > effect.until
  }
}
