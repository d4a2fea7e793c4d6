// SPDX-License-Identifier: Apache-2.0
// DynamicLinker: the agent's questions about modules, answered by glibc's dynamic linker: which
// modules there are, which of them an address is in, where the parts of a module lie. A port to
// another C library answers these questions in another way (docs/porting.md).
//
// Called here, with docs/libc.md as the table of all that is imported:
//   anywhere                    _dl_find_object, which takes no lock; getauxval; memcmp
//   in the constructor, and where functions are hooked at their entries
//                               dl_iterate_phdr, which takes the dynamic linker's lock
#define _GNU_SOURCE
#include "allocs_agent.h"

#include <elf.h>
#include <string.h>
#include <sys/auxv.h>

#ifndef ALLOCS_INEXE
// Weak, because other C libraries lack them: the agent must load there, too (Libc.c).
extern struct r_debug _r_debug __attribute__((weak));
extern struct r_debug *const _dl_debug_addr __attribute__((weak));  // musl's
static const struct r_debug *dynamic_linker(void) {
  if (&_r_debug) return &_r_debug;
  return &_dl_debug_addr ? _dl_debug_addr : NULL;
}
#else
static const struct r_debug *dynamic_linker(void) { return &_r_debug; }
#endif

// MARK: the list of modules

struct link_map *allocs_first_link_map(void) {
  const struct r_debug *linker = dynamic_linker();
  return linker ? linker->r_map : NULL;
}

uint64_t allocs_debugger_function(void) {
  const struct r_debug *linker = dynamic_linker();
  return linker ? (uint64_t)linker->r_brk : 0;
}

#ifdef ALLOCS_INEXE
// An executable that is linked statically, and to a fixed address, has none.
extern ALLOCS_HIDDEN __attribute__((weak)) ElfW(Dyn) _DYNAMIC[];
#else
extern ALLOCS_HIDDEN ElfW(Dyn) _DYNAMIC[];
#endif

bool allocs_is_own_module(const struct link_map *map) { return map->l_ld == _DYNAMIC; }

bool allocs_is_main_module(const struct link_map *map) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return true;
#endif
  return map == allocs_first_link_map();
}

uint64_t allocs_vdso_start(void) { return getauxval(AT_SYSINFO_EHDR); }

bool allocs_is_started_by_loader(void) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return false;
#endif
  return getauxval(AT_BASE) == 0;
}

const ElfW(Phdr) *allocs_executable_headers(uint64_t *count) {
  *count = getauxval(AT_PHNUM);
  return (const ElfW(Phdr) *)getauxval(AT_PHDR);
}

const struct r_debug *allocs_next_namespace(const struct r_debug *previous) {
  if (!previous) return &_r_debug;
  // From version 2 on, the next namespace follows (link.h of glibc 2.35). The version becomes 2 as
  // soon as there is a second namespace.
  return previous->r_version < 2 ? NULL : *(struct r_debug **)(previous + 1);
}

// MARK: modules by address

// Asks _dl_find_object for the segment around `address`, or for the whole module if its segments
// lie side by side; and for the module's .eh_frame_hdr.
static bool find_segment(uint64_t address, struct dl_find_object *found) {
  int (*find)(void *, void *) = allocs_process_state.find_object;
  return find && find((void *)(uintptr_t)address, found) == 0;
}

static void take_bounds(const struct dl_find_object *found, uint64_t *start, uint64_t *end) {
  *start = (uint64_t)(uintptr_t)found->dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found->dlfo_map_end;
}

// The module's program headers; null if they are not where they usually are.
static const ElfW(Phdr) *program_headers(const struct link_map *map, uint64_t *count) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return NULL;
#endif
  if (allocs_is_main_module(map)) {
    *count = getauxval(AT_PHNUM);
    return (const ElfW(Phdr) *)getauxval(AT_PHDR);
  }
  // A library's image begins at its bias; it does if its ELF header lies there.
  struct dl_find_object found;
  if (!find_segment(map->l_addr, &found) || found.dlfo_link_map != map) return NULL;
  const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)map->l_addr;
  uint64_t size = (uint64_t)(uintptr_t)found.dlfo_map_end - map->l_addr;
  if (size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_phentsize != sizeof(ElfW(Phdr)))
    return NULL;
  *count = header->e_phnum;
  if (header->e_phoff > size || (size - header->e_phoff) / sizeof(ElfW(Phdr)) < *count) return NULL;
  return (const ElfW(Phdr) *)(map->l_addr + header->e_phoff);
}

