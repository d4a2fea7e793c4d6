// SPDX-License-Identifier: Apache-2.0
// Trends of series that are made for the test, and verdicts on sites.

import Answers
import ByteText
import Glibc
import Provenance
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Watching

@Suite("Trends", .bounded)
struct TrendTests {
  private func points(_ values: [Double]) -> [Trend.Point] {
    values.enumerated().map { Trend.Point(Double($0.offset), $0.element) }
  }

  @Test("a line has its slope, whatever noise and outliers are on it")
  func line() throws {
    var random = RandomNumbers()
    for slope in [5.0, -3, 0.01] {
      var values = (0..<60).map { 1000 + slope * Double($0) + slope * Double.random(in: -2...2, using: &random) }
      let trend = try #require(Trend(points(values)))
      #expect(
        abs(trend.slope - slope) < abs(slope) / 5 && trend.low <= trend.slope && trend.high >= trend.slope, "\(trend)")
      #expect(slope > 0 ? trend.isRise : trend.isFall)
      // A tenth of the points is anywhere.
      for index in stride(from: 3, to: 60, by: 10) { values[index] = 1e9 }
      #expect(abs(try #require(Trend(points(values))).slope - slope) < abs(slope) / 2)
    }
  }

  @Test("noise has no trend but by chance")
  func noise() throws {
    var random = RandomNumbers()
    var rises = 0
    for _ in 0..<200 {
      let trend = try #require(Trend(points((0..<40).map { _ in Double.random(in: 0...1000, using: &random) })))
      if trend.isRise || trend.isFall { rises += 1 }
    }
    // One in a hundred is expected; nine in two hundred come once in a thousand runs.
    #expect(rises < 12)
  }

  @Test("equal points, steps, ties, few points")
  func edges() throws {
    #expect(Trend([]) == nil && Trend(points([1, 2, 3, 4])) == nil)
    let flat = try #require(Trend(points(Array(repeating: 7, count: 50))))
    #expect(flat.slope == 0 && flat.chance == 1 && !flat.isRise && !flat.isFall)
    // One step in the middle: most pairs are equal or rise, and the median slope is small.
    let step = try #require(Trend(points(Array(repeating: 0, count: 30) + Array(repeating: 900, count: 30))))
    #expect(step.tau > 0 && step.low <= step.slope && step.slope <= step.high)
    let ties = try #require(Trend(points((0..<60).map { Double($0 / 10) })))
    #expect(ties.isRise && ties.tau < 1)
    // All at one time: no slope.
    #expect(Trend((0..<9).map { Trend.Point(5, Double($0)) }) == nil)
    for value in [Double.infinity, .nan, 1e308, -1e308] {
      _ = Trend(points((0..<20).map { $0 % 2 == 0 ? value : Double($0) }))
    }
  }

  @Test("a series that falls back is several series")
  func pieces() throws {
    let saw = (0..<60).map { Double($0 % 20) * 10 }
    let pieces = points(saw).pieces(fallingBack: 0.25)
    #expect(pieces.map(\.count) == [20, 20, 20])
    let trend = try #require(Trend(of: pieces))
    #expect(abs(trend.slope - 10) < 0.001 && trend.isRise)
    #expect(points([]).pieces(fallingBack: 0.25) == [[]] && points([5]).pieces(fallingBack: 0.25).count == 1)
  }
}

@Suite("What grows", .bounded)
struct GrowthTests {
  private static let looks = 48

  private func row(_ key: String, _ bytes: Double, parts: [Double]) -> WatchLook.Row {
    WatchLook.Row(
      key: key, bytes: bytes, blocks: bytes / 10, parts: parts.map { ($0, $0 / 10) },
      site: TopTable.Site(
        total: .init(bytes: UInt64(exactly: bytes.rounded()) ?? 0, blocks: 1),
        frames: [Frame(pc: 1, module: "/bin/x", function: ForeignText(key), file: "x.c", line: 1)], function: "malloc",
        allocator: nil))
  }

