// SPDX-License-Identifier: Apache-2.0
// A recording as a file of heaptrack, for heaptrack_print and heaptrack_gui: version 3 of
// heaptrack's text format, as heaptrack_interpret 1.4 writes it and
// src/analyze/accumulatedtracedata.cpp of heaptrack reads it. All numbers are hexadecimal.
//
//   v 10400 3           the version            i PC MODULE [FUNCTION FILE LINE]…   an address
//   X COMMAND           the command            t IP PARENT      a call stack
//   I PAGESIZE PAGES    the machine            a SIZE TRACE     a kind of block
//   s LENGTH STRING     a string               + A   - A        a block of a kind begins, ends
//                                              c MILLISECONDS   the time
//
// Indices begin with 1, in the order of the lines. Blocks that lived before the recording are
// allocated at its time 0.

import Answers
import ByteText
import IndexReader
import Provenance
import Symbols
import SystemAccess

/// Writes the lines.
struct HeaptrackFile: BlockRenderer {
  private let recording: Recording
  private let moment: ExportedMoment?
  private let output: any ExportSink
  /// Bytes of whole lines that are not written yet.
  private var pending: [UInt8] = []
  /// Indices of the lines that were written, by their contents.
  private var strings: [ForeignText: Int] = [:]
  private var addresses: [NameKey: Int] = [:]
  private struct Trace: Hashable {
    var address: Int
    var parent: Int
  }
  private var traces: [Trace: Int] = [:]
  /// The traces of nodes of the trie.
  private var nodes: [UInt32: Int] = [:]
  private struct Kind: Hashable {
    var size: UInt64
    var trace: Int
  }
  private var kinds: [Kind: Int] = [:]
  /// The memory of the tables above.
  private let share = MemoryShare()
  private var lastMilliseconds: UInt64 = 0

  /// So many bytes are collected before they are written.
  private static let bufferBytes = 1 << 20

  /// `wrappers` say nothing here: stacks are told whole.
  init(_ recording: Recording, at moment: ExportedMoment?, wrappers _: Wrappers, to output: any ExportSink) {
    self.recording = recording
    self.moment = moment
    self.output = output
  }

  mutating func render() throws(Complaint) {
    line("v 10400 3")
    line("X \(Self.joined(recording.process.command.joined(separator: " ")))")
    line("I 1000 0")
    // A comment, which readers pass over.
    if let words = recording.knownLosses.sentence { line("# \(words)") }
    try tellBlocks(of: recording, at: moment)
    time(moment?.stamp ?? recording.endStamp)
    try output.write(pending)
  }

  mutating func advance(to stamp: UInt64) throws(Complaint) {
    if pending.count > Self.bufferBytes {
      try output.write(pending)
      pending.removeAll(keepingCapacity: true)
    }
    share.hold(kinds.count &* 64 &+ traces.count &* 64 &+ addresses.count &* 80 &+ nodes.count &* 32)
    time(stamp)
  }

  private mutating func line(_ text: String) {
    pending.append(contentsOf: text.originalBytes)
    pending.append(UInt8(ascii: "\n"))
  }

  /// `text` on one line, and without what a terminal would act upon: heaptrack_print writes it
  /// there as it is.
  private static func joined(_ text: ForeignText) -> String {
    let words = text.unescaped.split(whereSeparator: \.isNewline)  // raw: cut, and foreign again
    return ForeignText(words.joined(separator: " ")).escaped
  }

  private static func hex(_ value: some BinaryInteger) -> String { String(value, radix: 16) }

  private mutating func time(_ stamp: UInt64) {
    let milliseconds = stamp > recording.startStamp ? (stamp &- recording.startStamp) / 1_000_000 : 0
    // As often as heaptrack itself: every 10 ms.
    guard milliseconds >= lastMilliseconds &+ 10 else { return }
    lastMilliseconds = milliseconds
    line("c \(Self.hex(milliseconds))")
  }

  // MARK: blocks

  /// The index of the block's kind: its size, and who allocated it.
  mutating func begin(size: UInt64, node: UInt32, ticks: UInt32) -> Int {
    let kind = Kind(size: size, trace: trace(node, ticks))
    let index: Int
    if let known = kinds[kind] {
      index = known
    } else {
      index = kinds.count
      kinds[kind] = index
      line("a \(Self.hex(size)) \(Self.hex(kind.trace))")
    }
    line("+ \(Self.hex(index))")
    return index
  }

  mutating func end(_ block: Int) { line("- \(Self.hex(block))") }

  // MARK: stacks

  private mutating func trace(_ node: UInt32, _ ticks: UInt32) -> Int {
    // A trace names its caller's, so the outermost comes first.
    var path: [(UInt32, StackNode)] = []
    var result = 0
    var walk = StackWalk(from: node)
    while let call = walk.next({ recording.node($0) }) {
      if let known = nodes[walk.node] {
        result = known
        break
      }
      path.append((walk.node, call))
    }
    for (id, entry) in path.reversed() {
      let trace = Trace(address: address(entry, ticks), parent: result)
      if let known = traces[trace] {
        result = known
      } else {
        result = traces.count + 1
        traces[trace] = result
        line("t \(Self.hex(trace.address)) \(Self.hex(trace.parent))")
      }
      nodes[id] = result
    }
    return result
  }

  private mutating func address(_ node: StackNode, _ ticks: UInt32) -> Int {
    let call = CallAddress(node)
    let module = recording.module(at: call, ticks: ticks)
    let key = NameKey(pc: call.pc, isExact: call.isExact, module: module.map { $0.index &+ 1 } ?? 0)
    if let known = addresses[key] { return known }
    let frames = recording.names(at: call, ticks: ticks).frames
    var text = "i \(Self.hex(call.pc)) \(Self.hex(string(module?.path ?? "")))"
    if frames.contains(where: { $0.function != nil || $0.placeName != nil }) {
      for frame in frames {
        text += " \(Self.hex(string(frame.function ?? frame.placeName ?? ""))) \(Self.hex(string(frame.file ?? ""))) "
        text.append(Self.hex(max(0, frame.line ?? 0)))
      }
    }
    let index = addresses.count + 1
    addresses[key] = index
    line(text)
    return index
  }

  private mutating func string(_ text: ForeignText) -> Int {
    if text.isEmpty { return 0 }
    if let known = strings[text] { return known }
    let index = strings.count + 1
    strings[text] = index
    let plain = Self.joined(text)
    line("s \(Self.hex(plain.originalBytes.count)) \(plain)")
    return index
  }
}
