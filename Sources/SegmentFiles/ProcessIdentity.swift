// SPDX-License-Identifier: Apache-2.0
// Which process a segment is of. A directory, a name in it, the file behind the name, the file's
// header, its owner and a running process are separate claims, which different people can make. An
// identity can only be made by holding them against each other, and all that reads /proc or a
// control file for a segment takes an identity.
//
// Held against each other:
// - the directory: it is trusted, and the file's owner can have put the file there
//   (CheckedDirectory);
// - the name in it: PID.STARTTIME.seg, if it has that form;
// - the file: regular, with no second name, opened once;
// - the header: names the same process. It is read once; what stands there later is not looked at;
// - the process of that number and start time, where one runs here: its real, effective, saved and
//   file system user is the file's owner. A file of root's may be of anybody's process: only root
//   can make such a file, and root's programs go on as other users.
//
// Whether the process has this very file mapped is seen when its mappings are read: after exec it
// has not, and then the segment is that of an earlier program. So a user can, at the worst, put a
// segment of their own making beside their own process.

import Glibc
import SharedLayout
import SystemAccess

/// The process that a segment is of. A value: its files may be gone.
public struct ProcessIdentity: Hashable, Sendable {
  /// The process's id, in the pid namespace of the process.
  public let processID: Int32
  /// When it started: clock ticks since boot, as the process counts, field 22 of /proc/PID/stat.
  public let startTime: UInt64
  /// The owner of the segment: besides root the only user who may learn anything of the process.
  public let ownerID: UInt32
  /// The offsets of the process's time namespace; nil if its agent did not note them.
  package let offsets: ClockOffsets?
  /// Whether the agent took the lock that tells whether the process has the segment.
  package let isLockedByProcess: Bool
  /// The segment's file, and its directory, by numbers.
  package let file: FileNumber
  package let directory: FileNumber

  /// Of an open segment. Throws `.notASegment` where the claims don't belong together.
  package init(of file: borrowing OpenFile, path: String) throws(Complaint) {
    let header = try SegmentHeader(of: file, path: path).fields
    guard let processID = Int32(exactly: header.pid), processID > 0 else {
      throw .notASegment(path: path, why: "its header has process id \(header.pid)")
    }
    if let named = SegmentFile.process(ofPath: path),
      named.processID != processID || named.startTime != header.start_time
    {
      throw .notASegment(
        path: path, why: "its header is that of process \(processID), started at \(header.start_time)")
    }
    self.processID = processID
    startTime = header.start_time
    ownerID = file.ownerID
    offsets = ClockOffsets(header)
    isLockedByProcess = header.identity & ALLOCS_IDENTITY_LOCKED.rawValue != 0
    self.file = file.identity
    directory = file.directory
    // A process in another pid namespace has another number here, and the number another process.
    if case .another(let user) = process, !file.isLocked {
      throw .notASegment(
        path: path, why: "it is user \(ownerID)'s, and process \(processID) is user \(user)'s")
    }
  }

  /// The process that has the number and the start time here.
  private enum Found {
    case none
    case its
    /// A process of another user.
    case another(user: UInt32)
  }

  private var process: Found {
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: processID)
      guard isStart(asRead: try directory.stat().startTime, directory) else { return .none }
      guard let user = directory.stranger(to: ownerID) else { return .its }
      return .another(user: user)
    } catch {
      return .none
    }
  }

  /// Whether a process with that start time, as /proc shows it to this reader, is the segment's
  /// process.
  package func isStart(asRead ticks: UInt64) -> Bool {
    if let offsets { return offsets.isSameStart(startTime, asRead: ticks) }
    if startTime == ticks { return true }
    guard let directory = try? ProcessDirectory(processID: processID) else { return false }
    return isStart(asRead: ticks, directory)
  }

  func isStart(asRead ticks: UInt64, _ directory: borrowing ProcessDirectory) -> Bool {
    ProcessLiveness.isSame(startTime, ticks, offsets, directory)
  }

  /// The offsets that the process's time namespace adds to the machine's clocks. Where the segment
  /// does not have them, the process is asked.
  package var clockOffsets: ClockOffsets {
    if let offsets { return offsets }
    guard let directory = try? ProcessDirectory(of: self) else { return .none }
    return ClockOffsets(of: directory) ?? .none
  }

  /// When the process started, as /proc shows it to this reader. For a process in another time
  /// namespace the number differs from the segment's.
  package var startTimeHere: UInt64 {
    guard let offsets, offsets.boottime != ClockOffsets.own.boottime, let directory = try? ProcessDirectory(of: self)
    else { return startTime }
    return directory.found?.startTime ?? startTime
  }

  /// Whether the process with that number runs here. A few system calls.
  package var isAlive: Bool {
    do throws(ProcError) {
      let directory = try ProcessDirectory(of: self)
      return directory.found?.isEnded == false || directory.liveTask() != nil
    } catch {
      return error.isShortage && ProcessLiveness.hasNumber(processID)
    }
  }
}

extension ProcessDirectory {
  /// A user that the process runs as and that may not be told of the segments of `owner`; nil if
  /// there is none: all of the process is the owner's.
  func stranger(to owner: UInt32) -> UInt32? {
    guard owner != 0 else { return nil }
    // The owner of the directory is the process's effective user, or root if the process may not be
    // traced. A process that changes between users may not.
    if effectiveUser == owner { return nil }
    guard let text = try? line("status"), let users = ProcessLiveness.userIDs(text), users.count == 4 else {
      return effectiveUser ?? 0
    }
    return users.first { $0 != owner }
  }
}
