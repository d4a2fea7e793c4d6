// The agent's private memory: what every hook needs, in C because it is thread-local or reached by address from C.
//
// Two kinds of storage, told apart by what happens to them in a child process:
//
// - `struct allocs_thread_block`, one for each thread, and `struct allocs_shared`, one for the process, lie in mappings
//   with MADV_WIPEONFORK. A child of fork, however it was made, finds zeros there: no region table, no segment.
//   Every path to the segment begins at one of them, so a child cannot write to its parent's segment.
// - `struct allocs_process` is ordinary memory, the same in a child: the functions below the hooks, and where the
//   mappings are.
//
// The hooks' protocol with thread-local `self`: a hook takes it and leaves null; it puts it back at its end. So null
// means that the thread is inside a hook (then `registered` says which block is its own), or is not yet
// registered (then that is null too). That is one load, one test and two stores for reentrancy.

#ifndef ALLOCS_AGENT_H
#define ALLOCS_AGENT_H

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "SharedLayout.h"

#pragma clang diagnostic ignored "-Wnullability-completeness"

#define ALLOCS_HIDDEN __attribute__((visibility("hidden")))

// MARK: threads

// A context this thread has allocated in: key is node (or, with one frame, return address) | allocator << 48 | function
// << 56, 0 if empty.
struct allocs_site {
  uint64_t key;
  uint64_t context;
};
#define ALLOCS_SITE_SHIFT 54u
#define ALLOCS_SITE_COUNT 1024u

// A frame that a capture of the thread has met: the registers on entry to it, and where they led.
struct allocs_frame {
  uint64_t sp;
  uint64_t pc;
  uint64_t fp;
  uint64_t cfa;          // the caller's stack pointer, if the rule is of kind FRAME
  uint32_t rule;         // FrameRule's bits
  uint32_t node;
  uint32_t parent;       // the node it was made from
  uint32_t walk;         // the last walk that met it
  uint32_t outer;        // where the caller's frame was last time
  uint32_t place;        // its index in the list, if the entry there names it
  uint64_t unused;
};
#define ALLOCS_FRAME_LIMIT 128u  // of one stack
_Static_assert(ALLOCS_FRAME_LIMIT == ALLOCS_DEPTH_MAX, "ALLOCS_DEPTH may ask for each depth");
#define ALLOCS_FRAME_SHIFT 56u
#define ALLOCS_FRAMES_KEPT 512u
#define ALLOCS_FRAME_NOWHERE 0xFFFFFFFFu
#define ALLOCS_DEPTH_DEFAULT 128u

// A word of the stack that a capture has read.
struct allocs_word {
  uint64_t address;
  uint64_t value;
};
#define ALLOCS_FRAME_WORDS 4u  // of one frame, at most

// An entry of the list: a frame, its node there, its frame pointer register if what is outside hangs on that, and how
// many of the words led from there to the outermost frame.
struct allocs_listed {
  uint64_t fp;
  uint32_t node;
  uint16_t frame;
  uint16_t words;
  uint64_t needs_fp;
};

// A node this thread has looked up: of the call that returns to pc, made from parent.
struct allocs_child {
  uint64_t pc;
  uint32_t parent;
  uint32_t node;
};
#define ALLOCS_CHILD_COUNT 2048u
#define ALLOCS_CHILD_SHIFT 53u

// An outer hook calls a function that may come back through a hook with the same block: operator new calls malloc.
// The inner call then only notes what it allocated.
enum allocs_delegating {
  ALLOCS_DELEGATING_NOT = 0,
  ALLOCS_DELEGATING = 1,
  ALLOCS_DELEGATING_OPERATOR = 2  // to what may call the new-handler, which is the program's own code
};

// Where a function that was called by the agent calls a hook: the agent's return address lies so far above that of the
// call.
struct allocs_inner_site {
  uint64_t pc;  // 0: none
  uint64_t distance;
};
#define ALLOCS_INNER_SITE_COUNT 8u

// Where the last pool that a thread was handed a block by has blocks: those in this range are known to be looked
// through.
struct allocs_last_pool {
  uint64_t address;
  uint64_t start;
  uint64_t end;
  uint32_t number;
  uint32_t group;
  uint32_t epoch;
  uint32_t unused;
};

// A thread's recording of events. The ring goes with the block to the next thread that gets it; so does the stamp.
struct allocs_events {
  struct allocs_event *records;  // of the ring; null until the thread has recorded something
  struct allocs_ring *ring;
  uint64_t mask;                 // capacity - 1
  uint64_t position;             // records written
  uint64_t announced;            // where the next chunk has to be announced
  uint32_t period;               // of recording, that the thread has noted in its ring
  uint32_t recording;            // in the middle of it: a signal handler must not
  uint64_t stamp;                // of the last event
  uint64_t clock_seconds;        // the clock's words, as they were then
  uint64_t clock_nanoseconds;
  const uint64_t *contexts;      // the segment's table
  uint32_t ticks;                // the tick of those words
  uint32_t slot;                 // the thread's
  // What is looked at once for each chunk.
  uint64_t committed;            // records that memory was got for
  uint64_t taken;                // all lossless consumers have taken the records below
  uint64_t overrun;              // the chunk that ends here may overwrite records that they have not
  uint32_t changes;              // of the consumers, that `taken` knows of
  uint32_t number;               // of the ring
  uint32_t has_started;          // the thread's start is in the ring
  uint32_t refusal;              // the tick at which memory for the ring was refused last; 0: never
  uint64_t given_up[ALLOCS_CONSUMER_COUNT];  // 1 + the position that a consumer was waited for in vain at
};

