// SPDX-License-Identifier: Apache-2.0
// System calls by register, for a library that must not disturb errno, be interposed, or be a
// cancellation point.
//
// The result is the kernel's: a value, or the negated error number. System.swift
// (Sources/Agent/Core), the only file that uses this header, lists which calls the agent makes, and
// when.

#ifndef ALLOCS_SYSTEM_CALL_H
#define ALLOCS_SYSTEM_CALL_H

#include <stdint.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long allocs_system_call(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
static inline long allocs_system_call(long number, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#endif

enum {
  ALLOCS_SYS_CLOSE = SYS_close,
  ALLOCS_SYS_CLOCK_GETTIME = SYS_clock_gettime,
  ALLOCS_SYS_EXIT_GROUP = SYS_exit_group,
  ALLOCS_SYS_FCHMOD = SYS_fchmod,
  ALLOCS_SYS_FCNTL = SYS_fcntl,
  ALLOCS_SYS_FSTAT = SYS_fstat,
  ALLOCS_SYS_FTRUNCATE = SYS_ftruncate,
  ALLOCS_SYS_FUTEX = SYS_futex,
  ALLOCS_SYS_GETDENTS64 = SYS_getdents64,
  ALLOCS_SYS_GETPID = SYS_getpid,
  ALLOCS_SYS_GETPPID = SYS_getppid,
  ALLOCS_SYS_GETEUID = SYS_geteuid,
  ALLOCS_SYS_GETTID = SYS_gettid,
  ALLOCS_SYS_GETUID = SYS_getuid,
  ALLOCS_SYS_LSEEK = SYS_lseek,
  ALLOCS_SYS_LINKAT = SYS_linkat,
  ALLOCS_SYS_MADVISE = SYS_madvise,
  ALLOCS_SYS_MINCORE = SYS_mincore,
  ALLOCS_SYS_MEMBARRIER = SYS_membarrier,
  ALLOCS_SYS_MKDIRAT = SYS_mkdirat,
  ALLOCS_SYS_MMAP = SYS_mmap,
  ALLOCS_SYS_MPROTECT = SYS_mprotect,
  ALLOCS_SYS_MREMAP = SYS_mremap,
  ALLOCS_SYS_MUNMAP = SYS_munmap,
  ALLOCS_SYS_NEWFSTATAT = SYS_newfstatat,
  ALLOCS_SYS_OPENAT = SYS_openat,
  ALLOCS_SYS_OPENAT2 = 437,  // on each machine; old headers lack it
  ALLOCS_SYS_PREAD64 = SYS_pread64,
  ALLOCS_SYS_PRCTL = SYS_prctl,
  ALLOCS_SYS_PRLIMIT64 = SYS_prlimit64,
  ALLOCS_SYS_PWRITE64 = SYS_pwrite64,
  ALLOCS_SYS_READ = SYS_read,
  ALLOCS_SYS_READLINKAT = SYS_readlinkat,
  ALLOCS_SYS_SIGALTSTACK = SYS_sigaltstack,
  ALLOCS_SYS_STATX = SYS_statx,
  ALLOCS_SYS_TGKILL = SYS_tgkill,
  ALLOCS_SYS_UNLINKAT = SYS_unlinkat,
  ALLOCS_SYS_WRITE = SYS_write
};

#endif
