// SPDX-License-Identifier: Apache-2.0
// Work for one user that may take as long as that user likes: the user's segments are swept, which reads the mappings
// of the user's processes; or a process in another pid namespace is searched for among all processes; or names that are
// no segments are removed. It is done in a
// child with that user's rights on files, which the kernel ends after some seconds; the process that watches waits for
// none.
//
// - One child at a time for a user, a few in all, and of one user not many a minute.
// - The child's real user is root, so that the user can't stop or kill it.

import CProcessEnds
import Glibc
import SegmentFiles
import SystemAccess

struct Chores {
  enum Work {
    case sweep(RetentionPolicy, directories: [String])
    case search(SegmentFile)
    /// Removes what is in a directory of segments and is none of an agent's.
    case clear(directory: String)
  }

  /// A child that has ended. `numbers` and `text` are what it told; without numbers, it was ended, or failed.
  struct Done {
    var work: Work
    var user: UInt32
    var numbers: [UInt64] = []
    var text = ""
  }

  private struct Running {
    var work: Work
    var user: UInt32
    var result: Int32
  }

  private var running: [Int32: Running] = [:]
  private var busy: Set<UInt32> = []
  private var shares: [UInt32: Allowance] = [:]

  static let most = 8
  static let seconds: UInt32 = 5
  /// Segments whose removal is told by name.
  private static let mostLines = 16
  private static let mostBytes = 1024

  /// Starts the work; returns false where it must wait.
  mutating func begin(_ work: Work, for user: UInt32, _ log: Log, at now: Double) -> Bool {
    guard running.count < Self.most, !busy.contains(user) else { return false }
    if shares.count > 1000 {
      shares = shares.filter { entry in
        var share = entry.value
        return !share.isFull(at: now)
      }
    }
    guard shares[user, default: Allowance(burst: 10, rate: 0.5, at: now)].take(at: now) else { return false }
    var result: Int32 = -1
    let child = allocs_fork_for_work(&result, Self.seconds)
    guard child != 0 else { Self.work(work, as: user, log, result) }
    guard child > 0 else { return false }
    running[child] = Running(work: work, user: user, result: result)
    busy.insert(user)
    return true
  }

  /// Takes the results of a child that was waited for; nil if it is none of these.
  mutating func ended(_ child: Int32) -> Done? {
    guard let entry = running.removeValue(forKey: child) else { return nil }
    busy.remove(entry.user)
    var bytes = [UInt8](repeating: 0, count: Self.mostBytes)
    let count = read(entry.result, &bytes, bytes.count)
    close(entry.result)
    var done = Done(work: entry.work, user: entry.user)
    guard count >= 16 else { return done }
    done.numbers = bytes.withUnsafeBytes { bytes in
      [0, 8].map { bytes.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
    }
    done.text = String(decoding: bytes[..<count].dropFirst(16), as: UTF8.self)
    return done
  }

  // MARK: in the child

  private static func work(_ work: Work, as user: UInt32, _ log: Log, _ result: Int32) -> Never {
    if geteuid() == 0, user != 0, seteuid(user) != 0 { _exit(1) }
    var numbers: [UInt64] = [0, 0]
    var text = ""
    switch work {
    case .sweep(let policy, let directories):
      let swept = SegmentDirectory.sweep(policy, in: directories, ofUser: user)
      for file in swept.removed.prefix(Self.mostLines) {
        log(.info, "removed the segment of a dead process", ("segment", file.path))
      }
      if swept.removed.count > mostLines {
        log(
          .info, "removed segments of dead processes", ("uid", "\(user)"),
          ("more", "\(swept.removed.count &- mostLines)"))
      }
      numbers = [UInt64(swept.removed.count), UInt64(swept.failed.count)]
      text = swept.failed.min { $0.key < $1.key }.map { "\($0.key): \($0.value)" } ?? ""
    case .search(let file):
      numbers[0] = UInt64(max(0, file.processIDHere ?? 0))
    case .clear(let path):
      if let directory = try? OpenDirectory(path: path), directory.checked.ownerID == user {
        numbers[0] = UInt64(max(0, directory.removeSurplus()))
      }
    }
    let bytes = Array([numbers.withUnsafeBytes { Array($0) }, Array(text.utf8)].joined().prefix(Self.mostBytes))
    _ = bytes.withUnsafeBytes { write(result, $0.baseAddress, $0.count) }
    _exit(0)
  }
}
