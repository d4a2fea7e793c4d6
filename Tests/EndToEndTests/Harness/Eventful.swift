// SPDX-License-Identifier: Apache-2.0
// Programs/eventful.c under the agent, and those who watch its events.

import Foundation
import SharedLayout
import TestSupport
import Testing

final class Eventful {
  let directory: TestDirectory
  let process: ChildProcess
  var pid: String { "\(process.pid)" }

  init(in directory: TestDirectory? = nil, environment: [String: String] = [:]) throws {
    self.directory = try directory ?? TestDirectory()
    process = try ChildProcess(
      [Programs.path("eventful.c")],
      environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(self.directory.path)) { $1 }
        .merging(environment) { $1 },
      conversing: true)
    _ = try process.readLines(until: "ready")
  }

  @discardableResult
  func tell(_ command: String) throws -> [String] {
    try process.send(command + "\n")
    return try process.readLines(until: "done")
  }

  /// Its control file as it is now; nil if there is none.
  private var control: allocs_control? {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory.path)) ?? []
    guard let name = names.first(where: { $0.hasPrefix("\(process.pid).") && $0.hasSuffix(".ctl") }),
      let file = FileHandle(forReadingAtPath: directory.file(name)),
      let bytes = try? file.read(upToCount: MemoryLayout<allocs_control>.size),
      bytes.count == MemoryLayout<allocs_control>.size
    else { return nil }
    return bytes.withUnsafeBytes { $0.loadUnaligned(as: allocs_control.self) }
  }

  /// Whether its hooks record events.
  var hasEventsOn: Bool { control.map { $0.events != 0 } ?? false }

  /// How many read its events: allocsd is one, whoever reads through it.
  private var consumers: Int {
    guard let control else { return 0 }
    return withUnsafeBytes(of: control.consumers) { bytes in
      bytes.bindMemory(to: allocs_consumer.self).count {
        $0.owner != 0 && $0.ready == UInt32(truncatingIfNeeded: $0.owner)
      }
    }
  }

  /// A command that watches it, from the moment on at which it is told everything that is done from then on.
  func watch(_ arguments: [String], server: Server? = nil) throws -> ChildProcess {
    func readers() throws -> Int { try server.map { try $0.metric("allocsd_events_subscribers") ?? 0 } ?? consumers }
    let before = try readers()
    let command = try ChildProcess(
      [Installation.path(of: "allocsctl"), "events", pid] + arguments
        + (server.map { ["--socket", $0.socket] } ?? ["--direct"]),
      environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 })
    try wait(for: "allocsctl is attached: \(command.errors)") {
      try command.hasEnded || hasEventsOn && readers() > before
    }
    return command
  }
}
