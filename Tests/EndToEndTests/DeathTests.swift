// SPDX-License-Identifier: Apache-2.0
// Ends of every kind, at any moment: what is left answers, and is what the program's own log says.

import CLibrary
import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("death")
  struct Death {
    private static let program = Result { try Programs.path("mortal.c", options: ["-DTABLE_SIZE=200"]) }

    private func start(threads: Int, operations: Int = 0, way: String) throws -> RecordingProgram {
      try RecordingProgram([Self.program.get(), "\(threads)", "\(operations)", way])
    }

    /// Everything about the segment of a program that has ended; returns how many blocks it surely had.
    private func examine(_ program: RecordingProgram, threads: Int, _ comment: String) throws -> Int {
      let segment = try program.openSegment()
      let faults = Sanity.faults(of: segment, balanced: false)
      #expect(faults == [], "\(comment)")
      let record = try UncertainRecord(directory: program.records)
      let differences = record.differences(in: segment)
      #expect(differences.isEmpty, "\(comment): \(differences)")
      // Each thread may have been between a block's slot and its count.
      let surplus = segment.balance - Int64(segment.allAllocations().count)
      #expect(abs(surplus) <= Int64(threads), "\(comment): the counters are off by \(surplus)")
      #expect(segment.isProcessAlive == false)
      return record.certain.count
    }

    @Test("of five hundred programs killed at random moments each index is whole, and what the program's log says")
    func killed() throws {
      var random = RandomNumbers()
      var blocks = 0
      // How much a program gets done before it is killed is the machine's affair: more programs, then.
      for kill in 0..<5000 where kill < 500 || blocks <= 10_000 {
        let threads = kill % 3 + 1
        let program = try start(threads: threads, way: "nothing")
        _ = try program.process.readLines(until: "ready")
        let delay = UInt32.random(in: 0..<3000, using: &random)
        // Where in its work the program is killed is what is tried.
        letRun(microseconds: delay)
        program.process.signal(SIGKILL)
        #expect(try program.process.wait().ending == .signal(SIGKILL))
        blocks += try examine(program, threads: threads, "kill \(kill), after \(delay) µs")
      }
      #expect(blocks > 10_000)
    }

    @Test("killed while it starts, a program has left a whole index, or none, or one that is refused")
    func killedAtStart() throws {
      var random = RandomNumbers()
      // How long a start takes is the machine's affair; compiling the program is no part of it.
      _ = try Self.program.get()
      let begun = ContinuousClock.now
      let first = try start(threads: 2, way: "nothing")
      _ = try first.process.readLines(until: "ready")
      let whole = (ContinuousClock.now - begun) / .microseconds(1)
      var (without, refused, read) = (0, 0, 0)
      // One measured start says little of the next ones on a busy machine: delays are of every order of magnitude, and
      // where 150 of them were not enough, there are more, and longer ones.
      for kill in 0..<3000 where kill < 150 || without == 0 || read <= 30 {
        let program = try start(threads: 2, way: "nothing")
        let longest = max(1000, whole) * 4 * Double(1 + kill / 150)
        let delay = UInt32(min(1e6, exp(Double.random(in: log(100)..<log(longest), using: &random))))
        // Where in its start the program is killed is what is tried.
        letRun(microseconds: delay)
        program.process.signal(SIGKILL)
        _ = try program.process.wait()
        let paths = try program.directory.segments()
        if paths.isEmpty { without += 1 }
        for path in paths {
          let segment: Segment
          do throws(Complaint) {
            segment = try Segment(path: path)
          } catch {
            // A file that was not finished has no magic, or not its length yet.
            guard error.kind == .halfWritten || error.what.contains("it is cut short") else { throw error }
            refused += 1
            continue
          }
          read += 1
          let faults = Sanity.faults(of: segment, balanced: false)
          #expect(faults == [], "kill \(kill), after \(delay) µs")
        }
      }
      #expect(without > 0 && read > 30, "\(without) left none, \(refused) were refused, \(read) read")
    }

    @Test(
      "exit, _exit, abort and a fault leave the index whole while other threads work, and ps says how it ended",
      arguments: [
        ("exit", Outcome.Ending.exit(0), "exited"), ("_exit", .exit(0), "dead"), ("abort", .signal(SIGABRT), "dead"),
        ("fault", .signal(SIGSEGV), "dead"),
      ])
    func ended(way: String, ending: Outcome.Ending, state: String) throws {
      for round in 0..<8 {
        let program = try start(threads: 3, operations: 1000 + round * 777, way: way)
        let found = try program.process.wait().ending
        #expect(found == ending)
        _ = try examine(program, threads: 3, "\(way) \(round)")
        guard round == 0 else { continue }
        let listed = try Tool.control(["ps", "--json"], in: program.directory)
        let processes = try Tool.objects(listed.output).first?["processes"] as? [[String: Any]] ?? []
        let object = processes.first { $0["pid"] as? Int == Int(program.process.pid) }
        #expect(object?["state"] as? String == state, "\(listed.output)")
      }
    }

    /// A kernel that tells it, and a file system that keeps it.
    private static let endingsAreKnown: Bool = {
      var system = utsname()
      uname(&system)
      let release = withUnsafeBytes(of: &system.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
      guard let directory = try? TestDirectory(), let path = try? directory.write("", to: "file") else { return false }
      return !numbers.lexicographicallyPrecedes([6, 15]) && setxattr(path, "user.allocs.test", "1", 1, 0) == 0
    }()

    @Test(
      "where allocsd ran, ps says with which status or by which signal each process ended, also after allocsd is gone",
      .enabled(if: endingsAreKnown, "needs Linux 6.15 and attributes of users on the file system"))
    func endings() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      let environment = try ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 }
      let ways: [(code: String, state: String, status: Int?, signal: String?, text: String)] = [
        ("pass", "exited", 0, nil, " exited "), ("sys.exit(255)", "exited", 255, nil, " exit 255 "),
        ("os._exit(7)", "dead", 7, nil, " _exit 7 "), ("os.abort()", "dead", nil, "SIGABRT", " SIGABRT "),
        ("os.kill(os.getpid(), signal.SIGKILL)", "dead", nil, "SIGKILL", " SIGKILL "),
        ("os.kill(os.getpid(), 40)", "dead", nil, "SIG40", " SIG40 "),
      ]
      let programs = try ways.map { way in
        let code = "import os, signal, sys; print('ready', flush=True); sys.stdin.readline(); \(way.code)"
        return try ChildProcess(["/usr/bin/python3", "-c", code], environment: environment, conversing: true)
      }
      for program in programs { _ = try program.readLines(until: "ready") }
      try server.waitUntilSeen(live: ways.count)
      for program in programs {
        try program.send("\n")
        _ = try program.wait()
      }
      func processes() throws -> [Int: [String: Any]] {
        let listed = try Tool.control(["ps", "--json", "--direct"], in: directory)
        let all = try Tool.objects(listed.output).first?["processes"] as? [[String: Any]] ?? []
        return Dictionary(uniqueKeysWithValues: all.map { ($0["pid"] as? Int ?? 0, $0) })
      }
      try wait(for: "every ending is known") {
        try processes().values.allSatisfy { $0["exit_status"] != nil || $0["signal"] != nil }
      }
      let served = try server.request("/v1/processes").body
      server.process.signal(SIGTERM)
      _ = try server.process.wait()
      let table = try Tool.control(["ps", "--direct"], in: directory).output
      for (program, way) in zip(programs, ways) {
        let process = try #require(try processes()[Int(program.pid)])
        #expect(process["state"] as? String == way.state, "\(way.code)")
        #expect(process["exit_status"] as? Int == way.status, "\(way.code)")
        #expect(process["signal"] as? String == way.signal, "\(way.code)")
        let ended = try #require(process["ended"] as? Double)
        #expect(ended >= process["started"] as? Double ?? .infinity && process["parent"] == nil, "\(process)")
        let line = table.split(separator: "\n").first { $0.hasPrefix("\(program.pid) ") }
        #expect(line?.contains(way.text) == true, "\(table)")
        let info = try Tool.control(["info", "\(program.pid)", "--direct"], in: directory).output
        #expect(info.contains(":\(way.text.dropLast())\n"), "\(info)")
      }
      #expect(served.contains("\"exit_status\":255") && served.contains("\"signal\":\"SIGKILL\""))
    }

    @Test(
      "allocsd keeps segments of ended processes for the time, the size and the number it is told, and live ones always"
    )
    func retention() throws {
      /// A server with one process that lives and others that end, of which it keeps some: at most `limit`.
      final class Case {
        let options: [String]
        let limit: Int
        let directory: TestDirectory
        let server: Server
        let living: Stationary
        private(set) var ended: [Stationary] = []
        var kept: Int { min(limit, ended.count) }

        init(_ options: [String], keeping limit: Int) throws {
          (self.options, self.limit) = (options, limit)
          directory = try TestDirectory()
          server = try Server(directory, options: options + ["--look-every", "1s"])
          living = try Stationary(in: directory)
          for program in try (0..<3).map({ _ in try Stationary(in: directory) }) { try end(program) }
        }

        func end(_ program: Stationary) throws {
          _ = try program.process.wait()
          ended.append(program)
        }

        func waitUntilRemoved() throws {
          try wait(for: "with \(options), \(ended.count - kept) of \(ended.count) segments go", of: server.process) {
            try server.metric("allocsd_segments_removed_total") == ended.count - kept
          }
          try server.waitUntilSeen(live: 1, dead: kept)
        }
      }
      // All at a time, as each takes a second.
      let cases = try [
        Case(["--keep-dead-for", "1s"], keeping: 0), Case(["--keep-dead-size", "4K"], keeping: 0),
        Case(["--keep-dead-count", "2"], keeping: 2), Case(["--keep-dead-for", "forever"], keeping: .max),
      ]
      for one in cases { try one.waitUntilRemoved() }
      // One more ends, for which allocsd looks again: nothing else goes that is to be kept.
      for one in cases {
        try one.end(Stationary(in: one.directory))
        try one.waitUntilRemoved()
        #expect(try one.directory.segments().count == 1 + one.kept, "\(one.options)")
        let left = try one.ended.filter { try !one.directory.segments(of: $0.process.pid).isEmpty }
        #expect(left.count == one.kept, "\(one.options)")
        #expect(one.kept == 0 || left.last === one.ended.last, "\(one.options): the oldest go first")
        _ = try one.directory.segment(of: one.living.process.pid)
        let block = try one.living.place("block")
        let answer = try one.server.request("/v1/processes/\(one.living.pid)/query?address=\(block.address)")
        #expect(answer.status == 200 && answer.body.contains("\"kind\":\"heap\""), "\(one.options): \(answer)")
      }
    }

    /// A memory control group of the old kind; nil if none can be made.
    private static let group: String? = {
      let path = "/sys/fs/cgroup/memory/allocs-test-\(getpid())"
      guard mkdir(path, 0o700) == 0 else { return nil }
      return path
    }()

    @Test(
      "killed for want of memory, a program leaves its index whole", .enabled(if: group != nil, "needs a memory cgroup")
    )
    func outOfMemory() throws {
      let group = try #require(Self.group)
      defer { rmdir(group) }
      try "67108864".write(toFile: "\(group)/memory.limit_in_bytes", atomically: false, encoding: .utf8)
      try? "67108864".write(toFile: "\(group)/memory.memsw.limit_in_bytes", atomically: false, encoding: .utf8)
      let program = try RecordingProgram([
        "sh", "-c", "echo $$ > '\(group)/cgroup.procs'; exec \"$@\"", "sh", Self.program.get(), "2", "20000", "grow",
      ])
      #expect(try program.process.wait().ending == .signal(SIGKILL))
      let segment = try program.openSegment()
      let faults = Sanity.faults(of: segment, balanced: false)
      #expect(faults == [])
      #expect(segment.totals().bytes > 10 << 20)
    }
  }
}