struct allocs_thread_block {
  uint8_t **regions;             // region table: arena of each region, null where there is none; null: do not index
  uint8_t **free_regions;        // the same; null also if more than the index must be told of a free
  struct allocs_thread *entry;   // the thread's entry in the segment
  uint32_t slot;                 // of that entry; ALLOCS_THREAD_UNKNOWN if there was no room
  uint32_t tid;
  uint32_t delegating;           // enum allocs_delegating
  uint64_t inner_base;
  uint64_t inner_size;
  uint32_t inner_context;
  uint32_t inner_is_tight;       // see Hook.swift
  uint32_t full_stacks;          // whole call stacks, else the call site
  uint64_t stack_low;            // the thread's own stack
  uint64_t stack_high;
  uint64_t outer_place;          // where the return address of the hook's call lies, while `delegating`; 0: not noted
  uint64_t resizing;             // the block of a realloc that is under way, if its record was erased
  struct allocs_inner_site inner_sites[ALLOCS_INNER_SITE_COUNT];
  uint32_t foreign_misses;       // times in a row that the stack the thread was on was no alternate one
  uint32_t foreign_skips;        // times that this is not looked at
  uint32_t frame_count;          // of the list
  uint32_t walk;                 // number of the last walk
  uint32_t must_forget;          // a module was unloaded: the frames kept may have wrong rules
  uint32_t frames_cut;           // beyond the depth limit; 0 if it was not cut
  uint32_t checked_frame_count;  // what frame_count is between captures that are checked
  uint32_t capturing;
  struct allocs_thread_block *next;  // in the queue of ended threads
  uint32_t destructor_rounds;
  uint32_t queued;
  uint64_t frames_counted;       // frames beyond the depth limit that were walked only to count them
  const struct allocs_thread_local *local;  // the thread's own, for who must know whether it is inside a hook
  uint32_t at_gate;              // waits while another thread forks
  uint32_t gated;                // its region table was taken away for that time
  struct allocs_last_pool last_pool;
  struct allocs_events events;
  struct allocs_site sites[ALLOCS_SITE_COUNT];
};

// What a thread's captures of call stacks work on. Not wiped: a child forked in the middle of a capture finishes it.
struct allocs_stack_block {
  // Kept from one capture to the next; then room for those of one walk that find no place there; then one for nothing.
  struct allocs_frame frames[ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1];
  struct allocs_word words[ALLOCS_FRAME_LIMIT * ALLOCS_FRAME_WORDS];
  struct allocs_listed listed[ALLOCS_FRAME_LIMIT];  // outermost first
  uint16_t fresh[ALLOCS_FRAME_LIMIT];               // what a walk has met, innermost first
  struct allocs_child children[ALLOCS_CHILD_COUNT];
  uint8_t unused[4096 - ((ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1) * 64 + ALLOCS_FRAME_LIMIT * (ALLOCS_FRAME_WORDS * 16 + 24 + 2) +
                         ALLOCS_CHILD_COUNT * 16) % 4096];  // to the end of a page
};

// Blocks are mapped 16 at a time: a thread should not cost a system call for its block. Each thread's two blocks are a
// constant distance apart, so that one leads to the other without a load.
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
_Static_assert(sizeof(struct allocs_frame) == 64, "a frame fills a cache line");
_Static_assert(ALLOCS_FRAMES_KEPT == 2u << (64 - ALLOCS_FRAME_SHIFT), "two to a pair");
_Static_assert(sizeof(struct allocs_stack_block) % 4096 == 0, "the wiped half ends at a page");

// The blocks of thread `index` of the chunk, and what belongs to a thread of a chunk.
static inline struct allocs_thread_block *_Nonnull allocs_chunk_thread(struct allocs_thread_chunk *_Nonnull chunk, uint64_t index) {
  return &chunk->threads[index].block;
}
static inline struct allocs_stack_block *_Nonnull allocs_stacks(struct allocs_thread_block *_Nonnull thread) {
  return (struct allocs_stack_block *)((uint8_t *)thread + sizeof(((struct allocs_thread_chunk *)0)->threads));
}
static inline struct allocs_frame *_Nonnull allocs_frames(struct allocs_thread_block *_Nonnull thread) { return allocs_stacks(thread)->frames; }
static inline struct allocs_word *_Nonnull allocs_words(struct allocs_thread_block *_Nonnull thread) { return allocs_stacks(thread)->words; }
static inline struct allocs_listed *_Nonnull allocs_listed(struct allocs_thread_block *_Nonnull thread) { return allocs_stacks(thread)->listed; }
static inline struct allocs_child *_Nonnull allocs_children(struct allocs_thread_block *_Nonnull thread) { return allocs_stacks(thread)->children; }
static inline struct allocs_site *_Nonnull allocs_sites(struct allocs_thread_block *_Nonnull thread) { return thread->sites; }
static inline struct allocs_inner_site *_Nonnull allocs_inner_site(struct allocs_thread_block *_Nonnull thread, uint64_t pc) {
  return &thread->inner_sites[pc >> 4 & (ALLOCS_INNER_SITE_COUNT - 1)];
}
static inline uint16_t *_Nonnull allocs_fresh(struct allocs_thread_block *_Nonnull thread) { return allocs_stacks(thread)->fresh; }
enum { ALLOCS_CHUNK_WIPED_SIZE = ALLOCS_BLOCKS_PER_CHUNK * sizeof(union allocs_thread_place) };

