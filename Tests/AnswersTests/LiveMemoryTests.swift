// SPDX-License-Identifier: Apache-2.0
// Moments and windows of time; live memory by calls, block by block, and in the formats of other programs, of an index
// that was made for the test.

import ByteText
import CPprof
import Foundation
import SharedLayout
import Symbols
import TestSupport
import Testing

@testable import Answers
@testable import IndexReader
@testable import Provenance

@Suite("Windows of time", .bounded)
struct TimeWindowTests {
  /// 2026-11-29 14:05:30 UTC.
  private static let now = 1_795_961_130.0

  private func moment(_ text: String, hasClock: Bool = false) throws -> Moment {
    try Moment(text, now: Self.now, hasClock: hasClock)
  }

  @Test("moments in each form")
  func forms() throws {
    for (text, seconds) in [("10m", 600.0), ("90", 90), ("1.5h", 5400), ("2d", 172_800), ("250ms", 0.25)] {
      #expect(try moment(text) == .ago(seconds), "\(text)")
    }
    for (text, time) in [
      ("2026-11-29T14:05:30Z", Self.now), ("2026-11-29T14:05:29.25Z", Self.now - 0.75),
      ("2026-11-29T15:05:30+01:00", Self.now), ("2026-11-29T08:35:30-05:30", Self.now),
      ("1970-01-01T00:00:00Z", 0), ("2024-02-29T00:00:00z", 1_709_164_800), ("@12.5", 12.5), ("@-5", -5),
    ] {
      #expect(try moment(text) == .time(time), "\(text)")
    }
    for text in ["tomorrow", "nan", "inf", "x", "before-load.2_b"] { #expect(try moment(text) == .mark(text)) }
  }

  @Test("a time of the day is the one nearest to now; one that is to come is in the future, and not yesterday's")
  func clock() throws {
    let texts = (0..<24).flatMap { [String(format: "%02d:00", $0), String(format: "%02d:59:59.5", $0)] }
    var future = 0
    for text in texts {
      let moment: Moment
      do throws(Complaint) {
        moment = try Moment(text, now: Self.now, hasClock: true)
      } catch {
        #expect(error.what.contains("in the future"), "\(text): \(error)")
        future += 1
        continue
      }
      guard case .time(let time) = moment else {
        Issue.record("\(text) is no time")
        continue
      }
      // Where a day has 25 hours, the time may be further back.
      #expect(time <= Self.now && time > Self.now - 90_000, "\(text): \(time)")
      var seconds = time_t(time.rounded(.down))
      var parts = tm()
      localtime_r(&seconds, &parts)
      let told = String(format: "%02d:%02d:%02d", parts.tm_hour, parts.tm_min, parts.tm_sec)
      #expect(told.hasPrefix(text.prefix(8)), "\(text): \(told)")
    }
    #expect((18...29).contains(future), "\(future)")
  }

  @Test(
    "texts that are no moment, and moments that have not been",
    arguments: [
      "", " ", "to morrow", "10x", "-5m", "14:5", "24:00", "14:60", "14:05:60", "14:05:3", "14:05:30.", "1e400",
      "2026-11-29", "2026-11-29T14:05:30", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-29T24:00:00Z",
      "2026-11-29T14:05:30+25:00", "2026-11-29 14:05:30Z", "2026-11-29T14:05:31Z", "@nan", "@inf", "@1e308", "@",
      "9999-12-31T23:59:59Z", "\u{661}0m", "2026-11-29T14:05:30Z\u{0}", String(repeating: "9", count: 10_000),
    ])
  func wrong(_ text: String) throws {
    do throws(Complaint) {
      _ = try Moment(text, now: Self.now, hasClock: true)
      Issue.record("\(text) was taken")
    } catch {
      #expect(error.kind == .usage && error.what.utf8.count < 200)
    }
  }

  @Test("without the asker's zone, a time of the day says nothing")
  func noClock() { #expect(throws: Complaint.self) { try moment("14:05") } }

  @Test("records fall into the window in which they were made, also behind a wrap of their ticks")
  func orders() {
    let start: UInt64 = 1_000_000_000_000
    for days in [0.01, 300, 500, 1000] {
      let elapsed = UInt64(days * 86_400e9)
      let clock = SegmentClock(
        startMonotonic: start, startRealtime: 5_000_000_000, elapsed: elapsed, isAlive: true, shift: 0)
      for age in [0.5, 60, 500] {
        let made = start + elapsed - UInt64(age * 1e9)
        let order = clock.order(ofTicks: allocs_ticks(made / 1_000_000_000, made % 1_000_000_000))
        #expect(abs(clock.age(ofOrder: order) - age) < 0.05, "\(days) \(age)")
        for (since, until, isIn) in [(age + 0.1, age - 0.1, true), (age - 0.1, 0, false), (age + 9, age + 0.1, false)] {
          let window = TimeWindow(since: .ago(since), until: until == 0 ? nil : .ago(until))
          #expect(window.orders(on: clock)?.contains(order) == isIn, "\(days) \(age) \(since) \(until)")
        }
        // Two windows that meet have it once.
        let met = Moment.ago(age)
        let halves = [TimeWindow(since: met), TimeWindow(until: met)].map {
          $0.orders(on: clock)?.contains(order) ?? true
        }
        #expect(halves[0] != halves[1])
      }
    }
    let clock = SegmentClock(startMonotonic: .max, startRealtime: .max, elapsed: .max, isAlive: true, shift: .min)
    for moment in [Moment.ago(1e10), .ago(0), .time(-1e300), .time(1e300), .time(0)] {
      _ = TimeWindow(since: moment, until: moment).orders(on: clock)
    }
    #expect(TimeWindow(since: .ago(1), until: .ago(5)).orders(on: clock)?.isEmpty == true)
  }
}

@Suite("Live memory by calls", .bounded)
struct CallTreeTests {
  private let directory = TemporaryDirectory()

  private func frame(_ name: String, line: Int? = nil) -> Frame {
    Frame(pc: 1, module: "/bin/program", function: ForeignText(name), file: line.map { _ in "\(name).c" }, line: line)
  }

  /// Stacks, innermost frame first, with bytes; each of a block.
  /// Adds a block's stack: of each call the functions that are inlined there.
  private func add(_ calls: [[Frame]], _ bytes: UInt64, to sums: inout StackSums, isCut: Bool = false) {
    let calls = calls.map { NamedStacks.Call(frames: $0, isExact: false, site: 0) }
    let total = SiteTable.Total(bytes: bytes, blocks: 1)
    let stack = sums.rows.stacks.add(calls, truncation: isCut ? .depthLimit : nil)
    sums.rows.append(StackSums.Rows.Entry(stack: stack, function: "malloc", total: total))
    sums.total.add(total)
  }

  private func sums(_ stacks: [([String], UInt64)], isCut: Bool = false) -> StackSums {
    var sums = StackSums(
      processID: 1, command: ["program"],
      clock: SegmentClock(startMonotonic: 0, startRealtime: 0, elapsed: 0, isAlive: false), losses: Losses())
    for (names, bytes) in stacks { add(names.map { [frame($0)] }, bytes, to: &sums, isCut: isCut) }
    return sums
  }

  /// A look at a program by a path, with a build id, in which one function made so much, at a line.
  private func look(_ path: ForeignText, build: UInt8, _ pid: Int32, line: Int, bytes: UInt64, lost: UInt64 = 0)
    -> StackSums
  {
    var sums = sums([])
    (sums.processID, sums.startTime, sums.losses.blocks) = (pid, UInt64(pid), lost)
    sums.modules = [
      Module(
        index: 0, path: path, buildID: [build], start: 0x1000, end: 0x2000, bias: 0, loadTicks: 0, unloadTicks: nil,
        isMain: true, isAgent: false)
    ]
    add([[Frame(pc: 0x1001, module: path, function: "make", file: "/src/\(build)/x.c", line: line)]], bytes, to: &sums)
    return sums
  }

  @Test("a site of another name of the program, and of another build with other lines, is the same site")
  func sameSites() throws {
    let first = look("/a/shop-1.0", build: 1, 1, line: 7, bytes: 100)
    for (second, line) in [
      (look("/b/shop", build: 1, 2, line: 7, bytes: 150), 7),
      (look("/a/shop-1.0", build: 2, 2, line: 8, bytes: 150), nil),
    ] {
      let difference = HeapDifference(from: first, named: "a", to: second, named: "b", by: .site, limit: 9)
      let row = try #require(difference.rows.first)
      #expect(difference.rows.count == 1 && row.kind == "grown" && row.frames.first?.line == line, "\(difference.text)")
    }
    let moved = look("/a/shop-1.0", build: 1, 2, line: 8, bytes: 150)
    #expect(HeapDifference(from: first, named: "a", to: moved, named: "b", by: .site, limit: 9).rows.count == 2)
  }

  @Test("a growth that may be another one, for want of blocks, is said to be that")
  func doubt() {
    func doubt(_ first: StackSums, _ second: StackSums) -> String? {
      HeapDifference(from: first, named: "a", to: second, named: "b", by: .site, limit: 9).doubt
    }
    func one(_ pid: Int32, _ lost: UInt64) -> StackSums { look("/a", build: 1, pid, line: 1, bytes: 5, lost: lost) }
    #expect(doubt(one(1, 0), one(1, 0)) == nil && doubt(one(1, 9), one(1, 9)) == nil)
    #expect(doubt(one(1, 9), one(1, 12)) == "3 blocks are not in the index of b")
    #expect(doubt(one(1, 9), one(2, 9)) == "9 blocks are not in the index of b")
    #expect(doubt(one(1, 1), one(2, 0)) == "1 block is not in the index of a")
  }

  @Test("callers above what they call, with sums; a function that has all of its caller's stands without numbers")
  func callers() {
    let stacks = sums([(["a", "x", "main"], 600), (["b", "x", "main"], 300), (["a", "main"], 100)])
    #expect(
      CallTree(of: stacks, isInverted: false, limit: 20).text == """
        program, process 1: 3 live blocks of 1,000 bytes
        BYTES   SHARE  BLOCKS  CALLERS, ALLOCATED BY
        1,000  100.0%       3  main in program
          900   90.0%       2    x in program
          600   60.0%       1      a in program
          300   30.0%       1      b in program
          100   10.0%       1    a in program

        """)
    #expect(
      CallTree(of: stacks, isInverted: true, limit: 20).text == """
        program, process 1: 3 live blocks of 1,000 bytes
        BYTES   SHARE  BLOCKS  ALLOCATED BY, CALLED BY
          700   70.0%       2  a in program
          600   60.0%       1    x in program
                                 main in program
          100   10.0%       1    main in program
          300   30.0%       1  b in program
                               x in program
                               main in program

        """)
    let few = CallTree(of: stacks, isInverted: false, limit: 2).text
    #expect(few.contains("main") && few.contains("x in") && few.contains("3 smaller calls are not shown"), "\(few)")
  }

