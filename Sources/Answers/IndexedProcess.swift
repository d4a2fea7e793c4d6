// SPDX-License-Identifier: Apache-2.0
// An indexed process as `ps` lists it: which process it is, whether it lives, how much its index takes and lacks.

import ByteText
import Glibc
import IndexReader
import SegmentFiles
import SystemAccess

/// A process that has a segment.
public struct IndexedProcess: Hashable, Sendable {
  public enum State: String, Hashable, Sendable {
    case live
    /// The process ended in order: its exit handlers ran.
    case exited
    /// The process ended otherwise: by a signal, by `_exit`, for want of memory.
    case dead
    /// The caller may not read its segment.
    case notPermitted = "not permitted"
    /// The segment can't be read, for another reason.
    case unreadable
  }

  public var processID: Int32
  public var state: State
  /// How it ended; nil if it runs, or nobody learned how it ended: see ProcessEnding.
  public var ending: ProcessEnding?
  /// Why it is not known how it ended; nil if it is known, or the process runs.
  public var unknownEnding: ForeignText?
  /// Owner of the segment.
  public var userID: UInt32
  /// Program and arguments; empty if not known.
  public var command: [ForeignText]
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64
  /// Seconds since 1970-01-01 UTC when it started; nil if that can't be told.
  public var started: Double?
  /// Seconds since 1970-01-01 UTC when it was found to have ended: by allocsd at its end, else by the first sweep of an
  /// agent or allocsd after it. Nil if it runs, or nobody has looked yet.
  public var ended: Double?
  /// The process's parent, in the reader's pid namespace; nil if it does not run, or its parent is not in there.
  public var parentID: Int32?
  /// The title that the program gave itself, as setproctitle does: its command line as /proc has it now, if that is
  /// another than it was started with.
  public var title: ForeignText?
  /// The name of its first thread, by default the program's, of 15 bytes at most (/proc/PID/comm); nil if it does not
  /// run.
  public var name: ForeignText?
  /// Allocations less frees.
  public var liveBlocks: UInt64?
  /// Bytes of all live blocks, if they were counted.
  public var liveBytes: UInt64?
  /// Bytes of memory that the segment takes.
  public var segmentBytes: UInt64
  /// Path of the segment.
  public var path: ForeignText
  /// Blocks that were allocated and not indexed; nil if not known.
  public var lostBlocks: UInt64?
  /// All known losses of the index, lost blocks included.
  public var losses = Losses()
  /// Why it is unreadable or not permitted, and what to do.
  public var problem: ForeignText?

  public init(
    processID: Int32, state: State, userID: UInt32, command: [ForeignText], startTime: UInt64, started: Double?,
    segmentBytes: UInt64, path: ForeignText, lostBlocks: UInt64?, ending: ProcessEnding? = nil,
    unknownEnding: ForeignText? = nil, problem: ForeignText? = nil
  ) {
    self.processID = processID
    self.state = state
    self.ending = ending
    self.unknownEnding = unknownEnding
    self.userID = userID
    self.command = command
    self.startTime = startTime
    self.started = started
    self.segmentBytes = segmentBytes
    self.path = path
    self.lostBlocks = lostBlocks
    self.problem = problem
  }

  /// Its state in a word or two: `live`; `exited` or `exit 3` in order, `_exit 3` otherwise; `SIGKILL`.
  var stateText: String {
    switch ending {
    case .exited(let status): state == .exited ? status == 0 ? "exited" : "exit \(status)" : "_exit \(status)"
    case .killed(let signal, _): ProcessEnding.name(ofSignal: signal)
    case nil: state.rawValue
    }
  }

