// SPDX-License-Identifier: Apache-2.0
// The functions that the agent hooks: one row a function. Everything that has one piece a function
// is made from these rows:
//
//   struct allocs_terminal          a pointer to the definition below the agent (allocs_terminal.h)
//   allocs_terminal_function        the table by which Terminal.swift finds those definitions
//   Entry/MallocFamily.c            the exported functions and allocs_entry_point
//   Entry/include/allocs_hooks.h    declarations of the hooks
//   Entry/Definitions.c             stubs for other definitions of these names
//   Entry/Families.c                signatures, for allocators that are hooked at their entries
//   Kit                             the entries of an executable that the agent is linked into
//
// docs/contributing/hook.md has the steps to hook one more function of the malloc family, with the
// places that no macro reaches. HookedFunctionTests names the file in which a function is missing.
//
// This file has nothing but macros: the assembler reads it, too.

#ifndef ALLOCS_HOOKED_FUNCTIONS_H
#define ALLOCS_HOOKED_FUNCTIONS_H

// The malloc family: the blocks that these functions hand out and take back are recorded. Columns:
//
//   name
//   kit          whether an allocator that is linked into an executable must define it to take
//                libc's place (ESSENTIAL) or may (OPTIONAL), or not even every libc has it (RECENT)
//   version      of libc's symbol on x86-64; none for RECENT
//   entry        how a call gets to the hook: with so many arguments (1, 2, 3), or by a path of its
//                own (MALLOC, FREE)
//   result       type
//   parameters
//   operation    ALLOCATES, RESIZES the block that is the first argument, or FREES that block
//   function     the name that contexts have for it: ALLOCS_FUNCTION_…
//   …            positions of the arguments, counted from 1 (struct allocs_signature)
//
// malloc, free, calloc and realloc are the first four, in this order: Kit/Fallback.S counts on it.
#define ALLOCS_HOOKED_FUNCTIONS(X)                                                                                    \
  X(malloc, ESSENTIAL, GLIBC_2.2.5, MALLOC, void *, (size_t size), ALLOCATES, MALLOC, .size = 1)                      \
  X(free, ESSENTIAL, GLIBC_2.2.5, FREE, void, (void *block), FREES, FREE, )                                           \
  X(calloc, ESSENTIAL, GLIBC_2.2.5, 2, void *, (size_t count, size_t size),                                           \
    ALLOCATES, CALLOC, .count = 1, .size = 2)                                                                         \
  X(realloc, ESSENTIAL, GLIBC_2.2.5, 2, void *, (void *block, size_t size), RESIZES, REALLOC, .size = 2)              \
  X(reallocarray, OPTIONAL, GLIBC_2.26, 3, void *, (void *block, size_t count, size_t size),                          \
    RESIZES, REALLOCARRAY, .count = 2, .size = 3)                                                                     \
  X(memalign, OPTIONAL, GLIBC_2.2.5, 2, void *, (size_t alignment, size_t size),                                      \
    ALLOCATES, MEMALIGN, .alignment = 1, .size = 2)                                                                   \
  X(posix_memalign, OPTIONAL, GLIBC_2.2.5, 3, int, (void **result, size_t alignment, size_t size),                    \
    ALLOCATES, POSIX_MEMALIGN, .result = 1, .alignment = 2, .size = 3)                                                \
  X(aligned_alloc, OPTIONAL, GLIBC_2.16, 2, void *, (size_t alignment, size_t size),                                  \
    ALLOCATES, ALIGNED_ALLOC, .alignment = 1, .size = 2)                                                              \
  X(valloc, OPTIONAL, GLIBC_2.2.5, 1, void *, (size_t size), ALLOCATES, VALLOC, .size = 1)                            \
  X(pvalloc, OPTIONAL, GLIBC_2.2.5, 1, void *, (size_t size), ALLOCATES, PVALLOC, .size = 1)                          \
  X(free_sized, RECENT, , 2, void, (void *block, size_t size), FREES, FREE, .size = 2)                                \
  X(free_aligned_sized, RECENT, , 3, void, (void *block, size_t alignment, size_t size),                              \
    FREES, FREE, .alignment = 2, .size = 3)

// Functions of the malloc family with nothing to record: name, kit, version, result, parameters.
#define ALLOCS_PASSED_FUNCTIONS(X) X(malloc_usable_size, OPTIONAL, GLIBC_2.2.5, size_t, (void *block))

// Old names of hooked functions: name, kit, version, entry, result, parameters, the name of today.
#define ALLOCS_OLD_NAMES(X) X(cfree, OPTIONAL, GLIBC_2.2.5, FREE, void, (void *block), free)

// Functions of libc that change which modules, processes or mappings there are: name, name of the
// member of struct allocs_terminal, result, parameters. Each has a hook of its own kind
// (Entry/MallocFamily.c, Entry/Mappings.c).
#define ALLOCS_LIBC_FUNCTIONS(X)                                                                                      \
  X(dlclose, dlclose, int, (void *handle))                                                                            \
  X(_Fork, fork, int, (void)) /* runs no fork handlers */                                                             \
  X(mmap, mmap, void *, (void *address, size_t size, int protection, int flags, int descriptor, long offset))         \
  X(munmap, munmap, int, (void *address, size_t size))                                                                \
  X(mremap, mremap, void *, (void *old, size_t old_size, size_t size, int flags, ...))                                \
  X(brk, brk, int, (void *address))                                                                                   \
  X(sbrk, sbrk, void *, (intptr_t increment))

// Whether a function with a given operation allocates, or frees.
#define ALLOCS_IS_ALLOCATING_ALLOCATES 1
#define ALLOCS_IS_ALLOCATING_RESIZES 1
#define ALLOCS_IS_ALLOCATING_FREES 0
#define ALLOCS_IS_FREEING_ALLOCATES 0
#define ALLOCS_IS_FREEING_RESIZES 1
#define ALLOCS_IS_FREEING_FREES 1

#endif
