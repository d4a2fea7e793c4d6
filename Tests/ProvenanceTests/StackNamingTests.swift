// SPDX-License-Identifier: Apache-2.0
// Names and sites from tables that are made up: whoever has such tables, a live index or a recording, gets these.

import IndexReader
import Symbols
import TestSupport
import Testing

@testable import Provenance

/// Contexts, stacks and modules in memory. A function begins every 256 bytes, and is called by what `functions` says.
private final class MadeUpTables: OriginTables {
  var origins: [UInt32: Origin] = [:]
  var nodes: [UInt32: StackNode] = [:]
  var modules: [Module] = []
  /// Names by the instruction's address, the last 8 bits cleared; innermost inlined function first.
  var functions: [UInt64: [String]] = [:]
  var moduleTableVersion = ModuleTableVersion(changes: 1)
  let names = NameCache()
  /// How often names were looked up.
  private(set) var lookUps = 0

  func context(_ id: UInt32) -> Origin? { origins[id] }
  func node(_ id: UInt32) -> StackNode? { nodes[id] }
  func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? { nil }

  func module(at call: CallAddress, ticks: UInt32) -> Module? {
    modules.last { module in
      module.start <= call.instruction && call.instruction < module.end && module.loadTicks <= ticks
        && ticks <= module.unloadTicks ?? .max
    }
  }

  func isAgent(_ address: UInt64) -> Bool {
    modules.contains { $0.isAgent && $0.start <= address && address < $0.end }
  }

  func isOnly(_ module: Module?, at address: UInt64) -> Bool {
    module?.unloadTicks == nil && modules.allSatisfy { $0 == module || !($0.start..<$0.end).contains(address) }
  }

  func functions(at call: CallAddress, in module: Module) -> (frames: [Frame], isFinal: Bool) {
    lookUps += 1
    let names = functions[call.instruction & ~255] ?? []
    return (
      names.enumerated().map { index, name in
        Frame(pc: call.pc, module: module.path, function: ForeignText(name), inlined: index + 1 < names.count)
      }, true
    )
  }

  func add(module path: String, at start: UInt64, loaded: UInt32 = 0, unloaded: UInt32? = nil, isAgent: Bool = false) {
    modules.append(
      Module(
        index: UInt32(modules.count), path: ForeignText(path), buildID: [], start: start, end: start + 0x10000, bias: 0,
        loadTicks: loaded, unloadTicks: unloaded, isMain: false, isAgent: isAgent))
  }

  /// A stack of calls, innermost first; returns its node.
  func stack(_ pcs: [UInt64], cut: Stack.Truncation? = nil) -> UInt32 {
    var node: UInt32 = 0
    for (index, pc) in pcs.reversed().enumerated() {
      let id = UInt32(nodes.count + 1)
      nodes[id] = StackNode(pc: pc, parent: node, truncation: index == 0 ? cut : nil)
      node = id
    }
    return node
  }
}

@Suite("Naming of stacks", .bounded)
struct StackNamingTests {
  private let tables = MadeUpTables()

  init() {
    tables.add(module: "/bin/program", at: 0x10000)
    tables.functions = [0x10000: ["malloc"], 0x10100: ["fill", "grow"], 0x10200: ["main"], 0x10300: ["xmalloc"]]
  }

  @Test("the site is the innermost function that is no wrapper, with the functions it is inlined into")
  func site() throws {
    let node = tables.stack([0x10010, 0x10310, 0x10110, 0x10210])
    let naming = StackNaming(tables)
    let stack = try #require(naming.stack(ofNode: node, at: 1))
    #expect(stack.frames.map(\.function) == ["malloc", "xmalloc", "fill", "grow", "main"])
    #expect(stack.siteIndex == 2 && stack.truncation == nil)
    let site = try #require(naming.site(ofNode: node, at: 1))
    #expect(site.frames.map(\.function) == ["fill", "grow"])
    #expect(site.key.pc == 0x10110 && site.key.module == 1 && naming.siteKey(ofNode: node, at: 1) == site.key)
    #expect(naming.site(ofNode: 0, at: 1) == nil && naming.stack(ofNode: 0, at: 1) == nil)
  }

  @Test("a return address at the end of a function belongs to that function, an interrupted instruction to its own")
  func boundaries() throws {
    let node = tables.stack([0x10200])
    let naming = StackNaming(tables)
    #expect(naming.site(ofNode: node, at: 1)?.frames.map(\.function) == ["fill", "grow"])
    tables.nodes[node]?.isInterrupted = true
    let stack = try #require(naming.stack(ofNode: node, at: 1))
    #expect(stack.frames.map(\.function) == ["main"] && stack.frames[0].pc == 0x10200 && stack.interrupted == [0])
  }

  @Test("names are looked up once, until the module table changes")
  func kept() {
    let node = tables.stack([0x10110, 0x10210])
    for _ in 0..<3 { _ = StackNaming(tables).stack(ofNode: node, at: 1) }
    #expect(tables.lookUps == 2)
    tables.moduleTableVersion = ModuleTableVersion(changes: 2)
    _ = StackNaming(tables).stack(ofNode: node, at: 1)
    #expect(tables.lookUps == 4)
  }

