// SPDX-License-Identifier: Apache-2.0
// mapping anonymous|file [OPERATIONS]: maps a page, with nothing behind it or of this program's file, and unmaps it; an
// operation is both. The page is not touched: what the kernel does for that would hide what the calls themselves take.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

static void batch(uint64_t operations, void *state) {
  int file = *(int *)state;
  int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
  for (uint64_t i = 0; i < operations; i++) munmap(escape(mmap(NULL, 4096, PROT_READ, flags, file, 0)), 4096);
}

int main(int argc, char **argv) {
  int file = -1;
  if (argc > 1 && strcmp(argv[1], "file") == 0) {
    file = open("/proc/self/exe", O_RDONLY);
    if (file < 0) {
      perror("mapping: /proc/self/exe");
      return 1;
    }
  }
  measure(count_argument(argc, argv, 2, 20000), batch, &file);
  return 0;
}
