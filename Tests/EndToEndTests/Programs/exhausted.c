// A program that has no file descriptors left before anything of it allocates, and then does its work.
//
// With KEEP_DESCRIPTORS defined it does its work only.
// DT_PREINIT_ARRAY runs before the constructors of every library, the index's own among them.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#ifndef KEEP_DESCRIPTORS
static void take_descriptors(int count, char **arguments, char **environment) {
  (void)count, (void)arguments, (void)environment;
  struct rlimit none = {3, 3};
  if (setrlimit(RLIMIT_NOFILE, &none) != 0) _Exit(97);
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **, char **) = take_descriptors;
#endif

int main(void) {
  uint64_t sum = 0;
  for (size_t i = 1; i < 20000; i++) {
    unsigned char *p = malloc(i % 5000 + 1);
    if (p == NULL) return 1;
    memset(p, (int)i, i % 5000 + 1);
    sum = sum * 31 + p[i % 5000];
    free(p);
  }
  printf("%llu\n", (unsigned long long)sum);
  return 0;
}
