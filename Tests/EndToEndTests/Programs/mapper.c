// Mappings at the edges, told as places.c tells its addresses: "NAME ADDRESS", a line each, then "ready".
//
//   arenas    blocks of each kind of glibc's arenas, and memory got by brk
//   overflow  more mappings than the agent's table holds; told to go on, unmaps them and maps anew
//   signals   threads map and unmap under a timer whose handler does so too, in fork's and vfork's children as well

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEEP(p) __asm__ volatile("" : : "r"(p) : "memory")
#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "mapper: line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
      _exit(1); \
    } \
  } while (0)
enum { PAGE = 4096, READ_WRITE = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS };

static void say(const char *name, const void *address) { printf("%s %llu\n", name, (unsigned long long)(uintptr_t)address); }

// Until a line comes, or the end of the input.
static void pause_for_test(void) {
  puts("ready");
  char byte;
  while (read(0, &byte, 1) > 0 && byte != '\n') {}
}

__attribute__((noinline)) static void *map_for_test(size_t size) {
  void *mapped = mmap(NULL, size, READ_WRITE, PRIVATE, -1, 0);
  CHECK(mapped != MAP_FAILED);
  KEEP(mapped);
  return mapped;
}

// MARK: arenas

__attribute__((noinline)) static char *break_for_test(size_t size) {
  char *old = sbrk(0);
  CHECK(brk(old + size) == 0);
  KEEP(old);
  return old;
}

static void *allocate(void *argument) {
  (void)argument;
  return malloc(1000);
}

static void arenas(void) {
  say("main", malloc(1000));
  say("single", malloc(1 << 20));
  // glibc gives a thread an arena of its own while another thread is there.
  pthread_t thread;
  void *block;
  pthread_create(&thread, NULL, allocate, NULL);
  pthread_join(thread, &block);
  say("thread", block);
  char *old = break_for_test(4 * PAGE);
  say("break", old + 9);
  CHECK(brk(old + 3 * PAGE) == 0);
  say("given back", old + 3 * PAGE + 9);
  pause_for_test();
}

// MARK: overflow

static void overflow(void) {
  const size_t count = 70000;
  char *range = mmap(NULL, count * PAGE, PROT_NONE, PRIVATE, -1, 0);
  CHECK(range != MAP_FAILED && munmap(range, count * PAGE) == 0);
  say("block", malloc(100));
  for (size_t i = 0; i < count; i++) {
    // To the kernel they are one, as they are alike.
    void *page = mmap(range + i * PAGE, PAGE, PROT_READ, PRIVATE | MAP_FIXED, -1, 0);
    CHECK(page == range + i * PAGE);
  }
  say("first", range);
  say("last", range + (count - 1) * PAGE);
  pause_for_test();
  CHECK(munmap(range, count * PAGE) == 0);
  say("after", map_for_test(3 * PAGE));
  pause_for_test();
}

// MARK: signals

static volatile sig_atomic_t handled;

static void handler(int number) {
  (void)number;
  int saved = errno;
  char *mapped = mmap(NULL, 2 * PAGE, READ_WRITE, PRIVATE, -1, 0);
  CHECK(mapped != MAP_FAILED);
  mapped[0] = 1;
  CHECK(munmap(mapped, PAGE) == 0 && munmap(mapped + PAGE, PAGE) == 0);
  handled++;
  errno = saved;
}

static void *work(void *argument) {
  unsigned seed = (unsigned)(uintptr_t)argument;
  for (int i = 0; i < 60000; i++) {
    void *blocks[8];
    for (int j = 0; j < 8; j++) blocks[j] = malloc((size_t)rand_r(&seed) % 3000);
    for (int j = 0; j < 8; j++) free(blocks[j]);
    if (i % 32 != 0) continue;
    size_t size = (1 + (size_t)rand_r(&seed) % 8) * PAGE;
    char *mapped = mmap(NULL, size, READ_WRITE, PRIVATE, -1, 0);
    CHECK(mapped != MAP_FAILED);
    mapped = mremap(mapped, size, size * 2, MREMAP_MAYMOVE);
    CHECK(mapped != MAP_FAILED);
    CHECK(munmap(mapped + size, size) == 0 && munmap(mapped, size) == 0);
  }
  return NULL;
}

static void set_timer(suseconds_t microseconds) {
  struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void signals(void) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  set_timer(300);
  pthread_t threads[4];
  for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 30; i++) {
    int status;
    pid_t child = vfork();
    if (child == 0) {
      void *mapped = mmap(NULL, PAGE, READ_WRITE, PRIVATE, -1, 0);
      _exit(mapped == MAP_FAILED || munmap(mapped, PAGE) != 0);
    }
    while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
    CHECK(status == 0);
    child = fork();
    if (child == 0) {
      char *mapped = map_for_test(PAGE);
      mapped[0] = 1;
      free(malloc(100));
      _exit(munmap(mapped, PAGE) != 0);
    }
    while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
    CHECK(status == 0);
  }
  set_timer(0);
  CHECK(handled > 0);
  // What fails, fails as without the agent.
  errno = 0;
  CHECK(munmap((void *)1, PAGE) != 0 && errno == EINVAL);
  errno = 0;
  CHECK(mmap(NULL, 0, READ_WRITE, PRIVATE, -1, 0) == MAP_FAILED && errno == EINVAL);
  errno = 0;
  CHECK(mremap((void *)PAGE, PAGE, 2 * PAGE, 0) == MAP_FAILED && errno == EFAULT);
  say("after", map_for_test(3 * PAGE));
  pause_for_test();
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc == 2 && strcmp(argv[1], "arenas") == 0) arenas();
  else if (argc == 2 && strcmp(argv[1], "overflow") == 0) overflow();
  else if (argc == 2 && strcmp(argv[1], "signals") == 0) signals();
  else return 2;
  return 0;
}
