// SPDX-License-Identifier: Apache-2.0
// Whether the process behind a segment still runs: its id may have gone to another process, which
// started later.
//
// A reader that has no descriptor or memory left to read /proc with knows less, and must not take a
// live process for a dead one: the process's segment would be swept away. Then kill(2), which needs
// no descriptor, decides.

import Glibc

enum ProcessLiveness {
  /// A process as the name of a segment claims it.
  struct Claim {
    var processID: Int32
    var startTime: UInt64
    /// The offsets of the time namespace that counts the start time; if they are nil, the process
    /// is asked for its own.
    var offsets: ClockOffsets?
    /// The owner of the file.
    var ownerID: UInt32
  }

  /// The result of looking for the claimed process.
  enum Finding {
    /// No such process.
    case none
    /// It runs.
    case alive
    /// It has ended, and its parent has not waited for it.
    case ended
    /// Such a process is there, and isn't the owner's.
    case foreign
  }

  static func find(_ claim: Claim) -> Finding {
    guard claim.processID > 0 else { return .none }
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: claim.processID)
      let stat = try directory.stat()
      guard isSame(claim.startTime, stat.startTime, claim.offsets, directory) else { return .none }
      guard directory.stranger(to: claim.ownerID) == nil else { return .foreign }
      // The first thread may end before the others, and then stays a zombie for as long as they
      // run.
      return !stat.isEnded || directory.liveTask() != nil ? .alive : .ended
    } catch {
      return error.isShortage && hasNumber(claim.processID) ? .alive : .none
    }
  }

  /// Whether there is a process of that number. For callers without a descriptor left.
  static func hasNumber(_ processID: Int32) -> Bool { kill(processID, 0) == 0 || errno == EPERM }

  /// The users of the process with this number, whose process it may be; nil if there is none.
  static func userIDs(processID: Int32) -> [UInt32]? {
    guard processID > 0, let directory = try? ProcessDirectory(processID: processID) else { return nil }
    return (try? directory.line("status")).flatMap(userIDs) ?? directory.effectiveUser.map { [$0] }
  }

  /// The real, effective, saved and file system user in the text of /proc/PID/status.
  static func userIDs(_ status: [UInt8]) -> [UInt32]? {
    words(ofLine: "Uid:", in: status)?.compactMap { UInt32($0, radix: 10) }
  }

  /// The four groups in that text.
  static func groupIDs(_ status: [UInt8]) -> [UInt32]? {
    words(ofLine: "Gid:", in: status)?.compactMap { UInt32($0, radix: 10) }
  }

  /// Whether a start time is the start time that /proc shows of a process, which is `found`.
  static func isSame(
    _ startTime: UInt64, _ found: UInt64, _ offsets: ClockOffsets?, _ directory: borrowing ProcessDirectory
  ) -> Bool {
    if let offsets { return offsets.isSameStart(startTime, asRead: found) }
    if startTime == found { return true }
    // The segment can't be opened, or its agent did not note the offsets.
    return ClockOffsets(of: directory)?.isSameStart(startTime, asRead: found) ?? false
  }

  /// The id, as this reader counts, of the process that has `file` mapped for writing, and that has
  /// the id `inner` in the innermost pid namespace that it is in; nil if there is none, or it may
  /// not be seen. Looks at every process.
  static func processID(ofInner inner: Int32, writing file: FileNumber) -> Int32? {
    RunningProcesses.ids.first { id in
      guard id != inner, let text = try? ProcessDirectory(processID: id).line("status"),
        let ids = words(ofLine: "NSpid:", in: text), ids.count > 1, ids.last == "\(inner)"
      else { return false }
      return RunningProcesses.writtenFiles(ofProcess: id)?.contains(file) == true
    }
  }

  private static func words(ofLine name: String, in text: [UInt8]) -> [String]? {
    for line in text.split(separator: UInt8(ascii: "\n")) {
      let words = line.split { $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: " ") }
      guard let first = words.first, first.elementsEqual(name.utf8) else { continue }
      return words.dropFirst().map { String(decoding: $0, as: UTF8.self) }
    }
    return nil
  }
}

/// Whether a system call failed for want of descriptors or memory of the caller or the machine.
package func isShortage(_ code: Int32) -> Bool { [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(code) }
