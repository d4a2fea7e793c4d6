// SPDX-License-Identifier: Apache-2.0
// What a look at live memory takes: commands from nothing and without a server, unless a row says otherwise.

import Foundation
import Measurement
import Watching

let liveBenchmark = Benchmark(name: "live", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let many = workshop.options.quick ? 1_000_000 : 10_000_000
  let few = workshop.options.quick ? 100_000 : 1_000_000
  return try tableRows(workshop, many) + replayRow(workshop) + memoryRow(workshop, many) + watchRows(workshop, few)
    + profileRow(workshop, few)
}

private let rounds = 7

/// Runs allocsctl once a round; milliseconds.
private func times(_ workshop: Workshop, _ arguments: [String], rounds: Int = rounds) throws -> [Double] {
  let command = Command(
    program: "\(workshop.options.binaries)/allocsctl", arguments: arguments,
    environment: ["ALLOCS_DIR": workshop.segments])
  return try (0..<rounds).map { _ in try command.run().usage.elapsed * 1e3 }
}

private func row(_ name: String, _ unit: String, _ values: [Double], _ bar: Bar? = nil) throws -> Row {
  guard let spread = Spread(values) else { throw BenchmarkError("nothing was measured of '\(name)'") }
  return Row(name: name, unit: unit, value: .spread(spread), bar: bar)
}

/// `top`, two snapshots, and what has changed between them.
private func tableRows(_ workshop: Workshop, _ count: Int) throws -> [Row] {
  try withHolder(workshop, program: "stacks", arguments: ["0", "\(count)", "1000"]) { holder in
    let top = try times(workshop, ["top", "\(holder.pid)", "--direct"])
    let files = [1, 2].map { "\(workshop.scratch)/\($0).snapshot" }
    defer { for file in files { unlink(file) } }
    let snapshots = try files.flatMap {
      try times(workshop, ["snapshot", "\(holder.pid)", "-o", $0], rounds: 1)
    }
    let size = try FileManager.default.attributesOfItem(atPath: files[0])[.size] as? Int ?? 0
    let difference = try times(workshop, ["diff"] + files, rounds: 3)
    return [
      try row("top, \(short(count)) live, 1,000 stacks", "ms", top, .atMost(150)),
      try row("snapshot of \(short(count)) live", "ms", snapshots),
      Row(
        name: "  its bytes, a live block", unit: "", value: .figure(Double(size) / Double(count), percentile99: nil),
        bar: .atMost(8)),
      try row("diff of two snapshots", "ms", difference, .atMost(1000)),
    ]
  }
}

/// `replay` of all that a Python program does in 20 seconds, which it spends on JSON.
private func replayRow(_ workshop: Workshop) throws -> [Row] {
  let program = """
    import json, select, sys
    document = json.dumps([{"number": n, "name": "item %d" % n, "tags": ["a", str(n)]} for n in range(2000)])
    print("ready 0 0", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]: json.dumps(json.loads(document))
    """
  var command = workshop.command(Command(program: "/usr/bin/python3", arguments: ["-c", program]), under: .full)
  command.environment["PYTHONMALLOC"] = "malloc"
  let seconds = workshop.options.quick ? 2 : 20
  let file = "\(workshop.scratch)/run.rec"
  defer { unlink(file) }
  try withHolder(workshop, command) { holder in
    _ = try times(workshop, ["record", "\(holder.pid)", "-o", file, "--duration", "\(seconds)s", "--zstd"], rounds: 1)
  }
  return [
    try row("replay of \(seconds) s of python3", "ms", times(workshop, ["replay", file], rounds: 3), .atMost(1000))
  ]
}

/// Of 4 GiB: each block's beginning, which the allocator writes, is resident with its page.
private func memoryRow(_ workshop: Workshop, _ count: Int) throws -> [Row] {
  try withHolder(workshop, program: "stacks", arguments: ["\((4 << 30) / count - 8)", "\(count)", "1000"]) { holder in
    [
      try row(
        "memory, \(short(count)) live", "ms", times(workshop, ["memory", "\(holder.pid)"], rounds: 3), .atMost(2000))
    ]
  }
}

/// The screen of `allocsctl top`: it asks this of a server, as often as its pace says.
private struct Screen {
  let connection: HTTPConnection
  let request: [UInt8]
  /// Seconds that the last look took.
  private(set) var cost = 0.0
  var interval: Double { WatchPace.interval(afterLookOf: cost) }

  init(of pid: pid_t, socket: String) throws {
    connection = try HTTPConnection(path: socket)
    let divisions = WatchAges.moments.map { "&divide=\($0.text)" }.joined()
    request = HTTPConnection.request(
      "GET", "/v1/processes/\(pid)/top?limit=1000&sort=bytes&group=site\(divisions)&totals=true")
  }

