// SPDX-License-Identifier: Apache-2.0
// The tables: allocation sites, indexed processes, one process.

import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import TestSupport
import Testing

@testable import Answers

@Suite("Allocation sites", .bounded)
struct TopTableTests {
  private let directory = TemporaryDirectory()

  @Test("sums by call site and function, threads merged, largest first, the rest together")
  func sums() throws {
    let segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    segment.addModule(path: "/lib/libexample.so", range: 0x1000_0000..<0x1001_0000)
    segment.addAllocator(module: 1)
    let threads = [segment.addThread(id: 1, name: "a", from: 0), segment.addThread(id: 2, name: "b", from: 0)]
    let small = segment.addNode(pc: 0x1000_0100)
    let large = segment.addNode(pc: 0x1000_0200)
    let contexts = [
      segment.addContext(node: small, thread: threads[0]), segment.addContext(node: small, thread: threads[1]),
      segment.addContext(node: large, thread: threads[0]),
      segment.addContext(node: small, thread: threads[0], function: ALLOCS_FUNCTION_CALLOC), 0,
    ]
    var base: UInt64 = 0x5555_0000_0000
    for index in 0..<1000 {
      let context = contexts[index % 5]
      segment.allocate(base, size: context == contexts[2] ? 1000 : 10, context: context)
      base += 0x1000
    }
    let view = try ProcessView(file: segment.path)
    let table = try view.top(limit: 2)
    #expect(table.total == TopTable.Total(bytes: 200 * 1000 + 800 * 10, blocks: 1000))
    #expect(table.siteCount == 4)
    #expect(table.sites.map(\.total) == [.init(bytes: 200_000, blocks: 200), .init(bytes: 4000, blocks: 400)])
    #expect(table.sites.map { $0.frames.first?.pc } == [0x1000_0200, 0x1000_0100])
    #expect(table.sites[0].function == "malloc" && table.sites[0].allocator == "libexample.so")
    #expect(table.other == TopTable.Total(bytes: 4000, blocks: 400))
    #expect(try view.top(limit: 2).table == table.table)

    let all = try view.top(limit: 1000)
    #expect(all.sites.count == 4 && all.other == TopTable.Total())
    #expect(try view.top(limit: 0).other == table.total)
    #expect(try view.top(limit: -5).sites.isEmpty)
    for json in [table.json, all.json] {
      let value = try parseJSON(json)
      #expect(value["total"]?["bytes"]?.number == 208_000)
      #expect(value["site_count"]?.number == 4)
    }
    #expect(
      table.text == """
        program, process 1, which has ended
        1,000 live blocks of 208,000 bytes (203.1 KiB), 4 sites
          BYTES   SHARE  BLOCKS  ALLOCATED BY
        200,000   96.2%     200  libexample.so+0x100001ff: malloc
          4,000    1.9%     400  libexample.so+0x100000ff: malloc
          4,000    1.9%     400  2 other sites
        208,000  100.0%   1,000  all

        """)
  }

  @Test("a process without live blocks")
  func empty() throws {
    let segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    let table = try ProcessView(file: segment.path).top()
    #expect(table.text == "program, process 1, which has ended: 0 live blocks of 0 bytes, 0 sites\n")
    #expect(try parseJSON(table.json)["sites"]?.count == 0)
  }

  @Test("rows fit 80 columns, whatever the names")
  func width() throws {
    let long = ForeignText(String(repeating: "std::vector<日本>::", count: 1000))
    let sites = (["a", long, "\u{1B}[2J"] as [ForeignText]).flatMap { name in
      [
        [], [Frame(pc: 1, module: name)], [Frame(pc: 1, module: name, function: name, file: name, line: 5)],
        [Frame(pc: 1, module: name, function: name), Frame(pc: 1, module: name, function: "\(name)x")],
      ]
      .map { frames in
        TopTable.Site(
          total: .init(bytes: .max, blocks: .max), frames: frames, function: frames.isEmpty ? nil : name,
          allocator: name)
      }
    }
    let table = TopTable(
      processID: 1, command: [long],
      table: SiteTable(
        total: .init(bytes: .max, blocks: .max), siteCount: .max, sites: sites,
        other: .init(bytes: .max, blocks: .max)))
    for line in table.text.split(separator: "\n") {
      #expect(TextLayout.width(line) <= 80, "\(line)")
      #expect(!line.unicodeScalars.contains("\u{1B}"))
    }
    _ = try parseJSON(table.json)
  }
}

@Suite("Processes", .bounded)
struct ProcessListTests {
  private let directory = TemporaryDirectory()

