# SPDX-License-Identifier: Apache-2.0
"""A file above each bound of what a module's file may say. `kinds` has a maker for each; the unit tests of these bounds
are WorstInputTests.

All have code from 0x1000 to 0x2000, and where a variable is meant, one at 0x1100.
"""

import struct

import elves
from elves import PROGBITS, STRTAB, SYMTAB, abbreviations, leb, unit

# Of a unit's entry: the code that it has, as an address and a length, and their attributes.
CODE, RANGE = struct.pack("<QQ", 0x1000, 0x1000), [(0x11, 0x01), (0x12, 0x07)]
PLACE = bytes([9, 3]) + struct.pack("<Q", 0x1100)
VARIABLE = [(0x02, 0x18), (0x49, 0x13)]  # its place and its type


def file(units, table, *sections):
    made = elves.File().add(".data", PROGBITS, bytes(0x1000), address=0x1000, flags=3)
    made.add(".debug_info", PROGBITS, units).add(".debug_abbrev", PROGBITS, table)
    for name, data in sections:
        made.add(name, PROGBITS, data)
    return made.bytes()


def units():
    """More units than any program has."""
    return file(unit(b"\x01" + CODE) + unit(b"\x02") * (1 << 20), abbreviations((1, 0x11, 0, RANGE), (2, 0x11, 0, [])))


def tables():
    """Tables of abbreviations that lie one over the other."""
    entries = b"".join(leb(code) + b"\x11\0\0\0" for code in range(1, 20_001)) + b"\0"
    each = struct.pack("<I", 8) + struct.pack("<HIB", 4, 0, 8) + b"\x01"
    return file(b"".join(each[:6] + struct.pack("<I", 5 * turn) + each[10:] for turn in range(2000)), entries)


def forms():
    """Forms that name the next form, millions of them."""
    table = abbreviations((1, 0x11, 0, [(0x3F, 0x16), (0x03, 0x08)]))
    return file(unit(b"\x01" + b"\x16" * (8 << 20) + b"\x0b\0\0"), table)


def nesting():
    """Entries in entries, each of which has the next one for its type."""
    table = abbreviations((1, 0x11, 1, RANGE), (2, 0x0B, 1, [(0x49, 0x13)]), (3, 0x34, 0, VARIABLE))
    first = elves.UNIT_HEADER + 1 + len(CODE)
    nested = b"".join(b"\x02" + struct.pack("<I", first + 5 * (depth + 1)) for depth in range(1_000_000))
    return file(unit(b"\x01" + CODE + nested + b"\x03" + PLACE + struct.pack("<I", first)), table)


def lines(version=4):
    """More rows than any table of lines has, of more names than are made."""
    head = bytes([1, 1, 1, 0xFB, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + b"\0" + b"f\0\0\0\0" * 40_000 + b"\0"
    program = b"\0\x09\x02" + struct.pack("<Q", 0x1000) + b"\x20" * (5 << 20) + b"\0\x01\x01"
    body = struct.pack("<HI", version, len(head)) + head + program
    table = abbreviations((1, 0x11, 0, [*RANGE, (0x10, 0x17), (0x1B, 0x08)]))
    entry = b"\x01" + CODE + struct.pack("<I", 0) + b"d" * 4000 + b"\0"
    return file(unit(entry), table, (".debug_line", struct.pack("<I", len(body)) + body))


def variables():
    """More variables than are kept, each with 4 KB of scope before its name."""
    named = [(0x03, 0x08)]
    table = abbreviations((1, 0x11, 1, RANGE), (2, 0x39, 1, named), (3, 0x34, 0, [*named, (0x02, 0x18)]))
    entries = b"\x01" + CODE + b"\x02" + b"n" * 4000 + b"\0" + (b"\x03more\0" + PLACE) * 40_000 + b"\0\0"
    return file(unit(entries), table)


def unfolding():
    """Symbols whose names unfold to megabytes, or without end."""
    names = []
    for turn in range(256):
        type = "SDyS2iG"
        for step in range(6 + turn % 18):
            type = f"SDy{type}A{chr(ord('C') + step)}G"
        names.append(f"$s1m{len(str(turn)) + 1}v{turn}{type}vp".encode())
    return symbols(names)


def long_names():
    """Symbols whose names are as long as names may be, and fit a pattern nearly."""
    return symbols([b"a" * (4000 + turn % 64) for turn in range(256)])


def symbols(names):
    texts, table = b"\0", bytes(24)
    for turn, name in enumerate(names):
        table += struct.pack("<IBBHQQ", len(texts), 0x12, 0, 2, 0x1000 + 16 * turn, 16)
        texts += name + b"\0"
    made = elves.File().add(".text", PROGBITS, bytes(0x1000), address=0x1000, flags=6)
    return made.add(".symtab", SYMTAB, table, link=4, entry_size=24, info=1).add(".strtab", STRTAB, texts).bytes()


kinds = {
    "units": units, "tables of abbreviations": tables, "forms": forms, "nesting": nesting, "lines": lines,
    "variables": variables, "names that unfold": unfolding,
}  # fmt: skip