  @Test("the middle of a long chain is left out of the text, and nothing of the JSON")
  func chain() throws {
    let names = (0..<500).map { "f\($0)" }
    let tree = CallTree(of: sums([(names, 9)]), isInverted: false, limit: 5)
    let lines = tree.text.split(separator: "\n")
    #expect(lines.count == 10, "\(tree.text)")
    #expect(lines.contains { $0.hasSuffix("… 493 calls") } && lines.last?.hasSuffix("f0 in program") == true)
    let value = try parseJSON(tree.json)
    #expect(value["nodes"]?.count == 500 && value["nodes"]?[499]?["own_bytes"]?.number == 9)
  }

  @Test("a stack whose outermost calls are missing is not put below main's callers as if it were whole")
  func cut() throws {
    let tree = CallTree(of: sums([(["a", "b"], 5)], isCut: true), isInverted: false, limit: 5)
    #expect(tree.text.contains("called by what is not known"))
    let inverted = CallTree(of: sums([(["a", "b"], 5), ([], 3)], isCut: true), isInverted: true, limit: 9)
    #expect(inverted.text.contains("callers not known"))
    _ = try parseJSON(inverted.json)
  }

  @Test("instantiations below one caller do not look alike, also far from the left, and inverted")
  func siblings() {
    let types = ["std::pair<int, long>", "std::pair<int, char>", "shop::Order const*"]
    let names = types.map { "void shop::Shelf<\($0), std::allocator<\($0)>>::put_into_the_shelf(\($0) const&, int)" }
    let deep = (0..<30).flatMap { ["f\($0)", "g\($0)"] }
    for outer in [["main"], deep] {
      var stacks = names.enumerated().map { ([$1] + outer, UInt64(600 + $0)) }
      // So that the callers are no chain.
      stacks += outer.indices.map { (["other"] + outer[$0...], UInt64(1)) }
      for isInverted in [false, true] {
        let text = CallTree(of: sums(stacks), isInverted: isInverted, limit: 100).text
        let lines = text.split(separator: "\n").map { String($0) }
        let shelves = lines.filter { $0.contains("put_into_the_shelf") }
        #expect(shelves.count == 3, "\(text)")
        #expect(Set(shelves.map { $0.split(separator: "%").last?.dropFirst(8) }).count == 3, "\(text)")
        #expect(lines.allSatisfy { TextLayout.width($0) <= 80 }, "\(text)")
      }
    }
  }

