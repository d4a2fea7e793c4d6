// SPDX-License-Identifier: Apache-2.0
// Who a worker is: the user whose questions it answers, with that user's rights and none beyond.
//
// The broker starts a worker with the broker's own rights. The worker's first act is `become`, while it has one thread
// and has read nothing that a user wrote; the broker says who, as `Identity`. After `become`:
//
// - all real, effective, saved and file system ids, and all groups, are the user's;
// - none of the five sets of capabilities has a member (one exception: see `Identity.keptCapabilities`), and
//   no_new_privs is set, so that no exec could bring any back;
// - the process leads a session and a process group of its own: `setPriority` finds all of its threads, and no
//   terminal's signals reach it;
// - a worker that was root before can't be traced, nor its descriptors be taken (pidfd_getfd), by other programs of its
//   user: it is not "dumpable". Its user may end, stop or slow it, which hurts that user's questions only;
// - the kernel ends a worker before others where memory runs out.
//
// All of this is read back from the kernel, of each thread. If anything isn't as meant, `become` throws, and the worker
// must end.

import CConfinement
import Glibc
import SystemAccess

/// A user, as the kernel knows one: the ids that decide what a process may do.
public struct Identity: Hashable, Sendable {
  public var uid: uid_t
  public var gid: gid_t
  /// Supplementary groups.
  public var groups: [gid_t]

  public init(uid: uid_t, gid: gid_t, groups: [gid_t]) {
    self.uid = uid
    self.gid = gid
    self.groups = groups
  }

  /// The user and group that systems give to what belongs to nobody. Services run as this user, too.
  public static let nobody = Identity(uid: 65534, gid: 65534, groups: [])

  /// Of the worker that gathers what others say, and of the one that takes connections over TCP.
  public static let ofGatherer = ofNoAccount(0)
  public static let ofFront = ofNoAccount(1)

  /// An identity for a worker that needs no file of anybody's: with a user id, and that id as the group's, that no
  /// account and no service has, so that no program may end, stop or trace the worker but root's. `number`: below 4;
  /// each is another id.
  ///
  /// It is one of the highest ids of this process's user namespace, where no database hands out any. The very highest
  /// are left out: programs take 65535 and 4294967295 for none, and systems 4294967294 for nobody.
  static func ofNoAccount(_ number: UInt32) -> Identity {
    let last = min(Self.ids("uid_map").map(\.upperBound).max() ?? 0, Self.ids("gid_map").map(\.upperBound).max() ?? 0)
    let id = last > 65_536 + 16 ? last &- 16 &- number : 65_533 &- number
    let identity = Identity(uid: id, gid: id, groups: [])
    return mayBecome(identity) ? identity : .nobody
  }

  /// The identity of the calling process (its effective ids).
  public static func current() -> Identity {
    let count = getgroups(0, nil)
    guard count > 0 else { return Identity(uid: geteuid(), gid: getegid(), groups: []) }
    var groups = [gid_t](repeating: 0, count: Int(count))
    let filled = getgroups(count, &groups)
    return Identity(uid: geteuid(), gid: getegid(), groups: Array(groups.prefix(max(0, Int(filled)))))
  }

  /// The identity that a login of `uid` would have, by the system's databases of users and groups. A user whom these
  /// don't know has `group`, or else nobody's, and no others. The databases may be slow to answer, where they are on a
  /// network: ask once for each user.
  public init(ofUser uid: uid_t, group: gid_t? = nil) {
    self.init(uid: uid, gid: group ?? Identity.nobody.gid, groups: [])
    var entry = passwd()
    var found: UnsafeMutablePointer<passwd>?
    var text = [CChar](repeating: 0, count: 64 << 10)
    guard getpwuid_r(uid, &entry, &text, text.count, &found) == 0, found != nil, let name = entry.pw_name else {
      if uid == 0 { gid = 0 }
      return
    }
    gid = entry.pw_gid
    // The kernel takes at most 65,536 groups. The function says how many there are if there is no room for them.
    var count: Int32 = 64
    while true {
      var room = [gid_t](repeating: 0, count: Int(count))
      let asked = count
      if getgrouplist(name, gid, &room, &count) >= 0 {
        groups = Array(room.prefix(Int(count)))
        return
      }
      guard count > asked, count <= 65_536 else { return }
    }
  }

  /// The capabilities that a worker of this identity keeps if the broker has them.
  ///
  /// Root's worker keeps CAP_SYS_PTRACE. The kernel shows /proc/PID/maps only to who has all capabilities of that
  /// process, whatever the user ids: without it, root's worker would see less of root's processes than a user's worker
  /// of theirs. It gains nothing over what the user id 0 may do to files already.
  var keptCapabilities: UInt64 { uid == 0 ? 1 << UInt64(allocs_capability_sys_ptrace) : 0 }
}

