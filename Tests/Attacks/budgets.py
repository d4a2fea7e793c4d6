# SPDX-License-Identifier: Apache-2.0
"""Kind D: what one user may cost the others. Each attack of mallory's goes on until it is stopped; beside it bob asks
one question after another, and his answers are what is judged: all come, and none takes long.

`attacks` is the list; `measure` (attack.py) holds each for a minute, and all at once.
"""

import contextlib
import http.client
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import elves
import segments
import silent
import stage
import worst
from stage import BOB, MALLORY, ROOT, TOOLS, Actor, Holder, Program, Pulse, Server, ask, home, place, start, wearing

BLOCK, BASE = 0x1000000, 0x10000000
STACK = 65_000  # frames of the longest stack here


# MARK: attacks. Each takes the server, and returns what ends it.


class Attack:
    """Something that goes on: processes of mallory's, and holders whose segments it is about."""

    def __init__(self, *parts):
        self.parts = [part for part in parts if part]

    def ended(self):
        """How each process of mallory's ended that was to go on until it is stopped: none, or she attacks less than
        the table says."""
        actors = [part.ended() for part in self.parts if isinstance(part, Actor)]
        programs = [f"status {part.returncode} of {part.args}" for part in self.parts
                    if isinstance(part, subprocess.Popen) and part.poll() is not None]  # fmt: skip
        return [words for words in actors + programs if words]

    def stop(self):
        for part in self.parts:
            if isinstance(part, subprocess.Popen):
                stage.end(part)
            else:
                part.end()
        for part in self.parts:
            if isinstance(part, Holder):
                part.remove()


# While this is there, attacks that are ready wait: of several, some take long to prepare.
READY = "/run/attacks-wait"


def on_threads(count, work):
    """Has each of so many threads do `work`, which is told the thread's number, for ever."""
    for number in range(count):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    while True:
        time.sleep(60)


def begin(send):
    send("began")
    while os.path.exists(READY):
        time.sleep(0.02)


def all_at_once(server):
    with open(READY, "w"):
        pass
    # The pump of this one waits for nobody.
    last = sorted(attacks.values(), key=lambda attack: attack is full_rings)
    parts = [part for attack in last for part in attack(server).parts]
    os.unlink(READY)
    return Attack(*parts)


def forever(server, *questions, connections=8, patience=60, method="GET", body=None):
    """An actor that keeps so many connections asking, and asks again whatever comes of it."""

    def attack(send, receive):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        def one(number):
            turn = number
            while True:
                turn += 1
                try:
                    stage.request(server.socket, questions[turn % len(questions)], method, body, patience)
                except (OSError, http.client.HTTPException):
                    time.sleep(0.02)

        begin(send)
        on_threads(connections, one)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return actor


def chain(made, start=BASE + 0x1001):
    """A stack of very many frames, one block with it."""
    made.arena(0, 0)
    made.use("NODES", STACK + 10)
    made.use("CONTEXTS", 10)
    made.context(1, STACK)
    made.put("NODES", 1, b"".join(struct.pack("<QII", start + index, index, 0) for index in range(STACK)))
    made.block(0, BLOCK, 48, 1)


def endless_questions(server, count=8, connections=8, patience=60):
    """Questions about modules whose separate debug file has 8 TiB, all hole, of which a checksum is wanted."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    elves.compile("int f(int x) { return x * 3; }", f"{home(MALLORY)}/m.so", "-s")
    holder.write("debug", b"1234")
    subprocess.run(["objcopy", f"--add-gnu-debuglink={home(MALLORY)}/debug", f"{home(MALLORY)}/m.so"], check=True)
    os.chown(f"{home(MALLORY)}/m.so", MALLORY, MALLORY)
    holder.write("debug", elves.File().bytes())
    os.truncate(f"{home(MALLORY)}/debug", 8 << 40)
    made.arena(0, 0)
    made.use("NODES", 1000)
    made.use("CONTEXTS", 1000)
    for index in range(count):
        path, base = f"{home(MALLORY)}/m{index}.so", 0x100000 * (index + 1)
        with contextlib.suppress(FileExistsError):
            os.link(f"{home(MALLORY)}/m.so", path)
        made.module(index, base, base + 0x5000, path.encode())
        made.node(index + 1, base + 0x1100, 0)
        made.context(index + 1, index + 1)
        made.block(0, BLOCK + 64 * index, 48, index + 1)
    questions = [f"/v1/processes/{holder.pid}/query?address={BLOCK + 64 * index:#x}" for index in range(count)]
    return Attack(forever(server, *questions, connections=connections, patience=patience), holder)


def requests(server):
    """As many costly questions as 48 connections hold, one after the other."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    made.module(0, BASE, BASE + 0x20000, b"/" + b"x" * 200)
    chain(made)
    pid = holder.pid
    return Attack(
        forever(server, f"/v1/processes/{pid}/query?address={BLOCK:#x}", f"/v1/processes/{pid}/top",
                f"/v1/processes/{pid}", "/v1/processes", "/metrics", connections=48, patience=10), holder)  # fmt: skip


