// SPDX-License-Identifier: Apache-2.0
// The system calls that a worker may make, once it is confined (seccomp(2), by libseccomp).
//
// Somebody who has taken over a worker, by a segment or a file that a parser of ours read wrongly, holds that one
// user's rights to files. The filter takes what would lead further: other programs (execve), other processes (ptrace,
// signals, their memory), the network and the sockets of the machine's services (socket, connect: a user's own systemd
// would start any program for who may connect to it), new rights, new namespaces, and the parts of the kernel in which
// holes are found most often (bpf, keys, perf, userfaultfd, modules). Memory that is written can never be executed.
//
// What a call that isn't allowed gets, and why it isn't one answer for all:
//
// - ENOSYS, if the call is newer than Linux 5.0 and no list below has it: libc and Swift's runtime try newer calls
//   before older ones, and take the older one only for this answer. So a filter that was written before a call existed
//   doesn't break a program.
// - EPERM otherwise: honest code may try the call and do without it, and error messages should say why it failed.
// - The end of the worker (SIGSYS), where no honest path leads there. Who asks for these has taken the worker over, and
//   an error would only invite another attempt. The broker counts, logs, and starts a new worker with back-off.
//
// What it can't do: arguments behind pointers are not seen, so files are limited by the user's rights only. Control
// files are opened for writing; a path can't be told from another, and openat2 has even its flags behind a pointer.
// Landlock could tell them, but refuses a process that it limits the /proc/PID/maps of all others, too.
//
// The list was found by tracing the tests of the server with strace; then come the calls that another version of libc
// may choose in their place. It must hold for every thread, so it is loaded with TSYNC.

import CConfinement
import Glibc
import SystemAccess

/// A filter that is not yet in force.
struct SystemCallFilter {
  var allowsRings: Bool
  var allowsAccepting: Bool

  // MARK: the lists

  /// Allowed with any arguments.
  static let allowed: [String] = [
    // Memory. For mmap and mprotect see the rules with conditions.
    "brk", "madvise", "mincore", "mremap", "msync", "munmap", "membarrier",
    // Threads, as libc starts, stops and looks after them.
    "exit", "exit_group", "futex", "futex_waitv", "get_robust_list", "set_robust_list", "set_tid_address", "rseq",
    "gettid", "getpid", "getppid", "getpgid", "getpgrp", "getsid", "sched_yield", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler", "sched_getattr", "sched_get_priority_min", "sched_get_priority_max",
    "getpriority", "getcpu",
    // Signals that come in.
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigpending", "rt_sigtimedwait",
    "sigaltstack", "signalfd", "signalfd4", "restart_syscall", "pause",
    // Who this is.
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "capget", "uname", "sysinfo",
    "getrlimit", "getrusage", "times",
    // Time.
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "timerfd_create",
    "timerfd_settime", "timerfd_gettime",
    // Waiting.
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "eventfd", "eventfd2", "pipe", "pipe2",
    // What is open already.
    "close", "close_range", "read", "readv", "write", "writev", "fstat", "lseek",
    // Connections that the broker handed over. No call makes a new one.
    "recvfrom", "recvmsg", "recvmmsg", "shutdown", "getsockopt", "setsockopt",
    "getsockname", "getpeername",
    "getrandom",
  ]

  /// Allowed with any arguments where files and processes are looked at: not for who takes connections from anybody.
  static let looks: [String] = [
    // Files, by the user's rights: to be found, read, and written where they are there.
    "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "stat", "lstat",
    "newfstatat", "statx", "statfs",
    "fstatfs", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd",
    "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "flock", "fadvise64", "readahead",
    "fsync", "fdatasync", "sync_file_range", "dup", "dup2", "dup3", "sendfile", "splice", "tee", "copy_file_range",
    "umask",
    "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
    // Processes of the user: whether they live, and words of their memory.
    "pidfd_open", "process_vm_readv",
  ]

