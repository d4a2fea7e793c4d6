// Storage of the agent's private state, and what it asks of libc besides system calls.
//
// Inside a hook nothing is called that can take a lock or allocate. docs/libc.md has the table of all that is imported:
// when it is called, what it may lock, whether it allocates. What is called here:
//   anywhere            _dl_find_object, getauxval, clock_gettime, mem*, str*; pthread_setspecific for one of the first 32 keys
//   in the constructor  __register_atfork, pthread_key_create, pthread_key_delete, dl_iterate_phdr
#define _GNU_SOURCE
#include "allocs_agent.h"
#include "allocs_registers.h"

#include <elf.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

__thread __attribute__((tls_model("initial-exec"))) struct allocs_thread_local allocs_thread_local;

struct allocs_process allocs_process_state;

__attribute__((aligned(ALLOCS_PAGE_SIZE))) uint8_t allocs_control_page[ALLOCS_PAGE_SIZE];

// MARK: what glibc has and others have not

// The agent is loaded into whatever a program of an indexed one starts: by musl's dynamic linker, by an older glibc's.
// There it must load, and do nothing. So it asks for no library but libc, by a name that musl takes for itself, and for
// no version that came after the first ones: these are weak, and what else is new is looked up by hand.
#ifndef ALLOCS_INEXE
extern ALLOCS_HIDDEN void *allocs_next_definition(const char *name);
#define LIBC(name) allocs_next_definition(#name)
extern struct r_debug _r_debug __attribute__((weak));
extern void *__libc_stack_end __attribute__((weak));
extern struct r_debug *const _dl_debug_addr __attribute__((weak));  // musl's
static const struct r_debug *dynamic_linker(void) {
  if (&_r_debug) return &_r_debug;
  return &_dl_debug_addr ? _dl_debug_addr : NULL;
}
bool allocs_find_libc(void) {
  allocs_process_state.find_object = LIBC(_dl_find_object);
  return allocs_process_state.find_object && &_r_debug && &__libc_stack_end;
}
static void *stack_end(void) { return &__libc_stack_end ? __libc_stack_end : NULL; }

// Of Embedded Swift's library. Imported, it would be relocated after what runs before any constructor
// (Entry/Definitions.c).
ALLOCS_HIDDEN int bcmp(const void *one, const void *other, size_t count) {
  for (size_t index = 0; index < count; index++)
    if (((const volatile uint8_t *)one)[index] != ((const volatile uint8_t *)other)[index]) return 1;
  return 0;
}
// Embedded Swift's library names it, in what is never called; glibc has it since 2.36 only.
ALLOCS_HIDDEN void arc4random_buf(void *bytes, size_t count) {
  (void)bytes, (void)count;
  __builtin_trap();
}
#else
extern void *__libc_stack_end;
static const struct r_debug *dynamic_linker(void) { return &_r_debug; }
#define LIBC(name) name
bool allocs_find_libc(void) {
  if (!allocs_is_static()) allocs_process_state.find_object = (int (*)(void *, void *))_dl_find_object;
  return true;
}
static void *stack_end(void) { return __libc_stack_end; }
#endif

struct link_map *allocs_first_link_map(void) {
  const struct r_debug *linker = dynamic_linker();
  return linker ? linker->r_map : NULL;
}

uint64_t allocs_debugger_function(void) {
  const struct r_debug *linker = dynamic_linker();
  return linker ? (uint64_t)linker->r_brk : 0;
}

// Where the kernel put argc, argv and envp: set by the dynamic linker before anything else runs.
char **allocs_environment(void) {
  if (environ) return environ;
  long *stack = stack_end();
  return stack ? (char **)(stack + 1 + stack[0] + 1) : NULL;
}

// Before a fork, and after it in the parent; in a child of fork, before anything else runs there.
extern ALLOCS_HIDDEN void allocs_fork_begins(void);
extern ALLOCS_HIDDEN void allocs_fork_ended(void);
extern ALLOCS_HIDDEN void allocs_child_started(void);

// libc's functions that are called when the agent starts. pthread_atfork is in the static part of libc and names the
// caller's object, so that dlclose could undo it.
typedef int register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
typedef int key_create(pthread_key_t *, void (*)(void *));
typedef int key_delete(pthread_key_t);
typedef int set_specific(pthread_key_t, const void *);
extern ALLOCS_HIDDEN void *__dso_handle;
#ifdef ALLOCS_INEXE
extern register_atfork __register_atfork;
#endif

void allocs_register_fork_handlers(void) {
  register_atfork *function = LIBC(__register_atfork);
  if (function) function(allocs_fork_begins, allocs_fork_ended, allocs_child_started, &__dso_handle);
}

// libc keeps the values of its first keys in the thread's descriptor. For a later one, it would allocate in the hook.
enum { KEYS_KEPT_IN_PLACE = 32 };

bool allocs_create_thread_key(void (*destructor)(void *)) {
  struct allocs_process *process = &allocs_process_state;
  key_create *create = LIBC(pthread_key_create);
  key_delete *delete = LIBC(pthread_key_delete);
  process->set_specific = LIBC(pthread_setspecific);
  if (!create || !delete || !process->set_specific || create(&process->thread_key, destructor) != 0) return false;
  if (process->thread_key < KEYS_KEPT_IN_PLACE) return true;
  delete(process->thread_key);
  return false;
}

bool allocs_set_thread_key(const void *value) {
  return allocs_process_state.set_specific(allocs_process_state.thread_key, value) == 0;
}

