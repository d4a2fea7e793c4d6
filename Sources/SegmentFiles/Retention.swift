// SPDX-License-Identifier: Apache-2.0
// Which segments of dead processes are kept, and for how long.
//
// - A segment of a running process is never touched, nor one of another user's unless root sweeps.
//   Whether a process runs is judged by its id and start time; before anything is removed, also by
//   whether anybody has the file mapped, as an id may mean another process here, or none, while the
//   process runs in another namespace.
// - When a process died is written nowhere: it may have been killed. The first sweep that finds a
//   segment dead takes away its owner's permission to write, which nobody needs any more; the time
//   of that change (st_ctime) starts its age.
// - If an owner's segments of dead processes are more, or take more bytes, than the policy allows,
//   that owner's oldest go first, whatever their age. The files of one user take no room from
//   others.
// - All is done by the directory's descriptor and a name in it, and only to a regular file with no
//   second name that is the file looked at. It needs the rights of the files' owner alone.

import Glibc
import SystemAccess

/// How many segments of dead processes are kept, and for how long.
public struct RetentionPolicy: Hashable, Sendable {
  /// Seconds since a sweep first found the process dead.
  public var maximumAge: Double
  /// Bytes of memory that an owner's segments of dead processes in a directory may take.
  public var maximumBytes: UInt64
  /// Segments of dead processes that an owner may have in a directory.
  public var maximumCount: UInt64
  /// Of these, segments of processes that ran their exit handlers. Others are looked at for longer.
  public var maximumExited: UInt64

  /// By default a day; a gibibyte, as a tmpfs takes memory from the machine; and a thousand, as
  /// each segment is looked at whenever a process is asked about.
  public init(
    maximumAge: Double = 86_400, maximumBytes: UInt64 = 1 << 30, maximumCount: UInt64 = 1000,
    maximumExited: UInt64 = .max
  ) {
    self.maximumAge = maximumAge
    self.maximumBytes = maximumBytes
    self.maximumCount = maximumCount
    self.maximumExited = maximumExited
  }

  /// Whether a sweep would change anything about one owner's segments in one directory.
  package func isSweepDue<Files: Sequence<SegmentFile>>(_ files: Files, at time: Double) -> Bool {
    var (count, bytes): (UInt64, UInt64) = (0, 0)
    for file in files {
      guard file.isLive != file.isMarkedDead else { return true }
      guard !file.isLive else { continue }
      count += 1
      bytes &+= file.allocatedBytes
      if time - file.changed > maximumAge { return true }  // bounded: seconds in floating point
    }
    return count > maximumCount || bytes > maximumBytes || count > maximumExited
  }

  /// Where no server sweeps, and nobody has said what is to be kept: little.
  public static let unserved = RetentionPolicy(maximumCount: 256, maximumExited: 64)
}

/// The files that a sweep removed, and the files that it left.
public struct SweepResult: Hashable, Sendable {
  /// The segments that were removed.
  public var removed: [SegmentFile] = []
  /// Bytes that the removed files took, control files included.
  public var removedBytes: UInt64 = 0
  /// Paths of removed control files whose segments were gone already.
  public var removedControls: [String] = []
  /// Segments of dead processes that were kept.
  public var kept: [SegmentFile] = []
  /// Paths of files that should have been removed, each with the system's reason why it could not
  /// be.
  public var failed: [String: String] = [:]
}

extension SegmentDirectory {
  /// Removes segments of dead processes that are too old or too many, with their control files,
  /// from each of `directories` (nil: `searchPaths`).
  ///
  /// `time`: the present time in seconds since 1970-01-01 UTC; nil: the system's. `ofUser`: the
  /// user whose segments are swept; nil: all users whose segments the caller may remove.
  @discardableResult
  public static func sweep(
    _ policy: RetentionPolicy = RetentionPolicy(), in directories: [String]? = nil, at time: Double? = nil,
    ofUser: UInt32? = nil
  ) -> SweepResult {
    var result = SweepResult()
    let sweep = Sweep(time: time ?? SystemClock.now(), user: ofUser, isTrial: false)
    for path in directories ?? searchPaths {
      // A directory that can't be read now, because descriptors are short, is left to the next
      // sweep.
      guard let directory = try? OpenDirectory(path: path),
        let names = try? directory.names(where: \.isSegment).names
      else { continue }
      directory.sweep(names, policy, sweep, &result)
    }
    return result
  }

  /// Sweeps the segments of `ofUser` in each of `directories` that no server sweeps by limits of
  /// its own. For programs that start a process.
  public static func sweepUnlessServed(
    _ policy: RetentionPolicy = .unserved, in directories: [String]? = nil, ofUser: UInt32 = geteuid()
  ) {
    let unserved = (directories ?? searchPaths).filter { !SweeperMark.isHeld(in: $0, for: ofUser) }
    sweep(policy, in: unserved, ofUser: ofUser)
  }

