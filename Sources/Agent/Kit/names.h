// The functions of the kit, X(name, number, version): the number is the place in its tables, the version libc's for
// x86-64.
#ifndef ALLOCS_KIT_NAMES_H
#define ALLOCS_KIT_NAMES_H

// What an allocator must define to take libc's place.
#define ALLOCS_KIT_ESSENTIAL(X) \
  X(malloc, 0, GLIBC_2.2.5)     \
  X(free, 1, GLIBC_2.2.5)       \
  X(calloc, 2, GLIBC_2.2.5)     \
  X(realloc, 3, GLIBC_2.2.5)
// What it may define.
#define ALLOCS_KIT_OPTIONAL(X)       \
  X(memalign, 4, GLIBC_2.2.5)        \
  X(aligned_alloc, 5, GLIBC_2.16)    \
  X(posix_memalign, 6, GLIBC_2.2.5)  \
  X(valloc, 7, GLIBC_2.2.5)          \
  X(pvalloc, 8, GLIBC_2.2.5)         \
  X(reallocarray, 9, GLIBC_2.26)     \
  X(malloc_usable_size, 10, GLIBC_2.2.5) \
  X(cfree, 11, GLIBC_2.2.5)
// What not every libc has.
#define ALLOCS_KIT_RECENT(X) \
  X(free_sized, 12, )        \
  X(free_aligned_sized, 13, )

#define ALLOCS_KIT_COUNT 14

#endif
