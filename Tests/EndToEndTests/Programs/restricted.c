// A program that restricts itself, then goes on allocating.
//
//   restricted close|descriptors|files|memory|root|user|data [DIRECTORY]
//
// close: closes every descriptor above 2, and opens others in their place; descriptors: RLIMIT_NOFILE 3; files: RLIMIT_FSIZE 0;
// memory: RLIMIT_AS at what is mapped plus 64 MiB; root: chroot into DIRECTORY; user: becomes nobody; data: RLIMIT_DATA alike.
// Check point 0 is before the restriction, 1 after it.

#include <grp.h>
#include <sys/resource.h>

#include "record.h"

SITE_BOUNDS(before_site)
SITE_BOUNDS(after_site)
SITE(before_site) static void *before_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(after_site) static void *after_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static struct record_block blocks[6000];
static size_t count;

static void allocate(uint32_t site, size_t amount, size_t factor) {
  for (size_t i = 0; i < amount; i++) {
    size_t size = i * factor % 3000;
    void *p = site == 0 ? before_site(size) : after_site(size);
    if (p == NULL) record_fail("an allocation failed");
    memset(p, 1, size);
    if (i % 3 == 0) free(p);
    else blocks[count++] = (struct record_block){(uint64_t)p, size, 0, site, record_thread()};
  }
}

static void limit(int resource, rlim_t value) {
  struct rlimit limit = {value, value};
  if (setrlimit(resource, &limit) != 0) record_fail("setrlimit failed");
}

static rlim_t mapped(void) {
  char text[64] = {0};
  int file = open("/proc/self/statm", O_RDONLY);
  if (file < 0 || read(file, text, sizeof text - 1) <= 0) record_fail("no /proc/self/statm");
  close(file);
  return (rlim_t)strtoul(text, NULL, 10) * 4096;
}

int main(int argc, char **argv) {
  if (argc < 2) record_fail("usage: restricted close|descriptors|files|memory|root|user|data [DIRECTORY]");
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_before_site, __stop_site_before_site, "malloc");
  record_site(sites, 1, __start_site_after_site, __stop_site_after_site, "malloc");
  close(sites);
  allocate(0, 1000, 37);
  record_checkpoint(0, blocks, count);
  // The record's files are opened now: after the restriction it may not be possible.
  int file = record_open_numbered(1, "blocks");
  if (strcmp(argv[1], "close") == 0) {
    for (int other = 3; other < 1024; other++)
      if (other != file) close(other);
    for (int other = 0; other < 50; other++)
      if (open("/dev/null", O_WRONLY) < 0) record_fail("cannot open /dev/null");
  } else if (strcmp(argv[1], "descriptors") == 0) {
    limit(RLIMIT_NOFILE, 3);
  } else if (strcmp(argv[1], "files") == 0) {
    limit(RLIMIT_FSIZE, 1 << 20);
  } else if (strcmp(argv[1], "memory") == 0) {
    limit(RLIMIT_AS, mapped() + (64 << 20));
  } else if (strcmp(argv[1], "data") == 0) {
    limit(RLIMIT_DATA, 64 << 20);
  } else if (strcmp(argv[1], "root") == 0) {
    if (argc < 3 || chroot(argv[2]) != 0 || chdir("/") != 0) record_fail("chroot failed");
  } else if (strcmp(argv[1], "user") == 0) {
    if (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0) record_fail("setuid failed");
  } else {
    record_fail("no such restriction");
  }
  allocate(1, 6000, 61);
  record_blocks(file, blocks, count);
  record_wait(1);
  return 0;
}
