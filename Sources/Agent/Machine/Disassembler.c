// SPDX-License-Identifier: Apache-2.0
// The decoder of allocs_disassembler.h. Its tables are those of the Intel 64 manual, volume 2,
// appendix A, for 64-bit mode.
//
// Invariants:
// - No byte behind `size` is read, and none behind the 15th.
// - An instruction that is decoded has the length that the processor gives it. An instruction is
//   refused where processors differ (a branch with an operand-size prefix), and where the tables
//   have no entry.
#include "allocs_disassembler.h"

#if defined(__x86_64__)
#include <stddef.h>

enum { LONGEST = 15 };

// The shape of an instruction: the bytes that follow its opcode.
enum {
  BAD = 0,
  NONE = 1,       // nothing
  MODRM = 2,      // an operand byte, and the bytes that it asks for
  BYTE = 4,       // an immediate of one byte
  WORD = 8,       // an immediate of two bytes
  WIDE = 16,      // an immediate of four bytes, or of two with an operand-size prefix
  FULL = 32,      // an immediate of four bytes, of two with an operand-size prefix, or of eight with REX.W
  OFFSET = 64,    // an address of eight bytes, or of four with an address-size prefix
  BRANCH = 128    // the immediate is relative
};
enum { MB = MODRM | BYTE, MW = MODRM | WIDE, RB = BRANCH | BYTE, RW = BRANCH | WIDE };

// Opcodes of one byte. Prefixes and escapes are not looked up.
static const uint8_t one_byte[256] = {
    /* 00 */ MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD, MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD,
    /* 10 */ MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD, MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD,
    /* 20 */ MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD, MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD,
    /* 30 */ MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD, MODRM, MODRM, MODRM, MODRM, BYTE, WIDE, BAD, BAD,
    /* 40 */ BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
    /* 50 */ NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE,
    /* 60 */ BAD, BAD, BAD, MODRM, BAD, BAD, BAD, BAD, WIDE, MW, BYTE, MB, NONE, NONE, NONE, NONE,
    /* 70 */ RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB, RB,
    /* 80 */ MB, MW, BAD, MB, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 90 */ NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, BAD, NONE, NONE, NONE, NONE, NONE,
    /* A0 */ OFFSET, OFFSET, OFFSET, OFFSET, NONE, NONE, NONE, NONE, BYTE, WIDE, NONE, NONE, NONE, NONE, NONE, NONE,
    /* B0 */ BYTE, BYTE, BYTE, BYTE, BYTE, BYTE, BYTE, BYTE, FULL, FULL, FULL, FULL, FULL, FULL, FULL, FULL,
    /* C0 */ MB, MB, WORD, NONE, BAD, BAD, MB, MW, WORD | BYTE, NONE, WORD, NONE, NONE, BYTE, BAD, NONE,
    /* D0 */ MODRM, MODRM, MODRM, MODRM, BAD, BAD, BAD, NONE, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* E0 */ RB, RB, RB, RB, BYTE, BYTE, BYTE, BYTE, RW, RW, BAD, RB, NONE, NONE, NONE, NONE,
    /* F0 */ BAD, NONE, BAD, BAD, NONE, NONE, MODRM, MODRM, NONE, NONE, NONE, NONE, NONE, NONE, MODRM, MODRM,
};

// Opcodes behind 0F. The table leaves out 3DNow!'s (0F 0F), and opcodes that only processors of
// other makers know.
static const uint8_t two_bytes[256] = {
    /* 00 */ MODRM, MODRM, MODRM, MODRM, BAD, NONE, NONE, NONE, NONE, NONE, BAD, NONE, BAD, MODRM, BAD, BAD,
    /* 10 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 20 */ BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 30 */ NONE, NONE, NONE, NONE, NONE, NONE, BAD, NONE, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
    /* 40 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 50 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 60 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* 70 */ MB, MB, MB, MB, MODRM, MODRM, MODRM, NONE, BAD, BAD, BAD, BAD, MODRM, MODRM, MODRM, MODRM,
    /* 80 */ RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW, RW,
    /* 90 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* A0 */ NONE, NONE, NONE, MODRM, MB, MODRM, BAD, BAD, NONE, NONE, NONE, MODRM, MB, MODRM, MODRM, MODRM,
    /* B0 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MB, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* C0 */ MODRM, MODRM, MB, MODRM, MB, MB, MB, MODRM, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE,
    /* D0 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* E0 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
    /* F0 */ MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
             MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM, MODRM,
};

