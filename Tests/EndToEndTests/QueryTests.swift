// SPDX-License-Identifier: Apache-2.0
// allocsctl query: what is said of each kind of address of a known program, and of questions that can't be answered.

import Foundation
import IndexReader
import SharedLayout
import SystemAccess
import TestSupport
import Testing

extension EndToEnd {
  @Suite("questions and answers")
  struct Queries {
    private func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

    // MARK: answers

    @Test("first, inner and last byte of a block answer that block, with size, function, thread and call site")
    func block() throws {
      let program = try Stationary()
      let block = try program.place("block")
      for offset in [0, 1, 500, 999] as [UInt64] {
        let answer = try program.ask(block.address + offset)
        #expect(answer["kind"] as? String == "heap")
        #expect(answer["base"] as? String == hex(block.address))
        #expect(answer["size"] as? Int == 1000)
        #expect(answer["offset"] as? Int == Int(offset))
        #expect(answer["function"] as? String == "malloc")
        #expect((answer["allocator"] as? String)?.hasPrefix("libc.so") == true)
        let thread = try #require(answer["thread"] as? [String: Any])
        #expect(thread["id"] as? Int == Int(program.process.pid))
        #expect((answer["age_seconds"] as? Double).map { $0 >= 0 && $0 < 3600 } == true)
        let frame = try #require((answer["stack"] as? [[String: Any]])?.first)
        #expect(frame["function"] as? String == "allocate_for_query")
        #expect((frame["file"] as? String)?.hasSuffix("stationary.c") == true)
        #expect((frame["line"] as? Int ?? 0) > 0)
        let next = try #require(answer["next"] as? [String: Any])
        #expect(next["base"] as? String == hex(try program.place("neighbour").address))
      }
      let zeroed = try program.place("zeroed")
      #expect(try program.ask(zeroed.address + 4999)["function"] as? String == "calloc")
      let large = try program.place("large")
      let answer = try program.ask(large.address + large.size - 1)
      #expect(answer["base"] as? String == hex(large.address) && answer["size"] as? Int == Int(large.size))
      let empty = try program.place("empty")
      #expect(try program.ask(empty.address)["size"] as? Int == 0)
      #expect(try program.ask(empty.address + 1)["kind"] as? String == "free")
    }

    @Test("a freed address and one past the end answer free, between the neighbours")
    func free() throws {
      let program = try Stationary()
      let (neighbour, freed, last) = (
        try program.place("neighbour"), try program.place("freed"), try program.place("last")
      )
      for address in [freed.address, freed.address + 500, neighbour.address + neighbour.size] {
        let answer = try program.ask(address)
        #expect(answer["kind"] as? String == "free")
        #expect(answer["base"] == nil && answer["size"] == nil)
        #expect((answer["previous"] as? [String: Any])?["base"] as? String == hex(neighbour.address))
        #expect((answer["next"] as? [String: Any])?["base"] as? String == hex(last.address))
      }
    }

