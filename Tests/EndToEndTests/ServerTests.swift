// SPDX-License-Identifier: Apache-2.0
// allocsd: the same answers as without it, for many processes at once, to those who may ask.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the server")
  struct Servers {
    @Test("GET /metrics tells every metric that docs/http.md lists from the start, with its kind, labels and help")
    func metrics() throws {
      let server = try Server(TestDirectory())
      _ = try server.request("/v1/processes/0")
      let document = try String(contentsOfFile: "\(Installation.packageDirectory)/docs/http.md", encoding: .utf8)
      var listed: [String] = []
      var labels: [String: Set<String>] = [:]
      for row in document.matches(of: /(?m)^\| `(allocsd_\w+)` \| (\w+) \| ([^|]*) ?\| (.+) \|$/) {
        let name = String(row.1)
        listed += ["# HELP \(name) \(row.4)", "# TYPE \(name) \(row.2)"]
        labels[name] = Set(row.3.matches(of: /`(\w+)`/).map { String($0.1) })
      }
      #expect(labels.count > 20)
      let lines = try server.request("/metrics").body.split(separator: "\n").map(String.init)
      #expect(lines.filter { $0.hasPrefix("#") } == listed)
      for line in lines where !line.hasPrefix("#") {
        let series = try #require(
          try /(\w+?)(_bucket|_sum|_count)?(\{.*\})? [0-9.e+-]+/.wholeMatch(in: line), "\(line)")
        let named = (series.3 ?? "").matches(of: /(\w+)="/).map { String($0.1) }.filter { $0 != "le" }
        #expect(labels[String(series.1)] == Set(named), "\(line)")
      }
      // All that have no labels are there before there is anything to count.
      for (name, labels) in labels where labels.isEmpty {
        #expect(lines.contains { $0.hasPrefix("\(name) ") }, "\(name)")
      }
    }

    @Test("queries, ps and top answer the same with and without a server, in text and JSON")
    func same() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      var addresses = program.places.values.flatMap { [$0.address, $0.address + $0.size / 2, $0.address + $0.size] }
      addresses += [0, .max, 1 << 46]
      let words = addresses.sorted().map { "0x" + String($0, radix: 16) }
      let input = words.joined(separator: "\n") + "\n"
      for (arguments, input) in [
        (["query", program.pid, "--json"] + words, nil), (["query", program.pid, "-", "--json"], input),
        // allocsctl asks about more than 64 addresses in another way than about fewer.
        (["query", program.pid, "-", "--json"], String(repeating: input, count: 65)),
        (["query", program.pid, "-", "--json", "--no-stacks"], input), (["top", program.pid, "--json"], nil),
        (["top", program.pid], nil), (["query", program.pid, "xyz"], nil), (["query", "999999999", "0"], nil),
      ] as [([String], String?)] {
        let direct = try Tool.control(arguments + ["--direct"], in: program.directory, input: input)
        let served = try Tool.control(arguments, in: program.directory, socket: server.socket, input: input)
        #expect(served.ending == direct.ending)
        #expect(Tool.withoutAges(served.output) == Tool.withoutAges(direct.output), "\(arguments.prefix(4))")
        #expect(served.errors == direct.errors)
      }
      // In text an age changes its digits and units from one second to the next: they are left out.
      func text(_ outcome: Outcome) -> String {
        outcome.output.replacingOccurrences(of: #"[0-9.,]+ (ms|s|min|h) ago"#, with: "ago", options: .regularExpression)
      }
      for word in words {
        let direct = try Tool.control(["query", program.pid, word, "--direct"], in: program.directory)
        let served = try Tool.control(["query", program.pid, word], in: program.directory, socket: server.socket)
        #expect(text(served) == text(direct))
      }
    }

    @Test("HTTP: lists, single queries, batches and errors have the right form and status")
    func http() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      let block = try program.place("block")
      #expect(try server.request("/v1/processes").body.contains("\"pid\":\(program.pid)"))
      #expect(try server.request("/v1/processes/\(program.pid)").status == 200)
      let single = try server.request(
        "/v1/processes/\(program.pid)/query?address=0x\(String(block.address, radix: 16))&address=0")
      #expect(single.status == 200 && single.body.contains("\"size\":1000"), "\(single)")
      let bare = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address)&stacks=false")
      #expect(bare.status == 200 && bare.body.contains("\"size\":1000") && !bare.body.contains("\"stack\":"), "\(bare)")
      let files = try TestDirectory()
      let count = 50_000
      let list = try files.write((0..<count).map { "\(block.address + UInt64($0 % 1000))\n" }.joined(), to: "list")
      let batch = try server.request(
        "/v1/processes/\(program.pid)/query?stacks=false",
        ["--data-binary", "@\(list)", "-H", "Content-Type: text/plain"])
      #expect(batch.status == 200)
      let lines = batch.body.split(separator: "\n")
      #expect(lines.count == count)
      let base = "\"base\":\"0x\(String(block.address, radix: 16))\""
      #expect(lines.enumerated().allSatisfy { $1.contains(base) && $1.contains("\"offset\":\($0 % 1000)") })
      #expect(try server.request("/v1/processes/\(program.pid)/top?limit=1").status == 200)
      for (path, status) in [
        ("/v1/processes/999999999", 404), ("/v1/processes/999999999/query?address=1", 404),
        ("/v1/processes/\(getpid())/query?address=1", 404), ("/v1/processes/\(program.pid)/query?address=xyz", 400),
        ("/v1/processes/\(program.pid)/query", 400), ("/v1/processes/\(program.pid)/top?limit=x", 400),
        ("/v1/processes/\(program.pid)/top?limit=100001", 400),
        ("/v1/processes/\(program.pid)/blocks?limit=100001", 400),
        ("/v1/processes/\(program.pid)/top?" + (0...100).map { "wrapper=w\($0)&" }.joined(), 400),
        ("/v1/processes/xyz", 400), ("/no/such/path", 404),
      ] {
        let answer = try server.request(path)
        #expect(answer.status == status, "\(path): \(answer)")
        #expect(try Tool.objects(answer.body).first?["error"] is String, "\(path): \(answer)")
      }
    }

    @Test("another user is refused, and the process's own user is not", .enabled(if: Restrictions.isRoot, "needs root"))
    func permissions() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let program = try Stationary(in: directory)
      let server = try Server(directory)
      chmod(server.socket, 0o666)
      let nobody = OtherUsers.nobody
      for path in [
        "/v1/processes/\(program.pid)", "/v1/processes/\(program.pid)/query?address=1",
        "/v1/processes/\(program.pid)/top",
      ] {
        let answer = try server.request(path, as: nobody)
        #expect(answer.status == 403, "\(path): \(answer)")
        #expect(answer.body.contains("error"))
        #expect(try server.request(path).status == 200)
      }
      // A process of that user's own.
      let tools = try TestDirectory()
      chmod(tools.path, 0o755)
      try FileManager.default.copyItem(
        atPath: Installation.path(of: Installation.agent), toPath: tools.file("agent.so"))
      try makeExecutable(tools.file("stationary"), from: Programs.path("stationary.c"))
      let own = try ChildProcess(
        nobody + [
          "env", "LD_PRELOAD=\(tools.file("agent.so"))", "ALLOCS_DIR=\(directory.path)", tools.file("stationary"),
        ],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try own.readLines(until: "ready")
      let path = "/v1/processes/\(own.pid)/query?address=1"
      try wait(for: "its own process answers its user") { try server.request(path, as: nobody).status == 200 }
      #expect(try server.request(path).status == 200)
    }

    @Test("where address space is short, segments that are not in use make room; where it is too short, 503 says so")
    func shortage() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      // Any question of a process starts the worker that will answer.
      _ = try server.request("/v1/processes/999999")
      let worker = try server.worker()
      let status = try String(contentsOfFile: "/proc/\(worker)/status", encoding: .utf8)
      let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmSize:") })
      let taken = try #require(UInt64(line.dropFirst(7).dropLast(2).trimmingCharacters(in: .whitespaces))) << 10
      let programs = try (0..<6).map { _ in try Stationary(in: directory) }
      func limitAddressSpace(gibibytes: UInt64) throws {
        let bytes = taken + gibibytes << 30
        let limited = try ChildProcess.run(["prlimit", "--pid", "\(worker)", "--as=\(bytes)"])
        try #require(limited.ending == .exit(0), "\(limited)")
      }
      // Of each segment some gibibytes are mapped: its tables, and a window of its arenas.
      try limitAddressSpace(gibibytes: 4)
      for program in programs + programs {
        let block = try program.place("block")
        let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + 5)")
        #expect(answer.status == 200 && answer.body.contains("\"offset\":5"), "\(answer)")
      }
      try limitAddressSpace(gibibytes: 0)
      let another = try Stationary(in: directory)
      let refused = try server.request("/v1/processes/\(another.pid)/query?address=1")
      #expect(refused.status == 503 && refused.body.contains("raise its limit"), "\(refused)")
    }

    @Test("the server notices by itself that processes start and end, many at once")
    func many() throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      #expect(try !server.request("/v1/processes").body.contains("\"pid\""))
      let programs = try (0..<24).map { _ in try Stationary(in: directory) }
      try wait(for: "all processes are listed") {
        let body = try server.request("/v1/processes").body
        return programs.allSatisfy { body.contains("\"pid\":\($0.pid),") }
      }
      for program in programs {
        let block = try program.place("block")
        let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + 7)")
        #expect(answer.status == 200 && answer.body.contains("\"offset\":7"), "\(answer)")
      }
      _ = try programs[0].process.wait()
      try wait(for: "the end of a process shows") {
        let objects = try Tool.objects(try server.request("/v1/processes/\(programs[0].pid)").body)
        let state = objects.first?["state"] as? String
        return state != nil && state != "live"
      }
      let block = try programs[0].place("block")
      #expect(try server.request("/v1/processes/\(programs[0].pid)/query?address=\(block.address)").status == 200)
    }

    @Test("clients that send slowly, cut requests, or never read do not hold others up")
    func slowClients() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      let block = try program.place("block")
      func connection() throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: server.socket.utf8) }
        let connected = withUnsafePointer(to: &address) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
          }
        }
        guard connected == 0 else { throw HarnessError("cannot connect to allocsd") }
        return descriptor
      }
      let requests = [
        "GET /v1/proc",
        "POST /v1/processes/\(program.pid)/query HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n0x1\n", "",
        "nonsense\r\n\r\n", "GET /v1/processes/\(program.pid)/top HTTP/1.1\r\nHost: x\r\n\r\n",
      ]
      var open: [Int32] = []
      defer { for descriptor in open { close(descriptor) } }
      for number in 0..<60 {
        let descriptor = try connection()
        open.append(descriptor)
        let bytes = Array(requests[number % requests.count].utf8)
        _ = write(descriptor, bytes, bytes.count)
      }
      // A client that asks for much and reads nothing of it.
      let greedy = try connection()
      open.append(greedy)
      let body = String(repeating: "\(block.address)\n", count: 100_000)
      let bytes = Array(
        ("POST /v1/processes/\(program.pid)/query HTTP/1.1\r\nHost: x\r\n"
          + "Content-Length: \(body.utf8.count)\r\n\r\n\(body)").utf8)
      _ = fcntl(greedy, F_SETFL, O_NONBLOCK)
      _ = write(greedy, bytes, bytes.count)
      for offset in 0..<50 {
        let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + UInt64(offset))")
        #expect(answer.status == 200 && answer.body.contains("\"offset\":\(offset)"))
      }
    }

    @Test("many requests at once are answered right")
    func concurrent() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      let block = try program.place("block")
      let script = """
        for i in $(seq 0 39); do
          curl -s --unix-socket '\(server.socket)' \\
            "http://localhost/v1/processes/\(program.pid)/query?address=$((\(block.address) + i))" &
        done
        wait
        """
      let outcome = try ChildProcess.run(["bash", "-c", script])
      for offset in 0..<40 { #expect(outcome.output.contains("\"offset\":\(offset),")) }
    }

    @Test(
      "SIGTERM stops the server cleanly: its socket is gone, and a new one can start", arguments: [SIGTERM, SIGINT])
    func stops(signal: Int32) throws {
      let directory = try TestDirectory()
      let server = try Server(directory)
      server.process.signal(signal)
      let outcome = try server.process.wait(patience: 30)
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      #expect(!FileManager.default.fileExists(atPath: server.socket))
      let next = try Server(directory)
      next.process.signal(SIGKILL)
      _ = try next.process.wait()
      // A server that was killed leaves its socket behind, which must not keep another from starting.
      let last = try Server(directory)
      #expect(try last.request("/v1/processes").status == 200)
    }
  }
}
