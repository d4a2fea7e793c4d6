// SPDX-License-Identifier: Apache-2.0
// Names that are commands to a terminal, in every field of every answer.

import ByteText
import IndexReader
import Provenance
import SharedLayout
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Hostile text in answers", .bounded)
struct HostileTextTests {
  /// Ends a title, colours the line, goes back on it and on to the next, turns the direction round, isolates; nothing
  /// that is seen, in many forms; bytes that are no text, an encoded half of a pair among them; forty marks upon one
  /// letter.
  private static let text =
    "h\u{1B}]0;x\u{7}\r\n\u{9B}31m\u{202E}\u{2028}\u{E0041}\u{FEFF}\u{85}\t\0\u{7F}"
    + "\u{2029}\u{2066}\u{2069}\u{200B}\u{200D}" + String(reversibly: [0x9B, 0xFF, 0xED, 0xA0, 0x80, 0xC3]) + "z"
    + String(repeating: "\u{489}", count: 40)
  private static let hostile = ForeignText(text)
  /// The same at a length that no line has.
  private static let long = ForeignText(String(repeating: text, count: 12_000 / text.utf8.count))

  private func expectInert(_ text: String, _ what: String = "", sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(text.hasSuffix("\n"), "\(what)", sourceLocation: sourceLocation)
    for line in text.split(separator: "\n") {
      #expect(String(line).isInert, "\(what): \(ForeignText(line))", sourceLocation: sourceLocation)
      #expect(
        TextLayout.width(line) <= TextLayout.columns, "\(what): \(ForeignText(line))", sourceLocation: sourceLocation)
    }
  }

  /// Lines of any width, or of JSON, which has more than a few marks upon a letter as they are.
  private func expectInertLines(_ text: String, isJSON: Bool, sourceLocation: SourceLocation = #_sourceLocation) {
    for line in text.split(separator: "\n") {
      #expect(
        isJSON ? line.unicodeScalars.allSatisfy { $0.isInert } : String(line).isInert, "\(ForeignText(line))",
        sourceLocation: sourceLocation)
    }
  }

  private func expectInertJSON(_ json: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
    _ = try parseJSON(json)
    #expect(json.unicodeScalars.allSatisfy { $0.isInert }, "\(ForeignText(json))", sourceLocation: sourceLocation)
    #expect(json.contains("\\u001b"), sourceLocation: sourceLocation)
  }

  private static func frame(_ pc: UInt64, _ hostile: ForeignText = hostile) -> Frame {
    Frame(
      pc: pc, module: "/\(hostile)", function: hostile, file: hostile, line: 3, problem: hostile)
  }

  private static func stack(_ hostile: ForeignText) -> NamedStack {
    NamedStack((0..<20).map { frame($0, hostile) }, site: 9)
  }

  /// An answer of a kind with every text that an answer may have.
  private static func answer(_ kind: Answer.Kind, _ hostile: ForeignText) -> Answer {
    var answer = Answer(address: 0x1010, kind: kind)
    let variable = Variable(
      path: hostile, type: hostile, offset: 1, size: 4, alternatives: [hostile, hostile], file: hostile, line: -1)
    let mapping = Mapping(
      start: 0x1000, end: 0x9000, permissions: "rw-p", inode: 5, path: "/\(hostile)", isDeleted: true)
    if kind == .heap || kind == .free { answer.block = Answer.Block(base: 0x1000, size: 64) }
    answer.allocator = hostile
    answer.allocatorModule = "/\(hostile)"
    answer.function = hostile
    answer.thread = Answer.Thread(id: 7, name: hostile)
    answer.stack = stack(hostile)
    answer.hasFullStack = true
    var container = Answer.Container(kind: .chunk, block: Answer.Block(base: 0x1000, size: 4096))
    (container.allocator, container.allocatorModule, container.function) = (hostile, "/\(hostile)", hostile)
    (container.thread, container.stack) = (Answer.Thread(id: 8, name: hostile), stack(hostile))
    answer.containers = [container]
    answer.contents = [container]
    // A block and a symbol both have a size.
    if answer.block == nil { answer.symbol = Answer.Symbol(name: hostile, size: 3, offset: 1) }
    answer.section = hostile
    answer.module = "/\(hostile)"
    answer.variable = variable
    answer.source = Answer.SourceLine(file: hostile, line: -5)
    answer.isThreadLocal = true
    answer.mappedBy = Answer.MappedBy(
      range: 0x1000..<0x9000, function: hostile, thread: Answer.Thread(id: 9, name: hostile), age: 1,
      permissions: "rw-p", path: "/\(hostile)", fileOffset: 0, stack: stack(hostile))
    if kind == .stack || kind == .mapping {
      answer.part = Answer.Part(.environment, name: hostile, text: hostile, offset: 1, size: 10)
    }
    answer.frame = Answer.StackFrame(
      role: .frame, index: 0, functions: [frame(1, hostile)], cfa: 3, variable: variable, stopped: .nan)
    answer.frameFailure = text
    (answer.mapping, answer.mappingBelow, answer.mappingAbove) = (mapping, mapping, mapping)
    answer.variableProblem = hostile
    answer.losses.mayPassBy = [hostile]
    return answer
  }

  @Test("an answer of each kind, with such names in all its fields, is lines of a screen's width, and JSON")
  func answers() throws {
    let kinds: [Answer.Kind] = [.heap, .free, .static, .stack, .mapping, .unmapped]
    for (kind, hostile) in kinds.flatMap({ kind in [Self.hostile, Self.long].map { (kind, $0) } }) {
      var answer = Self.answer(kind, hostile)
      expectInert(answer.text, "\(kind)")
      try expectInertJSON(answer.json)
      // Without what comes first in its place, the next comes.
      (answer.variable, answer.frame) = (nil, nil)
      expectInert(answer.text, "\(kind), no variable")
      (answer.symbol, answer.source, answer.stack) = (nil, nil, nil)
      expectInert(answer.text, "\(kind), no symbol")
      answer.part = nil
      expectInert(answer.text, "\(kind), no part")
    }
  }

  @Test("tables, summaries and lists with such names")
  func tables() throws {
    let (hostile, text) = (Self.hostile, Self.text)
    var process = IndexedProcess(
      processID: 7, state: .unreadable, userID: 65534, command: ["/\(hostile)", hostile], startTime: 1, started: nil,
      segmentBytes: 9, path: "/dev/\(hostile)", lostBlocks: 1, unknownEnding: hostile, problem: hostile)
    process.losses.mayPassBy = [hostile]
    expectInertLines(ProcessList([process]).text, isJSON: false)
    try expectInertJSON(ProcessList([process]).json)
    let report = PruneReport(processes: [process], controls: [hostile], bytes: 1, kept: 1, isTrial: true)
    expectInertLines(report.text, isJSON: false)
    try expectInertJSON(report.json)
    let summary = ProcessSummary(
      process: process, hasFullStacks: true, isAbandoned: false,
      counters: [ProcessSummary.Counter(name: text, value: 3)],
      threads: [ProcessSummary.Thread(id: 1, name: hostile, state: .live, allocations: .max, frees: .max)],
      allocations: .max, frees: .max, moduleCount: .max, bypasses: [hostile])
    expectInertLines(summary.text, isJSON: false)
    try expectInertJSON(summary.json)
    let sites = (0..<2).map { index in
      TopTable.Site(
        total: TopTable.Total(bytes: .max, blocks: .max), frames: [Self.frame(UInt64(index)), Self.frame(9)],
        function: hostile, allocator: hostile)
    }
    var table = TopTable(
      processID: 7, command: ["/\(hostile)"],
      table: SiteTable(
        total: TopTable.Total(bytes: 1, blocks: .max), siteCount: .max, sites: sites,
        other: TopTable.Total(bytes: .max, blocks: .max)))
    table.losses.mayPassBy = [hostile]
    for line in table.text.split(separator: "\n") { #expect(String(line).isInert) }
    try expectInertJSON(table.json)
  }

  @Test("a process with such names in its index: answers, table, summary, events")
  func index() throws {
    let hostile = Self.text
    let directory = TemporaryDirectory()
    let segment = SyntheticSegment(
      processID: 1, startTime: 1, in: directory.path, name: "1.1.seg", command: ["/bin/\(hostile)", hostile])
    segment.addModule(path: "/lib/\(hostile)", range: 0x1000_0000..<0x1001_0000)
    segment.addAllocator(module: 1)
    let thread = segment.addThread(id: 1, name: String(hostile.prefix(4)), from: 0)
    let context = segment.addContext(node: segment.addNode(pc: 0x1000_0100), thread: thread)
    segment.allocate(0x5555_0000_0000, size: 64, context: context)
    let view = try ProcessView(file: segment.path)
    expectInert(try view.summary().text)
    expectInert(try view.top().text)
    try expectInertJSON(try view.top().json)
    for address: UInt64 in [0x5555_0000_0010, 0x5555_0000_1000, 0x1000_0100, 0x50] {
      for form in [AnswerList.Form.text, .jsonLines] {
        var list = AnswerList(form: form)
        var inquiry = Inquiry(view)
        list.append(address, from: &inquiry, stacks: true)
        let text = String(decoding: list.take(), as: UTF8.self)
        expectInertLines(text, isJSON: form == .jsonLines)
      }
    }
    for form in [EventReport.Form.text, .jsonLines] {
      var report = EventReport(view, form: form, stacks: true, filter: EventFilter())
      for kind in Event.Kind.allCases {
        report.append(
          Event(
            allocs_event(
              place: allocs_event_place(kind.rawValue, 0x1000_0000, 63), extent: .max,
              source: allocs_event_source(context, context), stamp: .max)), ring: .max, position: .max)
      }
      report.appendLoss(count: .max, from: .max, to: 0)
      report.appendEnd(reason: hostile)
      report.append(Complaint(.obstacle, what: hostile, advice: hostile))
      let text = String(decoding: report.take(), as: UTF8.self)
      expectInertLines(text, isJSON: form == .jsonLines)
    }
  }

  @Test("of what a server sends, nothing acts upon a terminal; what it has escaped stays as it is")
  func server() {
    for plain in ["", "\n", "a — b … → c\n\n", "{\"name\":\"\\u001b caf\\\\xE9 é 日本\"}\n"] {
      #expect(TextLayout.lines(fromServer: Array(plain.utf8)) == Array(plain.utf8))
    }
    let bytes = Array("a\n\(Self.text)\n— b\n".utf8) + [0x9B, 0x0A]
    let lines = String(decoding: TextLayout.lines(fromServer: bytes), as: UTF8.self)
    #expect(lines.unicodeScalars.allSatisfy { $0 == "\n" || $0.isInert }, "\(ForeignText(lines))")
    #expect(lines.hasPrefix("a\nh\\u{1b}]0;x") && lines.hasSuffix("\n— b\n\u{FFFD}\n"))
  }

  @Test("errors about such a line, address, filter or pattern")
  func errors() throws {
    let hostile = Self.text
    for form in [AnswerList.Form.text, .jsonLines] {
      var list = AnswerList(form: form)
      var lines = AddressLines()
      lines.feed((hostile.utf8.filter { $0 != UInt8(ascii: "\n") } + [UInt8(ascii: "\n")]).span) { line in
        if case .rejected(let error) = line { list.append(error) }
      }
      list.append(Complaint(.usage, what: hostile, advice: hostile))
      let text = String(decoding: list.take(), as: UTF8.self)
      #expect(text.split(separator: "\n").count == 2)
      expectInertLines(text, isJSON: form == .jsonLines)
    }
  }

  @Test("a line is as wide as a terminal makes it, also of text that is made to be wider or narrower")
  func widths() {
    #expect(TextLayout.width("日本") == 4 && TextLayout.width("e\u{301}") == 1 && TextLayout.width("ab") == 2)
    // Conjoining letters are one character to Swift, and many to a terminal.
    let jamo = String(repeating: "\u{1100}", count: 500)
    #expect(TextLayout.width(TextLayout.fit(jamo, columns: 40)) <= 40)
    let long = String(repeating: "日", count: 100_000)
    #expect(TextLayout.width(TextLayout.fit(long, columns: 40)) <= 40)
    #expect(TextLayout.fit("e\u{301}e\u{301}e\u{301}", columns: 3) == "e\u{301}e\u{301}e\u{301}")
  }
}