extension Identity {
  /// Whether this process could become `other`, which is not itself: it has the capabilities, and its user namespace
  /// has such a user and group.
  public static func mayBecome(_ other: Identity) -> Bool {
    var permitted: UInt64 = 0
    let needed: UInt64 = 1 << 6 | 1 << 7  // CAP_SETGID, CAP_SETUID
    guard geteuid() == 0, allocs_permitted_capabilities(&permitted) == 0, permitted & needed == needed else {
      return false
    }
    return ids("uid_map").contains { $0.contains(other.uid) } && ids("gid_map").contains { $0.contains(other.gid) }
  }

  /// The ids that there are in this process's user namespace, by a map of user_namespaces(7).
  private static func ids(_ map: String) -> [Range<UInt32>] {
    let lines = contents(of: "/proc/self/\(map)")?.split(separator: "\n") ?? []
    return lines.compactMap { line in
      let words = line.split(whereSeparator: \.isWhitespace).compactMap { UInt32($0) }
      guard words.count == 3 else { return nil }
      let (end, isBeyond) = words[0].addingReportingOverflow(words[2])
      return words[0]..<(isBeyond ? .max : end)
    }
  }
}

/// Gives up everything but the rights of `identity`, for ever. To be called by a worker first of all, while it has one
/// thread. Throws if the kernel refuses any of it, or if anything is left over afterwards: the process must end then.
///
/// A process without root's rights can become itself only: it gives up capabilities that it may have.
public func become(_ identity: Identity) throws(Complaint) {
  func attempt(_ code: Int32, _ doing: String, _ advice: String = "") throws(Complaint) {
    guard code != 0 else { return }
    throw Complaint(
      .obstacle, what: "a worker for user \(identity.uid) can't \(doing): \(systemWords(code))", advice: advice,
      code: code)
  }
  func outcome(_ result: Int32) -> Int32 { result == 0 ? 0 : errno }

  var permitted: UInt64 = 0
  try attempt(allocs_permitted_capabilities(&permitted), "ask for its capabilities")
  let before = Identity.current()
  let wasRoot = before.uid == 0
  try leadSession(for: identity)
  // Before the ids change: /proc/self belongs to root afterwards. It only helps to choose whom to end.
  ask(toEndFirst: 500)

  // The bounding set: what a program could gain by exec. Only who has CAP_SETPCAP may make it smaller; for others,
  // no_new_privs below says as much.
  let mayBound = permitted & 1 << UInt64(allocs_capability_setpcap) != 0
  if mayBound {
    for capability in UInt(0)..<64 {
      let code = allocs_prctl(PR_CAPBSET_DROP, capability, 0)
      if code == EINVAL { break }  // past the last capability that this kernel knows
      try attempt(code, "give up what others may gain")
    }
  }
  try attempt(allocs_prctl(PR_CAP_AMBIENT, UInt(PR_CAP_AMBIENT_CLEAR_ALL), 0), "clear its ambient capabilities")

  // Groups first, as only root may change them; then the user, which takes the right to change any.
  let root = "allocsd needs CAP_SETUID and CAP_SETGID to answer for other users: start it as root, or for one user only"
  if Set(before.groups) != Set(identity.groups) {
    try attempt(outcome(setgroups(identity.groups.count, identity.groups)), "take that user's groups", root)
  }
  try attempt(outcome(setresgid(identity.gid, identity.gid, identity.gid)), "become group \(identity.gid)", root)
  let kept = identity.keptCapabilities & permitted
  try attempt(outcome(setresuid(identity.uid, identity.uid, identity.uid)), "become that user", root)
  try attempt(allocs_keep_capabilities(kept), "give up its capabilities")
  try attempt(allocs_prctl(PR_SET_NO_NEW_PRIVS, 1, 0), "renounce new privileges")
  // The kernel did that with the change of the user, unless fs.suid_dumpable says otherwise, or the user is root.
  if wasRoot { try attempt(allocs_prctl(PR_SET_DUMPABLE, 0, 0), "refuse to be traced") }

  umask(0o077)
  try attempt(outcome(chdir("/")), "enter the root directory")
  for thread in try ThreadState.all() {
    try thread.check(identity, kept: kept, emptyBounds: mayBound)
  }
  // That the way back is closed is tried, too.
  if identity.uid != 0, setresuid(0, 0, 0) == 0 {
    throw Complaint(.obstacle, what: "a worker for user \(identity.uid) could become root again")
  }
}

/// Makes the calling process the leader of a session and of a process group.
private func leadSession(for identity: Identity) throws(Complaint) {
  // The leader of a process group can't start a session, but its group is its own.
  guard setsid() >= 0 || getpgrp() == getpid() else {
    let code = errno
    throw Complaint(
      .obstacle, what: "a worker for user \(identity.uid) can't start a session: \(systemWords(code))", code: code)
  }
}

/// Has the kernel end this process before others, when memory runs out (proc(5), oom_score_adj).
private func ask(toEndFirst adjustment: Int) {
  let file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)
  guard file >= 0 else { return }
  _ = writeAll(Array(String(adjustment).utf8), to: file)
  close(file)
}
