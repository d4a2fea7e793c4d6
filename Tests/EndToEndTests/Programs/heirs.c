// Children of fork that go on with what they inherited, while other threads of their parent allocate.
//
//   heirs WAY THREADS CHILDREN
//
// WAY: fork; _Fork; signal: a timer's handler calls fork, wherever the main thread is; or handler: it calls _Fork.
//
// - Every thread allocates, resizes and frees in a table of its own. An entry is marked before the call and unmarked after it, so
//   that a child, which finds the tables as they were, knows which calls had not returned.
// - A child writes what it holds to PID.blocks, and what it may hold, by calls that had not returned, to PID.maybe, and exits. Each
//   third does so at once; each third works on first, in two threads; each third forks a child of its own first.
// - A child of _Fork may not allocate where there were other threads, for libc leaves their locks as they were: it always exits at once.
//   So does fork itself not end if it interrupts malloc: signal is for no threads.
// - Check point 0: before the threads work; 1: after they have ended.

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "record.h"

SITE_BOUNDS(first_site)
SITE_BOUNDS(second_site)
SITE_BOUNDS(resize_site)
SITE(first_site) static void *first_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(second_site) static void *second_site(size_t size) { void *p = calloc(1, size); KEEP(p); return p; }
SITE(resize_site) static void *resize_site(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }

enum { TABLE = 2000, LIMIT = 128, IN_CALL = 1u << 31 };

// `alignment` is the new size while a call is under way.
typedef struct record_block entry;
static entry *tables[LIMIT];
static int table_count;
static atomic_int stopping, running;
static pthread_barrier_t barrier;
static pid_t parent;

static uint64_t next_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

static void mark(entry *block, size_t size) {
  block->alignment = size;
  block->site |= IN_CALL;
  atomic_signal_fence(memory_order_seq_cst);
}
static void set(entry *block, void *p, size_t size, uint32_t site) {
  atomic_signal_fence(memory_order_seq_cst);
  block->address = (uint64_t)p;
  block->size = size;
  block->alignment = 0;
  block->thread = record_thread();
  atomic_signal_fence(memory_order_seq_cst);
  block->site = site;
}

// Entries that a thread which did not come along was busy with are left as they are.
static void work(entry *table, uint64_t *random, int operations) {
  for (int i = 0; i < operations; i++) {
    entry *block = &table[next_random(random) % TABLE];
    if (block->site & IN_CALL) continue;
    size_t size = next_random(random) % (next_random(random) % 64 ? 400 : 40000) + 1;
    if (block->address == 0) {
      mark(block, size);
      bool first = next_random(random) & 1;
      void *p = first ? first_site(size) : second_site(size);
      if (p == NULL) record_fail("no memory");
      set(block, p, size, first ? 0 : 1);
    } else if (next_random(random) % 4 == 0) {
      mark(block, size);
      void *p = resize_site((void *)block->address, size);
      if (p == NULL) record_fail("no memory");
      set(block, p, size, 2);
    } else {
      mark(block, 0);
      free((void *)block->address);
      set(block, NULL, 0, 0);
    }
  }
}

static void *run(void *argument) {
  entry *table = argument;
  uint64_t random = (uint64_t)(uintptr_t)argument | 1;
  pthread_barrier_wait(&barrier);
  while (!atomic_load(&stopping)) {
    work(table, &random, 200);
    sched_yield();
  }
  atomic_fetch_sub(&running, 1);
  return NULL;
}

static void write_record(void) {
  int blocks = record_open_numbered(getpid(), "blocks");
  int maybe = record_open_numbered(getpid(), "maybe");
  for (int t = 0; t < table_count; t++) {
    for (int i = 0; i < TABLE; i++) {
      entry block = tables[t][i];
      if (block.site & IN_CALL) {
        entry new = {0, block.alignment, 0, 0, 0};
        if (block.address != 0) record_write(maybe, &block, sizeof block);
        if (new.size != 0) record_write(maybe, &new, sizeof new);
      } else {
        record_blocks(blocks, &block, 1);
      }
    }
  }
  close(blocks);
  close(maybe);
}

