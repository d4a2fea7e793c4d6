# SPDX-License-Identifier: Apache-2.0
"""Kind E: numbers from outside. Extreme ones stand in each field in turn and at random: of a segment, its rings and
tables, of debug information, of questions. Each question gets an answer: a connection that ends without is a trap."""

import os
import random
import struct
import subprocess
import time

import elves
import segments
import stage
from stage import BOB, MALLORY, Holder, Program, Server, ask

BLOCK, BASE = 0x1000000, 0x10000000
EXTREMES = [0, 1, 0x7F, 0xFF, 0x1000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47,
            (1 << 48) - 1, (1 << 63) - 1, 1 << 63, (1 << 63) + 64, (1 << 64) - 64, (1 << 64) - 1]  # fmt: skip


class Judge:
    def __init__(self, check):
        self.check, self.server, self.asked, self.silent = check, Server(), 0, []
        self.bob = Program(BOB)

    def goes_on(self, over, at_least=0):
        """Until a time, and until as many questions as shall be asked; no longer than the server lives and answers."""
        return (time.monotonic() < over or self.asked < at_least) and self.server.lives and len(self.silent) < 4

    def ask(self, targets, what):
        """Asks all on one connection after the other, in one process of mallory's."""
        if not self.server.lives:
            return
        path = self.server.socket

        def body():
            statuses = []
            for target in targets:
                try:
                    statuses.append(stage.request(path, target, patience=40)[0])
                except Exception as problem:  # noqa: BLE001: whatever it is, there was no answer
                    statuses.append(repr(problem))
            return statuses

        for target, status in zip(targets, stage.act(MALLORY, body)):
            self.asked += 1
            if not isinstance(status, int):
                self.silent.append((what, target, status))
                # Whatever runs in mallory's name may start again first.
                stage.wait("mallory is answered again", lambda: not self.server.lives
                           or ask(MALLORY, self.server, "/v1/processes")[0] == 200, patience=40, pause=0.1)  # fmt: skip

    def streams(self, pid, what, change=lambda: None, seconds=0.12):
        """A stream of events: whether it ends by itself, in order or by an error, is no matter; the server is."""

        def body(send, receive):
            connection = stage.raw(self.server.socket, f"/v1/processes/{pid}/events?stacks=true")
            connection.settimeout(2)
            try:
                send(connection.recv(2000)[:15])
            except TimeoutError:
                send(b"")
            receive()
            connection.settimeout(seconds)
            ended = b""
            try:
                while data := connection.recv(65536):
                    ended = (ended + data)[-300:]
                send(ended)
            except TimeoutError:
                send(b"goes on")
            except ConnectionResetError as problem:
                send(repr(problem).encode())

        actor = stage.Actor(MALLORY, body)
        actor.receive(30)
        change()
        actor.send("changed")
        ended = actor.receive(30)
        actor.end()
        self.asked += 1
        # A stream of a process that is there ends with an error that is said, if at all.
        if ended != b"goes on" and b"error" not in ended:
            self.silent.append((what, "stream", ended))

    def verdict(self, at_least):
        self.check(f"each of {self.asked} questions got an answer", not self.silent and self.asked >= at_least,
                   self.silent[:4])  # fmt: skip
        status, answer = ask(BOB, self.server, self.bob.query)
        self.check("bob is answered", self.server.lives and status == 200 and b'"kind":"heap"' in answer,
                   (status, answer[:200]))  # fmt: skip
        self.check("the server lives", self.server.lives, self.server.said()[-1500:])


def questions(pid):
    return [f"/v1/processes/{pid}", f"/v1/processes/{pid}/query?address={BLOCK:#x}&address={BLOCK + 0x100:#x}"
            f"&address={BASE + 0x2010:#x}&address=0x30000010&address=0x40000010", f"/v1/processes/{pid}/top",
            "/v1/processes"]  # fmt: skip


def whole(holder, module):
    """A segment with something in every section."""
    made = holder.segment(control=True, capacities={"RINGS": 2, "MAPPINGS": 16, "MODULE_FILES": 64, "BYPASSES": 4})
    made.module(0, BASE, BASE + 0x8000, module.encode())
    holder.hold(module, BASE)
    made.arena(0, 0)
    for section, used in (("NODES", 100), ("CONTEXTS", 100), ("ALLOCATORS", 2), ("THREADS", 2), ("RINGS", 2),
                          ("MAPPINGS", 1), ("BYPASSES", 1), ("FORMER_THREADS", 3)):  # fmt: skip
        made.use(section, used)
    name, size = made.string(b"allocator")
    for index in range(2):
        made.put("ALLOCATORS", index, struct.pack("<QQIIIIII", name, name, size, size, 1, 1 + index, index, 0))
    made.put("THREADS", 0, struct.pack("<IIIIII16sQQQQQQ", 0, 1, 99999, 0, 0, 0, b"thread", 5, 5, 1, 0x30000000,
                                       0x30000000, 0x30100000))  # fmt: skip
    made.put("MAPPINGS", 0, struct.pack("<IIQQQIIIIQQ", 0, 1, 0x40000000, 0x40010000, 1, 0, 3, 0, size, 0, name))
    for index in range(1, 4):
        made.node(index, BASE + 0x1000 + 16 * index, index - 1)
    made.context(1, 3, thread=0, allocator=0)
    made.block(0, BLOCK, 48, 1)
    made.block(0, BLOCK + 0x100, 480, 1)
    records = segments.event(6, 99999, 1) + segments.event(1, BLOCK, 48, 1) + segments.event(2, BLOCK, 48, 1, 1)
    made.ring(0, 3, 64, records)
    return made


