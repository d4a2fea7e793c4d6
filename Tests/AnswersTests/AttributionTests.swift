// SPDX-License-Identifier: Apache-2.0
// Stacks of a segment written by hand, whose addresses lie in this test's own C library: names are real ones.

import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import TestSupport
import Testing

@testable import Answers

@Suite("Attribution", .bounded)
struct AttributionTests {
  private let directory = TemporaryDirectory()
  private let segment: SyntheticSegment
  private let view: ProcessView

  private static let block: UInt64 = 0x5555_0000_0000

  init() throws {
    segment = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
    segment.header.pointee.flags |= UInt32(ALLOCS_FLAG_FULL_STACKS.rawValue)
    // The C library as it is mapped here.
    let maps = ProcessMaps(text: try #require(readFile("/proc/self/maps")))
    let address = Self.address(of: "qsort")
    let index = try #require(maps.index(containing: address))
    let file = try #require(maps.file(behind: index))
    let library = try #require(
      ELFFiles().module(
        of: file, at: address, in: maps,
        of: ModuleReference.Process(id: getpid(), startTime: 0, ownerID: getuid()),
        readableAs: getpid(), since: .infinity))
    segment.addModule(
      path: library.path.unescaped, range: library.start..<library.end, bias: library.bias, buildID: library.buildID)
    view = try ProcessView(file: segment.path)
  }

  private static func address(of name: String) -> UInt64 { addressInLibc(of: name)! }

  /// A return address in the function.
  private static func call(in name: String) -> UInt64 { address(of: name) + 4 }

  private func node(_ pcs: [UInt64], flags: UInt32 = 0, innermostFlags: UInt32 = 0) -> UInt32 {
    var node: UInt32 = 0
    for (index, pc) in pcs.reversed().enumerated() {
      node = segment.addNode(
        pc: pc, parent: node, flags: (index == 0 ? flags : 0) | (index == pcs.count - 1 ? innermostFlags : 0))
    }
    return node
  }

  private func fields(of json: String) throws -> [String: JSON] {
    guard case .object(let fields) = try parseJSON(json) else { return [:] }
    return fields
  }

  private func answer(_ node: UInt32, wrappers: Wrappers = .standard) throws -> Answer {
    segment.allocate(Self.block, size: 100, context: segment.addContext(node: node))
    let answer = try view.answer(Self.block, wrappers: wrappers)
    var inquiry = Inquiry(view, wrappers: wrappers)
    var writer = ByteWriter()
    // The second is made from what was kept of the first; time goes on between them.
    for _ in 0..<2 {
      inquiry.appendJSONLine(of: Self.block, stacks: true, to: &writer)
      var expected = try self.fields(of: answer.json)
      var line = try self.fields(of: String(writer.takeString().dropLast()))
      expected["age_seconds"] = nil
      line["age_seconds"] = nil
      #expect(line == expected)
    }
    return answer
  }

  @Test("the site is the innermost function that is no wrapper; all frames stay in the stack")
  func site() throws {
    let answer = try answer(node(["strdup", "qsort", "getenv"].map(Self.call)))
    #expect(answer.stack?.frames.count == 3 && answer.stack?.siteIndex == 1)
    #expect(answer.stack?.site?.function?.contains("qsort") == true)
    #expect(answer.text.contains("allocated by \(try #require(answer.stack?.site?.function))"))
    #expect(answer.text.contains("→#1 "))
    #expect(try parseJSON(answer.json)["site"]?["function"]?.string == answer.stack?.site?.function?.unescaped)
  }

  @Test("patterns that are added move the site outwards")
  func added() throws {
    let stack = node(["strdup", "qsort", "getenv"].map(Self.call))
    let wrappers = try Wrappers.standard.adding(["*qsort*"])
    #expect(try answer(stack, wrappers: wrappers).stack?.siteIndex == 2)
    let table = try view.top(scope: HeapScope(wrappers: wrappers))
    #expect(table.sites.first?.frames.first?.function?.contains("getenv") == true)
    #expect(try view.top().sites.first?.frames.first?.function?.contains("qsort") == true)
  }

  @Test("where all are wrappers, the outermost is the site, also if it is the only one")
  func allWrappers() throws {
    let pcs = ["strdup", "wcsdup"].map(Self.call)
    #expect(try answer(node(pcs)).stack?.siteIndex == 1)
    let cut = try answer(node(pcs, flags: ALLOCS_NODE_TRUNCATED.rawValue))
    #expect(cut.stack?.siteIndex == 1 && cut.stack?.truncation == .unwinder)
    #expect(try answer(node([pcs[0]])).stack?.siteIndex == 0)
    #expect(try answer(node([])).stack == nil)
  }

