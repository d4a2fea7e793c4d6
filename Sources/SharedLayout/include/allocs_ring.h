// SPDX-License-Identifier: Apache-2.0
// An event ring: records of what one thread did, written by that thread alone, read by anyone.
//
//   ring i of the section                        bytes
//   +-------------------------------------------+
//   | struct allocs_ring                        | one page
//   +-------------------------------------------+
//   | records    struct allocs_event            | 32 each; a power of two of them, the capacity
//   +-------------------------------------------+
//
// - Positions count the records that were ever written to the ring. They never go back and are
//   never reset. Record p lies at index p % capacity: so its position is its sequence number.
// - The writer announces records before it writes them, a chunk of ALLOCS_RING_CHUNK at a time:
//   before it writes the first record that it has not announced, it stores `reserved`, the end of
//   the next chunk, and makes a release fence. Then it writes the records, each with plain stores,
//   and after each record stores `written` (release). So a record below `written` is whole. And a
//   reader that has seen a word of record p, and then (acquire fence) loads `reserved`, finds
//   `reserved` above p.
// - A reader therefore loads `written` (acquire), copies records below it, makes an acquire fence,
//   loads `reserved`, and drops the copies of records at positions below `reserved` - capacity:
//   those records may have been overwritten meanwhile. The records that the reader dropped, and the
//   records that had been overwritten before, are the records that it lost: a number that it knows
//   exactly, between the stamps of the records around them. Records written = records read +
//   records lost, always.
// - A reader never writes anything. A process that dies leaves the ring as it is: the records from
//   `reserved` - capacity up to `written` are whole.
// - The ring belongs to the thread slot `slot`, and every record names that slot. The thread that
//   held the slot at the record's time made the record, as with contexts (allocs_thread.h). Each
//   holder begins with THREAD_START. A holder may make events after its THREAD_END, from late
//   destructors.
// - Within a ring stamps rise. The order over all rings is told below, at "order".
// - The memory behind the records is committed as they are first written: records at or above
//   `written` may be holes.
//
// Threat: as for the segment. A reader copies a position, checks the copy, and uses the copy.

#ifndef ALLOCS_RING_H
#define ALLOCS_RING_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_clock.h"

#define ALLOCS_RING_COUNT 4096u        // rings that a segment has room for
#define ALLOCS_RING_CHUNK 64u          // records announced at a time
// Capacities, in records; the setting ALLOCS_RING is in bytes, 32 for each record.
#define ALLOCS_RING_RECORDS_MIN 512u
#define ALLOCS_RING_RECORDS_DEFAULT 32768u
#define ALLOCS_RING_RECORDS_MAX 33554432u
#define ALLOCS_RING_RECORDS_OFFSET 4096u  // from the ring's start

struct allocs_ring {
  uint64_t written;     // records ever written; stored (release) after each
  // Records below this position may have been begun; records below reserved - capacity may be gone.
  uint64_t reserved;
  uint32_t slot;        // the thread slot that writes here; never changes
  // 1: the writer waits for a lossless consumer, who stores its position and then wakes the writer.
  uint32_t waiting;
  // Events of this ring that could not be recorded: there was no memory, or a signal handler
  // interrupted the writing of another record.
  uint64_t unrecorded;
  // Records that were written though a lossless consumer had not taken the records that they
  // replaced.
  uint64_t overrun;
  uint64_t reserved_words[3];
};

// The subjects of records.
enum allocs_event_subject {
  ALLOCS_ABOUT_NOTHING = 0,
  ALLOCS_ABOUT_LIVE_BLOCK,   // a block lives from here on: address, size, alignment, context
  ALLOCS_ABOUT_ENDED_BLOCK,  // a block ends: address, size; origin: the context that allocated it
  ALLOCS_ABOUT_THREAD,
  ALLOCS_ABOUT_MODULE,
  ALLOCS_ABOUT_MAPPING       // address and size of memory, in bytes
};

// The kinds of records. One list says all of each: its number, which is a part of the format; its
// enumerator; its name in JSON; its word in lines of text; the word by which `--kind` selects it;
// what it is about. A reader skips kinds that it does not know.
//
// To add a kind is to add a row and a case of Event.Kind (IndexReader); RingTests compare the two,
// and the compiler names each `switch` over Event.Kind that lacks the case.
//
// The fields of a record, by kind:
//
//   ALLOC            address, size, alignment; context: who allocated
//   FREE             address, size; context: who freed, 0 if not asked for; origin: who had
//                    allocated
//   REALLOC_OLD      a block goes into realloc: fields as of FREE
//   REALLOC_NEW      the block that came out of realloc: fields as of ALLOC; origin: the origin of
//                    the REALLOC_OLD of its thread, which it follows
//   REALLOC_FAILED   the block of the REALLOC_OLD before lives on: fields as of ALLOC; context: who
//                    had allocated it
//   THREAD_START     address: tid; size: the thread's start in ticks, which is earlier than the
//                    record if events were off then
//   THREAD_END       fields as of THREAD_START
//   MODULE_LOAD      address, size: where the module lies; context: its index in the modules
//   MODULE_UNLOAD    fields as of MODULE_LOAD
//   RESUMED          events were off: what this thread did since its record before is not in the
//                    ring
//   MAP              address, size: now mapped; context: who mapped it; origin: flags of the
//                    mapping, as in the table of mappings
//   UNMAP            address, size: not mapped any more; context: who unmapped it
//
// Number, enumerator, name in JSON, word in text, word of the filter, subject.
#define ALLOCS_EVENT_TABLE(ROW)                                               \
  ROW(1, ALLOC, "alloc", "alloc", "alloc", LIVE_BLOCK)                        \
  ROW(2, FREE, "free", "free", "free", ENDED_BLOCK)                           \
  ROW(3, REALLOC_OLD, "realloc_old", "re-from", "realloc", ENDED_BLOCK)       \
  ROW(4, REALLOC_NEW, "realloc_new", "re-to", "realloc", LIVE_BLOCK)          \
  ROW(5, REALLOC_FAILED, "realloc_failed", "re-fail", "realloc", LIVE_BLOCK)  \
  ROW(6, THREAD_START, "thread_start", "thread+", "thread", THREAD)           \
  ROW(7, THREAD_END, "thread_end", "thread-", "thread", THREAD)               \
  ROW(8, MODULE_LOAD, "module_load", "module+", "module", MODULE)             \
  ROW(9, MODULE_UNLOAD, "module_unload", "module-", "module", MODULE)         \
  ROW(10, RESUMED, "resumed", "resumed", "thread", THREAD)                    \
  ROW(11, MAP, "map", "map", "map", MAPPING)                                  \
  ROW(12, UNMAP, "unmap", "unmap", "map", MAPPING)

