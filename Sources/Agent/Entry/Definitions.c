// SPDX-License-Identifier: Apache-2.0
// The entries of callers that reach another definition of the malloc family than the agent's: see
// Definitions.swift.
#include "allocs_definition.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

struct allocs_definitions allocs_definitions_state;

// MARK: protection

// The kernel tells where the headers of the executable are. The file of a library that was linked
// to begin at address 0 is mapped at the library's bias; only prelinked libraries are linked
// otherwise.
static const ElfW(Phdr) *program_headers(const struct link_map *map, uint32_t *count) {
  if (allocs_is_main_module(map)) {
    *count = (uint32_t)getauxval(AT_PHNUM);
    return (const ElfW(Phdr) *)getauxval(AT_PHDR);
  }
  const uint64_t nearness = 64u << 20;  // of the dynamic section to the start of its module
  if (!map->l_addr || (uint64_t)(uintptr_t)map->l_ld - map->l_addr > nearness) return NULL;
  const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)map->l_addr;
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_phentsize != sizeof(ElfW(Phdr)) ||
      header->e_phoff + header->e_phnum * sizeof(ElfW(Phdr)) > ALLOCS_PAGE_SIZE)
    return NULL;
  *count = header->e_phnum;
  return (const ElfW(Phdr) *)(map->l_addr + header->e_phoff);
}

bool allocs_module_range(const struct link_map *map, uint64_t *start, uint64_t *end) {
  uint32_t count = 0;
  const ElfW(Phdr) *headers = program_headers(map, &count);
  *start = UINT64_MAX, *end = 0;
  for (uint32_t index = 0; headers && index < count; index++) {
    if (headers[index].p_type != PT_LOAD) continue;
    uint64_t first = map->l_addr + headers[index].p_vaddr, last = first + headers[index].p_memsz;
    *start = first < *start ? first : *start;
    *end = last > *end ? last : *end;
  }
  return *start < *end;
}

uint32_t allocs_protection(const struct link_map *map, uint64_t address) {
  uint32_t count = 0, flags = 0, protection = 0;
  const ElfW(Phdr) *headers = program_headers(map, &count);
  for (uint32_t index = 0; headers && index < count; index++) {
    uint64_t start = map->l_addr + headers[index].p_vaddr, end = start + headers[index].p_memsz;
    if (headers[index].p_type == PT_LOAD && address >= start && address < end) flags |= headers[index].p_flags;
    // The dynamic linker protects whole pages.
    if (headers[index].p_type == PT_GNU_RELRO && address >= start && address < (end & -(uint64_t)ALLOCS_PAGE_SIZE))
      protection = PROT_READ;
  }
  if (protection) return protection;
  return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) | (flags & PF_X ? PROT_EXEC : 0);
}

// MARK: stubs

// One record and one stub for each row of allocs_hooked_functions.h.
#define RECORD(name, ...) __attribute__((used)) ALLOCS_HIDDEN struct allocs_hooked allocs_passing_##name;
ALLOCS_HOOKED_FUNCTIONS(RECORD)
#define RECORD_OF(name, ...) &allocs_passing_##name,
static struct allocs_hooked *const records[] = {ALLOCS_HOOKED_FUNCTIONS(RECORD_OF)};
struct allocs_hooked *allocs_passing_record(uint32_t index) { return records[index]; }

#if defined(__x86_64__)
#define STUB(name, ...)                                                                                    \
  __attribute__((naked)) static void passing_##name(void) {                                                \
    __asm__("leaq allocs_passing_" #name "(%rip), %r11\n" ALLOCS_ENTRY_HOOKED(allocs_hook_passing));       \
  }
ALLOCS_HOOKED_FUNCTIONS(STUB)
#define STUB_OF(name, ...) passing_##name,
static void (*const stubs[])(void) = {ALLOCS_HOOKED_FUNCTIONS(STUB_OF)};
void *allocs_passing_stub(uint32_t index) {
  return index < sizeof stubs / sizeof *stubs ? (void *)stubs[index] : NULL;
}
#else
void *allocs_passing_stub(uint32_t index) { return (void)index, NULL; }
#endif

// MARK: before any constructor

// The dynamic linker calls a resolver when it relocates the agent. All libraries are mapped and
// relocated by then; the executable is not relocated yet, and no code of either has run. A module
// that asks for libc's malloc from then on gets the agent's.
//
// Other dynamic linkers know no resolvers, and musl's would refuse the agent for a relocation that
// names one. So this resolver is named by a symbol, under a name that glibc and its programs do not
// have: musl's dynamic linker passes over a symbol of that type, and finds musl's own function of
// the name.
extern struct r_debug _r_debug __attribute__((weak));
static void nothing(void) {}
typedef void (*function)(void);
__attribute__((used)) static function resolve_early(void) {
  // A linker might arrange the relocations so that the agent's own words come later. Then the
  // constructor does it all.
  const struct r_debug *debug = &_r_debug;
  __asm__("" : "+r"(debug));
  if (debug) allocs_bind_early();
  return nothing;
}
__attribute__((used)) ALLOCS_EXPORT void __freadptr(void) __attribute__((ifunc("resolve_early")));
// Without a reference the linker would leave the function out. This reference has it relocated
// behind everything else: without a PLT, the address would be among the words that are relocated
// before.
#if defined(__x86_64__)
__attribute__((naked)) void allocs_refer_to_early(void) { __asm__("jmp __freadptr@PLT"); }
#else
__attribute__((naked)) void allocs_refer_to_early(void) { __asm__("b __freadptr"); }
#endif