  @Test("names of every kind stay in their line, in the text and in every format")
  func hostile() throws {
    let hostile =
      "a;b \u{1B}[31m<script>alert(1)</script>&\"'\u{202E}\u{2028}\u{0}\u{FFFF}\n"
      + String(repeating: "x", count: 12_000)
    let stacks = sums([([hostile, hostile + "2"], 5), (["plain", hostile], 3)])
    for isInverted in [false, true] {
      let tree = CallTree(of: stacks, isInverted: isInverted, limit: 9)
      for line in tree.text.split(separator: "\n") {
        #expect(TextLayout.width(line) <= 80)
        #expect(line.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0 != "\u{202E}" && $0 != "\u{2028}" })
      }
      _ = try parseJSON(tree.json)
    }
    let collapsed = String(decoding: ProfileFormat.collapsed.render(stacks), as: UTF8.self)
    let lines = collapsed.split(separator: "\n")
    #expect(lines.count == 2 && lines.allSatisfy { $0.split(separator: ";").count == 3 })
    #expect(!collapsed.unicodeScalars.contains("\u{1B}"))
    for format in [ProfileFormat.speedscope, .dhat] {
      _ = try JSONSerialization.jsonObject(with: Data(format.render(stacks)))
    }
    let picture = String(decoding: ProfileFormat.flamegraph.render(stacks), as: UTF8.self)
    #expect(!picture.contains("<script>alert") && picture.contains("&lt;script&gt;alert(1)"))
    #expect(picture.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && $0 != "\u{FFFF}" })
  }

