// SPDX-License-Identifier: Apache-2.0
// Families of allocation functions. The signature of a function tells its operation, and the
// meaning of its arguments. One table of signatures (Families.c) serves all allocators that are
// hooked at their entries beside the one below the agent: allocators with a prefix (_rjem_malloc,
// mi_malloc), and definitions of malloc that an executable keeps to itself.
//
// Each hooked function has a record of its own, with the function below it: two allocators side by
// side never meet.

#ifndef ALLOCS_FAMILY_H
#define ALLOCS_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "allocs_agent.h"

enum allocs_operation {
  ALLOCS_ALLOCATE = 1,
  ALLOCS_RESIZE,           // may move the block
  ALLOCS_RESIZE_OR_FREE,   // frees the block when it fails
  ALLOCS_RESIZE_IN_PLACE,  // returns the block, or null
  ALLOCS_RESIZE_TO,        // in place; returns the size that the block has then
  ALLOCS_FREE,
  ALLOCS_FREE_ARRAY,       // `block` is an array of `count` blocks
  ALLOCS_FREE_HEAP,        // `block` is a heap: all of its blocks go back
  ALLOCS_ALLOCATE_TEXT,    // the block is as large as the text in it
  ALLOCS_ALLOCATE_SEVERAL, // `count` blocks, in an array that is returned
  ALLOCS_HELPER            // neither allocates nor frees, and is not hooked: the agent calls it (enum allocs_helper)
};

// How a function helps to know which blocks a heap has. Its signature has this in `function`.
enum allocs_helper {
  ALLOCS_HELPER_VISIT = 1,  // calls a function with each block of a heap
  ALLOCS_HELPER_BACKING,    // gives the heap that cannot be destroyed
  ALLOCS_HELPER_NEW_EX      // makes heaps that look like others, and cannot be destroyed
};

// The fields from `block` on are positions of arguments, counted from 1; 0: no argument has that
// meaning.
struct allocs_signature {
  const char *_Nonnull name;  // without the prefix
  uint32_t families;          // a bit for each family that has a function of this name
  uint8_t operation;          // enum allocs_operation
  uint8_t function;           // enum allocs_function: how the call is recorded
  uint8_t block;
  uint8_t count;              // the size asked for is size * count
  uint8_t size;
  uint8_t alignment;
  uint8_t flags;              // jemalloc's: the lowest six bits are the logarithm of the alignment
  uint8_t result;             // where the block is stored, if it is not returned; 0 is returned on success
};
#define ALLOCS_ARGUMENT_COUNT 6u  // arguments in registers

struct allocs_family {
  const char *_Nonnull prefix;
  const char *_Nonnull allocator;  // its name; empty: the name of its module
};
enum { ALLOCS_FAMILY_COUNT = 8, ALLOCS_FAMILY_OWN = 0, ALLOCS_FAMILY_TOKEN = 7 };

// A function that is hooked at its entry by a signature.
struct allocs_hooked {
  void *_Nullable below;  // its trampoline
  const struct allocs_signature *_Nonnull signature;
  uint32_t allocator;  // as in a context
  uint32_t unused;
  uint64_t address;    // of the function
  // For a function that gives back a heap: the functions that tell the heap's blocks, and which
  // heap stays; null if they are not known.
  bool (*_Nullable visit)(
      const void *_Nonnull heap, bool with_blocks, void *_Nonnull visitor, void *_Nullable argument);
  void *_Nullable (*_Nullable backing)(void);
};
#define ALLOCS_HOOKED_CAPACITY 1024u

