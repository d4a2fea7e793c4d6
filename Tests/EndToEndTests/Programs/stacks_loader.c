// Loads and unloads libraries that take the same addresses, and allocates beneath a frame of each.
//
//   stacks_loader ROUNDS quietly|plainly LIBRARY...      builds of stacks_library.c
//
// `quietly`: every other unloading is one that nobody calls dlclose for by name, as libc's own are.

#include <dlfcn.h>
#include <pthread.h>

#include "stacks.h"

__attribute__((noinline)) static void beneath(int depth) {
  if (depth > 0) beneath(depth - 1);
  else STACKS_HERE(24);
  STACKS_BARRIER;
}

// The library's frame lies elsewhere each time, so what was learned of it last time is asked for again.
__attribute__((noinline)) static void above(int depth, void (*through)(void (*)(int), int)) {
  if (depth > 0) above(depth - 1, through);
  else through(beneath, 2);
  STACKS_BARRIER;
}

int main(int count, char **arguments) {
  if (count < 4) return 98;
  int rounds = atoi(arguments[1]), libraries = count - 3, again = 0;
  // What libc itself calls, and a preloaded dlclose does not see.
  int (*closes[2])(void *) = {dlclose, dlclose};
  if (strcmp(arguments[2], "quietly") == 0) {
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    *(void **)&closes[1] = dlsym(libc, "dlclose");
  }
  void *last = NULL;
  for (int i = 0; i < rounds; i++) {
    void *library = dlopen(arguments[3 + i % libraries], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) stacks_fail(dlerror());
    void (*through)(void (*)(int), int);
    *(void **)&through = dlsym(library, "through");
    again += *(void **)&through == last;
    last = *(void **)&through;
    for (int depth = 0; depth < 10; depth++) above(depth, through);
    closes[i % 2](library);
    // Readers tell the libraries apart by time, in ticks of about 15 ms.
    usleep(35000);
  }
  if (again < rounds / 2) fprintf(stderr, "the libraries take different addresses: %d of %d times the same\n", again, rounds);
  return stacks_finish("loader");
}
