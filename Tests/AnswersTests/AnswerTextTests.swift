// SPDX-License-Identifier: Apache-2.0
// The text of each kind of answer, word for word.

import Provenance
import Symbols
import TestSupport
import Testing

@testable import Answers

@Suite("Answers as text", .bounded)
struct AnswerTextTests {
  private static let heapMapping = Mapping(
    start: 0x55d0_c0e0_0000, end: 0x55d0_c100_0000, permissions: "rw-p", path: "[heap]")

  static func heap() -> Answer {
    var answer = Answer(address: 0x55d0_c0ff_ee10, kind: .heap)
    answer.block = Answer.Block(base: 0x55d0_c0ff_ee00, size: 96)
    answer.allocator = "libc.so.6"
    answer.function = "calloc"
    answer.thread = Answer.Thread(id: 4242, name: "io_thd_1")
    answer.age = 12.4
    answer.stack = NamedStack(
      [
        Frame(
          pc: 0x55d0_c000_1234, module: "/usr/bin/redis-server", function: "zmalloc", file: "/src/zmalloc.c", line: 101)
      ], site: 0)
    answer.previous = Answer.Neighbour(base: 0x55d0_c0ff_edd0, size: 32)
    answer.next = Answer.Neighbour(base: 0x55d0_c0ff_ee70, size: 1)
    answer.mapping = heapMapping
    return answer
  }

