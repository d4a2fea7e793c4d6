// An event ring: what one thread did, written by that thread alone, read by anyone.
//
//   ring i of the section                        bytes
//   +-------------------------------------------+
//   | struct allocs_ring                        | one page
//   +-------------------------------------------+
//   | records    struct allocs_event            | 32 each; a power of two of them, the capacity
//   +-------------------------------------------+
//
// - Positions count the records that were ever written to the ring; they never go back and are never reset. Record p
//   lies at index p % capacity: so its position is its sequence number.
// - The writer, before it writes records above the last multiple of ALLOCS_RING_CHUNK that it announced: stores
//   `reserved`, the end of the next chunk; then a release fence. Then the records, each with plain stores, and after
//   each `written` (release). So a record below `written` is whole, and whoever has seen a word of record p, and then
//   (acquire fence) loads `reserved`, finds it above p.
// - A reader therefore loads `written` (acquire), copies records below it, makes an acquire fence, loads `reserved`,
//   and drops what it copied from positions below `reserved` - capacity: those may have been overwritten meanwhile.
//   What it dropped, and what had been overwritten before, is what it lost: a number of records, exactly, between the
//   stamps of the records around them. Records written = records read + records lost, always.
// - Nothing is ever written by a reader. A process that dies leaves the ring as it is: the records from
//   `reserved` - capacity up to `written` are whole.
// - The ring belongs to the thread slot `slot`, and every record names that slot. The holder of the slot at the
//   record's time made it, as with contexts (allocs_thread.h). Each holder begins with THREAD_START. It may make events
//   after its THREAD_END, from late destructors.
// - Within a ring stamps rise. Over all rings: see allocs_event_stamp below.
// - The memory behind the records is committed as they are first written: records at or above `written` may be holes.
//
// Threat: as for the segment. Copy a position, check the copy, use the copy.

#ifndef ALLOCS_RING_H
#define ALLOCS_RING_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_clock.h"

#define ALLOCS_RING_COUNT 4096u        // rings that a segment has room for
#define ALLOCS_RING_CHUNK 64u          // records announced at a time
#define ALLOCS_RING_RECORDS_MIN 512u   // capacities; ALLOCS_RING is in bytes, 32 times that
#define ALLOCS_RING_RECORDS_DEFAULT 32768u
#define ALLOCS_RING_RECORDS_MAX 33554432u
#define ALLOCS_RING_RECORDS_OFFSET 4096u  // from the ring's start

struct allocs_ring {
  uint64_t written;     // records ever written; stored (release) after each
  uint64_t reserved;    // records below this may have been begun; those below reserved - capacity may be gone
  uint32_t slot;        // the thread slot that writes here; never changes
  uint32_t waiting;     // 1: the writer waits for a lossless consumer, who wakes it after it stored its position
  uint64_t unrecorded;  // events of this ring that could not be recorded, for want of memory or inside another record
  uint64_t overrun;     // records written though a lossless consumer had not taken what they replaced
  uint64_t reserved_words[3];
};

// What a record says. The order is part of the format; unknown kinds are to be skipped.
enum allocs_event_kind {
  ALLOCS_EVENT_NONE = 0,
  ALLOCS_EVENT_ALLOC = 1,           // address, size, alignment; context: who allocated
  ALLOCS_EVENT_FREE = 2,            // address, size; context: who freed, 0 if not asked for; origin: who had allocated
  ALLOCS_EVENT_REALLOC_OLD = 3,     // as FREE: a block goes into realloc
  ALLOCS_EVENT_REALLOC_NEW = 4,     // as ALLOC: what came out. Follows the OLD of its thread; origin: that one's
  ALLOCS_EVENT_REALLOC_FAILED = 5,  // as ALLOC, context: who had allocated: the block of the OLD before lives on
  ALLOCS_EVENT_THREAD_START = 6,    // address: tid; size: its start in ticks, earlier than this if events were off then
  ALLOCS_EVENT_THREAD_END = 7,      // the same
  ALLOCS_EVENT_MODULE_LOAD = 8,     // address, size: where it lies; context: its index in the table of modules
  ALLOCS_EVENT_MODULE_UNLOAD = 9,   // the same
  ALLOCS_EVENT_RESUMED = 10,        // events were off: what this thread did since its record before is not in the ring
  ALLOCS_EVENT_MAP = 11,            // address, size: now mapped; context: who; origin: MAP's flags of the mapping table
  ALLOCS_EVENT_UNMAP = 12,          // address, size: no longer
  ALLOCS_EVENT_KIND_COUNT = 13
};