static int wait_for(pid_t child) {
  int status;
  pid_t ended;
  while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR) {}
  if (ended != child || status != 0) record_say("child %d ended with %x\n", (int)child, (unsigned)status);
  return ended == child && status == 0;
}

static void *help(void *argument) {
  uint64_t random = 77;
  work(argument, &random, 5000);
  return NULL;
}

static _Noreturn void live(int number) {
  uint64_t random = (uint64_t)number * 7919 + 1;
  if (number % 3 == 1) {
    pthread_t helper;
    if (pthread_create(&helper, NULL, help, tables[table_count - 1]) != 0) record_fail("no thread");
    if (table_count > 1) work(tables[0], &random, 5000);
    pthread_join(helper, NULL);
    for (int t = 0; t < table_count; t++) work(tables[t], &random, 2000);
  } else if (number % 3 == 2) {
    pid_t child = fork();
    if (child == 0) {
      work(tables[0], &random, 1000);
      write_record();
      _exit(0);
    }
    if (!wait_for(child)) record_fail("the grandchild failed");
    work(tables[0], &random, 5000);
  }
  write_record();
  _exit(0);
}

// MARK: the ways

// The handler runs on whichever thread the kernel chooses, on several at once too.
static atomic_int started, finished, became;
static int wanted, exits;
static pid_t children[4096];
static void handle(int number) {
  (void)number;
  if (atomic_load(&became) != 0) return;
  int place = atomic_fetch_add(&started, 1);
  if (place >= wanted) return;
  int error = errno;
  pid_t child = exits ? _Fork() : fork();
  if (child < 0) record_fail("fork failed");
  if (child == 0 && exits) live(0);
  if (child == 0) became = 1 + place;
  children[place] = child;
  atomic_fetch_add(&finished, 1);
  errno = error;
}

int main(int argc, char **argv) {
  if (argc != 4) record_fail("usage: heirs WAY THREADS CHILDREN");
  table_count = atoi(argv[2]) + 1;
  int count = atoi(argv[3]);
  if (table_count > LIMIT || count > 4096) record_fail("too many");
  parent = getpid();
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_first_site, __stop_site_first_site, "malloc");
  record_site(sites, 1, __start_site_second_site, __stop_site_second_site, "calloc");
  record_site(sites, 2, __start_site_resize_site, __stop_site_resize_site, "realloc");
  close(sites);
  for (int t = 0; t < table_count; t++) tables[t] = record_memory(TABLE * sizeof(entry));
  pthread_t threads[LIMIT];
  running = table_count - 1;
  pthread_barrier_init(&barrier, NULL, (unsigned)table_count);
  for (int t = 1; t < table_count; t++)
    if (pthread_create(&threads[t], NULL, run, tables[t]) != 0) record_fail("no thread");
  uint64_t random = 12345;
  // Blocks of which there are many, so that a copy takes its time.
  work(tables[0], &random, 20000);
  record_checkpoint(0, tables[0], 0);
  pthread_barrier_wait(&barrier);
  int failed = 0;
  exits = strcmp(argv[1], "handler") == 0;
  if (exits || strcmp(argv[1], "signal") == 0) {
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    wanted = count;
    struct itimerval interval = {{0, 3000}, {0, 3000}};
    setitimer(ITIMER_REAL, &interval, NULL);
    while (finished < count && became == 0) work(tables[0], &random, 20);
    if (became != 0) live(became % 2 ? 0 : 1);
    struct itimerval none = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &none, NULL);
    for (int i = 0; i < count; i++) failed += !wait_for(children[i]);
  } else {
    for (int i = 0; i < count; i++) {
      work(tables[0], &random, 500);
      bool direct = strcmp(argv[1], "_Fork") == 0;
      pid_t child = direct ? _Fork() : fork();
      if (child == 0) live(direct ? 0 : i);
      if (child < 0) record_fail("fork failed");
      failed += !wait_for(child);
    }
  }
  atomic_store(&stopping, 1);
  for (int t = 1; t < table_count; t++) pthread_join(threads[t], NULL);
  record_say("children %d failed %d\n", count, failed);
  int file = record_open_numbered(1, "blocks");
  for (int t = 0; t < table_count; t++) record_blocks(file, tables[t], TABLE);
  close(file);
  record_wait(1);
  return 0;
}
