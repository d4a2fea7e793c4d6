// SPDX-License-Identifier: Apache-2.0
// What was ever allocated, beside what lives: how much a second, how much of it was freed again, and how long its
// blocks live. For people, and as fields of the table's JSON.
//
// - Bytes a second: all that was allocated since the process began, divided by the time since then.
// - Freed: blocks that were allocated and do not live. A realloc counts as a free and an allocation.
// - Mean life: the live blocks divided by the blocks allocated a second. That is Little's law (J. D. C. Little,
//   Operations Research 9, 1961), by which the mean number in a system is the rate of arrivals times the mean stay,
//   with the number that lives at this moment in place of the mean number. So it is exact if as many blocks had lived
//   at all times, and an estimate else. Where no block lives now, the mean number is not known, and it is only told
//   what one live block would have meant. Where no block was freed, no life has ended, and none is told.

import Bounds
import ByteText
import Glibc
import IndexReader
import Provenance
import Symbols
import SystemAccess

extension ProcessView {
  /// Why a question can't be answered with what was ever allocated; nil if it can.
  func totalsObstacle(_ scope: HeapScope, by grouping: HeapGrouping) -> Complaint? {
    func usage(_ what: String, _ advice: String) -> Complaint { Complaint(.usage, what: what, advice: advice) }
    let advice = "group by site, function, module, file or allocator"
    if grouping.dependsOnBlock {
      return usage("what was ever allocated is not known by \(grouping.rawValue)", advice)
    }
    if let group = scope.group, group.grouping.dependsOnBlock {
      return usage("what was ever allocated is not known within a \(group.grouping.rawValue)", advice)
    }
    if !scope.window.isAll {
      return usage(
        "what was ever allocated is counted since the process began, and not for a window of time",
        "leave the window out; `allocsctl top PID --sort rate --for 10s` counts for so long from now on")
    }
    if scope.countsMappings {
      return usage("calls of mmap are not counted with what was ever allocated", "leave --mapped out")
    }
    guard !shared.segment.hasTotals else { return nil }
    return Complaint(
      .noTotals, what: "process \(processID) does not keep what it has ever allocated",
      advice: "start it without ALLOCS_TOTALS=0, with this version's agent")
  }
}

extension SharedSegment {
  /// Seconds for which the process has counted what it ever allocated, as of `clock`: until its end, where that was
  /// seen.
  package func secondsCounted(on clock: SegmentClock, isAlive: Bool) -> Double {
    let ended = isAlive ? nil : IndexedProcess.endTime(ofSegment: segment.path)
    // bounded: floating point, which never traps
    return max(0, clock.uptime - (ended.map { max(0, seconds(of: CLOCK_REALTIME) - $0) } ?? 0))
  }
}

extension SiteTable.Allocated {
  /// Seconds that a block lives on average, where the totals count `seconds`; nil if that can't be told.
  package func meanLife(in seconds: Double) -> Double? {
    guard live > 0, freed > 0 else { return nil }
    return Double(live) / Double(total.blocks) * seconds
  }

  /// In few columns: `12 ms`, `<5 us`; empty if it can't be told.
  func lifeWords(in seconds: Double) -> String {
    guard freed > 0 else { return "" }
    if let life = meanLife(in: seconds) { return Units.life(life) }
    // A bound, so it is rounded up.
    let bound = seconds / Double(total.blocks)
    let unit = bound >= 1 ? 1 : bound >= 1e-3 ? 1e-3 : bound >= 1e-6 ? 1e-6 : 1e-9
    // bounded: floating point, which never traps
    let whole = (bound / unit).rounded(.up)
    return "<\(Units.life(whole * unit))"
  }
}

extension Units {
  /// `850 ns`, `12 us`, `37 ms`, `12 s`, `3 min`: the largest unit alone.
  package static func life(_ seconds: Double) -> String {
    if seconds >= 0.0009995 { return roughDuration(seconds) }
    let nanoseconds = seconds * 1e9  // bounded: floating point, which never traps
    let isShort = nanoseconds < 999.5
    let number = isShort ? nanoseconds : nanoseconds / 1000  // bounded: floating point, which never traps
    return "\(Foreign<UInt64>(wholePartOf: number.rounded()).saturated()) \(isShort ? "ns" : "us")"
  }
}

