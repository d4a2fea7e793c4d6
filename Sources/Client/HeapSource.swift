// SPDX-License-Identifier: Apache-2.0
// What a question about live memory may be asked of: a process, a snapshot, or a moment of a recording.

import Answers
import ArgumentParser
import Bounds
import ByteText
import Glibc
import Provenance
import Recording
import SystemAccess

/// A source of live memory, as the command line names it: PID, PID@START, FILE, FILE@MOMENT.
enum HeapSource: Equatable {
  case process(NamedProcess)
  case file(path: String, moment: Moment)

  /// A moment of a recording.
  enum Moment: Equatable {
    case end
    case peak
    /// Seconds since the recording's start.
    case seconds(Double)
  }

  /// A file whose name has an @ in it is meant if it is there; a file whose name is a number, by its directory: ./4242.
  init(_ text: String) throws(Complaint) {
    let parts = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
    // bounded: an optional of a text
    let startTime = parts.count > 1 ? UInt64(parts[1]) : nil
    if let first = parts.first, let id = parseProcessID(first), parts.count == 1 || startTime != nil {
      self = .process(NamedProcess(id: id, startTime: startTime))
      return
    }
    var status = stat()
    guard let at = text.lastIndex(of: "@"), stat(text.originalPath, &status) != 0 else {
      self = .file(path: text, moment: .end)
      return
    }
    let moment = String(text[text.index(after: at)...])
    let path = String(text[..<at])
    if moment == "peak" {
      self = .file(path: path, moment: .peak)
    } else if let seconds = Units.seconds(inTime: moment) {
      self = .file(path: path, moment: .seconds(seconds))
    } else {
      throw Complaint(
        .usage, what: "\"\(TextLayout.fit(TextLayout.printable(text), columns: 60))\" names no moment of a recording",
        advice: "give FILE@2.5s, FILE@peak, or FILE for its end")
    }
  }

  /// The name of the source in a report.
  var name: String {
    switch self {
    case .process(let process): "process \(process.id)"
    case .file(let path, .end): path
    case .file(let path, .peak): "\(path) at its peak"
    case .file(let path, .seconds(let seconds)): "\(path) after \(Units.duration(seconds))"
    }
  }

  /// Throws `.usage` if options are given that say nothing of this source: this program reads it itself, and a file has
  /// no blocks of pools.
  func refuse(_ level: LevelOptions, _ options: SourceOptions) throws(Complaint) {
    if isFile { try level.refuseBlocks(of: name) }
    try refuse(options)
  }

  func refuse(_ options: SourceOptions) throws(Complaint) {
    let given = [("--socket", options.socket != nil), ("--direct", options.direct && isFile)]
    guard let wrong = given.first(where: \.1)?.0 else { return }
    throw Complaint(
      .usage, what: "\(wrong) is asked of \(name), which is read by this program itself", advice: "leave it out")
  }

  var isFile: Bool {
    if case .file = self { return true }
    return false
  }

  /// Live memory by call stack, read by this program itself. `wantsTotals`: what was ever allocated is asked for, too,
  /// where it is known.
  func stackSums(_ scope: ScopeRequest, wantsTotals: Bool = false) throws(Complaint) -> StackSums {
    var heap = try scope.scope()
    heap.wantsTotals = wantsTotals
    switch self {
    case .process(let process): return try DirectSource().view(of: process).stackSums(heap)
    case .file(let path, let moment):
      try scope.refuseFile(path)
      let recorded = try Recording(path: path)
      let stamp = recorded.stampTold(of: moment)
      heap.window = try recorded.placed(heap.window, at: stamp)
      let replay = recorded.isStill ? nil : recorded.replay(until: stamp)
      let sums = recorded.stackSums(replay, at: stamp, scope: heap)
      try Budget.current?.check()
      return sums
    }
  }
}

extension HeapSource {
  /// The table of a file's moment.
  func table(_ request: TopRequest) throws(Complaint) -> TopTable {
    guard case .file(let path, let moment) = self else {
      preconditionFailure("a process has a source of answers")  // bounded: the callers ask that of processes
    }
    try request.scope.refuseFile(path)
    guard request.grouping == .site else {
      throw Complaint(
        .usage, what: "--group \(request.grouping) is asked of \(path), which is a file",
        advice: "ask a process, or leave it out")
    }
    var scope = try request.scope.scope()
    scope.wantsTotals = request.wantsTotals || request.sort == .rate
    let recorded = try Recording(path: path)
    if request.sort == .rate, let obstacle = recorded.totalsObstacle(scope) { throw obstacle }
    let stamp = recorded.stampTold(of: moment)
    scope.window = try recorded.placed(scope.window, at: stamp)
    let table = recorded.top(
      recorded.isStill ? nil : recorded.replay(until: stamp), at: stamp, limit: request.limit, sort: request.sort,
      scope: scope)
    try Budget.current?.check()
    return table
  }
}