  @Test("a profile of pprof holds what its readers check, and all bytes")
  func pprof() throws {
    var stacks = sums([])
    // Two functions at one address, of which one is inlined; and an address without a name, in a module.
    let module: ForeignText = "/lib/libx.so"
    var inlined = [Frame(pc: 0x2001, module: module, function: "in", file: "x.c", line: 7, inlined: true)]
    inlined += [
      Frame(pc: 0x2001, module: module, function: "out", file: "x.c", line: 9), Frame(pc: 0x2f01, module: module),
    ]
    add([Array(inlined[..<2]), [inlined[2]]], 600, to: &stacks)
    add([[frame("b")], [frame("x")], [frame("main")]], 300, to: &stacks)
    add([], 100, to: &stacks)
    stacks.modules = [
      Module(
        index: 0, path: module, buildID: [1, 0xAB], start: 0x2000, end: 0x3000, bias: 0, loadTicks: 0, unloadTicks: nil,
        isMain: false, isAgent: false),
      Module(
        index: 1, path: "/bin/program", buildID: [], start: 0x1000, end: 0x1fff, bias: 0, loadTicks: 0,
        unloadTicks: nil,
        isMain: true, isAgent: false),
      Module(
        index: 2, path: "/lib/none.so", buildID: [], start: 0x4000, end: 0x5000, bias: 0, loadTicks: 0,
        unloadTicks: nil, isMain: false, isAgent: false),
    ]
    var file = PprofFile(stacks)
    let bytes = file.pack()
    let profile = try #require(pprof__profile__unpack(nil, bytes.count, bytes)).pointee
    let texts = (0..<profile.n_string_table).map { String(cString: profile.string_table[$0]!) }
    #expect(texts[0] == "" && Set(texts).count == texts.count)
    #expect(
      (0..<profile.n_sample_type).map { texts[Int(profile.sample_type[$0]!.pointee.type)] } == [
        "inuse_objects", "inuse_space",
      ])
    let mappings = (0..<profile.n_mapping).map { profile.mapping[$0]!.pointee }
    #expect(mappings.map { texts[Int($0.filename)] } == ["/bin/program", module.escaped, "/lib/none.so"])
    #expect(
      mappings.map { texts[Int($0.build_id)] } == ["", "01ab", ""] && mappings.map(\.has_functions) == [1, 1, 0])
    let functions = (0..<profile.n_function).map { profile.function[$0]!.pointee }
    let locations = (0..<profile.n_location).map { profile.location[$0]!.pointee }
    for ids in [mappings.map(\.id), functions.map(\.id), locations.map(\.id)] {
      #expect(!ids.contains(0) && Set(ids).count == ids.count)
    }
    for location in locations {
      #expect(location.has_mapping_id == 0 || mappings.contains { $0.id == location.mapping_id })
      for line in 0..<location.n_line {
        #expect(functions.contains { $0.id == location.line[line]!.pointee.function_id })
      }
    }
    var sum: Int64 = 0
    for index in 0..<profile.n_sample {
      let sample = profile.sample[index]!.pointee
      #expect(sample.n_value == 2 && sample.n_location_id > 0)
      sum += sample.value[1]
      for place in 0..<sample.n_location_id { #expect(locations.contains { $0.id == sample.location_id[place] }) }
    }
    #expect(sum == 1000)
    let first = try #require(locations.first)
    #expect(first.address == 0x2000 && first.n_line == 2 && first.mapping_id == 2)
    #expect(
      texts[Int(functions[Int(first.line[0]!.pointee.function_id) - 1].name)] == "in"
        && first.line[0]!.pointee.line == 7)
    #expect(locations[1].address == 0x2f00 && locations[1].n_line == 0)
    #expect(PprofFile.render(stacks).starts(with: [0x1F, 0x8B]))
  }

  @Test("what gzip writes is read back, whatever its size")
  func gzip() throws {
    for size in [0, 1, 1 << 16, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
      let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7) }
      let file = directory.path + "/x.gz"
      try Data(try #require(GzipFile.compress(bytes))).write(to: URL(fileURLWithPath: file))
      let outcome = try ChildProcess.run(["sh", "-c", "gzip -dc '\(file)' | wc -c; gzip -dc '\(file)' | cksum"])
      let plain = directory.path + "/x"
      try Data(bytes).write(to: URL(fileURLWithPath: plain))
      let expected = try ChildProcess.run(["sh", "-c", "wc -c < '\(plain)'; cksum < '\(plain)'"])
      #expect(outcome.output == expected.output && outcome.errors.isEmpty, "\(size): \(outcome)")
    }
  }

  @Test("nothing that lives: each form is whole")
  func empty() throws {
    let none = sums([])
    #expect(CallTree(of: none, isInverted: false, limit: 5).text == "program, process 1: 0 live blocks of 0 bytes\n")
    for format in ProfileFormat.allCases { _ = format.render(none) }
    _ = try JSONSerialization.jsonObject(with: Data(ProfileFormat.speedscope.render(none)))
    #expect(String(decoding: ProfileFormat.flamegraph.render(none), as: UTF8.self).hasSuffix("</svg>\n"))
  }

  @Test("blocks of a made index: filters, orders, the number that is not shown")
  func blocks() throws {
    let segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    segment.addModule(path: "/lib/libexample.so", range: 0x1000_0000..<0x1001_0000)
    segment.addAllocator(module: 1)
    let thread = segment.addThread(id: 1, name: "a", from: 0)
    let contexts = [0x1000_0100, 0x1000_0200].map { segment.addContext(node: segment.addNode(pc: $0), thread: thread) }
    for index in 0..<40_000 {
      segment.allocate(0x5555_0000_0000 + UInt64(index) * 64, size: UInt64(index % 50), context: contexts[index % 2])
    }
    let view = try ProcessView(file: segment.path)
    let all = try view.blocks(BlockFilter(), limit: 3, json: false)
    #expect(all.total.blocks == 40_000)
    let text = String(decoding: all.text, as: UTF8.self)
    #expect(text.contains("0x555500000000") && text.contains("39,997 are not shown"))
    let sites = try Wrappers.none.adding(["libexample.so+0x100001ff"], of: "site")
    #expect(try view.blocks(BlockFilter(sites: sites), json: true).total.blocks == 20_000)
    let sized = try view.blocks(BlockFilter(sizes: 48...49), sort: .size, limit: 100_000, json: true)
    #expect(sized.total.blocks == 1600)
    let lines = String(decoding: sized.jsonLines, as: UTF8.self).split(separator: "\n")
    #expect(lines.count == 1600 && lines[0].contains("\"size\":49,") && lines[1599].contains("\"size\":48,"))
    let none = try view.blocks(BlockFilter(), limit: 0, json: true)
    #expect(none.total.blocks == 40_000 && none.jsonLines.isEmpty)
    // The first ones in each order are those of all of them, however few are kept meanwhile.
    for order in BlockOrder.allCases {
      func bases(_ limit: Int) throws -> [Substring] {
        let lines = try view.blocks(BlockFilter(), sort: order, limit: limit, stacks: false, json: true).jsonLines
        return String(decoding: lines, as: UTF8.self).split(separator: "\n").map { $0.prefix { $0 != "," } }
      }
      let whole = try bases(100_000)
      #expect(whole.count == 40_000 && Set(whole).count == 40_000)
      for limit in [1, 2, 9000] { #expect(try bases(limit) == Array(whole.prefix(limit)), "\(order), \(limit)") }
    }
  }
}

