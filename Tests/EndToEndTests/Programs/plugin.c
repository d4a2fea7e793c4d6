// A library that allocates, for loader.c to load and unload. Built twice, under two names of its function.

#include <stdlib.h>

void *PLUGIN_FUNCTION(size_t size) {
  void *block = malloc(size);
  __asm__ volatile("" : "+r"(block) : : "memory");  // keeps the call from becoming a jump
  return block;
}
