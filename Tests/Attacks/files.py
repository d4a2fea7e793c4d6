# SPDX-License-Identifier: Apache-2.0
"""Kind B: files that a segment names. Whatever a user may not open is not opened for them, whoever asks; what is no
regular file is never opened; and a name that changes between a look and an opening gains nothing."""

import os
import subprocess
import sys
import time

import elves
import stage
from stage import MALLORY, ROOT, TOOLS, Holder, Opens, Program, Server, ask, home, start, wearing

SYMBOL = "a_symbol_that_only_root_may_read"
BLOCK = 0x1000000


def licensed():
    """A program with symbols and debug information that only root may read."""
    os.mkdir("/dev/shm/roots", 0o700)
    source = f"int {SYMBOL}[64] = {{1}};\nint main(void) {{ return {SYMBOL}[0]; }}\n"
    subprocess.run(["gcc", "-g", "-O0", "-xc", "-", "-o", "/dev/shm/roots/licensed"], input=source.encode(), check=True)
    os.chmod("/dev/shm/roots/licensed", 0o700)
    return "/dev/shm/roots/licensed"


def ask_about(server, holder, paths, **segment):
    """Has a stack through each of the files, and asks for it; the answers, one after the other."""
    made = holder.segment(held=True, **segment)
    made.arena(0, 0)
    made.use("NODES", 1000)
    made.use("CONTEXTS", 1000)
    answers = []
    for index, path in enumerate(paths):
        base = 0x100000 * (index + 1)
        made.module(index, base, base + 0x8000, path.encode())
        made.node(index + 1, base + 0x1100, 0)
        made.context(index + 1, index + 1)
        made.block(0, BLOCK + 64 * index, 48, index + 1)
    for index in range(len(paths)):
        answers.append(ask(MALLORY, server, f"/v1/processes/{holder.pid}/query?address={BLOCK + 64 * index:#x}"))
        base = 0x100000 * (index + 1)
        answers.append(ask(MALLORY, server, f"/v1/processes/{holder.pid}/query?address={base + 0x4010:#x}"))
    return answers