enum allocs_event_kind {
  ALLOCS_EVENT_NONE = 0,
#define ALLOCS_EVENT_ENUMERATOR(number, id, name, word, filter, subject) ALLOCS_EVENT_##id = number,
  ALLOCS_EVENT_TABLE(ALLOCS_EVENT_ENUMERATOR)
#undef ALLOCS_EVENT_ENUMERATOR
  ALLOCS_EVENT_KIND_COUNT  // one more than the greatest number, which stands in the last row
};

//   bit   63      56 55     48 47                     0
//         +----------+---------+-----------------------+
//   place | alignment|  kind   |        address        |  alignment: its logarithm, 0 if none
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
// A stamp is a time: nanoseconds of CLOCK_MONOTONIC. A stamp is never later than the moment at
// which its event was recorded, and at most a timer interrupt (4 ms) and a little earlier. Within a
// ring each stamp is greater than the one before.
//
// A free is recorded before the block goes back to the allocator, and an allocation after the block
// came from it. All records sorted by stamp are a legal history: no block comes to life while
// another block covers part of it, and no block ends that is not alive. For this, of two events of
// different threads that concern the same bytes, the later event must have the greater stamp. How
// the writer achieves this without a clock that is exact each time stands in the agent
// (Stamps.swift). Events with equal stamps concern different bytes.

static inline uint32_t allocs_event_kind_of(uint64_t place) { return (uint32_t)(place >> 48) & 0xFF; }
static inline uint64_t allocs_event_address(uint64_t place) { return place & 0xFFFFFFFFFFFFull; }
static inline uint32_t allocs_event_alignment(uint64_t place) { return (uint32_t)(place >> 56); }
static inline uint64_t allocs_event_size(uint64_t extent) { return extent & 0xFFFFFFFFFFFFull; }
static inline uint32_t allocs_event_slot(uint64_t extent) { return (uint32_t)(extent >> 48); }
static inline uint32_t allocs_event_context(uint64_t source) { return (uint32_t)source; }
static inline uint32_t allocs_event_origin(uint64_t source) { return (uint32_t)(source >> 32); }
static inline uint32_t allocs_event_ticks(uint64_t stamp) {
  return allocs_ticks(stamp / 1000000000u, stamp % 1000000000u);
}

// `address` and `size`: below 2^48; `alignment`: a logarithm below 64; `slot`: 16 bits.
static inline uint64_t allocs_event_place(uint32_t kind, uint64_t address, uint32_t alignment) {
  return address | (uint64_t)kind << 48 | (uint64_t)alignment << 56;
}
static inline uint64_t allocs_event_extent(uint64_t size, uint32_t slot) { return size | (uint64_t)slot << 48; }
static inline uint64_t allocs_event_source(uint32_t context, uint32_t origin) {
  return (uint64_t)context | (uint64_t)origin << 32;
}

struct allocs_event_facts {
  const char *name;    // in JSON
  const char *word;    // in lines of text
  const char *filter;  // the word by which `--kind` selects it
};

// Empty strings for a number that is no kind.
static inline struct allocs_event_facts allocs_event_facts(uint32_t kind) {
  switch (kind) {
#define ALLOCS_EVENT_CASE(number, id, name, word, filter, subject) \
  case number: return (struct allocs_event_facts){name, word, filter};
    ALLOCS_EVENT_TABLE(ALLOCS_EVENT_CASE)
#undef ALLOCS_EVENT_CASE
    default: return (struct allocs_event_facts){"", "", ""};
  }
}

// ALLOCS_ABOUT_NOTHING for a number that is no kind. Not more than a load: recorders ask for each
// record.
static inline uint32_t allocs_event_subject_of(uint32_t kind) {
  static const uint8_t subjects[ALLOCS_EVENT_KIND_COUNT] = {
#define ALLOCS_EVENT_SUBJECT(number, id, name, word, filter, subject) \
  [number] = ALLOCS_ABOUT_##subject,
      ALLOCS_EVENT_TABLE(ALLOCS_EVENT_SUBJECT)
#undef ALLOCS_EVENT_SUBJECT
  };
  return kind < ALLOCS_EVENT_KIND_COUNT ? subjects[kind] : (uint32_t)ALLOCS_ABOUT_NOTHING;
}

#endif
