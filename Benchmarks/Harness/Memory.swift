// SPDX-License-Identifier: Apache-2.0
// What a segment takes for each live allocation: its blocks on the file system less those of an idle process's.

import Foundation
import Measurement

let memoryBenchmark = Benchmark(name: "memory", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  return try [(24, 1_000_000, Bar.atMost(12)), (100, 1_000_000, nil), (1000, 200_000, nil), (100_000, 10_000, nil)].map
  {
    size, count, bar in
    let idle = try segmentBytes(workshop, size: size, count: 0)
    let full = try segmentBytes(workshop, size: size, count: count)
    return Row(
      name: "segment, \(Table.number(Double(size)))-byte blocks", unit: "B",
      value: .figure(Double(full - idle) / Double(count), percentile99: nil), bar: bar)
  }
}

private func segmentBytes(_ workshop: Workshop, size: Int, count: Int) throws -> Int {
  try withHolder(workshop, arguments: ["\(size)", "\(count)"]) { holder in
    var status = stat()
    guard stat(holder.segment, &status) == 0 else {
      throw BenchmarkError("\(holder.segment): \(String(cString: strerror(errno)))")
    }
    return Int(status.st_blocks) * 512
  }
}

/// A process under the agent that holds what it was told to allocate.
struct Holder {
  let pid: pid_t
  let segment: String
  /// The addresses of its first and its last block; 0 if it has none.
  let first: UInt64
  let last: UInt64
}

/// Runs `program` of Benchmarks/Programs with `arguments` while `body` looks at it.
func withHolder<Result>(
  _ workshop: Workshop, program: String = "hold", arguments: [String], body: (Holder) throws -> Result
) throws -> Result {
  let command = Command(program: try workshop.program(program), arguments: arguments)
  return try withHolder(workshop, workshop.command(command, under: .full), body: body)
}

/// Runs a command that says "ready" and two addresses, and ends with its standard input, while `body` looks at it.
func withHolder<Result>(_ workshop: Workshop, _ command: Command, body: (Holder) throws -> Result) throws -> Result {
  var child = try command.start(keepsInputOpen: true)
  let result = Swift.Result {
    let words = child.readLine().split(separator: " ")
    guard words.count == 3, words[0] == "ready" else {
      throw BenchmarkError("\(([command.program] + command.arguments).joined(separator: " ")) did not get ready")
    }
    return try body(
      Holder(
        pid: child.pid, segment: try workshop.segment(of: child.pid), first: UInt64(words[1], radix: 16) ?? 0,
        last: UInt64(words[2], radix: 16) ?? 0))
  }
  let end = Swift.Result { try child.wait(for: command) }
  workshop.cleanUp()
  let value = try result.get()
  _ = try end.get()
  return value
}