    @Test("static, stack, mapped and unmapped addresses are told apart", arguments: Allocator.allCases)
    func kinds(allocator: Allocator) throws {
      try allocator.require()
      let program = try Stationary(below: allocator.library)
      for (place, kind) in [
        ("block", "heap"), ("static", "static"), ("code", "static"), ("stack", "stack"), ("mapping", "mapping"),
        ("unmapped", "unmapped"),
      ] {
        #expect(try program.ask(program.place(place).address)["kind"] as? String == kind, "\(place)")
      }
      for address in [0, 1, UInt64.max] { #expect(try program.ask(address)["kind"] as? String == "unmapped") }
      let answer = try program.ask(program.place("static").address + 4)
      #expect("\(answer)".contains("static_variable"))
      #expect("\(try program.ask(program.place("code").address))".contains("main"))
    }

    @Test("the text of an answer fits a screen and begins with what matters most")
    func text() throws {
      let program = try Stationary()
      for (name, place) in program.places {
        let outcome = try Tool.control(["query", program.pid, hex(place.address)], in: program.directory)
        #expect(outcome.ending == .exit(0) && outcome.errors == "")
        let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count < 24 && lines.allSatisfy { $0.count <= 80 }, "\(name): \(outcome.output)")
        #expect(lines[0].hasPrefix(hex(place.address)), "\(outcome.output)")
      }
      #expect(try Tool.control(["ps"], in: program.directory).output.contains(program.pid))
      let live = try Tool.control(["ps", "--live", "--sort", "bytes", "--json"], in: program.directory).output
      let processes = try #require(try Tool.objects(live).first?["processes"] as? [[String: Any]])
      #expect(processes.count == 1 && processes[0]["parent"] as? Int == Int(getpid()), "\(live)")
      #expect(processes[0]["title"] == nil && (processes[0]["live_bytes"] as? Int ?? 0) > 0, "\(live)")
      #expect((processes[0]["live_blocks"] as? Int ?? 0) > 0 && processes[0]["ended"] == nil, "\(live)")
      let top = try Tool.control(["top", program.pid], in: program.directory)
      #expect(top.ending == .exit(0) && top.output.contains("allocate_for_query"), "\(top.output)")
    }

    @Test("a program that gives itself a title is listed by it", .enabled(if: access("/usr/bin/perl", X_OK) == 0))
    func title() throws {
      let directory = try TestDirectory()
      let process = try ChildProcess(
        ["/usr/bin/perl", "-e", "$0 = 'shop: worker 3'; $| = 1; print \"ready\\n\"; <STDIN>"],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try process.readLines(until: "ready")
      let server = try Server(directory)
      for socket in [nil, server.socket] {
        let table = try Tool.control(["ps"], in: directory, socket: socket).output
        #expect(table.hasSuffix("  shop: worker 3\n"), "\(table)")
        let json = try Tool.control(["ps", "--json"], in: directory, socket: socket).output
        let listed = try #require((try Tool.objects(json).first?["processes"] as? [[String: Any]])?.first)
        #expect(listed["title"] as? String == "shop: worker 3" && listed["name"] as? String == "shop: worker 3")
        #expect((listed["command"] as? [String])?.first == "/usr/bin/perl", "\(json)")
      }
    }

    @Test("a process that was killed still answers")
    func postMortem() throws {
      let program = try Stationary()
      let before = try program.ask(program.place("block").address + 5)
      program.process.signal(SIGKILL)
      _ = try program.process.wait()
      let after = try program.ask(program.place("block").address + 5)
      for key in ["kind", "base", "size", "offset", "function", "allocator"] {
        #expect("\(before[key] ?? "")" == "\(after[key] ?? "")", "\(key)")
      }
      #expect("\(after["stack"] ?? "")".contains("allocate_for_query"))
      #expect(try program.ask(program.place("freed").address)["kind"] as? String == "free")
      #expect(try Tool.control(["ps"], in: program.directory).output.contains("dead"))
      #expect(try !Tool.control(["ps", "--live"], in: program.directory).output.contains(program.pid))
    }

    @Test("run starts a program indexed, as the same process, and passes its end on")
    func run() throws {
      let directory = try TestDirectory()
      var environment = ChildProcess.baseEnvironment
      environment["ALLOCS_DIR"] = directory.path
      let process = try ChildProcess(
        [Installation.path(of: "allocsctl"), "run", "--", Programs.path("stationary.c")], environment: environment,
        conversing: true)
      let lines = try process.readLines(until: "ready")
      let block = try #require(lines.first { $0.hasPrefix("block ") }.flatMap { UInt64($0.split(separator: " ")[1]) })
      #expect(try Segment(path: directory.segment(of: process.pid)).allocation(containing: block)?.size == 1000)
      #expect(try process.wait().ending == .exit(0))
      #expect(try Tool.control(["run", "--", "sh", "-c", "exit 7"], in: directory).ending == .exit(7))
      #expect(try Tool.control(["run", "--", "sh", "-c", "kill -9 $$"], in: directory).ending == .signal(9))
      let none = try Tool.control(["run", "--", "no-such-program"], in: directory)
      #expect(none.ending == .exit(127) && none.errors.hasPrefix("allocsctl: "), "\(none.errors)")
    }

    // MARK: questions without an answer

    private func expectError(
      _ arguments: [String], status: Int32, in directory: TestDirectory, mentions: String? = nil,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let outcome = try Tool.control(arguments, in: directory)
      #expect(outcome.ending == .exit(status), "\(arguments): \(outcome.errors)", sourceLocation: sourceLocation)
      #expect(outcome.output == "", sourceLocation: sourceLocation)
      #expect(
        outcome.errors.hasPrefix("allocsctl: ") && outcome.errors.contains(" — ")
          && (mentions.map { outcome.errors.contains($0) } ?? true),
        "\(arguments): \(outcome.errors)", sourceLocation: sourceLocation)
    }