//   bit   63      56 55     48 47                     0
//         +----------+---------+-----------------------+
//   place | alignment|  kind   |        address        |  alignment: its logarithm, 0 if none was asked for
//         +----------+---------+-----------------------+
//   bit   63                48 47                     0
//         +--------------------+-----------------------+
//   extent|       slot         |          size         |  slot: of the thread
//         +--------------------+-----------------------+
//   bit   63             32 31                        0
//         +----------------+---------------------------+
//   source|     origin     |          context          |
//         +----------------+---------------------------+
struct allocs_event {
  uint64_t place;
  uint64_t extent;
  uint64_t source;
  uint64_t stamp;
};

_Static_assert(sizeof(struct allocs_ring) == 64, "ring");
_Static_assert(offsetof(struct allocs_ring, reserved) == 8, "ring.reserved");
_Static_assert(offsetof(struct allocs_ring, slot) == 16, "ring.slot");
_Static_assert(offsetof(struct allocs_ring, unrecorded) == 24, "ring.unrecorded");
_Static_assert(sizeof(struct allocs_event) == 32, "event");
_Static_assert(offsetof(struct allocs_event, stamp) == 24, "event.stamp");
_Static_assert(ALLOCS_RING_RECORDS_MIN >= 4 * ALLOCS_RING_CHUNK, "a ring is several chunks");

// MARK: order
//
// A stamp is a time: nanoseconds of CLOCK_MONOTONIC. It is never later than the moment at which its event was recorded,
// and at most a timer interrupt (4 ms) and a little earlier. Within a ring stamps rise by one at least.
//
// A free is recorded before the block goes back, an allocation after it came. All records sorted by stamp are a legal
// history: no block comes to life while another one covers part of it, none ends that is not alive. That takes, for two
// events of different threads that concern the same bytes, that the later one has the greater stamp. How the writer
// gets that without a clock that is exact each time stands in the agent (Stamps.swift). Equal stamps concern different
// bytes.

static inline uint32_t allocs_event_kind_of(uint64_t place) { return (uint32_t)(place >> 48) & 0xFF; }
static inline uint64_t allocs_event_address(uint64_t place) { return place & 0xFFFFFFFFFFFFull; }
static inline uint32_t allocs_event_alignment(uint64_t place) { return (uint32_t)(place >> 56); }
static inline uint64_t allocs_event_size(uint64_t extent) { return extent & 0xFFFFFFFFFFFFull; }
static inline uint32_t allocs_event_slot(uint64_t extent) { return (uint32_t)(extent >> 48); }
static inline uint32_t allocs_event_context(uint64_t source) { return (uint32_t)source; }
static inline uint32_t allocs_event_origin(uint64_t source) { return (uint32_t)(source >> 32); }
static inline uint32_t allocs_event_ticks(uint64_t stamp) { return allocs_ticks(stamp / 1000000000u, stamp % 1000000000u); }

// `address` and `size` below 2^48, `alignment` a logarithm below 64, `slot` 16 bits.
static inline uint64_t allocs_event_place(uint32_t kind, uint64_t address, uint32_t alignment) {
  return address | (uint64_t)kind << 48 | (uint64_t)alignment << 56;
}
static inline uint64_t allocs_event_extent(uint64_t size, uint32_t slot) { return size | (uint64_t)slot << 48; }
static inline uint64_t allocs_event_source(uint32_t context, uint32_t origin) { return (uint64_t)context | (uint64_t)origin << 32; }

static inline const char *allocs_event_name(uint32_t kind) {
  static const char *const names[ALLOCS_EVENT_KIND_COUNT] = {
      "none",       "alloc",       "free",          "realloc_old", "realloc_new", "realloc_failed", "thread_start",
      "thread_end", "module_load", "module_unload", "resumed",     "map",         "unmap"};
  return kind < ALLOCS_EVENT_KIND_COUNT ? names[kind] : "";
}

#endif
