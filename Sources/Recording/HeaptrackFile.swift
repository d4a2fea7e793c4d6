// A recording as heaptrack's own file, for heaptrack_print and heaptrack_gui: version 3 of its text format, as written
// by heaptrack_interpret 1.4 and read in its src/analyze/accumulatedtracedata.cpp. All numbers are hexadecimal.
//
//   v 10400 3   X COMMAND   I PAGESIZE PAGES   s LENGTH STRING   i PC MODULE [FUNCTION FILE LINE]…   t IP PARENT
//   a SIZE TRACE   + A   - A   c MILLISECONDS
//
// Indices begin with 1, in the order of the lines. What lived before the recording is allocated at its time 0.

import ByteText
import IndexReader
import Symbols

/// Writes the lines; `flush` takes them piece by piece.
struct HeaptrackFile: ~Copyable {
  private let recording: Recording
  private let flush: ([UInt8]) throws(RecordingError) -> Void
  private var output: [UInt8] = []
  private var strings: [String: Int] = [:]
  private var addresses: [NameKey: Int] = [:]
  private struct Trace: Hashable {
    var address: Int
    var parent: Int
  }
  private var traces: [Trace: Int] = [:]
  private var nodes: [UInt32: Int] = [:]
  private struct Kind: Hashable {
    var size: UInt64
    var trace: Int
  }
  private var kinds: [Kind: Int] = [:]
  private var live: [UInt64: Int] = [:]
  private var lastMilliseconds: UInt64 = 0

  init(_ recording: Recording, flush: @escaping ([UInt8]) throws(RecordingError) -> Void) {
    self.recording = recording
    self.flush = flush
  }

  mutating func write() throws(RecordingError) {
    line("v 10400 3")
    line(
      "X \(recording.process.command.joined(separator: " ").split(whereSeparator: \.isNewline).joined(separator: " "))")
    line("I 1000 0")
    let start = Replay(recording)
    for block in start.blocks.values.sorted(by: { $0.base < $1.base }) {
      begin(block.base, block.size, block.context, block.ticks)
      try flushFull()
    }
    var failure: RecordingError?
    recording.forEachEvent { event in
      time(event.stamp)
      switch event.kind {
      case .alloc, .reallocNew: begin(event.address, event.size, event.context, event.ticks)
      case .reallocFailed: begin(event.address, event.size, event.context, event.ticks)
      case .free, .reallocOld: end(event.address)
      default: break
      }
      do throws(RecordingError) { try flushFull() } catch { failure = error }
      return failure == nil
    }
    if let failure { throw failure }
    time(recording.endStamp)
    try flush(output)
  }

  private mutating func flushFull() throws(RecordingError) {
    guard output.count > 1 << 20 else { return }
    try flush(output)
    output.removeAll(keepingCapacity: true)
  }

  private mutating func line(_ text: String) {
    output.append(contentsOf: text.originalBytes)
    output.append(UInt8(ascii: "\n"))
  }

  private static func hex(_ value: some BinaryInteger) -> String { String(value, radix: 16) }

  private mutating func time(_ stamp: UInt64) {
    let milliseconds = UInt64(recording.seconds(at: stamp) * 1000)
    // As often as heaptrack itself: every 10 ms.
    guard milliseconds >= lastMilliseconds + 10 else { return }
    lastMilliseconds = milliseconds
    line("c \(Self.hex(milliseconds))")
  }

  private mutating func begin(_ base: UInt64, _ size: UInt64, _ context: UInt32, _ ticks: UInt32) {
    // Two beginnings without an end between them: the end was lost.
    end(base)
    let kind = Kind(size: size, trace: trace(recording.context(context)?.node ?? 0, ticks))
    let index: Int
    if let known = kinds[kind] {
      index = known
    } else {
      index = kinds.count
      kinds[kind] = index
      line("a \(Self.hex(size)) \(Self.hex(kind.trace))")
    }
    live[base] = index
    line("+ \(Self.hex(index))")
  }

  private mutating func end(_ base: UInt64) {
    guard let index = live.removeValue(forKey: base) else { return }
    line("- \(Self.hex(index))")
  }

  private mutating func trace(_ node: UInt32, _ ticks: UInt32) -> Int {
    // Outermost first: a trace names its caller's.
    var path: [(UInt32, StackNode)] = []
    var next = node
    var result = 0
    while next != 0, path.count < 1 << 12 {
      if let known = nodes[next] {
        result = known
        break
      }
      guard let entry = recording.node(next) else { break }
      path.append((next, entry))
      if entry.truncation != nil { break }
      next = entry.parent
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

  private mutating func address(_ entry: StackNode, _ ticks: UInt32) -> Int {
    let module = recording.module(of: entry, at: ticks)
    let key = NameKey(pc: entry.pc, isExact: entry.isInterrupted, module: module.map { $0.index + 1 } ?? 0)
    if let known = addresses[key] { return known }
    let frames = recording.frames(
      pc: entry.pc, isExact: entry.isInterrupted, at: ticks, in: entry.holder)
    var text = "i \(Self.hex(entry.pc)) \(Self.hex(string(module?.path ?? "")))"
    if frames.contains(where: { $0.function != nil || $0.placeName != nil }) {
      for frame in frames {
        text += " \(Self.hex(string(frame.function ?? frame.placeName ?? ""))) \(Self.hex(string(frame.file ?? ""))) "
        text += Self.hex(max(0, frame.line ?? 0))
      }
    }
    let index = addresses.count + 1
    addresses[key] = index
    line(text)
    return index
  }

  private mutating func string(_ text: String) -> Int {
    if text.isEmpty { return 0 }
    if let known = strings[text] { return known }
    let index = strings.count + 1
    strings[text] = index
    let plain = text.split(whereSeparator: \.isNewline).joined(separator: " ")
    line("s \(Self.hex(plain.originalBytes.count)) \(plain)")
    return index
  }
}
