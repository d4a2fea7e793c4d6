// A program that ends in the middle of its work. Its tables (tables.h) are a file, which outlives it.
//
//   mortal THREADS OPERATIONS WAY
//
// All threads work without end. The first one, after OPERATIONS, ends the program: by exit, _exit, abort, fault (it writes to where
// nothing is), or nothing, for which it is killed by others; or it takes more and more memory: grow.

#include <pthread.h>

#include "tables.h"

static void *run(void *table) {
  uint64_t random = (uint64_t)(uintptr_t)table | 1;
  for (;;) work(table, &random, 1000);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) record_fail("usage: mortal THREADS OPERATIONS exit|_exit|abort|fault|grow|nothing");
  table_count = atoi(argv[1]);
  int operations = atoi(argv[2]);
  if (table_count < 1 || table_count > LIMIT) record_fail("too many threads");
  record_table_sites();
  size_t size = (size_t)table_count * TABLE * sizeof(entry);
  int file = record_open("tables");
  close(file);
  char path[4096];
  snprintf(path, sizeof path, "%s/tables", getenv("RECORD_DIR"));
  file = open(path, O_RDWR);
  if (file < 0 || ftruncate(file, (off_t)size) != 0) record_fail("no file for the tables");
  entry *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (all == MAP_FAILED) record_fail("cannot map the tables");
  close(file);
  for (int t = 0; t < table_count; t++) tables[t] = all + t * TABLE;
  for (int t = 1; t < table_count; t++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, tables[t]) != 0) record_fail("no thread");
  }
  record_say("ready\n");
  uint64_t random = 12345;
  const char *way = argv[3];
  if (strcmp(way, "nothing") == 0) run(tables[0]);
  work(tables[0], &random, operations);
  if (strcmp(way, "exit") == 0) exit(0);
  if (strcmp(way, "abort") == 0) abort();
  static int *volatile nothing;
  if (strcmp(way, "fault") == 0) *nothing = 1;
  while (strcmp(way, "grow") == 0) memset(first_site(100000), 1, 100000);
  _exit(0);
}
