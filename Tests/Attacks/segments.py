# SPDX-License-Identifier: Apache-2.0
"""Segments and control files that say whatever an attacker wants them to.

The numbers of the layout come from the headers (layout.c), so a new layout needs no change here. Nothing is checked:
to write a number that no agent writes is what this module is for.
"""

import os
import struct
import time

numbers, sections = {}, {}


def load(text):
    """Takes what layout.c prints."""
    for line in text.splitlines():
        words = line.split()
        if words[0] == "section":
            sections[words[1]] = tuple(map(int, words[2:]))
        else:
            numbers[words[0]] = int(words[1])


def pages(count):
    return -(-count // numbers["page"]) * numbers["page"]


class Segment:
    """One file, written by offset. `capacities`: entries by section; those of WHOLE sections are the list's own."""

    few = {
        "MODULES": 64, "STRINGS": 1 << 20, "THREADS": 64, "FORMER_THREADS": 64, "NODES": 1 << 17, "CONTEXTS": 4096,
        "ALLOCATORS": 4, "ARENAS": 4,
    }  # fmt: skip

    def __init__(self, path, pid, start, capacities={}, ring_records=512, file_size=None, command=b"hostile\0",
                 clocks=None, uid=None):  # fmt: skip
        self.path, self.places, self.entries, self.strings_used = path, {}, {}, 0
        self.ring_size = numbers["ring_records_offset"] + 32 * ring_records
        wanted = {**self.few, **capacities}
        table, end = {}, numbers["page"]
        for name, (number, entry, most, presence) in sections.items():
            capacity = most if presence == 1 else wanted.get(name, 0)
            if capacity == 0 and presence == 2:
                continue
            entry = entry or self.ring_size
            table[number] = (end, entry, capacity, capacity if presence == 1 else 0)
            self.places[name], self.entries[name] = end, entry
            end = pages(end + entry * capacity)
        self.file_size = file_size or end
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.descriptor, self.file_size)
        # The magic last, as the agent does it: whoever watches the directory sees a whole header or none.
        self.set("layout_version", "<I", numbers["version"])
        self.set("header_size", "<I", numbers["allocs_header"])
        self.set("file_size", "<Q", self.file_size)
        self.set("pid", "<I", pid)
        self.set("uid", "<I", os.getuid() if uid is None else uid)
        self.set("start_time", "<Q", start)
        self.set("state", "<I", 1)
        self.set("flags", "<I", 1)
        self.set("clock", "<QQ", time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.time_ns())
        self.set("command_size", "<I", len(command))
        self.set("command", f"{len(command)}s", command)
        self.set("monotonic_offset", "<qq", *(clocks or (0, 0)))
        self.set("identity", "<I", numbers["identity_clocks"] | numbers["identity_locked"])
        for number, words in table.items():
            self.write(numbers["allocs_header.sections"] + 32 * number, struct.pack("<4Q", *words))
        self.write(0, struct.pack("<Q", numbers["magic"]))

    def write(self, offset, data):
        os.pwrite(self.descriptor, data, offset)

    def set(self, field, form, *values):
        """A field of the header."""
        self.write(numbers["allocs_header." + field], struct.pack(form, *values))

    def use(self, section, count):
        self.write(numbers["allocs_header.sections"] + 32 * sections[section][0] + 24, struct.pack("<Q", count))

    def put(self, section, index, data):
        self.write(self.places[section] + index * self.entries[section], data)

    def string(self, text):
        place = self.strings_used
        self.put("STRINGS", place, text)
        self.strings_used += len(text)
        self.use("STRINGS", self.strings_used)
        return place, len(text)

    def module(self, index, start, end, path, bias=None, build_id=bytes(range(1, 21)), text=None):
        entry = bytearray(numbers["allocs_module"])
        place, size = text or self.string(path)
        struct.pack_into("<QQQ", entry, 0, start, end, start if bias is None else bias)
        struct.pack_into("<II", entry, numbers["allocs_module.state"], 1, len(build_id))
        struct.pack_into("32s", entry, numbers["allocs_module.build_id"], build_id)
        struct.pack_into("<QI", entry, numbers["allocs_module.path"], place, size)
        self.put("MODULES", index, bytes(entry))
        self.use("MODULES", index + 1)

    def node(self, index, address, parent):
        self.put("NODES", index, struct.pack("<QII", address, parent, 0))

    def context(self, index, node, thread=0xFFFF, function=1, allocator=0xFF):
        self.put("CONTEXTS", index, struct.pack("<Q", node | thread << 32 | function << 48 | allocator << 56))

    def mark(self, offset, bit):
        """Sets a bit of the word at `offset`."""
        word = struct.unpack("<Q", os.pread(self.descriptor, 8, offset))[0] | 1 << bit
        self.write(offset, struct.pack("<Q", word))

    def arena(self, index, region):
        self.put("ARENAS", index, struct.pack("<Q", region))
        self.put("DIRECTORY", region, struct.pack("<I", index + 1))
        bits, word = self.places["REGION_BITS"], region >> 6
        self.mark(bits + numbers["region_level0_offset"] + 8 * word, region & 63)
        self.mark(bits + 8 * (word >> 6), word & 63)
        self.mark(numbers["allocs_header.region_level2"] + 8 * (word >> 12), word >> 6 & 63)

    def block(self, arena, address, size, context):
        base = self.places["ARENAS"] + arena * self.entries["ARENAS"]
        offset = address & (1 << numbers["region_shift"]) - 1
        slot, granule, group = offset >> 5, offset >> 4 & 1, offset >> numbers["summary_shift"]
        self.mark(base + numbers["arena_summary_offset"] + 8 * (group >> 6), group & 63)
        self.mark(base + numbers["allocs_arena.level1"] + 8 * (group >> 12), group >> 6 & 63)
        self.mark(base + numbers["allocs_arena.level2"], group >> 12)
        kind = 1 if size < 64 else 2
        place = base + numbers["arena_slots_offset"] + 8 * slot
        if kind == 2:
            self.write(place + 8, struct.pack("<Q", 3 | size << 2))
        self.write(place, struct.pack("<Q", kind | granule << 2 | (size & 63) << 3 | context << 9))

    def ring(self, index, written, reserved, records=b""):
        base = self.places["RINGS"] + index * self.ring_size
        self.write(base + numbers["ring_records_offset"], records)
        self.write(base, struct.pack("<QQ", written, reserved))


def event(kind, address, size, context=0, origin=0, stamp=0, slot=0):
    return struct.pack(
        "<4Q", address | kind << 48, size | slot << 48, context | origin << 32, stamp or time.monotonic_ns()
    )


def control(path, pid, start):
    """A control file; the descriptor of it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(descriptor, numbers["control_size"])
    header = bytearray(64)
    struct.pack_into("<QIIQI", header, 0, numbers["control_magic"], numbers["control_version"],
                     numbers["control_size"], start, pid)  # fmt: skip
    os.pwrite(descriptor, bytes(header), numbers["allocs_control.magic"])
    return descriptor
