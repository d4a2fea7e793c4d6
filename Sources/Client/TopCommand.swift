// SPDX-License-Identifier: Apache-2.0
// The commands about all live blocks of a process: top, by allocation site; tree, by calls; blocks, one by one.

import Answers
import ArgumentParser
import Bounds
import Glibc
import Provenance
import SystemAccess
import Watching

extension SiteOrder: ExpressibleByArgument {}
extension BlockOrder: ExpressibleByArgument {}
extension HeapGrouping: ExpressibleByArgument {}

/// When the blocks were made that a question is about.
struct WindowOptions: ParsableArguments {
  @Option(
    help: .init(
      "Only blocks made since then: 10m (ago), 14:05, 2026-11-29T14:05:30Z, a mark; of a recording also @2.5s.",
      valueName: "when"))
  var since: String?

  @Option(help: .init("Only blocks made before then.", valueName: "when"))
  var until: String?

  @Option(help: .init("Only blocks older than 90s, 10m, 2h, 1d.", valueName: "age"))
  var older: String?

  @Option(help: .init("Only blocks younger than that.", valueName: "age"))
  var younger: String?

  func validate() throws {
    for (name, age) in [("older", older), ("younger", younger)] {
      if let age, Units.seconds(inTime: age) == nil {
        throw ValidationError("--\(name) is an age such as 10m, not '\(age)'.")
      }
    }
    if since != nil, younger != nil { throw ValidationError("--since and --younger exclude each other: give one.") }
    if until != nil, older != nil { throw ValidationError("--until and --older exclude each other: give one.") }
  }

  func window() throws(Complaint) -> TimeWindow {
    func moment(_ option: String, _ text: String?, _ age: String?) throws(Complaint) -> Moment? {
      if let age { return Units.seconds(inTime: age).map { .ago($0) } }
      guard let text else { return nil }
      do throws(Complaint) {
        return try Moment(text, now: seconds(of: CLOCK_REALTIME), hasClock: true)
      } catch {
        var error = error
        error.what = "--\(option): \(error.what)"
        throw error
      }
    }
    return try TimeWindow(since: try moment("since", since, younger), until: try moment("until", until, older))
      .checked(at: seconds(of: CLOCK_REALTIME))
  }
}

/// The options that say which live blocks a question is about.
struct ScopeOptions: ParsableArguments {
  @OptionGroup var window: WindowOptions
  @OptionGroup var wrappers: WrapperOptions
  @OptionGroup var level: LevelOptions
  @OptionGroup var group: GroupOption

  func request() throws(Complaint) -> ScopeRequest {
    ScopeRequest(
      perspective: try Perspective(wrappers, level), window: try window.window(),
      group: try group.name())
  }
}

/// The option that counts what the program mapped itself.
struct MappedOption: ParsableArguments {
  @Flag(
    help: """
      Count what the program mapped itself (mmap), too: a mapping is a block. Blocks that an allocator keeps in one \
      count beside it.
      """)
  var mapped = false

  func request(_ scope: ScopeOptions) throws(Complaint) -> ScopeRequest {
    var request = try scope.request()
    request.countsMappings = mapped
    return request
  }
}

private func checkLimit(_ limit: Int) throws {
  guard (1...100_000).contains(limit) else { throw ValidationError("--limit must be a number from 1 to 100000.") }
}