struct allocs_thread_local {
  struct allocs_thread_block *self;
  struct allocs_thread_block *registered;
  struct allocs_declared_call *declared;  // the outermost call of a declared function that is under way
  uint64_t locked;  // the thread holds the lock of the slow paths, or waits for it
};
extern __thread __attribute__((tls_model("initial-exec"))) ALLOCS_HIDDEN struct allocs_thread_local allocs_thread_local;

// Takes the thread's block; null if the thread is inside a hook or not registered.
static inline struct allocs_thread_block *allocs_enter(void) {
  struct allocs_thread_block *thread = allocs_thread_local.self;
  allocs_thread_local.self = NULL;
  // A signal handler that runs between here and allocs_leave must find null.
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  return thread;
}
static inline void allocs_leave(struct allocs_thread_block *thread) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  allocs_thread_local.self = thread;
}
static inline bool allocs_holds_lock(void) { return allocs_thread_local.locked != 0; }
// Before the lock is taken and after it is given back, so that a signal handler knows.
static inline void allocs_set_holds_lock(bool holds) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  allocs_thread_local.locked = holds;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
static inline struct allocs_thread_block *allocs_registered_block(void) { return allocs_thread_local.registered; }
static inline const struct allocs_thread_local *_Nonnull allocs_own_thread_local(void) { return &allocs_thread_local; }
static inline void allocs_set_registered_block(struct allocs_thread_block *thread) { allocs_thread_local.registered = thread; }
static inline bool allocs_is_inside(void) { return allocs_thread_local.self == NULL && allocs_thread_local.registered != NULL; }

// MARK: mappings

// A file whose path is in the strings section: (device, inode, time of last change) stand for it.
struct allocs_mapped_file {
  uint64_t device;
  uint64_t inode;
  uint64_t seconds;
  uint64_t nanoseconds;
  uint64_t path;       // as in allocs_mapping
  uint64_t path_size;
};
#define ALLOCS_MAPPED_FILE_COUNT 256u

// A call that changed what is mapped has succeeded; `number` is what allocs_mapping_number gave before it.
struct allocs_mapping_call {
  uint64_t number;
  uint64_t place;
  uint64_t frame_pointer;
  uint32_t function;    // enum allocs_function; unknown for one that only unmaps
  uint32_t protection;
  uint32_t flags;       // enum allocs_mapping_flag
  int32_t descriptor;   // of the file that was mapped, -1 if there is none
  uint64_t offset;
  uint64_t old_start;   // what is mapped there no longer, nothing if old_size is 0
  uint64_t old_size;
  uint64_t new_start;   // what is mapped there now, likewise
  uint64_t new_size;
  uint64_t source;      // where what is now at new_start was before, 0 if nowhere
};

// What is needed to change the table of mappings.
struct allocs_mapping_table {
  uint32_t order[ALLOCS_MAPPING_CAPACITY];  // live entries, in the order of their addresses
  uint32_t free[ALLOCS_MAPPING_CAPACITY];   // a stack of entries to use again
  struct allocs_mapped_file files[ALLOCS_MAPPED_FILE_COUNT];
  uint64_t live_count;
  uint64_t free_count;
  uint64_t strings_used;                    // bytes of paths
};
static inline uint32_t *_Nonnull allocs_mapping_order(struct allocs_mapping_table *_Nonnull table) { return table->order; }
// Swift moves one by one.
static inline void allocs_mapping_move(uint32_t *_Nonnull to, const uint32_t *_Nonnull from, uint64_t count) { __builtin_memmove(to, from, count * sizeof *to); }
static inline uint32_t *_Nonnull allocs_mapping_free(struct allocs_mapping_table *_Nonnull table) { return table->free; }
static inline struct allocs_mapped_file *_Nonnull allocs_mapping_files(struct allocs_mapping_table *_Nonnull table) { return table->files; }

// MARK: the process, wiped in a child

#define ALLOCS_INTERN_LEVELS 5u  // 2^12 to 2^28 cells

struct allocs_intern_table {
  uint32_t *levels[ALLOCS_INTERN_LEVELS];
  uint64_t next_id;     // next id to hand out
  uint64_t committed;   // ids below are backed by memory
};

