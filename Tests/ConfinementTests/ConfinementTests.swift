// SPDX-License-Identifier: Apache-2.0
// What is left to a worker: tried, not only read, by a process that confines itself (Probe/main.swift).

import CConfinement
import Foundation
import Glibc
import SystemAccess
import TestSupport
import Testing

@testable import Confinement

@Suite("confinement of workers", .bounded)
struct ConfinementTests {
  static let isRoot = geteuid() == 0

  /// The program that confines itself (Probe/main.swift).
  private var probe: String { get throws { try Installation.testProgram("confinement-probe") } }

  private func run(_ words: [String], as user: [String] = []) throws -> Outcome {
    try ChildProcess.run(user + [probe] + words)
  }

  /// The lines that the probe says, which must end well.
  private func lines(_ words: [String], as user: [String] = []) throws -> [String] {
    let outcome = try run(words, as: user)
    #expect(outcome.ending == .exit(0), "\(words): \(outcome)")
    return outcome.output.split(separator: "\n").map(String.init)
  }

  // MARK: who

  @Test(
    "a worker becomes its user wholly: ids, groups, no capability in any set, no way back, not to be traced",
    .enabled(if: isRoot, "needs root, to become others"),
    arguments: [
      Identity(uid: 4242, gid: 4343, groups: [4343, 4444]), Identity(uid: 4242, gid: 4343, groups: []), .nobody,
    ])
  func becoming(identity: Identity) throws {
    let directory = try TestDirectory()
    chmod(directory.path, 0o755)
    let secret = try directory.write("of root", to: "secret")
    chmod(secret, 0o600)
    let groups = identity.groups.map(String.init).joined(separator: ",")
    let said = try lines([
      "become=\(identity.uid):\(identity.gid):\(groups)", "state", "call=setresuid,0,0,0", "call=setgroups,0,0",
      "call=capset,buffer,buffer", "open=\(secret)", "open=\(directory.path)",
    ])
    let state = ThreadState(status: said[0].replacingOccurrences(of: " | ", with: "\n"))
    #expect(state.uids == [UInt32](repeating: identity.uid, count: 4))
    #expect(state.gids == [UInt32](repeating: identity.gid, count: 4))
    #expect(state.groups == Set(identity.groups))
    #expect(state.capabilities.count == 5 && state.capabilities.values.allSatisfy { $0 == 0 }, "\(said[0])")
    #expect(state.hasNoNewPrivileges)
    #expect(said[1] == "dumpable done 0")
    #expect(said[2].hasSuffix(" EPERM") && said[3].hasSuffix(" EPERM"), "\(said)")
    #expect(said[5] == "open -1")
    #expect(said[6] != "open -1")
  }

