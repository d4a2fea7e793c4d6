// A library with pools, for pool_loader.c to open: a pool cuts up one chunk of malloc from its start to its end.

#include <stdlib.h>

struct pool {
  char *chunk;
  size_t used;
};

struct pool *plugin_pool_make(void) {
  struct pool *pool = malloc(sizeof *pool);
  pool->chunk = malloc(1 << 16);
  pool->used = 0;
  return pool;
}

void *plugin_pool_get(struct pool *pool, size_t size) {
  char *block = pool->chunk + pool->used;
  pool->used += (size + 7) & ~(size_t)7;
  __asm__ volatile("" : : "r"(block) : "memory");
  return block;
}

void plugin_pool_clear(struct pool *pool) {
  pool->used = 0;
  __asm__ volatile("" : : "r"(pool) : "memory");
}

void plugin_pool_destroy(struct pool *pool) {
  plugin_pool_clear(pool);
  free(pool->chunk);
  free(pool);
}
