// SPDX-License-Identifier: Apache-2.0
// Groups, marks, the table on a terminal, and what grows: of real programs, directly and through the server.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("watching")
  struct Watching {
    /// growing.c, which waits for `go`.
    private final class Growing {
      let directory: TestDirectory
      let process: ChildProcess
      var pid: String { "\(process.pid)" }

      init() throws {
        directory = try TestDirectory()
        process = try ChildProcess(
          [Programs.path("growing.c")],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
          conversing: true)
        _ = try process.readLines(until: "ready")
      }

      func go() throws { try process.send("\n") }

      func ask(_ arguments: [String], socket: String? = nil) throws -> String {
        let outcome = try Tool.control(arguments, in: directory, socket: socket)
        #expect(outcome.ending == .exit(0), "\(arguments): \(outcome)")
        return outcome.output
      }

      func object(_ arguments: [String], socket: String? = nil) throws -> [String: Any] {
        try #require(try Tool.objects(try ask(arguments + ["--json"], socket: socket)).first)
      }

      /// A terminal with `allocsctl` and these arguments on it.
      func terminal(
        _ arguments: [String], columns: Int = 80, rows: Int = 24, socket: String? = nil,
        environment: [String: String] = [:]
      ) throws -> Screen {
        try Screen(
          [Installation.path(of: "allocsctl")] + arguments, columns, rows,
          ["ALLOCS_DIR": directory.path, "ALLOCS_SOCKET": socket ?? directory.file("none.sock"), "TERM": "xterm"]
            .merging(environment) { $1 })
      }
    }

    /// screen.py with a program on it.
    private final class Screen {
      let process: ChildProcess

      init(_ command: [String], _ columns: Int, _ rows: Int, _ environment: [String: String]) throws {
        process = try ChildProcess(
          ["python3", Programs.source("screen.py"), "\(columns)", "\(rows)"] + command,
          environment: ChildProcess.baseEnvironment.merging(environment) { $1 }, conversing: true)
      }

      @discardableResult
      func tell(_ line: String) throws -> [String] {
        try process.send(line + "\n")
        let lines = try process.readLines(until: "done").dropLast()
        #expect(!lines.contains { $0.hasPrefix("fault") }, "\(line): \(lines)")
        return lines.filter { $0.hasPrefix("|") }.map { String($0.dropFirst()) }
          + lines.filter { !$0.hasPrefix("|") }
      }

      /// The screen, once it has the text.
      @discardableResult
      func until(_ text: String) throws -> [String] {
        let lines = try tell("until \(text)")
        #expect(!lines.contains("late"), "\(text): \(lines)")
        return lines
      }

      /// Sets the size, and waits for a screen that has the text and fits: one that was being drawn may come before.
      func resize(columns: Int, rows: Int, until text: String) throws {
        try tell("size \(columns) \(rows)")
        try wait(for: "a screen of \(columns) columns and \(rows) rows with \"\(text)\"") {
          let lines = try until(text)
          return lines.count <= rows && lines.allSatisfy { $0.count <= columns }
        }
      }

      /// How the program ended; the terminal must be as it was.
      func end() throws -> String {
        let lines = try tell("end").suffix(5)
        #expect(lines.dropFirst().prefix(3) == ["settings same", "main", "cursor shown"], "\(lines)")
        return lines.first ?? ""
      }
    }

    @Test("rows by each group have all blocks, and a group alone has its row's; directly and through the server")
    func groups() throws {
      let program = try Growing()
      let server = try Server(program.directory)
      for socket in [nil, server.socket] {
        for group in ["function", "module", "file", "thread", "allocator", "size", "age"] {
          let table = try program.object(["top", program.pid, "--group", group], socket: socket)
          let total = try #require((table["total"] as? [String: Any])?["bytes"] as? Int)
          let rows = try #require(table["groups"] as? [[String: Any]])
          let other = try #require((table["other"] as? [String: Any])?["bytes"] as? Int)
          #expect(rows.compactMap { $0["bytes"] as? Int }.reduce(other, +) == total && !rows.isEmpty, "\(group)")
          let key = try #require(rows.first?["key"] as? String)
          guard group != "age" else { continue }
          let alone = try program.object(["top", program.pid, "--within", "\(group):\(key)"], socket: socket)
          #expect((alone["total"] as? [String: Any])?["bytes"] as? Int == rows.first?["bytes"] as? Int, "\(group)")
          let text = try program.ask(["top", program.pid, "--group", group], socket: socket)
          #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 } && text.contains(group.uppercased()))
        }
        let threads = try program.object(["top", program.pid, "--group", "thread"], socket: socket)
        #expect((threads["groups"] as? [[String: Any]])?.count == 2)
        let sizes = try program.object(["top", program.pid, "--group", "size", "--sort", "name"], socket: socket)
        let least = (sizes["groups"] as? [[String: Any]] ?? []).compactMap { $0["min_size"] as? Int }
        #expect(least == least.sorted() && least.contains(1 << 21))
      }
      for arguments in [
        ["--group", "colour"], ["--within", "thread"], ["--within", ""], ["--sort", "speed"],
        ["--sort", "rate", "--group", "thread"], ["--sort", "rate", "--since", "1m"], ["--sort", "rate", "--mapped"],
        ["--sort", "rate", "--within", "size:5"], ["--for", "never"], ["--for", "1s", "--group", "age"],
      ] {
        let outcome = try Tool.control(["top", program.pid] + arguments, in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(arguments): \(outcome)")
      }
    }

    @Test("every value of an option that --help offers is taken; a table is sorted by a figure that it shows")
    func offered() throws {
      let program = try Growing()
      let snapshot = program.directory.file("a.snap")
      _ = try program.ask(["snapshot", program.pid, "-o", snapshot])
      let out = program.directory.file("out")
      for (command, rest) in [
        ("growth", [program.pid, "--for", "1s"]), ("top", [program.pid, "--once"]), ("blocks", [program.pid]),
        ("replay", [snapshot]), ("diff", [snapshot, program.pid]), ("export", [snapshot, "-o", out]),
      ] {
        let help = try program.ask([command, "--help"])
        let options = try #require(help.components(separatedBy: "OPTIONS:").last)
          .split(whereSeparator: \.isWhitespace).joined(separator: " ")
        let found = options.matches(of: try Regex("(--[a-z-]+) <[^>]*> [^(]*\\(values: ([^;)]*)"))
        #expect(!found.isEmpty, "\(command): \(options)")
        for match in found {
          let option = String(try #require(match[1].substring))
          for value in try #require(match[2].substring).split(separator: ", ").map(String.init) {
            let outcome = try Tool.control([command] + rest + [option, value], in: program.directory)
            #expect(outcome.ending == .exit(0), "\(command) \(option) \(value): \(outcome)")
          }
        }
      }
      for (sort, title) in [
        ("bytes", "BYTES"), ("blocks", "BLOCKS"), ("age", "OLDEST"), ("newest", "NEWEST"), ("name", "ALLOCATED BY"),
      ] {
        for command in [["top", program.pid, "--once"], ["replay", snapshot]] {
          let text = try program.ask(command + ["--sort", sort])
          #expect(text.contains(" \(title)"), "\(command) \(sort): \(text)")
          if sort == "newest" { #expect(!text.contains("OLDEST"), "\(text)") }
        }
      }
    }

    @Test("a key that no row has is an error that says how to list keys, and not nothing; a window may be empty")
    func unknownGroups() throws {
      let program = try Growing()
      let server = try Server(program.directory)
      for (group, key) in [
        ("function", "no_such_function"), ("thread", "1@1"), ("size", "63"), ("site", "x"), ("module", "/nowhere"),
        ("age", "7"), ("allocator", ""),
      ] {
        for command in [
          ["top"], ["top", "--json"], ["tree"], ["blocks"], ["blocks", "--json"], ["growth", "--for", "1s"],
        ] {
          for way in [["--direct"], ["--socket", server.socket]] {
            let words = [command[0], program.pid] + command.dropFirst() + ["--within", "\(group):\(key)"] + way
            let outcome = try Tool.control(words, in: program.directory)
            #expect(outcome.ending == .exit(1) && outcome.output.isEmpty, "\(words): \(outcome)")
            #expect(outcome.errors.contains("top \(program.pid) --group \(group) --json"), "\(words): \(outcome)")
          }
        }
      }
      let export = try Tool.control(
        ["export", program.pid, "--format", "collapsed", "-o", "-", "--within", "thread:1@1"], in: program.directory)
      #expect(export.ending == .exit(1) && export.output.isEmpty, "\(export)")
      for route in ["top", "tree", "blocks", "profile?format=pprof"] {
        let sign = route.contains("?") ? "&" : "?"
        let response = try server.request("/v1/processes/\(program.pid)/\(route)\(sign)within=thread:1@1")
        #expect(response.status == 404 && response.body.contains(#""no_such":"group""#), "\(route): \(response)")
      }
      // What lives, but was made at another time, is a row.
      let table = try program.object(["top", program.pid, "--group", "function"])
      let rows = try #require(table["groups"] as? [[String: Any]])
      let key = try #require(rows.first?["key"] as? String)
      let past = try program.ask(["top", program.pid, "--within", "function:\(key)", "--older", "1d"])
      #expect(past.contains("0 live blocks"), "\(past)")
    }

    @Test(
      "a mark is a moment in every command and for the server, also a new one; errors say which there are"
    )
    func marks() throws {
      let program = try Growing()
      var server: Server? = try Server(program.directory)
      #expect(try program.ask(["mark", program.pid]) == "no marks\n")
      _ = try program.ask(["mark", program.pid, "before"])
      // The clock that the agent reads is behind by some milliseconds.
      letRun(microseconds: 100_000)
      try program.go()
      try wait(for: "the leak grows") {
        try program.ask(["blocks", program.pid, "--site", "leak", "--json"]).split(separator: "\n").count > 5
      }
      _ = try program.ask(["mark", program.pid, "after"])
      server = nil
      server = try Server(program.directory)
      let socket = try #require(server?.socket)
      for source in [nil, socket] {
        let list = try program.object(["mark", program.pid], socket: source)
        #expect((list["marks"] as? [[String: Any]])?.compactMap { $0["name"] as? String } == ["before", "after"])
        let between = try program.object(
          ["top", program.pid, "--since", "before", "--until", "after"], socket: source)
        let sites = try #require(between["sites"] as? [[String: Any]])
        let names = sites.compactMap { ($0["site"] as? [String: Any])?["function"] as? String }
        #expect(names.contains("leak") && names.contains("cache") && !names.contains("table"), "\(names)")
        #expect(try program.ask(["tree", program.pid, "--since", "before"], socket: source).contains("leak"))
        #expect(
          !(try program.ask(["blocks", program.pid, "--until", "before", "--limit", "9999"], socket: source)).contains(
            "leak"))
        _ = try program.ask(
          ["export", program.pid, "--format", "collapsed", "--since", "before", "-o", "-"], socket: source)
        let text = try program.ask(["top", program.pid, "--once"], socket: source)
        #expect(text.contains("\n  marks    before ") && text.contains(", after "), "\(text)")
        for arguments in [["top", "--since", "never"], ["tree", "--until", "never"], ["blocks", "--since", "never"]] {
          let outcome = try Tool.control(
            [arguments[0], program.pid] + arguments.dropFirst(), in: program.directory, socket: source)
          #expect(
            outcome.ending == .exit(64) && outcome.errors.contains("\"never\"")
              && outcome.errors.contains("before, after"))
        }
        let late = try Tool.control(
          ["top", program.pid, "--since", "after", "--until", "before"], in: program.directory, socket: source)
        #expect(late.ending == .exit(64) && late.errors.contains("ends before it begins"), "\(late)")
      }
      // A file lists those that the process had.
      let file = program.directory.file("marked.snapshot")
      _ = try program.ask(["snapshot", program.pid, "-o", file])
      for command in ["top", "tree"] {
        let text = try program.ask([command, file])
        #expect(text.contains("\n  marks    before ") && text.contains(" ago, after "), "\(text)")
        let list = try program.object([command, file])["marks"] as? [[String: Any]]
        #expect(list?.compactMap { $0["name"] as? String } == ["before", "after"])
      }
      let moved = try Tool.control(["mark", program.pid, "before"], in: program.directory)
      #expect(moved.ending == .exit(0) && moved.errors.contains("is moved"))
      for name in [
        "10m", "14:05", "a b", "a\"b", "<script>", "x\ny", String(repeating: "x", count: 12_000), "caf\u{e9}",
      ] {
        let outcome = try Tool.control(["mark", program.pid, name], in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.errors.split(separator: "\n").count == 1, "\(name): \(outcome)")
      }
      _ = try program.ask(["mark", program.pid, "after", "--remove"])
      let gone = try Tool.control(["mark", program.pid, "after", "--remove"], in: program.directory)
      #expect(gone.ending == .exit(64) && gone.errors.contains("these marks: before"))
      program.process.closeInput()
      _ = try program.process.wait()
      // It is kept with what is left of the process; a new one is refused.
      #expect(try program.ask(["mark", program.pid], socket: socket).hasPrefix("before "))
      #expect(try program.ask(["top", program.pid, "--since", "before"]).contains("live block"))
      let ended = try Tool.control(["mark", program.pid, "too-late"], in: program.directory)
      #expect(ended.ending == .exit(1) && ended.errors.contains("has ended"), "\(ended)")
      let foreign = try Tool.control(["mark", "999999999", "x"], in: program.directory)
      #expect(foreign.ending == .exit(1), "\(foreign)")
    }

    @Test(
      "on a terminal the table is watched: keys, pages, sizes, marks, an end; and the terminal is as it was")
    func screen() throws {
      for isServed in [false, true] {
        let program = try Growing()
        let server = isServed ? try Server(program.directory) : nil
        let screen = try program.terminal(["top", program.pid], socket: server?.socket)
        let first = try screen.until("table (growing.c")
        #expect(first[0].contains("growing, process \(program.pid): ") && first.count == 24, "\(first)")
        #expect(first.allSatisfy { $0.count <= 80 })
        try program.go()
        try screen.tell("keys 4")
        try screen.until("cache (growing.c")
        try screen.tell("keys g")
        try screen.until("FUNCTION")
        try screen.tell("keys ggggggg")
        try screen.until("ALLOCATED BY")
        try screen.until("leak (growing.c")
        try screen.tell("keys /leak\\r")
        try screen.until("with \"leak\"")
        try screen.tell("keys \\r")
        #expect(try screen.until("ALLOCATED BY, CALLED BY").contains { $0.contains("main (growing.c") })
        try screen.tell("keys \\r")
        try screen.until("CALLERS, ALLOCATED BY")
        try screen.tell("keys b")
        #expect(try screen.until("ADDRESS").contains { $0.hasPrefix("0x") && $0.contains("leak (growing.c") })
        try screen.tell("keys x")
        try screen.until("with \"leak\"")
        try screen.tell("keys \\x1b")
        try screen.tell("keys mhere\\r")
        try screen.until("mark here")
        #expect(try program.ask(["mark", program.pid]).hasPrefix("here "))
        try screen.tell("keys d")
        let since = try screen.until("made since here")
        #expect(!since.contains { $0.contains("table (growing.c") }, "\(since)")
        try screen.tell("keys ?")
        try screen.until("Theil-Sen")
        try screen.tell("keys xp")
        try screen.until("paused")
        try screen.tell("keys p")
        for (columns, rows) in [(200, 50), (10, 3), (40, 8), (80, 24)] {
          try screen.resize(columns: columns, rows: rows, until: columns == 10 ? "…" : "BYTES")
        }
        program.process.closeInput()
        _ = try program.process.wait()
        try screen.until("ended: ")
        try screen.tell("keys q")
        #expect(try screen.end() == "exit 0")
      }
    }

    @Test("the terminal is as it was after each way to end", arguments: [SIGINT, SIGTERM, SIGHUP])
    func signals(_ number: Int32) throws {
      let program = try Growing()
      let screen = try program.terminal(["top", program.pid])
      try screen.until("table (growing.c")
      try screen.tell("signal \(number)")
      #expect(try screen.end() == "exit \(128 + number)")
    }

    @Test("a terminal that is closed ends the watch")
    func closed() throws {
      let program = try Growing()
      let screen = try program.terminal(["top", program.pid])
      try screen.until("table (growing.c")
      try screen.tell("hang")
      #expect(try screen.tell("end").first == "exit \(128 + SIGHUP)")
    }

    @Test("^C ends the watch; NO_COLOR has no colours; a terminal without a size is taken for one of 80 columns")
    func terminals() throws {
      let program = try Growing()
      try program.go()
      for (environment, hasColours) in [([:], true), (["NO_COLOR": "1"], false)] as [([String: String], Bool)] {
        let screen = try program.terminal(["top", program.pid], columns: 0, rows: 0, environment: environment)
        try screen.until("BYTES")
        let lines = try screen.until("+")
        #expect(lines.count == 24 && lines.allSatisfy { $0.count <= 80 }, "\(lines)")
        try screen.tell("keys \\x03")
        let ending = try screen.tell("end")
        #expect(ending.contains("exit 130") && ending.contains("settings same"), "\(ending)")
        #expect(ending.contains("colours 0") != hasColours, "\(ending)")
      }
      // No terminal that can place text: the table once.
      let dumb = try program.terminal(["top", program.pid], environment: ["TERM": "dumb"])
      #expect(try dumb.until("all").contains { $0.contains("table (growing.c") })
      let once = try program.terminal(["top", program.pid, "--once"])
      #expect(try once.until("all").contains { $0.contains("table (growing.c") })
      let nobody = try program.terminal(["top", "999999999"])
      #expect(try nobody.until("allocsctl:").contains { $0.contains("no process 999999999") })
      #expect(try nobody.tell("end").contains("exit 1"))
    }

    @Test("a server that goes is said, and watched anew when it is there again")
    func serverGone() throws {
      let program = try Growing()
      var server: Server? = try Server(program.directory)
      let screen = try program.terminal(["top", program.pid], socket: try #require(server).socket)
      try screen.until("table (growing.c")
      server = nil
      try screen.until("server")
      #expect(try screen.tell("screen").contains { $0.contains("table (growing.c") })
      server = try Server(program.directory)
      try screen.until("? help")
      try screen.tell("keys q")
      #expect(try screen.end() == "exit 0")
    }

    /// scripted_server.py, and its socket.
    private func scripted(_ arguments: [String], in directory: TestDirectory) throws -> (ChildProcess, String) {
      let socket = directory.file("scripted.sock")
      unlink(socket)
      let server = try ChildProcess(
        ["/usr/bin/python3", Programs.source("scripted_server.py"), socket] + arguments,
        environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try server.readLines(until: "listening")
      return (server, socket)
    }

    /// The last is more than any number that an answer may have.
    private static let falseNumbers = [
      "0", "-1", "18446744073709551615", "-9223372036854775808", "9e19", "1e-300", "1e300",
    ]

    @Test(
      "a server that lies about every number ends no command but with an answer or an error",
      arguments: zip(falseNumbers, falseNumbers.dropFirst() + ["7"]))
    func lies(first: String, later: String) throws {
      let directory = try TestDirectory()
      let watches = ["site", "function", "module", "file", "thread", "allocator", "size"].flatMap { group in
        ["growth", "rate", "bytes"].map { ["top", "4242", "--group", group, "--sort", $0, "--for", "100ms"] }
      }
      let commands =
        watches + [
          ["growth", "4242", "--for", "1s", "--every", "100ms"], ["growth", "4242", "--for", "1s", "--group", "size"],
          ["ps"], ["info", "4242"], ["top", "4242"], ["top", "4242", "--totals"], ["tree", "4242"], ["blocks", "4242"],
          ["memory", "4242"], ["memory", "4242", "--pinned"], ["query", "4242", "0x1000"], ["mark", "4242"],
          ["query", "4242", "-"], ["events", "4242"],
          ["export", "4242", "--format", "pprof", "-o", directory.file("lie.pb.gz")],
          ["snapshot", "4242", "-o", directory.file("lie.snap")], ["diff", "4242", "4243"],
        ]
      for command in commands {
        let takesJSON = !["export", "snapshot"].contains(command[0])
        for arguments in takesJSON ? [command, command + ["--json"]] : [command] {
          let (server, socket) = try scripted(["lies", first, later], in: directory)
          defer { server.signal(SIGKILL) }
          let outcome = try Tool.control(arguments, in: directory, socket: socket, input: "0x10\n0x20\n")
          #expect([.exit(0), .exit(1)].contains(outcome.ending), "\(arguments): \(outcome)")
          #expect(outcome.ending == .exit(1) || !outcome.output.isEmpty || !takesJSON, "\(arguments): \(outcome)")
          if outcome.ending == .exit(0), ["top", "growth"].contains(command[0]), !arguments.contains("--json") {
            #expect(outcome.output.split(separator: "\n").allSatisfy { $0.count <= 80 || $0.hasPrefix("{") })
          }
        }
      }
    }

    @Test(
      "a server that lies about every number is watched on a terminal",
      arguments: zip(falseNumbers.dropLast(), falseNumbers.dropLast().reversed()))
    func watchedLies(first: String, later: String) throws {
      let program = try Growing()
      let (server, socket) = try scripted(["lies", first, later], in: program.directory)
      defer { server.signal(SIGKILL) }
      let screen = try program.terminal(["top", "4242"], socket: socket)
      try screen.until("liar, process")
      for key in "1234567890-" { try screen.tell("keys \(key)") }
      for title in ["FUNCTION", "MODULE", "FILE", "THREAD", "ALLOCATOR", "SIZE", "AGE", "ALLOCATED BY"] {
        try screen.tell("keys g")
        try screen.until(title)
        try screen.until("liar, process")
      }
      let lines = try screen.tell("screen")
      #expect(lines.count == 24 && lines.allSatisfy { $0.count <= 80 }, "\(lines)")
      try screen.tell("keys q")
      #expect(try screen.end() == "exit 0")
    }

    @Test("a server that can't order by rate is watched by bytes")
    func older() throws {
      let program = try Growing()
      let (server, socket) = try scripted(["older"], in: program.directory)
      defer { server.signal(SIGKILL) }
      let screen = try program.terminal(["top", "4242", "--sort", "rate"], socket: socket)
      #expect(try screen.until("960").contains { $0.contains("RATE") })
      try screen.tell("keys q")
      #expect(try screen.end() == "exit 0")
    }

    @Test("a leak, a leak with restarts, a cache and a buffer are told apart")
    func growth() throws {
      let program = try Growing()
      let server = try Server(program.directory)
      let watch = try ChildProcess(
        [Installation.path(of: "allocsctl"), "growth", program.pid, "--for", "14s", "--every", "250ms", "--json"],
        environment: ChildProcess.baseEnvironment.merging(
          ["ALLOCS_DIR": program.directory.path, "ALLOCS_SOCKET": server.socket]) { $1 })
      try program.go()
      let outcome = try watch.wait()
      #expect(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(outcome)")
      let report = try #require(try Tool.objects(outcome.output).first)
      let rows = try #require(report["rows"] as? [[String: Any]])
      var verdicts: [String: String] = [:]
      for row in rows {
        let name = (row["site"] as? [String: Any])?["function"] as? String ?? "?"
        verdicts[name] = row["verdict"] as? String
      }
      #expect(verdicts["leak"] == "grows" && verdicts["restarts"] == "grows", "\(rows)")
      #expect(verdicts["cache"] == "fills" && verdicts["buffer"] == "swings", "\(rows)")
      #expect(verdicts["table"] == nil, "\(rows)")
      let leak = try #require(rows.first { ($0["site"] as? [String: Any])?["function"] as? String == "leak" })
      #expect(try #require(leak["survival"] as? Double) > 0.9, "\(leak)")
      let text = try program.ask(["growth", program.pid, "--for", "5s", "--every", "200ms"])
      #expect(text.contains("leak (growing.c:") && text.contains("grows by "), "\(text)")
      #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      for arguments in [
        ["--for", "soon"], ["--for", "0"], ["--every", "1ms"], ["--for", "1h", "--every", "1s"], ["--group", "age"],
        ["--limit", "0"], ["--within", "x"],
      ] {
        let outcome = try Tool.control(["growth", program.pid] + arguments, in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(arguments): \(outcome)")
      }
      // That a verdict takes more looks is said before they are waited for, and the numbers are told all the same.
      let short = try Tool.control(["growth", program.pid, "--for", "1s"], in: program.directory)
      #expect(short.ending == .exit(0) && short.output.contains("too few to tell"), "\(short)")
      let warning = "allocsctl: 6 looks in 1.0 s: too few to tell what grows, for which it takes 8\n"
      #expect(short.errors == warning, "\(short)")
      program.process.closeInput()
      _ = try program.process.wait()
      let ended = try Tool.control(["growth", program.pid, "--for", "9s"], in: program.directory)
      #expect(ended.ending == .exit(1) && ended.errors.contains("has ended"), "\(ended)")
    }
  }
}
