// SPDX-License-Identifier: Apache-2.0
// document TURNS: writes a document as text and reads it again, TURNS times, as Programs/json_loop.py does in Python,
// and prints the number of calls of malloc and realloc in all: "captures COUNT", as each captures a stack.
//
// Each value has a function for its kind, which calls the functions of the values inside it, so stacks are of many
// depths, hardly any is like the one before, and all are of some dozen kinds. What is counted here must not change with
// the version of an interpreter, so the program is one of ours.
#include "bench.h"
#include "depth.h"

enum { USERS = 40, OUTER_LEVELS = 6 };

static uint64_t turns, captures;

#define NEW(size) (captures++, escape(malloc(size)))

// Text under construction: a piece is a block of its own until its parent has taken it.
struct text {
  char *bytes;
  size_t size;
};

static struct text joined(struct text left, struct text right) {
  captures++;
  left.bytes = escape(realloc(left.bytes, left.size + right.size + 1));
  memcpy(left.bytes + left.size, right.bytes, right.size);
  left.size += right.size;
  free(right.bytes);
  return left;
}

FRAME struct text word(const char *letters) {
  size_t size = strlen(letters);
  struct text text = {NEW(size + 1), size};
  memcpy(text.bytes, letters, size);
  DISTINCT(from word);
  return text;
}

FRAME struct text number(uint64_t value) {
  ROOM(24);
  size_t size = 1;
  for (uint64_t rest = value; rest >= 10; rest /= 10) size++;
  struct text text = {NEW(size + 1), size};
  for (size_t i = size; i-- > 0; value /= 10) text.bytes[i] = (char)('0' + value % 10);
  DISTINCT(from number);
  return text;
}

FRAME struct text name(uint64_t user) {
  ROOM(8);
  SAVE_RBX
  return joined(word("\"user "), joined(number(user), word("\"")));
}

FRAME struct text tags(uint64_t user) {
  ROOM(40);
  struct text text = word("[");
  for (uint64_t i = 0; i < user % 7; i++) text = joined(text, joined(word("\"tag"), joined(number(i), word("\","))));
  return joined(text, word("]"));
}

FRAME struct text address(uint64_t user) {
  ROOM(72);
  SAVE_RBP
  return joined(word("{\"street\":"), joined(joined(number(user), word(" High Street")), word("}")));
}

FRAME struct text user(uint64_t user) {
  ROOM(24);
  SAVE_RBX
  struct text text = joined(word("{\"id\":"), number(user));
  text = joined(text, joined(word(",\"name\":"), name(user)));
  text = joined(text, joined(word(",\"tags\":"), tags(user)));
  return joined(joined(text, joined(word(",\"address\":"), address(user))), word("}"));
}

FRAME struct text written(void) {
  ROOM(136);
  struct text text = word("[");
  for (uint64_t i = 0; i < USERS; i++) text = joined(text, joined(user(i * 7919 % 1000), word(",")));
  return joined(text, word("]"));
}

// MARK: reading

struct value {
  struct value *first, *next;
  char *letters;
};

FRAME struct value *read_any(const char **at);

FRAME struct value *read_text(const char **at) {
  const char *start = ++*at;
  while (**at != '"') ++*at;
  struct value *value = NEW(sizeof *value);
  *value = (struct value){.letters = NEW((size_t)(*at - start) + 1)};
  memcpy(value->letters, start, (size_t)(*at - start));
  ++*at;
  return value;
}

FRAME struct value *read_number(const char **at) {
  ROOM(16);
  while (strchr("\",:[]{}", **at) == NULL) ++*at;
  struct value *value = NEW(sizeof *value);
  *value = (struct value){0};
  DISTINCT(from read_number);
  return value;
}

FRAME struct value *read_inside(const char **at, char end) {
  ROOM(56);
  SAVE_RBX
  struct value *value = NEW(sizeof *value), **last = &value->first;
  *value = (struct value){0};
  ++*at;
  while (**at != end) {
    if (**at == ',' || **at == ':') {
      ++*at;
      continue;
    }
    *last = read_any(at);
    last = &(*last)->next;
  }
  ++*at;
  return value;
}

FRAME struct value *read_any(const char **at) {
  ROOM(8);
  SAVE_RBP
  struct value *value = **at == '"'   ? read_text(at)
                        : **at == '[' ? read_inside(at, ']')
                        : **at == '{' ? read_inside(at, '}')
                                      : read_number(at);
  DISTINCT(from read_any);
  return value;
}

FRAME void forget(struct value *value) {
  while (value != NULL) {
    struct value *next = value->next;
    forget(value->first);
    free(value->letters);
    free(value);
    value = next;
  }
}

FRAME void work(struct descent *descent) {
  (void)descent;
  for (uint64_t turn = 0; turn < turns; turn++) {
    struct text text = written();
    text.bytes[text.size] = 0;
    const char *at = text.bytes;
    forget(read_any(&at));
    free(text.bytes);
  }
}

int main(int argc, char **argv) {
  turns = count_argument(argc, argv, 1, 1);
  descend(OUTER_LEVELS, work);
  printf("captures %llu\n", (unsigned long long)captures);
  return 0;
}