struct Top: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show the allocation sites that hold most memory, and watch them.",
    usage: """
      allocsctl top <source> [--once] [--group <group>]
                    [--sort bytes|blocks|age|newest|name|growth|rate]
                    [--totals] [--for <time>]
                    [--since <when>] [--until <when>] [--older <age>]
                    [--younger <age>] [--within <group>] [--mapped]
                    [--limit <number>] [--wrapper <pattern>] ...
                    [--level block|chunk] [--json] [--socket <path> | --direct]
      """,
    discussion: """
      Live bytes and blocks, summed up by the place in the program that allocated them; the largest first. Functions \
      that only allocate for their caller (malloc, operator new, zmalloc, containers of C++, Swift and Rust, …) are \
      passed over. With a window of time, only blocks count that were made in it and are alive now: of a program that \
      has warmed up, the last ten minutes' blocks that still live are where a leak is looked for.

      --group sums up by site, function, module, file, thread, allocator, size or age. A moment (when) may be a mark, \
      which `allocsctl mark` sets.

      --sort rate lists what is allocated most a second, also where all of it is freed again: where the program spends \
      its time in the allocator. --totals adds the same numbers to a table in another order: bytes a second since the \
      process began, blocks ever allocated, how many of them were freed again, and how long they live on average. With \
      --for, the process is watched for so long, and the numbers are of that time; --sort growth, what has most live \
      bytes more at its end, watches for a second if nothing else is said.

      The source is a process, a snapshot, or a recording: FILE for its end, FILE@2.5s, FILE@peak. Of a file the table \
      is by site; what was ever allocated, a snapshot has. A file has the marks that the process had when the file was \
      finished; of a recording, @2.5s is so long after its start, and peak the moment at which most bytes lived.

      On a terminal the table fills the screen and follows the process: ? there lists the keys. --once, --json, and an \
      output that is no terminal give the table once.

      Examples:
        allocsctl top 4242
        allocsctl top 4242 --once --younger 10m
        allocsctl top 4242 --group thread
        allocsctl top 4242 --sort rate --for 10s
        allocsctl top 4242 --since 14:05 --until 14:10 --sort age
        allocsctl top 4242 --wrapper 'pool_*' --wrapper Arena::get
        allocsctl top 4242 --limit 5 --json
        allocsctl top before.snap --sort rate
      """)

  /// An order of rows: one that the source of the answers has, or the one that only watching knows.
  enum Order: ExpressibleByArgument {
    case known(SiteOrder)
    case growth

    var defaultValueDescription: String {
      switch self {
      case .known(let order): order.rawValue
      case .growth: "growth"
      }
    }

    static let allValueStrings = SiteOrder.allCases.map(\.rawValue) + ["growth"]

    init?(argument: String) {
      if argument == "growth" {
        self = .growth
      } else {
        guard let order = SiteOrder(rawValue: argument) else { return nil }
        self = .known(order)
      }
    }
  }

  @Argument(help: "A process, a snapshot, or a moment of a recording.", completion: .file())
  var source: String

  @Flag(help: "Print the table once, also on a terminal.")
  var once = false

  @Option(
    help: .init(
      "What a row is. A size is a range of bytes, an age a range of time.", valueName: "group"))
  var group = HeapGrouping.site

  @Option(help: .init("Rows to show, at most 100000. (Default: 20; on the screen, 1000.)", valueName: "number"))
  var limit: Int?

  @Option(
    help: .init(
      "Order: most bytes or blocks, the oldest or the newest block first; rate, growth: see above.",
      valueName: "order"))
  var sort = Order.known(.bytes)

  @Flag(help: "Also what was ever allocated, and not only what lives.")
  var totals = false

  @Option(
    name: .customLong("for"),
    help: .init("Watch for so long, and tell what changed: 10s, 5m.", valueName: "time"))
  var length: String?

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var scope: ScopeOptions
  @OptionGroup var mapped: MappedOption

  @OptionGroup var options: SourceOptions

  func validate() throws {
    try checkLimit(limit ?? 20)
    guard let length else { return }
    guard let seconds = Units.seconds(inTime: length), seconds >= 0.1 else {
      throw ValidationError("--for is a time such as 10s or 5m, of 100ms at least, not '\(length)'.")
    }
    if group == .age { throw ValidationError("--group age tells nothing of changes: each block grows older.") }
  }

  func run() throws {
    let scope = try mapped.request(scope)
    let pid: Int32
    switch try HeapSource(source) {
    case .process(let process) where process.startTime == nil: pid = process.id
    case .process(let process):
      throw Complaint(.usage, what: "\"\(source)\" is no process id", advice: "give the id alone: \(process.id)")
    case let file: return try show(file, scope)
    }
    if !once, !json, !totals, length == nil, Terminal.isUsable {
      try Watch(pid, scope, group, sort, limit: limit ?? 1000).run { () throws(Complaint) in try options.source() }
      return
    }
    guard case .known(let order) = sort, length == nil else { return try watch(pid, scope) }
    let request = TopRequest(scope: scope, sort: order, grouping: group, limit: limit ?? 20, wantsTotals: totals)
    try StandardOutput.write(try options.source().top(of: pid, request, json: json))
  }

  private func show(_ file: HeapSource, _ scope: ScopeRequest) throws {
    var status = stat()
    guard case .file(let path, _) = file, path.contains("/") || stat(path, &status) == 0 else {
      throw Complaint(
        .usage, what: "\"\(TextLayout.fit(TextLayout.printable(source), columns: 60))\" is no process id, and no file",
        advice: "`allocsctl ps` lists the processes that there are")
    }
    try file.refuse(self.scope.level, options)
    guard case .known(let order) = sort, length == nil else {
      throw Complaint(
        .usage, what: "\(file.name) is a file, which cannot be watched",
        advice: "leave --for and --sort growth out; `allocsctl diff` compares two moments")
    }
    let request = TopRequest(scope: scope, sort: order, grouping: group, limit: limit ?? 20, wantsTotals: totals)
    let table = try Budget.ofRecording().shown("reading \(file.name)") { () throws(Complaint) in
      try file.table(request)
    }
    try StandardOutput.write(json ? table.json + "\n" : table.text)
  }

  /// Rows of a look: what is not among them has no change that is known.
  private static let rows = 10_000

  /// Looks twice, and prints what changed.
  private func watch(_ pid: Int32, _ scope: ScopeRequest) throws {
    // The signals are blocked before the source makes threads.
    let interruption = Interruption()
    let interrupted = Signal()
    interruption.onInterruption(interrupted.set)
    let source = try options.source()
    let length = length.flatMap { Units.seconds(inTime: $0) } ?? 1
    let progress = Progress(length)
    defer { progress.end() }
    var order = SiteOrder.rate
    let change: ChangeReport.Order
    switch sort {
    case .growth: change = .growth
    case .known(.rate): change = .rate
    case .known(let known):
      change = .listed
      order = known
    }
    let first = try look(source, pid, scope, &order)
    guard !first.hasEnded else {
      throw Complaint(
        .obstacle, what: "can't watch process \(pid): it has ended",
        advice: "`allocsctl top \(pid) --once` shows what lived at its end")
    }
    // bounded: seconds in floating point
    let end = first.time + length
    var isInterrupted = false
    while !isInterrupted, seconds(of: CLOCK_MONOTONIC) < end {
      // bounded: seconds in floating point
      progress.show(seconds(of: CLOCK_MONOTONIC) - first.time)
      isInterrupted = interrupted.wait(seconds: min(1, max(0, end - seconds(of: CLOCK_MONOTONIC))))
    }
    let last: WatchLook
    do throws(Complaint) {
      last = try look(source, pid, scope, &order)
    } catch {
      // The blocks of the group are gone meanwhile.
      guard error.kind == .noSuchGroup else { throw error }
      last = first.emptied(at: seconds(of: CLOCK_MONOTONIC))
    }
    progress.end()
    let report = ChangeReport(from: first, to: last, by: group, change, limit: limit ?? 20)
    try StandardOutput.write(json ? report.json + "\n" : report.text)
    if isInterrupted { throw ExitCode(128 + SIGINT) }
  }

  /// In the order `rate`, rows without a live block are among the rows. What grows is told without it, too, where the
  /// process does not keep what it allocated, or the question is not one about that.
  private func look(
    _ source: any AnswerSource, _ pid: Int32, _ scope: ScopeRequest, _ order: inout SiteOrder
  ) throws(Complaint) -> WatchLook {
    let time = seconds(of: CLOCK_MONOTONIC)
    var request = TopRequest(scope: scope, sort: order, grouping: group, limit: Self.rows, wantsTotals: true)
    do throws(Complaint) {
      return try WatchLook(json: try source.top(of: pid, request, json: true), by: group, time: time)
    } catch {
      if case .known(.rate) = sort { throw error }
      // Servers of before said nothing more than that it is not to be had.
      guard error.kind == .noTotals || [.usage, .obstacle].contains(error.kind) && order == .rate else { throw error }
      if order == .rate { order = .bytes }
      (request.sort, request.wantsTotals) = (order, false)
      return try WatchLook(json: try source.top(of: pid, request, json: true), by: group, time: time)
    }
  }
}

