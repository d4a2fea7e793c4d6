/* SPDX-License-Identifier: Apache-2.0 */
/* For authors of memory pools: tells liballocs_agent.so which blocks a pool hands out, so that `allocsctl query` and
 * `top` know them. C99 or C++; nothing to link. Without the agent each call is a load and a branch that is not taken.
 *
 *   ALLOCS_POOL_KIND(my_pools, "my pools");                  once, at file scope: all pools of one kind
 *
 *   void *my_alloc(struct my_pool *pool, size_t size) {
 *     void *block = …;
 *     allocs_pool_allocated(&my_pools, pool, block, size);   before anybody else gets to know the block
 *     return block;
 *   }
 *   void my_free(struct my_pool *pool, void *block) {
 *     allocs_pool_freed(&my_pools, block);                   before it may be handed out again
 *     …
 *   }
 *   void my_clear(struct my_pool *pool) {
 *     allocs_pool_reset(&my_pools, pool);                    all blocks of the pool go back; also where it is destroyed
 *     …
 *   }
 *
 * - Blocks start at multiples of 8; others are counted, and not known. The sizes are those that were asked for.
 * - `pool` tells pools of one kind apart, by its address alone; NULL if the kind has no pools.
 * - A block that is resized in place or moved is freed, and allocated again.
 * - A chunk that goes back to malloc takes with it what was handed out of it, whether that was said or not.
 * - Any thread may call these, but each block is its owner's: as with malloc and free.
 */
#ifndef ALLOCS_POOL_H
#define ALLOCS_POOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct allocs_pool_kind {
  const char *name;     /* what answers call the allocator */
  const char *function; /* what they call the function that hands out; NULL: nothing */
  uint64_t number;      /* the agent's */
};
#define ALLOCS_POOL_KIND(variable, name) static struct allocs_pool_kind variable = {name, NULL, 0}
#define ALLOCS_POOL_KIND_WITH_FUNCTION(variable, name, function) \
  static struct allocs_pool_kind variable = {name, function, 0}

/* Functions of the agent, which exist only in a process that has the agent. They write to nothing but `kind`. Their
 * other pointers are not const all the same: compilers would warn of blocks that nobody has written to. */
#define ALLOCS_POOL_AGENT __attribute__((weak, visibility("default"))) extern
ALLOCS_POOL_AGENT void allocs_pool_agent_allocated(
    struct allocs_pool_kind *kind, void *pool, void *block, size_t size);
ALLOCS_POOL_AGENT void allocs_pool_agent_freed(struct allocs_pool_kind *kind, void *block);
ALLOCS_POOL_AGENT void allocs_pool_agent_reset(struct allocs_pool_kind *kind, void *pool, void *since);
#undef ALLOCS_POOL_AGENT

/* The address of such a function, or NULL. On x86-64 from the global offset table, which the dynamic linker fills: into
 * code that is not position-independent the linker would put 0 for good. */
#if defined(__x86_64__)
#define ALLOCS_POOL_FUNCTION(function, type, variable) \
  type variable;                                       \
  __asm__(".weak " #function "\n\tmovq " #function "@GOTPCREL(%%rip), %0" : "=r"(variable))
#else
#define ALLOCS_POOL_FUNCTION(function, type, variable) type variable = &function
#endif

static inline void allocs_pool_allocated(
    struct allocs_pool_kind *kind, const void *pool, const void *block, size_t size) {
  typedef void (*allocs_pool_function)(struct allocs_pool_kind *, void *, void *, size_t);
  ALLOCS_POOL_FUNCTION(allocs_pool_agent_allocated, allocs_pool_function, function);
  if (__builtin_expect(function != NULL, 0) && block != NULL) function(kind, (void *)pool, (void *)block, size);
}

static inline void allocs_pool_freed(struct allocs_pool_kind *kind, const void *block) {
  typedef void (*allocs_pool_function)(struct allocs_pool_kind *, void *);
  ALLOCS_POOL_FUNCTION(allocs_pool_agent_freed, allocs_pool_function, function);
  if (__builtin_expect(function != NULL, 0) && block != NULL) function(kind, (void *)block);
}

/* All blocks of the pool go back, those included that it hands out until this returns. */
static inline void allocs_pool_reset(struct allocs_pool_kind *kind, const void *pool) {
  typedef void (*allocs_pool_function)(struct allocs_pool_kind *, void *, void *);
  ALLOCS_POOL_FUNCTION(allocs_pool_agent_reset, allocs_pool_function, function);
  if (__builtin_expect(function != NULL, 0)) function(kind, (void *)pool, NULL);
}

/* `since`, which the pool handed out, and all that it handed out after it go back, as with obstack_free; NULL: all. */
static inline void allocs_pool_reset_since(struct allocs_pool_kind *kind, const void *pool, const void *since) {
  typedef void (*allocs_pool_function)(struct allocs_pool_kind *, void *, void *);
  ALLOCS_POOL_FUNCTION(allocs_pool_agent_reset, allocs_pool_function, function);
  if (__builtin_expect(function != NULL, 0)) function(kind, (void *)pool, (void *)since);
}

#ifdef __cplusplus
}
#endif
#endif
