// Whether the process behind a segment still runs: its id may have gone to another one, which started later.
//
// Who has no descriptor or memory left to read /proc with knows less, and must not take a live process for a dead one: its
// segment would be swept away. What can be known without a descriptor then decides.

import Glibc

enum ProcessLiveness {
  /// Whether the process with this id and start time (field 22 of /proc/PID/stat, proc(5)) runs.
  static func isAlive(processID: Int32, startTime: UInt64) -> Bool {
    guard processID > 0 else { return false }
    let text: [UInt8]
    switch contents(of: "/proc/\(processID)/stat") {
    case .bytes(let bytes): text = bytes
    case .none: return false
    case .shortage: return kill(processID, 0) == 0 || errno == EPERM
    }
    // The second field is the name in parentheses, which may itself hold spaces and parentheses.
    guard let close = text.lastIndex(of: UInt8(ascii: ")")) else { return false }
    let fields = text[(close + 1)...].split(separator: UInt8(ascii: " "))
    // From the third field on: state, …, number of threads (20th), …, start time (22nd).
    guard fields.count > 19, UInt64(String(decoding: fields[19], as: UTF8.self)) == startTime else { return false }
    let isZombie = fields[0].first == UInt8(ascii: "Z") || fields[0].first == UInt8(ascii: "X")
    // A process whose first thread ended goes on as a zombie with other threads.
    return !isZombie || Int(String(decoding: fields[17], as: UTF8.self)) ?? 0 > 1
  }

  /// The real, effective, saved and file system user ids of a process; nil if it doesn't run.
  static func userIDs(processID: Int32) -> [UInt32]? {
    let text: [UInt8]
    switch contents(of: "/proc/\(processID)/status") {
    case .bytes(let bytes): text = bytes
    case .none: return nil
    case .shortage:
      // Its effective user, or root if it may not be traced.
      var status = stat()
      return stat("/proc/\(processID)", &status) == 0 ? [status.st_uid] : nil
    }
    for line in text.split(separator: UInt8(ascii: "\n")) {
      let words = line.split { $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: " ") }
      guard let name = words.first, name.elementsEqual("Uid:".utf8) else { continue }
      return words.dropFirst().compactMap { UInt32(String(decoding: $0, as: UTF8.self)) }
    }
    return nil
  }

  private enum Contents {
    case bytes([UInt8])
    /// There is no such process.
    case none
    /// Nothing is known: the reader lacks what it takes to look.
    case shortage
  }

  /// The first page of a file under /proc.
  private static func contents(of path: String) -> Contents {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return isShortage(errno) ? .shortage : .none }
    defer { close(descriptor) }
    var failure: Int32 = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
      let size = read(descriptor, buffer.baseAddress, buffer.count)
      if size < 0 { failure = errno }
      count = max(0, size)
    }
    return failure == 0 ? .bytes(bytes) : isShortage(failure) ? .shortage : .none
  }
}

/// Whether a system call failed for want of descriptors or memory of the caller or the machine.
package func isShortage(_ code: Int32) -> Bool { [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(code) }
