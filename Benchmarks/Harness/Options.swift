// SPDX-License-Identifier: Apache-2.0
// The command line.

import Foundation

struct Options {
  var quick = false
  var json = false
  /// Whether docs/benchmarks.md gets the table; a whole run writes it unless told otherwise.
  var write: Bool?
  var heaptrack = true
  var usesProcessorTime = false
  var only: [String] = []
  var rounds: Int?
  /// Compare instruction counts with their thresholds, and do nothing else.
  var checks = false
  /// With `checks`: the thresholds become what is counted.
  var setsThresholds = false
  /// The top of the source tree.
  var root = FileManager.default.currentDirectoryPath
  /// liballocs_agent.so; nil if there is none yet.
  var agent: String?
  /// The directory of an older build's binaries, which the server is compared with.
  var before: String?
  /// The directory of allocsd, allocsctl and the other programs of the benchmarks.
  var binaries: String

  static let help = """
    Usage: Benchmarks/run [--quick] [--only NAME,…] [--rounds N] [--json] [--write]

      --quick          three rounds of fewer operations: for a first impression
      --only NAME,…    only these: \(Benchmark.all.map(\.name).joined(separator: ", "))
      --rounds N       interleaved rounds, 5 unless told otherwise
      --no-heaptrack   compare with the plain run only
      --cpu            compare processor time instead of elapsed time in the loops: for a busy machine
      --json           print one JSON object instead of the table
      --write          put the table into docs/benchmarks.md, as a run of all benchmarks without --quick does; what was
                       written there by hand stays
      --no-write       leave that page as it is
      --check          compare counts of instructions with Benchmarks/instructions.txt, and nothing else
      --set            with --check: write what is counted into that file

    ALLOCS_AGENT=PATH   measure this agent instead of the one that was built
    ALLOCS_AGENT_WITHOUT_EVENTS=PATH   the agent that events, off, are compared with
    ALLOCS_BEFORE=DIR   the binaries of an older build, which latency and memory of the server are compared with
    """

  init(_ arguments: [String]) throws {
    let own = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent().path
    binaries = own
    var rest = arguments[...]
    func value(of option: String) throws -> String {
      guard let value = rest.popFirst() else { throw BenchmarkError("\(option) needs a value\n\n\(Self.help)") }
      return value
    }
    while let argument = rest.popFirst() {
      switch argument {
      case "--quick": quick = true
      case "--json": json = true
      case "--write": write = true
      case "--no-write": write = false
      case "--cpu": usesProcessorTime = true
      case "--no-heaptrack": heaptrack = false
      case "--check": checks = true
      case "--set": setsThresholds = true
      case "--only":
        only = try value(of: argument).split(separator: ",").map(String.init)
        if let unknown = only.first(where: { name in !Benchmark.all.contains { $0.name == name } }) {
          throw BenchmarkError("no benchmark is called '\(unknown)'\n\n\(Self.help)")
        }
      case "--rounds":
        let text = try value(of: argument)
        guard let number = Int(text), number > 0 else {
          throw BenchmarkError("--rounds \(text): that is not a number above 0")
        }
        rounds = number
      case "--root": root = try value(of: argument)
      case "--help", "-h":
        print(Self.help)
        exit(0)
      default: throw BenchmarkError("unknown option '\(argument)'\n\n\(Self.help)")
      }
    }
    let built = "\(own)/liballocs_agent.so"
    agent = ProcessInfo.processInfo.environment["ALLOCS_AGENT"]
    if let agent, !FileManager.default.fileExists(atPath: agent) {
      throw BenchmarkError("ALLOCS_AGENT names \(agent), which doesn't exist — build it or unset the variable")
    }
    if agent == nil, FileManager.default.fileExists(atPath: built) { agent = built }
    before = ProcessInfo.processInfo.environment["ALLOCS_BEFORE"]
    for name in before == nil ? [] : ["allocsd", "allocsctl"] {
      guard FileManager.default.isExecutableFile(atPath: "\(before ?? "")/\(name)") else {
        throw BenchmarkError("ALLOCS_BEFORE: there is no \(before ?? "")/\(name) — build it or unset the variable")
      }
    }
  }

  /// The file of the thresholds.
  var thresholds: String { "\(root)/Benchmarks/instructions.txt" }

  var writesPage: Bool { write ?? (only.isEmpty && !quick) }

  var roundCount: Int { rounds ?? (quick ? 3 : 5) }
}