    @Test(
      "an address that is none is wrong usage",
      arguments: [
        "", " ", "x", "0x", "0xg", "-5", "-0x5", "+5", "1.5", "1e3", "5 5", "0x1 0x2", "0b1", "18446744073709551616",
        "0x10000000000000000", "99999999999999999999999999", "0x123456789abcdef01", "٣", "１２",
      ])
    func badAddress(text: String) throws {
      let program = try Stationary()
      try expectError(["query", program.pid, text], status: 64, in: program.directory)
      // On standard input a line of blanks is no address and no error.
      guard !text.allSatisfy({ $0 == " " }) else { return }
      let outcome = try Tool.control(
        ["query", program.pid, "-", "--json"], in: program.directory, input: "0\n\(text)\n0x1\n")
      #expect(outcome.ending == .exit(64))
      let objects = try Tool.objects(outcome.output)
      #expect(objects.count == 3 && objects[1]["error"] != nil && objects[2]["kind"] as? String == "unmapped")
    }

    @Test("wrong usage of the command line")
    func usage() throws {
      let directory = try TestDirectory()
      for arguments in [
        ["query"], ["query", "1"], ["query", "x", "0"], ["query", "-1", "0"], ["query", "0", "0"],
        ["query", "99999999999", "0"],
        ["query", "1", "0", "--no-such-option"], ["no-such-command"], ["top"], ["run"], ["top", "1", "--limit", "0"],
      ] {
        try expectError(arguments, status: 64, in: directory)
      }
      try expectError(["query", "1", "--", "-1"], status: 64, in: directory, mentions: "negative")
      try expectError(["query", "--", "1", "-1"], status: 64, in: directory, mentions: "negative")
      try expectError(["query", "1", "--", "--json"], status: 64, in: directory, mentions: "not an address")
      try expectError(["query", "1", "--"], status: 64, in: directory, mentions: "Missing")
      try expectError(["query", "1", "--nonsense", "0"], status: 64, in: directory, mentions: "Unknown option")
      for arguments in [
        ["--help"], ["help", "query"], ["query", "--help"], ["run", "--help"], ["ps", "--help"], ["top", "--help"],
      ] {
        let outcome = try Tool.control(arguments, in: directory)
        #expect(outcome.ending == .exit(0) && outcome.output.contains("allocsctl"))
      }
      #expect(try Tool.control(["query", "--help"], in: directory).output.contains("Examples"))
      for shell in ["bash", "zsh", "fish"] {
        let outcome = try Tool.control(["--generate-completion-script", shell], in: directory)
        #expect(outcome.ending == .exit(0) && outcome.output.contains("allocsctl"))
      }
    }

