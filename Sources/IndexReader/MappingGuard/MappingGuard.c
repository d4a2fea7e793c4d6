// SPDX-License-Identifier: Apache-2.0
// The handler behind MappingGuard.h. It calls nothing that is not async-signal-safe: mmap and
// sigaction, and those only.
#define _GNU_SOURCE
#include "MappingGuard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct mapping_guard {
  _Atomic uintptr_t start;  // 0 while the entry is free; stored last
  _Atomic uintptr_t end;
  _Atomic bool broken;
  _Atomic bool writable;
  struct mapping_guard *_Atomic whole;  // is broken with this one; NULL if there is none
};

#define BLOCK_ENTRIES 64
struct block {
  struct mapping_guard entries[BLOCK_ENTRIES];
  struct block *_Atomic next;
};

static struct block first_block;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction previous;
static uintptr_t page_size;

static struct mapping_guard *guard_of(uintptr_t address, uintptr_t *end) {
  for (struct block *block = &first_block; block != NULL; block = __c11_atomic_load(&block->next, __ATOMIC_ACQUIRE)) {
    for (int i = 0; i < BLOCK_ENTRIES; i++) {
      struct mapping_guard *guard = &block->entries[i];
      // Pairs with the stores in mapping_guard_add. An entry that changes hands under this look
      // belongs to a mapping that no thread is reading, so not to the mapping that faulted; the
      // second load of `start` makes sure that `start` and `end` are of one mapping.
      uintptr_t start = __c11_atomic_load(&guard->start, __ATOMIC_ACQUIRE);
      if (start == 0 || address < start) continue;
      *end = __c11_atomic_load(&guard->end, __ATOMIC_ACQUIRE);
      if (address < *end && __c11_atomic_load(&guard->start, __ATOMIC_ACQUIRE) == start) return guard;
    }
  }
  return NULL;
}

static void pass_on(int number, siginfo_t *info, void *context) {
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler == SIG_IGN && info->si_code <= 0) {
    return;  // sent by a process, and ignored as before; a fault can't be ignored
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    sigaction(number, &fallback, NULL);
    // A fault repeats on return and ends the process; a signal that was sent has to be sent again.
    if (info->si_code <= 0) raise(number);
  }
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
  int saved = errno;
  uintptr_t address = (uintptr_t)info->si_addr, end = 0;
  struct mapping_guard *guard = info->si_code > 0 ? guard_of(address, &end) : NULL;
  if (guard != NULL) {
    // The mark comes before the zeros: a reader that reads a zero that was put there, and asks
    // after that, sees the mark.
    struct mapping_guard *whole = __c11_atomic_load(&guard->whole, __ATOMIC_RELAXED);
    if (whole != NULL) __c11_atomic_store(&whole->broken, true, __ATOMIC_SEQ_CST);
    __c11_atomic_store(&guard->broken, true, __ATOMIC_SEQ_CST);
    uintptr_t page = address & ~(page_size - 1);
    int access = __c11_atomic_load(&guard->writable, __ATOMIC_RELAXED) ? PROT_READ | PROT_WRITE : PROT_READ;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    void *zeros = mmap((void *)page, end - page, access, flags, -1, 0);
    errno = saved;
    if (zeros != MAP_FAILED) return;
  }
  pass_on(number, info, context);
  errno = saved;
}

static void install(void) {
  page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
  sigaction(SIGBUS, NULL, &previous);
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, NULL);
}

struct mapping_guard *mapping_guard_add(void *start, size_t length, bool writable) {
  return mapping_guard_add_part(start, length, writable, NULL);
}

struct mapping_guard *mapping_guard_add_part(void *start, size_t length, bool writable, struct mapping_guard *whole) {
  pthread_once(&once, install);
  struct mapping_guard *found = NULL;
  pthread_mutex_lock(&lock);
  for (struct block *block = &first_block; found == NULL;) {
    for (int i = 0; i < BLOCK_ENTRIES && found == NULL; i++)
      if (__c11_atomic_load(&block->entries[i].start, __ATOMIC_RELAXED) == 0) found = &block->entries[i];
    if (found != NULL) break;
    struct block *next = __c11_atomic_load(&block->next, __ATOMIC_RELAXED);
    if (next == NULL) {
      next = calloc(1, sizeof *next);
      if (next == NULL) break;
      __c11_atomic_store(&block->next, next, __ATOMIC_RELEASE);
    }
    block = next;
  }
  if (found != NULL) {
    __c11_atomic_store(&found->broken, false, __ATOMIC_RELAXED);
    __c11_atomic_store(&found->writable, writable, __ATOMIC_RELAXED);
    __c11_atomic_store(&found->whole, whole, __ATOMIC_RELAXED);
    __c11_atomic_store(&found->end, (uintptr_t)start + length, __ATOMIC_RELEASE);
    __c11_atomic_store(&found->start, (uintptr_t)start, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&lock);
  return found;
}

void mapping_guard_remove(struct mapping_guard *guard) {
  pthread_mutex_lock(&lock);
  __c11_atomic_store(&guard->start, 0, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&lock);
}

bool mapping_guard_is_broken(const struct mapping_guard *guard) {
  return __c11_atomic_load(&((struct mapping_guard *)guard)->broken, __ATOMIC_SEQ_CST);
}
