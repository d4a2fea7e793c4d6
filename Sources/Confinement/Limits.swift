// SPDX-License-Identifier: Apache-2.0
// What a worker may use up, and the point from which it can do nothing but answer.
//
// Limits of a process (setrlimit(2)) hold everywhere, cgroups (WorkerCgroups) where the system hands one over:
//
// - Memory: RLIMIT_DATA, private memory that can be written. RLIMIT_AS would count segments and module files, which are
//   windows onto pages that belong to others. Shared anonymous memory, which RLIMIT_DATA doesn't count, is refused by
//   the filter.
// - Descriptors: RLIMIT_NOFILE.
// - Threads: each has a stack, which counts as memory; pids.max of the cgroup. RLIMIT_NPROC would count everything that
//   the user runs, and the user could keep their own worker from starting.
// - Files: RLIMIT_FSIZE, how far a file can be made to grow. A worker writes control files, which are small.
// - Core dumps: none (RLIMIT_CORE), as a dump would hold what the worker had read.
// - Processor time: cpu.weight and cpu.max of the cgroup; `setPriority` by the broker. RLIMIT_CPU counts a process's
//   whole life, and a worker may live for months.

import CConfinement
import Glibc
import SystemAccess

/// What one worker may use.
public struct Limits: Hashable, Sendable {
  /// Private memory that can be written, in bytes: heap and stacks.
  public var memoryBytes: UInt64 = 512 << 20
  /// All memory that the kernel charges to the worker, in bytes, cached pages of files that it read included. Only
  /// where there are cgroups.
  public var chargedBytes: UInt64 = 768 << 20
  /// Open descriptors. A process with a lower limit keeps that.
  public var descriptors: UInt64 = 4096
  /// Threads. Only where there are cgroups.
  public var tasks: UInt64 = 64
  /// How far the worker may make a file grow, in bytes; nil: no limit, as for a worker that exports events to files.
  public var fileBytes: UInt64? = 16 << 20
  /// The part of one processor that the worker may use, in hundredths: 150 is one and a half. Only where there are
  /// cgroups.
  public var processorPercent: UInt64 = max(100, UInt64(clamping: sysconf(Int32(_SC_NPROCESSORS_ONLN))) &* 50)
  /// Whether the worker may use io_uring. What a ring does passes by the filter of system calls: a worker that was
  /// taken over could connect to sockets of its user by one. So only a worker that exports events gets it.
  public var allowsRings = false
  /// Whether the worker may accept connections, at a socket that it was started with. It may open no file then, and
  /// look at no process.
  public var allowsAccepting = false

  public init() {}
}

/// Gives up, for ever and for all threads, everything that answering questions doesn't need: memory beyond `limits`,
/// new privileges, and system calls (SystemCallFilter.swift). To be called by a worker when its threads have been
/// started and before it takes its first question.
///
/// Throws if anything isn't as meant afterwards: the worker must end then.
public func confine(_ limits: Limits = Limits()) throws(Complaint) {
  // A write beyond the limit of a file is to fail, and not to end the worker.
  signal(SIGXFSZ, SIG_IGN)
  try limit(allocs_limit_data, to: limits.memoryBytes, "memory")
  try limit(allocs_limit_nofile, to: limits.descriptors, "descriptors")
  try limit(allocs_limit_core, to: 0, "core dumps")
  try limit(allocs_limit_msgqueue, to: 0, "message queues")
  try limit(allocs_limit_rtprio, to: 0, "real-time priority")
  // A log that is a file may be longer than that already; the limit would silence the worker.
  if let bytes = limits.fileBytes, !isFile(STDERR_FILENO), !isFile(STDOUT_FILENO) {
    try limit(allocs_limit_fsize, to: bytes, "files' sizes")
  }
  let code = allocs_prctl(PR_SET_NO_NEW_PRIVS, 1, 0)
  guard code == 0 else {
    throw Complaint(.obstacle, what: "a worker can't renounce new privileges: \(systemWords(code))", code: code)
  }
  if limits.allowsAccepting {
    // It can't look at its threads afterwards: the one that it has is the one that loads the filter.
    guard try ThreadState.all().count == 1 else {
      throw Complaint(.obstacle, what: "a worker that takes connections has more than one thread")
    }
    return try SystemCallFilter(allowsRings: false, allowsAccepting: true).load()
  }
  try SystemCallFilter(allowsRings: limits.allowsRings, allowsAccepting: false).load()
  for thread in try ThreadState.all() {
    guard thread.isFiltered, thread.hasNoNewPrivileges else {
      throw Complaint(.obstacle, what: "a worker has a thread whose system calls nothing limits")
    }
  }
}

/// Sets both limits of a resource to `most`, or leaves a lower one that holds already.
private func limit(_ resource: Int, to most: UInt64, _ what: String) throws(Complaint) {
  var soft: UInt64 = 0
  var hard: UInt64 = 0
  var code = allocs_limits(Int32(resource), &soft, &hard)
  if code == 0 { code = allocs_limit(Int32(resource), min(most, hard), min(most, hard)) }
  if code == 0 { code = allocs_limits(Int32(resource), &soft, &hard) }
  guard code == 0, soft <= most, hard <= most else {
    throw Complaint(.obstacle, what: "a worker can't limit its \(what): \(systemWords(code))", code: code)
  }
}

private func isFile(_ descriptor: Int32) -> Bool {
  var status = stat()
  return fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
}
