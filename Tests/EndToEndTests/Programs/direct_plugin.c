// A library for direct.c: allocates by whatever definition it is bound to.
#include <stdlib.h>

extern void *__libc_malloc(size_t);
void *plugin_allocate(size_t size) { return malloc(size); }
void *plugin_allocate_by_name(size_t size) { return __libc_malloc(size); }
void plugin_free(void *block) { free(block); }
