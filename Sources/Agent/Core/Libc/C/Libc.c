// SPDX-License-Identifier: Apache-2.0
// Libc: the agent's other calls of libc, beside DynamicLinker.c: the first environment, the end of
// the main thread's stack, fork handlers, thread-specific keys, the clock.
//
// Inside a hook nothing is called that can take a lock or allocate. docs/libc.md has the table of
// all that is imported: when it is called, what it may lock, whether it allocates. Called here:
//   anywhere            clock_gettime; pthread_setspecific for one of the first 32 keys
//   in the constructor  __register_atfork, pthread_key_create, pthread_key_delete
//
// The agent is also loaded into every program that an indexed program starts: by musl's dynamic
// linker, or by an older glibc's. There it must load, and do nothing. So it needs no library but
// libc, by a name that musl takes for itself, and no version of a symbol that came after the first
// ones: variables that only glibc has are weak, and functions that came later are looked up by
// hand.
#define _GNU_SOURCE
#include "allocs_agent.h"

#include <time.h>
#include <unistd.h>

#ifndef ALLOCS_INEXE
extern ALLOCS_HIDDEN void *allocs_next_definition(const char *name);
#define LIBC(name) allocs_next_definition(#name)
extern struct r_debug _r_debug __attribute__((weak));
extern void *__libc_stack_end __attribute__((weak));

bool allocs_find_libc(void) {
  allocs_process_state.find_object = LIBC(_dl_find_object);
  return allocs_process_state.find_object && &_r_debug && &__libc_stack_end;
}
static void *stack_end(void) { return &__libc_stack_end ? __libc_stack_end : NULL; }

// Embedded Swift's library calls bcmp. Imported from libc, it would be relocated after the code
// that runs before any constructor (Entry/Definitions.c).
ALLOCS_HIDDEN int bcmp(const void *one, const void *other, size_t count) {
  for (size_t index = 0; index < count; index++)
    if (((const volatile uint8_t *)one)[index] != ((const volatile uint8_t *)other)[index]) return 1;
  return 0;
}
// Embedded Swift's library names arc4random_buf, in code that is never called; glibc has it since
// 2.36 only.
ALLOCS_HIDDEN void arc4random_buf(void *bytes, size_t count) {
  (void)bytes, (void)count;
  __builtin_trap();
}
#else
extern void *__libc_stack_end;
#define LIBC(name) name
bool allocs_find_libc(void) {
  if (!allocs_is_static()) allocs_process_state.find_object = (int (*)(void *, void *))_dl_find_object;
  return true;
}
static void *stack_end(void) { return __libc_stack_end; }
#endif

// MARK: the start of the program

uint64_t allocs_main_stack_end(void) { return (uint64_t)(uintptr_t)stack_end(); }

char **allocs_environment(void) {
  if (environ) return environ;
  // The dynamic linker sets the end of the stack before anything else runs. There the kernel put
  // argc, argv and envp.
  long *stack = stack_end();
  return stack ? (char **)(stack + 1 + stack[0] + 1) : NULL;
}

// MARK: functions of libc that are called when the agent starts

typedef int register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
typedef int key_create(pthread_key_t *, void (*)(void *));
typedef int key_delete(pthread_key_t);
typedef int set_specific(pthread_key_t, const void *);

// Run before a fork, after it in the parent, and in a child of fork before anything else there.
extern ALLOCS_HIDDEN void allocs_fork_begins(void);
extern ALLOCS_HIDDEN void allocs_fork_ended(void);
extern ALLOCS_HIDDEN void allocs_child_started(void);

// pthread_atfork is in the static part of libc. It calls this function, and names the object that
// it is linked into, so that dlclose can undo it.
extern ALLOCS_HIDDEN void *__dso_handle;
#ifdef ALLOCS_INEXE
extern register_atfork __register_atfork;
#endif

void allocs_register_fork_handlers(void) {
  register_atfork *function = LIBC(__register_atfork);
  if (function) function(allocs_fork_begins, allocs_fork_ended, allocs_child_started, &__dso_handle);
}

// libc keeps the values of its first keys in the thread's descriptor. For a later key, it would
// allocate in the hook that sets the value.
enum { KEYS_KEPT_IN_PLACE = 32 };

bool allocs_create_thread_key(void (*destructor)(void *)) {
  struct allocs_process *process = &allocs_process_state;
  key_create *create = LIBC(pthread_key_create);
  key_delete *delete = LIBC(pthread_key_delete);
  process->set_specific = LIBC(pthread_setspecific);
  if (!create || !delete || !process->set_specific || create(&process->thread_key, destructor) != 0) return false;
  if (process->thread_key < KEYS_KEPT_IN_PLACE) return true;
  delete(process->thread_key);
  return false;
}

bool allocs_set_thread_key(const void *value) {
  return allocs_process_state.set_specific(allocs_process_state.thread_key, value) == 0;
}

// MARK: the clock

uint32_t allocs_ticks_by_call(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) != 0) return 0;
  return allocs_ticks((uint64_t)now.tv_sec, (uint64_t)now.tv_nsec);
}

uint64_t allocs_nanoseconds_by_call(bool exact) {
  struct timespec now;
  if (clock_gettime(exact ? CLOCK_MONOTONIC : CLOCK_MONOTONIC_COARSE, &now) != 0) return 0;
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