// Sets of opcodes, as first and last of each range. All opcodes of a set have one shape.
#define IS_IN(set, opcode) is_in(set, sizeof set / 2, opcode)
static bool is_in(const uint8_t (*ranges)[2], size_t count, uint8_t opcode) {
  for (size_t index = 0; index < count; index++)
    if (opcode >= ranges[index][0] && opcode <= ranges[index][1]) return true;
  return false;
}
// Behind 0F 38, an operand byte follows; behind 0F 3A, an operand byte and an immediate byte.
static const uint8_t legacy_38[][2] = {
    {0x00, 0x0B}, {0x10, 0x10}, {0x14, 0x15}, {0x17, 0x17}, {0x1C, 0x1E}, {0x20, 0x25}, {0x28, 0x2B},
    {0x30, 0x35}, {0x37, 0x41}, {0x80, 0x82}, {0xC8, 0xCD}, {0xCF, 0xCF}, {0xDB, 0xDF}, {0xF0, 0xF1},
    {0xF5, 0xF6}, {0xF8, 0xF9}};
static const uint8_t legacy_3a[][2] = {
    {0x08, 0x0F}, {0x14, 0x17}, {0x20, 0x22}, {0x40, 0x42}, {0x44, 0x44}, {0x60, 0x63}, {0xCC, 0xCC},
    {0xCE, 0xCF}, {0xDF, 0xDF}};
// Opcodes with a VEX prefix, of the maps 1 (0F), 2 (0F 38) and 3 (0F 3A).
static const uint8_t vex_1[][2] = {
    {0x10, 0x17}, {0x28, 0x2F}, {0x41, 0x42}, {0x44, 0x47}, {0x4A, 0x4B}, {0x50, 0x77}, {0x7C, 0x7F},
    {0x90, 0x93}, {0x98, 0x99}, {0xAE, 0xAE}, {0xC2, 0xC2}, {0xC4, 0xC6}, {0xD0, 0xFE}};
static const uint8_t vex_2[][2] = {
    {0x00, 0x0F}, {0x13, 0x13}, {0x16, 0x1A}, {0x1C, 0x1E}, {0x20, 0x2F}, {0x30, 0x41}, {0x45, 0x47},
    {0x50, 0x53}, {0x58, 0x5A}, {0x78, 0x79}, {0x8C, 0x8C}, {0x8E, 0x8E}, {0x90, 0x93}, {0x96, 0x9F},
    {0xA6, 0xAF}, {0xB4, 0xBF}, {0xCF, 0xCF}, {0xDB, 0xDF}, {0xF2, 0xF3}, {0xF5, 0xF7}};
static const uint8_t vex_3[][2] = {
    {0x00, 0x02}, {0x04, 0x06}, {0x08, 0x0F}, {0x14, 0x19}, {0x1D, 0x1D}, {0x20, 0x22}, {0x30, 0x33},
    {0x38, 0x39}, {0x40, 0x42}, {0x44, 0x44}, {0x46, 0x46}, {0x48, 0x4C}, {0x5C, 0x63}, {0x68, 0x6F},
    {0x78, 0x7F}, {0xCE, 0xCF}, {0xDF, 0xDF}, {0xF0, 0xF0}};
// Opcodes of map 1, with VEX or EVEX, that have an immediate byte.
static const uint8_t vector_bytes[][2] = {
    {0x70, 0x73}, {0xC2, 0xC2}, {0xC4, 0xC6}};

