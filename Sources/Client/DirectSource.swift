// SPDX-License-Identifier: Apache-2.0
// Answers from the segments themselves, mapped by this process. This way needs no server and nothing of its protocol.

import Answers
import Bounds
import EventExport
import Glibc
import Provenance
import Recording
import SystemAccess

extension Budget {
  /// What one question may cost whoever asks it on a command line, and may end it: far more than any in earnest costs.
  /// The question reads and renders, and prints nothing meanwhile, as a pager may take its time: should it be stuck
  /// where no meter is asked, the command ends.
  static func ofQuestion() -> Budget { watched(seconds: 600, bytes: 2 << 30) }

  /// What a question about a recording may cost.
  static func ofRecording() -> Budget { watched(seconds: 3600, bytes: Recording.memoryLimit) }

  /// What all may cost that a command writes of a recording, as fast as its output is taken.
  static func ofExport() -> Budget { Budget(seconds: 3600, bytes: Recording.memoryLimit) }

  private static func watched(seconds: Double, bytes: Int) -> Budget {
    _ = watch
    let whole = Int(seconds)  // bounded: the numbers that stand above
    return Budget(seconds: seconds, bytes: bytes, question: "\(whole) s")
  }

  /// Without the thread, ^C still ends the command.
  private static let watch: Void = {
    try? Watchdog.begin(patience: 30) { time in
      complain(
        "the question took longer than \(time), and the step at which it is can't be ended — the debug information of "
          + "one of the process's files may be broken")
      _exit(1)
    }
  }()
}

/// Maps the segments.
final class DirectSource: AnswerSource {
  /// Whether a thread in whose stack an address lies is stopped for a moment, to tell the frame.
  var stopsThreads = false
  /// Whether a thread that was to be stopped could not be stopped.
  private(set) var hasFailedToStop = false
  private var view: ProcessView?

  func processes(_ selection: ProcessSelection, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown("listing processes") { () throws(Complaint) in
      let list = try ProcessList(selection)
      return Array((json ? list.json + "\n" : list.text).utf8)
    }
  }

