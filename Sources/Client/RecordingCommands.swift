// SPDX-License-Identifier: Apache-2.0
// The commands of recordings: record, replay, export; and history, which asks recordings or rings.

import Answers
import ArgumentParser
import Bounds
import Glibc
import IndexReader
import Provenance
import Recording
import Synchronization
import SystemAccess

/// The segment of a process that is to be recorded.
func openSegment(_ pid: Int32) throws(Complaint) -> SharedSegment {
  // A process that has just started may still be writing its segment's header, which takes far less than this patience.
  var patience = 100
  while true {
    let file = try ProcessView.segmentFile(of: pid)
    do throws(Complaint) {
      return try SharedSegment(path: file.path)
    } catch {
      guard error.kind == .halfWritten, patience > 0 else { throw error }
      patience &-= 1
      usleep(10_000)
    }
  }
}

struct Record: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Record every allocation and free of a process into a file.",
    usage: """
      allocsctl record <pid> -o <file> [--duration <time>] [--zstd]
                              [--policy lossless|overwrite]
      """,
    discussion: """
      Until the process ends or becomes another program (exec), the time is over, or ^C. By default the process waits \
      where the recorder is too slow (lossless), a tenth of a second at a time at most; with --policy overwrite it \
      never waits. What was lost is counted in the recording and told at the end, either way. A file of yours that \
      exists is replaced; a link, a device or another user's file is refused.

      Examples:
        allocsctl record 4242 -o run.rec --duration 30s --zstd
        allocsctl replay run.rec --peak
      """)

  enum Policy: String, ExpressibleByArgument, CaseIterable { case lossless, overwrite }

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(name: .shortAndLong, help: .init("Where to.", valueName: "file"))
  var output: String

  @Option(help: .init("How long at most: 30, 30s, 500ms, 5m.", valueName: "time"))
  var duration: String?

  @Flag(help: "Compress it.")
  var zstd = false

  @Flag(help: "Let the process wait rather than lose events: --policy lossless, the default.")
  var lossless = false

  @Option(help: .init("lossless or overwrite.", valueName: "policy"))
  var policy: Policy?

  func validate() throws {
    if let duration, Units.seconds(inTime: duration) == nil {
      throw ValidationError("--duration is a time such as 30s, not '\(duration)'.")
    }
    if lossless, policy == .overwrite { throw ValidationError("--lossless and --policy overwrite exclude each other.") }
  }

  func run() throws {
    let interruption = Interruption()
    let stop = Stop()
    interruption.onInterruption { stop.set() }
    let shared = try openSegment(pid)
    guard shared.segment.isProcessAlive else {
      throw Complaint(
        .obstacle, what: "cannot record process \(pid): it has ended",
        advice: shared.segment.ringCount > 0
          ? "its last events are still there: `allocsctl history \(pid) ADDRESS`"
          : "start it again with `allocsctl run --record FILE -- COMMAND`")
    }
    var options = Recorder.Options()
    options.isLossless = policy != .overwrite
    options.isCompressed = zstd
    let recorder = try Recorder(shared, to: output, options: options)
    // bounded: seconds in floating point
    let deadline = duration.flatMap { Units.seconds(inTime: $0) }.map { seconds(of: CLOCK_MONOTONIC) + $0 }
    let result = try recorder.run {
      if stop.isSet { return .stopped }
      return deadline.map { seconds(of: CLOCK_MONOTONIC) >= $0 } == true ? .durationOver : nil
    }
    try StandardOutput.write("\(TextLayout.printable(output)): \(result.text)\n")
  }
}

extension Recorder.Result {
  /// "1,234 events, none lost, 567 bytes"
  var text: String {
    let lost = lost == 0 ? "none lost" : "\(Units.grouped(lost)) lost"
    let damage = damagedRings == 0 ? "" : ", \(Units.count(UInt64(clamping: damagedRings), "ring")) damaged"
    let end =
      switch end {
      case .replaced: "; then the process became another program (exec)"
      case .sourceFailed: "; then the index of the process was cut short"
      case .processEnded, .stopped, .durationOver, .snapshot: ""
      }
    return "\(Units.count(events, "event")), \(lost)\(damage), \(Units.bytes(bytes))\(end)"
  }
}

