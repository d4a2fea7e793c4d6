// Real programs from start to end, plain against agent against heaptrack. Each has to print the same under all three.

import Foundation
import Measurement

let wholePrograms = [
  Benchmark(name: "sqlite3", part: .time) { workshop in
    try measureWhole("sqlite3, script in memory", bar: .atMost(1.05), in: workshop) {
      Command(
        program: "sqlite3", arguments: ["-batch", ":memory:"], processor: processors.last,
        input: workshop.source("tables.sql"))
    }
  },
  Benchmark(name: "python3", part: .time) { workshop in
    try measureWhole("python3 JSON loop, malloc", bar: .atMost(1.12), in: workshop) {
      Command(
        program: "/usr/bin/python3",
        arguments: [workshop.source("json_loop.py"), workshop.options.quick ? "25" : "75"],
        environment: ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"],
        processor: processors.last)
    }
  },
  Benchmark(name: "redis", part: .time, run: measureRedis),
]

private func measureWhole(
  _ title: String, bar: Bar, in workshop: Workshop, command: () -> Command
) throws -> [Row] {
  var printed: String?
  let rounds = try Rounds(workshop.options.roundCount, of: workshop.variants) { variant in
    defer { workshop.cleanUp() }
    let (output, usage) = try workshop.command(command(), under: variant).run()
    guard printed == nil || printed == output else {
      throw BenchmarkError("\(title): \(variant) printed something else than the run before it")
    }
    printed = output
    return workshop.options.usesProcessorTime ? usage.processor : usage.elapsed
  }
  return [Row(name: title, unit: "s", value: .comparison(rounds), bar: bar)]
}

// MARK: redis

/// A fixed number of SET and of GET requests, 16 in a pipeline, by 20 clients; server and client each on its own processor.
/// The server's own processor time is told as well: elapsed time hides some of it where the client is the slower end.
@Sendable private func measureRedis(_ workshop: Workshop) throws -> [Row] {
  var serverTimes: [Variant: [Double]] = [:]
  let rounds = try Rounds(workshop.options.roundCount, of: workshop.variants) { variant in
    defer { workshop.cleanUp() }
    let (elapsed, processor) = try redisRound(workshop, variant)
    serverTimes[variant, default: []].append(processor)
    return elapsed
  }
  var rows = [Row(name: "redis SET+GET, elapsed", unit: "s", value: .comparison(rounds), bar: .atMost(1.05))]
  rows.append(
    Row(name: "redis, its server's CPU", unit: "s", value: .comparison(Rounds(values: serverTimes)), bar: .atMost(1.05))
  )
  return rows
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
    let elapsed = try load(workshop.options.quick ? 200_000 : 600_000)
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
