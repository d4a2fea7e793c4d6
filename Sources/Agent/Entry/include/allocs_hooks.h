// What the User layer calls: the hooks, in Embedded Swift (Sources/Agent/Core/Hooks/Hook.swift). `place` is
// where the return address of the call lies that the program made, `frame_pointer` its frame pointer register.

#ifndef ALLOCS_HOOKS_H
#define ALLOCS_HOOKS_H

#include <stddef.h>
#include <stdint.h>

struct allocs_thread_block;
struct allocs_entry_point;
struct allocs_mapping_call;

// Of a thread that is inside a hook, or has not been seen before.
void *allocs_hook_malloc(size_t size, uintptr_t place, uint64_t frame_pointer);
// Of any other, which has taken its block, and called malloc, which returned `block`.
void *allocs_hook_malloced(void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
// The same for a block that may lie closer to others than 32 bytes, whether events are on or off.
void *allocs_hook_malloced_fine(void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
// The same while events are on.
void *allocs_hook_malloced_recorded(void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_calloc(size_t count, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_realloc(void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_reallocarray(void *block, size_t count, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_memalign(size_t alignment, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_aligned_alloc(size_t alignment, size_t size, uintptr_t place, uint64_t frame_pointer);
int allocs_hook_posix_memalign(void **result, size_t alignment, size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_valloc(size_t size, uintptr_t place, uint64_t frame_pointer);
void *allocs_hook_pvalloc(size_t size, uintptr_t place, uint64_t frame_pointer);
void allocs_hook_free(void *block);
// The same while events are on.
void allocs_hook_free_recorded(void *block, uintptr_t place, uint64_t frame_pointer);
void allocs_hook_free_sized(void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
void allocs_hook_free_aligned_sized(void *block, size_t alignment, size_t size, uintptr_t place, uint64_t frame_pointer);
int allocs_hook_dlclose(void *handle);

uint64_t allocs_mapping_number(void);
void allocs_hook_mapped(const struct allocs_mapping_call *_Nonnull call);

struct allocs_thread_block *allocs_operator_enter(uintptr_t place, uint64_t frame_pointer);
void allocs_operator_leave(struct allocs_thread_block *thread, void *block, size_t size, size_t alignment, uintptr_t place, uint64_t frame_pointer, uint32_t function);
void allocs_operator_inner(void *block, size_t size, uintptr_t place, uint64_t frame_pointer, uint32_t function);
void allocs_operator_unwound(void);
struct allocs_thread_block *allocs_operator_deleting(void *block, uintptr_t place, uint64_t frame_pointer);

// Put at the start of a function that an exception may leave: lets the frame put the thread back as it was
// (Operators.c).
#define ALLOCS_UNWINDS __asm__ volatile(".cfi_personality 0x9b, DW.ref.allocs_personality")

// Of functions hooked by a signature (allocs_family.h).
struct allocs_hooked;
void *allocs_hook_hooked_malloc(size_t size, struct allocs_hooked *hooked, uintptr_t place, uint64_t frame_pointer);
void allocs_hook_hooked_free(void *block, uint64_t second, struct allocs_hooked *hooked, uintptr_t place, uint64_t frame_pointer);
// What is asked for; gives the size.
size_t allocs_request(struct allocs_hooked *hooked, uint64_t *arguments, size_t *alignment);
uint64_t allocs_hook_hooked(struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t place, uint64_t frame_pointer);

// Of definitions other than the agent's whose symbols lead to it (allocs_definition.h).
uint64_t allocs_hook_passing(struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t place, uint64_t frame_pointer);
void allocs_bind_early(void);
void allocs_refer_to_early(void);

// The operators' part of allocs_entry_point.
const struct allocs_entry_point *allocs_operator_point(uint32_t index);

struct allocs_pool_kind;
void allocs_announced_allocation(struct allocs_pool_kind *kind, const void *pool, const void *block, size_t size, uintptr_t place, uint64_t frame_pointer);
void allocs_announced_free(struct allocs_pool_kind *kind, const void *block);
void allocs_announced_reset(struct allocs_pool_kind *kind, const void *pool, const void *since);

void allocs_constructed(void);
void allocs_destructed(void);
void allocs_fork_begins(void);
void allocs_fork_ended(void);
void allocs_child_started(void);
void *allocs_next_definition(const char *name);
void allocs_resolve_terminal(void);
_Bool allocs_agent_is_preloaded(void);

#define ALLOCS_EXPORT __attribute__((visibility("default")))

#endif
