// 16,384 call stacks in a file system without room, and again when there is some:
//
//   retried DIRECTORY     where the index lies, on a file system of its own
//
// The program fills the file system, allocates on each stack three times, and reaches check point 0. Then it makes room,
// allocates on each stack once more, and reaches check point 1. Nothing of it lives then.

#include <errno.h>

#include "call_stacks.h"
#include "record.h"

static void *volatile sink;

static void innermost(int unused) {
  (void)unused;
  sink = malloc(24);
  free(sink);
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: retried DIRECTORY");
  static char zeros[65536];
  char path[4096];
  snprintf(path, sizeof path, "%s/filler", argv[1]);
  int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) record_fail("cannot make a file");
  for (size_t size = sizeof zeros; size > 0;)
    if (write(file, zeros, size) <= 0) size /= 2;
  for (int i = 0; i < 3; i++) on_each_stack(14, 0);
  record_wait(0);
  unlink(path);
  close(file);
  // The agent asks for memory again a second after it was refused some.
  usleep(1500000);
  on_each_stack(14, 0);
  record_wait(1);
  return 0;
}
