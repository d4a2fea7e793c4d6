// SPDX-License-Identifier: Apache-2.0
// Live memory by other properties than its site, of one group alone, divided by time; rows that differ; and marks.

import ByteText
import CLibrary
import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Groups of blocks", .bounded)
struct GroupTests {
  private let directory = TemporaryDirectory()
  private let segment: SyntheticSegment
  private let view: ProcessView
  private static let first: UInt64 = 0x5555_0000_0000

  /// Two modules, two threads and a third that had the slot of the second; 60 blocks of 16, 100 and 3,000 bytes.
  init() throws {
    segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    // The agent began two hours ago.
    segment.header.pointee.clock.monotonic_ns = 1_000_000_000_000
    segment.header.pointee.clock.realtime_ns = SyntheticSegment.nanoseconds(CLOCK_REALTIME) - 7_200_000_000_000
    segment.addModule(path: "/lib/liba.so", range: 0x1000_0000..<0x1001_0000)
    segment.addModule(path: "/opt/libb.so", range: 0x2000_0000..<0x2001_0000)
    segment.addAllocator(module: 1)
    segment.addAllocator(module: 2, name: "jemalloc")
    let start = Self.ticks(ago: 7200)
    let main = segment.addThread(id: 100, name: "main", from: start)
    let worker = segment.addThread(id: 200, name: "worker", from: start)
    segment.replaceThread(
      slot: worker, endingAt: Self.ticks(ago: 1000), by: 300, name: "late", from: Self.ticks(ago: 900))
    let nodes = [segment.addNode(pc: 0x1000_0100), segment.addNode(pc: 0x1000_0200), segment.addNode(pc: 0x2000_0100)]
    let contexts = [
      segment.addContext(node: nodes[0], thread: main), segment.addContext(node: nodes[1], thread: worker),
      segment.addContext(node: nodes[2], thread: worker, allocator: 1),
    ]
    let ages = [5.0, 500, 5000]
    for index in 0..<60 {
      segment.allocate(
        Self.first + UInt64(index) * 0x2000, size: [16, 100, 3000][index / 20], context: contexts[index % 3],
        ticks: Self.ticks(ago: ages[index / 3 % 3]))
    }
    view = try ProcessView(file: segment.path)
  }

  private static func ticks(ago seconds: Double) -> UInt32 {
    let time = 1_000_000_000_000 + UInt64((7200 - seconds) * 1e9)
    return allocs_ticks(time / 1_000_000_000, time % 1_000_000_000)
  }

  private func names(_ table: TopTable) -> [String] {
    TopTable.texts(of: table.sites, by: table.table.grouping, columns: 60)
  }

