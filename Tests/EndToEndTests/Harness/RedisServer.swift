// SPDX-License-Identifier: Apache-2.0
// redis-server, plain or under the agent, with a Unix socket of its own.

import Foundation
import TestSupport
import Testing

final class RedisServer {
  let process: ChildProcess
  private let work: TestDirectory
  private let client: String
  private var socket: String { work.file("redis.sock") }

  /// Starts it, and waits until it answers. It saves nothing by itself, and takes its commands for tests (DEBUG).
  init(environment: [String: String] = [:]) throws {
    work = try TestDirectory()
    client = try installedProgram("redis-cli", package: "redis-tools")
    process = try ChildProcess(
      [
        installedProgram("redis-server", package: "redis-server"), "--port", "0", "--unixsocket",
        work.file("redis.sock"), "--save", "", "--dir", work.path, "--daemonize", "no", "--logfile", work.file("log"),
        "--enable-debug-command", "yes",
      ], environment: ChildProcess.baseEnvironment.merging(environment) { $1 })
    try wait(for: "redis-server answers", of: process) { try ask("PING") == "PONG" }
  }

  /// The server's answer to a command.
  func ask(_ words: String...) throws -> String {
    try ChildProcess.run([client, "-s", socket] + words).output.trimmingCharacters(in: .whitespacesAndNewlines)
  }

  /// Runs redis-benchmark against it.
  func load(_ options: [String]) throws {
    let benchmark = try installedProgram("redis-benchmark", package: "redis-tools")
    #expect(try ChildProcess.run([benchmark, "-s", socket, "-q"] + options).ending == .exit(0))
  }

  /// Has a child save everything, runs `meanwhile`, and waits for the child's end.
  func saveInBackground(_ meanwhile: () throws -> Void) throws {
    #expect(try ask("BGSAVE").hasPrefix("Background saving started"))
    try meanwhile()
    try wait(for: "the save ends", of: process) {
      try ask("INFO", "persistence").contains("rdb_bgsave_in_progress:0")
    }
    #expect(try ask("INFO", "persistence").contains("rdb_last_bgsave_status:ok"))
  }

  func shutDown() throws {
    _ = try ask("SHUTDOWN", "NOSAVE")
    #expect(try process.wait().ending == .exit(0))
  }
}
