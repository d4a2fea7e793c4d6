// SPDX-License-Identifier: Apache-2.0
// The hooks, which the entries call: in Embedded Swift (Sources/Agent/Core/Hooks/Hook.swift).
//
// `return_slot` is the address of the return address of the program's call; `frame_pointer` is the
// program's frame pointer register.

#ifndef ALLOCS_HOOKS_H
#define ALLOCS_HOOKS_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_hooked_functions.h"

struct allocs_thread_block;
struct allocs_entry_point;
struct allocs_mapping_call;

#define ALLOCS_EXPORT __attribute__((visibility("default")))

// MARK: the malloc family

// A hook has its function's parameters and the two words of the caller. The hook of malloc is
// called where the thread is inside another hook, or has not been seen before.
#define ALLOCS_WITHOUT_PARENTHESES(...) __VA_ARGS__
#define ALLOCS_HOOK(name, result, parameters) \
  result allocs_hook_##name(                  \
      ALLOCS_WITHOUT_PARENTHESES parameters, uintptr_t return_slot, uint64_t frame_pointer);
#define ALLOCS_HOOK_MALLOC ALLOCS_HOOK
#define ALLOCS_HOOK_1 ALLOCS_HOOK
#define ALLOCS_HOOK_2 ALLOCS_HOOK
#define ALLOCS_HOOK_3 ALLOCS_HOOK
// free has two hooks: who frees is asked for only while events are on.
#define ALLOCS_HOOK_FREE(name, result, parameters) \
  result allocs_hook_##name parameters;            \
  ALLOCS_HOOK(name##_recorded, result, parameters)
#define ALLOCS_HOOK_OF_ROW(name, kit, version, entry, result, parameters, ...) \
  ALLOCS_HOOK_##entry(name, result, parameters)
ALLOCS_HOOKED_FUNCTIONS(ALLOCS_HOOK_OF_ROW)

// Where the thread was outside all hooks, malloc's entry has taken the thread's block and called
// malloc, which returned `block`. One of three hooks goes on from there.
//
// For a block that can't lie closer than 32 bytes to others, while events are off.
void *allocs_hook_malloced(void *block, size_t size, uintptr_t return_slot, uint64_t frame_pointer);
// For a block that may lie closer than 32 bytes to others, whether events are on or off.
void *allocs_hook_malloced_fine(void *block, size_t size, uintptr_t return_slot, uint64_t frame_pointer);
// For a block that can't lie closer than 32 bytes to others, while events are on.
void *allocs_hook_malloced_recorded(void *block, size_t size, uintptr_t return_slot, uint64_t frame_pointer);

// MARK: modules and mappings

int allocs_hook_dlclose(void *handle);
uint64_t allocs_mapping_number(void);
void allocs_hook_mapped(const struct allocs_mapping_call *_Nonnull call);

// MARK: operators of C++

struct allocs_thread_block *allocs_operator_enter(uintptr_t return_slot, uint64_t frame_pointer);
void allocs_operator_leave(
    struct allocs_thread_block *thread, void *block, size_t size, size_t alignment, uintptr_t return_slot,
    uint64_t frame_pointer, uint32_t function);
void allocs_operator_inner(
    void *block, size_t size, uintptr_t return_slot, uint64_t frame_pointer, uint32_t function);
void allocs_operator_unwound(void);
struct allocs_thread_block *allocs_operator_deleting(void *block, uintptr_t return_slot, uint64_t frame_pointer);
// The operators' part of allocs_entry_point.
const struct allocs_entry_point *allocs_operator_point(uint32_t index);

// Put at the start of a function that an exception may leave: lets the frame put the thread back as
// it was (Operators.c).
#define ALLOCS_UNWINDS __asm__ volatile(".cfi_personality 0x9b, DW.ref.allocs_personality")

// MARK: functions hooked by a signature (allocs_family.h)

struct allocs_hooked;
void *allocs_hook_malloc_at_entry(
    size_t size, struct allocs_hooked *hooked, uintptr_t return_slot, uint64_t frame_pointer);
void allocs_hook_free_at_entry(
    void *block, uint64_t second, struct allocs_hooked *hooked, uintptr_t return_slot, uint64_t frame_pointer);
uint64_t allocs_hook_at_entry(
    struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t return_slot, uint64_t frame_pointer);
// The size and the alignment that a call asks for; gives the size.
size_t allocs_request(struct allocs_hooked *hooked, uint64_t *arguments, size_t *alignment);

// For other definitions than the agent's whose symbols lead to it (allocs_definition.h).
uint64_t allocs_hook_passing(
    struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t return_slot, uint64_t frame_pointer);
void allocs_bind_early(void);
void allocs_refer_to_early(void);

// MARK: suballocators (allocs_pool.h)

struct allocs_pool_kind;
void allocs_announced_allocation(
    struct allocs_pool_kind *kind, const void *pool, const void *block, size_t size, uintptr_t return_slot,
    uint64_t frame_pointer);
void allocs_announced_free(struct allocs_pool_kind *kind, const void *block);
void allocs_announced_reset(struct allocs_pool_kind *kind, const void *pool, const void *since);

// MARK: the life of the agent

void allocs_constructed(void);
void allocs_destructed(void);
void allocs_fork_begins(void);
void allocs_fork_ended(void);
void allocs_child_started(void);
void *allocs_next_definition(const char *name);
void allocs_resolve_terminal(void);
_Bool allocs_agent_is_preloaded(void);

#endif
