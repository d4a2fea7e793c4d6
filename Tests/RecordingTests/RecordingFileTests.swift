// SPDX-License-Identifier: Apache-2.0
// Whole recordings that are made up: cut, damaged and contradictory ones, and what is exported from them.

import Answers
import CPerfetto
import Glibc
import IndexReader
import SharedLayout
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Recording

/// All bytes of a file, which is removed.
private func take(_ path: String) throws -> [UInt8] {
  defer { unlink(path) }
  return try read(path)
}

/// All bytes of a file, a megabyte at most.
private func read(_ path: String) throws -> [UInt8] {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  try #require(descriptor >= 0, "\(path)")
  defer { close(descriptor) }
  return [UInt8](unsafeUninitializedCapacity: 1 << 20) { buffer, count in
    count = max(0, Glibc.read(descriptor, buffer.baseAddress, buffer.count))
  }
}

@Suite("files of recordings", .bounded)
struct RecordingFileTests {
  @Test("what was recorded is replayed at any moment, and at the peak")
  func replay() throws {
    let recording = try SmallRecording().open()
    #expect(recording.problems.isEmpty && recording.eventCount == 5 && recording.end == .stopped)
    let states: [(UInt64, UInt64, Int)] = [
      (0, 1000, 1), (15, 1100, 2), (25, 1000, 1), (35, 1500, 2), (45, 500, 1), (99, 524, 2),
    ]
    for (milliseconds, bytes, blocks) in states {
      let replay = recording.replay(until: SmallRecording.start + milliseconds * 1_000_000)
      #expect(replay.bytes == bytes && replay.blocks.count == blocks, "after \(milliseconds) ms")
    }
    let summary = recording.summary()
    #expect(summary.peakBytes == 1500 && summary.peakStamp == SmallRecording.start + 30_000_000)
  }

  @Test("a recording that is cut at any byte has all chunks that are whole before the cut")
  func cut() throws {
    let small = SmallRecording()
    for length in 0..<small.bytes.count {
      let kept = small.offsets.filter { $0 <= length }.count - 1
      // The first chunk says which process was recorded.
      guard kept > 0 else {
        #expect(throws: Complaint.self) { _ = try small.open(Array(small.bytes[..<length])) }
        continue
      }
      let recording = try small.open(Array(small.bytes[..<length]))
      #expect(recording.end == nil && !recording.problems.isEmpty, "cut at \(length)")
      let whole = small.eventChunks.prefix { $0 < kept }
      #expect(recording.eventCount == [0, 3, 5][whole.count], "cut at \(length)")
      var events: UInt64 = 0
      recording.forEachEvent { _ in
        events += 1
        return true
      }
      #expect(events == recording.eventCount)
    }
  }

  @Test("a flipped bit is noticed, and costs its chunk only")
  func flipped() throws {
    let small = SmallRecording()
    for offset in small.bytes.indices {
      var bytes = small.bytes
      bytes[offset] ^= UInt8(1 << (offset % 8))
      let chunk = small.offsets.lastIndex { $0 <= offset } ?? -1
      guard chunk > 0 else {
        #expect(throws: Complaint.self, "offset \(offset)") { _ = try small.open(bytes) }
        continue
      }
      let recording = try small.open(bytes)
      #expect(!recording.problems.isEmpty, "offset \(offset)")
      let missing = small.eventChunks.firstIndex(of: chunk).map { [3, 2][$0] } ?? 0
      #expect(recording.eventCount == 5 - UInt64(missing) && recording.lostCount == UInt64(missing), "offset \(offset)")
    }
  }

  @Test("blocks whose beginning or end is missing don't make a replay fail")
  func contradictions() throws {
    let small = SmallRecording()
    small.add(events: [(.free, 0x9000, 64, 0, 110), (.alloc, 0x3000, 48, 2, 120), (.reallocNew, 0xA000, 0, 99, 130)])
    let recording = try small.open()
    let summary = recording.summary()
    // 0x3000 began twice: the second counts.
    #expect(summary.unknownEnds == 1 && summary.endBytes == 500 + 48 && summary.endBlocks == 3)
    #expect(AddressHistory(of: SmallRecording.heap + 0x3010, in: recording).entries.map(\.event.size) == [48, 24])
  }