  /// Removes the files that ended processes of `ofUser` (nil: of all users whose files the caller
  /// may remove) have left, if they ended at least `age` seconds ago: segments, and control files
  /// without a segment.
  ///
  /// When a process ended is known where a sweep has found it dead; else `lastSign` tells a time
  /// after which it ended. `isTrial`: nothing is removed. Throws as `list(in:)` does.
  package static func prune(
    olderThan age: Double, in directories: [String]? = nil, ofUser: UInt32?, isTrial: Bool,
    lastSign: (SegmentFile) -> Double
  ) throws(Complaint) -> SweepResult {
    var result = SweepResult()
    let sweep = Sweep(time: SystemClock.now(), user: ofUser, isTrial: isTrial)
    for path in directories ?? searchPaths {
      guard let directory = try OpenDirectory(path: path) else { continue }
      directory.prune(try directory.names { _ in true }.names, olderThan: age, lastSign, sweep, &result)
    }
    return result
  }
}

/// How to sweep.
private final class Sweep {
  let time: Double
  let user: UInt32?
  /// Nothing is removed or marked.
  let isTrial: Bool
  /// The files that all processes write to; looked up when a file is met that doesn't tell by
  /// itself whether it is in use.
  lazy var writtenFiles = RunningProcesses.WrittenFiles()

  init(time: Double, user: UInt32?, isTrial: Bool) {
    self.time = time
    self.user = user
    self.isTrial = isTrial
  }

  func mayRemove(ofUser owner: UInt32) -> Bool {
    let own = geteuid()
    return (own == 0 || owner == own) && (user == nil || user == owner)
  }
}

extension OpenDirectory {
  fileprivate func sweep(
    _ names: [Name], _ policy: RetentionPolicy, _ sweep: Sweep, _ result: inout SweepResult
  ) {
    let time = sweep.time
    func deathTime(_ file: SegmentFile) -> Double { file.isMarkedDead ? file.changed : time }
    for (_, found) in Dictionary(grouping: dead(names, policy, sweep, &result), by: \.ownerID) {
      // Newest first: segments are kept from the front on, until the policy's limits are reached.
      let dead = found.sorted { (deathTime($0), $0.modified) > (deathTime($1), $1.modified) }
      var bytes: UInt64 = 0
      var (count, exited): (UInt64, UInt64) = (0, 0)
      for file in dead {
        let (sum, overflow) = bytes.addingReportingOverflow(file.allocatedBytes)
        let isTooOld = time - deathTime(file) > policy.maximumAge  // bounded: seconds in floating point
        let hasExited = policy.maximumExited < policy.maximumCount && hasExited(file)
        if isTooOld || overflow || sum > policy.maximumBytes || count >= policy.maximumCount
          || hasExited && exited >= policy.maximumExited
        {
          remove(file, sweep, &result)
        } else {
          bytes = sum
          count += 1
          if hasExited { exited += 1 }
          result.kept.append(file)
        }
      }
    }
  }

  private func hasExited(_ file: SegmentFile) -> Bool {
    let name = SegmentFile.name(processID: file.processID, startTime: file.startTime)
    return SegmentEvidence(directory: descriptor, name: name)?.hasExited == true
  }

  /// The segments of ended processes that the sweep is about. Segments that are found dead for the
  /// first time are marked. If an owner has far more than the policy lets stay, those that the
  /// directory names last are removed at once; a tmpfs names the newest first.
  private func dead(
    _ names: [Name], _ policy: RetentionPolicy, _ sweep: Sweep, _ result: inout SweepResult
  ) -> [SegmentFile] {
    let most = max(UInt64(clamping: SegmentDirectory.mostOfOwner), policy.maximumCount)
    var looked: [UInt32: UInt64] = [:]
    let files = names.compactMap { name -> SegmentFile? in
      guard name.isSegment else { return nil }
      let text = name.segment
      guard let file = segment(name: text, processID: name.processID, startTime: name.startTime),
        sweep.mayRemove(ofUser: file.ownerID)
      else { return nil }
      looked[file.ownerID, default: 0] += 1
      guard looked[file.ownerID, default: 0] <= most else {
        if !file.isLive { remove(file, sweep, &result) }
        return nil
      }
      return file
    }
    // A mark goes that was made by a sweep that did not know that the process is in another
    // namespace: the age begins when the process ends. The oldest come first: a later sweep takes
    // the times of the marks for the order of the deaths.
    let changed = sweep.isTrial ? [] : files.filter { $0.isLive == $0.isMarkedDead }
    for file in changed.sorted(by: { $0.modified < $1.modified }) {
      mark(SegmentFile.name(processID: file.processID, startTime: file.startTime), file, isDead: !file.isLive)
    }
    return files.filter { !$0.isLive }
  }