// A pool that takes back all its blocks at once, and a range of memory in which some of them lie.
struct allocs_pool_range {
  uint64_t start;
  uint64_t end;
  struct allocs_pool_range *next;
};
struct allocs_pool_entry {
  uint64_t address;
  struct allocs_pool_range *ranges;  // newest first, or as sorted
  uint32_t number;                   // 0: the entry is empty
  uint32_t group;
  uint32_t range_count;
  uint32_t range_limit;              // at which they are sorted and joined
};

// What is known of a consumer of events.
struct allocs_lease {
  uint64_t owner;
  uint64_t beat;
  uint32_t since;  // the tick at which its beat was first seen
};

#define ALLOCS_NEWS_COUNT 64u
#define ALLOCS_NEWS_UNLOADED 0x80000000u

// Where the next entry of a section begins whose entries are mapped one by one (AnchoredSection.swift).
struct allocs_anchor {
  uint8_t *start;  // of a mapping of the entry's first bytes; null if there is none
  uint64_t size;   // of that mapping: a page, or the whole entry where it could not shrink back
  uint64_t count;  // entries made so far, each with a mapping of its own
};

struct allocs_shared {
  struct allocs_header *header;  // the segment; null: do not index
  uint8_t **regions;
  uint32_t lock;                 // futex: 0 free, 1 held, 2 held and waited for
  uint32_t arena_refusal;        // the tick at which memory for arenas was refused last (Shortage.swift); 0: never
  struct allocs_anchor arena_anchor;
  struct allocs_intern_table nodes;
  struct allocs_intern_table contexts;
  struct allocs_thread_block *ended_first;  // queue of ended threads, oldest first
  struct allocs_thread_block *ended_last;
  struct allocs_thread_chunk *chunk_first;  // newest first
  uint64_t chunk_used;                      // blocks of the newest chunk in use
  uint64_t former_threads;
  uint64_t strings_committed;
  uint64_t *frame_rules;                    // cache of unwinding rules
  uint32_t full_stacks;
  uint32_t depth_limit;
  uint32_t checks_stacks;                   // capture each stack twice, and compare
  uint32_t last_module;                     // the one that the last address asked for was found in
  uint32_t modules_unloaded;                // ever: addresses may have changed hands, so nodes name their modules
  uint32_t loaded_modules;                  // entries that are, in order of address (allocs_module_file.place)
  uint32_t next_forgotten;                  // the entry that is looked at first when one is needed for another module
  uint64_t root_device;                     // of the directory that was / at the start
  uint64_t root_inode;
  uint8_t **nested_regions[ALLOCS_NESTED_LEVELS];  // as regions, for suballocations; null until there are any
  struct allocs_anchor nested_anchor;
  uint32_t fine_refusal;                    // as arena_refusal, of fine slots, which take the most room
  struct allocs_pool_entry *pools;
  uint64_t pool_capacity;                   // a power of two
  uint64_t pool_count;
  struct allocs_pool_range *free_ranges;
  uint32_t last_pool_number;
  uint32_t pool_epoch;                      // resets so far
  struct allocs_anchor ring_anchor;
  uint64_t ring_records;                    // of each ring
  uint8_t *positions;                       // of the consumers, in the control file; null if there is none
  uint64_t wait_ns;                         // how long a thread waits for a lossless consumer, unless that says otherwise
  uint64_t position_pages[ALLOCS_CONSUMER_COUNT];  // bit for each page of a consumer's positions that is backed by memory
  uint32_t leases_ticks;                    // when the consumers' beats were last looked at
  uint32_t news_first;                      // of the events of modules that wait to be recorded
  uint32_t news_end;
  uint32_t news[ALLOCS_NEWS_COUNT];         // 1 + index of a module, with ALLOCS_NEWS_UNLOADED
  struct allocs_lease leases[ALLOCS_CONSUMER_COUNT];
  struct allocs_mapping_table *mappings;    // null until something was mapped
  uint64_t mapping_number;                  // of the last call that mapped something
  uint64_t directory_pages[ALLOCS_REGION_COUNT * 4 / ALLOCS_PAGE_SIZE / 64];
  struct allocs_thread_chunk *hand_chunk;   // where ended threads are looked for next that nobody announces
  uint64_t hand_index;
  uint64_t unannounced_threads;             // ever
  uint64_t region_pages[((ALLOCS_REGION_LEVEL0_OFFSET + ALLOCS_REGION_LEVEL0_WORDS * 8) / ALLOCS_PAGE_SIZE + 63) / 64];
};

// MARK: the process, kept in a child

// The directory of the segment, for children that are followed.
#define ALLOCS_DIRECTORY_SIZE 4096u