extension ScopeRequest {
  /// Throws `.usage` if something is asked of a file that only a process can tell.
  func refuseFile(_ path: String) throws(Complaint) {
    var option: String?
    if group != nil { option = "--within" }
    if countsMappings { option = "--mapped" }
    guard let option else { return }
    throw Complaint(
      .usage, what: "\(option) is asked of \(path), which is a file", advice: "ask a process, or leave it out")
  }
}

extension LevelOptions {
  /// Throws `.usage` if the blocks of pools are asked of a file: a recording has the chunks that they lie in.
  func refuseBlocks(of name: String) throws(Complaint) {
    guard level == .block else { return }
    throw Complaint(
      .usage,
      what: "--level block is asked of \(name), and a recording has the chunks of pools, not the blocks in them",
      advice: "leave it out, or ask the process")
  }
}

extension Recording {
  /// As `stamp(of:)`; says on standard error if the moment is behind the end.
  fileprivate func stampTold(of moment: HeapSource.Moment) -> UInt64 {
    let length = seconds(at: endStamp)
    if case .seconds(let seconds) = moment, seconds > length {
      complain("\(path) ends after \(Units.duration(length)): that moment is shown")
    }
    return stamp(of: moment)
  }

  /// The stamp of a moment; that of its end, of a moment behind it.
  func stamp(of moment: HeapSource.Moment) -> UInt64 {
    switch moment {
    case .end: return endStamp
    case .peak: return summary().peakStamp
    case .seconds(let seconds):
      // No more than 10^10 seconds.
      let distance = UInt64(min(seconds, 1e10) * 1e9)  // bounded: 2^64 is more
      let (stamp, isPast) = startStamp.addingReportingOverflow(distance)
      return isPast ? endStamp : min(stamp, endStamp)
    }
  }
}

