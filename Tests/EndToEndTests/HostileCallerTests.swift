// SPDX-License-Identifier: Apache-2.0
// Callers who would hurt the server or read what is not theirs: files made to mislead it, and hostile clients.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("hostile callers")
  struct HostileCallers {
    /// A client of Programs/hostile_client.py that anybody may run, as another user if the tests run as root.
    private func client(_ server: Server, _ arguments: [String], conversing: Bool = false) throws -> ChildProcess {
      chmod(server.directory.path, 0o1777)
      chmod(server.socket, 0o666)
      let script = try String(contentsOfFile: Programs.source("hostile_client.py"), encoding: .utf8)
      return try ChildProcess(
        (Restrictions.isRoot ? OtherUsers.nobody : []) + ["/usr/bin/python3", "-c", script, server.socket] + arguments,
        environment: ChildProcess.baseEnvironment, conversing: conversing)
    }

    private func expectService(_ server: Server, _ program: Stationary) throws {
      let block = try program.place("block")
      let answer = try server.request("/v1/processes/\(program.pid)/query?address=\(block.address + 3)")
      #expect(answer.status == 200 && answer.body.contains("\"offset\":3"), "\(answer)")
    }

    @Test("a thousand connections of one user that say nothing, or half of something, keep nobody else out")
    func silence() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      try expectService(server, program)
      let before = try (memory: server.memory(), descriptors: server.descriptors())
      let hostile = try client(server, ["silence"], conversing: true)
      _ = try hostile.readLines(until: "held")
      // Root's connections are limited only in all: without another user there is no one to be kept out.
      if Restrictions.isRoot { for _ in 0..<20 { try expectService(server, program) } }
      #expect(try server.memory() - before.memory < 64 << 20)
      _ = try hostile.wait()
      try wait(for: "the connections of a client that is gone are closed", of: server.process) {
        try server.descriptors() <= before.descriptors + 4
      }
      try expectService(server, program)
    }

    @Test("a thousand connections made while the server is not accepting any leave room in its queue")
    func queue() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      try expectService(server, program)
      kill(server.process.pid, SIGSTOP)
      let hostile: ChildProcess
      do {
        defer { kill(server.process.pid, SIGCONT) }
        hostile = try client(server, ["silence"], conversing: true)
        #expect(try hostile.readLines(until: "held").last == "held 1000 0")
      }
      _ = try hostile.wait()
      try expectService(server, program)
    }

    @Test("a body of a gibibyte and a header without end are refused early", arguments: ["flood", "endless"])
    func floods(_ kind: String) throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      try expectService(server, program)
      let before = try server.memory()
      let outcome = try client(server, [kind, program.pid]).wait()
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      let lines = outcome.output.split(separator: "\n")
      let sent = try #require(lines.first.flatMap { Int($0.dropFirst("sent ".count)) })
      #expect(sent < 200 << 20, "the server took \(sent) bytes")
      #expect(!outcome.output.contains(" 200 "), "\(outcome.output)")
      #expect(try server.memory() - before < 256 << 20)
      try expectService(server, program)
    }

    @Test("requests sent before the answers to others are read get their answers in order")
    func pipeline() throws {
      let program = try Stationary()
      let server = try Server(program.directory)
      let script = Programs.source("hostile_client.py")
      let block = try program.place("block")
      let outcome = try ChildProcess.run([
        "/usr/bin/python3", script, server.socket, "pipeline", program.pid, "\(block.address)",
      ])
      #expect(outcome.output == "right\n", "\(outcome)")
    }

    @Test("files of every kind among the segments are passed over, by the server and without it")
    func files() throws {
      let program = try Stationary()
      let directory = program.directory
      let pid = getpid()
      mkfifo(directory.file("\(pid).1.seg"), 0o666)
      symlink("/etc/passwd", directory.file("\(pid).2.seg"))
      symlink(try directory.segment(of: program.process.pid), directory.file("\(pid).3.seg"))
      symlink("\(pid).4.seg", directory.file("\(pid).4.seg"))
      mkdir(directory.file("\(pid).5.seg"), 0o777)
      for name in [
        "1.seg", ".seg", "-1.1.seg", "99999999999999999999.1.seg", "1.99999999999999999999.seg", "1.1.seg.seg",
        "\(program.pid).seg", "0x1.1.seg", " 1.1.seg", "1.1.SEG", "1\n2.1.seg", "\u{1b}[2J.1.seg",
        String(repeating: "9", count: 250) + ".seg",
      ] { _ = try directory.write("text", to: name) }
      for number in 0..<2000 { _ = try directory.write("", to: "1.\(number + 10).seg") }
      _ = try directory.write(String(repeating: "\0", count: 1 << 20), to: "\(pid).6.seg")
      let listed = try Tool.control(["ps"], in: directory)
      #expect(listed.ending == .exit(0) && listed.output.contains(program.pid), "\(listed.errors)")
      #expect(!listed.output.unicodeScalars.contains { $0.value < 32 && $0 != "\n" })
      let server = try Server(directory)
      try expectService(server, program)
      // They also come while it watches.
      mkfifo(directory.file("\(pid).7.seg"), 0o666)
      symlink("/dev/zero", directory.file("\(pid).8.seg"))
      try expectService(server, program)
      #expect(try server.request("/v1/processes").body.contains("\"pid\":\(program.pid),"))
    }

    @Test("of two users each reads the own process alone", .enabled(if: Restrictions.isRoot, "needs root"))
    func users() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let tools = try TestDirectory()
      chmod(tools.path, 0o755)
      for (from, to) in try [
        (Installation.path(of: Installation.agent), "liballocs_agent.so"),
        (Programs.path("stationary.c"), "stationary"), (Installation.path(of: "allocsctl"), "allocsctl"),
      ] {
        try makeExecutable(tools.file(to), from: from)
      }
      let server = try Server(directory)
      chmod(server.socket, 0o666)
      let users = ["63001", "63002"].map { OtherUsers.command(as: $0) }
      let programs = try users.map { user in
        try ChildProcess(
          user + [
            "env", "LD_PRELOAD=\(tools.file("liballocs_agent.so"))", "ALLOCS_DIR=\(directory.path)",
            tools.file("stationary"),
          ], environment: ChildProcess.baseEnvironment, conversing: true)
      }
      for program in programs { _ = try program.readLines(until: "ready") }
      for (index, user) in users.enumerated() {
        for way in [["--direct"], ["--socket", server.socket]] {
          for (other, program) in programs.enumerated() {
            let outcome = try ChildProcess.run(
              user + [tools.file("allocsctl"), "query", "\(program.pid)", "1"] + way,
              environment: ["ALLOCS_DIR": directory.path])
            #expect(outcome.ending == .exit(other == index ? 0 : 1), "\(way) \(outcome.errors)")
            if other != index {
              #expect(outcome.output == "" && outcome.errors.hasPrefix("allocsctl: ") && outcome.errors.contains(" — "))
            }
          }
        }
        // Nor may one remove or replace the other's segment.
        let theirs = try directory.segment(of: programs[1 - index].pid)
        for attempt in [["rm", "-f", theirs], ["truncate", "-s", "0", theirs], ["cat", theirs]] {
          #expect(try ChildProcess.run(user + attempt).ending != .exit(0), "\(attempt)")
        }
      }
    }
  }
}