  /// End the worker: no honest path leads there.
  static let deadly: [String] = [
    "execve", "execveat", "ptrace", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "userfaultfd",
    "mount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "pivot_root", "chroot", "unshare", "setns", "open_by_handle_at",
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
    "capset", "bpf", "keyctl", "add_key", "request_key", "perf_event_open", "init_module", "finit_module",
    "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "syslog",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup", "iopl",
    "ioperm", "modify_ldt", "migrate_pages", "move_pages", "mbind", "lookup_dcookie",
  ]

  /// The numbers that Linux gave to system calls after 5.0, for all machines alike, and will give in years to come.
  /// Whatever no list has among them doesn't exist for a worker.
  private static let later: Range<Int32> = 424..<600

  private static let accepting = ["accept", "accept4"]
  private static let rings = ["io_uring_setup", "io_uring_enter", "io_uring_register"]

  /// A call that is allowed if all conditions hold.
  struct Rule {
    var call: String
    var conditions: [scmp_arg_cmp]
    init(_ call: String, _ conditions: scmp_arg_cmp...) {
      self.call = call
      self.conditions = conditions
    }
  }

  /// Argument `index`, masked, must be `value`.
  private static func masked(_ index: UInt32, _ mask: UInt64, _ value: UInt64) -> scmp_arg_cmp {
    scmp_arg_cmp(arg: index, op: SCMP_CMP_MASKED_EQ, datum_a: mask, datum_b: value)
  }

  /// Argument `index`, which the kernel takes as a number of 32 bits, must be `value`.
  private static func word(_ index: UInt32, _ value: UInt32) -> scmp_arg_cmp {
    masked(index, 0xFFFF_FFFF, UInt64(value))
  }

