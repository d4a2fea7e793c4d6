// Allocators: whose memory a block is. A context's `allocator` is an index into this table.
//
//   entry 0     the allocator below the agent's malloc: the C library's, or one that takes its place
//   others      as they were met: another malloc of the process, or one way in which a pool hands out its blocks
//
// A pool that has several functions for it has an entry for each; they have the same `group`, the entry of its first
// one. Entries only grow, and do not change; `used` of the section is raised after an entry is complete (release).

#ifndef ALLOCS_ALLOCATOR_H
#define ALLOCS_ALLOCATOR_H

#include <stddef.h>
#include <stdint.h>

// The context word has 8 bits for it.
#define ALLOCS_ALLOCATOR_CAPACITY 256u

enum allocs_allocator_kind {
  ALLOCS_ALLOCATOR_NONE = 0,           // not a complete entry
  ALLOCS_ALLOCATOR_PRIMARY = 1,        // takes its memory from the system: its blocks are chunks
  ALLOCS_ALLOCATOR_SUBALLOCATOR = 2    // carves up what another handed out, or mappings, or static memory
};

enum allocs_allocator_flag {
  ALLOCS_ALLOCATOR_ANNOUNCED = 1,      // by the program itself, through allocs_pool.h; else by name, in ALLOCS_SUBALLOC
  ALLOCS_ALLOCATOR_SHOWN_AS_CHUNK = 2  // ALLOCS_LEVEL: answers lead with the chunk that its blocks lie in
};

struct allocs_allocator {
  uint64_t name;           // offset into the strings; it is called by its module's file name if name_size is 0
  uint64_t function;       // likewise: the function that hands out; that of the context if function_size is 0
  uint32_t name_size;      // bytes
  uint32_t function_size;
  uint32_t module;         // 1 + index of the module that has the code, 0 if it is not known
  uint32_t kind;           // enum allocs_allocator_kind
  uint32_t group;          // index of the first entry of the same allocator, which may be this one
  uint32_t flags;          // enum allocs_allocator_flag
  uint64_t path;           // offset into the strings: the path of a module that came later, of which `module` says nothing
  uint64_t path_size;      // bytes; 0 if it is none
  uint64_t reserved;
};

_Static_assert(sizeof(struct allocs_allocator) == 64, "allocator");
_Static_assert(offsetof(struct allocs_allocator, name_size) == 16, "allocator.name_size");
_Static_assert(offsetof(struct allocs_allocator, module) == 24, "allocator.module");
_Static_assert(offsetof(struct allocs_allocator, kind) == 28, "allocator.kind");
_Static_assert(offsetof(struct allocs_allocator, group) == 32, "allocator.group");

#endif