  @Test("each grouping has all blocks, once", arguments: HeapGrouping.allCases)
  func whole(_ grouping: HeapGrouping) throws {
    let table = try view.top(limit: 100, by: grouping)
    #expect(table.total == .init(bytes: 20 * (16 + 100 + 3000), blocks: 60))
    #expect(table.sites.reduce(0) { $0 + $1.total.blocks } == 60)
    #expect(Set(table.sites.map(\.key)).count == table.sites.count)
    let value = try parseJSON(table.json)
    #expect(value[grouping == .site ? "sites" : "groups"]?.count == table.siteCount)
    #expect(value["group"]?.string == (grouping == .site ? nil : grouping.rawValue))
    for line in table.text.split(separator: "\n") { #expect(TextLayout.width(line) <= 80, "\(line)") }
    for row in table.sites {
      // A group alone is as large as its row.
      let key = try #require(row.key).text.unescaped
      var scope = HeapScope()
      scope.group = try GroupName("\(grouping.rawValue):\(key)")
      #expect(try view.top(by: .site, scope: scope).total == row.total, "\(key)")
      #expect(try view.stackSums(scope).total == row.total, "\(key)")
      #expect(try view.blocks(BlockFilter(scope: scope, sites: nil), json: true).total == row.total, "\(key)")
    }
  }

  @Test("by module, allocator, thread, size and age")
  func names() throws {
    #expect(names(try view.top(by: .module)).sorted() == ["/lib/liba.so", "/opt/libb.so"])
    #expect(names(try view.top(by: .allocator)).sorted() == ["jemalloc", "liba.so"])
    // The second slot had one thread after another.
    #expect(
      Set(names(try view.top(by: .thread))) == ["100 \"main\"", "200 \"worker\", ended", "300 \"late\""])
    #expect(
      names(try view.top(sort: .name, by: .size)) == ["16 to 31 bytes", "64 to 127 bytes", "2,048 to 4,095 bytes"])
    #expect(names(try view.top(sort: .name, by: .age)) == ["1.0 s to 10.0 s", "1 min to 10 min", "1 h to 1 d"])
    #expect(names(try view.top(by: .file)) == ["not known"])
    #expect(
      names(try view.top(by: .function)).sorted() == ["liba.so+0x100000ff", "liba.so+0x100001ff", "libb.so+0x200000ff"])
  }

  @Test("orders of rows")
  func orders() throws {
    let newest = try view.top(sort: .newest, by: .age).sites.map(\.births.newest)
    #expect(newest == newest.sorted(by: >))
    let oldest = try view.top(sort: .age, by: .age).sites.map(\.births.oldest)
    #expect(oldest == oldest.sorted())
    let sizes = try view.top(sort: .bytes, by: .size).sites.map(\.total.bytes)
    #expect(sizes == sizes.sorted(by: >))
  }

  @Test("sums divided at moments add up, each block in the part in which it was made")
  func divisions() throws {
    var scope = HeapScope()
    scope.divisions = [.ago(1000), .ago(100)]
    for grouping in HeapGrouping.allCases {
      let table = try view.top(limit: 100, by: grouping, scope: scope)
      for row in table.sites {
        #expect(row.parts.count == 3)
        #expect(row.parts.reduce(0) { $0 + $1.bytes } == row.total.bytes)
        #expect(row.parts.reduce(0) { $0 + $1.blocks } == row.total.blocks)
      }
      // bounded: three parts each
      let sums = (0..<3).map { part in table.sites.reduce(0) { $0 + $1.parts[part].blocks } }
      #expect(sums == [18, 21, 21], "\(grouping)")
    }
    let value = try parseJSON(try view.top(scope: scope).json)
    #expect(value["sites"]?[0]?["parts"]?.count == 3)
    // Moments in any order, and two of one.
    scope.divisions = [.ago(100), .ago(1000), .ago(100)]
    #expect(try view.top(by: .allocator, scope: scope).sites.map(\.parts.count) == [4, 4])
  }

  @Test(
    "texts that name no group",
    arguments: ["", "site", "nothing:5", ":", "Site:0", String(repeating: "x", count: 12_000)])
  func noGroup(_ text: String) {
    do throws(Complaint) {
      _ = try GroupName(text)
      Issue.record("\(text) was taken")
    } catch {
      #expect(error.kind == .usage && error.what.utf8.count < 200)
    }
  }

  @Test("keys of long names, and of names that are no text, find their group")
  func oddKeys() throws {
    let long = GroupKey.name(ForeignText(String(repeating: "é", count: 12_000))).text
    let other = GroupKey.name(ForeignText(String(repeating: "é", count: 12_001))).text
    #expect(long != other && long.byteCount < 1000)
  }
}

@Suite("Rows that differ", .bounded)
struct DistinctRowsTests {
  private func site(
    _ function: String, line: Int = 12, file: String = "/src/shelf.h", pc: UInt64 = 1
  ) -> TopTable.Site {
    var site = TopTable.Site(
      total: .init(bytes: 1, blocks: 1),
      frames: [
        Frame(pc: pc, module: "/bin/shop", function: ForeignText(function), file: ForeignText(file), line: line)
      ],
      function: "operator new", allocator: "libc.so.6")
    site.key = .site(pc: pc, module: 1, allocator: 1, function: "operator new")
    return site
  }

  @Test("instantiations of one template show what they are of")
  func templates() {
    let types = ["int", "std::vector<std::pair<int, long>>", "shop::Order const*"]
    let rows = types.enumerated().map { index, type in
      site("void shop::Shelf<\(type), std::allocator<\(type)>>::put(\(type) const&)", pc: UInt64(index + 1))
    }
    for columns in [40, 50, 60] {
      let texts = TopTable.texts(of: rows, by: .site, columns: columns)
      #expect(Set(texts).count == 3, "\(texts)")
      for (text, piece) in zip(texts, ["[int]", "[std::vector", "[shop::Order"]) {
        #expect(text.contains(piece) && TextLayout.width(text) <= columns, "\(columns): \(text)")
      }
    }
  }

