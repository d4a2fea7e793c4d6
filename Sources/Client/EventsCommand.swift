// `allocsctl events`: what a process does, as it happens.

import Answers
import ArgumentParser
import EventExport
import Glibc
import Provenance
import ServerProtocol
import Synchronization

struct Events: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show allocations and frees of a process as they happen.",
    usage: """
      allocsctl events <pid> [--size <bytes>] [--range <addresses>]
                       [--kind <kinds>] [--function <name>] [--site <name>]
                       [--thread <thread>] [--lossless] [--json [--stacks]]
                       [--wrapper <pattern>] ... [--socket <path> | --direct]
      """,
    discussion: """
      Turns the process's events on, and off again at its end: that of the process, or ^C. One line each: time, event, \
      address, bytes, thread, and the allocation site; for a block that is freed, of the call that freed it if that is \
      recorded (ALLOCS_FREE_STACKS), else of the one that allocated it.

      Events that come faster than they are shown are lost; a line says how many, and since when. With --lossless the \
      process waits for them, a tenth of a second at a time at most. Conditions are checked before names are looked up, \
      where they can be: --size, --range and --kind make a stream that can be followed at any rate.

      Examples:
        allocsctl events 4242
        allocsctl events 4242 --size 1M- --kind alloc
        allocsctl events 4242 --site 'parse_*' --thread worker --json --stacks
        allocsctl events 4242 --range 0x55d0c0ffe000-0x55d0c0fff000
      """)

  @Argument(help: "The process.", transform: processID)
  var pid: Int32

  @Option(help: .init("Of so many bytes: 96, 64-128, 4K-, -64 (K, M, G).", valueName: "bytes"))
  var size: String?

  @Option(help: .init("That touch these addresses: 0x1000-0x2000, or one address.", valueName: "addresses"))
  var range: String?

  @Option(help: .init("Of these kinds, with commas: alloc, free, realloc, thread, module, map.", valueName: "kinds"))
  var kind: [String] = []

  @Option(
    help: .init("Blocks from this function, such as calloc; * and ? stand for any characters.", valueName: "name"))
  var function: [String] = []

  @Option(help: .init("Blocks of this allocation site, by its function; * and ? likewise.", valueName: "name"))
  var site: [String] = []

  @Option(help: .init("Of this thread: its id or name, * and ? likewise.", valueName: "thread"))
  var thread: [String] = []

  @Flag(help: "Let the process wait rather than lose events.")
  var lossless = false

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Flag(help: "With --json: whole call stacks.")
  var stacks = false

  @OptionGroup var wrappers: WrapperOptions

  @OptionGroup var options: SourceOptions

  /// The conditions by their names.
  private var conditions: [(name: String, value: String)] {
    [("size", size), ("range", range)].compactMap { name, value in value.map { (name, $0) } }
      + kind.map { ("kind", $0) } + function.map { ("function", $0) } + site.map { ("site", $0) }
      + thread.map { ("thread", $0) }
  }

  private func filter() throws(AnswerError) -> EventFilter {
    var filter = EventFilter()
    for condition in conditions { try filter.add(condition.name, condition.value) }
    return filter
  }

  func validate() throws {
    if stacks, !json { throw ValidationError("--stacks needs --json.") }
    do { _ = try filter() } catch { throw ValidationError("\(error)") }
  }

  func run() throws {
    let interruption = Interruption()
    switch try options.source() {
    case let source as ServerSource:
      try source.events(
        of: pid, parameters: conditions + [("policy", lossless ? "lossless" : "overwrite"), ("stacks", "\(stacks)")],
        wrappers: wrappers.wrapper, json: json, interruption)
    default: try runDirectly(interruption)
    }
  }

  /// Reads the rings itself.
  private func runDirectly(_ interruption: Interruption) throws {
    let view = try failing { () throws(AnswerError) in try ProcessView(pid: pid) }
    let conditions = try failing { () throws(AnswerError) in try self.filter() }
    let wrapping = try failing { () throws(AnswerError) in try Wrappers.standard.adding(self.wrappers.wrapper) }
    let news = Signal()
    let exporter: EventExporter
    do throws(ExportError) {
      exporter = try EventExporter()
    } catch {
      throw Failure(status: Status.notAnswered, message: error.description)
    }
    defer { exporter.stop() }
    let stream = EventStream(
      of: view, form: json ? .jsonLines : .text, stacks: stacks, filter: conditions, wrappers: wrapping,
      policy: lossless ? .lossless : .overwrite, exporter: exporter, onNews: news.set)
    interruption.onInterruption { stream.cancel() }
    news.wait()
    if stream.hasBegun, !json { try StandardOutput.write(EventReport.header) }
    while true {
      let (bytes, end) = stream.next()
      if let error = end?.answerError { throw Failure(error) }
      try StandardOutput.write(bytes)
      if end != nil { return }
      // Fifty times a second is as fast as anyone reads; more at a time costs less.
      usleep(20_000)
      news.wait()
    }
  }
}

/// What one thread waits for and another sets. Thread-safe.
private final class Signal: Sendable {
  private let descriptors: (read: Int32, write: Int32)

  init() {
    var ends: [Int32] = [-1, -1]
    _ = pipe(&ends)
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    descriptors = (ends[0], ends[1])
  }

  deinit {
    close(descriptors.read)
    close(descriptors.write)
  }

  @Sendable func set() {
    var byte: UInt8 = 1
    _ = write(descriptors.write, &byte, 1)
  }

  /// Returns when it was set since the last time.
  func wait() {
    var request = pollfd(fd: descriptors.read, events: Int16(POLLIN), revents: 0)
    poll(&request, 1, -1)
    var bytes = [UInt8](repeating: 0, count: 64)
    while read(descriptors.read, &bytes, bytes.count) > 0 {}
  }
}

/// Turns ^C, and being asked to end, into a call: so that events are turned off and the last lines are whole. A second
/// one ends the program at once. Made before other threads are, which inherit that the signals are blocked.
final class Interruption: Sendable {
  private struct State {
    var isInterrupted = false
    var handler: (@Sendable () -> Void)?
  }
  private let state = Mutex(State())

  init() {
    var signals = sigset_t()
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, signal) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)
    var thread = pthread_t()
    let context = Unmanaged.passRetained(self)
    let code = pthread_create(
      &thread, nil,
      { context in
        Unmanaged<Interruption>.fromOpaque(context!).takeRetainedValue().waitForSignals()
        return nil
      }, context.toOpaque())
    guard code == 0 else {
      context.release()
      pthread_sigmask(SIG_UNBLOCK, &signals, nil)
      return
    }
    pthread_detach(thread)
  }

  /// `handler` is called once, on another thread; at once if the signal has come already.
  func onInterruption(_ handler: @escaping @Sendable () -> Void) {
    let isInterrupted = state.withLock { state in
      state.handler = handler
      return state.isInterrupted
    }
    if isInterrupted { handler() }
  }

  private func waitForSignals() {
    var signals = sigset_t()
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, signal) }
    var number: Int32 = 0
    guard sigwait(&signals, &number) == 0 else { return }
    let handler = state.withLock { state in
      state.isInterrupted = true
      return state.handler
    }
    handler?()
    guard sigwait(&signals, &number) == 0 else { return }
    exit(128 + number)
  }
}
