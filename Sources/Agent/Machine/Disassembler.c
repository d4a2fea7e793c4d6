// See allocs_disassembler.h.
#define _GNU_SOURCE
#include "allocs_disassembler.h"

#if defined(__x86_64__)
#include <Zydis/Zydis.h>

static void *library;
static __typeof__(&ZydisDecoderDecodeInstruction) decode;
static ZydisDecoder decoder;

bool allocs_disassembler_open(void) {
  library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);
  if (!library) return false;
  decode = (__typeof__(decode))dlsym(library, "ZydisDecoderDecodeInstruction");
  __typeof__(&ZydisDecoderInit) init = (__typeof__(init))dlsym(library, "ZydisDecoderInit");
  if (decode && init && ZYAN_SUCCESS(init(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64))) return true;
  allocs_disassembler_close();
  return false;
}

void allocs_disassembler_close(void) {
  if (library) allocs_terminal()->dlclose(library);
  library = NULL;
}

bool allocs_decode(uint64_t address, uint64_t size, struct allocs_instruction *result) {
  ZydisDecodedInstruction instruction;
  if (!ZYAN_SUCCESS(decode(&decoder, NULL, (const void *)(uintptr_t)address, size, &instruction))) return false;
  *result = (struct allocs_instruction){.length = instruction.length, .opcode = instruction.opcode};
  result->is_call = instruction.meta.category == ZYDIS_CATEGORY_CALL;
  bool is_jump = instruction.meta.category == ZYDIS_CATEGORY_UNCOND_BR;
  bool is_relative = instruction.attributes & ZYDIS_ATTRIB_IS_RELATIVE;
  result->ends_flow = is_jump || instruction.meta.category == ZYDIS_CATEGORY_RET || instruction.mnemonic == ZYDIS_MNEMONIC_UD2;
  // A jump by a register may be a switch's.
  result->is_foreign = !instruction.raw.imm[0].is_relative && (result->is_call || (is_jump && is_relative));
  result->is_padding = instruction.mnemonic == ZYDIS_MNEMONIC_NOP || instruction.mnemonic == ZYDIS_MNEMONIC_INT3;
  if (!is_relative) return true;
  int64_t displacement;
  if (instruction.raw.imm[0].is_relative) {
    result->is_branch = true;
    result->relative_at = instruction.raw.imm[0].offset;
    result->relative_size = instruction.raw.imm[0].size / 8;
    displacement = instruction.raw.imm[0].value.s;
  } else {
    result->relative_at = instruction.raw.disp.offset;
    result->relative_size = instruction.raw.disp.size / 8;
    displacement = instruction.raw.disp.value;
  }
  result->target = address + instruction.length + (uint64_t)displacement;
  return result->relative_at != 0 && (result->relative_size == 4 || (result->relative_size == 1 && result->is_branch));
}
#else
bool allocs_disassembler_open(void) { return false; }
void allocs_disassembler_close(void) {}
bool allocs_decode(uint64_t address, uint64_t size, struct allocs_instruction *result) {
  (void)address, (void)size, (void)result;
  return false;
}
#endif
