// SPDX-License-Identifier: Apache-2.0
// Who a process is and whether it lives: in whatever namespaces it is, whichever of its threads have ended, whatever
// its segment and the directory are called.

import Foundation
import IndexReader
import Recording
import TestSupport
import Testing

extension EndToEnd {
  @Suite("who a process is")
  struct Identity {
    // MARK: time namespaces

    struct Offsets: CustomTestStringConvertible {
      var monotonic: Int
      var boottime: Int
      var testDescription: String { "monotonic \(monotonic) s, boottime \(boottime) s" }
    }

    /// No clock may become negative, nor go beyond half of what the kernel's 63 bits of nanoseconds hold.
    static let offsets: [Offsets] = {
      let uptime = Int(ProcessInfo.processInfo.systemUptime)
      return [
        Offsets(monotonic: 100_000, boottime: 0), Offsets(monotonic: 0, boottime: 100_000),
        Offsets(monotonic: -uptime / 2, boottime: -uptime / 3),
        Offsets(monotonic: 4_000_000_000, boottime: 4_000_000_000),
        // Beyond the wrap of ticks, 388 days.
        Offsets(monotonic: 33_554_432 + 7, boottime: -1),
      ]
    }()

    private static let hasTimeNamespaces: Bool =
      (try? ChildProcess.run(["unshare", "-T", "--monotonic", "1", "true"]).ending) == .exit(0)

    private static func inTime(_ offsets: Offsets) -> [String] {
      ["unshare", "-T", "--monotonic", "\(offsets.monotonic)", "--boottime", "\(offsets.boottime)"]
    }

    @Test(
      "a process in another time namespace lives, with right ages, times and recordings, and is known dead when it is",
      .enabled(if: hasTimeNamespaces, "needs root and time namespaces"), arguments: offsets)
    func otherTime(offsets: Offsets) throws {
      let began = Date().timeIntervalSince1970
      let program = try PlacedProgram(
        [Programs.path("generations.c"), "0"], prefix: Self.inTime(offsets), environment: ["ALLOCS_EVENTS": "1"])
      try wait(for: "the block is a fifth of a second old") {
        try program.query("block")["age_seconds"] as? Double ?? 0 > 0.2
      }
      let listed = try #require(try program.listed())
      #expect(listed["state"] as? String == "live")
      let started = try #require(listed["started"] as? Double)
      // Starts are told to a second or so; the program's file may be compiled first.
      #expect(started > began - 5 && started < Date().timeIntervalSince1970 + 5)
      let block = try program.query("block")
      let age = try #require(block["age_seconds"] as? Double)
      let passed = Date().timeIntervalSince1970 - began
      #expect(block["kind"] as? String == "heap" && age > 0.2 && age < passed + 0.1)
      #expect(try program.query("static")["kind"] as? String == "static")
      #expect(try program.query("stack")["kind"] as? String == "stack")
      let history = try Tool.control(
        ["history", "\(program.pid)", "\(program.place("block"))", "--json"], in: program.directory)
      let event = try #require(try Tool.objects(history.output).first)
      let eventAge = try #require(event["age_seconds"] as? Double)
      #expect(eventAge > 0.2 && eventAge < Date().timeIntervalSince1970 - began + 5)
      // A recording of the past: its seconds are those of the machine.
      let file = program.directory.file("recording")
      let recorded = try Tool.control(
        ["record", "\(program.pid)", "-o", file, "--duration", "300ms"], in: program.directory)
      #expect(recorded.ending == .exit(0), "\(recorded.errors)")
      let recording = try Recording(path: file)
      let seconds = Double(recording.endStamp &- recording.startStamp) / 1e9
      #expect(seconds > 0.27 && seconds < passed + 20)
      _ = try program.process.wait()
      #expect(try program.listed()?["state"] as? String == "exited")
    }

    /// Options of a server that keeps nothing of ended processes, and notices each end within a second: nothing tells
    /// the server of an end in another pid namespace.
    private static let keepsNothing = ["--keep-dead-for", "0s", "--keep-dead-count", "0", "--look-every", "1s"]

    /// Has a server that keeps nothing of ended processes sweep its directory, three times: what it takes for an ended
    /// process's goes with what an ended process has left.
    private func sweep(_ server: Server) throws {
      for _ in 0..<3 {
        let ended = try Stationary(in: server.directory)
        let segment = try server.directory.segment(of: ended.process.pid)
        _ = try ended.process.wait()
        try wait(for: "allocsd removes what an ended process has left", of: server.process) {
          !FileManager.default.fileExists(atPath: segment)
        }
      }
    }

