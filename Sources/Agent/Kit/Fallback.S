// SPDX-License-Identifier: Apache-2.0
// The malloc (free, calloc, realloc: NAME) of an executable without an allocator of its own: the
// next definition in the order in which the dynamic linker searches, as Terminal has found it.
// OFFSET is where struct allocs_terminal keeps that definition's address.
//
// Each of the four functions is an archive member, linked in only if nothing before it defines the
// name. The names are weak, for in a static link libc's own definition comes behind this one; that
// definition is linked in by its other name.
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

	.text
	.weak NAME
	.globl JOIN(allocs_next_, NAME)
	.hidden JOIN(allocs_next_, NAME)
	.type NAME, @function
	.type JOIN(allocs_next_, NAME), @function
NAME:
JOIN(allocs_next_, NAME):
	.cfi_startproc
	jmp *allocs_process_state+OFFSET(%rip)
	.cfi_endproc
	.size NAME, .-NAME
	.size JOIN(allocs_next_, NAME), .-JOIN(allocs_next_, NAME)
	.hidden allocs_process_state

	.section .data.rel.ro, "aw", @progbits
	.p2align 3
	.globl JOIN(allocs_libc_, NAME)
	.hidden JOIN(allocs_libc_, NAME)
JOIN(allocs_libc_, NAME):
	.quad JOIN(__libc_, NAME)

	.section .note.GNU-stack, "", @progbits