@Suite("Pages of a heap", .bounded)
struct PageWindowTests {
  @Test("the numbers of two thousand million blocks stand whole in lines of 80 columns", arguments: [0, 7, 9, 12])
  func great(digits: Int) {
    var account = MemoryAccount(processID: 4242, command: ["big"], losses: Losses())
    account.heap.knowsPages = true
    (account.heap.blocks, account.heap.live) = (2_153_883_439, 52_538_393_296)
    var bytes: UInt64 = 4096
    for _ in 0..<digits where bytes < account.heap.live { bytes *= 10 }
    account.heap.residentLive = min(bytes, account.heap.live)
    account.parts[.heap] = MemoryAccount.Sum(size: bytes, resident: bytes, swapped: 0)
    let lines = account.text.split(separator: "\n")
    #expect(lines.allSatisfy { $0.count <= 80 }, "\(account.text)")
    let isPart = bytes < account.heap.live
    #expect(lines.contains { $0.contains("  \(isPart ? "resident part of " : "")2,153,883,439 live blocks") })
  }

  private func window(_ pages: Int, absent: Set<Int> = []) -> PageWindow {
    PageWindow(
      0x10_0000..<(0x10_0000 + UInt64(pages) * 4096), words: (0..<pages).map { absent.contains($0) ? 0 : 1 << 63 })
  }

