// SPDX-License-Identifier: Apache-2.0
// Threads: the table of thread slots, to which contexts refer, and the history of who held a slot
// before.
//
// A program that starts a thread for each request must not use up contexts, so a thread slot is
// reused once its thread is gone, and contexts (stack, slot) are reused with it. Blocks that an
// earlier holder of the slot left behind are told apart by time: a slot is never reused within the
// tick in which its holder ended, so a block belongs to the holder for which start_ticks <= block's
// ticks <= end_ticks. Former holders are moved to the history, which is a ring. Once a holder was
// overwritten there, its blocks have no thread, rather than a wrong one.
//
// `sequence` is odd while an entry changes. A reader reads `sequence` before and after the entry,
// and tries again if it changed or is odd.

#ifndef ALLOCS_THREAD_H
#define ALLOCS_THREAD_H

#include <stddef.h>
#include <stdint.h>

#define ALLOCS_THREAD_NAME_SIZE 16u  // TASK_COMM_LEN, with the zero at its end

enum allocs_thread_state {
  ALLOCS_THREAD_FREE = 0,
  ALLOCS_THREAD_LIVE = 1,
  ALLOCS_THREAD_EXITING = 2,  // ran its destructors; the kernel may not have ended it yet
  ALLOCS_THREAD_ENDED = 3     // gone; the entry still describes it until it is reused
};

struct allocs_thread_identity {
  uint32_t tid;
  uint32_t start_ticks;
  uint32_t end_ticks;     // meaningful in states EXITING and ENDED, and in the history
  uint32_t slot;          // index into the thread table
  char name[ALLOCS_THREAD_NAME_SIZE];  // as of the thread's first allocation or its end; zero terminated
  uint64_t allocations;   // successful calls that returned a block
  uint64_t frees;         // blocks given back, the old block of a realloc included
};

struct allocs_thread {
  uint32_t sequence;
  uint32_t state;          // enum allocs_thread_state
  struct allocs_thread_identity identity;
  uint64_t previous;       // 1 + number (not index) of the former holder in the history, 0 if none
  uint64_t stack_hint;     // an address inside the thread's stack
  uint64_t stack_low;      // bounds of the stack, 0 if not known
  uint64_t stack_high;
  uint64_t thread_pointer; // by which its thread-local variables are found; 0 if not known
  uint64_t reserved[4];    // fills two cache lines: the counters are written by one thread only
};

// Holder number n (counted from 0, over the process's life) is in entry n % capacity until holder
// n + capacity overwrites it.
struct allocs_former_thread {
  uint64_t number;         // 1 + n, stored last (release); set to 0 before the entry changes
  uint64_t previous;       // as in allocs_thread
  struct allocs_thread_identity identity;
};

_Static_assert(sizeof(struct allocs_thread_identity) == 48, "thread identity");
_Static_assert(offsetof(struct allocs_thread, identity) == 8, "thread.identity");
_Static_assert(offsetof(struct allocs_thread, previous) == 56, "thread.previous");
_Static_assert(offsetof(struct allocs_thread, stack_hint) == 64, "thread.stack_hint");
_Static_assert(offsetof(struct allocs_thread, thread_pointer) == 88, "thread.thread_pointer");
_Static_assert(sizeof(struct allocs_thread) == 128, "thread");
_Static_assert(sizeof(struct allocs_former_thread) == 64, "former thread");

#endif
