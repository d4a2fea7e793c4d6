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

    /// Blocks that the program's own code makes inside operator new, and frees, keeps, resizes; or it leaves.
    private func handled(_ command: [String], _ stacks: String, _ events: String) throws {
      let isStepped = command[1] == "stepped"
      let program = try RecordingProgram(command, environment: ["ALLOCS_STACKS": stacks, "ALLOCS_EVENTS": events])
      let record = try program.reach(0)
      let made = (program.said.first { $0.hasPrefix("made ") }).flatMap { UInt64($0.dropFirst(5)) }
      #expect(made == 8)
      let segment = try program.openSegment()
      let sizes: Set<UInt64> = [24, 71, 104, 203]
      let live = segment.allAllocations().filter { sizes.contains($0.size) }
      #expect(Set(live.map(\.base)).count == live.count, "a block has two records")
      // A block that a signal handler made inside the agent itself is counted instead.
      let nested = segment.counter("nested") ?? 0
      let bases = Dictionary(live.map { ($0.base, $0.size) }) { first, _ in first }
      let missing = record.blocks.filter { bases[$0.base] != $0.size }
      #expect(missing.isEmpty || isStepped && missing.allSatisfy { $0.site == 1 || $0.site == 2 }, "\(missing)")
      #expect(isStepped ? UInt64(missing.count) <= nested : nested == 0)
      let recorded = Set(record.blocks.map(\.base))
      #expect(live.filter { !recorded.contains($0.base) } == [], "blocks that were freed")
      #expect(segment.balance == Int64(segment.allAllocations().count))
      #expect(command[1] != "own" || segment.counter("unknown_frees") ?? 0 == 0)
      // Each block of the operator counts once, at its place, and nowhere else.
      #expect(segment.totalsBySite(of: record)["made"] == AllocatedTotal(bytes: 4 * (24 + 104), blocks: 8))
      #expect(segment.contextsWithMoreLiveThanTotal() == [])
      // An exception takes memory there, too.
      if stacks == "full", command[2] != "unwind" {
        let own = Set(record.sites.filter { $0.key != 0 }.map(\.value.function))
        var inside: UInt64 = 0
        segment.forEachTotal { id, total in
          guard let context = segment.context(id) else { return }
          let functions = segment.stack(ofNode: context.node).addresses.compactMap { pc in
            record.sites.values.first { $0.start < pc && pc <= $0.end }?.function
          }
          if functions.contains("made"), own.isDisjoint(with: functions) { inside += total.blocks }
        }
        // What the operator got and never returned was counted where it was got.
        let lost = record.blocks.filter { $0.site == 3 }
        #expect(inside == 8 + UInt64(lost.count))
      }
      try program.proceed()
      try program.finish()
    }

    @Test(
      "a signal handler may allocate and free behind each instruction of operator new",
      arguments: ["f1", "f3", "keep", "last", "resize", "Resize", "x", "old", "new"], ["full", "site"])
    func handledByStep(action: String, stacks: String) throws {
      let path = try Programs.path("handled_new.cpp", options: ["-rdynamic", "-Wl,--no-as-needed", try signalSafe()])
      for events in ["", "1"] { try handled([path, "stepped", action], stacks, events) }
    }

    private static let actions = ["f1", "f3", "keep", "last", "resize", "Resize", "x", "old", "new", "unwind", "jump"]

    @Test("so may a new-handler, which may also leave", arguments: actions, ["full", "site"])
    func handledByHandler(action: String, stacks: String) throws {
      let path = try Programs.path("handled_new.cpp", options: ["-rdynamic", "-Wl,--no-as-needed", try signalSafe()])
      for events in ["", "1"] { try handled([path, "handler", action], stacks, events) }
    }

    @Test("and so may an operator new of the program's own", arguments: actions, ["full", "site"])
    func handledByOperator(action: String, stacks: String) throws {
      let path = try Programs.path("handled_new.cpp", options: ["-DOWN"])
      for events in ["", "1"] { try handled([path, "own", action], stacks, events) }
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

    /// The greatest node that a context has.
    private func greatestNode(_ segment: borrowing Segment) -> UInt32 {
      var greatest: UInt32 = 0
      segment.forEachTotal { id, _ in greatest = max(greatest, segment.context(id)?.node ?? 0) }
      return greatest
    }

    // Nodes need one more chunk of links, and contexts, too, each of 2 MiB; to have one begin where a huge page can
    // takes twice as much for a moment.
    @Test(
      "stacks that there is no address space to find again use up no id; where there is enough for it, none is missing",
      arguments: [512, 5120])
    func unlinked(kibibytes: Int) throws {
      let program = try RecordingProgram([Programs.path("unlinked.c"), "\(kibibytes)"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let before = segment.counter("unknown_contexts") ?? 0
      #expect(kibibytes < 2048 ? before > 10_000 : before == 0, "\(before)")
      try program.proceed()
      _ = try program.reach(1)
      #expect(segment.counter("unknown_contexts") ?? 0 == before)
      // In each of two trees, 3 + … + 3^10 calls of functions, and 3^10 of malloc. Some are of main, and before it.
      let nodes = 2 * (88_572 + 59_049)
      let greatest = greatestNode(segment)
      #expect(greatest > 262_144 && Int(greatest) < nodes + 100, "\(greatest)")
      try program.proceed()
      try program.finish()
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
