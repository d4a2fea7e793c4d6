// SPDX-License-Identifier: Apache-2.0
// The watched table: what keys do, and what each size of terminal shows.

import Answers
import ByteText
import Provenance
import Symbols
import TestSupport
import Testing

@testable import Watching

@Suite("The watched table", .bounded)
struct WatchScreenTests {
  private func row(_ name: String, bytes: Double, blocks: Double = 1, oldest: Double = 100) -> WatchLook.Row {
    let parts = WatchAges.bounds.map { _ in (0.0, 0.0) } + [(bytes, blocks)]
    return WatchLook.Row(
      key: name, bytes: bytes, blocks: blocks, oldest: oldest, parts: parts,
      site: TopTable.Site(
        total: .init(),
        frames: [Frame(pc: 1, module: "/bin/shop", function: ForeignText(name), file: "shop.c", line: 7)],
        function: "malloc", allocator: nil))
  }

  private func look(_ time: Double, _ rows: [WatchLook.Row], rowCount: Double? = nil) -> WatchLook {
    var look = WatchLook(processID: 42, time: time)
    look.command = ["/usr/bin/shop"]
    look.rows = rows
    look.rowCount = rowCount ?? Double(rows.count)
    look.total = (rows.reduce(0) { $0 + $1.bytes }, rows.reduce(0) { $0 + $1.blocks })
    return look
  }

  /// Watched for six looks, of which `leak` grows and `cache` shrinks.
  private func watched() -> WatchState {
    var state = WatchState(processID: 42)
    for second in 0..<6 {
      let time = Double(second)
      state.take(
        look(100 + time, [row("cache", bytes: 5e6 - 1000 * time), row("leak", bytes: 1e5 + 2048 * time, blocks: 900)]))
    }
    return state
  }

  private func text(_ state: inout WatchState, _ columns: Int = 80, _ rows: Int = 24) -> [String] {
    state.lines(columns: columns, rows: rows).map(\.text)
  }

