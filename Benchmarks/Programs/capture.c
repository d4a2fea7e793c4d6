// SPDX-License-Identifier: Apache-2.0
// capture SHAPE DEPTH [OPERATIONS]: malloc(64) and free at a depth of the call stack; an operation is the pair. Under
// the agent with and without whole stacks, the difference is what the capture of a stack costs. SHAPE is one of
//
// - same: always the same call, at DEPTH.
// - tails: the innermost TAIL_FRAMES of DEPTH frames change each time, among TAIL_COUNT chains of functions; all frames
//   outside them are the same, the return address of the call into the chain included.
// - known: a stack that was seen before, among KNOWN_STACKS, but differs from the last one from its outermost varying
//   frame on: as many frames as with `new` are captured again, none is new.
// - new: a stack that was never seen before, of return addresses that all were. Its outermost varying frame calls from
//   one of SITE_COUNT places, each time from another than the last; the next one does so as well, and no pair of the
//   two comes twice. So every frame from the latter to the innermost is new, though its function and place are known,
//   and nothing of the capture before can be used but what lies outside. The number of stacks is fixed: OPERATIONS does
//   not count.
//
// Ends with a block kept, allocated at the innermost place of the last stack. Prints its address, the number of frames
// of a stack that differ from the last one's or are new, and the number of new frames in all: "kept HEX changed COUNT
// new COUNT".
#include "bench.h"
#include "depth.h"

static uint64_t operations = 300000;
static int depth;
static void *kept;

static void finish(int changed, uint64_t new_frames) {
  printf("kept %llx changed %d new %llu\n", (unsigned long long)(uintptr_t)kept, changed,
         (unsigned long long)new_frames);
}

// MARK: the same stack

FRAME void same(struct descent *descent) {
  (void)descent;
  struct batches batches = {0};
  while (next_batch(&batches, operations))
    for (uint64_t i = 0; i < operations; i++) {
      free(kept);
      kept = escape(malloc(64));
    }
}

// MARK: five frames that change

enum { TAIL_FRAMES = 5, TAIL_COUNT = 8 };

#define TAIL_FRAME(name, next, bytes, saved) \
  FRAME void name(void) {                    \
    ROOM(bytes);                             \
    saved                                    \
    next;                                    \
    DISTINCT(from name);                     \
  }
