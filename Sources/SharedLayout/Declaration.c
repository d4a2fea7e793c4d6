// SPDX-License-Identifier: Apache-2.0
// See allocs_declaration.h.
#include "allocs_declaration.h"

#include <stddef.h>
#include <string.h>

typedef struct allocs_declaration_reader Reader;

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
static bool is_symbol(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '$';
}
// Of names and modules also.
static bool is_name(char c) { return is_symbol(c) || c == '-' || c == '+' || c == '/' || c == ' '; }

static char peek(const Reader *r) { return r->next < r->end ? *r->next : '\0'; }
static void skip_blanks(Reader *r) {
  while (r->next < r->end && is_blank(*r->next)) r->next++;
}
static bool fail(Reader *r, enum allocs_declaration_error error) {
  r->error = error;
  r->error_at = r->next;
  return false;
}
static struct allocs_text_part part(const char *start, const char *end) {
  while (end > start && is_blank(end[-1])) end--;
  return (struct allocs_text_part){start, (uint32_t)(end - start)};
}
static struct allocs_text_part symbol(Reader *r) {
  const char *start = r->next;
  while (r->next < r->end && is_symbol(*r->next)) r->next++;
  return part(start, r->next);
}

// [ name [ "@" module ] ":" ], if it is there.
static void read_name(Reader *r) {
  const char *c = r->next, *at = NULL;
  while (c < r->end && (is_name(*c) || (*c == '@' && !at))) {
    if (*c == '@') at = c;
    c++;
  }
  r->name = r->module = (struct allocs_text_part){r->next, 0};
  if (c == r->end || *c != ':') return;
  r->name = part(r->next, at ? at : c);
  if (at) {
    at++;
    while (at < c && is_blank(*at)) at++;
    r->module = part(at, c);
  }
  r->next = c + 1;
}

static bool read_letters(Reader *r, struct allocs_declaration *d) {
  uint32_t index = 0;
  for (;; r->next++, index++) {
    char letter = peek(r);
    if (r->next == r->end) return fail(r, ALLOCS_DECLARATION_NOT_CLOSED);
    if (letter == ')') break;
    if (index == ALLOCS_DECLARATION_ARGUMENTS) return fail(r, ALLOCS_DECLARATION_TOO_MANY);
    switch (letter) {
      case 'Z': case 'I': d->sizes |= (uint8_t)(1u << index); break;
      case 'z': case 'i': break;
      case 'p':
        if (d->pool == ALLOCS_DECLARATION_NONE) d->pool = (uint8_t)index;
        break;
      case 'P':
        if (d->freed != ALLOCS_DECLARATION_NONE) return fail(r, ALLOCS_DECLARATION_TWICE);
        d->freed = (uint8_t)index;
        break;
      case 'R':
        if (d->reset != ALLOCS_DECLARATION_NONE) return fail(r, ALLOCS_DECLARATION_TWICE);
        d->reset = (uint8_t)index;
        break;
      default: return fail(r, letter == ';' ? ALLOCS_DECLARATION_NOT_CLOSED : ALLOCS_DECLARATION_UNKNOWN_LETTER);
    }
  }
  r->next++;
  return true;
}

