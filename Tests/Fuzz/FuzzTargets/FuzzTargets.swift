// SPDX-License-Identifier: Apache-2.0
// The targets of the fuzzers, each a function of bytes, for a fuzzer that searches and for a test that replays.
//
// A target returns normally whatever the bytes: an error that is thrown is one of the answers. A failure is a crash,
// a hang, a read outside the mapping, or memory without bound.

import Answers
import Glibc
import IndexReader
import Symbols

public enum FuzzTarget: String, CaseIterable, Sendable {
  /// The reader of segments: header, tables, slots, a file that changes while it is mapped.
  case segment
  /// The answers made from one: stacks, names, tables, text and JSON.
  case answers
  /// The reader of event rings.
  case rings
  /// Rings that are made from the bytes, read while they change.
  case madeRings = "made-rings"
  /// Segments that are made from the bytes: chains, slots, regions, with hostile numbers.
  case madeSegments = "made-segments"
  /// Symbol tables and debug information of damaged ELF files.
  case symbols
  /// Debug information that is made up: sound, with what no compiler writes.
  case dwarf
  /// Records of a jitdump file, whose file grows.
  case jitdump
  /// Recordings whose checksums are right and whose contents are anything.
  case recording

  /// Runs the target once.
  public func run(_ bytes: ArraySlice<UInt8>) {
    switch self {
    case .segment: SegmentFuzz.run(bytes)
    case .answers: AnswersFuzz.run(bytes)
    case .rings: RingsFuzz.run(bytes)
    case .madeRings: MadeRings.run(bytes)
    case .madeSegments: MadeSegments.run(bytes)
    case .symbols: SymbolsFuzz.run(bytes)
    case .dwarf: DWARFFuzz.run(bytes)
    case .jitdump: JitDumpFuzz.run(bytes)
    case .recording: RecordingFuzz.run(bytes)
    }
  }
}

/// One stage for the whole process; a fuzzer runs one script at a time.
nonisolated(unsafe) let stage: Stage = {
  let stage = Stage()
  stage.save()
  return stage
}()

private let addresses: [UInt64] = [
  0, Stage.heap - 1, Stage.heap, Stage.heap + 0x81, Stage.heap + 0x8010, Stage.heap + 0x3FF_FFFF,
  Stage.heap + 0x4000_0000, 1 << 46, .max,
]

enum SegmentFuzz {
  static func run(_ script: ArraySlice<UInt8>) {
    stage.run(script) { path, whileOpen in
      guard let segment = try? Segment(path: path) else { return }
      ask(segment)
      whileOpen()
      ask(segment)
      try? segment.checkIntact()
    }
  }

  private static func ask(_ segment: borrowing Segment) {
    for address in addresses {
      let found = segment.lookup(address)
      if let allocation = found.containing, let context = segment.context(allocation.context) {
        _ = segment.stack(ofNode: context.node)
        if let slot = context.threadSlot { _ = segment.thread(slot: slot, at: allocation.ticks) }
      }
      _ = segment.wasUsed(address)
      _ = segment.module(containing: address, at: 2)
    }
    for id: UInt32 in [0, 1, 7, 8, 9, 255, 256, 1023, 0xFF_FFFF, .max] {
      _ = segment.context(id)
      _ = segment.stack(ofNode: id)
      _ = segment.thread(slot: id, at: 1)
    }
    _ = segment.totals()
    segment.forEachTotal { context, _ in _ = segment.total(ofContext: context) }
    _ = (segment.threads, segment.formerThreads, segment.modules, segment.counters, segment.command, segment.state)
    _ = (segment.age(ofTicks: 0), segment.clock().wallTime(ofTicks: 1))
  }
}

enum AnswersFuzz {
  static func run(_ script: ArraySlice<UInt8>) {
    stage.run(script) { path, whileOpen in
      guard let view = try? ProcessView(file: path) else { return }
      ask(view)
      whileOpen()
      ask(view)
      try? view.checkIntact()
    }
  }

  private static func ask(_ view: ProcessView) {
    _ = try? view.text(of: addresses)
    var writer = ByteWriter()
    _ = try? view.appendJSON(of: addresses, to: &writer)
    _ = try? view.top(limit: 5)
    _ = try? view.addressMap(cells: 256).json
    _ = try? view.addressMap(in: 0x1000...1 << 46, cells: 256).text
  }
}