  mutating func look() throws {
    let start = monotonicSeconds()
    _ = try connection.sendLarge(request)
    cost = monotonicSeconds() - start
  }

  func pause() { usleep(UInt32(interval * 1e6)) }
}

/// What it costs to watch a process on the screen: the server, and the process.
private func watchRows(_ workshop: Workshop, _ count: Int) throws -> [Row] {
  let rows = try withHolder(workshop, program: "stacks", arguments: ["0", "\(count)", "1000"]) { holder in
    try withServer(workshop) { socket, server in
      var screen = try Screen(of: holder.pid, socket: socket)
      // The first look reads the names.
      for _ in 0..<2 { try screen.look() }
      let looks = workshop.options.quick ? 3 : 10
      var (costs, intervals) = ([screen.cost], [screen.interval])
      let (before, began) = (processorTime(ofAll: server), monotonicSeconds())
      for _ in 0..<looks {
        screen.pause()
        try screen.look()
        costs.append(screen.cost)
        intervals.append(screen.interval)
      }
      screen.pause()
      let share = (processorTime(ofAll: server) - before) / (monotonicSeconds() - began)
      return [
        Row(
          name: "server, \(short(count)) watched", unit: "% CPU", value: .figure(share * 100, percentile99: nil),
          bar: .atMost(3)),
        try row("  a look", "ms", costs.map { $0 * 1e3 }),
        try row("  from a look to the next", "s", intervals),
      ]
    }
  }
  return try rows + targetRows(workshop, count)
}

/// The loop of a program that replaces blocks at random, on its own and while it is watched, in turns.
private func targetRows(_ workshop: Workshop, _ count: Int) throws -> [Row] {
  let plain = Command(
    program: try workshop.program("churn"), arguments: ["\(count)", workshop.options.quick ? "1000000" : "8000000"])
  let command = workshop.command(plain, under: .full)
  func time(whileRunning body: (pid_t) throws -> Void) throws -> Double {
    var child = try command.start()
    let watched = Result { try body(child.pid) }
    let output = child.readToEnd()
    let end = Result { try child.wait(for: command) }
    workshop.cleanUp()
    try watched.get()
    _ = try end.get()
    return try LoopTime(output, of: command).nanoseconds(in: workshop)
  }
  return try withServer(workshop) { socket, _ in
    var (alone, watched): ([Double], [Double]) = ([], [])
    for _ in 0..<(workshop.options.quick ? 1 : 5) {
      alone.append(try time { _ in })
      watched.append(
        try time { pid in
          var looks = 0
          var screen = try Screen(of: pid, socket: socket)
          // Until it has ended and is waited for. The server may not know it yet.
          while try !hasEnded(pid) {
            do {
              try screen.look()
              looks += 1
              screen.pause()
            } catch {
              usleep(20_000)
              screen = try Screen(of: pid, socket: socket)
            }
          }
          guard looks > 1 else { throw BenchmarkError("the program was looked at \(looks) times: it ends too early") }
        })
    }
    return [
      try row("a program's loop, not watched", "ns", alone), try row("  watched", "ns", watched),
      try row("  watched / not", "", zip(watched, alone).map { $0 / $1 }),
    ]
  }
}

private func hasEnded(_ pid: pid_t) throws -> Bool {
  let status = try String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)
  return status.split(separator: ")").last?.split(separator: " ").first == "Z"
}

/// A profile for pprof of a Python program, by a server that has its names.
private func profileRow(_ workshop: Workshop, _ count: Int) throws -> [Row] {
  let program = """
    import sys
    class Node:
        def __init__(self, number): self.number, self.text = number, str(number)
    kept = [Node(number) for number in range(\(count / 4))]
    print("ready 0 0", flush=True)
    sys.stdin.read()
    """
  var command = workshop.command(Command(program: "python3", arguments: ["-c", program]), under: .full)
  command.environment["PYTHONMALLOC"] = "malloc"
  return try withHolder(workshop, command) { holder in
    try withServer(workshop) { socket, _ in
      let connection = try HTTPConnection(path: socket)
      let request = HTTPConnection.request("GET", "/v1/processes/\(holder.pid)/profile?format=pprof")
      _ = try connection.sendLarge(request)
      let times = try (0..<rounds).map { _ in
        let before = monotonicSeconds()
        _ = try connection.sendLarge(request)
        return (monotonicSeconds() - before) * 1e3
      }
      return [try row("pprof of python3, \(short(count)) live", "ms", times, .atMost(300))]
    }
  }
}