def program(seed=0):
    """A shared object with debug information."""
    source = """
        struct node { struct node *next; int values[7]; union { long a; char b[16]; } choice; unsigned bits : 5; };
        struct node table[11]; int matrix[3][5]; __thread int local; const char *names[] = {"a", "b"};
        static inline __attribute__((always_inline)) int inner(int x) { return table[x].values[1] + matrix[1][x]; }
        int outer(int x) { return inner(x) * inner(x + 1) + local; }
    """
    path = "/dev/shm/program.so"
    elves.compile(source, path, "-g", "-O1")
    with open(path, "rb") as file:
        return file.read()


def fields(check, seconds):
    """Each word of the header, of the head of each section and of the rings, with extreme numbers in turns."""
    judge, numbers = Judge(check), random.Random(os.environ.get("ALLOCS_TEST_SEED", "14"))
    holder = Holder(MALLORY, judge.server)
    module = holder.write("program.so", program())
    over = time.monotonic() + seconds
    while judge.goes_on(over, 40):
        holder = Holder(MALLORY, judge.server)
        made = whole(holder, module)
        header = [offset for offset in range(0, segments.numbers["allocs_header"], 8)]
        tables = [(made.places[name] + 8 * word) for name in made.places for word in range(18)]
        inner = [made.places["ARENAS"] + offset for offset in (0, 8, 16, segments.numbers["arena_summary_offset"])]
        slots = [made.places["ARENAS"] + segments.numbers["arena_slots_offset"] + (BLOCK >> 5) * 8 + offset
                 for offset in (0, 0x40, 0x48)]  # fmt: skip
        for turn in range(8):
            if turn == 5:
                holder.end()
            places = [numbers.choice(numbers.choice((header, tables, inner, slots))) & ~7
                      for _ in range(numbers.choice((1, 1, 2, 4)))]  # fmt: skip
            kept = [os.pread(made.descriptor, 8, place) for place in places]
            for place in places:
                if numbers.random() < 0.7:
                    value = struct.pack("<Q", numbers.choice(EXTREMES))
                else:
                    value = struct.pack("<II", numbers.choice(EXTREMES) & 0xFFFFFFFF, numbers.choice(EXTREMES) >> 32)
                made.write(place, value)
            judge.ask(questions(holder.pid), places)
            for place, value in zip(places, kept):
                made.write(place, value)
        os.close(made.descriptor)
    judge.verdict(40)


def rings(check, seconds):
    """Positions and records of rings, under streams of events: sums, differences and times that overflow."""
    judge, numbers = Judge(check), random.Random(os.environ.get("ALLOCS_TEST_SEED", "14"))
    module = Holder(MALLORY, judge.server).write("program.so", program())
    over, first = time.monotonic() + seconds, True
    while judge.goes_on(over, 6):
        holder = Holder(MALLORY, judge.server)
        made = whole(holder, module)

        def change():
            for index in range(2):
                if first:
                    # Each loses half of all numbers: what is lost in both has no number.
                    made.ring(index, 1 << 63, (1 << 63) + 64)
                    continue
                position = numbers.choice(EXTREMES)
                reserved = min((1 << 64) - 1, position + numbers.choice((0, 1, 64, 128, 1 << 20)))
                record = b"".join(struct.pack("<4Q", *(numbers.choice(EXTREMES) for _ in range(4))) for _ in range(40))
                kind = struct.pack("<H", numbers.randrange(14))
                made.ring(index, position, reserved, record[:6] + kind[:1] + record[7:])

        judge.streams(holder.pid, "rings", change)
        judge.ask([f"/v1/processes/{holder.pid}"], "rings")
        os.close(made.descriptor)
        holder.end()
        first = False
    judge.verdict(6)