  /// The process whose segment is in `file`. If the segment can't be read, `state` and `problem` say so. `countsBytes`:
  /// looks at every block.
  public init(_ file: SegmentFile, countsBytes: Bool = false) {
    self.init(
      processID: file.processID, state: file.isLive ? .live : .dead, userID: file.ownerID, command: [],
      startTime: file.startTime, started: Self.wallTime(ofStart: file.startTime, file.offsets ?? .own),
      segmentBytes: file.allocatedBytes,
      path: ForeignText(file.path), lostBlocks: nil)
    do throws(Complaint) {
      let segment = try Segment(path: file.path)
      command = segment.command
      started = Self.wallTime(ofStart: file.startTime, segment.clockOffsets)
      if !file.isLive, segment.state == .exited { state = .exited }
      losses = Losses(of: segment)
      lostBlocks = losses.blocks
      liveBlocks = Self.liveBlocks(of: segment)
      if countsBytes {
        var bytes: UInt64 = 0
        segment.forEachAllocation { bytes &+= $0.size }
        liveBytes = bytes
      }
      try segment.checkIntact()
      if file.isLive {
        readPresent(of: segment.process)
      } else {
        ended = Self.endTime(ofSegment: file.path)
        ending = ProcessEnding(ofSegment: file.path)
        if ending == nil { unknownEnding = ForeignText(UnknownEnding.reason(ofSegment: file.path)) }
      }
    } catch {
      problem = ForeignText(error.description)
      command = []
      lostBlocks = nil
      (liveBlocks, liveBytes) = (nil, nil)
      losses = Losses()
      if error.kind == .notPermitted {
        state = .notPermitted
      } else {
        state = .unreadable
        // Only the file's name says when the process started, and anybody may have made that up, unless such a process
        // runs.
        if !file.isLive { started = nil }
      }
    }
  }

  /// Seconds since 1970-01-01 UTC of a moment in clock ticks since boot, counted in a time namespace with these
  /// offsets; nil if the moment lies ahead: then it was counted from another boot.
  static func wallTime(ofStart ticks: UInt64, _ offsets: ClockOffsets) -> Double? {
    let shift = Double(offsets.boottime &- ClockOffsets.own.boottime) / 1e9
    // bounded: seconds in floating point
    let age = SystemClock.sinceBoot() + shift - Double(ticks) / SystemClock.ticksPerSecond
    return age >= -1 ? SystemClock.now() - max(0, age) : nil
  }

  /// Allocations less frees, by the sums of the threads that run and of those that have ended.
  static func liveBlocks(of segment: borrowing Segment) -> UInt64 {
    var (allocations, frees): (UInt64, UInt64) = (0, 0)
    for counter in segment.counters {
      if counter.name == "ended_allocations" { allocations &+= counter.value }
      if counter.name == "ended_frees" { frees &+= counter.value }
    }
    for thread in segment.threads {
      allocations &+= thread.allocations
      frees &+= thread.frees
    }
    return allocations >= frees ? allocations &- frees : 0
  }

  /// Reads what /proc says of a process that runs in the reader's pid namespace: its parent, title and name.
  mutating func readPresent(of identity: ProcessIdentity) {
    do throws(ProcError) {
      let directory = try ProcessDirectory(of: identity)
      parentID = directory.found.flatMap { Int32(exactly: $0.parentID) }.flatMap { $0 > 0 ? $0 : nil }
      var name = try directory.line("comm")
      if name.last == UInt8(ascii: "\n") { name.removeLast() }
      if !name.isEmpty { self.name = ForeignText(reversibly: name) }
      // setproctitle leaves the room of the former arguments empty.
      var title = try directory.line("cmdline")
      while let last = title.last, last == 0 || last == UInt8(ascii: " ") { title.removeLast() }
      let present = title.split(separator: 0, omittingEmptySubsequences: false)
        .map { ForeignText(reversibly: $0) }.joined(separator: " ")
      var original = command.joined(separator: " ").unescaped  // raw: compared with another
      while original.hasSuffix(" ") { original.removeLast() }
      // The index has the command's first kilobyte.
      let isCut = original.utf8.count > 1000
      let words = present.unescaped  // raw: compared with another
      let isCommand = isCut ? words.hasPrefix(original) : words == original
      if !present.isEmpty, !isCommand { self.title = present }
    } catch {
      // It has ended, or is another's, or is in another pid namespace: these facts are left out.
    }
  }

