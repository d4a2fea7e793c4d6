// SPDX-License-Identifier: Apache-2.0
// Whole recordings that are made up: cut, damaged and contradictory ones, and what is exported from them.

import CPerfetto
import Glibc
import IndexReader
import SharedLayout
import Symbols
import SystemAccess
import TestSupport
import Testing

@testable import Recording

/// A recording of two call stacks and three blocks, in a file of its own.
private final class SmallRecording {
  static let start: UInt64 = 1_000_000_000_000
  static let heap: UInt64 = 0x5555_0000_0000
  let path = unusedPath("recording")
  private(set) var bytes = RecordingFormat.fileHeader
  /// Where chunks begin, and where the last one ends.
  private(set) var offsets = [RecordingFormat.headerSize]
  private(set) var eventChunks: [Int] = []
  private var events: UInt64 = 0

  deinit { unlink(path) }

  init() {
    add(
      .process,
      RecordedProcess(
        processID: 4242, startTime: 7, command: ["/bin/program", "one"], monotonic: Self.start,
        realtime: 1_700_000_000_000_000_000, hasFullStacks: true, isFromStart: false
      ).encoded())
    add(
      .modules,
      TableCoding.encode([
        Module(
          index: 0, path: "/nowhere/program", buildID: [1, 2, 3], start: 0x4000_0000, end: 0x4001_0000,
          bias: 0x4000_0000,
          loadTicks: 0, unloadTicks: nil, isMain: true, isAgent: false)
      ]))
    add(
      .nodes,
      TableCoding.encode(
        [
          StackNode(pc: 0x4000_0100, parent: 0), StackNode(pc: 0x4000_0200, parent: 1),
          StackNode(pc: 0x4000_0300, parent: 1),
        ], from: 1))
    add(
      .contexts,
      TableCoding.encode(
        [2, 3].map { node in
          RecordedContext(node: node, threadSlot: 1, function: "malloc", allocator: nil)
        }, from: 2))
    add(
      .blocks,
      TableCoding.encode(
        [Allocation(base: Self.heap, size: 1000, context: 2, ticks: 0)], until: Self.start + 1000))
    add(events: [(.alloc, 0x1000, 100, 3, 10), (.free, 0x1000, 100, 0, 20), (.alloc, 0x2000, 500, 3, 30)])
    add(events: [(.free, 0, 1000, 0, 40), (.alloc, 0x3000, 24, 2, 50)])
    add(
      .names,
      TableCoding.encode(
        [(0x100, "main"), (0x200, "first"), (0x300, "second")].map { offset, name in
          (
            NameKey(pc: 0x4000_0000 + offset, isExact: false, module: 0),
            [Frame(pc: 0x4000_0000 + offset, module: nil, function: name, file: nil, line: nil, inlined: false)]
          )
        }))
    var end: [UInt8] = []
    for value in [RecordingEnd.stopped.rawValue, Self.start + 100_000_000, 5, 0] { end.append(number: value) }
    add(.end, end)
  }

  /// Milliseconds after the start; for a free, the size is the block's, and its context that of the first stack.
  func add(events list: [(kind: Event.Kind, offset: UInt64, size: UInt64, context: UInt32, milliseconds: UInt64)]) {
    var encoder = EventEncoder()
    let records = list.map { event in
      allocs_event(
        place: allocs_event_place(event.kind.rawValue, Self.heap + event.offset, 0),
        extent: allocs_event_extent(event.size, 1), source: allocs_event_source(event.context, 0),
        stamp: Self.start + event.milliseconds * 1_000_000)
    }
    records.withUnsafeBufferPointer { _ = encoder.add($0, ring: 0, first: events) }
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    header.events = UInt32(records.count)
    (header.firstStamp, header.lastStamp) = (encoder.firstStamp, encoder.lastStamp)
    eventChunks.append(offsets.count - 1)
    add(header, encoder.take())
    events += UInt64(records.count)
  }

  private func add(_ kind: RecordingFormat.ChunkKind, _ payload: [UInt8]) {
    add(ChunkHeader(kind: kind.rawValue), payload)
  }

  private func add(_ header: ChunkHeader, _ payload: [UInt8]) {
    var header = header
    header.unpacked = UInt32(payload.count)
    header.number = UInt32(offsets.count - 1)
    header.eventsBefore = events
    bytes += header.chunk(of: payload)
    offsets.append(bytes.count)
  }

  func open(_ bytes: [UInt8]? = nil) throws -> Recording {
    let bytes = bytes ?? self.bytes
    let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    try #require(
      descriptor >= 0 && bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) } == bytes.count)
    close(descriptor)
    return try Recording(path: path)
  }
}

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
