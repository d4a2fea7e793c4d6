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

// What a record is about.
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
//   FREE             address, size; context: who freed, 0 if not asked for; origin: who had allocated
//   REALLOC_OLD      a block goes into realloc: fields as of FREE
//   REALLOC_NEW      the block that came out of realloc: fields as of ALLOC; origin: that of the old
//                    block. Follows the REALLOC_OLD of its thread
//   REALLOC_FAILED   the block of the REALLOC_OLD before lives on: fields as of ALLOC, context: who
//                    had allocated it
//   THREAD_START     address: tid; size: the thread's start in ticks, which is earlier than the
//                    record if events were off then
//   THREAD_END       fields as of THREAD_START
//   MODULE_LOAD      address, size: where the module lies; context: its index in the modules
//   MODULE_UNLOAD    fields as of MODULE_LOAD
//   RESUMED          events were off: what this thread did since its record before is not in the ring
//   MAP              address, size: now mapped; context: who mapped it; origin: flags of the mapping,
//                    as in the table of mappings
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
