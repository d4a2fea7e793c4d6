// With another allocator below: a plugin that is opened with RTLD_DEEPBIND has blocks of the C library's own, which the plugin
// gives back itself. Says what must be known, as direct.c does.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count < 2) return 2;
  setvbuf(stdout, NULL, _IONBF, 0);
  void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!library) return 2;
  void *(*allocate)(size_t) = (void *(*)(size_t))dlsym(library, "plugin_allocate");
  void (*release)(void *) = (void (*)(void *))dlsym(library, "plugin_free");
  printf("live plugin %p 4001\n", allocate(4001));
  printf("live main %p 4002\n", malloc(4002));
  void *one = allocate(4003);
  printf("live plugin %p 4004\n", allocate(4004));
  void *other = malloc(4005);
  printf("live main %p 4006\n", malloc(4006));
  release(one);
  free(other);
  printf("freed plugin %p 4003\nfreed main %p 4005\nready\n", one, other);
  // Not by getchar, which would allocate, and use memory that is free.
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
