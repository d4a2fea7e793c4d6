// Threads that are gone: their blocks stay theirs.

import Foundation
import IndexReader
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
  }
}
