// SPDX-License-Identifier: Apache-2.0
// What the broker does to a worker, and what a worker does about its parent and its descriptors.

import CConfinement
import Glibc
import SystemAccess

/// How much of the processors a worker gets where others want them, too. A worker that is hardly busy delays nobody,
/// and its user waits for each of its short turns.
public enum ProcessorShare: Sendable {
  case light, usual, low

  /// Steps of nice(1) below the priority that a worker starts with.
  var steps: Int32 {
    switch self {
    // Behind the broker's -10: an answer on a new connection begins there (docs/reliability.md).
    case .light: -8
    case .usual: 0
    case .low: 10
    }
  }

  /// Of cgroups; the kernel's own default is 100, which the broker keeps.
  var weight: String {
    switch self {
    case .light: "100"
    case .usual: "50"
    case .low: "5"
    }
  }
}

/// Gives all threads of the process group of a worker their share. Needs CAP_SYS_NICE for a worker of another user, and
/// for a share that is larger than the worker has.
public func setPriority(ofGroup group: pid_t, _ share: ProcessorShare) throws(Complaint) {
  guard group > 0 else {
    throw Complaint(.usage, what: "can't set the priority of process group \(group): no such group")
  }
  // The broker's own priority may be higher than usual (SegmentWatch), which its children don't inherit.
  let usual = max(0, getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0))
  let wanted = min(19, usual &+ share.steps)
  // Where the kernel shares processors by session (sched(7), autogroup), only the session's own number counts. The file
  // belongs to root, as the worker can't be traced, and is there on some systems only.
  let file = open("/proc/\(group)/autogroup", O_WRONLY | O_CLOEXEC)
  if file >= 0 {
    _ = writeAll(Array(String(wanted).utf8), to: file)
    close(file)
  }
  let code = allocs_set_priority_of_group(group, wanted)
  guard code == 0 else {
    throw Complaint(
      .obstacle, what: "can't set the priority of process group \(group): \(systemWords(code))",
      advice: code == ESRCH ? "" : "allocsd needs CAP_SYS_NICE for workers of other users", code: code)
  }
}

/// Has this process run soon after it wakes, for a tenth of a millisecond at a time: a question wakes several threads
/// one after the other, each for little. The process's share of the processors stays as it is. To be called before
/// there are other threads, and before `confine`; older kernels (before Linux 6.12) know no such turns.
public func takeShortTurns() { _ = allocs_take_short_turns() }

/// Ends a worker at once. Needs no CAP_KILL: a broker that may become the worker's user does so for the one call. The
/// user can't reach the broker meanwhile, as a signal counts by the ids that the broker keeps, and no process can trace
/// another that has changed its ids.
///
/// Returns 0, or the `errno` value of the failure. `process` must be a child that was not waited for. The caller must
/// have one thread, as the ids of all threads change.
public func end(_ process: pid_t, ofUser user: uid_t) -> Int32 {
  guard process > 0 else { return ESRCH }
  if kill(process, SIGKILL) == 0 { return 0 }
  guard errno == EPERM, geteuid() == 0, seteuid(user) == 0 else { return errno }
  let code = kill(process, SIGKILL) == 0 ? 0 : errno
  // Root's real and saved ids are still there. A broker that is not root any more must not go on.
  guard seteuid(0) == 0 else { abort() }
  return code
}

/// Has the kernel end this process when the thread that started it ends. To be called after `become`, which clears it.
/// `parent`: the process that is meant; if that has ended before the call, this throws.
public func endWithParent(_ parent: pid_t) throws(Complaint) {
  let code = allocs_prctl(PR_SET_PDEATHSIG, UInt(SIGKILL), 0)
  guard code == 0, getppid() == parent else {
    throw Complaint(.obstacle, what: "a worker's broker has ended: process \(parent)", code: code)
  }
}

/// Closes every descriptor of this process but `kept`. A worker expects 0, 1, 2 and its channel.
public func closeAllDescriptors(but kept: [Int32]) throws(Complaint) {
  var first: UInt32 = 0
  func close(to last: UInt32) throws(Complaint) {
    guard first <= last else { return }
    let code = allocs_close_range(first, last)
    guard code == 0 else {
      throw Complaint(.obstacle, what: "a worker can't close descriptors: \(systemWords(code))", code: code)
    }
  }
  for descriptor in kept.filter({ $0 >= 0 }).sorted() {
    let number = UInt32(descriptor)
    if number > first { try close(to: number - 1) }
    first = max(first, number + 1)
  }
  try close(to: .max)
}
