// SPDX-License-Identifier: Apache-2.0
// Calls of the system that Swift can't make: variadic functions, and functions that glibc declares for GNU's sources
// only. Each function returns 0, or the number of an error; other meanings are said where they hold.

#ifndef ALLOCS_CONFINEMENT_SHIM_H
#define ALLOCS_CONFINEMENT_SHIM_H

#include <errno.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

// glibc's, which change the ids of all threads (setresuid(2)).
int setresuid(uid_t real, uid_t effective, uid_t saved);
int setresgid(gid_t real, gid_t effective, gid_t saved);
int setgroups(size_t count, const gid_t *groups);
int getgrouplist(const char *user, gid_t group, gid_t *groups, int *count);

static const unsigned allocs_capability_kill = CAP_KILL;
static const unsigned allocs_capability_setpcap = CAP_SETPCAP;
static const unsigned allocs_capability_sys_ptrace = CAP_SYS_PTRACE;

static inline int allocs_prctl(int what, unsigned long a, unsigned long b) {
  return prctl(what, a, b, 0ul, 0ul) < 0 ? errno : 0;
}

// The capabilities that the calling thread may use or take up, one bit each.
static inline int allocs_permitted_capabilities(uint64_t *permitted) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{0}, {0}};
  if (syscall(SYS_capget, &head, data) != 0) return errno;
  *permitted = (uint64_t)data[1].permitted << 32 | data[0].permitted;
  return 0;
}

// Leaves the calling thread `kept`, which it may use, and nothing to hand on.
static inline int allocs_keep_capabilities(uint64_t kept) {
  struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{.effective = (uint32_t)kept, .permitted = (uint32_t)kept},
                                           {.effective = kept >> 32, .permitted = kept >> 32}};
  return syscall(SYS_capset, &head, data) != 0 ? errno : 0;
}

// Closes the descriptors from `first` to `last` (Linux 5.9).
static inline int allocs_close_range(unsigned first, unsigned last) {
  return syscall(SYS_close_range, first, last, 0u) != 0 ? errno : 0;
}

static inline int allocs_limit(int resource, uint64_t soft, uint64_t hard) {
  struct rlimit limit = {.rlim_cur = soft, .rlim_max = hard};
  return setrlimit(resource, &limit) != 0 ? errno : 0;
}

static inline int allocs_limits(int resource, uint64_t *soft, uint64_t *hard) {
  struct rlimit limit;
  if (getrlimit(resource, &limit) != 0) return errno;
  *soft = limit.rlim_cur;
  *hard = limit.rlim_max;
  return 0;
}

// The numbers of limits, which Swift knows by types of several kinds.
enum {
  allocs_limit_fsize = RLIMIT_FSIZE,
  allocs_limit_data = RLIMIT_DATA,
  allocs_limit_core = RLIMIT_CORE,
  allocs_limit_nofile = RLIMIT_NOFILE,
  allocs_limit_msgqueue = RLIMIT_MSGQUEUE,
  allocs_limit_rtprio = RLIMIT_RTPRIO,
};

// setpriority(2) of all threads of a process group.
static inline int allocs_set_priority_of_group(pid_t group, int nice) {
  return setpriority(PRIO_PGRP, (id_t)group, nice) != 0 ? errno : 0;
}

// Has the calling thread, and those that it starts from now on, run for a tenth of a millisecond at a time
// (sched_setattr(2); Linux 6.12 or later). A policy that the system's administrator has chosen stays. Returns 0, or the
// number of an error.
static inline int allocs_take_short_turns(void) {
  if (syscall(SYS_sched_getscheduler, 0) != SCHED_NORMAL) return 0;
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } wanted = {.size = sizeof wanted, .nice = getpriority(PRIO_PROCESS, 0), .runtime = 100000};
  return syscall(SYS_sched_setattr, 0, &wanted, 0) != 0 ? errno : 0;
}

// Macros of several levels of casts, which Swift doesn't import.
static const uint32_t allocs_action_allow = SCMP_ACT_ALLOW;
static const uint32_t allocs_action_kill = SCMP_ACT_KILL_PROCESS;
static const uint32_t allocs_action_no_such_call = SCMP_ACT_ERRNO(ENOSYS);
static const uint32_t allocs_action_not_permitted = SCMP_ACT_ERRNO(EPERM);
static const int allocs_unknown_call = __NR_SCMP_ERROR;
static const uint64_t allocs_clone_all_namespaces =
    CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS;
static const uint64_t allocs_clone_thread = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND;

// A system call by its number, to see what the filter lets through. Returns the result, or the negated number of an
// error.
static inline long allocs_system_call(long number, long a, long b, long c, long d, long e, long f) {
  long result = syscall(number, a, b, c, d, e, f);
  return result < 0 ? -errno : result;
}

#endif
