// SPDX-License-Identifier: Apache-2.0
// Names that mean something: the program's own function as the site and not the standard library's, and the names of
// code that a process has made itself.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("names")
  struct Names {
    private func start(_ program: String, _ arguments: [String] = [], in directory: TestDirectory) throws
      -> (process: ChildProcess, lines: [String])
    {
      let process = try ChildProcess(
        [program] + arguments,
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      return (process, try process.readLines(until: "ready"))
    }

    @Test(
      "a program of Rust: the site of what the standard library allocates for it is the program's own function",
      arguments: [[], ["-C", "symbol-mangling-version=v0"], ["-C", "strip=debuginfo"]])
    func rust(options: [String]) throws {
      let directory = try TestDirectory()
      let (process, lines) = try start(try Programs.path("orders.rs", options: options), in: directory)
      let places = lines.map { $0.split(separator: " ").map(String.init) }.filter { $0.count == 2 }
      #expect(places.count == 4)
      for place in places {
        let answer = try #require(
          try Tool.objects(
            Tool.control(["query", "\(process.pid)", place[1], "--json"], in: directory).output
          ).first)
        let site = answer["site"] as? [String: Any]
        #expect(site?["function"] as? String == "orders::\(place[0])", "\(options): \(answer)")
      }
      let top = try Tool.control(["top", "\(process.pid)"], in: directory).output
      #expect(top.contains("orders::make_index"), "\(top)")
    }

    #if arch(x86_64)
      @Test("code that a process has made has its name from perf-PID.map, unless that is a link")
      func made() throws {
        for isLink in [false, true] {
          let directory = try TestDirectory()
          let (process, lines) = try start(
            try Programs.path("jitted.c"), isLink ? ["link"] : [], in: directory)
          let server = try Server(directory)
          for socket in [nil, server.socket] {
            let outcome = try Tool.control(
              ["query", "\(process.pid)", lines[0], "--json"], in: directory, socket: socket)
            let answer = try #require(try Tool.objects(outcome.output).first)
            let site = try #require(answer["site"] as? [String: Any], "\(answer)")
            #expect(
              site["function"] as? String == (isLink ? nil : "LazyCompile:~make_order shop.js:12"), "\(answer)")
            #expect(site["module"] as? String == (isLink ? nil : "[jit]"))
          }
          let text = try Tool.control(["query", "\(process.pid)", lines[0]], in: directory).output
          #expect(text.contains("LazyCompile:~make_order") != isLink, "\(text)")
          let snapshot = directory.file("made.snap")
          #expect(
            try Tool.control(["snapshot", "\(process.pid)", "-o", snapshot], in: directory).ending == .exit(0))
          try process.send("\n")
          _ = try process.wait()
          // The process and its file are gone.
          let tree = try Tool.control(["tree", snapshot], in: directory).output
          #expect(tree.contains("LazyCompile:~make_order") != isLink, "\(tree)")
        }
      }

      @Test("code that took another's place has the name that it had when the block was made; also in recordings")
      func replaced() throws {
        let directory = try TestDirectory()
        let (process, lines) = try start(try Programs.path("jitted.c"), ["dump", directory.path], in: directory)
        let server = try Server(directory)
        for socket in [nil, server.socket] {
          // Each order twice, as names are kept from one question to the next.
          for place in [0, 1, 0, 1, 1, 0] {
            let outcome = try Tool.control(
              ["query", "\(process.pid)", lines[place], "--json"], in: directory, socket: socket)
            let answer = try #require(try Tool.objects(outcome.output).first)
            let site = try #require(answer["site"] as? [String: Any], "\(answer)")
            #expect(site["function"] as? String == (place == 0 ? "old_order" : "new_order"), "\(answer)")
            #expect(site["module"] as? String == "[jit]")
          }
        }
        let (snapshot, recording) = (directory.file("made.snap"), directory.file("made.rec"))
        for command in [
          ["snapshot", "\(process.pid)", "-o", snapshot],
          ["record", "\(process.pid)", "-o", recording, "--duration", "1s"],
        ] {
          let outcome = try Tool.control(command, in: directory)
          #expect(outcome.ending == .exit(0), "\(outcome)")
        }
        try process.send("\n")
        _ = try process.wait()
        try FileManager.default.removeItem(atPath: directory.file("jit-\(process.pid).dump"))
        for file in [snapshot, recording] {
          let jsonl = directory.file("made.jsonl")
          _ = try Tool.control(["export", file, "--format", "collapsed", "-o", jsonl], in: directory)
          let text = try String(contentsOfFile: jsonl, encoding: .utf8)
          #expect(text.contains("old_order;") || text.contains("new_order;"), "\(text)")
        }
      }
    #endif

    @Test("what takes long says so on a terminal, and leaves nothing there; elsewhere it says nothing")
    func progress() throws {
      let directory = try TestDirectory()
      let command = [
        try Installation.path(of: "allocsctl"), "ps", "--socket", directory.file("silent.sock"),
      ]
      let outcome = try ChildProcess.run(
        ["/usr/bin/python3", Programs.source("progress_terminal.py"), "6", "waiting for the server: "] + command)
      try #require(outcome.ending == .exit(0), "\(outcome)")
      let words = outcome.output.split(separator: " ", maxSplits: 1).map(String.init)
      #expect(words.first == "-2", "it ended by ^C: \(outcome.output)")
      let shown = try #require(words.last)
      #expect(shown.hasPrefix("\\r\\e[Kwaiting for the server: ") && shown.hasSuffix("\\r\\e[K\n"), "\(shown)")
      // From the second second on, and each time another: 1.0, 1.3 and so on, or more where the machine is busy.
      let seconds = shown.matches(of: #/server: ([0-9.]+) s/#).compactMap { Double($0.1) }
      #expect(seconds.count >= 6 && seconds == seconds.sorted(), "\(shown)")
      #expect(seconds.first ?? 0 >= 1 && seconds.last != seconds.first, "\(shown)")
      // Where nobody watches.
      let server = directory.file("gone.sock")
      let quiet = try ChildProcess.run([command[0], "ps", "--socket", server])
      #expect(!quiet.errors.contains("waiting for"), "\(quiet)")
    }
  }
}