  private func block(_ offset: UInt64, _ size: UInt64, context: UInt32 = 1) -> Allocation {
    Allocation(base: 0x10_0000 + offset, size: size, context: context, ticks: 0)
  }

  private func sum(_ window: PageWindow) -> MemoryAccount.Holding {
    window.holdings.reduce(into: MemoryAccount.Holding()) { $0.add($1) }
  }

  @Test("blocks count in the resident pages that they lie in, and pages with few bytes are pinned")
  func pages() {
    var pages = window(10, absent: [3, 4])
    for block in [
      block(0, 100), block(200, 412), block(4096 + 10, 513), block(2 * 4096 - 1, 4 * 4096 + 2, context: 2),
      block(7 * 4096, 0), block(8 * 4096 + 4000, 200, context: 3), block(9 * 4096 + 200, 5, context: 4),
    ] { pages.add(block) }
    pages.finish()
    // Pages 0, 1, 2, 5, 6, 7, 8 and 9.
    #expect(sum(pages).resident == 8 * 4096)
    #expect(sum(pages).residentLive == 512 + 514 + 2 * 4096 + 1 + 0 + 200 + 5)
    #expect(pages.pinned.map { $0.number &- 0x100 } == [0, 6, 7, 8, 9])
    #expect(pages.pinned.map(\.total.bytes) == [512, 1, 0, 96, 109])
    #expect(pages.pinned.map(\.contexts) == [[1], [2], [1], [3], [3, 4]])
  }

