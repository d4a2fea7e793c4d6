// SPDX-License-Identifier: Apache-2.0
// How long the drain loop waits between two looks at the rings: not at all while many events come, and while none come
// so long that the looks take no noticeable part of a processor.
//
// bounded: a period is at most `longest`, and numbers that are computed from it at most twice that

/// The time until the next look, from the numbers of records that the last looks found.
struct AdaptivePeriod {
  /// Nanoseconds. The shortest wait but for none at all. A ring of the default size, written to at full speed, is full
  /// after about this time.
  static let shortest: UInt64 = 250_000
  /// The wait when no events come: twenty looks a second.
  static let longest: UInt64 = 50_000_000
  /// The longest wait with a lossless subscriber, for whom the process may be waiting: the time that the process loses
  /// at most by its first burst after a rest.
  static let longestLossless: UInt64 = 10_000_000

  /// The wait until the next look.
  private(set) var nanoseconds = shortest

  /// Takes note of a look at all rings. `fullest`: see `SourceStatus`.
  mutating func note(records: Int, fullest: Double, lossless: Bool) {
    let limit = lossless ? Self.longestLossless : Self.longest
    if records == 0 {
      // Records may still wait in the rings because no subscriber has room: the end of a write ends the wait then.
      nanoseconds = min(max(nanoseconds * 2, Self.shortest), limit)
    } else if fullest >= 0.125 {
      nanoseconds = 0
    } else {
      // At the rate of the last period, a sixteenth of the ring is filled in the next.
      let factor = min(max(0.0625 / max(fullest, 1e-6), 0.25), 1.5)
      let next = Double(max(nanoseconds, Self.shortest)) * factor
      nanoseconds = min(max(UInt64(next), Self.shortest), limit)
    }
  }

  /// Begins with the shortest wait again: a source was added, and may have many records.
  mutating func reset() { nanoseconds = Self.shortest }
}
