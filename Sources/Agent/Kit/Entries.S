// User, for an executable that the kit is linked into (liballocs_inexe.a): the names of the malloc family.
//
// The executable's own calls come by `ld --wrap`, which makes each reference to `malloc` one to `__wrap_malloc`; those
// of libraries by the dynamic symbol `malloc`, which is the same code. Whoever else in the executable defines `malloc`,
// its allocator, is kept from libraries: the references to it here are hidden, and of the visibilities of one symbol
// the most constraining wins. So every call comes through here once, and what is below is a symbol: `__real_malloc`.
//
// Each function is a jump through a table that at first leads to allocs_decide: from then on to the hooks if the
// process is to be indexed, else past them. A call to libc's malloc is a jump through a pointer, too.
//
// With a version in its name the dynamic symbol does not clash with an allocator's `malloc` at the link. ld.bfd gives
// it that version; ld.lld gives it none.
#if !defined(__x86_64__)
#error "the kit's entries are written for x86-64 only"
#endif
#include "names.h"

// `.hidden` by two names: ld.bfd takes the first for the one below, ld.lld the second.
.macro entry name, number
	.globl __wrap_\name
	.hidden __wrap_\name, __real_\name, \name
	.reloc 0, R_X86_64_NONE, \name
	.type __wrap_\name, @function
	.cfi_startproc
__wrap_\name:
	endbr64
	jmp *allocs_entries+8*\number(%rip)
	.cfi_endproc
	.size __wrap_\name, .-__wrap_\name
	.type first_\name, @function
	.cfi_startproc
first_\name:
	pushq %rdi
	.cfi_adjust_cfa_offset 8
	pushq %rsi
	.cfi_adjust_cfa_offset 8
	pushq %rdx
	.cfi_adjust_cfa_offset 8
	callq allocs_decide
	popq %rdx
	.cfi_adjust_cfa_offset -8
	popq %rsi
	.cfi_adjust_cfa_offset -8
	popq %rdi
	.cfi_adjust_cfa_offset -8
	jmp *allocs_entries+8*\number(%rip)
	.cfi_endproc
	.size first_\name, .-first_\name
	.pushsection .data
	.quad first_\name
	.section .data.rel.ro, "aw", @progbits
	.quad __real_\name
	.popsection
.endm

.macro export name, version
	.globl allocs_export_\name
	.type allocs_export_\name, @function
	.set allocs_export_\name, __wrap_\name
	.symver allocs_export_\name, \name@\version, remove
.endm

.macro optional name
	.weak __real_\name, \name
.endm

	.data
	.p2align 3
	.globl allocs_entries
	.hidden allocs_entries
allocs_entries:
	.section .data.rel.ro, "aw", @progbits
	.p2align 3
	.globl allocs_linked
	.hidden allocs_linked
allocs_linked:

	.text
	.p2align 4
#define ENTRY(name, number, version) entry name, number;
#define EXPORT(name, number, version) export name, version;
#define OPTIONAL(name, number, version) optional name;
ALLOCS_KIT_OPTIONAL(OPTIONAL)
ALLOCS_KIT_RECENT(OPTIONAL)
ALLOCS_KIT_ESSENTIAL(ENTRY)
ALLOCS_KIT_OPTIONAL(ENTRY)
ALLOCS_KIT_RECENT(ENTRY)
ALLOCS_KIT_ESSENTIAL(EXPORT)
ALLOCS_KIT_OPTIONAL(EXPORT)

// What says that the executable has the kit: to an agent that is preloaded, and to `allocsctl run` (the note).
	.globl allocs_inexe
	.type allocs_inexe, @object
	.section .note.allocs, "a", @note
	.p2align 2
allocs_inexe:
	.long 7, 4, 1
	.asciz "allocs"
	.p2align 2
	.long 1
	.size allocs_inexe, .-allocs_inexe

	.section .note.GNU-stack, "", @progbits
