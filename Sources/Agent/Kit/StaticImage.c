// SPDX-License-Identifier: Apache-2.0
// A statically linked executable, the only module of its process: where it lies, as _dl_find_object
// tells of modules elsewhere. In a static link that function knows nothing before libc is ready,
// and reads where nothing is.
#include "allocs_agent.h"

extern ALLOCS_HIDDEN const ElfW(Ehdr) __ehdr_start;
extern ALLOCS_HIDDEN __attribute__((weak)) ElfW(Dyn) _DYNAMIC[];

static uint64_t first, last, frame_table;
static struct link_map image = {.l_name = (char *)""};
static uint32_t state;  // 0 not known, 1 dynamic, 2 static

// Two threads may run this at once: they write the same words.
static uint32_t read_headers(void) {
  const char *base = (const char *)&__ehdr_start;
  const ElfW(Phdr) *headers = (const ElfW(Phdr) *)(base + __ehdr_start.e_phoff);
  uint64_t low = UINT64_MAX, high = 0, table = 0;
  bool is_static = true;
  for (int index = 0; index < __ehdr_start.e_phnum; index++) {
    const ElfW(Phdr) *header = &headers[index];
    if (header->p_type == PT_INTERP) is_static = false;
    if (header->p_type == PT_GNU_EH_FRAME) table = header->p_vaddr;
    if (header->p_type != PT_LOAD) continue;
    if (header->p_vaddr < low) low = header->p_vaddr;
    if (header->p_vaddr + header->p_memsz > high) high = header->p_vaddr + header->p_memsz;
  }
  low &= -(uint64_t)ALLOCS_PAGE_SIZE;
  uint64_t bias = (uint64_t)(uintptr_t)base - low;
  first = low + bias;
  last = high + bias;
  frame_table = table ? table + bias : 0;
  image.l_addr = bias;
  image.l_ld = _DYNAMIC;
  uint32_t result = is_static ? 2 : 1;
  __atomic_store_n(&state, result, __ATOMIC_RELEASE);
  return result;
}

bool allocs_is_static(void) {
  uint32_t known = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
  return (known ? known : read_headers()) == 2;
}

bool allocs_find_in_static(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map, uint64_t *table) {
  if (address < first || address >= last) return false;
  *start = first;
  *end = last;
  *map = &image;
  *table = frame_table;
  return true;
}
