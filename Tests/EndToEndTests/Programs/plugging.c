// Opens and closes a plugin with an allocator of its own (plugged_allocator.c) while other threads allocate, then keeps blocks of it.
//
//   plugging PLUGIN ROUNDS [alone|apart]
//
// alone: says nothing to a test, and ends. apart: in a namespace of its own, with a C library of its own.
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "record.h"

enum { KEPT = 300 };
static struct record_block kept[KEPT];
static atomic_bool stops;
static bool is_apart;

static void *churn(void *argument) {
  while (!stops) {
    void *block = malloc(64);
    KEEP(block);
    free(block);
  }
  return argument;
}

struct plugin {
  void *handle;
  void *(*get)(size_t), *(*get_clear)(size_t), *(*resize)(void *, size_t);
  void (*put)(void *);
};
static struct plugin open_plugin(const char *path) {
  struct plugin plugin;
  plugin.handle = is_apart ? dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_LOCAL) : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (plugin.handle == NULL) record_fail(dlerror());
  *(void **)&plugin.get = dlsym(plugin.handle, "plugin_get");
  *(void **)&plugin.get_clear = dlsym(plugin.handle, "plugin_get_clear");
  *(void **)&plugin.resize = dlsym(plugin.handle, "plugin_resize");
  *(void **)&plugin.put = dlsym(plugin.handle, "plugin_put");
  return plugin;
}

__attribute__((noinline)) void one_round(const char *path, int number) {
  struct plugin plugin = open_plugin(path);
  void *block = plugin.get((size_t)(100 + number % 50));
  block = plugin.resize(block, 200);
  memset(block, 7, 200);
  plugin.put(block);
  dlclose(plugin.handle);
}

int main(int argc, char **argv) {
  if (argc < 3) record_fail("usage: plugging PLUGIN ROUNDS [alone|apart]");
  bool is_alone = argc > 3 && strcmp(argv[3], "alone") == 0;
  is_apart = argc > 3 && strcmp(argv[3], "apart") == 0;
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, churn, NULL);
  for (int round = 0; round < atoi(argv[2]); round++) one_round(argv[1], round);
  struct plugin plugin = open_plugin(argv[1]);
  for (int i = 0; i < KEPT; i++) {
    size_t size = (size_t)(1 + i);
    void *block = i % 3 == 0 ? plugin.get(size) : i % 3 == 1 ? plugin.get_clear(size) : plugin.resize(plugin.get(5), size);
    kept[i] = (struct record_block){(uint64_t)(uintptr_t)block, size, 0, 0, record_thread()};
  }
  for (int i = 0; i < KEPT; i += 4) {
    plugin.put((void *)(uintptr_t)kept[i].address);
    kept[i].address = 0;
  }
  stops = true;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  if (is_alone) return 0;
  close(record_open("sites"));
  record_checkpoint(1, kept, KEPT);
  return 0;
}