  /// When the segment's process was found to have ended: a sweep takes the file's permission to write away then.
  static func endTime(ofSegment path: String) -> Double? {
    guard let status = ownStatus(of: path), status.st_mode & S_IWUSR == 0 else { return nil }
    return Double(status.st_ctim.tv_sec) + Double(status.st_ctim.tv_nsec) / 1e9  // bounded: seconds in floating point
  }

  /// Bytes of memory that the file at `path` takes, holes left out; 0 if it is gone.
  static func allocatedBytes(ofFile path: String) -> UInt64 {
    // stat(2) counts blocks of 512 bytes, whatever the file system's.
    UInt64(max(0, ownStatus(of: path)?.st_blocks ?? 0)) &* 512
  }

  /// The name of user `id`, or the number as text.
  static func name(ofUser id: UInt32) -> ForeignText {
    var entry = passwd()
    var found: UnsafeMutablePointer<passwd>?
    return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 16_384) { buffer in
      guard let start = buffer.baseAddress, getpwuid_r(id, &entry, start, buffer.count, &found) == 0, found != nil,
        let name = entry.pw_name
      else { return ForeignText(String(id)) }
      return ForeignText(reversibly: name)
    }
  }

  /// `redis-server, process 4242`; `redis-server, process 4242, which has ended`.
  static func title(_ processID: Int32, _ command: [ForeignText], hasEnded: Bool = false) -> String {
    let name = command.first.flatMap { $0.isEmpty ? nil : "\($0.fileName), " } ?? ""
    return "\(name)process \(processID)\(hasEnded ? ", which has ended" : "")"
  }

  /// The command as a person would type it, more or less: the program without its directory, then its arguments.
  var commandLine: String {
    guard let program = command.first else { return "" }
    return [[program.fileName], Array(command.dropFirst())].flatMap { $0 }.joined(separator: " ").escaped
  }

  /// Seconds for which it has run; nil if it does not run, or its start is not known.
  var uptime: Double? {
    guard state == .live, let started else { return nil }
    return max(0, SystemClock.now() - started)  // bounded: seconds in floating point
  }

  func appendJSONFields(to writer: inout ByteWriter) {
    writer.append("\"pid\":", decimal: UInt64(max(0, processID)))
    writer.append(",\"state\":", string: state.rawValue)
    switch ending {
    case .exited(let status): writer.append(",\"exit_status\":", decimal: UInt64(clamping: status))
    case .killed(let signal, let hasDumpedCore):
      writer.append(",\"signal\":", string: ProcessEnding.name(ofSignal: signal))
      if hasDumpedCore { writer.append(",\"core_dumped\":true") }
    case nil: if let unknownEnding { writer.append(",\"ending_unknown\":", string: unknownEnding) }
    }
    writer.append(",\"uid\":", decimal: UInt64(userID))
    writer.append(",\"user\":", string: Self.name(ofUser: userID))
    if !command.isEmpty {
      writer.append(",\"command\":")
      writer.appendArray(command)
    }
    writer.append(",\"start_time\":", decimal: startTime)
    if let started {
      writer.append(",\"started\":")
      writer.append(decimal: started, places: 2)
    }
    if let ended {
      writer.append(",\"ended\":")
      writer.append(decimal: ended, places: 2)
    }
    if let parentID { writer.append(",\"parent\":", decimal: UInt64(max(0, parentID))) }
    if let title { writer.append(",\"title\":", string: title) }
    if let name { writer.append(",\"name\":", string: name) }
    if let liveBlocks { writer.append(",\"live_blocks\":", decimal: liveBlocks) }
    if let liveBytes { writer.append(",\"live_bytes\":", decimal: liveBytes) }
    if let uptime {
      writer.append(",\"uptime_seconds\":")
      writer.append(decimal: uptime, places: 2)
    }
    writer.append(",\"segment\":", string: path)
    writer.append(",\"segment_bytes\":", decimal: segmentBytes)
    if let lostBlocks { writer.append(",\"lost_blocks\":", decimal: lostBlocks) }
    losses.appendJSONFields(withBlocks: false, to: &writer)
    if let problem { writer.append(",\"problem\":", string: problem) }
  }
}
