// A program to be linked with the kit: threads that allocate, resize and free at random, by calls of the executable and by calls
// of a library, and a record of what they did.
//
//   linked THREADS OPERATIONS [fork]
//
// Check point 0 comes before the first of them, 1 and 2 after half of them and all. With "fork", a
// child makes some in between: not for allocators whose locks fork does not care for.
#include <pthread.h>
#include <sys/wait.h>

#include "linked.h"

DEFINE_LINKED(own)

enum { thread_limit = 8, slot_count = 512 };
static record_block slots[thread_limit][slot_count];
static int thread_count;
static long operation_count;
static pthread_barrier_t barrier;

static uint32_t random_number(uint32_t *state) {
  *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
  return *state;
}

static void operate(record_block *slot, uint32_t *state) {
  const bool in_library = random_number(state) % 2;
  const linked_calls *calls = in_library ? library_calls() : &own_calls_;
  const uint32_t first = in_library ? uint32_t(site_count) : 0;
  uint64_t size = random_number(state) % (random_number(state) % 16 == 0 ? 100000 : 300);
  const uint64_t alignment = uint64_t(16) << random_number(state) % 6;
  void *block = (void *)slot->address;
  if (block && random_number(state) % 3 != 0) {
    if (*(unsigned char *)block != (unsigned char)slot->size) record_fail("a block was overwritten");
    calls->free(block);
    slot->address = 0;
    return;
  }
  slot->alignment = 0;
  uint32_t site;
  if (block) {
    size++;
    site = random_number(state) % 2 ? site_realloc : site_reallocarray;
    block = site == site_realloc ? calls->realloc(block, size) : calls->reallocarray(block, 1, size);
  } else {
    site = random_number(state) % site_count;
    if (site >= site_memalign) size++;  // jemalloc aligns nothing to nothing
    switch (site) {
      case site_malloc: block = calls->malloc(size); break;
      case site_calloc: block = calls->calloc(1, size); break;
      case site_realloc: block = calls->realloc(nullptr, size); break;
      case site_reallocarray: block = calls->reallocarray(nullptr, 1, size); break;
      case site_memalign: block = calls->memalign(alignment, size); break;
      case site_aligned_alloc: size = (size + alignment - 1) & -alignment, block = calls->aligned_alloc(alignment, size); break;
      default: block = calls->posix_memalign(alignment, size); break;
    }
    if (site >= site_memalign) {
      slot->alignment = alignment;
      if ((uint64_t)block % alignment != 0) record_fail("a block is not aligned");
    }
  }
  if (!block) record_fail("no memory");
  if (size > 0) *(unsigned char *)block = (unsigned char)size;
  slot->address = (uint64_t)block;
  slot->size = size;
  slot->site = first + site;
  slot->thread = record_thread();
}

static void *run(void *number) {
  const long thread = (long)number;
  uint32_t state = 2463534242u + uint32_t(thread);
  for (int phase = 0; phase < 2; phase++) {
    pthread_barrier_wait(&barrier);
    for (long i = 0; i < operation_count / 2 / thread_count; i++) {
      record_block *slot = &slots[thread][random_number(&state) % slot_count];
      // An empty block has no byte for the mark.
      if (slot->address && slot->size == 0) {
        own_calls_.free((void *)slot->address);
        slot->address = 0;
      } else {
        operate(slot, &state);
      }
    }
    pthread_barrier_wait(&barrier);
  }
  pthread_barrier_wait(&barrier);
  return nullptr;
}

static void fork_child() {
  const pid_t child = fork();
  if (child < 0) record_fail("cannot fork");
  if (child == 0) {
    void *block = own_calls_.malloc(1000);
    void *other = library_calls()->calloc(10, 100);
    own_calls_.free(block);
    _exit(other == nullptr);
  }
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) record_fail("the child failed");
}

int main(int argc, char **argv) {
  if (argc < 3) record_fail("usage: linked THREADS OPERATIONS [fork]");
  thread_count = atoi(argv[1]);
  operation_count = atol(argv[2]);
  const int sites = record_open("sites");
  own_calls_.record_sites(sites, 0);
  library_calls()->record_sites(sites, site_count);
  close(sites);
  pthread_barrier_init(&barrier, nullptr, unsigned(thread_count) + 1);
  pthread_t threads[thread_limit];
  for (long i = 0; i < thread_count; i++)
    if (pthread_create(&threads[i], nullptr, run, (void *)i) != 0) record_fail("no thread");
  record_checkpoint(0, &slots[0][0], thread_limit * slot_count);
  for (int checkpoint = 1; checkpoint <= 2; checkpoint++) {
    pthread_barrier_wait(&barrier);
    if (argc > 3) fork_child();
    pthread_barrier_wait(&barrier);
    record_checkpoint(checkpoint, &slots[0][0], thread_limit * slot_count);
  }
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < thread_count; i++) pthread_join(threads[i], nullptr);
  return 0;
}
