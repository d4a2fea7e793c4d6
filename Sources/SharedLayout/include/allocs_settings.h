// SPDX-License-Identifier: Apache-2.0
// The settings: environment variables that begin with ALLOCS_, and how their values are written.
// All settings stand in the one list below.
//
// The agent reads the settings when it starts. `allocsctl run` checks them first, and takes them
// also from a TOML file, whose keys are the names in lower case, and from its options. Agent and
// allocsctl read values by the functions below, and so agree on which texts are values. The
// README's table of settings is held against this list by SharedLayoutTests.
//
// Nothing here calls libc: the agent reads its settings before libc is ready.

#ifndef ALLOCS_SETTINGS_H
#define ALLOCS_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocs_control.h"
#include "allocs_ring.h"

#define ALLOCS_SETTING_PREFIX "ALLOCS_"
#define ALLOCS_DEPTH_MAX 128u  // frames of a stack that are kept at least
// A stack keeps fewer than twice as many frames as it keeps at least (CutFrames.swift).
#define ALLOCS_FRAMES_MAX 255u
_Static_assert(ALLOCS_FRAMES_MAX + 1 == 2 * ALLOCS_DEPTH_MAX, "fewer than twice as many");

enum allocs_setting_kind {
  ALLOCS_KIND_TEXT = 0,  // anything: a path, a list
  ALLOCS_KIND_WORD,      // one of the row's words, which are separated by |
  ALLOCS_KIND_FLAG,      // 1, true, yes, on; 0, false, no, off
  ALLOCS_KIND_NUMBER,    // decimal digits, in the range
  ALLOCS_KIND_SIZE       // a number of bytes; K, M, G or T may follow, also as KiB, MiB, GiB or TiB
};

enum allocs_setting_scope {
  ALLOCS_SCOPE_CONFIGURED = 0,  // the environment, or the TOML file
  ALLOCS_SCOPE_ENVIRONMENT,     // the environment alone: these say where programs find each other
  ALLOCS_SCOPE_INTERNAL         // set by allocsctl for the agent
};

// The words of STACKS, in the order of their numbers, by which allocs_read_setting returns them.
#define ALLOCS_STACKS_VALUES(FIRST, X) FIRST(FULL, "full") X(SITE, "site") X(CHECK, "check")
enum allocs_stacks {
#define ALLOCS_STACKS_ID(id, word) ALLOCS_STACKS_##id,
  ALLOCS_STACKS_VALUES(ALLOCS_STACKS_ID, ALLOCS_STACKS_ID)
#undef ALLOCS_STACKS_ID
};
#define ALLOCS_STACKS_FIRST_WORD(id, word) word
#define ALLOCS_STACKS_WORD(id, word) "|" word
#define ALLOCS_STACKS_WORDS ALLOCS_STACKS_VALUES(ALLOCS_STACKS_FIRST_WORD, ALLOCS_STACKS_WORD)

