// Whether the process behind a segment still runs: its id may have gone to another one, which started later.

import Glibc

enum ProcessLiveness {
  /// Whether the process with this id and start time (field 22 of /proc/PID/stat, proc(5)) runs.
  static func isAlive(processID: Int32, startTime: UInt64) -> Bool {
    guard processID > 0, let text = contents(of: "/proc/\(processID)/stat") else { return false }
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
    guard let text = contents(of: "/proc/\(processID)/status") else { return nil }
    for line in text.split(separator: UInt8(ascii: "\n")) {
      let words = line.split { $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: " ") }
      guard let name = words.first, name.elementsEqual("Uid:".utf8) else { continue }
      return words.dropFirst().compactMap { UInt32(String(decoding: $0, as: UTF8.self)) }
    }
    return nil
  }

  /// The first page of a file under /proc.
  private static func contents(of path: String) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    return Array(unsafeUninitializedCapacity: 4096) { buffer, count in
      count = max(0, read(descriptor, buffer.baseAddress, buffer.count))
    }
  }
}
