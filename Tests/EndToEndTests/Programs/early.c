// A library to be preloaded: its constructor starts threads that call malloc, all at the same moment, before anybody in the
// process has. Made by clone, with a copy of the main thread's thread-local memory: pthread_create itself would allocate, and so start
// the agent, before the first of them runs. Says how many blocks were allocated.

#include <asm/prctl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 8, BLOCKS = 50, STORAGE = 64 << 10, DESCRIPTOR = 4096, STACK = 256 << 10 };

static int ready, go;
static int done[THREADS];

static int run(void *argument) {
  int *flag = argument;
  __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&go, __ATOMIC_SEQ_CST)) sched_yield();
  for (int index = 0; index < BLOCKS; index++)
    if (!malloc(64)) abort();
  __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
  // Not by the end of a thread of libc's, which it is not.
  for (;;) syscall(SYS_exit, 0);
}

__attribute__((constructor)) static void start(void) {
  char *pointer = __builtin_thread_pointer();
  // Thread-local memory lies below the thread pointer, libc's description of the thread above.
  char *low = pointer - STORAGE, *lowest = low;
  // As far as it is mapped.
  unsigned char resident;
  lowest = (char *)((uintptr_t)pointer & -(uintptr_t)4096);
  while (lowest - 4096 >= low && mincore(lowest - 4096, 4096, &resident) == 0) lowest -= 4096;
  for (int index = 0; index < THREADS; index++) {
    char *memory = mmap(NULL, STORAGE + DESCRIPTOR + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    char *own = memory + STORAGE;
    memcpy(own - (pointer - lowest), lowest, (size_t)(pointer - lowest));
    memcpy(own, pointer, 2304);
    // tcb and self.
    ((void **)own)[0] = own;
    ((void **)own)[2] = own;
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;
    if (clone(run, memory + STORAGE + DESCRIPTOR + STACK - 64, flags, &done[index], NULL, own, NULL) < 0) abort();
  }
  while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < THREADS) sched_yield();
  __atomic_store_n(&go, 1, __ATOMIC_SEQ_CST);
  for (int index = 0; index < THREADS; index++)
    while (!__atomic_load_n(&done[index], __ATOMIC_SEQ_CST)) sched_yield();
}