  @Test("an address without a name is a site")
  func unnamed() throws {
    let answer = try answer(node([Self.call(in: "strdup"), 0x1234, Self.call(in: "qsort")]))
    #expect(answer.stack?.siteIndex == 1 && answer.stack?.site == Frame(pc: 0x1234, module: nil))
  }

  @Test("a stack cut at the depth limit says so")
  func depthLimit() throws {
    let stack = ["strdup", "qsort"].map(Self.call)
    let answer = try answer(node(stack, flags: ALLOCS_NODE_DEPTH_LIMIT.rawValue))
    #expect(answer.stack?.siteIndex == 1 && answer.stack?.truncation == .depthLimit)
    #expect(answer.text.contains("… cut at the depth limit\n"))
  }

  @Test("an interrupted frame is the instruction at its address, not the one before")
  func interrupted() throws {
    // The first byte of a function: taken for a return address it would be in what lies below.
    let start = Self.address(of: "qsort")
    let exact = try answer(node([start], innermostFlags: ALLOCS_NODE_INTERRUPTED.rawValue))
    #expect(exact.stack?.interrupted == [0])
    #expect(exact.stack?.frames.first?.function?.contains("qsort") == true && exact.stack?.frames.first?.pc == start)
    let call = try answer(node([start]))
    #expect(call.stack?.interrupted == [] && call.stack?.frames.first?.function?.contains("qsort") != true)
  }

  @Test("stacks that lead through one site are one row; sites behind one wrapper are several")
  func rows() throws {
    let wrapper = Self.call(in: "strdup")
    let stacks = [
      ["qsort", "getenv"], ["qsort", "abs"], ["getenv", "abs"],
    ].map { node([wrapper] + $0.map(Self.call)) }
    for index in 0..<300 {
      segment.allocate(
        Self.block + UInt64(index) * 0x1000, size: 10, context: segment.addContext(node: stacks[index % 3]))
    }
    let table = try view.top()
    #expect(table.siteCount == 2)
    #expect(table.sites.map(\.total.blocks) == [200, 100])
    #expect(table.sites.map { $0.frames.first?.pc } == [Self.call(in: "qsort"), Self.call(in: "getenv")])
    #expect(table.total.blocks == 300)
    let value = try parseJSON(table.json)["sites"]?[0]
    #expect(value?["site"]?["function"]?.string?.contains("qsort") == true)
    #expect(value?["stack"]?[0]?["function"] == value?["site"]?["function"])
  }

  @Test("an address that two modules have held has the names of the one that held it at the time")
  func unloaded() throws {
    let pc: UInt64 = 0x1000_0100
    segment.addModule(path: "/former", range: 0x1000_0000..<0x1001_0000, loaded: 10, unloaded: 20)
    segment.addModule(path: "/later", range: 0x1000_0000..<0x1001_0000, loaded: 30)
    let context = segment.addContext(node: node([pc]))
    segment.allocate(Self.block, size: 1, context: context, ticks: 15)
    segment.allocate(Self.block + 0x1000, size: 1, context: context, ticks: 40)
    var inquiry = Inquiry(view)
    for _ in 0..<2 {
      #expect(inquiry.answer(Self.block).stack?.site?.module == "/former")
      #expect(inquiry.answer(Self.block + 0x1000).stack?.site?.module == "/later")
    }
  }

  /// The module at the site of the block at `base`, as a request of its own answers it, as JSON and otherwise.
  private func moduleOfSite(_ base: UInt64) throws -> String? {
    var inquiry = Inquiry(view)
    var writer = ByteWriter()
    inquiry.appendJSONLine(of: base, stacks: true, to: &writer)
    let line = try parseJSON(String(writer.takeString().dropLast()))
    let module = try view.answer(base).stack?.site?.module?.unescaped
    #expect(line["site"]?["module"]?.string == module)
    return module
  }

