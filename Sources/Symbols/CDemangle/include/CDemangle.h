// SPDX-License-Identifier: Apache-2.0
// Demangling into a buffer of the caller, bounded: a short mangled name can stand for a demangled one of any length, so
// a file's author could otherwise make us fill the memory.
//
// All functions may be called from any thread at once.

#ifndef CDEMANGLE_H
#define CDEMANGLE_H

#include <stddef.h>
#include <stdint.h>

// Writes the demangled form of a C++ (Itanium ABI) or Rust (legacy, without its hash, or v0) name to `buffer`, without
// a final zero. Returns its length in bytes; 0 if `name` is of neither scheme, isn't well formed, or needs more than
// `capacity` bytes.
size_t cdemangle_cxx_or_rust(const char *name, char *buffer, size_t capacity);

// The demangler of Swift's own runtime, linked with every Swift program. Returns a string to be given to free(), or
// null if `name` (`length` bytes) isn't a Swift symbol's.
// Nothing bounds it: the caller has looked how far the name unfolds.
char *cdemangle_swift(const char *name, size_t length);

#endif