struct Tree: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show live memory by calls, from main down to who allocates; or inverted.",
    usage: """
      allocsctl tree <source> [--inverted] [--since <when>] [--until <when>]
                     [--older <age>] [--younger <age>] [--within <group>]
                     [--mapped] [--limit <number>] [--wrapper <pattern>] ...
                     [--level block|chunk] [--json]
                     [--socket <path> | --direct]
      """,
    discussion: """
      Each function stands below its caller, with the memory that lives of all that was allocated from there on; a \
      function that has all the memory of its caller stands below it without numbers. --inverted begins with the \
      allocation sites, and each function's callers stand below it. The source is a process, a snapshot, or a \
      recording: FILE for its end, FILE@2.5s, FILE@peak.

      Examples:
        allocsctl tree 4242
        allocsctl tree 4242 --inverted --younger 10m
        allocsctl tree run.rec@peak --limit 200
      """)

  @Argument(help: "A process, a snapshot, or a moment of a recording.", completion: .file())
  var source: String

  @Flag(help: "From the allocation sites to their callers.")
  var inverted = false

  @Option(help: .init("Functions to show, at most 100000: those with most memory.", valueName: "number"))
  var limit = 50

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var scope: ScopeOptions
  @OptionGroup var mapped: MappedOption

  @OptionGroup var options: SourceOptions

  func validate() throws { try checkLimit(limit) }

  func run() throws {
    let request = TreeRequest(scope: try mapped.request(scope), isInverted: inverted, limit: limit)
    switch try HeapSource(source) {
    case .process(let process) where process.startTime == nil:
      try StandardOutput.write(try options.source().tree(of: process.id, request, json: json))
    case let other:
      try other.refuse(scope.level, options)
      let tree = try Budget.ofRecording().shown("reading \(other.name)") { () throws(Complaint) in
        CallTree(of: try other.stackSums(request.scope), isInverted: inverted, limit: limit)
      }
      try StandardOutput.write(json ? tree.json + "\n" : tree.text)
    }
  }
}