// Name, kind, least and most value, words, scope; and the purpose in a line of `run --help`, which
// gets the words or the range added. Upper and lower case make no difference in flags, words and
// units.
#define ALLOCS_SETTINGS(X)                                                                                    \
  X(DIR, TEXT, 0, 0, "", CONFIGURED, "the directory of the index")                                            \
  X(STACKS, WORD, 0, 0, ALLOCS_STACKS_WORDS, CONFIGURED, "call stacks")                                       \
  X(DEPTH, NUMBER, 1, ALLOCS_DEPTH_MAX, "", CONFIGURED, "frames kept of each stack at least")                 \
  X(TOTALS, FLAG, 0, 1, "", CONFIGURED, "what was ever allocated is kept, too")                               \
  X(FOLLOW, FLAG, 0, 1, "", CONFIGURED, "children of fork have an index of their own")                        \
  X(EVENTS, FLAG, 0, 1, "", CONFIGURED, "events are on from the start")                                       \
  X(FREE_STACKS, FLAG, 0, 1, "", CONFIGURED, "events of frees say who freed")                                 \
  X(RING, SIZE, ALLOCS_RING_RECORDS_MIN * 32ull, ALLOCS_RING_RECORDS_MAX * 32ull, "", CONFIGURED,             \
    "bytes of a thread's ring of events")                                                                     \
  X(EVENTS_WAIT, NUMBER, 0, ALLOCS_WAIT_NANOSECONDS_MAX / 1000000, "", CONFIGURED,                            \
    "milliseconds to wait for readers")                                                                       \
  X(SUBALLOC, TEXT, 0, 0, "", CONFIGURED, "functions of pools (docs/allocators.md)")                          \
  X(LEVEL, TEXT, 0, 0, "", CONFIGURED, "a pool's blocks, or the chunks they are in")                          \
  X(WRAPPERS, TEXT, 0, 0, "", CONFIGURED, "functions that only allocate for their caller")                    \
  X(VERBOSE, FLAG, 0, 1, "", CONFIGURED, "the agent says what it could not do")                               \
  X(CONFIG, TEXT, 0, 0, "", ENVIRONMENT, "the configuration file")                                            \
  X(AGENT, TEXT, 0, 0, "", ENVIRONMENT, "the agent's library, if it lies elsewhere")                          \
  X(SOCKET, TEXT, 0, 0, "", ENVIRONMENT, "the server's socket")                                               \
  X(RECORDER, NUMBER, 0, UINT32_MAX, "", INTERNAL, "the process that records this one")

enum allocs_setting_id {
#define ALLOCS_SETTING_ID(name, kind, least, most, words, scope, purpose) ALLOCS_SETTING_##name,
  ALLOCS_SETTINGS(ALLOCS_SETTING_ID)
#undef ALLOCS_SETTING_ID
  ALLOCS_SETTING_COUNT
};

// Without pointers, so that the agent's copy needs no relocation.
struct allocs_setting {
  char name[12];  // behind the prefix
  char words[20];
  uint64_t least, most;
  uint32_t kind;   // enum allocs_setting_kind
  uint32_t scope;  // enum allocs_setting_scope
};

