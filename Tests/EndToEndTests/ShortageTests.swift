// SPDX-License-Identifier: Apache-2.0
// No room, at every possible point: the program runs on, the counters say what is missing, nothing is half there.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("shortage")
  struct Shortage {
    @Test(
      "a file system of every size, page by page, from none to enough",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func everyPage() throws {
      let program = try Programs.path("mortal.c", options: ["-DTABLE_SIZE=200"])
      var indexed = 0
      var complete = 0
      // In steps of a page where the segment is made; where heap is added, pages are of one kind.
      for pages in Array(1...100) + Array(stride(from: 104, to: 400, by: 8)) {
        try Restrictions.withFileSystem(size: "\(pages * 4)k") { path in
          let records = try TestDirectory()
          let environment = try Installation.agentEnvironment(path).merging(["RECORD_DIR": records.path]) { $1 }
          let outcome = try ChildProcess.run([program, "2", "3000", "_exit"], environment: environment)
          #expect(outcome == Outcome(ending: .exit(0), output: "ready\n", errors: ""), "\(pages) pages")
          let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".seg") }
          guard let name = names.first else { return }
          indexed += 1
          let segment = try Segment(path: "\(path)/\(name)")
          let missing = Set(["no_memory", "unknown_contexts", "nested", "early"]).reduce(UInt64(0)) {
            $0 + (segment.counter($1) ?? 0)
          }
          let differences = try UncertainRecord(directory: records).differences(in: segment, missing: missing)
          #expect(differences.isEmpty, "\(pages) pages: \(differences)")
          if segment.unindexed.isEmpty { complete += 1 }
        }
      }
      #expect(indexed > 20 && indexed < 138, "\(indexed) had a segment")
      #expect(complete > 0 && complete < indexed, "\(complete) of \(indexed) were complete")
    }

    // A tiny program would have 2 MiB of memory for each huge page of which it uses a few bytes.
    @Test(
      "tables that are nearly empty in most programs get no huge pages, also where the kernel gives them unasked",
      .enabled(
        if: FileManager.default.fileExists(atPath: "/sys/kernel/mm/transparent_hugepage"), "needs huge pages"))
    func noHugePages() throws {
      let program = try PlacedProgram([Programs.path("generations.c"), "0"])
      // Of such a file, Foundation reads the first page.
      let maps = try ChildProcess.run(["cat", "/proc/\(program.pid)/smaps"]).output
      var without = 0  // KiB
      var size = 0
      for line in maps.split(separator: "\n") {
        let words = line.split(separator: " ")
        if words.first == "Size:" { size = words.dropFirst().first.flatMap { Int($0) } ?? 0 }
        if words.first == "VmFlags:", words.contains("nh") { without += size }
      }
      // The table of regions, and the first links of stacks and of contexts.
      #expect(without == (16 + 2 + 2) << 10, "\(without) KiB")
      program.process.closeInput()
    }

    @Test("where memory for an arena is refused and its mapping cannot shrink back, the next arena is made there")
    func unshrinkable() throws {
      let program = try RecordingProgram([Programs.path("unshrinkable.c")])
      let record = try program.reach(0)
      let segment = try program.openSegment()
      #expect(segment.counter("no_memory") == 1 && segment.counter("anchors_unshrunk") == 1)
      #expect(segment.counter("arenas_exhausted") == 0)
      let differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      try program.proceed()
      try program.finish()
    }

    @Test(
      "children that are to be followed into a file system that is full run on, and are counted",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func followedNowhere() throws {
      var followed = 0
      var refused: UInt64 = 0
      for size in ["1m", "2m", "3m", "5m", "9m", "64m"] {
        try Restrictions.withFileSystem(size: size) { path in
          let program = try RecordingProgram(
            [Programs.path("heirs.c"), "fork", "2", "6"], environment: ["ALLOCS_FOLLOW": "1", "ALLOCS_DIR": path])
          _ = try program.process.readLines(until: "checkpoint 0")
          try program.proceed()
          let record = try program.reach(1)
          #expect(program.said.first == "children 6 failed 0", "\(program.said)")
          for name in try FileManager.default.contentsOfDirectory(atPath: path) where name.hasSuffix(".seg") {
            let segment = try Segment(path: "\(path)/\(name)")
            let pid = segment.processID
            let missing = (segment.counter("no_memory") ?? 0) + (segment.counter("unknown_contexts") ?? 0)
            if pid == program.process.pid {
              refused += segment.counter("forks_unfollowed") ?? 0
              let own = UncertainRecord(certain: record.blocks, possible: [], sites: record.sites)
              let differences = own.differences(in: segment, missing: missing)
              #expect(differences.isEmpty, "\(size): \(differences)")
              continue
            }
            followed += 1
            let own = UncertainRecord(
              certain: try Record.readBlocks(program.records.file("\(pid).blocks")).sorted { $0.base < $1.base },
              possible: try Record.readBlocks(program.records.file("\(pid).maybe")), sites: record.sites)
            let differences = own.differences(in: segment, missing: missing)
            #expect(differences.isEmpty, "\(size), child \(pid): \(differences)")
          }
          try program.proceed()
          try program.finish()
        }
      }
      #expect(followed > 0 && refused > 0)
    }

    /// Seconds on processors that a process has used.
    private func processorTime(of process: ChildProcess) throws -> Double {
      let text = try String(contentsOfFile: "/proc/\(process.pid)/stat", encoding: .utf8)
      let fields = try #require(text.split(separator: ")").last).split(separator: " ")
      return Double(try #require(Int(fields[11])) + #require(Int(fields[12]))) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    @Test("a server without file descriptors waits at rest, loses no segment, and answers when some are free")
    func descriptors() throws {
      let program = try Stationary()
      // A segment that were taken for a dead process's would be removed at once.
      let server = try Server(program.directory, options: ["--keep-dead-for", "0s", "--look-every", "1s"])
      let open = { try FileManager.default.contentsOfDirectory(atPath: "/proc/\(server.process.pid)/fd").count }
      // It has shared out more than it may have now: a few beyond those that it has at rest.
      let few = try open() + 12
      let limited = try ChildProcess.run(["prlimit", "--pid", "\(server.process.pid)", "--nofile=\(few)"])
      try #require(limited.ending == .exit(0), "\(limited.errors)")
      let hostile = try ChildProcess(
        ["/usr/bin/python3", Programs.source("hostile_client.py"), server.socket, "silence"],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try hostile.readLines(until: "held")
      // The last of its connections may be in the queue still.
      try wait(for: "the server has no descriptor left", of: server.process) { try open() >= few - 1 }
      let before = try processorTime(of: server.process)
      let start = Date()
      // The time is what is measured: that of three looks at the directory.
      letRun(microseconds: 3_200_000)
      let used = try processorTime(of: server.process) - before
      let elapsed = Date().timeIntervalSince(start)
      #expect(used < elapsed / 4, "\(used) s of \(elapsed) on a processor, for nothing")
      #expect(!server.process.hasEnded)
      _ = try hostile.wait()
      try wait(for: "allocsd answers again", of: server.process) {
        try server.request("/v1/processes", ["--max-time", "5"]).status == 200
      }
      let block = try program.place("block")
      let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + 3)")
      #expect(answer.status == 200 && answer.body.contains("\"offset\":3"), "\(answer)")
      #expect(try #require(try server.metric("allocsd_connections_delayed_total")) > 0)
      #expect(server.process.errors.contains("cannot accept connections"))
    }

    @Test(
      "a server raises its limit of open files, and neither connections nor processes use it up",
      .enabled(if: Restrictions.isRoot, "needs root, to become another user"))
    func sharedDescriptors() throws {
      let hardLimit = 160
      let directory = try TestDirectory()
      let server = try Server(directory, prefix: ["prlimit", "--nofile=32:\(hardLimit)"])
      chmod(directory.path, 0o755)
      chmod(server.socket, 0o666)
      // More processes than a quarter of the limit, and more connections of root's than half of it.
      let programs = try (0..<50).map { _ in try Stationary(in: directory) }
      let root = try ChildProcess(
        ["/usr/bin/python3", Programs.source("hostile_client.py"), server.socket, "silence", "\(hardLimit / 2 + 10)"],
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try root.readLines(until: "held")
      let limits = try String(contentsOfFile: "/proc/\(server.process.pid)/limits", encoding: .utf8)
      let files = try #require(limits.split(separator: "\n").first { $0.hasPrefix("Max open files") })
      #expect(files.split(separator: " ").dropFirst(3).prefix(2) == ["\(hardLimit)", "\(hardLimit)"], "\(files)")
      // Connections that say nothing come to root's gatherer after a while, and fill its half: for a moment, as it ends
      // those that say what is no request.
      let asked = try ChildProcess.run([
        "/usr/bin/python3", Programs.source("hostile_client.py"), server.socket, "until-refused",
      ])
      #expect(asked.output == "no room for another connection of yours\n", "\(asked)")
      _ = try root.wait()
      try wait(for: "the connections of a client that is gone are closed", of: server.process) {
        try server.request("/v1/processes", ["--max-time", "5"]).status == 200
      }
      // Each of those that could not be watched is counted, and answered for like the others.
      for program in programs {
        let block = try program.place("block")
        let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + 3)")
        #expect(answer.status == 200 && answer.body.contains("\"offset\":3"), "\(answer)")
      }
      let unknown = try #require(try server.metric("allocsd_endings_unknown_total"))
      #expect(unknown >= programs.count - hardLimit / 4)
    }

    static let mayLimitWatches: Bool = {
      let outcome = try? ChildProcess.run(["unshare", "-Ur", "sh", "-c", noWatches])
      return outcome?.ending == .exit(0)
    }()
    private static let noWatches = "echo 0 > /proc/sys/user/max_inotify_instances"

    @Test(
      "a server that may watch nothing looks by itself", .enabled(if: mayLimitWatches, "needs user namespaces"),
      arguments: ["instances", "watches"])
    func inotify(limit: String) throws {
      let directory = try TestDirectory()
      let command = "echo 0 > /proc/sys/user/max_inotify_\(limit); exec \"$@\""
      let server = try Server(directory, prefix: ["unshare", "-Ur", "sh", "-c", command, "sh"])
      let program = try Stationary(in: directory)
      try wait(for: "allocsd finds the process", of: server.process, pause: 100_000) {
        try server.request("/v1/processes").body.contains("\"pid\":\(program.pid),")
      }
    }
  }
}