  @Test("heap: what it is in first, then by whom, when, beside what, where")
  func heapText() {
    #expect(
      Self.heap().text == """
        0x55d0c0ffee10: heap — 16 bytes into a block of 96 bytes at 0x55d0c0ffee00
          allocated by zmalloc (zmalloc.c:101), with calloc of libc.so.6, 12.4 s ago,
          on thread 4242 "io_thd_1"
          previous 0x55d0c0ffedd0, 32 bytes, 16 bytes below
          next     0x55d0c0ffee70, 1 byte, 16 bytes above
          mapping  0x55d0c0e00000-0x55d0c1000000 rw-p [heap], 2.0 MiB

        """)
  }

  @Test("neighbours: who allocated them, and when")
  func neighbours() {
    var answer = Self.heap()
    answer.stack = nil
    answer.mapping = nil
    answer.previous?.site = Frame(
      pc: 1, module: "/bin/server", function: "parse_header", file: "/src/http.c", line: 120)
    answer.previous?.function = "malloc"
    answer.previous?.age = 3.2
    answer.next?.function = "malloc"
    answer.next?.age = 0.012
    #expect(
      answer.text == """
        0x55d0c0ffee10: heap — 16 bytes into a block of 96 bytes at 0x55d0c0ffee00
          allocated with calloc of libc.so.6, 12.4 s ago, on thread 4242 "io_thd_1"
          previous 0x55d0c0ffedd0, 32 bytes, 16 bytes below,
                   by parse_header (http.c:120), 3.2 s ago
          next     0x55d0c0ffee70, 1 byte, 16 bytes above, with malloc, 12 ms ago

        """)
    #expect(
      answer.json.contains(
        """
        "previous":{"base":"0x55d0c0ffedd0","size":32,"age_seconds":3.2,"function":"malloc",\
        "site":{"pc":"0x1","module":"/bin/server","function":"parse_header","file":"/src/http.c","line":120}},
        """))
  }

  @Test("losses have the same words wherever they stand; free is free, or what the index lacks")
  func losses() {
    var answer = Answer(address: 0x7f00_0000_1000, kind: .free)
    answer.note = .givenBack
    answer.losses.blocks = 1234
    #expect(
      answer.text == """
        0x7f0000001000: free, or one of 1,234 blocks that are not in the index
          its pages were given back to the system
          missing  1,234 blocks are not in the index

        """)
    answer.losses.blocks = 1
    #expect(answer.text.hasPrefix("0x7f0000001000: free, or the one block that is not in the index\n"))
    #expect(answer.text.hasSuffix("\n  missing  1 block is not in the index\n"))
    answer.losses.blocks = 0
    answer.losses.unknownFrees = 2
    #expect(answer.text.hasPrefix("0x7f0000001000: free, or a block whose allocation was not seen\n"))
    answer.losses = Losses()
    answer.losses.events = 3
    #expect(answer.json.contains(",\"lost_events\":3}"))
    #expect(Losses.words(ofBlocks: 2) == "2 blocks are not in the index")
  }

  @Test("heap with nothing known but the block")
  func bare() {
    var answer = Answer(address: 0x1000, kind: .heap)
    answer.block = Answer.Block(base: 0x1000, size: 0)
    #expect(answer.text == "0x1000: heap — the start of a block of 0 bytes\n")
    answer.block = Answer.Block(base: 0xfff, size: 5_368_709_120)
    #expect(
      answer.text == "0x1000: heap — 1 byte into a block of 5,368,709,120 bytes (5.0 GiB) at 0xfff\n")
  }

  @Test(
    "a frame that is too long for its line loses what matters least: never its own name, its scope or the line",
    arguments: [
      ("parse", "config.c", 40, "parse (config.c:101)"),
      ("parse", "configuration_of_everything.c", 30, "parse (configurati…hing.c:101)"),
      ("std::vector<int>::push_back", "vec.h", 30, "std::vector::push_back (…:101)"),
      ("std::vector<int>::push_back", "configuration_of_everything.c", 30, "std::vector::push_back (…:101)"),
      (
        "std::map<long, std::vector<int>>::insert", "configuration_of_everything.c", 30,
        "std::map::insert (conf….c:101)"
      ),
      (
        "void shop::Shelf<std::basic_string<char>>::put(std::basic_string<char> const&)", "shelf.cpp", 60,
        "shop::Shelf<std::basic_string<char>>::put(…) (shelf.cpp:101)"
      ),
      (
        "Shop::run(int, std::vector<int> const&)::{lambda(int)#1}::operator()(int) const", "s.cpp", 50,
        "Shop::run::{lambda#1}::operator() (s.cpp:101)"
      ),
      (
        "<alloc::vec::Vec<alloc::string::String> as core::clone::Clone>::clone", "mod.rs", 60,
        "<alloc::vec::Vec as core::clone::Clone>::clone (mod.rs:101)"
      ),
      ("core::ptr::drop_in_place::<alloc::vec::Vec<u8>>", "mod.rs", 40, "core::ptr::drop_in_place (mod.rs:101)"),
      ("<alloc::raw_vec::RawVec<u8>>::reserve", "mod.rs", 45, "alloc::raw_vec::RawVec::reserve (mod.rs:101)"),
      (
        "std::ostream& std::operator<< <char>(std::ostream&, char const*)", "ostream", 40,
        "std::operator<< <char>(…) (ostream:101)"
      ),
      ("Hidden::operator void*() const", "h.cpp", 30, "Hidden::operator void* (…:101)"),
      ("(anonymous namespace)::run(int, int, int, int)", "a.c", 40, "(anonymous namespace)::run(…) (a.c:101)"),
    ])
  func frame(function: String, file: String, columns: Int, text: String) {
    let frame = Frame(
      pc: 0x1000, module: "/lib/m.so", function: ForeignText(function), file: "/src/\(file)", line: 101)
    let described = Answer.describe(frame, columns: columns)
    #expect(described == text)
    #expect(TextLayout.width(described) <= columns)
  }

  @Test("a frame without a name is its place in the module's file; in no module it says so")
  func unnamedFrames() throws {
    let place = Frame.FilePlace(address: 0x11b8, buildID: [0xA5, 0x01, 0xFF])
    var frame = Frame(pc: 0x5555_5555_51b9, module: "/usr/bin/pm", place: place)
    #expect(Answer.describe(frame, columns: 40) == "pm+0x11b8")
    frame.file = "/src/pm.c"
    frame.line = 7
    #expect(Answer.describe(frame, columns: 40) == "pm+0x11b8 (pm.c:7)")
    #expect(Answer.describe(Frame(pc: 0x7f00_0000_1000, module: nil), columns: 40) == "0x7f0000001000 in no module")

    var answer = Self.heap()
    answer.stack = NamedStack([frame, Frame(pc: 0x1000, module: nil)], site: 0)
    let json = try parseJSON(answer.json)
    let first = json["stack"]?[0]
    #expect(first?["offset"]?.number == 0x11b8 && first?["build_id"]?.string == "a501ff")
    #expect(json["site"]?["build_id"]?.string == "a501ff")
    #expect(json["stack"]?[1]?["offset"] == nil && json["stack"]?[1]?["build_id"] == nil)
  }

  @Test("what names lack is said once, in the text and as JSON")
  func namesMissing() throws {
    let problem: ForeignText = "its split debug information (.dwo) is missing: /src/ps.dwo"
    var answer = Self.heap()
    let frames = (0..<3).map { index in
      Frame(pc: 0x1000 + UInt64(index), module: "/usr/bin/ps", function: "f\(index)", problem: problem)
    }
    answer.stack = NamedStack(frames, site: 0)
    let lines = answer.text.split(separator: "\n").filter { $0.hasPrefix("  names    ") }
    #expect(lines.count == 1 && lines.first?.hasPrefix("  names    ps: its split debug information") == true)
    let json = try parseJSON(answer.json)
    #expect(json["names_missing"]?.count == 1)
    #expect(json["names_missing"]?[0]?.string == "ps: \(problem)")
    #expect(try parseJSON(Self.heap().json)["names_missing"] == nil)
  }

  private static func deep(_ count: Int, site: Int) -> Answer {
    var answer = heap()
    answer.hasFullStack = true
    answer.previous = nil
    answer.next = nil
    answer.mapping = nil
    let frames = (0..<count).map { index in
      Frame(
        pc: 0x1000 + UInt64(index), module: "/usr/lib/libexample.so.1", function: index == 2 ? nil : "function\(index)",
        file: index == 1 ? nil : "/a/b/file.c", line: index == 1 ? nil : 10 + index, inlined: index == 0)
    }
    answer.stack = NamedStack(frames, site: site)
    return answer
  }

  @Test("heap with a whole stack: its first frames, the site among them, how many more there are, why it was cut")
  func stack() {
    var answer = Self.deep(20, site: 1)
    answer.stack?.truncation = .depthLimit
    answer.stack?.interrupted = [3]
    let lines = answer.text.split(separator: "\n")
    #expect(lines[1].hasPrefix("  allocated by function1 in libexample.so.1, with calloc"))
    #expect(lines[3] == "  stack  #0  function0 (file.c:10) inlined")
    #expect(lines[4] == "        →#1  function1 in libexample.so.1")
    #expect(lines[5] == "         #2  0x1002 in libexample.so.1 (file.c:12)")
    #expect(lines[6] == "         #3  function3 (file.c:13) interrupted")
    #expect(lines[lines.count - 2] == "         … and 8 more frames: --json shows all")
    #expect(lines[lines.count - 1] == "         … cut at the depth limit")
    answer.stack?.framesCut = 99328
    #expect(answer.text.hasSuffix("         … cut at the depth limit: at least 99,328 frames beyond\n"))
    #expect(lines.count < 24)
  }

  @Test("a site below many wrappers is printed, and what is left out above it is counted")
  func deepSite() {
    let answer = Self.deep(40, site: 30)
    let lines = answer.text.split(separator: "\n")
    #expect(lines[3] == "  stack  #0  function0 (file.c:10) inlined")
    #expect(lines[4] == "         #1  function1 in libexample.so.1")
    #expect(lines[5] == "         … 27 frames of the same kind")
    #expect(lines[6] == "         #29 function29 (file.c:39)")
    #expect(lines[7] == "        →#30 function30 (file.c:40)")
    #expect(lines[14] == "         #37 function37 (file.c:47)")
    #expect(lines[15] == "         … and 2 more frames: --json shows all")
    #expect(lines.count == 16)
    for site in 0..<40 {
      let text = Self.deep(40, site: site).text
      #expect(text.split(separator: "\n").count { $0.contains("→#\(site) ") } == 1)
      #expect(text.split(separator: "\n").count < 24)
    }
  }

  @Test("a stack of one frame is shown where it says more than its site: that it was cut")
  func cutAtOnce() {
    var answer = Self.deep(1, site: 0)
    #expect(!answer.text.contains("#0"))
    answer.stack?.truncation = .unwinder
    #expect(
      answer.text.hasSuffix(
        """
          stack →#0  function0 (file.c:10) inlined
                 … the unwinder could go no further

        """))
    answer.stack?.truncation = .damaged
    #expect(answer.text.hasSuffix("         … the index is damaged beyond here\n"))
  }

  @Test("free: what kind of gap, with both neighbours")
  func free() {
    var answer = Answer(address: 0x55d0_c0ff_ee60, kind: .free)
    answer.previous = Answer.Neighbour(base: 0x55d0_c0ff_ee00, size: 88)
    answer.next = Answer.Neighbour(base: 0x55d0_c0ff_f000, size: 64)
    answer.mapping = Self.heapMapping
    #expect(
      answer.text == """
        0x55d0c0ffee60: free — in a gap of 424 bytes between two live blocks
          previous 0x55d0c0ffee00, 88 bytes, 8 bytes below
          next     0x55d0c0fff000, 64 bytes, 416 bytes above
          mapping  0x55d0c0e00000-0x55d0c1000000 rw-p [heap], 2.0 MiB

        """)
  }

  @Test("free: one past the end is said to be that")
  func pastEnd() {
    var answer = Answer(address: 0x55d0_c0ff_ee60, kind: .free)
    answer.previous = Answer.Neighbour(base: 0x55d0_c0ff_ee00, size: 96)
    #expect(
      answer.text == """
        0x55d0c0ffee60: free — one past the end of a block of 96 bytes at 0x55d0c0ffee00
          previous 0x55d0c0ffee00, 96 bytes, directly below

        """)
  }

  @Test("free: neighbours in other mappings don't make a gap")
  func edges() {
    var answer = Answer(address: 0x55d0_c0ff_ee60, kind: .free)
    answer.mapping = Self.heapMapping
    answer.previous = Answer.Neighbour(base: 0x55d0_0000_0000, size: 96)
    answer.next = Answer.Neighbour(base: 0x7fff_0000_0000, size: 96)
    #expect(answer.text.hasPrefix("0x55d0c0ffee60: free — [heap] was heap, and holds no live block\n"))
    answer.previous = Answer.Neighbour(base: 0x55d0_c0ff_0000, size: 96)
    #expect(answer.text.hasPrefix("0x55d0c0ffee60: free — above the last live block of [heap]\n"))
    #expect(answer.text.contains("next     0x7fff00000000, 96 bytes, 42.2 TiB above"))
  }

  @Test("free: memory that was given back is said to be")
  func givenBack() {
    var answer = Answer(address: 0x7f00_0000_1000, kind: .free)
    answer.next = Answer.Neighbour(base: 0x7f00_0000_2000, size: 1)
    answer.note = .givenBack
    #expect(
      answer.text == """
        0x7f0000001000: free — its pages were given back to the system
          next     0x7f0000002000, 1 byte, 4,096 bytes above

        """)
  }

  @Test("static: the symbol, the section, the module")
  func statics() {
    var answer = Answer(address: 0x5555_5555_a010, kind: .static)
    answer.module = "/usr/bin/redis-server"
    #expect(answer.text == "0x55555555a010: static — in redis-server, where no symbol is known\n")
    answer.section = ".bss"
    answer.symbol = Answer.Symbol(name: "server", size: 20_000, offset: 16)
    #expect(answer.text == "0x55555555a010: static — 16 bytes into server, in .bss of redis-server\n")
    answer.symbol?.offset = 0
    #expect(answer.text == "0x55555555a010: static — server, in .bss of redis-server\n")
    answer.symbol = Answer.Symbol(name: "a_name_that_is_rather_long_for_a_variable", size: nil, offset: 0x5800)
    answer.mapping = nil
    #expect(
      answer.text
        == "0x55555555a010: static — a_name_that_is…variable+0x5800, in .bss of redis-server\n")
  }

  @Test("stack, mapping, unmapped")
  func others() {
    var stack = Answer(address: 0x7ffe_aa3c_ffc0, kind: .stack)
    stack.thread = Answer.Thread(id: 7, name: "main")
    #expect(stack.text == "0x7ffeaa3cffc0: stack — of thread 7 \"main\"\n")
    stack.thread = Answer.Thread(id: 7, name: nil)
    #expect(stack.text == "0x7ffeaa3cffc0: stack — of thread 7\n")

    var mapping = Answer(address: 0x7f00_0000_0010, kind: .mapping)
    mapping.mapping = Mapping(
      start: 0x7f00_0000_0000, end: 0x7f00_0000_1000, permissions: "r--s", inode: 5,
      path: "/dev/shm/allocs/1.2.seg", isDeleted: true)
    #expect(
      mapping.text == """
        0x7f0000000010: mapping — byte 16 of the file 1.2.seg
          mapping  0x7f0000000000-0x7f0000001000 r--s /dev/shm/allocs/1.2.seg (deleted)

        """)
    mapping.mapping?.path = nil
    mapping.mapping?.permissions = "---p"
    #expect(mapping.text.hasPrefix("0x7f0000000010: mapping — 16 bytes into reserved address space\n"))

    var unmapped = Answer(address: 0, kind: .unmapped)
    #expect(unmapped.text == "0x0: unmapped — no mapping of the process holds it\n")
    unmapped.note = .processEnded
    #expect(
      unmapped.text == "0x0: unmapped — the process has ended, its mappings are not known\n")
  }

  @Test(
    "notes fit the first line whole",
    arguments: [
      .givenBack, .processEnded, .indexAbandoned, .mappingsNotPermitted, .mappingsNotRead, .processNotVisible,
      .outsideUserSpace,
    ] as [Answer.Note])
  func notes(note: Answer.Note) {
    for (kind, address) in [(.unmapped, 0x7fff_ffff_ffff), (.free, 0x7fff_ffff_ffff)] as [(Answer.Kind, UInt64)] {
      var answer = Answer(address: note == .outsideUserSpace ? .max : address, kind: kind)
      answer.note = note
      #expect(answer.text.hasSuffix("\(note.text)\n"))
    }
  }

  @Test("no line is wider than 80 columns, nor does any reach the terminal with control characters")
  func hostile() {
    let long = String(repeating: "std::map<std::string, std::vector<int, std::allocator<int>>>::", count: 200)
    for evil: ForeignText in [ForeignText(long), "\u{1B}[31m\n\t\u{7}", "日本語\(long)", "\u{202E}\(long)", ""] {
      for address: UInt64 in [0, 0x55d0_c0ff_ee10, .max] {
        var answer = Self.heap()
        answer.address = address
        answer.block = Answer.Block(base: address, size: .max)
        answer.allocator = evil
        answer.function = evil
        answer.thread?.name = evil
        answer.stack?.frames = [
          Frame(pc: .max, module: evil, function: evil, file: evil, line: .max, inlined: true),
          Frame(pc: .max, module: evil), Frame(pc: .max, module: evil, function: evil),
        ]
        answer.previous = Answer.Neighbour(base: 0, size: .max)
        answer.next = Answer.Neighbour(base: .max, size: .max)
        answer.mapping?.path = evil
        answer.mapping?.isDeleted = true
        answer.alignment = 1 << 63
        answer.module = evil
        answer.section = evil
        answer.symbol = Answer.Symbol(name: evil, size: .max, offset: .max)
        for kind: Answer.Kind in [.heap, .free, .static, .stack, .mapping, .unmapped] {
          answer.kind = kind
          let text = answer.text
          #expect(text.hasSuffix("\n"))
          for line in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false) {
            #expect(TextLayout.width(line) <= 80, "\(line)")
            #expect(line.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control })
          }
        }
      }
    }
  }
}

extension NamedStack {
  /// A whole stack without interruptions.
  init(_ frames: [Frame], site: Int?) {
    self.init(frames: frames, interrupted: [], siteIndex: site, truncation: nil, framesCut: nil)
  }
}
