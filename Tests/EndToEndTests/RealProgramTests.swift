// SPDX-License-Identifier: Apache-2.0
// Real programs, each run to its end: the same result as in the plain run, and an index that can be right.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("real programs")
  struct RealPrograms {
    /// Runs a program plain and under the agent, and compares what it wrote and how it ended.
    /// Returns the live blocks that each program of the run left in its index.
    @discardableResult
    private func compare(
      _ arguments: [String], input: String? = nil, environment: [String: String] = [:], below: String? = nil,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> [String: [UInt64]] {
      let directory = try TestDirectory()
      let plain = try ChildProcess.run(arguments, environment: environment, input: input)
      let indexed = try ChildProcess.run(
        arguments, environment: environment.merging(Installation.agentEnvironment(directory.path, below: below)) { $1 },
        input: input)
      try #require(plain.ending == .exit(0), "plain: \(plain.errors)", sourceLocation: sourceLocation)
      #expect(indexed == plain, sourceLocation: sourceLocation)
      #expect(plain.output.count > 10, sourceLocation: sourceLocation)
      let live = try Sanity.check(directory, sourceLocation: sourceLocation)
      let name = (arguments[0] as NSString).lastPathComponent
      #expect((live[name]?.max() ?? 0) > 0, "\(live)", sourceLocation: sourceLocation)
      return live
    }

    private var script: String {
      get throws { try String(contentsOfFile: Programs.source("tables.sql"), encoding: .utf8) }
    }

    @Test(
      "threads that begin by asking for their stack's bounds, as java's and ruby's do, start",
      arguments: Allocator.allCases)
    func stackBounds(allocator: Allocator) throws {
      try allocator.require()
      try compare([Programs.path("stack_bounds.c")], below: allocator.library)
    }

    @Test("sqlite3 works on a database in memory", arguments: Allocator.allCases)
    func sqlite(allocator: Allocator) throws {
      try allocator.require()
      try compare(
        [installedProgram("sqlite3", package: "sqlite3"), "-batch", ":memory:"], input: script, below: allocator.library
      )
    }

    @Test(
      "python3 with every object from malloc works on documents, with threads and a child",
      arguments: Allocator.allCases)
    func python(allocator: Allocator) throws {
      try allocator.require()
      let live = try compare(
        [installedProgram("python3", package: "python3"), Programs.source("documents.py")],
        environment: ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"],
        below: allocator.library)
      // sys.executable is python's own full name for itself, and its child has an index too.
      #expect(live.values.reduce(0) { $0 + $1.count } >= 2)
    }

    @Test("gcc compiles to the same object file")
    func compiler() throws {
      let work = try TestDirectory()
      let source = Programs.source("battery.c")
      let gcc = try installedProgram("gcc", package: "gcc")
      func command(_ target: String) -> [String] {
        [gcc, "-D_GNU_SOURCE", "-O2", "-c", source, "-o", work.file(target)]
      }
      let directory = try TestDirectory()
      let plain = try ChildProcess.run(command("plain.o"))
      let indexed = try ChildProcess.run(
        command("indexed.o"), environment: Installation.agentEnvironment(directory.path))
      #expect(plain.ending == .exit(0) && indexed == plain)
      #expect(FileManager.default.contentsEqual(atPath: work.file("plain.o"), andPath: work.file("indexed.o")))
      let live = try Sanity.check(directory)
      // The driver, the compiler proper and the assembler have one each.
      #expect(live["gcc"]?.count == 1 && live["cc1"]?.count == 1 && live["as"]?.count == 1, "\(live)")
    }

    @Test("git makes, reads and checks a repository")
    func git() throws {
      let git = try installedProgram("git", package: "git")
      func history(_ environment: [String: String]) throws -> (log: Outcome, check: Outcome) {
        let repository = try TestDirectory()
        var variables = environment
        for role in ["AUTHOR", "COMMITTER"] {
          variables["GIT_\(role)_NAME"] = "A"
          variables["GIT_\(role)_EMAIL"] = "a@example.org"
          variables["GIT_\(role)_DATE"] = "2024-01-02T03:04:05Z"
        }
        variables["GIT_CONFIG_NOSYSTEM"] = "1"
        variables["HOME"] = repository.path
        func run(_ arguments: String...) throws -> Outcome {
          let outcome = try ChildProcess.run([git, "-C", repository.path] + arguments, environment: variables)
          #expect(outcome.ending == .exit(0), "git \(arguments): \(outcome.errors)")
          return outcome
        }
        _ = try run("init", "-q", "-b", "main")
        for number in 1...4 {
          for file in 0..<20 {
            _ = try repository.write(
              (0..<200 * number).map { "line \($0 * file)" }.joined(separator: "\n"), to: "file\(file).txt")
          }
          _ = try run("add", "-A")
          _ = try run("commit", "-q", "-m", "change \(number)")
        }
        _ = try run("gc", "-q")
        return (try run("log", "--stat", "-p", "--format=%H %an %s"), try run("fsck", "--full", "--strict"))
      }
      let directory = try TestDirectory()
      let plain = try history([:])
      let indexed = try history(Installation.agentEnvironment(directory.path))
      #expect(indexed.log == plain.log && indexed.check == plain.check)
      #expect(plain.log.output.count > 10000)
      #expect(try Sanity.check(directory)["git"]?.count ?? 0 >= 11)
    }

    @Test("perl works on hashes, with a child")
    func perl() throws { try compare([installedProgram("perl", package: "perl"), Programs.source("hashes.pl")]) }

    @Test("a C++ program with streams, maps, exceptions and threads", arguments: Allocator.allCases)
    func cxx(allocator: Allocator) throws {
      try allocator.require()
      try compare([Programs.path("words.cpp")], below: allocator.library)
    }

    @Test("a Swift program with Foundation and concurrency", arguments: [Allocator.glibc, .jemalloc, .mimalloc])
    func swift(allocator: Allocator) throws {
      try allocator.require()
      try compare([Programs.path("concurrent.swift")], below: allocator.library)
    }

    @Test("curl loads many files at once from a server in python")
    func curl() throws {
      let curl = try installedProgram("curl", package: "curl")
      let python = try installedProgram("python3", package: "python3")
      let files = try TestDirectory()
      for number in 0..<30 {
        _ = try files.write(String(repeating: "file \(number)\n", count: 2000 * (number + 1)), to: "\(number).txt")
      }
      let directory = try TestDirectory()
      let agent = try Installation.agentEnvironment(directory.path)
      let code = """
        import functools, http.server, sys
        class Quiet(http.server.SimpleHTTPRequestHandler):
          def log_message(self, *arguments): pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=sys.argv[1]))
        print(server.server_address[1], flush=True)
        server.serve_forever()
        """
      let server = try ChildProcess(
        [python, "-c", code, files.path],
        environment: ChildProcess.baseEnvironment.merging(agent) { $1 }.merging(["PYTHONMALLOC": "malloc"]) { $1 },
        conversing: true)
      let port = try #require(try server.readLine())
      let address = "http://127.0.0.1:\(port)/[0-29].txt"
      let arguments = [curl, "-s", "-S", "--no-progress-meter", "--parallel", "--parallel-max", "8"]
      for (target, environment) in [("plain", [:]), ("indexed", agent)] {
        let outcome = try ChildProcess.run(
          arguments + ["-o", "\(files.directory(target))/#1", address], environment: environment)
        #expect(outcome == Outcome(ending: .exit(0), output: "", errors: ""))
      }
      for number in 0..<30 {
        for target in ["plain", "indexed"] {
          #expect(
            FileManager.default.contentsEqual(
              atPath: files.file("\(number).txt"), andPath: files.file("\(target)/\(number)")))
        }
      }
      // Once the server's threads are gone, it waits for connections, and looks up from that twice a second: between,
      // its index stands still.
      let threads = "/proc/\(server.pid)/task"
      try wait(for: "the threads of the server end", of: server) {
        try FileManager.default.contentsOfDirectory(atPath: threads).count == 1
      }
      let segment = try Segment(path: directory.segment(of: server.pid))
      var faults: [String] = []
      try wait(for: "its index is right while it stands still: \(faults)", of: server, pause: 130_000) {
        faults = Sanity.faults(of: segment, balanced: true)
        return faults == []
      }
      #expect(segment.totals().count > 10000)
      server.signal(SIGKILL)
      _ = try server.wait()
      #expect(try Sanity.check(directory)["curl"]?.count == 1)
    }

    @Test("redis-server under redis-benchmark, with background saves", arguments: [false, true])
    func redis(preloadsGlibc: Bool) throws {
      func run(_ agent: [String: String]) throws -> (digest: String, size: String) {
        let redis = try RedisServer(environment: agent)
        try redis.load(["-n", "20000", "-d", "100", "-P", "8", "-t", "set,get,lpush,lpop,sadd,hset,zadd"])
        // A known content, saved by a child of fork while more is written.
        _ = try redis.ask("FLUSHALL")
        _ = try redis.ask("DEBUG", "POPULATE", "20000", "key", "120")
        try redis.saveInBackground {
          for number in 0..<20 {
            _ = try redis.ask("SET", "more:\(number)", String(repeating: "x", count: number * 50))
          }
        }
        let digest = try redis.ask("DEBUG", "DIGEST")
        let size = try redis.ask("DBSIZE")
        if let directory = agent["ALLOCS_DIR"] {
          let names = try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasSuffix(".seg") }
          #expect(names.count == 1, "the child that saves has none: \(names)")
          let segment = try Segment(path: "\(directory)/\(names[0])")
          #expect(segment.totals().count > 40000)
        }
        try redis.shutDown()
        return (digest, size)
      }
      let directory = try TestDirectory()
      // Debian's redis is linked to jemalloc; with glibc's own malloc in front of it only libc's is used.
      let below = preloadsGlibc ? "libc.so.6" : nil
      let plain = try run(below.map { ["LD_PRELOAD": $0] } ?? [:])
      let indexed = try run(Installation.agentEnvironment(directory.path, below: below))
      #expect(indexed.digest == plain.digest && plain.digest.count == 40)
      #expect(indexed.size == plain.size)
      let live = try Sanity.check(directory)
      #expect((live["redis-server"]?.first ?? 0) > 40000)
    }

    @Test("redis-server with jemalloc and small keys takes the memory that it takes, and that of its index, no more")
    func redisMemory() throws {
      /// Bytes that the keys take: by jemalloc's word, and resident without the index.
      func run(_ agent: [String: String]) throws -> (used: Int, resident: Int) {
        let redis = try RedisServer(environment: agent)
        func measure() throws -> (used: Int, resident: Int) {
          let said = try redis.ask("INFO", "memory").split(whereSeparator: \.isNewline)
          let used = said.first { $0.hasPrefix("used_memory:") }?.split(separator: ":").last.flatMap { Int($0) }
          var (resident, isSegment) = (0, false)
          let maps = try String(contentsOfFile: "/proc/\(redis.process.pid)/smaps", encoding: .utf8)
          for line in maps.split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count >= 5, words[0].contains("-") { isSegment = line.hasSuffix(".seg") }
            if words.first == "Rss:", !isSegment { resident += Int(words[1]) ?? 0 }
          }
          return (try #require(used), resident * 1024)
        }
        let idle = try measure()
        _ = try redis.ask("DEBUG", "POPULATE", "200000", "k", "4")
        let full = try measure()
        try redis.shutDown()
        return (full.used - idle.used, full.resident - idle.resident)
      }
      let directory = try TestDirectory()
      // jemalloc gives pages back after some time: how many at the moment of a measurement would be the clock's affair.
      let keeping = ["MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"]
      let plain = try run(keeping)
      let indexed = try run(Installation.agentEnvironment(directory.path).merging(keeping) { $1 })
      #expect(plain.used > 10_000_000)
      // The memory that redis itself allocates meanwhile for its clients is never quite the same.
      #expect(abs(indexed.used - plain.used) < 200_000, "\(indexed.used) bytes, not \(plain.used)")
      #expect(indexed.resident < plain.resident + 1_500_000, "\(indexed.resident) bytes, not \(plain.resident)")
      #expect((try Sanity.check(directory)["redis-server"]?.first ?? 0) > 400_000)
    }
  }
}
