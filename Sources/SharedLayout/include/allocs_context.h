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

// The functions through which an allocation is made, or freed. The numbers are part of the format.
enum allocs_function {
  ALLOCS_FUNCTION_UNKNOWN = 0,
  ALLOCS_FUNCTION_MALLOC,
  ALLOCS_FUNCTION_CALLOC,
  ALLOCS_FUNCTION_REALLOC,
  ALLOCS_FUNCTION_REALLOCARRAY,
  ALLOCS_FUNCTION_MEMALIGN,
  ALLOCS_FUNCTION_POSIX_MEMALIGN,
  ALLOCS_FUNCTION_ALIGNED_ALLOC,
  ALLOCS_FUNCTION_VALLOC,
  ALLOCS_FUNCTION_PVALLOC,
  ALLOCS_FUNCTION_NEW,
  ALLOCS_FUNCTION_NEW_ARRAY,
  // jemalloc's and mimalloc's own.
  ALLOCS_FUNCTION_MALLOCX,
  ALLOCS_FUNCTION_RALLOCX,
  ALLOCS_FUNCTION_XALLOCX,
  ALLOCS_FUNCTION_ZALLOC,
  ALLOCS_FUNCTION_MALLOC_ALIGNED,
  ALLOCS_FUNCTION_ZALLOC_ALIGNED,
  ALLOCS_FUNCTION_CALLOC_ALIGNED,
  ALLOCS_FUNCTION_REALLOC_ALIGNED,
  ALLOCS_FUNCTION_EXPAND,
  // Of mappings, not of blocks.
  ALLOCS_FUNCTION_MMAP,
  ALLOCS_FUNCTION_MREMAP,
  ALLOCS_FUNCTION_BRK,
  ALLOCS_FUNCTION_SBRK,
  // Of frees that record their own context.
  ALLOCS_FUNCTION_FREE = 32,
  ALLOCS_FUNCTION_DELETE,
  ALLOCS_FUNCTION_COUNT
};

static inline const char *allocs_function_name(uint32_t function) {
  static const char *const names[ALLOCS_FUNCTION_COUNT] = {
      "",         "malloc",         "calloc",        "realloc", "reallocarray", "memalign",
      "posix_memalign", "aligned_alloc", "valloc",  "pvalloc",      "operator new", "operator new[]",
      "mallocx",  "rallocx",        "xallocx",       "zalloc",  "malloc_aligned", "zalloc_aligned",
      "calloc_aligned", "realloc_aligned", "expand",
      "mmap",     "mremap",         "brk",           "sbrk",
      [ALLOCS_FUNCTION_FREE] = "free", "operator delete"};
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
