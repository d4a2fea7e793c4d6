// SPDX-License-Identifier: Apache-2.0
// zlib for Swift, which does not see the macro deflateInit2.

#ifndef ALLOCS_ZLIB_SHIM_H
#define ALLOCS_ZLIB_SHIM_H

#include <zlib.h>

// A compressor that writes the format of gzip (RFC 1952), at the level that is fastest.
static inline int allocs_gzip_begin(z_stream *stream) {
  return deflateInit2(stream, Z_BEST_SPEED, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
}

#endif
