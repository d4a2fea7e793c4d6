// The truth test's program: threads that allocate, free, resize and align at random, and a record of what they did.
//
//   truth THREADS OPERATIONS CHECKPOINTS SEED [none|fork|vfork|spawn|clone [LARGEST]]
//
// LARGEST: no block is asked to be larger; without it there are some of each size up to 4 MiB.
//
// - A thread owns a table of slots; blocks change hands through the exchange, so that they are freed by other threads.
// - Check point 0 comes before the first random operation: what the index holds then is the libraries' own.
// - The main thread makes no random operations. It starts children while the others run, in the way the last argument
//   says; children of fork allocate, free and resize their copies of blocks and must leave no trace in the index.
// - With -DOWN_NAMES, malloc's names are of an allocator that the program keeps to itself: a name that it lacks, or that dlsym
//   finds, is the C library's.
// - Every block carries a pattern, checked when it is resized or freed: an allocator that hands out live memory is noticed.

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <atomic>
#include <new>

#include "record.h"

#define SITES(X)                                    \
  X(malloc_first, "malloc")                         \
  X(malloc_second, "malloc")                        \
  X(calloc_site, "calloc")                          \
  X(realloc_site, "realloc")                        \
  X(reallocarray_site, "reallocarray")              \
  X(memalign_site, "memalign")                      \
  X(posix_memalign_site, "posix_memalign")          \
  X(aligned_alloc_site, "aligned_alloc")            \
  X(valloc_site, "valloc")                          \
  X(pvalloc_site, "pvalloc")                        \
  X(new_site, "operator new")                       \
  X(new_nothrow_site, "operator new")               \
  X(new_aligned_site, "operator new")               \
  X(new_aligned_nothrow_site, "operator new")       \
  X(new_array_site, "operator new[]")               \
  X(new_array_nothrow_site, "operator new[]")       \
  X(new_array_aligned_site, "operator new[]")       \
  X(new_array_aligned_nothrow_site, "operator new[]")

#define DECLARE_SITE(name, function) SITE_BOUNDS(name)
SITES(DECLARE_SITE)
enum SiteID : uint32_t {
#define NUMBER_SITE(name, function) id_##name,
  SITES(NUMBER_SITE) site_count
};

// MARK: sites

