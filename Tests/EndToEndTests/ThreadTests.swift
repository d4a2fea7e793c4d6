// Threads that are gone: their blocks stay theirs.

import Foundation
import IndexReader
import Testing

extension EndToEnd {
  @Suite("threads")
  struct Threads {
    /// Thread names by id, as the program wrote them; ids that the kernel gave out twice are left out.
    private func names(_ records: TestDirectory) throws -> [UInt32: String] {
      var names: [UInt32: String] = [:]
      var twice: Set<UInt32> = []
      for line in try String(contentsOfFile: records.file("names"), encoding: .utf8).split(separator: "\n") {
        let words = line.split(separator: " ")
        guard let id = UInt32(words[0]) else { throw HarnessError("names hold '\(line)'") }
        if names.updateValue(String(words[1]), forKey: id) != nil { twice.insert(id) }
      }
      for id in twice { names[id] = nil }
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
      let differences = comparison.differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      let names = try names(program.records)
      #expect(names.count > threads / 2)
      var wrong: [String] = []
      for block in record.blocks {
        guard let allocation = segment.allocation(containing: block.base), let context = segment.context(allocation.context),
          let thread = context.threadSlot.flatMap({ segment.thread(slot: $0, at: allocation.ticks) }),
          let name = names[block.thread]
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
    func manyMore() throws { try churn(threads: 80000, atOnce: 16, blocks: 4, requiresThreads: false) }

    @Test("five hundred threads at once are all known")
    func atOnce() throws { try churn(threads: 1500, atOnce: 500, blocks: 20, requiresThreads: true) }
  }
}
