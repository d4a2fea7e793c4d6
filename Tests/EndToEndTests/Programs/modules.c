// Loads libraries and has them allocate, as lines of its input say. It answers each line with addresses of blocks. In a path, %XX
// is the byte XX.
//
//   own             a block of its own function FUNCTION
//   load PATH       a block of the library, which stays
//   memory PATH     a block of a copy of the library that has no name, which stays
//   turns N PATH PATH   loads the two N times in turns, each once closed before the next; a block of each
//   links N PATH    the same with N names of one library; a block of the last
//   directory PATH  changes its directory; 0
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef FUNCTION
#define FUNCTION own_block
#endif

__attribute__((noinline)) static void *FUNCTION(size_t size) {
  void *block = malloc(size);
  __asm__ volatile("" : "+r"(block)::"memory");
  return block;
}

static void *load(const char *path, void **block, size_t size) {
  void *library = dlopen(path, RTLD_NOW);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  void *(*make)(size_t) = (void *(*)(size_t))dlsym(library, "make");
  *block = make(size);
  return library;
}

static char *decode(char *text) {
  char *out = text;
  for (char *in = text; in && *in; in++) {
    unsigned byte;
    if (*in == '%' && sscanf(in + 1, "%2x", &byte) == 1) {
      *out++ = (char)byte;
      in += 2;
    } else {
      *out++ = *in;
    }
  }
  if (out) *out = 0;
  return text;
}

static int copy_to_memory(const char *path) {
  int from = open(path, O_RDONLY), to = memfd_create("made", MFD_CLOEXEC);
  char bytes[1 << 16];
  ssize_t count;
  while ((count = read(from, bytes, sizeof bytes)) > 0)
    if (write(to, bytes, (size_t)count) != count) exit(1);
  close(from);
  return to;
}

int main(void) {
  char line[4096];
  void *blocks[2] = {0, 0};
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    char *command = strtok(line, " "), *first = decode(strtok(NULL, " "));
    char *second = decode(strtok(NULL, " ")), *third = decode(strtok(NULL, " "));
    blocks[0] = blocks[1] = NULL;
    if (!strcmp(command, "own")) blocks[0] = FUNCTION(100);
    if (!strcmp(command, "load")) load(first, blocks, 100);
    if (!strcmp(command, "directory") && chdir(first)) return 1;
    if (!strcmp(command, "memory")) {
      char path[64];
      int descriptor = copy_to_memory(first);
      snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
      load(path, blocks, 100);
      close(descriptor);
    }
    if (!strcmp(command, "turns")) {
      for (int round = 0; round < atoi(first) * 2; round++) {
        free(blocks[round % 2]);
        dlclose(load(round % 2 ? third : second, &blocks[round % 2], 100));
      }
    }
    if (!strcmp(command, "links")) {
      for (int round = 0; round < atoi(first); round++) {
        char path[4096];
        snprintf(path, sizeof path, "%s.%d", second, round);
        free(blocks[0]);
        if (link(second, path)) return 1;
        dlclose(load(path, blocks, 100));
        if (round < atoi(first) - 1) unlink(path);
      }
    }
    printf("%p %p\n", blocks[0], blocks[1]);
    fflush(stdout);
  }
  return 0;
}
