// SPDX-License-Identifier: Apache-2.0
// The records of a jitdump file: what a JIT compiler writes for perf about the code that it makes, jit-PID.dump (Linux,
// tools/perf/Documentation/jitdump-specification.txt, version 1). Against a perf-PID.map it has times, so that code
// that was replaced is told from what was at its place before; moves of code; and lines of source.
//
// The file is foreign, and grows while it is read. A record counts once it is whole; each is read by its own size, and
// one whose size can't be is the last. The code itself, and its unwinding information, are passed over and never held.
// What is kept is bounded: `Limits`.

import Bounds
import ByteText
import FileFacts

/// What of a jitdump file has been read so far.
package struct JitDump {
  /// A function at a place, from a time on.
  struct Load {
    var start: UInt64
    /// One past the last byte.
    var end: UInt64
    /// When the code came there, in nanoseconds of CLOCK_MONOTONIC, where the file's times are of that clock.
    var time: UInt64
    /// Where its name is in `text`, and its lines are in `lines`.
    var name: Range<Int>
    var lines: Range<Int>
  }

  /// Where a line's code begins, in bytes from the function's start.
  struct Line {
    var offset: UInt32
    var number: UInt32
    /// Where the file's name is in `text`.
    var file: Range<Int>
  }

  /// What one file may take.
  enum Limits {
    static let functions = 1 << 19
    static let lines = 1 << 20
    static let text = 32 << 20
    /// Bytes of a record of lines that are looked at.
    static let lineRecord = 4 << 20
    /// Functions that were at one place one after the other: the last ones are told.
    static let overlapping = 64
    /// Functions that begin before a place and are looked at for it.
    static let steps = 1 << 16
  }

  private enum RecordKind: UInt32 { case load, move, lines, close, unwinding }

  private static let magic: UInt32 = 0x4A69_5444
  private static let (headerSize, recordSize, loadSize, moveSize, linesSize) = (40, 16, 56, 64, 32)
  /// An offset that V8 adds to the addresses of all lines: those of an ELF header that perf will put before the code.
  private static let elfHeader: UInt64 = 0x40
  /// e_machine of what this program was made for.
  package static let machine: UInt32 = {
    #if arch(arm64)
      183
    #else
      62
    #endif
  }()

  private(set) var loads: [Load] = []
  private(set) var lines: [Line] = []
  private(set) var text: [UInt8] = []
  /// Whether times are of CLOCK_MONOTONIC, and not of a counter of the processor's.
  private(set) var hasTimes = false
  /// Bytes that have been read.
  private(set) var place: UInt64 = 0
  /// Whether nothing further counts: the file has ended, or can't be read.
  private(set) var isOver = false
  /// Whether records that are whole were not read, for want of time or of room. What they say may replace what is
  /// known, so no function is told then.
  package private(set) var isCut = false
  /// Places in `loads`, by their starts; of equal ones, in the order of their records.
  private var order: [UInt32] = []
  /// Of each place in `order`, the greatest end of the functions up to there.
  private var reach: [UInt64] = []
  /// The last load of each code index, which a move names.
  private var latest: [UInt64: Int] = [:]
  /// The lines of the function that the next load is about.
  private var waiting: (start: UInt64, lines: Range<Int>)?
  /// Whether some function has a line that begins within its first bytes. Else all lines may be off by those of an
  /// ELF header, which can't be told, and none is.
  private var hasEarlyLines = false

  package init() {}

  /// Bytes of memory, about.
  var cost: Int {
    loads.count &* (MemoryLayout<Load>.stride &+ 12 &+ 48) &+ lines.count &* MemoryLayout<Line>.stride &+ text.count
  }

  /// Takes in the records that are whole by now, as far as the question's budget goes. `processID`: as the process
  /// knows it. `takes`: whether so many bytes of memory may be held.
  package mutating func read(_ file: borrowing RegularFile, processID: Int32, takes: (Int) -> Bool) {
    guard !isOver else { return }
    isCut = false
    let before = loads.count
    var window = Window(size: file.size)
    if place == 0 {
      guard let header = window.bytes(of: file, at: 0, Self.headerSize) else { return }
      let size = header.word(at: 8)
      guard header.word(at: 0) == Self.magic, header.word(at: 4) == 1, size >= UInt32(Self.headerSize), size < 1 << 16,
        header.word(at: 12) == Self.machine, header.word(at: 20) == UInt32(bitPattern: processID)
      else {
        isOver = true
        return
      }
      hasTimes = header.long(at: 32) & 1 == 0
      place = UInt64(clamping: size)
    }
    var meter = BudgetMeter(interval: 64)
    while !isOver, meter.goesOn() {
      guard let head = window.bytes(of: file, at: place, Self.recordSize) else { break }
      let size = head.word(at: 4)
      guard size >= UInt32(Self.recordSize) else {
        isOver = true
        break
      }
      // bounded: a place in a file, and a size of 32 bits
      guard place + UInt64(size) <= file.size else { break }
      guard takes(cost) else {
        // There may be room, or time, for the next question.
        isCut = true
        break
      }
      guard loads.count < Limits.functions, lines.count < Limits.lines, text.count < Limits.text else {
        (isOver, isCut) = (true, true)
        break
      }
      take(RecordKind(rawValue: head.word(at: 0)), Int(size), at: head.long(at: 8), file, &window)
      place += UInt64(size)
    }
    if Budget.hasEnded { isCut = true }
    if loads.count > before { arrange(from: before) }
  }

  /// Puts the loads from `first` on in order among the others. What begins before all of them stays where it is: a
  /// compiler mostly puts new code behind its old one, and a file that grows is looked at each second.
  private mutating func arrange(from first: Int) {
    var new = loads[first...].indices.map { UInt32(truncatingIfNeeded: $0) }
    new.sort { (load($0).start, $0) < (load($1).start, $1) }
    guard let least = new.first.map({ load($0).start }) else { return }
    let kept = order.partitioningIndex { load($0).start > least }
    var old = order[kept...]
    order.removeSubrange(kept...)
    reach.removeSubrange(kept...)
    var most = reach.last ?? 0
    var fresh = new[...]
    while let next = fresh.first ?? old.first {
      // Of equal starts the older load stands first.
      let isOld = fresh.isEmpty || old.first.map { load($0).start <= load(next).start } ?? false
      let number = (isOld ? old.popFirst() : fresh.popFirst()) ?? next
      most = max(most, load(number).end)
      order.append(number)
      reach.append(most)
    }
  }

  private mutating func take(
    _ kind: RecordKind?, _ size: Int, at time: UInt64, _ file: borrowing RegularFile, _ window: inout Window
  ) {
    switch kind {
    case .load:
      // The name stands before the code, and ends with a zero.
      let most = min(size, Self.loadSize &+ longestText &+ 1)
      guard let bytes = window.bytes(of: file, at: place, most), bytes.count >= Self.loadSize else { return }
      let (start, length) = (bytes.long(at: 32), bytes.long(at: 40))
      let names = bytes.dropFirst(Self.loadSize)
      let name = names.prefix { $0 != 0 }
      let lines = waiting.flatMap { $0.start == start ? $0.lines : nil } ?? 0..<0
      waiting = nil
      guard !name.isEmpty, name.count < names.count || names.count >= longestText else { return }
      add(start, length, time, append(name), lines, index: bytes.long(at: 48))
    case .move:
      guard size >= Self.moveSize, let bytes = window.bytes(of: file, at: place, Self.moveSize) else { return }
      let (old, new, length) = (bytes.long(at: 32), bytes.long(at: 40), bytes.long(at: 48))
      guard let number = latest[bytes.long(at: 56)], loads[number].start == old else { return }
      add(new, length, time, loads[number].name, loads[number].lines, index: bytes.long(at: 56))
    case .lines:
      guard size >= Self.linesSize, size <= Limits.lineRecord, let bytes = window.bytes(of: file, at: place, size)
      else {
        return
      }
      takeLines(bytes)
    case .close: isOver = true
    case .unwinding, nil: break
    }
  }

  private mutating func add(
    _ start: UInt64, _ length: UInt64, _ time: UInt64, _ name: Range<Int>, _ lines: Range<Int>, index: UInt64
  ) {
    let (end, isBeyond) = start.addingReportingOverflow(length)
    guard length > 0, !isBeyond else { return }
    latest[index] = loads.count
    loads.append(Load(start: start, end: end, time: time, name: name, lines: lines))
  }

  private mutating func append(_ bytes: ArraySlice<UInt8>) -> Range<Int> {
    let start = text.count
    text.append(contentsOf: bytes.prefix(longestText))  // bounded: a constant above 0
    return start..<text.count  // bounded: the text has grown since
  }

  /// Lines of the function of the next load. A record that contradicts itself (V8 writes such) has none.
  private mutating func takeLines(_ bytes: ArraySlice<UInt8>) {
    waiting = nil
    let start = bytes.long(at: 16)
    var count = bytes.long(at: 24)
    var rest = bytes.dropFirst(Self.linesSize)
    let first = lines.count
    var last: (offset: UInt64, file: Range<Int>)?
    let textBefore = text.count
    var meter = BudgetMeter(interval: 256)
    while count > 0, meter.goesOn() {
      guard rest.count > 16, lines.count < Limits.lines else { break }
      let (offset, isBefore) = rest.long(at: 0).subtractingReportingOverflow(start)
      let number = rest.word(at: 8)
      rest = rest.dropFirst(16)
      guard !isBefore, let short = UInt32(exactly: offset), last.map({ $0.offset <= offset }) ?? true,
        let end = rest.firstIndex(of: 0)
      else { break }
      let name = rest[..<end]
      let file: Range<Int>
      if name.elementsEqual([0xFF]), let last {
        file = last.file
      } else if let last, text[last.file].elementsEqual(name) {
        file = last.file
      } else {
        guard !name.isEmpty, name.count <= longestText, String(validating: name, as: UTF8.self) != nil else { break }
        file = append(name)
      }
      rest = rest[end...].dropFirst()
      lines.append(Line(offset: short, number: number, file: file))
      last = (offset, file)
      count &-= 1
    }
    guard count == 0, lines.count > first else {
      lines.removeSubrange(first...)
      text.removeSubrange(textBefore...)
      return
    }
    if UInt64(clamping: lines[first].offset) < Self.elfHeader { hasEarlyLines = true }
    waiting = (start, first..<lines.count)  // bounded: lines have been added since
  }

  // MARK: what is asked

  /// The functions that have been at `address`, the earliest first.
  package func functions(at address: UInt64) -> [MadeFunction] {
    guard !isCut else { return [] }
    var index = order.partitioningIndex { load($0).start > address }
    var numbers: [UInt32] = []
    var steps = 0
    while index > 0, reach[index &- 1] > address {
      // Not known is better than wrong.
      guard steps < Limits.steps else { return [] }
      steps &+= 1
      index &-= 1
      if address < load(order[index]).end { numbers.append(order[index]) }
    }
    // Of loads at one time, and where times are not known, the order of the records counts.
    numbers.sort()
    if hasTimes { numbers = numbers.sorted { isEarlier($0, $1) } }
    return numbers.suffix(Limits.overlapping).map { function(load($0), at: address) }
  }

  private func isEarlier(_ a: UInt32, _ b: UInt32) -> Bool {
    (load(a).time, a) < (load(b).time, b)
  }

  private func load(_ number: UInt32) -> Load { loads[Int(clamping: number)] }

  private func function(_ load: Load, at address: UInt64) -> MadeFunction {
    var function = MadeFunction(name: ForeignText(reversibly: text[load.name]), time: hasTimes ? load.time : nil)
    guard hasEarlyLines else { return function }
    if let line = line(of: load.lines, at: address &- load.start) {
      function.file = ForeignText(reversibly: text[line.file])
      function.line = Int(clamping: line.number)
    }
    return function
  }

  /// Of lines in the order of the code, the last that begins at `offset` or before.
  private func line(of range: Range<Int>, at offset: UInt64) -> Line? {
    var (low, high) = (range.lowerBound, range.upperBound)
    while low < high {
      let middle = low &+ (high &- low) / 2
      if UInt64(clamping: lines[middle].offset) > offset { high = middle } else { low = middle &+ 1 }
    }
    return low > range.lowerBound ? lines[low &- 1] : nil
  }
}

