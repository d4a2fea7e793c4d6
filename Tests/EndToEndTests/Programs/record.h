// The record that a test program keeps of its own allocations, and hands to the test at a check point.
//
//   $RECORD_DIR/sites       text: a line "ID START END FUNCTION" for each call site (addresses in hexadecimal)
//   $RECORD_DIR/N.blocks    struct record_block for each block that is live at check point N
//   $RECORD_DIR/N.freed     struct record_block for blocks freed before it
//
// - Nothing here allocates with malloc: what the program does not record must not appear in the index.
// - At a check point the program says "checkpoint N" on standard output and waits for one byte on standard input; until
//   then nothing of it allocates or frees.
// - A site is a function of its own in a section of its own, so that its bounds are known to the byte, and holds one call.

#ifndef RECORD_H
#define RECORD_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct record_block {
  uint64_t address;    // 0: this entry is not used
  uint64_t size;       // as asked for
  uint64_t alignment;  // as asked for, 0 if none was
  uint32_t site;
  uint32_t thread;     // kernel's thread id
};

// Marks a site; KEEP before its return keeps the call from becoming a jump, whose return address is the caller's.
#define SITE(name) __attribute__((noinline, used, section("site_" #name)))
#define KEEP(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")
#ifdef __cplusplus
#define RECORD_C extern "C"
#else
#define RECORD_C extern
#endif
#define SITE_BOUNDS(name) RECORD_C const char __start_site_##name[], __stop_site_##name[];

static inline uint32_t record_thread(void) { return (uint32_t)syscall(SYS_gettid); }

static inline void record_fail(const char *what) {
  char line[256];
  int length = snprintf(line, sizeof line, "record: %s\n", what);
  if (write(2, line, (size_t)length) != length) _exit(99);
  _exit(98);
}

// Zeroed memory that no allocator knows of.
static inline void *record_memory(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) record_fail("no memory for the record");
  return memory;
}

static inline void record_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void record_say(const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(1, line, (size_t)length) != length) record_fail("cannot write to standard output");
}

// A file of the record, open for writing. The directory is opened by the first call, so that it is found after chroot.
static inline int record_open(const char *name) {
  static int directory = -1;
  if (directory < 0) {
    const char *path = getenv("RECORD_DIR");
    if (path == NULL) record_fail("RECORD_DIR is not set");
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  int file = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) record_fail("cannot open a file of the record");
  return file;
}

static inline void record_write(int file, const void *bytes, size_t size) {
  const char *next = (const char *)bytes;
  while (size > 0) {
    ssize_t written = write(file, next, size);
    if (written <= 0) record_fail("cannot write the record");
    next += written;
    size -= (size_t)written;
  }
}

static inline void record_site(int file, uint32_t site, const char *start, const char *end, const char *function) {
  char line[160];
  int length = snprintf(line, sizeof line, "%u %llx %llx %s\n", site, (unsigned long long)(uintptr_t)start,
                        (unsigned long long)(uintptr_t)end, function);
  record_write(file, line, (size_t)length);
}

// Appends those of `count` entries that are used.
static inline void record_blocks(int file, const struct record_block *blocks, size_t count) {
  static struct record_block used[2048];
  size_t filled = 0;
  for (size_t i = 0; i < count; i++) {
    if (blocks[i].address == 0) continue;
    used[filled++] = blocks[i];
    if (filled == sizeof used / sizeof used[0]) {
      record_write(file, used, sizeof used);
      filled = 0;
    }
  }
  record_write(file, used, filled * sizeof used[0]);
}

static inline int record_open_numbered(int checkpoint, const char *kind) {
  char name[64];
  snprintf(name, sizeof name, "%d.%s", checkpoint, kind);
  return record_open(name);
}

// Says that the record of this check point is written, and waits until the test has compared it.
static inline void record_wait(int checkpoint) {
  record_say("checkpoint %d\n", checkpoint);
  char answer;
  if (read(0, &answer, 1) != 1) record_fail("the test went away");
}

// The whole check point of a program that keeps one table.
static inline void record_checkpoint(int checkpoint, const struct record_block *blocks, size_t count) {
  int file = record_open_numbered(checkpoint, "blocks");
  record_blocks(file, blocks, count);
  close(file);
  record_wait(checkpoint);
}

#endif