  /// Watches sites for 48 looks, a second apart. `bytes`: of each site at each look; `new`: what was made since the
  /// look before; `past`: bytes that live of each of ten pieces of 100 s before.
  private func watch(
    _ sites: [(key: String, bytes: (Int) -> Double, new: (Int) -> Double, kept: Double, past: [Double])],
    looks: Int = GrowthTests.looks, rowCount: Double? = nil
  ) -> GrowthReport {
    var series = GrowthSeries()
    for index in 0..<looks {
      var look = WatchLook(processID: 7, time: 1000 + Double(index))
      look.rows = sites.map { site in
        row(site.key, site.bytes(index), parts: index == 0 ? [] : [0, site.new(index)])
      }
      look.rowCount = rowCount ?? Double(sites.count)
      look.total.bytes = look.rows.reduce(0) { $0 + $1.bytes }
      series.add(look)
    }
    var final = WatchLook(processID: 7, time: 1000 + Double(looks))
    final.command = ["/bin/x"]
    let watched = Double(looks)
    let past = (0..<11).map { watched + Double(10 - $0) * 100 }
    final.rows = sites.map { site in
      let own = (1..<max(looks, 1)).map { site.new($0) * site.kept } + [0]
      return row(site.key, site.bytes(looks - 1), parts: [0] + site.past + own)
    }
    return GrowthReport(
      of: series, final: final, past: past, uptime: watched + 1000, by: .site, limit: 20, now: 1_795_961_130)
  }

  private static let none = Array(repeating: 0.0, count: 10)

  @Test("a watch has two looks, however short it is, and however long a look takes")
  func twoLooks() {
    for length in [0, 0.001, 0.05] {
      var watch = GrowthWatch(for: length, every: nil, by: .site, limit: 20)
      #expect(watch.plannedLooks == 2)
      // The first look has taken a minute, longer than the watch.
      watch.add(WatchLook(processID: 7, time: seconds(of: CLOCK_MONOTONIC) - 60), at: 1)
      let now = seconds(of: CLOCK_MONOTONIC)
      #expect(watch.next.map { $0 <= now + length } == true, "\(length) s")
      watch.add(WatchLook(processID: 7, time: now), at: 2)
      #expect(watch.next == nil)
    }
  }

  @Test("looks that are too few to tell are said to be that, one as well", arguments: [1, 7])
  func few(looks: Int) {
    let text = watch([("table", { _ in 5e6 }, { _ in 0 }, 1, Self.none)], looks: looks).text
    let words = looks == 1 ? "\n1 look is too few" : "\n7 looks are too few"
    #expect(text.contains("\(words) to tell what grows: watch for longer, with --for\n"), "\(text)")
  }

