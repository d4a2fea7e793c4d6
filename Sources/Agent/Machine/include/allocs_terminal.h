// SPDX-License-Identifier: Apache-2.0
// Terminal: the functions below the hooks. For each name, this is the next definition after the
// agent's in the order in which the dynamic linker searches: the function that the caller would
// have got without the agent.

#ifndef ALLOCS_TERMINAL_H
#define ALLOCS_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocs_hidden.h"
#include "allocs_hooked_functions.h"
#include "allocs_operators.h"

struct allocs_terminal {
#define ALLOCS_HOOKED_MEMBER(name, kit, version, entry, result, parameters, ...) result(*name) parameters;
#define ALLOCS_PASSED_MEMBER(name, kit, version, result, parameters) result(*name) parameters;
#define ALLOCS_LIBC_MEMBER(name, member, result, parameters) result(*member) parameters;
  ALLOCS_HOOKED_FUNCTIONS(ALLOCS_HOOKED_MEMBER)
  ALLOCS_PASSED_FUNCTIONS(ALLOCS_PASSED_MEMBER)
  ALLOCS_LIBC_FUNCTIONS(ALLOCS_LIBC_MEMBER)
#undef ALLOCS_HOOKED_MEMBER
#undef ALLOCS_PASSED_MEMBER
#undef ALLOCS_LIBC_MEMBER
  uint64_t tight;  // bit for each allocs_function whose blocks may lie closer than 32 bytes: none of glibc's
};

// For code in the machine's own language.
_Static_assert(offsetof(struct allocs_terminal, malloc) == 0, "terminal.malloc");
_Static_assert(offsetof(struct allocs_terminal, free) == 8, "terminal.free, for Kit/Fallback.S");
_Static_assert(offsetof(struct allocs_terminal, calloc) == 16, "terminal.calloc, for Kit/Fallback.S");
_Static_assert(offsetof(struct allocs_terminal, realloc) == 24, "terminal.realloc, for Kit/Fallback.S");

// Blocks of malloc below this size have fine slots: 17, or 0 where malloc is glibc's. A variable of
// its own, as malloc's entry reads it by name.
extern ALLOCS_HIDDEN size_t allocs_fine_size;
static inline void allocs_set_fine_size(size_t size) { allocs_fine_size = size; }

// A function that Terminal looks for.
struct allocs_terminal_function {
  const char *_Nonnull name;
  void *_Nullable *_Nonnull below;  // where Terminal keeps its address
  bool is_of_family;                // the malloc family
  uint32_t function;                // enum allocs_function, if it allocates; else 0
};
// The function with this index, from 0, in the order of struct allocs_terminal; null behind the
// last.
extern ALLOCS_HIDDEN const struct allocs_terminal_function *_Nullable allocs_terminal_function(uint32_t index);

// A function that the agent exports and that takes the place of another definition of its name.
struct allocs_entry_point {
  const char *_Nonnull name;
  void *_Nonnull own;
  void *_Nullable *_Nonnull below;  // where the address of the function below is kept
  bool is_essential;                // it frees
  bool is_operator;                 // of C++
};
// The entry point with this index, from 0; null behind the last. The functions of the malloc family
// come first, in the order of their rows.
extern ALLOCS_HIDDEN const struct allocs_entry_point *_Nullable allocs_entry_point(uint32_t index);

#endif
