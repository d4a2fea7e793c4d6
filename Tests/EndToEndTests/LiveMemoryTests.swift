// SPDX-License-Identifier: Apache-2.0
// Live memory by when it was made, by calls, block by block, and as other programs' files: of a program that allocates
// in two phases, directly and through the server.

import Foundation
import SystemAccess
import TestSupport
import Testing

extension EndToEnd {
  @Suite("live memory")
  struct LiveMemory {
    /// phases.c after its second phase.
    private final class Phases {
      let directory: TestDirectory
      let process: ChildProcess
      var first: [String] = []
      var second: [String] = []
      /// A moment between the phases, in seconds since 1970.
      var between = 0.0

      /// Runs `phases` of the two.
      init(in other: TestDirectory? = nil, phases: Int = 2) throws {
        directory = try other ?? TestDirectory()
        process = try ChildProcess(
          [Programs.path("phases.c")],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
          conversing: true)
        try process.send("\n")
        first = try words()
        if phases > 1 { try goOn() }
      }

      /// The second phase.
      func goOn() throws {
        // A record's time is told to a tick, 1/64 s, and the clock that the agent reads is behind by some milliseconds.
        letRun(microseconds: 100_000)
        between = Date().timeIntervalSince1970
        // As above.
        letRun(microseconds: 100_000)
        try process.send("\n")
        second = try words()
      }

      private func words() throws -> [String] {
        try #require(try process.readLine()).split(separator: " ").map(String.init)
      }

      var pid: String { "\(process.pid)" }

      func ask(_ arguments: [String], socket: String? = nil) throws -> String {
        let outcome = try Tool.control(arguments, in: directory, socket: socket)
        #expect(outcome.ending == .exit(0), "\(arguments): \(outcome)")
        return outcome.output
      }

      func objects(_ arguments: [String], socket: String? = nil) throws -> [[String: Any]] {
        try Tool.objects(try ask(arguments + ["--json"], socket: socket))
      }
    }

    private func total(_ object: [String: Any]?) -> [Int] {
      let total = object?["total"] as? [String: Any]
      return [total?["blocks"] as? Int ?? -1, total?["bytes"] as? Int ?? -1]
    }

    @Test("what a program mapped itself is a row where that is asked for, with who mapped it, as long as it is mapped")
    func mapped() throws {
      let directory = try TestDirectory()
      let process = try ChildProcess(
        [Programs.path("mapped.c")],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try process.readLines(until: "ready")
      let server = try Server(directory)
      for socket in [nil, server.socket] {
        func ask(_ arguments: [String]) throws -> String {
          let outcome = try Tool.control(arguments, in: directory, socket: socket)
          #expect(outcome.ending == .exit(0), "\(arguments): \(outcome)")
          return outcome.output
        }
        let plain = try #require(try Tool.objects(try ask(["top", "\(process.pid)", "--json"])).first)
        let all = try #require(try Tool.objects(try ask(["top", "\(process.pid)", "--mapped", "--json"])).first)
        #expect(total(all) == [total(plain)[0] + 1, total(plain)[1] + 3 << 20])
        let first = try #require((all["sites"] as? [[String: Any]])?.first)
        #expect(first["bytes"] as? Int == 3 << 20 && first["function"] as? String == "mmap")
        #expect((first["site"] as? [String: Any])?["function"] as? String == "reserve")
        #expect(try ask(["tree", "\(process.pid)", "--mapped"]).contains("reserve"))
        #expect(try !ask(["tree", "\(process.pid)"]).contains("reserve"))
        #expect(try !ask(["top", "\(process.pid)", "--mapped"]).contains("borrow"))
        // The table without it says that there is more.
        let besides = "besides: 3,145,728 bytes (3.0 MiB) in 1 mapping of the program's own, listed by --mapped"
        #expect(
          try ask(["top", "\(process.pid)"]).split(whereSeparator: \.isWhitespace).joined(separator: " ")
            .contains(besides))
        for arguments in [["--mapped"], ["--younger", "1h"]] {
          #expect(try !ask(["top", "\(process.pid)"] + arguments).contains("besides"))
        }
      }
      let file = directory.file("all.snap")
      _ = try Tool.control(["snapshot", "\(process.pid)", "-o", file], in: directory)
      let refused = try Tool.control(["tree", file, "--mapped"], in: directory)
      #expect(refused.ending == .exit(64) && refused.errors.contains("which is a file"), "\(refused)")
    }