// A function that is to be hooked: what its symbol tells, the function that takes its place, and
// where the address of the function below is kept.
struct allocs_target {
  const char *_Nonnull prefix;  // of its name
  const char *_Nonnull name;
  uint64_t address;
  uint64_t size;                // bytes; 0 if it is not known
  uint64_t moved;               // bytes of instructions that give way to a jump; 0: it is left alone
  void *_Nonnull own;           // the function or stub that takes its place
  // Where Terminal keeps the function below, for a function that wins over the agent's; else its
  // signature.
  void *_Nullable *_Nullable below;
  const struct allocs_signature *_Nullable signature;
  uint8_t type;                 // STT_FUNC, STT_GNU_IFUNC, …
  uint8_t family;               // ALLOCS_FAMILY_COUNT: of the malloc family that wins over the agent's
  bool is_essential;            // it frees
  bool is_operator;             // of C++
  bool is_ambiguous;            // the name stands for several functions
  bool preserves;               // its callers may count on registers that it leaves alone
  uint16_t leads_to;            // the function only jumps to this target, counted from 1; 0: it does more
  uint16_t token;               // 1 + the number in a name of clang's; 0: there is none
  uint8_t original[8];          // the bytes that a jump was written over
  struct allocs_hooked *_Nullable record;
};
enum { ALLOCS_TARGET_CAPACITY = 512 };

extern ALLOCS_HIDDEN const struct allocs_family *_Nonnull allocs_family(uint32_t index);
// The signature with this index, from 0; null behind the last.
extern ALLOCS_HIDDEN const struct allocs_signature *_Nullable allocs_signature(uint32_t index);
// The stub that takes the place of a function with this signature. It expects the function's struct
// allocs_hooked in the register r11.
extern ALLOCS_HIDDEN void *_Nonnull allocs_signature_stub(
    const struct allocs_signature *_Nonnull signature, uint32_t family);
// The stub that takes the place of a function whose callers count on registers. It expects the
// function's struct allocs_hooked on the stack.
extern ALLOCS_HIDDEN void *_Nonnull allocs_preserving_stub(void);
// The function that an allocator is to call with each block of a heap.
extern ALLOCS_HIDDEN void *_Nonnull allocs_block_visitor(void);
static inline bool allocs_frees(const struct allocs_signature *_Nonnull signature) {
  return signature->operation != ALLOCS_ALLOCATE && signature->operation != ALLOCS_ALLOCATE_TEXT &&
         signature->operation != ALLOCS_ALLOCATE_SEVERAL && signature->operation != ALLOCS_HELPER;
}

// For code in the machine's own language.
#define ALLOCS_HOOKED_SIGNATURE_OFFSET 8
#define ALLOCS_SIGNATURE_OPERATION_OFFSET 12
#define ALLOCS_FREE_NUMBER 6
_Static_assert(offsetof(struct allocs_hooked, signature) == ALLOCS_HOOKED_SIGNATURE_OFFSET, "hooked.signature");
_Static_assert(
    offsetof(struct allocs_signature, operation) == ALLOCS_SIGNATURE_OPERATION_OFFSET, "signature.operation");
_Static_assert(ALLOCS_FREE == ALLOCS_FREE_NUMBER, "ALLOCS_FREE");

// Takes a record; null if there are no more.
extern ALLOCS_HIDDEN struct allocs_hooked *_Nullable allocs_next_hooked(
    const struct allocs_signature *_Nonnull signature, uint32_t allocator);
extern ALLOCS_HIDDEN void allocs_release_hooked(struct allocs_hooked *_Nonnull record);
// Gives back the records of functions whose trampolines lie in a range.
extern ALLOCS_HIDDEN void allocs_release_hooked_within(const uint8_t *_Nonnull start, uint64_t size);
// Where the function with this entry goes on behind its hook; null if it is not hooked.
extern ALLOCS_HIDDEN void *_Nullable allocs_below_entry(uint64_t address);

// Calls `function` with all six arguments, also where it takes fewer.
static inline uint64_t allocs_call(void *_Nonnull function, const uint64_t *_Nonnull a) {
  typedef uint64_t with_six_arguments(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
  return ((with_six_arguments *)function)(a[0], a[1], a[2], a[3], a[4], a[5]);
}
static inline void *_Nullable allocs_call_for_block(void *_Nonnull function, uint64_t size) {
  return ((void *(*)(uint64_t))function)(size);
}
static inline void allocs_call_with_block(void *_Nonnull function, void *_Nullable block, uint64_t second) {
  ((void (*)(void *, uint64_t))function)(block, second);
}

#endif
