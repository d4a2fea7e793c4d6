// SPDX-License-Identifier: Apache-2.0
// The agent's memory of one thread: its block, which a child of fork finds wiped; its variables in
// thread-local storage; and the chunks that blocks are taken from.
//
// A hook takes the block out of the thread-local variable `self` and leaves null there; at its end
// it puts the block back. So a null `self` means one of two things: the thread is inside a hook,
// and then `registered` still has the thread's block; or the thread is not registered yet, and then
// `registered` is null, too. Reentrancy so costs one load, one test and two stores.

#ifndef ALLOCS_THREAD_BLOCK_H
#define ALLOCS_THREAD_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"
#include "allocs_stack_cache.h"

// MARK: the block

// A context that this thread has allocated in. The key is
// (function ^ malloc) << 56 | allocator << 48 | node, and 0 if the entry is empty: for the malloc
// that programs call most, it is the node. Where only call sites are recorded, the return address
// stands for the node.
struct allocs_site {
  uint64_t key;
  uint64_t bits;  // the context, where the head of a slot has it
};
#define ALLOCS_SITE_SHIFT 22u  // a hash of 32 bits
#define ALLOCS_SITE_COUNT 1024u

// Whether a hook under way has called a function that may come back through another hook with the
// block that the outer hook will return: operator new calls malloc. The inner hook then only notes
// what it allocated.
enum allocs_delegating {
  ALLOCS_DELEGATING_NOT = 0,
  ALLOCS_DELEGATING = 1,
  ALLOCS_DELEGATING_OPERATOR = 2,  // the function may call the new-handler, which is the program's own code
  ALLOCS_DELEGATING_PAUSED = 3     // an inner hook is noting what it allocated: none of a signal handler notes
};

// A place in a function below the agent that calls a hook: the agent's own return address lies
// `distance` bytes above the return address of that call. Where that address was `agent_pc`, the
// return address of the outer hook, whose frame has one size, lies `hook_distance` bytes above.
struct allocs_inner_site {
  uint64_t pc;  // 0: the entry is empty
  uint64_t distance;
  uint64_t agent_pc;
  uint64_t hook_distance;
};
#define ALLOCS_INNER_SITE_COUNT 8u

// The pool that handed out the thread's last block, and the range around that block which is known
// to hold blocks of that pool.
struct allocs_last_pool {
  uint64_t address;
  uint64_t start;
  uint64_t end;
  uint32_t number;
  uint32_t group;
  uint32_t epoch;
  uint32_t unused;
};

// A thread's recording of events. The ring and the stamp stay with the block when another thread
// gets it.
struct allocs_events {
  struct allocs_event *records;  // of the ring; null until the thread has recorded something
  struct allocs_ring *ring;
  uint64_t mask;                 // capacity - 1
  uint64_t position;             // records written
  uint64_t announced;            // where the next chunk has to be announced
  uint32_t period;               // the period of recording that the thread has noted in its ring
  uint32_t recording;            // an event is being recorded: a signal handler must not record another
  uint64_t stamp;                // of the last event
  uint64_t clock_seconds;        // the clock's words as of the last event
  uint64_t clock_nanoseconds;
  const uint64_t *contexts;      // the segment's table
  uint32_t ticks;                // the tick of the clock's words
  uint32_t slot;                 // the thread's
  // The fields below are looked at once for each chunk of records.
  uint64_t committed;            // records that memory was got for
  uint64_t taken;                // all lossless consumers have taken the records below
  uint64_t overrun;              // the chunk that ends here may overwrite records that consumers have not taken
  uint32_t changes;              // changes of the consumers that `taken` takes account of
  uint32_t number;               // of the ring
  uint32_t has_started;          // the thread's start is in the ring
  uint32_t refusal;              // the tick at which memory for the ring was refused last; 0: never
  uint64_t given_up[ALLOCS_CONSUMER_COUNT];  // 1 + the position that a consumer was waited for in vain at
};

