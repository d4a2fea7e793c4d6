// A library for stacks_loader.c: calls back through one frame, whose size differs between its builds.

#include <stddef.h>

#ifdef LIBRARY_POINTER
__attribute__((optimize("no-omit-frame-pointer")))
#endif
__attribute__((visibility("default"))) void through(void (*function)(int), int argument) {
  char frame[LIBRARY_FRAME];
  __asm__ volatile("" : : "r"(frame) : "memory");
  function(argument);
  __asm__ volatile("" : : "r"(frame) : "memory");
}
