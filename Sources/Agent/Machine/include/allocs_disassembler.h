// One instruction of x86-64, as far as moving it to another place needs: its length, and where in it lies what is
// relative to the place.
//
// The decoder is the agent's own, and reads nothing but the bytes it is given: it may run inside the dynamic linker.
// What it does not know, it refuses; a function with such an instruction is left alone.

#ifndef ALLOCS_DISASSEMBLER_H
#define ALLOCS_DISASSEMBLER_H

#include <stdbool.h>
#include <stdint.h>

struct allocs_instruction {
  uint8_t length;          // bytes
  uint8_t opcode;          // its last byte, without prefixes
  uint8_t relative_at;     // where a displacement from the next instruction lies; 0: nothing is relative
  uint8_t relative_size;   // bytes: 1 or 4
  bool is_branch;          // the displacement is a branch's, not an operand's
  bool is_call;
  bool ends_flow;          // an unconditional jump, or a return
  bool is_foreign;         // calls or jumps through a pointer, as to a function of another module
  bool is_padding;         // nop or int3
  uint64_t target;         // what the displacement leads to
};

// Decodes the instruction at `address`, of which at most `size` bytes may be read. False if it is none, or is relative
// in a way not told here. On other machines than x86-64 always false.
extern __attribute__((visibility("hidden"))) bool allocs_decode(uint64_t address, uint64_t size, struct allocs_instruction *_Nonnull result);

#endif