  private static func rules() -> [Rule] {
    let executable = UInt64(PROT_EXEC)
    let anonymous = UInt64(MAP_ANONYMOUS)
    let shared = UInt64(MAP_SHARED)
    // From the machine's pool of large pages, which is everybody's.
    let huge: UInt64 = 0x40000
    // MSG_FASTOPEN: to send by it is to connect.
    let connecting: UInt64 = 0x2000_0000
    let itself = UInt32(bitPattern: getpid())
    var rules = [
      // Never executable; of a file, or private: RLIMIT_DATA doesn't count what is shared and of no file.
      Rule("mmap", masked(2, executable, 0), masked(3, anonymous | huge, 0)),
      Rule("mmap", masked(2, executable, 0), masked(3, anonymous | shared | huge, anonymous)),
      Rule("mprotect", masked(2, executable, 0)),
      Rule("sendto", masked(3, connecting, 0)),
      Rule("sendmsg", masked(2, connecting, 0)),
      Rule("sendmmsg", masked(3, connecting, 0)),
      // Threads only. What clone3 is asked stands behind a pointer: it gets ENOSYS, and libc takes clone.
      Rule("clone", masked(0, allocs_clone_thread | allocs_clone_all_namespaces, allocs_clone_thread)),
      // Signals for itself, as abort and raise send; and the question whether a process is there.
      Rule("kill", word(0, itself)),
      Rule("kill", word(1, 0)),
      Rule("tgkill", word(0, itself)),
      Rule("rt_sigqueueinfo", word(0, itself)),
      Rule("rt_tgsigqueueinfo", word(0, itself)),
      Rule("pidfd_send_signal", word(1, 0)),
      // Of the calling thread or process only.
      Rule("prlimit64", word(0, 0)),
      Rule("prlimit64", word(0, itself)),
      Rule("setpriority", word(0, UInt32(PRIO_PROCESS.rawValue)), word(1, 0)),
      Rule("sched_setattr", word(0, 0)),
      Rule("sched_setaffinity", word(0, 0)),
    ]
    // No F_SETOWN and F_SETSIG, which send signals to others.
    let commands: [Int32] = [
      F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW,
      36, 37, 38,  // F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
      1031, 1032, 1034,  // F_SETPIPE_SZ, F_GETPIPE_SZ, F_GET_SEALS
    ]
    for command in commands { rules.append(Rule("fcntl", word(1, UInt32(bitPattern: command)))) }
    let requests: [UInt32] = [
      0x5401, 0x5413,  // TCGETS, TIOCGWINSZ: is it a terminal?
      0x541B, 0x5421, 0x5450, 0x5451,  // FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    ]
    for request in requests { rules.append(Rule("ioctl", word(1, request))) }
    // PROCMAP_QUERY: a mapping of a process, by a descriptor of its maps, which the kernel gives to whoever may read
    // them.
    rules.append(Rule("ioctl", word(1, 0xC068_6611)))
    // PIDFD_GET_INFO, whose bits 16 to 29 say how large the caller's structure is.
    rules.append(Rule("ioctl", masked(1, 0xC000_FFFF, 0xC000_FF0B)))
    let options: [Int32] = [
      PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_CAPBSET_READ,
      PR_GET_TIMERSLACK, 0x5356_4D41,  // PR_SET_VMA: libc names its memory
    ]
    for option in options { rules.append(Rule("prctl", word(0, UInt32(bitPattern: option)))) }
    return rules
  }

  // MARK: putting it in force

  /// Puts the filter in force for all threads, for ever, and tries it.
  func load() throws(Complaint) {
    func failure(_ doing: String, _ code: Int32) -> Complaint {
      Complaint(
        .obstacle, what: "a worker can't limit its system calls: \(doing): \(systemWords(code))",
        advice: "allocsd needs a kernel with CONFIG_SECCOMP_FILTER, and libseccomp 2.5", code: code)
    }
    guard let filter = seccomp_init(allocs_action_not_permitted) else { throw failure("no memory", ENOMEM) }
    defer { seccomp_release(filter) }
    var listed: Set<Int32> = []
    func add(_ number: Int32, _ action: UInt32, _ conditions: [scmp_arg_cmp]) -> Int32 {
      listed.insert(number)
      return seccomp_rule_add_array(filter, action, number, UInt32(conditions.count), conditions)
    }
    func add(_ call: String, _ action: UInt32, _ conditions: [scmp_arg_cmp] = []) throws(Complaint) {
      // A call that this machine or this libseccomp doesn't know is refused, like all that no rule allows.
      let number = seccomp_syscall_resolve_name(call)
      guard number != allocs_unknown_call else { return }
      let code = add(number, action, conditions)
      guard code == 0 else { throw failure(call, -code) }
    }
    let attributes: [(scmp_filter_attr, UInt32)] = [
      // Calls by the numbers of another machine (i386, x32) are for who looks for a way around.
      (SCMP_FLTATR_ACT_BADARCH, allocs_action_kill),
      (SCMP_FLTATR_CTL_TSYNC, 1),
      // A tree instead of a list: fewer comparisons for each call.
      (SCMP_FLTATR_CTL_OPTIMIZE, 2),
    ]
    for (attribute, value) in attributes {
      let code = seccomp_attr_set(filter, attribute, value)
      guard code == 0 else { throw failure("attribute \(attribute.rawValue)", -code) }
    }
    let more = (allowsRings ? Self.rings : []) + (allowsAccepting ? Self.accepting : Self.looks)
    for call in Self.allowed + more { try add(call, allocs_action_allow) }
    for rule in Self.rules() { try add(rule.call, allocs_action_allow, rule.conditions) }
    for call in Self.deadly { try add(call, allocs_action_kill) }
    for number in Self.later where !listed.contains(number) {
      let code = add(number, allocs_action_no_such_call, [])
      guard code == 0 else { throw failure("call \(number)", -code) }
    }
    let code = seccomp_load(filter)
    guard code == 0 else { throw failure("the kernel refused the filter", -code) }
    // It is there, and it is this filter: a socket of the network is refused by nothing else with these words.
    let answer = allocs_system_call(Int(SYS_socket), Int(AF_UNIX), 1, 0, 0, 0, 0)
    guard answer == -Int(EPERM) else {
      throw Complaint(.obstacle, what: "a worker's filter of system calls isn't in force")
    }
  }
}
