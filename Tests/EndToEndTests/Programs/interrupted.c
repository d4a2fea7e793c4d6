// A program whose signal handler makes children at any moment, also in the middle of an allocation.
//
//   interrupted fork|_Fork|clone CHILDREN     _Fork and a raw clone run no atfork handlers
//
// The child returns from the handler, finishes what was interrupted, allocates and frees on, and leaves: nothing of it may
// show in the parent's index, at whatever instruction it came to be. There is one thread, so no lock is held by another.

#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "record.h"

SITE_BOUNDS(malloc_site)
SITE_BOUNDS(realloc_site)
SITE(malloc_site) static void *malloc_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(realloc_site) static void *realloc_site(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }

enum { table_size = 4000 };
static struct record_block blocks[table_size];
static uint32_t thread;
static volatile sig_atomic_t is_child;
static volatile int started, wanted;
static char way;

static void on_signal(int number) {
  (void)number;
  if (is_child || started >= wanted) return;
  int before = errno;
  pid_t child = way == 'f' ? fork() : way == '_' ? _Fork() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) is_child = 1;
  else if (child > 0) started++;
  errno = before;
}

static void operate(uint64_t *random) {
  *random ^= *random << 13;
  *random ^= *random >> 7;
  *random ^= *random << 17;
  struct record_block *block = &blocks[*random % table_size];
  size_t size = (*random >> 20) % ((*random >> 40) % 50 == 0 ? 100000 : 600);
  if (block->address == 0) {
    void *p = malloc_site(size);
    *block = (struct record_block){(uint64_t)p, size, 0, 0, thread};
  } else if ((*random >> 32) % 3 == 0) {
    if (size == 0) size = 1;
    void *p = realloc_site((void *)block->address, size);
    *block = (struct record_block){(uint64_t)p, size, 0, 1, thread};
  } else {
    free((void *)block->address);
    block->address = 0;
  }
}

int main(int argc, char **argv) {
  if (argc != 3) record_fail("usage: interrupted fork|_Fork|clone CHILDREN");
  way = argv[1][0];
  wanted = atoi(argv[2]);
  thread = record_thread();
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_malloc_site, __stop_site_malloc_site, "malloc");
  record_site(sites, 1, __start_site_realloc_site, __stop_site_realloc_site, "realloc");
  close(sites);
  record_checkpoint(0, blocks, 0);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval timer = {{0, 700}, {0, 700}};
  setitimer(ITIMER_REAL, &timer, NULL);

  uint64_t random = 0x9E3779B97F4A7C15ull;
  int ended = 0, failed = 0;
  while (started < wanted) {
    for (int i = 0; i < 500 && !is_child; i++) operate(&random);
    if (is_child) {
      for (int i = 0; i < 2000; i++) operate(&random);
      _exit(0);
    }
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
      ended++;
      if (status != 0 && failed++ == 0) record_say("child ended with status %x\n", status);
    }
  }
  timer = (struct itimerval){{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &timer, NULL);
  while (ended < started) {
    int status;
    if (waitpid(-1, &status, 0) <= 0) continue;
    ended++;
    if (status != 0 && failed++ == 0) record_say("child ended with status %x\n", status);
  }
  record_say("children %d failed %d\n", ended, failed);
  record_checkpoint(1, blocks, table_size);
  return failed == 0 ? 0 : 1;
}