// One thread's block as of a fork.
struct allocs_heir {
  struct allocs_thread_block *block;
  struct allocs_thread *entry;
  uint32_t slot;
  uint32_t tid;
};
// What a child that is followed takes over of its parent's wiped memory. In the parent's private memory from the
// closing of the gate to its opening; a child finds its copy.
struct allocs_bequest {
  int64_t file;            // the child's segment, without a name yet
  int64_t directory;
  uint64_t size;           // of this struct with its heirs
  int64_t monotonic_offset;  // of the parent's time namespace
  struct allocs_shared shared;
  struct allocs_thread_block own;
  struct allocs_thread_block *own_place;
  uint64_t heir_count;
  struct allocs_heir heirs[];
};
enum {
  ALLOCS_ARENA_LEVEL2_OFFSET = offsetof(struct allocs_arena, level2),
  ALLOCS_ARENA_LEVEL1_OFFSET = offsetof(struct allocs_arena, level1),
  ALLOCS_ARENA_COMMITTED_OFFSET = offsetof(struct allocs_arena, committed),
  ALLOCS_ARENA_FINE_OFFSET = offsetof(struct allocs_arena, fine),
  ALLOCS_NESTED_LEVEL2_OFFSET = offsetof(struct allocs_nested, level2),
  ALLOCS_NESTED_LEVEL1_OFFSET = offsetof(struct allocs_nested, level1),
  ALLOCS_NESTED_COMMITTED_OFFSET = offsetof(struct allocs_nested, committed)
};
static inline struct allocs_heir *_Nonnull allocs_heirs(struct allocs_bequest *_Nonnull bequest) { return bequest->heirs; }

enum allocs_phase { ALLOCS_PHASE_NEW = 0, ALLOCS_PHASE_STARTING, ALLOCS_PHASE_READY, ALLOCS_PHASE_DISABLED };

// The functions below the hooks: for each, the next definition in the order in which the dynamic linker searches.
struct allocs_terminal {
  void *(*malloc)(size_t);
  void (*free)(void *);
  void *(*calloc)(size_t, size_t);
  void *(*realloc)(void *, size_t);
  void *(*reallocarray)(void *, size_t, size_t);
  void *(*memalign)(size_t, size_t);
  int (*posix_memalign)(void **, size_t, size_t);
  void *(*aligned_alloc)(size_t, size_t);
  void *(*valloc)(size_t);
  void *(*pvalloc)(size_t);
  size_t (*malloc_usable_size)(void *);
  void (*free_sized)(void *, size_t);
  void (*free_aligned_sized)(void *, size_t, size_t);
  int (*dlclose)(void *);
  int (*fork)(void);  // _Fork, which runs no fork handlers
  size_t fine_size;  // blocks of malloc below this size have fine slots: 17, or 0 where it is glibc's
  void *(*mmap)(void *, size_t, int, int, int, long);
  int (*munmap)(void *, size_t);
  void *(*mremap)(void *, size_t, size_t, int, ...);
  int (*brk)(void *);
  void *(*sbrk)(intptr_t);
  uint64_t tight;    // bit for each of allocs_function whose blocks may lie closer than 32 bytes: those that are not glibc's
};

// The replaceable operators of C++, found when first called: the C++ library may be loaded late.
enum allocs_operator {
  ALLOCS_OPERATOR_NEW = 0,
  ALLOCS_OPERATOR_NEW_ARRAY,
  ALLOCS_OPERATOR_NEW_NOTHROW,
  ALLOCS_OPERATOR_NEW_ARRAY_NOTHROW,
  ALLOCS_OPERATOR_NEW_ALIGNED,
  ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED,
  ALLOCS_OPERATOR_NEW_ALIGNED_NOTHROW,
  ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED_NOTHROW,
  ALLOCS_OPERATOR_DELETE,
  ALLOCS_OPERATOR_DELETE_ARRAY,
  ALLOCS_OPERATOR_DELETE_NOTHROW,
  ALLOCS_OPERATOR_DELETE_ARRAY_NOTHROW,
  ALLOCS_OPERATOR_DELETE_SIZED,
  ALLOCS_OPERATOR_DELETE_ARRAY_SIZED,
  ALLOCS_OPERATOR_DELETE_ALIGNED,
  ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED,
  ALLOCS_OPERATOR_DELETE_ALIGNED_NOTHROW,
  ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED_NOTHROW,
  ALLOCS_OPERATOR_DELETE_SIZED_ALIGNED,
  ALLOCS_OPERATOR_DELETE_ARRAY_SIZED_ALIGNED,
  ALLOCS_OPERATOR_COUNT
};

// Room for code near a module with functions that are hooked at their entry: what leads to the hooks, and back.
struct allocs_gate_room {
  uint8_t *_Nullable start;          // null: the entry is free
  uint64_t size;                     // bytes
  struct link_map *_Nullable module; // null: for good
};
#define ALLOCS_GATED_MODULES 256u

// A module that was looked at when it came, by what tells it from others.
struct allocs_seen_module {
  struct link_map *map;
  const void *dynamic;
  uint64_t bias;
};

// A table of frame description entries that a module does not have itself; see FrameTables.swift.
struct allocs_frame_place {
  uint32_t code;   // from the module's start
  uint32_t entry;  // likewise
};
struct allocs_frame_table {
  uint64_t map;    // the module's struct link_map; 0: none
  uint64_t start;  // of the module
  uint64_t count;
  uint64_t capacity;
  struct allocs_frame_place *entries;
  uint32_t is_ready;
  uint32_t has_failed;  // there are entries, and no room for them
};
#define ALLOCS_FRAME_TABLE_COUNT 64u

enum { ALLOCS_MAPPED_ARENAS = ALLOCS_ARENA_CAPACITY, ALLOCS_MAPPED_RINGS = ALLOCS_RING_COUNT };

