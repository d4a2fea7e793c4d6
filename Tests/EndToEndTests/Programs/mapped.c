// SPDX-License-Identifier: Apache-2.0
// Maps memory of its own, as an allocator does that this project does not know: 3 MiB, and 1 MiB that it gives back.
#include <stdio.h>
#include <sys/mman.h>

// Volatile, so that no call is the last thing that its function does: it would be a jump, and no frame.
static void *volatile place;
#define MAP(size) mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
__attribute__((noinline)) static void *reserve(void) { return place = MAP(3 << 20); }
__attribute__((noinline)) static void *borrow(void) { return place = MAP(1 << 20); }

int main(void) {
  void *volatile kept = reserve();
  void *volatile given_back = borrow();
  munmap(given_back, 1 << 20);
  puts("ready");
  fflush(stdout);
  getchar();
  return kept == MAP_FAILED;
}
