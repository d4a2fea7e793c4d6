// SPDX-License-Identifier: Apache-2.0
// What it costs to record every allocation and free of a real program, with whole call stacks, beside heaptrack: the
// time that is added to the program, and the size of the file.

import Foundation
import Measurement

let recordBenchmark = Benchmark(name: "record", part: .index) { workshop in
  guard workshop.options.agent != nil else { return [] }
  let title = "python3 recorded"
  guard workshop.variants.contains(.heaptrack) else {
    return [Row(name: title, unit: "s", value: .missing("heaptrack is not there to compare with"), bar: .atMost(0.25))]
  }
  var printed: String?
  var recorded: RecordedRun?
  var heaptrackBytes: Double?
  let rounds = try Rounds(
    workshop.options.roundCount, of: [.plain, .full, .heaptrack], repeats: workshop.repeats(3)
  ) { variant in
    defer { workshop.cleanUp() }
    let output: String
    let usage: Usage
    switch variant {
    case .full:
      let run = try recordedRun(workshop)
      (output, usage) = (run.output, run.usage)
      // Losses of any run count.
      recorded = recorded.map { RecordedRun(run, lost: run.lost + $0.lost) } ?? run
    default:
      (output, usage) = try workshop.command(jsonLoop(workshop), under: variant).run()
      if variant == .heaptrack, heaptrackBytes == nil { heaptrackBytes = try interpretedSize(workshop) }
    }
    guard printed == nil || printed == output else {
      throw BenchmarkError("\(title): under '\(variant)' it printed something else than in the run before")
    }
    printed = output
    return workshop.options.usesProcessorTime ? usage.processor : usage.elapsed
  }
  guard let recorded, let heaptrackBytes, let added = Spread(rounds.costs(of: .full, over: .plain)),
    let heaptrackAdded = Spread(rounds.costs(of: .heaptrack, over: .plain)), let plain = rounds.spread(of: .plain)
  else { throw BenchmarkError("\(title): nothing was measured") }
  func row(_ name: String, _ unit: String, _ value: Double, _ bar: Bar? = nil) -> Row {
    Row(name: name, unit: unit, value: .figure(value, percentile99: nil), bar: bar)
  }
  let share =
    rounds.costShare(of: .full, in: .heaptrack).map { Row.Value.figure($0.median, percentile99: nil) }
    ?? .missing("heaptrack added no time")
  return [
    row("python3 JSON, plain", "s", plain.median),
    row("  recorded: added", "s", added.median),
    row("  heaptrack: added", "s", heaptrackAdded.median),
    Row(name: "  recorded ÷ heaptrack", unit: "×", value: share, bar: .atMost(0.25)),
    row("events in the recording", "M", recorded.events / 1e6),
    row("  lost", "", recorded.lost, .atMost(0)),
    row("recording, zstd", "MB", recorded.bytes / 1e6),
    row("  heaptrack's, zstd", "MB", heaptrackBytes / 1e6),
    row("  recording ÷ heaptrack's", "×", recorded.bytes / heaptrackBytes, .atMost(1.2)),
  ]
}

private func jsonLoop(_ workshop: Workshop) -> Command {
  Command(
    program: "/usr/bin/python3",
    arguments: [workshop.source("json_loop.py"), workshop.options.quick ? "10" : "25"],
    environment: ["PYTHONMALLOC": "malloc", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"],
    processor: processors.last)
}

private struct RecordedRun {
  var output: String
  var usage: Usage
  var events: Double
  var lost: Double
  var bytes: Double
}

extension RecordedRun {
  init(_ run: RecordedRun, lost: Double) {
    self = run
    self.lost = lost
  }
}

/// The loop with `allocsctl record` beside it, on another processor if there is one, from as soon as it has a segment.
private func recordedRun(_ workshop: Workshop) throws -> RecordedRun {
  let command = workshop.command(jsonLoop(workshop), under: .full)
  var child = try command.start()
  let file = "\(workshop.scratch)/run.rec"
  defer { unlink(file) }
  let recorder: Command
  var recording: Child
  do {
    let deadline = monotonicSeconds() + 20
    while (try? workshop.segment(of: child.pid)) == nil {
      guard monotonicSeconds() < deadline else { throw BenchmarkError("python3 has no segment after 20 s") }
      usleep(500)
    }
    recorder = Command(
      program: "\(workshop.options.binaries)/allocsctl",
      arguments: ["record", "\(child.pid)", "-o", file, "--zstd"], environment: ["ALLOCS_DIR": workshop.segments],
      processor: processors.first)
    recording = try recorder.start()
  } catch {
    child.signal(SIGKILL)
    _ = try? child.wait(for: command, expectedSignal: SIGKILL)
    throw error
  }
  let output = child.readToEnd()
  let usage = Result { try child.wait(for: command) }
  let said = recording.readToEnd()
  try recording.wait(for: recorder)
  // "FILE: 1,234 events, none lost, 567 bytes"
  let words = said.split(whereSeparator: \.isWhitespace).map { $0.filter { $0 != "," } }
  guard words.count >= 7, let events = Double(words[1]), let lost = words[3] == "none" ? 0 : Double(words[3]),
    let bytes = Double(words[5])
  else {
    throw BenchmarkError("allocsctl record said '\(said)'")
  }
  return RecordedRun(
    output: output, usage: try usage.get(), events: events, lost: lost, bytes: bytes)
}

/// Bytes of what heaptrack keeps of its last run: interpreted, and compressed as its script does.
private func interpretedSize(_ workshop: Workshop) throws -> Double {
  let interpreter = "/usr/lib/heaptrack/libexec/heaptrack_interpret"
  let file = "\(workshop.scratch)/heaptrack.zst"
  defer { unlink(file) }
  try Command(
    program: "sh",
    arguments: ["-c", "'\(interpreter)' <'\(workshop.heaptrackOutput)' 2>/dev/null | zstd -qc >'\(file)'"]
  ).run()
  guard let size = try FileManager.default.attributesOfItem(atPath: file)[.size] as? Int, size > 1000 else {
    throw BenchmarkError("\(interpreter) made nothing of heaptrack's output")
  }
  return Double(size)
}