def named(check):
    secret = licensed()
    os.mkfifo("/dev/shm/roots/pipe", 0o600)
    os.mknod("/dev/shm/roots/device", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero's number
    with wearing(MALLORY):
        os.mkfifo(f"{home(MALLORY)}/pipe", 0o600)
        os.symlink(secret, f"{home(MALLORY)}/link")
        os.symlink("/dev/shm/roots/pipe", f"{home(MALLORY)}/link-to-pipe")
    os.mknod(f"{home(MALLORY)}/device", 0o666 | 0o020000, os.makedev(1, 5))
    os.chmod(f"{home(MALLORY)}/device", 0o666)
    server = Server()
    holder = Holder(MALLORY, server)
    # Debug links of a file of mallory's lead to root's files: by name beside it, and by build id.
    elves.compile("int f(int x) { return x * 3; }", f"{home(MALLORY)}/m.so", "-s")
    subprocess.run(["objcopy", f"--add-gnu-debuglink={secret}", f"{home(MALLORY)}/m.so"], check=True)
    os.chown(f"{home(MALLORY)}/m.so", MALLORY, MALLORY)
    os.makedirs(f"{home(MALLORY)}/.debug")
    os.symlink(secret, f"{home(MALLORY)}/.debug/licensed")
    os.symlink(secret, f"{home(MALLORY)}/licensed")
    roots = [secret, "/dev/shm/roots/pipe", "/dev/shm/roots/device", "/etc/shadow"]
    never = [f"{home(MALLORY)}/pipe", f"{home(MALLORY)}/device", "/dev/zero"]
    opens = Opens(*roots, *never)
    paths = [*roots, *never, f"{home(MALLORY)}/link", f"{home(MALLORY)}/link-to-pipe", f"{home(MALLORY)}/m.so",
             "/proc/kcore", "/proc/1/environ", f"/proc/{server.process.pid}/root{secret}", f"/proc/1/root{secret}",
             "/proc/self/fd/0", "/dev/stdin", "/proc/self/mem", "/proc/kmsg", home(MALLORY)]  # fmt: skip
    answers = ask_about(server, holder, paths)
    check("each question is answered", all(status == 200 for status, _ in answers),
          [answer for answer in answers if answer[0] != 200][:2])  # fmt: skip
    check("nothing is told of a file that only root may read", SYMBOL not in str(answers))
    opened = opens.seen()
    check("no file is opened that the segment's user may not open", not set(opened) & set(roots), opened)
    check("no pipe and no device is opened", not set(opened) & set(never), opened)
    # The watches see what there is to see: root's own question about that file opens it.
    subprocess.run(["head", "-c", "1", secret], check=True, capture_output=True)
    check("an opening is noticed", opens.seen() == [secret])
    check("the server lives", server.lives, server.said()[-500:])


def mapped(check):
    """A file that is really mapped, whose escaped name in /proc/PID/maps is another file's: root's."""
    secret = licensed()
    server = Server()
    holder = Holder(MALLORY, server)
    holder.segment()
    with wearing(MALLORY):
        with open(f"{home(MALLORY)}/a\\012b", "wb") as file:
            file.truncate(1 << 20)
        os.symlink(secret, f"{home(MALLORY)}/a\nb")
    opens = Opens(secret)
    holder.hold(f"{home(MALLORY)}/a\\012b")
    with open(f"/proc/{holder.pid}/maps") as file:
        base = next(int(line.split("-")[0], 16) for line in file if "012b" in line)
    body = "".join(f"{address:#x}\n" for address in range(base, base + 0x6000, 8)).encode()
    status, answer = ask(MALLORY, server, f"/v1/processes/{holder.pid}/query", method="POST", body=body)
    check("the addresses are answered", status == 200 and answer.count(b"\n") == 3072, (status, answer[:200]))
    check("nothing is told of a file that only root may read", SYMBOL.encode() not in answer)
    check("no file is opened that the segment's user may not open", opens.seen() == [])


def mapped_by_root(check):
    """A process of root's has mapped a file of mallory's: as data, or as code. Root's worker takes apart code alone,
    whose owner has root's rights already."""
    server = Server()
    path = f"{home(MALLORY)}/mallorys.so"
    elves.compile("int a_function_of_mallorys(int x) { return x * 3; }", path, "-g")
    os.chown(path, MALLORY, MALLORY)

    def answer(opening):
        program = Program(ROOT, [sys.executable, "-c", f"import ctypes, mmap, time\npath = {path!r}\n{opening}\n"
                                 "print(0, flush=True)\ntime.sleep(600)"])  # fmt: skip
        with open(f"/proc/{program.pid}/maps") as file:
            parts = [line.split()[0].split("-") for line in file if line.rstrip().endswith("mallorys.so")]
        places = [address for start, end in parts for address in range(int(start, 16), int(end, 16), 8)]
        body = "".join(f"{address:#x}\n" for address in places).encode()
        status, text = ask(ROOT, server, f"/v1/processes/{program.pid}/query", method="POST", body=body)
        check("the addresses are answered", status == 200 and b"mallorys.so" in text and len(places) > 1000,
              (status, text[:200]))  # fmt: skip
        program.end()
        return text

    data = answer("file = open(path, 'rb')\nheld = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)")
    check("nothing is told of what is in a file that is data", b"a_function_of_mallorys" not in data)
    code = answer("held = ctypes.CDLL(path)")
    check("a function of a file that is executed is told", b"a_function_of_mallorys" in code, code[:300])


def exchanged(check):
    """Names that are exchanged while they are looked at: regular files for pipes, devices and links to root's files."""
    secret = licensed()
    os.mkfifo("/dev/shm/roots/pipe", 0o600)
    server = Server()
    holder = Holder(MALLORY, server)
    count = 60
    elf = elves.File(0x8000).add(".text", elves.PROGBITS, bytes(0x1000), address=0x1000, flags=6).bytes()
    with wearing(MALLORY):
        for name in ("good", "bad"):
            os.mkdir(f"{home(MALLORY)}/{name}")
        for index in range(count):
            with open(f"{home(MALLORY)}/good/{index}.so", "wb") as file:
                file.write(elf)
            bad = f"{home(MALLORY)}/bad/{index}.so"
            if index % 3 == 0:
                os.mkfifo(bad, 0o600)
            else:
                os.symlink(secret if index % 3 == 1 else "/dev/shm/roots/pipe", bad)
    pipes = [f"{home(MALLORY)}/bad/{index}.so" for index in range(0, count, 3)]
    opens = Opens(secret, "/dev/shm/roots/pipe", *pipes)
    racer = start(MALLORY, [f"{TOOLS}/exchange", home(MALLORY), "good", "bad"])
    answers = ask_about(server, holder, [f"{home(MALLORY)}/good/{index}.so" for index in range(count)])
    stage.end(racer)
    check("each question is answered", all(status == 200 for status, _ in answers),
          [answer for answer in answers if answer[0] != 200][:2])  # fmt: skip
    check("nothing is told of a file that only root may read", SYMBOL not in str(answers))
    check("no pipe and no file of root's is opened between a look and an opening", (seen := opens.seen()) == [], seen)
    check("the server lives", server.lives, server.said()[-500:])


def by_roots_tools(check):
    """Root's own allocsctl, without a server, about mallory's segment: it opens what she may open."""
    os.mkdir("/dev/shm/roots", 0o700)
    os.mkfifo("/dev/shm/roots/pipe", 0o600)
    holder = Holder(MALLORY)
    with wearing(MALLORY):
        os.mkfifo(f"{home(MALLORY)}/pipe", 0o600)
    made = holder.segment()
    made.arena(0, 0)
    for section in ("NODES", "CONTEXTS"):
        made.use(section, 100)
    paths = ["/dev/shm/roots/pipe", f"{home(MALLORY)}/pipe", "/dev/zero"]
    for index, path in enumerate(paths):
        base = 0x100000 * (index + 1)
        made.module(index, base, base + 0x8000, path.encode())
        made.node(index + 1, base + 0x1100, 0)
        made.context(index + 1, index + 1)
        made.block(0, BLOCK + 64 * index, 48, index + 1)
    opens = Opens(*paths)
    addresses = [f"{BLOCK + 64 * index:#x}" for index in range(len(paths))]
    status, output, errors = stage.control(ROOT, "query", str(holder.pid), *addresses, "--direct")
    check("root's question is answered", status == 0 and output.count("48") >= 3, (status, output, errors))
    check("no pipe and no device is opened", (seen := opens.seen()) == [], seen)



def made_code(check):
    """The file by which a JIT compiler names its code (/tmp/perf-PID.map): one of root's, a pipe, a link, and names
    that are exchanged for these while her worker, and root's tool, look."""
    server = Server()
    holder = Holder(MALLORY, server)
    made = holder.segment()
    made.arena(0, 0)
    for section in ("NODES", "CONTEXTS"):
        made.use(section, 100)
    made.node(1, 0x70001101, 0)
    made.context(1, 1)
    made.block(0, BLOCK, 48, 1)
    name = f"/tmp/perf-{holder.pid}.map"
    others = [f"/tmp/{kind}-{holder.pid}-of-attack" for kind in ("pipe", "link", "roots")]
    target = f"/v1/processes/{holder.pid}/query?address={BLOCK:#x}"
    line = "70001000 1000 {}\n"
    try:
        with open(others[2], "w") as file:
            file.write(line.format(SYMBOL))
        os.chmod(others[2], 0o644)
        with wearing(MALLORY):
            with open(name, "w") as file:
                file.write(line.format("code_of_mallorys_own"))
            os.mkfifo(others[0], 0o600)
            os.symlink(others[2], others[1])
        answer = ask(MALLORY, server, target)[1]
        check("her own file names her code", b"code_of_mallorys_own" in answer, answer[:400])
        opens = Opens(others[0], others[2])
        names = [os.path.basename(path) for path in (name, *others[:2])]
        racer = start(MALLORY, [f"{TOOLS}/exchange", "/tmp", *names])
        answers, over = [], time.monotonic() + 4
        while time.monotonic() < over:
            answers.append(ask(MALLORY, server, target))
            status, output, errors = stage.control(ROOT, "query", str(holder.pid), f"{BLOCK:#x}", "--direct")
            answers.append((200 if status == 0 else status, output + errors))
        stage.end(racer)
        check("each question is answered", all(status == 200 for status, _ in answers),
              [answer for answer in answers if answer[0] != 200][:2])  # fmt: skip
        check("no link is followed to another's file", SYMBOL not in str(answers))
        check("no pipe and no file of another's is opened", (seen := opens.seen()) == [], seen)
        # In the name's place itself, where mallory can't put it.
        os.rename(others[2], name)
        time.sleep(1.1)
        answer = str(stage.control(ROOT, "query", str(holder.pid), f"{BLOCK:#x}", "--direct")) + str(
            ask(MALLORY, server, target))
        check("a file of another user's names nothing", SYMBOL not in answer, answer[:400])
    finally:
        for path in (name, *others):
            if os.path.lexists(path):
                os.unlink(path)
    check("the server lives", server.lives, server.said()[-500:])


scenes = {
    "files-made-code": made_code,
    "files-named": named,
    "files-mapped": mapped,
    "files-mapped-by-root": mapped_by_root,
    "files-exchanged": exchanged,
    "files-of-tools": by_roots_tools,
}