def array_to_the_end():
    """An array whose upper bound is the greatest signed number."""
    table = elves.abbreviations((1, 0x11, 1, []), (2, 0x01, 1, [(0x49, 0x13)]), (3, 0x21, 0, [(0x2F, 0x07)]),
                                (4, 0x34, 0, [(0x02, 0x18), (0x49, 0x13)]), (5, 0x24, 0, [(0x0B, 0x0B)]))  # fmt: skip
    entries = b"\x01"
    base = elves.UNIT_HEADER + len(entries)
    entries += b"\x05\x04"
    array = elves.UNIT_HEADER + len(entries)
    entries += b"\x02" + struct.pack("<I", base) + b"\x03" + struct.pack("<Q", (1 << 63) - 1) + b"\0"
    entries += b"\x04" + bytes([9, 3]) + struct.pack("<Q", 0x1010) + struct.pack("<I", array) + b"\0"
    return elves.with_debug_information(entries, table).bytes()


def debug_information(check, seconds):
    """Debug information and headers of ELF files with extreme numbers at random."""
    judge, numbers = Judge(check), random.Random(os.environ.get("ALLOCS_TEST_SEED", "14"))
    intact, over, count = program(), time.monotonic() + seconds, 0
    listing = subprocess.run(["readelf", "-SW", "/dev/shm/program.so"], check=True, capture_output=True, text=True)
    sections = []
    for line in listing.stdout.splitlines():
        words = line.split("]")[-1].split()
        if len(words) > 5 and words[0].startswith((".debug", ".symtab", ".dynsym", ".eh_frame", ".dynamic")):
            sections.append((int(words[3], 16), int(words[4], 16)))
    if len(sections) < 6:
        raise stage.Missing(f"readelf names {len(sections)} sections only")
    sections += [(0, 64), (64, 56 * 8), (len(intact) - 64 * 40, 64 * 40 - 8)]
    holder = Holder(MALLORY, judge.server)
    path = holder.write("intact.so", intact)
    holder.segment().module(0, BASE, BASE + 0x8000, path.encode())
    holder.hold(path, BASE)
    status, answer = ask(MALLORY, judge.server, f"/v1/processes/{holder.pid}/query?address={BASE + 0x40A0:#x}")
    check("a file that is not damaged gives its variable's name", b'"table' in answer, (status, answer[:300]))
    while judge.goes_on(over, 24):
        holder = Holder(MALLORY, judge.server)
        made = holder.segment()
        made.arena(0, 0)
        made.use("NODES", 200)
        made.use("CONTEXTS", 200)
        targets = []
        for index in range(24):
            data = bytearray(array_to_the_end() if count == 0 else intact)
            count += 1
            for _ in range(numbers.choice((1, 1, 2, 5)) if count > 1 else 0):
                start, size = numbers.choice(sections)
                place = start + numbers.randrange(max(size - 8, 1))
                width = numbers.choice((1, 1, 2, 4, 8))
                data[place : place + width] = struct.pack("<Q", numbers.choice(EXTREMES))[:width]
            path = holder.write(f"damaged-{count}.so", bytes(data))
            base = BASE + 0x100000 * index
            holder.hold(path, base)
            made.module(index, base, base + 0x8000, path.encode())
            made.node(index + 1, base + 0x1110, 0)
            made.context(index + 1, index + 1)
            made.block(0, BLOCK + 64 * index, 48, index + 1)
            offsets = (0x1010, 0x2010, 0x4060, 0x4100, 0x40A0, 0x1110)
            addresses = [BLOCK + 64 * index, *(base + offset for offset in offsets)]
            targets.append(f"/v1/processes/{holder.pid}/query?" + "&".join(f"address={one:#x}" for one in addresses))
        judge.ask(targets, "debug information")
        # Of a process that has ended, the files are read as the segment names them.
        holder.end()
        judge.ask(targets, "debug information of an ended process")
        os.close(made.descriptor)
    judge.verdict(24)


def parameters(check):
    """Numbers of questions."""
    judge = Judge(check)
    holder = Holder(MALLORY, judge.server)
    whole(holder, holder.write("program.so", program()))
    words = [str(number) for number in EXTREMES[8:]] + ["18446744073709551616", "0x" + "f" * 17, "-1", "1e400", "",
             "9" * 4000, "0x", "%00", "%ff", "1-", "-", "18446744073709551615-0", "0-18446744073709551615"]  # fmt: skip
    for number in words:
        judge.ask([f"/v1/processes/{number}", f"/v1/processes/{number}/query?address=1",
                   f"/v1/processes/{holder.pid}@{number}", f"/v1/processes/{holder.pid}/query?address={number}",
                   f"/v1/processes/{holder.pid}/top?limit={number}",
                   f"/v1/processes/{holder.pid}/query?address=1&wrapper={'*a' * 40}{number}",
                   f"/v1/processes/1/events?size={number}&range={number}&kind={number}"], number[:30])  # fmt: skip
    judge.verdict(100)


LONG = float(os.environ.get("ALLOCS_ATTACK_MANY", "1"))
scenes = {
    "traps-fields": lambda check: fields(check, 2.5 * LONG),
    "traps-rings": lambda check: rings(check, 2 * LONG),
    "traps-debug-information": lambda check: debug_information(check, 2.5 * LONG),
    "traps-parameters": parameters,
}
