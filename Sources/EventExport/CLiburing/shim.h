// SPDX-License-Identifier: Apache-2.0
// liburing for Swift: its static inline functions are imported as they are; here is what it has as macros, and what of
// the system Swift's Glibc module leaves out.
//
// A module of its own, never imported together with libdw's: each sets feature macros of glibc for itself.

#ifndef ALLOCS_LIBURING_SHIM_H
#define ALLOCS_LIBURING_SHIM_H

#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// Macros of several levels of casts, which Swift doesn't import.
static const uint32_t allocs_cqe_more = IORING_CQE_F_MORE;
static const uint8_t allocs_sqe_fixed_file = 1u << IOSQE_FIXED_FILE_BIT;
static const uint8_t allocs_sqe_link = 1u << IOSQE_IO_LINK_BIT;

// The next completion without waiting for one, NULL if there is none.
static inline struct io_uring_cqe *allocs_peek(struct io_uring *ring) {
  struct io_uring_cqe *completion = NULL;
  return io_uring_peek_cqe(ring, &completion) == 0 ? completion : NULL;
}

static const int allocs_no_signal = MSG_NOSIGNAL;
static const int allocs_dont_wait = MSG_DONTWAIT;

// An eventfd that is close-on-exec and doesn't block. -1 and errno on failure.
static inline int allocs_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

// Names the calling thread, for people who look at it.
static inline void allocs_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }

// A descriptor of a process that poll finds readable when it has ended (pidfd_open(2), Linux 5.3). -1 and errno on
// failure.
static inline int allocs_pidfd_open(int pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

#endif