    @Test(
      "allocsd keeps the segments of live processes in other time namespaces, and removes those of ended ones",
      .enabled(if: hasTimeNamespaces, "needs root and time namespaces"))
    func otherTimeServed() throws {
      let directory = try TestDirectory()
      let server = try Server(directory, options: Self.keepsNothing)
      let program = try Programs.path("generations.c")
      let programs = try Self.offsets.map {
        try PlacedProgram([program, "0"], prefix: Self.inTime($0), in: directory)
      }
      try sweep(server)
      #expect(try directory.segments().count == programs.count)
      for program in programs {
        let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(program.place("block"))")
        #expect(answer.body.contains("\"kind\":\"heap\"") && answer.body.contains("\"mapping\""), "\(answer)")
      }
      for program in programs { _ = try program.process.wait() }
      try wait(for: "the segments of ended processes go") { try directory.segments().isEmpty }
    }

    @Test(
      "a reader in another time namespace sees the processes of the machine's as they are",
      .enabled(if: hasTimeNamespaces, "needs root and time namespaces"))
    func readerElsewhere() throws {
      let program = try PlacedProgram([Programs.path("generations.c"), "0"])
      let command = try Self.inTime(Offsets(monotonic: 50_000, boottime: 70_000)) + [Installation.path(of: "allocsctl")]
      let environment = ["ALLOCS_DIR": program.directory.path, "ALLOCS_SOCKET": program.directory.file("none.sock")]
      let listed = try ChildProcess.run(command + ["ps"], environment: environment)
      #expect(listed.output.contains("\(program.pid)") && listed.output.contains(" live "), "\(listed)")
      let answer = try ChildProcess.run(
        command + ["query", "\(program.pid)", "\(program.place("block"))", "--json"], environment: environment)
      let object = try #require(try Tool.objects(answer.output).first)
      #expect(object["mapping"] != nil && (object["age_seconds"] as? Double).map { $0 < 60 } == true, "\(answer)")
    }

    // MARK: threads

