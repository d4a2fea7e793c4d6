// SPDX-License-Identifier: Apache-2.0
// Recordings: what is replayed is what the program did; other programs read them; what is cut or damaged costs itself
// only; and the history of an address, also after death.

import Foundation
import IndexReader
import Recording
import SharedLayout
import TestSupport
import Testing

/// `allocsctl record` while it runs.
private func record(_ pid: Int32, to file: String, _ options: [String] = [], in directory: TestDirectory) throws
  -> ChildProcess
{
  let recorder = try ChildProcess(
    [Installation.path(of: "allocsctl"), "record", "\(pid)", "-o", file] + options,
    environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 })
  try wait(for: "something is recorded") {
    let size = try? FileManager.default.attributesOfItem(atPath: file)[.size] as? Int
    return size ?? 0 > 32 || recorder.hasEnded
  }
  return recorder
}

private func expectEnd(_ recorder: ChildProcess, interrupting: Bool = false) throws -> String {
  if interrupting { recorder.signal(SIGINT) }
  let outcome = try recorder.wait()
  try #require(outcome.ending == .exit(0) && outcome.errors == "", "\(outcome)")
  return outcome.output
}

/// Makes the last ring of a process claim records that were never written. It must be the ring of a thread that has
/// ended: a living thread would write its own number again.
private func damageLastRing(of path: String) throws -> Int {
  let segment = try Segment(path: path)
  let ring = segment.ringCount - 1
  try #require(ring > 0)
  let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
  defer { try? file.close() }
  let sections = try #require(MemoryLayout<allocs_header>.offset(of: \.sections))
  try file.seek(
    toOffset: UInt64(sections + Int(ALLOCS_SECTION_RINGS.rawValue) * MemoryLayout<allocs_section>.stride))
  let word = try #require(try file.read(upToCount: 8))
  let start = word.enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << UInt64($1.offset * 8) }
  let stride = UInt64(ALLOCS_RING_RECORDS_OFFSET) + UInt64(segment.ringCapacity) * 32
  try file.seek(toOffset: start + UInt64(ring) * stride)
  try file.write(contentsOf: withUnsafeBytes(of: UInt64(1 << 40).littleEndian) { Data($0) })
  return ring
}

extension EndToEnd {
  @Suite("recordings")
  struct Recordings {
    @Test(
      "what a recording replays is what the program holds, and lost nothing",
      arguments: [([], Allocator.glibc), (["--zstd"], .glibc), ([], .jemalloc)])
    func truth(options: [String], allocator: Allocator) throws {
      try allocator.require()
      let program = try RecordingProgram(
        [Programs.path("truth.cpp"), "4", "40000", "2", "17", "none"] + (allocator == .glibc ? [] : ["64"]),
        below: allocator.library)
      _ = try program.reach(0)
      try program.proceed()
      _ = try program.reach(1)
      let file = program.records.file("run.rec")
      let recorder = try record(program.process.pid, to: file, options, in: program.directory)
      try program.proceed()
      let truth = try program.reach(2)
      let said = try expectEnd(recorder, interrupting: true)
      #expect(said.contains("none lost"), "\(said)")
      let recording = try Recording(path: file)
      #expect(recording.problems.isEmpty && recording.lostCount == 0 && recording.end == .stopped)
      #expect(recording.eventCount > 10_000)
      let replay = recording.replay(until: recording.endStamp)
      #expect(replay.unknownEnds == 0)
      let wrong = truth.blocks.filter { replay.blocks[$0.base]?.size != $0.size }
      #expect(wrong.isEmpty && truth.blocks.count > 1000, "\(wrong.prefix(5))")
      let segment = try program.openSegment()
      let index = Dictionary(uniqueKeysWithValues: segment.allAllocations().map { ($0.base, $0.size) })
      #expect(Dictionary(uniqueKeysWithValues: replay.blocks.map { ($0.base, $0.size) }) == index)
      // The same table, however it was come by, but for the ages, which are of two moments.
      let tables = try [["replay", file], ["top", "\(program.process.pid)"]].map {
        try Tool.control($0 + ["--json", "--limit", "10000"], in: program.directory)
      }
      let ages = #","(oldest|newest)_seconds":[0-9.e+-]+"#
      let ageless = tables.map { $0.output.replacingOccurrences(of: ages, with: "", options: .regularExpression) }
      #expect(tables.allSatisfy { $0.ending == .exit(0) && $0.errors.isEmpty }, "\(tables)")
      #expect(ageless[0] == ageless[1] && ageless[0].contains("\"sites\":[{"), "\(tables)")
      #expect(zip(tables, ageless).allSatisfy { $0.output != $1 }, "there are ages")
      // At the start it was what checkpoint 1 left.
      let start = try Record(directory: program.records.path, checkpoint: 1)
      let first = Replay(recording)
      #expect(start.blocks.allSatisfy { first.blocks[$0.base]?.size == $0.size })
      try program.proceed()
      try program.finish()
    }

