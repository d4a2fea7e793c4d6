// SPDX-License-Identifier: Apache-2.0
// Real programs that fork, followed (ALLOCS_FOLLOW=1): the same result as in the plain run, and for each child an index
// that can be right.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("followed programs")
  struct FollowedPrograms {
    private func following(_ directory: TestDirectory, agent: String? = nil) throws -> [String: String] {
      var environment = try Installation.agentEnvironment(directory.path).merging(["ALLOCS_FOLLOW": "1"]) { $1 }
      if let agent { environment["LD_PRELOAD"] = agent }
      return environment
    }

    /// Checks every index in `directory`; returns, by process, how many blocks those of children of fork hold, and
    /// whose they were.
    private func children(in directory: TestDirectory) throws -> [Int32: (parent: Int32, blocks: UInt64)] {
      var found: [Int32: (parent: Int32, blocks: UInt64)] = [:]
      for path in try directory.segments() {
        let segment = try Segment(path: path)
        let faults = Sanity.faults(of: segment)
        #expect(faults == [], "\(segment.processID), \(segment.command)")
        #expect(segment.counter("forks_unfollowed") == 0)
        if let parent = segment.forkedFrom { found[segment.processID] = (parent, segment.totals().count) }
      }
      return found
    }

    @Test("bash: subshells, pipes, substitutions, background jobs and subshells of subshells")
    func bash() throws {
      let script = """
        declare -A table; for i in {1..36}; do table[key$i]=$(printf 'value %d' $i); done
        (table[key1]=changed; (table[key2]=deeper; echo "${table[key1]} ${table[key2]}"); echo "${table[key2]}")
        printf '%s\\n' "${table[@]}" | while read -r line; do echo "<$line>"; done |
          sort | sed s/value/number/ | tail -n 3
        for i in 1 2 3 4 5 6 7 8; do (echo "job $i" > "$1/$i") & done; wait; cat "$1"/?
        echo "${#table[@]} ${table[key1]}"
        """
      let (plainWork, followedWork, directory) = (try TestDirectory(), try TestDirectory(), try TestDirectory())
      let shell = try installedProgram("bash", package: "bash")
      let plain = try ChildProcess.run([shell, "-c", script, "bash", plainWork.path])
      let followed = try ChildProcess.run(
        [shell, "-c", script, "bash", followedWork.path], environment: following(directory))
      #expect(plain.ending == .exit(0) && plain.output.hasSuffix("36 value 1\n"))
      #expect(followed == plain)
      let children = try children(in: directory)
      // 36 substitutions, a subshell in a subshell, eight jobs; those of the pipe that call exec have begun anew. They
      // are fewer than the ended processes whose segments an agent leaves when it sweeps.
      #expect(children.count >= 47)
      #expect(children.values.contains { children[$0.parent] != nil }, "one is a child's child")
      #expect(children.values.allSatisfy { $0.blocks > 100 })
    }

    @Test("make -j, with a make below it, makes the same files")
    func make() throws {
      let rules = """
        all: $(foreach i,1 2 3 4 5 6 7 8 9 10 11 12,part$(i)) inner
        part%:
        \t@for w in a b c; do echo "$$w $*"; done | sort -r > $@; (cat $@; echo end) > $@.all
        inner:
        \t@$(MAKE) -s -f Makefile nested1 nested2 nested3
        nested%:
        \t@echo `echo $* | sed s/1/one/` > $@

        """
      let program = try installedProgram("make", package: "make")
      func run(_ environment: [String: String]) throws -> [String: String] {
        let work = try TestDirectory()
        _ = try work.write(rules, to: "Makefile")
        let outcome = try ChildProcess.run([program, "-s", "-j", "4", "-C", work.path], environment: environment)
        #expect(outcome == Outcome(ending: .exit(0), output: "", errors: ""))
        var files: [String: String] = [:]
        for name in try FileManager.default.contentsOfDirectory(atPath: work.path) {
          files[name] = try String(contentsOfFile: work.file(name), encoding: .utf8)
        }
        return files
      }
      let directory = try TestDirectory()
      let plain = try run([:])
      #expect(plain.count == 28)
      #expect(try run(following(directory)) == plain)
      // The shells fork for their pipes and lists.
      #expect(try children(in: directory).count >= 24)
    }

    @Test("redis-server: the child that saves in the background has all blocks of its parent as of the fork")
    func redis() throws {
      let directory = try TestDirectory()
      let redis = try RedisServer(environment: following(directory))
      _ = try redis.ask("DEBUG", "POPULATE", "20000", "key", "120")
      let digest = try redis.ask("DEBUG", "DIGEST")
      for _ in 0..<3 {
        try redis.saveInBackground {
          for number in 0..<5 { _ = try redis.ask("SET", "more:\(number)", "x") }
        }
      }
      for number in 0..<5 { _ = try redis.ask("DEL", "more:\(number)") }
      #expect(try redis.ask("DEBUG", "DIGEST") == digest)
      try redis.shutDown()
      let children = try children(in: directory)
      #expect(children.count == 3)
      #expect(children.values.allSatisfy { $0.parent == redis.process.pid && $0.blocks > 40000 }, "\(children)")
    }

    @Test("nginx: each worker that it forks before there is work has an index of its own")
    func nginx() throws {
      let (work, directory) = (try TestDirectory(), try TestDirectory())
      // Its workers are another user's.
      chmod(work.path, 0o755)
      let program = try installedProgram("nginx", package: "nginx-light")
      let text = String(repeating: "a page of some length\n", count: 200)
      _ = try work.write(text, to: "page")
      let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map { "\($0)_temp_path \(work.path)/\($0);" }.joined(separator: " ")
      let configuration = try work.write(
        """
        daemon off; worker_processes 3; pid \(work.path)/pid; error_log \(work.path)/errors;
        events { worker_connections 64; }
        http { access_log off; gzip on; gzip_types *; gzip_min_length 1; \(places)
          server { listen unix:\(work.path)/socket; root \(work.path); } }

        """, to: "nginx.conf")
      let process = try ChildProcess(
        [program, "-c", configuration, "-e", work.file("errors"), "-p", work.path],
        environment: ChildProcess.baseEnvironment.merging(following(directory)) { $1 })
      let curl = try installedProgram("curl", package: "curl")
      let request = [curl, "-s", "--compressed", "--unix-socket", work.file("socket"), "http://localhost/page"]
      try wait(for: "nginx answers", of: process) { try ChildProcess.run(request).output == text }
      for _ in 0..<20 { #expect(try ChildProcess.run(request).output == text) }
      process.signal(SIGQUIT)
      #expect(try process.wait().ending == .exit(0))
      let children = try children(in: directory)
      #expect(children.count == 3)
      #expect(children.values.allSatisfy { $0.parent == process.pid && $0.blocks > 20 }, "\(children)")
    }

    @Test("PostgreSQL: the processes of the server and of each connection have indexes of their own")
    func postgres() throws {
      let root = "/usr/lib/postgresql"
      let versions = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
      guard let version = versions.sorted().last else {
        throw HarnessError("PostgreSQL is missing: apt-get install postgresql-15")
      }
      let binaries = "\(root)/\(version)/bin"
      let (work, directory) = (try TestDirectory(), try TestDirectory())
      // It refuses to run as root.
      let prefix = getuid() == 0 ? OtherUsers.command(as: "nobody", group: "nogroup") : []
      for place in [work, directory] { chmod(place.path, 0o777) }
      let agent = work.file(Installation.agent)
      try FileManager.default.copyItem(atPath: Installation.path(of: Installation.agent), toPath: agent)
      chmod(agent, 0o755)
      let data = work.file("data")
      let made = try ChildProcess.run(
        prefix + ["\(binaries)/initdb", "-N", "-A", "trust", "-U", "tester", "--no-locale", "-D", data])
      try #require(made.ending == .exit(0), "\(made.errors)")
      let server = try ChildProcess(
        prefix + ["\(binaries)/postgres", "-D", data, "-k", work.path, "-h", "", "-c", "fsync=off"],
        environment: ChildProcess.baseEnvironment.merging(following(directory, agent: agent)) { $1 })
      func ask(_ query: String) throws -> Outcome {
        try ChildProcess.run(["\(binaries)/psql", "-h", work.path, "-U", "tester", "-At", "-c", query, "postgres"])
      }
      try wait(for: "PostgreSQL answers", of: server) { try ask("select 1").output == "1\n" }
      #expect(
        try ask("create table numbers as select i, md5(i::text) as hash from generate_series(1, 20000) i").ending
          == .exit(0))
      let sum = "select count(*), sum(i), max(hash) from numbers"
      let expected = "20000|200010000|fffb8ef15de06d87e6ba6c830f3b6284\n"
      for _ in 0..<5 { #expect(try ask(sum).output == expected) }
      server.signal(SIGINT)
      #expect(try server.wait().ending == .exit(0))
      let children = try children(in: directory)
      // Checkpointer, writers, launchers; and the seven connections.
      #expect(children.count >= 10)
      #expect(children.values.allSatisfy { $0.blocks > 50 }, "\(children)")
    }
  }
}
