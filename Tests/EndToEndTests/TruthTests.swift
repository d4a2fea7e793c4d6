// SPDX-License-Identifier: Apache-2.0
// The truth test: the index against a program's own record of more than a million random operations, all of it.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the truth")
  struct Truth {
    static let checkpoints = 5
    static let operations = 2_500_000

    /// Runs the program and compares at each check point; returns what it said at its end.
    private func run(
      allocator: Allocator, linked: Bool = false, children: String = "none", threads: Int = 4,
      operations: Int = Truth.operations, checkpoints: Int = Truth.checkpoints, seed: Int = 1, largest: Int? = nil
    ) throws -> [String] {
      try allocator.require()
      let options = linked ? ["-Wl,--no-as-needed", "-l:\(allocator.library!)"] : []
      let program = try RecordingProgram(
        [
          Programs.path("truth.cpp", options: options), "\(threads)", "\(operations)", "\(checkpoints)", "\(seed)",
          children,
        ] + (largest.map { ["\($0)"] } ?? []), below: linked ? nil : allocator.library)
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      let counted = counts(in: segment)
      try program.proceed()
      for checkpoint in 1...checkpoints {
        let record = try program.reach(checkpoint)
        #expect(record.blocks.count > 5000)
        var comparison = Comparison(record: record, baseline: baseline, allocatorPrefix: allocator.modulePrefix)
        comparison.looksAtEachByte = largest != nil
        let differences = comparison.differences(in: segment)
        #expect(differences.isEmpty, "check point \(checkpoint): \(differences)")
        if children == "none" { compareCounts(program.said, before: counted, in: segment) }
        #expect(segment.unindexed == [])
        let totals = segment.totals()
        #expect(totals.count == UInt64(record.blocks.count + baseline.count))
        #expect(totals.bytes == record.blocks.reduce(0) { $0 + $1.size } + baseline.reduce(0) { $0 + $1.size })
        #expect(segment.balance == Int64(totals.count))
        let (allocated, counted) = (segment.allocatedBlocks, segment.callSums?.allocations)
        #expect(allocated == counted)
        #expect(segment.contextsWithMoreLiveThanTotal() == [])
        try program.proceed()
      }
      try program.finish()
      return program.said
    }

    @Test(
      "blocks of 0 to 64 bytes, side by side and changing their size in every order, are told apart at each byte",
      arguments: Allocator.allCases)
    func small(allocator: Allocator) throws {
      _ = try run(allocator: allocator, operations: 500_000, checkpoints: 2, seed: 8, largest: 64)
    }

    @Test(
      "children leave no trace in the index of small blocks while other threads allocate",
      arguments: [Allocator.jemalloc, .tcmalloc])
    func smallAndChildren(allocator: Allocator) throws {
      _ = try run(
        allocator: allocator, children: "spawn", operations: 200_000, checkpoints: 1, seed: 9, largest: 64)
    }

    @Test(
      "what an allocator makes of a request is what it makes of it without the agent, and no neighbour is touched",
      arguments: Allocator.allCases)
    func usableSizes(allocator: Allocator) throws {
      try allocator.require()
      let program = [try Programs.path("usable.c")]
      let directory = try TestDirectory()
      var plain = ChildProcess.baseEnvironment
      if let library = allocator.library { plain["LD_PRELOAD"] = library }
      let without = try ChildProcess.run(program, environment: plain)
      let under = try ChildProcess.run(
        program,
        environment: ChildProcess.baseEnvironment.merging(
          try Installation.agentEnvironment(directory.path, below: allocator.library)
        ) { $1 })
      #expect(without.ending == .exit(0) && without.output.count > 10_000)
      #expect(!without.output.contains("overwritten"))
      #expect(under == without)
    }

    /// Allocations and frees that the index has counted for each thread.
    private func counts(in segment: borrowing Segment) -> [UInt32: (UInt64, UInt64)] {
      Dictionary(segment.threads.map { ($0.id, ($0.allocations, $0.frees)) }, uniquingKeysWith: { $1 })
    }

    /// The program says "worker TID ALLOCATIONS FREES FAILURES" for each thread. bad_alloc's own blocks come and go
    /// beside.
    private func compareCounts(
      _ said: [String], before: [UInt32: (UInt64, UInt64)], in segment: borrowing Segment
    ) {
      let now = counts(in: segment)
      for line in said where line.hasPrefix("worker ") {
        let numbers = line.split(separator: " ").dropFirst().compactMap { UInt64($0) }
        let id = UInt32(numbers[0])
        let (allocations, frees) = now[id] ?? (0, 0)
        let earlier = before[id] ?? (0, 0)
        let exceptions = (allocations - earlier.0) &- numbers[1]
        #expect((frees - earlier.1) &- numbers[2] == exceptions, "thread \(id)")
        #expect(exceptions <= numbers[3], "thread \(id)")
      }
    }

    @Test("every block of a million random operations is in the index, and nothing else", arguments: Allocator.allCases)
    func random(allocator: Allocator) throws {
      let said = try run(allocator: allocator)
      // The other two misalign some blocks on their own, which the battery compares.
      if allocator == .glibc || allocator == .tcmalloc { #expect(said.contains("misaligned 0")) }
    }

    @Test("allocsctl and allocsd answer for thousands of random blocks as the program recorded them")
    func answers() throws {
      let program = try RecordingProgram([Programs.path("truth.cpp"), "4", "400000", "1", "7"])
      _ = try program.reach(0)
      try program.proceed()
      let record = try program.reach(1)
      let sample = record.blocks.enumerated().filter { $0.offset % 3 == 0 }.map(\.element)
      #expect(sample.count > 2000)
      let input = sample.map { "0x\(String($0.base + $0.size / 2, radix: 16))\n" }.joined()
      let arguments = ["query", "\(program.process.pid)", "--json", "-"]
      let direct = try Tool.control(arguments, in: program.directory, input: input)
      #expect(direct.ending == .exit(0), "\(direct.errors)")
      var differences = Differences()
      for (block, answer) in zip(sample, try Tool.objects(direct.output)) {
        let site = record.sites[block.site]
        let frame = (answer["stack"] as? [[String: Any]])?.first
        if answer["kind"] as? String != "heap" || answer["base"] as? String != "0x\(String(block.base, radix: 16))"
          || answer["size"] as? Int != Int(block.size) || answer["offset"] as? Int != Int(block.size / 2)
          || answer["function"] as? String != site?.function
          || (answer["thread"] as? [String: Any])?["id"] as? Int != Int(block.thread)
          || (frame?["file"] as? String)?.hasSuffix("truth.cpp") != true
        {
          differences.add("\(block) is answered \(answer)")
        }
      }
      #expect(differences.isEmpty, "\(differences)")
      #expect(direct.output.split(separator: "\n").count == sample.count)
      let server = try Server(program.directory)
      let served = try Tool.control(arguments, in: program.directory, socket: server.socket, input: input)
      #expect(served.ending == .exit(0), "\(served.errors)")
      #expect(Tool.withoutAges(served.output) == Tool.withoutAges(direct.output))
      program.process.signal(SIGKILL)
    }

    @Test("the same with jemalloc linked into the program")
    func linked() throws { _ = try run(allocator: .jemalloc, linked: true, checkpoints: 2, seed: 2) }

    @Test("the same with sixteen threads on few processors")
    func manyThreads() throws { _ = try run(allocator: .glibc, threads: 16, checkpoints: 1, seed: 3) }

    @Test(
      "children leave no trace in the index while other threads allocate",
      arguments: ["fork", "vfork", "spawn", "clone"])
    func children(way: String) throws {
      let said = try run(allocator: .glibc, children: way, checkpoints: 2, seed: 4)
      let children = said.last { $0.hasPrefix("children ") }?.split(separator: " ").compactMap { Int($0) } ?? []
      try #require(children.count == 2)
      #expect(children[0] > 5)
      #expect(children[1] == 0)
    }

    @Test(
      "children leave no trace in the index with another allocator below", arguments: [Allocator.jemalloc, .tcmalloc])
    func childrenBelow(allocator: Allocator) throws {
      _ = try run(allocator: allocator, children: "vfork", checkpoints: 2, seed: 5)
    }
  }
}
