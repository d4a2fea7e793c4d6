// SPDX-License-Identifier: Apache-2.0
// What the kernel says of a thread's rights: /proc/self/task/TID/status (proc(5)). Rights belong to threads, so each
// thread is asked.

import Glibc
import SystemAccess

/// The rights of one thread of this process.
struct ThreadState: Equatable {
  /// Real, effective, saved, and of the file system.
  var uids: [UInt32] = []
  var gids: [UInt32] = []
  var groups: Set<UInt32> = []
  /// The sets of capabilities, by the names that they have in the file: CapInh, CapPrm, CapEff, CapBnd, CapAmb.
  var capabilities: [String: UInt64] = [:]
  var hasNoNewPrivileges = false
  /// Whether a filter decides on each system call of the thread.
  var isFiltered = false

  init(status text: String) {
    for line in text.split(separator: "\n") {
      guard let colon = line.firstIndex(of: ":") else { continue }
      let words = line[line.index(after: colon)...].split(whereSeparator: \.isWhitespace)
      switch line[..<colon] {
      case "Uid": uids = words.compactMap { UInt32($0) }
      case "Gid": gids = words.compactMap { UInt32($0) }
      case "Groups": groups = Set(words.compactMap { UInt32($0) })
      case "NoNewPrivs": hasNoNewPrivileges = words == ["1"]
      case "Seccomp": isFiltered = words == ["2"]
      case let name where name.hasPrefix("Cap"):
        capabilities[String(name)] = words.first.flatMap { UInt64($0, radix: 16) }
      default: break
      }
    }
  }

  /// The states of all threads of this process.
  static func all() throws(Complaint) -> [ThreadState] {
    func failure(_ path: String) -> Complaint {
      let code = errno
      return Complaint(
        .obstacle, what: "a worker can't see which rights it has: \(path): \(systemWords(code))",
        advice: "allocsd needs /proc", code: code)
    }
    let folder = "/proc/self/task"
    guard let directory = opendir(folder) else { throw failure(folder) }
    defer { closedir(directory) }
    var states: [ThreadState] = []
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard name.first != "." else { continue }
      guard let text = contents(of: "\(folder)/\(name)/status") else {
        if errno == ENOENT || errno == ESRCH { continue }  // a thread that has ended meanwhile
        throw failure("\(folder)/\(name)/status")
      }
      states.append(ThreadState(status: text))
    }
    guard !states.isEmpty else { throw failure(folder) }
    return states
  }

  /// Throws if the thread has any right that a worker of `identity` should not have.
  func check(_ identity: Identity, kept: UInt64, emptyBounds: Bool) throws(Complaint) {
    func refuse(_ what: String) -> Complaint {
      Complaint(
        .obstacle, what: "a worker for user \(identity.uid) has rights left that it should not have: \(what)")
    }
    guard uids.count == 4, uids.allSatisfy({ $0 == identity.uid }) else { throw refuse("user ids \(uids)") }
    guard gids.count == 4, gids.allSatisfy({ $0 == identity.gid }) else { throw refuse("group ids \(gids)") }
    guard groups == Set(identity.groups) else { throw refuse("groups \(groups.sorted())") }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
      let wanted =
        switch name {
        case "CapPrm", "CapEff": kept
        default: UInt64(0)
        }
      if name == "CapBnd", !emptyBounds, capabilities[name] != nil { continue }
      guard capabilities[name] == wanted else {
        throw refuse("\(name) \(capabilities[name].map { String($0, radix: 16) } ?? "unknown")")
      }
    }
    guard hasNoNewPrivileges else { throw refuse("new privileges by exec") }
  }
}

/// The text of a small file, of /proc or of a cgroup; nil and `errno` if it can't be read.
func contents(of path: String) -> String? {
  let file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard file >= 0 else { return nil }
  defer {
    let code = errno
    close(file)
    errno = code
  }
  var text: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 4096)
  while text.count < 1 << 20 {
    let count = read(file, &chunk, chunk.count)
    if count < 0, errno == EINTR { continue }
    if count < 0 { return nil }
    if count == 0 { break }
    text += chunk[..<count]
  }
  return String(decoding: text, as: UTF8.self)
}
