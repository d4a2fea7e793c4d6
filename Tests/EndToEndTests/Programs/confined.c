// A program that puts itself where little is allowed, or leaves what it was started in.
//
//   confined warm         a seccomp filter kills it at any system call but read, write and exit_group; before that, it did once what it
//                         does from then on
//   confined growing      a filter kills it at any but those, those of libc's malloc, and those that the agent makes as the heap grows
//   confined daemon       forks, leads a session, forks again; the last child works
//   confined storage COUNT LIBRARY…  takes COUNT keys of thread-specific data and loads libraries with thread-local variables first
//
// Check point 0 is before the confinement, 1 after the work that follows it.

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "record.h"

SITE_BOUNDS(before_site)
SITE_BOUNDS(after_site)
SITE(before_site) static void *before_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(after_site) static void *after_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }

enum { COUNT = 4000 };
static struct record_block blocks[COUNT];

static void allocate(struct record_block *block, uint32_t site, size_t size) {
  void *p = site == 0 ? before_site(size) : after_site(size);
  if (p == NULL) record_fail("an allocation failed");
  memset(p, 1, size);
  *block = (struct record_block){(uint64_t)p, size, 0, site, record_thread()};
}

// The same sizes each time, so that the second time libc's malloc needs nothing of the kernel.
static void work(uint32_t site, size_t largest) {
  for (size_t i = 0; i < COUNT; i++) {
    free((void *)blocks[i].address);
    blocks[i].address = 0;
  }
  for (size_t i = 0; i < COUNT; i++) allocate(&blocks[i], site, i * 61 % largest);
}

static void allow_only(const int *calls, size_t count) {
  struct sock_filter filter[64] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
  };
  size_t used = 1;
  for (size_t i = 0; i < count; i++) {
    filter[used++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
    filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  }
  filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  struct sock_fprog program = {(unsigned short)used, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    record_fail("the filter was refused");
}

static void become_daemon(void) {
  pid_t child = fork();
  if (child < 0) record_fail("fork failed");
  if (child > 0) _exit(0);
  if (setsid() < 0) record_fail("setsid failed");
  child = fork();
  if (child < 0) record_fail("fork failed");
  if (child > 0) _exit(0);
  if (chdir("/") != 0) record_fail("chdir failed");
  record_say("process %d\n", (int)getpid());
}

static void *in_thread(void *argument) {
  work(1, 3000);
  return argument;
}

int main(int argc, char **argv) {
  if (argc < 2) record_fail("usage: confined warm|growing|daemon|storage [COUNT [LIBRARY…]]");
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_before_site, __stop_site_before_site, "malloc");
  record_site(sites, 1, __start_site_after_site, __stop_site_after_site, "malloc");
  close(sites);
  if (strcmp(argv[1], "storage") == 0) {
    for (int i = 0; i < atoi(argv[2]); i++) {
      pthread_key_t key;
      // There is an end to them, which the agent's own key brings nearer by one.
      if (pthread_key_create(&key, NULL) != 0) break;
      if (pthread_setspecific(key, &blocks) != 0) record_fail("no memory for thread-specific data");
    }
    for (int i = 3; i < argc; i++)
      if (dlopen(argv[i], RTLD_NOW) == NULL) record_fail(dlerror());
  }
  work(0, 3000);
  record_checkpoint(0, blocks, COUNT);
  int file = record_open_numbered(1, "blocks");
  if (strcmp(argv[1], "warm") == 0) {
    work(1, 3000);
    work(1, 3000);
    static const int calls[] = {SYS_read, SYS_write, SYS_exit_group, SYS_gettid};
    allow_only(calls, sizeof calls / sizeof calls[0]);
    for (int round = 0; round < 100; round++) work(1, 3000);
  } else if (strcmp(argv[1], "growing") == 0) {
    static const int calls[] = {SYS_read,   SYS_write,    SYS_exit_group, SYS_gettid, SYS_brk,    SYS_mmap,
                                SYS_munmap, SYS_mprotect, SYS_madvise,    SYS_mremap, SYS_futex, SYS_mincore};
    allow_only(calls, sizeof calls / sizeof calls[0]);
    // Some 400 MB: several arenas.
    work(1, 200000);
  } else if (strcmp(argv[1], "daemon") == 0) {
    become_daemon();
    work(1, 3000);
  } else {
    pthread_t helper;
    if (pthread_create(&helper, NULL, in_thread, NULL) != 0) record_fail("no thread");
    pthread_join(helper, NULL);
  }
  record_blocks(file, blocks, COUNT);
  record_wait(1);
  return 0;
}
