// SPDX-License-Identifier: Apache-2.0
// The memory that a thread keeps of its last captures of call stacks, so that the next capture need
// not unwind from the beginning. Stack.swift explains how a capture uses it.

#ifndef ALLOCS_STACK_CACHE_H
#define ALLOCS_STACK_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"

// A frame that a capture of the thread has met: the registers on entry to it, and the facts that
// the capture has derived from them.
struct allocs_frame {
  uint64_t sp;
  uint64_t pc;
  uint64_t fp;
  uint64_t cfa;          // the caller's stack pointer, if the rule is of kind FRAME
  uint32_t rule;         // FrameRule's bits
  uint32_t node;
  uint32_t parent;       // the node that `node` was made from
  uint32_t walk;         // number of the last walk that met this frame
  uint32_t outer;        // where the caller's frame was in the last walk
  uint32_t list_index;   // in the list, if the entry there names this frame
  uint64_t unused;
};
#define ALLOCS_FRAME_LIMIT 256u  // of one stack
_Static_assert(ALLOCS_FRAME_LIMIT >= ALLOCS_FRAMES_MAX, "ALLOCS_DEPTH may ask for each depth");
#define ALLOCS_FRAME_SHIFT 56u
#define ALLOCS_FRAMES_KEPT 512u
#define ALLOCS_FRAME_NOT_LISTED 0xFFFFFFFFu
#define ALLOCS_DEPTH_DEFAULT 128u

// Four words of the stack that a capture has read.
#define ALLOCS_GROUP_WORDS 4u
struct allocs_words {
  uint64_t values[ALLOCS_GROUP_WORDS];
  uint64_t addresses[ALLOCS_GROUP_WORDS];
};
#define ALLOCS_FRAME_WORDS 4u  // of one frame, at most

static inline void allocs_words_put(
    struct allocs_words *_Nonnull words, uint64_t index, uint64_t address, uint64_t value) {
  words[index / ALLOCS_GROUP_WORDS].addresses[index % ALLOCS_GROUP_WORDS] = address;
  words[index / ALLOCS_GROUP_WORDS].values[index % ALLOCS_GROUP_WORDS] = value;
}
static inline uint64_t allocs_words_address(const struct allocs_words *_Nonnull words, uint64_t index) {
  return words[index / ALLOCS_GROUP_WORDS].addresses[index % ALLOCS_GROUP_WORDS];
}
static inline uint64_t allocs_words_value(const struct allocs_words *_Nonnull words, uint64_t index) {
  return words[index / ALLOCS_GROUP_WORDS].values[index % ALLOCS_GROUP_WORDS];
}

// Whether the stack still holds the first `count` words. As in allocs_record_is_of, no comparison
// is a branch.
static inline __attribute__((always_inline)) bool allocs_words_are_unchanged(
    const struct allocs_words *_Nonnull words, uint64_t count) {
  uint64_t difference = 0;
  for (uint64_t left = count / ALLOCS_GROUP_WORDS; left != 0; left--, words++) {
    uint64_t one = *(const uint64_t *)words->addresses[0] ^ words->values[0];
    uint64_t two = *(const uint64_t *)words->addresses[1] ^ words->values[1];
    one |= *(const uint64_t *)words->addresses[2] ^ words->values[2];
    two |= *(const uint64_t *)words->addresses[3] ^ words->values[3];
    difference |= one | two;
    __asm__("" : "+r"(difference));
  }
  // Of the last group, a word that does not count is compared with itself.
  for (uint64_t index = 0; index < ALLOCS_GROUP_WORDS - 1; index++) {
    const uint64_t own = (uint64_t)&words->values[index];
    uint64_t counts = -(uint64_t)(index < count % ALLOCS_GROUP_WORDS);
    __asm__("" : "+r"(counts));
    difference |= *(const uint64_t *)(own ^ ((own ^ words->addresses[index]) & counts)) ^ words->values[index];
    __asm__("" : "+r"(difference));
  }
  return difference == 0;
}

// An entry of the list of frames: a frame, the node that the frame had there, the frame pointer
// register if the frames outside depend on it, and how many words of the stack were read from there
// to the outermost frame.
struct allocs_listed {
  uint64_t fp;
  uint32_t node;
  uint16_t frame;
  uint16_t words;
  uint64_t needs_fp;
};

// A node that this thread has looked up: of the call that returns to `pc`, made from `parent`.
struct allocs_child {
  uint64_t pc;
  uint32_t parent;
  uint32_t node;
};
#define ALLOCS_CHILD_COUNT 2048u
#define ALLOCS_CHILD_SHIFT 53u

