// SPDX-License-Identifier: Apache-2.0
// Totals: what was ever allocated in a context, whether it lives or not.
//
//   context id ──► context (allocs_context.h)      which stack, thread, function, allocator
//              └─► total                           blocks and bytes since the process began
//
// The table has an entry for each context, by the same id. It may be missing: agents before it did
// not have it, and ALLOCS_TOTALS=0 leaves it out. Then nothing is known of what was freed.
//
// Each block counts that the index has recorded, once, with the size that was asked for. A realloc
// that succeeds counts as a new block of the new size, wherever that block lies. Blocks of pools
// count beside the chunks that they lie in. A mapping is not a block. Not counted are blocks that
// are not in the index (the counters of lost blocks say how many), blocks without a context
// (`unknown_contexts`), and blocks of threads that found no room in the table of threads: these
// threads share their contexts, whose entries stay zero.
//
// Who writes: a context is of one slot of the table of threads, and a slot has one thread at a
// time; the next holder of a slot comes when the kernel says that the one before is gone. So an
// entry has one writer, and counting is a load, an addition and a store, without a locked
// instruction. A signal handler that interrupts the thread between the load and the store finds the
// thread inside a hook, and counts nothing; but where it has interrupted an allocator's call of
// another hook, what the handler itself allocates in the very context that is being counted may be
// lost from the total.
//
// Which line: contexts are handed out to threads ALLOCS_CONTEXT_BATCH at a time, whose totals fill
// a pair of cache lines. So no two threads write to one line, nor to two that a processor fetches
// together; but in the second half of the table, whose ids are handed out one by one.
//
// A reader's view: `bytes` and `blocks` are raised before the block's slot is written, and that
// store is a release, which pairs with the reader's acquire of the slot. So a reader that walks the
// live blocks first, and loads the totals behind that, finds no context with more live blocks than
// it ever had, and no fewer bytes. Beside this, a total may be ahead of the index by the one block
// that each thread is about to record, and its two numbers may differ from each other by that
// block. The two numbers only grow, and wrap around at 2^64. But a block that could not be recorded
// is taken back; and so is the block of operator new for which a new-handler ran first, as the
// record of the malloc inside gives way to the operator's: a reader that saw the first record finds
// that context's total behind by that block.
//
// The entries below `used` are backed by memory, and every id that stands in a slot is below. A
// child that is followed goes on from its parent's totals, as its index goes on from the parent's.

#ifndef ALLOCS_TOTAL_H
#define ALLOCS_TOTAL_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_atomic.h"
#include "allocs_context.h"

struct allocs_total {
  uint64_t bytes;   // as asked for
  uint64_t blocks;
};

// Ids that a thread gets at once: a multiple of this, and those that follow.
#define ALLOCS_CONTEXT_BATCH 8u

// Adds a block of `size` bytes to the total of a context. `context_bits`: the context, where the
// head of a slot has it. For the thread of that context alone.
static inline void allocs_total_add(struct allocs_total *totals, uint64_t context_bits, uint64_t size) {
  struct allocs_total *total = (struct allocs_total *)((uint8_t *)totals + (context_bits >> 5));
  allocs_store_relaxed_u64(&total->bytes, allocs_load_relaxed_u64(&total->bytes) + size);
  allocs_store_relaxed_u64(&total->blocks, allocs_load_relaxed_u64(&total->blocks) + 1);
}
// Takes back what allocs_total_add has added.
static inline void allocs_total_take_back(struct allocs_total *totals, uint64_t context_bits, uint64_t size) {
  struct allocs_total *total = (struct allocs_total *)((uint8_t *)totals + (context_bits >> 5));
  allocs_store_relaxed_u64(&total->bytes, allocs_load_relaxed_u64(&total->bytes) - size);
  allocs_store_relaxed_u64(&total->blocks, allocs_load_relaxed_u64(&total->blocks) - 1);
}

_Static_assert(sizeof(struct allocs_total) == 16, "total");
_Static_assert(offsetof(struct allocs_total, blocks) == 8, "total.blocks");
_Static_assert(sizeof(struct allocs_total) << 5 == 1 << 9, "the context's place in a head is its total's, 32 times");
_Static_assert(ALLOCS_CONTEXT_BATCH * sizeof(struct allocs_total) == 128, "a batch's totals fill two cache lines");

#endif