  fileprivate func prune(
    _ names: [Name], olderThan age: Double, _ lastSign: (SegmentFile) -> Double, _ sweep: Sweep,
    _ result: inout SweepResult
  ) {
    let segments = names.filter(\.isSegment)
    for name in segments {
      guard let file = segment(name: name.segment, processID: name.processID, startTime: name.startTime),
        sweep.mayRemove(ofUser: file.ownerID), !file.isLive
      else { continue }
      let lastAlive = file.isMarkedDead ? file.changed : lastSign(file)
      if age <= 0 || sweep.time - lastAlive >= age {  // bounded: seconds in floating point
        remove(file, sweep, &result)
      } else {
        result.kept.append(file)
        if !sweep.isTrial, !file.isMarkedDead { mark(name.segment, file, isDead: true) }
      }
    }
    let present = Set(segments)
    for name in names where !name.isSegment {
      var segment = name
      segment.isSegment = true
      if !present.contains(segment) { removeControl(name, olderThan: age, sweep, &result) }
    }
  }

  /// Removes a control file whose segment somebody has removed, if no process has it mapped.
  private func removeControl(_ name: Name, olderThan age: Double, _ sweep: Sweep, _ result: inout SweepResult) {
    let path = "\(path)/\(name.control)"
    guard let status = ownStatus(of: name.control, in: descriptor), isOrdinary(status),
      sweep.mayRemove(ofUser: status.st_uid), sweep.time - Double(status.st_mtim.tv_sec) >= age
    else { return }
    let claim = ProcessLiveness.Claim(
      processID: name.processID, startTime: name.startTime, offsets: nil, ownerID: status.st_uid)
    guard ProcessLiveness.find(claim) != .alive, !sweep.writtenFiles.mayContain(FileNumber(status)) else { return }
    if !sweep.isTrial {
      guard unlinkat(descriptor, name.control, 0) == 0 else {
        result.failed[path] = systemWords(errno)
        return
      }
    }
    result.removedControls.append(path)
    result.removedBytes &+= UInt64(max(0, status.st_blocks)) &* 512
  }

  private func isOrdinary(_ status: stat) -> Bool {
    IgnoredFile.Reason(ofFile: status) == nil && checked.canHaveFile(of: status.st_uid)
  }

  private func mark(_ name: String, _ found: SegmentFile, isDead: Bool) {
    guard let file = try? OpenedFile(in: descriptor, name), FileNumber(file.status) == found.number,
      file.status.st_uid == found.ownerID
    else { return }
    let mode = file.status.st_mode & 0o7777
    fchmod(file.descriptor, isDead ? mode & ~S_IWUSR : mode | S_IWUSR)
  }

  private func remove(_ file: SegmentFile, _ sweep: Sweep, _ result: inout SweepResult) {
    let name = SegmentFile.name(processID: file.processID, startTime: file.startTime)
    // The file must still be the file that was found, and its process dead. Names are not used
    // again, so no process can come to life under this name between this check and the removal.
    guard let present = segment(name: name, processID: file.processID, startTime: file.startTime),
      present.number == file.number, present.ownerID == file.ownerID, !present.isLive
    else { return }
    guard !isInUse(present, name, sweep) else {
      result.kept.append(file)
      return
    }
    let control = String(name.dropLast(3)) + "ctl"
    let found = ownStatus(of: control, in: descriptor).flatMap {
      $0.st_uid == file.ownerID && isOrdinary($0) ? $0 : nil
    }
    let controlBytes = UInt64(max(0, found?.st_blocks ?? 0)) &* 512
    if !sweep.isTrial {
      guard unlinkat(descriptor, name, 0) == 0 else {
        result.failed[file.path] = systemWords(errno)
        return
      }
      if found != nil { unlinkat(descriptor, control, 0) }
    }
    result.removed.append(file)
    result.removedBytes &+= file.allocatedBytes &+ controlBytes
  }

  /// Whether any process has the file mapped as an agent does, though no process of its id runs.
  private func isInUse(_ file: SegmentFile, _ name: String, _ sweep: Sweep) -> Bool {
    guard let evidence = SegmentEvidence(directory: descriptor, name: name), evidence.identity == file.number
    else {
      // The file is gone, or the caller may not open it, and so it is no segment of the caller's.
      return true
    }
    if evidence.isLocked { return true }
    if file.processID != getpid() {
      let written = RunningProcesses.writtenFiles(ofProcess: file.processID)
      if written?.contains(evidence.identity) ?? true { return true }
    }
    return !evidence.tellsUse && sweep.writtenFiles.mayContain(evidence.identity)
  }
}