struct allocs_thread_block {
  uint8_t **regions;             // region table: arena of each region, null where there is none; null: do not index
  uint8_t **free_regions;        // as `regions`; null also if a free concerns more than the index
  // As `regions`; null also if the origin of an allocation is its whole call stack.
  uint8_t **site_regions;
  struct allocs_thread *entry;   // the thread's entry in the segment
  struct allocs_total *totals;   // of all contexts; null: the thread counts none (Totals.swift)
  uint64_t clock_seconds;        // the clock's words as of the thread's last look (Clock.swift)
  uint64_t clock_nanoseconds;
  uint64_t time;                 // the same moment, where the head of a slot has it
  uint32_t slot;                 // of that entry; ALLOCS_THREAD_UNKNOWN if there was no room
  uint32_t tid;
  uint32_t delegating;           // enum allocs_delegating
  uint64_t inner_base;           // the block that an inner hook has noted; 0: none; 1: one that was freed
  uint64_t inner_size;
  uint64_t inner_site;           // not 0: `inner_context` is not known yet (LeftCalls.isDirect); the inner call's site
  uint32_t inner_function;       // enum allocs_function, and from bit 8 on the allocator, of that call
  uint32_t inner_context;
  uint32_t inner_is_tight;       // "tight" is explained in Hook.swift
  uint32_t full_stacks;          // whole call stacks are recorded, else call sites
  uint64_t stack_low;            // the thread's own stack
  uint64_t stack_high;
  uint64_t outer_return_slot;    // address of the hook's return address, while `delegating`; 0: not noted
  uint64_t operator_return_slot;    // as above, of the outermost operator new, the last one that has begun
  uint64_t operator_frame_pointer;  // of its caller
  uint64_t resizing;             // the block of a realloc that is under way, if its record was erased
  struct allocs_inner_site inner_sites[ALLOCS_INNER_SITE_COUNT];
  uint32_t foreign_misses;       // times in a row that the stack the thread was on was no alternate stack
  uint32_t foreign_skips;        // times that the kernel is not asked for the alternate stack
  uint32_t frame_count;          // of the list of frames
  uint32_t walk;                 // number of the last walk
  uint32_t frames_cut;           // frames beyond the depth limit; 0: the stack was not cut
  uint32_t capturing;
  struct allocs_thread_block *next;  // in the queue of ended threads
  uint32_t destructor_rounds;
  uint32_t queued;
  uint64_t frames_counted;       // frames beyond the depth limit that were walked only to count them
  const struct allocs_thread_local *local;  // the thread's own: other threads see there whether it is in a hook
  uint32_t at_gate;              // waits while another thread forks
  uint32_t gated;                // its region table was taken away for that time
  // Ids of contexts that are this thread's to hand out: the next one, and, from bit 32 on, the one
  // behind the last.
  uint64_t own_contexts;
  struct allocs_last_pool last_pool;
  struct allocs_events events;
  struct allocs_site sites[ALLOCS_SITE_COUNT];
};

// MARK: chunks

// Blocks are mapped 16 at a time: a thread should not cost a system call for its block. A thread's
// two blocks are a constant distance apart, so that the address of each block gives the address
// of the other without a load.
#define ALLOCS_BLOCKS_PER_CHUNK 16u
union allocs_thread_place {
  struct allocs_thread_block block;
  uint8_t room[sizeof(struct allocs_stack_block)];
};
struct allocs_thread_chunk {
  union allocs_thread_place threads[ALLOCS_BLOCKS_PER_CHUNK];  // wiped in a child
  struct allocs_stack_block stacks[ALLOCS_BLOCKS_PER_CHUNK];
  struct allocs_thread_chunk *next;
};
_Static_assert(sizeof(union allocs_thread_place) == sizeof(struct allocs_stack_block), "a constant distance");
enum { ALLOCS_CHUNK_WIPED_SIZE = ALLOCS_BLOCKS_PER_CHUNK * sizeof(union allocs_thread_place) };

