// How long the drain loop waits between two looks at the rings: not at all while events pour, so long that a processor
// notices nothing while none come.

/// The time until the next look, from what the last ones found.
struct AdaptivePeriod {
  /// Nanoseconds. The shortest wait that is a wait; a ring of the default size, written to at full speed, is full in
  /// about as long.
  static let shortest: UInt64 = 250_000
  /// When nothing comes: twenty looks a second.
  static let longest: UInt64 = 50_000_000
  /// The same where a process may be waiting: what it loses at most by the first burst after a rest.
  static let longestLossless: UInt64 = 10_000_000

  private(set) var nanoseconds = shortest

  /// Takes note of a look at all rings. `fullest`: see `SourceStatus`.
  mutating func note(records: Int, fullest: Double, lossless: Bool) {
    let limit = lossless ? Self.longestLossless : Self.longest
    if records == 0 {
      // Also if there is much that nobody has room for: the end of a write ends the wait.
      nanoseconds = min(max(nanoseconds * 2, Self.shortest), limit)
    } else if fullest >= 0.125 {
      nanoseconds = 0
    } else {
      // The same rate fills a sixteenth in the next period.
      let factor = min(max(0.0625 / max(fullest, 1e-6), 0.25), 1.5)
      let next = Double(max(nanoseconds, Self.shortest)) * factor
      nanoseconds = min(max(UInt64(next), Self.shortest), limit)
    }
  }

  /// Something was added: it may have much to say.
  mutating func reset() { nanoseconds = Self.shortest }
}
