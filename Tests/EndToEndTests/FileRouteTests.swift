// SPDX-License-Identifier: Apache-2.0
// Watches, comparisons, snapshots and files of all blocks, as the server answers them: over HTTP, and to the command.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("files and watches of the server")
  struct FileRoutes {
    private static func start(_ name: String, _ arguments: [String] = [], in directory: TestDirectory) throws
      -> ChildProcess
    {
      let program = try ChildProcess(
        [Programs.path(name)] + arguments,
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try program.readLines(until: "ready")
      return program
    }

    private static let growthRoute = "route=\"/v1/processes/{pid}/growth\""

    // MARK: growth

    @Test(
      "a watch tells what grows, as the command does; wrong times are refused, and of an ended process there is none")
    func growth() throws {
      let directory = try TestDirectory()
      let program = try Self.start("growing.c", in: directory)
      let server = try Server(directory)
      try program.send("\n")
      let path = "/v1/processes/\(program.pid)/growth"
      let answer = try server.request("\(path)?for=4s&every=200ms&limit=1000")
      #expect(answer.status == 200)
      let report = try #require(try Tool.objects(answer.body).first)
      #expect(report["pid"] as? Int == Int(program.pid) && report["ended"] == nil)
      // A busy machine may leave room for fewer looks.
      #expect((8...21).contains(report["look_count"] as? Int ?? 0), "\(report)")
      let rows = try #require(report["rows"] as? [[String: Any]])
      let leak = try #require(rows.first { ($0["site"] as? [String: Any])?["function"] as? String == "leak" })
      #expect(leak["verdict"] as? String == "grows" && (leak["slope"] as? Double ?? 0) > 0, "\(leak)")
      let text = try server.request("\(path)?for=100ms&within=function:leak", ["-H", "Accept: text/plain"])
      #expect(text.status == 200 && text.body.contains("too few to tell"), "\(text)")
      #expect(text.body.split(separator: "\n").allSatisfy { $0.count <= 80 })
      for wrong in [
        "for=0", "for=99ms", "for=2h", "for=x", "every=1ms", "for=1h&every=1s", "group=age", "limit=0", "limit=1001",
        "within=x", "since=1h", "for=1e999", "for=-1s", "every=nan",
      ] {
        #expect(try server.request("\(path)?\(wrong)").status == 400, "\(wrong)")
      }
      #expect(try server.request("\(path)?for=100ms&within=function:nobody").status == 404)
      // What has no body has nothing to wait for.
      #expect(try server.request("\(path)?for=1h", ["-I", "--max-time", "30"]).status == 200)
      let watch = try ChildProcess(
        ["curl", "-sS", "--unix-socket", server.socket, "http://localhost\(path)?for=1h&every=1m"],
        environment: ChildProcess.baseEnvironment)
      let short = try ChildProcess(
        ["curl", "-sS", "--unix-socket", server.socket, "http://localhost\(path)?for=9s&every=100ms"],
        environment: ChildProcess.baseEnvironment)
      try wait(for: "the watch has begun") {
        // As a look adds a request to what the server has read, there is no other sign of its first one.
        try server.metric("allocsd_connections") ?? 0 >= 3
      }
      // The short watch must have looked once before the program ends.
      letRun(microseconds: 500_000)
      program.closeInput()
      _ = try program.wait()
      let outcome = try short.wait()
      let last = try #require(try Tool.objects(outcome.output).first)
      #expect(last["ended"] as? Bool == true, "\(outcome)")
      #expect(try server.request("\(path)?for=100ms").status == 404)
      // The long one is cut short, and tells what it has seen.
      kill(server.process.pid, SIGTERM)
      let cut = try watch.wait()
      #expect(cut.ending == .exit(0), "\(cut)")
      #expect(try Tool.objects(cut.output).first?["look_count"] as? Int == 2, "\(cut)")
      #expect(try server.process.wait().ending == .exit(0))
    }

    @Test("watches take no turns while they wait, and end with their clients")
    func manyWatches() throws {
      let directory = try TestDirectory()
      let program = try Self.start("growing.c", in: directory)
      let server = try Server(directory)
      let path = "/v1/processes/\(program.pid)"
      // More than there are turns.
      let watches = try (0..<20).map { _ in
        try ChildProcess(
          ["curl", "-sS", "--unix-socket", server.socket, "http://localhost\(path)/growth?for=10m&every=1m"],
          environment: ChildProcess.baseEnvironment)
      }
      try wait(for: "all of them") { try server.metric("allocsd_connections") ?? 0 > watches.count }
      for _ in 0..<20 { #expect(try server.request("\(path)/top", ["--max-time", "20"]).status == 200) }
      for watch in watches { watch.signal(SIGKILL) }
      try wait(for: "no watch") {
        try server.metric("allocsd_requests_total{\(Self.growthRoute),status=\"499\"}") == watches.count
      }
    }

    // MARK: differences

    @Test("two processes are compared by the server as by the command itself; by how much more lives, a header says")
    func differences() throws {
      let directory = try TestDirectory()
      let first = try Self.start("many_stacks.c", ["4"], in: directory)
      let second = try Self.start("many_stacks.c", ["6"], in: directory)
      let stranger = try Self.start("growing.c", in: directory)
      let server = try Server(directory)
      for options in [[], ["--by", "stack", "--limit", "3"], ["--json"], ["--json", "--wrapper", "innermost"]] {
        let words = ["diff", "\(first.pid)", "\(second.pid)"] + options
        let answers = try [["--direct"], ["--socket", server.socket]].map { way in
          let outcome = try Tool.control(words + way, in: directory)
          #expect(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(words): \(outcome)")
          return outcome.output
        }
        #expect(answers[0] == answers[1])
        #expect(answers[0].contains("innermost") != (options.count == 3), "\(answers[0])")
      }
      let growth = (1 << 6 - 1 << 4) * 24
      let path = "/v1/processes/\(first.pid)/diff"
      let head = try server.request("\(path)?to=\(second.pid)", ["-i"])
      #expect(head.body.contains("allocs-growth: \(growth)\r") || head.body.contains("Allocs-Growth: \(growth)\r"))
      let object = try #require(try Tool.objects(server.request("\(path)?to=\(second.pid)").body).first)
      #expect(object["relation"] as? String == "other_process" && object["allocated_bytes"] == nil, "\(object)")
      // Root is answered by the worker of the first one's owner, who has no such process.
      let missing = Restrictions.isRoot ? 409 : 404
      for (words, status) in [
        ("", 400), ("?to=x", 400), ("?to=0", 400), ("?to=\(second.pid)@1", missing), ("?to=999999999", missing),
        ("?to=\(stranger.pid)", 400), ("?to=\(stranger.pid)&other-program=true", 200),
        ("?to=\(second.pid)&totals=true", 404), ("?to=\(first.pid)&totals=true", 200), ("?to=\(second.pid)&by=x", 400),
        ("?to=\(second.pid)&limit=0", 400), ("?to=\(second.pid)&since=1h", 400),
      ] {
        #expect(try server.request(path + words).status == status, "\(words)")
      }
      for (limit, ending) in [(growth, 0), (growth - 1, 2)] as [(Int, Int32)] {
        let outcome = try Tool.control(
          ["diff", "\(first.pid)", "\(second.pid)", "--fail-over", "\(limit)"], in: directory, socket: server.socket)
        #expect(outcome.ending == .exit(ending), "\(limit): \(outcome)")
      }
      for (words, ending, said) in [
        (["\(first.pid)", "\(stranger.pid)"], 64, "two programs"), (["\(first.pid)", "999999999"], 1, "999999999"),
        (["\(first.pid)", "\(second.pid)", "--totals"], 1, "is not known"),
      ] as [([String], Int32, String)] {
        for way in [["--direct"], ["--socket", server.socket]] {
          let outcome = try Tool.control(["diff"] + words + way, in: directory)
          #expect(outcome.ending == .exit(ending) && outcome.errors.contains(said), "\(words) \(way): \(outcome)")
          #expect(outcome.output.isEmpty)
        }
      }
      // A file is the caller's.
      let file = directory.file("first.snap")
      _ = try Tool.control(["snapshot", "\(first.pid)", "-o", file], in: directory, socket: server.socket)
      for (words, ending) in [
        ([file, "\(second.pid)"], 0), ([file, "\(second.pid)", "--direct"], 0), ([file, file], 0),
        ([file, file, "--direct"], 64), (["\(second.pid)", file, "--socket", server.socket], 64),
      ] as [([String], Int32)] {
        let outcome = try Tool.control(["diff"] + words, in: directory, socket: server.socket)
        #expect(outcome.ending == .exit(ending), "\(words): \(outcome)")
      }
    }

    @Test(
      "root compares no processes of two users by a server, but with the command itself",
      .enabled(if: Restrictions.isRoot))
    func owners() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let tools = try TestDirectory()
      chmod(tools.path, 0o755)
      try FileManager.default.copyItem(
        atPath: Installation.path(of: Installation.agent), toPath: tools.file("agent.so"))
      try makeExecutable(tools.file("stationary"), from: Programs.path("stationary.c"))
      let server = try Server(directory)
      let programs = try ["61001", "61002"].map { user in
        let program = try ChildProcess(
          OtherUsers.command(as: user) + [
            "env", "LD_PRELOAD=\(tools.file("agent.so"))", "ALLOCS_DIR=\(directory.path)", tools.file("stationary"),
          ], environment: ChildProcess.baseEnvironment, conversing: true)
        _ = try program.readLines(until: "ready")
        return program
      }
      let pids = programs.map { "\($0.pid)" }
      let path = "/v1/processes/\(pids[0])/diff?to=\(pids[1])"
      let refused = try server.request(path)
      #expect(refused.status == 409 && refused.body.contains("first process's owner"), "\(refused)")
      #expect(try server.request(path, as: OtherUsers.command(as: "61001")).status == 403)
      let outcome = try Tool.control(["diff"] + pids, in: directory, socket: server.socket)
      #expect(outcome.ending == .exit(0) && outcome.output.contains("two processes of stationary"), "\(outcome)")
      #expect(outcome.errors.contains("the index is read without it"), "\(outcome)")
      let named = try Tool.control(["diff"] + pids + ["--socket", server.socket], in: directory)
      #expect(named.ending == .exit(1) && named.output.isEmpty, "\(named)")
    }

    // MARK: files

    @Test("files of all blocks are the server's, and those of a group and with further wrappers have these alone")
    func groups() throws {
      let directory = try TestDirectory()
      let program = try Self.start("many_stacks.c", ["8"], in: directory)
      let server = try Server(directory)
      let pid = "\(program.pid)"
      let rows = try Tool.objects(
        Tool.control(["top", pid, "--group", "function", "--json"], in: directory).output)
      let group = try #require(
        (rows.first?["groups"] as? [[String: Any]])?.first { $0["name"] as? String == "innermost" })
      let key = try #require(group["key"] as? String)
      for way in [["--direct"], ["--socket", server.socket]] {
        func export(_ source: String, _ format: String, _ options: [String] = []) throws -> String {
          let file = directory.file("out.\(format)")
          let outcome = try Tool.control(
            ["export", source, "--format", format, "-o", file] + options + way, in: directory)
          #expect(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(outcome)")
          return file
        }
        let within = ["--within", "function:\(key)"]
        let lines = try Tool.objects(String(contentsOfFile: try export(pid, "jsonl", within), encoding: .utf8))
        let blocks = lines.filter { $0["block"] != nil }
        #expect(blocks.count == 256 && blocks.allSatisfy { $0["size"] as? Int == 24 }, "\(lines.prefix(5))")
        #expect(lines.filter { $0["context"] != nil && $0["block"] == nil }.count == 256)
        func sites(_ options: [String]) throws -> Set<String> {
          let lines = try Tool.objects(String(contentsOfFile: try export(pid, "jsonl", options), encoding: .utf8))
          return Set(lines.compactMap { ($0["site"] as? [String: Any])?["function"] as? String })
        }
        #expect(try sites(within) == ["innermost"])
        let further = try sites(within + ["--wrapper", "nothing"])
        #expect(further == ["innermost"])
        #expect(try !sites(["--wrapper", "innermost"]).contains("innermost"))
        // With it, the group's blocks are no longer innermost's.
        let none = try Tool.control(
          ["export", pid, "--format", "jsonl", "-o", directory.file("none")] + within + ["--wrapper", "innermost"]
            + way,
          in: directory)
        #expect(none.ending == .exit(1) && none.errors.contains("no live block of process"), "\(none)")
        #expect(!FileManager.default.fileExists(atPath: directory.file("none")))
        let printed = try ChildProcess.run(["heaptrack_print", try export(pid, "heaptrack", within)])
        #expect(printed.output.contains("calls to allocation functions: 256 "), "\(printed.output.suffix(400))")
        #expect(try !Data(contentsOf: URL(fileURLWithPath: export(pid, "perfetto", within))).isEmpty)
      }
      let file = directory.file("all.snap")
      _ = try Tool.control(["snapshot", pid, "-o", file], in: directory, socket: server.socket)
      let refused = try Tool.control(
        ["export", file, "--format", "jsonl", "-o", "-", "--within", "function:innermost"], in: directory)
      #expect(refused.ending == .exit(64) && refused.errors.contains("which is a file"), "\(refused)")
      // Standard output, if it is no terminal.
      let passed = try Tool.control(
        ["export", file, "--format", "jsonl", "--wrapper", "innermost"], in: directory)
      let functions = try Tool.objects(passed.output).compactMap {
        ($0["site"] as? [String: Any])?["function"] as? String
      }
      #expect(!functions.isEmpty && !functions.contains("innermost"), "\(passed.output.prefix(400))")
      // Over HTTP, with their media types.
      let path = "/v1/processes/\(pid)"
      for (name, type) in [
        ("profile?format=jsonl", "application/x-ndjson"), ("profile?format=heaptrack", "application/octet-stream"),
        ("profile?format=perfetto", "application/octet-stream"), ("snapshot", "application/octet-stream"),
      ] {
        let head = try server.request("\(path)/\(name)", ["-I"])
        #expect(head.status == 200 && head.body.lowercased().contains("content-type: \(type)"), "\(head)")
      }
      for wrong in ["profile?format=jsonl&level=block", "profile?format=pdf", "snapshot?since=1h", "profile"] {
        #expect(try server.request("\(path)/\(wrong)").status == 400, "\(wrong)")
      }
      #expect(try server.request("\(path)@1/snapshot").status == 404)
    }

    @Test("a profile that can't tell of all stacks that ever allocated tells what lives, and says so")
    func tooManyFreed() throws {
      let directory = try TestDirectory()
      let program = try Self.start("many_stacks.c", ["19", "freed"], in: directory)
      let server = try Server(directory)
      let (head, profile) = (directory.file("head"), directory.file("profile.pb.gz"))
      let answer = try server.request(
        "/v1/processes/\(program.pid)/profile?format=pprof", ["-D", head, "-o", profile])
      #expect(answer.status == 200, "\(answer)")
      let missing = try String(contentsOfFile: head, encoding: .utf8).split(separator: "\r\n")
        .first { $0.lowercased().hasPrefix("allocs-missing:") }
      #expect(missing?.contains("what was ever allocated is left out") == true, "\(missing ?? "nothing is missing")")
      let size = try FileManager.default.attributesOfItem(atPath: profile)[.size] as? Int ?? 0
      #expect((1..<1_000_000).contains(size), "\(size) bytes")
      // A program of few stacks is told whole.
      let few = try Self.start("many_stacks.c", ["6", "freed"], in: directory)
      let whole = try server.request(
        "/v1/processes/\(few.pid)/profile?format=pprof", ["-D", head, "-o", "/dev/null"])
      #expect(whole.status == 200)
      #expect(try !String(contentsOfFile: head, encoding: .utf8).contains("ever allocated"))
    }

    @Test("what a server refuses for want of memory is written without it; with --socket that is an error")
    func tooMuch() throws {
      let directory = try TestDirectory()
      let program = try Self.start("many_stacks.c", ["17"], in: directory)
      let server = try Server(directory)
      let pid = "\(program.pid)"
      let worker = try {
        _ = try server.request("/v1/processes/\(pid)/top?limit=1"); return try server.worker()
      }()
      var refusals = 0
      for format in ["jsonl", "heaptrack", "perfetto"] {
        let answer = try server.request("/v1/processes/\(pid)/profile?format=\(format)", ["-o", "/dev/null"])
        #expect([200, 413].contains(answer.status), "\(format): \(answer)")
        guard answer.status == 413 else { continue }
        refusals += 1
        let file = directory.file("out.\(format)")
        let words = ["export", pid, "--format", format, "-o", file]
        let named = try Tool.control(words + ["--socket", server.socket], in: directory)
        #expect(named.ending == .exit(1) && named.errors.contains("memory"), "\(named)")
        #expect(!FileManager.default.fileExists(atPath: file))
        let outcome = try Tool.control(words, in: directory, socket: server.socket)
        #expect(outcome.ending == .exit(0) && outcome.errors.contains("the index is read without it"), "\(outcome)")
        #expect(FileManager.default.fileExists(atPath: file))
      }
      #expect(refusals > 0, "none of the files was too large: the test needs more stacks")
      let snapshot = try server.request("/v1/processes/\(pid)/snapshot", ["-o", "/dev/null"])
      #expect([200, 413].contains(snapshot.status), "\(snapshot)")
      #expect(try server.worker() == worker, "the worker was replaced")
    }
  }
}
