// Programs with pools: random operations on real ones, or on one of its own, and what is live in the end. It prints
// "NAME ADDRESS SIZE" a line, then "ready", then waits for the end of its standard input.
//
//   live     a block that a pool has handed out
//   gone     the place of one that went back, alone, with its pool, or with its chunk, and was not handed out again
//   chunk    what the program itself has from malloc, and no pool
//
// Built with -DAPR, -DTALLOC, -DSLICE, -DOBSTACK or -DOWN; OWN with -DANNOUNCED speaks through allocs_pool.h.

#include "record.h"

#include <map>
#include <random>
#include <vector>

#define NOINLINE __attribute__((noinline))

#if defined(APR)
#include <apr_pools.h>
struct Pool { apr_pool_t *pool; };
static Pool *make() { auto p = new Pool; apr_pool_create(&p->pool, nullptr); return p; }
static void *get(Pool *p, size_t size) { return size % 3 ? apr_palloc(p->pool, size) : apr_pcalloc(p->pool, size); }
static const bool gives_back = false;
static void give_back(Pool *, void *, size_t) {}
static void clear(Pool *p) { apr_pool_clear(p->pool); }
static void destroy(Pool *p) { apr_pool_destroy(p->pool); delete p; }
static void begin() { apr_initialize(); }
#elif defined(TALLOC)
#include <talloc.h>
struct Pool { void *context; };
static Pool *make() { return new Pool{talloc_new(nullptr)}; }
static void *get(Pool *p, size_t size) { return talloc_size(p->context, size + 1); }
static const bool gives_back = true;
static void give_back(Pool *, void *block, size_t) { talloc_free(block); }
static void clear(Pool *p) { talloc_free_children(p->context); }
static void destroy(Pool *p) { talloc_free(p->context); delete p; }
static void begin() {}
#define EXTRA 1
#elif defined(SLICE)
#include <glib.h>
struct Pool { int unused; };
static Pool *make() { return new Pool; }
static void *get(Pool *, size_t size) { return g_slice_alloc(size + 1); }
static const bool gives_back = true;
static void give_back(Pool *, void *block, size_t size) { g_slice_free1(size + 1, block); }
static void clear(Pool *) {}
static void destroy(Pool *p) { delete p; }
static void begin() {}
#define HAS_NO_POOLS
#define EXTRA 1
#elif defined(OBSTACK)
#include <obstack.h>
#define obstack_chunk_alloc malloc
#define obstack_chunk_free free
struct Pool { struct obstack stack; void *first; };
// obstack_alloc is a macro: the program's own functions around it are what is declared.
extern "C" NOINLINE void *stack_get(struct obstack *stack, size_t size) { return obstack_alloc(stack, (int)size); }
extern "C" NOINLINE void stack_free(struct obstack *stack, void *block) { obstack_free(stack, block); KEEP(stack); }
static Pool *make() { auto p = new Pool; obstack_init(&p->stack); p->first = stack_get(&p->stack, 1); return p; }
static void *get(Pool *p, size_t size) { return stack_get(&p->stack, size + 1); }
static const bool gives_back = false;
static void give_back(Pool *, void *, size_t) {}
static void clear(Pool *p) { stack_free(&p->stack, p->first); p->first = stack_get(&p->stack, 1); }
static void destroy(Pool *p) { stack_free(&p->stack, nullptr); delete p; }
static void begin() {}
#define EXTRA 1
#define HAS_FIRST
#else
// Blocks at multiples of 8 bytes, side by side, out of chunks that go to a free list; those of 8 bytes have a list of their own.
struct Chunk { Chunk *next; size_t used; char bytes[4080]; };
struct Pool { Chunk *chunks; void *free8; };
static Chunk *spare;
#ifdef ANNOUNCED
#include "allocs_pool.h"
ALLOCS_POOL_KIND_WITH_FUNCTION(kind, "own pools", "pool_get");
#define ANNOUNCE(...) __VA_ARGS__
#else
#define ANNOUNCE(...)
#endif
extern "C" NOINLINE void *pool_get(Pool *pool, size_t size) {
  size_t taken = size ? (size + 7) & ~size_t(7) : 8;
  void *block;
  if (taken == 8 && pool->free8) {
    block = pool->free8;
    memcpy(&pool->free8, block, 8);
  } else {
    if (!pool->chunks || pool->chunks->used + taken > sizeof pool->chunks->bytes) {
      Chunk *chunk = spare;
      if (chunk) spare = chunk->next; else chunk = (Chunk *)malloc(sizeof(Chunk));
      chunk->next = pool->chunks;
      chunk->used = 0;
      pool->chunks = chunk;
    }
    block = pool->chunks->bytes + pool->chunks->used;
    pool->chunks->used += taken;
  }
  ANNOUNCE(allocs_pool_allocated(&kind, pool, block, size));
  KEEP(block);
  return block;
}
extern "C" NOINLINE void pool_free(Pool *pool, void *block) {
  ANNOUNCE(allocs_pool_freed(&kind, block));
  memcpy(block, &pool->free8, 8);
  pool->free8 = block;
}
extern "C" NOINLINE void pool_clear(Pool *pool) {
  ANNOUNCE(allocs_pool_reset(&kind, pool));
  while (Chunk *chunk = pool->chunks) {
    pool->chunks = chunk->next;
    // Half of them are malloc's again.
    if ((uintptr_t)chunk & 16) { free(chunk); continue; }
    chunk->next = spare;
    spare = chunk;
  }
  pool->free8 = nullptr;
}
static Pool *make() { return new Pool{}; }
static void *get(Pool *p, size_t size) { return pool_get(p, size); }
static const bool gives_back = true;
static void give_back(Pool *p, void *block, size_t size) { if (size <= 8) pool_free(p, block); }
static void clear(Pool *p) { pool_clear(p); }
static void destroy(Pool *p) { pool_clear(p); delete p; }
static void begin() {}
#define SMALL_ONLY
#endif
#ifndef EXTRA
#define EXTRA 0
#endif

