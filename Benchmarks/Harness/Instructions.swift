// SPDX-License-Identifier: Apache-2.0
// Instructions that the agent and the tools take, counted by valgrind's callgrind: figures that are the same on a busy
// machine and on an idle one, so that a change of a few per cent shows. `make bench` has them as rows, `make
// bench-check` compares them with Benchmarks/instructions.txt.
//
// Each figure is a difference of two runs that differ in their length alone, divided by the difference of the lengths:
// what a start costs does not count. From a figure of the agent, the plain program's figure (or the figure with call
// sites) is taken off, so that neither the C library's version nor the compiler's matters.
//
// Where the stack begins depends on the environment and on the lengths of paths, and with it which stacks share a place
// in what the agent remembers: up to 9 % of a capture's instructions. So callgrind's programs get an environment of
// their own, always of one length, and a capture is the mean over several beginnings of the stack.
//
// All programs are ours. An interpreter's would be another program with each version of it: python3's JSON loop calls
// malloc from other places, in other numbers and at other depths from one minor version to the next, so that neither
// its figure nor the ratio to its plain run would be within 3 % on two machines. Programs/document.c does what that
// loop does.

import Foundation
import Measurement

private struct Figure: Sendable {
  let name: String
  let count: @Sendable (Workshop) throws -> Double
}

/// Two runs of a program of Benchmarks/Programs.
private struct Runs: Sendable {
  let program: String
  let short: [String]
  let long: [String]
  /// Operations of the long run less those of the short one; nil if the program prints "captures COUNT".
  var operations: Double?
  var event = Callgrind.Event.instructions
  var environment: [String: String] = [:]
  /// Bytes by which the stack begins lower: the figure is the mean over all of these.
  var shifts = [0]

  /// For one operation under `variant`.
  func counted(under variant: Variant, in workshop: Workshop) throws -> Double {
    try shifts.map { try counted(under: variant, shift: $0, in: workshop) }.reduce(0, +) / Double(shifts.count)
  }

  private func counted(under variant: Variant, shift: Int, in workshop: Workshop) throws -> Double {
    func run(_ arguments: [String]) throws -> (count: Double, captures: Double) {
      defer { workshop.cleanUp() }
      let command = Command(
        program: try workshop.program(program), arguments: arguments, environment: environment)
      let (counts, output) = try Callgrind(in: workshop, shift: shift).run(workshop.command(command, under: variant))
      let words = output.split(whereSeparator: \.isWhitespace)
      return (counts.of(event), words.first == "captures" ? words.last.flatMap { Double($0) } ?? 0 : 0)
    }
    let (first, second) = (try run(short), try run(long))
    return (second.count - first.count) / (operations ?? second.captures - first.captures)
  }

  /// A figure: the difference that `variant` makes to `base`.
  func figure(_ name: String, of variant: Variant, over base: Variant) -> Figure {
    Figure(name: name) { try counted(under: variant, in: $0) - counted(under: base, in: $0) }
  }
}

// MARK: the figures

/// A program that does ten batches.
private func loop(_ program: String, _ arguments: [String] = []) -> Runs {
  Runs(program: program, short: arguments + ["500"], long: arguments + ["5500"], operations: 10 * 5000)
}
/// The last of `count` phases.
private func phase(_ function: String, size: Int, _ count: Int) -> Runs {
  let blocks = 20_000
  let arguments = [function, "\(size)", "\(blocks)"]
  return Runs(
    program: "phases", short: arguments + ["\(count - 1)"], long: arguments + ["\(count)"], operations: Double(blocks))
}
private let document = Runs(
  program: "document", short: ["5"], long: ["25"], shifts: [0, 512, 1040, 1552, 2080, 3120])
/// Stacks that are new, of up to 60 frames, of which all are recorded or the innermost.
private func evaluator(depth: Int) -> Runs {
  Runs(program: "evaluator", short: ["5"], long: ["25"], environment: ["ALLOCS_DEPTH": "\(depth)"])
}
private let mispredicted: Runs = {
  var runs = document
  runs.event = .mispredictions
  return runs
}()

private let agentFigures: [Figure] = [
  loop("pair").figure("pair", of: .site, over: .plain),
  loop("capture", ["same", "5"]).figure("pair-stack", of: .full, over: .plain),
  phase("malloc", size: 48, 3).figure("malloc-48", of: .site, over: .plain),
  phase("malloc", size: 200, 3).figure("malloc-200", of: .site, over: .plain),
  phase("malloc", size: 48, 4).figure("free", of: .site, over: .plain),
  phase("calloc", size: 48, 3).figure("calloc", of: .site, over: .plain),
  loop("grow").figure("realloc", of: .site, over: .plain),
  document.figure("capture", of: .full, over: .site),
  mispredicted.figure("capture-missed", of: .full, over: .site),
  evaluator(depth: 128).figure("evaluator", of: .full, over: .site),
  evaluator(depth: 16).figure("evaluator-16", of: .full, over: .site),
]

