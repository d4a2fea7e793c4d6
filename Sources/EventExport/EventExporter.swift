// SPDX-License-Identifier: Apache-2.0
// The export of events: one thread, whatever the number of processes, rings and destinations.
//
// The thread writes by io_uring. Where the kernel has no io_uring, or forbids it (sysctl kernel.io_uring_disabled, a
// seccomp filter), or ALLOCSD_IO_URING=0 says so, it writes by plain system calls. The first subscriber starts the
// thread, so a process that exports nothing has neither a thread nor an io_uring.

import CLiburing
import Glibc
import Synchronization
import SystemAccess

/// A subscriber with its source and its destination. Made by one thread, handed to `EventExporter.add`, and not used
/// afterwards.
public final class ExportRequest: @unchecked Sendable {
  let subscriber: any EventSubscriber
  let key: String
  let policy: DeliveryPolicy
  let waitsForSpace: Bool
  let bufferBytes: Int
  let makeSource: @Sendable () throws(Complaint) -> any EventSource
  private var destination: Destination?

  /// - Parameters:
  ///   - key: Names the rings. Subscribers that overwrite share the source of their key.
  ///   - bufferBytes: The bytes that may wait for the destination, a power of two from 4096. No other memory grows with
  ///     this number.
  ///   - waitsForSpace: Whether the subscriber waits until a full disk has room again; events that come meanwhile are
  ///     lost, and counted. Otherwise a full disk is its end.
  ///   - makeSource: Opens the rings. Called on the export's thread.
  public init(
    subscriber: any EventSubscriber, key: String, policy: DeliveryPolicy = .overwrite,
    destination: consuming Destination? = nil, bufferBytes: Int = 1 << 20, waitsForSpace: Bool = false,
    makeSource: @escaping @Sendable () throws(Complaint) -> any EventSource
  ) {
    self.subscriber = subscriber
    self.key = key
    self.policy = policy
    self.destination = consume destination
    self.bufferBytes = bufferBytes
    self.waitsForSpace = waitsForSpace
    self.makeSource = makeSource
  }

  func takeDestination() -> Destination? { destination.take() }
}

/// How bytes are written.
public enum ExportMethod: Sendable, Equatable {
  case ioUring
  /// Plain system calls, and the reason in words.
  case plain(reason: String)
}

/// Exports events of any number of processes to any number of subscribers. Thread-safe.
public final class EventExporter: Sendable {
  /// A subscriber that was added.
  public struct Subscription: Hashable, Sendable {
    fileprivate let id: UInt32
  }

  private enum Command: Sendable {
    case add(ExportRequest, UInt32)
    case remove(UInt32)
    case stop
  }

  private struct State {
    var commands: [Command] = []
    var nextID: UInt32 = 1
    var thread: pthread_t?
    var isStopped = false
  }

  /// Counts of what the export has done.
  public let figures = ExportFigures()
  private let allowIOUring: Bool
  private let report: @Sendable (ExportMethod) -> Void
  private let state = Mutex(State())
  private let wakeup: Wakeup

  /// `report` is called once, when the first subscriber comes, with the way in which bytes are written.
  public init(
    allowIOUring: Bool = EventExporter.isIOUringAllowed, report: @escaping @Sendable (ExportMethod) -> Void = { _ in }
  ) throws(Complaint) {
    self.allowIOUring = allowIOUring
    self.report = report
    wakeup = try Wakeup()
  }

  /// Whether io_uring may be used: false if ALLOCSD_IO_URING is 0.
  public static var isIOUringAllowed: Bool {
    guard let value = getenv("ALLOCSD_IO_URING") else { return true }
    return strcmp(value, "0") != 0
  }

  /// Adds a subscriber. It is told its end in any case, also if its source can't be opened.
  @discardableResult
  public func add(_ request: ExportRequest) -> Subscription {
    let id = state.withLock { state in
      let id = state.nextID
      state.nextID += 1
      if state.isStopped { return UInt32(0) }
      state.commands.append(.add(request, id))
      if state.thread == nil { state.thread = start() }
      return id
    }
    if id == 0 { request.subscriber.ended(.removed) } else { wakeup.ring() }
    return Subscription(id: id)
  }

  /// Ends a subscriber soon: bytes that wait are still written, for at most a second.
  public func remove(_ subscription: Subscription) { send(.remove(subscription.id)) }

  /// Ends all subscribers and waits for their end, about a second at most.
  public func stop() {
    let thread = state.withLock { state in
      state.isStopped = true
      defer { state.thread = nil }
      if state.thread != nil { state.commands.append(.stop) }
      return state.thread
    }
    guard let thread else { return }
    wakeup.ring()
    pthread_join(thread, nil)
  }

  private func send(_ command: Command) {
    state.withLock { if $0.thread != nil { $0.commands.append(command) } }
    wakeup.ring()
  }

  // MARK: the thread

  private func start() -> pthread_t? {
    var thread = pthread_t()
    let context = Unmanaged.passRetained(self)
    let code = pthread_create(
      &thread, nil,
      { context in
        Unmanaged<EventExporter>.fromOpaque(context!).takeRetainedValue().run()
        return nil
      }, context.toOpaque())
    guard code == 0 else {
      context.release()
      return nil
    }
    return thread
  }

  private func run() {
    allocs_name_thread("events")
    // Signals are for other threads. Above all, no thread gets a SIGPIPE for a pipe whose reader is gone.
    var signals = sigset_t()
    sigfillset(&signals)
    pthread_sigmask(SIG_SETMASK, &signals, nil)
    let loop = DrainLoop(writer: makeWriter(), figures: figures)
    while true {
      let commands = state.withLock { state in
        defer { state.commands.removeAll() }
        return state.commands
      }
      for command in commands {
        switch command {
        case .add(let request, let id): loop.add(request, id: id)
        case .remove(let id): loop.remove(id)
        case .stop: loop.stop()
        }
      }
      if loop.isOver { return }
      loop.turn()
    }
  }

  private func makeWriter() -> any EventWriter {
    let reason: String
    if allowIOUring {
      do throws(Complaint) {
        let writer = try IOUringWriter(wakeup: wakeup)
        report(.ioUring)
        return writer
      } catch {
        reason = error.description
      }
    } else {
      reason = "io_uring is switched off by ALLOCSD_IO_URING=0 or --no-io-uring"
    }
    report(.plain(reason: reason))
    return PlainWriter(wakeup: wakeup)
  }
}
