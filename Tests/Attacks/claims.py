# SPDX-License-Identifier: Apache-2.0
"""Kind A: who a segment is of. Each claim of it lies in turn: name, header, owner, directory, process, control file.

The victim is bob's program, with a secret in its environment, or a process of root's. Whatever mallory makes, she must
not be told of it: not its mappings, not its environment. And neither bob nor root may be told of hers in its place.
"""

import contextlib
import os
import struct
import subprocess

import segments
import stage
from stage import BOB, MALLORY, ROOT, TOOLS, Holder, Program, Server, ask, home, place, start, start_time, wearing

SECRET = "SECRET-OF-THE-VICTIM"


def ranges(pid):
    """(start, end, path) of each mapping of the process."""
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            words = line.split(maxsplit=5)
            first, last = words[0].split("-")
            yield int(first, 16), int(last, 16), words[5].strip() if len(words) > 5 else ""


def leak(server, pid, victim, user=MALLORY):
    """What the user is told of the victim by questions about the process `pid`: an empty list, as it should be."""
    mapped = list(ranges(victim))
    stack = next(last for _, last, path in mapped if path == "[stack]")
    addresses = [first for first, _, _ in mapped] + list(range(stack - 8192, stack, 8))
    body = "".join(f"{address:#x}\n" for address in addresses).encode()
    answers = ask(user, server, f"/v1/processes/{pid}/query", method="POST", body=body)[1]
    answers += ask(user, server, f"/v1/processes/{pid}")[1] + ask(user, server, f"/v1/processes/{pid}/top")[1]
    # Where the program lies is random, but for what every process has at one place.
    own = [f'"start":"{first:#x}"' for first, _, path in mapped if not path.startswith("[vsyscall")]
    return [word for word in [SECRET, *own] if word.encode() in answers]


def inside():
    """A process of mallory's in a pid namespace, where it has the number 1: what started it, and its number here."""
    outer = start(ROOT, ["unshare", "--pid", "--fork", "--kill-child", "setpriv", f"--reuid={MALLORY}",
                         f"--regid={MALLORY}", "--clear-groups", f"{TOOLS}/hold"], stdin=subprocess.PIPE,
                  stdout=subprocess.PIPE)  # fmt: skip

    def child():
        with open(f"/proc/{outer.pid}/task/{outer.pid}/children") as file:
            return file.read().split()

    process = int(stage.wait("a process in a pid namespace", child)[0])
    stage.wait("it is mallory's", lambda: os.stat(f"/proc/{process}").st_uid == MALLORY)
    return outer, process


def hold(outer, path):
    """Has the process in the namespace hold the file."""
    outer.stdin.write(f"{path}\n".encode())
    outer.stdin.flush()
    return outer.stdout.readline() == b"held\n"


class Scene:
    """A server, bob's program, and mallory who is known to the server."""

    def __init__(self, check, options=(), old=False):
        self.check = check
        if old:
            stage.old_layout()
        self.server = Server(*options)
        self.bob = Program(BOB, environment={"PASSWORD": SECRET})
        self.bob_start = start_time(self.bob.pid)

    def holder(self):
        return Holder(MALLORY, self.server)

    def expect_nothing(self, what, pid, victim=None):
        told = leak(self.server, pid, victim or self.bob.pid)
        self.check(f"{what}: nothing is told of the victim", not told, told[:3])

    def expect_service(self, what):
        """Bob and root are answered, about bob's own process."""
        for user in (BOB, ROOT):
            status, answer = ask(user, self.server, self.bob.query)
            right = status == 200 and b'"kind":"heap"' in answer and b'"size":96' in answer
            self.check(f"{what}: {'bob' if user else 'root'} is answered about bob's program", right,
                       (status, answer[:300]))  # fmt: skip