struct SnapshotCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "snapshot",
    abstract: "Write all live blocks of a process into a file, with the names of their stacks.",
    usage: "allocsctl snapshot <pid> -o <file> [--socket <path> | --direct]",
    discussion: """
      The process is not stopped. Each block in the file lived at a moment of the look at the index, whose length is \
      told; a block that lived all through it is in the file. What reads a recording reads a snapshot: replay, tree, \
      export, diff. A file of yours that exists is replaced when the new one is whole; a link, a device or another \
      user's file is refused.

      Examples:
        allocsctl snapshot 4242 -o before.snap
        allocsctl diff before.snap 4242
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(name: .shortAndLong, help: .init("Where to.", valueName: "file"))
  var output: String

  @OptionGroup var options: SourceOptions

  func run() throws {
    // The signals are blocked before the source makes threads.
    let interruption = Interruption()
    do throws(Complaint) {
      let result = try options.asking { source throws(Complaint) in
        try source.snapshot(of: pid, to: output, until: interruption)
      }
      let lost = result.lost > 0 ? ", \(Losses.words(ofBlocks: result.lost))" : ""
      let look = "looked at in \(Units.duration(result.seconds))"
      try StandardOutput.write(
        "\(TextLayout.printable(output)): \(Units.count(result.blocks, "block")) \(look)\(lost), "
          + "\(Units.bytes(result.bytes))\n")
    } catch {
      guard error.code == ECANCELED else { throw error }
      throw ExitCode(128 + SIGINT)
    }
  }
}

extension HeapDifference.Grouping: ExpressibleByArgument {}

struct Diff: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what has become more, and what less, between two looks at live memory.",
    usage: """
      allocsctl diff <from> <to> [--by site|stack] [--fail-over <size>]
                     [--totals] [--other-program] [--limit <number>]
                     [--wrapper <pattern>] ... [--json]
                     [--socket <path> | --direct]
      """,
    discussion: """
      Each of the two is a process (its memory of now), a snapshot, or a recording: FILE for its end, FILE@2.5s, \
      FILE@peak. Sites are told apart by the names of functions, files and lines, so that two runs of a program can be \
      compared. Two processes, or two builds, of one program are said to be that; two programs are compared with \
      --other-program alone. With --fail-over the exit status is 2 if the second has more live bytes than the first by \
      more than the size, and 1 if that can't be told, as a file is damaged or cut short. Of pools, files have \
      the chunks and not the blocks in them; so has a process that is compared with a file.

      --totals also tells what was allocated between two looks at one process, freed again or not, and lists the most \
      allocated first. Processes and snapshots know it, recordings don't.

      Examples:
        allocsctl snapshot 4242 -o before.snap; sleep 60; allocsctl diff before.snap 4242
        allocsctl diff before.snap 4242 --totals
        allocsctl diff run.rec@10s run.rec@60s --by stack --limit 5
        allocsctl diff main.snap branch.snap --fail-over 1M
      """)

  @Argument(help: "A process, a snapshot, or a moment of a recording.", completion: .file())
  var from: String

  @Argument(help: "Another, or the same one at another moment.", completion: .file())
  var to: String

  @Option(help: .init("Rows for allocation sites, or for whole call stacks.", valueName: "site|stack"))
  var by = HeapDifference.Grouping.site

  @Option(help: .init("Exit with status 2 if live bytes grew by more than this: 64K, 1M.", valueName: "size"))
  var failOver: String?

  @Flag(help: "Also what was allocated between the two.")
  var totals = false

  @Flag(help: "Compare also if the two are of different programs.")
  var otherProgram = false

  @Option(help: .init("Rows to show, at most 100000.", valueName: "number"))
  var limit = 20

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var wrappers: WrapperOptions

  func validate() throws {
    guard (1...100_000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 100000.") }
    if let failOver, Units.bytes(inSize: failOver) == nil {
      throw ValidationError("--fail-over is a number of bytes such as 64K, not '\(failOver)'.")
    }
  }

  @OptionGroup var options: SourceOptions

  func run() throws {
    let request = DifferenceRequest(
      perspective: try Perspective(wrappers), grouping: by, limit: limit, wantsTotals: totals,
      otherProgram: otherProgram)
    let growth: Int64
    var doubt: String?
    switch (try HeapSource(from), try HeapSource(to)) {
    case (.process(let first), .process(let second)):
      let answer = try options.asking { source throws(Complaint) in
        try source.difference(first, second, request, json: json)
      }
      try StandardOutput.write(answer.bytes)
      (growth, doubt) = (answer.growth, answer.doubt)
    case let (first, second):
      let difference = try difference(first, second, request)
      try StandardOutput.write(json ? difference.json + "\n" : difference.text)
      if failOver != nil, let (name, problem) = difference.problem {
        throw Complaint(
          .unreadable, what: "cannot check --fail-over, as \(name) is not whole: \(problem)",
          advice: "compare files that are whole")
      }
      (growth, doubt) = (difference.growth, difference.doubt)
    }
    if let most = failOver.flatMap({ Units.bytes(inSize: $0) }), growth > 0, growth.magnitude > most {
      complain(
        "live memory grew by \(Units.bytes(growth.magnitude)), more than --fail-over allows — see the rows above")
      throw ExitCode(ExitStatus.checkFailed)
    }
    if failOver != nil, let doubt {
      throw Complaint(
        .unreadable, what: "cannot check --fail-over: \(doubt)",
        advice: "give the index more room (ALLOCS_DIR), and compare looks that have all blocks")
    }
  }

  /// Where a file is one of the two: it is the caller's, and so is the comparison.
  private func difference(
    _ first: HeapSource, _ second: HeapSource, _ request: DifferenceRequest
  ) throws(Complaint) -> HeapDifference {
    if options.socket != nil || first.isFile && second.isFile { try (first.isFile ? first : second).refuse(options) }
    // Files have the chunks of pools, not the blocks in them.
    var scope = ScopeRequest(perspective: request.perspective)
    scope.perspective.level = .chunk
    let words = "comparing \(first.name) with \(second.name)"
    let difference = try Budget.ofRecording().shown(words) { () throws(Complaint) in
      let difference = HeapDifference(
        from: try first.stackSums(scope, wantsTotals: totals), named: first.name,
        to: try second.stackSums(scope, wantsTotals: totals), named: second.name, by: by, limit: limit,
        wantsTotals: totals)
      try Budget.current?.check()
      return difference
    }
    try difference.check(otherProgram: otherProgram, wantsTotals: totals)
    return difference
  }
}
