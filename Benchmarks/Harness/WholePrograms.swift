// SPDX-License-Identifier: Apache-2.0
// Real programs from start to end, plain against agent against heaptrack. Each has to print the same under all of them.

import Foundation
import Measurement

let wholePrograms = [
  Benchmark(name: "sqlite3", part: .time) { workshop in
    try measureWhole("sqlite3 script, CPU", bar: .atMost(1.05), fullBar: .atMost(1.10), repeats: 2, in: workshop) {
      Command(
        program: "sqlite3", arguments: ["-batch", ":memory:"], processor: processors.last,
        input: workshop.source("tables.sql"))
    }
  },
  Benchmark(name: "python3", part: .time) { workshop in
    let rows = try measureWhole(
      "python3 JSON, CPU", bar: .atMost(1.12), fullBar: .atMost(1.30), repeats: 3, in: workshop
    ) {
      Command(
        program: "/usr/bin/python3",
        arguments: [workshop.source("json_loop.py"), workshop.options.quick ? "25" : "50"],
        environment: pythonEnvironment, processor: processors.last)
    }
    guard case .comparison(let rounds)? = rows.first?.value, let more = wholeStacks(rounds) else { return rows }
    return rows + [Row(name: "  whole stacks − call sites", unit: "×", value: .spread(more), bar: .atMost(0.18))]
  },
  Benchmark(name: "compileall", part: .time) { workshop in
    let cache = "\(workshop.scratch)/pycache"
    defer { try? FileManager.default.removeItem(atPath: cache) }
    let program = """
      import compileall, os
      for name in "asyncio", "email", "json", "unittest", "xml": compileall.compile_dir(
        os.path.join(os.path.dirname(os.__file__), name), quiet=1, force=True)
      """
    return try measureWhole(
      "compileall, CPU", fullBar: .atMost(1.25), repeats: 2, withHeaptrack: false, in: workshop
    ) {
      Command(
        program: "/usr/bin/python3", arguments: ["-c", program],
        environment: pythonEnvironment.merging(["PYTHONPYCACHEPREFIX": cache]) { $1 }
          .filter { $0.key != "PYTHONDONTWRITEBYTECODE" }, processor: processors.last)
    }
  },
  Benchmark(name: "git", part: .time) { workshop in
    let repository = try gitRepository(in: workshop)
    defer { try? FileManager.default.removeItem(atPath: repository) }
    return try measureWhole(
      "git log -p, CPU", fullBar: .atMost(1.25), repeats: 2, withHeaptrack: false, in: workshop
    ) {
      Command(
        program: "git", arguments: ["-C", repository, "log", "-p", "--stat"],
        environment: ["HOME": workshop.scratch, "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat"],
        processor: processors.last)
    }
  },
  Benchmark(name: "g++", part: .time) { workshop in
    try measureWhole("g++, templates, CPU", fullBar: .atMost(1.25), repeats: 2, withHeaptrack: false, in: workshop) {
      Command(
        program: "g++",
        arguments: [
          "-std=c++17", "-O0", "-c", workshop.source("templates.cpp"), "-o", "\(workshop.scratch)/templates.o",
        ],
        processor: processors.last)
    }
  },
  Benchmark(name: "evaluator", part: .time, run: measureEvaluator),
  Benchmark(name: "octave", part: .time, run: measureOctave),
  Benchmark(name: "redis", part: .time, run: measureRedis),
]

private let pythonEnvironment = ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"]

/// By how much the ratio to plain grows with whole stacks, round by round.
private func wholeStacks(_ rounds: Rounds) -> Spread? {
  let plain = rounds.values[.plain] ?? []
  return Spread(zip(rounds.costs(of: .full, over: .site), plain).map { $0 / $1 })
}

