// SPDX-License-Identifier: Apache-2.0
// The functions by which the agent asks libc and the dynamic linker: the seam to another C library
// (Core/Libc answers them; docs/porting.md). docs/libc.md tells which functions of libc they need.

#ifndef ALLOCS_LIBC_H
#define ALLOCS_LIBC_H

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>

#include "allocs_hidden.h"

// MARK: libc

// Finds what the agent needs of libc. False in another libc than glibc 2.35 or newer: there the
// agent passes all calls on.
extern ALLOCS_HIDDEN bool allocs_find_libc(void);
// The initial environment, from the stack if libc has not set its own pointer yet. Null if neither
// is known.
extern ALLOCS_HIDDEN char **allocs_environment(void);
extern ALLOCS_HIDDEN void allocs_register_fork_handlers(void);
// Makes a key whose destructor tells of a thread's end. False if there is none that libc would keep
// without allocating.
extern ALLOCS_HIDDEN bool allocs_create_thread_key(void (*_Nonnull destructor)(void *_Nullable));
extern ALLOCS_HIDDEN bool allocs_set_thread_key(const void *_Nullable value);
// One past the main thread's first frame.
extern ALLOCS_HIDDEN uint64_t allocs_main_stack_end(void);
// The calling thread's thread pointer.
static inline uint64_t allocs_thread_pointer(void) { return (uint64_t)(uintptr_t)__builtin_thread_pointer(); }
static inline uint64_t allocs_stack_address(void) { return (uint64_t)(uintptr_t)__builtin_frame_address(0); }

// MARK: the list of modules

extern ALLOCS_HIDDEN struct link_map *_Nullable allocs_first_link_map(void);
// Whether `map` is the module that the agent is in: its own, or, linked into it, the executable.
extern ALLOCS_HIDDEN bool allocs_is_own_module(const struct link_map *map);
// An address in that module.
extern ALLOCS_HIDDEN const void *_Nonnull const allocs_own_module;
// Whether `map` is the executable.
extern ALLOCS_HIDDEN bool allocs_is_main_module(const struct link_map *map);
extern ALLOCS_HIDDEN uint64_t allocs_vdso_start(void);  // 0 if there is none
// Whether the dynamic linker is the program that was executed, and started this program (`ld.so
// PROGRAM`).
extern ALLOCS_HIDDEN bool allocs_is_started_by_loader(void);
// The list of modules of a namespace of dlmopen's. The first namespace is the program's own; null
// behind the last. Called under the dynamic linker's lock.
extern ALLOCS_HIDDEN const struct r_debug *_Nullable allocs_next_namespace(const struct r_debug *_Nullable previous);
// The function that the dynamic linker calls when modules come and go, as debuggers know it.
extern ALLOCS_HIDDEN uint64_t allocs_debugger_function(void);
// The function that the agent puts in its place: it calls allocs_modules_changed, and leaves every
// register as it was.
extern ALLOCS_HIDDEN void allocs_debugger_stub(void);
static inline uint64_t allocs_debugger_stub_address(void) { return (uint64_t)(uintptr_t)allocs_debugger_stub; }

// MARK: where modules lie

// The module that covers `address`, without a lock. False if there is none.
extern ALLOCS_HIDDEN bool allocs_find_module(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map);
// Where the dynamic linker lies.
extern ALLOCS_HIDDEN bool allocs_find_loader(uint64_t *start, uint64_t *end);
// The program headers of the executable, as the kernel tells; null if it told none.
extern ALLOCS_HIDDEN const ElfW(Phdr) *_Nullable allocs_executable_headers(uint64_t *_Nonnull count);
// The segment or module around `address`, and the module's .eh_frame_hdr, which may lie in another
// segment; 0 if it has none.
extern ALLOCS_HIDDEN bool allocs_find_frame_table(
    uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map, uint64_t *table);
// The segment around `address`, or the whole module where its segments lie side by side: all that
// is mapped there and belongs to `map`. False if it belongs to another module.
extern ALLOCS_HIDDEN bool allocs_find_segment(
    uint64_t address, const struct link_map *map, uint64_t *start, uint64_t *end);
// The part of a module's loaded segment that is from the file.
struct allocs_code_segment {
  uint64_t start;
  uint64_t end;
  uint32_t is_readable;
  uint32_t is_code;
};
// The segment with this index, from 0; false if there is none, or the module's headers are not
// found.
extern ALLOCS_HIDDEN bool allocs_module_segment(
    const struct link_map *map, uint32_t index, struct allocs_code_segment *segment);
// The end of the code around `address`, 0 if no module has code there. Takes the dynamic linker's
// lock.
extern ALLOCS_HIDDEN uint64_t allocs_code_end(uint64_t address);
// Whether `address` is in the entry code of the executable or the dynamic linker, which nobody
// calls.
extern ALLOCS_HIDDEN bool allocs_is_entry(uint64_t address);
// Calls `visitor` for each module with a block of thread-local variables of the calling thread,
// with an address in the module, the address of the block, and its size. Takes the dynamic linker's
// lock.
typedef void (*allocs_thread_local_visitor)(uint64_t module, uint64_t block, uint64_t size);
extern ALLOCS_HIDDEN void allocs_visit_thread_local_blocks(allocs_thread_local_visitor _Nonnull visitor);

#endif
