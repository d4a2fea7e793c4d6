// SPDX-License-Identifier: Apache-2.0
// Temporary directories and files of tests: in memory where the machine has /dev/shm, as segments are in use.

import Foundation
import Synchronization

/// Counts what got a name of its own in this process.
private let named = Atomic<Int>(0)

/// A path for a temporary file that nothing has yet; `name` says what it is for.
package func unusedPath(_ name: String) -> String {
  "\(TestDirectory.parent)/allocs-\(name)-\(getpid())-\(named.add(1, ordering: .relaxed).newValue)"
}

/// A temporary directory of one test, removed with all that is in it.
package final class TestDirectory: Sendable {
  /// Where temporary files are. On tmpfs alone does reading a hole leave a trace.
  package static let parent: String = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"

  package let path: String

  package init() throws {
    var template = Array("\(Self.parent)/allocs-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw HarnessError("cannot make a directory in \(Self.parent): \(String(cString: strerror(errno)))")
    }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// The path of a file in it.
  package func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a directory in it.
  package func directory(_ name: String) throws -> String {
    try FileManager.default.createDirectory(atPath: file(name), withIntermediateDirectories: true)
    return file(name)
  }

  package func write(_ text: String, to name: String) throws -> String {
    try text.write(toFile: file(name), atomically: false, encoding: .utf8)
    return file(name)
  }

  /// Makes an empty file in it, whose contents were last changed at `modified`, in seconds since 1970-01-01 UTC: now
  /// where that is nil. `owner`: for root alone.
  @discardableResult
  package func touch(_ name: String, modified: Int? = nil, owner: UInt32? = nil) -> String {
    let path = file(name)
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600))
    if let owner { chown(path, owner, owner) }
    if let modified {
      var times = [timespec(tv_sec: modified, tv_nsec: 0), timespec(tv_sec: modified, tv_nsec: 0)]
      utimensat(AT_FDCWD, path, &times, 0)
    }
    return path
  }

  /// The paths of the segments in it, `pid`'s only if it is given.
  package func segments(of pid: Int32? = nil) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: path).filter {
      $0.hasSuffix(".seg") && (pid == nil || $0.hasPrefix("\(pid!)."))
    }.sorted().map(file)
  }

  /// The path of the only segment of `pid`.
  package func segment(of pid: Int32) throws -> String {
    let found = try segments(of: pid)
    guard found.count == 1 else {
      let all = try FileManager.default.contentsOfDirectory(atPath: path)
      throw HarnessError("process \(pid) has \(found.count) segments in \(path), which holds \(all)")
    }
    return found[0]
  }
}

/// Makes a program of the file at `path`: anybody may run it. Its contents are those of `original`; nil: its own.
///
/// A child writes it. A program that this process wrote itself can't be run ("Text file busy") while some child that
/// another thread is starting still has the descriptor that the program was written by.
package func makeExecutable(_ path: String, from original: String? = nil) throws {
  let copy = path + ".new"
  let made = try ChildProcess.run(["install", "-m", "755", original ?? path, copy])
  guard made.ending == .exit(0) else { throw HarnessError("cannot make \(path): \(made.errors)") }
  guard rename(copy, path) == 0 else {
    throw HarnessError("cannot make \(path): \(String(cString: strerror(errno)))")
  }
}
