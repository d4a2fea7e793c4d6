// SPDX-License-Identifier: Apache-2.0
// What `growth` found, for people and as JSON.

import Answers
import ByteText
import Glibc
import Provenance
import SystemAccess

/// Sites of a process that were watched for a while, with verdicts.
package struct GrowthReport: Sendable {
  package var processID: Int32
  package var command: [ForeignText]
  package var grouping: HeapGrouping
  /// The first ones, as many as are shown.
  package var sites: [GrowthOfSite]
  package var siteCount: Int
  /// How many seconds it was watched, and how many looks were taken.
  package var watched: Double
  package var looks: Int
  /// What a look took, if so much that fewer were taken than asked for; else 0.
  package var delay = 0.0
  /// Live bytes at the first look, and at the last.
  package var total: (first: Double, last: Double)
  package var lostBlocks: Double
  package var hasEnded: Bool
  /// The moment of the last look, in seconds since 1970-01-01 UTC.
  package var now: Double

  package init(
    of series: GrowthSeries, final: WatchLook, past: [Double], uptime: Double, by grouping: HeapGrouping, limit: Int,
    now: Double
  ) {
    let all = series.report(final: final, past: past, uptime: uptime)
    (processID, command, self.grouping) = (final.processID, final.command, grouping)
    // What does not change is no answer to the question what grows, where anything does change.
    let moving = all.filter { $0.verdict != .steady && $0.verdict != .unknown }
    sites = Array((moving.isEmpty ? all : moving).prefix(max(0, limit)))
    siteCount = all.count
    looks = series.times.count
    watched = (series.times.last ?? 0.0) - (series.times.first ?? 0.0)  // bounded: in floating point
    total = (series.totals.first ?? 0, series.totals.last ?? 0)
    (lostBlocks, hasEnded, self.now) = (final.lostBlocks, final.hasEnded, now)
  }

  /// Why process `id` can't be watched.
  package static func ended(_ id: Int32) -> Complaint {
    Complaint(
      .noSuchProcess, what: "can't watch process \(id): it has ended",
      advice: "`allocsctl top \(id)` and `allocsctl tree \(id)` show what lived at its end")
  }

  // MARK: words

  /// `3.1 MiB a minute`, `12 KiB an hour`: in the first unit in which it is a kibibyte at least.
  static func speed(_ bytesPerSecond: Double) -> String {
    let speed = min(bytesPerSecond.magnitude, 1e15)
    for (unit, seconds) in [("a second", 1.0), ("a minute", 60), ("an hour", 3600)] {
      let bytes = speed * seconds  // bounded: in floating point
      if bytes >= (unit == "a second" ? 1_048_576.0 : 1024.0) {
        return "\(Units.rounded(ShortNumbers.whole(bytes.rounded()))) \(unit)"
      }
    }
    return "\(Units.rounded(ShortNumbers.whole((speed * 86_400.0).rounded()))) a day"
  }

  /// `14:02` today, else with the day.
  private func clock(_ age: Double) -> String {
    var (then, today) = (time_t(now - min(age, 1e10)), time_t(now))
    var (parts, present) = (tm(), tm())
    guard localtime_r(&then, &parts) != nil, localtime_r(&today, &present) != nil else { return "" }
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let time = "\(two(parts.tm_hour)):\(two(parts.tm_min))"
    let isToday = parts.tm_yday == present.tm_yday && parts.tm_year == present.tm_year
    // bounded: the C library's numbers of a day that lies within 320 years of today
    return isToday ? time : "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday)) \(time)"
  }

  private func percent(_ part: Double) -> String {
    let percent = part * 100
    if part == 0 { return "nothing" }
    if percent < 0.5 { return "less than 1 %" }
    if percent > 99.5, part < 1 { return "more than 99 %" }
    return "\(Int(percent.rounded())) %"  // bounded: the part is from 0 to 1
  }

  /// The verdict on a site in a sentence.
  package func words(of site: GrowthOfSite) -> String {
    let speed = Self.speed(site.trend?.slope ?? 0)
    var words: String
    switch site.verdict {
    case .grows:
      words = "grows by \(speed)"
      if site.falls > 0 {
        // What was freed then tells nothing of the time before.
        words += ", and fell back \(site.falls == 1 ? "once" : "\(site.falls) times")"
      } else {
        words += site.hasPauses ? ", with pauses" : " without pause"
        if let age = site.growingFor {
          words += site.isSinceStart ? " since the index began, \(Units.duration(age)) ago" : " since \(clock(age))"
        }
      }
    case .fills:
      let more = ShortNumbers.whole(site.last - site.first)  // bounded: in floating point
      words = "filled up by \(Units.rounded(more)), and stays there"
    case .swings: words = "goes up and down, without a trend"
    case .shrinks: words = "shrinks by \(speed)"
    case .steady: words = "stays as it is"
    case .unknown: words = "too few looks to tell"
    }
    if let survival = site.survival, site.verdict != .steady, site.verdict != .unknown {
      words += "; \(percent(survival)) of what was new at a look still lives"
    }
    return words
  }

  /// Lines of 80 columns: for each site one with numbers and its name, and the verdict below.
  package var text: String {
    let name = command.first.flatMap { $0.isEmpty ? nil : "\($0.fileName), " } ?? ""
    var lines = TextLayout.wrap(
      [
        "\(name)process \(processID)\(hasEnded ? ", which has ended" : ""): watched for \(Units.duration(watched))",
        Units.count(UInt64(clamping: looks), "look"),
        "\(WatchWords.bytes(total.first)) live at first and \(WatchWords.bytes(total.last)) at last",
      ], indent: "")
    if delay > 0, looks > 1 {
      lines.append(
        "  looked   every \(Units.duration(watched / Double(looks - 1))), as a look took \(Units.duration(delay))")
    }
    if lostBlocks > 0 {
      lines.append("  missing  \(Units.count(ShortNumbers.whole(lostBlocks), "block")) not in the index")
    }
    if !sites.isEmpty {
      lines.append("     BYTES       CHANGE  \(grouping.title)")
    }
    let room = TextLayout.columns &- 25
    let names = TopTable.texts(of: sites.map(\.row.site), by: grouping, columns: room)
    for (site, name) in zip(sites, names) {
      let change = WatchWords.change(site.last - site.first)  // bounded: in floating point
      lines.append(
        TextLayout.padded(WatchWords.bytes(site.last), left: 10) + TextLayout.padded(change, left: 13) + "  \(name)")
      lines += TextLayout.fill(words(of: site), indent: String(repeating: " ", count: 25))
    }
    let hidden = siteCount &- sites.count
    if hidden > 0 {
      lines.append(
        "  \(Units.countOf(UInt64(clamping: hidden), "\(grouping.rawValue) is", "\(grouping.rawValue)s are")) not shown"
      )
    }
    if looks < GrowthSeries.fewestLooks {
      let count = Units.countOf(UInt64(clamping: looks), "look is", "looks are")
      lines.append("\(count) too few to tell what grows: watch for longer, with --for")
    } else if !sites.contains(where: { $0.verdict == .grows }) {
      lines.append("Nothing grew beyond chance.")
    }
    return TextLayout.text(of: lines)
  }

  /// One JSON object, without a newline.
  package var json: String {
    var writer = ByteWriter(capacity: 4096)
    func number(_ name: StaticString, _ value: Double, places: Int = 2) {
      writer.append(name)
      if value < 0 { writer.append("-") }
      writer.append(decimal: value.magnitude, places: places)
    }
    func bytes(_ name: StaticString, _ value: Double) { writer.append(name, decimal: ShortNumbers.whole(value)) }
    writer.append("{\"pid\":", decimal: UInt64(clamping: processID))
    writer.append(",\"command\":")
    writer.appendArray(command)
    if hasEnded { writer.append(",\"ended\":true") }
    number(",\"watched_seconds\":", watched)
    writer.append(",\"look_count\":", decimal: UInt64(clamping: looks))
    if delay > 0 { number(",\"look_seconds\":", delay, places: 3) }
    bytes(",\"first_bytes\":", total.first)
    bytes(",\"last_bytes\":", total.last)
    writer.append(",\"group\":", string: grouping.rawValue)
    writer.append(",\"row_count\":", decimal: UInt64(clamping: siteCount))
    writer.append(",\"rows\":[")
    for (index, site) in sites.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{\"verdict\":", string: site.verdict.rawValue)
      writer.append(",\"words\":", string: words(of: site))
      bytes(",\"first_bytes\":", site.first)
      bytes(",\"last_bytes\":", site.last)
      if let trend = site.trend {
        number(",\"slope\":", trend.slope)
        number(",\"slope_low\":", trend.low)
        number(",\"slope_high\":", trend.high)
        number(",\"tau\":", trend.tau, places: 4)
        number(",\"chance\":", trend.chance, places: 6)
      }
      if site.falls > 0 { writer.append(",\"falls\":", decimal: UInt64(clamping: site.falls)) }
      if let survival = site.survival { number(",\"survival\":", survival, places: 4) }
      if let age = site.growingFor { number(",\"growing_seconds\":", age) }
      writer.append(",\"key\":", string: ForeignText(site.row.key))
      site.row.appendNames(to: &writer)
      writer.append("}")
    }
    writer.append("]")
    if lostBlocks > 0 { bytes(",\"lost_blocks\":", lostBlocks) }
    writer.append("}")
    return writer.takeString()
  }
}

extension WatchLook.Row {
  /// What the row is, as fields of JSON, each with the comma before it.
  func appendNames(to writer: inout ByteWriter) {
    if let function = site.function { writer.append(",\"function\":", string: function) }
    if case .name(let name) = site.key, !name.isEmpty { writer.append(",\"name\":", string: name) }
    site.frames.first?.appendSite(to: &writer)
  }
}
