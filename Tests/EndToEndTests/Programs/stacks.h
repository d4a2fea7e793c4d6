// What the stacks*.c programs share: they allocate in difficult places and note what the call stack there really is.
//
// The truth comes from libgcc's unwinder, called beside the malloc in the same frame, so all return addresses but the
// first are the same. With STACKS_RECORD in the environment it is written to that file when the program ends, as 64-bit
// words: block, expectation, count, and the addresses, innermost first. Nothing here allocates.
#ifndef STACKS_H
#define STACKS_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <unwind.h>

enum stacks_expectation {
  STACKS_WHOLE = 1,   // the same as the truth, as far as the limit of depth goes
  STACKS_SITE = 2,    // the call site alone, marked as ended there
  STACKS_PREFIX = 3,  // the same as the truth as far as it goes, and marked if it is shorter
  STACKS_BEGINS = 4,  // begins with the truth, which knows no more than that
  STACKS_ANY = 5,     // the call site is right; there is nothing to compare the rest with
};

#define STACKS_DEPTH 260
#define STACKS_COUNT 30000
struct stacks_entry {
  void *block;
  uint64_t expectation;
  uint64_t count;
  uint64_t pcs[STACKS_DEPTH];
};
static struct stacks_entry stacks_entries[STACKS_COUNT];
static uint64_t stacks_used;

static struct stacks_entry *stacks_new(enum stacks_expectation expectation) {
  uint64_t index = __atomic_fetch_add(&stacks_used, 1, __ATOMIC_RELAXED);
  if (index >= STACKS_COUNT) abort();
  struct stacks_entry *entry = &stacks_entries[index];
  entry->expectation = expectation;
  return entry;
}

struct stacks_walk_state {
  struct stacks_entry *entry;
  int skip;
};
static _Unwind_Reason_Code stacks_step(struct _Unwind_Context *context, void *argument) {
  struct stacks_walk_state *state = (struct stacks_walk_state *)argument;
  uint64_t pc = _Unwind_GetIP(context);
  if (state->skip > 0) {
    state->skip--;
    return _URC_NO_REASON;
  }
  if (pc == 0 || state->entry->count == STACKS_DEPTH) return _URC_NORMAL_STOP;
  state->entry->pcs[state->entry->count++] = pc;
  return _URC_NO_REASON;
}

// The truth about the caller's stack.
__attribute__((noinline, unused)) static struct stacks_entry *stacks_walk(enum stacks_expectation expectation) {
  struct stacks_walk_state state = {stacks_new(expectation), 1};
  _Unwind_Backtrace(stacks_step, &state);
  return state.entry;
}
// Only where the caller is.
__attribute__((noinline, unused)) static struct stacks_entry *stacks_mark(enum stacks_expectation expectation) {
  struct stacks_entry *entry = stacks_new(expectation);
  entry->pcs[entry->count++] = (uint64_t)__builtin_return_address(0);
  return entry;
}

// The barriers keep the call from becoming a jump, and the function's frame in being.
#define STACKS_BARRIER __asm__ volatile("" ::: "memory")
#define STACKS_ALLOCATE(entry_of, expectation, size)            \
  do {                                                          \
    struct stacks_entry *stacks_entry_ = entry_of(expectation); \
    stacks_entry_->block = malloc(size);                        \
    STACKS_BARRIER;                                             \
  } while (0)
#define STACKS_HERE(size) STACKS_ALLOCATE(stacks_walk, STACKS_WHOLE, size)

static void stacks_fail(const char *what) {
  perror(what);
  _exit(99);
}

// Writes the record. Blocks stay allocated, so that the index tells of them after the end.
__attribute__((unused)) static int stacks_finish(const char *what) {
  const char *path = getenv("STACKS_RECORD");
  if (path != NULL) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) stacks_fail(path);
    for (uint64_t i = 0; i < stacks_used; i++) {
      size_t size = (3 + stacks_entries[i].count) * sizeof(uint64_t);
      if (write(file, &stacks_entries[i], size) != (ssize_t)size) stacks_fail(path);
    }
    close(file);
  }
  printf("%s done\n", what);
  return 0;
}

#endif
