// SPDX-License-Identifier: Apache-2.0
// Every allocation function with every edge: what a caller can see is the same with and without the agent.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the battery")
  struct Battery {
    /// Runs a battery plain and under the agent and compares the lines.
    private func compare(
      _ program: String, _ arguments: [String], preloaded: String?, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let directory = try TestDirectory()
      let plain = try ChildProcess.run(
        [program] + arguments, environment: preloaded.map { ["LD_PRELOAD": $0] } ?? [:])
      let indexed = try ChildProcess.run(
        [program] + arguments, environment: Installation.agentEnvironment(directory.path, below: preloaded))
      try #require(plain.ending == .exit(0), "the plain run failed: \(plain.errors)", sourceLocation: sourceLocation)
      #expect(indexed.ending == plain.ending, "\(indexed.errors)", sourceLocation: sourceLocation)
      #expect(indexed.errors == plain.errors, sourceLocation: sourceLocation)
      let expected = plain.output.split(separator: "\n")
      let found = indexed.output.split(separator: "\n")
      #expect(expected.last == "done", sourceLocation: sourceLocation)
      let different = zip(expected, found).filter { $0 != $1 }.map { "plain '\($0)', indexed '\($1)'" }
      #expect(
        different.isEmpty, "\(different.count) lines, first: \(different.prefix(8).joined(separator: "; "))",
        sourceLocation: sourceLocation)
      #expect(found.count == expected.count, sourceLocation: sourceLocation)
      // It did run under the agent.
      #expect(try directory.segments().count == 1, sourceLocation: sourceLocation)
    }

    /// Mistakes that an allocator does not survive on its own are left out for it.
    private func cArguments(_ allocator: Allocator) -> [String] { allocator == .tcmalloc ? [] : ["corrupting"] }
    private func operatorArguments(_ allocator: Allocator) -> [String] { allocator == .mimalloc ? ["throwless"] : [] }

    @Test("C functions answer as without the agent, at every edge", arguments: Allocator.allCases)
    func functions(allocator: Allocator) throws {
      try allocator.require()
      try compare(Programs.path("battery.c"), cArguments(allocator), preloaded: allocator.library)
    }

    @Test("operators new and delete answer as without the agent, at every edge", arguments: Allocator.allCases)
    func operators(allocator: Allocator) throws {
      try allocator.require()
      try compare(Programs.path("operators.cpp"), operatorArguments(allocator), preloaded: allocator.library)
    }

    @Test("the same with the allocator linked into the program", arguments: Allocator.allCases.filter { $0 != .glibc })
    func linked(allocator: Allocator) throws {
      try allocator.require()
      let options = ["-Wl,--no-as-needed", "-l:\(allocator.library!)"]
      try compare(Programs.path("battery.c", options: options), cArguments(allocator), preloaded: nil)
      try compare(Programs.path("operators.cpp", options: options), operatorArguments(allocator), preloaded: nil)
    }
  }
}
