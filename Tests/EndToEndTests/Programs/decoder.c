// Compares the agent's decoder with Zydis on the code of files, instruction by instruction as they stand behind each other.
//
//   decoder FILE…
//
// Prints for each file how many instructions both know and agree on, how many only Zydis knows, and how many they differ on.
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

#include "../../../Sources/Agent/Machine/Disassembler.c"

static bool is_relative(const ZydisDecodedInstruction *known) { return known->attributes & ZYDIS_ATTRIB_IS_RELATIVE; }

// Whether all that the agent asks of an instruction is the same.
static bool agree(const ZydisDecodedInstruction *known, const struct allocs_instruction *own, uint64_t address) {
  bool is_branch = known->raw.imm[0].is_relative;
  bool is_call = known->meta.category == ZYDIS_CATEGORY_CALL, is_jump = known->meta.category == ZYDIS_CATEGORY_UNCOND_BR;
  bool ends = is_jump || known->meta.category == ZYDIS_CATEGORY_RET || known->mnemonic == ZYDIS_MNEMONIC_UD2;
  if (own->length != known->length || own->opcode != known->opcode || own->is_call != is_call || own->ends_flow != ends) return false;
  if (own->is_foreign != (!is_branch && (is_call || (is_jump && is_relative(known))))) return false;
  if (own->is_padding && known->mnemonic != ZYDIS_MNEMONIC_NOP && known->mnemonic != ZYDIS_MNEMONIC_INT3) return false;
  if (own->is_branch != is_branch || (own->relative_at != 0) != is_relative(known)) return false;
  if (!is_relative(known)) return true;
  int64_t displacement = is_branch ? known->raw.imm[0].value.s : known->raw.disp.value;
  uint64_t at = is_branch ? known->raw.imm[0].offset : known->raw.disp.offset;
  uint64_t size = (is_branch ? known->raw.imm[0].size : known->raw.disp.size) / 8;
  return own->relative_at == at && own->relative_size == size && own->target == address + known->length + (uint64_t)displacement;
}

static int compare(const char *path) {
  int file = open(path, O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) return 1;
  const uint8_t *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (bytes == MAP_FAILED) return 1;
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)bytes;
  const Elf64_Shdr *sections = (const Elf64_Shdr *)(bytes + header->e_shoff);
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  unsigned long agreed = 0, refused = 0, differed = 0;
  for (int number = 0; number < header->e_shnum; number++) {
    if (sections[number].sh_type != SHT_PROGBITS || !(sections[number].sh_flags & SHF_EXECINSTR)) continue;
    const uint8_t *code = bytes + sections[number].sh_offset;
    for (uint64_t at = 0; at < sections[number].sh_size;) {
      uint64_t left = sections[number].sh_size - at, address = (uint64_t)(uintptr_t)(code + at);
      ZydisDecodedInstruction known;
      struct allocs_instruction own;
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, left, &known))) {
        at++;
        continue;
      }
      if (!allocs_decode(address, left, &own)) {
        if (refused++ < 5) fprintf(stderr, "%s: %llx: refused: %s\n", path, (unsigned long long)(sections[number].sh_addr + at), ZydisMnemonicGetString(known.mnemonic));
      } else if (agree(&known, &own, address)) {
        agreed++;
        // Cut short by a byte it is none: nothing behind the end is read.
        struct allocs_instruction cut;
        if (allocs_decode(address, known.length - 1u, &cut)) differed++;
      } else if (differed++ < 20) {
        fprintf(stderr, "%s: %llx: differs: %s, length %u, not %u\n", path, (unsigned long long)(sections[number].sh_addr + at), ZydisMnemonicGetString(known.mnemonic), own.length, known.length);
      }
      at += known.length;
    }
  }
  printf("%lu %lu %lu %s\n", agreed, refused, differed, path);
  return 0;
}

int main(int argc, char **argv) {
  for (int index = 1; index < argc; index++)
    if (compare(argv[index]) != 0) return 1;
  return 0;
}
