// SPDX-License-Identifier: Apache-2.0
// The names of code that a process has made itself: what a JIT compiler writes for perf, /tmp/perf-PID.map, a line for
// each function: where it starts and how long it is, in hexadecimal digits, and its name (Linux,
// tools/perf/Documentation/jit-interface.txt).
//
// The file is foreign. It is looked for in the mount namespace of the process, while the process lives; it must be a
// regular file of the process's own user, no link, and of a bounded size; and a line that can't be read names nothing.
// Names are as of now: where code was replaced since a block was allocated, the newest name is told.

import Bounds
import ByteText
import FileFacts
import Glibc
import Synchronization

/// The names in the file of one process. Thread-safe.
public final class CodeMap: Sendable {
  struct Entry {
    var start: UInt64
    /// One past the last byte.
    var end: UInt64
    /// Where the name is in `bytes`.
    var name: Range<Int>
  }

  struct Table {
    var bytes: [UInt8] = []
    /// By their starts; of equal ones, in the order of their lines.
    var entries: [Entry] = []
  }

  private struct State {
    var table = Table()
    /// Bytes of all that may be taken, which this table has.
    var room = 0
    var file: FileState?
    /// Seconds of CLOCK_MONOTONIC.
    var lookedAt = Int.min
  }

  /// Bytes of a file that is read, and functions: 100 bytes for each of 300,000 functions.
  static let sizeLimit: UInt64 = 32 << 20
  static let functionLimit = 1 << 19
  /// Bytes that the tables of all processes may take together. Where there is no room, code has no names.
  private static let roomLimit = 128 << 20
  private static let taken = Atomic(0)
  /// Seconds between two looks at the file.
  private static let interval = 1
  /// Functions before the one with the nearest start that are looked at: an old one may reach over newer ones.
  static let mostOverlapping = 16

  private let process: ModuleReference.Process
  private let innerID: Int32
  private let state = Mutex(State())

  /// `innerID`: the process's id as it knows it, which its file is called by.
  public init(of process: ModuleReference.Process, innerID: Int32) {
    self.process = process
    self.innerID = innerID
  }

  /// The name of the function at `address` by the lines of such a file.
  package static func name(at address: UInt64, in bytes: [UInt8]) -> ForeignText? {
    Table(bytes).name(at: address)
  }

  /// The name of the function at `address`; nil if there is no file, or no such function in it.
  public func name(at address: UInt64) -> ForeignText? {
    state.withLock { state in
      let now = Symbolizer.monotonicSeconds()
      if state.lookedAt == .min || now &- state.lookedAt >= Self.interval {
        state.lookedAt = now
        refresh(&state)
      }
      return state.table.name(at: address)
    }
  }

  private func refresh(_ state: inout State) {
    // What has been read holds for the process also when that has ended.
    guard let files = ProcessFiles(process), files.isSameProcess else { return }
    guard let file = files.codeMap(of: innerID) else {
      state.file = nil
      return giveUp(&state)
    }
    guard state.file != file.state else { return }
    state.file = file.state
    // A file that grows while it is read has its rest at the next look.
    let size = Int(truncatingIfNeeded: min(file.size, Self.sizeLimit))
    giveUp(&state)
    // A table that a budget cut short, or that has found no room, is made again.
    var cost = size
    defer {
      Budget.current?.giveBack(bytes: cost)
      if Budget.hasEnded || state.room == 0 { state.file = nil }
    }
    guard Budget.spendCurrent(bytes: size) else { return }
    let bytes = file.bytes(at: 0, count: size)
    let lines = min(bytes.reduce(0) { $1 == 0x0A ? $0 &+ 1 : $0 }, Self.functionLimit)
    let room = max(1, size &+ lines &* MemoryLayout<Entry>.stride)
    cost = room
    guard Budget.spendCurrent(bytes: room &- size), Self.take(room) else { return }
    state.room = room
    state.table = Table(bytes, most: lines)
  }

  private func giveUp(_ state: inout State) {
    state.table = Table()
    Self.giveBack(state.room)
    state.room = 0
  }

  /// Takes bytes for the names of some process, of a map or a jitdump, if there are so many left.
  static func take(_ room: Int) -> Bool {
    if taken.wrappingAdd(room, ordering: .relaxed).newValue <= roomLimit { return true }
    giveBack(room)
    return false
  }

  static func giveBack(_ room: Int) { taken.wrappingSubtract(room, ordering: .relaxed) }

  deinit { state.withLock { giveUp(&$0) } }
}

extension CodeMap.Table {
  /// The functions that the lines name; other lines are passed over, as is a last one without an end.
  /// `most`: functions that are kept, of which the first come first.
  init(_ bytes: [UInt8], most: Int = CodeMap.functionLimit) {
    self.bytes = bytes
    entries.reserveCapacity(min(most, bytes.count / 6))
    let (blank, newline) = (UInt8(ascii: " "), UInt8(ascii: "\n"))
    var meter = BudgetMeter(interval: 256)
    var start = 0
    while start < bytes.count, entries.count < most, meter.goesOn() {
      guard let end = bytes[start...].firstIndex(of: newline) else { break }
      defer { start = end &+ 1 }
      let line = bytes[start..<max(start, end)]
      guard let first = line.firstIndex(of: blank),
        let second = line[first...].dropFirst().firstIndex(of: blank),
        let place = Self.number(line[..<first]), let size = Self.number(line[..<second][first...].dropFirst()), size > 0
      else { continue }
      let (close, isBeyond) = place.addingReportingOverflow(size)
      let name = second &+ 1
      guard !isBeyond, name < end else { continue }
      entries.append(CodeMap.Entry(start: place, end: close, name: name..<max(name, end)))
    }
    // Equal starts stay in the order of their lines, as the name's place grows with it.
    entries.sort { ($0.start, $0.name.lowerBound) < ($1.start, $1.name.lowerBound) }
  }

  /// A number in hexadecimal digits, with or without 0x.
  private static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
    let digits = digits.starts(with: "0x".utf8) ? digits.dropFirst(2) : digits
    guard !digits.isEmpty, digits.count <= 16 else { return nil }
    return UInt64(String(decoding: digits, as: UTF8.self), radix: 16)
  }

  /// The name of the function that `address` is in: of several, the one that starts nearest, and was named last.
  func name(at address: UInt64) -> ForeignText? {
    let place = entries.partitioningIndex { $0.start > address }
    for entry in entries[..<place].suffix(CodeMap.mostOverlapping).reversed() where address < entry.end {
      let name = bytes[entry.name].prefix(longestText)  // bounded: it is a constant
      return ForeignText(reversibly: name)
    }
    return nil
  }
}
