// SPDX-License-Identifier: Apache-2.0
// Programs that confine themselves by filters of system calls, leave what they were started in, or use up what threads
// have.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("confinement")
  struct Confinement {
    private func compare(_ record: Record, _ segment: borrowing Segment, _ comment: Comment) {
      let differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "\(comment): \(differences)")
      #expect(segment.unindexed == [], comment)
    }

    @Test(
      "under a filter that kills at any system call but a few, a program allocates on",
      arguments: ["warm", "growing"], ["full", "site"])
    func filtered(way: String, stacks: String) throws {
      let program = try RecordingProgram([Programs.path("confined.c"), way], environment: ["ALLOCS_STACKS": stacks])
      for checkpoint in 0...1 {
        let record = try program.reach(checkpoint)
        compare(record, try program.openSegment(), "check point \(checkpoint)")
        try program.proceed()
      }
      try program.finish()
    }

    @Test("a daemon that is followed has an index; one that is not has none", arguments: [true, false])
    func daemon(isFollowed: Bool) throws {
      let program = try RecordingProgram(
        [Programs.path("confined.c"), "daemon"], environment: isFollowed ? ["ALLOCS_FOLLOW": "1"] : [:])
      _ = try program.reach(0)
      try program.proceed()
      let record = try program.reach(1)
      let pid = try #require(program.said.first { $0.hasPrefix("process ") }.flatMap { Int32($0.dropFirst(8)) })
      defer { kill(pid, SIGKILL) }
      if isFollowed {
        let segment = try program.openSegment(of: pid)
        compare(record, segment, "the daemon")
        #expect(segment.isProcessAlive == true)
      }
      #expect(try program.directory.segments(of: pid).count == (isFollowed ? 1 : 0))
      #expect(try program.directory.segments().count == (isFollowed ? 3 : 1))
      try program.proceed()
      try program.finish()
    }

    @Test("exec with an empty environment: the index of what ran before is not taken for the new program's")
    func cleared() throws {
      let directory = try TestDirectory()
      let environment = ChildProcess.baseEnvironment.merging(try Installation.agentEnvironment(directory.path)) { $1 }
      let program = try Programs.path("stationary.c")
      let process = try ChildProcess(
        ["bash", "-c", "exec env -i '\(program)'"], environment: environment, conversing: true)
      let lines = try process.readLines(until: "ready")
      let block = try #require(lines.first { $0.hasPrefix("block ") }.map { $0.split(separator: " ")[1] })
      let answer = try Tool.control(["query", "\(process.pid)", "\(block)", "--json"], in: directory)
      #expect(!answer.output.contains("\"kind\":\"heap\""), "\(answer.output)")
      #expect(!answer.output.contains("\"kind\":\"free\""), "\(answer.output)")
      #expect(try process.wait().ending == .exit(0))
    }

    @Test(
      "where keys of thread-specific data are used up, and a library takes more static thread-local storage",
      arguments: [0, 100, 2000])
    func storage(keys: Int) throws {
      // It takes static thread-local storage when it is loaded, as the agent does.
      let libraries = keys == 100 ? ["libgomp.so.1"] : []
      let program = try RecordingProgram([Programs.path("confined.c"), "storage", "\(keys)"] + libraries)
      for checkpoint in 0...1 {
        let record = try program.reach(checkpoint)
        compare(record, try program.openSegment(), "check point \(checkpoint)")
        try program.proceed()
      }
      try program.finish()
    }

    @Test(
      "threads that all have the same id, one after the other, keep their blocks and names apart",
      .enabled(if: Restrictions.isRoot, "needs root, for a namespace of process ids"))
    func sameID() throws {
      let program = try RecordingProgram(
        ["unshare", "-pf", "--mount-proc", Programs.path("churn.c"), "300", "1", "12", "77"])
      _ = try program.reach(0)
      let segment = try program.openSegment(of: 1)
      try program.proceed()
      let record = try program.reach(1)
      #expect(record.blocks.count == 900)
      #expect(Set(record.blocks.map(\.thread)) == [77])
      var comparison = Comparison(record: record, baseline: [], isComplete: false)
      comparison.requiresThreads = true
      let differences = comparison.differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      var wrong = 0
      for line in try String(contentsOfFile: program.records.file("names"), encoding: .utf8).split(separator: "\n") {
        let words = line.split(separator: " ").map(String.init)
        guard let base = UInt64(words[0]), let allocation = segment.allocation(containing: base),
          let context = segment.context(allocation.context), let slot = context.threadSlot
        else {
          wrong += 1
          continue
        }
        let thread = segment.thread(slot: slot, at: allocation.ticks)
        if thread?.name.unescaped != words[1] { wrong += 1 }
      }
      #expect(wrong == 0)
      #expect(segment.unindexed == [])
      try program.proceed()
      try program.finish()
    }
  }
}
