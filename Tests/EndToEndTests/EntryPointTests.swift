// SPDX-License-Identifier: Apache-2.0
// Programs that define the malloc family themselves: the agent's functions are never called there, and are put in front
// of the program's own instead.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("allocators of a program's own")
  struct EntryPoints {
    /// An allocator that is linked into the program, beside its own source.
    struct Build: CustomTestStringConvertible, Sendable {
      let testDescription: String
      let options: [String]
      /// Some of its functions have several names, as operator new and operator new[].
      var hasAliases = false

      static let own = Programs.source("own_allocator.cpp")
      static let all = [
        Build(testDescription: "jemalloc", options: ["-rdynamic", "-l:libjemalloc_pic.a", "-lm"]),
        Build(
          testDescription: "jemalloc, at a fixed address",
          options: ["-rdynamic", "-no-pie", "-l:libjemalloc.a", "-lm"]),
        Build(testDescription: "tcmalloc", options: ["-l:libtcmalloc_minimal.a"], hasAliases: true),
        Build(testDescription: "free lists", options: [own]),
        Build(
          testDescription: "free lists, not optimized, with landing pads", options: ["-O0", "-fcf-protection", own]),
        Build(testDescription: "free lists, at a fixed address", options: ["-no-pie", "-O3", own]),
        Build(testDescription: "a bump allocator", options: ["-DBUMP", own]),
        Build(testDescription: "a bump allocator, symbols removed", options: ["-DBUMP", "-s", own]),
      ]
    }

    enum Wrapping: String, CaseIterable, Sendable {
      case inTheProgram, preloadedBefore, preloadedAfter, belated, operatorsInTheProgram, operatorsPreloadedBefore

      var hasOperators: Bool { self == .operatorsInTheProgram || self == .operatorsPreloadedBefore }
      var isInTheProgram: Bool { self == .inTheProgram || self == .operatorsInTheProgram }
    }

    @Test(
      "functions that only lead on to the next definition are no allocator, wherever they are",
      arguments: Wrapping.allCases)
    func wrapping(_ kind: Wrapping) throws {
      let source = kind.hasOperators ? "wrapping_operators.cpp" : "wrapping.c"
      let object = try Programs.path(source, options: ["-c"])
      let library = try Programs.path(source, options: ["-shared", "-fPIC"])
      let path = try Programs.path("truth.cpp", options: kind.isInTheProgram ? ["-rdynamic", object] : [])
      let agent = try Installation.path(of: Installation.agent)
      let preload =
        switch kind {
        case .inTheProgram, .operatorsInTheProgram: agent
        case .preloadedBefore, .operatorsPreloadedBefore: "\(library):\(agent)"
        case .preloadedAfter: "\(agent):\(library)"
        case .belated: try Programs.path("belated.c", options: ["-shared", "-fPIC"]) + ":" + agent
        }
      let program = try RecordingProgram(
        [path, "4", "100000", "1", "11", "none"], environment: ["LD_PRELOAD": preload])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      if !kind.hasOperators { #expect(segment.counter("entries_hooked") ?? 0 == 0) }
      try program.proceed()
      let record = try program.reach(1)
      let found = Set(segment.allAllocations().map { "\($0.base) \($0.size)" })
      let expected = Set(
        baseline.map { "\($0.base) \($0.size)" } + record.blocks.map { "\($0.base) \($0.size)" })
      #expect(
        found == expected, "\(found.subtracting(expected).count) too many, \(expected.subtracting(found).count) missing"
      )
      #expect(segment.unindexed == [])
      try program.proceed()
      try program.finish()
    }

    @Test(
      "a program with a sanitizer's runtime in it runs as without the agent, which has no index of it",
      arguments: ["address", "thread"])
    func sanitized(_ sanitizer: String) throws {
      let library = ["address": "-static-libasan", "thread": "-static-libtsan"][sanitizer]
      let path = try Programs.path("mistaken.c", options: ["-fsanitize=\(sanitizer)", try #require(library)])
      let directory = try TestDirectory()
      let agent = try Installation.agentEnvironment(directory.path)
      for mistake in [[], ["mistake"]] {
        let alone = try ChildProcess.run([path] + mistake)
        let observed = try ChildProcess.run([path] + mistake, environment: agent)
        #expect(observed.ending == alone.ending, "\(observed.errors)")
        #expect(observed.output == "done\n" && alone.output == "done\n")
        #expect(observed.errors.contains("heap-use-after-free") == !mistake.isEmpty)
      }
    }

    @Test(
      "valgrind runs a program under the agent, and finds its mistake",
      .enabled(if: hasValgrind, "needs valgrind, and what it needs of libc6-dbg"))
    func valgrind() throws {
      let path = try Programs.path("mistaken.c")
      let directory = try TestDirectory()
      let outcome = try ChildProcess.run(
        ["valgrind", path, "mistake"], environment: Installation.agentEnvironment(directory.path))
      #expect(outcome.ending == .exit(0) && outcome.output == "done\n", "\(outcome)")
      #expect(outcome.errors.contains("inside a block of size 100 free'd"), "\(outcome.errors)")
    }
    static let hasValgrind = (try? ChildProcess.run(["valgrind", "-q", "/bin/true"]).ending) == .exit(0)

    @Test("every block of random operations is in the index, and nothing else", arguments: Build.all)
    func truth(build: Build) throws {
      let path = try Programs.path("truth.cpp", options: build.options)
      let program = try RecordingProgram([path, "4", "400000", "3", "11", "none"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      #expect((segment.counter("entries_hooked") ?? 0) >= 6)
      #expect(segment.counter("entries_refused") == 0)
      try program.proceed()
      for checkpoint in 1...3 {
        let record = try program.reach(checkpoint)
        let name = (path as NSString).lastPathComponent
        let comparison = Comparison(
          record: record, baseline: baseline, allocatorPrefix: name, tellsFunctions: !build.hasAliases)
        let differences = comparison.differences(in: segment)
        #expect(differences.isEmpty, "check point \(checkpoint): \(differences)")
        try program.expectComplete(segment, record, baseline: baseline)
        try program.proceed()
      }
      try program.finish()
    }

    @Test(
      "a function that cannot be hooked is left alone, with its reason",
      arguments: [
        ("SHORT", "it is too short"), ("LOOP", "it branches into its first instructions"),
        ("GARBAGE", "it cannot be decoded to its end"),
      ])
    func refusal(way: String, reason: String) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("unhookable.c", options: ["-D\(way)"])
      var environment = try Installation.agentEnvironment(directory.path)
      let plain = try ChildProcess.run([program])
      #expect(try ChildProcess.run([program], environment: environment) == plain)
      environment["ALLOCS_VERBOSE"] = "1"
      let outcome = try ChildProcess.run([program], environment: environment)
      #expect(outcome.ending == plain.ending && outcome.output == plain.output)
      #expect(outcome.errors.contains("does not see free of the executable: "), "\(outcome.errors)")
      #expect(outcome.errors.contains(reason), "\(outcome.errors)")
      for path in try directory.segments() {
        let segment = try Segment(path: path)
        #expect(segment.counter("entries_hooked") == 0)
        #expect((segment.counter("entries_refused") ?? 0) >= 2)
        #expect(segment.counter("unknown_frees") == 0)
        #expect(segment.totals().count == 0)
      }
    }

    @Test(
      "a library that is preloaded before the agent is hooked like an executable, also beside one",
      arguments: [[], ["-static-libstdc++", "-rdynamic"]])
    func preloadedBefore(options: [String]) throws {
      try Allocator.jemalloc.require()
      let agent = try Installation.path(of: Installation.agent)
      let program = try RecordingProgram(
        [Programs.path("truth.cpp", options: options), "2", "200000", "1", "12", "none"],
        environment: ["LD_PRELOAD": "\(Allocator.jemalloc.library ?? ""):\(agent)"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      try program.proceed()
      let record = try program.reach(1)
      let comparison = Comparison(
        record: record, baseline: baseline, allocatorPrefix: Allocator.jemalloc.modulePrefix)
      let differences = comparison.differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      #expect((segment.counter("entries_hooked") ?? 0) >= 6)
      try program.proceed()
      try program.finish()
    }
  }
}