  @Test("live, exited, dead, unreadable; nothing of others")
  func states() throws {
    let own = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime))
    let exited = SyntheticSegment(processID: 2, startTime: 1, in: directory.path, name: "2.1.seg")
    exited.header.pointee.state = ALLOCS_STATE_EXITED.rawValue
    let dead = SyntheticSegment(processID: 3, startTime: 1, in: directory.path, name: "3.1.seg")
    withUnsafeMutableBytes(of: &dead.header.pointee.counters) {
      $0.storeBytes(of: 7, toByteOffset: 8 * Int(ALLOCS_COUNTER_NO_MEMORY.rawValue), as: UInt64.self)
      $0.storeBytes(of: 100, toByteOffset: 8 * Int(ALLOCS_COUNTER_NESTED.rawValue), as: UInt64.self)
    }
    let odd = SyntheticSegment(processID: 4, startTime: 1, in: directory.path, name: "4.1.seg", publish: false)

    let list = try ProcessList(in: [directory.path])
    #expect(
      Dictionary(uniqueKeysWithValues: list.processes.map { ($0.processID, $0.state) })
        == [getpid(): .live, 2: .exited, 3: .dead, 4: .unreadable])
    #expect(list.processes.first { $0.processID == 3 }?.lostBlocks == 7)
    #expect(list.processes.first { $0.processID == 2 }?.command == ["program", "--with", "arguments"])
    let unreadable = try #require(list.processes.first { $0.processID == 4 })
    #expect(unreadable.problem?.contains("half-written") == true && unreadable.started == nil)
    #expect(list.text.split(separator: "\n").contains { $0.contains("unreadable") && $0.contains("  ?  ") })
    #expect(list.processes.first { $0.processID == getpid() }?.uptime.map { $0 >= 0 } == true)
    let lines = list.text.split(separator: "\n")
    #expect(lines.allSatisfy { TextLayout.width($0) <= 80 })
    // This process has another command line than its segment says: as if it had given itself a title.
    #expect(lines[1].contains("live") && !lines[1].contains("program"))
    #expect(lines.contains { $0.contains("exited") && $0.contains("program --with") }, "\(list.text)")
    #expect(list.text.contains("LOST counts blocks"))
    let value = try parseJSON(list.json)
    #expect(value["processes"]?.count == 4)

    let foreign = try ProcessList(readableBy: 65_000, in: [directory.path])
    #expect(foreign.processes.isEmpty && foreign.omitted == 0, "others are told nothing of them")
    let more = ProcessList(foreign.processes, omitted: 12)
    #expect(more.text.contains("12 more files") && more.json.hasSuffix(",\"omitted\":12}"))
    _ = try parseJSON(more.json)
    withExtendedLifetime((own, exited, dead, odd)) {}
  }

  @Test("no process at all")
  func none() throws {
    #expect(try ProcessList(in: [directory.path]).text.contains("allocsctl run"))
    #expect(try ProcessList(in: ["/no/such/directory"]).json == #"{"processes":[]}"#)
  }

  @Test("all facts of one process")
  func summary() throws {
    let segment = SyntheticSegment(
      startTime: ownStartTime, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: ownStartTime), command: ["/usr/bin/odd\u{1B}name", "\n"])
    let slot = segment.addThread(id: 5, name: "worker", from: 0)
    let entry = segment.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(slot)
    entry.pointee.identity.allocations = 10
    entry.pointee.identity.frees = 1
    withUnsafeMutableBytes(of: &segment.header.pointee.counters) {
      $0.storeBytes(of: 3, toByteOffset: 8 * Int(ALLOCS_COUNTER_UNKNOWN_FREES.rawValue), as: UInt64.self)
    }
    let ended = segment.addThread(id: 6, name: "former", from: 0)
    let former = segment.entries(ALLOCS_SECTION_THREADS, as: allocs_thread.self) + Int(ended)
    former.pointee.identity.allocations = 100
    segment.replaceThread(slot: ended, endingAt: 1, by: 7, name: "next", from: 2)
    withUnsafeMutableBytes(of: &segment.header.pointee.counters) {
      $0.storeBytes(of: 1100, toByteOffset: 8 * Int(ALLOCS_COUNTER_ENDED_ALLOCATIONS.rawValue), as: UInt64.self)
    }
    let summary = try ProcessView(file: segment.path).summary()
    #expect(summary.process.state == .live && !summary.isAbandoned)
    let text = summary.text
    #expect(text.contains("2 live, 1 ended; 1,110 allocations, 1 free\n"))
    #expect(text.contains("3 frees where no block was known"))
    #expect(!text.contains("\u{1B}"))
    #expect(text.split(separator: "\n").allSatisfy { TextLayout.width($0) <= 80 })
    let value = try parseJSON(summary.json)
    #expect(value["counters"]?["unknown_frees"]?.number == 3)
    #expect(value["counters"]?.count == summary.counters.count)
    #expect(value["threads"]?.count == 3)
    #expect(value["threads"]?[0]?["name"]?.string == "former" && value["threads"]?[0]?["state"]?.string == "ended")
    #expect(value["threads"]?[1]?["name"]?.string == "worker")
    #expect(value["allocations"]?.number == 1110)
    #expect(!text.contains("1,100"))
    #expect(value["stacks"]?.string == "site")
    #expect(value["command"]?[1]?.string == "\n")
  }
}