private final class Stop: Sendable {
  private let flag = Atomic(false)
  var isSet: Bool { flag.load(ordering: .relaxed) }
  func set() { flag.store(true, ordering: .relaxed) }
}

struct ReplayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Show what lived at a moment of a recording, by allocation site.",
    usage: """
      allocsctl replay <file> [--at <time> | --peak] [--since <when>]
                       [--until <when>] [--older <age>] [--younger <age>]
                       [--sort bytes|blocks|age|newest|name|rate] [--totals]
                       [--limit <number>] [--wrapper <pattern>] ...
                       [--level block|chunk] [--query <address>]
                       [--json]
      """,
    discussion: """
      By default the moment of its end. Times count from the recording's start. The table is the one that `top` makes \
      of a process, with the same options; ages are as of the moment, so that --younger 10s are the blocks of its last \
      ten seconds that lived then. A moment (when) may be @2.5s, so long after the recording's start, peak, or a mark \
      that the process had when the file was finished. A snapshot also has what the process had ever \
      allocated: --sort rate and --totals, as of `top`.

      Examples:
        allocsctl replay run.rec
        allocsctl replay run.rec --peak --limit 5
        allocsctl replay run.rec --younger 10s
        allocsctl replay run.rec --since @2.5s
        allocsctl replay run.rec --at 2.5s --query 0x55d0c0ffee10
      """)

  @Argument(help: "The recording.", completion: .file())
  var file: String

  @Option(help: .init("The moment: seconds since the recording's start; ms, s, m, h may follow.", valueName: "time"))
  var at: String?

  @Flag(help: "The moment at which most bytes lived.")
  var peak = false

  @Option(help: .init("Sites to show.", valueName: "number"))
  var limit = 20

  @Option(
    help: .init(
      "Order: bytes or blocks, most first; age or newest, the oldest or the newest block's; name; or rate, see above.",
      valueName: "order"))
  var sort = SiteOrder.bytes

  @Flag(help: "Also what was ever allocated, and not only what lived: of a snapshot.")
  var totals = false

  @OptionGroup var scope: ScopeOptions

  @Option(help: .init("Tell what was at this address instead.", valueName: "address"))
  var query: String?

  @Flag(help: "Print the table as one JSON object, as `top`; or the query's events, one a line, as `history`.")
  var json = false

  func validate() throws {
    if let at, Units.seconds(inTime: at) == nil { throw ValidationError("--at is a time such as 2.5s, not '\(at)'.") }
    if at != nil, peak { throw ValidationError("--at and --peak exclude each other: give one of them.") }
    guard (1...100_000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 100000.") }
  }

  func run() throws {
    let time = at.flatMap { Units.seconds(inTime: $0) }
    let address = try query.map { (text) throws(Complaint) in try parseAddress(text) }
    try scope.level.refuseBlocks(of: file)
    let request = try scope.request()
    try request.refuseFile(file)
    var heap = try request.scope()
    heap.wantsTotals = totals || sort == .rate
    try StandardOutput.write(
      try Budget.ofRecording().shown("replaying \(file)") { () throws(Complaint) in
        try replay(at: time, address, heap)
      })
  }

  private func replay(at time: Double?, _ address: UInt64?, _ scope: HeapScope) throws(Complaint) -> String {
    let recorded = try Recording(path: file)
    if sort == .rate, let obstacle = recorded.totalsObstacle(scope) { throw obstacle }
    var moment = peak ? ReplayMoment.peak : .end
    if let time {
      let stamp = recorded.stamp(of: .seconds(time))
      if time > recorded.seconds(at: recorded.endStamp) {
        let length = Units.duration(recorded.seconds(at: recorded.endStamp))
        complain("\(file) ends after \(length): that moment is shown")
      }
      moment = .stamp(stamp)
    }
    let (summary, replay) = recorded.summaryAndReplay(at: moment, needsBlocks: address != nil)
    let stamp =
      switch moment {
      case .end: recorded.endStamp
      case .peak: summary.peakStamp
      case .stamp(let stamp): stamp
      }
    if let address {
      let history = AddressHistory(of: address, in: recorded, until: stamp)
      let report = HistoryReport(recorded) { $0 < stamp ? Double(stamp &- $0) / 1e9 : 0 }
      for problem in recorded.problems { complain("\(file): \(problem)") }
      if json { return report.jsonLines(of: history, limit: 2) }
      let block = replay?.block(containing: address)
      let words = block.map { "\(hex($0.base)), \($0.size) bytes, lived then\n" } ?? "nothing lived there then\n"
      return "\(words)\(report.text(of: history, limit: 2))"
    }
    var scope = scope
    scope.window = try recorded.placed(scope.window, at: stamp)
    let table = recorded.top(replay, at: stamp, limit: limit, sort: sort, scope: scope)
    if json { return table.json + "\n" }
    let time = recorded.end == .snapshot ? "" : "After \(Units.duration(recorded.seconds(at: stamp))):\n"
    return "\(recorded.text(of: summary))\n\(time)\(table.text)"
  }
}

