// SPDX-License-Identifier: Apache-2.0
// Recordings that somebody made to be expensive or deceiving: small files that stand for much, many rows of one kind,
// damage everywhere, names that are commands to a terminal.
//
// A step that takes time in proportion to the square of the rows would not end within the tests' bound.

import Bounds
import ByteText
import Glibc
import IndexReader
import Provenance
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import Recording

private func isBudget(_ code: Int32) -> (any Error) -> Bool {
  { ($0 as? Complaint)?.kind == .budget && ($0 as? Complaint)?.code == code }
}

/// Runs `body` within a budget, and expects that it met the limit of memory.
private func expectNoMemory(
  _ bytes: Int, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws(Complaint) -> Void
) {
  #expect(sourceLocation: sourceLocation) {
    try Budget(seconds: 1e6, bytes: bytes).run { () throws(Complaint) in try body() }
  } throws: { isBudget(ENOMEM)($0) }
}

@Suite("hostile recordings", .bounded)
struct HostileRecordingTests {
  // MARK: memory

  @Test("tables that would take more memory than a recording may are refused before the memory is taken")
  func tables() throws {
    // Names of nothing: three bytes a row of each kind, packed to a thousandth.
    var rows: [UInt8] = []
    rows.append(number: 1)
    for number: UInt64 in [1, 0, 100_000] { rows.append(number: number) }
    rows += [UInt8](repeating: 0, count: 300_000)
    for kind in [RecordingFormat.ChunkKind.names, .process] {
      let small = SmallRecording()
      var payload = rows
      if kind == .process {
        payload = []
        for number: UInt64 in [1, 1, 300_000] { payload.append(number: number) }
        payload += [UInt8](repeating: 0, count: 300_100)
      }
      small.add(kind, payload, packed: true)
      #expect(small.bytes.count < 20_000)
      #expect { try small.open(memoryLimit: 4 << 20) } throws: { isBudget(ENOMEM)($0) }
      #expect(try small.open(memoryLimit: 1 << 30).process.processID != 0)
    }
    // Many chunks, each of which is small enough.
    let small = SmallRecording()
    let nodes = TableCoding.encode((0..<1000).map { StackNode(pc: $0 * 64, parent: 0) }, from: 1)
    for _ in 0..<50 { small.add(.nodes, nodes, packed: true) }
    #expect { try small.open(memoryLimit: 1 << 20) } throws: { isBudget(ENOMEM)($0) }
  }

  @Test("blocks take no memory until they are read, and then no more than allowed")
  func manyBlocks() throws {
    // Five bytes a block, packed to a thousandth: no block has a size, and all have one base.
    var payload: [UInt8] = []
    for number: UInt64 in [1, 500_000] { payload.append(number: number) }
    payload += [UInt8](repeating: 0, count: 2_500_000)
    let small = SmallRecording(snapshot: [])
    for _ in 0..<3 { small.add(.blocks, payload, packed: true) }
    #expect(small.bytes.count < 20_000)
    let recording = try small.open(memoryLimit: 1 << 20)
    expectNoMemory(10 << 20) { () throws(Complaint) in _ = recording.isStill }
    expectNoMemory(10 << 20) { () throws(Complaint) in _ = recording.summary() }
    let budget = Budget(seconds: 1e6, bytes: 1 << 30)
    #expect(try budget.run { () throws(Complaint) in recording.summary().endBlocks } == 1)
  }

  @Test("a chunk of events says how much it unpacks to, and no more than its events can take")
  func unpacking() throws {
    let small = SmallRecording()
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    header.flags = RecordingFormat.flagZstd
    header.events = 3
    small.add(header, [UInt8](repeating: 0, count: 8 << 20))
    let recording = try small.open()
    recording.forEachEvent { _ in true }
    #expect(recording.problems == ["a chunk of events contradicts the format"] && recording.lostCount == 3)
    #expect(RecordingFormat.mostBytes(ofEvents: .max) == RecordingFormat.mostBytes(ofEvents: 1 << 20))
  }

