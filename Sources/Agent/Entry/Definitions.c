// User, for callers that reach a definition of the malloc family other than the agent's: see Definitions.swift.
#include "allocs_definition.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

struct allocs_definitions allocs_definitions_state;

// MARK: protection

// Of the executable the kernel says where its headers are. Of a library linked to begin at address 0, as all are that
// were not prelinked, its file begins at its bias.
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

enum { PASSING_COUNT = 12 };  // functions of the malloc family that the agent exports: see entry_points in User.c
__attribute__((used)) ALLOCS_HIDDEN struct allocs_hooked allocs_passing_records[PASSING_COUNT];
struct allocs_hooked *allocs_passing_record(uint32_t index) { return &allocs_passing_records[index]; }

#if defined(__x86_64__)
_Static_assert(sizeof(struct allocs_hooked) == 48, "the stubs' distance between records");
#define PASSING(index)                                                                     \
  __attribute__((naked)) static void passing_##index(void) {                               \
    __asm__("leaq allocs_passing_records+48*" #index "(%rip), %r11\n" ALLOCS_ENTRY_HOOKED( \
        allocs_hook_passing));                                                             \
  }
PASSING(0) PASSING(1) PASSING(2) PASSING(3) PASSING(4) PASSING(5)
PASSING(6) PASSING(7) PASSING(8) PASSING(9) PASSING(10) PASSING(11)
static void (*const stubs[PASSING_COUNT])(void) = {
    passing_0, passing_1, passing_2, passing_3, passing_4,  passing_5,
    passing_6, passing_7, passing_8, passing_9, passing_10, passing_11,
};
void *allocs_passing_stub(uint32_t index) { return index < PASSING_COUNT ? (void *)stubs[index] : NULL; }
#else
void *allocs_passing_stub(uint32_t index) { return (void)index, NULL; }
#endif

// MARK: before any constructor

// The dynamic linker calls a resolver when it relocates the agent: when all libraries are mapped and relocated, before
// the executable is, and before any code of theirs runs. What asks for libc's malloc from then on, gets the agent's.
//
// Other dynamic linkers know no resolvers, and musl's would refuse the agent for a relocation of that kind. So this is
// one by a symbol, of a name that glibc and its programs do not have: musl's passes over a symbol of that type, and
// finds its own function of the name.
extern struct r_debug _r_debug __attribute__((weak));
static void nothing(void) {}
typedef void (*function)(void);
__attribute__((used)) static function resolve_early(void) {
  // Not if the agent's own words have not been relocated, as a linker might arrange it: the constructor does it, then.
  const struct r_debug *debug = &_r_debug;
  __asm__("" : "+r"(debug));
  if (debug) allocs_bind_early();
  return nothing;
}
__attribute__((used)) ALLOCS_EXPORT void __freadptr(void) __attribute__((ifunc("resolve_early")));
// Without a reference the linker would leave the function out. By this one it is relocated behind everything else: a
// compiler that goes without a PLT would have the address among the words of the table before.
#if defined(__x86_64__)
__attribute__((naked)) void allocs_refer_to_early(void) { __asm__("jmp __freadptr@PLT"); }
#else
__attribute__((naked)) void allocs_refer_to_early(void) { __asm__("b __freadptr"); }
#endif