extension TopTable {
  /// What was ever allocated is known, of so many seconds.
  package mutating func setTotals(seconds: Double, withoutContext: UInt64) {
    totalSeconds = seconds
    self.withoutContext = withoutContext
  }

  /// What was ever allocated was asked for, and is not known.
  package mutating func setTotals(problem: String) { totalsProblem = problem }

  private func bytesPerSecond(_ sum: SiteTable.Allocated, _ seconds: Double) -> UInt64 {
    seconds > 0 ? Foreign<UInt64>(wholePartOf: Double(sum.total.bytes) / seconds).saturated() : 0
  }

  /// The table with the numbers of what was ever allocated, in 80 columns.
  func totalLines(_ seconds: Double) -> [String] {
    // bounded: columns of a line, and lines of a table
    let all = table.allocated ?? SiteTable.Allocated()
    func sum(_ bytes: String) -> String {
      "\(Units.count(all.total.blocks, "block")) of \(bytes) allocated in \(Units.duration(seconds))"
    }
    let exact = sum(Units.bytes(all.total.bytes))
    let isShort = TextLayout.width(exact) < TextLayout.columns
    var lines = TextLayout.wrap(
      [isShort ? exact : sum(Units.rounded(all.total.bytes)), "\(Units.grouped(all.freed)) of them freed again"],
      indent: "")
    guard !sites.isEmpty else { return lines }
    func cells(_ sum: SiteTable.Allocated?, _ live: Total) -> [String] {
      [
        sum.map { Units.rounded(bytesPerSecond($0, seconds)) } ?? "", sum.map { Units.grouped($0.total.blocks) } ?? "",
        sum.map { Units.share($0.freed, of: $0.total.blocks) } ?? "", sum?.lifeWords(in: seconds) ?? "",
        Units.rounded(live.bytes),
      ]
    }
    var rows = [["BYTES/S", "BLOCKS", "FREED", "LIFE", "LIVE"]]
    rows += sites.map { cells($0.allocated, $0.total) }
    let hidden = UInt64(clamping: siteCount &- sites.count)
    if hidden > 0 { rows.append(cells(table.otherAllocated, other)) }
    if rows.count > 2 { rows.append(cells(all, total)) }
    let widths = rows[0].indices.map { column in
      (rows.map { TextLayout.width($0[column]) }.max() ?? 0) + (column == 0 ? 0 : 2)
    }
    let room = max(8, TextLayout.columns - widths.reduce(2, +))
    var names = [grouping.title] + Self.texts(of: sites, by: grouping, columns: room)
    if hidden > 0 { names.append(Units.count(hidden, "other \(grouping.noun)")) }
    names.append("all")
    for (row, name) in zip(rows, names) {
      let numbers = zip(row, widths).map { TextLayout.padded($0, left: $1) }.joined()
      lines.append("\(numbers)  \(TextLayout.fit(name, columns: room))")
    }
    let unknown = total.blocks > all.live ? total.blocks &- all.live : 0
    // The counter has frees and mappings without a context, too.
    if withoutContext > 0 {
      lines += TextLayout.fill(
        "not counted here: at most \(Units.count(withoutContext, "block")) allocated without a context", indent: "")
    }
    if unknown > 0 {
      lines += TextLayout.fill(
        "not counted here: \(Units.count(unknown, "live block")) without a context, or of threads without an entry",
        indent: "")
    }
    for problem in sites.flatMap(\.frames).problems {
      lines += TextLayout.fill("names: \(TextLayout.printable(problem))", indent: "")
    }
    return lines
  }

  /// What was ever allocated, as fields of JSON, each with the comma before it; nothing if that is not known.
  func append(_ sum: SiteTable.Allocated?, to writer: inout ByteWriter) {
    guard let sum, let totalSeconds else { return }
    writer.append(",\"allocated_bytes\":", decimal: sum.total.bytes)
    writer.append(",\"allocated_blocks\":", decimal: sum.total.blocks)
    writer.append(",\"freed_blocks\":", decimal: sum.freed)
    writer.append(",\"bytes_per_second\":", decimal: bytesPerSecond(sum, totalSeconds))
    if let life = sum.meanLife(in: totalSeconds) {
      writer.append(",\"mean_life_seconds\":")
      writer.append(decimal: life, places: 9)
    }
  }
}
