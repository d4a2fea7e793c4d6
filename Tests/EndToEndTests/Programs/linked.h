// What linked.cpp and linked_library.cpp have in common: each file defines these sites, under a prefix of its own, so that the
// same calls are made from the executable and from a library.
#ifndef LINKED_H
#define LINKED_H

#include <malloc.h>

#include "record.h"

#define LINKED_SITES(X, prefix)                 \
  X(prefix##_malloc, "malloc")                  \
  X(prefix##_calloc, "calloc")                  \
  X(prefix##_realloc, "realloc")                \
  X(prefix##_reallocarray, "reallocarray")      \
  X(prefix##_memalign, "memalign")              \
  X(prefix##_aligned_alloc, "aligned_alloc")    \
  X(prefix##_posix_memalign, "posix_memalign")
enum { site_malloc, site_calloc, site_realloc, site_reallocarray, site_memalign, site_aligned_alloc, site_posix_memalign, site_count };

struct linked_calls {
  void *(*malloc)(size_t);
  void *(*calloc)(size_t, size_t);
  void *(*realloc)(void *, size_t);
  void *(*reallocarray)(void *, size_t, size_t);
  void *(*memalign)(size_t, size_t);
  void *(*aligned_alloc)(size_t, size_t);
  void *(*posix_memalign)(size_t, size_t);
  void (*free)(void *);
  void (*record_sites)(int file, uint32_t first);
};
extern "C" const linked_calls *library_calls(void);

#define DECLARE_SITE(name, function) SITE_BOUNDS(name)
#define RECORD_SITE(name, function) record_site(file, site++, __start_site_##name, __stop_site_##name, function);
#define DEFINE_LINKED(prefix)                                                                                                   \
  LINKED_SITES(DECLARE_SITE, prefix)                                                                                            \
  SITE(prefix##_malloc) static void *prefix##_malloc(size_t size) { void *p = malloc(size); KEEP(p); return p; }                 \
  SITE(prefix##_calloc) static void *prefix##_calloc(size_t count, size_t size) { void *p = calloc(count, size); KEEP(p); return p; } \
  SITE(prefix##_realloc) static void *prefix##_realloc(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; } \
  SITE(prefix##_reallocarray) static void *prefix##_reallocarray(void *old, size_t count, size_t size) {                          \
    void *p = reallocarray(old, count, size); KEEP(p); return p; }                                                                \
  SITE(prefix##_memalign) static void *prefix##_memalign(size_t alignment, size_t size) { void *p = memalign(alignment, size); KEEP(p); return p; } \
  SITE(prefix##_aligned_alloc) static void *prefix##_aligned_alloc(size_t alignment, size_t size) {                               \
    void *p = aligned_alloc(alignment, size); KEEP(p); return p; }                                                                \
  SITE(prefix##_posix_memalign) static void *prefix##_posix_memalign(size_t alignment, size_t size) {                             \
    void *p = NULL; if (posix_memalign(&p, alignment, size) != 0) p = NULL; KEEP(p); return p; }                                  \
  static void prefix##_free(void *block) { free(block); }                                                                        \
  static void prefix##_record(int file, uint32_t site) { LINKED_SITES(RECORD_SITE, prefix) }                                      \
  static const linked_calls prefix##_calls_ = {prefix##_malloc, prefix##_calloc, prefix##_realloc, prefix##_reallocarray,           \
                                              prefix##_memalign, prefix##_aligned_alloc, prefix##_posix_memalign, prefix##_free,   \
                                              prefix##_record};

#endif
