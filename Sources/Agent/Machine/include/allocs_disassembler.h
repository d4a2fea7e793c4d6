// SPDX-License-Identifier: Apache-2.0
// One instruction of x86-64, as far as moving it to another address needs: its length, and the part
// of it that is relative to its own address.
//
// The decoder is the agent's own, and reads nothing but the bytes it is given: it may run inside
// the dynamic linker. It refuses an instruction that it does not know; a function with such an
// instruction is left alone.

#ifndef ALLOCS_DISASSEMBLER_H
#define ALLOCS_DISASSEMBLER_H

#include <stdbool.h>
#include <stdint.h>

struct allocs_instruction {
  uint8_t length;          // bytes
  uint8_t opcode;          // the last byte of its opcode
  uint8_t relative_at;     // offset of a displacement from the next instruction; 0: there is none
  uint8_t relative_size;   // of the displacement, in bytes: 1 or 4
  bool is_branch;          // the displacement is a branch's, not an operand's
  bool is_call;
  bool ends_flow;          // an unconditional jump, or a return
  bool is_foreign;         // calls or jumps through a pointer, as to a function of another module
  bool is_padding;         // nop or int3
  uint64_t target;         // the address that the displacement means
};

// Decodes the instruction at `address`, of which at most `size` bytes may be read. False if there
// is none, or if it is relative in a way that the struct cannot tell. On other machines than x86-64
// always false.
extern __attribute__((visibility("hidden"))) bool allocs_decode(
    uint64_t address, uint64_t size, struct allocs_instruction *_Nonnull result);

#endif