// A stack that was captured: the registers that the capture began with, the stack's node, and all
// words of the stack that lead from frame to frame, outermost first, in groups of four. The fields
// `offsets` are distances from the stack pointer in words. Groups lie behind the record.
struct allocs_record {
  uint64_t pc;
  uint64_t sp;
  uint64_t fp;
  uint64_t fp_mask;  // all bits if the way out depends on the frame pointer register, else 0
  uint32_t node;
  uint32_t groups;
  // Of an allocation with this stack, where the head of a slot has it, below the function and the
  // allocator (Stack+Memo.swift); 0: not known.
  uint64_t context;
};
struct allocs_word_group {
  uint64_t values[ALLOCS_GROUP_WORDS];
  uint16_t offsets[ALLOCS_GROUP_WORDS];
};

// Writes a word of the stack as number `index` of the record whose groups begin at `groups`. Gives
// the word's distance from `sp`, of which a record cannot hold the bits ALLOCS_DISTANCE_REST.
#define ALLOCS_DISTANCE_REST 0xFFFFFFFFFFF80007u
static inline __attribute__((always_inline)) uint64_t allocs_record_put(
    struct allocs_word_group *_Nonnull groups, uint64_t index, uint64_t sp, uint64_t address, uint64_t value) {
  struct allocs_word_group *group = groups + index / ALLOCS_GROUP_WORDS;
  group->values[index % ALLOCS_GROUP_WORDS] = value;
  group->offsets[index % ALLOCS_GROUP_WORDS] = (uint16_t)((address - sp) >> 3);
  return address - sp;
}

// Writes `count` words of a list as the first words of a record, and gives all their distances'
// bits. Whole groups are written: the last one may get words of the list that do not count.
static inline __attribute__((always_inline)) uint64_t allocs_record_put_all(
    struct allocs_word_group *_Nonnull groups, const struct allocs_words *_Nonnull words, uint64_t count, uint64_t sp) {
  typedef uint64_t four __attribute__((vector_size(32), aligned(8), may_alias));
  typedef uint16_t four_offsets __attribute__((vector_size(8), aligned(2), may_alias));
  four all = {0, 0, 0, 0}, distances = all;
  for (uint64_t left = (count + ALLOCS_GROUP_WORDS - 1) / ALLOCS_GROUP_WORDS; left != 0; left--, groups++, words++) {
    all |= distances;
    distances = *(const four *)words->addresses - sp;
    *(four *)groups->values = *(const four *)words->values;
    *(four_offsets *)groups->offsets = __builtin_convertvector(distances >> 3, four_offsets);
  }
  const uint64_t last = (count - 1) % ALLOCS_GROUP_WORDS;  // of the last group, the last that counts
  return all[0] | all[1] | all[2] | all[3] | distances[0] | (last >= 1 ? distances[1] : 0) |
      (last >= 2 ? distances[2] : 0) | (last >= 3 ? distances[3] : 0);
}

// The places, in bytes from the stack pointer, at which the stacks with one return address and one
// stack pointer have been found to differ. The words at two of these places are part of the hash by
// which a record is found. The word at ALLOCS_DOOR_NOWHERE is the return address itself.
struct allocs_memo_door {
  uint64_t pc;
  uint64_t sp;
  int32_t offset;
  int32_t other_offset;
  uint32_t changes;  // of the two
  uint32_t unused;
};
#define ALLOCS_DOOR_NOWHERE (-8)
#define ALLOCS_MEMO_DOORS 1024u  // in pairs
#define ALLOCS_DOOR_SHIFT 55u

// Whether the stack from `sp` on is the stack of the record, which was captured with this stack
// pointer. No comparison is a branch: it could not be predicted where the loop is entered for
// another record each time. In C, because the compiler must be kept from making branches.
static inline __attribute__((always_inline)) bool allocs_record_is_of(
    const struct allocs_record *_Nonnull record, uint64_t sp, uint64_t fp) {
  const struct allocs_word_group *group = (const struct allocs_word_group *)(record + 1);
  const uint64_t *const words = (const uint64_t *)sp;
  uint64_t difference = (record->fp ^ fp) & record->fp_mask;
  for (uint32_t left = record->groups; left != 0; left--, group++) {
    uint64_t one = words[group->offsets[0]] ^ group->values[0];
    uint64_t two = words[group->offsets[1]] ^ group->values[1];
    one |= words[group->offsets[2]] ^ group->values[2];
    two |= words[group->offsets[3]] ^ group->values[3];
    difference |= one | two;
    __asm__("" : "+r"(difference));
  }
  return difference == 0;
}