    @Test("text has 80 columns, or as many as COLUMNS says, from a server as well; what says no columns is passed over")
    func columns() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      for (columns, widths) in [
        ("", 40...80), ("200", 81...200), ("0200", 81...200), ("20", 40...80), ("80", 40...80), ("0", 40...80),
        ("wide", 40...80), ("-200", 40...80), ("200.5", 40...80), ("2e2", 40...80), (" 200", 40...80),
        ("200;q=0", 40...80), (String(repeating: "9", count: 4000), 81...1000),
      ] {
        for socket in [program.directory.file("none.sock"), server.socket] {
          for command in ["top", "tree"] {
            let outcome = try ChildProcess.run(
              [Installation.path(of: "allocsctl"), command, program.pid, "--younger", "5d"],
              environment: ["ALLOCS_DIR": program.directory.path, "ALLOCS_SOCKET": socket, "COLUMNS": columns])
            // The first line has all that it has room for.
            let widest = outcome.output.split(separator: "\n").map(\.count).max() ?? 0
            #expect(outcome.ending == .exit(0) && widths.contains(widest), "\(columns): \(outcome)")
          }
        }
      }
    }

    @Test("two windows that meet at a moment have all blocks between them, and each the blocks that were made in it")
    func windows() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      for socket in [nil, server.socket] {
        let all = total(try program.objects(["top", program.pid], socket: socket).first)
        let moment = "@\(program.between)"
        let late = try #require(try program.objects(["top", program.pid, "--since", moment], socket: socket).first)
        let early = try #require(try program.objects(["top", program.pid, "--until", moment], socket: socket).first)
        #expect(total(late) == [70, (0..<70).reduce(0) { $0 + 500 + $1 }])
        #expect(zip(total(late), total(early)).map { $0 + $1 } == all)
        let window = try #require(late["window"] as? [String: Double])
        #expect(abs(try #require(window["since"]) - program.between) < 0.02 && window["until"] == nil)
        let sites = try #require(late["sites"] as? [[String: Any]])
        #expect(sites.count == 1)
        #expect((sites.first?["site"] as? [String: Any])?["function"] as? String == "in_second")
        let (oldest, newest) = (sites.first?["oldest_seconds"] as? Double, sites.first?["newest_seconds"] as? Double)
        #expect(try #require(oldest) >= #require(newest))
        // An age that reaches back to before the program began, and one that nothing has yet.
        #expect(total(try program.objects(["top", program.pid, "--younger", "5d"], socket: socket).first) == all)
        #expect(total(try program.objects(["top", program.pid, "--older", "5d"], socket: socket).first) == [0, 0])
        let text = try program.ask(["top", program.pid, "--younger", "5d"], socket: socket)
        #expect(text.contains("live blocks made in the last 5 d (its index began"))
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
        let byAge = try #require(try program.objects(["top", program.pid, "--sort", "age"], socket: socket).first)
        let ages = try #require(byAge["sites"] as? [[String: Any]]).compactMap { $0["oldest_seconds"] as? Double }
        #expect(ages == ages.sorted(by: >) && !ages.isEmpty)
      }
    }

    @Test("a tree leads from main to who allocates, and inverted from there to main")
    func tree() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      for socket in [nil, server.socket] {
        let tree = try #require(
          try program.objects(["tree", program.pid, "--since", "@\(program.between)"], socket: socket).first)
        func names(_ tree: [String: Any]) -> [String] {
          (tree["nodes"] as? [[String: Any]] ?? []).map {
            ($0["frame"] as? [String: Any])?["function"] as? String ?? "?"
          }
        }
        #expect(names(tree).suffix(3) == ["main", "second_phase", "in_second"])
        let last = try #require((tree["nodes"] as? [[String: Any]])?.last)
        #expect(last["own_blocks"] as? Int == 70 && last["blocks"] as? Int == 70)
        let inverted = try #require(
          try program.objects(["tree", program.pid, "--inverted", "--since", "@\(program.between)"], socket: socket)
            .first)
        #expect(names(inverted).prefix(3) == ["in_second", "second_phase", "main"])
        #expect(total(inverted) == total(tree))
        let text = try program.ask(["tree", program.pid], socket: socket)
        #expect(text.contains("first_phase (phases.c:") && text.contains("second_phase (phases.c:"))
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      }
    }

    @Test("blocks by their site, size and time: the addresses that the program was given, as query tells of them")
    func blocks() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      for socket in [nil, server.socket] {
        let found = try program.objects(
          ["blocks", program.pid, "--site", "in_sec*", "--limit", "1000"], socket: socket)
        #expect(Set(found.compactMap { $0["base"] as? String }) == Set(program.second))
        let one = try program.objects(["blocks", program.pid, "--size", "510"], socket: socket)
        #expect(one.compactMap { $0["base"] as? String } == [program.second[10]])
        var answer = try #require(
          try program.objects(["query", program.pid, program.second[10]], socket: socket).first)
        for name in ["previous", "next", "age_seconds"] { answer[name] = nil }
        var listed = try #require(one.first)
        listed["age_seconds"] = nil
        #expect(NSDictionary(dictionary: listed) == NSDictionary(dictionary: answer))
        let largest = try program.objects(
          ["blocks", program.pid, "--sort", "size", "--limit", "2", "--since", "@\(program.between)"], socket: socket)
        #expect(largest.compactMap { $0["size"] as? Int } == [569, 568])
        let oldest = try program.ask(["blocks", program.pid, "--sort", "age", "--limit", "3"], socket: socket)
        #expect(oldest.split(separator: "\n").count == 6 && oldest.contains(" are not shown"), "\(oldest)")
        #expect(try program.objects(["blocks", program.pid, "--site", "nobody"], socket: socket).isEmpty)
      }
      for arguments in [
        ["--size", "x"], ["--size", "9-5"], ["--limit", "0"], ["--since", "tomorrow"], ["--older", "-5s"],
        ["--since", "2999-01-01T00:00:00Z"], ["--since", "5m", "--younger", "5m"], ["--sort", "name"], ["--site", ""],
      ] {
        let outcome = try Tool.control(["blocks", program.pid] + arguments, in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(arguments): \(outcome)")
        #expect(outcome.errors.split(separator: "\n").count == 1 && outcome.errors.contains(" — "), "\(outcome.errors)")
      }
    }

    /// Holds a file against the rules of speedscope's format (its src/lib/file-format-spec.ts, version 1): which fields
    /// there are, of which types, and that samples and weights are as many and refer to frames that there are.
    private func checkSpeedscope(_ file: [String: Any]) {
      let isText: (Any?) -> Bool = { $0 is String }
      let isCount: (Any?) -> Bool = { ($0 as? Int).map { $0 >= 0 } ?? false }
      func expect(_ object: [String: Any], _ what: String, _ fields: [(name: String, isRight: (Any?) -> Bool)]) {
        #expect(Set(object.keys).isSubset(of: fields.map(\.name)), "\(what): \(object.keys)")
        for field in fields {
          #expect(field.isRight(object[field.name]), "\(what): \(field.name) is \(object[field.name] ?? "missing")")
        }
      }
      func optional(_ isRight: @escaping (Any?) -> Bool) -> (Any?) -> Bool { { $0 == nil || isRight($0) } }
      let frames = (file["shared"] as? [String: Any])?["frames"] as? [[String: Any]] ?? []
      let profiles = file["profiles"] as? [[String: Any]] ?? []
      expect(
        file, "the file",
        [
          ("$schema", { $0 as? String == "https://www.speedscope.app/file-format-schema.json" }),
          ("shared", { ($0 as? [String: Any]).map { Set($0.keys) == ["frames"] } ?? false }),
          ("profiles", { ($0 as? [[String: Any]])?.isEmpty == false }), ("name", optional(isText)),
          ("activeProfileIndex", optional { ($0 as? Int).map { profiles.indices.contains($0) } ?? false }),
          ("exporter", optional(isText)),
        ])
      #expect(!frames.isEmpty)
      for frame in frames {
        expect(
          frame, "a frame",
          [("name", isText), ("file", optional(isText)), ("line", optional(isCount)), ("col", optional(isCount))])
      }
      let units = ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"]
      for profile in profiles {
        let samples = profile["samples"] as? [[Int]] ?? []
        expect(
          profile, "a profile",
          [
            ("type", { $0 as? String == "sampled" }), ("name", isText),
            ("unit", { ($0 as? String).map(units.contains) ?? false }), ("startValue", isCount), ("endValue", isCount),
            ("samples", { $0 is [[Int]] }), ("weights", { ($0 as? [Int])?.count == samples.count }),
          ])
        #expect(samples.allSatisfy { !$0.isEmpty && $0.allSatisfy(frames.indices.contains) })
        let weights = (profile["weights"] as? [Int] ?? []).reduce(0, +)
        #expect(weights == (profile["endValue"] as? Int ?? 0) - (profile["startValue"] as? Int ?? 0))
      }
    }

    @Test("files of other programs have all live bytes, and are read by readers of their forms")
    func profiles() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      let since = ["--since", "@\(program.between)"]
      let bytes = (0..<70).reduce(0) { $0 + 500 + $1 }
      for socket in [nil, server.socket] {
        func export(_ format: String) throws -> Data {
          let file = program.directory.file("out.\(format)")
          _ = try program.ask(["export", program.pid, "--format", format, "-o", file] + since, socket: socket)
          return try Data(contentsOf: URL(fileURLWithPath: file))
        }
        let lines = String(decoding: try export("collapsed"), as: UTF8.self).split(separator: "\n")
        #expect(lines.count == 1)
        #expect(lines.first?.hasSuffix("main;second_phase;in_second;calloc \(bytes)") == true, "\(lines)")

        let scope = try #require(try JSONSerialization.jsonObject(with: try export("speedscope")) as? [String: Any])
        let frames = try #require((scope["shared"] as? [String: Any])?["frames"] as? [[String: Any]])
        checkSpeedscope(scope)
        let profile = try #require((scope["profiles"] as? [[String: Any]])?.first)
        let sample = try #require((profile["samples"] as? [[Int]])?.first)
        #expect(sample.suffix(3).map { frames[$0]["name"] as? String } == ["second_phase", "in_second", "calloc"])
        #expect(profile["weights"] as? [Int] == [bytes] && profile["endValue"] as? Int == bytes)

        let points = try #require(try JSONSerialization.jsonObject(with: try export("dhat")) as? [String: Any])
        let point = try #require((points["pps"] as? [[String: Any]])?.first)
        #expect(point["tb"] as? Int == bytes && point["tbk"] as? Int == 70)
        let table = try #require(points["ftbl"] as? [String])
        let texts = (point["fs"] as? [Int] ?? []).map { table[$0] }
        #expect(texts.first == "calloc" && texts.dropFirst().first?.contains(": in_second (phases.c:") == true)

        _ = try export("pprof")
        let top = try ChildProcess.run([
          "go", "tool", "pprof", "-top", "-sample_index=inuse_space", "-unit=B", program.directory.file("out.pprof"),
        ])
        #expect(top.output.contains("Type: inuse_space"), "\(top)")
        let row = top.output.split(separator: "\n").first { $0.hasSuffix(" in_second") }
        #expect(row?.split(separator: " ").first == "\(bytes)B", "\(top)")

        let picture = try export("flamegraph")
        let reader = try ChildProcess.run(
          [
            "python3", "-c",
            "import sys, xml.dom.minidom; print(len(xml.dom.minidom.parse(sys.stdin).getElementsByTagName('title')))",
          ],
          input: String(decoding: picture, as: UTF8.self))
        #expect(Int(reader.output.trimmingCharacters(in: .whitespacesAndNewlines)).map { $0 >= 4 } == true, "\(reader)")
      }
      for arguments in [
        [program.pid, "--format", "jsonl", "--within", "nothing:calloc"],
        [program.pid, "--format", "heaptrack", "--wrapper", ""],
        [program.pid, "--format", "perfetto", "--level", "block"], [program.pid, "--format", "pdf"],
        ["\(program.pid)@1", "--format", "pdf"],
      ] {
        let outcome = try Tool.control(["export"] + arguments + ["-o", "-"], in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(outcome)")
      }
    }

    @Test("a snapshot has all blocks, and is read by whatever reads a recording; a difference tells what came since")
    func snapshots() throws {
      let program = try Phases(phases: 1)
      let file = program.directory.file("first.snap")
      let said = try program.ask(["snapshot", program.pid, "-o", file])
      let all = total(try program.objects(["top", program.pid]).first)
      #expect(said.hasPrefix("\(file): \(all[0]) blocks looked at in "), "\(said)")
      #expect(total(try program.objects(["replay", file]).first) == all)
      #expect(total(try program.objects(["tree", file]).first) == all)
      try program.goOn()
      #expect(total(try program.objects(["tree", file]).first) == all, "a snapshot does not change")
      let bytes = (0..<70).reduce(0) { $0 + 500 + $1 }
      for by in ["site", "stack"] {
        let difference = try #require(try program.objects(["diff", file, program.pid, "--by", by]).first)
        let rows = try #require(difference["rows"] as? [[String: Any]])
        #expect(rows.count == 1 && rows.first?["kind"] as? String == "new", "\(rows)")
        #expect((rows.first?["after"] as? [String: Int]) == ["bytes": bytes, "blocks": 70])
        let names = (rows.first?["stack"] as? [[String: Any]] ?? []).compactMap { $0["function"] as? String }
        #expect(by == "site" ? names == ["in_second"] : names.starts(with: ["in_second", "second_phase", "main"]))
      }
      let back = try program.ask(["diff", program.pid, file])
      #expect(back.contains("gone") && back.contains("in_second (phases.c:"), "\(back)")
      #expect(back.split(separator: "\n").allSatisfy { $0.count <= 80 + file.count })
      let none = try program.ask(["diff", file, file])
      #expect(none.contains("Each site has what it had."))
      for (limit, ending) in [("\(bytes)", 0), ("\(bytes - 1)", 2), ("1M", 0)] as [(String, Int32)] {
        let outcome = try Tool.control(
          ["diff", file, program.pid, "--fail-over", limit], in: program.directory)
        #expect(outcome.ending == .exit(ending), "\(limit): \(outcome)")
      }
      // What is cut is compared, and passes no check, whichever of the two it is.
      let cut = program.directory.file("cut.snap")
      let whole = try Data(contentsOf: URL(fileURLWithPath: file))
      try whole.prefix(whole.count * 3 / 4).write(to: URL(fileURLWithPath: cut))
      for pair in [[cut, file], [file, cut]] {
        let compared = try Tool.control(["diff", "--json"] + pair, in: program.directory)
        let object = try #require(try Tool.objects(compared.output).first)
        let damaged = object[pair[0] == cut ? "before" : "after"] as? [String: Any]
        #expect(compared.ending == .exit(0) && (damaged?["problems"] as? [String])?.isEmpty == false, "\(compared)")
        let checked = try Tool.control(["diff", "--fail-over", "1G"] + pair, in: program.directory)
        #expect(checked.ending == .exit(1) && checked.output.contains("from "), "\(checked)")
        #expect(checked.errors.contains("cannot check --fail-over, as \(cut) is not whole"), "\(checked)")
      }
      // Of what is cut, no table says that it is all; not even where nothing is left.
      for length in [whole.count * 3 / 4, whole.count / 10, 300] {
        try whole.prefix(length).write(to: URL(fileURLWithPath: cut))
        for command in [["top", cut], ["top", cut, "--totals"], ["tree", cut], ["diff", file, cut]] {
          let text = try Tool.control(command, in: program.directory)
          // 300 bytes may end before it is said of which process the file is.
          guard text.ending == .exit(0) || length > 300 else { continue }
          #expect(text.ending == .exit(0) && text.output.contains("missing  parts of the file: "), "\(text)")
          #expect(
            text.output.split(separator: "\n").allSatisfy { $0.count <= 80 || $0.contains(program.directory.path) })
          let json = try #require(
            try Tool.objects(Tool.control(command + ["--json"], in: program.directory).output).first)
          #expect((json["problems"] as? [String])?.isEmpty == false, "\(json)")
        }
      }
      let picture = program.directory.file("first.svg")
      _ = try program.ask(["export", file, "--format", "flamegraph", "-o", picture])
      #expect(try String(contentsOfFile: picture, encoding: .utf8).contains("first_phase"))
    }

    @Test("of a process that has ended each table says so, in text and in JSON; of one that runs, none does")
    func ended() throws {
      let program = try Phases()
      let server = try Server(program.directory)
      func check(_ hasEnded: Bool, socket: String?) throws {
        for command in [["top", program.pid], ["top", program.pid, "--sort", "rate"], ["tree", program.pid]] {
          let text = try Tool.control(command, in: program.directory, socket: socket).output
          let heading = "process \(program.pid)\(hasEnded ? ", which has ended" : "")"
          #expect(text.contains(heading) && text.contains("has ended") == hasEnded, "\(text)")
          #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
          let json = try Tool.control(command + ["--json"], in: program.directory, socket: socket)
          #expect(try Tool.objects(json.output).first?["ended"] as? Bool == (hasEnded ? true : nil), "\(json)")
        }
        let others = try Tool.control(
          ["blocks", program.pid, "--site", "nobody"], in: program.directory, socket: socket)
        #expect(others.ending == .exit(0) && others.output.contains("fits \"nobody\""), "\(others)")
        let blocks = try Tool.control(["blocks", program.pid], in: program.directory, socket: socket).output
        #expect(blocks.contains("which has ended") == hasEnded, "\(blocks)")
        let lines = try Tool.control(["blocks", program.pid, "--json"], in: program.directory, socket: socket)
        #expect(
          try Tool.objects(lines.output).map { $0["ended"] as? Bool }
            == Array(repeating: hasEnded ? true : nil, count: 20))
        let memory = try Tool.control(["memory", program.pid], in: program.directory, socket: socket)
        #expect(memory.errors.contains("has ended") == hasEnded, "\(memory)")
        let file = program.directory.file("\(hasEnded).snap")
        _ = try Tool.control(["snapshot", program.pid, "-o", file], in: program.directory, socket: socket)
        let difference = try Tool.control(["diff", file, program.pid], in: program.directory).output
        #expect(difference.contains("process \(program.pid), which has ended") == hasEnded, "\(difference)")
        let map = try server.request("/v1/processes/\(program.pid)/map").body
        #expect(map.contains(#","ended":true"#) == hasEnded, "\(map)")
      }
      for socket in [nil, server.socket] { try check(false, socket: socket) }
      program.process.closeInput()
      _ = try program.process.wait()
      for socket in [nil, server.socket] { try check(true, socket: socket) }
    }

    @Test("a file has its process's marks; a recording's moments are told from its start, and bare seconds are refused")
    func momentsOfFiles() throws {
      let program = try Phases(phases: 1)
      // As in `goOn`: the times of blocks are told to a tick.
      letRun(microseconds: 100_000)
      _ = try program.ask(["mark", program.pid, "begun"])
      let recording = program.directory.file("run.rec")
      let recorder = try ChildProcess(
        [Installation.path(of: "allocsctl"), "record", program.pid, "-o", recording],
        environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": program.directory.path]) { $1 })
      try wait(for: "the recording") {
        FileManager.default.fileExists(atPath: recording)
      }
      try program.goOn()
      // As in `goOn`: the times of blocks are told to a tick.
      letRun(microseconds: 100_000)
      _ = try program.ask(["mark", program.pid, "ended"])
      recorder.signal(SIGINT)
      _ = try recorder.wait()
      let snapshot = program.directory.file("all.snap")
      _ = try program.ask(["snapshot", program.pid, "-o", snapshot])
      let bytes = (0..<70).reduce(0) { $0 + 500 + $1 }
      for words in [
        ["replay", recording, "--since", "@0s"], ["replay", recording, "--since", "begun"],
        ["replay", recording, "--since", "begun", "--until", "ended"], ["replay", snapshot, "--since", "begun"],
        ["top", recording, "--since", "@1ms"], ["top", snapshot, "--since", "begun"],
        ["top", "\(recording)@peak", "--since", "begun"], ["tree", snapshot, "--since", "begun"],
      ] {
        #expect(total(try program.objects(words).first) == [70, bytes], "\(words)")
      }
      #expect(total(try program.objects(["replay", recording, "--since", "peak"]).first)[0] <= 70)
      for (words, said) in [
        (["replay", recording, "--since", "@2"], "@2.5s, with its unit"),
        (["top", snapshot, "--since", "@2"], "@2.5s, with its unit"),
        (["replay", recording, "--since", "@1h"], "behind the end"),
        (["replay", recording, "--since", "never"], "these marks: begun, ended"),
        (["top", snapshot, "--until", "peak"], "these marks: begun, ended"),
        (["replay", recording, "--since", "ended", "--until", "begun"], "ends before it begins"),
        (["export", recording, "--format", "jsonl", "-o", "-", "--since", "never"], "these marks: begun, ended"),
        (["top", program.pid, "--since", "@2s"], "a moment of a recording"),
        (["tree", program.pid, "--until", "@2s", "--direct"], "a moment of a recording"),
      ] {
        let outcome = try Tool.control(words, in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(words): \(outcome)")
        #expect(outcome.errors.contains(said), "\(words): \(outcome.errors)")
      }
    }

    @Test("every block of a process and of a snapshot, for the programs that read recordings")
    func blocksForOthers() throws {
      let program = try Phases()
      let snapshot = program.directory.file("all.snap")
      _ = try program.ask(["snapshot", program.pid, "-o", snapshot])
      let all = total(try program.objects(["top", program.pid]).first)
      let description =
        ProcessInfo.processInfo.environment["ALLOCS_PERFETTO_DIR"] ?? "\(Installation.packageDirectory)/.build/perfetto"
      for source in [program.pid, snapshot] {
        func export(_ format: String, _ options: [String] = []) throws -> String {
          let file = program.directory.file("out.\(format)")
          _ = try program.ask(["export", source, "--format", format, "-o", file] + options)
          return file
        }
        let lines = try Tool.objects(String(contentsOfFile: try export("jsonl"), encoding: .utf8))
        let blocks = lines.filter { $0["block"] != nil }
        #expect(blocks.count == all[0] && blocks.reduce(0) { $0 + ($1["size"] as? Int ?? 0) } == all[1])
        #expect(Set(blocks.compactMap { $0["block"] as? String }).isSuperset(of: program.first + program.second))
        #expect((lines.first?["recording"] as? [String: Any])?["events"] as? Int == 0)

        // Those of a window.
        let since = ["--since", "@\(program.between)"]
        let late = try Tool.objects(String(contentsOfFile: try export("jsonl", since), encoding: .utf8))
        let bases = late.compactMap { $0["block"] as? String }
        #expect(bases.count == 70 && Set(bases) == Set(program.second))
        let few = try ChildProcess.run(["heaptrack_print", try export("heaptrack", since)])
        #expect(few.output.contains("calls to allocation functions: 70 "), "\(few.output.suffix(400))")
        let early = try Tool.objects(
          String(contentsOfFile: try export("jsonl", ["--until", "@\(program.between)"]), encoding: .utf8))
        #expect(early.filter { $0["block"] != nil }.count == all[0] - 70)

        let printed = try ChildProcess.run(["heaptrack_print", try export("heaptrack")])
        #expect(printed.output.contains("calls to allocation functions: \(all[0]) "), "\(printed.output.suffix(400))")
        #expect(printed.output.contains("in_second"))

        let read = try ChildProcess.run(
          ["/usr/bin/python3", Programs.source("perfetto_trace.py"), description, try export("perfetto")])
        let dumps = try #require(try Tool.objects(read.output).first?["dumps"] as? [[String: Int]], "\(read)")
        #expect(dumps.count == 1 && dumps[0]["allocated"] == all[1] && dumps[0]["allocations"] == all[0], "\(dumps)")
        #expect(dumps[0]["freed"] == 0)
      }
    }

    @Test("resident memory adds up to the kernel's account, and the pages that few bytes hold have their site")
    func memory() throws {
      let directory = try TestDirectory()
      let process = try ChildProcess(
        [Programs.path("holes.c")],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try process.readLines(until: "ready")
      let server = try Server(directory)
      for socket in [nil, server.socket] {
        func ask(_ options: [String]) throws -> String {
          let outcome = try Tool.control(["memory", "\(process.pid)"] + options, in: directory, socket: socket)
          #expect(outcome.ending == .exit(0), "\(outcome)")
          return outcome.output
        }
        let account = try #require(try Tool.objects(try ask(["--pinned", "--json"])).first)
        let parts = try #require(account["parts"] as? [String: [String: Int]])
        let resident = try #require((account["total"] as? [String: Int])?["resident"])
        #expect(parts.values.reduce(0) { $0 + ($1["resident"] ?? 0) } == resident)
        let rollup = try String(contentsOfFile: "/proc/\(process.pid)/smaps_rollup", encoding: .utf8)
        let kernel = try #require(
          rollup.split(separator: "\n").first { $0.hasPrefix("Rss:") }?.split(separator: " ").dropFirst().first
            .flatMap { Int($0) })
        #expect(abs(kernel * 1024 - resident) < 256 << 10, "\(kernel) KiB by the kernel, \(resident) bytes here")
        let heap = try #require(account["heap"] as? [String: Int])
        let pieces = ["resident_live", "resident_beside", "resident_free"].map { heap[$0] ?? -1 }
        #expect(pieces.reduce(0, +) == parts["heap"]?["resident"], "\(heap) \(parts)")
        // 1,000 blocks of 256 bytes live, and 8 MiB that were never touched.
        #expect(try #require(heap["live_bytes"]) >= 8 << 20)
        #expect(pieces[0] >= 256_000 && pieces[0] < 1 << 20)
        // Of the 16 MiB that were filled, three pages of four have no live block.
        #expect(pieces[2] > 9 << 20, "\(heap)")
        let pins = try #require(account["pinned"] as? [[String: Any]])
        let first = try #require(pins.first)
        #expect((first["site"] as? [String: Any])?["function"] as? String == "keep", "\(first)")
        #expect(try #require(first["pages"] as? Int) >= 950 && first["blocks"] as? Int ?? 0 <= 1100)
        for key in ["heap", "index", "stacks", "code", "data"] {
          #expect(try #require(parts[key]?["resident"]) > 0, "\(key)")
        }
        let text = try ask(["--pinned"])
        #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
        #expect(text.contains("keep (holes.c:") && text.contains("pages without a live block"))
        #expect(text.contains("of live blocks are not resident"), "\(text)")
      }
      try process.send("\n")
      _ = try process.wait()
      let outcome = try Tool.control(["memory", "\(process.pid)"], in: directory)
      #expect(outcome.ending == .exit(1) && outcome.errors.contains("it has ended"), "\(outcome)")
    }

    @Test(
      "the heap's memory by allocator and arena adds up to the heap's row", arguments: Allocator.allCases)
    func arenas(_ allocator: Allocator) throws {
      try allocator.require()
      let directory = try TestDirectory()
      let process = try ChildProcess(
        [Programs.path("arenas.c")],
        environment: ChildProcess.baseEnvironment.merging(
          Installation.agentEnvironment(directory.path, below: allocator.library)
        ) { $1 }, conversing: true)
      _ = try process.readLines(until: "ready")
      let account = try #require(
        try Tool.objects(try Tool.control(["memory", "\(process.pid)", "--json"], in: directory).output).first)
      let heap = try #require(account["heap"] as? [String: Int])
      let parts = try #require(account["allocators"] as? [[String: Any]])
      func sum(_ rows: [[String: Any]], _ key: String) -> Int { rows.reduce(0) { $0 + ($1[key] as? Int ?? 0) } }
      for key in ["live_bytes", "live_blocks", "resident_live", "resident_beside", "resident_free"] {
        #expect(sum(parts, key) == heap[key], "\(key): \(heap) \(parts)")
      }
      let row = (account["parts"] as? [String: [String: Int]])?["heap"]
      #expect(sum(parts, "resident") == row?["resident"], "\(parts)")
      let own = try #require(parts.first)
      #expect((own["allocator_module"] as? String)?.contains("/\(allocator.modulePrefix)") == true, "\(parts)")
      let live = 4000 * 500 + 6000 * 300 + 8 << 20
      #expect((live..<live + 1 << 20).contains(own["live_bytes"] as? Int ?? 0), "\(own)")
      #expect(own["resident"] as? Int ?? 0 > live * 9 / 10, "\(own)")
      let text = try Tool.control(["memory", "\(process.pid)"], in: directory).output
      #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text)")
      #expect(text.contains("HELD BY"))
      guard allocator == .glibc else {
        #expect(own["arenas"] == nil && own["resident_rounded"] == nil, "\(own)")
        return
      }
      let arenas = try #require(own["arenas"] as? [[String: Any]])
      #expect(own["arena_count"] as? Int == arenas.count)
      for key in ["live_bytes", "live_blocks", "resident", "resident_rounded"] {
        #expect(sum(arenas, key) == own[key] as? Int, "\(key): \(own)")
      }
      let (main, thread, single) = try (
        #require(arenas.first { $0["kind"] as? String == "main" }),
        #require(arenas.first { $0["kind"] as? String == "thread" }),
        #require(arenas.first { $0["kind"] as? String == "single" })
      )
      #expect(thread["live_blocks"] as? Int == 6000 && thread["live_bytes"] as? Int == 6000 * 300, "\(thread)")
      // A block of 300 bytes has 312, of 500 has 504. What lies behind the end of a page is not counted.
      #expect((6000 * 11...6000 * 12).contains(thread["resident_rounded"] as? Int ?? 0), "\(thread)")
      #expect(Int((thread["start"] as? String)?.dropFirst(2) ?? "", radix: 16).map { $0 % (64 << 20) } == 0)
      #expect(main["live_blocks"] as? Int ?? 0 >= 4000 && single["live_bytes"] as? Int ?? 0 >= 8 << 20, "\(arenas)")
      #expect(text.contains("the program break") && text.contains("heap 0x") && text.contains("mapped one by one"))
    }

    @Test("a second process's memory is compared by names, as its addresses are others")
    func processes() throws {
      let directory = try TestDirectory()
      let programs = try (Phases(in: directory, phases: 1), Phases(in: directory))
      let difference = try #require(
        try programs.0.objects(["diff", programs.0.pid, programs.1.pid]).first)
      let rows = try #require(difference["rows"] as? [[String: Any]])
      #expect(rows.count == 1, "\(rows)")
      #expect(difference["relation"] as? String == "other_process")
    }

    @Test("a difference says what its two sources have to do with each other, and takes two programs only if asked")
    func kinship() throws {
      let program = try Phases(phases: 1)
      let directory = program.directory
      func snapshot(_ process: ChildProcess, _ name: String) throws -> String {
        let file = directory.file(name)
        _ = try program.ask(["snapshot", "\(process.pid)", "-o", file])
        return file
      }
      func relation(_ words: [String]) throws -> String? {
        try program.objects(["diff"] + words).first?["relation"] as? String
      }
      let own = directory.file("own.snap")
      _ = try program.ask(["snapshot", program.pid, "-o", own])
      #expect(try relation([own, program.pid]) == "same_process")
      #expect(try !program.ask(["diff", own, program.pid]).contains("These are"))
      let again = try Phases(in: directory, phases: 1)
      #expect(try relation([own, again.pid]) == "other_process")
      let said = try program.ask(["diff", own, again.pid])
      #expect(
        said.contains("These are two processes of ") && said.contains("\(program.pid) and \(again.pid)."), "\(said)")
      let other = try ChildProcess(
        ["/bin/cat"],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      try other.send("it runs\n")
      _ = try other.readLine()
      let cat = try snapshot(other, "cat.snap")
      for words in [[own, cat], [cat, own], [own, "\(other.pid)"]] {
        let outcome = try Tool.control(["diff"] + words, in: directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(outcome)")
        #expect(outcome.errors.contains("two programs: ") && outcome.errors.contains("--other-program"), "\(outcome)")
        #expect(try relation(words + ["--other-program"]) == "other_program")
      }
      let text = try program.ask(["diff", own, cat, "--other-program"])
      #expect(text.contains("These are two programs: ") && text.contains(" and cat."), "\(text)")
    }

    @Test("sources that are none, and what can't be asked of one")
    func badSources() throws {
      let program = try Phases()
      let file = program.directory.file("a.snap")
      _ = try program.ask(["snapshot", program.pid, "-o", file])
      let cut = program.directory.file("cut.snap")
      try Data(contentsOf: URL(fileURLWithPath: file)).prefix(100).write(to: URL(fileURLWithPath: cut))
      for (arguments, ending) in [
        (["diff", file, "999999999"], 1), (["diff", file, "/nonexistent"], 1), (["diff", file, "\(file)@soon"], 64),
        (["diff", file], 64), (["diff", cut, file], 1), (["tree", file, "--level", "block"], 64),
        (["tree", "\(program.pid)@1"], 1), (["diff", file, file, "--by", "age"], 64),
        (["diff", file, file, "--fail-over", "much"], 64), (["export", file, "--format", "pdf", "-o", "-"], 64),
        (["export", file, "--format", "jsonl", "--within", "main", "-o", "-"], 64),
        (["snapshot", program.pid, "-o", "/nonexistent/x"], 1), (["snapshot", "999999999", "-o", file], 1),
      ] as [([String], Int32)] {
        let outcome = try Tool.control(arguments, in: program.directory)
        #expect(outcome.ending == .exit(ending) && outcome.output.isEmpty, "\(arguments): \(outcome)")
        #expect(outcome.errors.contains(" — "), "\(outcome.errors)")
      }
      #expect(!FileManager.default.fileExists(atPath: "/nonexistent"))
    }
  }
}
