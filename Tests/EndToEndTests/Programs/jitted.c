// SPDX-License-Identifier: Apache-2.0
// Makes code that calls malloc, and names it as JIT compilers do: in /tmp/perf-PID.map. Prints the block's address.
// With an argument, the file is a link to one that is named so.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
  (void)argv;
  unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) return 1;
  // push %rbp; mov %rsp,%rbp; movabs $malloc,%rax; call *%rax; pop %rbp; ret
  void *(*allocate)(size_t) = malloc;
  unsigned char *end = code;
  memcpy(end, "\x55\x48\x89\xe5\x48\xb8", 6);
  memcpy(end + 6, &allocate, 8);
  memcpy(end + 14, "\xff\xd0\x5d\xc3", 4);
  char path[64], other[80];
  snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
  snprintf(other, sizeof other, "%s.other", path);
  FILE *map = fopen(argc > 1 ? other : path, "w");
  if (!map) return 1;
  fprintf(map, "no line\n%lx 12 LazyCompile:~make_order shop.js:12\n", (unsigned long)code);
  fclose(map);
  if (argc > 1 && symlink(other, path)) return 1;
  printf("%p\nready\n", ((void *(*)(size_t))code)(4242));
  fflush(stdout);
  getchar();
  unlink(path);
  unlink(other);
}