bool allocs_read_declaration(Reader *r, struct allocs_declaration *d) {
  if (r->error) return false;
  // What separates; a new allocator begins behind ";".
  bool begins = !r->is_begun && r->allocator == 0;
  for (; r->next < r->end; r->next++) {
    if (*r->next == ';') begins = true;
    else if (!is_blank(*r->next) && *r->next != ',') break;
  }
  if (r->next == r->end) return false;
  if (begins) {
    if (r->is_begun) r->allocator++;
    r->is_begun = true;
    read_name(r);
    skip_blanks(r);
  }
  *d = (struct allocs_declaration){
      .name = r->name, .module = r->module, .allocator = r->allocator,
      .pool = ALLOCS_DECLARATION_NONE, .freed = ALLOCS_DECLARATION_NONE, .reset = ALLOCS_DECLARATION_NONE};
  d->function = symbol(r);
  if (d->function.size == 0) return fail(r, ALLOCS_DECLARATION_NO_NAME);
  skip_blanks(r);
  if (peek(r) != '(') return fail(r, ALLOCS_DECLARATION_NO_ARGUMENTS);
  r->next++;
  if (!read_letters(r, d)) return false;
  if (peek(r) == 'p') {
    d->allocates = true;
    r->next++;
  }
  if (r->end - r->next >= 2 && r->next[0] == '-' && r->next[1] == '>') {
    r->next += 2;
    d->belongs_to = symbol(r);
    if (d->belongs_to.size == 0) return fail(r, ALLOCS_DECLARATION_NO_NAME);
  }
  char next = peek(r);
  if (r->next < r->end && !is_blank(next) && next != ',' && next != ';') return fail(r, ALLOCS_DECLARATION_AMISS);
  if (d->allocates && d->sizes == 0) return fail(r, ALLOCS_DECLARATION_NO_SIZE);
  if (d->allocates && d->reset != ALLOCS_DECLARATION_NONE) return fail(r, ALLOCS_DECLARATION_RESULT_AND_RESET);
  if (!d->allocates && d->freed == ALLOCS_DECLARATION_NONE && d->reset == ALLOCS_DECLARATION_NONE)
    return fail(r, ALLOCS_DECLARATION_NO_EFFECT);
  return true;
}

const char *allocs_declaration_error_text(enum allocs_declaration_error error) {
  static const char *const texts[ALLOCS_DECLARATION_ERRORS] = {
      "",
      "a function's name is missing",
      "behind a function's name there is no (",
      "there is no such letter: Z, I, z, i, p, P and R are known",
      "a function has more than six arguments",
      "there is no )",
      "a function that allocates has no Z or I, which is its size",
      "a function neither allocates, with p behind the ), nor frees, with P, nor resets, with R",
      "a function has P or R twice",
      "something else follows a function",
      "a function that resets, with R, cannot allocate",
  };
  return (uint32_t)error < ALLOCS_DECLARATION_ERRORS ? texts[error] : "";
}

// MARK: ALLOCS_LEVEL

// The next word, up to a comma. A name may have blanks in it.
static const char *next_word(const char *text, struct allocs_text_part *word) {
  while (*text == ',' || is_blank(*text)) text++;
  const char *start = text;
  while (*text && *text != ',') text++;
  *word = part(start, text);
  return text;
}

static bool is_word(struct allocs_text_part word, const char *text) {
  return strlen(text) == word.size && memcmp(word.start, text, word.size) == 0;
}

// Whether the word says something of `name`, whose part before "=" is `of`, empty for all.
static bool split_word(struct allocs_text_part word, struct allocs_text_part *of, bool *is_chunk) {
  uint32_t equals = word.size;
  while (equals > 0 && word.start[equals - 1] != '=') equals--;
  *of = equals ? part(word.start, word.start + equals - 1) : (struct allocs_text_part){word.start, 0};
  struct allocs_text_part level = {word.start + equals, word.size - equals};
  while (level.size > 0 && is_blank(*level.start)) level.start++, level.size--;
  *is_chunk = is_word(level, "chunk");
  return (*is_chunk || is_word(level, "block")) && (!equals || of->size > 0);
}

bool allocs_level_is_chunk(const char *text, struct allocs_text_part name) {
  bool all = false, own = false, is_named = false;
  struct allocs_text_part word, of;
  while (*(text = next_word(text, &word)) || word.size > 0) {
    bool is_chunk;
    if (!split_word(word, &of, &is_chunk)) continue;
    if (of.size == 0) all = is_chunk;
    else if (of.size == name.size && memcmp(of.start, name.start, of.size) == 0) own = is_chunk, is_named = true;
  }
  return is_named ? own : all;
}

const char *allocs_level_error(const char *text) {
  struct allocs_text_part word, of;
  bool is_chunk;
  while (*(text = next_word(text, &word)) || word.size > 0) {
    if (!split_word(word, &of, &is_chunk)) return word.start;
  }
  return NULL;
}
