// SPDX-License-Identifier: Apache-2.0
// What it costs that the server is a broker and workers: the latency of a question on a connection that is kept, and
// the memory of a server at rest that one user has asked. Where ALLOCS_BEFORE names the directory of an older build's
// binaries, both are measured of that build, too: its server runs at the same time, and the two are asked in turns, so
// that whatever else the machine does meets both alike.

import Foundation
import Measurement

let separationBenchmark = Benchmark(name: "separation", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  var now: [Figures] = []
  var before: [Figures] = []
  for _ in 0..<workshop.options.roundCount {
    try withSide(workshop, "now", workshop.options.binaries) { side in
      guard let binaries = workshop.options.before else { return now += try measured([side], workshop) }
      try withSide(workshop, "before", binaries) { other in
        let figures = try measured([side, other], workshop)
        now.append(figures[0])
        before.append(figures[1])
      }
    }
  }
  func rows(_ name: String, _ unit: String, _ bar: Double, _ figure: KeyPath<Figures, Double>) -> [Row] {
    func row(_ name: String, _ values: [Double], _ bar: Bar? = nil) -> Row? {
      Spread(values).map { Row(name: name, unit: unit, value: .spread($0), bar: bar) }
    }
    let differences = zip(now, before).map { $0[keyPath: figure] - $1[keyPath: figure] }
    return [
      row(name, now.map { $0[keyPath: figure] }), row("  before", before.map { $0[keyPath: figure] }),
      row("  more than before", differences, .atMost(bar)),
    ].compactMap { $0 }
  }
  return rows("query of one user, kept", "µs", 20, \.latency) + rows("server at rest, one user", "MiB", 15, \.memory)
}

/// Of one round.
private struct Figures {
  /// The median, in microseconds.
  var latency: Double
  /// Of all processes of the server, in MiB; pages that several processes share count in parts.
  var memory: Double
}

/// A server of a build, and what is asked of it: about a block of a program that runs under this build's agent.
private struct Side {
  var server: pid_t
  var connection: HTTPConnection
  var query: [UInt8]
}

private func measured(_ sides: [Side], _ workshop: Workshop) throws -> [Figures] {
  for side in sides { _ = try side.connection.send(side.query) }
  sleep(2)  // They come to rest: nothing says that they have.
  let memory = try sides.map { try proportionalMemory(of: processes(of: $0.server)) }
  var times = sides.map { _ in [Double]() }
  for turn in -200..<(workshop.options.quick ? 500 : 3000) {  // The first warm the caches.
    for index in turn % 2 == 0 ? Array(sides.indices) : sides.indices.reversed() {
      let began = monotonicSeconds()
      _ = try sides[index].connection.send(sides[index].query)
      if turn >= 0 { times[index].append((monotonicSeconds() - began) * 1e6) }
    }
  }
  return sides.indices.map {
    Figures(latency: percentile(50, of: times[$0]) ?? 0, memory: Double(memory[$0]) / Double(1 << 20))
  }
}

private func withSide(
  _ workshop: Workshop, _ name: String, _ binaries: String, body: (Side) throws -> Void
) throws {
  let directory = "\(workshop.scratch)/\(name)"
  try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(atPath: directory) }
  let command = Command(
    program: "\(binaries)/allocsctl", arguments: ["run", "--", try workshop.program("hold"), "24", "1000"],
    environment: ["ALLOCS_DIR": directory])
  try withServer(workshop, binaries: binaries, directory: directory) { socket, server in
    var program = try command.start(keepsInputOpen: true)
    let result = Swift.Result {
      let words = program.readLine().split(separator: " ")
      guard words.count == 3, words[0] == "ready" else { throw BenchmarkError("hold did not get ready") }
      let query = HTTPConnection.request("GET", "/v1/processes/\(program.pid)/query?address=0x\(words[1])")
      try body(Side(server: server, connection: try HTTPConnection(path: socket), query: query))
    }
    let end = Swift.Result { try program.wait(for: command) }
    try result.get()
    _ = try end.get()
  }
}

/// The process and its descendants.
func processes(of pid: pid_t) -> [pid_t] {
  var parents: [pid_t: pid_t] = [:]
  for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? [] {
    guard let child = pid_t(name), let text = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
      // The name of the program may hold anything, and ends with the last parenthesis.
      let end = text.lastIndex(of: ")")
    else { continue }
    let words = text[end...].split(separator: " ")
    if words.count > 2, let parent = pid_t(words[2]) { parents[child] = parent }
  }
  var found = [pid]
  var next = 0
  while next < found.count {
    found += parents.filter { $0.value == found[next] }.keys
    next += 1
  }
  return found
}

private func proportionalMemory(of processes: [pid_t]) throws -> Int {
  try processes.reduce(0) { sum, process in
    let text = try String(contentsOfFile: "/proc/\(process)/smaps_rollup", encoding: .utf8)
    let line = text.split(separator: "\n").first { $0.hasPrefix("Pss:") }
    guard let kibibytes = line?.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
      throw BenchmarkError("/proc/\(process)/smaps_rollup doesn't tell its memory")
    }
    return sum + kibibytes << 10
  }
}
