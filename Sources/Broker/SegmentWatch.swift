// SPDX-License-Identifier: Apache-2.0
// A thread that does nothing but wait for segments to appear. Each process is so opened within a fraction of a
// millisecond, as how a process ends can't be learnt once it is gone. The thread also queues each change that it sees,
// for a task that looks at the directories at its leisure.

import CPidfd
import Glibc
import IndexReader
import Synchronization
import SystemAccess

/// Watches directories of segments from a thread of its own, which ends with the watcher.
final class ArrivalWatcher: Sendable {
  private let changes = Mutex<[DirectoryChange]>([])
  /// A pipe: the thread ends when the writing end is closed.
  private let stopping: (read: Int32, write: Int32)

  /// With more changes than these at a time, all that is kept is that anything may have changed.
  private static let limit = 10_000

  /// `arrived` is called on the thread for each file that appears, `wake` when there are changes to take.
  init(
    _ directories: [String], arrived: @escaping @Sendable (String) -> Void, wake: @escaping @Sendable () -> Void
  ) throws(Complaint) {
    let watcher = try DirectoryWatcher(directories)
    var ends: [Int32] = [0, 0]
    guard pipe(&ends) == 0 else {
      throw Complaint(.obstacle, what: "cannot watch for new segments: \(systemWords(errno))", code: errno)
    }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    stopping = (ends[0], ends[1])
    let body = Body(watcher, stop: ends[0], arrived: arrived) { [weak self] changes in
      self?.add(changes)
      wake()
    }
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, Unmanaged.passRetained(body).toOpaque())
    guard code == 0 else {
      Unmanaged.passUnretained(body).release()
      throw Complaint(.obstacle, what: "cannot watch for new segments: \(systemWords(code))", code: code)
    }
    pthread_detach(thread)
  }

  deinit { close(stopping.write) }

  /// The changes since the last call.
  func takeChanges() -> [DirectoryChange] {
    changes.withLock { changes in
      defer { changes = [] }
      return changes
    }
  }

  private func add(_ new: [DirectoryChange]) {
    changes.withLock { changes in
      if changes.count + new.count > Self.limit { changes = [.unknown] } else { changes += new }
    }
  }

  /// The body of the thread.
  private final class Body {
    private var watcher: DirectoryWatcher
    private let stop: Int32
    private let arrived: @Sendable (String) -> Void
    private let report: ([DirectoryChange]) -> Void

    init(
      _ watcher: consuming DirectoryWatcher, stop: Int32, arrived: @escaping @Sendable (String) -> Void,
      report: @escaping ([DirectoryChange]) -> Void
    ) {
      self.watcher = watcher
      self.stop = stop
      self.arrived = arrived
      self.report = report
    }

    deinit { close(stop) }

    func run() {
      // The thread runs few instructions for each process that starts, and must run soon, as the process may not live
      // long: where the server may raise its priority, it runs soon also on a busy machine.
      let thisThread: id_t = 0
      setpriority(__priority_which_t(PRIO_PROCESS.rawValue), thisThread, -10)
      allocs_prefer_latency()
      while true {
        var requests = [
          pollfd(fd: watcher.descriptor, events: Int16(POLLIN), revents: 0), pollfd(fd: stop, events: 0, revents: 0),
        ]
        if poll(&requests, 2, -1) < 0, errno != EINTR { return }
        // The watcher closed the other end of the pipe.
        guard requests[1].revents == 0 else { return }
        let changes = watcher.changes()
        for change in changes {
          if case .appeared(let path) = change { arrived(path) }
        }
        if !changes.isEmpty { report(changes) }
      }
    }
  }
}
