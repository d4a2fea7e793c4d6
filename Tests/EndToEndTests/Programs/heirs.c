// Children of fork that go on with what they inherited, while other threads of their parent allocate.
//
//   heirs WAY THREADS CHILDREN
//
// WAY: fork; _Fork; signal: a timer's handler calls fork, wherever the main thread is; or handler: it calls _Fork.
//
// - A child finds the tables (tables.h) as they were.
// - A child writes what it holds to PID.blocks, and what it may hold, by calls that had not returned, to PID.maybe, and exits. Each
//   third does so at once; each third works on first, in two threads; each third forks a child of its own first.
// - A child of _Fork may not allocate where there were other threads, for libc leaves their locks as they were: it always exits at once.
//   So does fork itself not end if it interrupts malloc: signal is for no threads.
// - Check point 0: before the threads work; 1: after they have ended.

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tables.h"

static atomic_int stopping, running;
static pthread_barrier_t barrier;

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
  record_table_sites();
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
