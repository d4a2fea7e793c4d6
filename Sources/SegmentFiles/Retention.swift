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
// - If the segments of dead processes are more, or take more bytes, than the policy allows, the
//   oldest go first, whatever their age.

import Glibc
import SystemAccess

/// How many segments of dead processes are kept, and for how long.
public struct RetentionPolicy: Hashable, Sendable {
  /// Seconds since a sweep first found the process dead.
  public var maximumAge: Double
  /// Bytes of memory that all segments of dead processes in a directory may take.
  public var maximumBytes: UInt64
  /// Segments of dead processes that a directory may hold.
  public var maximumCount: UInt64

  /// By default a day; a gibibyte, as a tmpfs takes memory from the machine; and a thousand, as
  /// each segment is looked at whenever a process is asked about.
  public init(maximumAge: Double = 86_400, maximumBytes: UInt64 = 1 << 30, maximumCount: UInt64 = 1000) {
    self.maximumAge = maximumAge
    self.maximumBytes = maximumBytes
    self.maximumCount = maximumCount
  }
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
      guard let directory = try? OpenDirectory(path: path), let names = try? directory.names() else { continue }
      directory.sweep(names, policy, sweep, &result)
    }
    return result
  }

  /// Sweeps the segments of `ofUser` in each of `directories` that no server sweeps by limits of
  /// its own. For programs that start a process.
  public static func sweepUnlessServed(
    _ policy: RetentionPolicy = RetentionPolicy(), in directories: [String]? = nil, ofUser: UInt32 = geteuid()
  ) {
    let unserved = (directories ?? searchPaths).filter { !SweeperMark.isHeld(in: $0, by: [0, ofUser]) }
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
      directory.prune(try directory.names(), olderThan: age, lastSign, sweep, &result)
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
  lazy var writtenFiles = RunningProcesses.allWrittenFiles()

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
    _ names: [String], _ policy: RetentionPolicy, _ sweep: Sweep, _ result: inout SweepResult
  ) {
    let time = sweep.time
    var dead = dead(names, sweep)
    // Newest first: segments are kept from the front on, until the policy's limits are reached.
    func deathTime(_ file: SegmentFile) -> Double { file.isMarkedDead ? file.changed : time }
    dead.sort { (deathTime($0), $0.modified) > (deathTime($1), $1.modified) }
    var bytes: UInt64 = 0
    var count: UInt64 = 0
    for file in dead {
      let (sum, overflow) = bytes.addingReportingOverflow(file.allocatedBytes)
      let isTooOld = time - deathTime(file) > policy.maximumAge
      if isTooOld || overflow || sum > policy.maximumBytes || count >= policy.maximumCount {
        remove(file, sweep, &result)
      } else {
        bytes = sum
        count += 1
        result.kept.append(file)
      }
    }
  }

  /// The segments of ended processes that the sweep is about. Segments that are found dead for the
  /// first time are marked.
  private func dead(_ names: [String], _ sweep: Sweep) -> [SegmentFile] {
    names.compactMap { name in
      guard let process = SegmentFile.parse(name: name),
        let file = segment(name: name, processID: process.processID, startTime: process.startTime),
        sweep.mayRemove(ofUser: file.ownerID)
      else { return nil }
      // A mark goes that was made by a sweep that did not know that the process is in another
      // namespace: the age begins when the process ends.
      if !sweep.isTrial, file.isLive == file.isMarkedDead { mark(name, file, isDead: !file.isLive) }
      return file.isLive ? nil : file
    }
  }

  fileprivate func prune(
    _ names: [String], olderThan age: Double, _ lastSign: (SegmentFile) -> Double, _ sweep: Sweep,
    _ result: inout SweepResult
  ) {
    for file in dead(names, sweep) {
      if age <= 0 || sweep.time - (file.isMarkedDead ? file.changed : lastSign(file)) >= age {
        remove(file, sweep, &result)
      } else {
        result.kept.append(file)
      }
    }
    let present = Set(names)
    for name in names where name.hasSuffix(".ctl") {
      let segment = String(name.dropLast(3)) + "seg"
      guard let process = SegmentFile.parse(name: segment), !present.contains(segment) else { continue }
      removeControl(name, process.processID, process.startTime, olderThan: age, sweep, &result)
    }
  }

  /// Removes a control file whose segment somebody has removed, if no process has it mapped.
  private func removeControl(
    _ name: String, _ processID: Int32, _ startTime: UInt64, olderThan age: Double, _ sweep: Sweep,
    _ result: inout SweepResult
  ) {
    var status = stat()
    guard fstatat(descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0, status.st_mode & S_IFMT == S_IFREG,
      sweep.mayRemove(ofUser: status.st_uid), sweep.time - Double(status.st_mtim.tv_sec) >= age,
      !ProcessLiveness.isAlive(processID: processID, startTime: startTime),
      !sweep.writtenFiles.contains(FileNumber(status))
    else { return }
    if !sweep.isTrial {
      guard unlinkat(descriptor, name, 0) == 0 else {
        result.failed["\(path)/\(name)"] = systemWords(errno)
        return
      }
    }
    result.removedControls.append("\(path)/\(name)")
    result.removedBytes += UInt64(max(0, status.st_blocks)) * 512
  }

  private func mark(_ name: String, _ found: SegmentFile, isDead: Bool) {
    let file = openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
    guard file >= 0 else { return }
    defer { close(file) }
    var status = stat()
    guard fstat(file, &status) == 0, UInt64(status.st_ino) == found.inode else { return }
    let mode = status.st_mode & 0o7777
    fchmod(file, isDead ? mode & ~S_IWUSR : mode | S_IWUSR)
  }

  private func remove(_ file: SegmentFile, _ sweep: Sweep, _ result: inout SweepResult) {
    let name = SegmentFile.name(processID: file.processID, startTime: file.startTime)
    // The file must still be the file that was found, and its process dead. Names are not used
    // again, so no process can come to life under this name between this check and the removal.
    guard let present = segment(name: name, processID: file.processID, startTime: file.startTime),
      present.inode == file.inode, !present.isLive
    else { return }
    guard !isInUse(present, name, sweep) else {
      result.kept.append(file)
      return
    }
    let control = String(name.dropLast(3)) + "ctl"
    var status = stat()
    let controlBytes =
      fstatat(descriptor, control, &status, AT_SYMLINK_NOFOLLOW) == 0 ? UInt64(max(0, status.st_blocks)) * 512 : 0
    if !sweep.isTrial {
      guard unlinkat(descriptor, name, 0) == 0 else {
        result.failed[file.path] = systemWords(errno)
        return
      }
      unlinkat(descriptor, control, 0)
    }
    result.removed.append(file)
    result.removedBytes += file.allocatedBytes &+ controlBytes
  }

  /// Whether any process has the file mapped as an agent does, though no process of its id runs.
  private func isInUse(_ file: SegmentFile, _ name: String, _ sweep: Sweep) -> Bool {
    guard let evidence = SegmentEvidence(directory: descriptor, name: name), evidence.identity.inode == file.inode
    else {
      // The file is gone, or the caller may not open it, and so it is no segment of the caller's.
      return true
    }
    if evidence.isLocked { return true }
    if RunningProcesses.writtenFiles(ofProcess: file.processID).contains(evidence.identity), file.processID != getpid()
    {
      return true
    }
    return !evidence.tellsUse && sweep.writtenFiles.contains(evidence.identity)
  }
}