static void say(const char *what, const void *address, size_t size) {
  record_say("%s %llu %zu\n", what, (unsigned long long)(uintptr_t)address, size);
}

int main(int argc, char **argv) {
  begin();
  std::mt19937 random(argc > 1 ? (unsigned)atoi(argv[1]) : 1);
  std::vector<Pool *> pools;
  std::vector<std::map<char *, size_t>> live;
  std::map<char *, size_t> gone;
  auto has_gone = [&](char *block, size_t size) { gone[block] = size; };
  for (int i = 0; i < 12; i++) { pools.push_back(make()); live.emplace_back(); }
  for (int step = 0; step < 10000; step++) {
    size_t at = random() % pools.size();
    unsigned what = random() % 1000;
    if (what < 5) {
      for (auto &[block, size] : live[at]) {
        has_gone(block, size);
#ifdef HAS_NO_POOLS
        give_back(pools[at], block, size);
#endif
      }
      live[at].clear();
      if (what < 3) clear(pools[at]); else { destroy(pools[at]); pools[at] = make(); }
    } else if (what < 300 && gives_back && !live[at].empty()) {
      auto found = live[at].begin();
      std::advance(found, random() % live[at].size());
#ifdef SMALL_ONLY
      if (found->second > 8) continue;
#endif
      give_back(pools[at], found->first, found->second);
      has_gone(found->first, found->second);
      live[at].erase(found);
    } else {
      size_t size = random() % 8 == 0 ? random() % 3000 : random() % 100;
      char *block = (char *)get(pools[at], size);
      live[at][block] = size;
    }
  }
  std::map<char *, size_t> all;
  for (auto &pool : live) for (auto &[block, size] : pool) all[block] = size;
#ifdef HAS_FIRST
  for (auto pool : pools) all[(char *)pool->first] = 0;
#endif
  for (auto &[block, size] : all) say("live", block, size + EXTRA);
  int count = 0;
  for (auto &[block, size] : gone) {
    auto after = all.upper_bound(block);
    if (after != all.begin() && block < std::prev(after)->first + std::prev(after)->second + EXTRA + 1) continue;
    if (count++ < 500) say("gone", block, size);
  }
  void *chunk = malloc(5000);
  say("chunk", chunk, 5000);
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return chunk == nullptr;
}
