// SPDX-License-Identifier: Apache-2.0
// Sweep: removes old segments of ended processes, where no server does it. Without it, a shell that
// starts a thousand commands would leave a thousand segments for ever.
//
// One start in `interval` sweeps, right after the process has made its own segment. It may remove a
// regular file of its own user that has the name of a segment, if all of this is known of the file:
// - The process has ended: no process has its id, and nobody holds the lock that its agent took
//   (ALLOCS_IDENTITY_LOCKED), in whatever namespace the process was.
// - `keptCount` newer segments of that user's ended processes are there, or they take `keptBytes`.
//   A process that did not exit in order is kept for longer, because crashes are looked at for
//   longer: for it, the number is `keptEndedOtherwise`.
// - No server of that user or of root sweeps the directory by limits that it was given, nor root's
//   server the directories of all users (Retention.swift, SweeperMark).
// A segment stays if one of these cannot be known. In a directory for all users, names may be
// others': what is mounted over one is neither asked nor entered (System.openWithin). One pass
// looks at a limited number of names, and removes a limited number of files; the next pass goes on
// from there.

import AgentMachine
import SharedLayout

enum Sweep {
  private static let interval: UInt64 = 32
  private static let keptCount = 64
  private static let keptEndedOtherwise = 256
  private static let keptBytes: UInt64 = 1 << 30
  private static let mostNames = 4096
  private static let mostRemoved = 96
  private static let mostExamined = 512

  /// A file that may be removed.
  private struct Candidate {
    /// In the order in which the processes started, also across a boot.
    var modified: UInt64
    var inode: UInt64
    var startTime: UInt64
    var allocated: UInt64
    var pid: UInt32
  }

  private static let namesSize = 32 << 10
  private static var memorySize: UInt64 { UInt64(namesSize + mostNames * MemoryLayout<Candidate>.stride) }

  /// Whether this start is one that sweeps. Such starts are spread evenly over processes, whether
  /// their ids follow each other or not.
  static func isDue(_ header: UnsafeMutablePointer<allocs_header>) -> Bool {
    let seed = (header.pointee.clock.realtime_ns / 1000) ^ UInt64(header.pointee.pid)
    return (seed &* 0x9E37_79B9_7F4A_7C15) >> 32 % interval == 0
  }

  static func run(in directory: Int, _ header: UnsafeMutablePointer<allocs_header>) {
    let user = System.effectiveUserID
    guard !System.isFiltered, !isSwept(directory, by: 0), user == 0 || !isSwept(directory, by: user),
      allocs_process().pointee.names_directory != 0 || !areAllSwept, let memory = System.map(memorySize)
    else { return }
    let candidates = (memory + namesSize).assumingMemoryBound(to: Candidate.self)
    let count = list(directory, user, names: memory, candidates)
    if count > keptCount || takesTooMuch(candidates, count) {
      sort(candidates, count)
      remove(candidates, count, in: directory)
    }
    System.unmap(memory, memorySize)
  }

  /// Whether root's server holds its mark in root's directory: then it sweeps the directories of
  /// all users.
  private static var areAllSwept: Bool {
    typealias Flags = System.OpenFlags
    let directory = System.open(
      allocs_parent_of_place(ALLOCS_PLACE_COMMON.rawValue), Flags.readOnly | Flags.directory | Flags.noFollow)
    guard directory >= 0 else { return false }
    defer { System.close(directory) }
    return isSwept(directory, by: 0)
  }

  /// Whether a server of `user` holds its mark in the directory. Anybody may put a file of that
  /// name there, so only a file that belongs to `user` counts.
  private static func isSwept(_ directory: Int, by user: UInt32) -> Bool {
    var name = Text()
    name.append("allocsd.")
    name.append(UInt64(user))
    name.append(".sweeps")
    return name.withCString { path in
      guard let status = System.status(in: directory, path), status.userID == user, status.isRegular else {
        return false
      }
      typealias Flags = System.OpenFlags
      let descriptor = System.openWithin(directory, path, Flags.readOnly | Flags.nonBlocking)
      // Root's server has a mark, and only root may ask whether the mark is held.
      guard descriptor >= 0 else { return true }
      defer { System.close(descriptor) }
      return System.isLocked(descriptor) ?? true
    }
  }

  // MARK: finding segments

  /// The user's segments whose processes seem to have ended.
  private static func list(
    _ directory: Int, _ user: UInt32, names: Address, _ candidates: UnsafeMutablePointer<Candidate>
  ) -> Int {
    var count = 0
    var seen = 0
    while seen < mostNames {
      let size = System.entries(directory, names, namesSize)
      guard size > 0 else { return count }
      var offset = 0
      // struct linux_dirent64: inode, offset, 16 bits of length, a byte of type, the name.
      let (lengthOffset, nameOffset) = (16, 19)
      while offset + nameOffset < size {
        let entry = names + offset
        let length = Int((entry + lengthOffset).loadUnaligned(as: UInt16.self))
        guard length > nameOffset, offset + length <= size else { return count }
        offset += length
        seen += 1
        let name = UnsafeMutableRawPointer(entry + nameOffset).assumingMemoryBound(to: CChar.self)
        guard let process = parse(name), System.hasEnded(process.pid, of: process.pid),
          let status = System.status(in: directory, name), status.userID == user, status.isRegular
        else { continue }
        candidates[count] = Candidate(
          modified: status.modified, inode: status.inode, startTime: process.startTime, allocated: status.allocated,
          pid: process.pid)
        count += 1
        if count == mostNames { return count }
      }
    }
    return count
  }

