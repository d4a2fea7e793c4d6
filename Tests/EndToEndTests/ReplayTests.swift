// SPDX-License-Identifier: Apache-2.0
// What is made of recordings: tables, exports, which other programs read, and the history of an address, also after
// death; and what is cut or damaged costs itself only.

import Foundation
import IndexReader
import Recording
import TestSupport
import Testing

extension EndToEnd {
  @Suite("replays")
  struct Replays {
    @Test("a recording that is cut at any byte of its last chunks keeps all before", arguments: [[], ["--zstd"]])
    func cut(options: [String]) throws {
      let (file, directory) = try Recorder.small(options)
      let whole = try Recording(path: file)
      let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      let chunks = whole.chunkOffsets
      try #require(chunks.count > 5)
      let copy = directory.file("cut.rec")
      let events = whole.eventChunkOffsets
      let last = try #require(events.last)
      let before = chunks.filter { $0 <= last }.count
      // From the end back to the beginning of the last chunk of events, and a little before.
      for length in stride(from: bytes.count - 1, through: chunks[before - 2], by: -1) {
        try bytes.prefix(length).write(to: URL(fileURLWithPath: copy))
        let recording = try Recording(path: copy)
        #expect(!recording.problems.isEmpty && recording.end == nil, "\(length)")
        let kept = events.filter { offset in (chunks.first { $0 > offset } ?? bytes.count) <= length }.count
        #expect(recording.eventChunkOffsets == Array(events.prefix(kept)), "\(length)")
        if length % 64 == 0 { _ = recording.replay(until: recording.endStamp) }
      }
    }

