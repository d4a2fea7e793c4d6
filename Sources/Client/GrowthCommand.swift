// SPDX-License-Identifier: Apache-2.0
// The command growth: looks at a process for a while, and tells which sites grow.

import Answers
import ArgumentParser
import Glibc
import Provenance
import SystemAccess
import Watching

struct Growth: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Watch a process for a while, and tell which allocation sites grow.",
    usage: """
      allocsctl growth <pid> [--for <time>] [--every <time>] [--group <group>]
                       [--within <group>] [--limit <number>]
                       [--wrapper <pattern>] ... [--level block|chunk] [--json]
                       [--socket <path> | --direct]
      """,
    discussion: """
      Sites that grow are told apart from caches that fill up and stay, and from buffers that swing: by the median \
      slope of the live bytes (Theil-Sen) and by whether chance explains it (Mann-Kendall), by the part of what was \
      made meanwhile that still lives, and by when the blocks were made that live now, which tells since when a site \
      has grown, also before the command began. ^C ends the watch, and what was seen until then is told.

      Examples:
        allocsctl growth 4242
        allocsctl growth 4242 --for 10m
        allocsctl growth 4242 --group function --json
      """)

  /// What a row may be: of ages nothing can be told.
  struct Group: ExpressibleByArgument {
    let grouping: HeapGrouping

    static let site = Group(grouping: .site)
    static var allValueStrings: [String] { HeapGrouping.allCases.filter { $0 != .age }.map(\.rawValue) }

    init(grouping: HeapGrouping) { self.grouping = grouping }

    init?(argument: String) {
      guard Self.allValueStrings.contains(argument), let grouping = HeapGrouping(rawValue: argument) else { return nil }
      self.init(grouping: grouping)
    }

    var defaultValueDescription: String { grouping.rawValue }
  }

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(name: .customLong("for"), help: .init("How long: 90s, 10m, 1h.", valueName: "time"))
  var length = "60s"

  @Option(
    help: .init("Time between two looks; at most 96 are taken. (Default: a second, or longer.)", valueName: "time"))
  var every: String?

  @Option(
    name: .customLong("group"),
    help: .init("What a row is, as of `top`; but not age, as each block grows older.", valueName: "group"))
  var rows = Group.site

  private var group: HeapGrouping { rows.grouping }

  @Option(help: .init("Rows to show, at most 1000.", valueName: "number"))
  var limit = 10

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var level: LevelOptions

  @OptionGroup var within: GroupOption

  @OptionGroup var options: SourceOptions

  func validate() throws {
    guard (1...1000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 1000.") }
    guard let whole = Units.seconds(inTime: length), whole > 0 else {
      throw ValidationError("--for is a time such as 60s or 10m, not '\(length)'.")
    }
    guard let every else { return }
    guard let step = Units.seconds(inTime: every), step >= 0.1 else {
      throw ValidationError("--every is a time of 100ms or more, not '\(every)'.")
    }
    guard GrowthWatch.mayLast(whole, every: step) else {
      throw ValidationError("--for \(length) has more than \(GrowthWatch.mostLooks) looks with --every \(every).")
    }
  }

  func run() throws {
    let scope = ScopeRequest(
      perspective: try Perspective(wrappers, level),
      group: try within.name())
    let whole = Units.seconds(inTime: length) ?? 60
    // The signals are blocked before the source makes threads.
    let interruption = Interruption()
    let interrupted = Signal()
    interruption.onInterruption(interrupted.set)
    let source = try options.source()
    var isWarned = false
    /// Says once, and as soon as it is known, that no verdict will come of this.
    func warn(_ looks: Int, _ why: String) {
      guard !isWarned, looks < GrowthSeries.fewestLooks else { return }
      isWarned = true
      complain(
        "\(Units.count(UInt64(max(0, looks)), "look")) in \(Units.duration(whole))\(why): too few to tell what grows, "
          + "for which it takes \(GrowthSeries.fewestLooks)")
    }
    let progress = Progress(whole)
    defer { progress.end() }

    var watch = GrowthWatch(for: whole, every: every.flatMap { Units.seconds(inTime: $0) }, by: group, limit: limit)
    var isInterrupted = false
    while true {
      let now = seconds(of: CLOCK_REALTIME)
      let look = try look(source, scope, watch.divisions, after: watch.series.last)
      guard !look.hasEnded || watch.series.last != nil else { throw GrowthReport.ended(pid) }
      watch.add(look, at: now)
      warn(watch.plannedLooks, "")
      guard !isInterrupted, let next = watch.next else { break }
      progress.show(watch.taken)
      if let pace = watch.slowPace { warn(pace.looks, ", as a look takes \(Units.duration(pace.cost))") }
      // bounded: by the length of the watch, in floating point
      isInterrupted = interrupted.wait(seconds: max(0, next - seconds(of: CLOCK_MONOTONIC)))
    }
    let closing = watch.closing()
    let final = try look(source, scope, closing.divisions, after: watch.series.last)
    let report = watch.report(closing, final, isCutShort: isInterrupted)
    progress.end()
    try StandardOutput.write(json ? report.json + "\n" : report.text)
    if isInterrupted { throw ExitCode(128 + SIGINT) }
  }

  /// A look. A group that had blocks in the look before has none in this one once they are gone.
  private func look(
    _ source: any AnswerSource, _ scope: ScopeRequest, _ divisions: [Moment], after last: WatchLook?
  ) throws(Complaint) -> WatchLook {
    let time = seconds(of: CLOCK_MONOTONIC)
    let request = TopRequest(scope: scope, grouping: group, limit: GrowthWatch.rowLimit, divisions: divisions)
    do throws(Complaint) {
      return try WatchLook(json: try source.top(of: pid, request, json: true), by: group, time: time)
    } catch {
      guard error.kind == .noSuchGroup, let last else { throw error }
      return last.emptied(at: time)
    }
  }
}

/// A line on standard error that says how far a command is; none if standard error is no terminal.
struct Progress {
  private let whole: Double
  private let isShown = isatty(STDERR_FILENO) == 1

  init(_ whole: Double) { self.whole = whole }

  func show(_ done: Double) {
    guard isShown else { return }
    let text = "\rwatching: \(Units.duration(done)) of \(Units.duration(whole)), ^C ends it earlier\u{1B}[K"
    _ = writeAll(Array(text.utf8), to: STDERR_FILENO)
  }

  /// Takes the line away.
  func end() {
    guard isShown else { return }
    _ = writeAll(Array("\r\u{1B}[K".utf8), to: STDERR_FILENO)
  }
}