  @Test("files of one name, and one line at two addresses, are told apart; other rows stay as they are")
  func others() {
    let rows = [
      site("put", file: "/src/a/x.c"), site("put", file: "/src/b/x.c", pc: 2), site("get", pc: 3), site("same", pc: 4),
      site("same", pc: 5),
    ]
    let texts = TopTable.texts(of: rows, by: .site, columns: 60)
    #expect(Set(texts).count == 5, "\(texts)")
    #expect(texts[0].contains("[a") && texts[1].contains("[b"), "\(texts)")
    #expect(!texts[2].contains("["), "\(texts)")
    #expect(texts[3].contains("0x4") && texts[4].contains("0x5"), "\(texts)")
  }

  @Test("rows that differ in nothing but their key show an address that can be read, and keep their line")
  func keysAlone() {
    let rows = [0x55a8_c0ff_ee10, 0x55a8_c0ff_ee58, 0x55a8_c0ff_f000].map { site("Shelf::put", line: 4071, pc: $0) }
    for columns in [80, 60, 40] {
      let texts = TopTable.texts(of: rows, by: .site, columns: columns)
      #expect(Set(texts).count == 3, "\(texts)")
      for (text, row) in zip(texts, rows) {
        let address = hex(row.frames[0].pc)
        #expect(text.contains("put") && text.contains(":4071)"), "\(columns): \(text)")
        #expect(text.hasSuffix("[\(address)]"), "\(text)")
      }
    }
    // One site at one address, of two modules that share a name.
    var twins = [rows[0], rows[0]]
    twins[1].key = .site(pc: rows[0].frames[0].pc, module: 7, allocator: 1, function: "operator new")
    for columns in [80, 60, 40, 24] {
      let texts = TopTable.texts(of: twins, by: .site, columns: columns)
      #expect(texts[0] != texts[1], "\(columns): \(texts)")
    }
  }

