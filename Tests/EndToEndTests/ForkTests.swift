// Children: what they do never shows in their parent's index, and exec gives them one of their own.

import Foundation
import IndexReader
import Testing

extension EndToEnd {
  @Suite("children")
  struct Children {
    // fork itself locks jemalloc, which deadlocks inside it, with or without the agent.
    @Test(
      "a child made by a signal handler in the middle of an allocation leaves no trace, and comes to its end",
      arguments: zip(["fork", "_Fork", "_Fork", "clone"], [Allocator.glibc, .glibc, .jemalloc, .glibc]))
    func interrupted(way: String, allocator: Allocator) throws {
      try allocator.require()
      let program = try RecordingProgram([Programs.path("interrupted.c"), way, "400"], below: allocator.library)
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      try program.proceed()
      let record = try program.reach(1)
      // A raw clone is seen by nobody in the process; its child loses what it was about to write, and may end there.
      if way != "clone" { #expect(program.said.first == "children 400 failed 0") }
      let differences = Comparison(record: record, baseline: baseline, allocatorPrefix: allocator.modulePrefix)
        .differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      #expect(try program.directory.segments().count == 1, "children that do not call exec have no index")
      try program.proceed()
      if way == "clone" { _ = try program.process.wait() } else { try program.finish() }
    }

    @Test(
      "a child that calls exec has an index of its own, and its parent keeps its own",
      arguments: ["fork", "vfork", "spawn", "grandchild", "clone"])
    func offspring(way: String) throws {
      let program = try RecordingProgram([Programs.path("offspring.c"), way])
      let ofChild = try program.reach(1)
      let child = try #require(program.said.first { $0.hasPrefix("process ") }.flatMap { Int32($0.dropFirst(8)) })
      #expect(child != program.process.pid)
      let segment = try program.openSegment(of: child)
      #expect(segment.processID == child)
      var differences = Comparison(record: ofChild, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      let parent = try program.openSegment()
      #expect(parent.allocation(containing: ofChild.blocks[0].base)?.size != 777)
      try program.proceed()
      let ofParent = try program.reach(2)
      differences = Comparison(record: ofParent, baseline: [], isComplete: false).differences(in: parent)
      #expect(differences.isEmpty, "\(differences)")
      #expect(try program.directory.segments().count == 2)
      try program.proceed()
      try program.finish()
    }
  }
}
