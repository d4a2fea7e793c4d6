// SPDX-License-Identifier: Apache-2.0
// A program for the page: a million live blocks from twenty thousand call stacks, functions with names that a page must
// show as text, threads with arenas of their own, and a site that grows until standard input ends.
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { stacks = 20000, blocks_of_each = 50, fan = 8, threads = 12 };

typedef void step(unsigned path, int depth);
static step *const steps[fan];
static void *volatile sink;
static size_t size_of_block;

// In every function that allocates, so that each is a site.
__attribute__((always_inline)) static inline void keep(void) {
  sink = malloc(size_of_block);
  *(volatile char *)sink = 1;
}

// What comes behind the call keeps the frame.
#define STEP(name) \
  __attribute__((noinline)) static void name(unsigned path, int depth) { \
    if (depth == 0) keep(); \
    else steps[path % fan](path / fan, depth - 1); \
    __asm__ volatile(""); \
  }
STEP(parse_request)
STEP(load_catalogue)
STEP(cache_insert)
STEP(build_reply)
STEP(open_session)
STEP(read_rows)
STEP(encode_json)
STEP(render_template)
static step *const steps[fan] = {parse_request, load_catalogue, cache_insert, build_reply,
                                 open_session,  read_rows,      encode_json,  render_template};

__attribute__((noinline)) void markup(void)
    __asm__("\"<script>document.title=1</script><img/src=x onerror=alert(1)>\"");
void markup(void) {
  keep();
  __asm__ volatile("");
}
__attribute__((noinline)) void quotes(void) __asm__("\"quotes'`&amp;&lt;b&gt; ; %s ${x}\"");
void quotes(void) {
  keep();
  __asm__ volatile("");
}
__attribute__((noinline)) void long_name(void) __asm__("\"long_" LONG "\"");
void long_name(void) {
  keep();
  __asm__ volatile("");
}
// Two sites of one name, and without lines.
__attribute__((noinline)) static void twice(void) {
  keep();
  keep();
  __asm__ volatile("");
}
__attribute__((noinline)) static void leak(void) {
  keep();
  __asm__ volatile("");
}


// A thread that has allocated, and stays: so the next one gets another arena.
static pthread_barrier_t have_all;
__attribute__((noinline)) static void *stay(void *unused) {
  for (int turn = 0; turn < 10; turn++) keep();
  pthread_barrier_wait(&have_all);
  while (1) pause();
  return unused;
}

int main(void) {
  mallopt(M_ARENA_MAX, 2 * threads);
  pthread_barrier_init(&have_all, NULL, threads + 1);
  size_of_block = 2000;
  for (int number = 0; number < threads; number++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, stay, NULL) != 0) return 1;
  }
  pthread_barrier_wait(&have_all);
  for (unsigned stack = 0; stack < stacks; stack++) {
    size_of_block = 16 + stack % 97 * 8;
    for (int block = 0; block < blocks_of_each; block++) steps[stack % fan](stack / fan, 5);
  }
  size_of_block = 4 << 20;
  for (int turn = 0; turn < 3; turn++) {
    markup();
    quotes();
    long_name();
    twice();
  }
  puts("ready");
  fflush(stdout);
  size_of_block = 32 << 10;
  struct pollfd input = {.fd = 0, .events = POLLIN};
  while (poll(&input, 1, 50) == 0) leak();
  return 0;
}