struct allocs_process {
  struct allocs_terminal terminal;
  // Where the kernel keeps CLOCK_MONOTONIC_COARSE, seconds and nanoseconds, in the page that the vdso reads; null if
  // not found.
  const uint64_t *coarse_clock;
  void *operators[ALLOCS_OPERATOR_COUNT];      // the next after the agent's; null until called
  void *own_operators[ALLOCS_OPERATOR_COUNT];  // of an executable that has its own, hooked at their entries; else null
  struct allocs_shared *shared;   // null until started
  const char *suballocators;      // ALLOCS_SUBALLOC, null if it is not set; used by the constructor alone
  const char *level;              // ALLOCS_LEVEL, a copy
  uint32_t phase;                 // enum allocs_phase
  uint32_t verbose;
  pthread_key_t thread_key;
  uint32_t has_thread_key;
  int (*find_object)(void *, void *);  // _dl_find_object
  int (*set_specific)(pthread_key_t, const void *);
  uint32_t descriptor_size;       // of a thread's by libc; 0: not known
  uint64_t agent_start;           // where the agent's code lies
  uint64_t agent_end;
  int64_t stack_offset;           // from a thread's pointer to where libc keeps its stack's bounds; 0: not known
  uint64_t loader_start;          // the dynamic linker
  uint64_t loader_size;
  uint8_t *fixed_base;            // mapping of everything before the arenas
  uint64_t fixed_size;
  uint8_t *arenas[ALLOCS_MAPPED_ARENAS];  // mappings, in the order of their making
  uint8_t *nested[ALLOCS_NESTED_CAPACITY];  // likewise
  void *nested_owners[ALLOCS_NESTED_CAPACITY];  // for each, the number of the pool of each slot; null if none has a pool
  struct allocs_gate_room gates[ALLOCS_GATED_MODULES];  // changed by the constructor, and under the dynamic linker's lock
  uint32_t has_entries;           // callers of malloc get the agent's functions by a jump at another's entry
  uint32_t declared_count;        // functions in the table of declared ones
  uint32_t watches_modules;       // the dynamic linker calls the agent when modules come and go
  uint64_t own_start;             // where the agent's own code lies, as a library
  uint64_t own_size;
  struct allocs_seen_module *seen;  // in the dynamic linker's order
  uint64_t seen_count;
  uint64_t seen_capacity;
  uint8_t *rings[ALLOCS_MAPPED_RINGS];    // likewise
  uint64_t ring_size;                     // of each
  uint64_t stamp_floor;                   // every event gets a stamp above this
  uint32_t free_stacks;                   // frees record their own context
  uint32_t has_control;                   // the control file lies over the page
  uint32_t follows;               // children of fork get an index of their own
  uint32_t fork_gate;             // odd while a thread forks and nothing may be recorded; counts up
  uint32_t fork_gate_owner;       // id of that thread
  uint32_t forks_inside;          // of signal handlers on that thread
  uint32_t has_fine;              // some region has fine slots
  uint32_t seen_below;            // see Predecessor.swift
  uint32_t early_blocks;          // allocated while another thread was starting the agent, not yet counted in the segment
  uint32_t *broken_gate;          // see Gate.swift
  struct allocs_bequest *bequest; // null if this fork's child will not be followed
  char directory[ALLOCS_DIRECTORY_SIZE];
  struct allocs_frame_table frame_tables[ALLOCS_FRAME_TABLE_COUNT];
  uint64_t frame_entries;                 // in all tables, ever
  struct allocs_thread_block passive;     // of threads that are not indexed: its region table is null
};

extern ALLOCS_HIDDEN struct allocs_process allocs_process_state;
static inline struct allocs_process *_Nonnull allocs_process(void) { return &allocs_process_state; }
static inline struct allocs_terminal *_Nonnull allocs_terminal(void) { return &allocs_process_state.terminal; }

// Swift has no variadic functions of C.
static inline void allocs_set_terminal_mremap(void *_Nullable function) { allocs_process_state.terminal.mremap = (void *(*)(void *, size_t, size_t, int, ...))function; }

// A function of the User layer, its name, and where Terminal keeps the one below.
struct allocs_entry_point {
  const char *_Nonnull name;
  void *_Nonnull own;
  void *_Nullable *_Nonnull below;
  bool is_essential;  // it frees
  bool is_operator;   // of C++
};
// The one with this index, from 0; null behind the last.
extern ALLOCS_HIDDEN const struct allocs_entry_point *_Nullable allocs_entry_point(uint32_t index);

// For code in the machine's own language.
#define ALLOCS_TERMINAL_FINE_SIZE_OFFSET 120
_Static_assert(offsetof(struct allocs_process, terminal.malloc) == 0, "process.terminal.malloc");
_Static_assert(offsetof(struct allocs_process, terminal.fine_size) == ALLOCS_TERMINAL_FINE_SIZE_OFFSET, "process.terminal.fine_size");
_Static_assert(offsetof(struct allocs_thread_local, self) == 0, "thread_local.self");

