// A library to be preloaded: its constructor starts threads before anybody in the process has called malloc. The first
// of them calls it, and so starts the agent; it is held up in the middle of that, until each of the others has allocated
// its blocks.
//
// Threads are made by clone, with a copy of the main thread's thread-local memory: pthread_create would itself
// allocate. libc doesn't know of such threads and takes no lock in malloc, so the others allocate one after another.
// The first one is held up where the agent asks for the user's id: a filter makes a signal of that call.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { OTHERS = 7, BLOCKS = 50, STORAGE = 64 << 10, DESCRIPTOR = 4096, STACK = 256 << 10 };

static int is_starting, others_done, first_done;
static uid_t user;

static void wait_for(int *word, int value) {
  while (__atomic_load_n(word, __ATOMIC_SEQ_CST) < value) sched_yield();
}

static void asked_for_user(int signal, siginfo_t *information, void *context) {
  (void)signal, (void)information;
  __atomic_store_n(&is_starting, 1, __ATOMIC_SEQ_CST);
  wait_for(&others_done, OTHERS);
  ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = user;
}

static void allocate_all(void) {
  for (int index = 0; index < BLOCKS; index++)
    if (!malloc(64)) abort();
}

// Not by the end of a thread of libc's, which it is not.
static int end(void) {
  syscall(SYS_exit, 0);
  return 0;
}

static int run_first(void *argument) {
  (void)argument;
  allocate_all();
  __atomic_store_n(&first_done, 1, __ATOMIC_SEQ_CST);
  return end();
}

static int run_other(void *turn) {
  wait_for(&is_starting, 1);
  wait_for(&others_done, (int)(intptr_t)turn);
  allocate_all();
  __atomic_add_fetch(&others_done, 1, __ATOMIC_SEQ_CST);
  return end();
}

static void start_thread(int (*run)(void *), intptr_t turn) {
  char *pointer = __builtin_thread_pointer();
  // Thread-local memory lies below the thread pointer, libc's description of the thread above; as far as it is mapped.
  char *lowest = (char *)((uintptr_t)pointer & -(uintptr_t)4096);
  unsigned char resident;
  while (lowest - 4096 >= pointer - STORAGE && mincore(lowest - 4096, 4096, &resident) == 0) lowest -= 4096;
  char *memory = mmap(NULL, STORAGE + DESCRIPTOR + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  char *own = memory + STORAGE;
  memcpy(own - (pointer - lowest), lowest, (size_t)(pointer - lowest));
  memcpy(own, pointer, 2304);
  // The description's words that say where it is.
  ((void **)own)[0] = own;
  ((void **)own)[2] = own;
  int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS;
  if (clone(run, memory + STORAGE + DESCRIPTOR + STACK - 64, flags, (void *)turn, NULL, own, NULL) < 0) abort();
}

__attribute__((constructor)) static void start(void) {
  user = getuid();
  struct sigaction action = {.sa_sigaction = asked_for_user, .sa_flags = SA_SIGINFO};
  sigaction(SIGSYS, &action, NULL);
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) abort();
  for (int index = 0; index < OTHERS; index++) start_thread(run_other, index);
  start_thread(run_first, 0);
  wait_for(&first_done, 1);
}
