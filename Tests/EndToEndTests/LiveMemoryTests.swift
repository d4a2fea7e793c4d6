// SPDX-License-Identifier: Apache-2.0
// Live memory by when it was made, by calls, block by block, and as other programs' files: of a program that allocates in
// two phases, directly and through the server.

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

      init() throws {
        directory = try TestDirectory()
        process = try ChildProcess(
          [Programs.path("phases.c")],
          environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
          conversing: true)
        try process.send("\n")
        first = try words()
        // A record's time is told to a tick, 1/64 s, and the clock that the agent reads is behind by some milliseconds.
        Thread.sleep(forTimeInterval: 0.1)
        between = Date().timeIntervalSince1970
        Thread.sleep(forTimeInterval: 0.1)
        try process.send("\n")
        second = try words()
      }

      private func words() throws -> [String] {
        try #require(try process.readLine()).split(separator: " ").map(String.init)
      }

      var pid: String { "\(process.pid)" }

      func ask(_ arguments: [String], socket: String? = nil) throws -> String {
        let outcome = try Tool.control(
          arguments + (socket == nil ? ["--direct"] : []), in: directory, socket: socket)
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
          (tree["nodes"] as? [[String: Any]] ?? []).map { ($0["frame"] as? [String: Any])?["function"] as? String ?? "?" }
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
        var answer = try #require(try program.objects(["query", program.pid, program.second[10]], socket: socket).first)
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
          ["python3", "-c", "import sys, xml.dom.minidom; print(len(xml.dom.minidom.parse(sys.stdin).getElementsByTagName('title')))"],
          input: String(decoding: picture, as: UTF8.self))
        #expect(Int(reader.output.trimmingCharacters(in: .whitespacesAndNewlines)).map { $0 >= 4 } == true, "\(reader)")
      }
      for arguments in [
        [program.pid, "--format", "heaptrack"], ["x.rec", "--format", "dhat"], [program.pid, "--format", "pdf"],
      ] {
        let outcome = try Tool.control(["export"] + arguments + ["-o", "-"], in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.output.isEmpty, "\(outcome)")
      }
    }
  }
}