  @Test("an address that two modules have held is named by the record's time, whichever was asked about first")
  func twoModules() {
    tables.add(module: "/lib/former", at: 0x40000, loaded: 10, unloaded: 20)
    tables.add(module: "/lib/later", at: 0x40000, loaded: 30)
    let node = tables.stack([0x40110])
    let naming = StackNaming(tables)
    for (ticks, path) in [(15, "/lib/former"), (40, "/lib/later"), (25, nil), (15, "/lib/former")]
      as [(UInt32, ForeignText?)]
    {
      #expect(naming.site(ofNode: node, at: ticks)?.frames.first?.module == path, "at \(ticks)")
    }
  }

  @Test("an address whose module found no room, or whose entry was given away, says so")
  func losses() {
    for (holder, loss) in [(CallHolder.dropped, NameLoss.noRoom), (.forgotten, .forgotten)] {
      let node = tables.stack([0x90010])
      tables.nodes[node]?.holder = holder
      #expect(StackNaming(tables).site(ofNode: node, at: 1)?.frames == [Frame(pc: 0x90010, module: nil, unnamed: loss)])
    }
  }

  @Test("the agent's own call at the end of a stack that was cut is in no stack, and is no site")
  func agent() throws {
    tables.add(module: "/lib/agent", at: 0x80000, isAgent: true)
    tables.functions[0x80000] = ["hook"]
    let node = tables.stack([0x10010, 0x80010], cut: .unwinder)
    let naming = StackNaming(tables)
    let stack = try #require(naming.stack(ofNode: node, at: 1))
    #expect(stack.frames.map(\.function) == ["malloc"] && stack.truncation == .unwinder)
    #expect(naming.site(ofNode: node, at: 1)?.frames.map(\.function) == ["malloc"])
  }

  @Test("a circle, and a stack deeper than any that is recorded, end as damaged")
  func damaged() throws {
    let naming = StackNaming(tables)
    let circle = tables.stack([0x10110, 0x10210])
    tables.nodes[1]?.parent = circle
    #expect(naming.stack(ofNode: circle, at: 1)?.truncation == .damaged)
    #expect(naming.site(ofNode: circle, at: 1)?.frames.first?.function == "fill")
    let deep = tables.stack(Array(repeating: 0x10310, count: Stack.depthLimit + 5))
    let stack = try #require(naming.stack(ofNode: deep, at: 1))
    #expect(stack.frames.count == Stack.depthLimit && stack.truncation == .damaged)
    let exact = tables.stack(Array(repeating: 0x10310, count: Stack.depthLimit))
    #expect(naming.stack(ofNode: exact, at: 1)?.truncation == nil)
  }
}

@Suite("Sites by size", .bounded)
struct SiteTableTests {
  private let tables = MadeUpTables()

  private func table(_ sums: [(context: UInt32, bytes: UInt64, blocks: UInt64)], limit: Int) -> SiteTable {
    SiteTable(
      of: sums.map { ContextSum(context: $0.context, total: .init(bytes: $0.bytes, blocks: $0.blocks), ticks: 1) },
      in: tables, wrappers: .standard, limit: limit)
  }

  @Test("contexts of one site, function and allocator are one row, whatever their threads and callers")
  func rows() {
    tables.add(module: "/bin/program", at: 0x10000)
    tables.functions = [0x10100: ["fill"], 0x10200: ["main"], 0x10400: ["other"]]
    let stacks = [tables.stack([0x10110, 0x10210]), tables.stack([0x10110, 0x10220]), tables.stack([0x10410])]
    tables.origins = [
      1: Origin(node: stacks[0], threadSlot: 1, function: "malloc", allocator: "pool", allocatorNumber: 0),
      2: Origin(node: stacks[1], threadSlot: 2, function: "malloc", allocator: "pool", allocatorNumber: 0),
      3: Origin(node: stacks[0], threadSlot: 1, function: "calloc", allocator: "pool", allocatorNumber: 0),
      4: Origin(node: stacks[0], threadSlot: 1, function: "malloc", allocator: "pool", allocatorNumber: 1),
      5: Origin(node: stacks[2], threadSlot: 1, function: "malloc"),
    ]
    let sums: [(UInt32, UInt64, UInt64)] = [
      (1, 10, 1), (2, 20, 2), (3, 25, 1), (4, 5, 1), (5, 100, 1), (0, 7, 1), (9, 0, 0),
    ]
    let all = table(sums, limit: 10)
    #expect(all.siteCount == 5 && all.other == .init() && all.total == .init(bytes: 167, blocks: 7))
    #expect(all.sites.map(\.total.bytes) == [100, 30, 25, 7, 5])
    #expect(all.sites.map { $0.frames.first?.function } == ["other", "fill", "fill", nil, "fill"])
    #expect(all.sites[1].total.blocks == 3 && all.sites[1].allocator == "pool" && all.sites[2].function == "calloc")
    let two = table(sums, limit: 2)
    #expect(two.siteCount == 5 && two.sites == Array(all.sites.prefix(2)))
    #expect(two.other == .init(bytes: 37, blocks: 3) && table(sums, limit: -1).other == all.total)
  }
}
