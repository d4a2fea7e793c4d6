// SPDX-License-Identifier: Apache-2.0
// Contexts: who allocated. A slot holds the 24-bit id of a context. A context is (call stack,
// thread, function, allocator). A call stack is a node of a trie of return addresses, so that a
// shared prefix is stored once.
//
//   slot ── context id ──► context ── node id ──► node ──parent──► node ──parent──► … ──► 0: root
//                             └── thread slot       innermost frame   its caller
//
// The tables of nodes and of contexts only grow. Entry 0 of either is never written: context 0
// stands for "not known", node 0 for the root, which is the parent of the outermost frame. An entry
// is complete before its id is stored anywhere else (release), so a reader that has an id may read
// the entry.

#ifndef ALLOCS_CONTEXT_H
#define ALLOCS_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_slot.h"

struct allocs_node {
  uint64_t pc;      // return address of the call
  uint32_t parent;  // node of the caller, 0 for the outermost frame; but see DEPTH_LIMIT
  uint32_t flags;   // enum allocs_node_flag, and the module
};

// A node that ends a stack early says why: its frame is right, and frames beyond it are missing.
enum allocs_node_flag {
  ALLOCS_NODE_TRUNCATED = 1,  // the unwinder could go no further
  // The stack was cut at the depth limit. `parent` says how many frames are missing: at least so
  // many, rounded down to 7 significant bits; 0 if the number is not known.
  ALLOCS_NODE_DEPTH_LIMIT = 2,
  ALLOCS_NODE_INTERRUPTED = 4   // a signal handler ran here: pc is the instruction, not a return address
};

// Above the flags of a node: 1 + the index of the module that holds the call, or one of the two
// numbers below. 0: no address had changed hands when the node was made, so the address itself says
// which module it is.
#define ALLOCS_NODE_MODULE_SHIFT 8u
// The dynamic linker has loaded no module there: generated code, say.
#define ALLOCS_NODE_MODULE_NONE 0xFFFFFFu
// The module found no room in the table.
#define ALLOCS_NODE_MODULE_DROPPED 0xFFFFFEu
static inline uint32_t allocs_node_module(uint32_t flags) { return flags >> ALLOCS_NODE_MODULE_SHIFT; }

#define ALLOCS_NODE_LIMIT 0x1000000u

_Static_assert(sizeof(struct allocs_node) == 16, "node");
_Static_assert(offsetof(struct allocs_node, parent) == 8, "node.parent");
_Static_assert(offsetof(struct allocs_node, flags) == 12, "node.flags");

// The functions through which an allocation is made, or freed: number, enumerator, name. The
// numbers are part of the format. To add a function is to add a row, at a number that no row has
// had. allocs_hooked_functions.h lists the functions that the agent hooks.
#define ALLOCS_FUNCTION_TABLE(ROW)                  \
  ROW(1, MALLOC, "malloc")                          \
  ROW(2, CALLOC, "calloc")                          \
  ROW(3, REALLOC, "realloc")                        \
  ROW(4, REALLOCARRAY, "reallocarray")              \
  ROW(5, MEMALIGN, "memalign")                      \
  ROW(6, POSIX_MEMALIGN, "posix_memalign")          \
  ROW(7, ALIGNED_ALLOC, "aligned_alloc")            \
  ROW(8, VALLOC, "valloc")                          \
  ROW(9, PVALLOC, "pvalloc")                        \
  ROW(10, NEW, "operator new")                      \
  ROW(11, NEW_ARRAY, "operator new[]")              \
  /* Functions that only jemalloc or mimalloc has. */ \
  ROW(12, MALLOCX, "mallocx")                       \
  ROW(13, RALLOCX, "rallocx")                       \
  ROW(14, XALLOCX, "xallocx")                       \
  ROW(15, ZALLOC, "zalloc")                         \
  ROW(16, MALLOC_ALIGNED, "malloc_aligned")         \
  ROW(17, ZALLOC_ALIGNED, "zalloc_aligned")         \
  ROW(18, CALLOC_ALIGNED, "calloc_aligned")         \
  ROW(19, REALLOC_ALIGNED, "realloc_aligned")       \
  ROW(20, EXPAND, "expand")                         \
  /* Functions that make mappings, not blocks. */   \
  ROW(21, MMAP, "mmap")                             \
  ROW(22, MREMAP, "mremap")                         \
  ROW(23, BRK, "brk")                               \
  ROW(24, SBRK, "sbrk")                             \
  /* Functions that free, where frees record their own context. */ \
  ROW(32, FREE, "free")                             \
  ROW(33, DELETE, "operator delete")

enum allocs_function {
  ALLOCS_FUNCTION_UNKNOWN = 0,
#define ALLOCS_ENUMERATOR(number, enumerator, name) ALLOCS_FUNCTION_##enumerator = number,
  ALLOCS_FUNCTION_TABLE(ALLOCS_ENUMERATOR)
#undef ALLOCS_ENUMERATOR
  ALLOCS_FUNCTION_COUNT
};

static inline const char *allocs_function_name(uint32_t function) {
  static const char *const names[ALLOCS_FUNCTION_COUNT] = {
#define ALLOCS_NAME(number, enumerator, name) [number] = name,
      ALLOCS_FUNCTION_TABLE(ALLOCS_NAME)
#undef ALLOCS_NAME
  };
  return function < ALLOCS_FUNCTION_COUNT && names[function] ? names[function] : "";
}

// A context is one word, so that one store publishes it:
//   allocator:8 | function:8 | thread:16 | node:32
// `thread` is an index into the thread table, or ALLOCS_THREAD_UNKNOWN if the thread has no entry.
#define ALLOCS_THREAD_UNKNOWN 0xFFFFu

static inline uint64_t allocs_context_word(uint32_t node, uint32_t thread, uint32_t function, uint32_t allocator) {
  return (uint64_t)node | (uint64_t)(thread & 0xFFFF) << 32 | (uint64_t)(function & 0xFF) << 48 |
         (uint64_t)(allocator & 0xFF) << 56;
}
static inline uint32_t allocs_context_node(uint64_t context) { return (uint32_t)context; }
static inline uint32_t allocs_context_thread(uint64_t context) { return (uint32_t)(context >> 32) & 0xFFFF; }
static inline uint32_t allocs_context_function(uint64_t context) { return (uint32_t)(context >> 48) & 0xFF; }
static inline uint32_t allocs_context_allocator(uint64_t context) { return (uint32_t)(context >> 56); }

#endif