/// User and system time of a program of one thread that waits for nothing, and of its children: elapsed time would
/// differ from it only by what other programs took.
private func measureWhole(
  _ title: String, bar: Bar? = nil, fullBar: Bar, repeats: Int, withHeaptrack: Bool = true, in workshop: Workshop,
  command: () -> Command
) throws -> [Row] {
  var printed: String?
  let rounds = try Rounds(
    workshop.options.roundCount, of: workshop.variants.filter { withHeaptrack || $0 != .heaptrack },
    repeats: workshop.repeats(repeats)
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

/// A repository of 600 commits, each of which changes lines of some of 40 files; always the same.
private func gitRepository(in workshop: Workshop) throws -> String {
  let (files, lines, commits) = (40, 250, workshop.options.quick ? 150 : 600)
  var state: UInt64 = 1
  func random(_ bound: Int) -> Int {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int(state >> 33) % bound
  }
  func line() -> String {
    "  value_\(random(500)) = function_\(random(90))(argument_\(random(40)), \(random(10_000)));"
  }
  var contents = (0..<files).map { _ in (0..<lines).map { _ in line() } }
  var stream = "feature done\n"
  for commit in 0..<commits {
    let message = "Change \(commit)"
    stream += "commit refs/heads/main\ncommitter A <a@example.org> \(1_700_000_000 + commit) +0000\n"
    stream += "data \(message.utf8.count)\n\(message)\n"
    for file in commit == 0 ? Array(0..<files) : (0..<4).map({ _ in random(files) }) {
      for _ in 0..<6 { contents[file][random(lines)] = line() }
      let text = contents[file].joined(separator: "\n") + "\n"
      stream += "M 100644 inline source/file_\(file).c\ndata \(text.utf8.count)\n\(text)"
    }
  }
  let repository = "\(workshop.scratch)/repository"
  let input = try workshop.file("commits", stream + "done\n")
  defer { unlink(input) }
  try Command(program: "git", arguments: ["init", "-q", "-b", "main", repository]).run()
  try Command(program: "git", arguments: ["-C", repository, "fast-import", "--quiet"], input: input).run()
  return repository
}

// MARK: evaluators

/// Stacks of up to 60 frames of which nearly all are new, whole and cut: fewer frames kept must not cost more.
@Sendable private func measureEvaluator(_ workshop: Workshop) throws -> [Row] {
  let program = try workshop.program("evaluator")
  let depths = [128, 16]
  func command(depth: Int) -> Command {
    Command(
      program: program, arguments: [workshop.options.quick ? "1000" : "4000"],
      environment: ["ALLOCS_DEPTH": "\(depth)"], processor: processors.last)
  }
  let rounds = try Rounds.several(
    workshop.options.roundCount, of: workshop.variants.filter { $0 != .heaptrack }, repeats: workshop.repeats(2)
  ) { variant in
    try depths.map { depth in
      defer { workshop.cleanUp() }
      return try workshop.command(command(depth: depth), under: variant).run().usage.processor
    }
  }
  var rows = [Row(name: "evaluator, CPU", unit: "s", value: .comparison(rounds[0]), fullBar: .atMost(4))]
  if workshop.variants.contains(.full) {
    let frames = try newFrames(of: command(depth: depths[0]), in: workshop)
    if let cost = Spread(rounds[0].costs(of: .full, over: .site).map({ $0 * 1e9 / frames })) {
      rows.append(Row(name: "  a new frame, whole − call site", unit: "ns", value: .spread(cost), bar: .atMost(60)))
    }
  }
  rows.append(Row(name: "  depth 16", unit: "s", value: .comparison(rounds[1]), fullBar: .atMost(4)))
  if let cut = Spread(zip(rounds[1].values[.full] ?? [], rounds[0].values[.full] ?? []).map({ $0 / $1 })) {
    rows.append(Row(name: "  depth 16 ÷ 128, whole", unit: "×", value: .spread(cut), bar: .atMost(1)))
  }
  return rows
}

/// How many frames `command` makes that are new to its index: of all stacks together, counted once each.
private func newFrames(of command: Command, in workshop: Workshop) throws -> Double {
  defer { workshop.cleanUp() }
  let run = workshop.command(command, under: .full)
  var child = try run.start()
  _ = child.readToEnd()
  try child.wait(for: run)
  let output = try Command(
    program: "\(workshop.options.binaries)/allocs-lookup-bench",
    arguments: ["nodes", try workshop.segment(of: child.pid)]
  ).run().output
  guard let count = Double(output.trimmingCharacters(in: .whitespacesAndNewlines)), count > 0 else {
    throw BenchmarkError("allocs-lookup-bench told '\(output)' for a number of frames")
  }
  return count
}

@Sendable private func measureOctave(_ workshop: Workshop) throws -> [Row] {
  let program = "/usr/bin/octave-cli"
  let title = "Octave script, CPU"
  guard FileManager.default.isExecutableFile(atPath: program) else {
    return [Row(name: title, unit: "s", value: .missing("octave is not installed"), fullBar: .atMost(4))]
  }
  return try measureWhole(title, fullBar: .atMost(4), repeats: 1, withHeaptrack: false, in: workshop) {
    Command(
      program: program, arguments: ["--norc", "--no-history", workshop.source("evaluate.m")],
      environment: ["HOME": workshop.scratch, "OPENBLAS_NUM_THREADS": "1"], processor: processors.last)
  }
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
    let (elapsed, processor, memory) = try redisRound(workshop, variant)
    return [elapsed, processor, memory]
  }
  return [
    Row(
      name: "redis, elapsed", unit: "s", value: .comparison(rounds[0]), bar: .atMost(1.05), fullBar: .atMost(1.08)),
    Row(
      name: "redis, server's CPU", unit: "s", value: .comparison(rounds[1]), bar: .atMost(1.05),
      fullBar: .atMost(1.10)),
    Row(name: "  its own memory", unit: "MB", value: .comparison(rounds[2])),
  ]
}

private func redisRound(_ workshop: Workshop, _ variant: Variant) throws -> (
  elapsed: Double, processor: Double, memory: Double
) {
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
    let memory = anonymousMemory(of: server.pid)
    server.signal(SIGTERM)
    try server.wait(for: serverCommand)
    return (elapsed, processor, memory)
  } catch {
    server.signal(SIGKILL)
    _ = try? server.wait(for: serverCommand, expectedSignal: SIGKILL)
    throw error
  }
}

/// Megabytes of resident memory that belong to no file: neither program and libraries nor the index, which is one.
private func anonymousMemory(of pid: pid_t) -> Double {
  let status = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
  return (line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Double($0) } ?? 0) * 1024 / 1e6
}
