// SPDX-License-Identifier: Apache-2.0
// The entries of an executable that the kit is linked into (liballocs_inexe.a): the names of the
// malloc family.
//
// The executable's own calls get here by `ld --wrap`, which turns each reference to `malloc` into
// one to `__wrap_malloc`. The calls of libraries get here by the dynamic symbol `malloc`, which is
// the same code. If something else in the executable defines `malloc`, that allocator is hidden
// from libraries: the references to it here are hidden, and of the visibilities of one symbol the
// most constraining wins. So every call passes here once, and the function below is a symbol:
// `__real_malloc`.
//
// Each function is a jump through a table whose words at first lead to allocs_decide: from then on
// they lead to the hooks if the process is to be indexed, else to the functions below. A call of
// libc's malloc is a jump through a pointer, too.
//
// With a version in its name the dynamic symbol does not clash with an allocator's `malloc` at the
// link. ld.bfd gives the symbol that version; ld.lld gives it none.
#if !defined(__x86_64__)
#error "the kit's entries are written for x86-64 only"
#endif
#include "allocs_hooked_functions.h"

// The function below is hidden under two names: ld.bfd knows it by the first, ld.lld by the second.
.macro entry name
	.globl __wrap_\name
	.hidden __wrap_\name, __real_\name, \name
	.reloc 0, R_X86_64_NONE, \name
	.type __wrap_\name, @function
	.cfi_startproc
__wrap_\name:
	endbr64
	jmp *.Lentry_\name(%rip)
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
	jmp *.Lentry_\name(%rip)
	.cfi_endproc
	.size first_\name, .-first_\name
	.pushsection .data
.Lentry_\name:
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
// An allocator that is linked in must define the ESSENTIAL functions, and may define the others.
// libc gives RECENT functions no version that all programs know.
#define OPTIONAL_ESSENTIAL(name)
#define OPTIONAL_OPTIONAL(name) optional name;
#define OPTIONAL_RECENT(name) optional name;
#define EXPORT_ESSENTIAL(name, version) export name, version;
#define EXPORT_OPTIONAL(name, version) export name, version;
#define EXPORT_RECENT(name, version)
#define OPTIONAL(name, kit, ...) OPTIONAL_##kit(name)
#define ENTRY(name, ...) entry name;
#define EXPORT(name, kit, version, ...) EXPORT_##kit(name, version)
ALLOCS_HOOKED_FUNCTIONS(OPTIONAL) ALLOCS_PASSED_FUNCTIONS(OPTIONAL) ALLOCS_OLD_NAMES(OPTIONAL)
ALLOCS_HOOKED_FUNCTIONS(ENTRY) ALLOCS_PASSED_FUNCTIONS(ENTRY) ALLOCS_OLD_NAMES(ENTRY)
ALLOCS_HOOKED_FUNCTIONS(EXPORT) ALLOCS_PASSED_FUNCTIONS(EXPORT) ALLOCS_OLD_NAMES(EXPORT)

// A symbol and a note say that the executable has the kit: the symbol to an agent that is
// preloaded, the note to `allocsctl run`.
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
