// SPDX-License-Identifier: Apache-2.0
// Whether the process behind a segment still runs: its id may have gone to another process, which
// started later.
//
// A reader that has no descriptor or memory left to read /proc with knows less, and must not take a
// live process for a dead one: the process's segment would be swept away. Then kill(2), which needs
// no descriptor, decides.

import Glibc

package enum ProcessLiveness {
  /// Whether the process with this id and start time (field 22 of /proc/PID/stat, proc(5)) runs.
  /// `offsets`: the offsets of the time namespace that counts the start time; if they are nil, the
  /// process is asked for its own.
  package static func isAlive(processID: Int32, startTime: UInt64, offsets: ClockOffsets? = nil) -> Bool {
    guard processID > 0 else { return false }
    do throws(ProcError) {
      let directory = try ProcessDirectory(processID: processID)
      let stat = try directory.stat()
      guard isSame(startTime, stat.startTime, offsets, processID) else { return false }
      // The first thread may end before the others, and then stays a zombie for as long as they
      // run.
      return !stat.isEnded || directory.liveTask() != nil
    } catch {
      return error.isShortage && (kill(processID, 0) == 0 || errno == EPERM)
    }
  }

  /// Whether the process exists, also as a zombie for which its parent has not waited.
  package static func isPresent(processID: Int32, startTime: UInt64, offsets: ClockOffsets? = nil) -> Bool {
    guard processID > 0 else { return false }
    do throws(ProcError) {
      return isSame(startTime, try ProcessDirectory(processID: processID).stat().startTime, offsets, processID)
    } catch {
      return error.isShortage && (kill(processID, 0) == 0 || errno == EPERM)
    }
  }

  /// Whether a start time is the start time that /proc shows of process `processID`, which is
  /// `found`.
  package static func isSame(
    _ startTime: UInt64, _ found: UInt64, _ offsets: ClockOffsets?, _ processID: Int32
  ) -> Bool {
    if let offsets { return offsets.isSameStart(startTime, asRead: found) }
    if startTime == found { return true }
    // The segment can't be opened, or its agent did not note the offsets.
    return ClockOffsets(ofProcess: processID)?.isSameStart(startTime, asRead: found) ?? false
  }

  /// The real, effective, saved and file system user ids of a process; nil if it doesn't run.
  package static func userIDs(processID: Int32) -> [UInt32]? {
    let text: [UInt8]
    do throws(ProcError) {
      text = try ProcessDirectory(processID: processID).line("status")
    } catch {
      guard error.isShortage else { return nil }
      // The owner of the directory: the process's effective user, or root if it may not be traced.
      var status = stat()
      return stat("/proc/\(processID)", &status) == 0 ? [status.st_uid] : nil
    }
    return words(ofLine: "Uid:", in: text)?.compactMap { UInt32($0) }
  }

  /// The id, as this reader counts, of the process that has `file` mapped for writing, and that has
  /// the id `inner` in the innermost pid namespace that it is in; nil if there is none, or it may
  /// not be seen. Looks at every process.
  package static func processID(ofInner inner: Int32, writing file: FileNumber) -> Int32? {
    RunningProcesses.ids.first { id in
      guard id != inner, let text = try? ProcessDirectory(processID: id).line("status"),
        let ids = words(ofLine: "NSpid:", in: text), ids.count > 1, ids.last == "\(inner)"
      else { return false }
      return RunningProcesses.writtenFiles(ofProcess: id).contains(file)
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