def full_rings(server, streams=60, rings=4096, records=512):
    """Streams of events of a segment that claims all rings there can be, each of them always full."""
    holder = Holder(MALLORY, server)
    made = holder.segment(control=True, capacities={"RINGS": rings}, ring_records=records)
    made.use("RINGS", rings)
    pump = start(MALLORY, [f"{TOOLS}/pump", made.path, str(made.places["RINGS"]), str(rings), str(made.ring_size)])
    return Attack(forever(server, f"/v1/processes/{holder.pid}/events?size=7", connections=streams, patience=600),
                  pump, holder)  # fmt: skip


def questions_of_bounds(server):
    """Questions with as many rows and patterns as there may be, and more; the patterns fit names of 4,000 bytes nearly,
    in a stack of very many frames. More marks, too, than are read."""
    holder, made, target = damaged(server, worst.long_names, files=1)
    base = f"/v1/processes/{holder.pid}"
    for turn in range(300):
        with wearing(MALLORY), contextlib.suppress(OSError):
            os.setxattr(made.path, f"user.allocs.mark.m{turn}", b"1")
    nearly = "*a" * 380 + "*b"
    questions = [f"{target}" + f"&wrapper={nearly}" * count for count in (100, 101)]
    questions += [f"{base}/blocks?limit={rows}" + f"&site={nearly}" * 100 for rows in (100_000, 100_001)]
    questions += [f"{base}/top?limit=100000&since=m1", f"{target}&wrapper={'*a' * 1000}", f"{base}/marks"]
    return Attack(forever(server, *questions, connections=12), holder)


def requests_without_end(server, count=24):
    """Heads of requests that never end, and bodies that are to be a gibibyte."""

    def attack(send, receive):
        def one(number):
            piece = b"x" * 65536
            head = b"GET / HTTP/1.1\r\nX: " if number % 2 else (
                b"POST /v1/processes/1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")  # fmt: skip
            while True:
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(5)
                    connection.connect(server.socket)
                    connection.sendall(head)
                    while True:
                        connection.sendall(piece)
                time.sleep(0.005)

        begin(send)
        on_threads(count, one)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def damaged(server, make, files=8):
    """A segment of modules whose files are `make`'s, proved by build ids of their own, with a stack through each; its
    holder, it, and a question about all of that. Eight files are too many to keep what one was found to say."""
    holder = Holder(MALLORY, server)
    made, data, target = holder.segment(), make(), f"/v1/processes/{holder.pid}/query?"
    made.arena(0, 0)
    made.use("NODES", 256 * files + 1)
    made.use("CONTEXTS", files + 1)
    for index in range(files):
        build_id, base = bytes([index + 1] * 20), BASE + 0x100000 * index
        path = holder.write(f"{make.__name__}-{index}.so", data.replace(elves.BUILD_ID, build_id, 1))
        made.module(index, base, base + 0x8000, path.encode(), build_id=build_id)
        holder.hold(path, base)
        for frame in range(256):
            node = 256 * index + frame + 1
            made.node(node, base + 0x1001 + 16 * frame, node - 1 if frame else 0)
        made.context(index + 1, 256 * (index + 1))
        made.block(0, BLOCK + 64 * index, 48, index + 1)
        target += f"{'&' if index else ''}address={BLOCK + 64 * index:#x}&address={base + 0x1100:#x}"
    return holder, made, target


def asked_about(server, make):
    holder, _, target = damaged(server, make)
    return Attack(forever(server, target, connections=12), holder)


class Remover:
    """Files of mallory's outside of what goes with the stage."""

    def __init__(self, *paths):
        self.paths = paths

    def end(self):
        for path in self.paths:
            with contextlib.suppress(OSError):
                os.unlink(path)