  @Test("root's worker keeps what shows it the mappings of root's processes, and nothing else", .enabled(if: isRoot))
  func root() throws {
    let said = try lines(["become=0:0:", "state"])
    let state = ThreadState(status: said[0].replacingOccurrences(of: " | ", with: "\n"))
    let trace: UInt64 = 1 << 19
    #expect(
      state.capabilities == ["CapInh": 0, "CapPrm": trace, "CapEff": trace, "CapBnd": 0, "CapAmb": 0], "\(said[0])")
  }

  @Test("who isn't root becomes itself, and nobody else", .enabled(if: isRoot, "needs root, to be somebody else first"))
  func withoutRoot() throws {
    let directory = try TestDirectory()
    chmod(directory.path, 0o755)
    let copy = directory.file("probe")
    try makeExecutable(copy, from: probe)
    let nobody = OtherUsers.nobody
    let itself = try ChildProcess.run(nobody + [copy, "become-itself", "confine", "call=getuid"])
    #expect(itself.ending == .exit(0) && itself.output == "getuid done 65534\n", "\(itself)")
    for other in ["0:0:", "4242:65534:", "65534:0:", "65534:65534:0"] {
      let outcome = try ChildProcess.run(nobody + [copy, "become=\(other)", "call=getuid"])
      #expect(outcome.ending == .exit(1), "\(other): \(outcome)")
      #expect(outcome.output.contains("allocsd needs CAP_SETUID"), "\(outcome.output)")
    }
  }

  @Test("a thread that would keep rights is found: the worker doesn't go on", .enabled(if: isRoot))
  func threadWithRights() throws {
    let outcome = try run(["threads=1", "become=0:0:", "call=getuid"])
    #expect(outcome.ending == .exit(1) && outcome.output.contains("rights left"), "\(outcome)")
  }

  @Test("each right that may be left over is told by its name")
  func leftOver() throws {
    let identity = Identity(uid: 7, gid: 8, groups: [9])
    let status = [
      "Name:\tworker", "Uid:\t7\t7\t7\t7", "Gid:\t8\t8\t8\t8", "Groups:\t9 ", "CapInh:\t0000000000000000",
      "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000",
      "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t0",
    ]
    func check(_ lines: [String]) throws {
      try ThreadState(status: lines.joined(separator: "\n")).check(identity, kept: 0, emptyBounds: true)
    }
    try check(status)
    let changes = [
      "Uid:\t7\t7\t7\t0", "Uid:\t0\t7\t7\t7", "Uid:\t7\t7\t0\t7", "Uid:", "Gid:\t8\t8\t8\t0", "Groups:\t9 0", "Groups:",
      "CapInh:\t1", "CapPrm:\t8000000000000000", "CapEff:\t1", "CapBnd:\t1", "CapAmb:\t1", "CapEff:", "NoNewPrivs:\t0",
    ]
    for change in changes {
      let name = change.prefix { $0 != ":" }
      #expect(throws: Complaint.self, "\(change)") {
        try check(status.map { $0.hasPrefix("\(name):") ? change : $0 })
      }
      // Nor is a line that isn't there taken for a right that isn't there.
      if name != "Groups" {
        #expect(throws: Complaint.self, "no \(name)") { try check(status.filter { !$0.hasPrefix("\(name):") }) }
      }
    }
  }

  @Test("the identity of a user is what a login gets; a user whom nobody knows gets nobody's group")
  func identities() {
    let root = Identity(ofUser: 0)
    #expect(root.uid == 0 && root.gid == 0)
    #expect(Identity(ofUser: 3_999_999_999) == Identity(uid: 3_999_999_999, gid: 65534, groups: []))
    #expect(Identity.current().uid == geteuid())
  }

  // MARK: system calls

  @Test("a call that no honest worker makes ends the worker", arguments: SystemCallFilter.deadly)
  func deadly(call: String) throws {
    let outcome = try run(["confine", "call=getpid", "call=\(call)", "call=getpid"])
    #expect(outcome.ending == .signal(SIGSYS), "\(call): \(outcome)")
    #expect(outcome.output.split(separator: "\n").count == 1)
  }

  @Test("calls by the numbers of another machine end the worker")
  func otherMachines() throws {
    let outcome = try run(["confine", "number=0x40000027"])
    #expect(outcome.ending == .signal(SIGSYS), "\(outcome)")
  }

  @Test("a call that the filter doesn't know doesn't exist for the worker")
  func unknown() throws {
    let said = try lines([
      "confine", "number=599", "call=clone3,buffer,88", "call=io_uring_setup,1,buffer", "call=landlock_create_ruleset",
    ])
    for line in said { #expect(line.hasSuffix(" ENOSYS"), "\(line)") }
    // Where events are exported, rings are there (or are refused by the system, which is no fault of the filter's).
    let ring = try lines(["confine=rings", "call=io_uring_setup,0,buffer"])
    #expect(!ring[0].hasSuffix(" ENOSYS") || access("/proc/sys/kernel/io_uring_disabled", F_OK) != 0, "\(ring)")
  }

  /// Calls that honest code may try.
  private static let refused = [
    "clone", "fork", "vfork", "mmap", "mprotect", "pkey_mprotect", "mlock", "mlock2", "mlockall", "munlock",
    "munlockall", "memfd_create", "shmget", "shmat", "shmctl", "shmdt", "kill", "tkill", "tgkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "fcntl", "ioctl", "prctl", "prlimit64", "setrlimit", "setpriority", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_setaffinity", "setpgid", "setsid", "personality", "ioprio_set",
    "seccomp", "socket", "socketpair", "bind", "listen", "accept", "accept4", "connect", "creat", "link", "linkat",
    "symlink", "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
    "mknod", "mknodat", "truncate", "ftruncate", "fallocate", "chmod", "fchmod", "fchmodat", "chown", "fchown",
    "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr",
    "removexattr", "lremovexattr", "fremovexattr", "chdir", "fchdir", "fanotify_init", "fanotify_mark",
    "name_to_handle_at",
  ]

  @Test("calls that change files, make connections or reach other processes are refused")
  func refused() throws {
    let said = try lines(["confine"] + Self.refused.map { "call=\($0),-1,-1,-1,-1" })
    for line in said { #expect(line.hasSuffix(" EPERM"), "\(line)") }
    #expect(said.count == Self.refused.count)
  }

  @Test("arguments decide where a call serves both the worker and an attacker")
  func conditions() throws {
    let page = "4096"
    let read = PROT_READ, write = PROT_READ | PROT_WRITE, run = PROT_READ | PROT_EXEC, all = write | PROT_EXEC
    let own = MAP_PRIVATE | MAP_ANONYMOUS, shared = MAP_SHARED | MAP_ANONYMOUS
    let high = 1 << 40
    let namespaces = CLONE_NEWUSER | CLONE_NEWNS
    let allowed = [
      "mmap,0,\(page),\(write),\(own),-1,0", "mmap,0,\(page),\(read),\(own),-1,0", "kill,self,0", "kill,1,0",
      // The kernel looks at 32 bits of a signal's number.
      "kill,1,\(high)",
      "tgkill,self,self,0", "prlimit64,0,7,0,buffer", "prlimit64,self,7,0,buffer", "fcntl,1,\(F_GETFD)",
      "fcntl,1,\(F_GETFL)", "prctl,\(PR_GET_DUMPABLE)", "setpriority,0,0,19",
    ]
    let refused = [
      "mmap,0,\(page),\(run),\(own),-1,0", "mmap,0,\(page),\(all),\(own),-1,0", "mmap,0,\(page),\(PROT_EXEC),2,1,0",
      "mmap,0,\(page),\(write),\(shared),-1,0", "mmap,0,\(page),\(write),\(own | 0x40000),-1,0",
      "mmap,0,\(page),\(write),\(MAP_ANONYMOUS | 3),-1,0",
      "mprotect,buffer,\(page),\(run)", "mprotect,buffer,\(page),\(all)", "kill,1,9", "kill,-1,9", "kill,0,9",
      "kill,1,\(high | 9)", "tgkill,1,1,9", "tkill,1,9", "prlimit64,1,7,0,0", "setpriority,1,0,19",
      "setpriority,0,1,19",
      "setpriority,2,0,19", "fcntl,1,\(F_SETOWN),1", "fcntl,1,10,9", "ioctl,0,0x5412,buffer", "prctl,4,1",
      // Beside PROCMAP_QUERY: its neighbours, and its number with another size.
      "ioctl,0,0xc0686610,buffer", "ioctl,0,0xc0686612,buffer", "ioctl,0,0xc0706611,buffer",
      "prctl,22,1", "clone,0", "clone,17", "clone,\(namespaces)", "clone,\(CLONE_VM | CLONE_SIGHAND)",
      "clone,\(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWNS)", "socket,\(AF_INET),1,0",
      "socket,\(AF_UNIX),1,0", "socket,\(AF_NETLINK),2,0", "socketpair,1,2,0,buffer", "memfd_create,path,0",
      "pidfd_send_signal,1,9", "unlinkat,-100,path,0", "sched_setattr,1,buffer,0",
      // MSG_FASTOPEN connects.
      "sendto,1,buffer,1,536870912,buffer,16", "sendmsg,1,buffer,536870912", "sendmmsg,1,buffer,1,536870912",
    ]
    let said = try lines(["confine"] + (allowed + refused).map { "call=\($0)" })
    for (line, call) in zip(said, allowed) { #expect(line.hasPrefix("\(call) done"), "\(line)") }
    for (line, call) in zip(said.dropFirst(allowed.count), refused) { #expect(line == "\(call) EPERM") }
    #expect(said.count == allowed.count + refused.count)
    // PROCMAP_QUERY goes through the filter; what it is asked of here is no /proc/PID/maps.
    let question = try lines(["confine", "call=ioctl,0,0xc0686611,buffer"])
    #expect(question.count == 1 && !question[0].hasSuffix(" EPERM"))
  }

  @Test("who takes connections from anybody opens no file, looks at no process, and connects to nothing")
  func front() throws {
    let refused = SystemCallFilter.looks.map { "\($0),-1,-1,-1,-1" } + ["socket,\(AF_INET),1,0", "connect,1,buffer,16"]
    let said = try lines(
      ["confine=front"] + (refused + ["accept4,-1,0,0,0", "sendto,-1,buffer,1,0"]).map { "call=\($0)" })
    // Calls that came after Linux 5.0 are none that there are.
    for line in said.dropLast(2) { #expect(line.hasSuffix(" EPERM") || line.hasSuffix(" ENOSYS"), "\(line)") }
    #expect(said.count == refused.count + 2)
    for line in said.suffix(2) { #expect(line.hasSuffix(" error \(EBADF)"), "\(line)") }
  }

  @Test("the filter holds for threads that were there before and that come later")
  func threads() throws {
    let said = try lines(["threads=3", "confine", "new-thread", "state"])
    let states = said.filter { $0.hasPrefix("Name:") }
    #expect(states.count >= 4)
    for line in states {
      let state = ThreadState(status: line.replacingOccurrences(of: " | ", with: "\n"))
      #expect(state.isFiltered && state.hasNoNewPrivileges, "\(line)")
    }
    #expect(said.contains("new-thread done"))
  }

  @Test("every allowed call is a call that this machine has: no name is misspelt")
  func names() throws {
    // What resolves to no number would be passed over in silence.
    let all = SystemCallFilter.allowed + SystemCallFilter.looks + SystemCallFilter.deadly + Self.refused
    #expect(Set(all).count == all.count)
    let said = try lines(["resolve=" + all.joined(separator: ",")])
    #expect(said == ["resolve "])
  }

  // MARK: limits

  @Test("memory, descriptors and core dumps are limited, and the limits can't be raised")
  func limits() throws {
    let said = try lines([
      "confine=small", "allocate=\(512 << 20)", "allocate=4096", "limit=data", "limit=core", "limit=nofile",
      "raise=data", "raise=nofile",
    ])
    #expect(said[0] == "allocate ENOMEM")
    #expect(said[1] == "allocate done")
    #expect(said[2] == "limit data \(64 << 20) \(64 << 20)")
    #expect(said[3] == "limit core 0 0")
    let descriptors = said[4].split(separator: " ").compactMap { UInt64($0) }
    #expect(descriptors.count == 2 && descriptors.allSatisfy { $0 <= Limits().descriptors }, "\(said[4])")
    #expect(said[5] == "raise data EPERM" && said[6] == "raise nofile EPERM")
  }

  @Test("all descriptors are closed but those that are named")
  func descriptors() throws {
    let said = try lines(["open=/dev/null", "open=/dev/null", "open=/", "close=0,1,2,4", "descriptors"])
    #expect(Array(said.prefix(3)) == ["open 3", "open 4", "open 5"])
    #expect(said.last == "descriptors 0,1,2,4")
  }

  // MARK: the broker's hold

  @Test("the priority of all threads of a worker is lowered, given back, and raised", .enabled(if: isRoot))
  func priority() throws {
    let child = try ChildProcess(
      [probe, "become=4242:4343:", "threads=2", "confine", "wait"], environment: ChildProcess.baseEnvironment,
      conversing: true)
    _ = try child.readLines(until: "waiting")
    func priorities() throws -> [Int] {
      try FileManager.default.contentsOfDirectory(atPath: "/proc/\(child.pid)/task").map { thread in
        let text = try String(contentsOfFile: "/proc/\(child.pid)/task/\(thread)/stat", encoding: .utf8)
        // Field 19; the second, the name, may hold blanks.
        let fields = text[text.lastIndex(of: ")")!...].split(separator: " ")
        return Int(fields[17])!
      }
    }
    let before = try priorities()
    #expect(before.count == 3 && Set(before).count == 1)
    let own = Int(getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0))
    // A broker's own priority is higher than its workers', which don't have it: of this thread alone, on Linux.
    let process = __priority_which_t(PRIO_PROCESS.rawValue)
    defer { setpriority(process, 0, Int32(own)) }
    for broker in [own, own - 10] {
      try #require(setpriority(process, 0, Int32(broker)) == 0)
      for (share, steps) in [(ProcessorShare.low, 10), (.usual, 0), (.light, -8), (.low, 10), (.usual, 0)] {
        try setPriority(ofGroup: child.pid, share)
        let wanted = min(19, max(0, broker) + steps)
        #expect(try priorities() == [wanted, wanted, wanted])
      }
    }
    for wrong in [pid_t(0), -1, .min] {
      #expect(throws: Complaint.self) { try setPriority(ofGroup: wrong, .low) }
    }
    child.signal(SIGKILL)
  }

  @Test("a broker without CAP_KILL ends a worker of another user, and nobody else's process", .enabled(if: isRoot))
  func ending() throws {
    let worker = try ChildProcess(
      [probe, "become=4242:4343:", "wait"], environment: ChildProcess.baseEnvironment, conversing: true)
    let other = try ChildProcess(
      [probe, "become=4243:4343:", "wait"], environment: ChildProcess.baseEnvironment, conversing: true)
    for child in [worker, other] { _ = try child.readLines(until: "waiting") }
    let broker = try ChildProcess.run([
      "setpriv", "--bounding-set=-all,+setuid,+setgid", "--inh-caps=-all", probe, "end=\(other.pid),4242",
      "end=\(worker.pid),4242", "call=getresuid,buffer,buffer,buffer", "call=setresuid,0,0,0", "end=0,4242",
    ])
    #expect(broker.ending == .exit(0))
    let said = broker.output.split(separator: "\n")
    #expect(said[0] == "end EPERM" && said[1] == "end done", "\(said)")
    #expect(said[3].hasSuffix("done 0") && said[4] == "end ESRCH", "\(said)")
    try wait(for: "the worker ends") { worker.hasEnded }
    #expect(!other.hasEnded)
    other.signal(SIGKILL)
  }

  /// What the kernel would have: a directory that was handed over, with the files that are written to.
  private func tree(_ directory: TestDirectory, isDelegated: Bool = true) throws -> String {
    let place = try directory.directory("system.slice/allocsd.service")
    for leaf in ["", "broker/", "user-1/", "user-2/"] {
      if !leaf.isEmpty { _ = try directory.directory("system.slice/allocsd.service/\(leaf)") }
      for file in ["cgroup.procs", "cgroup.subtree_control", "memory.max", "memory.oom.group", "pids.max", "cpu.max"] {
        _ = try directory.write("", to: "system.slice/allocsd.service/\(leaf)\(file)")
      }
      _ = try directory.write("", to: "system.slice/allocsd.service/\(leaf)cpu.weight")
    }
    if isDelegated, Self.isRoot {
      let isMarked =
        setxattr(place, "user.delegate", "1", 1, 0) == 0 || setxattr(place, "trusted.delegate", "1", 1, 0) == 0
      try #require(isMarked, "no extended attributes on \(place)")
    }
    return place
  }

  @Test("in a cgroup that was handed over, the broker and each worker get leaves, the workers' with limits")
  func cgroups() throws {
    let directory = try TestDirectory()
    let place = try tree(directory)
    func text(_ file: String) throws -> String { try String(contentsOfFile: "\(place)/\(file)", encoding: .utf8) }
    var limits = Limits()
    limits.processorPercent = 150
    var cgroups = try WorkerCgroups(
      limits, root: directory.path, own: "1:name=systemd:/x\n0::/system.slice/allocsd.service\n")
    #expect(cgroups.controllers == ["memory", "pids", "cpu"])
    #expect(try text("broker/cgroup.procs") == "\(getpid())")
    try cgroups.place(4711, 1)
    #expect(try text("user-1/cgroup.procs") == "4711")
    #expect(try text("user-1/memory.max") == "\(768 << 20)")
    #expect(try text("user-1/pids.max") == "64")
    #expect(try text("user-1/cpu.weight") == "50")
    #expect(try text("user-1/cpu.max") == "150000 100000")
    #expect(try text("user-2/cgroup.procs") == "")
    cgroups.setShare(1, .low)
    // Files of the kernel take each write as a whole; this one keeps what was there behind it.
    #expect(try text("user-1/cpu.weight").hasPrefix("5"))
    cgroups.setShare(2, .low)
    #expect(try text("user-2/cpu.weight") == "")
    // One that isn't empty stays, and is tried again with the next.
    cgroups.remove(1)
    #expect(FileManager.default.fileExists(atPath: "\(place)/user-1"))
    for file in try FileManager.default.contentsOfDirectory(atPath: "\(place)/user-1") {
      try FileManager.default.removeItem(atPath: "\(place)/user-1/\(file)")
    }
    try cgroups.place(4712, 2)
    #expect(!FileManager.default.fileExists(atPath: "\(place)/user-1"))
    // Nobody's, as no worker was placed there.
    cgroups.remove(3)
  }

  @Test("a cgroup that wasn't handed over is left as it is, and the reason is told")
  func foreignCgroups() throws {
    let directory = try TestDirectory()
    let place = try tree(directory, isDelegated: false)
    func expectRefusal(_ own: String, _ words: String, root: String? = nil) {
      do {
        _ = try WorkerCgroups(root: root ?? directory.path, own: own)
        Issue.record("no complaint: \(words)")
      } catch {
        #expect("\(error)".contains(words), "\(error)")
      }
    }
    if Self.isRoot { expectRefusal("0::/system.slice/allocsd.service\n", "not handed over") }
    expectRefusal("5:memory:/x\n", "no cgroup of version 2")
    expectRefusal("", "no cgroup of version 2")
    expectRefusal("0::/../../x\n", "outside")
    expectRefusal("0::/gone\n", "not handed over")
    #expect(try String(contentsOfFile: "\(place)/broker/cgroup.procs", encoding: .utf8) == "")
    #expect(try String(contentsOfFile: "\(place)/cgroup.subtree_control", encoding: .utf8) == "")
  }
}
