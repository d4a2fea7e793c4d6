// SPDX-License-Identifier: Apache-2.0
// Real programs from start to end, plain against agent against heaptrack. Each has to print the same under all of them.

import Foundation
import Measurement

let wholePrograms = [
  Benchmark(name: "sqlite3", part: .time) { workshop in
    try measureWhole("sqlite3 script, CPU", bar: .atMost(1.05), fullBar: .atMost(1.08), repeats: 2, in: workshop) {
      Command(
        program: "sqlite3", arguments: ["-batch", ":memory:"], processor: processors.last,
        input: workshop.source("tables.sql"))
    }
  },
  Benchmark(name: "python3", part: .time) { workshop in
    try measureWhole("python3 JSON, CPU", bar: .atMost(1.12), fullBar: .atMost(1.30), repeats: 3, in: workshop) {
      Command(
        program: "/usr/bin/python3",
        arguments: [workshop.source("json_loop.py"), workshop.options.quick ? "25" : "50"],
        environment: ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"],
        processor: processors.last)
    }
  },
  Benchmark(name: "redis", part: .time, run: measureRedis),
]

/// User and system time of a program of one thread that waits for nothing: elapsed time would differ from it only by
/// what other programs took.
private func measureWhole(
  _ title: String, bar: Bar, fullBar: Bar, repeats: Int, in workshop: Workshop, command: () -> Command
) throws -> [Row] {
  var printed: String?
  let rounds = try Rounds(
    workshop.options.roundCount, of: workshop.variants, repeats: workshop.repeats(repeats)
  ) { variant in
    defer { workshop.cleanUp() }
    let (output, usage) = try workshop.command(command(), under: variant).run()
    guard printed == nil || printed == output else {
      throw BenchmarkError("\(title): under '\(variant)' it printed something else than in the run before")
    }
    printed = output
    return usage.processor
  }
  return [Row(name: title, unit: "s", value: .comparison(rounds), bar: bar, fullBar: fullBar)]
}

// MARK: redis

/// A fixed number of SET and of GET requests, 16 in a pipeline, by 20 clients; server and client each on its own
/// processor. Elapsed time is what a user of it sees, but hides some of the cost where the client is the slower end,
/// and varies with what else the machine does; so the server's own processor time for the same requests is told as
/// well.
@Sendable private func measureRedis(_ workshop: Workshop) throws -> [Row] {
  let rounds = try Rounds.several(
    workshop.options.roundCount, of: workshop.variants, repeats: workshop.repeats(2)
  ) { variant in
    defer { workshop.cleanUp() }
    let (elapsed, processor) = try redisRound(workshop, variant)
    return [elapsed, processor]
  }
  return zip(["redis, elapsed", "redis, server's CPU"], rounds).map { name, rounds in
    Row(name: name, unit: "s", value: .comparison(rounds), bar: .atMost(1.05), fullBar: .atMost(1.08))
  }
}

private func redisRound(_ workshop: Workshop, _ variant: Variant) throws -> (elapsed: Double, processor: Double) {
  let socket = "\(workshop.scratch)/redis.sock"
  unlink(socket)
  let serverCommand = workshop.command(
    Command(
      program: "redis-server",
      arguments: [
        "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", workshop.scratch,
        "--daemonize", "no", "--loglevel", "warning", "--logfile", "\(workshop.scratch)/redis.log",
      ], processor: processors.last), under: variant)
  var server = try serverCommand.start()
  do {
    let deadline = monotonicSeconds() + 20
    while !FileManager.default.fileExists(atPath: socket) {
      guard monotonicSeconds() < deadline else {
        throw BenchmarkError("redis-server didn't open \(socket) within 20 s")
      }
      usleep(10_000)
    }
    func load(_ requests: Int) throws -> Double {
      try Command(
        program: "redis-benchmark",
        arguments: [
          "-s", socket, "-t", "set,get", "-n", "\(requests)", "-P", "16", "-c", "20", "-r", "100000", "-d", "64",
          "--csv",
        ], processor: processors.first
      ).run().usage.elapsed
    }
    _ = try load(100_000)  // fills the keys
    let processorBefore = processorTime(of: server.pid)
    let elapsed = try load(workshop.options.quick ? 150_000 : 250_000)
    let processor = processorTime(of: server.pid) - processorBefore
    server.signal(SIGTERM)
    try server.wait(for: serverCommand)
    return (elapsed, processor)
  } catch {
    server.signal(SIGKILL)
    _ = try? server.wait(for: serverCommand, expectedSignal: SIGKILL)
    throw error
  }
}
