// A library whose function FUNCTION allocates for make().
#include <stdlib.h>

__attribute__((noinline, visibility("hidden"))) void *FUNCTION(size_t size) {
  void *block = malloc(size);
  __asm__ volatile("" : "+r"(block)::"memory");
  return block;
}

void *make(size_t size) {
  void *block = FUNCTION(size);
  __asm__ volatile("" : "+r"(block)::"memory");
  return block;
}