#define PAIR (free(kept), kept = escape(malloc(64)))
#define TAIL(number, bytes)                                                \
  TAIL_FRAME(tail_##number##_1, PAIR, bytes, SAVE_NOTHING)                 \
  TAIL_FRAME(tail_##number##_2, tail_##number##_1(), 8, SAVE_RBX)          \
  TAIL_FRAME(tail_##number##_3, tail_##number##_2(), 40, SAVE_RBP)         \
  TAIL_FRAME(tail_##number##_4, tail_##number##_3(), bytes + 16, SAVE_RBX) \
  TAIL_FRAME(tail_##number##_5, tail_##number##_4(), 24, SAVE_RBX SAVE_RBP)

TAIL(0, 8)
TAIL(1, 24)
TAIL(2, 72)
TAIL(3, 8)
TAIL(4, 40)
TAIL(5, 136)
TAIL(6, 24)
TAIL(7, 8)

FRAME void tails(struct descent *descent) {
  static void (*const innermost[TAIL_COUNT])(void) = {
      tail_0_5, tail_1_5, tail_2_5, tail_3_5, tail_4_5, tail_5_5, tail_6_5, tail_7_5,
  };
  (void)descent;
  struct batches batches = {0};
  while (next_batch(&batches, operations))
    for (uint64_t i = 0; i < operations; i++) innermost[i % TAIL_COUNT]();
}

// MARK: stacks that change from the outside

enum { SITE_COUNT = 64, STACKS = (SITE_COUNT - 1) * (SITE_COUNT - 1), KNOWN_STACKS = 16 };
_Static_assert(STACKS % BATCHES == 0, "batches are of one size");

// What `second` calls, and from which places the two frames call.
struct walk {
  struct descent descent;
  void (*next)(struct descent *descent);
  unsigned first, second;
};

FRAME void leaf(struct descent *descent) {
  (void)descent;
  PAIR;
}

// 64 calls from 64 places. The digits are octal.
#define SITE(name, call, number)      \
  case number:                        \
    DISTINCT(name to number);         \
    call;                             \
    DISTINCT(name from number);       \
    break;
#define EIGHT_SITES(name, call, digit)                                                                              \
  SITE(name, call, 0##digit##0) SITE(name, call, 0##digit##1) SITE(name, call, 0##digit##2)                         \
  SITE(name, call, 0##digit##3) SITE(name, call, 0##digit##4) SITE(name, call, 0##digit##5)                         \
  SITE(name, call, 0##digit##6) SITE(name, call, 0##digit##7)
#define SITES(name, call)                                                                          \
  EIGHT_SITES(name, call, 0) EIGHT_SITES(name, call, 1) EIGHT_SITES(name, call, 2)                 \
  EIGHT_SITES(name, call, 3) EIGHT_SITES(name, call, 4) EIGHT_SITES(name, call, 5)                 \
  EIGHT_SITES(name, call, 6) EIGHT_SITES(name, call, 7)

FRAME void second(struct walk *walk) {
  switch (walk->second) { SITES(second, walk->next(&walk->descent)) }
}

FRAME void first(struct walk *walk) {
  switch (walk->first) { SITES(first, second(walk)) }
}

static struct walk walk_through(int levels) {
  static void (*const entries[])(struct descent *) = {level_15, level_16, level_17, level_18, level_19, level_20};
  enum { LEAST = 15, ENTRIES = sizeof entries / sizeof *entries };
  if (levels < LEAST || levels >= LEAST + ENTRIES) {
    fprintf(stderr, "capture: a depth of %d can't be made\n", depth);
    exit(64);
  }
  return (struct walk){.descent = {.bottom = leaf}, .next = entries[levels - LEAST]};
}

FRAME void known_stacks(int levels) {
  struct walk walk = walk_through(levels);
  struct batches batches = {0};
  while (next_batch(&batches, operations))
    for (uint64_t i = 0; i < operations; i++) {
      walk.first = i % KNOWN_STACKS;
      first(&walk);
    }
  finish(1 + 1 + levels + 1, 0);  // first, second, the levels, the leaf
}

FRAME void new_stacks(int levels) {
  struct walk walk = walk_through(levels);
  struct batches batches = {0};
  uint64_t random = 88172645463325252u;
  for (unsigned turn = 0; next_batch(&batches, STACKS / BATCHES); turn++) {
    if (turn == 0) {
      // The warm-up: each place once, none of the pairs that are to be new.
      for (unsigned i = 0; i < SITE_COUNT; i++)
        for (int side = 0; side < 2; side++) {
          walk.descent.path = side == 0 ? 0 : ~0ull;
          walk.first = i;
          walk.second = 0;
          first(&walk);
          walk.first = 0;
          walk.second = i;
          first(&walk);
        }
      continue;
    }
    for (unsigned i = 0; i < STACKS / BATCHES; i++) {
      unsigned stack = (turn - 1) * (STACKS / BATCHES) + i;
      walk.descent.path = next_random(&random) >> 32;
      walk.first = 1 + stack % (SITE_COUNT - 1);
      walk.second = 1 + stack / (SITE_COUNT - 1);
      first(&walk);
    }
  }
  int changed = 1 + levels + 1;  // second, the levels, the leaf; first is captured again, but known
  finish(changed, (uint64_t)STACKS * (uint64_t)changed);
}

int main(int argc, char **argv) {
  const char *shape = argc > 1 ? argv[1] : "same";
  depth = (int)count_argument(argc, argv, 2, 25);
  operations = count_argument(argc, argv, 3, operations);
  if (strcmp(shape, "same") == 0) {
    descend(depth - OUTER_FRAMES - 1, same);
    finish(0, 0);
  } else if (strcmp(shape, "tails") == 0) {
    descend(depth - OUTER_FRAMES - 1 - TAIL_FRAMES, tails);
    finish(TAIL_FRAMES, 0);
  } else if (strcmp(shape, "known") == 0) {
    known_stacks(depth - OUTER_FRAMES - 4);  // as below
  } else if (strcmp(shape, "new") == 0) {
    new_stacks(depth - OUTER_FRAMES - 4);  // itself, first, second, leaf
  } else {
    fprintf(stderr, "capture: no shape is called '%s'\n", shape);
    return 64;
  }
  return 0;
}
