// Jumps out of calls of the allocator, and allocates afterwards: left_calls HOW [thread]
// [alternate].
//
// HOW is the call that faults: on a pointer that leads nowhere, or in a heap that was overwritten.
// A handler of SIGSEGV jumps out of it by siglongjmp. Each block that is allocated afterwards is
// named on standard output, with its size.
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <new>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

static thread_local sigjmp_buf out;
static void handler(int) { siglongjmp(out, 1); }

// abort is jumped out of, too.
[[noreturn]] static void fail() { _exit(99); }

static const char *how;
static char *nowhere;
static void *volatile wild;  // in it, where no block can be
static bool is(const char *name) { return strcmp(how, name) == 0; }

// A free block of this size has a successor that is none.
static void overwrite(size_t size) {
  char *first = (char *)malloc(size), *second = (char *)malloc(size);
  free(second);
  free(first);
  // glibc keeps the link in the block, mangled.
  uintptr_t link = (uintptr_t)first >> 12 ^ (uintptr_t)(nowhere + 64);
  memcpy(first, &link, sizeof link);
  if (malloc(size) != first) fail();
}

__attribute__((noinline)) static void fault(int round) {
  size_t size = 200 + 16 * (size_t)round;
  if (is("posix_memalign")) {
    if (posix_memalign((void **)(void *)nowhere, 64, 100)) fail();
  } else if (is("realloc")) {
    if (!realloc(wild, 200)) fail();
  } else if (is("reallocarray")) {
    if (!reallocarray(wild, 10, 20)) fail();
  } else if (is("resize")) {
    // A block whose size leads out of the heap: glibc notices that, and ends the program by
    // SIGABRT.
    char *volatile block = (char *)malloc(size);
    size_t wrong = (size_t)1 << 40 | 1;
    memcpy(block - sizeof wrong, &wrong, sizeof wrong);
    if (!realloc(block, 5000)) fail();
  } else if (is("free")) {
    free(wild);
  } else if (is("usable")) {
    if (malloc_usable_size(wild) == 1) fail();
  } else if (is("delete")) {
    ::operator delete(wild);
  } else if (is("sized delete")) {
    ::operator delete(wild, (size_t)100);
  } else if (is("malloc")) {
    overwrite(size);
    if (!malloc(size)) fail();
  } else if (is("calloc")) {
    overwrite(size);
    // calloc does not take from there; what it calls in its place does.
    if (!memalign(16, size)) fail();
    if (!malloc(size)) fail();
  } else if (is("new")) {
    overwrite(size);
    if (!::operator new(size)) fail();
  }
  fail();
}

static void name(void *block, size_t size) {
  if (!block) fail();
  memset(block, 1, size);
  printf("%p %zu\n", block, size);
}

__attribute__((noinline)) static void allocate(int depth, size_t size) {
  volatile char room[100];
  room[0] = 1;
  if (depth > 0) {
    allocate(depth - 1, size);
  } else {
    name(malloc(size), size);
    name(calloc(1, size + 1), size + 1);
    void *aligned = nullptr;
    if (posix_memalign(&aligned, 64, size + 2)) fail();
    name(aligned, size + 2);
    name(realloc(malloc(10), size + 3), size + 3);
    name(::operator new(size + 4), size + 4);
  }
  if (room[0] != 1) fail();
}

__attribute__((noinline)) static void leave(int round) {
  if (sigsetjmp(out, 1) == 0) fault(round);
}

static std::atomic<bool> isDone;
static void *run(void *alternate) {
  if (alternate) {
    stack_t stack = {};
    stack.ss_sp = malloc(1 << 16);
    stack.ss_size = 1 << 16;
    sigaltstack(&stack, nullptr);
  }
  for (int round = 0; round < 20; round++) {
    leave(round);
    // Above the call that was left, at its place, and below.
    allocate(round % 3 * 20, 2000 + 10 * (size_t)round);
  }
  leave(20);
  name(malloc(5000), 5000);  // the last one
  isDone = true;
  return nullptr;
}
// libc would fault once more when the thread ends, where it gives back what the thread keeps.
static void *run_and_stay(void *alternate) {
  run(alternate);
  while (true) pause();
}

int main(int count, char **arguments) {
  how = arguments[1];
  bool alternate = !strcmp(arguments[count - 1], "alternate");
  nowhere = (char *)mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  wild = nowhere + 64;
  static char buffer[1 << 16];
  setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_NODEFER | (alternate ? SA_ONSTACK : 0);
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGABRT, &action, nullptr);
  if (count > 2 && !strcmp(arguments[2], "thread")) {
    pthread_t thread;
    pthread_create(&thread, nullptr, run_and_stay, alternate ? arguments : nullptr);
    while (!isDone) usleep(1000);
  } else {
    run(alternate ? arguments : nullptr);
  }
  return 0;
}
