// mimalloc's heaps and texts: blocks of heaps that are destroyed, deleted and kept, each recorded by the program itself.
#include "record.h"

typedef struct mi_heap mi_heap_t;
extern mi_heap_t *mi_heap_new(void), *mi_heap_get_backing(void);
extern void mi_heap_destroy(mi_heap_t *), mi_heap_delete(mi_heap_t *), mi_free(void *);
extern void *mi_heap_malloc(mi_heap_t *, size_t), *mi_heap_zalloc(mi_heap_t *, size_t), *mi_heap_calloc(mi_heap_t *, size_t, size_t);
extern void *mi_heap_mallocn(mi_heap_t *, size_t, size_t), *mi_heap_malloc_small(mi_heap_t *, size_t);
extern void *mi_heap_realloc(mi_heap_t *, void *, size_t), *mi_heap_reallocn(mi_heap_t *, void *, size_t, size_t);
extern void *mi_heap_reallocf(mi_heap_t *, void *, size_t), *mi_heap_rezalloc(mi_heap_t *, void *, size_t);
extern void *mi_heap_recalloc(mi_heap_t *, void *, size_t, size_t), *mi_heap_malloc_aligned(mi_heap_t *, size_t, size_t);
extern void *mi_heap_zalloc_aligned_at(mi_heap_t *, size_t, size_t, size_t);
extern char *mi_strdup(const char *), *mi_strndup(const char *, size_t), *mi_realpath(const char *, char *);
extern char *mi_heap_strdup(mi_heap_t *, const char *);
extern int mi_reallocarr(void *, size_t, size_t);

enum { BLOCKS = 4000 };
static struct record_block blocks[BLOCKS];
static mi_heap_t *heap_of[BLOCKS];
static int count;

static void note(mi_heap_t *heap, void *p, size_t size) {
  if (p == NULL || count == BLOCKS) record_fail("no block");
  heap_of[count] = heap;
  blocks[count++] = (struct record_block){(uint64_t)(uintptr_t)p, size, 0, 0, record_thread()};
}

static void fill(mi_heap_t *heap) {
  for (size_t size = 1; size < 40; size++) {
    note(heap, mi_heap_malloc(heap, size), size);
    note(heap, mi_heap_zalloc(heap, size * 9), size * 9);
    note(heap, mi_heap_calloc(heap, 3, size), 3 * size);
    note(heap, mi_heap_mallocn(heap, size, 5), 5 * size);
    note(heap, mi_heap_malloc_small(heap, size), size);
    note(heap, mi_heap_malloc_aligned(heap, size, 256), size);
    note(heap, mi_heap_zalloc_aligned_at(heap, size + 64, 128, 16), size + 64);
    note(heap, mi_heap_realloc(heap, mi_heap_malloc(heap, 8), size * 20), size * 20);
    note(heap, mi_heap_reallocn(heap, mi_heap_malloc(heap, 8), size, 30), size * 30);
    note(heap, mi_heap_reallocf(heap, mi_heap_malloc(heap, 8), size * 40), size * 40);
    note(heap, mi_heap_rezalloc(heap, mi_heap_zalloc(heap, 8), size * 50), size * 50);
    note(heap, mi_heap_recalloc(heap, mi_heap_zalloc(heap, 8), size, 60), size * 60);
    char text[64];
    memset(text, 'x', sizeof text);
    text[size] = 0;
    note(heap, mi_heap_strdup(heap, text), size + 1);
    mi_free(mi_heap_malloc(heap, size));
  }
  note(heap, mi_heap_malloc(heap, 3000000), 3000000);
}

static void forget(mi_heap_t *heap) {
  for (int i = 0; i < count; i++)
    if (heap_of[i] == heap) blocks[i].address = 0;
}

int main(void) {
  close(record_open("sites"));
  mi_heap_t *heaps[3];
  for (int i = 0; i < 3; i++) heaps[i] = mi_heap_new();
  record_checkpoint(0, blocks, 0);
  for (int i = 0; i < 3; i++) fill(heaps[i]);
  note(NULL, mi_strdup("seven"), 6);
  note(NULL, mi_strndup("seventeen", 4), 5);
  note(NULL, mi_realpath("/", NULL), 2);
  static char given[8192];
  if (mi_realpath("/", given) != given) record_fail("realpath");
  void *grown = mi_heap_malloc(mi_heap_get_backing(), 10);
  if (mi_reallocarr(&grown, 50, 60) != 0) record_fail("reallocarr");
  note(NULL, grown, 3000);
  record_checkpoint(1, blocks, (size_t)count);
  mi_heap_destroy(heaps[0]);
  forget(heaps[0]);
  mi_heap_delete(heaps[1]);  // its blocks live on
  record_checkpoint(2, blocks, (size_t)count);
  return 0;
}
