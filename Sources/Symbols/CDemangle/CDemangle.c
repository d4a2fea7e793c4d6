// SPDX-License-Identifier: Apache-2.0
// Demangling through GNU libiberty and the Swift runtime; both are libraries that are kept up with their compilers.

#include "CDemangle.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
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

// Swift's demangler can't be told to stop either, and 135 bytes stand for 60 MB. It writes into a std::string, which
// grows by operator new: this one jumps out where the string, or anything else that a demangler wants on this thread, is
// larger than any result that is taken. What the demangler holds is lost then: the string and the nodes of one name,
// some hundred KiB. So such names may come `MOST_JUMPS` times, and after that no Swift name is demangled.
enum { LARGEST_PIECE = 64 << 10, MOST_JUMPS = 64 };
static _Thread_local jmp_buf *too_large;
static atomic_int jumps;

// operator new(unsigned long), of all code of this program; operator delete is the library's, which calls free.
void *_Znwm(size_t size) {
  if (too_large && size > LARGEST_PIECE)
    longjmp(*too_large, 1);
  void *memory = malloc(size ? size : 1);
  if (!memory)
    abort();
  return memory;
}

char *cdemangle_swift(const char *name, size_t length) {
  if (atomic_load_explicit(&jumps, memory_order_relaxed) >= MOST_JUMPS)
    return NULL;
  jmp_buf full;
  if (setjmp(full)) {
    too_large = NULL;
    atomic_fetch_add_explicit(&jumps, 1, memory_order_relaxed);
    return NULL;
  }
  too_large = &full;
  char *result = swift_demangle(name, length, NULL, NULL, 0);
  too_large = NULL;
  return result;
}