  @Test("a screen of 80 by 24")
  func frame() {
    var state = watched()
    let lines = text(&state)
    #expect(lines.count == 24)
    #expect(lines[0] == "shop, process 42: 4.9M in 901 blocks")
    #expect(lines[1] == "every 1.0 s, watched for 5s")
    #expect(lines[2].hasPrefix("vBYTES  SHARE  BLOCKS  CHANGE     RATE  OLDEST  MEDIAN ALLOCATED BY"), "\(lines[2])")
    #expect(
      lines[3].hasPrefix("  4.8M  97.8%       1   -5000        -      1m      1m cache (shop.c:7)"), "\(lines[3])")
    #expect(lines[3].contains("cache (shop.c:7)") && lines[4].contains("+10.0K"), "\(lines[3...4])")
    #expect(lines[4].contains("leak (shop.c:7)"))
    #expect(lines[23].hasPrefix("? help"))
  }

  @Test(
    "each size has exactly its lines, none wider than it is, whatever the names",
    arguments: [
      (80, 24), (200, 60), (132, 43), (40, 10), (10, 3), (1, 1), (0, 0), (-5, 70_000), (5, 2), (24, 5), (79, 4),
    ])
  func sizes(_ columns: Int, _ rows: Int) {
    let hostile = "a\"b;\u{1B}[2J<script>alert(1)</script>\u{202E}\u{9B}31m\r\n" + String(repeating: "日本", count: 6000)
    var state = watched()
    state.take(look(104, [row(hostile, bytes: 9e18), row("", bytes: -1), row("\u{10FEE9}", bytes: .infinity)]))
    state.message = hostile
    state.problem = hostile
    state.ending = hostile
    state.filter = ""
    let width = columns > 0 ? columns : 80
    let height = rows > 0 ? min(rows, 500) : 24
    func check() {
      let lines = state.lines(columns: columns, rows: rows)
      #expect(lines.count == height)
      for line in lines {
        #expect(TextLayout.width(line.text) <= width, "\(line)")
        #expect(line.text.isInert, "\(line)")
      }
    }
    check()
    for key: Key in [
      .character("/"), .character("é"), .enter, .character("m"), .character("x"), .escape, .character("?"), .down,
    ] {
      _ = state.press(key)
      check()
    }
    state.page = WatchState.Page(.callers, key: "x", title: hostile, lines: [hostile, "plain"])
    check()
  }

  @Test("a wider terminal shows more of the names")
  func wide() {
    var state = WatchState(processID: 42)
    let name = "shop::inventory::Shelf::put_something_into_the_very_last_place_of_all_places"
    state.take(look(1, [row(name, bytes: 10)]))
    #expect(!text(&state)[3].contains(name))
    #expect(text(&state, 160)[3].contains("\(name) (shop.c:7)"))
  }

  @Test("columns that matter less go before a name is cut, and do not come and go by themselves")
  func namesFirst() {
    func frames(_ rows: [WatchLook.Row]) -> [WatchLook.Row] {
      rows.map { row in
        var row = row
        row.site.frames[0].file = "Objects/unicodeobject.c"
        row.site.frames[0].line = 1425
        return row
      }
    }
    var twins = frames([row("PyUnicode_New", bytes: 9), row("PyUnicode_New", bytes: 8)])
    for index in twins.indices {
      twins[index].key = "\(index)"
      twins[index].site.key = .site(
        pc: 0x58_4305 + UInt64(index), module: 1, allocator: 1, function: "malloc")
    }
    var state = WatchState(processID: 42)
    state.take(look(1, twins))
    let lines = text(&state)
    #expect(lines[3].contains("PyUnicode_New (") && lines[3].hasSuffix(":1425) [0x584305]"), "\(lines[3])")
    #expect(lines[2].contains("OLDEST") && !lines[2].contains("MEDIAN"), "\(lines[2])")
    // A longer name comes, and goes: the columns stay until a key is pressed.
    state.take(look(2, twins + frames([row("PyFunction_NewWithQualifiedName_WithClosure", bytes: 1)])))
    let wide = text(&state)
    #expect(wide[5].contains("PyFunction_NewWithQualifiedName_WithClosure:1425"), "\(wide[5])")
    #expect(!["SHARE", "OLDEST", "MEDIAN"].contains { wide[2].contains($0) } && wide[2].contains("RATE"), "\(wide[2])")
    state.take(look(3, twins))
    #expect(text(&state)[2] == wide[2])
    _ = state.press(.down)
    #expect(text(&state)[2] == lines[2])
    // What the rows are sorted by stays.
    _ = state.press(.character("8"))
    #expect(text(&state)[2].contains("vMEDIAN") && text(&state)[3].contains("PyUnicode_New"))
    // A wider terminal has room for all.
    #expect(text(&state, 120)[2].contains("MEDIAN") && text(&state, 120)[2].contains("SHARE"))
    for name in ["PyUnicode_New", "aeCreateEventLoop", "unicode_decode_utf8"] {
      for columns in [80, 60, 40] {
        var state = WatchState(processID: 42)
        state.take(look(1, frames([row(name, bytes: 5)])))
        let line = text(&state, columns)[3]
        #expect(line.contains(name) && line.contains(":1425"), "\(columns): \(line)")
      }
    }
  }

  @Test("keys sort, turn round, filter, group, and select")
  func keys() throws {
    var state = watched()
    func first() -> String { text(&state)[3] }
    #expect(state.press(.character("3")) == .look && first().contains("leak"))
    #expect(state.press(.character("3")) == nil && first().contains("cache"))
    #expect(state.press(.character("4")) == .look && first().contains("leak"))
    #expect(state.press(.character("6")) == nil && first().contains("+2048/s"))
    #expect(state.press(.character("9")) == nil && first().contains("cache"))
    for character in "/LEA" { _ = state.press(.character(character)) }
    #expect(first().contains("leak") && text(&state)[4].isEmpty)
    // In a filter, q is a letter.
    #expect(state.press(.character("q")) == nil && text(&state)[3].contains("no row has \"LEAq\" in it"))
    _ = state.press(.backspace)
    _ = state.press(.enter)
    #expect(text(&state)[1].contains("with \"LEA\""))
    #expect(state.press(.enter) == .callers(key: "leak") && state.press(.character("b")) == .blocks(key: "leak"))
    _ = state.press(.escape)
    _ = state.press(.end)
    _ = state.press(.down)
    #expect(state.press(.enter) == .callers(key: "leak"))
    _ = state.press(.pageUp)
    #expect(state.press(.enter) == .callers(key: "cache"))
    #expect(state.press(.character("g")) == .look && state.grouping == .function && state.look == nil)
    #expect(text(&state)[3].contains("looking"))
    #expect(state.press(.character("p")) == nil && state.isPaused)
    #expect(state.press(.character("q")) == .quit)
  }

  @Test("the change since watching began outlasts filters, other groups and marks")
  func changeStays() {
    var state = watched()
    func change(_ name: String) -> Double? { state.rows(columns: 40).first { $0.row.key == name }?.change }
    #expect(change("leak") == 10_240)
    for character in "/leak" { _ = state.press(.character(character)) }
    _ = state.press(.enter)
    #expect(change("leak") == 10_240 && state.rows(columns: 40).count == 1)
    _ = state.press(.escape)
    // All groups, and back to the first; of another group it is the change since that was first shown.
    for (turn, grouping) in (Array(HeapGrouping.allCases.dropFirst()) + [HeapGrouping.site]).enumerated() {
      let time = 110 + 2 * Double(turn)
      #expect(state.press(.character("g")) == .look && state.grouping == grouping && state.look == nil)
      guard grouping != .site else { continue }
      state.take(look(time, [row("leak", bytes: 3e5)]))
      state.take(look(time + 1, [row("leak", bytes: 3e5 + 7)]))
      #expect(change("leak") == 7 && text(&state)[1].contains("CHANGE of 1s"), "\(text(&state)[1])")
    }
    var marked = look(130, [row("leak", bytes: 1e5 + 20_000), row("new", bytes: 3)])
    marked.marks = [("x", 1)]
    state.take(marked)
    #expect(change("leak") == 20_000 && change("new") == 3)
    #expect(text(&state)[1].contains("watched for 30s") && !text(&state)[1].contains("CHANGE"), "\(text(&state)[1])")
    #expect(state.press(.character("d")) == .look && state.sinceMark == "x")
    state.take(look(131, [row("leak", bytes: 50)]))
    state.take(look(132, [row("leak", bytes: 60)]))
    #expect(change("leak") == 10)
    #expect(state.press(.character("d")) == .look && state.sinceMark == nil)
    state.take(look(133, [row("leak", bytes: 1e5 + 30_000)]))
    #expect(change("leak") == 30_000)
  }

  @Test("a mark is set by its name, and what was made since is asked for")
  func marks() {
    var state = watched()
    _ = state.press(.character("d"))
    #expect(state.message.contains("no mark yet"))
    for key: Key in [.character("m"), .character("x"), .character("1"), .backspace, .character("2")] {
      _ = state.press(key)
    }
    #expect(state.press(.enter) == .setMark("x2"))
    var marked = look(110, [row("leak", bytes: 5)])
    marked.marks = [("old", 100), ("x2", 1)]
    state.take(marked)
    #expect(text(&state)[1].contains("mark x2 1s ago"))
    #expect(state.press(.character("d")) == .look && state.sinceMark == "x2")
    #expect(text(&state)[1].contains("made since x2"))
    #expect(state.press(.character("d")) == .look && state.sinceMark == nil)
    var windowed = WatchState(processID: 42, windowWords: "of a window of time")
    #expect(windowed.press(.character("d")) == nil && windowed.message.contains("of a window"))
  }

  @Test("a page scrolls, leads to others, and goes")
  func pages() {
    var state = watched()
    state.page = WatchState.Page(.callers, key: "leak", title: "callers", lines: (0..<100).map { "line \($0)." })
    #expect(text(&state)[1] == "line 0." && text(&state)[23].contains("78 more lines"))
    _ = state.press(.pageDown)
    #expect(text(&state)[1] == "line 22.")
    _ = state.press(.end)
    #expect(text(&state)[22] == "line 99.")
    #expect(state.press(.enter) == .calls(key: "leak") && state.press(.character("b")) == .blocks(key: "leak"))
    _ = state.press(.character("x"))
    #expect(state.page == nil)
    _ = state.press(.character("?"))
    #expect(text(&state).contains { $0.contains("group by site, function") })
    for line in WatchState.help { #expect(TextLayout.width(line) <= 80, "\(line)") }
  }

  @Test("what was not listed at first has no change; what is new has all its bytes as change")
  func change() {
    var state = WatchState(processID: 42)
    state.take(look(1, [row("a", bytes: 10)], rowCount: 5))
    state.take(look(2, [row("a", bytes: 15), row("b", bytes: 9)], rowCount: 5))
    #expect(state.rows(columns: 40).map(\.change) == [5, nil])
    var whole = WatchState(processID: 42)
    whole.take(look(1, [row("a", bytes: 10)]))
    whole.take(look(2, [row("a", bytes: 15), row("b", bytes: 9)]))
    #expect(whole.rows(columns: 40).map(\.change) == [5, 9])
    // For hours: the memory of it stays bounded, the trend stays right.
    for second in 3..<5000 { whole.take(look(Double(second), [row("a", bytes: 5 + 5 * Double(second))])) }
    _ = whole.press(.character("6"))
    #expect(abs((whole.rows(columns: 40).first?.growth?.slope ?? 0) - 5) < 0.01)
  }

  @Test("what is allocated a second, and how long it lives, also where nothing lives; the order asks the source for it")
  func rate() {
    func busy(_ name: String, _ second: Double, perSecond: Double, live: Double) -> WatchLook.Row {
      var row = row(name, bytes: live * 100, blocks: live)
      row.allocated = (perSecond * 100 * second, perSecond * second)
      return row
    }
    var state = WatchState(processID: 42)
    for second in 1..<20 {
      let time = Double(second)
      state.take(
        look(
          time,
          [
            busy("steady", time, perSecond: 10, live: 5), busy("temporary", time, perSecond: 1000, live: 0),
            busy("leak", time, perSecond: 20, live: 20 * time), row("uncounted", bytes: 9e9),
          ]))
    }
    #expect(state.press(.character("5")) == .look && state.sourceOrder == .rate)
    let rows = state.rows(columns: 40)
    #expect(rows.map(\.row.key) == ["temporary", "leak", "steady", "uncounted"])
    #expect(rows.map(\.rate) == [100_000, 2000, 1000, nil])
    // Of a leak no life has ended, and of what no look has seen the number is not known.
    #expect(rows.map(\.life) == [nil, nil, 0.5, nil])
    let lines = text(&state)
    #expect(lines[2].contains("vRATE") && lines[2].contains("LIFE"), "\(lines[2])")
    #expect(lines[3].contains("97.7K/s") && lines[5].contains("500ms"), "\(lines[3...5])")
    // By thread the source does not tell it.
    state.grouping = .thread
    #expect(state.sourceOrder == .bytes)
    state.grouping = .site
    state.keepsTotals = false
    #expect(state.sourceOrder == .bytes)
  }

  @Test("two looks: what grew, what was made, what is gone, and what is not known")
  func twoLooks() throws {
    func counted(_ name: String, bytes: Double, blocks: Double, ever: Double) -> WatchLook.Row {
      var row = row(name, bytes: bytes, blocks: blocks)
      row.allocated = (ever * 10, ever)
      return row
    }
    var first = look(
      10,
      [
        counted("cache", bytes: 500, blocks: 5, ever: 50), counted("gone", bytes: 300, blocks: 3, ever: 3),
        row("plain", bytes: 7),
      ])
    var last = look(
      12,
      [
        counted("cache", bytes: 700, blocks: 7, ever: 60), counted("new", bytes: 900, blocks: 9, ever: 1000),
        row("plain", bytes: 7),
      ])
    (first.allocated, last.allocated) = ((530, 53), (10_600, 1060))
    let growth = ChangeReport(from: first, to: last, by: .site, .growth, limit: 10)
    #expect(growth.rows.map(\.row.key) == ["new", "cache", "plain", "gone"])
    #expect(growth.rows.map(\.change) == [900, 200, 0, -300])
    #expect(growth.rows.map { $0.allocated?.blocks } == [1000, 10, nil, nil])
    #expect(growth.rows.map(\.freedBlocks) == [991, 8, nil, nil])
    // 6 blocks lived on average, and 5 were made a second.
    #expect(growth.rows[1].life == 1.2)
    let rate = ChangeReport(from: first, to: last, by: .site, .rate, limit: 2)
    #expect(rate.rows.map(\.row.key) == ["new", "cache"] && rate.rowCount == 4)
    for line in rate.text.split(separator: "\n") { #expect(TextLayout.width(String(line)) <= 80, "\(line)") }
    #expect(rate.text.contains("2 sites are not shown") && rate.text.contains("1,007 blocks of 9.8 KiB allocated"))
    let json = try JSONValue(Array(growth.json.utf8))
    #expect(json["rows"]?.elements.first?["bytes_per_second"]?.count == 5000)
    #expect(json["rows"]?.elements.first?["key"]?.text?.escaped == "new")
    #expect(json["rows"]?.elements.last?["last_bytes"]?.count == 0)
    // Looks in an order that leaves out what has no live block: what is new in it may have been allocated before.
    let listed = ChangeReport(from: first, to: last, by: .site, .listed, limit: 10)
    #expect(listed.rows.map { $0.allocated?.blocks } == [10, nil, nil, nil])
    // Where not all rows were listed, what is not among them is not known.
    first.rowCount = 100
    last.rowCount = 100
    let part = ChangeReport(from: first, to: last, by: .site, .growth, limit: 10)
    #expect(part.rows.map(\.change) == [200, 0, nil, nil])
    #expect(part.rowCount == 4 && part.uncomparedCount == 96)
    #expect(part.text.contains("96 sites are not compared: a look lists 3") && !part.text.contains("not shown"))
    #expect(part.json.contains(#""row_count":4,"uncompared_count":96,"#))
    // A group whose blocks are gone at the second look.
    first.rowCount = 3
    let gone = ChangeReport(from: first, to: first.emptied(at: 12), by: .site, .growth, limit: 10)
    #expect(gone.rows.map(\.change) == [-7, -300, -500] && gone.uncomparedCount == 0)
    #expect(gone.text.contains("807 B live at first and 0 B at last"))
    // Numbers of a damaged index.
    first.rows[0].allocated = (.infinity, 1e300)
    last.rows[0].allocated = (0, .nan)
    last.time = 5
    let damaged = ChangeReport(from: first, to: last, by: .site, .rate, limit: 10)
    #expect(damaged.text.utf8.count > 100)
    _ = try JSONValue(Array(damaged.json.utf8))
  }

  @Test("the age of which half of the blocks are younger")
  func median() {
    var one = row("a", bytes: 100)
    // Ten blocks younger than a quarter of a second, and thirty of 10 to 13 s.
    one.parts = one.parts.map { _ in (0, 0) }
    let place = WatchAges.bounds.firstIndex { $0 > 10 }!
    one.parts[WatchAges.bounds.count] = (10, 10)
    one.parts[WatchAges.bounds.count - place] = (30, 30)
    let median = WatchAges.median(of: one)!
    #expect(median > WatchAges.bounds[place - 1] && median < WatchAges.bounds[place])
    one.parts = []
    #expect(WatchAges.median(of: one) == nil)
  }

  @Test("an end and a server that is gone are said, and the table stays")
  func ends() {
    var state = watched()
    state.problem = "the server at /run/x broke off its answer"
    #expect(text(&state)[23].contains("broke off") && text(&state)[4].contains("leak"))
    state.ending = "SIGKILL"
    #expect(text(&state)[1].hasPrefix("ended: SIGKILL"))
    _ = state.press(.character("m"))
    #expect(state.message.contains("has ended"))
  }
}

@Suite("Keys", .bounded)
struct KeyTests {
  @Test("sequences, letters, and bytes that mean nothing")
  func keys() {
    #expect(
      Key.keys(in: Array("\u{1B}[A\u{1B}OBx\u{1B}[5~\u{1B}[6~\r\u{7F}é\u{1B}".utf8)) == [
        .up, .down, .character("x"), .pageUp, .pageDown, .enter, .backspace, .character("é"), .escape,
      ])
    #expect(Key.keys(in: [0x1B, 0x5B, 0x31, 0x3B, 0x35, 0x41, 0x71]) == [.character("q")])
    #expect(Key.keys(in: [0xFF, 0xC3, 0x01, 0x71]).last == .character("q"))
    #expect(Key.keys(in: [0x1B, 0x5B]).isEmpty)
    var random = RandomNumbers()
    for _ in 0..<2000 { _ = Key.keys(in: (0..<20).map { _ in UInt8.random(in: 0...255, using: &random) }) }
  }
}

@Suite("Short numbers", .bounded)
struct ShortNumberTests {
  @Test("numbers fit their columns")
  func widths() {
    for (number, text) in [
      (0.0, "0"), (1, "1"), (9999, "9999"), (10_000, "9.8K"), (102_400, "100K"), (1_047_552, "1023K"),
      (1_048_576, "1.0M"),
      (5e6, "4.8M"), (-5, "0"), (.nan, "0"), (.infinity, "0"), (1e18, "888P"), (1e30, "9999E"),
    ] {
      #expect(ShortNumbers.bytes(number) == text)
    }
    #expect(
      ShortNumbers.change(-3000) == "-3000" && ShortNumbers.change(0) == "0" && ShortNumbers.change(20_480) == "+20.0K")
    #expect(
      [5, 99, 100, 5999, 6000, 90_000, 1e9, -1, .nan].map { ShortNumbers.duration($0) } == [
        "5s", "99s", "1m", "99m", "1h40m", "25h0m", "11574d", "0s", "11574074d",
      ])
  }
}
