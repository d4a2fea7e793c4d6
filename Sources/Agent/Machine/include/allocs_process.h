// SPDX-License-Identifier: Apache-2.0
// The agent's memory of the process that a child of fork keeps: the functions below the hooks,
// where the mappings of the segment are, and the facts about libc and the modules.

#ifndef ALLOCS_PROCESS_H
#define ALLOCS_PROCESS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_saved_state.h"
#include "allocs_binding.h"
#include "allocs_frame_table.h"
#include "allocs_hidden.h"
#include "allocs_operators.h"
#include "allocs_shared.h"
#include "allocs_terminal.h"
#include "allocs_thread_block.h"

enum allocs_phase { ALLOCS_PHASE_NEW = 0, ALLOCS_PHASE_STARTING, ALLOCS_PHASE_READY, ALLOCS_PHASE_DISABLED };

// The directory of the segment, for children that are followed.
#define ALLOCS_DIRECTORY_SIZE 4096u

enum { ALLOCS_MAPPED_ARENAS = ALLOCS_ARENA_CAPACITY, ALLOCS_MAPPED_RINGS = ALLOCS_RING_COUNT };

struct allocs_process {
  struct allocs_terminal terminal;
  // Where the kernel keeps CLOCK_MONOTONIC_COARSE, seconds and nanoseconds, in the page that the
  // vdso reads; null if they were not found.
  const uint64_t *coarse_clock;
  // As `coarse_clock`; if they were not found, two words that no clock ever has.
  const uint64_t *clock_words;
  // The definitions of C++'s operators after the agent's; null until called: the C++ library may be
  // loaded late.
  void *operators[ALLOCS_OPERATOR_COUNT];
  // The operators of an executable that has its own and is hooked at their entries; else null.
  void *own_operators[ALLOCS_OPERATOR_COUNT];
  struct allocs_shared *shared;   // null until started
  const char *suballocators;      // ALLOCS_SUBALLOC, null if it is not set; used by the constructor alone
  const char *level;              // ALLOCS_LEVEL, a copy
  uint32_t phase;                 // enum allocs_phase
  uint32_t verbose;
  pthread_key_t thread_key;
  uint32_t has_thread_key;
  int (*find_object)(void *, void *);  // _dl_find_object
  int (*set_specific)(pthread_key_t, const void *);
  uint32_t descriptor_size;       // of libc's descriptor of a thread; 0: not known
  uint64_t agent_start;           // where the agent's code lies
  uint64_t agent_end;
  int64_t stack_offset;           // from a thread's pointer to where libc keeps its stack's bounds; 0: not known
  uint64_t loader_start;          // the dynamic linker
  uint64_t loader_size;
  uint8_t *fixed_base;            // mapping of everything before the arenas
  uint64_t fixed_size;
  struct allocs_section sections[ALLOCS_SECTION_SPACE];  // as the header has them, for a child of fork
  uint8_t *arenas[ALLOCS_MAPPED_ARENAS];    // mappings, in the order of their making
  uint8_t *nested[ALLOCS_NESTED_CAPACITY];  // mappings of nested arenas, in the order of their making
  void *nested_owners[ALLOCS_NESTED_CAPACITY];  // for each, the numbers of its slots' pools; null if none has a pool
  struct allocs_gate_room gates[ALLOCS_GATED_MODULES];  // changed by the constructor, and under the linker's lock
  uint32_t has_entries;           // callers of malloc get the agent's functions by a jump at another's entry
  uint32_t declared_count;        // functions in the table of declared ones
  uint32_t watches_modules;       // the dynamic linker calls the agent when modules come and go
  uint64_t own_start;             // where the agent's own code lies, as a library
  uint64_t own_size;
  struct allocs_seen_module *seen;  // in the dynamic linker's order
  uint64_t seen_count;
  uint64_t seen_capacity;
  uint8_t *rings[ALLOCS_MAPPED_RINGS];  // mappings of rings, in the order of their making
  uint64_t ring_size;             // of each
  uint64_t stamp_floor;           // every event gets a stamp above this
  uint32_t free_stacks;           // frees record their own context
  uint32_t has_control;           // the control file lies over the page
  uint32_t follows;               // children of fork get an index of their own
  uint32_t names_directory;       // ALLOCS_DIR says where segments go
  uint32_t fork_gate;             // odd while a thread forks and nothing may be recorded; counts up
  uint32_t fork_gate_owner;       // id of that thread
  uint32_t forks_inside;          // forks of signal handlers on that thread
  uint32_t has_fine;              // some region has fine slots
  uint32_t seen_below;            // see Predecessor.swift
  uint32_t early_blocks;          // allocated while another thread started the agent, not in the segment's counter yet
  uint32_t *broken_gate;          // see Gate.swift
  struct allocs_saved_state *saved_state;  // null if this fork's child will not be followed
  char directory[ALLOCS_DIRECTORY_SIZE];
  struct allocs_frame_table frame_tables[ALLOCS_FRAME_TABLE_COUNT];
  uint64_t frame_entries;         // in all tables, ever
  struct allocs_thread_block passive;  // of threads that are not indexed: its region table is null
};