static inline struct allocs_frame_table *_Nonnull allocs_frame_tables(void) { return allocs_process_state.frame_tables; }
static inline char *_Nonnull allocs_directory(void) { return allocs_process_state.directory; }
static inline struct allocs_gate_room *_Nonnull allocs_gates(void) { return allocs_process_state.gates; }
static inline uint8_t **_Nonnull allocs_nested_mappings(void) { return allocs_process_state.nested; }
static inline void *_Nullable *_Nonnull allocs_nested_owners(void) { return allocs_process_state.nested_owners; }
static inline uint8_t **_Nonnull allocs_arena_mappings(void) { return allocs_process_state.arenas; }
static inline uint8_t **_Nonnull allocs_ring_mappings(void) { return allocs_process_state.rings; }

// MARK: the switch of events

// A page of its own, over which the control file's first page is mapped: so a hook sees whether events are on with one
// load from a constant address. Until then, and in a child, it is a page of zeros.
extern ALLOCS_HIDDEN uint8_t allocs_control_page[ALLOCS_PAGE_SIZE];
static inline struct allocs_control *_Nonnull allocs_control(void) { return (struct allocs_control *)(void *)allocs_control_page; }
// The period of recording; 0, events are off.
static inline uint32_t allocs_events_period(void) {
#ifdef ALLOCS_WITHOUT_EVENTS
  return 0;
#else
  return __atomic_load_n((const uint32_t *)(const void *)allocs_control_page, __ATOMIC_RELAXED);
#endif
}
static inline struct allocs_consumer *_Nonnull allocs_consumer(uint32_t index) { return &allocs_control()->consumers[index]; }
static inline uint64_t *_Nonnull allocs_given_up(struct allocs_thread_block *_Nonnull thread) { return thread->events.given_up; }
static inline struct allocs_lease *_Nonnull allocs_leases(struct allocs_shared *_Nonnull shared) { return shared->leases; }
static inline uint32_t *_Nonnull allocs_news(struct allocs_shared *_Nonnull shared) { return shared->news; }
static inline uint64_t *_Nonnull allocs_position_pages(struct allocs_shared *_Nonnull shared) { return shared->position_pages; }

#ifdef ALLOCS_INEXE
// Linked into the executable (Sources/Agent/Kit), the functions below have names.
extern ALLOCS_HIDDEN void *_Nullable allocs_real_malloc(size_t) __asm__("__real_malloc");
extern ALLOCS_HIDDEN void allocs_real_free(void *_Nullable) __asm__("__real_free");
extern ALLOCS_HIDDEN void *_Nullable allocs_real_calloc(size_t, size_t) __asm__("__real_calloc");
extern ALLOCS_HIDDEN void *_Nullable allocs_real_realloc(void *_Nullable, size_t) __asm__("__real_realloc");
// What is linked into the executable under this name of the malloc family; null if libc's is to be looked for.
extern ALLOCS_HIDDEN void *_Nullable allocs_linked_definition(const char *_Nonnull name);
// Whether the malloc among that is glibc's.
extern ALLOCS_HIDDEN bool allocs_linked_is_libc(void);
// Whether the executable is linked statically; then what the second says of it is all there is to say of modules.
extern ALLOCS_HIDDEN bool allocs_is_static(void);
extern ALLOCS_HIDDEN bool allocs_find_in_static(uint64_t address, uint64_t *_Nonnull start, uint64_t *_Nonnull end, struct link_map *_Nullable *_Nonnull map, uint64_t *_Nonnull table);
// Expresses what was not found through what was.
extern ALLOCS_HIDDEN void allocs_complete_terminal(void);
#endif

// MARK: time

// allocs_now by a call of the vdso, where the words that it reads by itself were not found.
extern ALLOCS_HIDDEN uint32_t allocs_ticks_by_call(void);
// Nanoseconds of CLOCK_MONOTONIC, exactly, or as of the last timer interrupt.
extern ALLOCS_HIDDEN uint64_t allocs_nanoseconds_by_call(bool exact);

// Now, in ticks. The counter instruction costs 10 ns in a virtual machine, the vdso's coarse clock 5; the two words
// that the vdso would load cost less than one. Its check for an update under way is left out, as the place of its
// sequence number is not known; a reader allows for that (allocs_age_ticks).
static inline uint32_t allocs_clock_ticks(const uint64_t *_Nonnull clock) {
  return allocs_ticks(__atomic_load_n(&clock[0], __ATOMIC_RELAXED), __atomic_load_n(&clock[1], __ATOMIC_RELAXED));
}
static inline uint32_t allocs_now(void) {
  const uint64_t *clock = allocs_process_state.coarse_clock;
  return __builtin_expect(clock == NULL, 0) ? allocs_ticks_by_call() : allocs_clock_ticks(clock);
}