struct Memory: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show where the resident memory of a process goes, to the page.",
    usage: """
      allocsctl memory <pid> [--pinned] [--wrapper <pattern>] ... [--json]
                       [--socket <path> | --direct]
      """,
    discussion: """
      The rows add up to what the kernel says (RSS). The heap's is divided: live blocks as they were asked for; \
      what glibc rounds them up by, where blocks are glibc's, whose rule is known; the rest of their pages; and pages \
      without a live block, which the allocator holds. The same follows by allocator, and for glibc by arena: the \
      program break, heaps of arenas for threads, and blocks with mappings of their own. Other allocators' arenas are \
      not told apart. A page is its first live block's allocator's, or the nearest block's if it has none. --pinned \
      lists the sites whose few live bytes alone keep pages resident.

      Examples:
        allocsctl memory 4242
        allocsctl memory 4242 --pinned
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Flag(help: "List the sites that keep pages resident by a few bytes.")
  var pinned = false

  @Flag(help: "Print one JSON object.")
  var json = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var options: SourceOptions

  func run() throws {
    let perspective = try Perspective(wrappers)
    try StandardOutput.write(try options.source().memory(of: pid, pins: pinned, perspective, json: json))
  }
}

struct Blocks: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List live blocks with their addresses.",
    usage: """
      allocsctl blocks <pid> [--site <pattern>] ... [--size <from>[-<to>]]
                       [--since <when>] [--until <when>] [--older <age>]
                       [--younger <age>] [--within <group>]
                       [--sort address|size|age] [--limit <number>]
                       [--wrapper <pattern>] ...
                       [--level block|chunk] [--json]
                       [--socket <path> | --direct]
      """,
    discussion: """
      --site takes the name of the function that allocated, as `top` shows it; * and ? stand for any characters. In \
      JSON each block is a line, as `query` answers about its first byte.

      Examples:
        allocsctl blocks 4242 --site 'cache_*' --sort age
        allocsctl blocks 4242 --size 1M-
        allocsctl blocks 4242 --younger 10m --json | jq -r .base
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(help: .init("Only blocks that such a function allocated.", valueName: "pattern"))
  var site: [String] = []

  @Option(help: .init("Only blocks of so many bytes: 96, 1K-4K, 1M-.", valueName: "from-to"))
  var size: String?

  @Option(help: .init("Order: address; size, the largest first; age, the oldest first.", valueName: "order"))
  var sort = BlockOrder.address

  @Option(help: .init("Blocks to show, at most 100000.", valueName: "number"))
  var limit = 20

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @OptionGroup var scope: ScopeOptions

  @OptionGroup var options: SourceOptions

  func validate() throws {
    try checkLimit(limit)
    if let size, Units.sizes(inRange: size) == nil {
      throw ValidationError("--size is a number of bytes or a range of them, such as 96 or 1K-4K, not '\(size)'.")
    }
  }

  func run() throws {
    let request = BlocksRequest(
      scope: try scope.request(), sites: site, sizes: size.flatMap { Units.sizes(inRange: $0) } ?? 0...UInt64.max,
      sort: sort, limit: limit)
    try StandardOutput.write(try options.source().blocks(of: pid, request, json: json))
  }
}
