// SPDX-License-Identifier: Apache-2.0
// libdeflate for Swift: zlib's format (RFC 1950) from memory to memory, in half of zlib's time.

#ifndef ALLOCS_DEFLATE_SHIM_H
#define ALLOCS_DEFLATE_SHIM_H

#include <libdeflate.h>

#endif
