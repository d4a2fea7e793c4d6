// SPDX-License-Identifier: Apache-2.0
// Threads of commands that go on until something happens: a signal from the user, or a flag that another thread sets.

import Glibc
import Synchronization

/// Turns ^C, SIGTERM and SIGHUP into a call, so that events are turned off and the last lines are whole. A second
/// signal ends the program at once. To be made before other threads are, as they inherit that the signals are blocked.
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
        // bounded: it is what stands below
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

  /// Calls `handler` once, on another thread; at once if a signal has come already.
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
    exit(128 &+ number)
  }
}

/// A flag that one thread waits for and another sets. Thread-safe.
final class Signal: Sendable {
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

  /// There is something to read at it when the flag has been set.
  var descriptor: Int32 { descriptors.read }

  /// Waits until the flag was set since the last call, or so long; returns whether it was set.
  @discardableResult
  func wait(milliseconds: Int32 = -1) -> Bool {
    var request = pollfd(fd: descriptors.read, events: Int16(POLLIN), revents: 0)
    poll(&request, 1, milliseconds)
    var bytes = [UInt8](repeating: 0, count: 64)
    var isSet = false
    while read(descriptors.read, &bytes, bytes.count) > 0 { isSet = true }
    return isSet
  }

  /// Waits until the flag was set, for so many seconds at most. Returns whether it was.
  func wait(seconds: Double) -> Bool {
    var request = pollfd(fd: descriptors.read, events: Int16(POLLIN), revents: 0)
    return poll(&request, 1, Int32(max(0, min(seconds, 86_400)) * 1000)) > 0  // bounded: a day has 86,400,000
  }
}
