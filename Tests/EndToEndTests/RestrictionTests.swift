// SPDX-License-Identifier: Apache-2.0
// Programs that can't have an index, or that restrict themselves after they have one: they run as if the agent were not
// there.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("restrictions")
  struct Restrictions {
    static let isRoot = geteuid() == 0

    // MARK: no index can be made

    /// Runs a program that can't be indexed, silently and verbosely, and compares it with its plain run. `prefix` is a
    /// shell command that restricts what comes after it.
    private func expectUnindexed(
      _ program: [String], directory: String, restriction: String = ":", below: String? = nil,
      says: String = "allocs", sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      func run(_ environment: [String: String]) throws -> Outcome {
        // The agent is preloaded into the program and not into the shell before it.
        let variables = environment.map { "\($0)='\($1)'" }.joined(separator: " ")
        return try ChildProcess.run(["sh", "-c", "\(restriction); exec env \(variables) \"$@\"", "sh"] + program)
      }
      let plain = try run([:])
      try #require(plain.ending == .exit(0), "\(plain.errors)", sourceLocation: sourceLocation)
      var environment = try Installation.agentEnvironment(directory, below: below)
      #expect(try run(environment) == plain, "silent by default", sourceLocation: sourceLocation)
      environment["ALLOCS_VERBOSE"] = "1"
      let verbose = try run(environment)
      #expect(verbose.ending == plain.ending && verbose.output == plain.output, sourceLocation: sourceLocation)
      let lines = verbose.errors.split(separator: "\n")
      #expect(lines.count == 1, "said once: \(verbose.errors)", sourceLocation: sourceLocation)
      #expect(lines.first?.contains(says) == true, "\(verbose.errors)", sourceLocation: sourceLocation)
      #expect(!segmentsExist(in: directory), sourceLocation: sourceLocation)
    }

    private func segmentsExist(in directory: String) -> Bool {
      let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
      return names.contains { $0.hasSuffix(".seg") }
    }

    private func worker() throws -> [String] { [try Programs.path("operators.cpp")] }

    @Test("where an old filter refuses the system calls that it does not know, indexes are found all the same")
    func oldFilter() throws {
      let program = try PlacedProgram([Programs.path("generations.c"), "0"])
      let outcome = try ChildProcess.run(
        [Programs.path("seccomp.c"), "old", "0", Installation.path(of: "allocsctl"), "ps", "--direct", "--json"],
        environment: ["ALLOCS_DIR": program.directory.path])
      #expect(outcome.ending == .exit(0) && outcome.output.contains("\"pid\":\(program.pid),"), "\(outcome)")
      program.process.closeInput()
    }

    @Test("a missing ALLOCS_DIR: the program runs on, and says so once on request")
    func missing() throws {
      let directory = try TestDirectory()
      try expectUnindexed(worker(), directory: directory.file("none"))
      try expectUnindexed(worker(), directory: directory.file("none"), below: "libjemalloc.so.2")
    }

    @Test("an ALLOCS_DIR that is a file, or whose name is too long")
    func notADirectory() throws {
      let directory = try TestDirectory()
      try expectUnindexed(worker(), directory: directory.write("text", to: "file"))
      try expectUnindexed(worker(), directory: directory.path + "/" + String(repeating: "x", count: 5000))
    }

    @Test("an ALLOCS_DIR that may not be written to", .enabled(if: isRoot, "needs root, to become another user"))
    func readOnly() throws {
      let directory = try TestDirectory()
      let program = try TestDirectory()
      chmod(program.path, 0o755)
      try makeExecutable(program.file("worker"), from: worker()[0])
      let agent = try Installation.path(of: Installation.agent)
      try FileManager.default.copyItem(atPath: agent, toPath: program.file(Installation.agent))
      chmod(directory.path, 0o555)
      let user = OtherUsers.nobody
      let plain = try ChildProcess.run(user + [program.file("worker")])
      let environment = ["env", "LD_PRELOAD=\(program.file(Installation.agent))", "ALLOCS_DIR=\(directory.path)"]
      #expect(try ChildProcess.run(user + environment + [program.file("worker")]) == plain)
      let verbose = try ChildProcess.run(user + environment + ["ALLOCS_VERBOSE=1", program.file("worker")])
      #expect(verbose.output == plain.output && verbose.ending == .exit(0))
      #expect(verbose.errors.split(separator: "\n").count == 1, "\(verbose.errors)")
      #expect(try directory.segments() == [])
    }

    /// A file system of `size` on a directory of its own, as long as `body` runs.
    static func withFileSystem(size: String, _ body: (String) throws -> Void) throws {
      let directory = try TestDirectory()
      let mounted = try ChildProcess.run(["mount", "-t", "tmpfs", "-o", "size=\(size)", "tmpfs", directory.path])
      guard mounted.ending == .exit(0) else { throw HarnessError("cannot mount a tmpfs: \(mounted.errors)") }
      defer { _ = try? ChildProcess.run(["umount", "-l", directory.path]) }
      try body(directory.path)
    }

    static let mayMount: Bool = {
      guard isRoot, let directory = try? TestDirectory(),
        let outcome = try? ChildProcess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", directory.path])
      else { return false }
      _ = try? ChildProcess.run(["umount", "-l", directory.path])
      return outcome.ending == .exit(0)
    }()

    @Test("a full file system from the start", .enabled(if: mayMount, "needs to mount a tmpfs"))
    func full() throws {
      try Self.withFileSystem(size: "4k") { path in
        _ = try ChildProcess.run(["sh", "-c", "head -c 4096 /dev/zero > '\(path)/filler'"])
        try expectUnindexed(worker(), directory: path)
      }
    }

    @Test(
      "a file system that fills up while the program runs", .enabled(if: mayMount, "needs to mount a tmpfs"),
      arguments: ["64k", "200k", "500k", "1m", "3m", "8m"])
    func fillsUp(size: String) throws {
      try Self.withFileSystem(size: size) { path in
        let program = [try Programs.path("truth.cpp"), "4", "400000", "1", "1"]
        let records = try TestDirectory()
        var environment = ["RECORD_DIR": records.path]
        let plain = try ChildProcess.run(program, environment: environment, input: "\n\n\n")
        environment.merge(try Installation.agentEnvironment(path)) { $1 }
        let indexed = try ChildProcess.run(program, environment: environment, input: "\n\n\n")
        #expect(plain.ending == .exit(0))
        #expect(indexed.ending == plain.ending, "\(indexed.errors)")
        #expect(indexed.errors == plain.errors)
        // The index, if there is one, is right: it holds nothing but live blocks, and the rest is counted.
        let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".seg") }
        guard let name = names.first else {
          #expect(size == "64k", "there is room for an index")
          return
        }
        let segment = try Segment(path: "\(path)/\(name)")
        let record = try Record(directory: records.path, checkpoint: 1)
        let live = Dictionary(record.blocks.map { ($0.base, $0.size) }, uniquingKeysWith: { $1 })
        let all = segment.allAllocations()
        let known = all.filter { live[$0.base] == $0.size }.count
        let wrong = all.filter { live[$0.base] != nil && live[$0.base] != $0.size }.count
        #expect(wrong == 0)
        let missing = record.blocks.count - known
        #expect(UInt64(missing) <= (segment.counter("no_memory") ?? 0), "each block that is missing was counted")
        #expect(known > 0 || size != "8m")
        #expect(missing > 0 || size != "200k")
      }
    }

    @Test("no file descriptors are left")
    func noDescriptors() throws {
      let directory = try TestDirectory()
      let advice = "leave it two file descriptors"
      try expectUnindexed([Programs.path("exhausted.c")], directory: directory.path, says: advice)
      let program = try Programs.path("exhausted.c", options: ["-DKEEP_DESCRIPTORS"])
      // One descriptor is enough for the directory, not for what else is read.
      try expectUnindexed([program], directory: directory.path, restriction: "ulimit -n 4", says: advice)
    }

    @Test(
      "limits set before the start: the program runs as without the agent",
      arguments: [
        "ulimit -n 4", "ulimit -f 8", "ulimit -f 1000", "ulimit -v 400000", "ulimit -v 4000000", "ulimit -d 100000",
        "ulimit -l 0",
        "ulimit -s 256", "umask 777",
      ])
    func limits(restriction: String) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("exhausted.c", options: ["-DKEEP_DESCRIPTORS"])
      func run(_ environment: String) throws -> Outcome {
        try ChildProcess.run(["sh", "-c", "\(restriction); exec env \(environment) '\(program)'"])
      }
      let plain = try run("")
      try #require(plain.ending == .exit(0), "\(plain.errors)")
      let agent = try Installation.path(of: Installation.agent)
      #expect(try run("LD_PRELOAD='\(agent)' ALLOCS_DIR='\(directory.path)'") == plain)
    }

    // MARK: restrictions of the program's own making

    private func restrict(_ way: String, argument: String? = nil) throws {
      let program = try RecordingProgram([Programs.path("restricted.c"), way] + (argument.map { [$0] } ?? []))
      for checkpoint in 0...1 {
        let record = try program.reach(checkpoint)
        let segment = try program.openSegment()
        let differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
        #expect(differences.isEmpty, "check point \(checkpoint): \(differences)")
        #expect(segment.unindexed == [])
        try program.proceed()
      }
      try program.finish()
    }

    @Test("a program that closes all descriptors stays indexed") func closes() throws { try restrict("close") }
    @Test("a program that limits its descriptors stays indexed") func descriptors() throws {
      try restrict("descriptors")
    }
    @Test("a program that limits its files' sizes stays indexed") func files() throws { try restrict("files") }
    @Test("a program that limits its memory stays indexed", arguments: ["memory", "data"])
    func memory(way: String) throws { try restrict(way) }
    @Test("a program that changes its root stays indexed", .enabled(if: isRoot, "needs root"))
    func root() throws {
      let directory = try TestDirectory()
      try restrict("root", argument: directory.path)
    }
    @Test("a program that becomes another user stays indexed", .enabled(if: isRoot, "needs root"))
    func user() throws { try restrict("user") }

    @Test("exec in the same process replaces the index")
    func replaced() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("stationary.c")
      let environment = ChildProcess.baseEnvironment.merging(try Installation.agentEnvironment(directory.path)) { $1 }
      let process = try ChildProcess(["bash", "-c", "exec '\(program)'"], environment: environment, conversing: true)
      let lines = try process.readLines(until: "ready")
      let segment = try Segment(path: directory.segment(of: process.pid))
      #expect(segment.command.first?.unescaped == program)
      let block = try #require(lines.first { $0.hasPrefix("block ") }.flatMap { UInt64($0.split(separator: " ")[1]) })
      #expect(segment.allocation(containing: block)?.size == 1000)
      #expect(try process.wait().ending == .exit(0))
    }
  }
}
