// SPDX-License-Identifier: Apache-2.0
// Children: what they do never shows in their parent's index, and exec gives them one of their own.

import Foundation
import IndexReader
import TestSupport
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

    @Test("a child made at any instruction of a hook comes to its end", arguments: ["fork", "_Fork"], ["0", "1"])
    func stepped(way: String, events: String) throws {
      let directory = try TestDirectory()
      // Each run is another sample of the instructions: about 85,000, of which every 97th makes a child.
      var numbers = RandomNumbers()
      let stride = 97 + Int.random(in: 0..<10, using: &numbers)
      let outcome = try ChildProcess.run(
        [Programs.path("stepped.c"), way, "\(stride)"],
        environment: Installation.agentEnvironment(directory.path).merging(["ALLOCS_EVENTS": events]) { $1 })
      #expect(outcome.ending == .exit(0), "\(outcome.output)")
      #expect(outcome.output.contains(" failed 0"))
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

    // MARK: followed

    /// The blocks of one child: those that it surely has, and those that calls which had not returned may have left.
    private func compare(
      _ path: String, _ pid: Int32, _ program: RecordingProgram, _ record: Record
    ) throws -> Differences {
      let segment = try Segment(path: path)
      let own = UncertainRecord(
        certain: try Record.readBlocks(program.records.file("\(pid).blocks")).sorted { $0.base < $1.base },
        possible: try Record.readBlocks(program.records.file("\(pid).maybe")), sites: record.sites)
      var differences = own.differences(in: segment, missing: segment.counter("no_memory") ?? 0)
      if segment.processID != pid { differences.add("the segment is of process \(segment.processID)") }
      if segment.forkedFrom == nil { differences.add("the segment does not say whose copy it is") }
      return differences
    }

    @Test(
      "a child that is followed has an exact copy of the index, and goes on from there",
      arguments: [
        ("fork", 8, 12, Allocator.glibc), ("fork", 64, 3, .glibc), ("fork", 0, 9, .glibc), ("_Fork", 8, 6, .glibc),
        ("signal", 0, 40, .glibc), ("handler", 8, 30, .glibc), ("fork", 8, 9, .jemalloc), ("fork", 4, 6, .tcmalloc),
      ])
    func followed(way: String, threads: Int, children: Int, allocator: Allocator) throws {
      try allocator.require()
      let program = try RecordingProgram(
        [Programs.path("heirs.c"), way, "\(threads)", "\(children)"], below: allocator.library,
        environment: ["ALLOCS_FOLLOW": "1"])
      _ = try program.process.readLines(until: "checkpoint 0")
      let segment = try program.openSegment()
      try program.proceed()
      let record = try program.reach(1)
      #expect(program.said.first == "children \(children) failed 0", "\(program.said)")
      var differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "the parent: \(differences)")
      let unfollowed = segment.counter("forks_unfollowed") ?? .max
      var followed = 0
      for path in try program.directory.segments() {
        let pid = try #require(Int32((path as NSString).lastPathComponent.prefix { $0 != "." }))
        guard pid != program.process.pid else { continue }
        followed += 1
        differences = try compare(path, pid, program, record)
        // The call that the signal interrupted returned in the child, whose thread has another id.
        #expect(differences.count <= (way == "signal" ? 1 : 0), "child \(pid): \(differences)")
      }
      let ofChildren = way == "fork" ? children / 3 : 0
      #expect(UInt64(followed) + unfollowed >= UInt64(children), "each child is followed, or counted")
      #expect(followed <= children + ofChildren)
      // A handler may interrupt what all others wait for; a fork at a quiet place always succeeds.
      if way == "fork" || way == "_Fork" { #expect(unfollowed == 0) } else { #expect(followed > 0) }
      try program.proceed()
      try program.finish()
    }

    @Test("a program that is not followed has no other segment than its own, whatever its children do")
    func notFollowed() throws {
      let program = try RecordingProgram([Programs.path("heirs.c"), "fork", "8", "9"])
      _ = try program.process.readLines(until: "checkpoint 0")
      try program.proceed()
      let record = try program.reach(1)
      let differences = Comparison(record: record, baseline: [], isComplete: false).differences(
        in: try program.openSegment())
      #expect(differences.isEmpty, "\(differences)")
      #expect(try program.directory.segments().count == 1)
      try program.proceed()
      try program.finish()
    }
  }
}
