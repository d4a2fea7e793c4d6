// SPDX-License-Identifier: Apache-2.0
// Queries through allocsd: one at a time on a connection that is kept, each on a new connection, and in batches.

import Foundation
import Measurement

let serverBenchmark = Benchmark(name: "server", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let live = 1_000_000
  return try withHolder(workshop, arguments: ["0", "\(live + live / 9)"]) { holder in
    let addresses = try Command(
      program: "\(workshop.options.binaries)/allocs-lookup-bench", arguments: ["addresses", holder.segment, "100000"]
    ).run().output.split(separator: "\n").map(String.init)
    return try withServer(workshop) { try serverRows(workshop, holder, addresses, socket: $0, server: $1) }
      + [directRow(workshop, holder, addresses)]
  }
}

private func serverRows(_ workshop: Workshop, _ holder: Holder, _ addresses: [String], socket: String, server: pid_t)
  throws -> [Row]
{
  let target = "/v1/processes/\(holder.pid)/query"
  // Not only the number of lines: every address is a live one.
  func check(_ answer: [UInt8], lines: Int) throws {
    let found =
      answer.reduce(0) { $1 == UInt8(ascii: "\n") ? $0 + 1 : $0 } + (answer.last == UInt8(ascii: "\n") ? 0 : 1)
    guard found == lines else {
      throw BenchmarkError("the server answered \(found) lines to a question about \(lines) addresses")
    }
    let text = String(decoding: answer, as: UTF8.self)
    let live = text.components(separatedBy: "\"kind\":\"heap\"").count - 1
    guard live == lines else {
      throw BenchmarkError("the server didn't find \(lines - live) of \(lines) live addresses: \(text.prefix(400))…")
    }
  }
  let queries = addresses.prefix(workshop.options.quick ? 500 : 5000).map {
    HTTPConnection.request("GET", "\(target)?address=\($0)")
  }

  let kept = try HTTPConnection(path: socket)
  for query in queries.prefix(100) { try check(try kept.send(query), lines: 1) }  // reads the symbols
  let beforeQueries = processorTime(ofAll: server)
  let keptTimes = try queries.map { query in
    let before = monotonicSeconds()
    let answer = try kept.send(query)
    let elapsed = monotonicSeconds() - before
    try check(answer, lines: 1)
    return elapsed * 1e6
  }
  let queryProcessorTime = (processorTime(ofAll: server) - beforeQueries) / Double(queries.count)
  let newTimes = try queries.prefix(1000).map { query in
    let before = monotonicSeconds()
    let answer = try HTTPConnection(path: socket).send(query)
    let elapsed = monotonicSeconds() - before
    try check(answer, lines: 1)
    return elapsed * 1e6
  }
  let batch = HTTPConnection.request("POST", "\(target)?stacks=false", body: addresses.joined(separator: "\n") + "\n")
  _ = try kept.sendLarge(batch)
  var batchProcessorTimes: [Double] = []
  let rates = try (0..<(workshop.options.quick ? 3 : 9)).map { _ in
    let (before, processorBefore) = (monotonicSeconds(), processorTime(ofAll: server))
    let answer = try kept.sendLarge(batch)
    let elapsed = monotonicSeconds() - before
    batchProcessorTimes.append((processorTime(ofAll: server) - processorBefore) / Double(addresses.count))
    try check(answer, lines: addresses.count)
    return Double(addresses.count) / elapsed
  }
  return [
    figure("query, connection kept", "µs", keptTimes, bar: .atMost(150)),
    Row(name: "  server's CPU time", unit: "µs", value: .figure(queryProcessorTime * 1e6, percentile99: nil)),
    figure("query, new connection", "µs", newTimes, bar: nil),
    Row(
      name: "batch of 100,000", unit: "/s", value: .figure(percentile(50, of: rates) ?? 0, percentile99: nil),
      bar: .atLeast(1_000_000)),
    Row(
      name: "  server's CPU, an address", unit: "ns",
      value: .figure((percentile(50, of: batchProcessorTimes) ?? 0) * 1e9, percentile99: nil)),
  ]
}

/// `allocsctl query` from its start to its end, without a server: a look-up, and the names of a whole stack.
private func directRow(_ workshop: Workshop, _ holder: Holder, _ addresses: [String]) throws -> Row {
  let times = try addresses.prefix(workshop.options.quick ? 5 : 25).map { address in
    let command = Command(
      program: "\(workshop.options.binaries)/allocsctl", arguments: ["query", "\(holder.pid)", address, "--direct"],
      environment: ["ALLOCS_DIR": workshop.segments])
    return try command.run().usage.elapsed * 1e3
  }
  return figure("query from nothing", "ms", times, bar: .atMost(40))
}

private func figure(_ name: String, _ unit: String, _ times: [Double], bar: Bar?) -> Row {
  Row(
    name: name, unit: unit, value: .figure(percentile(50, of: times) ?? 0, percentile99: percentile(99, of: times)),
    bar: bar)
}

/// Runs allocsd on a socket of its own while `body` talks to it.
/// `binaries`: of this build, unless named; `directory`: of the segments and the socket.
func withServer<Result>(
  _ workshop: Workshop, options: [String] = [], binaries: String? = nil, directory: String? = nil,
  body: (String, pid_t) throws -> Result
) throws -> Result {
  let socket = "\(directory ?? workshop.scratch)/allocsd.sock"
  let command = Command(
    program: "\(binaries ?? workshop.options.binaries)/allocsd", arguments: ["--log-level", "error"] + options,
    environment: ["ALLOCS_SOCKET": socket, "ALLOCS_DIR": directory ?? workshop.segments])
  var server = try command.start()
  let result = Swift.Result {
    let deadline = monotonicSeconds() + 20
    while (try? HTTPConnection(path: socket)) == nil {
      guard monotonicSeconds() < deadline else {
        throw BenchmarkError("allocsd didn't listen on \(socket) within 20 s")
      }
      usleep(20_000)
    }
    return try body(socket, server.pid)
  }
  server.signal(SIGTERM)
  let end = Swift.Result { try server.wait(for: command, expectedSignal: SIGTERM) }
  let value = try result.get()
  _ = try end.get()
  return value
}
