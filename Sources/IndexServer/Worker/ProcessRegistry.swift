// SPDX-License-Identifier: Apache-2.0
// The processes that a worker answers for, which are its user's: their segments, some of which are kept open.
//
// - The open segments are a cache. Before a view is used again, its path must still lead to the same file (a program
//   that calls exec starts a new segment under the same name) and its process must be alive; otherwise the segment is
//   looked for anew. So an answer never depends on how quickly events arrived.
// - At most `openLimit` segments stay open; the least recently used segment is closed first. A request keeps its own
//   segment open.
// - Opening maps a file and reads the headers of symbols; it happens outside the lock. Where opening fails for want of
//   address space or descriptors, segments that are not in use are closed first, one by one.

import Answers
import Bounds
import ByteText
import Glibc
import IndexReader
import Logging
import ServerProtocol
import Synchronization
import SystemAccess

/// Finds and opens the segments of processes. Thread-safe.
final class ProcessRegistry: Sendable {
  /// The identity of a file when it was opened: its path may later lead to another file.
  private struct Identity: Equatable {
    var device: dev_t
    var inode: ino_t
    var ownerID: uid_t

    init?(_ path: String) {
      var status = stat()
      guard lstat(path.originalPath, &status) == 0 else { return nil }
      (device, inode, ownerID) = (status.st_dev, status.st_ino, status.st_uid)
    }
  }

  private struct Open {
    var identity: Identity
    var view: ProcessView
    var lastUse: UInt64
  }

  private struct State {
    var open: [Int32: Open] = [:]
    var uses: UInt64 = 0
  }

  private let place: WorkerPlace
  private let user: UInt32
  private let openLimit: Int
  private let state = Mutex(State())

  init(place: WorkerPlace, user: UInt32, openLimit: Int) {
    self.place = place
    self.user = user
    self.openLimit = openLimit
  }

  /// The view of the process `pid`: of the live process, else of the newest dead one. `startTime`: of the process with
  /// this one alone. Throws `Misdirected` where the process may be another user's and the caller may ask about it.
  func view(of pid: Int32, startTime: UInt64?, for caller: Peer, isFirst: Bool) throws -> ProcessView {
    if let view = try openView(of: pid, startTime: startTime, for: caller) { return view }
    let file = try file(of: pid, startTime, for: caller, isFirst: isFirst)
    guard let identity = Identity(file.path), identity.ownerID == user else {
      throw ProcessView.missing(processID: pid)
    }
    // The open segment of a process that has ended may still be the newest segment of that id.
    if let open = opened(pid), open.view.path == file.path, open.identity == identity { return open.view }
    let view = try makingRoom { () throws(Complaint) in try ProcessView(file: file) }
    // The owner of the opened file counts, should another file have taken its name meanwhile.
    guard view.ownerID == user else { throw Complaint.notPermitted(path: file.path) }
    // A view whose opening was cut short is of use to no other question.
    try Budget.current?.check()
    remember(Open(identity: identity, view: view, lastUse: 0), pid)
    return view
  }

  /// The view as `view` would give it, if its segment is open; else nil. A few system calls: for event loops.
  /// `asksWhetherAlive`: false if the caller asks itself whether the process lives, and calls `view` if it does not.
  func openView(
    of pid: Int32, startTime: UInt64?, for caller: Peer, asksWhetherAlive: Bool = true
  ) throws(Complaint) -> ProcessView? {
    guard caller.userID == 0 || caller.userID == user else {
      throw Complaint(
        .notPermitted, what: "this allocsd answers user \(user) and root alone",
        advice: "ask as one of them, or have root start allocsd for all users")
    }
    return try cached(pid, startTime, asksWhetherAlive)
  }

  /// The segment of the process, if it is this user's.
  private func file(of pid: Int32, _ startTime: UInt64?, for caller: Peer, isFirst: Bool) throws -> SegmentFile {
    let files = try makingRoom { () throws(Complaint) in try SegmentDirectory.all(ofProcess: pid) }
      .filter { startTime == nil || $0.startTime == startTime }
    if let file = SegmentDirectory.preferred(of: files.filter { $0.ownerID == user }) { return file }
    if caller.userID == 0, place.isOneOfMany {
      // The broker chose this worker by the first request of the connection. It may know better about later ones.
      if !isFirst || !files.isEmpty { throw Misdirected() }
    } else if let file = files.first {
      throw Complaint.notPermitted(path: file.path)
    }
    throw ProcessView.missing(processID: pid)
  }

  /// Closes each segment whose path no longer leads to it.
  func forgetMissing() {
    state.withLock { state in
      for (pid, open) in state.open where Identity(open.view.path) != open.identity { state.open[pid] = nil }
      Metric.Level.segmentsOpen.set(Double(state.open.count))
    }
  }

  private func cached(
    _ pid: Int32, _ startTime: UInt64?, _ asksWhetherAlive: Bool
  ) throws(Complaint) -> ProcessView? {
    guard let open = opened(pid), open.identity == Identity(open.view.path),
      !asksWhetherAlive || open.view.isProcessAlive,
      startTime == nil || SegmentFile.process(ofPath: open.view.path)?.startTime == startTime
    else { return nil }
    return open.view
  }

  private func opened(_ pid: Int32) -> Open? {
    state.withLock { state in
      state.uses &+= 1
      state.open[pid]?.lastUse = state.uses
      return state.open[pid]
    }
  }

  /// The result of `open`. While `open` is short of something, the least recently used segment is closed and `open` is
  /// called again.
  func makingRoom<Result>(_ open: () throws(Complaint) -> Result) throws(Complaint) -> Result {
    while true {
      do {
        return try open()
      } catch {
        guard error.kind == .shortage, closeLeastRecentlyUsed() else { throw error }
      }
    }
  }

  private func closeLeastRecentlyUsed() -> Bool {
    // The view is released after the lock, as in `remember`.
    let closed = state.withLock { state in
      let oldest = state.open.min(by: { $0.value.lastUse < $1.value.lastUse })
      let removed = oldest.flatMap { state.open.removeValue(forKey: $0.key) }
      Metric.Level.segmentsOpen.set(Double(state.open.count))
      return removed
    }
    return closed != nil
  }

  private func remember(_ new: Open, _ pid: Int32) {
    // Views are released after the lock: closing one unmaps hundreds of gigabytes of address space.
    var closed: [ProcessView] = []
    state.withLock { state in
      var new = new
      state.uses &+= 1
      new.lastUse = state.uses
      if let old = state.open.updateValue(new, forKey: pid) { closed.append(old.view) }
      while state.open.count > openLimit, let oldest = state.open.min(by: { $0.value.lastUse < $1.value.lastUse }) {
        state.open[oldest.key] = nil
        closed.append(oldest.value.view)
      }
      Metric.Level.segmentsOpen.set(Double(state.open.count))
    }
    closed.removeAll()
  }
}
