// SPDX-License-Identifier: Apache-2.0
// allocsd as root: each user's questions are answered by a process of that user's, whose failures nobody else notices.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("workers", .enabled(if: Restrictions.isRoot, "needs root"))
  struct Workers {
    /// Users without names, who own nothing else on the machine.
    private static let alice = "61001"
    private static let bob = "61002"

    /// A directory that all users may use, a server, and a program of each of some users.
    private final class Stage {
      let directory: TestDirectory
      let server: Server
      private let tools: TestDirectory
      private(set) var programs: [String: ChildProcess] = [:]

      init(options: [String] = [], users: [String] = [Workers.alice, Workers.bob]) throws {
        directory = try TestDirectory()
        chmod(directory.path, 0o1777)
        tools = try TestDirectory()
        chmod(tools.path, 0o755)
        try FileManager.default.copyItem(
          atPath: Installation.path(of: Installation.agent), toPath: tools.file("agent.so"))
        try makeExecutable(tools.file("stationary"), from: Programs.path("stationary.c"))
        server = try Server(directory, options: options)
        for user in users { try start(user) }
      }

      func start(_ user: String) throws {
        let program = try ChildProcess(
          OtherUsers.command(as: user) + [
            "env", "LD_PRELOAD=\(tools.file("agent.so"))", "ALLOCS_DIR=\(directory.path)", tools.file("stationary"),
          ], environment: ChildProcess.baseEnvironment, conversing: true)
        _ = try program.readLines(until: "ready")
        programs[user] = program
      }

      func path(_ user: String) throws -> String {
        "/v1/processes/\(try #require(programs[user]).pid)/query?address=16"
      }

      /// The status of a question of `user` about the process of `owner`.
      func status(_ user: String, about owner: String? = nil) throws -> Int {
        try server.request(path(owner ?? user), as: OtherUsers.command(as: user)).status
      }

      func worker(of user: String) throws -> Int32 { try server.worker(of: #require(UInt32(user))) }
    }

    @Test("a dozen large answers, one after the other, take no more memory of a worker than its limit")
    func largeAnswers() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      let program = try ChildProcess(
        [Programs.path("many_stacks.c")],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try program.readLines(until: "ready")
      // Each on its own connection, so that any thread of the worker's may answer.
      let path = "/v1/processes/\(program.pid)/profile?format="
      #expect(try server.request("\(path)collapsed").status == 200)
      let worker = try server.worker()
      for turn in 0..<12 {
        let format = ["pprof", "speedscope", "collapsed"][turn % 3]
        let answer = try server.request("\(path)\(format)", ["-o", "/dev/null"])
        #expect(answer.status == 200, "\(turn): \(answer)")
      }
      #expect(try server.worker() == worker, "the worker was replaced")
    }

    @Test("an answer that a worker has no memory for is refused, and the worker stays")
    func answersThatAreTooLarge() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      let program = try ChildProcess(
        [Programs.path("many_stacks.c"), "17"],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try program.readLines(until: "ready")
      let path = "/v1/processes/\(program.pid)"
      #expect(try server.request("\(path)/top?limit=1").status == 200)
      let worker = try server.worker()
      let formats = ["collapsed", "speedscope", "dhat", "pprof", "flamegraph", "jsonl", "heaptrack", "perfetto"]
      for question in formats.map({ "profile?format=\($0)" }) + ["snapshot", "diff?to=\(program.pid)"] {
        let answer = try server.request("\(path)/\(question)", ["-o", "/dev/null"])
        #expect([200, 413].contains(answer.status), "\(question): \(answer)")
      }
      #expect(try server.worker() == worker, "the worker was replaced")
    }

    @Test("a worker has its user's rights and no others")
    func rights() throws {
      let stage = try Stage()
      for user in [Self.alice, Self.bob] { #expect(try stage.status(user) == 200) }
      let status = try String(contentsOfFile: "/proc/\(stage.worker(of: Self.alice))/status", encoding: .utf8)
      func words(_ name: String) throws -> [Substring] {
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix(name + ":") })
        return line.split(whereSeparator: \.isWhitespace).dropFirst().map { $0 }
      }
      #expect(try words("Uid") == Array(repeating: Self.alice[...], count: 4))
      for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        #expect(try words(set) == ["0000000000000000"], "\(set)")
      }
      #expect(try words("NoNewPrivs") == ["1"] && words("Seccomp") == ["2"])
      // Neither is told of the other's process, and root is told of both.
      #expect(try stage.status(Self.alice, about: Self.bob) == 403)
      let own = try stage.server.request("/v1/processes", as: OtherUsers.command(as: Self.alice)).body
      #expect(own.contains("\"uid\":\(Self.alice)") && !own.contains("\"uid\":\(Self.bob)"), "\(own)")
      let all = try stage.server.request("/v1/processes").body
      #expect(all.contains("\"uid\":\(Self.alice)") && all.contains("\"uid\":\(Self.bob)"), "\(all)")
      let pid = try #require(stage.programs[Self.alice]).pid
      let start = try #require(all.firstMatch(of: try Regex("\"pid\":\(pid),.*?\"start_time\":(\\d+)"))?[1].substring)
      for (name, status) in [("\(pid)@\(start)", 200), ("\(pid)@1", 404), ("\(pid)@x", 400)] {
        #expect(try stage.server.request("/v1/processes/\(name)").status == status, "\(name)")
      }
    }

    @Test("a worker that is killed at any moment is followed by another, and nobody else's answer fails")
    func kills() throws {
      let stage = try Stage()
      var random = RandomNumbers()
      let kills = ProcessInfo.processInfo.environment["ALLOCS_SOAK_KILLS"].flatMap { Int($0) } ?? 20
      let script = """
        while :; do
          code=$(curl -s -o /dev/null -w '%{http_code}' --unix-socket '\(stage.server.socket)' 'http://x\(
            try stage.path(Self.alice))')
          [ "$code" = 200 ] || echo "failed: $code"
          echo answered
        done
        """
      let alice = try ChildProcess(
        OtherUsers.command(as: Self.alice) + ["bash", "-c", script],
        environment: ChildProcess.baseEnvironment, conversing: true)
      var answers = 0
      for _ in 0..<kills {
        // The moment of the kill is what varies.
        letRun(microseconds: UInt32.random(in: 0..<20_000, using: &random))
        if try stage.status(Self.bob) == 200 { kill(try stage.worker(of: Self.bob), SIGKILL) }
        while let line = try alice.readLine() {
          #expect(!line.hasPrefix("failed"), "\(line)")
          answers += 1
          if line == "answered" { break }
        }
      }
      alice.signal(SIGKILL)
      let rest = try alice.wait().output
      #expect(!rest.contains("failed"), "\(rest)")
      #expect(answers >= kills)
      #expect(try #require(try stage.server.metric("allocsd_workers_failed_total")) >= 1)
      // After the last back-off, bob is answered again.
      try wait(for: "a new worker of bob's answers") { try stage.status(Self.bob) == 200 }
    }

    @Test("a worker that hangs holds up its own user, until it is killed; root's list says whose is missing")
    func hung() throws {
      let stage = try Stage(options: ["--worker-patience", "5s"])
      for user in [Self.alice, Self.bob] { #expect(try stage.status(user) == 200) }
      kill(try stage.worker(of: Self.bob), SIGSTOP)
      let list = try stage.server.request("/v1/processes")
      #expect(list.status == 200 && list.body.contains("\"uid\":\(Self.alice)"), "\(list)")
      #expect(list.body.contains("the worker of user \(Self.bob)"), "\(list)")
      #expect(try stage.status(Self.alice) == 200)
      try wait(for: "a new worker of bob's answers") { try stage.status(Self.bob) == 200 }
      #expect(try #require(try stage.server.metric("allocsd_workers_killed_total")) >= 1)
      #expect(stage.server.process.errors.contains("worker killed"))
    }

    @Test("a worker that nobody is connected to ends, and another starts when somebody is")
    func idle() throws {
      let stage = try Stage(options: ["--worker-idle", "1s"])
      for _ in 0..<2 {
        var status = 0
        let worker = try stage.server.worker(of: #require(UInt32(Self.alice))) {
          status = try stage.status(Self.alice)
        }
        #expect(status == 200)
        try wait(for: "the worker ends") { !stage.server.processes.contains(worker) }
      }
      #expect(try stage.server.metric("allocsd_workers_failed_total") == 0)
    }

    @Test("what another worker must answer is misdirected on a kept connection, and allocsctl asks anew")
    func misdirected() throws {
      let stage = try Stage()
      let (alice, bob) = (try stage.path(Self.alice), try stage.path(Self.bob))
      #expect(try stage.server.statuses([alice, alice, bob]) == [200, 200, 421])
      #expect(try stage.server.statuses([alice, "/v1/processes"]) == [200, 421])
      #expect(try stage.server.statuses(["/v1/processes", "/metrics"]) == [200, 200])
      #expect(try stage.server.statuses(["/v1/processes", bob]) == [200, 421])
      for user in [Self.alice, Self.bob] {
        let pid = try #require(stage.programs[user]).pid
        let outcome = try Tool.control(["info", "\(pid)"], in: stage.directory, socket: stage.server.socket)
        #expect(outcome.ending == .exit(0), "\(outcome)")
      }
    }

    @Test("each of thirty users is answered, and root's list has all of them")
    func manyUsers() throws {
      let users = (61_100..<61_130).map { "\($0)" }
      let stage = try Stage(users: users)
      for user in users { #expect(try stage.status(user) == 200, "\(user)") }
      let list = try stage.server.request("/v1/processes").body
      for user in users { #expect(list.contains("\"uid\":\(user)"), "\(user)") }
      #expect(try #require(try stage.server.metric("allocsd_workers")) >= 30)
    }

    @Test("events of all users' processes are exported, to files that root makes")
    func exports() throws {
      let files = try TestDirectory()
      let stage = try Stage(options: ["--export", files.file("{pid}.events")])
      for user in [Self.alice, Self.bob] {
        let file = files.file("\(try #require(stage.programs[user]).pid).events")
        try wait(for: "the export of \(user)'s process", of: stage.server.process) {
          FileManager.default.fileExists(atPath: file)
        }
        #expect(try FileManager.default.attributesOfItem(atPath: file)[.ownerAccountID] as? Int == 0)
      }
    }

    @Test("a user's connections have a limit, which nobody else feels")
    func shares() throws {
      let stage = try Stage(options: ["--max-connections-per-user", "4"])
      let script = """
        import socket, sys
        held = []
        for _ in range(12):
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)
        print("ready", flush=True); sys.stdin.read()
        """
      let greedy = try ChildProcess(
        OtherUsers.command(as: Self.bob) + ["/usr/bin/python3", "-c", script, stage.server.socket],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try greedy.readLines(until: "ready")
      try wait(for: "bob is refused") { try stage.status(Self.bob) == 503 }
      #expect(try stage.status(Self.alice) == 200)
      #expect(try stage.server.request(stage.path(Self.bob)).status == 200)
      greedy.signal(SIGKILL)
      _ = try greedy.wait()
      try wait(for: "bob is answered again") { try stage.status(Self.bob) == 200 }
    }

    @Test("root's server takes the place of a socket that another user has put at its name, and of that user's lock")
    func foreignSocket() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let path = directory.file("allocsd.sock")
      let script = """
        import fcntl, os, socket, sys
        s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)
        lock = os.open(sys.argv[1] + ".lock", os.O_RDWR | os.O_CREAT, 0o666); fcntl.flock(lock, fcntl.LOCK_EX)
        folder = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY); fcntl.flock(folder, fcntl.LOCK_EX)
        print("ready", flush=True); sys.stdin.read()
        """
      let squatter = try ChildProcess(
        OtherUsers.command(as: Self.bob) + ["/usr/bin/python3", "-c", script, path],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try squatter.readLines(until: "ready")
      let server = try Server(directory)
      #expect(try FileManager.default.attributesOfItem(atPath: path)[.ownerAccountID] as? Int == 0)
      #expect(try server.request("/v1/processes", as: OtherUsers.command(as: Self.bob)).status == 200)
      squatter.signal(SIGKILL)
    }

    @Test("SIGTERM ends the server and all workers in time, while clients read nothing of long answers")
    func stops() throws {
      let stage = try Stage()
      let pid = try #require(stage.programs[Self.bob]).pid
      let script = """
        import socket, sys
        held = []
        body = b"16\\n" * 200000
        for _ in range(8):
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.setblocking(False); held.append(s)
            head = "POST /v1/processes/\(pid)/query HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n"
            try: s.send((head % len(body)).encode() + body)
            except BlockingIOError: pass
        print("ready", flush=True); sys.stdin.read()
        """
      let deaf = try ChildProcess(
        OtherUsers.command(as: Self.bob) + ["/usr/bin/python3", "-c", script, stage.server.socket],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try deaf.readLines(until: "ready")
      _ = try stage.worker(of: Self.bob)
      let workers = stage.server.processes.dropFirst()
      stage.server.process.signal(SIGTERM)
      let outcome = try stage.server.process.wait(patience: 20)
      #expect(outcome.ending == .exit(0), "\(outcome)")
      for worker in workers { #expect(kill(worker, 0) != 0) }
      deaf.signal(SIGKILL)
    }
  }
}