    @Test("a program at full speed is recorded without a loss, and to its end, also if it is killed")
    func death() throws {
      let program = try Eventful(environment: ["ALLOCS_EVENTS_WAIT": "10000"])
      let file = program.directory.file("run.rec")
      let recorder = try record(program.process.pid, to: file, in: program.directory)
      try program.tell("pairs 300000 4321")
      try program.tell("thread 100000 777")
      try program.process.send("die\n")
      _ = try expectEnd(recorder)
      let recording = try Recording(path: file)
      #expect(recording.end == .processEnded && recording.lostCount == 0)
      let counts = allocations(recording)
      #expect(counts[4321] == 300_000 && counts[777] == 100_000 && counts[48] == 1000)
      let lines = try Tool.control(["replay", file], in: program.directory).output.split(separator: "\n")
      #expect(lines.allSatisfy { $0.count <= 80 } && lines.contains { $0.contains("none") && $0.contains("lost") })
    }

    @Test("net effects are in a recording, and without them it is replayed to the same numbers, as in versions before")
    func netEffects() throws {
      let program = try Eventful(environment: ["ALLOCS_EVENTS_WAIT": "10000"])
      let file = program.directory.file("run.rec")
      let recorder = try record(program.process.pid, to: file, ["--zstd"], in: program.directory)
      for size in 1...2 {
        try program.tell("pairs 250000 \(size * 1000)")
        try program.tell("thread 1000 \(size * 999)")
      }
      try program.process.send("die\n")
      _ = try expectEnd(recorder)
      let recording = try Recording(path: file)
      var bytes = try [UInt8](Data(contentsOf: URL(fileURLWithPath: file)))
      var effects = 0
      for offset in recording.chunkOffsets where bytes[offset + 4] == 14 {
        var header = try #require(ChunkHeader(bytes[offset...]))
        header.kind = 200
        let payload = bytes[(offset + RecordingFormat.chunkHeaderSize)...].prefix(Int(header.stored))
        bytes.replaceSubrange(offset..<payload.endIndex, with: header.chunk(of: Array(payload)))
        effects += 1
      }
      let other = program.directory.file("unknown.rec")
      try Data(bytes).write(to: URL(fileURLWithPath: other))
      let without = try Recording(path: other)
      #expect(effects > 0 && recording.lostCount == 0 && without.problems == recording.problems)
      let length = recording.endStamp - recording.startStamp
      for part: UInt64 in [1, 3] {
        let stamp = recording.startStamp + length / 4 * part
        let (one, two) = (recording.replay(until: stamp), without.replay(until: stamp))
        #expect(one.blocks.sorted == two.blocks.sorted && one.unknownEnds == two.unknownEnds, "\(part) quarters")
      }
      #expect(recording.summary() == without.summary())
    }

    @Test("a recorder that is killed leaves what it had, and the program goes on")
    func killedRecorder() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      let recorder = try record(program.process.pid, to: file, in: program.directory)
      try program.tell("pairs 400000 4321")
      // A chunk of a million events may be cut: the first must be whole.
      try wait(for: "events reach the file", of: recorder) { try Recording(path: file).eventCount > 0 }
      recorder.signal(SIGKILL)
      _ = try recorder.wait()
      // The program sees by itself that nobody renews the lease, as it allocates.
      try wait(for: "events go off") {
        try program.tell("pairs 10000 4321")
        return !program.hasEventsOn
      }
      let recording = try Recording(path: file)
      #expect(recording.end == nil && recording.problems.count == 1, "\(recording.problems)")
      #expect(recording.eventCount > 0)
      let outcome = try Tool.control(["replay", file], in: program.directory)
      #expect(outcome.ending == .exit(0) && outcome.output.contains("note: "), "\(outcome)")
    }