/// What allocsctl does for one thing more of many.
private let readerFigures: [Figure] = [
  Figure(name: "lookup") { workshop in
    let tool = try Callgrind.binary("allocs-lookup-bench", in: workshop)
    return try withHolder(workshop, arguments: ["0", "20000"]) { holder in
      try difference(1000, 21_000, in: workshop) {
        Command(program: tool, arguments: ["count", holder.segment, "\($0)"])
      }
    }
  },
  Figure(name: "top") { workshop in
    let tool = try Callgrind.binary("allocsctl", in: workshop)
    // A tenth of the blocks is freed.
    let counts = try [10_000, 60_000].map { count in
      try withHolder(workshop, arguments: ["0", "\(count)"]) {
        try Callgrind(in: workshop).run(allocsctl(tool, ["top", "\($0.pid)", "--direct"], workshop)).counts.instructions
      }
    }
    return (counts[1] - counts[0]) / 45_000
  },
  Figure(name: "query") { workshop in
    let tool = try Callgrind.binary("allocsctl", in: workshop)
    return try withHolder(workshop, arguments: ["64", "3000"]) { holder in
      // Of 64 bytes, blocks lie 80 bytes apart.
      try difference(100, 600, in: workshop) { count in
        let addresses = (0..<UInt64(count)).map { String(holder.first + 80 * $0 + 24) }
        return allocsctl(tool, ["query", "\(holder.pid)", "--direct"] + addresses, workshop)
      }
    }
  },
]

private func allocsctl(_ tool: String, _ arguments: [String], _ workshop: Workshop) -> Command {
  Command(program: tool, arguments: arguments, environment: ["ALLOCS_DIR": workshop.segments])
}

/// Instructions of a command for one thing more.
private func difference(
  _ short: Int, _ long: Int, in workshop: Workshop, _ command: (Int) -> Command
) throws -> Double {
  let counts = try [short, long].map { try Callgrind(in: workshop).run(command($0)).counts.instructions }
  return (counts[1] - counts[0]) / Double(long - short)
}

// MARK: callgrind

/// Runs programs under valgrind's callgrind.
private struct Callgrind {
  enum Event: Sendable { case instructions, mispredictions }

  struct Counts {
    let instructions: Double
    /// Branches that the simulated processor predicted wrong.
    let mispredictions: Double

    func of(_ event: Event) -> Double { event == .instructions ? instructions : mispredictions }
  }

  let log: String
  /// Bytes by which the stack begins lower than it would.
  let shift: Int

  init(in workshop: Workshop, shift: Int = 0) {
    log = "\(workshop.scratch)/callgrind.log"
    self.shift = shift
  }

  /// Bytes of all strings that the kernel puts above a program's stack, before they are shifted.
  private static let stringBytes = 4096

  func run(_ command: Command) throws -> (counts: Counts, output: String) {
    var variables = command.environment
    // Swift's dictionaries are else in another order with each run.
    variables["SWIFT_DETERMINISTIC_HASHING"] = "1"
    variables["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    let words = [command.program, command.program] + command.arguments + variables.map { "\($0)=\($1)" }
    let filled = words.reduce("PAD=".utf8.count + 1) { $0 + $1.utf8.count + 1 }
    variables["PAD"] = String(repeating: "x", count: max(0, Self.stringBytes - filled) + shift)
    var counted = command
    counted.environment = [:]
    counted.program = "env"
    counted.arguments =
      ["-i"] + variables.map { "\($0)=\($1)" }.sorted() + [
        "valgrind", "--tool=callgrind", "--branch-sim=yes", "--callgrind-out-file=/dev/null", "--log-file=\(log)", "--",
        command.program,
      ] + command.arguments
    let output = try counted.run().output
    let report = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
    guard let line = report.split(separator: "\n").last(where: { $0.contains("Collected :") }),
      case let words = line.split(separator: ":").last?.split(separator: " ").compactMap({ Double($0) }),
      // Instructions; conditional branches, of them mispredicted; indirect ones, of them mispredicted.
      let words, words.count == 5
    else {
      throw BenchmarkError(
        "valgrind told no count of \(([command.program] + command.arguments).prefix(3).joined(separator: " ")): "
          + (report.isEmpty ? "is it installed? scripts/install-dependencies bench-check" : report))
    }
    return (Counts(instructions: words[0], mispredictions: words[2] + words[4]), output)
  }

  /// A program of the build without debug information, whose format Debian 12's valgrind does not know.
  static func binary(_ name: String, in workshop: Workshop) throws -> String {
    let stripped = "\(workshop.scratch)/\(name)"
    if !FileManager.default.fileExists(atPath: stripped) {
      try Command(
        program: "strip", arguments: ["-g", "-o", stripped, "\(workshop.options.binaries)/\(name)"]
      ).run()
    }
    return stripped
  }
}

// MARK: rows of `make bench`

let instructionsBenchmark = Benchmark(name: "instructions", part: .instructions) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let thresholds = try Thresholds(file: workshop.options.thresholds)
  return try counted(workshop).map { name, value in
    Row(
      name: name, unit: "", value: .figure(value, percentile99: nil),
      bar: thresholds[name].map { .atMost($0.limit * (1 + Thresholds.tolerance)) })
  } + [jsonRow(workshop)]
}

