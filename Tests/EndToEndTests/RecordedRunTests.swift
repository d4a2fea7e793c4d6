// SPDX-License-Identifier: Apache-2.0
// Programs that `allocsctl run --record` starts: recorded from their first call on, whatever they become.

import Foundation
import Recording
import TestSupport
import Testing

extension EndToEnd {
  @Suite("recorded runs")
  struct RecordedRuns {
    /// Expects that so many allocations of each size were recorded, or are among what the recording says was lost.
    private func expect(
      _ made: [(size: UInt64, count: Int)], in recording: Recording, of counts: [UInt64: Int],
      sourceLocation: SourceLocation = #_sourceLocation
    ) {
      let missing = made.map { $0.count - (counts[$0.size] ?? 0) }
      #expect(missing.allSatisfy { $0 >= 0 }, "\(counts)", sourceLocation: sourceLocation)
      #expect(missing.reduce(0, +) <= recording.lostCount, "\(counts)", sourceLocation: sourceLocation)
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
      let counts = recording.allocationsBySize
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
      let counts = recordings.map(\.allocationsBySize)
      expect([(4321, 200), (777, 0)], in: recordings[0], of: counts[0])
      expect([(4321, 0), (777, 300)], in: recordings[1], of: counts[1])
      // A recorder from outside is told, and may begin again.
      let other = try Eventful()
      let recorder = try Recorder.start(other.process.pid, to: other.directory.file("run.rec"), in: other.directory)
      try other.process.send("exec\n")
      _ = try other.process.readLines(until: "ready")
      #expect(try Recorder.end(recorder).contains("became another program"))
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
  }
}
