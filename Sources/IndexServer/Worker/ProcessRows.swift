// SPDX-License-Identifier: Apache-2.0
// Rows of the list of processes between a worker and the gatherer. The gatherer believes no more of a row than that the
// worker's user says so: the numbers have bounds, and the user is the worker's, whatever the row says.

import Answers
import Bounds
import ByteText
import IndexReader

enum ProcessRows {
  static let mediaType = "application/x-allocsd-rows"

  /// Bytes of all rows of a user, and of one text in them, at most.
  static let sizeLimit = 4 << 20
  static let textLimit = 64 << 10
  /// Files that are told to be left out, at most.
  static let mostOmitted = 1 << 40

  /// The number of files that are left out, then the fields of each row: a number as 64 bits, a text as its number of
  /// bytes and these, a list as its count and its elements.
  static func encode(_ list: ProcessList) -> [UInt8] {
    var bytes: [UInt8] = []
    func put(_ value: UInt64) { bytes.append(contentsOf: withUnsafeBytes(of: value.littleEndian) { Array($0) }) }
    func put(_ text: ForeignText) {
      // bounded: textLimit is a constant of this file
      let utf8 = text.unescaped.utf8.prefix(textLimit)  // raw: the gatherer makes a ForeignText of it
      put(UInt64(utf8.count))
      bytes += utf8
    }
    func put(optional text: ForeignText?) {
      put(text == nil ? 0 : 1)
      if let text { put(text) }
    }
    put(UInt64(clamping: list.omitted))
    for process in list.processes {
      let start = bytes.count
      put(UInt64(clamping: process.processID))
      put(ForeignText(process.state.rawValue))
      switch process.ending {
      case nil: put(UInt64.max)
      case .exited(let status)?: put(UInt64(truncatingIfNeeded: status & 0xFF) << 8)
      case .killed(let signal, let hasDumpedCore)?:
        put(UInt64(truncatingIfNeeded: signal & 0x7F) | (hasDumpedCore ? 0x80 : 0))
      }
      put(optional: process.unknownEnding)
      put(UInt64(process.command.count))
      for word in process.command { put(word) }
      put(process.startTime)
      put((process.started ?? .nan).bitPattern)
      put((process.ended ?? .nan).bitPattern)
      put(UInt64(clamping: process.parentID ?? 0))
      put(optional: process.title)
      put(optional: process.name)
      for count in [process.liveBlocks, process.liveBytes] {
        put(count == nil ? 0 : 1)
        put(count ?? 0)
      }
      put(process.segmentBytes)
      put(process.path)
      put(process.lostBlocks == nil ? 0 : 1)
      put(process.lostBlocks ?? 0)
      put(process.losses.blocks)
      put(process.losses.innerBlocks)
      put(process.losses.unknownFrees)
      put(UInt64(bitPattern: process.losses.imbalance))
      put(UInt64(process.losses.mayPassBy.count))
      for word in process.losses.mayPassBy { put(word) }
      put(optional: process.problem)
      // What would not be believed is not sent.
      if bytes.count > sizeLimit {
        bytes.removeSubrange(start...)
        break
      }
    }
    return bytes
  }

  /// The rows, all of user `owner`; nil if the bytes are no rows.
  static func decode(_ bytes: [UInt8], of owner: UInt32) -> ProcessList? {
    guard bytes.count <= sizeLimit else { return nil }
    var reader = Reader(rest: bytes[...])
    guard let omitted = reader.number() else { return nil }
    var processes: [IndexedProcess] = []
    while !reader.rest.isEmpty {
      guard let process = reader.process(of: owner) else { return nil }
      processes.append(process)
    }
    return ProcessList(processes, omitted: Foreign(omitted).int(upTo: mostOmitted) ?? mostOmitted)
  }

  private struct Reader {
    var rest: ArraySlice<UInt8>

    /// A time that no text could be made of is none.
    private static func isTime(_ seconds: Double) -> Bool { seconds.isFinite && seconds.magnitude < 1e12 }

    mutating func number() -> UInt64? {
      guard rest.count >= 8 else { return nil }
      defer { rest = rest.dropFirst(8) }
      return rest.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64(truncatingIfNeeded: $1) }
    }

    mutating func text() -> ForeignText? {
      guard let size = number().map({ Foreign($0) })?.int(upTo: min(textLimit, rest.count)) else { return nil }
      let end = rest.startIndex &+ size
      defer { rest = rest[end...] }
      return ForeignText(String(decoding: rest[..<end], as: UTF8.self))
    }

    mutating func texts() -> [ForeignText]? {
      guard let count = number().map({ Foreign($0) })?.int(upTo: rest.count / 8) else { return nil }
      var texts: [ForeignText] = []
      while texts.count < count {
        guard let text = text() else { return nil }
        texts.append(text)
      }
      return texts
    }

    mutating func optionalText() -> ForeignText?? {
      switch number() {
      case 0: return .some(nil)
      case 1: return text().map { .some($0) }
      default: return nil
      }
    }

    mutating func state() -> IndexedProcess.State? {
      text().flatMap { IndexedProcess.State(rawValue: $0.unescaped) }  // raw: compared with known words
    }

    mutating func process(of owner: UInt32) -> IndexedProcess? {
      guard let id = number().flatMap(Int32.init(exactly:)), let state = state(),
        let ending = number(), let unknownEnding = optionalText(), let command = texts(), let startTime = number(),
        let started = number().map(Double.init(bitPattern:)), let ended = number().map(Double.init(bitPattern:)),
        let parent = number(), let title = optionalText(), let name = optionalText(),
        let hasBlocks = number(), let liveBlocks = number(), let hasBytes = number(), let liveBytes = number(),
        let segmentBytes = number(), let path = text(),
        let hasLost = number(), let lost = number(), let blocks = number(), let innerBlocks = number(),
        let unknownFrees = number(), let imbalance = number(), let mayPassBy = texts(), let problem = optionalText()
      else { return nil }
      var process = IndexedProcess(
        processID: id, state: state, userID: owner, command: command, startTime: startTime,
        started: Self.isTime(started) ? started : nil, segmentBytes: segmentBytes, path: path,
        lostBlocks: hasLost == 1 ? lost : nil,
        ending: Int32(exactly: ending).flatMap(ProcessEnding.init(waitStatus:)), unknownEnding: unknownEnding,
        problem: problem)
      process.ended = Self.isTime(ended) ? ended : nil
      process.parentID = Int32(exactly: parent).flatMap { $0 > 0 ? $0 : nil }
      (process.title, process.name) = (title, name)
      process.liveBlocks = hasBlocks == 1 ? liveBlocks : nil
      process.liveBytes = hasBytes == 1 ? liveBytes : nil
      process.losses.blocks = blocks
      process.losses.innerBlocks = innerBlocks
      process.losses.unknownFrees = unknownFrees
      process.losses.imbalance = Int64(bitPattern: imbalance)
      process.losses.mayPassBy = mayPassBy
      return process
    }
  }
}
