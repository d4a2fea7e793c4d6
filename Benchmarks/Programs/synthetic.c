// SPDX-License-Identifier: Apache-2.0
// synthetic FILE BASE SIZE: writes a segment of a process that doesn't exist, with one live allocation of SIZE bytes at
// BASE (decimal) and one of 24 bytes in the first region behind it: for sizes that no machine at hand can allocate.
#include "bench.h"

#include <errno.h>
#include <fcntl.h>

#include "SharedLayout.h"

static int file;
static uint64_t end;

static void put(uint64_t offset, const void *bytes, size_t size) {
  if (pwrite(file, bytes, size, (off_t)offset) != (ssize_t)size) {
    fprintf(stderr, "synthetic: %zu bytes could not be written: %s\n", size, strerror(errno));
    exit(1);
  }
}

// Sets a bit of a bitmap of words in the file.
static void set_bit(uint64_t offset, uint64_t bit) {
  uint64_t word = 0;
  if (pread(file, &word, sizeof word, (off_t)(offset + bit / 64 * 8)) < 0) exit(1);
  word |= 1ull << bit % 64;
  put(offset + bit / 64 * 8, &word, sizeof word);
}

static struct allocs_section section(uint64_t entry_size, uint64_t capacity, uint64_t used) {
  struct allocs_section section = {end, entry_size, capacity, used};
  end += (entry_size * capacity + ALLOCS_PAGE_SIZE - 1) / ALLOCS_PAGE_SIZE * ALLOCS_PAGE_SIZE;
  return section;
}

static void allocation(struct allocs_header *header, uint32_t arena, uint64_t base, uint64_t size) {
  uint64_t region = allocs_region_of_address(base);
  uint64_t place = header->sections[ALLOCS_SECTION_ARENAS].offset + (uint64_t)arena * ALLOCS_ARENA_STRIDE;
  uint64_t bits = header->sections[ALLOCS_SECTION_REGION_BITS].offset;
  uint32_t entry = arena + 1, summary = allocs_summary_index(base), ticks = 1;
  put(header->sections[ALLOCS_SECTION_DIRECTORY].offset + region * sizeof entry, &entry, sizeof entry);
  put(place + offsetof(struct allocs_arena, region), &region, sizeof region);
  set_bit(place + offsetof(struct allocs_arena, level2), summary / 4096);
  set_bit(place + offsetof(struct allocs_arena, level1), summary / 64);
  set_bit(place + ALLOCS_ARENA_SUMMARY_OFFSET, summary);
  set_bit(bits + ALLOCS_REGION_LEVEL0_OFFSET, region);
  set_bit(bits, region / 64);
  header->region_level2[region / 4096 / 64] |= 1ull << region / 4096 % 64;

  uint64_t slot = place + ALLOCS_ARENA_SLOTS_OFFSET + allocs_slot_index(base) * 8ull;
  uint32_t granule = allocs_granule_of_address(base);
  uint64_t head = allocs_slot_small(granule, size, 0, ticks);
  if (size >= ALLOCS_SMALL_SIZE_LIMIT) {
    uint64_t tail = allocs_slot_tail(size, 0, ticks);
    put(slot + 8, &tail, sizeof tail);
    head = allocs_slot_large(granule, size, 0, ticks);
  }
  put(slot, &head, sizeof head);
}

int main(int argc, char **argv) {
  if (argc != 4) return 64;
  uint64_t base = count_argument(argc, argv, 2, 0), size = count_argument(argc, argv, 3, 0);
  file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (file < 0) {
    fprintf(stderr, "synthetic: %s could not be created: %s\n", argv[1], strerror(errno));
    return 1;
  }
  struct allocs_header header = {.layout_version = ALLOCS_LAYOUT_VERSION,
                                 .header_size = sizeof header,
                                 .uid = getuid(),
                                 .pid = 1,
                                 .start_time = 1,
                                 .state = ALLOCS_STATE_EXITED};
  end = ALLOCS_PAGE_SIZE;
  header.sections[ALLOCS_SECTION_MODULES] = section(sizeof(struct allocs_module), 1, 0);
  header.sections[ALLOCS_SECTION_STRINGS] = section(1, 4096, 0);
  header.sections[ALLOCS_SECTION_THREADS] = section(sizeof(struct allocs_thread), 1, 0);
  header.sections[ALLOCS_SECTION_FORMER_THREADS] = section(sizeof(struct allocs_former_thread), 1, 0);
  header.sections[ALLOCS_SECTION_NODES] = section(sizeof(struct allocs_node), 256, 1);
  header.sections[ALLOCS_SECTION_CONTEXTS] = section(8, 512, 1);
  uint64_t words = ALLOCS_REGION_LEVEL1_WORDS + ALLOCS_REGION_LEVEL0_WORDS;
  header.sections[ALLOCS_SECTION_REGION_BITS] = section(8, words, words);
  header.sections[ALLOCS_SECTION_DIRECTORY] = section(4, ALLOCS_REGION_COUNT, ALLOCS_REGION_COUNT);
  header.sections[ALLOCS_SECTION_ARENAS] = section(ALLOCS_ARENA_STRIDE, 2, 2);
  header.sections[ALLOCS_SECTION_ALLOCATORS] = section(sizeof(struct allocs_allocator), 1, 0);
  header.file_size = end;
  header.clock.monotonic_ns = (uint64_t)nanoseconds(CLOCK_MONOTONIC);
  header.clock.realtime_ns = (uint64_t)nanoseconds(CLOCK_REALTIME);
  if (ftruncate(file, (off_t)end) != 0) return 1;
  allocation(&header, 0, base, size);
  allocation(&header, 1, (base + size + ALLOCS_REGION_SIZE) & ~(ALLOCS_REGION_SIZE - 1), 24);
  header.magic = ALLOCS_MAGIC;
  put(0, &header, sizeof header);
  return 0;
}