    @Test("a process whose first thread has ended answers as any live one, to every command, and its end is learnt")
    func firstThreadGone() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      let program = try PlacedProgram([Programs.path("first_gone.c")], in: directory)
      #expect(try program.listed()?["state"] as? String == "live")
      for socket in [nil, server.socket] {
        let block = try program.query("block", socket: socket)
        #expect(block["kind"] as? String == "heap" && block["mapping"] != nil && block["note"] == nil)
        let frames = block["stack"] as? [[String: Any]] ?? []
        #expect(frames.contains { $0["function"] as? String == "allocate_late" }, "\(frames)")
        #expect(try program.query("mapping", socket: socket)["kind"] as? String == "mapping")
        #expect(try program.query("static", socket: socket)["symbol"] as? String == "static_variable")
        #expect(try program.query("code", socket: socket)["symbol"] as? String == "work")
        let stack = try program.query("stack", socket: socket)
        #expect(stack["kind"] as? String == "stack" && stack["thread"] != nil, "\(stack)")
      }
      let stopped = try Tool.control(
        ["query", "\(program.pid)", "\(program.place("stack"))", "--stop", "--json"], in: directory)
      let frame = try #require(try Tool.objects(stopped.output).first?["frame"] as? [String: Any])
      #expect(stopped.ending == .exit(0) && "\(frame)".contains("work"), "\(frame)")
      #expect(try program.ask(["info", "\(program.pid)"])["abandoned"] == nil)
      let file = directory.file("recording")
      let recorded = try Tool.control(["record", "\(program.pid)", "-o", file, "--duration", "1s"], in: directory)
      #expect(recorded.ending == .exit(0), "\(recorded.errors)")
      #expect(try Recording(path: file).eventCount > 20)
      let streamed = try ChildProcess(
        [Installation.path(of: "allocsctl"), "events", "\(program.pid)", "--direct"],
        environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 }, conversing: true)
      var line: String?
      repeat { line = try streamed.readLine() } while line?.contains("allocate_late") == false
      #expect(line != nil, "\(streamed.errors)")
      streamed.signal(SIGINT)
      _ = try streamed.wait()
      // Another process ends, and allocsd knows: of the first one it knows that it has not.
      let other = try Stationary(in: directory)
      _ = try other.process.wait()
      try server.waitUntilSeen(live: 1, dead: 1)
      #expect(try directory.segments(of: program.pid).count == 1)
      program.process.signal(SIGKILL)
      // Not waited for yet: all its threads have ended, and it is dead.
      try wait(for: "a process that is all zombie is dead") { try program.listed()?["state"] as? String == "dead" }
      _ = try program.process.wait()
      try wait(for: "how it ended is known") { try program.listed()?["signal"] as? String == "SIGKILL" }
    }

    // MARK: names of files

    private func expectLive(_ program: PlacedProgram, in directory: TestDirectory? = nil, _ what: String) throws {
      let info = try program.ask(["info", "\(program.pid)"], in: directory)
      #expect(info["abandoned"] == nil && info["state"] as? String == "live", "\(what)")
      #expect(try program.query("static", in: directory)["symbol"] as? String == "static_variable", "\(what)")
      let block = try program.query("block", in: directory)
      #expect(block["kind"] as? String == "heap" && block["mapping"] != nil && block["note"] == nil, "\(what)")
      #expect(try program.query("stack", in: directory)["kind"] as? String == "stack", "\(what)")
    }

    @Test(
      "a followed child, and a child's child, writes its index: it has its mappings, statics and stack",
      arguments: [1, 3])
    func followed(generations: Int) throws {
      let program = try PlacedProgram(
        [Programs.path("generations.c"), "\(generations)"], environment: ["ALLOCS_FOLLOW": "1"])
      #expect(try program.directory.segments().count == generations + 1)
      try expectLive(program, "followed")
      let file = program.directory.file("recording")
      let recorded = try Tool.control(
        ["record", "\(program.pid)", "-o", file, "--duration", "1s"], in: program.directory)
      #expect(recorded.ending == .exit(0) && !recorded.output.contains("exec"), "\(recorded)")
      // Somebody removes the indexes of those that it comes from.
      for path in try program.directory.segments() where SegmentFile.process(ofPath: path)?.processID != program.pid {
        unlink(path)
      }
      try expectLive(program, "its parents' indexes removed")
    }

    @Test(
      "a directory that was renamed, or is known to the program by another name, holds the indexes of live processes")
    func otherNames() throws {
      let parent = try TestDirectory()
      let (first, second) = (try parent.directory("first"), parent.file("second"))
      let program = try PlacedProgram([Programs.path("generations.c"), "0"], indexes: first)
      rename(first, second)
      #expect(try find(in: second) == 1)
      let renamed = try LinkedDirectory(second)
      try expectLive(program, asking: renamed, "renamed")
    }

    private func find(in path: String) throws -> Int {
      try FileManager.default.contentsOfDirectory(atPath: path).count { $0.hasSuffix(".seg") }
    }

    /// A directory elsewhere.
    private struct LinkedDirectory {
      var path: String
      var pid: String

      init(_ path: String) throws {
        self.path = path
        let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".seg") }
        pid = String(try #require(names.first).prefix { $0 != "." })
      }

      func ask(_ arguments: [String]) throws -> [String: Any] {
        let outcome = try ChildProcess.run(
          [Installation.path(of: "allocsctl")] + arguments + ["--json"],
          environment: ["ALLOCS_DIR": path, "ALLOCS_SOCKET": "\(path)/none.sock"])
        guard outcome.ending == .exit(0) else { throw HarnessError("\(arguments) failed: \(outcome.errors)") }
        return try #require(try Tool.objects(outcome.output).first)
      }
    }

    private func expectLive(_ program: PlacedProgram, asking place: LinkedDirectory, _ what: String) throws {
      let info = try place.ask(["info", place.pid])
      #expect(info["abandoned"] == nil && info["state"] as? String == "live", "\(what): \(info)")
      let block = try place.ask(["query", place.pid, "\(program.place("block"))"])
      #expect(block["mapping"] != nil && block["note"] == nil, "\(what): \(block)")
      #expect(try place.ask(["query", place.pid, "\(program.place("static"))"])["symbol"] != nil, "\(what)")
    }

    private static let mayUnshare: Bool =
      (try? ChildProcess.run(["unshare", "-m", "true"]).ending) == .exit(0)

    @Test(
      "a directory that is mounted elsewhere for the program holds the indexes of live processes",
      .enabled(if: mayUnshare, "needs root and mount namespaces"))
    func mountedElsewhere() throws {
      let parent = try TestDirectory()
      let (own, other) = (try parent.directory("own"), try parent.directory("other"))
      let program = try PlacedProgram(
        [Programs.path("generations.c"), "0"],
        prefix: ["unshare", "-m", "sh", "-c", "mount --bind '\(own)' '\(other)' && exec \"$@\"", "sh"], indexes: other)
      try expectLive(program, asking: LinkedDirectory(own), "mounted elsewhere")
    }

    @Test(
      "a process in a pid namespace of its own is live, has its mappings, and keeps its segment while allocsd sweeps",
      .enabled(if: mayUnshare, "needs root and namespaces"))
    func otherIDs() throws {
      let directory = try TestDirectory()
      let server = try Server(directory, options: Self.keepsNothing)
      let program = try PlacedProgram(
        [Programs.path("generations.c"), "0"], prefix: ["unshare", "-pf", "--kill-child", "--mount-proc"], in: directory
      )
      try sweep(server)
      #expect(try directory.segments().count == 1)
      #expect(try program.listed()?["state"] as? String == "live")
      let block = try program.query("block")
      #expect(block["mapping"] != nil && block["note"] == nil, "\(block)")
      #expect(try program.query("static")["symbol"] as? String == "static_variable")
      _ = try program.process.wait()
      try wait(for: "its segment goes when it has ended") { try directory.segments().isEmpty }
    }
  }
}
