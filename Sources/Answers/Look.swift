// SPDX-License-Identifier: Apache-2.0
// One look at the live blocks of a process: at which moment it was taken, and when the blocks were made that it is
// about. Tables of live memory begin with its words.

import ByteText
import IndexReader
import Provenance
import SystemAccess

/// When live blocks were looked at, and which window of time they were made in.
struct Look: Hashable, Sendable {
  let clock: SegmentClock
  /// When the blocks were made that the look is about.
  let window: TimeWindow
  /// The moment of the look, or of a recording, in seconds since 1970-01-01 UTC.
  let now: Double
  /// Whether it is a look at a recording, where the blocks are those of a moment that is past.
  private let isPast: Bool
  /// Whether the process has ended, and its blocks lived at its end. Of a recording, it is not asked.
  let hasEnded: Bool

  /// `moment`: of a recording, in seconds since 1970-01-01 UTC; nil: now.
  init(clock: SegmentClock, window: TimeWindow, moment: Double? = nil, hasEnded: Bool = false) {
    (self.clock, self.window, isPast, self.hasEnded) = (clock, window, moment != nil, hasEnded)
    now = moment ?? SystemClock.now()
  }

  /// The age of a sum's oldest block; nil if it is not known.
  func oldest(of births: SiteTable.Births) -> String? {
    births.oldest == .max ? nil : Units.duration(clock.age(ofOrder: births.oldest))
  }

  /// The age of a sum's newest block, in the same way.
  func newest(of births: SiteTable.Births) -> String? {
    births.oldest == .max ? nil : Units.duration(clock.age(ofOrder: births.newest))
  }

  /// The first lines of a table: of which process it is, and its sums; one line if there is room. `more`: further sums.
  static func heading(
    _ look: Look?, _ processID: Int32, _ command: [ForeignText], _ total: SiteTable.Total, more: [String] = []
  ) -> [String] {
    let title = IndexedProcess.title(processID, command, hasEnded: look?.hasEnded ?? false)
    let (blocks, bytes) = (Units.count(total.blocks, "live block"), Units.bytes(total.bytes))
    var sums = ["\(blocks) of \(bytes)"]
    if let look, let words = look.window.words(at: look.now) {
      sums = ["\(blocks) \(words)", bytes]
      if !look.isPast, let since = look.window.since?.age(at: look.now), since > look.clock.uptime + 0.5 {
        // In one phrase, unless that would be cut.
        let began = "its index began \(Units.duration(look.clock.uptime)) ago"
        let whole = "\(sums[0]) (\(began))"
        if TextLayout.width(whole) < TextLayout.columns { sums[0] = whole } else { sums.insert(began, at: 1) }
      }
    }
    sums += more
    let line = "\(title): \(sums.joined(separator: ", "))"
    guard TextLayout.width(line) > TextLayout.columns else { return [line] }
    return [TextLayout.fit(title, columns: TextLayout.columns)] + TextLayout.wrap(sums, indent: "")
  }

  /// The window as a field of JSON, with the comma before it; nothing if all blocks are meant.
  func appendJSONField(to writer: inout ByteWriter) { window.appendJSONField(at: now, to: &writer) }

  /// Whether the process has ended, as a field of JSON with the comma before it; nothing if it runs.
  func appendEnding(to writer: inout ByteWriter) {
    if hasEnded { writer.append(",\"ended\":true") }
  }

  /// The ages of a sum's oldest and newest block, in seconds, each with the comma before it.
  func appendJSONFields(of births: SiteTable.Births, to writer: inout ByteWriter) {
    guard births.oldest != .max else { return }
    writer.append(",\"oldest_seconds\":")
    writer.append(decimal: clock.age(ofOrder: births.oldest), places: 2)
    writer.append(",\"newest_seconds\":")
    writer.append(decimal: clock.age(ofOrder: births.newest), places: 2)
  }
}
