// SPDX-License-Identifier: Apache-2.0
// Allocators: whose memory a block is. A context's `allocator` is an index into this table.
//
//   entry 0     the allocator below the agent's malloc: the C library's, or one in its place
//   others      in the order in which they were met: another malloc of the process, or one way in
//               which a pool hands out its blocks
//
// A pool that hands out blocks through several functions has an entry for each function. All
// entries of the pool have the same `group`, the index of its first entry. Entries do not change,
// and the table only grows; `used` of the section is raised after an entry is complete (release).

#ifndef ALLOCS_ALLOCATOR_H
#define ALLOCS_ALLOCATOR_H

#include <stddef.h>
#include <stdint.h>

// The context word has 8 bits for the index.
#define ALLOCS_ALLOCATOR_CAPACITY 256u

enum allocs_allocator_kind {
  ALLOCS_ALLOCATOR_NONE = 0,           // not a complete entry
  ALLOCS_ALLOCATOR_PRIMARY = 1,        // takes its memory from the system: its blocks are chunks
  // Carves up blocks that another allocator handed out, or mappings, or static memory.
  ALLOCS_ALLOCATOR_SUBALLOCATOR = 2
};

enum allocs_allocator_flag {
  // The program itself announced it, through allocs_pool.h. Without this flag a suballocator was
  // declared by name, in ALLOCS_SUBALLOC.
  ALLOCS_ALLOCATOR_ANNOUNCED = 1,
  // ALLOCS_LEVEL asks that answers begin with the chunk in which the allocator's blocks lie.
  ALLOCS_ALLOCATOR_SHOWN_AS_CHUNK = 2
};

struct allocs_allocator {
  // Offset into the strings. If `name_size` is 0, the allocator is called by its module's file
  // name.
  uint64_t name;
  // Offset into the strings: the function that hands out blocks. If `function_size` is 0, the
  // context says which function it was.
  uint64_t function;
  uint32_t name_size;      // bytes
  uint32_t function_size;
  uint32_t module;         // 1 + index of the module that has the code, 0 if it is not known
  uint32_t kind;           // enum allocs_allocator_kind
  uint32_t group;          // index of the first entry of the same allocator, which may be this one
  uint32_t flags;          // enum allocs_allocator_flag
  // Offset into the strings: the path of a module that was loaded after the start. Of such a module
  // `module` says nothing.
  uint64_t path;
  uint64_t path_size;      // bytes; 0 if the module was there at the start
  uint64_t reserved;
};

_Static_assert(sizeof(struct allocs_allocator) == 64, "allocator");
_Static_assert(offsetof(struct allocs_allocator, name_size) == 16, "allocator.name_size");
_Static_assert(offsetof(struct allocs_allocator, module) == 24, "allocator.module");
_Static_assert(offsetof(struct allocs_allocator, kind) == 28, "allocator.kind");
_Static_assert(offsetof(struct allocs_allocator, group) == 32, "allocator.group");

#endif
