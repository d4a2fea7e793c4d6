// Ends of every kind, at any moment: what is left answers, and is what the program's own log says.

import CLibrary
import Foundation
import IndexReader
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
      var random = SystemRandomNumberGenerator()
      var blocks = 0
      for kill in 0..<500 {
        let threads = kill % 3 + 1
        let program = try start(threads: threads, way: "nothing")
        _ = try program.process.readLines(until: "ready")
        let delay = UInt32.random(in: 0..<3000, using: &random)
        usleep(delay)
        program.process.signal(SIGKILL)
        #expect(try program.process.wait().ending == .signal(SIGKILL))
        blocks += try examine(program, threads: threads, "kill \(kill), after \(delay) µs")
      }
      #expect(blocks > 10_000)
    }

    @Test("killed while it starts, a program has left a whole index, or none, or one that is refused")
    func killedAtStart() throws {
      var random = SystemRandomNumberGenerator()
      for kill in 0..<150 {
        let program = try start(threads: 2, way: "nothing")
        usleep(UInt32.random(in: 0..<12_000, using: &random))
        program.process.signal(SIGKILL)
        _ = try program.process.wait()
        for path in try program.directory.segments() {
          // One that was not finished has no magic yet, and is refused.
          guard let segment = try? Segment(path: path) else { continue }
          let faults = Sanity.faults(of: segment, balanced: false)
          #expect(faults == [], "kill \(kill)")
        }
      }
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
      let limit = Date().addingTimeInterval(ChildProcess.patience)
      while try !server.request("/metrics").body.contains("allocsd_segments{process=\"live\"} \(ways.count)\n") {
        guard Date() < limit else { throw HarnessError("allocsd has not seen the processes") }
        usleep(20_000)
      }
      for program in programs {
        try program.send("\n")
        _ = try program.wait()
      }
      func processes() throws -> [Int: [String: Any]] {
        let listed = try Tool.control(["ps", "--json", "--direct"], in: directory)
        let all = try Tool.objects(listed.output).first?["processes"] as? [[String: Any]] ?? []
        return Dictionary(uniqueKeysWithValues: all.map { ($0["pid"] as? Int ?? 0, $0) })
      }
      while try !processes().values.allSatisfy({ $0["exit_status"] != nil || $0["signal"] != nil }) {
        guard Date() < limit else { throw HarnessError("some ending is not known: \(try processes())") }
        usleep(20_000)
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
      /// A server with one process that lives and three that have ended, of which it keeps some.
      final class Case {
        let options: [String]
        let kept: Int
        let directory: TestDirectory
        let server: Server
        let programs: [Stationary]

        init(_ options: [String], keeping kept: Int) throws {
          (self.options, self.kept) = (options, kept)
          let directory = try TestDirectory()
          self.directory = directory
          server = try Server(directory, options: options)
          programs = try (0..<4).map { _ in try Stationary(in: directory) }
          for program in programs.dropFirst() { _ = try program.process.wait() }
        }

        func removed() throws -> Int {
          let lines = try server.request("/metrics").body.split(separator: "\n")
          let line = lines.first { $0.hasPrefix("allocsd_segments_removed_total ") }
          return line?.split(separator: " ").last.flatMap { Int($0) } ?? 0
        }
      }
      // All at a time: each takes as long as allocsd takes between two looks.
      let cases = try [
        Case(["--keep-dead-for", "1s"], keeping: 0), Case(["--keep-dead-size", "4K"], keeping: 0),
        Case(["--keep-dead-count", "2"], keeping: 2), Case(["--keep-dead-for", "forever"], keeping: 3),
      ]
      let limit = Date().addingTimeInterval(ChildProcess.patience)
      for one in cases {
        while try one.removed() < 3 - one.kept {
          guard Date() < limit else { throw HarnessError("\(one.options): \(try one.directory.segments()) stay") }
          usleep(100_000)
        }
      }
      // One more look at the directory: nothing else goes.
      sleep(11)
      for one in cases {
        #expect(try one.removed() == 3 - one.kept, "\(one.options)")
        #expect(try one.directory.segments().count == 1 + one.kept, "\(one.options)")
        let left = try one.programs.dropFirst().filter { try !one.directory.segments(of: $0.process.pid).isEmpty }
        #expect(left.count == one.kept, "\(one.options)")
        let living = one.programs[0]
        _ = try one.directory.segment(of: living.process.pid)
        let block = try living.place("block")
        let answer = try one.server.request("/v1/processes/\(living.pid)/query?address=\(block.address)")
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