extern ALLOCS_HIDDEN struct allocs_process allocs_process_state;
// For code in the machine's own language.
_Static_assert(offsetof(struct allocs_process, terminal) == 0, "process.terminal");

static inline struct allocs_process *_Nonnull allocs_process(void) { return &allocs_process_state; }
static inline struct allocs_terminal *_Nonnull allocs_terminal(void) { return &allocs_process_state.terminal; }

// Swift sees an array of C as a tuple; these functions give a pointer to the first element.
static inline struct allocs_frame_table *_Nonnull allocs_frame_tables(void) {
  return allocs_process_state.frame_tables;
}
static inline struct allocs_section *_Nonnull allocs_kept_sections(void) { return allocs_process_state.sections; }
static inline char *_Nonnull allocs_directory(void) { return allocs_process_state.directory; }
static inline struct allocs_gate_room *_Nonnull allocs_gates(void) { return allocs_process_state.gates; }
static inline uint8_t **_Nonnull allocs_nested_mappings(void) { return allocs_process_state.nested; }
static inline void *_Nullable *_Nonnull allocs_nested_owners(void) { return allocs_process_state.nested_owners; }
static inline uint8_t **_Nonnull allocs_arena_mappings(void) { return allocs_process_state.arenas; }
static inline uint8_t **_Nonnull allocs_ring_mappings(void) { return allocs_process_state.rings; }

// The bits of an address above the region table, or of one that is not a multiple of 16: such a
// block has no coarse slot. A word in memory, because the hooks then test it with fewer
// instructions than a constant of 64 bits.
extern ALLOCS_HIDDEN const uintptr_t allocs_unindexable_bits;
static inline uintptr_t allocs_unindexable(void) { return allocs_unindexable_bits; }

// MARK: the switch of events

// A page of its own, over which the control file's first page is mapped: so a hook sees with one
// load from a constant address whether events are on. Before the mapping, and in a child, the page
// holds zeros.
extern ALLOCS_HIDDEN uint8_t allocs_control_page[ALLOCS_PAGE_SIZE];
static inline struct allocs_control *_Nonnull allocs_control(void) {
  return (struct allocs_control *)(void *)allocs_control_page;
}
static inline struct allocs_consumer *_Nonnull allocs_consumer(uint32_t index) {
  return &allocs_control()->consumers[index];
}
// The period of recording; 0 while events are off.
static inline uint32_t allocs_events_period(void) {
#ifdef ALLOCS_WITHOUT_EVENTS
  return 0;
#else
  return __atomic_load_n((const uint32_t *)(const void *)allocs_control_page, __ATOMIC_RELAXED);
#endif
}

#endif
