// SPDX-License-Identifier: Apache-2.0
// A program that names addresses of its own, running under the agent, however it was started: it prints "NAME ADDRESS
// SIZE" a line, then "ready", and ends with its standard input.

import Foundation
import IndexReader
import TestSupport
import Testing

final class PlacedProgram {
  let directory: TestDirectory
  let process: ChildProcess
  private(set) var places: [String: UInt64] = [:]
  /// The only process with an index, unless the program has named another.
  private(set) var pid: Int32 = 0

  /// `prefix`: a command that runs the program, and is not indexed. `indexes`: where the agent puts the index, if not
  /// `directory`.
  init(
    _ arguments: [String], prefix: [String] = [], in directory: TestDirectory? = nil, indexes: String? = nil,
    environment: [String: String] = [:]
  ) throws {
    let directory = try directory ?? TestDirectory()
    self.directory = directory
    let before = try Set(directory.segments())
    let variables = try Installation.agentEnvironment(indexes ?? directory.path).merging(environment) { $1 }
    process = try ChildProcess(
      prefix + ["env"] + variables.map { "\($0)=\($1)" } + arguments, environment: ChildProcess.baseEnvironment,
      conversing: true)
    for line in try process.readLines(until: "ready").dropLast() {
      let words = line.split(separator: " ")
      guard words.count == 3, let address = UInt64(words[1]) else { throw HarnessError("\(arguments) said '\(line)'") }
      places[String(words[0])] = address
    }
    if let named = places["process"] {
      pid = Int32(named)
    } else if let path = try directory.segments().first(where: { !before.contains($0) }),
      let name = SegmentFile.process(ofPath: path)
    {
      pid = name.processID
    }
  }

  func place(_ name: String) throws -> UInt64 { try #require(places[name]) }

  /// What `allocsctl` answers with one object of JSON.
  func ask(_ arguments: [String], in other: TestDirectory? = nil, socket: String? = nil) throws -> [String: Any] {
    let outcome = try Tool.control(arguments + ["--json"], in: other ?? directory, socket: socket)
    guard outcome.ending == .exit(0) else { throw HarnessError("\(arguments) failed: \(outcome.errors)") }
    return try #require(try Tool.objects(outcome.output).first)
  }

  func query(_ name: String, in other: TestDirectory? = nil, socket: String? = nil) throws -> [String: Any] {
    try ask(["query", "\(pid)", "\(place(name))"], in: other, socket: socket)
  }

  /// What `ps` lists of it.
  func listed(in other: TestDirectory? = nil) throws -> [String: Any]? {
    let processes = try ask(["ps"], in: other)["processes"] as? [[String: Any]]
    return processes?.first { $0["pid"] as? Int == Int(pid) }
  }
}
