// Which segments of dead processes are kept, and for how long.
//
// - A segment of a running process is never touched, nor one of another user's unless root sweeps.
// - When a process died is written nowhere: it may have been killed. The first sweep that finds a segment dead takes away
//   its owner's permission to write, which nobody needs any more; the time of that change (st_ctime) starts its age.
// - If the dead ones are more, or take more bytes, than the policy has it, the oldest go first, whatever their age.

import Glibc

/// How much of the dead is kept.
public struct RetentionPolicy: Hashable, Sendable {
  /// Seconds since a sweep first found the process dead.
  public var maximumAge: Double
  /// Bytes of memory that all segments of dead processes in a directory may take.
  public var maximumBytes: UInt64
  /// Segments of dead processes that a directory may hold.
  public var maximumCount: UInt64

  /// A day; a gibibyte, as memory is what a tmpfs takes from the machine; a thousand, as each is looked at whenever a
  /// process is asked about.
  public init(maximumAge: Double = 86_400, maximumBytes: UInt64 = 1 << 30, maximumCount: UInt64 = 1000) {
    self.maximumAge = maximumAge
    self.maximumBytes = maximumBytes
    self.maximumCount = maximumCount
  }
}

/// What a sweep did.
public struct SweepResult: Hashable, Sendable {
  public var removed: [SegmentFile] = []
  /// Dead ones that were kept.
  public var kept: [SegmentFile] = []
  /// Files that should have gone, each with the system's reason why it could not be removed.
  public var failed: [String: String] = [:]
}

extension SegmentDirectory {
  /// Removes segments of dead processes that are too old or too many, with their control files, from each of `directories`
  /// (nil: `searchPaths`). `time`: now, in seconds since 1970-01-01 UTC.
  @discardableResult
  public static func sweep(
    _ policy: RetentionPolicy = RetentionPolicy(), in directories: [String]? = nil, at time: Double? = nil
  ) -> SweepResult {
    var result = SweepResult()
    for path in directories ?? searchPaths {
      // Where that can't be looked at for want of descriptors, the next sweep will.
      guard let directory = try? OpenDirectory(path: path), let names = try? directory.names() else { continue }
      directory.sweep(names, policy, at: time ?? wallClock(), &result)
    }
    return result
  }

  private static func wallClock() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
  }
}

extension OpenDirectory {
  fileprivate func sweep(
    _ names: [String], _ policy: RetentionPolicy, at time: Double, _ result: inout SweepResult
  ) {
    let user = geteuid()
    var dead: [SegmentFile] = []
    for name in names {
      guard let process = SegmentFile.parse(name: name),
        let file = segment(name: name, processID: process.processID, startTime: process.startTime),
        !file.isLive, user == 0 || file.ownerID == user
      else { continue }
      if !file.isMarkedDead { mark(name, file) }
      dead.append(file)
    }
    // Newest first; a sweep fills what may be kept from the front.
    func deathTime(_ file: SegmentFile) -> Double { file.isMarkedDead ? file.changed : time }
    dead.sort { (deathTime($0), $0.modified) > (deathTime($1), $1.modified) }
    var bytes: UInt64 = 0
    var count: UInt64 = 0
    for file in dead {
      let (sum, overflow) = bytes.addingReportingOverflow(file.allocatedBytes)
      let isTooOld = time - deathTime(file) > policy.maximumAge
      if isTooOld || overflow || sum > policy.maximumBytes || count >= policy.maximumCount {
        remove(file, &result)
      } else {
        bytes = sum
        count += 1
        result.kept.append(file)
      }
    }
  }

  private func mark(_ name: String, _ found: SegmentFile) {
    let file = openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
    guard file >= 0 else { return }
    defer { close(file) }
    var status = stat()
    guard fstat(file, &status) == 0, UInt64(status.st_ino) == found.inode else { return }
    fchmod(file, status.st_mode & 0o7777 & ~S_IWUSR)
  }

  private func remove(_ file: SegmentFile, _ result: inout SweepResult) {
    let name = SegmentFile.name(processID: file.processID, startTime: file.startTime)
    // The same file still, and no process by its id has come to life: names are not reused, so nothing can come between.
    guard let present = segment(name: name, processID: file.processID, startTime: file.startTime),
      present.inode == file.inode, !present.isLive
    else { return }
    guard unlinkat(descriptor, name, 0) == 0 else {
      result.failed[file.path] = systemMessage(errno)
      return
    }
    unlinkat(descriptor, String(name.dropLast(3)) + "ctl", 0)
    result.removed.append(file)
  }
}
