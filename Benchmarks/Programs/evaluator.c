// SPDX-License-Identifier: Apache-2.0
// evaluator TURNS: functions that call each other in random order, as those of an interpreter do that walks along
// expressions, and prints the number of calls of malloc in all: "captures COUNT". Stacks have up to 60 frames, and
// nearly all are new: the inner frames are others each time, and the outer ones change seldom.
#include "bench.h"
#include "depth.h"

enum { FUNCTIONS = 32, DEEPEST = 50, BRANCHING = 30 };

static uint64_t random_state = 1, captures;

typedef uint64_t (*evaluation)(uint64_t depth);
static const evaluation evaluations[FUNCTIONS];

static inline __attribute__((always_inline)) uint64_t next(uint64_t depth) {
  return evaluations[random_below(&random_state, FUNCTIONS)](depth);
}

#define EVALUATION(number)                                                                          \
  FRAME uint64_t evaluation_##number(uint64_t depth) {                                              \
    ROOM(8 + 16 * (number % 4));                                                                    \
    char *first = escape(malloc(20 + number));                                                      \
    captures += 2;                                                                                  \
    uint64_t result = depth < DEEPEST ? next(depth + 1) : 0;                                        \
    DISTINCT(first of number);                                                                      \
    char *second = escape(malloc(30));                                                              \
    free(first);                                                                                    \
    if (depth > BRANCHING && random_below(&random_state, 3) > 0)                                    \
      result += next(depth < DEEPEST - 4 ? depth + 4 : DEEPEST);                                    \
    DISTINCT(second of number);                                                                     \
    free(second);                                                                                   \
    return result + 1;                                                                              \
  }
#define EIGHT(DO, ten) DO(ten##0) DO(ten##1) DO(ten##2) DO(ten##3) DO(ten##4) DO(ten##5) DO(ten##6) DO(ten##7)
EIGHT(EVALUATION, 1)
EIGHT(EVALUATION, 2)
EIGHT(EVALUATION, 3)
EIGHT(EVALUATION, 4)

#define NAME(number) evaluation_##number,
static const evaluation evaluations[FUNCTIONS] = {EIGHT(NAME, 1) EIGHT(NAME, 2) EIGHT(NAME, 3) EIGHT(NAME, 4)};

int main(int argc, char **argv) {
  uint64_t turns = count_argument(argc, argv, 1, 1);
  for (uint64_t turn = 0; turn < turns; turn++) evaluations[0](0);
  printf("captures %llu\n", (unsigned long long)captures);
  return 0;
}
