// 59,049 call stacks, and then as many others three times while there is too little address space for what finds them,
// and again when there is enough:
//
//   unlinked KIB     how much address space is left, in KiB
//
// Check point 0: behind the stacks of which some may not be found. Check point 1: behind all of them once more. Nothing
// of it lives then.

#include <sys/resource.h>

#include "record.h"

static void *volatile sink;
static void left(unsigned level);
static void middle(unsigned level);
static void right(unsigned level);

// What comes behind the calls keeps the frame.
#define STEP(name)                                            \
  __attribute__((noinline)) static void name(unsigned level) { \
    if (level == 0) {                                         \
      sink = malloc(24);                                      \
      free(sink);                                             \
    } else {                                                  \
      left(level - 1);                                        \
      middle(level - 1);                                      \
      right(level - 1);                                       \
    }                                                         \
    __asm__ volatile("");                                     \
  }
STEP(left)
STEP(middle)
STEP(right)

// Bytes.
static unsigned long address_space(void) {
  char line[64] = "";
  int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, line, sizeof line - 1) <= 0) record_fail("cannot read statm");
  close(file);
  return strtoul(line, NULL, 10) * 4096;
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: unlinked KIB");
  close(record_open("sites"));
  left(10);
  struct rlimit before, limit;
  getrlimit(RLIMIT_AS, &before);
  limit = before;
  limit.rlim_cur = address_space() + strtoul(argv[1], NULL, 10) * 1024;
  setrlimit(RLIMIT_AS, &limit);
  // One call, so that its stacks are the same each time.
  for (volatile int i = 0; i < 4; i++) {
    if (i == 3) {
      setrlimit(RLIMIT_AS, &before);
      record_checkpoint(0, NULL, 0);
    }
    right(10);
  }
  record_checkpoint(1, NULL, 0);
  return 0;
}
