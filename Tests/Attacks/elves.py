# SPDX-License-Identifier: Apache-2.0
"""ELF files for x86-64 that are as small, as large or as wrong as an attacker wants them."""

import functools
import struct
import subprocess
import zlib

PROGBITS, SYMTAB, STRTAB, NOTE = 1, 2, 3, 7
# All files here have this build id: a segment that names it proves that a file is the module's.
BUILD_ID = bytes(range(1, 21))


def compile(source, path, *options):
    """A shared object of C."""
    words = ["gcc", "-shared", "-fPIC", f"-Wl,--build-id=0x{BUILD_ID.hex()}", *options, "-xc", "-", "-o", path]
    subprocess.run(words, input=source.encode(), check=True)


class File:
    """A shared object of one segment. Sections are added in their order, from number 2; `link` and `entry_size` are
    theirs."""

    def __init__(self, span=0x2000):
        self.span, self.sections = span, []
        note = struct.pack("<III4s", 4, len(BUILD_ID), 3, b"GNU\0") + BUILD_ID
        self.add(".note.gnu.build-id", NOTE, note, address=0x200, flags=2)

    def add(self, name, kind, data, address=0, flags=0, link=0, entry_size=0, info=0):
        self.sections.append((name, kind, data, address, flags, link, entry_size, info))
        return self

    def compressed(self, name, size):
        """A section of `size` zeros, packed: a bomb."""
        return self.add(
            name, PROGBITS, struct.pack("<IIQQ", 1, 0, size, 1) + packed_zeros(size), flags=0x800)  # SHF_COMPRESSED

    def bytes(self):
        names, places = b"\0", []
        for section in self.sections + [(".shstrtab",)]:
            places.append(len(names))
            names += section[0].encode() + b"\0"
        self.offsets = []
        body, headers = bytearray(64 + 2 * 56), [bytes(64)]
        for place, section in zip(places, self.sections + [(".shstrtab", STRTAB, names, 0, 0, 0, 0, 0)]):
            _, kind, data, address, flags, link, entry_size, info = section
            body += bytes(-len(body) % 16)
            headers.append(struct.pack("<IIQQQQIIQQ", place, kind, flags, address, len(body), len(data), link, info,
                                       1, entry_size))  # fmt: skip
            self.offsets.append(len(body))
            body += data
        body += bytes(-len(body) % 16)
        self.table = len(body)
        body += b"".join(headers)
        magic = b"\x7fELF\x02\x01\x01"
        struct.pack_into("<16sHHIQQQIHHHHHH", body, 0, magic, 3, 62, 1, 0, 64, self.table, 0, 64, 56, 2, 64,
                         len(headers), len(headers) - 1)  # fmt: skip
        struct.pack_into("<IIQQQQQQ", body, 64, 1, 5, 0, 0, 0, self.span, self.span, 0x1000)
        note = self.offsets[0]
        struct.pack_into("<IIQQQQQQ", body, 120, 4, 4, note, 0x200, 0x200, 36, 36, 4)
        return bytes(body)


@functools.cache
def packed_zeros(size):
    packer, piece, parts = zlib.compressobj(9), bytes(1 << 24), []
    for start in range(0, size, len(piece)):
        parts.append(packer.compress(piece[: size - start]))
    return b"".join(parts) + packer.flush()


def leb(number):
    """An unsigned LEB128 number."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def abbreviations(*entries):
    """Of (code, tag, whether it has children, [(attribute, form), …])."""
    out = b""
    for code, tag, children, attributes in entries:
        out += leb(code) + leb(tag) + bytes([children])
        out += b"".join(leb(name) + leb(form) for name, form in attributes) + b"\0\0"
    return out + b"\0"


UNIT_HEADER = 11  # bytes before the first entry of a DWARF 4 unit


def unit(entries):
    body = struct.pack("<HIB", 4, 0, 8) + entries
    return struct.pack("<I", len(body)) + body


def with_debug_information(entries, table):
    return (
        File()
        .add(".data", PROGBITS, bytes(0x1000), address=0x1000, flags=3)
        .add(".debug_info", PROGBITS, unit(entries))
        .add(".debug_abbrev", PROGBITS, table)
    )
