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
    var file: FileState?
    /// Seconds of CLOCK_MONOTONIC.
    var lookedAt = Int.min
  }

  /// Bytes of a file that is read: 100 bytes for each of 300,000 functions.
  static let sizeLimit: UInt64 = 32 << 20
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
    guard let files = ProcessFiles(process), let file = files.codeMap(of: innerID) else {
      (state.table, state.file) = (Table(), nil)
      return
    }
    guard state.file != file.state else { return }
    state.file = file.state
    // A file that grows while it is read has its rest at the next look.
    let size = Int(truncatingIfNeeded: min(file.size, Self.sizeLimit))
    guard Budget.spendCurrent(bytes: size) else { return }
    state.table = Table(file.bytes(at: 0, count: size))
    Budget.current?.giveBack(bytes: size)
    // A table that a budget cut short is made again.
    if Budget.hasEnded { state.file = nil }
  }
}

extension CodeMap.Table {
  /// The functions that the lines name; other lines are passed over, as is a last one without an end.
  init(_ bytes: [UInt8]) {
    self.bytes = bytes
    let (blank, newline) = (UInt8(ascii: " "), UInt8(ascii: "\n"))
    var meter = BudgetMeter(interval: 256)
    var start = 0
    while start < bytes.count, meter.goesOn() {
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
