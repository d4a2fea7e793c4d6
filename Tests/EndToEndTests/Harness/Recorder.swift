// SPDX-License-Identifier: Apache-2.0
// `allocsctl record` while it runs, and what it has recorded.

import Foundation
import Recording
import TestSupport
import Testing

enum Recorder {
  /// Starts it, and waits until something is recorded.
  static func start(
    _ pid: Int32, to file: String, _ options: [String] = [], in directory: TestDirectory
  ) throws -> ChildProcess {
    let recorder = try ChildProcess(
      [Installation.path(of: "allocsctl"), "record", "\(pid)", "-o", file] + options,
      environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 })
    try wait(for: "something is recorded") {
      let size = try? FileManager.default.attributesOfItem(atPath: file)[.size] as? Int
      return size ?? 0 > 32 || recorder.hasEnded
    }
    return recorder
  }

  /// Waits for its end, which is one in order; what it said.
  static func end(_ recorder: ChildProcess, interrupting: Bool = false) throws -> String {
    if interrupting { recorder.signal(SIGINT) }
    let outcome = try recorder.wait()
    try #require(outcome.ending == .exit(0) && outcome.errors == "", "\(outcome)")
    return outcome.output
  }

  /// A recording of a program that has ended: of 300 pairs of calls, and a block that it kept.
  static func small(_ options: [String]) throws -> (file: String, directory: TestDirectory) {
    let program = try Eventful()
    let file = program.directory.file("small.rec")
    let recorder = try start(program.process.pid, to: file, options, in: program.directory)
    try program.tell("pairs 300 4321")
    _ = try program.tell("keep 1234")
    try program.process.send("end\n")
    _ = try end(recorder)
    return (file, program.directory)
  }
}

extension Recording {
  /// How many allocations of each size were recorded.
  var allocationsBySize: [UInt64: Int] {
    var counts: [UInt64: Int] = [:]
    forEachEvent { event in
      if event.kind == .alloc { counts[event.size, default: 0] += 1 }
      return true
    }
    return counts
  }
}
