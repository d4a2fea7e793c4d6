// Bypasses: functions that allocate or free and that the agent could not hook. What passes by there is not in the
// index.
//
// An entry is one function of a module, or all of an allocator. Each is there once, however often its module was
// loaded. Entries only grow, and do not change; `used` of the section is raised after an entry is complete (release).
// The counter bypasses_dropped has those that found no place.

#ifndef ALLOCS_BYPASS_H
#define ALLOCS_BYPASS_H

#include <stddef.h>
#include <stdint.h>

#define ALLOCS_BYPASS_CAPACITY 128u

// The numbers stay what they are: a reader may be older or newer than the agent.
enum allocs_bypass_reason {
  ALLOCS_BYPASS_NONE = 0,
  ALLOCS_BYPASS_AMBIGUOUS,
  ALLOCS_BYPASS_NOT_ORDINARY,
  ALLOCS_BYPASS_SHORT,
  ALLOCS_BYPASS_START_UNDECODED,
  ALLOCS_BYPASS_FAR,
  ALLOCS_BYPASS_UNMOVABLE,
  ALLOCS_BYPASS_CALLS,
  ALLOCS_BYPASS_END_UNDECODED,
  ALLOCS_BYPASS_BRANCHES_IN,
  ALLOCS_BYPASS_NO_ROOM,
  ALLOCS_BYPASS_TOO_MANY,
  ALLOCS_BYPASS_NOT_EXECUTABLE,
  ALLOCS_BYPASS_UNCHANGEABLE,
  ALLOCS_BYPASS_FREES_UNKNOWN,
  ALLOCS_BYPASS_SANITIZER,
  ALLOCS_BYPASS_SEVERAL_THREADS,
  ALLOCS_BYPASS_HEAP_UNKNOWN,
  ALLOCS_BYPASS_OTHER_NAMESPACE,
  ALLOCS_BYPASS_LATER_MODULES,
  ALLOCS_BYPASS_UNREADABLE,
  ALLOCS_BYPASS_SEVERAL_BLOCKS,
  ALLOCS_BYPASS_RELOCATED,
  ALLOCS_BYPASS_REASON_COUNT
};

struct allocs_bypass {
  uint64_t function;       // offset into the strings; all of the allocator, if function_size is 0
  uint64_t module;         // likewise: the path of its module; the executable, if module_size is 0
  uint32_t function_size;  // bytes
  uint32_t module_size;
  uint32_t reason;         // enum allocs_bypass_reason
  uint32_t reserved;
};

// Words for a reason; null for one of a later version.
static inline const char *allocs_bypass_reason_text(uint32_t reason) {
  static const char *const texts[ALLOCS_BYPASS_REASON_COUNT] = {
      [ALLOCS_BYPASS_AMBIGUOUS] = "the executable has several functions of that name",
      [ALLOCS_BYPASS_NOT_ORDINARY] = "it is not an ordinary function",
      [ALLOCS_BYPASS_SHORT] = "it is too short",
      [ALLOCS_BYPASS_START_UNDECODED] = "its first instructions cannot be decoded",
      [ALLOCS_BYPASS_FAR] = "what it refers to is too far away",
      [ALLOCS_BYPASS_UNMOVABLE] = "its first instructions cannot be moved",
      [ALLOCS_BYPASS_CALLS] = "it calls another in its first instructions",
      [ALLOCS_BYPASS_END_UNDECODED] = "it cannot be decoded to its end",
      [ALLOCS_BYPASS_BRANCHES_IN] = "it branches into its first instructions",
      [ALLOCS_BYPASS_NO_ROOM] = "there is no room for code near it",
      [ALLOCS_BYPASS_TOO_MANY] = "more functions are to be hooked than can be",
      [ALLOCS_BYPASS_NOT_EXECUTABLE] = "memory cannot be made executable here",
      [ALLOCS_BYPASS_UNCHANGEABLE] = "its code cannot be changed",
      [ALLOCS_BYPASS_FREES_UNKNOWN] = "what it frees would not be known",
      [ALLOCS_BYPASS_SANITIZER] = "it is a sanitizer's, which has its own index",
      [ALLOCS_BYPASS_SEVERAL_THREADS] = "the process has several threads already",
      [ALLOCS_BYPASS_HEAP_UNKNOWN] = "it gives back all blocks of a heap, and does not say which",
      [ALLOCS_BYPASS_OTHER_NAMESPACE] = "it was opened by dlmopen, with a C library of its own",
      [ALLOCS_BYPASS_LATER_MODULES] = "it cannot be seen when modules are opened",
      [ALLOCS_BYPASS_UNREADABLE] = "its code cannot be read",
      [ALLOCS_BYPASS_SEVERAL_BLOCKS] = "it hands out several blocks at once",
      [ALLOCS_BYPASS_RELOCATED] = "the dynamic linker changes the code of its module"};
  return reason < ALLOCS_BYPASS_REASON_COUNT ? texts[reason] : 0;
}

_Static_assert(sizeof(struct allocs_bypass) == 32, "bypass");
_Static_assert(offsetof(struct allocs_bypass, function_size) == 16, "bypass.function_size");
_Static_assert(offsetof(struct allocs_bypass, reason) == 24, "bypass.reason");

#endif