  @Test("a leak, a cache, a buffer, a leak with restarts, and what stays are told apart, also under noise")
  func verdicts() throws {
    // Waves without a trend.
    let noise = (0..<200).map { sin(Double($0) * 2.3) }
    let report = watch([
      (
        "leak", { 1e6 + 10_000 * Double($0) + 3000 * noise[$0] }, { _ in 10_000 }, 0.99,
        Array(repeating: 1e6, count: 10)
      ),
      ("cache", { min(4e6, 5e5 * Double($0)) }, { $0 <= 8 ? 5e5 : 0 }, 1, Self.none),
      ("buffer", { 1e6 + 9e5 * noise[$0 + 60] }, { _ in 5e5 }, 0.02, Self.none),
      ("restarts", { Double($0 % 16) * 20_000 }, { _ in 20_000 }, 0.3, Self.none),
      ("flush", { Double($0 % 4) * 20_000 }, { _ in 20_000 }, 0.05, Self.none),
      ("table", { _ in 5e6 }, { _ in 0 }, 1, Self.none),
      ("falling", { 9e6 - 1e5 * Double($0) }, { _ in 0 }, 1, Self.none),
    ])
    let verdicts = Dictionary(uniqueKeysWithValues: report.sites.map { ($0.row.key, $0.verdict) })
    #expect(
      verdicts == [
        "leak": .grows, "cache": .fills, "buffer": .swings, "restarts": .grows, "flush": .swings, "falling": .shrinks,
      ])
    // What does not change is counted and not listed.
    #expect(report.siteCount == 7)
    let leak = try #require(report.sites.first { $0.row.key == "leak" })
    #expect(abs(try #require(leak.trend).slope - 10_000) < 500)
    #expect(leak.isSinceStart && !leak.hasPauses)
    #expect(abs(try #require(leak.growingFor) - 1048) < 1)
    #expect(abs(try #require(leak.survival) - 0.99) < 0.001)
    let words = report.words(of: leak)
    #expect(
      words.hasPrefix("grows by 5") && words.contains(" a minute without pause since the index began"), "\(words)")
    #expect(words.hasSuffix("99 % of what was new at a look still lives"), "\(words)")
    let restarts = try #require(report.sites.first { $0.row.key == "restarts" })
    #expect(report.words(of: restarts).contains("and fell back 2 times"))
    for line in report.text.split(separator: "\n") { #expect(TextLayout.width(line) <= 80, "\(line)") }
  }

  @Test("since when it grows, by the births of what lives")
  func since() throws {
    // Of the ten pieces of the past, the last four have what the slope gives them.
    let past = Array(repeating: 0.0, count: 6) + Array(repeating: 1e6, count: 4)
    let report = watch([("leak", { 4e6 + 10_000 * Double($0) }, { _ in 10_000 }, 1, past)])
    let site = try #require(report.sites.first)
    #expect(!site.isSinceStart)
    #expect(abs(try #require(site.growingFor) - 448) < 1)
    #expect(report.words(of: site).range(of: "since ") != nil)
  }

  @Test("pauses are told")
  func pauses() throws {
    let report = watch([
      ("leak", { 1e6 + 10_000 * Double(min($0, 15) + max(0, $0 - 30)) }, { _ in 10_000 }, 1, Self.none)
    ])
    #expect(report.words(of: try #require(report.sites.first)).contains(", with pauses"))
  }

  @Test("that fewer looks were taken than asked for is told, with what a look took; numbers have their units")
  func dear() throws {
    var report = watch([("leak", { 1e6 + 7808 * Double($0) }, { _ in 7808 }, 1, Self.none)], looks: 11)
    #expect(!report.text.contains("looked") && !report.json.contains("look_seconds"))
    report.delay = 0.4
    #expect(report.text.contains("\n  looked   every 1.0 s, as a look took 400 ms\n"), "\(report.text)")
    #expect(try JSONValue(Array(report.json.utf8))["look_seconds"]?.number == 0.4)
    #expect(report.text.contains("1.0 MiB    +76.3 KiB  leak"), "\(report.text)")
    #expect(report.text.contains("976.6 KiB live at first and 1.0 MiB at last"), "\(report.text)")
    for line in report.text.split(separator: "\n") { #expect(TextLayout.width(line) <= 80, "\(line)") }
  }

  @Test("few looks tell nothing, and sites that come late or are not always listed are no growth of their own")
  func few() throws {
    let report = watch([("leak", { 1e6 * Double($0) }, { _ in 1e6 }, 1, Self.none)], looks: 4)
    #expect(report.sites.map(\.verdict) == [.unknown])
    #expect(report.text.contains("too few to tell what grows"))
    _ = watch([], looks: 20).text
    _ = watch([("x", { _ in .infinity }, { _ in .nan }, 1, Self.none)], looks: 1).sites
  }

  @Test("the JSON has what the words say")
  func json() throws {
    let report = watch([("leak \"x\"\n", { 1e6 + 10_000 * Double($0) }, { _ in 10_000 }, 0.5, Self.none)])
    let value = try JSONValue(Array(report.json.utf8))
    let row = try #require(value["rows"]?.elements.first)
    #expect(row["verdict"]?.text == "grows" && row["survival"]?.number == 0.5)
    #expect(abs(try #require(row["slope"]?.number) - 10_000) < 1)
    #expect(row["site"]?["function"]?.text == "leak \"x\"\n")
    #expect(value["look_count"]?.count == 48)
  }
}

@Suite("JSON of a source", .bounded)
struct JSONValueTests {
  @Test("values of each kind, with escapes")
  func values() throws {
    let value = try JSONValue(
      Array(#" {"a":[1,-2.5,1e3,true,false,null],"b":"x\"\\\/\n\u00e9\ud83d\ude00y","c":{}} "#.utf8))
    #expect(value["a"]?.elements.map(\.number) == [1, -2.5, 1000, nil, nil, nil])
    #expect(value["b"]?.text == "x\"\\/\n\u{e9}\u{1F600}y")
    #expect(value["a"]?.elements[3].isTrue == true && value["d"] == nil)
  }

  @Test(
    "what is no JSON, or too deep, is an error",
    arguments: [
      "", "{", "[1", "[1,]", "{\"a\"}", "{\"a\":}", "\"x", "\"\\u12\"", "\"\\ud800\"", "nul", "1 2", "-", "{a:1}",
      "1e20", "-1e400",
      String(repeating: "[", count: 100_000),
    ])
  func wrong(_ text: String) { #expect(throws: (any Error).self) { try JSONValue(Array(text.utf8)) } }
}