def names_and_headers(check, old):
    scene = Scene(check, old=old)
    server, bob = scene.server, scene.bob
    check("mallory's own segment is answered about", *own_segment(scene))
    check("bob's own questions tell what mallory's must not",
          SECRET in (told := leak(server, bob.pid, bob.pid, BOB)) and len(told) > 5, told)  # fmt: skip

    liar = scene.holder()
    liar.segment(pid=bob.pid)
    scene.expect_nothing("a header that names another process", liar.pid)
    liar = scene.holder()
    liar.segment(pid=bob.pid, start=scene.bob_start)
    scene.expect_nothing("a header that names another process and its start", liar.pid)
    liar = scene.holder()
    liar.segment(start=scene.bob_start)
    scene.expect_nothing("a header with another start than its name", liar.pid)

    # The header is right when the segment is first asked about, and lies from then on.
    liar = scene.holder()
    made = liar.segment()
    ask(MALLORY, server, f"/v1/processes/{liar.pid}")
    made.set("pid", "<I", bob.pid)
    made.set("start_time", "<Q", scene.bob_start)
    scene.expect_nothing("a header that changes after it was listed", liar.pid)
    liar = scene.holder()
    made = liar.segment()
    ask(MALLORY, server, f"/v1/processes/{liar.pid}")
    made.set("boottime_offset", "<q", (liar.start - scene.bob_start) * 10**7)
    scene.expect_nothing("clocks of a header that change after it was listed", liar.pid)

    # A file of the victim's own name, among mallory's files; the header's clocks make any start fit.
    for what, options in (
        ("a file of the victim's name", {}),
        ("a file of the victim's name, with clocks that shift the start", {"clocks": (0, 10**15)}),
    ):
        name = f"{place(MALLORY, server)}/{bob.pid}.{scene.bob_start + 7}.seg"
        liar = scene.holder()
        liar.segment(pid=bob.pid, start=scene.bob_start + 7, name=name, **options)
        scene.expect_nothing(what, bob.pid)
        scene.expect_service(what)
        with wearing(MALLORY):
            os.unlink(name)
    with contextlib.suppress(OSError):
        if not old:
            liar = scene.holder()
            name = f"{place(MALLORY, server)}/{bob.pid}.{scene.bob_start}.seg"
            liar.segment(pid=bob.pid, start=scene.bob_start, name=name)
            scene.expect_nothing("a file of the victim's name and start", bob.pid)
            scene.expect_service("a file of the victim's name and start")

    status, answer = ask(MALLORY, server, "/v1/processes")
    mine = [row for row in stage.objects(answer)[0]["processes"] if row.get("uid") != MALLORY] if status == 200 else []
    check("a list has no process of another user's", status == 200 and mine == [], (status, mine))
    check("the server lives", server.lives, server.said()[-500:])


def own_segment(scene):
    holder = scene.holder()
    holder.segment()
    status, answer = ask(MALLORY, scene.server, f"/v1/processes/{holder.pid}/query?address=0x10")
    return status == 200 and b'"kind":"unmapped"' in answer, (status, answer[:300], scene.server.said()[-600:])


def processes(check, old):
    scene = Scene(check, old=old)
    server = scene.server

    # A program that has gained root's rights, which its user may not look into.
    subprocess.run(["cp", f"{TOOLS}/hold", "/dev/shm/setuid"], check=True)
    os.chmod("/dev/shm/setuid", 0o4755)
    gained = start(MALLORY, ["/dev/shm/setuid"], {"PASSWORD": SECRET}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    when = start_time(gained.pid)
    liar = scene.holder()
    liar.segment(pid=gained.pid, start=when, name=f"{place(MALLORY, server)}/{gained.pid}.{when}.seg", publish=False)
    path = f"{place(MALLORY, server)}/{gained.pid}.{when}.seg"
    gained.stdin.write(f"{path}.new\n".encode())
    gained.stdin.flush()
    with wearing(MALLORY):
        os.rename(f"{path}.new", path)
    scene.expect_nothing("a program that has gained root's rights", gained.pid, gained.pid)

    # A number of another pid namespace, which is here the number of a process of root's: the stage's own.
    inner, process = inside()
    began = start_time(process)
    name = f"{place(MALLORY, server)}/1.{began}.seg"
    scene.holder().segment(pid=1, start=began, name=name, publish=False)
    hold(inner, f"{name}.new")
    with wearing(MALLORY):
        os.rename(f"{name}.new", name)
    scene.expect_nothing("a number of another pid namespace", 1, 1)

    # A number that was mallory's and is now root's.
    gone = scene.holder()
    gone.segment()
    gone.process.kill()
    gone.process.wait()
    # Threads of the server take numbers, too: it may need some tries.
    for _ in range(100):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(gone.pid - 1))
        heir = start(ROOT, ["sleep", "1000"], {"PASSWORD": SECRET})
        if heir.pid == gone.pid:
            break
        stage.end(heir)
    else:
        raise stage.Missing(f"the number {gone.pid} could not be had again")
    scene.expect_nothing("a number that another process has now", heir.pid, heir.pid)
    when = start_time(heir.pid)
    with wearing(MALLORY):
        os.rename(gone.path(), f"{gone.directory}/{heir.pid}.{when}.seg")
        # A sweep may have taken the right to write away.
        os.chmod(f"{gone.directory}/{heir.pid}.{when}.seg", 0o600)
        descriptor = os.open(f"{gone.directory}/{heir.pid}.{when}.seg", os.O_RDWR)
        os.pwrite(descriptor, struct.pack("<Q", when), segments.numbers["allocs_header.start_time"])
        os.close(descriptor)
    scene.expect_nothing("a number that another process has now, with its start", heir.pid, heir.pid)
    scene.expect_service("afterwards")
    check("the server lives", server.lives, server.said()[-500:])