  func summary(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      let summary = try view(of: pid).summary()
      return Array((json ? summary.json + "\n" : summary.text).utf8)
    }
  }

  func top(of pid: Int32, _ request: TopRequest, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      var scope = try request.scope.scope()
      scope.divisions = request.divisions
      scope.wantsTotals = request.wantsTotals
      let table = try view(of: pid).top(
        limit: request.limit, sort: request.sort, by: request.grouping, scope: scope)
      return Array((json ? table.json + "\n" : table.text).utf8)
    }
  }

  func marks(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8] {
    let marks = try view(of: pid).marks()
    return Array((json ? marks.json + "\n" : marks.text).utf8)
  }

  func memory(of pid: Int32, pins: Bool, _ perspective: Perspective, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      let account = try view(of: pid).memory(
        wrappers: try Wrappers.standard.adding(perspective.wrappers), pins: pins)
      return Array((json ? account.json + "\n" : account.text).utf8)
    }
  }

  func tree(of pid: Int32, _ request: TreeRequest, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      let sums = try view(of: pid).stackSums(try request.scope.scope())
      let tree = CallTree(of: sums, isInverted: request.isInverted, limit: request.limit)
      return Array((json ? tree.json + "\n" : tree.text).utf8)
    }
  }

  func export(
    _ process: NamedProcess, _ scope: ScopeRequest, _ format: FileFormat, to path: String,
    until interruption: Interruption
  ) throws(Complaint) {
    let budget = Budget.ofExport()
    interruption.onInterruption { budget.cancel() }
    let missing = try budget.shown("exporting process \(process.id)", isQuiet: path == "-") { () throws(Complaint) in
      let view = try view(of: process)
      var scope = try scope.scope()
      let output = try ExportOutput(path: path)
      let missing: String?
      switch format {
      case .sums(let format):
        scope.wantsTotals = format.hasTotals
        let sums = try view.stackSums(scope)
        missing = sums.lossSentence
        try output.write(format.render(sums))
      case .blocks(let format): missing = try format.write(liveBlocksOf: view, scope, to: output)
      }
      try output.finish()
      return missing
    }
    if let missing { complain("process \(process.id): \(missing)") }
  }

  func snapshot(
    of pid: Int32, to path: String, until interruption: Interruption
  ) throws(Complaint) -> Snapshot.Result {
    let budget = Budget.ofExport()
    interruption.onInterruption { budget.cancel() }
    return try budget.shown(Self.words(pid)) { () throws(Complaint) in
      let output = try ExportOutput(path: path)
      let (bytes, result) = try Snapshot.take(try view(of: pid))
      try output.write(bytes)
      try output.finish()
      return result
    }
  }

  func difference(
    _ first: NamedProcess, _ second: NamedProcess, _ request: DifferenceRequest, json: Bool
  ) throws(Complaint) -> (bytes: [UInt8], growth: Int64, doubt: String?) {
    let words = "comparing process \(first.id) with process \(second.id)"
    return try Budget.ofRecording().shown(words) { () throws(Complaint) in
      var scope = try ScopeRequest(perspective: request.perspective).scope()
      scope.wantsTotals = request.wantsTotals
      let difference = HeapDifference(
        from: try view(of: first).stackSums(scope), named: "process \(first.id)",
        to: try view(of: second).stackSums(scope), named: "process \(second.id)", by: request.grouping,
        limit: request.limit, wantsTotals: request.wantsTotals)
      try Budget.current?.check()
      try difference.check(otherProgram: request.otherProgram, wantsTotals: request.wantsTotals)
      let bytes = Array((json ? difference.json + "\n" : difference.text).utf8)
      return (bytes, difference.growth, difference.doubt)
    }
  }

  func blocks(of pid: Int32, _ request: BlocksRequest, json: Bool) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      let filter = try BlockFilter(
        scope: try request.scope.scope(), siteNames: request.sites, sizes: request.sizes)
      let list = try view(of: pid).blocks(filter, sort: request.sort, limit: request.limit, json: json)
      return json ? list.jsonLines : list.text
    }
  }

  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Complaint) -> [UInt8] {
    try Budget.ofQuestion().shown(Self.words(pid)) { () throws(Complaint) in
      let view = try view(of: pid)
      var list = AnswerList(form: form)
      var inquiry = Inquiry(
        view, wrappers: try Wrappers.standard.adding(perspective.wrappers), level: perspective.level,
        stopsThreads: stopsThreads)
      list.append(addresses, from: &inquiry, stacks: stacks)
      try view.checkIntact()
      if inquiry.hasFailedToStop { hasFailedToStop = true }
      return list.take()
    }
  }

  func events(of pid: Int32, _ request: EventRequest, until interruption: Interruption) throws(Complaint) {
    let view = try view(of: pid)
    let filter = try EventFilter(request.conditions)
    let wrappers = try Wrappers.standard.adding(request.wrappers)
    let exporter = try EventExporter()
    defer { exporter.stop() }
    let news = Signal()
    let stream = EventStream(
      of: view, form: request.json ? .jsonLines : .text, stacks: request.stacks, filter: filter, wrappers: wrappers,
      policy: request.isLossless ? .lossless : .overwrite, exporter: exporter, onNews: news.set)
    interruption.onInterruption { stream.cancel() }
    news.wait()
    if stream.hasBegun, !request.json { try StandardOutput.write(EventReport.header) }
    while true {
      let (bytes, end) = try Budget.ofQuestion().run { () throws(Complaint) in stream.next() }
      if let complaint = end?.complaint { throw complaint }
      try StandardOutput.write(bytes)
      if end != nil { return }
      // Nobody reads more often than fifty times a second, and rendering more events at a time costs less.
      usleep(20_000)
      news.wait()
    }
  }

  private static func words(_ pid: Int32) -> String { "looking at process \(pid)" }

  func view(of process: NamedProcess) throws(Complaint) -> ProcessView {
    let view = try view(of: process.id)
    guard let wanted = process.startTime, wanted != view.startTime else { return view }
    throw Complaint(
      .noSuchProcess, what: "process \(process.id) did not start at \(wanted) but at \(view.startTime)",
      advice: "`allocsctl ps --json` tells start times")
  }

  /// The view of process `pid`. A command asks about one process in several pieces; the segment stays open between them
  /// as long as it is the live process's.
  private func view(of pid: Int32) throws(Complaint) -> ProcessView {
    if let view, view.processID == pid, view.isProcessAlive { return view }
    let view = try ProcessView(pid: pid)
    self.view = view
    return view
  }
}
