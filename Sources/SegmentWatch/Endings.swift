// SPDX-License-Identifier: Apache-2.0
// How processes end. A descriptor of each live process (pidfd_open(2)) tells when its parent has waited for it, and
// then, on Linux 6.15 or later, tells its wait status. Of a process that has ended and that nobody has waited for yet,
// /proc tells the status at once.
//
// A process may crash within a millisecond of its start. So it is opened as soon as its segment appears, before
// anything else is done. Where a process was gone by then, or the kernel tells nothing about it, nobody knows how it
// ended: such ends are counted, and the reason is noted with the segment.

import CProcessEnds
import Glibc
import SegmentFiles
import SystemAccess

/// Owns an epoll descriptor, and a descriptor of each process that is watched.
struct Endings: ~Copyable {
  /// Why a process could not be watched.
  enum Failure: Error {
    /// The parent had waited for the process already.
    case gone
    case tooMany
    /// The `errno` value of a system call that failed.
    case system(Int32)
  }

  /// The epoll descriptor: readable when a process has ended.
  let descriptor: Int32
  private let limit: Int
  /// By the descriptor of the process, and the descriptor by the segment's path.
  private var watched: [Int32: SegmentFile] = [:]
  private var descriptors: [String: Int32] = [:]

  /// `limit`: processes that are watched at a time at most.
  init(limit: Int) throws(Complaint) {
    self.limit = limit
    descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
    guard descriptor >= 0 else {
      throw Complaint(.obstacle, what: "cannot wait for the ends of processes: \(systemWords(errno))", code: errno)
    }
  }

  deinit {
    for process in watched.keys { close(process) }
    close(descriptor)
  }

  /// Watches the process whose segment has just appeared at `path`, if the file is a segment. Returns the file, and
  /// whether its process was there. `user`: the file is looked at with that user's rights.
  mutating func watchArrival(_ path: String, as user: UInt32) -> (file: SegmentFile, isThere: Bool)? {
    guard let name = SegmentFile.process(ofPath: path) else { return nil }
    let process = try? open(name.processID)
    // While the descriptor is held, the process's id can't go to another process. Whose segment the file is may now be
    // asked at leisure.
    var found: SegmentFile?
    asUser(user) { found = (try? SegmentDirectory.file(at: path)) ?? nil }
    guard let file = found else {
      if let process { close(process) }
      return nil
    }
    guard let process else { return (file, false) }
    return (file, keep(process, file) == nil)
  }

  /// Watches the process of `file`, which was found live. Returns nil if it is being watched now.
  mutating func watch(_ file: SegmentFile) -> Failure? {
    // After an exec the process has a new segment with the old name.
    if let process = descriptors[file.path] {
      watched[process] = file
      return nil
    }
    do throws(Failure) { return keep(try open(file.processID), file) } catch { return error }
  }

  /// Watches process `id`, which was found to be that of `file`, in another pid namespace.
  mutating func watch(_ file: SegmentFile, foundAs id: Int32) -> Failure? {
    guard descriptors[file.path] == nil else { return nil }
    do throws(Failure) {
      let process = try open(id)
      // While the descriptor is held, the id can't go to another process. The user may have no part in anybody else's.
      var status = stat()
      guard stat("/proc/\(id)", &status) == 0, file.ownerID == 0 || status.st_uid == file.ownerID else {
        close(process)
        return .gone
      }
      return add(process, file)
    } catch {
      return error
    }
  }

  /// Whether the process of the segment at `path` is being watched, or has ended and `ended` has not told it yet.
  func isWatching(_ path: String) -> Bool { descriptors[path] != nil }

  private func open(_ processID: Int32) throws(Failure) -> Int32 {
    guard watched.count < limit else { throw .tooMany }
    let process = pidfd_open(processID, 0)
    guard process >= 0 else { throw errno == ESRCH ? .gone : .system(errno) }
    return process
  }

  /// Takes over the descriptor, and watches it or closes it.
  private mutating func keep(_ process: Int32, _ file: SegmentFile) -> Failure? {
    // The descriptor may be that of a later process with the same id. It is not if the process that is meant is still
    // there, even as a zombie.
    guard file.isPresent else {
      close(process)
      return .gone
    }
    return add(process, file)
  }

  private mutating func add(_ process: Int32, _ file: SegmentFile) -> Failure? {
    if let known = descriptors[file.path] {
      watched[known] = file
      close(process)
      return nil
    }
    // No event is asked for: EPOLLHUP, which says that the parent has waited, comes unasked. Before that moment the
    // process has no status for others.
    var event = epoll_event()
    event.data.fd = process
    guard epoll_ctl(descriptor, EPOLL_CTL_ADD, process, &event) == 0 else {
      let code = errno
      close(process)
      return .system(code)
    }
    watched[process] = file
    descriptors[file.path] = process
    return nil
  }

  /// The processes that have ended since the last call. `ending` is nil where the kernel doesn't tell.
  mutating func ended() -> [(file: SegmentFile, ending: ProcessEnding?)] {
    var ended: [(file: SegmentFile, ending: ProcessEnding?)] = []
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    // The others have their turn after so many.
    while ended.count < 64 {
      let count = epoll_wait(descriptor, &events, Int32(clamping: events.count), 0)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return ended }
      for event in events.prefix(max(0, Int(clamping: count))) {
        let process = event.data.fd
        var status: Int32 = 0
        let isKnown = allocs_pidfd_wait_status(process, &status) == 0
        if let file = watched.removeValue(forKey: process) {
          descriptors[file.path] = nil
          ended.append((file, isKnown ? ProcessEnding(waitStatus: status) : nil))
        }
        close(process)
      }
    }
    return ended
  }
}