extension FileFormat: ExpressibleByArgument {
  public static var allValueStrings: [String] { allCases.map(\.rawValue) }
}

struct Export: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Write a process's live memory, or a recording, for another program.",
    usage: """
      allocsctl export <source> --format <format> [-o <file>] [--since <when>]
                       [--until <when>] [--older <age>] [--younger <age>]
                       [--within <group>] [--wrapper <pattern>] ...
                       [--level block|chunk] [--socket <path> | --direct]
      """,
    discussion: """
      What lives, by call stack, in a process now, in a snapshot, or at a moment of a recording (FILE for its end, \
      FILE@2.5s, FILE@peak): \(ProfileFormat.allCases.map { "\($0.rawValue), \($0.purpose)" }
        .joined(separator: "; ")). All blocks of these, one by one, and of a recording without a moment or a window \
      all events: \
      \(ExportFormat.allCases.map { "\($0.rawValue), \($0.purpose)" }.joined(separator: "; ")). \
      A file of yours that exists is replaced when the new one is whole; a link, a device \
      or another user's file is refused. A file whose name is a number is named with its directory: ./4242.

      Examples:
        allocsctl export 4242 --format pprof -o heap.pb.gz
        allocsctl export 4242 --format flamegraph --younger 10m -o heap.svg
        allocsctl export run.rec@peak --format speedscope -o peak.json
        allocsctl export 4242 --format heaptrack --younger 10m -o new.heaptrack
        allocsctl export run.rec --format heaptrack -o run.heaptrack
        allocsctl export run.rec --format perfetto -o run.pftrace
        allocsctl export run.rec --format jsonl -o - | grep '"free"'
      """)

  @Argument(help: .init("A process, a snapshot, or a recording.", valueName: "source"), completion: .file())
  var source: String

  @Option(help: .init("One of these.", valueName: "format"))
  var format: FileFormat

  @Option(
    name: [.customShort("o"), .customLong("output")],
    help: .init("Where to; - is standard output, as is none where that is no terminal.", valueName: "file"))
  var file: String?

  @OptionGroup var scope: ScopeOptions

  @OptionGroup var options: SourceOptions

  private var output: String { file ?? "-" }

  func validate() throws {
    if file == nil, isatty(STDOUT_FILENO) == 1 {
      throw ValidationError("a file of another program is nothing for a terminal: name one with -o, or - all the same.")
    }
  }

  func run() throws {
    // The signals are blocked before the source makes threads. Where ^C comes, nothing is left of a file that is not
    // whole.
    let interruption = Interruption()
    do throws(Complaint) {
      switch try HeapSource(source) {
      case .process(let process):
        let request = try scope.request()
        try options.asking { source throws(Complaint) in
          try source.export(process, request, format, to: output, until: interruption)
        }
      case .file(let path, let named): try write(path, named, until: interruption)
      }
    } catch {
      guard error.code == ECANCELED else { throw error }
      throw ExitCode(128 + SIGINT)
    }
  }

  /// Writes what a file has: a snapshot, or a recording.
  private func write(_ path: String, _ named: HeapSource.Moment, until interruption: Interruption) throws(Complaint) {
    let source = HeapSource.file(path: path, moment: named)
    try source.refuse(scope.level, options)
    let request = try scope.request()
    try request.refuseFile(path)
    let budget = Budget.ofExport()
    interruption.onInterruption { budget.cancel() }
    try budget.shown("exporting \(source.name)", isQuiet: output == "-") { () throws(Complaint) in
      switch format {
      case .sums(let format):
        let sums = try source.stackSums(request, wantsTotals: format.hasTotals)
        if let missing = sums.lossSentence { complain("\(source.name): \(missing)") }
        let file = try ExportOutput(path: output)
        try file.write(format.render(sums))
        try file.finish()
      case .blocks(let format):
        let recording = try Recording(path: path)
        var losses = recording.knownLosses
        // These are said when all of the file was read.
        losses.problems = []
        if let missing = losses.sentence { complain("\(source.name): \(missing)") }
        let stamp = recording.stamp(of: named)
        var moment = named == .end ? nil : ExportedMoment(stamp: stamp)
        if !request.window.isAll {
          moment = ExportedMoment(stamp: stamp, window: try recording.placed(request.window, at: stamp))
        }
        try recording.export(format, at: moment, wrappers: try request.scope().wrappers, to: output)
        for problem in recording.problems { complain("\(source.name): \(problem)") }
      }
    }
  }
}

