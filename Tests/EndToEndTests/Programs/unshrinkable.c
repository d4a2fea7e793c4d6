// A program that gets no memory for its index for a while, and whose mappings cannot shrink meanwhile.
//
// A filter of system calls, in one thread alone, makes madvise(MADV_POPULATE_WRITE) fail, and each mremap to a single
// page. That thread allocates a block so large that it lies in a region of its own: it cannot be indexed, and is not in
// the record. A second later the first thread, which has no filter, allocates another such block.
//
// Check point 0 is at the end.

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <time.h>

#include "record.h"

SITE_BOUNDS(recorded_site)
SITE(recorded_site) static void *recorded_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }

enum { SIZE = 200 << 20, COUNT = 16 };
static struct record_block blocks[COUNT];

// The agent notes which parts of the index's directory have memory, 64 GiB of addresses at a time.
static uint64_t part(uint64_t address) { return address >> 36; }

static uint64_t allocate(size_t size) {
  static size_t used;
  if (used == COUNT) record_fail("the blocks lie too far apart");
  void *p = recorded_site(size);
  if (p == NULL) record_fail("an allocation failed");
  blocks[used++] = (struct record_block){(uint64_t)p, size, 0, 0, record_thread()};
  return (uint64_t)p;
}

static void refuse_memory(void) {
  enum { POPULATE_WRITE = 23 };
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 2),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, POPULATE_WRITE, 3, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4096, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    record_fail("the filter was refused");
}

static void *without_memory(void *argument) {
  // Makes the thread known.
  free(malloc(100));
  refuse_memory();
  void *block = malloc(SIZE);
  if (block == NULL) record_fail("an allocation failed");
  return argument;
}

int main(void) {
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_recorded_site, __stop_site_recorded_site, "malloc");
  close(sites);
  // The kernel maps downward: the next blocks are to lie in the part of this one.
  uint64_t address = allocate(SIZE);
  while (part(address - 4ull * SIZE) != part(address)) address = allocate(SIZE);
  pthread_t helper;
  if (pthread_create(&helper, NULL, without_memory, NULL) != 0) record_fail("no thread");
  pthread_join(helper, NULL);
  // The agent asks for memory once a second.
  struct timespec time = {1, 200000000};
  nanosleep(&time, NULL);
  allocate(SIZE);
  record_checkpoint(0, blocks, COUNT);
  return 0;
}
