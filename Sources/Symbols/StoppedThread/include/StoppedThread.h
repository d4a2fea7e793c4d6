// SPDX-License-Identifier: Apache-2.0
// One thread of another process, stopped for as long as it takes to copy its registers and its stack.
//
// The copy is interpreted afterwards, while the thread runs again. A thread that was seized goes on by
// itself when the process that seized it ends, however it ends.

#ifndef STOPPED_THREAD_H
#define STOPPED_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum stopped_thread_failure {
  STOPPED_THREAD_OK = 0,
  STOPPED_THREAD_NOT_SUPPORTED,  // on this machine
  STOPPED_THREAD_SEIZE,          // ptrace(PTRACE_SEIZE) failed with `number`
  STOPPED_THREAD_WAIT,           // it did not stop in time, as in an uninterruptible wait; it has been let go
  STOPPED_THREAD_GONE,           // it ended meanwhile
  STOPPED_THREAD_READ            // its registers or its memory could not be read: `number`
};

struct stopped_thread {
  enum stopped_thread_failure failure;
  int number;                 // errno
  uint64_t registers[17];     // in DWARF's order for x86-64: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, rip
  uint64_t stack_start;       // of the copy
  uint64_t stack_size;        // bytes
  uint8_t *_Nullable stack;
  uint64_t nanoseconds;       // from the order to stop until it went on, at most
};

// Copies from `margin` bytes below the stack pointer up to `stack_end`, at most `limit` bytes. `copy` must be given to
// stopped_thread_free in any case.
void stopped_thread_copy(pid_t process, pid_t thread, uint64_t stack_end, uint64_t limit,
                         struct stopped_thread *_Nonnull copy);
void stopped_thread_free(struct stopped_thread *_Nonnull copy);

struct stopped_frame {
  uint64_t pc;
  uint64_t sp;
  uint64_t cfa;          // where the caller's frame begins; 0 if it could not be found
  uint64_t fp;           // rbp
  bool is_activation;    // pc is the instruction itself, not a return address
};

// The frames of the copied stack, innermost first, up to the one that holds `address`; at most `count`. Reads the
// modules' files. Returns how many there are; negative if no module could be read.
int stopped_thread_unwind(const struct stopped_thread *_Nonnull copy, pid_t process, pid_t thread, uint64_t address,
                          struct stopped_frame *_Nonnull frames, int count);

#endif