// Widens the bounds of a segment to the bounds of its whole module. Where a module has room between
// its segments, as huge pages, ld.gold and lld leave it, _dl_find_object tells each segment apart.
// But the module was mapped at once, by the kernel or, if it is a library, by libc, so that nothing
// else comes to lie between its segments.
static void span_segments(const struct link_map *map, uint64_t *start, uint64_t *end) {
  uint64_t count = 0;
  const ElfW(Phdr) *headers = program_headers(map, &count);
  uint64_t low = UINT64_MAX, high = 0;
  for (uint64_t index = 0; headers && index < count; index++) {
    if (headers[index].p_type != PT_LOAD) continue;
    uint64_t first = headers[index].p_vaddr & -(uint64_t)ALLOCS_PAGE_SIZE;
    uint64_t last = headers[index].p_vaddr + headers[index].p_memsz;
    low = first < low ? first : low;
    high = last > high ? last : high;
  }
  if (low >= high || low + map->l_addr > *start || high + map->l_addr < *end) return;
  *start = low + map->l_addr;
  *end = high + map->l_addr;
}

bool allocs_module_segment(const struct link_map *map, uint32_t wanted, struct allocs_code_segment *segment) {
  uint64_t count = 0;
  const ElfW(Phdr) *headers = program_headers(map, &count);
  for (uint64_t index = 0; headers && index < count; index++) {
    if (headers[index].p_type != PT_LOAD || wanted-- != 0) continue;
    segment->start = headers[index].p_vaddr + map->l_addr;
    segment->end = segment->start + headers[index].p_filesz;
    segment->is_readable = (headers[index].p_flags & PF_R) != 0;
    segment->is_code = (headers[index].p_flags & PF_X) != 0;
    return true;
  }
  return false;
}

bool allocs_find_segment(uint64_t address, const struct link_map *map, uint64_t *start, uint64_t *end) {
#ifdef ALLOCS_INEXE
  struct link_map *own;
  uint64_t table;
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, &own, &table);
#endif
  struct dl_find_object found;
  if (!find_segment(address, &found) || found.dlfo_link_map != map) return false;
  take_bounds(&found, start, end);
  return true;
}

bool allocs_find_module(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map) {
#ifdef ALLOCS_INEXE
  uint64_t table;
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, map, &table);
#endif
  struct dl_find_object found;
  if (!find_segment(address, &found)) return false;
  take_bounds(&found, start, end);
  *map = found.dlfo_link_map;
  span_segments(*map, start, end);
  return true;
}

bool allocs_find_loader(uint64_t *start, uint64_t *end) {
  struct link_map *map;
  const struct r_debug *linker = dynamic_linker();
  return linker && allocs_find_module((uint64_t)linker->r_ldbase, start, end, &map);
}

bool allocs_find_frame_table(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map, uint64_t *table) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, map, table);
#endif
  struct dl_find_object found;
  if (!find_segment(address, &found)) return false;
  take_bounds(&found, start, end);
  *map = found.dlfo_link_map;
  *table = (uint64_t)(uintptr_t)found.dlfo_eh_frame;
  return true;
}

// The kernel, or the dynamic linker, begins to run a module at its entry: hand-written code of a
// few instructions.
enum { LONGEST_ENTRY = 96 };
static bool is_near_entry(uint64_t address, uint64_t entry) { return entry && address - entry < LONGEST_ENTRY; }

bool allocs_is_entry(uint64_t address) {
  if (is_near_entry(address, getauxval(AT_ENTRY))) return true;
  const struct r_debug *linker = dynamic_linker();
  const ElfW(Ehdr) *header = linker ? (const ElfW(Ehdr) *)linker->r_ldbase : NULL;
  // An executable that is linked statically has no dynamic linker.
  return header && memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
         is_near_entry(address, linker->r_ldbase + header->e_entry);
}

// MARK: questions under the dynamic linker's lock

struct code_range {
  uint64_t address, end;
};

static int find_code(struct dl_phdr_info *info, size_t size, void *argument) {
  (void)size;
  struct code_range *range = argument;
  for (int index = 0; index < info->dlpi_phnum; index++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[index];
    uint64_t start = info->dlpi_addr + segment->p_vaddr;
    if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && range->address - start < segment->p_filesz)
      range->end = start + segment->p_filesz;
  }
  return range->end != 0;
}

uint64_t allocs_code_end(uint64_t address) {
  struct code_range range = {address, 0};
  dl_iterate_phdr(find_code, &range);
  return range.end;
}

static int visit_thread_local_block(struct dl_phdr_info *info, size_t size, void *visitor) {
  const size_t needed = offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof info->dlpi_tls_data;
  if (size < needed || !info->dlpi_tls_data) return 0;
  uint64_t block_size = 0, module = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type == PT_TLS) block_size = info->dlpi_phdr[i].p_memsz;
    if (info->dlpi_phdr[i].p_type == PT_LOAD && !module) module = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
  }
  ((allocs_thread_local_visitor)visitor)(module, (uint64_t)(uintptr_t)info->dlpi_tls_data, block_size);
  return 0;
}

void allocs_visit_thread_local_blocks(allocs_thread_local_visitor visitor) {
  dl_iterate_phdr(visit_thread_local_block, (void *)visitor);
}