def control_files(check, old):
    scene = Scene(check, old=old)
    server, bob = scene.server, scene.bob
    theirs = bob.segment[:-3] + "ctl"
    descriptor = os.open(theirs, os.O_RDONLY)

    def word():
        return struct.unpack("<I", os.pread(descriptor, 4, 0))[0]

    def consumers():
        return os.pread(descriptor, 8 * 64, segments.numbers["allocs_control.consumers"])

    untouched = consumers()

    def expect_untouched(what, liar, policy="lossless"):
        """A stream of the liar's events writes nothing into bob's file."""
        connection = stage.act(MALLORY, lambda: stream(server, liar.pid, policy, descriptor, untouched))
        check(f"{what}: bob's control file is not written", connection == "untouched" and word() == 0
              and consumers() == untouched, (connection, word()))  # fmt: skip

    for what, link in (("a symbolic link", os.symlink), ("a hard link", os.link)):
        liar = scene.holder()
        with contextlib.suppress(PermissionError, FileNotFoundError):
            with wearing(MALLORY):
                link(theirs, liar.path("ctl"))
        liar.segment(capacities={"RINGS": 4})
        expect_untouched(f"a control file that is {what} to another user's", liar)
    liar = scene.holder()
    with contextlib.suppress(PermissionError, FileNotFoundError):
        with wearing(MALLORY):
            os.link(theirs, liar.path("ctl"))
    liar.segment(pid=bob.pid, start=scene.bob_start, capacities={"RINGS": 4})
    expect_untouched("another's control file under a header that names its process", liar)

    # A control file of mallory's that the server writes, and that then becomes a segment.
    first, second = scene.holder(), scene.holder()
    made = first.segment(control=True, capacities={"RINGS": 4})
    connection = stage.act(MALLORY, lambda: opened(server, first.pid))
    with wearing(MALLORY):
        with contextlib.suppress(OSError):
            os.rename(first.path("ctl"), second.path())
    scene.expect_nothing("a control file that becomes a segment", second.pid, server.process.pid)
    os.close(made.control)
    scene.expect_service("afterwards")
    check("the server lives", server.lives, (connection, server.said()[-500:]))


def stream(server, pid, policy, descriptor, untouched):
    """Asks for events, and says whether bob's control file changed meanwhile."""
    try:
        connection = stage.raw(server.socket, f"/v1/processes/{pid}/events?policy={policy}")
        connection.settimeout(2)
        answer = connection.recv(200)
        if b" 200 " in answer:
            # Attached: what it wrote, it has written.
            stage.time.sleep(0.3)
        now = os.pread(descriptor, 8 * 64, segments.numbers["allocs_control.consumers"])
        return "untouched" if now == untouched else "written"
    except TimeoutError:
        return "untouched"


def opened(server, pid):
    """Whether a stream of events began."""
    connection = stage.raw(server.socket, f"/v1/processes/{pid}/events")
    connection.settimeout(2)
    try:
        return b" 200 " in connection.recv(200)
    except TimeoutError:
        return False


