// SPDX-License-Identifier: Apache-2.0
// A recording that is made up, chunk by chunk.

import CZstd
import Glibc
import IndexReader
import SharedLayout
import Symbols
import TestSupport
import Testing

@testable import Recording

/// A recording of two call stacks and three blocks, in a file of its own.
final class SmallRecording {
  typealias MadeEvent = (
    kind: Event.Kind, offset: UInt64, size: UInt64, context: UInt32, milliseconds: UInt64
  )
  static let start: UInt64 = 1_000_000_000_000
  static let heap: UInt64 = 0x5555_0000_0000
  let path = unusedPath("recording")
  private(set) var bytes = RecordingFormat.fileHeader
  /// Where chunks begin, and where the last one ends.
  private(set) var offsets = [RecordingFormat.headerSize]
  private(set) var eventChunks: [Int] = []
  private(set) var events: UInt64 = 0

  deinit { unlink(path) }

  /// The small recording; with `names`, with these texts wherever a recording has any; with `snapshot`, a snapshot of
  /// these blocks, a chunk of each list, and with these totals.
  init(names: ForeignText? = nil, snapshot: [[Allocation]]? = nil, totals: RecordedTotals? = nil) {
    add(
      .process,
      RecordedProcess(
        processID: 4242, startTime: 7, command: names.map { ["/bin/\($0)", $0] } ?? ["/bin/program", "one"],
        monotonic: Self.start,
        realtime: 1_700_000_000_000_000_000, hasFullStacks: true, isFromStart: false
      ).encoded())
    add(
      .modules,
      TableCoding.encode([
        Module(
          index: 0, path: names.map { "/nowhere/\($0)" } ?? "/nowhere/program", buildID: [1, 2, 3], start: 0x4000_0000,
          end: 0x4001_0000,
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
          RecordedContext(node: node, threadSlot: 1, function: names ?? "malloc", allocator: names)
        }, from: 2))
    for blocks in snapshot ?? [[Allocation(base: Self.heap, size: 1000, context: 2, ticks: 0)]] {
      add(.blocks, TableCoding.encode(blocks, until: Self.start + 1000))
    }
    if let totals { add(.totals, TableCoding.encode(totals.rows[...], of: totals)) }
    if let names {
      add(
        .threads,
        TableCoding.encode([
          ThreadIdentity(
            id: 77, name: names, slot: 1, state: .live, startTicks: 0, endTicks: nil, stack: nil, allocations: 0,
            frees: 0)
        ]))
    }
    if snapshot == nil {
      add(events: [(.alloc, 0x1000, 100, 3, 10), (.free, 0x1000, 100, 0, 20), (.alloc, 0x2000, 500, 3, 30)])
      add(events: [(.free, 0, 1000, 0, 40), (.alloc, 0x3000, 24, 2, 50)])
    }
    add(
      .names,
      TableCoding.encode(
        [(0x100, "main"), (0x200, "first"), (0x300, "second")].map { offset, name in
          (
            NameKey(pc: 0x4000_0000 + offset, isExact: false, module: 0),
            [
              Frame(
                pc: 0x4000_0000 + offset, module: nil, function: names ?? name, file: names, line: nil, inlined: false)
            ]
          )
        }))
    var end: [UInt8] = []
    let why = snapshot == nil ? RecordingEnd.stopped : .snapshot
    for value in [why.rawValue, Self.start + 100_000_000, events, 0] { end.append(number: value) }
    add(.end, end)
  }

  /// Milliseconds after the start; for a free, the size is the block's, and its context that of the first stack.
  func add(events list: [MadeEvent]) {
    add(
      batches: [
        (
          0,
          list.map { event in
            allocs_event(
              place: allocs_event_place(event.kind.rawValue, Self.heap + event.offset, 0),
              extent: allocs_event_extent(event.size, 1), source: allocs_event_source(event.context, 0),
              stamp: Self.start + event.milliseconds * 1_000_000)
          }
        )
      ])
  }

  /// Adds a chunk of records as they were read, ring by ring.
  func add(batches: [(ring: Int, records: [allocs_event])]) {
    var encoder = EventEncoder()
    for batch in batches {
      batch.records.withUnsafeBufferPointer { _ = encoder.add($0, ring: batch.ring, first: events) }
    }
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
    header.events = UInt32(encoder.count)
    (header.firstStamp, header.lastStamp) = (encoder.firstStamp, encoder.lastStamp)
    eventChunks.append(offsets.count - 1)
    add(header, encoder.take())
    events += UInt64(header.events)
  }

  func add(_ effect: NetEffect) {
    var header = ChunkHeader(kind: RecordingFormat.ChunkKind.netEffect.rawValue)
    (header.firstStamp, header.lastStamp) = (effect.from, effect.until)
    add(header, effect.encoded())
  }

  /// Adds a chunk; with `packed`, as a frame of zstd, which may be a thousandth of the payload.
  func add(_ kind: RecordingFormat.ChunkKind, _ payload: [UInt8], packed: Bool = false) {
    var header = ChunkHeader(kind: kind.rawValue)
    if packed { header.flags = RecordingFormat.flagZstd }
    add(header, payload)
  }

  func add(_ header: ChunkHeader, _ payload: [UInt8]) {
    var header = header
    var stored = payload
    if header.flags & RecordingFormat.flagZstd != 0 {
      stored = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(payload.count)) { buffer, count in
        count = ZSTD_compress(buffer.baseAddress, buffer.count, payload, payload.count, 1)
      }
    }
    header.unpacked = UInt32(payload.count)
    header.number = UInt32(offsets.count - 1)
    header.eventsBefore = events
    bytes += header.chunk(of: stored)
    offsets.append(bytes.count)
  }

  func open(_ bytes: [UInt8]? = nil, memoryLimit: Int = Recording.memoryLimit) throws -> Recording {
    let bytes = bytes ?? self.bytes
    let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    try #require(
      descriptor >= 0 && bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) } == bytes.count)
    close(descriptor)
    return try Recording(path: path, memoryLimit: memoryLimit)
  }
}

extension Recording {
  /// What `forEachFirstBlock` gives.
  func firstBlocks(at moment: ExportedMoment?) throws -> [ReplayedBlock] {
    var blocks: [ReplayedBlock] = []
    try forEachFirstBlock(at: moment) { blocks.append($0) }
    return blocks
  }
}
