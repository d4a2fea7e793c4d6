// An allocator to be linked into a program, whose blocks lie as close as can be: side by side,
// without headers, in classes of each multiple of 8 up to 128 bytes and of powers of two above. So
// blocks of up to 8 bytes lie 8 bytes apart, those of 40 at multiples of 8.
//
// All memory is from one reservation of spans of 64 KiB; a table beside it says of each span what
// its blocks' size is.
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace {

const size_t span_size = 65536, span_count = 1 << 17, largest = size_t(1) << 32;
const size_t fine_limit = 128, fine_classes = fine_limit / 8 + 1, classes = fine_classes + 48;
volatile char lock_word;
char *memory;
size_t next_span;
size_t size_of_span[span_count];  // of its blocks
void *free_blocks[classes];

void lock() {
  while (__atomic_test_and_set(&lock_word, __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}
void unlock() { __atomic_clear(&lock_word, __ATOMIC_RELEASE); }

size_t power_above(size_t size) { return size_t(1) << (64 - __builtin_clzl(size - 1)); }
size_t rounded(size_t size) { return size <= 8 ? 8 : size <= fine_limit ? (size + 7) & ~size_t(7) : power_above(size); }
// Of a size that is rounded.
size_t class_of(size_t size) { return size <= fine_limit ? size / 8 : fine_classes + size_t(__builtin_ctzl(size)); }

__attribute__((noinline)) void *take(size_t size, size_t alignment) {
  if (size > largest) {
    errno = ENOMEM;
    return nullptr;
  }
  // A power of two is aligned to itself.
  if (alignment > 8) size = power_above(size < alignment ? alignment : size < 2 ? 2 : size);
  size = rounded(size);
  size_t of = class_of(size);
  lock();
  if (!memory) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    memory = static_cast<char *>(
        mmap(nullptr, span_size * span_count, PROT_READ | PROT_WRITE, flags, -1, 0));
  }
  if (!free_blocks[of]) {
    size_t spans = size > span_size ? size / span_size : 1;
    // Larger ones begin where they are aligned to 2 MiB at most.
    if (spans > 1) next_span = (next_span + (spans < 32 ? spans : 32) - 1) & -(spans < 32 ? spans : 32);
    if (next_span + spans > span_count) {
      unlock();
      errno = ENOMEM;
      return nullptr;
    }
    char *start = memory + next_span * span_size;
    for (size_t i = 0; i < spans; i++) size_of_span[next_span + i] = size;
    next_span += spans;
    for (size_t i = (spans > 1 ? 1 : span_size / size); i-- > 0;) {
      memcpy(start + i * size, &free_blocks[of], sizeof(void *));
      free_blocks[of] = start + i * size;
    }
  }
  char *block = static_cast<char *>(free_blocks[of]);
  memcpy(&free_blocks[of], block, sizeof(void *));
  unlock();
  return block;
}

size_t size_of(void *block) { return size_of_span[(static_cast<char *>(block) - memory) / span_size]; }

bool is_power(size_t alignment) { return alignment && !(alignment & (alignment - 1)); }

}  // namespace

extern "C" {

void *malloc(size_t size) { return take(size, 8); }

void free(void *block) {
  if (!block) return;
  size_t of = class_of(size_of(block));
  lock();
  memcpy(block, &free_blocks[of], sizeof(void *));
  free_blocks[of] = block;
  unlock();
}

void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  void *block = take(bytes, 8);
  if (block) memset(block, 0, bytes);
  return block;
}

void *realloc(void *block, size_t size) {
  if (!block) return take(size, 8);
  if (size == 0) {
    free(block);
    return nullptr;
  }
  size_t old = size_of(block);
  if (size <= largest && rounded(size) == old) return block;
  void *result = take(size, 8);
  if (!result) return nullptr;
  memcpy(result, block, old < size ? old : size);
  free(block);
  return result;
}

void *memalign(size_t alignment, size_t size) {
  if (!is_power(alignment)) {
    errno = EINVAL;
    return nullptr;
  }
  return take(size, alignment);
}
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
  if (!is_power(alignment) || alignment % sizeof(void *)) return EINVAL;
  int before = errno;
  void *block = take(size, alignment);
  errno = before;
  if (!block) return ENOMEM;
  *result = block;
  return 0;
}

void *valloc(size_t size) { return take(size, 4096); }
void *pvalloc(size_t size) { return take((size + 4095) & ~size_t(4095), 4096); }
size_t malloc_usable_size(void *block) { return block ? size_of(block) : 0; }

}
