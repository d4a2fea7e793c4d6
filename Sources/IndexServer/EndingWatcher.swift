// How processes end: a descriptor of each live one (pidfd_open(2)) tells when its parent has waited for it, and then, on
// Linux 6.15 or later, its wait status.
//
// A process that ends before it could be watched, or that the kernel says nothing about, ended nobody knows how: that is
// counted, and its segment says no more than it would without this.

import CPidfd
import Glibc
import IndexReader
import ServerProtocol

/// Owns an epoll descriptor and one for each process that is watched. Not thread-safe: one task uses it.
struct EndingWatcher: ~Copyable {
  /// Is readable when a process has ended.
  let descriptor: Int32
  /// By the descriptor of the process.
  private var watched: [Int32: SegmentFile] = [:]
  private var descriptors: [String: Int32] = [:]
  private let limit: Int

  /// `limit`: processes that are watched at a time.
  init(limit: Int) throws(SocketError) {
    self.limit = limit
    descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
    guard descriptor >= 0 else {
      throw SocketError(code: errno, "cannot wait for the ends of processes: \(SocketError.words(errno))")
    }
  }

  deinit {
    for process in watched.keys { close(process) }
    close(descriptor)
  }

  /// Watches the process of `file`, which was found live. Returns 0 or the number of the error.
  mutating func watch(_ file: SegmentFile) -> Int32 {
    // After an exec the process has a new segment with the old name.
    if let process = descriptors[file.path] {
      watched[process] = file
      return 0
    }
    guard watched.count < limit else { return EMFILE }
    let process = pidfd_open(file.processID, 0)
    guard process >= 0 else { return errno }
    // The descriptor may be of a later process with the same id; not if the one meant still runs.
    guard file.isStillLive else {
      close(process)
      return ESRCH
    }
    // No event is asked for: EPOLLHUP, that it was waited for, comes unasked. Before that it has no status for others.
    var event = epoll_event()
    event.data.fd = process
    guard epoll_ctl(descriptor, EPOLL_CTL_ADD, process, &event) == 0 else {
      let code = errno
      close(process)
      return code
    }
    watched[process] = file
    descriptors[file.path] = process
    return 0
  }

  /// The processes that have ended since the last call. `ending`: nil where the kernel doesn't tell.
  mutating func ended() -> [(file: SegmentFile, ending: ProcessEnding?)] {
    var ended: [(file: SegmentFile, ending: ProcessEnding?)] = []
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    while true {
      let count = epoll_wait(descriptor, &events, Int32(events.count), 0)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return ended }
      for event in events.prefix(Int(count)) {
        let process = event.data.fd
        var status: Int32 = 0
        let isKnown = allocs_pidfd_wait_status(process, &status) == 0
        close(process)
        guard let file = watched.removeValue(forKey: process) else { continue }
        descriptors[file.path] = nil
        ended.append((file, isKnown ? ProcessEnding(waitStatus: status) : nil))
      }
    }
  }
}