SITE(malloc_first) static void *malloc_first(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(malloc_second) static void *malloc_second(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(calloc_site) static void *calloc_site(size_t count, size_t size) { void *p = calloc(count, size); KEEP(p); return p; }
SITE(realloc_site) static void *realloc_site(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }
SITE(reallocarray_site) static void *reallocarray_site(void *old, size_t count, size_t size) { void *p = reallocarray(old, count, size); KEEP(p); return p; }
SITE(memalign_site) static void *memalign_site(size_t alignment, size_t size) { void *p = memalign(alignment, size); KEEP(p); return p; }
SITE(posix_memalign_site) static void *posix_memalign_site(size_t alignment, size_t size) {
  void *p = nullptr;
  int error = posix_memalign(&p, alignment, size);
  if (error != 0) p = nullptr;
  KEEP(p);
  return p;
}
SITE(aligned_alloc_site) static void *aligned_alloc_site(size_t alignment, size_t size) { void *p = aligned_alloc(alignment, size); KEEP(p); return p; }
SITE(valloc_site) static void *valloc_site(size_t size) { void *p = valloc(size); KEEP(p); return p; }
SITE(pvalloc_site) static void *pvalloc_site(size_t size) { void *p = pvalloc(size); KEEP(p); return p; }
SITE(new_site) static void *new_site(size_t size) { void *p = ::operator new(size); KEEP(p); return p; }
SITE(new_nothrow_site) static void *new_nothrow_site(size_t size) { void *p = ::operator new(size, std::nothrow); KEEP(p); return p; }
SITE(new_aligned_site) static void *new_aligned_site(size_t alignment, size_t size) { void *p = ::operator new(size, std::align_val_t(alignment)); KEEP(p); return p; }
SITE(new_aligned_nothrow_site) static void *new_aligned_nothrow_site(size_t alignment, size_t size) { void *p = ::operator new(size, std::align_val_t(alignment), std::nothrow); KEEP(p); return p; }
SITE(new_array_site) static void *new_array_site(size_t size) { void *p = ::operator new[](size); KEEP(p); return p; }
SITE(new_array_nothrow_site) static void *new_array_nothrow_site(size_t size) { void *p = ::operator new[](size, std::nothrow); KEEP(p); return p; }
SITE(new_array_aligned_site) static void *new_array_aligned_site(size_t alignment, size_t size) { void *p = ::operator new[](size, std::align_val_t(alignment)); KEEP(p); return p; }
SITE(new_array_aligned_nothrow_site) static void *new_array_aligned_nothrow_site(size_t alignment, size_t size) { void *p = ::operator new[](size, std::align_val_t(alignment), std::nothrow); KEEP(p); return p; }

// MARK: state

static const size_t slots_per_thread = 6000;
static const size_t exchange_size = 512;
static const size_t freed_size = 1024;

struct Exchange {
  pthread_mutex_t lock;
  record_block block;
};

struct Worker {
  pthread_t thread;
  uint64_t random;
  uint32_t id;
  record_block *blocks;
  record_block *freed;
  size_t freed_count;
  uint64_t allocations, frees, failures;
};

static Worker *workers;
static size_t worker_count;
static Exchange *exchange;
static pthread_barrier_t barrier;
static size_t operations_per_phase;
static int checkpoints;
static std::atomic<size_t> running;
static std::atomic<size_t> misaligned;
// mimalloc's C build ends the process where bad_alloc is to be thrown.
#ifdef DOES_NOT_THROW
static const bool may_throw = false;
#else
static const bool may_throw = true;
#endif
static bool throws = true;
// jemalloc has no pvalloc: blocks of libc's cannot be given to jemalloc's free, with or without the agent.
static bool has_pvalloc = true;
#ifdef OWN_NAMES
static const bool own_names = true;
#else
static const bool own_names = false;
#endif
static void (*free_sized_function)(void *, size_t);
static void (*free_aligned_sized_function)(void *, size_t, size_t);
static void (*cfree_function)(void *);

static uint64_t next_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

static size_t largest;

static size_t random_size(uint64_t *random) {
  if (largest > 0) return next_random(random) % (largest + 1);
  uint64_t choice = next_random(random) % 1000;
  if (choice < 20) return 0;
  unsigned bits = choice < 990 ? 1 + (unsigned)(next_random(random) % 12) : 1 + (unsigned)(next_random(random) % 22);
  return next_random(random) & ((1ull << bits) - 1);
}

// MARK: the pattern in a block

static unsigned char pattern_of(const record_block *block) { return (unsigned char)(block->address >> 4 ^ block->size * 31); }

static void fill(const record_block *block) {
  unsigned char *bytes = (unsigned char *)block->address;
  size_t edge = block->size < 32 ? block->size : 32;
  memset(bytes, pattern_of(block), edge);
  memset(bytes + block->size - edge, pattern_of(block), edge);
}

// The first `size` bytes of the block at `address` are those that `block` was filled with.
static void check(const record_block *block, const void *address, size_t size) {
  const unsigned char *bytes = (const unsigned char *)address;
  size_t edge = block->size < 32 ? block->size : 32;
  unsigned char pattern = pattern_of(block);
  for (size_t i = 0; i < edge && i < size; i++)
    if (bytes[i] != pattern) record_fail("a block lost its content");
  for (size_t i = block->size - edge; i < block->size && i < size; i++)
    if (bytes[i] != pattern) record_fail("a block lost its content at the end");
}

// MARK: operations

static void allocate(Worker *worker, record_block *block) {
  size_t size = random_size(&worker->random);
  size_t alignment = (size_t)1 << (3 + next_random(&worker->random) % 10);
  size_t asked = 0;
  uint32_t site = (uint32_t)(next_random(&worker->random) % site_count);
  // The plain functions as often as all others together: that is what programs do.
  if (next_random(&worker->random) % 2 == 0) site = (uint32_t)(next_random(&worker->random) % (id_realloc_site + 1));
  if (site == id_pvalloc_site && !has_pvalloc) site = id_valloc_site;
  if (site == id_reallocarray_site && own_names) site = id_realloc_site;
  void *p = nullptr;
  switch ((SiteID)site) {
    case id_malloc_first: p = malloc_first(size); break;
    case id_malloc_second: p = malloc_second(size); break;
    case id_calloc_site: {
      size_t count = 1 + next_random(&worker->random) % 9;
      size = size / count * count;
      p = calloc_site(count, size / count);
      for (size_t i = 0; p != nullptr && i < size && i < 65536; i++)
        if (((char *)p)[i] != 0) record_fail("calloc returned memory that is not zero");
      break;
    }
    case id_realloc_site: p = realloc_site(nullptr, size); break;
    case id_reallocarray_site: size = size / 3 * 3; p = reallocarray_site(nullptr, size / 3, 3); break;
    case id_memalign_site: p = memalign_site(asked = alignment, size); break;
    case id_posix_memalign_site: p = posix_memalign_site(asked = alignment, size); break;
    case id_aligned_alloc_site: size = size / alignment * alignment; p = aligned_alloc_site(asked = alignment, size); break;
    case id_valloc_site: asked = 4096; p = valloc_site(size); break;
    case id_pvalloc_site: asked = 4096; p = pvalloc_site(size); break;
    case id_new_site: p = new_site(size); break;
    case id_new_nothrow_site: p = new_nothrow_site(size); break;
    case id_new_aligned_site: p = new_aligned_site(asked = alignment, size); break;
    case id_new_aligned_nothrow_site: p = new_aligned_nothrow_site(asked = alignment, size); break;
    case id_new_array_site: p = new_array_site(size); break;
    case id_new_array_nothrow_site: p = new_array_nothrow_site(size); break;
    case id_new_array_aligned_site: p = new_array_aligned_site(asked = alignment, size); break;
    case id_new_array_aligned_nothrow_site: p = new_array_aligned_nothrow_site(asked = alignment, size); break;
    case site_count: break;
  }
  if (p == nullptr) {
    if (size != 0) record_fail("an allocation failed");
    return;
  }
  // Counted only: jemalloc 5.3 does not align blocks of size 0, and mimalloc 2.0 some of the size of their alignment.
  if (asked != 0 && (uintptr_t)p % asked != 0) misaligned++;
  *block = record_block{(uint64_t)p, size, asked, site, worker->id};
  fill(block);
  worker->allocations++;
}

static void note_freed(Worker *worker, const record_block *block) {
  worker->freed[worker->freed_count++ % freed_size] = *block;
  worker->frees++;
}

static void deallocate(Worker *worker, record_block *block) {
  void *p = (void *)block->address;
  check(block, p, block->size);
  note_freed(worker, block);
  std::align_val_t alignment{block->alignment};
  // jemalloc 5.3 mistakes the class of an aligned block of size 0 when it is freed by its size.
  bool variant = next_random(&worker->random) % 2 == 0 || (block->alignment != 0 && block->size == 0);
  switch ((SiteID)block->site) {
    case id_new_site: variant ? ::operator delete(p) : ::operator delete(p, block->size); break;
    case id_new_nothrow_site: variant ? ::operator delete(p) : ::operator delete(p, std::nothrow); break;
    case id_new_aligned_site: variant ? ::operator delete(p, alignment) : ::operator delete(p, block->size, alignment); break;
    case id_new_aligned_nothrow_site: variant ? ::operator delete(p, alignment) : ::operator delete(p, alignment, std::nothrow); break;
    case id_new_array_site: variant ? ::operator delete[](p) : ::operator delete[](p, block->size); break;
    case id_new_array_nothrow_site: variant ? ::operator delete[](p) : ::operator delete[](p, std::nothrow); break;
    case id_new_array_aligned_site: variant ? ::operator delete[](p, alignment) : ::operator delete[](p, block->size, alignment); break;
    case id_new_array_aligned_nothrow_site: variant ? ::operator delete[](p, alignment) : ::operator delete[](p, alignment, std::nothrow); break;
    case id_malloc_first:
      if (variant && free_sized_function) free_sized_function(p, block->size); else free(p);
      break;
    case id_malloc_second:
      if (variant && cfree_function) cfree_function(p); else free(p);
      break;
    case id_aligned_alloc_site:
      if (!variant && free_aligned_sized_function) free_aligned_sized_function(p, block->alignment, block->size); else free(p);
      break;
    default: free(p); break;
  }
  block->address = 0;
}

static bool may_be_resized(const record_block *block) { return block->site < id_new_site; }

static void resize(Worker *worker, record_block *block) {
  record_block old = *block;
  size_t size = random_size(&worker->random);
  bool array = next_random(&worker->random) % 4 == 0 && !own_names;
  if (array) size = size / 5 * 5;
  if (malloc_usable_size((void *)old.address) < old.size) record_fail("a block is smaller than asked");
  // The address may be another thread's as soon as the call frees it, so the entry goes first.
  block->address = 0;
  void *p = array ? reallocarray_site((void *)old.address, size / 5, 5) : realloc_site((void *)old.address, size);
  if (p == nullptr) {
    if (size != 0) record_fail("a resize failed");
    note_freed(worker, &old);
    return;
  }
  check(&old, p, size < old.size ? size : old.size);
  note_freed(worker, &old);
  worker->allocations++;
  *block = record_block{(uint64_t)p, size, 0, array ? id_reallocarray_site : id_realloc_site, worker->id};
  fill(block);
}

// Calls that must fail and change nothing.
static void fail(Worker *worker, record_block *block) {
  size_t huge = SIZE_MAX - 64 - next_random(&worker->random) % 4096;
  void *p = nullptr;
  switch (next_random(&worker->random) % 12) {
    case 0: p = malloc_first(huge); break;
    case 1: p = calloc_site(SIZE_MAX / 2, 3); break;
    case 2: p = memalign_site(64, huge); break;
    case 3: p = posix_memalign_site(3, 64); break;
    case 4: p = posix_memalign_site(64, huge); break;
    case 5: p = aligned_alloc_site(64, huge & ~(size_t)63); break;
    case 6: p = valloc_site(PTRDIFF_MAX); break;
    case 7: p = new_nothrow_site(huge); break;
    case 8:
      if (throws) try { p = new_array_site(huge); } catch (const std::bad_alloc &) {}
      break;
    case 9: p = own_names ? nullptr : reallocarray_site(nullptr, SIZE_MAX / 2, 3); break;
    case 10:
      if (block->address != 0 && may_be_resized(block)) p = realloc_site((void *)block->address, huge);
      break;
    case 11:
      if (block->address != 0 && may_be_resized(block) && !own_names) p = reallocarray_site((void *)block->address, SIZE_MAX / 2, 3);
      break;
  }
  if (p != nullptr) record_fail("a call succeeded that cannot");
  if (block->address != 0) check(block, (void *)block->address, block->size);
  worker->failures++;
}

static void trade(Worker *worker, record_block *block) {
  Exchange *place = &exchange[next_random(&worker->random) % exchange_size];
  pthread_mutex_lock(&place->lock);
  record_block other = place->block;
  place->block = *block;
  *block = other;
  pthread_mutex_unlock(&place->lock);
}

static void operate(Worker *worker) {
  record_block *block = &worker->blocks[next_random(&worker->random) % slots_per_thread];
  uint64_t choice = next_random(&worker->random) % 100;
  if (choice < 2) fail(worker, block);
  else if (choice < 12) trade(worker, block);
  else if (block->address == 0) allocate(worker, block);
  else if (choice < 40 && may_be_resized(block)) resize(worker, block);
  else deallocate(worker, block);
}

static void *work(void *argument) {
  Worker *worker = (Worker *)argument;
  worker->id = record_thread();
  if (worker == workers && throws) {
    // The first exception of a program makes its libraries allocate what they keep.
    try { new_array_site(SIZE_MAX); } catch (const std::bad_alloc &) {}
  }
  pthread_barrier_wait(&barrier);  // all threads exist: check point 0
  pthread_barrier_wait(&barrier);
  for (int phase = 0; phase < checkpoints; phase++) {
    for (size_t i = 0; i < operations_per_phase; i++) operate(worker);
    running--;
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
  }
  return nullptr;
}

// MARK: children

static Worker parent_worker;
static const char *self_path;

// What a child does with its copy of the heap: nothing of it may show in the parent's index.
static void run_as_child(void) {
  Worker *worker = &parent_worker;
  for (int i = 0; i < 3000; i++) {
    record_block *block = &worker->blocks[next_random(&worker->random) % slots_per_thread];
    if (block->address == 0) allocate(worker, block);
    else if (i % 3 == 0 && may_be_resized(block)) resize(worker, block);
    else deallocate(worker, block);
  }
}

static bool succeeded(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return false;
  if (status != 0) record_say("child ended with status %x\n", status);
  return status == 0;
}

static bool start_child(const char *way) {
  char *const arguments[] = {(char *)"truth", (char *)"child", nullptr};
  if (strcmp(way, "fork") == 0) {
    pid_t child = fork();
    if (child == 0) {
      run_as_child();
      pid_t grandchild = fork();
      if (grandchild == 0) {
        run_as_child();
        _exit(0);
      }
      _exit(grandchild > 0 && succeeded(grandchild) ? 0 : 1);
    }
    return child > 0 && succeeded(child);
  }
  if (strcmp(way, "vfork") == 0) {
    pid_t child = vfork();
    if (child == 0) {
      execv(self_path, arguments);
      _exit(127);
    }
    return child > 0 && succeeded(child);
  }
  if (strcmp(way, "spawn") == 0) {
    pid_t child;
    if (posix_spawn(&child, self_path, nullptr, nullptr, arguments, environ) != 0) return false;
    return succeeded(child);
  }
  if (strcmp(way, "clone") == 0) {
    // No atfork handler runs, and another thread's lock may be held forever in the child: so it may only leave.
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
      execv(self_path, arguments);
      _exit(127);
    }
    return child > 0 && succeeded(child);
  }
  return false;
}

// MARK: main

static void write_checkpoint(int number) {
  int file = record_open_numbered(number, "blocks");
  for (size_t i = 0; i < worker_count; i++) record_blocks(file, workers[i].blocks, slots_per_thread);
  for (size_t i = 0; i < exchange_size; i++) record_blocks(file, &exchange[i].block, 1);
  record_blocks(file, parent_worker.blocks, slots_per_thread);
  close(file);
  file = record_open_numbered(number, "freed");
  for (size_t i = 0; i < worker_count; i++) record_blocks(file, workers[i].freed, freed_size);
  close(file);
  for (size_t i = 0; i < worker_count; i++)
    record_say("worker %u %llu %llu %llu\n", workers[i].id, (unsigned long long)workers[i].allocations,
               (unsigned long long)workers[i].frees, (unsigned long long)workers[i].failures);
  record_wait(number);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "child") == 0) {  // the image that children start with exec
    void *p = malloc(100);
    KEEP(p);
    free(p);
    return 0;
  }
  if (argc < 5) record_fail("usage: truth THREADS OPERATIONS CHECKPOINTS SEED [none|fork|vfork|spawn|clone [LARGEST]]");
  worker_count = (size_t)atoi(argv[1]);
  checkpoints = atoi(argv[3]);
  operations_per_phase = (size_t)atoll(argv[2]) / worker_count / (size_t)checkpoints;
  uint64_t seed = (uint64_t)atoll(argv[4]);
  const char *way = argc > 5 ? argv[5] : "none";
  if (argc > 6) largest = (size_t)atoll(argv[6]);
  self_path = "/proc/self/exe";

  *(void **)&free_sized_function = dlsym(RTLD_DEFAULT, "free_sized");
  *(void **)&free_aligned_sized_function = dlsym(RTLD_DEFAULT, "free_aligned_sized");
  *(void **)&cfree_function = dlsym(RTLD_DEFAULT, "cfree");
  if (own_names) free_sized_function = nullptr, free_aligned_sized_function = nullptr, cfree_function = nullptr;
  throws = may_throw && dlsym(RTLD_DEFAULT, "mi_malloc") == nullptr;
  has_pvalloc = !own_names && dlsym(RTLD_DEFAULT, "mallctl") == nullptr;
  // What dlsym said of functions that are missing is a block, freed by the thread's next call but one.
  dlerror();
  dlerror();
  int file = record_open("sites");