struct cursor {
  const uint8_t *code;
  unsigned at, limit;
  bool failed;
};
static uint8_t next(struct cursor *cursor) {
  if (cursor->at >= cursor->limit) {
    cursor->failed = true;
    return 0;
  }
  return cursor->code[cursor->at++];
}

// The shape of an instruction with a VEX or EVEX prefix, whose map is known.
static uint8_t vector_shape(unsigned map, uint8_t opcode, bool is_evex) {
  switch (map) {
    case 1:
      if (!is_evex && opcode == 0x77) return NONE;
      if (!is_evex && !IS_IN(vex_1, opcode)) return BAD;
      return IS_IN(vector_bytes, opcode) ? MB : MODRM;
    case 2: return is_evex || IS_IN(vex_2, opcode) ? MODRM : BAD;
    case 3: return is_evex || IS_IN(vex_3, opcode) ? MB : BAD;
    case 5: case 6: return is_evex ? MODRM : BAD;
    default: return BAD;
  }
}

// The shape of an instruction in a group: not all members of these groups are instructions, or only
// some have an immediate.
static uint8_t group_shape(bool is_two_bytes, uint8_t opcode, uint8_t modrm, uint8_t shape) {
  uint8_t member = modrm >> 3 & 7;
  bool is_memory = modrm < 0xC0;
  if (is_two_bytes) return opcode == 0xBA && member < 4 ? BAD : shape;
  switch (opcode) {
    case 0x8D: return is_memory ? shape : BAD;
    case 0x8F: return member == 0 ? shape : BAD;  // the other members begin an XOP prefix
    case 0xC6: return member == 0 ? shape : BAD;  // xabort: no byte of it tells where it jumps to
    case 0xC7: return member == 0 ? shape : modrm == 0xF8 ? MODRM | RW : BAD;  // xbegin
    case 0xF6: return member < 2 ? MB : shape;
    case 0xF7: return member < 2 ? MW : shape;
    case 0xFE: return member < 2 ? shape : BAD;
    case 0xFF: return member == 7 || (!is_memory && (member == 3 || member == 5)) ? BAD : shape;
    default: return shape;
  }
}

// A prefix that names a segment register.
static bool is_segment(uint8_t opcode) {
  return opcode == 0x26 || opcode == 0x2E || opcode == 0x36 || opcode == 0x3E || opcode == 0x64 || opcode == 0x65;
}

