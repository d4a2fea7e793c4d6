// SPDX-License-Identifier: Apache-2.0
// Snapshots, whose blocks are summed up as they are read: the sums must be those of a replay, whatever the file says.

import Answers
import Bounds
import Glibc
import IndexReader
import Provenance
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import Recording

@Suite("snapshots' sums", .bounded)
struct StillRecordingTests {
  /// Blocks whose addresses ascend, of known contexts and others, with any sizes and times.
  private static func blocks(_ count: Int, seed: inout RandomNumbers, from start: UInt64) -> [Allocation] {
    let now = allocs_event_ticks(SmallRecording.start)
    let contexts: [UInt32] = [0, 2, 2, 2, 3, 3, 77, 1 << 24, .max]
    return (0..<count).map { index in
      let size = [UInt64.random(in: 0...5000, using: &seed), 1 << 48, .max][Int.random(in: 0...99, using: &seed) / 49]
      return Allocation(
        base: start + UInt64(index) * 64, size: size, context: contexts.randomElement(using: &seed) ?? 0,
        ticks: now &- UInt32.random(in: 0...6400, using: &seed))
    }
  }

  private static let windows: [TimeWindow] = {
    let moments = [1.0, 20, 90].map { Moment.ago($0) }
    return [TimeWindow(), TimeWindow(since: moments[2]), TimeWindow(until: moments[0])]
      + [TimeWindow(since: moments[1], until: moments[0])]
  }()

