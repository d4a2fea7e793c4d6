// An allocator's calloc that lets another coroutine run in the middle of a call, as one does that
// waits for memory. The program and, with -DSWITCHING_LIBRARY, the library that is preloaded below
// the agent. Each block is named on standard output, with its size.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#ifdef SWITCHING_LIBRARY
__attribute__((visibility("default"))) void (*switching_wait)(void);
void *calloc(size_t count, size_t size) {
  static void *(*next)(size_t, size_t);
  if (!next) next = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
  void *block = next(count, size);
  if (switching_wait) switching_wait();
  __asm__ volatile("" ::: "memory");
  return block;
}
#else
static ucontext_t own, other;
static void name(void *block, size_t size) {
  if (!block) abort();
  memset(block, 1, size);
  printf("%p %zu\n", block, size);
}
// Runs on a stack of its own: allocates, and goes back.
static void coroutine(void) {
  for (size_t size = 3000;; size++) {
    name(malloc(size), size);
    free(malloc(100));
    swapcontext(&other, &own);
  }
}
static void wait(void) { swapcontext(&own, &other); }

int main(void) {
  static char buffer[1 << 16];
  setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
  static char stack[1 << 17];
  getcontext(&other);
  other.uc_stack.ss_sp = stack;
  other.uc_stack.ss_size = sizeof stack;
  makecontext(&other, coroutine, 0);
  void (**hook)(void) = (void (**)(void))dlsym(RTLD_DEFAULT, "switching_wait");
  for (size_t round = 0; round < 50; round++) {
    if (hook) *hook = round % 2 ? wait : NULL;
    size_t size = 2000 + round;
    name(calloc(1, size), size);
    name(malloc(size + 500), size + 500);
  }
  return 0;
}
#endif