// Swift sees an array of C as a tuple; these functions give a pointer to the first element.
static inline struct allocs_thread_block *_Nonnull allocs_chunk_thread(
    struct allocs_thread_chunk *_Nonnull chunk, uint64_t index) {
  return &chunk->threads[index].block;
}
static inline struct allocs_stack_block *_Nonnull allocs_stacks(struct allocs_thread_block *_Nonnull thread) {
  return (struct allocs_stack_block *)((uint8_t *)thread + sizeof(((struct allocs_thread_chunk *)0)->threads));
}
static inline struct allocs_frame *_Nonnull allocs_frames(struct allocs_thread_block *_Nonnull thread) {
  return allocs_stacks(thread)->frames;
}
static inline struct allocs_words *_Nonnull allocs_list_words(struct allocs_thread_block *_Nonnull thread) {
  return allocs_stacks(thread)->words;
}
static inline struct allocs_listed *_Nonnull allocs_listed(struct allocs_thread_block *_Nonnull thread) {
  return allocs_stacks(thread)->listed;
}
static inline struct allocs_child *_Nonnull allocs_children(struct allocs_thread_block *_Nonnull thread) {
  return allocs_stacks(thread)->children;
}
// The thread's memo; null if it has none, or if a hook must not look there by itself.
static inline struct allocs_memo *_Nullable allocs_open_memo(struct allocs_thread_block *_Nonnull thread) {
  const struct allocs_stack_block *stacks = allocs_stacks(thread);
  return stacks->must_forget | stacks->is_checked ? NULL : stacks->memo;
}
static inline struct allocs_memo_door *_Nonnull allocs_memo_doors(struct allocs_memo *_Nonnull memo) {
  return memo->doors;
}
static inline struct allocs_memo_set *_Nonnull allocs_memo_sets(struct allocs_memo *_Nonnull memo) {
  return memo->sets;
}
static inline uint8_t *_Nonnull allocs_memo_room(struct allocs_memo *_Nonnull memo) { return memo->room; }
static inline uint32_t *_Nonnull allocs_memo_tags(struct allocs_memo_set *_Nonnull set) { return set->tags; }
static inline uint32_t *_Nonnull allocs_memo_places(struct allocs_memo_set *_Nonnull set) { return set->places; }
static inline uint16_t *_Nonnull allocs_group_offsets(struct allocs_word_group *_Nonnull group) {
  return group->offsets;
}
static inline uint64_t *_Nonnull allocs_group_values(struct allocs_word_group *_Nonnull group) {
  return group->values;
}
static inline uint16_t *_Nonnull allocs_met_frames(struct allocs_thread_block *_Nonnull thread) {
  return allocs_stacks(thread)->met;
}
static inline struct allocs_site *_Nonnull allocs_sites(struct allocs_thread_block *_Nonnull thread) {
  return thread->sites;
}
static inline uint64_t allocs_site_key(const struct allocs_thread_block *_Nonnull thread, uint32_t index) {
  return thread->sites[index].key;
}
static inline uint64_t allocs_site_bits(const struct allocs_thread_block *_Nonnull thread, uint32_t index) {
  return thread->sites[index].bits;
}
// Gives `block` back so that a compiler does not know that it does. Else a caller of the function
// that returns it keeps `block` in a register of its own over the call, instead of jumping there.
static inline void *_Nullable allocs_unknown(void *_Nullable block) {
  __asm__("" : "+r"(block));
  return block;
}
static inline uint64_t *_Nonnull allocs_given_up(struct allocs_thread_block *_Nonnull thread) {
  return thread->events.given_up;
}
// The entry where the inner site of `pc` is kept, if it is.
static inline struct allocs_inner_site *_Nonnull allocs_inner_site(
    struct allocs_thread_block *_Nonnull thread, uint64_t pc) {
  return &thread->inner_sites[pc >> 4 & (ALLOCS_INNER_SITE_COUNT - 1)];
}

// MARK: thread-local variables

struct allocs_thread_local {
  struct allocs_thread_block *self;        // null while the thread is inside a hook
  struct allocs_thread_block *registered;  // null until the thread has a block
  struct allocs_declared_call *declared;   // the outermost call of a declared function that is under way
  uint64_t locked;                         // the thread holds the lock of the slow paths, or waits for it
  uint64_t noting;                         // the thread notes a change of mappings, inside a hook or not
};
// For code in the machine's own language.
_Static_assert(offsetof(struct allocs_thread_local, self) == 0, "thread_local.self");
extern __thread __attribute__((tls_model("initial-exec"))) ALLOCS_HIDDEN struct allocs_thread_local allocs_thread_local;

// Takes the thread's block; null if the thread is inside a hook or not registered.
static inline struct allocs_thread_block *allocs_enter(void) {
  struct allocs_thread_block *thread = allocs_thread_local.self;
  allocs_thread_local.self = NULL;
  // A signal handler that runs between here and allocs_leave must find null.
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  return thread;
}
// Puts back the block that allocs_enter gave.
static inline void allocs_leave(struct allocs_thread_block *thread) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  allocs_thread_local.self = thread;
}
static inline bool allocs_holds_lock(void) { return allocs_thread_local.locked != 0; }
// Called before the lock is taken and after it is given back, so that a signal handler knows of the
// lock.
static inline void allocs_set_holds_lock(bool holds) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  allocs_thread_local.locked = holds;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline struct allocs_thread_block *allocs_registered_block(void) { return allocs_thread_local.registered; }
static inline const struct allocs_thread_local *_Nonnull allocs_own_thread_local(void) { return &allocs_thread_local; }
static inline void allocs_set_registered_block(struct allocs_thread_block *thread) {
  allocs_thread_local.registered = thread;
}
static inline bool allocs_is_inside(void) {
  return allocs_thread_local.self == NULL && allocs_thread_local.registered != NULL;
}
// Says that the thread is about to load addresses of the segment to note a change of mappings;
// gives what was said before, to be said again behind it.
static inline uint64_t allocs_set_noting(uint64_t noting) {
  uint64_t before = allocs_thread_local.noting;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  allocs_thread_local.noting = noting;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  return before;
}
// Whether the code that a signal handler has interrupted may hold an address of the segment.
static inline bool allocs_may_hold_segment(void) { return allocs_is_inside() || allocs_thread_local.noting != 0; }

#endif