struct History: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Tell every allocation and free that covered an address, newest first.",
    usage: """
      allocsctl history <pid> <address> [--json] [--limit <number>]
             allocsctl history --recording <file> <address> ...
      """,
    discussion: """
      As far back as the process's event rings go, also after its death; or a recording. Who freed is known with \
      `run --free-stacks`.

      Examples:
        allocsctl history 4242 0x55d0c0ffee10
        allocsctl history --recording run.rec 0x55d0c0ffee10 --json
      """)

  @Argument(help: .init("The process, unless there is a recording; then the address.", valueName: "pid> <address"))
  var arguments: [String]

  @Option(help: .init("Ask this recording.", valueName: "file"), completion: .file())
  var recording: String?

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Option(help: .init("Events to show, at most.", valueName: "number"))
  var limit = 20

  func validate() throws {
    guard arguments.count == (recording == nil ? 2 : 1) else {
      throw ValidationError("Expected \(recording == nil ? "a process and an address" : "an address").")
    }
    guard (1...100_000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 100000.") }
  }

  func run() throws {
    let address = try parseAddress(arguments.last ?? "")
    let pid = recording == nil ? try processID(arguments[0]) : 0
    let budget = recording == nil ? Budget.ofQuestion() : Budget.ofRecording()
    let words = "looking through the events of \(recording ?? "process \(pid)")"
    try StandardOutput.write(try budget.shown(words) { () throws(Complaint) in try told(of: address, pid) })
  }

  private func told(of address: UInt64, _ pid: Int32) throws(Complaint) -> String {
    let report: HistoryReport
    let history: AddressHistory
    var note = ""
    if let recording {
      let recorded = try Recording(path: recording)
      history = AddressHistory(of: address, in: recorded)
      let end = recorded.endStamp
      report = HistoryReport(recorded) { $0 < end ? Double(end &- $0) / 1e9 : 0 }
      note = "  ages are as of the recording's end\n"
      for problem in recorded.problems { complain("\(recording): \(problem)") }
    } else {
      let shared = try openSegment(pid)
      guard shared.segment.ringCount > 0 else {
        throw Complaint(
          .obstacle, what: "process \(pid) has recorded no events: they were off",
          advice: shared.segment.isProcessAlive
            ? """
            record from now on with `allocsctl record \(pid) -o FILE`, or start it again with `allocsctl run --events`
            """
            : "it has ended: start it again with `allocsctl run --events -- COMMAND`")
      }
      history = AddressHistory(of: address, in: shared)
      try shared.segment.checkIntact()
      let clock = shared.segment.clock()
      report = HistoryReport(SegmentTables(shared)) { clock.age(ofStamp: $0) }
    }
    return json ? report.jsonLines(of: history, limit: limit) : report.text(of: history, limit: limit) + note
  }
}
