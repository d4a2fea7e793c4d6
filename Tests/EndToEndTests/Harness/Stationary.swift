// SPDX-License-Identifier: Apache-2.0
// Programs/stationary.c, running under the agent, with the addresses that it named.

import Foundation
import TestSupport
import Testing

final class Stationary {
  struct Place {
    var address: UInt64
    var size: UInt64
  }

  let directory: TestDirectory
  let process: ChildProcess
  private(set) var places: [String: Place] = [:]

  var pid: String { "\(process.pid)" }

  /// Starts it, also beside others in one directory.
  init(in directory: TestDirectory? = nil, below: String? = nil) throws {
    self.directory = try directory ?? TestDirectory()
    process = try ChildProcess(
      [Programs.path("stationary.c")],
      environment: ChildProcess.baseEnvironment.merging(
        Installation.agentEnvironment(self.directory.path, below: below)
      ) { $1 },
      conversing: true)
    for line in try process.readLines(until: "ready").dropLast() {
      let words = line.split(separator: " ")
      guard words.count == 3, let address = UInt64(words[1]), let size = UInt64(words[2]) else {
        throw HarnessError("stationary said '\(line)'")
      }
      places[String(words[0])] = Place(address: address, size: size)
    }
  }

  func place(_ name: String) throws -> Place { try #require(places[name]) }

  /// What `allocsctl query --json` answers to one address.
  func ask(_ address: UInt64) throws -> [String: Any] {
    let outcome = try Tool.control(["query", pid, "\(address)", "--json"], in: directory)
    guard outcome.ending == .exit(0) else { throw HarnessError("query failed: \(outcome.errors)") }
    return try #require(try Tool.objects(outcome.output).first)
  }
}