def made_code(server, functions=524_290):
    """Names of code that is made at run time, more than are kept, in a file that grows all the time."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    made.arena(0, 0)
    made.use("NODES", 10)
    made.use("CONTEXTS", 10)
    made.node(1, 0x70001101, 0)
    made.context(1, 1)
    made.block(0, BLOCK, 48, 1)
    path = f"/tmp/perf-{holder.pid}.map"
    with wearing(MALLORY), open(path, "x") as file:
        # Each overlaps those before it.
        file.writelines(f"{0x70000000 + turn:x} {1 << 24:x} f{turn}\n" for turn in range(functions))

    def grow(send, receive):
        with open(path, "a") as file:
            begin(send)
            while True:
                file.write("70001000 1000 g\n")
                file.flush()
                time.sleep(0.1)

    actor = Actor(MALLORY, grow)
    actor.receive(30)
    target = f"/v1/processes/{holder.pid}/query?address={BLOCK:#x}"
    return Attack(forever(server, target, connections=12), actor, holder, Remover(path))


BOMBS = ("paths", "stack", "many", "packed", "sections", "symbols", "contexts", "threads", "holes", "mappings",
         "circle", "stacks")


# Bytes that two of the files below unpack to.
PACKED, ZIPPED = 1900 << 20, 3 << 30


def prepare():
    """Makes what takes long to make, before anything competes for the processors."""
    for size in (PACKED, ZIPPED):
        elves.packed_zeros(size)


def bomb(server, kind, connections=12):
    """A segment or a file of which a small part answers with very much memory, asked about by more connections than a
    worker answers at a time."""
    holder = Holder(MALLORY, server)
    pid = holder.pid
    question = f"/v1/processes/{pid}/query?address={BLOCK:#x}"
    if kind == "paths":
        made = holder.segment(capacities={"STRINGS": 64 << 20})
        for index in range(64):
            made.module(index, BASE + index * 0x10000, BASE + index * 0x10000 + 0x1000, b"", text=(0, 64 << 20))
        made.use("STRINGS", 64 << 20)
        question = f"/v1/processes/{pid}"
    elif kind in ("stack", "many", "circle"):
        made = holder.segment()
        made.module(0, BASE, BASE + 0x20000, b"/" + b"x" * (60_000 if kind == "stack" else 200))
        chain(made)
        if kind == "circle":
            made.node(1, BASE + 0x1001, STACK)
        if kind == "many":
            question += f"&address={BLOCK:#x}" * 1200
    elif kind == "stacks":
        # Stacks that are alike but for the innermost call, each with a block: a profile has every call of each.
        leaves, depth = 90_000, 250
        made = holder.segment(capacities={"NODES": 1 << 18, "CONTEXTS": 1 << 18})
        made.module(0, BASE, BASE + 0x200000, b"/" + b"x" * 200)
        made.use("NODES", leaves + depth + 10)
        made.use("CONTEXTS", leaves + 10)
        calls = [(BASE + 0x1001 + index, index) for index in range(depth)]
        calls += [(BASE + 0x8001 + index, depth) for index in range(leaves)]
        made.put("NODES", 1, b"".join(struct.pack("<QII", *call, 0) for call in calls))
        contexts = [depth + 1 + index | 0xFFFF << 32 | 1 << 48 | 0xFF << 56 for index in range(leaves)]
        made.put("CONTEXTS", 1, struct.pack(f"<{leaves}Q", *contexts))
        made.arena(0, 0)
        for index in range(leaves):
            made.block(0, BLOCK + 32 * index, 48, index + 1)
        question = f"/v1/processes/{pid}/profile?format=pprof"
    elif kind in ("packed", "sections", "symbols"):
        made = holder.segment()
        file = elves.File().add(".data", elves.PROGBITS, bytes(0x1000), address=0x1000, flags=3)
        sparse = 0
        if kind == "packed":
            file.compressed(".debug_info", PACKED)
        elif kind == "sections":
            data = b"ZLIB" + struct.pack(">Q", ZIPPED) + elves.packed_zeros(ZIPPED)
            file.add(".zdebug_info", elves.PROGBITS, data)
        else:
            file.add(".symtab", elves.SYMTAB, bytes(24), link=4, entry_size=24, info=1)
            file.add(".strtab", elves.STRTAB, b"\0a\0")
            sparse = 20 << 30
        file.add(".debug_abbrev", elves.PROGBITS, bytes(16))
        data = bytearray(file.bytes())
        if sparse:
            struct.pack_into("<QQ", data, file.table + 64 * 3 + 24, 1 << 20, sparse)
        path = holder.write(f"{kind}.so", bytes(data))
        if sparse:
            os.truncate(path, sparse + (2 << 20))
        made.module(0, BASE, BASE + 0x2000, path.encode())
        holder.hold(path, BASE)
        question = f"/v1/processes/{pid}/query?address={BASE + 0x1100:#x}"
    elif kind == "contexts":
        made = holder.segment(capacities={"CONTEXTS": 1 << 24})
        made.use("CONTEXTS", 1 << 24)
        made.arena(0, 0)
        made.context((1 << 24) - 1, 0)
        made.block(0, BLOCK, 48, (1 << 24) - 1)
        question = f"/v1/processes/{pid}/top"
    elif kind == "threads":
        made = holder.segment(capacities={"FORMER_THREADS": 1 << 26})
        made.use("FORMER_THREADS", 1 << 26)
        question = f"/v1/processes/{pid}"
    elif kind == "holes":
        # Every slot of 24 arenas is said to be in use, and is a hole, which reading would fill.
        made = holder.segment(capacities={"ARENAS": 24})
        for index in range(24):
            made.arena(index, index)
            base = made.places["ARENAS"] + index * made.entries["ARENAS"]
            made.write(base + segments.numbers["allocs_arena.level2"], struct.pack("<Q", 0xFF) + b"\xff" * 64)
            made.write(base + segments.numbers["arena_summary_offset"], b"\xff" * 4096)
        question = f"/v1/processes/{pid}/top"
    elif kind == "mappings":
        mapper = start(MALLORY, ["/usr/bin/python3", "-c", MAPPINGS, home(MALLORY)], stdout=subprocess.PIPE,
                       stdin=subprocess.PIPE)  # fmt: skip
        mapper.stdout.readline()
        when = stage.start_time(mapper.pid)
        name = f"{holder.directory}/{mapper.pid}.{when}.seg"
        holder.segment(pid=mapper.pid, start=when, name=name, publish=False, held=False)
        mapper.stdin.write(f"{name}.new\n".encode())
        mapper.stdin.flush()
        mapper.stdout.readline()
        with wearing(MALLORY):
            os.rename(f"{name}.new", name)
        question = f"/v1/processes/{mapper.pid}/query?address={BLOCK:#x}"
        return Attack(forever(server, question, connections=connections), holder, mapper)
    return Attack(forever(server, question, connections=connections), holder)


# A process with as many mappings as the kernel allows, each of a file whose path is as long as a path may be.
MAPPINGS = """
import ctypes, mmap, os, sys
os.chdir(sys.argv[1])
for _ in range(14):
    os.makedirs("y" * 250, exist_ok=True)
    os.chdir("y" * 250)