/// A function that a process has made itself, where it was from a time on.
public struct MadeFunction: Hashable, Sendable {
  public var name: ForeignText
  /// When it came to its place, in nanoseconds of CLOCK_MONOTONIC; nil if that is not known.
  public var time: UInt64?
  public var file: ForeignText?
  public var line: Int?

  public init(name: ForeignText, time: UInt64?, file: ForeignText? = nil, line: Int? = nil) {
    (self.name, self.time, self.file, self.line) = (name, time, file, line)
  }
}

/// A file through a window, as most records are short.
private struct Window {
  private static let length = 64 << 10
  /// Of the file, as of its opening: records that are not whole by then are read the next time.
  private let size: UInt64
  private var start: UInt64 = 0
  private var held: [UInt8] = []

  init(size: UInt64) { self.size = size }

  /// `count` bytes at `place`; nil if the file has fewer.
  mutating func bytes(of file: borrowing RegularFile, at place: UInt64, _ count: Int) -> ArraySlice<UInt8>? {
    guard place <= size, UInt64(clamping: count) <= size &- place else { return nil }
    if place < start || held.count &- Int(clamping: place &- start) < count {
      held = file.bytes(at: place, count: max(count, Self.length))
      start = place
    }
    let slice = held.dropFirst(Int(clamping: place &- start)).prefix(count)  // bounded: the size of a record's part
    return slice.count == count ? slice : nil
  }
}

extension ArraySlice<UInt8> {
  /// The number of 32 bits at an offset, lowest byte first; 0 where there is none.
  fileprivate func word(at offset: Int) -> UInt32 {
    dropFirst(offset).prefix(4).reversed().reduce(0) { $0 << 8 | UInt32(truncatingIfNeeded: $1) }
  }

  /// Likewise of 64 bits.
  fileprivate func long(at offset: Int) -> UInt64 {
    dropFirst(offset).prefix(8).reversed().reduce(0) { $0 << 8 | UInt64(truncatingIfNeeded: $1) }
  }
}
