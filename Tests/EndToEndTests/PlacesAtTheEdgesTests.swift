// SPDX-License-Identifier: Apache-2.0
// Every address, where things run out, go wrong or come at a bad time: Programs/mapper.c, and tools that are kept from
// stopping a thread (Programs/seccomp.c).

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("places at the edges")
  struct PlacesAtTheEdges {
    private typealias Program = Places.Program

    private func mapped(_ answer: [String: Any], _ name: String) -> String? {
      (answer["mapped_by"] as? [String: Any])?[name].map { "\($0)" }
    }

    private func function(_ answer: [String: Any]) -> String? {
      let mapped = answer["mapped_by"] as? [String: Any]
      return (mapped?["site"] as? [String: Any])?["function"] as? String
    }

    private func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

    private func segment(of program: Program) throws -> Segment {
      try Segment(path: program.directory.segment(of: program.process.pid))
    }

    private func counter(_ name: String, _ segment: borrowing Segment) throws -> UInt64 {
      let counters = segment.counters
      return try #require(counters.first { $0.name == name }?.value)
    }

    /// No address is in two entries, and each entry has a thread and a stack unless it is the agent's.
    private func checkTable(_ segment: borrowing Segment) {
      let records = segment.mappingRecords
      for (one, next) in zip(records, records.dropFirst()) {
        #expect(one.range.upperBound <= next.range.lowerBound, "\(one) and \(next) overlap")
      }
      for record in records where record.context != 0 {
        let function = segment.context(record.context)?.function
        #expect(function != nil, "\(record)")
      }
    }

    @Test("blocks of each of glibc's arenas lie in that arena, in the text as well; brk says who called it")
    func arenas() throws {
      let program = try Program("mapper.c", ["arenas"])
      for (name, kind) in [("main", "main"), ("single", "single"), ("thread", "thread")] {
        let answer = try program.ask(name)
        let arena = try #require(answer["arena"] as? [String: Any], "\(name): \(answer)")
        #expect(answer["kind"] as? String == "heap" && arena["kind"] as? String == kind, "\(name)")
        let address = try program.address(name)
        let start = try #require(arena["start"] as? String), end = try #require(arena["end"] as? String)
        let range = try #require(UInt64(start.dropFirst(2), radix: 16))..<#require(UInt64(end.dropFirst(2), radix: 16))
        #expect(range.contains(address) && range.contains(address + (kind == "single" ? 1 << 20 : 1000) - 1))
        if kind == "thread" { #expect(range.lowerBound % (64 << 20) == 0 && range.count == 64 << 20) }
        if kind == "single" { #expect(range.count <= 1 << 20 + 8192) }
        let outcome = try Tool.control(["query", program.pid, "\(address)"], in: program.directory)
        let block = outcome.output.range(of: "malloc")
        let place = try #require(outcome.output.range(of: "\n  arena "), "\(outcome.output)")
        #expect(block.map { $0.lowerBound < place.lowerBound } == true, "\(outcome.output)")
      }
      let broken = try program.ask("break")
      #expect(mapped(broken, "function") == "brk" && function(broken) == "break_for_test", "\(broken)")
      let address = try program.address("break") - 9
      #expect(mapped(broken, "start") == hex(address) && mapped(broken, "end") == hex(address + 3 * 4096))
      #expect(try program.ask("given back")["kind"] as? String == "unmapped")
      try program.end()
      let after = try program.ask("break")
      #expect(mapped(after, "function") == "brk" && function(after) == "break_for_test", "\(after)")
    }

    @Test("more mappings than the table holds are counted, and leave no damage")
    func overflow() throws {
      let program = try Program("mapper.c", ["overflow"])
      do {
        let segment = try segment(of: program)
        // 70,000 less the 65,536 of the table, a few of which other mappings take.
        let dropped = try counter("mappings_dropped", segment)
        #expect(dropped >= 70_000 - 65_536 && dropped < 70_000 - 65_536 + 1000)
        checkTable(segment)
      }
      let first = try program.ask("first"), address = try program.address("first")
      #expect(mapped(first, "function") == "mmap" && mapped(first, "end") == hex(address + 4096), "\(first)")
      let last = try program.ask("last")
      #expect(last["kind"] as? String == "mapping" && last["mapped_by"] == nil, "\(last)")
      #expect(try program.ask("block")["kind"] as? String == "heap")
      let info = try Tool.control(["info", program.pid], in: program.directory)
      #expect(info.output.contains("without an entry"), "\(info.output)")
      // With room again, the table goes on as before.
      try program.process.send("\n")
      try program.listen()
      let after = try program.ask("after"), start = try program.address("after")
      #expect(mapped(after, "function") == "mmap" && function(after) == "map_for_test", "\(after)")
      #expect(mapped(after, "start") == hex(start) && mapped(after, "end") == hex(start + 3 * 4096), "\(after)")
      let segment = try segment(of: program)
      checkTable(segment)
      let count = segment.mappingRecords.count
      #expect(count < 1000)
      #expect(try program.process.wait().ending == .exit(0))
    }

    @Test("signal handlers, fork's and vfork's children that map, while all threads do", arguments: ["full", "site"])
    func signals(stacks: String) throws {
      let program = try Program("mapper.c", ["signals"], stacks: stacks)
      let after = try program.ask("after"), start = try program.address("after")
      #expect(mapped(after, "function") == "mmap" && function(after) == "map_for_test", "\(after)")
      #expect(mapped(after, "start") == hex(start) && mapped(after, "end") == hex(start + 3 * 4096), "\(after)")
      do {
        let segment = try segment(of: program)
        checkTable(segment)
        let isBroken = segment.isBroken, dropped = try counter("mappings_dropped", segment)
        #expect(!isBroken && dropped == 0)
        // All that was mapped was unmapped again. A handler that interrupted the holder of the lock is not noted: what
        // is left then is so many entries at most.
        let missed = try counter("mappings_missed", segment)
        let left = segment.mappingRecords.count { !$0.isAgent && $0.isAnonymous }
        #expect(UInt64(left) <= missed + 50)
      }
      #expect(try program.process.wait().ending == .exit(0))
    }

    /// allocsctl with `--stop`, kept from it.
    private func stop(_ action: String, thread: UInt64, _ program: Program, _ address: UInt64) throws -> Outcome {
      let command = try [
        Programs.path("seccomp.c"), action, "\(thread)", Installation.path(of: "allocsctl"), "query", program.pid,
        "\(address)", "--json", "--stop",
      ]
      return try ChildProcess.run(
        command,
        environment: ["ALLOCS_DIR": program.directory.path, "ALLOCS_SOCKET": program.directory.file("none.sock")])
    }

    @Test("where tracing is denied, the rest is answered, with the reason, what to do and status 1")
    func tracingDenied() throws {
      let program = try Program()
      let outcome = try stop(
        "deny", thread: UInt64(program.process.pid), program, try program.address("main/in_main"))
      #expect(outcome.ending == .exit(1), "\(outcome.errors)")
      let answer = try #require(try Tool.objects(outcome.output).first)
      #expect(answer["kind"] as? String == "stack" && answer["frame"] == nil)
      let reason = try #require(answer["frame_error"] as? String)
      #expect(reason.contains("Operation not permitted") && reason.contains("ask as root"), "\(reason)")
      #expect(try program.process.wait().ending == .exit(0))
    }

    @Test("a tool that is killed while the thread is stopped leaves a thread that runs on")
    func killedMeanwhile() throws {
      let program = try Program()
      let thread = try program.address("worker")
      let outcome = try stop("kill", thread: thread, program, try program.address("worker/outer_local"))
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      #expect(outcome.errors.contains("State:\tt (tracing stop)"), "\(outcome.errors)")
      let status = try String(contentsOfFile: "/proc/\(program.pid)/task/\(thread)/status", encoding: .utf8)
      #expect(status.contains("TracerPid:\t0\n") && !status.contains("State:\tt"), "\(status)")
      // Another one finds what it would have, and the program ends when its thread does.
      #expect(try program.ask("worker/outer_local", ["--stop"])["frame"] != nil)
      #expect(try program.process.wait().ending == .exit(0))
    }
  }
}