#define RECORD_SITE(name, function) record_site(file, id_##name, __start_site_##name, __stop_site_##name, function);
  SITES(RECORD_SITE)
  close(file);

  exchange = (Exchange *)record_memory(exchange_size * sizeof(Exchange));
  for (size_t i = 0; i < exchange_size; i++) pthread_mutex_init(&exchange[i].lock, nullptr);
  workers = (Worker *)record_memory(worker_count * sizeof(Worker));
  pthread_barrier_init(&barrier, nullptr, (unsigned)worker_count + 1);
  for (size_t i = 0; i <= worker_count; i++) {
    Worker *worker = i < worker_count ? &workers[i] : &parent_worker;
    worker->random = (seed + 1) * 0x9E3779B97F4A7C15ull + i * 0xD1B54A32D192ED03ull;
    worker->blocks = (record_block *)record_memory(slots_per_thread * sizeof(record_block));
    worker->freed = (record_block *)record_memory(freed_size * sizeof(record_block));
    worker->id = record_thread();
    if (i < worker_count && pthread_create(&worker->thread, nullptr, work, worker) != 0) record_fail("cannot start a thread");
  }
  pthread_barrier_wait(&barrier);
  write_checkpoint(0);
  for (size_t i = 0; strcmp(way, "none") != 0 && i < slots_per_thread; i += 2) allocate(&parent_worker, &parent_worker.blocks[i]);

  uint64_t children = 0, failed = 0;
  running = worker_count;
  pthread_barrier_wait(&barrier);
  for (int phase = 1; phase <= checkpoints; phase++) {
    while (strcmp(way, "none") != 0 && running.load() > 0) {
      children++;
      if (!start_child(way)) failed++;
    }
    pthread_barrier_wait(&barrier);
    running = worker_count;
    write_checkpoint(phase);
    pthread_barrier_wait(&barrier);
  }
  for (size_t i = 0; i < worker_count; i++) pthread_join(workers[i].thread, nullptr);
  record_say("misaligned %zu\n", misaligned.load());
  record_say("children %llu failed %llu\n", (unsigned long long)children, (unsigned long long)failed);
  return failed == 0 ? 0 : 1;
}
