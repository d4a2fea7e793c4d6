// SPDX-License-Identifier: Apache-2.0
// Threads that are gone: their blocks stay theirs.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("threads")
  struct Threads {
    /// The name of the thread that made each block, by its base, as the program wrote them.
    private func names(_ records: TestDirectory) throws -> [UInt64: Substring] {
      let text = try String(contentsOfFile: records.file("names"), encoding: .utf8)
      var names: [UInt64: Substring] = [:]
      for line in text.utf8.split(separator: 10) {
        let words = line.split(separator: 32)
        guard words.count == 2, let base = UInt64(Substring(words[0])) else {
          throw HarnessError("names hold '\(Substring(line))'")
        }
        names[base] = Substring(words[1])
      }
      return names
    }

    private func churn(threads: Int, atOnce: Int, blocks: Int, requiresThreads: Bool) throws {
      let program = try RecordingProgram([Programs.path("churn.c"), "\(threads)", "\(atOnce)", "\(blocks)"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      try program.proceed()
      let record = try program.reach(1)
      #expect(record.blocks.count == threads * ((blocks + 3) / 4))
      // The memory that pthread_create keeps for later threads is not in the record.
      var comparison = Comparison(record: record, baseline: [], isComplete: false)
      comparison.requiresThreads = requiresThreads
      comparison.looksUp = requiresThreads
      let differences = comparison.differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      let names = try names(program.records)
      #expect(names.count == record.blocks.count)
      var wrong: [String] = []
      for block in record.blocks {
        guard let allocation = segment.allocation(containing: block.base),
          let context = segment.context(allocation.context),
          let thread = context.threadSlot.flatMap({ segment.thread(slot: $0, at: allocation.ticks) }),
          let name = names[block.base]
        else { continue }
        if thread.name.unescaped != name { wrong.append("\(thread.name) instead of \(name)") }
      }
      #expect(wrong.isEmpty, "\(wrong.count) names: \(wrong.prefix(5))")
      #expect(segment.unindexed == [])
      try program.proceed()
      try program.finish()
    }

    @Test("blocks that threads left behind stay attributed to them, by id and name")
    func leftBehind() throws { try churn(threads: 3000, atOnce: 8, blocks: 40, requiresThreads: true) }

    @Test("with more threads than the history holds, a block has its own thread or none")
    func manyMore() throws { try churn(threads: 40000, atOnce: 16, blocks: 4, requiresThreads: false) }

    @Test("five hundred threads at once are all known")
    func atOnce() throws { try churn(threads: 1500, atOnce: 500, blocks: 20, requiresThreads: true) }

    // MARK: what the agent asks of libc

    /// The blocks that are still known at the program's end, of this size at least.
    private func run(_ arguments: [String], preload: [String]) throws -> Outcome {
      let directory = try TestDirectory()
      let environment = ["LD_PRELOAD": preload.joined(separator: ":"), "ALLOCS_DIR": directory.path]
      let outcome = try ChildProcess.run(arguments, environment: environment)
      if let path = try directory.segments().first {
        let segment = try Segment(path: path)
        #expect(segment.counters.first { $0.name == "unbounded_stacks" }?.value == 0)
      }
      return outcome
    }

    @Test("a thread's first allocation under libc's own locks, with anything between libc and the agent")
    func firstCall() throws {
      let agent = try Installation.path(of: Installation.agent)
      let wrapper = try Programs.path("first_call.c", options: ["-fPIC", "-shared", "-DFIRST_CALL_WRAPPER"])
      let keys = try Programs.path("keys.c", options: ["-fPIC", "-shared"])
      let program = try Programs.path("first_call.c")
      // glibc's own counter of calls.
      let counter = "/lib/x86_64-linux-gnu/libmemusage.so"
      var preloads = [[agent], [wrapper, agent], [keys, agent], [agent, keys], [keys, wrapper, agent]]
      if FileManager.default.fileExists(atPath: counter) { preloads.append([counter, agent]) }
      for preload in preloads {
        let outcome = try run([program], preload: preload)
        #expect(outcome.ending == .exit(0) && outcome.output == "done\n", "\(preload): \(outcome)")
      }
      let wrapped = try Programs.path("first_call.c", options: ["-rdynamic", wrapper])
      #expect(try run([wrapped, "50"], preload: [agent]).ending == .exit(0))
    }

    @Test(
      "a thread's start costs so many instructions, however many threads were before it",
      .enabled(if: EntryPoints.hasValgrind, "needs valgrind, and what it needs of libc6-dbg"))
    func cost() throws {
      let path = try Programs.path("brief.c")
      /// Instructions of a run with so many threads, each of which leaves a block.
      func instructions(_ threads: Int, underAgent: Bool) throws -> Int {
        let directory = try TestDirectory()
        let outcome = try ChildProcess.run(
          ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", path, "\(threads)"],
          environment: underAgent ? Installation.agentEnvironment(directory.path) : [:])
        try #require(outcome.ending == .exit(0) && outcome.output == "ready\n", "\(outcome)")
        for path in try directory.segments() {
          let segment = try Segment(path: path)
          #expect(segment.allAllocations().count { $0.size == 777 } == threads)
          #expect(segment.unindexed == [])
        }
        #expect(try directory.segments().count == (underAgent ? 1 : 0))
        let collected = outcome.errors.firstMatch(of: /Collected : ([0-9]+)/)
        return try #require(collected.flatMap { Int($0.1) }, "\(outcome.errors)")
      }
      let (few, more, most) = (400, 1200, 2000)
      func each(_ runs: [Int]) -> [Int] { [(runs[1] - runs[0]) / (more - few), (runs[2] - runs[1]) / (most - more)] }
      let plain = each(try [few, more, most].map { try instructions($0, underAgent: false) })
      let indexed = each(try [few, more, most].map { try instructions($0, underAgent: true) })
      // A search of all records for each thread would double it here, and cost more and more.
      #expect(indexed[1] < indexed[0] * 5 / 4, "\(indexed) a thread, \(plain) without the agent")
      // With whole stacks it is five times as many as without the agent, most of them for the stacks of two calls.
      #expect(indexed[0] < plain[0] * 8, "\(indexed) a thread, \(plain) without the agent")
    }
  }
}
