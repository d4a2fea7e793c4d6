// SPDX-License-Identifier: Apache-2.0
// What a person who watches a process sees and has chosen: changed by looks and by keys, and by nothing else. It does
// no input and no output: keys lead to requests (`Request`), which whoever drives it carries out. WatchScreen.swift
// draws it.

import Answers
import ByteText
import Provenance

/// A column of the watched table, by which it may be sorted.
package enum WatchColumn: String, CaseIterable, Sendable {
  case bytes, share, blocks, change, rate, life, growth, oldest, median, newest, name

  /// Its title.
  var title: String {
    switch self {
    case .growth: "TREND"
    case .name: ""
    case .bytes, .share, .blocks, .change, .rate, .life, .oldest, .median, .newest: rawValue.uppercased()
    }
  }
}

/// A table that is watched.
package struct WatchState {
  /// What a key asks for beyond the state itself.
  package enum Request: Equatable {
    /// Look anew, at once: the question is another one.
    case look
    /// A text about one row.
    case callers(key: String), calls(key: String), blocks(key: String)
    case setMark(String)
    case quit
  }

  /// A text over the whole screen.
  package struct Page: Equatable {
    package enum Kind: Equatable, Sendable { case help, callers, calls, blocks }
    package var kind: Kind
    /// The key of the row that it is about.
    package var key: String
    package var title: String
    package var lines: [String]
    package var top = 0

    package init(_ kind: Kind, key: String, title: String, lines: [String]) {
      (self.kind, self.key, self.title, self.lines) = (kind, key, title, lines)
    }
  }

  enum Prompt: Equatable {
    case filter(String)
    case mark(String)
  }

  /// What is known of one row over time.
  private struct Series {
    /// Bytes when watching began; nil if the row was not listed then, though not all were.
    var base: Double?
    /// The last looks.
    var recent: [Trend.Point] = []
    /// Looks since watching began, of which every second is left out when they are many.
    var all: [Trend.Point] = []
    var stride = 1
    var skipped = 0
    /// What was ever allocated, and what lives, at the last looks.
    var flows: [Flow] = []

    static let recentLimit = 8
    static let limit = 32

    mutating func add(_ point: Trend.Point) {
      recent.append(point)
      if recent.count > Self.recentLimit { recent.removeFirst() }
      skipped += 1
      guard skipped >= stride else { return }
      skipped = 0
      all.append(point)
      guard all.count >= Self.limit else { return }
      all = all.enumerated().filter { $0.offset % 2 == 1 }.map(\.element)
      stride &*= 2
    }

    mutating func add(_ row: WatchLook.Row, at time: Double) {
      guard let allocated = row.allocated else { return }
      flows.append(Flow(time: time, bytes: allocated.bytes, blocks: allocated.blocks, live: row.blocks))
      if flows.count > Self.recentLimit { flows.removeFirst() }
    }

    /// Bytes allocated a second, over the last looks.
    var rate: Double? {
      guard let first = flows.first, let last = flows.last, last.time > first.time else { return nil }
      return (last.bytes - first.bytes) / (last.time - first.time)  // bounded: in floating point
    }

    /// Seconds that a block lives on average, over the last looks: see MeanLife.
    var life: Double? { MeanLife.seconds(flows) }
  }

  /// What rows are, and since which mark blocks count.
  private struct Question: Hashable {
    var grouping: HeapGrouping
    var mark: String?
  }

  /// What was watched of one question.
  private struct History {
    /// Its first look; and whether that listed all rows.
    var began: Double?
    var wasWhole = true
    var series: [String: Series] = [:]
  }

  package let processID: Int32
  package var look: WatchLook?
  package var grouping: HeapGrouping
  package var sort: WatchColumn
  /// Whether the smallest come first.
  package var isReversed = false
  package var filter = ""
  package var isPaused = false
  /// The name of the mark since which blocks were made; nil: all blocks count.
  package var sinceMark: String?
  /// The words of the window of time that was asked for with the command; nil if none was.
  package var windowWords: String?
  package var page: Page?
  var prompt: Prompt?
  /// A word about the last key.
  package var message = ""
  /// Whether the process keeps what it ever allocated, and the command's window leaves it in sight.
  package var keepsTotals = true
  /// Why the last look failed; empty if it did not.
  package var problem = ""
  /// How the process ended; nil while it runs.
  package var ending: String?
  /// Seconds between two looks, and what a look takes.
  package var interval = 1.0
  package var cost = 0.0
  /// The key of the row that is selected; nil: the first.
  var selected: String?
  /// What was watched of the present question.
  private var history = History()
  /// And of the questions before: with them the change since watching began outlasts other groups and marks.
  private var kept: [Question: History] = [:]
  /// The first look of all.
  private var start: Double?
  /// The number of rows that were shown last, for keys that go by pages.
  package var pageSize = 10
  /// Columns of the widest name that was in sight since the last key: so columns do not come and go by themselves.
  var widestName = 0

  package init(
    processID: Int32, by grouping: HeapGrouping = .site, sort: WatchColumn = .bytes, windowWords: String? = nil
  ) {
    (self.processID, self.grouping, self.sort, self.windowWords) = (processID, grouping, sort, windowWords)
  }

  // MARK: looks

  /// Seconds since watching began, at the last look.
  var watched: Double { seconds(since: start) }

  /// Seconds since the look with which CHANGE compares.
  var compared: Double { seconds(since: history.began) }

  private func seconds(since time: Double?) -> Double {
    look.flatMap { look in time.map { look.time - $0 } } ?? 0  // bounded: in floating point
  }

  /// Takes a look that was asked for with the present group and window.
  package mutating func take(_ new: WatchLook) {
    problem = ""
    let isFirst = history.began == nil
    if isFirst {
      history.began = new.time
      history.wasWhole = new.rowCount <= Double(new.rows.count)
      if start == nil { start = new.time }
    }
    let (began, wasWhole) = (history.began ?? new.time, history.wasWhole)
    var seen: Set<String> = []
    for row in new.rows {
      seen.insert(row.key)
      var known = history.series[row.key] ?? Series(base: isFirst ? row.bytes : wasWhole ? 0 : nil)
      if !isFirst, known.all.isEmpty, wasWhole { known.add(Trend.Point(began, 0)) }
      known.add(Trend.Point(new.time, row.bytes))
      known.add(row, at: new.time)
      history.series[row.key] = known
    }
    // A row that is not listed has no numbers at this look, and those of before belong to other seconds.
    for key in history.series.keys where !seen.contains(key) { history.series[key]?.flows = [] }
    // What has no blocks any more is not listed, where all rows are.
    if new.rowCount <= Double(new.rows.count) {
      for key in history.series.keys where !seen.contains(key) { history.series[key]?.add(Trend.Point(new.time, 0)) }
    }
    look = new
  }

  /// Turns to rows of another group, or of another mark; what was watched of the present ones is kept.
  private mutating func turn(to grouping: HeapGrouping, since mark: String?) {
    kept[Question(grouping: self.grouping, mark: sinceMark)] = history
    (self.grouping, sinceMark) = (grouping, mark)
    // Of marks the last one is kept, however many are set.
    if mark != nil { kept = kept.filter { $0.key.mark == nil || $0.key.mark == mark } }
    history = kept.removeValue(forKey: Question(grouping: grouping, mark: mark)) ?? History()
    // Rates are of the last looks, and there were none meanwhile.
    for key in history.series.keys { history.series[key]?.flows = [] }
    (look, selected) = (nil, nil)
  }

  // MARK: rows

  /// A row with its numbers, as columns show them; nil where they are not known.
  struct Shown {
    var row: WatchLook.Row
    var name = ""
    /// What tells the row from others that would look like it; empty where there are none.
    var piece = ""
    var change: Double?
    var rate: Double?
    var life: Double?
    var growth: Trend?
    var median: Double?
  }

  /// The rows that pass the filter, in their order. `columns`: of a name.
  func rows(columns: Int) -> [Shown] {
    guard let look else { return [] }
    let names = TopTable.shortTexts(of: look.rows.map(\.site), by: grouping, columns: columns)
    let wanted = filter.lowercased()
    var rows: [Shown] = []
    for (row, (name, piece)) in zip(look.rows, names.map { ($0.text, $0.piece) }) {
      // A name that is shortened may hide what is looked for.
      if !wanted.isEmpty, !name.lowercased().contains(wanted), !Self.words(of: row).contains(wanted) { continue }
      var shown = Shown(row: row, name: name, piece: piece)
      let known = history.series[row.key]
      shown.change = known?.base.map { row.bytes - $0 }  // bounded: in floating point
      shown.rate = known?.rate
      shown.life = known?.life
      if sort == .growth { shown.growth = known.flatMap { Trend($0.all) } }
      shown.median = WatchAges.median(of: row)
      rows.append(shown)
    }
    let order = sort
    return rows.enumerated().sorted { a, b in
      let result: Bool?
      if order == .name {
        result = a.element.name == b.element.name ? nil : a.element.name < b.element.name
      } else {
        let (left, right) = (Self.rank(a.element, order), Self.rank(b.element, order))
        result = left == right ? nil : left > right
      }
      guard let result else { return a.offset < b.offset }
      return result != isReversed
    }.map(\.element)
  }

  private static func words(of row: WatchLook.Row) -> String {
    let site = row.site
    let texts =
      site.frames.flatMap { [$0.function, $0.file, $0.module] } + [site.function, site.allocator, site.thread?.name]
    return texts.compactMap { $0?.escaped.lowercased() }.joined(separator: "\n")
  }

  private static func rank(_ row: Shown, _ column: WatchColumn) -> Double {
    switch column {
    case .bytes, .share, .name: row.row.bytes
    case .blocks: row.row.blocks
    case .change: row.change ?? -.infinity
    case .rate: row.rate ?? -.infinity
    case .life: row.life ?? -.infinity
    // What rises beyond chance comes before what only seems to.
    case .growth: row.growth.map { $0.isRise ? $0.slope : min($0.slope, 0) } ?? -.infinity
    case .oldest: row.row.oldest ?? -1
    case .median: row.median ?? -1
    case .newest: row.row.newest.map { -$0 } ?? -.infinity
    }
  }

  /// The order in which the source is to list the rows, so that those that are shown first are among them.
  package var sourceOrder: SiteOrder {
    switch sort {
    case .blocks: .blocks
    case .oldest: .age
    case .newest: .newest
    case .rate where hasTotals: .rate
    case .bytes, .share, .change, .rate, .life, .growth, .median, .name: .bytes
    }
  }

  /// Whether the rows may have what was ever allocated there.
  private var hasTotals: Bool {
    grouping.isOfContexts && sinceMark == nil && keepsTotals
  }

  // MARK: keys

  private static let sortKeys: [Character: WatchColumn] = [
    "1": .bytes, "2": .share, "3": .blocks, "4": .change, "5": .rate, "6": .growth, "7": .oldest, "8": .median,
    "9": .name, "0": .newest, "-": .life,
  ]

  package static let help = [
    "Keys", "",
    "  ↑ ↓ PgUp PgDn Home End   select a row (also k and j)",
    "  Enter       who calls the row's functions; Enter again: what they call",
    "  b           the row's blocks, with addresses",
    "  1 … 9, 0    sort by bytes, share, blocks, change, rate, trend, oldest,",
    "              median, name, newest, - by life; the same key turns the order",
    "  s           sort by the next column",
    "  g           group by site, function, module, file, thread, allocator,",
    "              size, age",
    "  /           show only rows with a text in them; Esc shows all",
    "  m           mark this moment with a name",
    "  d           show only what was made since the last mark; again: all",
    "  p or Space  pause, and go on",
    "  h or ?      this help; any key leaves it",
    "  q           quit", "",
    "Columns", "",
    "  CHANGE      bytes more than when watching began, or (g, d) first shown",
    "  RATE        bytes allocated a second, freed or not, over the last 8 looks",
    "  TREND       bytes a second more, over all looks: the median slope (Theil-Sen);",
    "              with ~ if it may be chance (Mann-Kendall)",
    "  LIFE        how long a block lives on average, over the last 8 looks: live",
    "              blocks by blocks allocated a second",
    "  OLDEST      the age of the oldest block",
    "  MEDIAN      the age of which half of the blocks are younger",
    "  NEWEST      the age of the newest block; shown where rows are sorted by it",
    "  -           not known: the row was not among those listed at first; of",
    "              RATE and LIFE, the process does not keep what it allocated",
  ]

  /// Does what a key means. Returns what is to be done beyond that.
  package mutating func press(_ key: Key) -> Request? {
    message = ""
    widestName = 0
    if let prompt { return press(key, in: prompt) }
    if page != nil { return pressOnPage(key) }
    switch key {
    case .up, .character("k"): move(-1)
    case .down, .character("j"): move(1)
    case .pageUp: move(0 &- pageSize)
    case .pageDown: move(pageSize)
    case .home: move(Int.min / 2)
    case .end: move(Int.max / 2)
    case .enter: return selectedKey.map { .callers(key: $0) }
    case .escape: filter = ""
    case .character(let character): return press(character)
    case .backspace, .left, .right: break
    }
    return nil
  }

  private mutating func press(_ character: Character) -> Request? {
    switch character {
    case "q": return .quit
    case "b": return selectedKey.map { .blocks(key: $0) }
    case "h", "?": page = Page(.help, key: "", title: "allocsctl top", lines: Self.help)
    case "p", " ": isPaused.toggle()
    case "/": prompt = .filter(filter)
    case "m":
      if ending != nil {
        message = "the process has ended: no moment can be marked"
      } else {
        prompt = .mark("")
      }
    case "d": return toggleMark()
    case "g":
      turn(to: Self.following(grouping), since: sinceMark)
      return .look
    case "s": return sort(by: Self.following(sort))
    case let digit: return Self.sortKeys[digit].flatMap { sort(by: $0) }
    }
    return nil
  }

  /// The next of all cases; behind the last, the first.
  private static func following<Case: CaseIterable & Equatable>(_ value: Case) -> Case {
    Case.allCases.drop { $0 != value }.dropFirst().first ?? Case.allCases.first ?? value
  }

  private mutating func sort(by column: WatchColumn) -> Request? {
    isReversed = column == sort && !isReversed
    let before = sourceOrder
    sort = column
    return sourceOrder == before ? nil : .look
  }

  private mutating func toggleMark() -> Request? {
    if sinceMark != nil {
      turn(to: grouping, since: nil)
    } else if windowWords != nil {
      message = "the window of time is the command's: \(windowWords ?? "")"
      return nil
    } else if let mark = look?.marks.last {
      turn(to: grouping, since: mark.name.escaped)
    } else {
      message = "there is no mark yet: m sets one"
      return nil
    }
    return .look
  }

  private mutating func press(_ key: Key, in prompt: Prompt) -> Request? {
    func edited(_ text: String) -> String? {
      switch key {
      case .backspace: String(text.dropLast())
      case .character(let character): text.utf8.count < 200 ? text + String(character) : text
      default: nil
      }
    }
    switch prompt {
    case .filter(let text):
      if let text = edited(text) {
        self.prompt = .filter(text)
        filter = text
      } else if key == .enter || key == .escape {
        self.prompt = nil
        if key == .escape { filter = "" }
      }
    case .mark(let text):
      if let text = edited(text) {
        self.prompt = .mark(text)
      } else if key == .escape {
        self.prompt = nil
      } else if key == .enter {
        self.prompt = nil
        guard !text.isEmpty else { break }
        // A mark of that name is moved, and what was watched since it is of another question.
        kept = kept.filter { $0.key.mark != text }
        if sinceMark == text { history = History() }
        return .setMark(text)
      }
    }
    return nil
  }

  private mutating func pressOnPage(_ key: Key) -> Request? {
    guard var shown = page else { return nil }
    let most = max(0, shown.lines.count &- pageSize)
    switch key {
    case .up, .character("k"): shown.top &-= 1
    case .down, .character("j"): shown.top &+= 1
    case .pageUp: shown.top &-= pageSize
    case .pageDown, .character(" "): shown.top &+= pageSize
    case .home: shown.top = 0
    case .end: shown.top = most
    case .enter where shown.kind == .callers: return .calls(key: shown.key)
    case .enter where shown.kind == .calls: return .callers(key: shown.key)
    case .character("b") where shown.kind != .help: return .blocks(key: shown.key)
    case .enter, .escape, .backspace, .left, .right, .character:
      page = nil
      return nil
    }
    shown.top = max(0, min(shown.top, most))
    page = shown
    return nil
  }

  // MARK: the selection

  /// The place of the selected row among `rows`.
  func selection(among rows: [Shown]) -> Int { selected.flatMap { key in rows.firstIndex { $0.row.key == key } } ?? 0 }

  private var selectedKey: String? {
    let rows = rows(columns: 80)
    return rows.isEmpty ? nil : rows[selection(among: rows)].row.key
  }

  private mutating func move(_ step: Int) {
    let rows = rows(columns: 80)
    guard !rows.isEmpty else { return }
    // bounded: a place among rows, and half of the numbers at most
    selected = rows[max(0, min(selection(among: rows) + step, rows.count - 1))].row.key
  }
}