/// A capture in python3's JSON loop. Without a threshold, because it depends on the version of python3.
private func jsonRow(_ workshop: Workshop) throws -> Row {
  func loop(_ turns: Int) -> Command {
    Command(
      program: "/usr/bin/python3", arguments: [workshop.source("json_loop.py"), "\(turns)"],
      environment: ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"])
  }
  func instructions(_ turns: Int, _ variant: Variant) throws -> Double {
    defer { workshop.cleanUp() }
    return try Callgrind(in: workshop).run(workshop.command(loop(turns), under: variant)).counts.instructions
  }
  func calls(_ turns: Int) throws -> Double {
    defer { workshop.cleanUp() }
    let command = workshop.command(loop(turns), under: .site)
    var child = try command.start()
    _ = child.readToEnd()
    try child.wait(for: command)
    let printed = try Command(
      program: "\(workshop.options.binaries)/allocs-lookup-bench",
      arguments: ["calls", try workshop.segment(of: child.pid)]
    ).run().output
    guard let count = Double(printed.filter { $0 != "\n" }) else {
      throw BenchmarkError("allocs-lookup-bench printed '\(printed)' instead of a number of calls")
    }
    return count
  }
  func longer(_ figure: (Int) throws -> Double) rethrows -> Double { try figure(4) - figure(1) }
  let added = try longer { try instructions($0, .full) } - longer { try instructions($0, .site) }
  return Row(
    name: "python3 JSON, a capture", unit: "", value: .figure(try added / longer(calls), percentile99: nil))
}

private func counted(_ workshop: Workshop) throws -> [(name: String, value: Double)] {
  try (agentFigures + readerFigures).map { (name: $0.name, value: try $0.count(workshop)) }
}

// MARK: `make bench-check`

/// Compares the figures with the thresholds and says how; or sets the thresholds. False if a figure has grown.
func check(_ workshop: Workshop) throws -> Bool {
  guard workshop.options.agent != nil else { throw BenchmarkError("there is no agent beside this program") }
  #if !arch(x86_64)
    note("the thresholds are of x86-64: nothing was compared")
    return true
  #endif
  let path = workshop.options.thresholds
  let thresholds = try Thresholds(file: path)
  let figures = try counted(workshop)
  // The gate has to close: every figure fails against thresholds that are a tenth too low. A figure of about 1 or less
  // is left out, whose tenth is less than its rounding.
  let low = Dictionary(uniqueKeysWithValues: figures.map { ($0.name, max(0.1, $0.value / 1.1)) })
  let closed = try Thresholds(thresholds.text(setTo: low)).judge(figures)
  guard closed.allSatisfy({ !$0.isPassed || $0.figure ?? 0 < 1.5 }) else {
    throw BenchmarkError("figures pass that are above their thresholds")
  }
  if workshop.options.setsThresholds {
    let values = Dictionary(uniqueKeysWithValues: figures.map { ($0.name, $0.value) })
    try thresholds.text(setTo: values).write(toFile: path, atomically: true, encoding: .utf8)
  }
  let judgements = try Thresholds(file: path).judge(figures)
  say(Thresholds.table(judgements))
  let failed = judgements.filter { !$0.isPassed }
  guard failed.isEmpty else {
    note(
      "\(failed.map(\.name).joined(separator: ", ")): more than \(Int(Thresholds.tolerance * 100)) % above the "
        + "threshold, or without one. Make it less; or set the thresholds, `make bench-check ARGS=--set`, in a commit "
        + "that says why")
    return false
  }
  if judgements.contains(where: { $0.verdict == .shrunk }) {
    note("a figure is less than its threshold now: `make bench-check ARGS=--set`, so that it does not grow back")
  }
  return true
}

extension Thresholds {
  fileprivate init(file: String) throws {
    do {
      try self.init(String(contentsOfFile: file, encoding: .utf8))
    } catch {
      throw BenchmarkError("the thresholds in \(file) could not be read: \(error)")
    }
  }
}
