// SPDX-License-Identifier: Apache-2.0
// What was ever allocated, by context, where counting is hard: signals in the middle of a call, children, no room, few
// ids, a record that gives way to another.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("totals at the edges")
  struct TotalsAtTheEdges {
    private func signalSafe() throws -> String { try Programs.path("signal_safe.c", options: ["-shared", "-fPIC"]) }

    @Test(
      "a signal handler that allocates behind each instruction of a call takes nothing from the totals",
      arguments: ["full", "site"], ["", "1"])
    func interrupted(stacks: String, events: String) throws {
      let program = try RecordingProgram(
        [Programs.path("totals_stepped.c", options: [try signalSafe()])],
        environment: ["ALLOCS_STACKS": stacks, "ALLOCS_EVENTS": events])
      let record = try program.reach(0)
      let words = (program.said.first { $0.hasPrefix("plain ") } ?? "").split(separator: " ").map(String.init)
      try #require(words.count == 10)
      let segment = try program.openSegment()
      let sums = segment.totalsBySite(of: record)
      for (name, said) in zip(["plain", "zeroed", "grown", "aligned"], [1, 3, 5, 7]) {
        #expect(sums[name]?.blocks == UInt64(words[said]), "\(name)")
      }
      #expect(sums["zeroed"]?.bytes == 3 * 80 && sums["aligned"]?.bytes == 3 * 128 && sums["grown"]?.bytes == 3 * 140)
      // The handler keeps all its blocks: each is in the index and counted, or was inside a hook.
      let live = segment.allAllocations().filter { $0.size == 71 }
      let counted = UInt64(live.count { $0.context != 0 })
      #expect(sums["handled"] == AllocatedTotal(bytes: counted * 71, blocks: counted))
      #expect(counted > 100 && record.blocks.count > live.count)
      let nested = segment.counter("nested") ?? 0
      #expect(UInt64(live.count) + nested >= UInt64(record.blocks.count))
      #expect(segment.contextsWithMoreLiveThanTotal() == [])
      try program.proceed()
      try program.finish()
    }

    @Test("of a child that a signal handler makes at any moment no context has more than was allocated in it")
    func children() throws {
      let program = try RecordingProgram(
        [Programs.path("interrupted.c"), "fork", "20"], environment: ["ALLOCS_FOLLOW": "1"])
      _ = try program.reach(0)
      try program.proceed()
      let record = try program.reach(1)
      #expect(program.said.contains { $0.hasSuffix(" failed 0") }, "\(program.said)")
      let paths = try program.directory.segments()
      #expect(paths.count > 10)
      let own = try program.directory.segment(of: program.process.pid)
      for path in paths {
        let segment = try Segment(path: path)
        #expect(segment.contextsWithMoreLiveThanTotal() == [], "\(path)")
        // A child's interrupted call may be counted, and its block not be recorded, or the other way round.
        let (allocated, calls) = (segment.allocatedBlocks, segment.callSums?.allocations ?? 0)
        let difference = allocated > calls ? allocated - calls : calls - allocated
        #expect(difference <= (path == own ? 0 : 1), "\(path)")
      }
      let sums = try program.openSegment().totalsBySite(of: record)
      #expect(sums["malloc"]?.blocks ?? 0 > 0)
      try program.proceed()
      try program.finish()
    }

    @Test("a block of operator new for which a new-handler made room counts once, where it was made")
    func secondTry() throws {
      let program = try RecordingProgram([
        Programs.path("second_try.cpp", options: ["-rdynamic", "-Wl,--no-as-needed", try signalSafe()])
      ])
      let record = try program.reach(0)
      let segment = try program.openSegment()
      let sums = segment.totalsBySite(of: record)
      #expect(sums["made"] == AllocatedTotal(bytes: 606, blocks: 6))
      // Nor at another place: what malloc, inside the operator, had counted is taken back.
      var others: UInt64 = 0
      segment.forEachTotal { id, total in
        guard let context = segment.context(id) else { return }
        let isOperator = segment.stack(ofNode: context.node).addresses.contains { pc in
          record.sites.values.contains { $0.start < pc && pc <= $0.end }
        }
        if isOperator { others += total.blocks }
      }
      #expect(others == 6)
      #expect(segment.contextsWithMoreLiveThanTotal() == [])
      try program.proceed()
      try program.finish()
    }

    @Test(
      "in a file system of every size no context has more than was allocated in it",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func noRoom() throws {
      var short = 0
      for pages in stride(from: 30, to: 330, by: 10) {
        try Restrictions.withFileSystem(size: "\(pages * 4)k") { path in
          let program = try RecordingProgram([Programs.path("many_stacks.c"), "11"], environment: ["ALLOCS_DIR": path])
          _ = try program.process.readLines(until: "ready")
          let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".seg") }
          if let name = names.first {
            let segment = try Segment(path: "\(path)/\(name)")
            // Blocks without a context have no total.
            #expect(segment.contextsWithMoreLiveThanTotal().filter { $0 != 0 } == [], "\(pages) pages")
            let unknown = segment.counter("unknown_contexts") ?? 0
            let (allocated, calls) = (segment.allocatedBlocks, segment.callSums?.allocations ?? 0)
            // A call without a context is counted, and may be recorded.
            #expect(allocated <= calls && calls - allocated <= unknown, "\(pages) pages: \(calls) \(allocated)")
            if unknown > 0 { short += 1 }
          }
          program.process.closeInput()
          try program.finish()
        }
      }
      #expect(short > 3)
    }

    @Test(
      "a stack or a context that there was no memory for uses up no id: all can be handed out once there is room",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func roomAgain() throws {
      try Restrictions.withFileSystem(size: "8m") { path in
        // With so little address space there are 65,536 ids of each kind.
        let variables = try Installation.agentEnvironment(path).map { "\($0)='\($1)'" }.joined(separator: " ")
        let program = try RecordingProgram(
          ["sh", "-c", "ulimit -v 200000; exec env \(variables) \"$@\"", "sh", Programs.path("retried.c"), path],
          underAgent: false)
        _ = try program.process.readLines(until: "checkpoint 0")
        let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".seg") }
        let segment = try Segment(path: "\(path)/\(try #require(names.first))")
        let before = segment.counter("unknown_contexts") ?? 0
        #expect(before > 40_000)
        try program.proceed()
        _ = try program.process.readLines(until: "checkpoint 1")
        let after = segment.counter("unknown_contexts") ?? 0
        #expect(after == before, "\(after - before) contexts were not to be had though there was room")
        try program.proceed()
        try program.finish()
      }
    }
  }
}