  @Test("blocks beyond the window, of no pages and of the whole address space change nothing else")
  func edges() {
    var pages = window(2)
    pages.add(Allocation(base: 0, size: .max, context: 1, ticks: 0))
    pages.add(Allocation(base: .max, size: .max, context: 1, ticks: 0))
    pages.add(Allocation(base: 0x10_2000, size: 5, context: 1, ticks: 0))
    pages.finish()
    #expect(sum(pages).resident == 8192 && sum(pages).residentLive == 8192 && pages.pinned.isEmpty)
    var none = PageWindow(0x10_0000..<0x10_2000, words: [])
    none.add(block(0, 5))
    none.finish()
    #expect(none.holdings.isEmpty && none.pinned.isEmpty)
  }

  @Test("a page is its first block's owner's, and pages without one are those of the owner below")
  func owners() {
    var pages = window(8, absent: [2])
    pages.add(block(4096, 4096 + 100), owner: 1, rounded: 28)
    pages.add(block(4096 * 5 + 4000, 76), owner: 0, rounded: 14)
    pages.add(block(4096 * 5 + 4094, 2), owner: 1, rounded: 22)
    pages.end()
    // Page 0 is below the first block; page 2 is not resident, so the tail of the first block is not, either.
    #expect(pages.leading == 1 && pages.owner == 0)
    let first = pages.holdings[1]
    #expect((first.residentLive, first.rounded, first.gaps, first.free) == (4096, 0, 0, 2 * 4096))
    let second = pages.holdings[0]
    // What the last block is rounded up by would lie in the next page.
    #expect((second.residentLive, second.rounded, second.gaps, second.free) == (78, 14, 4096 - 92, 2 * 4096))
    var next = PageWindow(0x20_0000..<0x20_2000, words: [1 << 63, 0], owner: pages.owner)
    next.end()
    #expect(next.leading == 0 && next.holdings[0].free == 4096)
  }

  private func mapping(_ start: UInt64, _ size: UInt64, _ permissions: String = "rw-p", path: ForeignText? = nil)
    -> Mapping
  { Mapping(start: start, end: start &+ size, permissions: permissions, path: path) }

  @Test("a mapping is cut where calls' mappings meet, and into glibc's heaps where it has their shape")
  func pieces() {
    let heap = HeapPiece.heapSize
    let reserved = mapping(heap * 5 + 8192, heap - 8192, "---p")
    let two = mapping(heap * 4, heap + 8192)
    let pieces = HeapPiece.pieces(of: two, before: reserved, records: [])
    #expect(pieces.map(\.range) == [heap * 4..<heap * 5, heap * 5..<heap * 5 + 8192])
    #expect(pieces.allSatisfy { $0.shape == .heap })
    let small = Allocation(base: heap * 5 + 16, size: 100, context: 1, ticks: 0)
    #expect(pieces[1].arena(of: small).kind == .thread && pieces[1].arena(of: small).start == heap * 5)
    // Without the reserved rest, it is a mapping as any other; and so if a call of the program made it.
    for next in [nil, mapping(heap * 5 + 12288, heap, "---p"), mapping(heap * 5 + 8192, 4096, "---p")] {
      #expect(HeapPiece.pieces(of: two, before: next, records: []).map(\.shape) == [.other])
    }
    func record(_ range: Range<UInt64>, _ context: UInt32) -> MappingRecord {
      MappingRecord(
        range: range, context: context, ticks: 0, protection: 3, isAnonymous: true, isShared: false, isBreak: false,
        isAgent: false, isMoved: false, fileOffset: 0, path: nil)
    }
    let records = [record(0x1000..<0x9000, 3), record(heap * 4..<heap * 4 + 4096, 5), record(0..<UInt64.max, 7)]
    let cut = HeapPiece.pieces(of: two, before: reserved, records: Array(records.prefix(2)))
    #expect(cut.map(\.context) == [5, 0] && cut.allSatisfy { $0.shape == .other })
    #expect(cut[1].arena(of: small).kind == .single)
    let whole = HeapPiece.pieces(of: mapping(0x2000, 0x1000), before: nil, records: Array(records.prefix(1)))
    #expect(whole == [HeapPiece(range: 0x2000..<0x3000, shape: .other, context: 3)])
    let programBreak = HeapPiece.pieces(of: mapping(4096, 4096, path: "[heap]"), before: nil, records: records)
    #expect(programBreak.map(\.shape) == [.programBreak])
    // The end of the address space.
    let last = HeapPiece.pieces(of: mapping(0 &- heap, heap &- 1), before: nil, records: [])
    #expect(last.last?.range.upperBound == .max)
  }