  @Test("a window of time may begin at a mark, or at a moment of the recording's own; what it does not have is refused")
  func moments() throws {
    let small = SmallRecording()
    func stamp(_ milliseconds: UInt64) -> UInt64 { SmallRecording.start + milliseconds * 1_000_000 }
    let marks = [
      RecordedMark(name: "early", stamp: stamp(0)), RecordedMark(name: "late", stamp: stamp(40)),
      RecordedMark(name: "\u{1B}[2J", stamp: stamp(60)), RecordedMark(name: "past", stamp: .max),
      RecordedMark(name: "before", stamp: 0),
    ]
    small.add(.marks, TableCoding.encode(marks))
    let recording = try small.open()
    #expect(recording.marks == marks && recording.problems.isEmpty)
    func placed(_ since: Moment?, _ until: Moment? = nil) throws(Complaint) -> TimeWindow {
      try recording.placed(TimeWindow(since: since, until: until), at: recording.endStamp)
    }
    func time(_ milliseconds: UInt64) -> Moment { .time(recording.wallTime(of: stamp(milliseconds))) }
    func isNear(_ a: Moment?, _ b: Moment) -> Bool {
      guard case .time(let a)? = a, case .time(let b) = b else { return false }
      return abs(a - b) < 1e-5
    }
    #expect(isNear(try placed(.recorded(0.03)).since, time(30)))
    #expect(isNear(try placed(.mark("late")).since, time(40)))
    #expect(isNear(try placed(.mark("peak")).since, time(30)), "500 bytes more live from then on")
    #expect(try placed(.ago(5)).since == .ago(5) && placed(nil).isAll)
    #expect(isNear(try placed(.mark("early"), .mark("late")).until, time(40)))
    for (since, until, words) in [
      (.time(2), nil, "@2.5s, with its unit"), (.recorded(0.2), nil, "behind the end"),
      (.recorded(1e9), nil, "behind the end"),
      (.mark("never"), nil, "early, late"), (.mark("late"), .mark("early"), "ends before it begins"),
      (nil, .time(-1e300), "@2.5s, with its unit"),
    ] as [(Moment?, Moment?, String)] {
      do throws(Complaint) {
        _ = try placed(since, until)
        Issue.record("\(words): taken")
      } catch {
        #expect(error.kind == .usage && error.description.contains(words), "\(error)")
        #expect(!error.description.utf8.contains(0x1B))
      }
    }
    // The table and the tree of a moment list them all, as of the moment.
    let moment = stamp(40)
    let replay = recording.replay(until: moment)
    let table = recording.top(replay, at: moment, limit: 5)
    let tree = CallTree(of: recording.stackSums(replay, at: moment), isInverted: false, limit: 5)
    for (text, json) in [(table.text, table.json), (tree.text, tree.json)] {
      #expect(text.contains(" ago, early 40 ms ago, late 0 ms ago,") && text.contains("[2J 20 ms later"), "\(text)")
      #expect(!text.utf8.contains(0x1B) && text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
      let (early, late) = (#"{"name":"early","age_seconds":0.04}"#, #"{"name":"late","age_seconds":0}"#)
      #expect(
        json.contains(#",\#(early),\#(late),{"name":"\u001b[2J","age_seconds":-0.02},{"name":"past","#), "\(json)")
    }
    // Marks whose stamps no process has had name some moment, and no block is told that was not there.
    for name in ["past", "before"] {
      for window in [TimeWindow(since: .mark(name)), TimeWindow(until: .mark(name))] {
        guard let placed = try? recording.placed(window, at: recording.endStamp) else { continue }
        let scope = HeapScope(window: placed)
        #expect(recording.stackSums(recording.replay(until: .max), scope: scope).total.blocks <= 2)
      }
    }
    let none = try SmallRecording().open()
    #expect(!none.top(none.replay(until: .max), limit: 5).json.contains("marks"))
    #expect(throws: Complaint.self) { try none.placed(TimeWindow(since: .mark("early")), at: none.endStamp) }
    // A list that is cut, or longer than it says.
    for payload in [[5], [1, 3, 0x61], [0xFF, 0xFF, 0xFF, 0xFF, 0x0F]] as [[UInt8]] {
      let broken = SmallRecording()
      broken.add(.marks, payload)
      let read = try broken.open()
      #expect(read.marks.isEmpty && read.problems.count == 1, "\(payload): \(read.problems)")
    }
  }

  @Test("an export of a moment has the blocks of a window alone")
  func windows() throws {
    let small = SmallRecording()
    let recording = try small.open()
    let end = recording.endStamp
    let all = try recording.firstBlocks(at: ExportedMoment(stamp: end))
    #expect(all == recording.replay(until: end).blocks.sorted && all.count == 2)
    let window = TimeWindow(since: .ago(3600))
    #expect(try recording.firstBlocks(at: ExportedMoment(stamp: end, window: window)) == all)
    // 0x2000 was made 70 ms before the end, 0x3000 50 ms; a tick has 16.
    let early = try recording.firstBlocks(at: ExportedMoment(stamp: end, window: TimeWindow(until: .ago(0.05))))
    #expect(early.map { $0.base - SmallRecording.heap } == [0x2000])
    let none = TimeWindow(since: .ago(0))
    #expect(try recording.firstBlocks(at: ExportedMoment(stamp: end, window: none)).isEmpty)
  }

  @Test("each format can be written, and is described in the command's help and in docs/recording.md")
  func formats() throws {
    let small = SmallRecording()
    let recording = try small.open()
    let page = #filePath.replacing("Tests/RecordingTests/RecordingFileTests.swift", with: "docs/recording.md")
    let description = String(decoding: try read(page), as: UTF8.self)
    for format in ExportFormat.allCases {
      let output = "\(small.path).\(format.rawValue)"
      try recording.export(format, to: output)
      #expect(try !take(output).isEmpty, "\(format)")
      #expect(description.contains("- **\(format.rawValue)**: "), "\(format)")
      #expect(ExportFormat.list.contains(format.rawValue) && !format.purpose.isEmpty)
    }
    #expect(ExportFormat.list.contains(", ") && ExportFormat.list.contains(" or "))
  }

  @Test("Perfetto's trace has the sums of every call stack, whose names were interned before they are used")
  func perfetto() throws {
    let small = SmallRecording()
    let recording = try small.open()
    let output = small.path + ".pftrace"
    try recording.export(.perfetto, to: output)
    let bytes = try take(output)
    let trace = try #require(perfetto__trace__unpack(nil, bytes.count, bytes))
    defer { perfetto__trace__free_unpacked(trace, nil) }
    var names: [UInt64: String] = [:]
    var frames: [UInt64: UInt64] = [:]
    var stacks: [UInt64: [UInt64]] = [:]
    var dumps: [[[String]: [UInt64]]] = []
    for index in 0..<trace.pointee.n_packet {
      let packet = try #require(trace.pointee.packet[index]).pointee
      #expect(packet.timestamp >= SmallRecording.start && packet.timestamp_clock_id == 3)
      if let data = packet.interned_data?.pointee {
        for index in 0..<data.n_function_names {
          let name = data.function_names[index]!.pointee
          names[name.iid] = String(
            decoding: UnsafeBufferPointer(start: name.str.data, count: name.str.len), as: UTF8.self)
        }
        for index in 0..<data.n_frames {
          frames[data.frames[index]!.pointee.iid] = data.frames[index]!.pointee.function_name_id
        }
        for index in 0..<data.n_callstacks {
          let stack = data.callstacks[index]!.pointee
          stacks[stack.iid] = Array(UnsafeBufferPointer(start: stack.frame_ids, count: stack.n_frame_ids))
        }
      }
      guard let profile = packet.profile_packet?.pointee else { continue }
      try #require(profile.n_process_dumps == 1)
      let dump = profile.process_dumps[0]!.pointee
      #expect(dump.pid == 4242 && dump.buffer_overran == 0)
      var sums: [[String]: [UInt64]] = [:]
      for index in 0..<dump.n_samples {
        let sample = dump.samples[index]!.pointee
        let stack = try #require(stacks[sample.callstack_id])
        sums[stack.map { names[frames[$0] ?? 0] ?? "" }] = [
          sample.self_allocated, sample.self_freed, sample.alloc_count, sample.free_count,
        ]
      }
      dumps.append(sums)
    }
    #expect(dumps.last == [["main", "first"]: [1024, 1000, 2, 1], ["main", "second"]: [600, 100, 2, 1]])
    #expect(dumps.first == [["main", "first"]: [1000, 0, 1, 0]])
    #expect(dumps.count > 5)
  }
}
