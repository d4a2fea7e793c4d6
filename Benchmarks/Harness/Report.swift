// The result of a run: as JSON, and as the page docs/benchmarks.md.

import Foundation
import Measurement

struct Report {
  let machine: Machine
  let options: Options
  private(set) var rows: [(part: Benchmark.Part, row: Row)] = []

  init(machine: Machine, options: Options) {
    self.machine = machine
    self.options = options
  }

  mutating func add(_ row: Row, to part: Benchmark.Part) { rows.append((part, row)) }

  var table: String {
    Benchmark.Part.allCases.compactMap { part in
      let lines = rows.filter { $0.part == part }.map { Table.line($0.row) }
      return lines.isEmpty ? nil : ([Table.heading(part)] + lines).joined(separator: "\n")
    }.joined(separator: "\n\n")
  }

  /// "23 of 25 bars met", and which not.
  var summary: String {
    let judged = rows.map(\.row).filter { $0.bar != nil }
    let missed = judged.filter { $0.verdict != "met" }
    return
      ([
        (judged.count - missed.count == judged.count ? "All" : "\(judged.count - missed.count) of")
          + " \(judged.count) bars met."
      ]
      + missed.map { "  \($0.name.trimmingCharacters(in: .whitespaces)): \($0.verdict ?? "")" }).joined(separator: "\n")
  }

  // MARK: JSON

  private struct Record: Encodable {
    var name: String
    var unit: String
    var values: [String: [Double]]?
    var ratio: [String: [String: Double]]?
    var figure: Double?
    var percentile99: Double?
    var missing: String?
    var bar: String?
    var verdict: String?
  }

  private struct Document: Encodable {
    var machine: Machine
    var rounds: Int
    var quick: Bool
    var clock: String
    var rows: [Record]
  }

  func json() throws -> String {
    func numbers(_ spread: Spread) -> [String: Double] {
      ["median": spread.median, "minimum": spread.minimum, "maximum": spread.maximum]
    }
    let records = rows.map { _, row in
      var record = Record(name: row.name.trimmingCharacters(in: .whitespaces), unit: row.unit)
      record.bar = row.bar.map(Table.limit)
      record.verdict = row.verdict
      switch row.value {
      case .comparison(let rounds):
        record.values = Dictionary(uniqueKeysWithValues: rounds.values.map { ($0.rawValue, $1) })
        record.ratio = Dictionary(
          uniqueKeysWithValues: [Variant.agent, .heaptrack].compactMap { variant in
            rounds.ratio(of: variant).map { (variant.rawValue, numbers($0)) }
          })
      case .share(let share): record.ratio = ["cost": numbers(share)]
      case .figure(let figure, let percentile99):
        record.figure = figure
        record.percentile99 = percentile99
      case .missing(let why): record.missing = why
      }
      return record
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let document = Document(
      machine: machine, rounds: options.roundCount, quick: options.quick,
      clock: options.usesProcessorTime ? "processor" : "elapsed", rows: records)
    return String(decoding: try encoder.encode(document), as: UTF8.self)
  }

  // MARK: the page

  func write() throws {
    let path = "\(options.root)/docs/benchmarks.md"
    try FileManager.default.createDirectory(atPath: "\(options.root)/docs", withIntermediateDirectories: true)
    try page.write(toFile: path, atomically: true, encoding: .utf8)
  }

  private var page: String {
    """
    # Benchmarks

    What the agent costs a program, and how fast the index answers: the table that `make bench` printed last, which
    replaces this page. Everything is measured in one run: each of \(options.roundCount) rounds runs the program plain, under the agent
    (call site, thread and time of each allocation) and under heaptrack, starting with another of the three each time.
    Ratios are taken within a round; the table has their median, and the least and the greatest in parentheses.\
    \(options.usesProcessorTime ? "\nTimes are processor times, as the machine was not idle." : "")\
    \(options.quick ? "\nA quick run, of fewer operations than the bars are meant for." : "")

    ```
    \(machine.lines.joined(separator: "\n"))

    \(table)

    \(summary)
    ```

    ## What the rows are

    - **malloc(64) + free**: the pair, in a loop. **churn**: random replacement among live blocks of 16 to 527 bytes.
      **two threads**: one pair and one replacement among 1,000 blocks, in each of two threads, each on its own
      processor. **growing realloc**: a buffer that grows by half from 16 bytes to 64 KiB. **1 MiB blocks**: random
      replacement among 16. **thread start + join**: each thread allocates and frees one block. Each program does
      nine batches after a warm-up and tells the median batch. The blocks are not written to (but for one byte of each
      1 MiB), so the ratios are those of the calls alone.
    - **cost ÷ heaptrack's cost**: the agent's time over plain, divided by heaptrack's time over plain. heaptrack is
      preloaded and records to a file in memory: its interpreter, which usually runs beside the program, costs nothing here.
    - **sqlite3** runs [a script](../Benchmarks/Programs/tables.sql) on a database in memory, **python3**
      [a loop](../Benchmarks/Programs/json_loop.py) that writes and reads JSON, with PYTHONMALLOC=malloc. **redis**: a fixed
      number of SET and GET by redis-benchmark, 16 in a pipeline, server and client each on its own processor.
    - **segment, N-byte blocks**: blocks of the segment's file on its file system, less those of an idle process,
      divided by the number of live allocations.
    - **look-ups** are timed one at a time, among 100,000 random ones, in a mapped segment of a live process, without
      symbols; every answer is checked. *with neighbours* also finds the nearest live allocations below and above.
      *1 TiB into a block* is a segment that was written for the purpose. *free, above N freed*: all blocks but the lowest
      were freed, and the nearest live one is searched from the top.
    - **query** is `GET …/query?address=…` with symbolized stacks, **batch** `POST …/query?stacks=false`; both through
      allocsd on a Unix socket, of a process with a million live allocations.

    Run it: `make bench`, or `Benchmarks/run --help` for single ones, fewer rounds, JSON.

    """
  }
}
