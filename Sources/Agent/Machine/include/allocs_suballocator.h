// SPDX-License-Identifier: Apache-2.0
// Suballocators inside the process: functions that ALLOCS_SUBALLOC declares, which are hooked at
// their entries, and pools that programs announce by themselves (allocs_pool.h).

#ifndef ALLOCS_SUBALLOCATOR_H
#define ALLOCS_SUBALLOCATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "allocs_agent.h"

// A declared function. The jump to its hook pushes a pointer to this struct.
struct allocs_declared {
  void *_Nullable below;        // its trampoline
  uint32_t allocator;           // number of its entry in the table, if it allocates
  uint32_t group;               // number of its allocator's first entry
  struct allocs_declaration is; // the meaning of each argument
  bool has_pools;               // the allocator takes back all blocks of a pool at once
  bool is_stack;                // the allocator takes back all blocks since one of them, in the reverse order
  bool is_found;
  bool is_missed;               // a message has said that no module has the function
  uint64_t address;
  uint64_t size;                // bytes of code
};
#define ALLOCS_DECLARED_CAPACITY 256u

// A call of a declared function that is under way. It lies on the stack of its thread.
struct allocs_declared_call {
  uint64_t arguments[ALLOCS_DECLARATION_ARGUMENTS];
  void *_Nonnull below;    // the function's trampoline
  struct allocs_declared_call *_Nullable outer;  // the call that it is inside of
  uint64_t old_head;       // of the block that goes back: its record as it was erased
  uint64_t old_level;
  uint64_t result;
  uint64_t second_result;
  uint64_t frame_pointer;  // the caller's
  uint64_t unused;
  struct allocs_declared *_Nonnull function;
  uint64_t return_address; // to the caller
};
#define ALLOCS_DECLARED_RETURN_ADDRESS 120
_Static_assert(offsetof(struct allocs_declared_call, below) == 48, "declared_call.below");
_Static_assert(offsetof(struct allocs_declared_call, result) == 80, "declared_call.result");
_Static_assert(offsetof(struct allocs_declared_call, frame_pointer) == 96, "declared_call.frame_pointer");
_Static_assert(offsetof(struct allocs_declared_call, function) == 112, "declared_call.function");
_Static_assert(
    offsetof(struct allocs_declared_call, return_address) == ALLOCS_DECLARED_RETURN_ADDRESS,
    "declared_call.return_address");

extern ALLOCS_HIDDEN struct allocs_declared *_Nonnull allocs_declared_functions(void);
// The stub that takes the place of every declared function. `preserves`: of a function whose
// callers may count on any register that it leaves alone; within a file, compilers make callers
// that do.
extern ALLOCS_HIDDEN void *_Nonnull allocs_declared_stub(bool preserves);

// The outermost call under way on this thread. A call that an exception or a longjmp has left lies
// below the stack pointer.
static inline struct allocs_declared_call *_Nullable allocs_declared_outermost(void) {
  return allocs_thread_local.declared;
}
static inline void allocs_set_declared_outermost(struct allocs_declared_call *_Nullable call) {
  allocs_thread_local.declared = call;
}

// A kind of pool, as allocs_pool.h defines it: the layout is part of that header's interface.
struct allocs_pool_kind {
  const char *_Nonnull name;
  const char *_Nullable function;  // the function that hands out blocks
  uint64_t number;                 // of its entry in the table of allocators; 0 until it has one
};

#endif