// Where the records of some stacks are: of those whose hash has the set's number as a part. `tags`
// are another part of it, 0 if the way is empty; `places` are bytes from the start of the room.
#define ALLOCS_MEMO_WAYS 4u
struct allocs_memo_set {
  uint32_t tags[ALLOCS_MEMO_WAYS];
  uint32_t places[ALLOCS_MEMO_WAYS];
};
#define ALLOCS_MEMO_SETS 512u
#define ALLOCS_MEMO_SHIFT 55u
// Room for records, which is used in turn, part by part.
#define ALLOCS_MEMO_PART 0x8000u
#define ALLOCS_MEMO_PARTS 8u

// Stacks that a thread has captured more than once (Stack+Memo.swift). Mapped when the thread has
// the first such stack.
struct allocs_memo {
  uint32_t found;  // place of the record that the last capture found or made, if it did
  uint32_t again;  // the same place, if captures have found that record twice or more, one after the other
  uint32_t unused[14];
  struct allocs_memo_door doors[ALLOCS_MEMO_DOORS];
  struct allocs_memo_set sets[ALLOCS_MEMO_SETS];
  uint8_t room[ALLOCS_MEMO_PARTS * ALLOCS_MEMO_PART];
};
#define ALLOCS_MEMO_NOWHERE 0xFFFFFFFFu

// Empties the ways that lead into a part of the room. No way is a branch: none could be predicted.
static inline void allocs_memo_empty(struct allocs_memo *_Nonnull memo, uint32_t part) {
  typedef uint32_t ways __attribute__((vector_size(4 * ALLOCS_MEMO_WAYS), aligned(4), may_alias));
  for (uint32_t index = 0; index < ALLOCS_MEMO_SETS; index++) {
    struct allocs_memo_set *set = &memo->sets[index];
    *(ways *)set->tags &= (ways)(*(const ways *)set->places / ALLOCS_MEMO_PART != part);
  }
}

// The memory of a thread's captures. It is not wiped in a child: a child that was forked in the
// middle of a capture finishes that capture.
struct allocs_stack_block {
  // First the frames that are kept from one capture to the next; then room for the frames of one
  // walk that find no place among them; then one frame that nobody reads.
  struct allocs_frame frames[ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1];
  struct allocs_words words[ALLOCS_FRAME_LIMIT * ALLOCS_FRAME_WORDS / ALLOCS_GROUP_WORDS + 1];
  struct allocs_listed listed[ALLOCS_FRAME_LIMIT];  // outermost first
  uint16_t met[ALLOCS_FRAME_LIMIT];                 // frames that the walk under way has met, innermost first
  struct allocs_child children[ALLOCS_CHILD_COUNT];
  struct allocs_memo *memo;  // null: none yet
  uint32_t memo_used;        // where the next record goes, in bytes from the start of the memo's room
  uint32_t memo_left;        // bytes from there to the end of its part of the room
  uint32_t memo_refused;     // there was no memory for a memo
  uint32_t must_forget;      // a module was unloaded: rules may be wrong by now
  uint32_t is_checked;       // captures are checked: hooks take nothing from the memo
  uint32_t unused_word;
  // To the end of a page.
  uint8_t unused[4096 - ((ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1) * 64 +
                         ALLOCS_FRAME_LIMIT * (ALLOCS_FRAME_WORDS * 16 + 24 + 2) + 64 + ALLOCS_CHILD_COUNT * 16 + 32) %
                            4096];
};

// How old a kept frame is: 1 if it is one of the first `list_count` of the list, else twice the
// number of walks since the last that met it, of which `walk` is the present one. No branch: where
// frames are new, none could be predicted.
static inline uint32_t allocs_frame_age(
    const struct allocs_stack_block *_Nonnull stacks, const struct allocs_frame *_Nonnull frame, uint32_t walk,
    uint32_t list_count) {
  const uint32_t index = frame->list_index;
  const struct allocs_listed *entry = &stacks->listed[index % ALLOCS_FRAME_LIMIT];
  const uint32_t is_listed = (uint32_t)(index < list_count) & (uint32_t)(stacks->frames + entry->frame == frame);
  return (((walk - frame->walk) * 2) & (is_listed - 1)) | is_listed;
}

_Static_assert(sizeof(struct allocs_frame) == 64, "a frame fills a cache line");
_Static_assert(sizeof(struct allocs_record) == 48 && sizeof(struct allocs_word_group) == 40, "no padding");
_Static_assert(ALLOCS_MEMO_SETS == 1u << (64 - ALLOCS_MEMO_SHIFT), "a set for each number");
_Static_assert(ALLOCS_MEMO_DOORS == 2u << (64 - ALLOCS_DOOR_SHIFT), "two to a pair");
_Static_assert(ALLOCS_FRAMES_KEPT == 2u << (64 - ALLOCS_FRAME_SHIFT), "two to a pair");
_Static_assert(sizeof(struct allocs_stack_block) % 4096 == 0, "the wiped half ends at a page");

#endif