  @Test("glibc's rounding is that of its chunks, for any size")
  func rounding() throws {
    let address = try #require(dlsym(nil, "malloc_usable_size"))
    let usableSize = unsafeBitCast(address, to: (@convention(c) (UnsafeMutableRawPointer?) -> Int).self)
    func rounded(_ size: UInt64, _ kind: MemoryAccount.Arena.Kind = .main) -> UInt64 {
      HeapPiece.libcRounding(of: Allocation(base: 16, size: size, context: 1, ticks: 0), kind)
    }
    for size in [0, 1, 24, 25, 40, 100, 1000, 5000, 100_000] as [UInt64] {
      let block = malloc(Int(size))
      // The C library may leave a block 16 bytes more, where they would be too few for a block.
      let usable = UInt64(usableSize(block))
      #expect([usable, usable - 16].contains(size + rounded(size)), "\(size)")
      free(block)
    }
    let large: UInt64 = 40 << 20
    let block = malloc(Int(large))
    #expect(UInt64(usableSize(block)) == large + rounded(large, .single))
    free(block)
    for size in [1 << 47, .max, .max - 8, .max - 23] as [UInt64] {
      for kind in [.main, .single] as [MemoryAccount.Arena.Kind] { _ = rounded(size, kind) }
    }
  }

  @Test("what owners hold agrees with the kernel's figure, whatever the pages said")
  func settled() {
    for (resident, sums) in [(100, [60, 40]), (130, [90, 40]), (70, [30, 40]), (30, [0, 30]), (0, [0, 0])]
      as [(UInt64, [UInt64])]
    {
      var owners = HeapOwners()
      let libc = owners.owner(owners.allocator(called: "libc.so.6", of: nil), .main, start: 4096)
      let other = owners.owner(owners.allocator(called: "jemalloc", of: nil))
      owners.settle(
        [
          libc: MemoryAccount.Holding(residentLive: 10, rounded: 5, gaps: 5, free: 40),
          other: MemoryAccount.Holding(residentLive: 40),
        ], resident: resident)
      let parts = owners.parts
      #expect(parts.reduce(0) { $0 + $1.holding.resident } == resident)
      func held(_ name: ForeignText) -> UInt64 { parts.first { $0.name == name }?.holding.resident ?? 0 }
      #expect([held("libc.so.6"), held("jemalloc")] == sums, "\(resident)")
    }
    var none = HeapOwners()
    none.settle([:], resident: 4096)
    #expect(none.parts.map(\.name) == [nil] && none.parts.first?.holding.free == 4096)
  }

  @Test("a page of many contexts is pinned by several")
  func contexts() {
    var pages = window(1)
    for index in 0..<20 { pages.add(block(UInt64(index) * 16, 1, context: UInt32(index))) }
    pages.finish()
    #expect(pages.pinned.count == 1 && pages.pinned[0].contexts.count == 8 && !pages.pinned[0].hasAllContexts)
  }
}
