// SPDX-License-Identifier: Apache-2.0
// Makes code that calls malloc, and names it as JIT compilers do: in /tmp/perf-PID.map. Prints the block's address.
// With "link", the file is a link to one that is named so. With "dump" and a directory, it is a jitdump there, and
// another function takes the first one's place before a second block is allocated.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef void *function(size_t);

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// linux/tools/perf/Documentation/jitdump-specification.txt
struct header {
  uint32_t magic, version, size, machine, pad, pid;
  uint64_t time, flags;
};
struct load {
  uint32_t id, size;
  uint64_t time;
  uint32_t pid, tid;
  uint64_t vma, address, length, index;
};

static void note(FILE *dump, const void *code, uint64_t index, const char *name) {
  struct load load = {.size = (uint32_t)(sizeof load + strlen(name) + 1 + 18), .time = now(), .pid = (uint32_t)getpid(),
                      .tid = (uint32_t)getpid(), .vma = (uintptr_t)code, .address = (uintptr_t)code, .length = 18,
                      .index = index};
  fwrite(&load, sizeof load, 1, dump);
  fwrite(name, strlen(name) + 1, 1, dump);
  fwrite(code, 18, 1, dump);
  fflush(dump);
}

static int write_dump(const char *directory, void *code) {
  char path[512];
  snprintf(path, sizeof path, "%s/jit-%d.dump", directory, getpid());
  FILE *dump = fopen(path, "w+");
  if (!dump) return 1;
  struct header header = {0x4A695444, 1, sizeof header, 62, 0, (uint32_t)getpid(), now(), 0};
  fwrite(&header, sizeof header, 1, dump);
  fflush(dump);
  if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(dump), 0) == MAP_FAILED) return 1;
  // More than a tick, 1/64 s, and what the kernel's coarse clock lags behind, lie between them.
  const struct timespec pause = {.tv_nsec = 200000000};
  const char *names[] = {"old_order", "new_order"};
  for (uint64_t index = 0; index < 2; index++) {
    note(dump, code, index, names[index]);
    nanosleep(&pause, NULL);
    printf("%p\n", ((function *)code)(4242 + index));
    nanosleep(&pause, NULL);
  }
  return 0;
}

int main(int argc, char **argv) {
  unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) return 1;
  // push %rbp; mov %rsp,%rbp; movabs $malloc,%rax; call *%rax; pop %rbp; ret
  function *allocate = malloc;
  unsigned char *end = code;
  memcpy(end, "\x55\x48\x89\xe5\x48\xb8", 6);
  memcpy(end + 6, &allocate, 8);
  memcpy(end + 14, "\xff\xd0\x5d\xc3", 4);
  char path[64], other[80];
  snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
  snprintf(other, sizeof other, "%s.other", path);
  if (argc > 2) {
    if (write_dump(argv[2], code)) return 1;
  } else {
    FILE *map = fopen(argc > 1 ? other : path, "w");
    if (!map) return 1;
    fprintf(map, "no line\n%lx 12 LazyCompile:~make_order shop.js:12\n", (unsigned long)code);
    fclose(map);
    if (argc > 1 && symlink(other, path)) return 1;
    printf("%p\n", ((function *)code)(4242));
  }
  puts("ready");
  fflush(stdout);
  getchar();
  unlink(path);
  unlink(other);
}