    @Test("a process that does not exist, or has no index")
    func noProcess() throws {
      let directory = try TestDirectory()
      try expectError(["query", "999999999", "0"], status: 1, in: directory)
      try expectError(["query", "\(getpid())", "0"], status: 1, in: directory)
      try expectError(["top", "\(getpid())"], status: 1, in: directory)
      let outcome = try Tool.control(["ps"], in: directory)
      #expect(outcome.ending == .exit(0))
    }

    @Test("behind -- there are addresses only")
    func terminator() throws {
      let program = try Stationary()
      let outcome = try Tool.control(
        ["query", program.pid, "--json", "--", "0", "-"], in: program.directory, input: "0x1\n")
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      #expect(try Tool.objects(outcome.output).map { $0["address"] as? String } == ["0x0", "0x1"])
    }

    @Test("a file that only has the name of a segment is ignored, and the error says why")
    func ignoredFile() throws {
      let sleeper = try ChildProcess(["cat"], environment: ChildProcess.baseEnvironment, conversing: true)
      let stat = try String(contentsOfFile: "/proc/\(sleeper.pid)/stat", encoding: .utf8)
      let name = "\(sleeper.pid).\(stat[stat.lastIndex(of: ")")!...].split(separator: " ")[20]).seg"
      for (make, words) in [
        ({ (path: String) in mkfifo(path, 0o600) }, "is no regular file"),
        ({ (path: String) in mkdir(path, 0o700) }, "is a directory"),
        ({ (path: String) in symlink("/etc/passwd", path) }, "is a symbolic link"),
      ] {
        let directory = try TestDirectory()
        #expect(make(directory.file(name)) == 0)
        try expectError(
          ["query", "\(sleeper.pid)", "0"], status: 1, in: directory, mentions: "\(directory.file(name)) \(words)")
        try expectError(["top", "\(sleeper.pid)"], status: 1, in: directory, mentions: words)
      }
    }

    @Test(
      "a process of another user may not be read", .enabled(if: Restrictions.isRoot, "needs root, to be another user"))
    func notPermitted() throws {
      let program = try Stationary()
      chmod(program.directory.path, 0o1777)
      let tools = try TestDirectory()
      chmod(tools.path, 0o755)
      try makeExecutable(tools.file("allocsctl"), from: Installation.path(of: "allocsctl"))
      let outcome = try ChildProcess.run(
        OtherUsers.nobody + [tools.file("allocsctl"), "query", "--direct", program.pid, "0"],
        environment: ["ALLOCS_DIR": program.directory.path])
      #expect(outcome.ending == .exit(1) && outcome.errors.hasPrefix("allocsctl: "), "\(outcome.errors)")
      #expect(outcome.output == "")
    }

    // MARK: damaged segments

