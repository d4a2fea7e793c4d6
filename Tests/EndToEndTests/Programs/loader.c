// Loads a library, lets it allocate, unloads it, loads another, which may get the same addresses, again and again.
//
//   loader FIRST SECOND ROUNDS     paths of the two builds of plugin.c (functions first_plugin, second_plugin)
//
// Site 0 of the record is FIRST, site 1 SECOND.

#include <dlfcn.h>

#include "record.h"

static struct record_block blocks[4096];

int main(int argc, char **argv) {
  if (argc != 4) record_fail("usage: loader FIRST SECOND ROUNDS");
  const char *names[] = {"first_plugin", "second_plugin"};
  int rounds = atoi(argv[3]);
  size_t count = 0;
  for (int round = 0; round < rounds; round++) {
    int which = round % 2;
    void *library = dlopen(argv[1 + which], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) record_fail(dlerror());
    void *(*allocate)(size_t);
    *(void **)&allocate = dlsym(library, names[which]);
    if (allocate == NULL) record_fail(dlerror());
    for (size_t i = 0; i < 50; i++) {
      size_t size = 1000 + (size_t)round * 50 + i;
      blocks[count++] = (struct record_block){(uint64_t)allocate(size), size, 0, (uint32_t)which, record_thread()};
    }
    if (round < 2) record_say("%s at %p\n", names[which], *(void **)&allocate);
    dlclose(library);
    // Which library a block is from is told apart by time, and the index counts time in ticks of about 15 ms.
    usleep(40000);
  }
  record_checkpoint(1, blocks, count);
  return 0;
}