  /// What is told of the recording, by sums alone and by a replay, in all windows.
  private static func expectSame(
    _ small: SmallRecording, _ stamp: UInt64? = nil, sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    let (one, other) = try (small.open(), small.open())
    #expect(one.isStill, sourceLocation: sourceLocation)
    let replay = other.replay(until: .max)
    #expect(
      one.summary() == other.summaryAndReplay(at: .end, needsBlocks: true).summary, sourceLocation: sourceLocation)
    for window in windows {
      for sort in SiteOrder.allCases {
        let scope = HeapScope(window: window)
        let sums = one.top(nil, at: stamp, limit: 100, sort: sort, scope: scope).json
        let replayed = other.top(replay, at: stamp, limit: 100, sort: sort, scope: scope).json
        #expect(sums == replayed, sourceLocation: sourceLocation)
      }
      let scope = HeapScope(window: window)
      let difference = HeapDifference(
        from: one.stackSums(nil, at: stamp, scope: scope), named: "a",
        to: other.stackSums(replay, at: stamp, scope: scope), named: "b", by: .stack, limit: 9)
      #expect(
        difference.rows.isEmpty && difference.before == difference.after, sourceLocation: sourceLocation)
    }
    #expect(one.stillBlocks == replay.blocks.sorted, sourceLocation: sourceLocation)
    #expect(one.problems == other.problems && one.blocksUntil == other.blocksUntil, sourceLocation: sourceLocation)
  }

  @Test("sums of a snapshot are those of its blocks, in any window, at its end and after it")
  func sums() throws {
    var random = RandomNumbers()
    for count in [1, 2, 1000] {
      let parts = (0..<3).map { part in
        Self.blocks(count, seed: &random, from: SmallRecording.heap + [1 << 30, 0, 1 << 20][part])
      }
      let small = SmallRecording(snapshot: parts)
      try Self.expectSame(small)
      try Self.expectSame(small, SmallRecording.start + 3_600_000_000_000)
    }
  }

  @Test("times of the future, before all times, and half a wrap away, count as in a replay")
  func times() throws {
    let now = allocs_event_ticks(SmallRecording.start)
    let half: UInt32 = 1 << 30
    let distances: [UInt32] = [0, 1, 64, 3839, 3841, half - 1, half, half + 1, 0 &- 1, 0 &- 3840, 0 &- 4000, 1 << 31]
    for first in distances {
      for second in distances {
        let times = [now &- first, now &- second, now &+ first, now &+ second]
        try Self.expectSame(
          SmallRecording(snapshot: [
            times.enumerated().map { index, ticks in
              Allocation(
                base: UInt64(index) << 20, size: 1 << UInt64(index), context: UInt32(2 + index % 2), ticks: ticks)
            }
          ]))
      }
    }
  }

  @Test("a snapshot of nothing has nothing")
  func empty() throws {
    for chunks in [[], [[]], [[], []]] as [[[Allocation]]] {
      try Self.expectSame(SmallRecording(snapshot: chunks))
      #expect(try SmallRecording(snapshot: chunks).open().summary().endBlocks == 0)
    }
  }

  @Test("of two blocks at one address the later one counts, wherever the file has them")
  func twice() throws {
    func block(_ base: UInt64, _ size: UInt64) -> Allocation {
      Allocation(base: base, size: size, context: 2, ticks: 0)
    }
    let disordered = (0..<10_000).reversed().map { block($0 * 16, 1) }
    for chunks in [
      [[block(64, 1), block(64, 2)]], [[block(64, 1)], [block(64, 2)]],
      [[block(64, 1), block(128, 0)], [block(32, 0), block(64, 2)]], [disordered + [block(64, 2)]],
    ] {
      let recording = try SmallRecording(snapshot: chunks).open()
      #expect(!recording.isStill && recording.stillBlocks == nil)
      let replay = recording.replay(until: .max)
      #expect(replay.blocks[64]?.size == 2)
      let bases = Set(chunks.joined().map(\.base))
      #expect(recording.summary().endBlocks == UInt64(bases.count))
      #expect(try recording.firstBlocks(at: nil).map(\.base) == bases.sorted())
    }
    // Different addresses in any order are no reason to replay.
    try Self.expectSame(SmallRecording(snapshot: [(0..<1000).reversed().map { block($0 * 16, 1) }]))
  }

  @Test("a recording with events is none whose blocks stay")
  func events() throws {
    let recording = try SmallRecording().open()
    #expect(!recording.isStill && recording.stillBlocks == nil && recording.stillSums == nil)
  }

  @Test("a chunk of blocks that contradicts the format is said, and the others count")
  func contradictions() throws {
    let good = Allocation(base: 64, size: 10, context: 2, ticks: 0)
    func payload(_ numbers: [UInt64]) -> [UInt8] { numbers.reduce(into: []) { $0.append(number: $1) } }
    let overlong: [UInt8] = [0, 1] + [UInt8](repeating: 0xFF, count: 10) + [UInt8](repeating: 0, count: 60)
    for bad in [
      payload([0, 2, 0, 1, 0, 2, 0, 9]), payload([0, 1, 0, 1, 0, 1 << 32, 0]), payload([0, 1, 0, 1, 0, 2, 1 << 32]),
      payload([0, .max, 0, 0, 0, 0, 0]), payload([0]), [], overlong,
      payload([0, 1, 0, 1, 0, 2]) + [0x80], payload([0, 1, 0, 1, 0, 2]) + [UInt8](repeating: 0x80, count: 9) + [2],
    ] {
      let small = SmallRecording(snapshot: [[good]])
      small.add(.blocks, bad)
      small.add(.blocks, TableCoding.encode([Allocation(base: 640, size: 5, context: 3, ticks: 0)], until: 7))
      let recording = try small.open()
      #expect(recording.problems.isEmpty, "blocks are not read yet")
      let summary = recording.summary()
      #expect(summary.endBytes == 15 && summary.endBlocks == 2, "\(bad)")
      #expect(recording.problems == ["a chunk of blocks contradicts the format"], "\(bad)")
      #expect(recording.replay(until: .max).bytes == 15)
      #expect(recording.problems.count == 1, "it is said once")
    }
  }

  @Test("a snapshot with any byte changed, or cut anywhere, says so or has all blocks")
  func damaged() throws {
    var random = RandomNumbers()
    let small = SmallRecording(
      snapshot: [
        Self.blocks(3, seed: &random, from: SmallRecording.heap), Self.blocks(3, seed: &random, from: 4096),
      ])
    let whole = try small.open()
    let text = whole.top(whole.isStill ? nil : whole.replay(until: .max), limit: 9).json
    for index in small.bytes.indices {
      var bytes = small.bytes
      bytes[index] ^= 1 << UInt8(index % 8)
      for bytes in [bytes, Array(small.bytes[..<index])] {
        guard let recording = try? small.open(bytes) else { continue }
        let replay = recording.isStill ? nil : recording.replay(until: .max)
        let told = recording.top(replay, limit: 9).json
        #expect(!recording.problems.isEmpty || told == text, "byte \(index)")
      }
    }
  }

  @Test("of a snapshot with any byte changed, or cut anywhere, what was ever allocated is as it was, or not known")
  func damagedTotals() throws {
    var totals = RecordedTotals(nanoseconds: 5_000_000_000, withoutContext: 1)
    totals.rows = [(2, SiteTable.Total(bytes: 99_000, blocks: 990)), (3, SiteTable.Total(bytes: 4096, blocks: 8))]
    let block = Allocation(base: SmallRecording.heap, size: 1000, context: 2, ticks: 0)
    let small = SmallRecording(snapshot: [[block]], totals: totals)
    var scope = HeapScope()
    scope.wantsTotals = true
    let text = try small.open().top(nil, limit: 9, sort: .rate, scope: scope).json
    #expect(text.contains("\"total_seconds\":5") && text.contains("\"freed_blocks\":989"), "\(text)")
    for index in small.bytes.indices {
      var bytes = small.bytes
      bytes[index] ^= 1 << UInt8(index % 8)
      for bytes in [bytes, Array(small.bytes[..<index])] {
        guard let recording = try? small.open(bytes) else { continue }
        let told = recording.top(recording.isStill ? nil : recording.replay(until: .max), limit: 9, scope: scope).json
        let isKnown = told.contains("\"total_seconds\"")
        #expect(recording.problems.isEmpty ? isKnown : !isKnown, "byte \(index) of \(bytes.count): \(told)")
        #expect((recording.totalsObstacle(scope) == nil) == isKnown, "byte \(index)")
        #expect(recording.stackSums(nil, scope: scope).hasTotals == isKnown, "byte \(index)")
      }
    }
  }

  @Test("a snapshot's totals are of chunks alone, where pools carve them up, and count until the process's end")
  func madeTotals() throws {
    let began = seconds(of: CLOCK_MONOTONIC)
    let segment = SyntheticSegment()
    segment.addAllocator(module: 0)
    let pool = segment.addAllocator(module: 0, kind: ALLOCS_ALLOCATOR_SUBALLOCATOR, name: "apr")
    let thread = segment.addThread(id: 7, name: "worker", from: 1)
    let node = segment.addNode(pc: 0x5555_0000_1000)
    let chunks = segment.addContext(node: node, thread: thread)
    let blocks = segment.addContext(node: segment.addNode(pc: 0x5555_0000_2000), thread: thread, allocator: pool)
    segment.allocate(0x7000_0000_0000, size: 4096, context: chunks)
    segment.suballocate(0x7000_0000_0000, size: 16, context: blocks)
    segment.setTotal(ofContext: chunks, bytes: 8192, blocks: 2)
    segment.setTotal(ofContext: blocks, bytes: 16_000, blocks: 1000)
    // Whoever sees that a process has ended takes the right to write away.
    #expect(chmod(segment.path, 0o400) == 0)
    let ended = seconds(of: CLOCK_MONOTONIC) - began
    // More than the clocks may differ by: what came after the end would be seen.
    letRun(microseconds: 300_000)
    let recording = try Recording(snapshot: Snapshot.take(ProcessView(file: segment.path)).bytes, path: "now")
    let totals = try #require(recording.totals)
    #expect(totals.rows.map(\.total) == [SiteTable.Total(bytes: 8192, blocks: 2)])
    // The difference of two clocks is told no better than to some milliseconds.
    #expect(Double(totals.nanoseconds) / 1e9 < ended + 0.15)
    let view = try ProcessView(file: segment.path)
    var scope = HeapScope()
    scope.wantsTotals = true
    let table = try view.top(scope: scope).json
    #expect(table.contains("\"allocated_blocks\":2,"), "\(table)")
  }

  @Test("a snapshot that would take more memory than a question may have ends in an error, and not with a part")
  func tooLarge() throws {
    let segment = SyntheticSegment()
    let node = segment.addNode(pc: 0x5555_0000_1000)
    let context = segment.addContext(node: node, thread: segment.addThread(id: 7, name: "worker", from: 1))
    var random = RandomNumbers()
    let count = 300_000
    for index in 0..<count {
      segment.allocate(
        0x7000_0000_0000 + UInt64(index) * 64, size: UInt64.random(in: 0...50_000, using: &random), context: context)
    }
    let view = try ProcessView(file: segment.path)
    let enough = Budget(seconds: 1e6, bytes: 1 << 30)
    let (bytes, whole) = try enough.run { () throws(Complaint) in try Snapshot.take(view) }
    #expect(whole.blocks == UInt64(count) && whole.bytes > 1 << 19)
    #expect {
      try Budget(seconds: 1e6, bytes: 1 << 19).run { () throws(Complaint) in _ = try Snapshot.take(view) }
    } throws: {
      ($0 as? Complaint)?.code == ENOMEM
    }
    // What somebody else made must be whole.
    let read = try Snapshot.check(bytes, of: "it")
    #expect(read.blocks == whole.blocks && read.bytes == whole.bytes && read.lost == whole.lost)
    let damaged = bytes.enumerated().map { $0.offset == bytes.count / 2 ? ~$0.element : $0.element }
    for wrong in [[], Array(bytes.dropLast(100)), damaged, Array(bytes.prefix(40))] {
      #expect(throws: Complaint.self) { try Snapshot.check(wrong, of: "it") }
    }
  }

  @Test("a stack without end takes no more memory of a snapshot than a question may have")
  func endlessStack() throws {
    var capacities = SyntheticSegment.Capacities()
    capacities.nodes = 300_010
    let segment = SyntheticSegment(capacities: capacities)
    let thread = segment.addThread(id: 7, name: "worker", from: 1)
    var node = segment.addNode(pc: 0x5555_0000_1000)
    segment.allocate(0x7000_0000_0000, size: 64, context: segment.addContext(node: node, thread: thread))
    let view = try ProcessView(file: segment.path)
    func take() throws {
      try Budget(seconds: 1e6, bytes: 44 << 20).run { () throws(Complaint) in _ = try Snapshot.take(view) }
    }
    try take()
    for index in 1...300_000 as ClosedRange<UInt64> {
      node = segment.addNode(pc: 0x5555_0000_1000 + index * 16, parent: node)
    }
    segment.allocate(0x7000_0000_1000, size: 64, context: segment.addContext(node: node, thread: thread))
    #expect {
      try take()
    } throws: {
      ($0 as? Complaint)?.code == ENOMEM
    }
  }

  @Test("a snapshot of a group has the blocks of that group alone; of one that has none, there is no snapshot")
  func groups() throws {
    let segment = SyntheticSegment()
    let context = segment.addContext(
      node: segment.addNode(pc: 0x5555_0000_1000), thread: segment.addThread(id: 7, name: "worker", from: 1))
    for index in 0..<100 as Range<UInt64> {
      segment.allocate(0x7000_0000_0000 + index * 4096, size: index < 30 ? 16 : 1000, context: context)
    }
    let view = try ProcessView(file: segment.path)
    // By powers of two, of which two are taken here.
    let found = try (0..<48).compactMap { key -> [UInt64]? in
      do {
        let bytes = try Snapshot.take(view, group: GroupName(.size, "\(key)")).bytes
        return try Recording(snapshot: bytes, path: "\(key)").firstBlocks(at: nil).map(\.size)
      } catch let complaint as Complaint where complaint.kind == .noSuchGroup {
        return nil
      }
    }
    #expect(found == [Array(repeating: 16, count: 30), Array(repeating: 1000, count: 70)])
    for group in [GroupName(.size, "60"), GroupName(.function, "nobody")] {
      #expect {
        _ = try Snapshot.take(view, group: group)
      } throws: {
        ($0 as? Complaint)?.kind == .noSuchGroup
      }
    }
  }

  @Test("many numbers at once are read as one at a time, malformed ones too")
  func numbers() {
    var random = RandomNumbers()
    for _ in 0..<3000 {
      var bytes: [UInt8] = []
      for _ in 0..<Int.random(in: 1...20, using: &random) {
        let bits = UInt64.random(in: 0...63, using: &random)
        bytes.append(number: UInt64.random(in: 0 ... .max, using: &random) >> bits)
      }
      if Bool.random(using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] |= 0x80
        if Bool.random(using: &random) { bytes += [UInt8](repeating: 0xFF, count: 12) }
      }
      var slow = NumberReader(bytes)
      bytes.withUnsafeBufferPointer { buffer in
        var fast = FastNumbers(buffer, from: 0)
        while true {
          let number = fast.next(fast.hasRoom(for: 1))
          guard let expected = try? slow.number() else {
            #expect(fast.isMalformed && number == 0)
            #expect(fast.next(fast.hasRoom(for: 1)) == 0 || fast.isMalformed)
            break
          }
          #expect(number == expected && !fast.isMalformed)
        }
      }
    }
  }
}