#define ALLOCS_SETTING_FITS(row, kind, least, most, list, scope, purpose)                                 \
  _Static_assert(sizeof(#row) <= sizeof((struct allocs_setting){}.name), "the name " #row " fits");       \
  _Static_assert(sizeof(list) <= sizeof((struct allocs_setting){}.words), "the words of " #row " fit");
ALLOCS_SETTINGS(ALLOCS_SETTING_FITS)
#undef ALLOCS_SETTING_FITS

// NULL for a number that is none.
static inline const struct allocs_setting *allocs_setting_at(uint32_t id) {
  static const struct allocs_setting settings[ALLOCS_SETTING_COUNT] = {
#define ALLOCS_SETTING_ENTRY(name, kind, least, most, words, scope, purpose) \
  {#name, words, least, most, ALLOCS_KIND_##kind, ALLOCS_SCOPE_##scope},
      ALLOCS_SETTINGS(ALLOCS_SETTING_ENTRY)
#undef ALLOCS_SETTING_ENTRY
  };
  return id < ALLOCS_SETTING_COUNT ? &settings[id] : NULL;
}

static inline const char *allocs_setting_name(uint32_t id) {
  return id < ALLOCS_SETTING_COUNT ? allocs_setting_at(id)->name : "";
}
static inline const char *allocs_setting_words(uint32_t id) {
  return id < ALLOCS_SETTING_COUNT ? allocs_setting_at(id)->words : "";
}

// No part of the table, which the agent has too: the agent has no use for it.
static inline const char *allocs_setting_purpose(uint32_t id) {
  switch (id) {
#define ALLOCS_SETTING_PURPOSE(name, kind, least, most, words, scope, purpose) \
  _Static_assert(sizeof(purpose) > 1, "the purpose of " #name " is said");     \
  case ALLOCS_SETTING_##name: return purpose;
    ALLOCS_SETTINGS(ALLOCS_SETTING_PURPOSE)
#undef ALLOCS_SETTING_PURPOSE
    default: return "";
  }
}

// The text behind `prefix` in `text`; NULL if `text` does not begin with `prefix`.
static inline const char *allocs_text_behind(const char *text, const char *prefix) {
  while (*prefix != 0)
    if (*text++ != *prefix++) return NULL;
  return text;
}

// The number of the setting that a variable of the environment ("NAME=value") is, and its value. -1
// if the variable's name does not begin with the prefix, -2 if it does and there is no such
// setting.
static inline int32_t allocs_setting_of(const char *variable, const char **value) {
  const char *name = allocs_text_behind(variable, ALLOCS_SETTING_PREFIX);
  if (!name) return -1;
  for (uint32_t id = 0; id < ALLOCS_SETTING_COUNT; id++) {
    const char *end = allocs_text_behind(name, allocs_setting_at(id)->name);
    if (!end || *end != '=') continue;
    *value = end + 1;
    return (int32_t)id;
  }
  return -2;
}

static inline char allocs_lower_case(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

// The place of `text` among `words`, which are separated by |: from 0 on; -1 if it is none of them.
static inline int32_t allocs_read_word(const char *text, const char *words) {
  for (int32_t index = 0;; index++) {
    const char *next = text;
    while (*words != 0 && *words != '|' && allocs_lower_case(*next) == allocs_lower_case(*words)) {
      next++;
      words++;
    }
    if (*next == 0 && (*words == 0 || *words == '|') && next != text) return index;
    while (*words != 0 && *words != '|') words++;
    if (*words == 0) return -1;
    words++;
  }
}

// 1 or 0; -1 if `text` says neither.
static inline int32_t allocs_read_flag(const char *text) {
  int32_t word = allocs_read_word(text, "0|1|false|true|no|yes|off|on");
  return word < 0 ? -1 : word & 1;
}

// Reads a decimal number, with a unit behind it if `has_unit`. False if `text` is no number. A
// number that 64 bits can't hold is read as UINT64_MAX.
static inline bool allocs_read_number(const char *text, bool has_unit, uint64_t *number) {
  uint64_t value = 0;
  const char *next = text;
  for (; *next >= '0' && *next <= '9'; next++)
    if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, (uint64_t)(*next - '0'), &value))
      value = UINT64_MAX;
  if (next == text) return false;
  if (*next != 0) {
    int32_t unit = has_unit ? allocs_read_word(next, "k|kib|m|mib|g|gib|t|tib") : -1;
    if (unit < 0) return false;
    if (__builtin_mul_overflow(value, 1ull << (unit / 2 + 1) * 10, &value)) value = UINT64_MAX;
  }
  *number = value;
  return true;
}

enum allocs_setting_error { ALLOCS_SETTING_READ = 0, ALLOCS_SETTING_NO_VALUE, ALLOCS_SETTING_OUT_OF_RANGE };

// Reads the value of a setting: a flag, the number of a word, a number; 0 for a text.
static inline enum allocs_setting_error allocs_read_setting(uint32_t id, const char *text, uint64_t *value) {
  const struct allocs_setting *setting = allocs_setting_at(id);
  *value = 0;
  if (!setting) return ALLOCS_SETTING_NO_VALUE;
  int32_t choice;
  switch (setting->kind) {
    case ALLOCS_KIND_FLAG:
    case ALLOCS_KIND_WORD:
      choice = setting->kind == ALLOCS_KIND_FLAG ? allocs_read_flag(text) : allocs_read_word(text, setting->words);
      if (choice < 0) return ALLOCS_SETTING_NO_VALUE;
      *value = (uint64_t)choice;
      return ALLOCS_SETTING_READ;
    case ALLOCS_KIND_NUMBER:
    case ALLOCS_KIND_SIZE:
      if (!allocs_read_number(text, setting->kind == ALLOCS_KIND_SIZE, value)) return ALLOCS_SETTING_NO_VALUE;
      return *value < setting->least || *value > setting->most ? ALLOCS_SETTING_OUT_OF_RANGE : ALLOCS_SETTING_READ;
    default: return ALLOCS_SETTING_READ;
  }
}

#endif