  @Test(
    "a name of any length keeps its own name and its line, at any width; and no two rows are alike",
    arguments: [80, 60, 40])
  func lines(columns: Int) {
    let long = String(repeating: "a", count: 12_000)
    let scopes = (0..<1200).map { "scope\($0)" }.joined(separator: "::")
    let arguments =
      "Map<" + String(repeating: "std::pair<int, ", count: 800) + "int" + String(repeating: ">", count: 801)
    let wide = String(repeating: "漢字", count: 3000)
    var rows: [TopTable.Site] = []
    for middle in ["x", "y", "z"] {
      let names = [
        "\(scopes)::\(middle)::put", "shop::\(arguments)::\(middle)::put(\(arguments) const&)",
        "\(wide)::\(middle)::put", "\(long)\(middle)\(long)", "\(wide)\(middle)\(wide)", "shop::\(long)\(middle)",
        "shop::\(middle)\(long)", "<\(arguments) as shop::\(middle)>::put",
        "f\(String(repeating: "(", count: 9000))\(middle)",
      ]
      for name in names { rows.append(site(name, line: 4071, pc: UInt64(rows.count + 1) << 32)) }
    }
    // Inlined into another; the function's own line stays.
    var inlined = site("shop::Shelf::put", line: 4071)
    inlined.frames.append(
      Frame(pc: 1, module: "/bin/shop", function: ForeignText("\(scopes)::run"), file: "/a.cc", line: 9))
    rows += [inlined, inlined, inlined]
    let texts = TopTable.texts(of: rows, by: .site, columns: columns)
    #expect(Set(texts).count == rows.count, "\(texts)")
    for (row, text) in zip(rows, texts) {
      #expect(TextLayout.width(text) <= columns && text.isInert, "\(text)")
      #expect(text.contains(":4071"), "\(text)")
      if row.frames[0].function?.escaped.contains("::put") == true { #expect(text.contains("put"), "\(text)") }
    }
  }

  @Test(
    "a function's own name and its line are whole wherever they fit, however many rows look like it",
    arguments: [80, 60, 33, 25, 24])
  func ownNamesAreWhole(columns: Int) {
    let names = [
      "PyUnicode_New", "aeCreateEventLoop", "unicode_decode_utf8", "PyFunction_NewWithQualName", "x",
      "shop::inventory::Shelf<std::pair<int, long>>::put(std::pair<int, long> const&)", "std::vec::Vec<T>::push",
    ]
    for copies in 1...11 {
      var rows: [TopTable.Site] = []
      for (index, name) in names.enumerated() {
        for copy in 0..<copies {
          let file = index % 2 == 0 ? "/src/Objects/unicodeobject.c" : "/src/ae.c"
          rows.append(site(name, line: 1425, file: file, pc: 0x5843_0000 + UInt64(index * 0x1000 + copy * 0x5f)))
        }
      }
      let texts = TopTable.texts(of: rows, by: .site, columns: columns)
      #expect(Set(texts).count == rows.count, "\(texts)")
      for (index, text) in texts.enumerated() {
        #expect(TextLayout.width(text) <= columns, "\(text)")
        let name = names[index / copies]
        let own = name.contains("put") ? "put" : name.contains("push") ? "push" : name
        let number = copies > 1 ? " [#\(index + 1)]".count : 0
        guard own.count + ":1425".count + number <= columns else { continue }
        #expect(text.contains(own) && text.contains(":1425"), "\(copies): \(text)")
      }
    }
  }

  @Test("instantiations keep their type where one of them has two sites, and the called function tells sites apart")
  func parts() {
    var rows = ["int", "int", "std::string", "long", "shop::Order"].enumerated().map { index, type in
      site("shop::Shelf<\(type)>::put(\(type) const&)", pc: 0x58_4300 + UInt64(index * 0x4c))
    }
    for columns in [36, 30, 26] {
      let texts = TopTable.texts(of: rows, by: .site, columns: columns)
      #expect(Set(texts).count == 5, "\(texts)")
      #expect(texts.allSatisfy { $0.contains("put") && $0.contains(":12") }, "\(texts)")
      #expect(texts[3].hasSuffix(" [long]") && !texts[2].contains("0x"), "\(columns): \(texts)")
      #expect(texts[0].contains("[int ") && texts[1].contains("[int "), "\(columns): \(texts)")
    }
    #expect(TopTable.texts(of: rows, by: .site, columns: 36)[0].hasSuffix(" [int 0x584300]"))
    // Where the function that was called is not shown.
    rows = [site("resize", pc: 1), site("resize", pc: 2)]
    rows[1].function = "realloc"
    let short = TopTable.shortTexts(of: rows, by: .site, columns: 40).map(\.text)
    #expect(short == ["resize (shelf.h:12) [operator]", "resize (shelf.h:12) [realloc]"], "\(short)")
  }

  @Test("the own name of a function is what stands behind its scope")
  func ownNames() {
    let names = [
      ("shop::Shelf::put", "put"), ("put", "put"), ("a::b::operator<", "operator<"), ("Foo.bar(baz:)", "bar(baz:)"),
      ("zmalloc_usable.part.0", "zmalloc_usable.part.0"), ("core::run::{{closure}}", "run::{{closure}}"),
      ("a::", "a::"), ("", ""), ("::", "::"), ("x::(anonymous namespace)::f", "f"),
    ]
    for (name, own) in names { #expect(FunctionName.ownName(of: name) == own, "\(name)") }
    // Names that are no types, with blanks and brackets: nothing of them is a result, or a type alone.
    for name in ["quotes'`&amp; ; %s ${x}", "<script>title=1</script><img/src=x>"] {
      for form in FunctionName.shorterForms(of: name) { #expect(form.hasPrefix(name.prefix(8)), "\(form)") }
    }
  }

  @Test("names of every kind stay within their columns")
  func hostile() {
    let hostile = "a\"b \u{1B}[31m<script>\u{202E}\n" + String(repeating: "x<y>::", count: 2000)
    let rows = (0..<20).map { site(hostile + "\($0 % 7)", pc: UInt64($0)) }
    for columns in [1, 2, 10, 30, 80] {
      for text in TopTable.texts(of: rows, by: .site, columns: columns) {
        #expect(TextLayout.width(text) <= columns, "\(columns): \(text)")
        #expect(text.isInert)
      }
    }
  }
}

@Suite("Marks", .bounded)
struct MarkTests {
  private let directory = TemporaryDirectory()
  private let segment: SyntheticSegment
  private let view: ProcessView

  private static let areKept: Bool = {
    let path = unusedPath("mark")
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600))
    defer { unlink(path) }
    return setxattr(path, "user.allocs.mark.a", "0", 1, 0) == 0
  }()

  init() throws {
    segment = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
    // A minute ago.
    segment.header.pointee.clock.monotonic_ns -= 60_000_000_000
    segment.header.pointee.clock.realtime_ns -= 60_000_000_000
    view = try ProcessView(file: segment.path)
  }

  @Test("a mark is a moment for every question, until it is removed", .enabled(if: areKept))
  func marks() throws {
    let start = segment.header.pointee.clock.monotonic_ns
    let now = start + 30_000_000_000
    for (index, time) in [now - 10_000_000_000, now + 60_000_000_000].enumerated() {
      segment.allocate(
        0x5555_0000_0000 + UInt64(index) * 0x1000, size: 10 + UInt64(index),
        ticks: allocs_ticks(time / 1_000_000_000, time % 1_000_000_000))
    }
    #expect(view.marks().marks.isEmpty && view.marks().text == "no marks\n")
    #expect(try view.setMark("before-load") == nil)
    let mark = try #require(view.marks().marks.first)
    #expect(mark.name == "before-load" && (0..<50).contains(mark.age))
    let table = try view.top(scope: HeapScope(window: TimeWindow(until: .mark("before-load"))))
    #expect(table.total.blocks == 1)
    #expect(try view.top(scope: HeapScope(window: TimeWindow(since: .mark("before-load")))).total.blocks == 1)
    #expect(try parseJSON(table.json)["marks"]?[0]?["name"]?.string == "before-load")
    #expect(table.text.contains("\n  marks    before-load "))
    #expect(try view.stackSums(HeapScope(window: TimeWindow(since: .mark("before-load")))).total.blocks == 1)
    #expect(try #require(try view.setMark("before-load")) < 50)
    #expect(view.marks().marks.count == 1)
    try view.removeMark("before-load")
    #expect(view.marks().marks.isEmpty)
  }

  @Test("a mark that does not exist is named, with those that do", .enabled(if: areKept))
  func missing() throws {
    try view.setMark("one")
    try view.setMark("two")
    for ask in [
      { _ = try view.top(scope: HeapScope(window: TimeWindow(since: .mark("three")))) },
      { try view.removeMark("three") },
    ] {
      do {
        try ask()
        Issue.record("no error")
      } catch let error as Complaint {
        #expect(error.kind == .usage && error.what.contains("three") && error.advice.contains("one, two"), "\(error)")
      }
    }
  }

  @Test("no more than 32 marks, and no window that ends before it begins", .enabled(if: areKept))
  func limit() throws {
    for number in 0..<SegmentMark.limit { try view.setMark("m\(number)") }
    #expect(throws: Complaint.self) { try view.setMark("another") }
    #expect(view.marks().marks.count == SegmentMark.limit)
    #expect(throws: Complaint.self) {
      try view.top(scope: HeapScope(window: TimeWindow(since: .mark("m5"), until: .mark("m5"))))
    }
  }

  @Test(
    "what can't be the name of a mark",
    arguments: [
      "", "10m", "14:05", "@5", "5", "2026-11-29T14:05:30Z", "-x", "_x", "a b", "a\"b", "a\nb", "<script>", "é",
      "a\u{0}",
      "\u{10FEE9}", String(repeating: "x", count: 65), String(repeating: "x", count: 12_000), "a/b", "a:b",
    ])
  func names(_ name: String) throws {
    do throws(Complaint) {
      try view.setMark(name)
      Issue.record("\(name) was taken")
    } catch {
      #expect(error.kind == .usage && error.description.utf8.count < 300 && error.description.isInert)
    }
  }

  @Test("what others wrote there is passed over, if it is no mark", .enabled(if: areKept))
  func foreign() throws {
    for (name, value) in [
      ("10m", "5"), ("a b", "5"), ("x", ""), ("y", "-5"), ("z", "99999999999999999999999"), ("w", "5 "),
      ("good", "18446744073709551615"),
    ] {
      #expect(setxattr(segment.path, "user.allocs.mark.\(name)", value, value.utf8.count, 0) == 0)
    }
    #expect(view.marks().marks.map(\.name) == ["good"])
    _ = try view.top(scope: HeapScope(window: TimeWindow(since: .mark("good"))))
    _ = view.marks().text
  }

  @Test("who may not write the index gets an error with advice", .enabled(if: areKept && geteuid() != 0))
  func notPermitted() throws {
    chmod(segment.path, 0o400)
    do throws(Complaint) {
      try view.setMark("late")
      Issue.record("it was set")
    } catch {
      #expect(error.kind == .notPermitted && !error.advice.isEmpty)
    }
  }

  @Test("a mark of an ended process is refused")
  func ended() throws {
    let other = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    #expect(throws: Complaint.self) { try ProcessView(file: other.path).setMark("late") }
  }
}
