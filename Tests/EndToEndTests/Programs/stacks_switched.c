// Allocations on stacks that are not the thread's own, and on threads with stacks of many kinds.

#include <pthread.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "stacks.h"

#define FRAME __attribute__((noinline, noclone))
static const size_t page = 4096;

FRAME static void nested(int depth, enum stacks_expectation expectation) {
  if (depth > 0) nested(depth - 1, expectation);
  else if (expectation == STACKS_WHOLE) STACKS_HERE(24);
  else STACKS_ALLOCATE(stacks_mark, expectation, 24);
  STACKS_BARRIER;
}

// Memory with pages that cannot be touched right below and right above; `at` is where, 0 for anywhere.
static uint8_t *guarded(uintptr_t at, size_t size) {
  uint8_t *start = mmap(
      (void *)at, size + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);
  if (start == MAP_FAILED) stacks_fail("mmap of a stack");
  mprotect(start, page, PROT_NONE);
  mprotect(start + page + size, page, PROT_NONE);
  return start + page;
}

// MARK: contexts

#define CONTEXTS 5
static __thread ucontext_t home, contexts[CONTEXTS];
static __thread enum stacks_expectation expected = STACKS_SITE;
FRAME static void coroutine(int index) {
  for (int i = 0; i < 20; i++) {
    nested(i, expected);
    swapcontext(&contexts[index], &home);
  }
}
static void contexts_run(uint8_t *stacks[CONTEXTS], size_t size) {
  for (int i = 0; i < CONTEXTS; i++) {
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i];
    contexts[i].uc_stack.ss_size = size;
    contexts[i].uc_link = &home;
    makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
  }
  for (int round = 0; round < 20; round++)
    for (int i = 0; i < CONTEXTS; i++) {
      swapcontext(&home, &contexts[i]);
      nested(round, STACKS_WHOLE);
    }
}
static void *contexts_in(void *unused) {
  (void)unused;
  size_t size = 64 << 10;
  uint8_t *stacks[CONTEXTS];
  for (int i = 0; i < CONTEXTS; i++) stacks[i] = i % 2 ? malloc(size) : guarded(0, size);
  contexts_run(stacks, size);
  return NULL;
}

// MARK: stacks by hand

// Calls function(argument) with the stack pointer at `top`; without call frame information, rbp as it is or `base`.
void call_on(void *top, void (*function)(void *), void *argument, void *base);
__asm__(
    ".text\n.globl call_on\ncall_on:\n"
    "  push %rbx\n  push %rbp\n  mov %rsp,%rbx\n  mov %rdi,%rsp\n  mov %rdx,%rdi\n  mov %rcx,%rbp\n  call *%rsi\n"
    "  mov %rbx,%rsp\n  pop %rbp\n  pop %rbx\n  ret\n");

FRAME static void on_foreign(void *argument) {
  nested((int)(intptr_t)argument, STACKS_SITE);
  STACKS_BARRIER;
}
FRAME static void on_part(void *argument) {
  nested((int)(intptr_t)argument, STACKS_ANY);
  STACKS_BARRIER;
}
FRAME static void at_places(void) {
  size_t size = 32 << 10;
  uint8_t *stacks[] = {guarded(0, size), guarded(0x10000, size), guarded(0x40000000, size), malloc(size), NULL};
  for (int i = 0; stacks[i] != NULL; i++)
    for (int depth = 0; depth < 20; depth++) {
      uint8_t *top = stacks[i] + (size & ~15UL);
      call_on(top, on_foreign, (void *)(intptr_t)depth, __builtin_frame_address(0));
      call_on(top, on_foreign, (void *)(intptr_t)depth, top);
      call_on(top, on_foreign, (void *)(intptr_t)depth, top - 8);
      nested(depth, STACKS_WHOLE);
    }
}
// Part of the thread's own stack, used as another one.
FRAME static void carved(void) {
  _Alignas(64) uint8_t part[40000];
  uint8_t *top = part + 39936;
  for (int depth = 0; depth < 20; depth++) {
    call_on(top, on_part, (void *)(intptr_t)depth, __builtin_frame_address(0));
    call_on(top, on_part, (void *)(intptr_t)depth, top + 8);
    call_on(top, on_part, (void *)(intptr_t)depth, top - 16);
    nested(depth, STACKS_WHOLE);
  }
}

