// SPDX-License-Identifier: Apache-2.0
// What was ever allocated, by context: against a program that allocates known numbers of blocks at known sites, in
// threads that end and whose slots are used again.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("totals")
  struct Totals {
    /// Bytes and blocks by the function that called.
    private typealias Sums = [String: AllocatedTotal]

    /// What one thread of totals.cpp allocates.
    private static let perThread: Sums = [
      "plain": AllocatedTotal(bytes: 100_000, blocks: 1000), "zeroed": AllocatedTotal(bytes: 24_000, blocks: 500),
      "grown": AllocatedTotal(bytes: 20_100, blocks: 200), "aligned": AllocatedTotal(bytes: 25_600, blocks: 200),
      "made": AllocatedTotal(bytes: 7200, blocks: 300), "kept": AllocatedTotal(bytes: 770, blocks: 10),
    ]

    private static func sums(ofThreads count: UInt64) -> Sums {
      perThread.mapValues { AllocatedTotal(bytes: $0.bytes * count, blocks: $0.blocks * count) }
    }

    @Test(
      "each site's total is what its threads have allocated, whether slots are used again or not, in every mode",
      arguments: [("full", "", 4), ("site", "", 4), ("full", "1", 4), ("site", "", 64)])
    func known(stacks: String, events: String, threads: Int) throws {
      let waves = 5
      let program = try RecordingProgram(
        [Programs.path("totals.cpp"), "\(threads)", "\(waves)"],
        environment: ["ALLOCS_STACKS": stacks, "ALLOCS_EVENTS": events, "ALLOCS_FOLLOW": "1"])
      let record = try program.reach(0)
      let segment = try program.openSegment()
      let hasTotals = segment.hasTotals
      #expect(hasTotals)
      let before = segment.totalsBySite(of: record)
      #expect(before == Self.sums(ofThreads: UInt64(threads * waves)))
      let (allocated, counted) = (segment.allocatedBlocks, segment.callSums?.allocations)
      #expect(allocated == counted)
      #expect(segment.contextsWithMoreLiveThanTotal() == [])
      try program.proceed()
      // The child goes on from its parent's totals, and the parent's stay as they were.
      _ = try program.process.readLines(until: "checkpoint 1")
      let own = try program.directory.segment(of: program.process.pid)
      let other = try #require(try program.directory.segments().first { $0 != own })
      let ofChild = try Segment(path: other).totalsBySite(of: record)
      #expect(ofChild == Self.sums(ofThreads: UInt64(threads * waves) + 1))
      let after = segment.totalsBySite(of: record)
      #expect(after == Self.sums(ofThreads: UInt64(threads * waves)))
      try program.proceed()
      try program.finish()
    }

    @Test("of no two threads' contexts do the totals lie in one pair of cache lines")
    func lines() throws {
      let program = try RecordingProgram([Programs.path("totals.cpp"), "8", "1"])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      var slots: [UInt32: Set<UInt32?>] = [:]
      segment.forEachTotal { id, _ in slots[id / 8, default: []].insert(segment.context(id)?.threadSlot) }
      #expect(slots.count > 8)
      #expect(slots.values.allSatisfy { $0.count == 1 })
      try program.proceed()
      try program.process.send("\n")
      try program.finish()
    }

    @Test("without totals all else is as it was, and nothing is told of what was freed")
    func off() throws {
      let program = try RecordingProgram(
        [Programs.path("totals.cpp"), "4", "2"], environment: ["ALLOCS_TOTALS": "0", "ALLOCS_FOLLOW": "1"])
      let record = try program.reach(0)
      let segment = try program.openSegment()
      let hasTotals = segment.hasTotals
      #expect(!hasTotals)
      let allocated = segment.allocatedBlocks
      #expect(allocated == 0 && segment.total(ofContext: 1) == nil)
      let kept = segment.allAllocations().filter { $0.size == 77 }
      #expect(kept.count == 80)
      #expect(kept.allSatisfy { segment.context($0.context) != nil })
      let sums = segment.totalsBySite(of: record)
      #expect(sums.isEmpty)
      try program.proceed()
      _ = try program.process.readLines(until: "checkpoint 1")
      try program.proceed()
      try program.finish()
    }

    @Test("top tells what was ever allocated, by rate or in another order, directly and through the server")
    func top() throws {
      let program = try RecordingProgram([Programs.path("totals.cpp"), "4", "3"])
      _ = try program.reach(0)
      let server = try Server(program.directory)
      let pid = "\(program.process.pid)"
      for socket in [nil, server.socket] {
        func object(_ arguments: [String]) throws -> [String: Any] {
          let outcome = try Tool.control(["top", pid, "--json"] + arguments, in: program.directory, socket: socket)
          #expect(outcome.ending == .exit(0), "\(arguments): \(outcome)")
          return try #require(try Tool.objects(outcome.output).first)
        }
        func sites(_ object: [String: Any]) throws -> [String: [String: Any]] {
          let sites = try #require(object["sites"] as? [[String: Any]])
          return Dictionary(
            sites.compactMap { row in ((row["site"] as? [String: Any])?["function"] as? String).map { ($0, row) } },
            uniquingKeysWith: { first, _ in first })
        }
        let table = try object(["--sort", "rate"])
        let seconds = try #require(table["total_seconds"] as? Double)
        let rows = try sites(table)
        for (name, total) in Self.sums(ofThreads: 12) {
          let row = try #require(rows[name], "\(name) is not listed")
          #expect(
            row["allocated_blocks"] as? UInt64 == total.blocks && row["allocated_bytes"] as? UInt64 == total.bytes)
          let live: UInt64 = name == "kept" ? 120 : 0
          #expect(row["blocks"] as? UInt64 == live && row["freed_blocks"] as? UInt64 == total.blocks - live)
          // The seconds are told to a hundredth.
          let rate = try #require(row["bytes_per_second"] as? Double)
          #expect(abs(rate * seconds - Double(total.bytes)) <= 0.006 * rate + seconds)
        }
        // Most allocated first; by bytes only what lives, with the numbers where they are asked for.
        let order = (table["sites"] as? [[String: Any]])?.compactMap { $0["allocated_bytes"] as? UInt64 } ?? []
        #expect(order == order.sorted(by: >))
        let living = try sites(try object(["--totals"]))
        #expect(living["plain"] == nil && living["kept"]?["allocated_blocks"] as? Int == 120)
        #expect(try object([])["total_seconds"] == nil)
        let functions = try object(["--sort", "rate", "--group", "function"])
        #expect((functions["groups"] as? [[String: Any]])?.first?["name"] as? String == "plain")
        // Nothing happens at the check point.
        let change = try object(["--sort", "growth", "--for", "200ms"])
        #expect(change["allocated_blocks"] as? Int == 0 && change["row_count"] as? Int ?? 0 > 5)
        for arguments in [["--sort", "rate"], ["--totals"], ["--sort", "growth", "--for", "100ms"]] {
          let text = try Tool.control(["top", pid] + arguments, in: program.directory, socket: socket).output
          #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 } && text.contains("kept"), "\(text)")
        }
      }
      try program.proceed()
      try program.process.send("\n")
      try program.finish()
    }

    @Test("a snapshot has what was ever allocated, for top and replay; and so has a profile of pprof")
    func files() throws {
      let program = try RecordingProgram([Programs.path("totals.cpp"), "4", "3"])
      _ = try program.reach(0)
      let pid = "\(program.process.pid)"
      let file = program.directory.file("a.snap")
      func ask(_ arguments: [String]) throws -> String {
        let outcome = try Tool.control(arguments, in: program.directory)
        #expect(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(arguments): \(outcome)")
        return outcome.output
      }
      _ = try ask(["snapshot", pid, "-o", file])
      let expected = Self.sums(ofThreads: 12)
      for command in ["top", "replay"] {
        let table = try #require(try Tool.objects(try ask([command, file, "--sort", "rate", "--json"])).first)
        #expect(try #require(table["total_seconds"] as? Double) > 0)
        let sites = try #require(table["sites"] as? [[String: Any]])
        for (name, total) in expected {
          let row = try #require(sites.first { ($0["site"] as? [String: Any])?["function"] as? String == name })
          #expect(row["allocated_blocks"] as? UInt64 == total.blocks, "\(command): \(name)")
          #expect(
            row["allocated_bytes"] as? UInt64 == total.bytes && row["blocks"] as? Int == (name == "kept" ? 120 : 0))
        }
        let text = try ask([command, file, "--totals"])
        #expect(text.contains("FREED") && text.contains("kept") && !text.contains("plain"), "\(text)")
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      }
      // Of the process itself the same, and what lives is what it is without.
      let profile = program.directory.file("a.pb.gz")
      for source in [pid, file] {
        _ = try ask(["export", source, "--format", "pprof", "-o", profile])
        for (index, name, value) in [
          ("alloc_objects", "plain", "12000"), ("alloc_space", "plain", "1200000"), ("inuse_objects", "kept", "120"),
          ("inuse_space", "kept", "9240"),
        ] where Self.go != nil {
          let top = try ChildProcess.run(
            [Self.go!, "tool", "pprof", "-top", "-sample_index=\(index)", "-unit=B", profile])
          let lines = top.output.split(separator: "\n")
          #expect(lines.contains { $0.hasSuffix(" \(name)") && $0.contains(value) }, "\(index): \(top)")
          #expect(index.hasPrefix("alloc") || !lines.contains { $0.hasSuffix(" plain") && !$0.hasPrefix("         0") })
        }
      }
      // What a file does not have, and what cannot be asked of one.
      for arguments in [
        ["--sort", "growth"], ["--for", "1s"], ["--group", "thread"], ["--sort", "rate", "--older", "1s"],
      ] {
        let refused = try Tool.control(["top", file] + arguments, in: program.directory)
        #expect(refused.ending == .exit(64) && refused.output.isEmpty, "\(arguments): \(refused)")
      }
      try program.proceed()
      try program.process.send("\n")
      try program.finish()
    }

    private static let go: String? = (["/usr/bin/go", "/usr/local/go/bin/go"] as [String]).first {
      access($0, X_OK) == 0
    }

    @Test("what was allocated between two looks, of snapshots and of the process; of two processes it is not known")
    func between() throws {
      let directory = try TestDirectory()
      func start() throws -> ChildProcess {
        let process = try ChildProcess(
          [Programs.path("phases.c")],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
          conversing: true)
        try process.send("\n")
        _ = try process.readLine()
        return process
      }
      let (process, other) = (try start(), try start())
      let (first, second, third) = (directory.file("1.snap"), directory.file("2.snap"), directory.file("3.snap"))
      _ = try Tool.control(["snapshot", "\(process.pid)", "-o", first], in: directory)
      _ = try Tool.control(["snapshot", "\(other.pid)", "-o", third], in: directory)
      try process.send("\n")
      _ = try process.readLine()
      _ = try Tool.control(["snapshot", "\(process.pid)", "-o", second], in: directory)
      for last in [second, "\(process.pid)"] {
        for by in ["site", "stack"] {
          let outcome = try Tool.control(["diff", first, last, "--totals", "--by", by, "--json"], in: directory)
          let object = try #require(try Tool.objects(outcome.output).first, "\(outcome)")
          let row = try #require((object["rows"] as? [[String: Any]])?.first)
          #expect(row["allocated_blocks"] as? Int == 70 && object["allocated_blocks"] as? Int ?? 0 >= 70, "\(outcome)")
        }
        let text = try Tool.control(["diff", first, last, "--totals"], in: directory).output
        #expect(text.contains("between: ") && text.contains("MADE") && text.contains("in_second"), "\(text)")
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      }
      let unknown = try Tool.control(["diff", third, second, "--totals"], in: directory)
      #expect(
        unknown.ending == .exit(1) && unknown.output.isEmpty && unknown.errors.contains("is not known"), "\(unknown)")
    }

    @Test("an older server is watched without totals; a group whose blocks are gone at the second look has fallen")
    func scripted() throws {
      let directory = try TestDirectory()
      func ask(_ mode: String, _ arguments: [String]) throws -> Outcome {
        let socket = directory.file("\(mode).sock")
        unlink(socket)
        let server = try ChildProcess(
          ["/usr/bin/python3", Programs.source("scripted_server.py"), socket, mode],
          environment: ChildProcess.baseEnvironment, conversing: true)
        _ = try server.readLines(until: "listening")
        defer { server.signal(SIGKILL) }
        return try Tool.control(["top", "4242"] + arguments, in: directory, socket: socket)
      }
      for mode in ["old", "older"] {
        let watched = try ask(mode, ["--sort", "growth", "--for", "100ms"])
        #expect(watched.ending == .exit(0) && watched.output.contains("960"), "\(watched)")
      }
      for arguments in [["--sort", "rate"], ["--totals"], ["--sort", "rate", "--for", "100ms"]] {
        let refused = try ask("old", arguments)
        #expect(refused.ending == .exit(1) && refused.output.isEmpty, "\(refused)")
        #expect(refused.errors.contains("the server is of an earlier version"), "\(refused)")
      }
      let within = ["--within", "size:7", "--for", "100ms", "--json"]
      let fallen = try #require(try Tool.objects(try ask("emptied", within).output).first)
      let row = try #require((fallen["rows"] as? [[String: Any]])?.first)
      #expect(row["first_bytes"] as? Int == 960 && row["last_bytes"] as? Int == 0 && fallen["last_bytes"] as? Int == 0)
    }

    @Test("of a process without totals the order is refused with the way out, and what grows is told all the same")
    func refused() throws {
      let program = try RecordingProgram([Programs.path("totals.cpp"), "2", "1"], environment: ["ALLOCS_TOTALS": "0"])
      _ = try program.reach(0)
      let pid = "\(program.process.pid)"
      let refused = try Tool.control(["top", pid, "--sort", "rate"], in: program.directory)
      #expect(refused.ending == .exit(1) && refused.output.isEmpty && "\(refused)".contains("ALLOCS_TOTALS=0"))
      let growth = try Tool.control(["top", pid, "--sort", "growth", "--for", "100ms"], in: program.directory)
      #expect(growth.ending == .exit(0) && growth.output.contains("kept"))
      let server = try Server(program.directory)
      let answer = try server.request("/v1/processes/\(pid)/top?sort=rate")
      #expect(answer.status == 404 && answer.body.contains(#","no_such":"totals"}"#), "\(answer)")
      let asked = try Tool.control(["top", pid, "--sort", "rate"], in: program.directory, socket: server.socket)
      #expect(asked.ending == .exit(1) && "\(asked)".contains("ALLOCS_TOTALS=0"))
      let watched = try Tool.control(
        ["top", pid, "--sort", "growth", "--for", "100ms"], in: program.directory, socket: server.socket)
      #expect(watched.ending == .exit(0) && watched.output.contains("kept"))
      let plain = try Tool.control(["top", pid, "--totals"], in: program.directory)
      #expect(plain.ending == .exit(0) && plain.output.contains("SHARE"))
      try program.proceed()
      try program.process.send("\n")
      try program.finish()
    }
  }
}
