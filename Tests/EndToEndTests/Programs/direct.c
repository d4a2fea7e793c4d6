// Allocates and frees by every way to the C library's functions that leads past the first definition in the search order, and
// says what must be known of each block: "live NAME ADDRESS SIZE" or "freed NAME ADDRESS SIZE". Its arguments are
// direct_plugin.c as a library to be opened with RTLD_DEEPBIND, and the same without.

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void __libc_free(void *);

// A word of data, bound before anything runs.
static void *(*const bound)(size_t) = __libc_malloc;

static void say(const char *state, const char *name, const void *block, size_t size) {
  printf("%s %s %p %zu\n", state, name, block, size);
}

typedef void *allocating(size_t);
typedef void freeing(void *);

// What is to be given back, at the end: nothing is allocated afterwards that could use the memory.
static struct {
  freeing *release;
  const char *name;
  void *block;
  size_t size;
} late[16];
static int late_count;
static void give_back_late(freeing *release, const char *name, void *block, size_t size) {
  late[late_count].release = release;
  late[late_count].name = name;
  late[late_count].block = block;
  late[late_count++].size = size;
}

static void plugin(const char *name, const char *path, int flags) {
  void *library = dlopen(path, RTLD_NOW | flags);
  if (!library) exit(2);
  allocating *allocate = (allocating *)dlsym(library, "plugin_allocate");
  allocating *indirect = (allocating *)dlsym(library, "plugin_allocate_by_name");
  freeing *release = (freeing *)dlsym(library, "plugin_free");
  say("live", name, allocate(4000), 4000);
  say("live", name, indirect(4100), 4100);
  say("live", name, allocate(1 << 20), 1 << 20);
  // One side's block, given back by the other.
  give_back_late(release, name, malloc(4200), 4200);
  say("live", name, malloc(4300), 4300);
  give_back_late(free, name, allocate(4400), 4400);
  say("live", name, malloc(4500), 4500);
}

int main(int count, char **arguments) {
  if (count < 3) return 2;
  setvbuf(stdout, NULL, _IONBF, 0);
  say("live", "__libc_malloc", __libc_malloc(2001), 2001);
  say("live", "__libc_calloc", __libc_calloc(2, 1001), 2002);
  say("live", "__libc_realloc", __libc_realloc(NULL, 2003), 2003);
  say("live", "__libc_realloc", __libc_realloc(malloc(10), 2004), 2004);
  say("live", "__libc_memalign", __libc_memalign(256, 2005), 2005);
  say("live", "__libc_valloc", __libc_valloc(2006), 2006);
  say("live", "__libc_pvalloc", __libc_pvalloc(2007), 2007);
  say("live", "bound", bound(2008), 2008);
  give_back_late(__libc_free, "__libc_free", malloc(2009), 2009);
  say("live", "fence", malloc(2010), 2010);

  void *library = dlopen("libc.so.6", RTLD_NOW);
  void *places[] = {RTLD_DEFAULT, RTLD_NEXT, library};
  const char *names[] = {"RTLD_DEFAULT", "RTLD_NEXT", "handle"};
  for (int index = 0; index < 3; index++) {
    allocating *allocate = (allocating *)dlsym(places[index], "malloc");
    freeing *release = (freeing *)dlsym(places[index], "free");
    say("live", names[index], allocate(3000 + index), 3000 + index);
    give_back_late(release, names[index], allocate(3100 + index), 3100 + index);
    say("live", names[index], allocate(3200 + index), 3200 + index);
  }
  plugin("RTLD_DEEPBIND", arguments[1], RTLD_LOCAL | RTLD_DEEPBIND);
  plugin("RTLD_LOCAL", arguments[2], RTLD_LOCAL);
  for (int index = 0; index < late_count; index++) {
    late[index].release(late[index].block);
    say("freed", late[index].name, late[index].block, late[index].size);
  }
  printf("ready\n");
  // Not by getchar, which would allocate, and use memory that is free.
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
