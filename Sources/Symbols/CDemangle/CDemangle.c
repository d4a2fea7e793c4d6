// SPDX-License-Identifier: Apache-2.0
// Demangling through GNU libiberty and the Swift runtime; both are libraries that are kept up with their compilers.

#include "CDemangle.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <libiberty/demangle.h>

struct output {
  char *buffer;
  size_t size, capacity;
  jmp_buf full;
};

// libiberty's printers can't be told to stop, and one name may unfold without end; so a full buffer jumps out of them.
// The C++ printer holds nothing but its stack then; Rust's may lose one decoded punycode identifier, a few bytes.
static void append(const char *text, size_t size, void *opaque) {
  struct output *output = opaque;
  if (size > output->capacity - output->size)
    longjmp(output->full, 1);
  memcpy(output->buffer + output->size, text, size);
  output->size += size;
}

size_t cdemangle_cxx_or_rust(const char *name, char *buffer, size_t capacity) {
  struct output output = {.buffer = buffer, .capacity = capacity};
  if (setjmp(output.full))
    return 0;
  // Rust first: its legacy names are well-formed C++ ones with a hash as the last part.
  if (rust_demangle_callback(name, DMGL_NO_OPTS, append, &output))
    return output.size;
  output.size = 0;
  if (cplus_demangle_v3_callback(name, DMGL_PARAMS | DMGL_ANSI, append, &output))
    return output.size;
  return 0;
}

extern char *swift_demangle(const char *name, size_t length, char *buffer, size_t *buffer_size, uint32_t flags);

char *cdemangle_swift(const char *name, size_t length) {
  return swift_demangle(name, length, NULL, NULL, 0);
}