// A compiler's fence: what a signal handler of the same thread sees.
static inline void allocs_fence_signal(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

// MARK: atomics over the agent's own words

static inline void *allocs_load_acquire_pointer(void *const *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void allocs_store_release_pointer(void **word, void *value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline bool allocs_compare_exchange_pointer(void **word, void *expected, void *desired) {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// Of code that somebody else than this thread's instructions may have changed.
static inline uint8_t allocs_load_byte(const uint8_t *_Nonnull byte) { return __atomic_load_n(byte, __ATOMIC_ACQUIRE); }
// Swift moves one by one.
static inline void allocs_copy(void *_Nonnull to, const void *_Nonnull from, uint64_t size) { __builtin_memcpy(to, from, size); }

// MARK: the dynamic linker

// Finds what the agent needs of libc. False in another one than glibc, 2.35 or newer: there all calls are passed on.
extern ALLOCS_HIDDEN bool allocs_find_libc(void);
extern ALLOCS_HIDDEN struct link_map *_Nullable allocs_first_link_map(void);
// Whether `map` is the module that the agent is in: its own, or, linked into it, the executable.
extern ALLOCS_HIDDEN bool allocs_is_own_module(const struct link_map *map);
// An address in that module.
extern ALLOCS_HIDDEN const void *_Nonnull const allocs_own_module;
// Whether `map` is the executable.
extern ALLOCS_HIDDEN bool allocs_is_main_module(const struct link_map *map);
extern ALLOCS_HIDDEN uint64_t allocs_vdso_start(void);  // 0 if there is none
// Whether the dynamic linker is the program that was executed, and started this one (`ld.so PROGRAM`).
extern ALLOCS_HIDDEN bool allocs_is_started_by_loader(void);
// The initial environment, from the stack if libc has not set its own pointer yet. Null if neither is known.
extern ALLOCS_HIDDEN char **allocs_environment(void);
extern ALLOCS_HIDDEN void allocs_register_fork_handlers(void);
// A key whose destructor tells of a thread's end. False if there is none that libc would keep without allocating.
extern ALLOCS_HIDDEN bool allocs_create_thread_key(void (*_Nonnull destructor)(void *_Nullable));
extern ALLOCS_HIDDEN bool allocs_set_thread_key(const void *_Nullable value);
// The module that covers `address`, without a lock. False if there is none.
extern ALLOCS_HIDDEN bool allocs_find_module(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map);
// The program headers of the executable, by the kernel's word; null if it gave none.
extern ALLOCS_HIDDEN const ElfW(Phdr) *_Nullable allocs_executable_headers(uint64_t *_Nonnull count);
// The list of modules of a namespace of dlmopen's: the first is the program's own. Null behind the last. Under the
// dynamic linker's lock.
extern ALLOCS_HIDDEN const struct r_debug *_Nullable allocs_next_namespace(const struct r_debug *_Nullable previous);
// What the dynamic linker calls when modules come and go, as debuggers know it.
extern ALLOCS_HIDDEN uint64_t allocs_debugger_function(void);
// What the agent puts there: it calls allocs_modules_changed, and leaves every register as it was.
extern ALLOCS_HIDDEN void allocs_debugger_stub(void);
static inline uint64_t allocs_debugger_stub_address(void) { return (uint64_t)(uintptr_t)allocs_debugger_stub; }
// The end of the code around `address`, 0 if no module has code there. Takes the dynamic linker's lock.
extern ALLOCS_HIDDEN uint64_t allocs_code_end(uint64_t address);
// Where the dynamic linker lies.
extern ALLOCS_HIDDEN bool allocs_find_loader(uint64_t *start, uint64_t *end);
// The segment or module around `address`, and the module's .eh_frame_hdr, which may lie in another segment; 0 if it has
// none.
extern ALLOCS_HIDDEN bool allocs_find_frame_table(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map, uint64_t *table);
// The segment around `address`, or the whole module where its segments lie side by side: all that is mapped there and
// belongs to `map`. False if it is another's.
extern ALLOCS_HIDDEN bool allocs_find_segment(uint64_t address, const struct link_map *map, uint64_t *start, uint64_t *end);
// A loaded segment of a module: what of it is from the file.
struct allocs_code_segment {
  uint64_t start;
  uint64_t end;
  uint32_t is_readable;
  uint32_t is_code;
};
// The one with this index, from 0; false if there is none, or the module's headers are not found.
extern ALLOCS_HIDDEN bool allocs_module_segment(const struct link_map *map, uint32_t index, struct allocs_code_segment *segment);
// Whether `address` is in the entry code of the executable or the dynamic linker, which nobody calls.
extern ALLOCS_HIDDEN bool allocs_is_entry(uint64_t address);
// One past the main thread's first frame.
extern ALLOCS_HIDDEN uint64_t allocs_main_stack_end(void);
// The calling thread's thread pointer.
static inline uint64_t allocs_thread_pointer(void) { return (uint64_t)(uintptr_t)__builtin_thread_pointer(); }
// For each module with a block of thread-local variables of the calling thread: an address in the module, where the
// block lies, its size. Takes the dynamic linker's lock.
typedef void (*allocs_thread_local_visitor)(uint64_t module, uint64_t block, uint64_t size);
extern ALLOCS_HIDDEN void allocs_visit_thread_local_blocks(allocs_thread_local_visitor _Nonnull visitor);
static inline uint64_t allocs_stack_address(void) { return (uint64_t)(uintptr_t)__builtin_frame_address(0); }

#endif
