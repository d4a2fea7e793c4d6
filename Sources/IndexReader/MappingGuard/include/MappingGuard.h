// Keeps a reader alive when a file is cut short while it is mapped.
#ifndef MAPPING_GUARD_H
#define MAPPING_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#endif
