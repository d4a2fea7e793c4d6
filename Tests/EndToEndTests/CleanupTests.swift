// SPDX-License-Identifier: Apache-2.0
// Segments of ended processes: how the processes ended, which segments are kept, who removes them, and which files are
// never removed.

import Foundation
import IndexReader
import SharedLayout
import TestSupport
import Testing

extension EndToEnd {
  @Suite("what ended processes leave")
  struct Cleanup {
    private func environment(_ directory: TestDirectory) throws -> [String: String] {
      try Installation.agentEnvironment(directory.path)
    }

    private func start(_ count: Int, _ command: String = "/bin/true", in directory: TestDirectory) throws {
      let outcome = try ChildProcess.run(
        ["bash", "-c", "ulimit -c 0; for ((i = 0; i < \(count); ++i)); do \(command); done 2>/dev/null; true"],
        environment: environment(directory))
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
    }

    /// Starts programs until fewer than `count` segments are left. One start in 32 sweeps, as chance has it: so many
    /// starts that no chance explains it if more are left.
    private func start(
      until count: Int, _ command: String = "/bin/true", in directory: TestDirectory, _ line: Int = #line
    ) throws {
      for _ in 0..<20 where try directory.segments().count >= count { try start(100, command, in: directory) }
      let left = try directory.segments().count
      #expect(left < count, "line \(line)")
    }

    private func kibibytes(_ directory: TestDirectory) throws -> Int {
      let outcome = try ChildProcess.run(["du", "-sk", directory.path])
      return try #require(outcome.output.split(separator: "\t").first.flatMap { Int($0) })
    }

    /// A process that was killed, and has left a segment.
    private func crash(in directory: TestDirectory) throws -> Int32 {
      let program = try PlacedProgram([Programs.path("generations.c"), "0"], in: directory)
      program.process.signal(SIGKILL)
      _ = try program.process.wait()
      return program.pid
    }

    @Test(
      "where no server runs, thousands of short programs leave little, and what crashed stays longer than what did not")
    func manyPrograms() throws {
      let directory = try TestDirectory()
      let old = try crash(in: directory)
      try start(200, in: directory)
      #expect(try directory.segments(of: old).count == 1, "fewer than 256 have ended since")
      try start(1200, in: directory)
      try start(until: 260, in: directory)
      let left = try directory.segments().count
      #expect(left >= 64, "\(left) segments")
      #expect(try kibibytes(directory) < 16 << 10)
      let controls = try FileManager.default.contentsOfDirectory(atPath: directory.path).count { $0.hasSuffix(".ctl") }
      #expect(controls <= left, "control files go with their segments")
    }

    @Test("programs that end otherwise than in order leave little, too")
    func manyCrashes() throws {
      let directory = try TestDirectory()
      let old = try crash(in: directory)
      try start(700, Programs.path("crash.c"), in: directory)
      try start(until: 400, Programs.path("crash.c"), in: directory)
      #expect(try directory.segments(of: old).isEmpty, "256 newer ones are kept")
    }

    @Test("what a live process has mapped, what is another user's and what is no segment is not swept away")
    func notSwept() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let living = try PlacedProgram([Programs.path("generations.c"), "0"], in: directory)
      let foreign = try crash(in: directory)
      let path = try directory.segment(of: foreign)
      let isRoot = geteuid() == 0
      if isRoot { chown(path, OtherUsers.nobodyID, OtherUsers.nobodyID) }
      // Of a layout version that has no lock, and of one that this agent does not know.
      let strangers = try [ALLOCS_IDENTITY_VERSION - 1, ALLOCS_LAYOUT_VERSION + 1].map { version in
        let path = try directory.segment(of: crash(in: directory))
        let file = try #require(FileHandle(forWritingAtPath: path))
        try file.seek(toOffset: UInt64(MemoryLayout<allocs_header>.offset(of: \.layout_version)!))
        try file.write(contentsOf: withUnsafeBytes(of: version.littleEndian) { Data($0) })
        try file.close()
        return path
      }
      let other = try directory.write("mine", to: "5000000.77.seg")
      _ = try directory.write("mine", to: "notes")
      try start(900, in: directory)
      #expect(try directory.segments(of: living.pid).count == 1)
      // Without another user it is an ended process's own, and goes.
      #expect(FileManager.default.fileExists(atPath: path) == isRoot)
      for path in strangers { #expect(FileManager.default.fileExists(atPath: path), "\(path)") }
      // Nothing proves that its process has ended.
      #expect(FileManager.default.fileExists(atPath: other))
      #expect(FileManager.default.fileExists(atPath: directory.file("notes")))
      #expect(try living.query("block")["kind"] as? String == "heap")
    }

    @Test("where allocsd sweeps by limits of its own, programs that start remove nothing")
    func served() throws {
      let directory = try TestDirectory()
      let server = try Server(directory, options: ["--keep-dead-count", "unlimited"])
      try start(600, in: directory)
      #expect(try directory.segments().count >= 600)
      server.process.signal(SIGTERM)
      #expect(try server.process.wait().ending == .exit(0))
      #expect(!FileManager.default.fileExists(atPath: directory.file("allocsd.\(geteuid()).sweeps")))
      try start(until: 600, in: directory)
    }

