// SPDX-License-Identifier: Apache-2.0
// Blocks that an index lacks are said in every answer: as text and as JSON, of a process that runs and of one that has
// ended, by allocsctl itself and by the server. And where nothing is missing, no answer says that anything is.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("losses")
  struct Losses {
    /// past.c, which lets calls pass by.
    private struct Past {
      let directory: TestDirectory
      let process: ChildProcess
      /// A block that lives, one that may be unseen, a free place, and the last block.
      let places: [String]

      init(_ what: String) throws {
        directory = try TestDirectory()
        process = try ChildProcess(
          [Programs.path("past.c"), what],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
          conversing: true)
        let lines = try process.readLines(until: "ready")
        places = lines[0].split(separator: " ").map(String.init)
        guard places.count == 4 else { throw HarnessError("past said \(lines)") }
      }

      func control(_ arguments: [String], socket: String? = nil) throws -> String {
        let outcome = try Tool.control(arguments, in: directory, socket: socket)
        guard outcome.ending == .exit(0) else { throw HarnessError("\(arguments): \(outcome.errors)") }
        return outcome.output
      }
      /// Of each command that answers from the index.
      func json(socket: String? = nil) throws -> [String: String] {
        let pid = "\(process.pid)"
        return [
          "query": try control(["query", pid, "--json"] + places, socket: socket),
          "top": try control(["top", pid, "--json"], socket: socket),
          "info": try control(["info", pid, "--json"], socket: socket),
          "ps": try control(["ps", "--json"], socket: socket),
        ]
      }
      func text(socket: String? = nil) throws -> [String: String] {
        let pid = "\(process.pid)"
        return [
          "query": try control(["query", pid] + places, socket: socket),
          "top": try control(["top", pid], socket: socket),
          "info": try control(["info", pid], socket: socket),
          "ps": try control(["ps"], socket: socket),
        ]
      }
    }

    @Test("where frees pass by, allocations less frees exceed the live blocks, and every answer says so")
    func unseenFrees() throws {
      let past = try Past("frees")
      for isDead in [false, true] {
        if isDead {
          kill(past.process.pid, SIGKILL)
          _ = try past.process.wait()
        }
        for (command, output) in try past.json() {
          for line in output.split(separator: "\n") {
            #expect(line.contains("\"imbalance\":10"), "\(command), dead: \(isDead): \(line)")
          }
        }
        for (command, output) in try past.text() {
          // A line may end anywhere in it.
          let words = output.split(whereSeparator: \.isWhitespace).joined(separator: " ")
          #expect(words.contains("allocations less frees are 10 more than the live"), "\(command): \(output)")
        }
        #expect(try past.text()["query"]?.contains(": free, or a block whose allocation was not seen\n") == true)
      }
    }

    @Test("where allocations pass by, their frees are of unknown blocks, and every answer says so")
    func unseenAllocations() throws {
      let past = try Past("allocations")
      let server = try Server(past.directory)
      for (command, output) in try past.json() {
        for line in output.split(separator: "\n") {
          #expect(line.contains("\"unknown_frees\":10"), "\(command): \(line)")
        }
        let served = try #require(try past.json(socket: server.socket)[command])
        #expect(
          Tool.withoutTimes(served) == Tool.withoutTimes(output), "by the server, \(command) says something else")
      }
      for (command, output) in try past.text() {
        #expect(output.contains("10 frees where no block was known"), "\(command): \(output)")
      }
      let query = try #require(try past.text()["query"])
      // The block that nobody saw.
      #expect(query.contains("\(past.places[1]): free, or a block whose allocation was not seen\n"), "\(query)")
      // The one that was seen.
      #expect(query.contains("\(past.places[0]): heap — "), "\(query)")
      #expect(!(try past.text()["ps"] ?? "").split(separator: "\n")[1].contains(" - "))
    }

    @Test("where nothing passes by, no answer says that anything is missing")
    func whole() throws {
      let past = try Past("nothing")
      for (command, output) in try past.json() {
        for field in ["imbalance", "\"unknown_frees\":1", "may_pass_by", "\"lost_blocks\":1"] {
          #expect(!output.contains(field), "\(command): \(output)")
        }
      }
      for (command, output) in try past.text() {
        #expect(!output.contains("missing") && !output.contains("free, or"), "\(command): \(output)")
      }
    }

    @Test(
      "in a file system that is full, every answer says how many blocks are not in the index",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func full() throws {
      try Restrictions.withFileSystem(size: "400k") { path in
        let process = try ChildProcess(
          [Programs.path("many.c"), "200000"],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(path)) { $1 },
          conversing: true)
        let words = try process.readLines(until: "ready")[0].split(separator: " ").map(String.init)
        let (first, last, freed) = (words[0], words[1], words[2])
        // The full file system has no room for a snapshot.
        let other = try TestDirectory()
        func control(_ arguments: [String]) throws -> String {
          try ChildProcess.run(
            [Installation.path(of: "allocsctl")] + arguments,
            environment: ["ALLOCS_DIR": path, "ALLOCS_SOCKET": "\(path)/none.sock"]
          ).output
        }
        let pid = "\(process.pid)"
        for isDead in [false, true] {
          if isDead {
            kill(process.pid, SIGKILL)
            _ = try process.wait()
          }
          let info = try #require(try Tool.objects(try control(["info", pid, "--json"])).first)
          let lost = try #require(info["lost_blocks"] as? Int)
          #expect(lost > 100_000)
          let top = try #require(try Tool.objects(try control(["top", pid, "--json"])).first)
          #expect(top["lost_blocks"] as? Int == lost)
          let total = try #require((top["total"] as? [String: Any])?["blocks"] as? Int)
          // Each block that the program has allocated is in the index or counted.
          #expect(total + lost >= 200_000)
          for answer in try Tool.objects(try control(["query", pid, "--json", first, last, freed, "0x10"])) {
            #expect(answer["lost_blocks"] as? Int == lost, "\(answer)")
          }
          let text = try control(["query", pid, last])
          let grouped = String(lost.formatted(.number.locale(Locale(identifier: "en_US"))))
          // Of a process that has ended nobody knows what else was mapped.
          let first = isDead ? "unmapped" : "free, or one of \(grouped) blocks that are not in the index\n"
          #expect(text.hasPrefix("\(last): \(first)"), "\(text)")
          #expect(text.contains("\n  missing  \(grouped) blocks are not in the index"), "\(text)")
          #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
          #expect(try control(["top", pid]).contains("\n  missing  \(grouped) blocks are not in the index"))
          #expect(try control(["ps"]).contains(" \(grouped) "))
          let words = "\(grouped) blocks are not in the index"
          for command in [["tree", pid], ["blocks", pid], ["memory", pid], ["diff", pid, pid]]
          where !isDead || command[0] != "memory" {
            #expect(try control(command).contains("missing  \(words)"), "\(command)")
          }
          for command in [["tree", pid], ["diff", pid, pid], ["blocks", pid, "--limit", "1"]] {
            let object = try #require(try Tool.objects(try control(command + ["--json"])).first)
            #expect(object["lost_blocks"] as? Int == lost, "\(command)")
          }
          // Files of other programs, and what is made of a snapshot, say it where they have a place for it.
          let snapshot = other.file("\(isDead).snap")
          #expect(try control(["snapshot", pid, "-o", snapshot]).contains(", \(words), "))
          for source in [pid, snapshot] {
            #expect(try control(["tree", source]).contains("missing  \(words)"))
            for format in ["collapsed", "speedscope", "dhat", "flamegraph"] {
              let outcome = try ChildProcess.run(
                [Installation.path(of: "allocsctl"), "export", source, "--format", format, "-o", "-"],
                environment: ["ALLOCS_DIR": path, "ALLOCS_SOCKET": "\(path)/none.sock"])
              #expect(outcome.output.contains(words), "\(format)")
              #expect(outcome.errors.contains(": \(words)"), "\(format): \(outcome.errors)")
            }
          }
          #expect(try control(["replay", snapshot]).contains("missing  \(words)"))
          #expect(
            try control(["info", pid]).contains("\(grouped) blocks not indexed: the segment's file system was full"))
        }
      }
    }

    @Test("blocks that are allocated while another thread starts the agent are counted, every one")
    func early() throws {
      let library = try Programs.path("early.c", options: ["-shared", "-fPIC"])
      let agent = try Installation.path(of: Installation.agent)
      let directory = try TestDirectory()
      let process = try ChildProcess(
        [Programs.path("waiting.c")],
        environment: ChildProcess.baseEnvironment.merging([
          "LD_PRELOAD": "\(agent):\(library)", "ALLOCS_DIR": directory.path,
        ]) { $1 }, conversing: true)
      _ = try process.readLines(until: "ready")
      let segment = try Segment(path: directory.segment(of: process.pid))
      // Of seven threads; the blocks of the one that started the agent are in the index.
      #expect(segment.counter("early") == 7 * 50 && segment.lostBlocks == 7 * 50)
      #expect(segment.allAllocations().count { $0.size == 64 } == 50)
      let answers = try Tool.control(["query", "\(process.pid)", "0x1000", "--json"], in: directory).output
      #expect(answers.contains("\"lost_blocks\":350"), "\(answers)")
    }

    @Test(
      "programs of many kinds are in balance, running and ended",
      arguments: [
        [
          "/usr/bin/python3", "-c",
          "import json, threading; x = [json.dumps(list(range(i))) for i in range(300)]\nwhile 1:\n json.loads(x[200])",
        ],
        ["/usr/bin/perl", "-e", "my %h; for (1..20000) { $h{$_} = 'x' x ($_ % 100); delete $h{$_ - 50} } sleep 100"],
        ["/bin/bash", "-c", "a=(); for i in {1..5000}; do a+=($i); unset 'a[0]'; done; while :; do b=$(echo x); done"],
      ])
    func balanced(_ command: [String]) throws {
      let directory = try TestDirectory()
      let process = try ChildProcess(
        command,
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 })
      try wait(for: "it has an index, and works", of: process) {
        guard let path = try directory.segments(of: process.pid).first, let segment = try? Segment(path: path) else {
          return false
        }
        return segment.threads.reduce(0) { $0 + $1.allocations } > 5000
      }
      for round in 0..<20 {
        if round == 15 {
          kill(process.pid, SIGKILL)
          _ = try process.wait()
        }
        for arguments in [["top", "\(process.pid)", "--json"], ["query", "\(process.pid)", "--json", "0x1000"]] {
          let outcome = try Tool.control(arguments, in: directory)
          #expect(outcome.ending == .exit(0), "\(outcome.errors)")
          #expect(!outcome.output.contains("imbalance"), "\(arguments), round \(round): \(outcome.output.suffix(300))")
        }
      }
    }
  }
}
