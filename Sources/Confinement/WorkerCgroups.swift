// SPDX-License-Identifier: Apache-2.0
// A cgroup for each worker, where the system has handed one over to allocsd (cgroups(7), version 2).
//
//     …/allocsd.service                      handed over: Delegate=yes in the unit
//     ├── broker                             this process; a cgroup with children can't have processes itself
//     ├── user-1000                          memory.max, pids.max, cpu.weight, cpu.max
//     └── user-1001
//
// Nothing is done in a cgroup that wasn't handed over: that tree is the system's. systemd marks a cgroup that is
// (trusted.delegate, user.delegate); one that belongs to another user than root, who is this process's, is, too.
// Controllers that aren't there are done without. Cgroups of version 1 aren't used.

import CConfinement
import Glibc
import SystemAccess

/// The cgroups of a broker's workers.
public struct WorkerCgroups: ~Copyable {
  private let limits: Limits
  /// The directory of the cgroup that was handed over.
  private let directory: String
  /// Users whose cgroup is there, or could not be removed yet.
  private var users: Set<uid_t> = []
  private var leftOver: Set<uid_t> = []

  /// The controllers that hold for workers, of memory, pids and cpu.
  public private(set) var controllers: [String] = []

  /// Moves this process into the leaf `broker` of its cgroup, and takes up controllers for the workers' leaves. Throws
  /// the reason if there is no cgroup of version 2 that was handed over.
  ///
  /// `root`: where cgroups of version 2 are mounted; nil: wherever /proc/self/mounts says. `own`: what this process's
  /// /proc/self/cgroup says. Both are for tests.
  public init(_ limits: Limits = Limits(), root: String? = nil, own: String? = nil) throws(Complaint) {
    self.limits = limits
    (directory, controllers) = try Self.takeOver(root: root, own: own)
  }

  private static func takeOver(
    root: String?, own: String?
  ) throws(Complaint) -> (directory: String, controllers: [String]) {
    func failure(_ why: String, _ code: Int32 = 0) -> Complaint {
      Complaint(
        .obstacle, what: "workers get no cgroups of their own: \(why)\(code == 0 ? "" : ": \(systemWords(code))")",
        advice: "limits of each process hold all the same; systemd hands over a cgroup by Delegate=yes", code: code)
    }
    guard let mount = root ?? mount() else { throw failure("no cgroup2 is mounted") }
    guard let text = own ?? contents(of: "/proc/self/cgroup") else { throw failure("/proc/self/cgroup", errno) }
    guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix("0::/") }) else {
      throw failure("this process is in no cgroup of version 2")
    }
    let path = line.dropFirst(3)
    // Of a process in another cgroup namespace, or that was moved out of its own, the path leads nowhere.
    guard !path.split(separator: "/").contains("..") else { throw failure("\(path) lies outside its namespace") }
    var place = path == "/" ? mount : mount + path
    // A broker that was started anew in the leaf of the one before.
    if place.hasSuffix("/broker"), isDelegated(String(place.dropLast("/broker".count))) {
      place = String(place.dropLast("/broker".count))
    }
    guard isDelegated(place) else { throw failure("\(place) was not handed over to allocsd") }
    let leaf = place + "/broker"
    guard mkdir(leaf, 0o755) == 0 || errno == EEXIST else { throw failure(leaf, errno) }
    let moved = write(String(getpid()), to: leaf + "/cgroup.procs")
    guard moved == 0 else { throw failure(leaf, moved) }
    // One by one: a controller that isn't there fails the whole line.
    var controllers: [String] = []
    for controller in ["memory", "pids", "cpu"]
    where write("+\(controller)", to: place + "/cgroup.subtree_control") == 0 {
      controllers.append(controller)
    }
    guard !controllers.isEmpty else { throw failure("\(place) has no controllers of memory, pids or cpu") }
    return (place, controllers)
  }

  /// Puts a process into the cgroup of its user, which is made if need be. A worker should be placed before it answers
  /// anything: what it has used before isn't counted.
  public mutating func place(_ process: pid_t, _ uid: uid_t) throws(Complaint) {
    for user in leftOver where user != uid { remove(user) }
    let leaf = "\(directory)/user-\(uid)"
    func failure(_ file: String, _ code: Int32) -> Complaint {
      Complaint(
        .obstacle, what: "worker \(process) of user \(uid) gets no cgroup: \(file): \(systemWords(code))", code: code)
    }
    guard mkdir(leaf, 0o755) == 0 || errno == EEXIST else { throw failure(leaf, errno) }
    users.insert(uid)
    leftOver.remove(uid)
    for (file, value) in settings() {
      let code = Self.write(value, to: "\(leaf)/\(file)")
      // Files that some kernels lack: those without swap have no memory.swap.max.
      guard code == 0 || code == ENOENT else { throw failure("\(leaf)/\(file)", code) }
    }
    let code = Self.write(String(process), to: leaf + "/cgroup.procs")
    guard code == 0 else { throw failure(leaf, code) }
  }

  /// Removes the cgroup of a user whose worker has ended. One that the kernel isn't done with yet is tried again later.
  public mutating func remove(_ uid: uid_t) {
    guard users.contains(uid) else { return }
    if rmdir("\(directory)/user-\(uid)") == 0 || errno == ENOENT {
      users.remove(uid)
      leftOver.remove(uid)
    } else {
      leftOver.insert(uid)
    }
  }

  /// Gives a user's worker its share of the processors. Nothing happens where the controller isn't there.
  public mutating func setShare(_ uid: uid_t, _ share: ProcessorShare) {
    guard users.contains(uid), controllers.contains("cpu") else { return }
    _ = Self.write(share.weight, to: "\(directory)/user-\(uid)/cpu.weight")
  }

  private func settings() -> [(file: String, value: String)] {
    var settings: [(file: String, value: String)] = []
    for controller in controllers {
      switch controller {
      case "memory":
        settings += [
          ("memory.max", String(limits.chargedBytes)), ("memory.swap.max", "0"), ("memory.oom.group", "1"),
        ]
      case "pids": settings.append(("pids.max", String(limits.tasks)))
      default:
        // The second number of cpu.max is the period, in microseconds.
        settings += [
          ("cpu.weight", ProcessorShare.usual.weight), ("cpu.max", "\(limits.processorPercent &* 1000) 100000"),
        ]
      }
    }
    return settings
  }

  // MARK: the file system of cgroups

  /// Where cgroups of version 2 are mounted.
  private static func mount() -> String? {
    for line in contents(of: "/proc/self/mounts")?.split(separator: "\n") ?? [] {
      let words = line.split(separator: " ")
      if words.count > 2, words[2] == "cgroup2" { return String(words[1]) }
    }
    return nil
  }

  /// Whether the cgroup at `path` was handed over to this process.
  private static func isDelegated(_ path: String) -> Bool {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { return false }
    if status.st_uid == geteuid(), status.st_uid != 0 { return true }
    guard status.st_uid == 0 else { return false }
    for name in ["user.delegate", "trusted.delegate"] {
      var value: UInt8 = 0
      if getxattr(path, name, &value, 1) == 1, value == UInt8(ascii: "1") { return true }
    }
    return false
  }

  /// Writes a value into a file that is there. Returns 0, or the number of an error.
  private static func write(_ value: String, to path: String) -> Int32 {
    let file = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW)
    guard file >= 0 else { return errno }
    defer { close(file) }
    // One write: the kernel takes each as a value of its own.
    return writeAll(Array(value.utf8), to: file)
  }
}
