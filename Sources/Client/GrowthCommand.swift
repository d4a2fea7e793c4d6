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

  /// Looks that are taken at most: the last one is divided at the moments of all of them.
  private static let mostLooks = 96
  /// Moments at which the time before is divided.
  private static let pastMoments = 32
  /// Rows of a look.
  private static let lookLimit = 2000
  /// A look may cost this part of the time between two looks at most: one in so many.
  private static let share = 10.0

  func validate() throws {
    guard (1...1000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 1000.") }
    guard let whole = Units.seconds(inTime: length), whole > 0 else {
      throw ValidationError("--for is a time such as 60s or 10m, not '\(length)'.")
    }
    guard let every else { return }
    guard let step = Units.seconds(inTime: every), step >= 0.1 else {
      throw ValidationError("--every is a time of 100ms or more, not '\(every)'.")
    }
    // bounded: seconds in floating point; the number of looks is 96 at most
    guard whole / step < Double(Self.mostLooks) else {
      throw ValidationError("--for \(length) has more than \(Self.mostLooks) looks with --every \(every).")
    }
  }

  func run() throws {
    let scope = ScopeRequest(
      perspective: try Perspective(wrappers, level),
      group: try within.name())
    let whole = Units.seconds(inTime: length) ?? 60
    let step = every.flatMap { Units.seconds(inTime: $0) } ?? max(1, whole / Double(Self.mostLooks - 1))
    // The signals are blocked before the source makes threads.
    let interruption = Interruption()
    let interrupted = Signal()
    interruption.onInterruption(interrupted.set)
    let source = try options.source()
    // The first look is taken at once, and the last one half a step after the end at most.
    // bounded: by the greatest number of looks
    let asked = Int(min(Double(Self.mostLooks), 1 + (whole / step + 0.5).rounded(.down)))
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

    var series = GrowthSeries()
    /// The moments of the looks, in seconds since 1970.
    var moments: [Double] = []
    var hasEnded = false
    var isInterrupted = false
    /// What the dearest look took for which the next one had to wait; 0 if all came when they should.
    var delay = 0.0
    let start = seconds(of: CLOCK_MONOTONIC)
    while true {
      let now = seconds(of: CLOCK_REALTIME)
      let request = TopRequest(
        scope: scope, grouping: group, limit: Self.lookLimit, divisions: moments.last.map { [.time($0)] } ?? [])
      let look = try look(source, request, after: series.last)
      guard !look.hasEnded || !moments.isEmpty else {
        throw Complaint(
          .obstacle, what: "can't watch process \(pid): it has ended",
          advice: "`allocsctl top \(pid)` and `allocsctl tree \(pid)` show what lived at its end")
      }
      moments.append(now)
      series.add(look)
      // bounded: seconds in floating point; 100 looks more than there are at most
      let taken = seconds(of: CLOCK_MONOTONIC) - start
      hasEnded = look.hasEnded
      warn(asked, "")
      guard !hasEnded, !isInterrupted, taken + step / 2 <= whole, moments.count < Self.mostLooks else { break }
      progress.show(taken)
      // By the clock, so that looks that take long do not add up.
      let cost = seconds(of: CLOCK_MONOTONIC) - look.time
      let planned = start + Double(moments.count) * step
      let next = max(planned, look.time + cost * Self.share)
      // The first look reads all names, which is done once.
      if next > planned, moments.count > 1 {
        delay = max(delay, cost)
        warn(
          moments.count + Int(min(100, max(0, whole - taken) / max(1e-6, cost * Self.share))),
          ", as a look takes \(Units.duration(cost))")
      }
      isInterrupted = interrupted.wait(seconds: max(0, next - seconds(of: CLOCK_MONOTONIC)))
    }
    var report = try report(source, scope, series, moments)
    progress.end()
    if delay > 0, report.looks < asked, !hasEnded, !isInterrupted { report.delay = delay }
    try StandardOutput.write(json ? report.json + "\n" : report.text)
    if isInterrupted { throw ExitCode(128 + SIGINT) }
  }

  /// A look. A group that had blocks in the look before has none in this one once they are gone.
  private func look(
    _ source: any AnswerSource, _ request: TopRequest, after last: WatchLook?
  ) throws(Complaint) -> WatchLook {
    let time = seconds(of: CLOCK_MONOTONIC)
    do throws(Complaint) {
      return try WatchLook(json: try source.top(of: pid, request, json: true), by: group, time: time)
    } catch {
      guard error.kind == .noSuchGroup, let last else { throw error }
      return last.emptied(at: time)
    }
  }

  /// The last look, which tells the births of what lives, and what all looks say.
  private func report(
    _ source: any AnswerSource, _ scope: ScopeRequest, _ series: GrowthSeries, _ moments: [Double]
  ) throws(Complaint) -> GrowthReport {
    let now = seconds(of: CLOCK_REALTIME)
    // bounded: seconds in floating point, and some moments
    let watched = moments.first.map { now - $0 } ?? 0
    // Since the oldest block, or since the index began: nothing lives of the time before. A server may say anything: a
    // moment that a question has lies less than 10^10 seconds back.
    let uptime = max(min(series.last?.oldest ?? 0, 9e9), watched + 1)
    let before = uptime - watched
    let past = (0..<Self.pastMoments).map { index in
      watched + before * Double(Self.pastMoments - 1 - index) / Double(Self.pastMoments - 1)
    }
    let divisions = past.dropLast().map { Moment.ago($0) } + moments.map { Moment.time($0) }
    let final = try look(
      source, TopRequest(scope: scope, grouping: group, limit: Self.lookLimit, divisions: divisions),
      after: series.last)
    return GrowthReport(
      of: series, final: final, past: past, uptime: uptime, by: group, limit: limit, now: now)
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