// A stack that is copied away and back, as some interpreters do: other frames at the same place.
static jmp_buf outside, inside[2];
static uint8_t saved[2][16384];
static uint8_t *saved_at[2], *saved_end;
FRAME static void leave(int task) {
  uint8_t *here = (uint8_t *)__builtin_frame_address(0) - 512;
  if (setjmp(inside[task]) == 0) {
    saved_at[task] = here;
    memcpy(saved[task], here, (size_t)(saved_end - here));
    longjmp(outside, 1);
  }
}
FRAME static void task_body(int depth, int task) {
  if (depth > 0) task_body(depth - 1, task);
  else
    for (int i = 0; i < 30; i++) {
      STACKS_HERE(40);
      leave(task);
    }
  STACKS_BARRIER;
}
FRAME static void task_a(int depth) {
  task_body(depth, 0);
  STACKS_BARRIER;
}
FRAME static void task_b(int depth) {
  task_body(depth, 1);
  STACKS_BARRIER;
}
FRAME static void resume(int task) {
  // Below everything that is going to be overwritten.
  uint8_t pad[20000];
  __asm__ volatile("" : : "r"(pad) : "memory");
  memcpy(saved_at[task], saved[task], (size_t)(saved_end - saved_at[task]));
  longjmp(inside[task], 1);
}
FRAME static void copied(void) {
  static volatile int round;
  saved_end = (uint8_t *)__builtin_frame_address(0) - 64;
  for (round = 0; round < 50; round++)
    if (setjmp(outside) == 0) {
      if (round == 0) task_a(3);
      else if (round == 1) task_b(3);
      else resume(round % 2);
    }
}

// MARK: threads

static void *thread_whole(void *unused) {
  (void)unused;
  for (int i = 0; i < 40; i++) nested(i, STACKS_WHOLE);
  return NULL;
}
static void *thread_small(void *unused) {
  (void)unused;
  for (int i = 0; i < 40; i++) nested(i, STACKS_ANY);
  return NULL;
}
static void run_threads(void *(*body)(void *), void *stack, size_t size, int times) {
  for (int i = 0; i < times; i++) {
    pthread_attr_t attributes;
    pthread_t threads[2];
    int count = stack ? 1 : 2;
    pthread_attr_init(&attributes);
    if (stack) pthread_attr_setstack(&attributes, stack, size);
    else if (size) pthread_attr_setstacksize(&attributes, size);
    for (int j = 0; j < count; j++)
      if (pthread_create(&threads[j], &attributes, body, NULL) != 0) stacks_fail("pthread_create");
    for (int j = 0; j < count; j++) pthread_join(threads[j], NULL);
    pthread_attr_destroy(&attributes);
  }
}

// MARK: clone

static int clone_body(void *argument) {
  nested((int)(intptr_t)argument, STACKS_SITE);
  return 7;
}
FRAME static void cloned(void) {
  size_t size = 64 << 10;
  for (int i = 0; i < 20; i++) {
    uint8_t *stack = i % 2 ? malloc(size) : guarded(0, size);
    int flags = CLONE_VM | SIGCHLD | (i % 3 ? 0 : CLONE_VFORK), status = 0;
    int child = clone(clone_body, (void *)((uintptr_t)(stack + size) & ~15UL), flags, (void *)(intptr_t)i);
    if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7) stacks_fail("clone");
    nested(i, STACKS_WHOLE);
  }
}
FRAME static void vforked(void) {
  for (volatile int i = 0; i < 20; i++) {
    int child = vfork();
    if (child == 0) {
      nested(i, STACKS_WHOLE);
      _exit(5);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 5) stacks_fail("vfork");
    nested(i, STACKS_WHOLE);
  }
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  size_t size = 256 << 10;
  if (strcmp(what, "contexts") == 0) {
    contexts_in(NULL);
  } else if (strcmp(what, "contexts-in-threads") == 0) {
    run_threads(contexts_in, NULL, 0, 3);
  } else if (strcmp(what, "by-hand") == 0) {
    at_places();
  } else if (strcmp(what, "carved") == 0) {
    carved();
  } else if (strcmp(what, "copied") == 0) {
    copied();
  } else if (strcmp(what, "threads") == 0) {
    run_threads(thread_whole, NULL, 0, 5);
    run_threads(thread_whole, NULL, 64 << 10, 5);
    run_threads(thread_small, NULL, (size_t)sysconf(_SC_THREAD_STACK_MIN), 5);
    run_threads(thread_small, NULL, PTHREAD_STACK_MIN, 5);
  } else if (strcmp(what, "own-stacks") == 0) {
    run_threads(thread_whole, guarded(0, size), size, 3);
    run_threads(thread_whole, guarded(0x40000000, size), size, 3);
    void *memory = NULL;
    if (posix_memalign(&memory, 4096, size) != 0) stacks_fail("posix_memalign");
    run_threads(thread_whole, memory, size, 3);
    run_threads(thread_small, memory, PTHREAD_STACK_MIN, 3);
  } else if (strcmp(what, "clone") == 0) {
    cloned();
  } else if (strcmp(what, "vfork") == 0) {
    vforked();
  } else {
    return 98;
  }
  nested(5, STACKS_WHOLE);
  return stacks_finish(what);
}
