// SPDX-License-Identifier: Apache-2.0
// A running allocsd, with a socket of its own.

import Foundation

package final class Server {
  package let directory: TestDirectory
  package let socket: String
  package let process: ChildProcess

  /// Starts it, and waits until it answers. `prefix`: a command that runs the server.
  package init(_ directory: TestDirectory, options: [String] = [], prefix: [String] = []) throws {
    self.directory = directory
    socket = directory.file("allocsd.sock")
    process = try ChildProcess(
      prefix + [Installation.path(of: "allocsd"), "--socket", socket] + options,
      environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 })
    // A socket that was there before it accepts connections and may never answer: such a try is given up for the next.
    try wait(for: "allocsd answers", of: process) {
      try request("/v1/processes", ["--max-time", "3"]).status == 200
    }
  }

  /// A request by curl; the status is 0 if there was no answer.
  package func request(
    _ path: String, _ options: [String] = [], as prefix: [String] = []
  ) throws -> (status: Int, body: String) {
    let outcome = try ChildProcess.run(
      prefix + ["curl", "-sS", "--unix-socket", socket, "-w", "\n%{http_code}", "http://localhost\(path)"] + options)
    let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
    return (Int(lines.last ?? "") ?? 0, lines.dropLast().joined(separator: "\n") + outcome.errors)
  }

  /// The processes of the server: the broker, and its workers of the present moment.
  package var processes: [Int32] {
    let file = "/proc/\(process.pid)/task/\(process.pid)/children"
    let children = (try? String(contentsOfFile: file, encoding: .utf8)) ?? ""
    return [process.pid] + children.split(separator: " ").compactMap { Int32($0) }
  }

  /// The process that answers about `user`'s processes, once there is one. `whileAsking`: what makes it start, again
  /// and again, where a worker may have gone before it is seen.
  package func worker(of user: UInt32 = geteuid(), whileAsking ask: () throws -> Void = {}) throws -> Int32 {
    var found: Int32?
    try wait(for: "a worker of user \(user)", of: process) {
      try ask()
      found = processes.dropFirst().first { id in
        let status = (try? String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8)) ?? ""
        return status.contains("Name:\tallocsd-worker\n") && status.contains("Uid:\t\(user)\t\(user)\t")
      }
      return found != nil
    }
    guard let found else { throw HarnessError("no worker of user \(user)") }
    return found
  }

  /// Memory in bytes, their share of files left out, and open descriptors, of all these processes.
  package func memory() throws -> Int {
    processes.reduce(0) { sum, id in
      let status = (try? String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8)) ?? ""
      let words = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }?.split(separator: " ") ?? []
      return sum + (words.count > 1 ? (Int(words[1]) ?? 0) << 10 : 0)
    }
  }
  package func descriptors() throws -> Int {
    processes.reduce(0) {
      $0 + ((try? FileManager.default.contentsOfDirectory(atPath: "/proc/\($1)/fd").count) ?? 0)
    }
  }

  /// The statuses of many requests, by one curl.
  package func statuses(_ paths: [String]) throws -> [Int] {
    let outcome = try ChildProcess.run(
      ["curl", "-sS", "--unix-socket", socket, "-w", "%{http_code}\\n"]
        + paths.flatMap { ["-o", "/dev/null", "http://localhost\($0)"] })
    return outcome.output.split(separator: "\n").map { Int($0) ?? 0 }
  }

  /// The value of a metric by its name with its labels, as in `allocsd_segments{process="live"}`; nil while there is
  /// none.
  package func metric(_ name: String, as prefix: [String] = []) throws -> Int? {
    let lines = try request("/metrics", as: prefix).body.split(separator: "\n")
    return lines.first { $0.hasPrefix("\(name) ") }.flatMap { Int($0.dropFirst(name.utf8.count + 1)) }
  }

  /// Waits until allocsd has looked at its directories and knows of so many running processes and ended ones: whatever
  /// it was to do with their segments is done then.
  package func waitUntilSeen(live: Int, dead: Int? = nil) throws {
    try wait(
      for: "allocsd knows of \(live) running processes and \(dead.map { "\($0)" } ?? "any number of") ended ones",
      of: process
    ) {
      try metric("allocsd_segments{process=\"live\"}") == live
        && (try dead == nil || metric("allocsd_segments{process=\"dead\"}") == dead)
    }
  }
}