    /// Expects that so many allocations of each size were recorded, or are among what the recording says was lost.
    private func expect(
      _ made: [(size: UInt64, count: Int)], in recording: Recording, of counts: [UInt64: Int],
      sourceLocation: SourceLocation = #_sourceLocation
    ) {
      let missing = made.map { $0.count - (counts[$0.size] ?? 0) }
      #expect(missing.allSatisfy { $0 >= 0 }, "\(counts)", sourceLocation: sourceLocation)
      #expect(missing.reduce(0, +) <= recording.lostCount, "\(counts)", sourceLocation: sourceLocation)
    }

    /// How many allocations of each size were recorded.
    private func allocations(_ recording: Recording) -> [UInt64: Int] {
      var counts: [UInt64: Int] = [:]
      recording.forEachEvent { event in
        if event.kind == .alloc { counts[event.size, default: 0] += 1 }
        return true
      }
      return counts
    }

    /// A small recording.
    private func small(_ options: [String]) throws -> (file: String, directory: TestDirectory) {
      let program = try Eventful()
      let file = program.directory.file("small.rec")
      let recorder = try record(program.process.pid, to: file, options, in: program.directory)
      try program.tell("pairs 300 4321")
      _ = try program.tell("keep 1234")
      try program.process.send("end\n")
      _ = try expectEnd(recorder)
      return (file, program.directory)
    }

    @Test("a recording that is cut at any byte of its last chunks keeps all before", arguments: [[], ["--zstd"]])
    func cut(options: [String]) throws {
      let (file, directory) = try small(options)
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
      let (file, directory) = try small(options)
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
      let (file, directory) = try small([])
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

    @Test("run --record: from the program's first call to its end, which is its own")
    func fromTheStart() throws {
      let directory = try TestDirectory()
      let file = directory.file("run.rec")
      let program = try Programs.path("eventful.c")
      let outcome = try Tool.control(
        ["run", "--record", file, "--", program], in: directory, input: "pairs 2000 4321\nthread 500 777\nend\n")
      #expect(outcome.ending == .exit(0) && outcome.output == "ready\ndone\ndone\n", "\(outcome)")
      let recording = try Recording(path: file)
      #expect(recording.end == .processEnded && recording.problems.isEmpty && recording.process.isFromStart)
      let counts = allocations(recording)
      // A busy machine may attach the recorder late: then the rings are what there is, and the rest is counted.
      expect([(4321, 2000), (777, 500)], in: recording, of: counts)
      #expect(
        try Tool.control(["run", "--record", file, "--", "sh", "-c", "exit 7"], in: directory).ending == .exit(7))
      let refused = try Tool.control(["run", "--record", "/dev/full", "--", "sh", "-c", "true"], in: directory)
      #expect(refused.errors.contains("/dev/full") && refused.errors.contains("No space left"), "\(refused)")
    }