    /// A copy of a program's segment under the name of a live process that has none, in a directory of its own.
    private func withCopy(_ body: (_ path: String, _ pid: Int32, _ directory: TestDirectory) throws -> Void) throws {
      let program = try Stationary()
      let directory = try TestDirectory()
      let sleeper = try ChildProcess(["cat"], environment: ChildProcess.baseEnvironment, conversing: true)
      let stat = try String(contentsOfFile: "/proc/\(sleeper.pid)/stat", encoding: .utf8)
      let fields = stat[stat.lastIndex(of: ")")!...].split(separator: " ")
      let path = directory.file("\(sleeper.pid).\(fields[20]).seg")
      let copied = try ChildProcess.run(
        ["cp", "--sparse=always", program.directory.segment(of: program.process.pid), path])
      #expect(copied.ending == .exit(0), "\(copied.errors)")
      // As the process whose name the file has would have written it.
      let file = try #require(FileHandle(forWritingAtPath: path))
      try file.seek(toOffset: UInt64(MemoryLayout<allocs_header>.offset(of: \.pid)!))
      try file.write(contentsOf: withUnsafeBytes(of: UInt32(sleeper.pid)) { Data($0) })
      try file.seek(toOffset: UInt64(MemoryLayout<allocs_header>.offset(of: \.start_time)!))
      try file.write(contentsOf: withUnsafeBytes(of: try #require(UInt64(fields[20]))) { Data($0) })
      try file.close()
      try body(path, sleeper.pid, directory)
    }

    /// Expects an error, and no crash, from the reader and from the command.
    private func expectUnreadable(_ path: String, _ pid: Int32, _ directory: TestDirectory, _ what: String) throws {
      #expect(throws: Complaint.self, "\(what)") { _ = try Segment(path: path) }
      try expectError(["query", "\(pid)", "0x1000"], status: 1, in: directory)
      try expectError(["top", "\(pid)"], status: 1, in: directory)
    }

    private func overwrite(_ path: String, at offset: UInt64, with bytes: [UInt8]) throws {
      let file = try #require(FileHandle(forWritingAtPath: path))
      try file.seek(toOffset: offset)
      try file.write(contentsOf: Data(bytes))
      try file.close()
    }

    @Test("a segment with a wrong magic, half-written, or of another version is refused")
    func wrongHeader() throws {
      try withCopy { path, pid, directory in
        try overwrite(path, at: 0, with: Array("NOTALLOC".utf8))
        try expectUnreadable(path, pid, directory, "wrong magic")
        try overwrite(path, at: 0, with: [UInt8](repeating: 0, count: 8))
        try expectUnreadable(path, pid, directory, "half-written")
        try overwrite(path, at: 0, with: Array("ALLOCSEG".utf8))
        try overwrite(path, at: 8, with: [77, 0, 0, 0])
        try expectUnreadable(path, pid, directory, "another version")
        try expectError(["query", "\(pid)", "0"], status: 1, in: directory, mentions: "77")
      }
    }

    @Test("a segment cut to any length is refused")
    func truncated() throws {
      try withCopy { path, pid, directory in
        let full = UInt64(try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int ?? 0)
        #expect(full > 1 << 20)
        var lengths: [UInt64] = [full - 1, full - 4096, full / 2, full / 1000, 1 << 20, 65536]
        lengths += stride(from: 9000, through: 0, by: -1)
        for (number, length) in lengths.enumerated() {
          #expect(truncate(path, Int(length)) == 0)
          #expect(throws: Complaint.self, "\(length) bytes") { _ = try Segment(path: path) }
          if number < 6 || length < 3 || length % 1500 == 0 {
            try expectUnreadable(path, pid, directory, "\(length) bytes")
          }
        }
      }
    }

    @Test("random bytes are refused, and damage anywhere never ends a reader")
    func random() throws {
      try withCopy { path, pid, directory in
        var random = RandomNumbers()
        for offset in [0, 8, 16, 24, 40, 48, 96, 128, 512, 608, 1120, 1184, 1216] as [UInt64] {
          let original = try withFile(path, offset: offset, count: 64)
          for _ in 0..<6 {
            try overwrite(path, at: offset, with: (0..<64).map { _ in UInt8.random(in: 0...255, using: &random) })
            for arguments in [["query", "\(pid)", "0x1000", "--json"], ["top", "\(pid)"], ["ps"]] {
              let outcome = try Tool.control(arguments, in: directory)
              #expect(
                [.exit(0), .exit(1)].contains(outcome.ending), "offset \(offset): \(outcome.ending) \(outcome.errors)")
            }
          }
          try overwrite(path, at: offset, with: original)
        }
        #expect(truncate(path, 0) == 0)
        try overwrite(path, at: 0, with: (0..<100_000).map { _ in UInt8.random(in: 0...255, using: &random) })
        try expectUnreadable(path, pid, directory, "random bytes")
      }
    }

    private func withFile(_ path: String, offset: UInt64, count: Int) throws -> [UInt8] {
      let file = try #require(FileHandle(forReadingAtPath: path))
      try file.seek(toOffset: offset)
      return Array(try file.read(upToCount: count) ?? Data())
    }
  }
}
