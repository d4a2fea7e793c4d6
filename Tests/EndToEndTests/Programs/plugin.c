// A library that allocates, for loader.c to load and unload. Built twice, under two names of its function.

#include "record.h"

SITE_BOUNDS(plugin_site)
SITE(plugin_site) void *PLUGIN_FUNCTION(size_t size) { void *p = malloc(size); KEEP(p); return p; }

void plugin_describe(int file, uint32_t site) { record_site(file, site, __start_site_plugin_site, __stop_site_plugin_site, "malloc"); }