    @Test("a flipped bit costs the chunk that it is in, which is said", arguments: [[], ["--zstd"]])
    func flipped(options: [String]) throws {
      let (file, directory) = try Recorder.small(options)
      let whole = try Recording(path: file)
      let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      let copy = directory.file("flipped.rec")
      var random = RandomNumbers()
      var read = 0
      for _ in 0..<400 {
        var damaged = bytes
        damaged[Int.random(in: 0..<bytes.count, using: &random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        try damaged.write(to: URL(fileURLWithPath: copy))
        // In the header, or in what says whose recording it is, it is fatal; else all but one chunk is there.
        guard let recording = try? Recording(path: copy) else { continue }
        read += 1
        #expect(!recording.problems.isEmpty)
        #expect(recording.eventChunkOffsets.count >= whole.eventChunkOffsets.count - 1)
        _ = recording.replay(until: recording.endStamp)
      }
      #expect(read > 300, "\(read) of 400 were read")
    }

    @Test("what is no recording, or of another version, or cannot be written, is refused with a reason")
    func refusals() throws {
      let (file, directory) = try Recorder.small([])
      var bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      bytes[8] = 9
      var checksum: UInt32 = 0xFFFF_FFFF
      for byte in bytes.prefix(28) {
        checksum ^= UInt32(byte)
        for _ in 0..<8 { checksum = checksum >> 1 ^ (checksum & 1 == 0 ? 0 : 0x82F6_3B78) }
      }
      withUnsafeBytes(of: (~checksum).littleEndian) { bytes.replaceSubrange(28..<32, with: $0) }
      let other = directory.file("other.rec")
      try bytes.write(to: URL(fileURLWithPath: other))
      let empty = try directory.write("", to: "empty.rec")
      let text = try directory.write(String(repeating: "not a recording\n", count: 100), to: "text.rec")
      for (arguments, reason) in [
        (["replay", other], "version 9"), (["replay", empty], "no recording"), (["replay", text], "no recording"),
        (["replay", directory.path], "not a file"), (["replay", "/dev/zero"], "not a file"),
        (["replay", directory.file("none.rec")], "No such file"),
        (["export", file, "--format", "jsonl", "-o", "/dev/full"], "No space left"),
        (["history", "--recording", text, "0x1000"], "no recording"),
        (["record", "1", "-o", directory.file("x.rec")], "not indexed"),
        (["record", "999999999", "-o", directory.file("x.rec")], "no process"),
      ] {
        let outcome = try Tool.control(arguments, in: directory)
        let words = outcome.errors.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        #expect(outcome.ending == .exit(1) && words.contains(reason), "\(arguments): \(outcome)")
      }
      for arguments in [
        ["record", "1"], ["replay", file, "--at", "soon"], ["replay", file, "--at", "1s", "--peak"],
        ["export", file, "--format", "pdf", "-o", other], ["history", "1"],
        ["record", "1", "-o", "x", "--duration", "-1"],
      ] {
        #expect(try Tool.control(arguments, in: directory).ending == .exit(64), "\(arguments)")
      }
      let program = try Eventful(in: directory)
      let full = try Tool.control(["record", program.pid, "-o", "/dev/full"], in: directory)
      #expect(full.ending == .exit(1) && full.errors.contains("No space left"), "\(full)")
      #expect(!program.hasEventsOn)
    }

    @Test("a history says when events were off, and what of a recording is missing")
    func incompleteHistory() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      for _ in 0..<2 {
        try? FileManager.default.removeItem(atPath: file)
        let recorder = try Recorder.start(program.process.pid, to: file, in: program.directory)
        try program.tell("pairs 100 4321")
        _ = try Recorder.end(recorder, interrupting: true)
        try program.tell("pairs 1 4321")
      }
      let asked = ["history", program.pid, "0x10"]
      let text = try Tool.control(asked, in: program.directory).output
        .split(whereSeparator: \.isWhitespace).joined(separator: " ")
      #expect(text.contains("events were off at times") && text.contains("events are off"), "\(text)")
      let last = try #require(Tool.objects(Tool.control(asked + ["--json"], in: program.directory).output).last)
      #expect(last["events_off"] as? Bool == true)
      let ages = ["newest_seconds", "complete_seconds", "oldest_seconds"].compactMap { last[$0] as? Double }
      #expect(ages.count == 3 && ages == ages.sorted() && ages[1] < ages[2], "\(last)")
      let cut = program.directory.file("cut.rec")
      let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      try bytes.dropLast(20).write(to: URL(fileURLWithPath: cut))
      for command in [["history", "--recording", cut, "0x10"], ["replay", cut, "--query", "0x10"]] {
        let outcome = try Tool.control(command, in: program.directory)
        #expect(outcome.ending == .exit(0) && outcome.errors.contains("cut.rec: the last"), "\(outcome)")
      }
      let late = try Tool.control(["replay", file, "--at", "1000000s"], in: program.directory)
      #expect(late.ending == .exit(0) && late.errors.contains("ends after"), "\(late)")
    }

    @Test("windows, wrappers and orders of a replay, and the blocks of a moment, as the process had them then")
    func moments() throws {
      let (file, directory) = try Recorder.small([])
      let recording = try Recording(path: file)
      func table(_ arguments: [String]) throws -> [String: Any] {
        let outcome = try Tool.control(["replay", file, "--json"] + arguments, in: directory)
        #expect(outcome.ending == .exit(0), "\(arguments): \(outcome)")
        return try #require(try Tool.objects(outcome.output).first)
      }
      func blocks(_ table: [String: Any]) -> Int { (table["total"] as? [String: Any])?["blocks"] as? Int ?? -1 }
      let all = blocks(try table([]))
      #expect(UInt64(all) == recording.summary().endBlocks && all > 0)
      // Two windows that meet have all blocks between them.
      let length = recording.seconds(at: recording.endStamp)
      for age in [0, length / 3, length / 2, 432_000] {
        let (young, old) = (try table(["--younger", "\(age)s"]), try table(["--older", "\(age)s"]))
        #expect(blocks(young) + blocks(old) == all, "\(age)")
        #expect(age < 432_000 || blocks(old) == 0)
        let ages = (young["sites"] as? [[String: Any]] ?? []).compactMap { $0["oldest_seconds"] as? Double }
        #expect(ages.allSatisfy { $0 <= age + 0.05 }, "\(ages)")
      }
      let byAge = try table(["--sort", "age"])["sites"] as? [[String: Any]] ?? []
      let oldest = byAge.compactMap { $0["oldest_seconds"] as? Double }
      #expect(oldest.count == byAge.count && oldest == oldest.sorted(by: >))
      let sites = byAge.compactMap { ($0["site"] as? [String: Any])?["function"] as? String }
      let site = try #require(sites.first)
      let passed = try table(["--wrapper", site])["sites"] as? [[String: Any]] ?? []
      #expect(!passed.contains { ($0["site"] as? [String: Any])?["function"] as? String == site })
      let text = try Tool.control(["replay", file, "--younger", "5d"], in: directory).output
      #expect(text.contains(" made in the last 5 d"), "\(text)")
      #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      let refused = try Tool.control(["replay", file, "--level", "block"], in: directory)
      #expect(refused.ending == .exit(64) && refused.errors.contains("chunks of pools"), "\(refused)")

      let peak = recording.summary()
      let lines = directory.file("peak.jsonl"), exported = directory.file("peak.heaptrack")
      for (format, output) in [("jsonl", lines), ("heaptrack", exported)] {
        let outcome = try Tool.control(["export", "\(file)@peak", "--format", format, "-o", output], in: directory)
        #expect(outcome.ending == .exit(0), "\(outcome)")
      }
      let objects = try Tool.objects(String(contentsOfFile: lines, encoding: .utf8))
      let lived = objects.filter { $0["block"] != nil }
      #expect(UInt64(lived.count) == peak.peakBlocks && objects.allSatisfy { $0["event"] == nil })
      #expect(lived.reduce(0) { $0 + ($1["size"] as? Int ?? 0) } == Int(peak.peakBytes))
      let moment = (objects.first?["recording"] as? [String: Any])?["moment_ns"] as? Int
      #expect(moment.map { UInt64($0) } == peak.peakStamp)
      let printed = try ChildProcess.run(["heaptrack_print", exported])
      #expect(
        printed.output.contains("calls to allocation functions: \(peak.peakBlocks) "), "\(printed.output.suffix(300))")
    }