  /// The process id and the start time that the name of a segment has; nil if it is another name.
  private static func parse(_ name: UnsafePointer<CChar>) -> (pid: UInt32, startTime: UInt64)? {
    var next = name
    guard let pid = number(&next), pid > 0, pid <= UInt64(Int32.max), next[0] == CChar(UInt8(ascii: ".")) else {
      return nil
    }
    next += 1
    guard let startTime = number(&next) else { return nil }
    let end: StaticString = ".seg"
    for index in 0..<end.utf8CodeUnitCount where next[index] != CChar(end.utf8Start[index]) { return nil }
    return next[end.utf8CodeUnitCount] == 0 ? (UInt32(pid), startTime) : nil
  }

  /// A number of at most 18 digits. It has no leading zeros, so that a process has one name only.
  private static func number(_ next: inout UnsafePointer<CChar>) -> UInt64? {
    let start = next
    var value: UInt64 = 0
    while next - start < 18 {
      let digit = UInt8(bitPattern: next.pointee) &- UInt8(ascii: "0")
      guard digit < 10 else { break }
      value = value &* 10 &+ UInt64(digit)
      next += 1
    }
    return next == start || (value > 0 && start.pointee == CChar(UInt8(ascii: "0"))) ? nil : value
  }

  private static func takesTooMuch(_ candidates: UnsafeMutablePointer<Candidate>, _ count: Int) -> Bool {
    var bytes: UInt64 = 0
    for index in 0..<count { bytes = bytes &+ candidates[index].allocated }
    return bytes > keptBytes
  }

  /// Sorts by age, the newest first, by Shell's method: it is short, and needs no recursion and no
  /// memory.
  private static func sort(_ candidates: UnsafeMutablePointer<Candidate>, _ count: Int) {
    var gap = 1
    while gap < count / 3 { gap = gap * 3 + 1 }
    while gap > 0 {
      var index = gap
      while index < count {
        let moved = candidates[index]
        var place = index
        while place >= gap, candidates[place - gap].modified < moved.modified {
          candidates[place] = candidates[place - gap]
          place -= gap
        }
        candidates[place] = moved
        index += 1
      }
      gap /= 3
    }
  }

  // MARK: removal

  private static func remove(_ candidates: UnsafeMutablePointer<Candidate>, _ count: Int, in directory: Int) {
    // `first` is the first candidate that may go: it comes after the candidates that are kept by
    // their number, or by the bytes that they take together. `mustGo` is the first that goes
    // however it ended.
    var first = 0
    var bytes: UInt64 = 0
    var mustGo = count
    while first < count, first < keptCount {
      bytes = bytes &+ candidates[first].allocated
      if bytes > keptBytes { break }
      first += 1
    }
    if bytes > keptBytes { mustGo = first }
    mustGo = min(mustGo, keptEndedOtherwise)
    // From the oldest on.
    var examined = 0
    var removed = 0
    var index = count - 1
    while index >= first, examined < mostExamined, removed < mostRemoved {
      let ending = ending(of: candidates[index], in: directory)
      if ending == .inOrder || (ending == .otherwise && index >= mustGo), unlink(candidates[index], in: directory) {
        removed += 1
      }
      examined += 1
      index -= 1
    }
  }

  private enum Ending {
    case inOrder
    case otherwise
    /// Nothing proves that the process has ended.
    case unknown
  }

  private static func ending(of candidate: Candidate, in directory: Int) -> Ending {
    let name = Segment.fileName(candidate.pid, candidate.startTime)
    return name.withCString { path in
      typealias Flags = System.OpenFlags
      let descriptor = System.openWithin(directory, path, Flags.readOnly | Flags.nonBlocking)
      guard descriptor >= 0 else { return .unknown }
      defer { System.close(descriptor) }
      guard System.status(of: descriptor)?.inode == candidate.inode, System.isLocked(descriptor) == false else {
        return .unknown
      }
      // The start of struct allocs_header.
      var head: (magic: UInt64, version: UInt32, UInt32, (UInt64, UInt64, UInt64), state: UInt32, UInt32) = (
        0, 0, 0, (0, 0, 0), 0, 0
      )
      var identity: UInt32 = 0
      guard Segment.read(descriptor, &head, at: 0),
        Segment.read(descriptor, &identity, at: UInt64(ALLOCS_IDENTITY_OFFSET)),
        head.magic == UInt64(ALLOCS_MAGIC), head.version >= UInt32(ALLOCS_IDENTITY_VERSION),
        head.version <= UInt32(ALLOCS_LAYOUT_VERSION),
        identity & ALLOCS_IDENTITY_LOCKED.rawValue != 0
      else { return .unknown }
      return head.state == ALLOCS_STATE_EXITED.rawValue ? .inOrder : .otherwise
    }
  }

  /// Removes the segment, and the control file that goes with it.
  private static func unlink(_ candidate: Candidate, in directory: Int) -> Bool {
    let segment = Segment.fileName(candidate.pid, candidate.startTime)
    guard segment.withCString({ System.unlink(in: directory, $0) }) >= 0 else { return false }
    var control = Text()
    control.append(UInt64(candidate.pid))
    control.append(".")
    control.append(candidate.startTime)
    control.append(".ctl")
    _ = control.withCString { System.unlink(in: directory, $0) }
    return true
  }
}
