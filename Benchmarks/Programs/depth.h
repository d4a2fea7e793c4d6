// SPDX-License-Identifier: Apache-2.0
// depth.h: calls a function at a known depth of the call stack, through frames as distribution binaries have them.
//
// - The depth counts every return address from the innermost call out to _start, as unw_backtrace counts them. main and
//   what glibc has outside of it are OUTER_FRAMES; the depth that comes of it is checked against what was recorded.
// - FRAME functions are never inlined, cloned, merged or left by a tail call: each is one frame.
// - The levels differ in the size of their frames; some save rbx, some rbp, as code without frame pointers does. Each
//   calls the next from either of two places, as a bit of `path` says.

#ifndef DEPTH_H
#define DEPTH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// _start, __libc_start_main, __libc_start_call_main and our main.
enum { OUTER_FRAMES = 4, LEVEL_LIMIT = 20 };

#ifdef __clang__
#define FRAME static __attribute__((noinline))
#else
#define FRAME static __attribute__((noipa))
#endif

// After a call: no tail call, and no two calls become one, as the texts differ.
#define DISTINCT_(text) __asm__ volatile("# " #text : : : "memory")
#define DISTINCT(text) DISTINCT_(text)

#ifdef __x86_64__
#define SAVE_NOTHING
#define SAVE_RBX __asm__ volatile("" : : : "rbx");
#define SAVE_RBP __asm__ volatile("" : : : "rbp");
#else
#define SAVE_NOTHING
#define SAVE_RBX
#define SAVE_RBP
#endif

// Makes the frame `bytes` larger.
#define ROOM(bytes) \
  char room[bytes]; \
  __asm__ volatile("" : : "r"(room) : "memory")

struct descent {
  void (*bottom)(struct descent *descent);
  // Bit n chooses between the two places from which level n calls the next.
  uint64_t path;
};

#define LEVEL(number, next, bytes, saved)     \
  FRAME void level_##number(struct descent *descent) { \
    ROOM(bytes);                              \
    saved                                     \
    if (descent->path >> number & 1) {        \
      DISTINCT(to the next of number);        \
      next(descent);                          \
      DISTINCT(from the next of number);      \
    } else {                                  \
      DISTINCT(otherwise to number);          \
      next(descent);                          \
      DISTINCT(otherwise from number);        \
    }                                         \
  }

LEVEL(1, descent->bottom, 8, SAVE_RBX)
LEVEL(2, level_1, 24, SAVE_RBP)
LEVEL(3, level_2, 40, SAVE_NOTHING)
LEVEL(4, level_3, 72, SAVE_RBX SAVE_RBP)
LEVEL(5, level_4, 8, SAVE_NOTHING)
LEVEL(6, level_5, 136, SAVE_RBX)
LEVEL(7, level_6, 24, SAVE_RBP)
LEVEL(8, level_7, 16, SAVE_RBX SAVE_RBP)
LEVEL(9, level_8, 264, SAVE_RBX)
LEVEL(10, level_9, 8, SAVE_NOTHING)
LEVEL(11, level_10, 56, SAVE_RBP)
LEVEL(12, level_11, 40, SAVE_RBX)
LEVEL(13, level_12, 24, SAVE_RBX SAVE_RBP)
LEVEL(14, level_13, 104, SAVE_NOTHING)
LEVEL(15, level_14, 8, SAVE_RBX)
LEVEL(16, level_15, 24, SAVE_RBP)
LEVEL(17, level_16, 72, SAVE_RBX SAVE_RBP)
LEVEL(18, level_17, 16, SAVE_NOTHING)
LEVEL(19, level_18, 40, SAVE_RBX)
LEVEL(20, level_19, 24, SAVE_RBP)

// Calls `bottom` through `count` levels, 0 to LEVEL_LIMIT: its own frame is number OUTER_FRAMES + count + 1. Part of
// its caller's frame.
static inline __attribute__((always_inline)) void descend(int count, void (*bottom)(struct descent *descent)) {
  static void (*const levels[])(struct descent *) = {
      NULL,     level_1,  level_2,  level_3,  level_4,  level_5,  level_6,  level_7,  level_8,  level_9, level_10,
      level_11, level_12, level_13, level_14, level_15, level_16, level_17, level_18, level_19, level_20,
  };
  if (count < 0 || count > LEVEL_LIMIT) {
    fprintf(stderr, "a depth of %d can't be made\n", count + OUTER_FRAMES + 1);
    exit(64);
  }
  struct descent descent = {.bottom = bottom};
  (count == 0 ? bottom : levels[count])(&descent);
  DISTINCT(from the descent);
}

#endif