    @Test("run --record: a program that exec puts in the place of another has a recording of its own")
    func replaced() throws {
      let directory = try TestDirectory()
      let file = directory.file("run.rec"), second = directory.file("run-2.rec")
      let program = try Programs.path("eventful.c")
      let run = try ChildProcess(
        [Installation.path(of: "allocsctl"), "run", "--record", file, "--", program],
        environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 }, conversing: true)
      // Each goes on when it is being recorded: the recorder may come late.
      for (path, work) in [(file, "pairs 200 4321\nexec\n"), (second, "pairs 300 777\nend\n")] {
        _ = try run.readLines(until: "ready")
        try wait(for: "\(path) is begun", of: run) {
          var status = stat()
          return stat(path, &status) == 0 && status.st_size > 32
        }
        try run.send(work)
      }
      let outcome = try run.wait()
      #expect(outcome.ending == .exit(0) && outcome.errors.contains("became another program"), "\(outcome)")
      let recordings = try [file, second].map { try Recording(path: $0) }
      #expect(recordings.map(\.end) == [.replaced, .processEnded])
      #expect(recordings.allSatisfy { $0.problems.isEmpty && $0.process.isFromStart })
      let counts = recordings.map(allocations)
      expect([(4321, 200), (777, 0)], in: recordings[0], of: counts[0])
      expect([(4321, 0), (777, 300)], in: recordings[1], of: counts[1])
      // A recorder from outside is told, and may begin again.
      let other = try Eventful()
      let recorder = try record(other.process.pid, to: other.directory.file("run.rec"), in: other.directory)
      try other.process.send("exec\n")
      _ = try other.process.readLines(until: "ready")
      #expect(try expectEnd(recorder).contains("became another program"))
    }

    @Test("run --record: programs that exec replaces at once are recorded, or named as not recorded, each of them")
    func replacedAtOnce() throws {
      let directory = try TestDirectory()
      let file = directory.file("run.rec")
      // Each calls exec with the number below; the last prints.
      let script = directory.file("chain")
      try #"[ "$1" -gt 0 ] || { echo done; exit 3; }; exec sh "$0" $(($1 - 1))"#
        .write(toFile: script, atomically: true, encoding: .utf8)
      let outcome = try Tool.control(["run", "--record", file, "--", "sh", script, "60"], in: directory)
      #expect(outcome.ending == .exit(3) && outcome.output == "done\n", "\(outcome)")
      let recorded = try FileManager.default.contentsOfDirectory(atPath: directory.path).count { $0.hasSuffix(".rec") }
      let missed = outcome.errors.matches(of: /([0-9]+) programs? that the process ran before/).compactMap { Int($0.1) }
      #expect(recorded + missed.reduce(0, +) == 61, "\(recorded) recorded; \(outcome.errors)")
    }

    @Test("run --record: children make no events; nor does a program that cannot be recorded")
    func notRecorded() throws {
      let directory = try TestDirectory()
      // The first word of a control file is the switch.
      let word = #"od -An -tu4 -N4 "$ALLOCS_DIR"/$$.*.ctl"#
      let file = directory.file("run.rec")
      let outcome = try Tool.control(
        ["run", "--record", file, "--", "sh", "-c", "\(word); sh -c '\(word); true'; true"], in: directory)
      #expect(outcome.ending == .exit(0), "\(outcome)")
      #expect(outcome.output.split(whereSeparator: \.isWhitespace) == ["1", "0"], "\(outcome)")
      let refused = try Tool.control(
        ["run", "--record", directory.file("none/run.rec"), "--", "sh", "-c", "until [ $(\(word)) = 0 ]; do :; done"],
        in: directory)
      #expect(refused.ending == .exit(0) && refused.errors.contains("No such file"), "\(refused)")
    }

    @Test("a recording goes through no link: its name may be somebody else's doing")
    func throughLink() throws {
      let program = try Eventful()
      let link = program.directory.file("link.rec")
      try FileManager.default.createSymbolicLink(
        atPath: link, withDestinationPath: program.directory.file("run.rec"))
      let refused = try Tool.control(
        ["record", "\(program.pid)", "-o", link, "--duration", "1s"], in: program.directory)
      #expect(refused.ending == .exit(1))
      #expect(refused.errors.contains("cannot write a recording to"), "\(refused)")
      #expect(!FileManager.default.fileExists(atPath: program.directory.file("run.rec")))
      try program.process.send("end\n")
      _ = try program.process.wait()
    }

    @Test("run --record: a script without #!, and a recording into a pipe that nobody reads any more")
    func oddCommands() throws {
      let directory = try TestDirectory()
      let script = try directory.write("echo \"$1\"; exit 3\n", to: "script")
      try makeExecutable(script)
      let file = directory.file("run.rec")
      let said = try Tool.control(["run", "--record", file, "--", script, "said"], in: directory)
      #expect(said.ending == .exit(3) && said.output == "said\n", "\(said)")
      let pipe = directory.file("pipe")
      mkfifo(pipe, 0o600)
      let reader = try ChildProcess(["head", "-c", "1", pipe], environment: ChildProcess.baseEnvironment)
      let outcome = try Tool.control(
        ["run", "--record", pipe, "--", Programs.path("eventful.c")], in: directory,
        input: "pairs 300000 4321\npairs 300000 777\nend\n")
      _ = try reader.wait()
      #expect(outcome.ending == .exit(0) && outcome.output == "ready\ndone\ndone\n", "\(outcome)")
      #expect(outcome.errors.contains("Broken pipe"), "\(outcome)")
    }

    @Test(
      "what the process can't record is counted: in the recording, live, and in the history",
      .enabled(if: Restrictions.mayMount, "needs to mount a tmpfs"))
    func unrecorded() throws {
      let directory = try TestDirectory(), records = try TestDirectory()
      let mounted = try ChildProcess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory.path])
      try #require(mounted.ending == .exit(0), "\(mounted)")
      defer { _ = try? ChildProcess.run(["umount", "-l", directory.path]) }
      let program = try Eventful(in: directory)
      let file = records.file("run.rec")
      let watcher = try program.watch(["--json"])
      let recorder = try record(program.process.pid, to: file, in: directory)
      try program.tell("pairs 10 48")
      _ = try ChildProcess.run(["sh", "-c", "cat /dev/zero > '\(directory.path)/filler'"])
      // A new thread finds no room for a ring, nor for its blocks in the index; the ends of those are no events.
      try program.tell("thread 500 48")
      let history = try Tool.objects(Tool.control(["history", program.pid, "0x10", "--json"], in: directory).output)
      try program.process.send("end\n")
      _ = try expectEnd(recorder)
      let recording = try Recording(path: file)
      var told = 0
      recording.forEachEvent { event in
        if event.size == 48, event.kind == .alloc || event.kind == .free { told += 1 }
        return true
      }
      #expect(told < 1020 && told + Int(recording.lostCount) >= 520, "\(told) and \(recording.lostCount)")
      #expect(recording.losses.allSatisfy { $0.reason == .unrecorded })
      let lost = try Tool.objects(watcher.wait().output).filter { $0["event"] as? String == "lost" }
      let count = lost.reduce(0) { $0 + ($1["count"] as? Int ?? 0) }
      #expect(count > 0 && count <= Int(recording.lostCount), "\(lost)")
      #expect(history.last?["unrecorded"] as? Int ?? 0 > 0 && history.last?["complete_seconds"] == nil, "\(history)")
    }

    @Test("a ring that is damaged is said by the recorder, its recording, all that is made of it, and the history")
    func damagedRing() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      let recorder = try record(program.process.pid, to: file, in: program.directory)
      try program.tell("thread 500 777")
      let ring = try damageLastRing(of: program.directory.segment(of: program.process.pid))
      try program.tell("pairs 100 4321")
      let live = try Tool.control(["history", program.pid, "0x10"], in: program.directory)
      try program.process.send("end\n")
      #expect(try expectEnd(recorder).contains(", 1 ring damaged, "))
      let recording = try Recording(path: file)
      #expect(recording.end == .processEnded)
      let problem = "ring \(ring) of the process was damaged"
      #expect(recording.problems.count == 1 && recording.problems[0].hasPrefix(problem), "\(recording.problems)")
      // The other rings are whole.
      var pairs = 0
      recording.forEachEvent { event in
        if event.size == 4321, event.kind == .alloc { pairs += 1 }
        return true
      }
      #expect(pairs == 100)
      func words(_ text: String) -> String { text.split(whereSeparator: \.isWhitespace).joined(separator: " ") }
      let replayed = try Tool.control(["replay", file], in: program.directory)
      #expect(words(replayed.output).contains("note: \(problem)"), "\(replayed)")
      for command in [
        ["replay", file, "--json"], ["history", "--recording", file, "0x10"],
        ["export", file, "--format", "jsonl", "-o", "/dev/null"],
      ] {
        let outcome = try Tool.control(command, in: program.directory)
        #expect(outcome.ending == .exit(0) && words(outcome.errors).contains(problem), "\(command): \(outcome)")
      }
      #expect(words(live.output).contains("1 ring is damaged"), "\(live)")
      let last = try Tool.objects(
        Tool.control(["history", program.pid, "0x10", "--json"], in: program.directory).output
      ).last
      #expect(last?["damaged_rings"] as? Int == 1)
    }

    @Test("an index that is cut short ends the recording, which says so")
    func cutIndex() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      let recorder = try record(program.process.pid, to: file, in: program.directory)
      try program.tell("pairs 100 4321")
      // A program that went on would meet the cut itself.
      program.process.signal(SIGSTOP)
      #expect(truncate(try program.directory.segment(of: program.process.pid), 4096) == 0)
      #expect(try expectEnd(recorder).contains("; then the index of the process was cut short"))
      program.process.signal(SIGKILL)
      let recording = try Recording(path: file)
      #expect(recording.end == .sourceFailed)
      #expect(recording.problems.contains { $0.contains("was cut short") }, "\(recording.problems)")
      let replayed = try Tool.control(["replay", file], in: program.directory)
      #expect(replayed.ending == .exit(0) && replayed.output.contains("note: the index of the process"), "\(replayed)")
    }

    @Test("a history says when events were off, and what of a recording is missing")
    func incompleteHistory() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      for _ in 0..<2 {
        try? FileManager.default.removeItem(atPath: file)
        let recorder = try record(program.process.pid, to: file, in: program.directory)
        try program.tell("pairs 100 4321")
        _ = try expectEnd(recorder, interrupting: true)
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
      let (file, directory) = try small([])
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
      let (file, directory) = try small([])
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
      let (file, directory) = try small(["--zstd"])
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
      let (file, directory) = try small(["--zstd"])
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