// The displacement in the bytes of an instruction.
static int64_t displacement_at(const uint8_t *bytes, uint8_t size) {
  if (size == 1) return (int8_t)bytes[0];
  return (int32_t)(
      (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
}

bool allocs_decode(uint64_t address, uint64_t size, struct allocs_instruction *result) {
  struct cursor cursor = {(const uint8_t *)(uintptr_t)address, 0, size < LONGEST ? (unsigned)size : LONGEST, false};
  bool has_operand_size = false, has_address_size = false, has_repeat = false, has_mandatory = false;
  uint8_t rex = 0, opcode;
  while (true) {
    opcode = next(&cursor);
    if (cursor.failed) return false;
    if (opcode == 0x66) has_operand_size = true;
    else if (opcode == 0x67) has_address_size = true;
    else if (opcode == 0xF2 || opcode == 0xF0) has_mandatory = true;
    else if (opcode == 0xF3) has_repeat = true;
    else if (!is_segment(opcode)) break;
  }
  if (opcode >> 4 == 4) {
    rex = opcode;
    opcode = next(&cursor);
  }
  uint8_t shape;
  bool is_legacy = false, is_two_bytes = false;
  if (opcode == 0xC4 || opcode == 0xC5 || opcode == 0x62) {
    // With VEX or EVEX, the prefixes that choose an operation are not allowed.
    if (rex || has_operand_size || has_mandatory || has_repeat) return false;
    uint8_t first = next(&cursor);
    unsigned map = opcode == 0xC5 ? 1 : opcode == 0xC4 ? first & 31 : first & 7;
    bool is_evex = opcode == 0x62;
    if (is_evex && first & 8) return false;
    if (opcode != 0xC5) {
      uint8_t second = next(&cursor);
      if (is_evex && !(second & 4)) return false;
    }
    if (is_evex) next(&cursor);
    opcode = next(&cursor);
    shape = vector_shape(map, opcode, is_evex);
  } else if (opcode == 0x0F) {
    opcode = next(&cursor);
    if (opcode == 0x38) {
      opcode = next(&cursor);
      shape = IS_IN(legacy_38, opcode) ? MODRM : BAD;
    } else if (opcode == 0x3A) {
      opcode = next(&cursor);
      shape = IS_IN(legacy_3a, opcode) ? MB : BAD;
    } else {
      shape = two_bytes[opcode];
      is_two_bytes = true;
    }
  } else {
    shape = one_byte[opcode];
    is_legacy = true;
  }
  if (cursor.failed || shape == BAD) return false;

  *result = (struct allocs_instruction){.opcode = opcode};
  uint8_t modrm = 0;
  if (shape & MODRM) {
    modrm = next(&cursor);
    if (is_legacy || is_two_bytes) shape = group_shape(is_two_bytes, opcode, modrm, shape);
    if (cursor.failed || shape == BAD) return false;
    unsigned mode = modrm >> 6, base = modrm & 7, displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0;
    if (mode != 3 && base == 4) {
      if ((next(&cursor) & 7) == 5 && mode == 0) displacement = 4;
    } else if (mode == 0 && base == 5) {
      // Relative to the instruction pointer; with an address-size prefix, to its lower four bytes.
      if (has_address_size) return false;
      displacement = 4;
      result->relative_at = (uint8_t)cursor.at;
      result->relative_size = 4;
    }
    cursor.at += displacement;
  }
  if (shape & BRANCH) {
    if (has_operand_size && !(rex & 8)) return false;
    result->relative_at = (uint8_t)cursor.at;
    result->relative_size = shape & BYTE ? 1 : 4;
    result->is_branch = true;
    cursor.at += result->relative_size;
  } else {
    if (shape & WORD) cursor.at += 2;
    if (shape & BYTE) cursor.at += 1;
    if (shape & WIDE) cursor.at += has_operand_size && !(rex & 8) ? 2 : 4;
    if (shape & FULL) cursor.at += rex & 8 ? 8 : has_operand_size ? 2 : 4;
    if (shape & OFFSET) cursor.at += has_address_size ? 4 : 8;
  }
  if (cursor.failed || cursor.at > cursor.limit) return false;
  result->length = (uint8_t)cursor.at;

  bool is_jump = false;
  if (is_legacy) {
    unsigned member = modrm >> 3 & 7;
    result->is_call = opcode == 0xE8 || (opcode == 0xFF && (member == 2 || member == 3));
    is_jump = opcode == 0xE9 || opcode == 0xEB || (opcode == 0xFF && (member == 4 || member == 5));
    result->ends_flow =
        is_jump || opcode == 0xC2 || opcode == 0xC3 || opcode == 0xCA || opcode == 0xCB || opcode == 0xCF;
    result->is_padding = opcode == 0xCC || (opcode == 0x90 && !has_repeat && !(rex & 1));
  } else if (is_two_bytes) {
    result->ends_flow = opcode == 0x0B;  // ud2
    result->is_padding = opcode == 0x1F;
  }
  // A jump through a register may belong to a switch statement.
  result->is_foreign = !result->is_branch && (result->is_call || (is_jump && result->relative_at != 0));
  if (result->relative_at) {
    int64_t displacement = displacement_at(cursor.code + result->relative_at, result->relative_size);
    result->target = address + result->length + (uint64_t)displacement;
  }
  return true;
}
#else
bool allocs_decode(uint64_t address, uint64_t size, struct allocs_instruction *result) {
  (void)address, (void)size, (void)result;
  return false;
}
#endif