  @Test("names are kept from one request to the next, until a module goes or another comes")
  func keptBetweenRequests() throws {
    let pc: UInt64 = 0x1000_0100
    let first = segment.addModule(path: "/first", range: 0x1000_0000..<0x1001_0000, loaded: 10)
    let context = segment.addContext(node: node([pc]))
    segment.allocate(Self.block, size: 1, context: context, ticks: 15)
    for _ in 0..<2 { #expect(try moduleOfSite(Self.block) == "/first") }

    let entry = segment.entries(ALLOCS_SECTION_MODULES, as: allocs_module.self) + first
    entry.pointee.unload_ticks = 20
    entry.pointee.state = ALLOCS_MODULE_UNLOADED.rawValue
    segment.allocate(Self.block + 0x1000, size: 1, context: context, ticks: 25)
    for _ in 0..<2 {
      #expect(try moduleOfSite(Self.block) == "/first")
      #expect(try moduleOfSite(Self.block + 0x1000) == nil)
    }

    segment.addModule(path: "/second", range: 0x1000_0000..<0x1001_0000, loaded: 30)
    segment.allocate(Self.block + 0x2000, size: 1, context: context, ticks: 40)
    for _ in 0..<2 {
      #expect(try moduleOfSite(Self.block + 0x2000) == "/second")
      #expect(try moduleOfSite(Self.block) == "/first")
      #expect(try moduleOfSite(Self.block + 0x1000) == nil)
    }
  }

  @Test("a record that is older than the module is not named by it, whichever was asked about first")
  func olderThanItsModule() throws {
    segment.addModule(path: "/late", range: 0x1000_0000..<0x1001_0000, loaded: 100)
    let context = segment.addContext(node: node([0x1000_0100]))
    segment.allocate(Self.block, size: 1, context: context, ticks: 50)
    segment.allocate(Self.block + 0x1000, size: 1, context: context, ticks: 150)
    for _ in 0..<2 {
      #expect(try moduleOfSite(Self.block + 0x1000) == "/late")
      #expect(try moduleOfSite(Self.block) == nil)
    }
  }

  @Test("an answer is quick once its stack was named, and no longer when the modules have changed")
  func quick() throws {
    let wrappers = try Wrappers.standard.adding(["qsort"])
    segment.allocate(Self.block, size: 8, context: segment.addContext(node: node(["qsort", "getenv"].map(Self.call))))
    func isQuick(_ wrappers: Wrappers = .standard) -> Bool {
      var inquiry = Inquiry(view, wrappers: wrappers)
      return inquiry.isQuick(Self.block, stacks: true)
    }
    #expect(!isQuick())
    _ = try view.answer(Self.block)
    #expect(isQuick())
    // With patterns of its own, a request must find the sites itself.
    #expect(!isQuick(wrappers))
    segment.addModule(path: "/another", range: 0x1000_0000..<0x1001_0000)
    #expect(!isQuick())
    var inquiry = Inquiry(view)
    #expect(inquiry.isQuick(Self.block, stacks: false) && !inquiry.isQuick(Self.block - 1, stacks: false))
  }

  @Test("what is kept has a bound, and what falls out is found again")
  func bounded() {
    let names = NameCache(budget: 60_000)
    let version = ModuleTableVersion(count: 1, unloaded: 0)
    let json = [UInt8](repeating: 0x20, count: 1000)
    func isKept(_ node: UInt32) -> Bool {
      names.json(ofNode: node, ticks: 0, version: version, now: 0) != nil
    }
    for node in 1...1000 as ClosedRange<UInt32> {
      names.store(json: json, ofNode: node, span: NameCache.Span(), version: version)
      #expect(isKept(node))
    }
    #expect((1...1000).count(where: { isKept($0) }) < 60)
    // Names that were found without their file are kept for a time, names of an earlier state of the modules not at
    // all.
    names.store(json: json, ofNode: 1, span: NameCache.Span(end: 10), version: version)
    #expect(names.json(ofNode: 1, ticks: 0, version: version, now: 9) != nil)
    #expect(names.json(ofNode: 1, ticks: 0, version: version, now: 10) == nil)
    names.store(json: json, ofNode: 2, span: NameCache.Span(), version: ModuleTableVersion(count: 0, unloaded: 0))
    #expect(names.json(ofNode: 2, ticks: 0, version: version, now: 0) == nil)
  }

  @Test("a circle of nodes ends, in an answer and in a table")
  func circle() throws {
    let pc = Self.call(in: "strdup")
    let first = segment.addNode(pc: pc)
    let second = segment.addNode(pc: pc, parent: first)
    (segment.entries(ALLOCS_SECTION_NODES, as: allocs_node.self) + Int(first)).pointee.parent = second
    let answer = try answer(second)
    #expect(answer.stack?.truncation == .damaged && answer.stack?.site?.pc == pc)
    #expect(try view.top().sites.first?.frames.first?.pc == pc)
  }
}
