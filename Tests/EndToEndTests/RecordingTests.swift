// SPDX-License-Identifier: Apache-2.0
// Recordings of programs that run: what is replayed is what the program did, and what is missing is said.

import Foundation
import IndexReader
import Recording
import SharedLayout
import TestSupport
import Testing

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
      let recorder = try Recorder.start(program.process.pid, to: file, options, in: program.directory)
      try program.proceed()
      let truth = try program.reach(2)
      let said = try Recorder.end(recorder, interrupting: true)
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
      let recorder = try Recorder.start(program.process.pid, to: file, in: program.directory)
      try program.tell("pairs 300000 4321")
      try program.tell("thread 100000 777")
      try program.process.send("die\n")
      _ = try Recorder.end(recorder)
      let recording = try Recording(path: file)
      #expect(recording.end == .processEnded && recording.lostCount == 0)
      let counts = recording.allocationsBySize
      #expect(counts[4321] == 300_000 && counts[777] == 100_000 && counts[48] == 1000)
      let lines = try Tool.control(["replay", file], in: program.directory).output.split(separator: "\n")
      #expect(lines.allSatisfy { $0.count <= 80 } && lines.contains { $0.contains("none") && $0.contains("lost") })
    }

    @Test("net effects are in a recording, and without them it is replayed to the same numbers, as in versions before")
    func netEffects() throws {
      // A recorder that gets too little of the processors passes spans over, and says so: then it has another turn.
      for turn in 1...20 {
        if try hasNetEffects() { return }
        if turn == 20 { Issue.record("twenty recordings have no net effects") }
      }
    }

    /// Makes a recording, and looks at what its net effects change; false if it has none.
    private func hasNetEffects() throws -> Bool {
      let program = try Eventful(environment: ["ALLOCS_EVENTS_WAIT": "10000"])
      let file = program.directory.file("run.rec")
      let recorder = try Recorder.start(program.process.pid, to: file, ["--zstd"], in: program.directory)
      for size in 1...2 {
        try program.tell("pairs 250000 \(size * 1000)")
        try program.tell("thread 1000 \(size * 999)")
      }
      try program.process.send("die\n")
      _ = try Recorder.end(recorder)
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
      guard effects > 0 else { return false }
      #expect(recording.lostCount == 0 && without.problems == recording.problems)
      let length = recording.endStamp - recording.startStamp
      for part: UInt64 in [1, 3] {
        let stamp = recording.startStamp + length / 4 * part
        let (one, two) = (recording.replay(until: stamp), without.replay(until: stamp))
        #expect(one.blocks.sorted == two.blocks.sorted && one.unknownEnds == two.unknownEnds, "\(part) quarters")
      }
      #expect(recording.summary() == without.summary())
      return true
    }

    @Test("a recorder that is killed leaves what it had, and the program goes on")
    func killedRecorder() throws {
      let program = try Eventful()
      let file = program.directory.file("run.rec")
      let recorder = try Recorder.start(program.process.pid, to: file, in: program.directory)
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
      let recorder = try Recorder.start(program.process.pid, to: file, in: directory)
      try program.tell("pairs 10 48")
      _ = try ChildProcess.run(["sh", "-c", "cat /dev/zero > '\(directory.path)/filler'"])
      // A new thread finds no room for a ring, nor for its blocks in the index; the ends of those are no events.
      try program.tell("thread 500 48")
      let history = try Tool.objects(Tool.control(["history", program.pid, "0x10", "--json"], in: directory).output)
      try program.process.send("end\n")
      _ = try Recorder.end(recorder)
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
      let recorder = try Recorder.start(program.process.pid, to: file, in: program.directory)
      try program.tell("thread 500 777")
      let ring = try damageLastRing(of: program.directory.segment(of: program.process.pid))
      try program.tell("pairs 100 4321")
      let live = try Tool.control(["history", program.pid, "0x10"], in: program.directory)
      try program.process.send("end\n")
      #expect(try Recorder.end(recorder).contains(", 1 ring damaged, "))
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
        // A table has what is missing in its own words.
        let said = command.last == "--json" ? outcome.output : outcome.errors
        #expect(outcome.ending == .exit(0) && words(said).contains(problem), "\(command): \(outcome)")
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
      let recorder = try Recorder.start(program.process.pid, to: file, in: program.directory)
      try program.tell("pairs 100 4321")
      // A program that went on would meet the cut itself.
      program.process.signal(SIGSTOP)
      #expect(truncate(try program.directory.segment(of: program.process.pid), 4096) == 0)
      #expect(try Recorder.end(recorder).contains("; then the index of the process was cut short"))
      program.process.signal(SIGKILL)
      let recording = try Recording(path: file)
      #expect(recording.end == .sourceFailed)
      #expect(recording.problems.contains { $0.contains("was cut short") }, "\(recording.problems)")
      let replayed = try Tool.control(["replay", file], in: program.directory)
      #expect(replayed.ending == .exit(0) && replayed.output.contains("note: the index of the process"), "\(replayed)")
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
  }
}
