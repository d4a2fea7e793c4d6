// Opens a library with pools (pool_plugin.c) when it runs already, closes it, and opens it again:
//
//   pool_loader LIBRARY
//
// It prints "NAME ADDRESS SIZE" a line, as pools.cpp does, then "ready", and waits for the end of its standard input.

#include <dlfcn.h>

#include "record.h"

static struct plugin {
  void *library;
  void *(*make)(void), *(*get)(void *, size_t);
  void (*clear)(void *), (*destroy)(void *);
} plugin;

static void open_plugin(const char *path) {
  plugin.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (plugin.library == NULL) record_fail(dlerror());
  *(void **)&plugin.make = dlsym(plugin.library, "plugin_pool_make");
  *(void **)&plugin.get = dlsym(plugin.library, "plugin_pool_get");
  *(void **)&plugin.clear = dlsym(plugin.library, "plugin_pool_clear");
  *(void **)&plugin.destroy = dlsym(plugin.library, "plugin_pool_destroy");
}

static void say(const char *what, const void *address, size_t size) {
  record_say("%s %llu %zu\n", what, (unsigned long long)(uintptr_t)address, size);
}

// Takes blocks of many sizes from `pool`, and says where they are.
static void fill(void *pool, const char *what) {
  for (size_t i = 0; i < 250; i++) {
    size_t size = i * 37 % 120 + 1;
    say(what, plugin.get(pool, size), size);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: pool_loader LIBRARY");
  for (int round = 0; round < 3; round++) {
    open_plugin(argv[1]);
    void *pool = plugin.make();
    for (size_t size = 1; size < 100; size++) plugin.get(pool, size);
    plugin.destroy(pool);
    dlclose(plugin.library);
  }
  open_plugin(argv[1]);
  void *cleared = plugin.make();
  fill(cleared, "gone");
  plugin.clear(cleared);
  fill(plugin.make(), "live");
  void *chunk = malloc(5000);
  say("chunk", chunk, 5000);
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return chunk == NULL;
}
