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
      // What pthread_create keeps for later threads is not in the record.
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
        if thread.name != name { wrong.append("\(thread.name) instead of \(name)") }
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
      let outcome = try ChildProcess.run(arguments, environment: environment, patience: 20)
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

    @Test("threads start and end ten thousand times a second, or a tenth as often as without the agent")
    func rate() throws {
      let path = try Programs.path("brief.c")
      /// Threads a second of one run; each left one block.
      func run(underAgent: Bool) throws -> Double {
        let program = try RecordingProgram([path, "400"], underAgent: underAgent)
        let line = try program.process.readLines(until: "ready")[0]
        let numbers = line.split(separator: " ").compactMap { Double($0) }
        #expect(numbers.count == 2 && numbers[0] > 0, "\(line)")
        if underAgent {
          let segment = try program.openSegment()
          #expect(Double(segment.allAllocations().count { $0.size == 777 }) == numbers[0])
          #expect(segment.unindexed == [])
        }
        program.process.closeInput()
        try program.finish()
        return numbers[0] / numbers[1] * 1e6
      }
      // In turn, and the best of each: what else the machine does must not decide. It is about half as often on a
      // machine with nothing else to do, and a quarter where each waking of a thread takes long; a search of all
      // records for each thread would be a hundredth.
      var (without, with) = (0.0, 0.0)
      for _ in 0..<4 {
        without = max(without, try run(underAgent: false))
        with = max(with, try run(underAgent: true))
      }
      #expect(with >= min(10_000, without / 10), "\(with) a second, \(without) without the agent")
    }
  }
}