file = os.open("z" * 100, os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(file, 8192)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
for index in range(60000):
    if libc.mmap(0x200000000000 + index * 0x2000, 4096, 1, 0x11, file, 0) in (None, 2**64 - 1):
        break
print("mapped", flush=True)
path = sys.stdin.readline().rstrip("\\n")
file = os.open(path, os.O_RDWR)
held = mmap.mmap(file, 4096)
print("held", flush=True)
sys.stdin.read()
"""


def address_space(server):
    """Streams of sparse segments that claim terabytes each."""
    parts, size, questions = [], 64 << 40, []
    while size >= 1 << 38 and len(parts) < 24:
        holder = Holder(MALLORY, server)
        try:
            holder.segment(control=True, capacities={"RINGS": 4}, file_size=size)
            questions.append(f"/v1/processes/{holder.pid}/events")
            parts.append(holder)
        except OSError:
            holder.end()
        size = size // 2 if len(parts) % 3 == 0 else size
    return Attack(forever(server, *questions, connections=len(questions), patience=600), *parts)


def connections(server):
    """Connections that say nothing, half of something, or too much, opened anew as soon as one is closed."""

    def attack(send, receive):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        beginnings = [b"", b"GET /v1/pro", b"GET / HTTP/1.1\r\nX: " + b"x" * 4000, b"\0" * 100, b"\r\n" * 100,
                      b"POST /v1/processes/1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n0x1\n"]  # fmt: skip
        held, turn = [], 0
        begin(send)
        while True:
            turn += 1
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                connection.connect(server.socket)
                connection.send(beginnings[turn % len(beginnings)])
                held.append(connection)
            except OSError:
                connection.close()
                time.sleep(0.001)
            if len(held) > 300:
                held.pop(random.randrange(len(held))).close()

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def slow_closes(server):
    """Connections that will be refused, each with a descriptor in it (SCM_RIGHTS) whose last close takes ten minutes:
    of a socket that lingers, as its other end takes nothing."""

    def attack(send, receive):
        listener, held = socket.socket(), [half_a_question(server) for _ in range(70)]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        begin(send)
        while True:
            child = os.fork()
            if child == 0:
                with contextlib.suppress(OSError):
                    full = socket.socket()
                    full.connect(listener.getsockname())
                    full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
                    full.setblocking(False)
                    over = time.monotonic() + 0.2
                    while time.monotonic() < over:
                        with contextlib.suppress(BlockingIOError):
                            full.send(bytes(65536))
                    # The server has enough to do that this process has ended before it comes to the last one: whoever
                    # ends closes without waiting.
                    flood = [socket.socket(socket.AF_UNIX) for _ in range(301)]
                    for connection in flood:
                        connection.connect(server.socket)
                    with contextlib.suppress(PermissionError):
                        socket.send_fds(connection, [b"x"], [full.fileno()])
                os._exit(1)
            held.append(listener.accept()[0])
            os.waitpid(child, 0)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def slow_closes_before(check, count=80):
    """As `slow_closes`, in a socket that systemd has made: what lies in it when the server starts, the kernel has let
    pass. More connections than a user may have, each with such a descriptor."""
    path = "/run/passed.sock"
    listener, sink = socket.socket(socket.AF_UNIX), socket.socket()
    listener.bind(path)
    listener.listen(4096)
    os.chmod(path, 0o666)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sink.bind(("127.0.0.1", 0))
    sink.listen()

    def fill(send, receive):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        held, passed = [], 0
        for _ in range(count):
            full = socket.socket()
            full.connect(sink.getsockname())
            held.append(sink.accept()[0])
            full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
            full.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    full.send(bytes(65536))
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].connect(path)
            passed += socket.send_fds(held[-1], [b"G"], [full.fileno()])
            full.close()
        send(passed)
        receive()

    filler = Actor(MALLORY, fill)
    passed = filler.receive(60)
    server = Server(prefix=["sh", "-c", f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh"],
                    passed=[listener.fileno()], ready=False)  # fmt: skip
    server.socket = path
    status = stage.comes(lambda: ask(BOB, server, "/v1/processes", patience=5)[0])
    check(f"bob is answered where {passed} descriptors lie before him that are slow to close", status == 200, status)
    refused = server.metrics()["allocsd_connections_refused_total"]
    check("connections with such were refused", passed == count and refused > 0, (passed, refused))
    check("SIGTERM ends the server in time beside them", server.ended_within(25)[0], server.said()[-500:])
    filler.end()


def short_processes(server):
    """Processes that come and go: the broker learns of each one's end."""

    def attack(send, receive):
        begin(send)
        while True:
            with contextlib.suppress(OSError):
                if (child := os.fork()) == 0:
                    os._exit(0)
                os.waitpid(child, 0)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def slow_readers(server, count=60):
    """Answers of many megabytes that nobody reads."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    made.module(0, BASE, BASE + 0x20000, b"/" + b"x" * 100)
    chain(made)
    target = f"/v1/processes/{holder.pid}/query?address={BLOCK:#x}"

    def attack(send, receive):
        held = []
        begin(send)
        while True:
            while len(held) < count:
                with contextlib.suppress(OSError):
                    held.append(stage.raw(server.socket, target))
                time.sleep(0.01)
            time.sleep(1)
            for connection in list(held):
                connection.setblocking(False)
                try:
                    if connection.recv(1) == b"":
                        held.remove(connection)
                except BlockingIOError:
                    pass
                except OSError:
                    held.remove(connection)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor, holder)


def names(server):
    """Files of segments' names that come and go without end."""
    directory = place(MALLORY, server)

    def attack(send, receive):
        begin(send)
        turn = 0
        while True:
            turn += 1
            path = f"{directory}/{100_000 + turn % 3000}.{turn}.seg"
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            if turn > 2000:
                with contextlib.suppress(OSError):
                    os.unlink(f"{directory}/{100_000 + (turn - 2000) % 3000}.{turn - 2000}.seg")
            if turn % 200 == 0:
                time.sleep(0.01)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def renamed_segment(server):
    """A segment that its process holds, under a new name each moment: of processes that are not there."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    directory, path = holder.directory, made.path

    def attack(send, receive):
        begin(send)
        turn, now = 0, path
        while True:
            turn += 1
            new = f"{directory}/{200_000 + turn % 50_000}.{turn}.seg"
            os.rename(now, new)
            now = new
            if turn % 20 == 0:
                time.sleep(0.005)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor, holder)


def costly_sweep(server, files=3000):
    """Segments of ended processes, more than are kept, whose number is that of a process with as many mappings, and as
    long ones, as the kernel allows: whoever removes them looks whether it has them mapped."""
    mapper = start(MALLORY, ["/usr/bin/python3", "-c", MAPPINGS, home(MALLORY)], stdout=subprocess.PIPE,
                   stdin=subprocess.PIPE)  # fmt: skip
    mapper.stdout.readline()
    holder = Holder(MALLORY, server)
    made = holder.segment()
    with open(made.path, "rb") as file:
        page = bytearray(file.read(4096))
    struct.pack_into("<I", page, segments.numbers["allocs_header.pid"], mapper.pid)
    directory = holder.directory

    def attack(send, receive):
        turn = 0
        while True:
            turn += 1
            # More than are kept are there before anything is measured.
            if turn == 1500:
                begin(send)
            # Of the version before, and of this one: of the former nothing says who has it in use.
            version, size = ((2, 2192), (segments.numbers["version"], segments.numbers["allocs_header"]))[turn % 2]
            struct.pack_into("<II", page, segments.numbers["allocs_header.layout_version"], version, size)
            struct.pack_into("<Q", page, segments.numbers["allocs_header.start_time"], turn)
            with contextlib.suppress(OSError):
                with open(f"{directory}/{mapper.pid}.{turn}.seg", "xb") as file:
                    file.write(page)
                    file.truncate(made.file_size)
            if turn > files:
                time.sleep(0.01)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor, mapper, holder)


def crowded(server, segments=5000, names=20_000):
    """More names in a directory, and among them more segments of a process that lives, than are listed."""
    holder = Holder(MALLORY, server)
    made = holder.segment()
    with open(made.path, "rb") as file:
        page = file.read(4096)
    with wearing(MALLORY):
        for turn in range(names):
            with open(f"{holder.directory}/{holder.pid}.{1 + turn}.{'seg' if turn < segments else 'x'}", "wb") as file:
                file.write(page[: 4096 if turn < segments else 0])
    return Attack(forever(server, "/v1/processes", "/metrics", connections=8), holder)


def all_connections(server, users=12, each=64):
    """Users who together hold all connections that there are. `held`: how many each got at first."""

    def hold(send, receive):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        held = [connection for _ in range(each) if (connection := half_a_question(server))]
        send(len(held))
        while True:
            time.sleep(0.5)
            # Whatever the server has closed is opened again.
            held = [one for one in held if not select.select([one], [], [], 0)[0]]
            more = [half_a_question(server) for _ in range(each - len(held))]
            held += [connection for connection in more if connection]

    attack = Attack(*(Actor(64001 + index, hold) for index in range(users)))
    attack.held = [holder.receive(60) for holder in attack.parts]
    return attack


def silent_files(server):
    """A segment that names files which never come (silent.py): a worker that reads one can't even be killed."""
    directory = f"{home(MALLORY)}/silent"
    with wearing(MALLORY):
        os.makedirs(directory, exist_ok=True)
    if not (served := silent.mounted(directory)):
        raise stage.Missing("FUSE")
    holder = Holder(MALLORY, server)
    made = holder.segment()
    made.module(0, BASE, BASE + 0x8000, f"{directory}/m.so".encode())
    made.arena(0, 0)
    made.use("NODES", 10)
    made.use("CONTEXTS", 10)
    made.node(1, BASE + 0x1100, 0)
    made.context(1, 1)
    made.block(0, BLOCK, 48, 1)
    attack = Attack(served, forever(server, f"/v1/processes/{holder.pid}/query?address={BLOCK:#x}", patience=1), holder)
    attack.pid = holder.pid
    return attack


def log_lines(server):
    """Whatever makes a server write lines: wrong requests, processes that come, damaged segments, streams that fail."""
    directory = place(MALLORY, server)

    def attack(send, receive):
        begin(send)
        turn = 0
        while True:
            turn += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                stage.request(server.socket, f"/v1/processes/{turn}/nothing%0a%1b[31m", patience=5)
            sleeper = subprocess.Popen(["sleep", "5"])
            name = f"{directory}/{sleeper.pid}.{stage.start_time(sleeper.pid)}.seg"
            with contextlib.suppress(OSError):
                with open(name, "wb") as file:
                    file.write(os.urandom(5000))
                stage.request(server.socket, f"/v1/processes/{sleeper.pid}/events", patience=5)
            sleeper.kill()
            sleeper.wait()
            time.sleep(0.002)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


def descriptors(server, count=120):
    """More segments, and streams of them, than a server keeps open."""
    holders = [Holder(MALLORY, server) for _ in range(count)]
    for holder in holders:
        holder.segment(control=True, capacities={"RINGS": 2})
    streams = [f"/v1/processes/{holder.pid}/events" for holder in holders[: count // 2]]
    questions = [f"/v1/processes/{holder.pid}/query?address=1" for holder in holders]
    return Attack(forever(server, *streams, connections=50, patience=600),
                  forever(server, *questions, connections=8, patience=5), *holders)  # fmt: skip


def own_worker(server):
    """Mallory ends and stops whatever of the server runs as her, and has it started again."""

    def attack(send, receive):
        begin(send)
        turn, me = 0, os.getpid()
        while True:
            turn += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                stage.request(server.socket, "/v1/processes", patience=1)
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    with open(f"/proc/{name}/status") as file:
                        status = file.read()
                    is_hers = f"\nUid:\t{MALLORY}\t" in status and int(name) != me
                    if is_hers and status.startswith(("Name:\tallocsd", "Name:\texe")):
                        os.kill(int(name), (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV)[turn % 3])
            time.sleep(0.005)

    actor = Actor(MALLORY, attack)
    actor.receive(30)
    return Attack(actor)


attacks = {
    "endless questions": endless_questions,
    "questions that are given up": lambda server: endless_questions(server, connections=24, patience=0.05),
    "a stream of questions": requests,
    "rows, patterns, marks": questions_of_bounds,
    "requests without end": requests_without_end,
    "60 streams of full rings": full_rings,
    **{f"memory: {kind}": (lambda server, kind=kind: bomb(server, kind)) for kind in BOMBS},
    **{f"debug information: {kind}": (lambda server, make=make: asked_about(server, make))
       for kind, make in worst.kinds.items()},
    "names of code made at run time": made_code,
    "address space": address_space,
    "connections": connections,
    "slow readers": slow_readers,
    "descriptors that are slow to close": slow_closes,
    "processes that come and go": short_processes,
    "names that come and go": names,
    "a segment under ever new names": renamed_segment,
    "segments that are costly to remove": costly_sweep,
    "lines of the log": log_lines,
    "descriptors": descriptors,
    "names above all that is listed": crowded,
    "all connections there are, by twelve users": all_connections,
    "files that never come": silent_files,
    "her own worker ended and stopped": own_worker,
}


# MARK: scenes


def beside(check, *wanted, seconds=1.5, least=6.0):
    """Bob's answers while each of the attacks goes on, on one server."""
    server = Server()
    bob = Program(BOB)
    with Pulse(BOB, server, [bob.query, bob.query, f"/v1/processes/{bob.pid}/top", "/v1/processes"]) as pulse:
        limit = pulse.limit(least)
        for name in wanted:
            failures, memory = [], 0
            # The machine may hold up an answer; whom the attack holds up waits in each try.
            for _ in range(3):
                attack = attacks[name](server)
                times, failed = pulse.measure(seconds)
                failures += failed
                memory = max(memory, server.memory()[0])
                attack.stop()
                took, status = stage.timed(ROOT, server, "/v1/processes", patience=limit + 6)
                if max(times) < limit and took < limit + 6:
                    break
            check(f"{name}: bob is answered", not failures and len(times) > 3, (failures[:2], len(times)))
            check(f"{name}: no answer of bob's takes {limit:g} s", max(times) < limit, max(times))
            check(f"{name}: no process of the server takes more than a GiB", memory < 1 << 30, memory >> 20)
            if name.startswith(("memory", "debug information")):
                figures = server.metrics()
                ended = [figures.get(f"allocsd_workers_{how}_total", 0) for how in ("failed", "killed")]
                check(f"{name}: not even mallory's worker ends", not any(ended), (ended, server.said()[-500:]))
            check(f"{name}: root has a list", status == 200 and took < limit + 6, (status, took))
    check("the server lives", server.lives, server.said()[-500:])
    check("the log is short", len(server.said()) < 400_000, len(server.said()))


def flood(check):
    """Who connects without end can't connect any more, for a while; others can."""
    server = Server()

    def connect(send, receive):
        over = time.monotonic() + 30
        while time.monotonic() < over:
            with socket.socket(socket.AF_UNIX) as one:
                one.setblocking(False)
                try:
                    one.connect(server.socket)
                except PermissionError:
                    return send(True)
                except OSError:
                    pass
        send(False)

    mallory = Actor(MALLORY, connect)
    check("the kernel keeps out who connects without end", mallory.receive(60))
    mallory.end()
    check("another user gets in", (seen := ask(BOB, server, "/v1/processes"))[0] == 200, seen)
    count = server.metrics().get("allocsd_users_barred_total", 0)
    check("it is counted, and logged", count >= 1 and "without end" in server.said(), (count, server.said()[-300:]))
    # The longest time is half a minute.
    check("later she gets in again", stage.comes(lambda: ask(MALLORY, server, "/v1/processes")[0] == 200, 40))
    check("the file has no list then", "system.posix_acl_access" not in os.listxattr(server.socket))


def given_up(check):
    """Questions whose asker has gone end; so do questions without end."""
    server = Server()
    attack = endless_questions(server)
    time.sleep(0.5)  # They are begun.
    attack.stop()

    def rest():
        before = server.ticks()
        time.sleep(0.4)
        return server.ticks() - before <= 4

    # Before the half minute is over that any question may take.
    check("where the asker has gone, the question ends", stage.comes(rest))


def stopping(check, kind):
    """SIGTERM while mallory holds what she can: the documented five seconds, and a status that is no trap."""
    server = Server("--idle-timeout", "60")
    attack = {"slow readers": slow_readers, "endless questions": endless_questions, "connections": connections}[kind](
        server)
    time.sleep(0.7)  # It is under way: answers wait for their readers.
    # Five seconds are the server's own.
    ended, status = server.ended_within(25)
    check(f"SIGTERM ends the server in time beside {kind}", ended)
    check("it ends in order", status in (0, -signal.SIGTERM, 143), (status, server.said()[-800:]))
    check("no socket is left", not os.path.exists(server.socket))
    # One that was killed takes a while to go where it has much memory.
    is_gone = stage.comes(lambda: not any(is_server(pid) for pid in os.listdir("/proc") if pid.isdigit()))
    check("no process is left", is_gone)
    attack.stop()


def is_server(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        text = file.read()
        return text.startswith(("Name:\tallocsd", "Name:\texe")) and "\nState:\tZ" not in text
    return False


def workers_of(*users, names=("Name:\tallocsd", "Name:\texe")):
    found, wanted = [], {str(user) for user in users}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            text = file.read()
            is_server = text.startswith(names) and "\nState:\tZ" not in text
            if is_server and text.split("\nUid:\t")[1].split()[0] in wanted:
                found.append(int(pid))
    return found


def killed(check, count):
    """Workers of others are killed at random moments under load: no answer of bob's fails, of which there are as many
    as kills at least. A user whose worker fails again and again waits longer each time, so the kills are shared out:
    ten users ask at a time, until each one's worker was killed five times or so."""
    server = Server()
    bob = Program(BOB)
    pulse = Pulse(BOB, server, [bob.query, bob.query, "/v1/processes"], pause=0.001)
    random_numbers, kills, failures, asked = random.Random(os.environ.get("ALLOCS_TEST_SEED", "14")), 0, [], 0
    last = None
    while kills < count or asked < count:
        first = 65001 if last is None else last.stop
        last = range(first, first + 10)
        load = [Pulse(user, server, ["/v1/processes", "/metrics"], patience=2, pause=0.02) for user in last]
        struck = set()
        while len(struck) < 50 and (kills + len(struck) < count or asked < count):
            for one in [pulse, *load]:
                one.begin(1)
            over = time.monotonic() + 1
            while time.monotonic() < over:
                # Any moment of a worker's life is what is tried.
                time.sleep(random_numbers.uniform(0, 0.03))
                # Not what is still to become a worker.
                for pid in workers_of(*last, names="Name:\tallocsd-worker\n"):
                    # A worker that was struck may take a moment to go: it is one failure, however often it is struck.
                    if pid not in struck and random_numbers.random() < 0.5:
                        with contextlib.suppress(OSError):
                            os.kill(pid, random_numbers.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)))
                            struck.add(pid)
            times, failed = pulse.receive(120)
            for one in load:
                one.receive(60)
            failures += failed
            asked += len(times)
        kills += len(struck)
        for one in load:
            one.end()
    pulse.end()
    check(f"of {asked} answers of bob's none fails while {kills} workers of others are killed",
          not failures and asked >= count, failures[:3])  # fmt: skip
    counted = 0

    def are_counted():
        nonlocal counted
        counted = server.metrics().get("allocsd_workers_failed_total", 0)
        return counted >= kills * 0.9

    stage.comes(are_counted)
    check("the server counts the workers that failed", kills * 0.9 <= counted <= kills * 1.1, (kills, counted))
    check("the log says that workers ended", "worker failed" in server.said())
    check("the server lives", server.lives, server.said()[-500:])
    answered = stage.wait("an answer after the last was killed", lambda: ask(last[0], server, "/metrics")[0] == 200,
                          patience=60, pause=0.2)  # fmt: skip
    check("a user whose worker was killed is answered again", answered)


def half_a_question(server):
    """A connection that waits for the rest of its first line; None where it was refused."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    try:
        connection.connect(server.socket)
        connection.send(b"GET /v1/pro")
        return connection
    except OSError:
        return None


def many_users(check):
    """Users who together hold all connections that there are: whoever has none, gets one all the same."""
    server = Server()
    bob = Program(BOB)
    attack = all_connections(server)
    status, answer = ask(BOB, server, bob.query)
    check(f"bob is answered while {len(attack.held)} users hold {sum(attack.held)} connections", status == 200,
          (status, answer[:200]))  # fmt: skip
    refused = server.metrics()["allocsd_connections_refused_total"]
    check("they got no more than there are", refused > 0, (attack.held, refused))
    attack.stop()


def all_workers(check, users=258):
    """So many users, each with a question that is not whole, that there is a worker for none more: root is answered.
    Takes some seconds of processor time for each twenty of them, so that `make test` leaves it out."""
    server = Server()
    program = Program(ROOT)

    def hold(send, receive):
        held = []
        for user in range(64001, 64001 + users):
            os.setresuid(user, user, 0)
            if connection := half_a_question(server):
                held.append(connection)
            os.setresuid(0, 0, 0)
            time.sleep(0.03)
        send(len(held))
        receive()

    holder = Actor(ROOT, hold)
    held = holder.receive(120)
    # The refusal may come before the question is sent.
    status, _ = ask(64999, server, "/v1/processes")
    refused = server.metrics()["allocsd_connections_refused_total"]
    check("there is a worker for none more", status in (0, 503) and refused > 0, (held, status, refused))
    for target in ("/v1/processes", "/metrics", program.query):
        status, answer = ask(ROOT, server, target)
        check(f"root is answered: {target.split('?')[0]}", status == 200, (status, answer[:200]))
    holder.end()


def beside_silent_files(check):
    """Beside files that never come others are answered, she gets few such workers, and the server ends in time."""
    server = Server()
    bob = Program(BOB)
    pulse = Pulse(BOB, server, [bob.query, "/v1/processes"])
    limit = pulse.limit(6)
    try:
        attack = silent_files(server)
    except stage.Missing:
        check("without FUSE there are no such files", not os.path.exists("/dev/fuse"))
        return
    refused = b""
    for _ in range(1 if LONG == 1 else 90):
        refused = ask(MALLORY, server, f"/v1/processes/{attack.pid}/query?address={BLOCK:#x}", patience=1)[1]
        for pid in set(workers_of(MALLORY)) - {attack.pid}:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    # Each is given up when it has not answered for ten seconds.
    check("she gets few such workers", LONG == 1 or b"in 30 s" in refused, refused)
    times, failures = pulse.measure(1)
    check("bob is answered beside files that never come", not failures and max(times) < limit,
          (failures[:2], max(times)))  # fmt: skip
    pulse.end()
    ended, status = server.ended_within(30)
    check("SIGTERM ends the server beside a worker that can't be killed", ended and status in (0, -signal.SIGTERM),
          (ended, status, server.said()[-400:]))  # fmt: skip
    attack.stop()


def ticks_of(pid):
    """Clock ticks of processor time."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


def priorities(check):
    """A worker that is busy gives way to others, and to one that isn't, and the broker comes before all of them."""
    server = Server()
    status, _ = ask(BOB, server, "/v1/processes")
    check("bob is answered", status == 200, status)

    def priority(pid):
        """Of the session, where these share the processors; else of the first thread."""
        try:
            with open(f"/proc/{pid}/autogroup") as file:
                return int(file.read().rpartition("nice ")[2])
        except OSError:
            return os.getpriority(os.PRIO_PROCESS, pid)

    def has(user, wanted):
        return any(priority(pid) == wanted for pid in workers_of(user))

    broker = priority(server.process.pid)
    check("the broker comes before all", broker == -10, broker)
    check("a worker that does nothing comes before programs", stage.wait("that", lambda: has(BOB, -8), pause=0.1))
    attack = endless_questions(server)
    # On a machine that others use it gets less: then it is no busy worker.
    worker = stage.wait("mallory's worker", lambda: workers_of(MALLORY), pause=0.1)[0]
    busy, over = 0, time.monotonic() + 20
    while busy < 4 and time.monotonic() < over and not has(MALLORY, 10):
        before = ticks_of(worker)
        time.sleep(2.2)
        busy = busy + 1 if ticks_of(worker) - before > 2.2 * 0.9 * os.sysconf("SC_CLK_TCK") else 0
    check("a worker that is busy comes behind them", busy < 4 or has(MALLORY, 10))
    check("the other stays as it was", has(BOB, -8))
    attack.stop()
    back = stage.wait("that", lambda: not workers_of(MALLORY) or has(MALLORY, -8), patience=40, pause=0.2)
    check("it is given back when the work is done", back)


LONG = int(os.environ.get("ALLOCS_ATTACK_MANY", "1"))
scenes = {
    "budgets-questions": lambda check: beside(
        check, "endless questions", "questions that are given up", "a stream of questions", "rows, patterns, marks",
        "requests without end"),
    "budgets-memory": lambda check: beside(check, *(f"memory: {kind}" for kind in BOMBS), seconds=0.8),
    "budgets-debug-information": lambda check: beside(
        check, *(f"debug information: {kind}" for kind in worst.kinds), "names of code made at run time", seconds=0.8),
    "budgets-streams": lambda check: beside(check, "60 streams of full rings", "address space", "descriptors"),
    "budgets-connections": lambda check: beside(
        check, "connections", "slow readers", "descriptors that are slow to close", "processes that come and go"),
    "budgets-files": lambda check: beside(
        check, "names that come and go", "a segment under ever new names", "segments that are costly to remove",
        "names above all that is listed", "lines of the log"),
    "budgets-slow-closes": slow_closes_before,
    "budgets-flood": flood,
    "budgets-users": many_users,
    "budgets-all-workers": all_workers,
    "budgets-silent-files": beside_silent_files,
    "budgets-own-worker": lambda check: beside(check, "her own worker ended and stopped"),
    "budgets-given-up": given_up,
    "budgets-priorities": priorities,
    "budgets-stop-readers": lambda check: stopping(check, "slow readers"),
    "budgets-stop-questions": lambda check: stopping(check, "endless questions"),
    "budgets-kills": lambda check: killed(check, 20 if LONG == 1 else 500),
}