    @Test("an export goes to standard output, and never over its own recording")
    func exportPlaces() throws {
      let (file, directory) = try Recorder.small([])
      let bytes = try Data(contentsOf: URL(fileURLWithPath: file))
      let link = directory.file("link.rec")
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: file)
      for output in [file, link] {
        let refused = try Tool.control(["export", file, "--format", "jsonl", "-o", output], in: directory)
        #expect(refused.ending == .exit(1) && refused.errors.contains("recording itself"), "\(refused)")
      }
      #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == bytes)
      let lines = directory.file("small.jsonl")
      _ = try Tool.control(["export", file, "--format", "jsonl", "-o", lines], in: directory)
      let printed = try Tool.control(["export", file, "--format", "jsonl", "-o", "-"], in: directory)
      #expect(try printed.output == String(contentsOfFile: lines, encoding: .utf8) && printed.output.contains("4321"))
    }

    @Test("by Perfetto's own description of traces, the one that is exported has the recording's numbers")
    func perfetto() throws {
      let description =
        ProcessInfo.processInfo.environment["ALLOCS_PERFETTO_DIR"] ?? "\(Installation.packageDirectory)/.build/perfetto"
      try #require(
        FileManager.default.fileExists(atPath: "\(description)/google/protobuf/message.py"),
        "nothing is in \(description): run scripts/fetch-perfetto, or name its directory with ALLOCS_PERFETTO_DIR")
      let (file, directory) = try Recorder.small(["--zstd"])
      let trace = directory.file("small.pftrace")
      let outcome = try Tool.control(["export", file, "--format", "perfetto", "-o", trace], in: directory)
      try #require(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(outcome)")
      let read = try ChildProcess.run(
        ["/usr/bin/python3", Programs.source("perfetto_trace.py"), description, trace])
      try #require(read.ending == .exit(0), "\(read)")
      let said = try #require(Tool.objects(read.output).first)
      let recording = try Recording(path: file)
      let summary = recording.summary()
      let pid = Int(recording.process.processID)
      let processes = said["processes"] as? [[String: Any]]
      #expect(processes?.map { $0["pid"] as? Int } == [pid])
      #expect(processes?.first?["command"] as? [String] == recording.process.command.map(\.unescaped))
      let dumps = try #require(said["dumps"] as? [[String: Int]])
      let last = try #require(dumps.last)
      #expect(dumps.allSatisfy { $0["pid"] == pid && $0["interval"] == 1 })
      #expect(UInt64(last["time"] ?? 0) == recording.endStamp)
      #expect((last["allocated"] ?? 0) - (last["freed"] ?? 0) == Int(summary.endBytes))
      #expect((last["allocations"] ?? 0) - (last["frees"] ?? 0) == Int(summary.endBlocks))
      #expect(last["frees"] == Int((summary.counts[.free] ?? 0) + (summary.counts[.reallocOld] ?? 0)))
      let peak = dumps.first { UInt64($0["time"] ?? 0) == summary.peakStamp }
      #expect(summary.peakStamp < recording.endStamp)
      #expect(peak.map { ($0["allocated"] ?? 0) - ($0["freed"] ?? 0) } == Int(summary.peakBytes), "\(dumps)")
      for (earlier, later) in zip(dumps, dumps.dropFirst()) {
        #expect(["time", "allocated", "freed"].allSatisfy { earlier[$0] ?? 0 <= later[$0] ?? 0 })
      }
      #expect((said["functions"] as? [String])?.contains("pairs") == true)
      #expect((said["modules"] as? [String])?.contains(try Programs.path("eventful.c")) == true)
    }

    @Test("heaptrack_print reads what is exported for it, and finds the same numbers")
    func heaptrack() throws {
      let (file, directory) = try Recorder.small(["--zstd"])
      let exported = directory.file("small.heaptrack"), lines = directory.file("small.jsonl")
      for (format, output) in [("heaptrack", exported), ("jsonl", lines)] {
        let outcome = try Tool.control(["export", file, "--format", format, "-o", output], in: directory)
        try #require(outcome.ending == .exit(0) && outcome.errors.isEmpty, "\(outcome)")
      }
      let objects = try Tool.objects(String(contentsOfFile: lines, encoding: .utf8))
      let begun = objects.count { ["alloc", "realloc_new"].contains($0["event"] as? String) || $0["block"] != nil }
      let told = Set(objects.compactMap { $0["context"] as? Int }.filter { $0 != 0 })
      let described = Set(objects.filter { $0["stack"] != nil }.compactMap { $0["context"] as? Int })
      #expect(told == described)
      let printed = try ChildProcess.run(["heaptrack_print", exported])
      #expect(printed.ending == .exit(0))
      #expect(
        printed.output.contains("calls to allocation functions: \(begun) "), "\(begun): \(printed.output.suffix(400))")
      let program = try Programs.path("eventful.c")
      #expect(printed.output.contains("pairs") && printed.output.contains("eventful.c:"))
      #expect(printed.output.contains("Debuggee command was: \(program)"))
    }

    @Test("the history of a freed block names who freed it and who had allocated it, also after death")
    func useAfterFree() throws {
      let program = try Eventful(environment: ["ALLOCS_EVENTS": "1", "ALLOCS_FREE_STACKS": "1"])
      let kept = try #require(program.tell("keep 1234").first)
      let address = try #require(UInt64(kept.dropFirst(2), radix: 16))
      try program.tell("pairs 1 4321")
      func history(_ address: UInt64) throws -> [[String: Any]] {
        let outcome = try Tool.control(["history", program.pid, "\(address)", "--json"], in: program.directory)
        try #require(outcome.ending == .exit(0), "\(outcome)")
        return try Tool.objects(outcome.output)
      }
      func names(_ object: [String: Any]) -> [String] {
        (object["stack"] as? [[String: Any]] ?? []).compactMap { $0["function"] as? String }
      }
      #expect(try history(address + 10).map { $0["event"] as? String } == ["alloc", nil])
      try program.process.send("die\n")
      _ = try program.process.wait()
      let freed = try history(address)
      #expect(freed.first?["offset"] as? Int == 0 && freed.first?["size"] as? Int == 1234)
      #expect(freed.last?["lost"] as? Int == 0 && freed.last?["events"] as? Int ?? 0 >= 2002)
      // The last pairs left a block that was allocated and freed a thousand times at one place.
      let segment = try Segment(path: program.directory.segment(of: program.process.pid))
      let contents = RingContents(of: segment)
      let last = try #require(contents.events.filter { $0.kind == .free && $0.size == 48 }.max { $0.stamp < $1.stamp })
      let ended = try history(last.address + 40)
      #expect(ended.count > 2 && ended[0]["event"] as? String == "free" && ended[1]["event"] as? String == "alloc")
      #expect(names(ended[0]).contains("pairs") && names(ended[1]).contains("pairs"))
      #expect((ended[0]["thread"] as? [String: Any])?["id"] as? Int == Int(program.pid))
      let text = try Tool.control(["history", program.pid, "\(last.address)", "--limit", "1"], in: program.directory)
      #expect(text.output.contains("freed ") && text.output.contains("pairs") && text.output.contains("older events"))
      #expect(text.output.split(separator: "\n").allSatisfy { $0.count <= 80 })
    }
  }
}
