// SPDX-License-Identifier: Apache-2.0
// Bypasses: functions that allocate or free, and that the agent could not hook. Blocks that are
// allocated there are not in the index.
//
// An entry is one function of a module, or all functions of an allocator. Each is there once,
// however often its module was loaded. Entries do not change, and the table only grows; `used` of
// the section is raised after an entry is complete (release). The counter bypasses_dropped counts
// the functions that found no place in the table.

#ifndef ALLOCS_BYPASS_H
#define ALLOCS_BYPASS_H

#include <stddef.h>
#include <stdint.h>

#define ALLOCS_BYPASS_CAPACITY 128u

// Why a function could not be hooked: number, enumerator, and the words behind "of MODULE: ". No
// number is ever used again, as a reader may be older or newer than the agent.
#define ALLOCS_BYPASS_TABLE(ROW) \
  ROW(1, AMBIGUOUS, "the executable has several functions of that name")              \
  ROW(2, NOT_ORDINARY, "it is not an ordinary function")                              \
  ROW(3, SHORT, "it is too short")                                                    \
  ROW(4, START_UNDECODED, "its first instructions cannot be decoded")                 \
  ROW(5, FAR, "what it refers to is too far away")                                    \
  ROW(6, UNMOVABLE, "its first instructions cannot be moved")                         \
  ROW(7, CALLS, "it calls another in its first instructions")                         \
  ROW(8, END_UNDECODED, "it cannot be decoded to its end")                            \
  ROW(9, BRANCHES_IN, "it branches into its first instructions")                      \
  ROW(10, NO_ROOM, "there is no room for code near it")                               \
  ROW(11, TOO_MANY, "more functions are to be hooked than can be")                    \
  ROW(12, NOT_EXECUTABLE, "memory cannot be made executable here")                    \
  ROW(13, UNCHANGEABLE, "its code cannot be changed")                                 \
  ROW(14, FREES_UNKNOWN, "what it frees would not be known")                          \
  ROW(15, SANITIZER, "it is a sanitizer's, which has its own index")                  \
  ROW(16, SEVERAL_THREADS, "the process has several threads already")                 \
  ROW(17, HEAP_UNKNOWN, "it gives back all blocks of a heap, and does not say which") \
  ROW(18, OTHER_NAMESPACE, "it was opened by dlmopen, with a C library of its own")   \
  ROW(19, LATER_MODULES, "it cannot be seen when modules are opened")                 \
  ROW(20, UNREADABLE, "its code cannot be read")                                      \
  ROW(21, SEVERAL_BLOCKS, "it hands out several blocks at once")                      \
  ROW(22, RELOCATED, "the dynamic linker changes the code of its module")

enum allocs_bypass_reason {
  ALLOCS_BYPASS_NONE = 0,
#define ALLOCS_BYPASS_ENUMERATOR(number, id, text) ALLOCS_BYPASS_##id = number,
  ALLOCS_BYPASS_TABLE(ALLOCS_BYPASS_ENUMERATOR)
#undef ALLOCS_BYPASS_ENUMERATOR
};

struct allocs_bypass {
  // Offset into the strings: the name. If `function_size` is 0: all functions of the allocator.
  uint64_t function;
  // Offset into the strings: the path of the function's module. If `module_size` is 0: the
  // executable.
  uint64_t module;
  uint32_t function_size;  // bytes
  uint32_t module_size;
  uint32_t reason;         // enum allocs_bypass_reason
  uint32_t reserved;
};

// Words for a reason; null for one of a later version.
// NULL for a number that is no reason.
static inline const char *allocs_bypass_reason_text(uint32_t reason) {
  switch (reason) {
#define ALLOCS_BYPASS_CASE(number, id, text) \
  case number: return text;
    ALLOCS_BYPASS_TABLE(ALLOCS_BYPASS_CASE)
#undef ALLOCS_BYPASS_CASE
    default: return NULL;
  }
}

_Static_assert(sizeof(struct allocs_bypass) == 32, "bypass");
_Static_assert(offsetof(struct allocs_bypass, function_size) == 16, "bypass.function_size");
_Static_assert(offsetof(struct allocs_bypass, reason) == 24, "bypass.reason");

#endif
