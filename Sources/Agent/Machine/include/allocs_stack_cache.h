// SPDX-License-Identifier: Apache-2.0
// The memory that a thread keeps of its last captures of call stacks, so that the next capture need
// not unwind from the beginning. Stack.swift explains how a capture uses it.

#ifndef ALLOCS_STACK_CACHE_H
#define ALLOCS_STACK_CACHE_H

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
#define ALLOCS_FRAME_LIMIT 128u  // of one stack
_Static_assert(ALLOCS_FRAME_LIMIT == ALLOCS_DEPTH_MAX, "ALLOCS_DEPTH may ask for each depth");
#define ALLOCS_FRAME_SHIFT 56u
#define ALLOCS_FRAMES_KEPT 512u
#define ALLOCS_FRAME_NOT_LISTED 0xFFFFFFFFu
#define ALLOCS_DEPTH_DEFAULT 128u

// A word of the stack that a capture has read.
struct allocs_word {
  uint64_t address;
  uint64_t value;
};
#define ALLOCS_FRAME_WORDS 4u  // of one frame, at most

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

// The memory of a thread's captures. It is not wiped in a child: a child that was forked in the
// middle of a capture finishes that capture.
struct allocs_stack_block {
  // First the frames that are kept from one capture to the next; then room for the frames of one
  // walk that find no place among them; then one frame that nobody reads.
  struct allocs_frame frames[ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1];
  struct allocs_word words[ALLOCS_FRAME_LIMIT * ALLOCS_FRAME_WORDS];
  struct allocs_listed listed[ALLOCS_FRAME_LIMIT];  // outermost first
  uint16_t met[ALLOCS_FRAME_LIMIT];                 // frames that the walk under way has met, innermost first
  struct allocs_child children[ALLOCS_CHILD_COUNT];
  // To the end of a page.
  uint8_t unused[4096 - ((ALLOCS_FRAMES_KEPT + ALLOCS_FRAME_LIMIT + 1) * 64 +
                         ALLOCS_FRAME_LIMIT * (ALLOCS_FRAME_WORDS * 16 + 24 + 2) + ALLOCS_CHILD_COUNT * 16) % 4096];
};

_Static_assert(sizeof(struct allocs_frame) == 64, "a frame fills a cache line");
_Static_assert(ALLOCS_FRAMES_KEPT == 2u << (64 - ALLOCS_FRAME_SHIFT), "two to a pair");
_Static_assert(sizeof(struct allocs_stack_block) % 4096 == 0, "the wiped half ends at a page");

#endif
