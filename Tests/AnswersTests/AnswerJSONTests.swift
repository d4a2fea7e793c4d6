// SPDX-License-Identifier: Apache-2.0
// The JSON of answers, by the contract: names, types, and nothing where nothing is known.

import IndexReader
import Provenance
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Answers

@Suite("Answers as JSON", .bounded)
struct AnswerJSONTests {
  @Test("heap, byte for byte")
  func heap() throws {
    let json = AnswerTextTests.heap().json
    #expect(
      json == """
        {"address":"0x55d0c0ffee10","kind":"heap","base":"0x55d0c0ffee00","size":96,"offset":16,\
        "allocator":"libc.so.6","function":"calloc","thread":{"id":4242,"name":"io_thd_1"},"age_seconds":12.4,\
        "site":{"pc":"0x55d0c0001234","module":"/usr/bin/redis-server","function":"zmalloc",\
        "file":"/src/zmalloc.c","line":101},\
        "stack":[{"pc":"0x55d0c0001234","module":"/usr/bin/redis-server","function":"zmalloc",\
        "file":"/src/zmalloc.c","line":101,"inlined":false}],\
        "previous":{"base":"0x55d0c0ffedd0","size":32},"next":{"base":"0x55d0c0ffee70","size":1},\
        "mapping":{"start":"0x55d0c0e00000","end":"0x55d0c1000000","permissions":"rw-p","path":"[heap]"}}
        """)
    _ = try parseJSON(json)
  }

  @Test("what isn't known is left out")
  func absent() {
    #expect(Answer(address: 0, kind: .unmapped).json == #"{"address":"0x0","kind":"unmapped"}"#)
    var answer = Answer(address: 16, kind: .static)
    answer.module = "/bin/true"
    answer.symbol = Answer.Symbol(name: "main", size: nil, offset: 0)
    #expect(
      answer.json == #"{"address":"0x10","kind":"static","symbol":"main","offset":0,"module":"/bin/true"}"#)
    answer = Answer(address: 16, kind: .heap)
    answer.stack = NamedStack([], site: nil)
    answer.thread = Answer.Thread(id: 1, name: nil)
    #expect(answer.json == #"{"address":"0x10","kind":"heap","thread":{"id":1},"stack":[]}"#)
  }

  @Test("a cut stack, an interrupted frame, a site that is not the first frame")
  func stack() throws {
    var answer = Answer(address: 16, kind: .heap)
    let frames = [
      Frame(pc: 1, module: nil, function: "malloc_wrapper", inlined: true),
      Frame(pc: 1, module: "/m", function: "site"),
      Frame(pc: 2, module: nil),
    ]
    answer.stack = NamedStack(frames, site: 1)
    answer.stack?.interrupted = [2]
    #expect(
      answer.json == """
        {"address":"0x10","kind":"heap","site":{"pc":"0x1","module":"/m","function":"site"},\
        "stack":[{"pc":"0x1","function":"malloc_wrapper","inlined":true},\
        {"pc":"0x1","module":"/m","function":"site","inlined":false},{"pc":"0x2","inlined":false,"interrupted":true}]}
        """)
    for (truncation, word) in [(.depthLimit, "depth limit"), (.unwinder, "unwinder"), (.damaged, "damage")]
      as [(Stack.Truncation, String)]
    {
      answer.stack?.truncation = truncation
      let value = try parseJSON(answer.json)
      #expect(value["stack_truncated"] == .bool(true) && value["stack_truncated_by"]?.string == word)
    }
    #expect(try parseJSON(answer.json)["stack_frames_cut"] == nil)
    answer.stack?.framesCut = 99328
    #expect(try parseJSON(answer.json)["stack_frames_cut"]?.number == 99328)
    // An index that leads nowhere names no site.
    answer.stack?.siteIndex = 3
    #expect(try parseJSON(answer.json)["site"] == nil && answer.stack?.site == nil)
  }

  @Test("a note has the same words as in the text")
  func note() throws {
    var answer = Answer(address: 16, kind: .free)
    answer.note = .givenBack
    #expect(try parseJSON(answer.json)["note"]?.string == Answer.Note.givenBack.text)
    #expect(answer.text.contains(Answer.Note.givenBack.text))
  }

  @Test("hostile strings come through as they are, on one line")
  func hostile() throws {
    let all = String(String.UnicodeScalarView((0..<0x110).map { Unicode.Scalar($0)! }))
    let invalid = String(decoding: [0xFF, 0xFE, 0x22, 0x5C, 0x00, 0xE2, 0x80] as [UInt8], as: UTF8.self)
    for evil in [all, invalid, "\"},\"kind\":\"free", "\u{2028}\u{2029}", String(repeating: "\u{1}", count: 100_000)] {
      var answer = AnswerTextTests.heap()
      let name = ForeignText(evil)
      answer.allocator = name
      answer.function = name
      answer.thread?.name = name
      answer.mapping?.path = name
      answer.section = name
      answer.module = name
      answer.stack?.frames = [Frame(pc: 1, module: name, function: name, file: name, line: 1, inlined: true)]
      let json = answer.json
      #expect(!json.utf8.contains(0x0A))
      let value = try parseJSON(json)
      #expect(value["kind"]?.string == "heap")
      #expect(value["allocator"]?.string == evil)
      #expect(value["function"]?.string == evil)
      #expect(value["thread"]?["name"]?.string == evil)
      #expect(value["mapping"]?["path"]?.string == evil)
      #expect(value["stack"]?[0]?["file"]?.string == evil)
      #expect(value["stack"]?[0]?["inlined"] == .bool(true))
    }
  }

  @Test("errors are one object with what failed and what to do")
  func errors() throws {
    let error = Complaint(.notPermitted, what: "can't \"open\"\n", advice: "ask root")
    #expect(try parseJSON(error.json) == .object(["error": .string("can't \"open\"\\u{a} — ask root")]))
  }
}
