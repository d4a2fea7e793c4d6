// An allocator to be linked into a program, which then defines the malloc family itself. With -DBUMP, memory is handed out
// from one end and never used again; else freed blocks go to lists by power of two. As simple allocators do, calloc,
// realloc and the aligned ones call malloc and free by their names. With -DPREFIX=dl the names begin with that, and there are
// two that only dlmalloc has.
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace {

struct Header {
  size_t size;
  size_t order;  // of the whole block, header and alignment included
  void *start;
  void *next;
};

const size_t chunk_size = size_t(64) << 20;
volatile char lock_word;
char *chunk, *chunk_end;
[[maybe_unused]] void *free_lists[48];

void lock() {
  while (__atomic_test_and_set(&lock_word, __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}
void unlock() { __atomic_clear(&lock_word, __ATOMIC_RELEASE); }

char *fresh(size_t bytes) {
  if (bytes > chunk_size / 4) {
    void *mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mapped == MAP_FAILED ? nullptr : static_cast<char *>(mapped);
  }
  if (size_t(chunk_end - chunk) < bytes) {
    void *mapped = mmap(nullptr, chunk_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    chunk = static_cast<char *>(mapped);
    chunk_end = chunk + chunk_size;
  }
  char *result = chunk;
  chunk += bytes;
  return result;
}

Header *header(void *block) { return static_cast<Header *>(block) - 1; }

__attribute__((noinline)) void *take(size_t size, size_t alignment) {
  size_t bytes = size + sizeof(Header) + alignment;
  if (size > PTRDIFF_MAX || bytes < size || bytes > size_t(1) << 46) {
    errno = ENOMEM;
    return nullptr;
  }
  size_t order = 64 - __builtin_clzl(bytes - 1);
  lock();
#ifdef BUMP
  char *start = fresh((bytes + 15) & ~size_t(15));
#else
  char *start = static_cast<char *>(free_lists[order]);
  if (start)
    memcpy(&free_lists[order], start, sizeof(void *));
  else
    start = fresh(size_t(1) << order);
#endif
  unlock();
  if (!start) {
    errno = ENOMEM;
    return nullptr;
  }
  uintptr_t place = (uintptr_t(start) + sizeof(Header) + alignment - 1) & ~(alignment - 1);
  *header(reinterpret_cast<void *>(place)) = {size, order, start, nullptr};
  return reinterpret_cast<void *>(place);
}

bool is_power(size_t alignment) { return alignment && !(alignment & (alignment - 1)); }

}  // namespace

#ifdef PREFIX
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(PREFIX, name)
#else
#define NAME(name) name
#endif

extern "C" {

__attribute__((noinline)) void *NAME(malloc)(size_t size) noexcept { return take(size, 16); }

__attribute__((noinline)) void NAME(free)(void *block) noexcept {
  if (!block) return;
#ifndef BUMP
  int error = errno;
  Header *head = header(block);
  void *start = head->start;
  size_t order = head->order;
  lock();
  memcpy(start, &free_lists[order], sizeof(void *));
  free_lists[order] = start;
  unlock();
  errno = error;
#endif
}

void *NAME(calloc)(size_t count, size_t size) noexcept {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  void *block = NAME(malloc)(bytes);
  if (block) memset(block, 0, bytes);
  return block;
}

void *NAME(realloc)(void *block, size_t size) noexcept {
  if (!block) return NAME(malloc)(size);
  if (!size) {
    NAME(free)(block);
    return nullptr;
  }
  void *moved = NAME(malloc)(size);
  if (!moved) return nullptr;
  size_t old = header(block)->size;
  memcpy(moved, block, old < size ? old : size);
  NAME(free)(block);
  return moved;
}

void *NAME(memalign)(size_t alignment, size_t size) noexcept {
  if (!is_power(alignment) || alignment > size_t(1) << 40) {
    errno = EINVAL;
    return nullptr;
  }
  return take(size, alignment < 16 ? 16 : alignment);
}

void *NAME(aligned_alloc)(size_t alignment, size_t size) noexcept { return NAME(memalign)(alignment, size); }

int NAME(posix_memalign)(void **result, size_t alignment, size_t size) noexcept {
  if (!is_power(alignment) || alignment % sizeof(void *)) return EINVAL;
  int error = errno;
  void *block = NAME(memalign)(alignment, size);
  errno = error;
  if (!block) return ENOMEM;
  *result = block;
  return 0;
}

void *NAME(valloc)(size_t size) noexcept { return NAME(memalign)(4096, size); }
void *NAME(pvalloc)(size_t size) noexcept { return NAME(memalign)(4096, (size + 4095) & ~size_t(4095)); }
size_t NAME(malloc_usable_size)(void *block) noexcept { return block ? header(block)->size : 0; }

#ifdef PREFIX
void *NAME(realloc_in_place)(void *block, size_t size) noexcept {
  Header *head = header(block);
  size_t room = (size_t(1) << head->order) - size_t(static_cast<char *>(block) - static_cast<char *>(head->start));
  if (size > room) return nullptr;
  head->size = size;
  return block;
}

size_t NAME(bulk_free)(void **blocks, size_t count) noexcept {
  for (size_t i = 0; i < count; i++) {
    NAME(free)(blocks[i]);
    blocks[i] = nullptr;
  }
  return 0;
}
#endif
}