def users(check):
    """The header's word of its user, and a program of mallory's that bob has started: both are in it."""
    scene = Scene(check)
    server = scene.server
    for user in (BOB, ROOT):
        liar = scene.holder()
        liar.segment().set("uid", "<I", user)
        what = f"a header with the user id {user}"
        status, answer = ask(user, server, f"/v1/processes/{liar.pid}")
        check(f"{what}: whoever has it is told of no process of theirs", status in (403, 404) if user else
              status == 200 and b'"uid":%d' % MALLORY in answer, (status, answer[:300]))  # fmt: skip
        for asker in (MALLORY, ROOT):
            status, answer = ask(asker, server, "/v1/processes")
            rows = [row["uid"] for row in stage.objects(answer)[0]["processes"] if row["pid"] == liar.pid]
            check(f"{what}: the list of user {asker} has the file's owner", rows == [MALLORY], (status, rows))

    subprocess.run(["cp", f"{TOOLS}/hold", "/dev/shm/of-mallory"], check=True)
    os.chown("/dev/shm/of-mallory", MALLORY, MALLORY)
    os.chmod("/dev/shm/of-mallory", 0o4755)
    both = start(BOB, ["/dev/shm/of-mallory"], {"PASSWORD": SECRET}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stage.wait("the program can be looked into", lambda: os.stat(f"/proc/{both.pid}").st_uid == MALLORY)
    name = f"{place(MALLORY, server)}/{both.pid}.{start_time(both.pid)}.seg"
    scene.holder().segment(pid=both.pid, start=start_time(both.pid), name=name, publish=False, held=False)
    both.stdin.write(f"{name}.new\n".encode())
    both.stdin.flush()
    check("the program has the segment", both.stdout.readline() == b"held\n")
    with wearing(MALLORY):
        os.rename(f"{name}.new", name)
    scene.expect_nothing("a program with mallory's rights that bob has started", both.pid, both.pid)
    told = leak(server, both.pid, both.pid, BOB)
    check("bob is told nothing of a segment of mallory's beside it", not told, told[:3])
    scene.expect_service("afterwards")
    check("the server lives", server.lives, server.said()[-500:])


def mapped_by_root(check):
    """Root's own tool maps a control file of mallory's for writing, and the file then becomes a segment: its process,
    by the mapping, or by the header, is the tool."""
    scene = Scene(check)
    server = scene.server
    recorded, named, found = scene.holder(), scene.holder(), scene.holder()
    made = recorded.segment(control=True, capacities={"RINGS": 4})
    consumers = segments.numbers["allocs_control.consumers"]
    untouched = os.pread(made.control, 8 * 64, consumers)
    tool = start(ROOT, [f"{stage.BIN}/allocsctl", "record", str(recorded.pid), "-o", "/dev/shm/r.rec", "--duration",
                        "1h"], {"PASSWORD": SECRET}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    stage.wait("root's tool has the control file", lambda: os.pread(made.control, 8 * 64, consumers) != untouched)
    check("what root's tool has mapped is seen", any(path == recorded.path("ctl") for _, _, path in ranges(tool.pid)))
    with wearing(MALLORY):
        os.rename(recorded.path("ctl"), found.path())
        segments.Segment(found.path(), found.pid, found.start, uid=MALLORY)
    scene.expect_nothing("a control file that root's tool has mapped, as a segment", found.pid, tool.pid)
    with wearing(MALLORY):
        os.rename(found.path(), named.path())
        segments.Segment(named.path(), tool.pid, start_time(tool.pid), uid=MALLORY)
    scene.expect_nothing("the same with the tool in its header", named.pid, tool.pid)
    name = f"{place(MALLORY, server)}/{tool.pid}.{start_time(tool.pid)}.seg"
    with wearing(MALLORY):
        os.rename(named.path(), name)
    scene.expect_nothing("the same with the tool in its name", tool.pid, tool.pid)
    check("root's tool goes on", tool.poll() is None)
    stage.end(tool)
    scene.expect_service("afterwards")
    check("the server lives", server.lives, server.said()[-500:])


def files_of_processes(check):
    """A process in another pid namespace is known by the file that it has mapped: by device and number of the file.
    Another process has a file of that number on another device."""
    server = Server()
    own = place(MALLORY, server)

    def told(process):
        stack = next(first for first, _, path in ranges(process) if path == "[stack]")
        target = f"/v1/processes/1@{start_time(process)}/query?address={stack:#x}"
        status, answer = ask(MALLORY, server, target)
        return status, b"[stack]" in answer, answer[:300]

    def number(path):
        with wearing(MALLORY):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return os.stat(path).st_ino

    honest, process = inside()
    name = f"{own}/1.{start_time(process)}.seg"
    Holder(MALLORY, server).segment(pid=1, start=start_time(process), name=name, held=False, publish=False)
    check("a process has a segment", hold(honest, f"{name}.new"))
    with wearing(MALLORY):
        os.rename(f"{name}.new", name)
    status, is_told, seen = told(process)
    check("the process that has the very file is found", status == 200 and is_told, (status, seen))

    # Numbers of files only grow, on each of the two.
    lowest, index = number(f"{home(MALLORY)}/0"), 0
    while number(f"{own}/{index}") <= lowest:
        index += 1
    lying, process = inside()
    name = f"{own}/1.{start_time(process)}.seg"
    holder = Holder(MALLORY, server)
    holder.segment(pid=1, start=start_time(process), name=name)
    wanted, index = os.stat(name).st_ino, 1
    while number(f"{home(MALLORY)}/{index}") < wanted:
        index += 1
    twin = f"{home(MALLORY)}/{index}"
    os.truncate(twin, 1 << 20)
    check("there are two files of one number", os.stat(twin).st_ino == os.stat(name).st_ino
          and os.stat(twin).st_dev != os.stat(name).st_dev)  # fmt: skip
    check("another process has the other file", hold(lying, twin))
    status, is_told, seen = told(process)
    check("a file of that number on another device is not taken for the segment's", status == 200 and not is_told,
          (status, seen))  # fmt: skip
    for one in (honest, lying):
        stage.end(one)
    check("the server lives", server.lives, server.said()[-500:])


def directories_of_others(check):
    """The name of bob's directory is taken by mallory before he comes, in each way; no server runs."""
    for what, make in (
        ("a directory of mallory's", lambda path: os.mkdir(path, 0o777)),
        ("a link to a directory of mallory's", lambda path: os.symlink(home(MALLORY), path)),
        ("a file", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))),
    ):
        name = f"/dev/shm/allocs-{BOB}"
        with wearing(MALLORY):
            os.umask(0)
            make(name)
        status, output, errors = stage.control(BOB, "run", "--", "/bin/echo", "ran")
        check(f"{what} in place of bob's: his program runs, or he is told why not", output == "ran\n"
              or status == 1 and "start allocsd as root" in errors, (status, output, errors))  # fmt: skip
        plain = stage.run(BOB, ["/bin/echo", "ran"], {"LD_PRELOAD": f"{stage.BIN}/liballocs_agent.so"})
        check(f"{what} in place of bob's: a program that has the agent already runs", plain[1] == "ran\n", plain)
        found = os.listdir(home(MALLORY)) + (os.listdir(name) if os.path.isdir(name) else [])
        check(f"{what} in place of bob's: no segment of his is put there",
              not [entry for entry in found if entry.endswith((".seg", ".ctl"))], found)  # fmt: skip
        status, output, errors = stage.control(BOB, "ps")
        check(f"{what} in place of bob's: his tools end in words", status in (0, 1), (status, errors))
        with wearing(MALLORY):
            subprocess.run(["rm", "-rf", name], check=True)


scenes = {
    "claims-names": lambda check: names_and_headers(check, old=False),
    "claims-names-shared": lambda check: names_and_headers(check, old=True),
    "claims-processes": lambda check: processes(check, old=False),
    "claims-processes-shared": lambda check: processes(check, old=True),
    "claims-control": lambda check: control_files(check, old=False),
    "claims-control-shared": lambda check: control_files(check, old=True),
    "claims-users": users,
    "claims-mapped-by-root": mapped_by_root,
    "claims-files": files_of_processes,
    "claims-directories": directories_of_others,
}
