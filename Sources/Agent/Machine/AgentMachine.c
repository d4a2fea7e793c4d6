// Storage of the agent's private state, and what it asks of libc besides system calls.
#define _GNU_SOURCE
#include "allocs_agent.h"

#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

__thread __attribute__((tls_model("initial-exec"))) struct allocs_thread_local allocs_thread_local;

struct allocs_process allocs_process_state;

__attribute__((aligned(ALLOCS_PAGE_SIZE))) uint8_t allocs_control_page[ALLOCS_PAGE_SIZE];

// Where the kernel put argc, argv and envp: set by the dynamic linker before anything else runs.
extern void *__libc_stack_end;

char **allocs_environment(void) {
  if (environ) return environ;
  long *stack = __libc_stack_end;
  return stack ? (char **)(stack + 1 + stack[0] + 1) : NULL;
}

// Before a fork, and after it in the parent; in a child of fork, before anything else runs there.
extern ALLOCS_HIDDEN void allocs_fork_begins(void);
extern ALLOCS_HIDDEN void allocs_fork_ended(void);
extern ALLOCS_HIDDEN void allocs_child_started(void);
// pthread_atfork is in the static part of libc and names the caller's object, so that dlclose could undo it.
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
extern ALLOCS_HIDDEN void *__dso_handle;

void allocs_register_fork_handlers(void) { __register_atfork(allocs_fork_begins, allocs_fork_ended, allocs_child_started, &__dso_handle); }

#ifdef ALLOCS_INEXE
// There is none in an executable that is linked statically, and to a fixed address.
extern ALLOCS_HIDDEN __attribute__((weak)) ElfW(Dyn) _DYNAMIC[];
#else
extern ALLOCS_HIDDEN ElfW(Dyn) _DYNAMIC[];
#endif

bool allocs_is_own_module(const struct link_map *map) { return map->l_ld == _DYNAMIC; }

bool allocs_is_main_module(const struct link_map *map) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return true;
#endif
  return map == _r_debug.r_map;
}

uint64_t allocs_vdso_start(void) { return getauxval(AT_SYSINFO_EHDR); }

// An executable between whose segments there is room, as ld.gold leaves it, is several ranges to _dl_find_object. The kernel has
// mapped it: nothing else comes to lie in between.
static void span_executable(const struct link_map *map, uint64_t *start, uint64_t *end) {
  const ElfW(Phdr) *headers = (const ElfW(Phdr) *)getauxval(AT_PHDR);
  uint64_t low = UINT64_MAX, high = 0;
  for (unsigned long index = 0; headers && index < getauxval(AT_PHNUM); index++) {
    if (headers[index].p_type != PT_LOAD) continue;
    uint64_t first = headers[index].p_vaddr & -(uint64_t)ALLOCS_PAGE_SIZE, last = headers[index].p_vaddr + headers[index].p_memsz;
    low = first < low ? first : low;
    high = last > high ? last : high;
  }
  if (low >= high || low + map->l_addr > *start || high + map->l_addr < *end) return;
  *start = low + map->l_addr;
  *end = high + map->l_addr;
}

bool allocs_find_module(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map) {
#ifdef ALLOCS_INEXE
  uint64_t table;
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, map, &table);
#endif
  struct dl_find_object found;
  if (_dl_find_object((void *)(uintptr_t)address, &found) != 0) return false;
  *start = (uint64_t)(uintptr_t)found.dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found.dlfo_map_end;
  *map = found.dlfo_link_map;
  if (allocs_is_main_module(*map)) span_executable(*map, start, end);
  return true;
}

struct code_range {
  uint64_t address, end;
};

static int find_code(struct dl_phdr_info *info, size_t size, void *argument) {
  (void)size;
  struct code_range *range = argument;
  for (int index = 0; index < info->dlpi_phnum; index++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[index];
    if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && range->address - (info->dlpi_addr + segment->p_vaddr) < segment->p_filesz)
      range->end = info->dlpi_addr + segment->p_vaddr + segment->p_filesz;
  }
  return range->end != 0;
}

uint64_t allocs_code_end(uint64_t address) {
  struct code_range range = {address, 0};
  dl_iterate_phdr(find_code, &range);
  return range.end;
}

bool allocs_find_loader(uint64_t *start, uint64_t *end) {
  struct link_map *map;
  return allocs_find_module((uint64_t)_r_debug.r_ldbase, start, end, &map);
}

bool allocs_find_frame_table(uint64_t address, uint64_t *start, uint64_t *end, uint64_t *table) {
#ifdef ALLOCS_INEXE
  struct link_map *map;
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, &map, table);
#endif
  struct dl_find_object found;
  if (_dl_find_object((void *)(uintptr_t)address, &found) != 0) return false;
  *start = (uint64_t)(uintptr_t)found.dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found.dlfo_map_end;
  *table = (uint64_t)(uintptr_t)found.dlfo_eh_frame;
  return true;
}

static int visit_thread_local_block(struct dl_phdr_info *info, size_t size, void *visitor) {
  if (size < offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof info->dlpi_tls_data || !info->dlpi_tls_data) return 0;
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

bool allocs_thread_stack(uint64_t *low, uint64_t *high) {
  pthread_attr_t attributes;
  void *start;
  size_t size;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return false;
  bool known = pthread_attr_getstack(&attributes, &start, &size) == 0;
  pthread_attr_destroy(&attributes);
  *low = (uint64_t)(uintptr_t)start;
  *high = *low + size;
  return known;
}

bool allocs_find_libc(uint64_t *start, uint64_t *end) {
  struct link_map *map;
  uint64_t address = (uint64_t)(uintptr_t)&pthread_getattr_np;
  if (!allocs_find_module(address, start, end, &map)) return false;
  if (allocs_is_own_module(map)) {
    // Linked statically, libc has no bounds. What matters is the function that allocates while it holds a thread's lock.
    enum { LONGEST_FUNCTION = 4096 };
    *start = address;
    *end = address + LONGEST_FUNCTION;
  }
  return true;
}

uint64_t allocs_main_stack_end(void) { return (uint64_t)(uintptr_t)__libc_stack_end; }

uint32_t allocs_ticks_by_call(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) != 0) return 0;
  return allocs_ticks((uint64_t)now.tv_sec, (uint64_t)now.tv_nsec);
}

uint64_t allocs_nanoseconds_by_call(bool exact) {
  struct timespec now;
  if (clock_gettime(exact ? CLOCK_MONOTONIC : CLOCK_MONOTONIC_COARSE, &now) != 0) return 0;
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