    @Test("prune removes what ended processes of the user have left, says what and how much, and leaves all else")
    func prune() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let living = try PlacedProgram([Programs.path("generations.c"), "0"], in: directory)
      let ended = try (0..<3).map { _ in try crash(in: directory) }
      let alone = try directory.write("", to: "5000000.77.ctl")
      func prune(_ options: [String]) throws -> Outcome { try Tool.control(["prune"] + options, in: directory) }
      let trial = try prune(["--dry-run"])
      #expect(
        trial.ending == .exit(0)
          && trial.output.contains("would remove 3 segments of ended processes and 1 control file"))
      for pid in ended {
        #expect(trial.output.contains("\(pid)  ") && trial.output.contains("generations"), "\(trial)")
      }
      #expect(try directory.segments().count == 4)
      let young = try prune(["--older", "1h"])
      #expect(young.output == "removed nothing; 3 of ended processes stay\n", "\(young)")
      #expect(try directory.segments().count == 4)
      let done = try #require(try Tool.objects(prune(["--json"]).output).first)
      #expect(
        (done["removed"] as? [[String: Any]])?.count == 3 && (done["removed_bytes"] as? Int).map { $0 > 90_000 } == true
      )
      let left = try directory.segment(of: living.pid)
      #expect(try directory.segments() == [left])
      #expect(!FileManager.default.fileExists(atPath: alone))
      #expect(FileManager.default.fileExists(atPath: left.dropLast(3) + "ctl"))
      #expect(try prune([]).output == "removed nothing\n")
      #expect(try living.query("block")["kind"] as? String == "heap")
      #expect(try prune(["--older", "soon"]).ending == .exit(64))
    }

    @Test("prune leaves the segments of other users alone, root's too unless it is told", .enabled(if: geteuid() == 0))
    func pruneOfOthers() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let foreign = try directory.segment(of: crash(in: directory))
      chown(foreign, OtherUsers.nobodyID, OtherUsers.nobodyID)
      let own = try directory.segment(of: crash(in: directory))
      let binary = directory.file("allocsctl")
      // Where the build is may be closed to others.
      try makeExecutable(binary, from: Installation.path(of: "allocsctl"))
      func prune(_ options: [String], as user: UInt32? = nil) throws -> Outcome {
        let prefix = user.map { OtherUsers.command(as: "\($0)") } ?? []
        return try ChildProcess.run(
          prefix + [binary, "prune"] + options, environment: ["ALLOCS_DIR": directory.path])
      }
      #expect(try prune([], as: 12_345).output == "removed nothing\n")
      #expect(try prune(["--all-users"], as: 12_345).ending == .exit(1))
      #expect(try prune([]).output.contains("removed 1 segment of ended processes"))
      #expect(!FileManager.default.fileExists(atPath: own) && FileManager.default.fileExists(atPath: foreign))
      #expect(try prune([], as: OtherUsers.nobodyID).output.contains("removed 1 segment of ended processes"))
      #expect(!FileManager.default.fileExists(atPath: foreign))
      let other = try directory.segment(of: crash(in: directory))
      chown(other, OtherUsers.nobodyID, OtherUsers.nobodyID)
      #expect(try prune(["--all-users"]).output.contains("removed 1 segment of ended processes"))
      #expect(!FileManager.default.fileExists(atPath: other))
    }

    @Test("stray signals do not end allocsd: it notes SIGHUP, answers on, and SIGTERM ends it in order")
    func signals() throws {
      let server = try Server(try TestDirectory())
      for number in [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, SIGPROF, SIGVTALRM, SIGIO, SIGHUP, 34, 40, 64] {
        server.process.signal(number)
        #expect(try server.request("/v1/processes").status == 200, "after signal \(number)")
      }
      try wait(for: "SIGHUP is noted") { server.process.errors.contains("SIGHUP") }
      server.process.signal(SIGTERM)
      let outcome = try server.process.wait()
      #expect(outcome.ending == .exit(0) && outcome.errors.contains("stopped"), "\(outcome)")
    }

    @Test("how a program that crashes at once has ended is known, or why not; before allocsd it is nobody's knowledge")
    func instantCrashes() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("crash.c")
      try start(3, program, in: directory)
      let before = Set(try directory.segments())
      let server = try Server(directory)
      func crashes() throws -> [[String: Any]] {
        let listed = try Tool.control(["ps", "--json", "--direct"], in: directory)
        let all = try Tool.objects(listed.output).first?["processes"] as? [[String: Any]] ?? []
        return all.filter { ($0["command"] as? [String])?.first == program }
      }
      var late: [[String: Any]] = []
      var early: [[String: Any]] = []
      // On an idle machine all are known at once.
      for round in 1...10 where late.count(where: { $0["signal"] != nil }) <= 30 {
        try start(20, program, in: directory)
        try wait(for: "all endings are known, or why not") {
          late = try crashes().filter { !before.contains($0["segment"] as? String ?? "") }
          early = try crashes().filter { before.contains($0["segment"] as? String ?? "") }
          return late.count == 20 * round
            && late.allSatisfy { $0["signal"] != nil || $0["ending_unknown"] as? String != "no allocsd watched it" }
        }
      }
      #expect(late.allSatisfy { $0["signal"] as? String ?? "SIGSEGV" == "SIGSEGV" })
      #expect(
        late.allSatisfy { $0["signal"] != nil || $0["ending_unknown"] as? String == "it ended before allocsd looked" })
      #expect(late.count { $0["signal"] != nil } > 30)
      #expect(early.count == 3 && early.allSatisfy { $0["ending_unknown"] as? String == "no allocsd watched it" })
      withExtendedLifetime(server) {}
    }
  }
}
