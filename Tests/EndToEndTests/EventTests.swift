// SPDX-License-Identifier: Apache-2.0
// Events: what the rings tell, merged by stamp, against the index and the programs' own records.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("events")
  struct Events {
    private func handoff(
      threads: Int, operations: Int, rounds: Int, environment: [String: String]
    ) throws -> (process: ChildProcess, directory: TestDirectory) {
      let directory = try TestDirectory()
      var variables = ChildProcess.baseEnvironment
      variables.merge(try Installation.agentEnvironment(directory.path)) { $1 }
      variables.merge(environment) { $1 }
      let process = try ChildProcess(
        [Programs.path("handoff.c"), "\(threads)", "\(operations)", "\(rounds)"], environment: variables,
        conversing: true)
      _ = try process.readLines(until: "round 0")
      return (process, directory)
    }

    private func expectHistory(
      _ contents: RingContents, _ segment: borrowing Segment, sourceLocation: SourceLocation = #_sourceLocation
    ) -> EventHistory {
      #expect(contents.faults.prefix(10) == [], sourceLocation: sourceLocation)
      let history = EventHistory(contents.events)
      #expect(history.faults == [], sourceLocation: sourceLocation)
      let all = segment.allAllocations()
      #expect(history.differences(from: all) == [], sourceLocation: sourceLocation)
      return history
    }

    private func written(_ segment: borrowing Segment) -> UInt64 {
      (0..<segment.ringCount).reduce(0) { $0 + segment.written(toRing: $1) }
    }

    /// Calls of the threads that run, as the index counts them.
    private func calls(_ segment: borrowing Segment) -> UInt64 {
      segment.threads.reduce(0) { $0 + $1.allocations + $1.frees }
    }

    /// Waits until the threads have made ten thousand more calls.
    private func waitForCalls(_ segment: borrowing Segment) throws {
      let before = calls(segment)
      try wait(for: "the threads go on", pause: 1000) { calls(segment) >= before + 10_000 }
    }

    /// Whether nothing was recorded of ten thousand more calls.
    private func isOff(_ segment: borrowing Segment) throws -> Bool {
      let before = written(segment)
      try waitForCalls(segment)
      return written(segment) == before
    }

    @Test(
      "the events of a program that does everything, sorted by stamp, are what it did",
      arguments: [(Allocator.glibc, []), (.jemalloc, ["64"]), (.tcmalloc, ["200"])])
    func truth(allocator: Allocator, largest: [String]) throws {
      try allocator.require()
      let program = try RecordingProgram(
        [Programs.path("truth.cpp"), "4", "100000", "2", "11", "none"] + largest, below: allocator.library,
        environment: ["ALLOCS_EVENTS": "1", "ALLOCS_RING": "64M"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      for checkpoint in 1...2 {
        try program.proceed()
        let record = try program.reach(checkpoint)
        let contents = RingContents(of: segment)
        #expect(contents.lost == 0)
        let history = expectHistory(contents, segment)
        let missing = record.blocks.filter { history.live[$0.base]?.size != $0.size }
        #expect(missing.isEmpty, "\(missing.prefix(5))")
        #expect(record.blocks.count > 1000)
        for kind in [Event.Kind.alloc, .free, .reallocOld, .reallocNew, .reallocFailed, .threadStart, .moduleLoad] {
          #expect((history.counts[kind] ?? 0) > 0, "\(kind)")
        }
        let allocations = segment.threads.reduce(0) { $0 + $1.allocations }
        let begun = (history.counts[.alloc] ?? 0) + (history.counts[.reallocNew] ?? 0)
        #expect(UInt64(begun) == allocations)
        #expect(segment.counter("events_unrecorded") == 0 && segment.counter("events_nested") == 0)
      }
      try program.proceed()
      try program.finish()
    }

    @Test("threads that hand blocks to each other leave a history that can have been", arguments: [3, 16])
    func handedOn(threads: Int) throws {
      let (process, directory) = try handoff(
        threads: threads, operations: 120_000 / threads, rounds: 2,
        environment: ["ALLOCS_EVENTS": "1", "ALLOCS_RING": "64M"])
      let segment = try Segment(path: directory.segment(of: process.pid))
      for round in 1...2 {
        try process.send("\n")
        _ = try process.readLines(until: "round \(round)")
        let contents = RingContents(of: segment)
        #expect(contents.lost == 0)
        let history = expectHistory(contents, segment)
        #expect((history.counts[.free] ?? 0) > 30_000)
        #expect(history.counts[.threadEnd] ?? 0 == threads * round)
      }
      _ = try process.wait()
    }

    @Test("rings that were overwritten say exactly how much, and what they hold is whole")
    func overwritten() throws {
      let (process, directory) = try handoff(
        threads: 3, operations: 100_000, rounds: 1, environment: ["ALLOCS_EVENTS": "1", "ALLOCS_RING": "16K"])
      let segment = try Segment(path: directory.segment(of: process.pid))
      #expect(segment.ringCapacity == 512)
      try process.send("\n")
      // While they write: every record that is read is whole, every position is read or lost.
      var live = RingContents()
      var cursors: [RingCursor] = []
      for _ in 0..<200 { live.read(segment, &cursors) }
      _ = try process.readLines(until: "round 1")
      live.read(segment, &cursors)
      #expect(live.faults.prefix(10) == [])
      let written = written(segment)
      #expect(live.written == written)
      #expect(UInt64(live.events.count) + cursors.reduce(0) { $0 + $1.lost } == written)
      #expect(written > 400_000)
      let rest = RingContents(of: segment)
      #expect(rest.faults.prefix(10) == [])
      #expect(UInt64(rest.events.count) + rest.lost == written)
      #expect(rest.events.count <= 512 * segment.ringCount && rest.events.count > 400 * 3)
      _ = try process.wait()
    }

    /// The test's consumer has lost its place, as is right where the machine keeps its thread from a processor for two
    /// seconds.
    private struct SentAway: Error {}

    /// Once more where the consumer was sent away.
    private func attending(_ body: () throws -> Void) throws {
      for _ in 0..<10 {
        do { return try body() } catch is SentAway { continue }
      }
      throw HarnessError("the consumer was sent away ten times")
    }

    @Test("a lossless consumer gets every record of rings far too small, and a program waits for it")
    func lossless() throws { try attending(losslessly) }

    private func losslessly() throws {
      let (process, directory) = try handoff(
        threads: 3, operations: 30_000, rounds: 1,
        environment: ["ALLOCS_RING": "16K", "ALLOCS_EVENTS_WAIT": "10000"])
      let segment = try Segment(path: directory.segment(of: process.pid))
      #expect(segment.ringCount == 0)
      var cursors: [RingCursor] = []
      let consumer = try EventConsumer(
        to: segment, policy: .lossless(waitNanoseconds: 0), cursors: &cursors)
      let before = segment.allAllocations()
      let start = calls(segment)
      try process.send("\n")
      var contents = RingContents()
      var last: UInt64 = 0
      // At rest again, after what it does, which a busy machine may begin late.
      try wait(for: "the threads have done their work, and rest", of: process, pause: 200) {
        contents.read(segment, &cursors)
        for cursor in cursors { consumer.setPosition(cursor.position, ofRing: cursor.ring, in: segment) }
        guard consumer.keepAlive() else { throw SentAway() }
        let now = calls(segment)
        defer { last = now }
        return now == last && now > start + 150_000 && segment.threads.count { $0.state == .live } == 1
      }
      _ = try process.readLines(until: "round 1")
      contents.read(segment, &cursors)
      #expect(contents.faults.prefix(10) == [])
      #expect(cursors.allSatisfy { $0.lost == 0 })
      #expect(segment.counter("events_overrun") == 0 && segment.counter("events_waits") ?? 0 > 0)
      let history = EventHistory(contents.events, isWhole: false)
      #expect(history.faults == [])
      #expect(contents.events.count > 150_000)
      // A block that lived before is not in the events, unless it was freed.
      let known = Set(before.map(\.base))
      let differences = history.differences(from: segment.allAllocations().filter { !known.contains($0.base) })
      #expect(differences.allSatisfy { $0.hasSuffix("events only") }, "\(differences)")
      _ = try process.wait()
    }

    @Test("events are on while somebody wants them, and off again when the last goes, and for one whose life ended")
    func switched() throws { try attending(switching) }

    private func switching() throws {
      let (process, directory) = try handoff(threads: 2, operations: 0, rounds: 1, environment: [:])
      let segment = try Segment(path: directory.segment(of: process.pid))
      try process.send("\n")
      try waitForCalls(segment)
      #expect(segment.ringCount == 0)
      var cursors: [RingCursor] = []
      do {
        let consumer = try EventConsumer(to: segment, cursors: &cursors)
        func waitForRecords(_ count: UInt64) throws {
          try wait(for: "\(count) records are written", pause: 1000) {
            guard consumer.keepAlive() else { throw SentAway() }
            return written(segment) >= count
          }
        }
        try waitForRecords(100_000)
        do {
          let other = try EventConsumer(to: segment, cursors: &cursors)
          guard other.isAttached else { throw SentAway() }
        }
        // One of two has gone: events stay on for the other.
        try waitForRecords(written(segment) + 10_000)
      }
      // A thread that lost its processor in the middle of a record still writes that record.
      try wait(for: "events go off with the last consumer") { try isOff(segment) }
      // Again: each thread notes that something is missing in between.
      let dead = try EventConsumer(to: segment, policy: .lossless(waitNanoseconds: 1_000_000_000), cursors: &cursors)
      var contents = RingContents()
      try wait(for: "both threads have noted the gap", pause: 1000) {
        contents.read(segment, &cursors)
        guard dead.keepAlive() else { throw SentAway() }
        return contents.events.count { $0.kind == .resumed } >= 2
      }
      #expect(contents.faults.prefix(5) == [])
      // It takes nothing any more, and shows no life: the threads stop, and go on when it is given up.
      try wait(for: "the consumer without life is sent away") { !dead.isAttached }
      let isKept = dead.keepAlive()
      #expect(!isKept)
      #expect(segment.counter("consumers_expelled") == 1)
      try wait(for: "events go off again, and the threads go on") { try isOff(segment) }
      process.signal(SIGKILL)
    }

    @Test("frees have their own stacks when they are asked for")
    func freeStacks() throws {
      let program = try RecordingProgram(
        [Programs.path("truth.cpp"), "2", "20000", "1", "12", "none"],
        environment: ["ALLOCS_EVENTS": "1", "ALLOCS_RING": "16M", "ALLOCS_FREE_STACKS": "1"])
      _ = try program.reach(0)
      try program.proceed()
      _ = try program.reach(1)
      let segment = try program.openSegment()
      let contents = RingContents(of: segment)
      let history = expectHistory(contents, segment)
      #expect(history.unknownFrees == 0)
      let module = try Programs.path("truth.cpp")
      var functions: Set<String> = []
      var own = 0
      for event in contents.events where event.kind == .free || event.kind == .reallocOld {
        guard let context = segment.context(event.context) else { continue }
        functions.insert(context.function?.unescaped ?? "")
        #expect(context.threadSlot == event.slot)
        let stack = segment.stack(ofNode: context.node)
        let modules = stack.addresses.compactMap { segment.module(containing: $0, at: event.ticks)?.path.unescaped }
        #expect(!modules.isEmpty)
        if modules.contains(module) { own += 1 }
      }
      #expect(own > 1000, "\(own) were made by the program itself")
      #expect(functions.isSuperset(of: ["free", "operator delete", "realloc"]))
      let without = contents.events.filter { $0.kind == .free && $0.context == 0 }.count
      #expect(without * 100 < contents.events.count)
      try program.proceed()
      try program.finish()
    }

    @Test("the rings of five hundred programs killed in the middle are whole")
    func killed() throws {
      var (events, compared) = (0, 0)
      // How much a program gets done before it is killed is the machine's affair: more programs, then.
      for kill in 0..<5000 where kill < 500 || events <= 100_000 {
        let (process, directory) = try handoff(
          threads: 2, operations: 0, rounds: 1, environment: ["ALLOCS_EVENTS": "1", "ALLOCS_RING": "4M"])
        try process.send("\n")
        // Where in its work the program is killed is what is tried: each time after another while.
        letRun(microseconds: UInt32(kill * 37 % 500))
        process.signal(SIGKILL)
        _ = try process.wait()
        let segment = try Segment(path: directory.segment(of: process.pid))
        let contents = RingContents(of: segment)
        #expect(contents.faults.prefix(3) == [])
        events += contents.events.count
        guard contents.lost == 0, kill % 4 == 0 else { continue }
        let history = EventHistory(contents.events)
        #expect(history.faults == [])
        // The call in which a thread was killed is in the index only, or in the events only.
        #expect(history.differences(from: segment.allAllocations()).count <= 3)
        compared += 1
      }
      #expect(events > 100_000 && compared > 100, "\(events) events, \(compared) histories")
    }
  }
}