  @Test("a replay, a history and every export of more blocks than memory allows end with words")
  func blocks() throws {
    let small = SmallRecording()
    let events: [SmallRecording.MadeEvent] = (0..<40_000).map { (index: UInt64) in
      (.alloc, 0x10_0000 + index * 64, index, UInt32(2 + index % 2), 200)
    }
    small.add(events: events)
    let recording = try small.open()
    // A meter looks at the budget now and then: of 40,000 blocks most are not taken in.
    expectNoMemory(1 << 20) { () throws(Complaint) in _ = recording.summary() }
    expectNoMemory(1 << 20) { () throws(Complaint) in _ = recording.replay(until: .max) }
    let directory = try TestDirectory()
    for format in ExportFormat.allCases {
      let output = directory.file("out")
      expectNoMemory(1 << 20) { () throws(Complaint) in try recording.export(format, to: output) }
      #expect(access(output, F_OK) != 0, "\(format)")
    }
    #expect(try directory.names() == [])
    let budget = Budget(seconds: 1e6, bytes: 1 << 30)
    #expect(try budget.run { () throws(Complaint) in recording.summary().endBlocks } == 40_002)
    #expect(budget.spend(bytes: (1 << 30) - 100), "all memory came back")
  }

  @Test("a budget whose asker has gone, or whose time is over, ends the reading")
  func ends() throws {
    let small = SmallRecording()
    for index: UInt64 in 0..<100 { small.add(events: [(.alloc, 0x10_0000, 16, 2, 200 + index)]) }
    let recording = try small.open()
    let gone = Budget(seconds: 1e6, bytes: 1 << 30)
    var events = 0
    #expect {
      try gone.run { () throws(Complaint) in
        recording.forEachEvent { _ in
          events += 1
          if events == 20 { gone.cancel() }
          return true
        }
      }
    } throws: { isBudget(ECANCELED)($0) }
    #expect(events < 50)
    #expect {
      try Budget(seconds: 0, bytes: 1 << 30).run { () throws(Complaint) in _ = try Recording(path: small.path) }
    } throws: { isBudget(ETIME)($0) }
  }

  @Test("of a hundred thousand problems and losses the first are kept, and the rest is counted")
  func problems() throws {
    let small = SmallRecording()
    let loss = RecordedLoss(reason: .overwritten, ring: 1, count: 2, from: 5, to: 6)
    small.add(.losses, TableCoding.encode(Array(repeating: loss, count: 100_000)))
    small.add(
      .damagedRings, TableCoding.encode((0..<5000).map { DamagedRing(ring: $0, stamp: UInt64($0)) }))
    let recording = try small.open()
    #expect(recording.lostCount == 200_000 && recording.losses.count <= 1 << 16)
    #expect(recording.problems.count == 1001 && recording.problems.last == "4,000 further problems")
    #expect(recording.problemLines.count < 20)
  }

  // MARK: time

  @Test("rows of one module, thread or slot that come again a hundred thousand times cost one look each")
  func rows() throws {
    let small = SmallRecording()
    let count: UInt32 = 60_000
    small.add(
      .modules,
      TableCoding.encode(
        (0..<count).map { index in
          Module(
            index: index + 1, path: "/m", buildID: [], start: 0x5000_0000 + UInt64(index) * 0x1000,
            end: 0x5000_0000 + UInt64(index + 1) * 0x1000, bias: 0, loadTicks: 0, unloadTicks: nil, isMain: false,
            isAgent: false)
        }))
    small.add(
      .threads,
      TableCoding.encode(
        (0..<count).map { index in
          ThreadIdentity(
            id: index + 1, name: "t", slot: 7, state: .live, startTicks: index * 2, endTicks: nil, stack: nil,
            allocations: 0, frees: 0)
        }))
    let recording = try small.open()
    #expect(recording.modules.count == Int(count) + 1)
    for index in 0..<count {
      #expect(recording.thread(slot: 7, at: index * 2 + 1)?.id == index + 1)
      let call = CallAddress(pc: 0x5000_0000 + UInt64(index) * 0x1000 + 9, isExact: false)
      #expect(recording.module(at: call, ticks: 1)?.index == index + 1)
      #expect(!recording.isOnly(nil, at: call.pc))
    }
    // Before the first of them began, by half a wrap: nobody, or the latest of those before the wrap.
    #expect(recording.thread(slot: 7, at: 0x7FFF_FFFF)?.id == nil)
    #expect(recording.thread(slot: 8, at: 1) == nil)
  }

  @Test("damage before every chunk costs no more than a look at its bytes")
  func damage() throws {
    let small = SmallRecording()
    var bytes = small.bytes
    for _ in 0..<10_000 {
      var header = ChunkHeader(kind: 200)
      bytes += [UInt8](repeating: 0x43, count: 40) + header.chunk(of: [])
    }
    let recording = try small.open(bytes)
    #expect(recording.problems.last?.hasSuffix("further problems") == true && recording.eventCount == 5)
  }

  @Test("a file that is a hole of a terabyte is read at once, and a file that can't be one is refused")
  func hole() throws {
    let small = SmallRecording()
    _ = try small.open()
    try #require(truncate(small.path, 1 << 40) == 0)
    let recording = try Recording(path: small.path)
    #expect(recording.eventCount == 5 && recording.problems.count == 1)
    // Not every file system has files of this size.
    if truncate(small.path, .max) == 0 {
      #expect(throws: Complaint.self) { _ = try Recording(path: small.path) }
    }
  }

  @Test("events come in the order of their stamps, however they are spread over chunks")
  func order() {
    var random = RandomNumbers()
    for _ in 0..<200 {
      var merge = EventMerge()
      var all: [UInt64] = []
      var given: [UInt64] = []
      let chunks = (0..<Int.random(in: 1...8, using: &random)).map { _ in
        (0..<Int.random(in: 0...20, using: &random)).map { _ in UInt64.random(in: 0...30, using: &random) }
      }
      for (index, chunk) in chunks.enumerated() {
        all += chunk
        merge.add(
          EventMerge.sorted(chunk.map { allocs_event(place: 0, extent: 0, source: UInt64(index), stamp: $0) }))
        let later = chunks[(index + 1)...].joined().min() ?? .max
        let goesOn = merge.drain(below: later) { records in
          given += records.map(\.stamp)
          return true
        }
        #expect(goesOn)
      }
      _ = merge.drain(below: nil) { records in
        given += records.map(\.stamp)
        return true
      }
      #expect(given == all.sorted())
    }
  }

  @Test("records are sorted by their stamps, and those with equal stamps keep their order")
  func sorting() {
    var random = RandomNumbers()
    for count in [0, 1, 2, 3, 100, 1000] {
      for pieces in [1, 2, 3, 7, 1000] {
        var records: [allocs_event] = []
        for _ in 0..<pieces where records.count < count {
          let stamps = (0..<max(1, count / pieces)).map { _ in UInt64.random(in: 0...50, using: &random) }.sorted()
          records += stamps.map { allocs_event(place: 0, extent: 0, source: 0, stamp: $0) }
        }
        for index in records.indices { records[index].source = UInt64(index) }
        let sorted = EventMerge.sorted(records).map { [$0.stamp, $0.source] }
        #expect(sorted == records.map { [$0.stamp, $0.source] }.sorted { ($0[0], $0[1]) < ($1[0], $1[1]) })
      }
    }
  }

  @Test("a table of blocks has what a dictionary has, after any changes, also where many bases want one place")
  func table() {
    var random = RandomNumbers()
    for bases in [3, 200, 5000] as [UInt64] {
      var (table, truth) = (BlockTable(), [UInt64: ReplayedBlock]())
      for step in 0..<50_000 {
        let base = UInt64.random(in: 0..<bases, using: &random) << 16
        if Bool.random(using: &random) {
          let block = ReplayedBlock(base: base, size: UInt64(step), context: UInt32(step), ticks: 7)
          #expect(table.update(block) == truth.updateValue(block, forKey: base))
        } else {
          #expect(table.remove(base) == truth.removeValue(forKey: base))
        }
      }
      #expect(table.count == truth.count && table.sorted == truth.values.sorted { $0.base < $1.base })
      #expect((0..<bases).allSatisfy { table[$0 << 16] == truth[$0 << 16] } && table[1] == nil)
    }
  }

  @Test("two hundred thousand events that wait for an older one are not looked at again for each chunk")
  func waiting() {
    var merge = EventMerge()
    merge.add((0..<200_000).map { allocs_event(place: 0, extent: 0, source: 0, stamp: 100 + UInt64($0)) })
    for index in 0..<20_000 {
      merge.add([allocs_event(place: 0, extent: 0, source: 0, stamp: 300_000 + UInt64(index))])
      _ = merge.drain(below: 50) { _ in false }
    }
    var count = 0
    _ = merge.drain(below: nil) { records in
      count += records.count
      return true
    }
    #expect(count == 220_000)
  }

  @Test("a history keeps the newest events and counts the others")
  func history() throws {
    let small = SmallRecording()
    for _ in 0..<3 {
      small.add(events: (0..<90_000).map { (.alloc, 0x20_0000, 64, 2, 200 + UInt64($0) / 1000) })
    }
    let recording = try small.open()
    let history = AddressHistory(of: SmallRecording.heap + 0x20_0010, in: recording)
    #expect(history.covering == 270_000 && history.entries.count == AddressHistory.limit)
    #expect(zip(history.entries, history.entries.dropFirst()).allSatisfy { $0.event.stamp >= $1.event.stamp })
    let report = HistoryReport(recording) { _ in 0 }
    #expect(report.text(of: history, limit: 1).contains("… and 269,999 older events"))
    #expect(report.jsonLines(of: history, limit: 3000).utf8.split(separator: 0x0A).count == 3001)
    for limit in [0, -1, Int.min] {
      #expect(report.text(of: history, limit: limit).contains("… and "))
      #expect(report.jsonLines(of: history, limit: limit).utf8.split(separator: 0x0A).count == 1)
    }
  }

  // MARK: text

  @Test("no character of a name that a terminal acts upon reaches a text, JSON or another program's format")
  func text() throws {
    let hostile =
      "\u{1B}]0;x\u{7}\r\n\u{9B}31m\u{202E}\u{2028}\u{E0041}\u{FEFF}\u{85}\t" + String(reversibly: [0x9B, 0xFF])
    let small = SmallRecording(names: ForeignText(hostile))
    let recording = try small.open()
    let history = AddressHistory(of: SmallRecording.heap + 0x1010, in: recording)
    let report = HistoryReport(recording) { _ in 0 }
    let replay = recording.replay(until: .max)
    var texts = [
      recording.text(of: recording.summary()), recording.top(replay, limit: 9).text,
      recording.top(replay, limit: 9).json,
      report.text(of: history, limit: 9), report.jsonLines(of: history, limit: 9),
    ]
    let directory = try TestDirectory()
    for format in [ExportFormat.jsonl, .heaptrack] {
      let output = directory.file(format.rawValue)
      try recording.export(format, to: output)
      texts.append(try contents(ofFile: output))
    }
    for text in texts {
      #expect(text.contains("u{1b}") || text.contains("u001b"), "the names are there: \(text)")
      for line in text.split(separator: "\n") { #expect(String(line).isInert, "\(ForeignText(String(line)))") }
    }
    // Perfetto's format is binary: its texts are searched for what only the name has.
    let trace = directory.file("trace")
    try recording.export(.perfetto, to: trace)
    let bytes = try [UInt8](contentsOfFile: trace)
    #expect(bytes.firstRange(of: Array("\\u{1b}]0;x".utf8)) != nil)
    #expect(
      bytes.firstRange(of: Array("\u{1B}]0;x".utf8)) == nil && bytes.firstRange(of: Array("\u{202E}".utf8)) == nil)
  }
}

private func contents(ofFile path: String) throws -> String {
  String(decoding: try [UInt8](contentsOfFile: path), as: UTF8.self)
}

extension [UInt8] {
  /// All bytes of a file, a megabyte at most.
  init(contentsOfFile path: String) throws {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    try #require(descriptor >= 0, "\(path)")
    defer { close(descriptor) }
    self.init(unsafeUninitializedCapacity: 1 << 20) { buffer, count in
      count = Swift.max(0, Glibc.read(descriptor, buffer.baseAddress, buffer.count))
    }
  }
}

extension TestDirectory {
  /// The names in the directory.
  func names() throws -> [String] {
    let stream = try #require(opendir(path))
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }
}