#ifdef ALLOCS_INEXE
// There is none in an executable that is linked statically, and to a fixed address.
extern ALLOCS_HIDDEN __attribute__((weak)) ElfW(Dyn) _DYNAMIC[];
#else
extern ALLOCS_HIDDEN ElfW(Dyn) _DYNAMIC[];
#endif

bool allocs_is_own_module(const struct link_map *map) { return map->l_ld == _DYNAMIC; }

const void *const allocs_own_module = &allocs_process_state;

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

// The segment, or whole module, around `address`; the module's .eh_frame_hdr.
static bool find_segment(uint64_t address, struct dl_find_object *found) {
  int (*find)(void *, void *) = allocs_process_state.find_object;
  return find && find((void *)(uintptr_t)address, found) == 0;
}

// A module's program headers; null if they are not where they usually are.
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
  if (size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_phentsize != sizeof(ElfW(Phdr))) return NULL;
  *count = header->e_phnum;
  if (header->e_phoff > size || (size - header->e_phoff) / sizeof(ElfW(Phdr)) < *count) return NULL;
  return (const ElfW(Phdr) *)(map->l_addr + header->e_phoff);
}

// Of a module between whose segments there is room, as huge pages, ld.gold or lld leave it, _dl_find_object tells each
// segment apart. All of it: the kernel, or libc for a library, has mapped it at once, and nothing else comes to lie in
// between.
static void span_segments(const struct link_map *map, uint64_t *start, uint64_t *end) {
  uint64_t count = 0;
  const ElfW(Phdr) *headers = program_headers(map, &count);
  uint64_t low = UINT64_MAX, high = 0;
  for (uint64_t index = 0; headers && index < count; index++) {
    if (headers[index].p_type != PT_LOAD) continue;
    uint64_t first = headers[index].p_vaddr & -(uint64_t)ALLOCS_PAGE_SIZE, last = headers[index].p_vaddr + headers[index].p_memsz;
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
  *start = (uint64_t)(uintptr_t)found.dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found.dlfo_map_end;
  return true;
}

bool allocs_find_module(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map) {
#ifdef ALLOCS_INEXE
  uint64_t table;
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, map, &table);
#endif
  struct dl_find_object found;
  if (!find_segment(address, &found)) return false;
  *start = (uint64_t)(uintptr_t)found.dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found.dlfo_map_end;
  *map = found.dlfo_link_map;
  span_segments(*map, start, end);
  return true;
}

const ElfW(Phdr) *allocs_executable_headers(uint64_t *count) {
  *count = getauxval(AT_PHNUM);
  return (const ElfW(Phdr) *)getauxval(AT_PHDR);
}

const struct r_debug *allocs_next_namespace(const struct r_debug *previous) {
  if (!previous) return &_r_debug;
  // From version 2 on, which is there as soon as there is a second namespace, the next follows (link.h of glibc 2.35).
  return previous->r_version < 2 ? NULL : *(struct r_debug **)(previous + 1);
}

#if defined(__x86_64__) && !defined(ALLOCS_INEXE)
// The function has no arguments and no result; its callers were compiled to expect that it may change what any function
// may. All the same nothing is changed: who knows what it is called by.
__attribute__((naked)) void allocs_debugger_stub(void) {
  __asm__(
      ALLOCS_PUSH_REGISTERS
      "subq $256, %rsp\n"
      ".cfi_adjust_cfa_offset 256\n"
      ALLOCS_SAVE_VECTORS(0)
      "callq allocs_modules_changed\n"
      ALLOCS_RESTORE_VECTORS(0)
      "addq $256, %rsp\n"
      ".cfi_adjust_cfa_offset -256\n"
      ALLOCS_POP_REGISTERS
      "retq\n");
}
#else
void allocs_debugger_stub(void) {}
#endif

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
  const struct r_debug *linker = dynamic_linker();
  return linker && allocs_find_module((uint64_t)linker->r_ldbase, start, end, &map);
}

bool allocs_find_frame_table(uint64_t address, uint64_t *start, uint64_t *end, struct link_map **map, uint64_t *table) {
#ifdef ALLOCS_INEXE
  if (allocs_is_static()) return allocs_find_in_static(address, start, end, map, table);
#endif
  struct dl_find_object found;
  if (!find_segment(address, &found)) return false;
  *start = (uint64_t)(uintptr_t)found.dlfo_map_start;
  *end = (uint64_t)(uintptr_t)found.dlfo_map_end;
  *map = found.dlfo_link_map;
  *table = (uint64_t)(uintptr_t)found.dlfo_eh_frame;
  return true;
}

// Where the kernel, or the dynamic linker, began to run a module: in hand-written code of a few instructions.
enum { LONGEST_ENTRY = 96 };
static bool is_near_entry(uint64_t address, uint64_t entry) { return entry && address - entry < LONGEST_ENTRY; }

bool allocs_is_entry(uint64_t address) {
  if (is_near_entry(address, getauxval(AT_ENTRY))) return true;
  const struct r_debug *linker = dynamic_linker();
  const ElfW(Ehdr) *header = linker ? (const ElfW(Ehdr) *)linker->r_ldbase : NULL;
  // Of an executable that is linked statically there is none.
  return header && memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && is_near_entry(address, linker->r_ldbase + header->e_entry);
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

uint64_t allocs_main_stack_end(void) { return (uint64_t)(uintptr_t)stack_end(); }

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
