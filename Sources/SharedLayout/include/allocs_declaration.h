// SPDX-License-Identifier: Apache-2.0
// Declarations of suballocators: the text of ALLOCS_SUBALLOC, which allocsctl checks and on which
// the agent acts.
//
//   list       allocator { ";" allocator }
//   allocator  [ name [ "@" module ] ":" ] function { ("," | blank) function }
//   function   symbol "(" letters ")" [ "p" ] [ "->" symbol ]
//
// `name` is the allocator's name in answers; an allocator without one is called by its first
// function. `module` is the file name of the executable or library that defines the functions, for
// names that several modules define. A letter stands for one argument; the first six arguments
// count:
//
//   Z I   a factor of the size, in bytes: apr_palloc(pZ)p, calloc(ZZ)p
//   z i   some other number
//   p     a pointer; in a function that allocates, the first p is the pool, if the allocator has a
//         function with R
//   P     the block that goes back; in a function with a result and a Z, the block is resized, else
//         it is freed
//   R     the pool whose blocks all go back; in a function with P, the blocks that the pool handed
//         out since that block, and the block itself
//
// A "p" behind the parenthesis is the result: the function allocates. "->symbol" names an
// allocating function of the allocator to which this function belongs, if that is not the allocator
// that the list has last begun.

#ifndef ALLOCS_DECLARATION_H
#define ALLOCS_DECLARATION_H

#include <stdbool.h>
#include <stdint.h>

#define ALLOCS_DECLARATION_ARGUMENTS 6u
#define ALLOCS_DECLARATION_NONE 0xFFu

// A part of the text.
struct allocs_text_part {
  const char *start;
  uint32_t size;
};

struct allocs_declaration {
  struct allocs_text_part name;    // of its allocator; empty if it has none
  struct allocs_text_part module;  // of its allocator; empty if none is named
  struct allocs_text_part function;
  struct allocs_text_part belongs_to;  // behind "->"; empty if it is not there
  uint32_t allocator;              // number of its allocator in the text, from 0
  uint8_t sizes;                   // bit i: argument i is a factor of the size
  uint8_t pool;                    // the argument, or ALLOCS_DECLARATION_NONE
  uint8_t freed;
  uint8_t reset;
  bool allocates;
};

enum allocs_declaration_error {
  ALLOCS_DECLARATION_OK = 0,
  ALLOCS_DECLARATION_NO_NAME,        // a symbol is missing
  ALLOCS_DECLARATION_NO_ARGUMENTS,   // "(" is missing
  ALLOCS_DECLARATION_UNKNOWN_LETTER,
  ALLOCS_DECLARATION_TOO_MANY,       // arguments
  ALLOCS_DECLARATION_NOT_CLOSED,     // ")" is missing
  ALLOCS_DECLARATION_NO_SIZE,        // it allocates, and no letter is its size
  ALLOCS_DECLARATION_NO_EFFECT,      // it neither allocates nor frees nor resets
  ALLOCS_DECLARATION_TWICE,          // P or R twice
  ALLOCS_DECLARATION_AMISS,          // something else follows
  ALLOCS_DECLARATION_RESULT_AND_RESET,
  ALLOCS_DECLARATION_ERRORS
};

struct allocs_declaration_reader {
  const char *next;
  const char *end;
  struct allocs_text_part name;
  struct allocs_text_part module;
  uint32_t allocator;
  bool is_begun;                       // an allocator is begun, and has a function
  enum allocs_declaration_error error;
  const char *error_at;
};

static inline struct allocs_declaration_reader allocs_declaration_reader_of(const char *text, uint32_t size) {
  return (struct allocs_declaration_reader){.next = text, .end = text + size};
}
// Reads the next function. False at the end of the text, or if the text is wrong: then `error`
// names the fault, and `error_at` its place.
bool allocs_read_declaration(struct allocs_declaration_reader *reader, struct allocs_declaration *declaration);
// Whether ALLOCS_LEVEL, a list of "block", "chunk", "NAME=block" and "NAME=chunk" with commas
// between, prefers the chunk for the allocator `name`. Words about the name count more than words
// about all allocators, and later words count more than earlier ones.
bool allocs_level_is_chunk(const char *text, struct allocs_text_part name);
// Where `text` is wrong as such a list; null if it is right.
const char *allocs_level_error(const char *text);
// The error, in words that follow "because".
const char *allocs_declaration_error_text(enum allocs_declaration_error error);

#endif
