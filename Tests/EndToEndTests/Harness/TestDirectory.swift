// A temporary directory of one test, in memory where the machine has /dev/shm, as segments are in use.

import Foundation

final class TestDirectory: Sendable {
  let path: String

  init() throws {
    let parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : NSTemporaryDirectory()
    var template = Array("\(parent)/allocs-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw HarnessError("cannot make a directory in \(parent): \(String(cString: strerror(errno)))")
    }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// The path of a file in it.
  func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a directory in it.
  func directory(_ name: String) throws -> String {
    try FileManager.default.createDirectory(atPath: file(name), withIntermediateDirectories: true)
    return file(name)
  }

  func write(_ text: String, to name: String) throws -> String {
    try text.write(toFile: file(name), atomically: false, encoding: .utf8)
    return file(name)
  }

  /// The paths of the segments in it, `pid`'s only if it is given.
  func segments(of pid: Int32? = nil) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: path).filter {
      $0.hasSuffix(".seg") && (pid == nil || $0.hasPrefix("\(pid!)."))
    }.sorted().map(file)
  }

  /// The path of the only segment of `pid`.
  func segment(of pid: Int32) throws -> String {
    let found = try segments(of: pid)
    guard found.count == 1 else {
      let all = try FileManager.default.contentsOfDirectory(atPath: path)
      throw HarnessError("process \(pid) has \(found.count) segments in \(path), which holds \(all)")
    }
    return found[0]
  }
}
