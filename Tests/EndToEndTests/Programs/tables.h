// Tables of blocks, each of one thread, that say at any moment which blocks there surely are and which calls are under way.
//
// Every thread allocates, resizes and frees in a table of its own. An entry is marked before the call and unmarked after it: whoever
// finds the tables as they were at some moment knows which calls had not returned.

#ifndef TABLES_H
#define TABLES_H

#include <stdatomic.h>
#include <stdbool.h>

#include "record.h"

SITE_BOUNDS(first_site)
SITE_BOUNDS(second_site)
SITE_BOUNDS(resize_site)
SITE(first_site) static void *first_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(second_site) static void *second_site(size_t size) { void *p = calloc(1, size); KEEP(p); return p; }
SITE(resize_site) static void *resize_site(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }

#ifndef TABLE_SIZE
#define TABLE_SIZE 2000
#endif
enum { TABLE = TABLE_SIZE, LIMIT = 128, IN_CALL = 1u << 31 };

// `alignment` is the new size while a call is under way.
typedef struct record_block entry;
static entry *tables[LIMIT];
static int table_count;

static uint64_t next_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

static void mark(entry *block, size_t size) {
  block->alignment = size;
  block->site |= IN_CALL;
  atomic_signal_fence(memory_order_seq_cst);
}
static void set(entry *block, void *p, size_t size, uint32_t site) {
  atomic_signal_fence(memory_order_seq_cst);
  block->address = (uint64_t)p;
  block->size = size;
  block->alignment = 0;
  block->thread = record_thread();
  atomic_signal_fence(memory_order_seq_cst);
  block->site = site;
}

// Entries that a thread which did not come along was busy with are left as they are.
static void work(entry *table, uint64_t *random, int operations) {
  for (int i = 0; i < operations; i++) {
    entry *block = &table[next_random(random) % TABLE];
    if (block->site & IN_CALL) continue;
    size_t size = next_random(random) % (next_random(random) % 64 ? 400 : 40000) + 1;
    if (block->address == 0) {
      mark(block, size);
      bool first = next_random(random) & 1;
      void *p = first ? first_site(size) : second_site(size);
      if (p == NULL) record_fail("no memory");
      set(block, p, size, first ? 0 : 1);
    } else if (next_random(random) % 4 == 0) {
      mark(block, size);
      void *p = resize_site((void *)block->address, size);
      if (p == NULL) record_fail("no memory");
      set(block, p, size, 2);
    } else {
      mark(block, 0);
      free((void *)block->address);
      set(block, NULL, 0, 0);
    }
  }
}

static inline void record_table_sites(void) {
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_first_site, __stop_site_first_site, "malloc");
  record_site(sites, 1, __start_site_second_site, __stop_site_second_site, "calloc");
  record_site(sites, 2, __start_site_resize_site, __stop_site_resize_site, "realloc");
  close(sites);
}

#endif
