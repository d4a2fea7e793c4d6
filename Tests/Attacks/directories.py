# SPDX-License-Identifier: Apache-2.0
"""Kind C: directories that others may write, and every system call there that takes a path, with the name exchanged in
between."""

import contextlib
import os
import socket
import stat
import subprocess
import time

import silent
import stage
from stage import (BIN, BOB, MALLORY, ROOT, TOOLS, Holder, Pulse, Program, Server, ask, control, home, place, start,
                   start_time, wearing)  # fmt: skip


def shadow(name="/dev/shm/shadow"):
    """A file of root's whose mode, owner and content nothing here may change."""
    with open(name, "w") as file:
        file.write("secret\n")
    os.chmod(name, 0o600)
    state = os.stat(name)

    def untouched():
        now = os.stat(name)
        with open(name) as file:
            return (now.st_mode, now.st_uid, now.st_ino, now.st_nlink, file.read()) == (
                state.st_mode, 0, state.st_ino, state.st_nlink, "secret\n")  # fmt: skip

    return untouched


def in_anothers_directory(check, rounds):
    """There is no /run/allocs yet, and mallory made /dev/shm/allocs before root starts a server: she exchanges the
    socket, its lock and whatever else is made there for links."""
    untouched = shadow()
    for number in range(rounds):
        with wearing(MALLORY):
            os.umask(0)
            os.mkdir("/dev/shm/allocs", 0o777)
            os.symlink("/dev/shm/shadow", "/dev/shm/allocs/link")
            if number % 2:
                os.symlink("/dev/shm/shadow", "/dev/shm/allocs/allocsd.sock")
                os.symlink("/dev/shm/shadow", "/dev/shm/allocs/allocsd.0.sweeps")
        racer = start(MALLORY, [f"{TOOLS}/exchange", "/dev/shm/allocs", "link", "allocsd.sock", "allocsd.0.sweeps"])
        server = Server(ready=False)
        # How far it comes meanwhile is what varies.
        time.sleep(0.15)
        server.end()
        stage.end(racer)
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["rm", "-rf", "/dev/shm/allocs"], check=True)
    check("root's file keeps its mode, owner and content", untouched())
    status, output, errors = control(ROOT, "ps")
    check("root's tools end in words", status in (0, 1), (status, errors))


def socket_names(check):
    """Something of mallory's stands at the socket's name in the old, shared directory before root's server comes."""
    stage.old_layout()
    untouched = shadow()
    name = "/run/allocs/allocsd.sock"

    def listen(queue):
        listener = socket.socket(socket.AF_UNIX)
        with wearing(MALLORY):
            listener.bind(name)
            os.chmod(name, 0o666)
        listener.listen(queue)
        return listener

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nFAKE"

    def false_server(send, _):
        listener = socket.socket(socket.AF_UNIX)
        os.umask(0)
        listener.bind(name)
        listener.listen(5)
        send("listens")
        while True:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()

    false = stage.Actor(MALLORY, false_server)
    false.receive(20)
    for user in (ROOT, BOB):
        status, output, errors = control(user, "ps")
        check(f"{'bob' if user else 'root'}'s allocsctl passes over a server of mallory's",
              "FAKE" not in output + errors and status in (0, 1), (status, output, errors))  # fmt: skip
    check_start(check, "a server of mallory's", ROOT)
    false.end()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    listener = listen(0)
    held = []
    for _ in range(3):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(name)
        held.append(client)
    for user in (ROOT, BOB):
        before = time.monotonic()
        status, output, errors = control(user, "ps")
        check(f"{'bob' if user else 'root'}'s allocsctl waits for no full queue", status in (0, 1),
              (status, time.monotonic() - before, errors))  # fmt: skip
    check_start(check, "a socket of mallory's whose queue is full", ROOT)
    listener.close()

    for what, make in (
        ("a link to root's file", lambda: os.symlink("/dev/shm/shadow", name)),
        ("a link to nothing", lambda: os.symlink("/run/nothing", name)),
        ("a file", lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666))),
        ("a pipe", lambda: os.mkfifo(name, 0o666)),
        ("a directory", lambda: os.makedirs(f"{name}/inside")),
    ):
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["rm", "-rf", name], check=True)
        with wearing(MALLORY):
            make()
        check_start(check, f"{what} of mallory's", ROOT)
        subprocess.run(["rm", "-rf", name], check=True)
    lock = start(MALLORY, ["flock", "/run/allocs", "sleep", "1000"])
    stage.wait("the directory is locked", lambda: os.path.exists(f"/proc/{lock.pid}/task/{lock.pid}/children")
               and open(f"/proc/{lock.pid}/task/{lock.pid}/children").read())  # fmt: skip
    check_start(check, "a lock of mallory's on the directory", ROOT)
    stage.end(lock)
    check("root's file keeps its mode, owner and content", untouched() and not os.path.exists("/run/nothing"))


def socket_exchanged(check, seconds):
    """In the old, shared directory a false server's socket of mallory's takes turns with links: to a socket of root's,
    and to a file. Those who connect ask nobody but root's server, and root's server starts amid that."""
    stage.old_layout()
    server = Server()
    os.rename(server.socket, "/run/allocs/roots.sock")
    untouched = shadow()
    asked = []

    def false_server(send, receive):
        listener = socket.socket(socket.AF_UNIX)
        os.umask(0)
        listener.bind("/run/allocs/allocsd.sock")
        listener.listen(50)
        os.symlink("/run/allocs/roots.sock", "/run/allocs/link-1")
        os.symlink("/dev/shm/shadow", "/run/allocs/link-2")
        send("listens")
        listener.settimeout(0.05)
        over, count = time.monotonic() + seconds, 0
        while time.monotonic() < over:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(0.05)
                count += connection.recv(1000) != b""
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nFAKE")
                connection.close()
        send(count)

    false = stage.Actor(MALLORY, false_server)
    false.receive(20)
    racer = start(MALLORY, [f"{TOOLS}/exchange", "/run/allocs", "allocsd.sock", "link-1", "link-2"])
    over = time.monotonic() + seconds - 0.5
    while time.monotonic() < over:
        for user in (ROOT, BOB):
            status, output, errors = control(user, "ps")
            if "FAKE" in output + errors or status not in (0, 1):
                asked.append((user, status, output[:100], errors[:100]))
    check("nobody believes a socket of mallory's", not asked, asked[:2])
    check("no question comes to mallory's server", (count := false.receive(20)) == 0, count)
    server.end()
    check_start(check, "names that mallory exchanges", ROOT)
    stage.end(racer)
    false.end()
    check("root's file keeps its mode, owner and content", untouched())


def check_start(check, what, user):
    """Root's server starts in spite of that, and what listens then is root's."""
    try:
        server = Server()
    except stage.Missing as problem:
        check(f"{what} at the socket's name: root's server starts", False, problem)
        return
    owner = os.stat(server.socket).st_uid
    status, answer = ask(user, server, "/v1/processes")
    check(f"{what} at the socket's name: root's server starts", owner == 0 and status == 200 and b"FAKE" not in answer,
          (owner, status, answer[:100]))  # fmt: skip
    server.process.terminate()
    server.process.wait(10)


def exchanged(check, seconds):
    """Mallory exchanges her segment, her control file and her directory for links to others' while all are asked."""
    root_secret = Program(ROOT)
    server = Server()
    bob = Program(BOB)
    own = place(MALLORY, server)
    untouched = shadow()
    with wearing(MALLORY):
        os.mkdir(f"{home(MALLORY)}/stock")
    holder = Holder(MALLORY, server)
    holder.segment(control=True, capacities={"RINGS": 2})
    name = os.path.basename(holder.path())
    with wearing(MALLORY):
        os.symlink(root_secret.segment, f"{own}/other-1")
        os.mkfifo(f"{own}/other-2", 0o600)
        os.symlink(bob.segment[:-3] + "ctl", f"{own}/other-3")
        os.symlink("/dev/shm/shadow", f"{own}/other-4")
    racers = [
        start(MALLORY, [f"{TOOLS}/exchange", own, name, "other-1", "other-2"]),
        start(MALLORY, [f"{TOOLS}/exchange", own, name[:-3] + "ctl", "other-3", "other-4"]),
    ]
    control_word = os.open(bob.segment[:-3] + "ctl", os.O_RDONLY)
    before = os.pread(control_word, 640, 0)
    statuses, secrets, over, failures = set(), [], time.monotonic() + seconds, []
    theirs = f'"pid":{root_secret.pid},'.encode()
    while time.monotonic() < over:
        for target in (f"/v1/processes/{holder.pid}", f"/v1/processes/{holder.pid}/query?address={root_secret.block}",
                       "/v1/processes"):  # fmt: skip
            status, answer = ask(MALLORY, server, target)
            statuses.add(status)
            if theirs in answer or b'"kind":"heap"' in answer:
                secrets.append(answer[:200])
        with contextlib.suppress(OSError):
            client = stage.act(MALLORY, lambda: stage.raw(server.socket, f"/v1/processes/{holder.pid}/events").close())
            del client
        status, answer = ask(BOB, server, bob.query)
        if status != 200 or b'"kind":"heap"' not in answer:
            failures.append((status, answer[:200]))
    for racer in racers:
        stage.end(racer)
    check("mallory is told of no process of another's", not secrets and 0 not in statuses, (secrets[:1], statuses))
    check("bob is answered all along", not failures, failures[:2])
    check("bob's control file is not written", os.pread(control_word, 640, 0) == before)
    check("root's file keeps its mode, owner and content", untouched())
    check("the server lives", server.lives, server.said()[-500:])


def directory_exchanged(check, seconds):
    """The same with a whole directory that its user may rename: /dev/shm/allocs-UID, where no server of root's runs."""
    bob, roots = Program(BOB), Program(ROOT)
    theirs, other = os.path.dirname(bob.segment), f"/dev/shm/allocs-{MALLORY}"
    with wearing(MALLORY):
        os.makedirs(other, 0o700, exist_ok=True)
        os.symlink(theirs, "/dev/shm/link-1")
        os.symlink(os.path.dirname(roots.segment), "/dev/shm/link-2")
    before = sorted(os.listdir(theirs))
    racer = start(MALLORY, [f"{TOOLS}/exchange", "/dev/shm", f"allocs-{MALLORY}", "link-1", "link-2"])
    over, seen = time.monotonic() + seconds, []
    while time.monotonic() < over:
        for user, words in (
            (ROOT, ("ps",)), (ROOT, ("prune",)), (MALLORY, ("ps",)), (MALLORY, ("run", "--", "/bin/true")),
            (MALLORY, ("prune",)),
        ):  # fmt: skip
            status, output, errors = control(user, *words)
            if status not in (0, 1) or user and (bob.block in output or f"\n{bob.pid} " in output):
                seen.append((user, words, status, output[:200], errors[:200]))
    stage.end(racer)
    check("tools end in words, and tell of no other's process", not seen, seen[:2])
    now = sorted(entry for entry in os.listdir(theirs) if not entry.startswith("allocsd."))
    check("nothing of mallory's is put into bob's directory, and nothing of his removed", set(before) <= set(now)
          and all(os.stat(f"{theirs}/{entry}").st_uid in (0, BOB) for entry in now), (before, now))  # fmt: skip
    status, output, _ = control(BOB, "query", str(bob.pid), bob.block)
    check("bob is answered about his program", status == 0 and "96" in output, (status, output))


def dead_segments(check, files):
    """Mallory's files neither remove nor hide what bob's crash has left, whatever they are called."""
    stage.old_layout()
    server = Server("--keep-dead-count", "50", "--look-every", "1s")
    crashed = start(BOB, [f"{BIN}/allocsctl", "run", "--", "/bin/sh", "-c", "kill -SEGV $$"])
    pid = crashed.pid
    crashed.wait()
    left = stage.wait("the segment of bob's crash", lambda: stage.segment_of(pid))
    began = int(left.rsplit(".", 2)[1])
    own = place(MALLORY, server)
    for name in {own, "/run/allocs"}:
        with contextlib.suppress(OSError), wearing(MALLORY):
            os.close(os.open(f"{name}/{pid}.{began + 1}.seg", os.O_CREAT | os.O_WRONLY, 0o600))
    for user in (BOB, ROOT):
        status, answer = ask(user, server, f"/v1/processes/{pid}")
        check(f"{'bob' if user else 'root'} is answered about bob's crash, whatever stands beside it",
              status == 200 and b'"uid":%d' % BOB in answer, (status, answer[:300]))  # fmt: skip
    removed = server.metrics().get("allocsd_segments_removed_total", 0)
    with wearing(MALLORY):
        for name in {own, "/run/allocs"}:
            for index in range(files):
                with contextlib.suppress(OSError):
                    os.close(os.open(f"{name}/{100001 + index}.9999999.seg", os.O_CREAT | os.O_WRONLY, 0o600))
    stage.wait("mallory's files are swept", lambda: server.metrics().get("allocsd_segments_removed_total", 0) > removed
               or not os.path.exists(left))  # fmt: skip
    check("the segment of bob's crash stays, however many files mallory makes", os.path.exists(left))
    check("the server lives", server.lives, server.said()[-500:])


def linked(check):
    """Segments' names for files of others: hard links, as far as the kernel allows them, and symbolic ones."""
    stage.old_layout()
    victim = f"{home(BOB)}/shared"
    with wearing(BOB):
        os.umask(0)
        os.close(os.open(victim, os.O_CREAT | os.O_WRONLY, 0o666))
        os.chmod(home(BOB), 0o755)
    state = os.stat(victim)
    untouched = shadow()
    # The kernel may refuse links to files that mallory could not write anyway; this one she may.
    with wearing(MALLORY):
        os.mkdir("/dev/shm/allocs", 0o777)
    for directory in ("/run/allocs", "/dev/shm/allocs", f"/dev/shm/allocs-{MALLORY}"):
        with contextlib.suppress(OSError), wearing(MALLORY):
            if directory.endswith(str(MALLORY)):
                os.mkdir(directory, 0o700)
            os.link(victim, f"{directory}/1.1.seg")
            os.symlink(victim, f"{directory}/1.2.seg")
            os.symlink("/dev/shm/shadow", f"{directory}/1.3.seg")
            os.link(victim, f"{directory}/1.1.ctl")
    server = Server("--keep-dead-count", "0", "--keep-dead-for", "0s", "--look-every", "1s")
    place(MALLORY, server)
    ended = start(MALLORY, [f"{BIN}/allocsctl", "run", "--", "/bin/true"])
    pid = ended.pid
    ended.wait()
    stage.wait("what an ended process has left is removed", lambda: not stage.segment_of(pid))
    for user in (MALLORY, BOB, ROOT):
        control(user, "prune")
        control(user, "ps")
    now = os.stat(victim)
    check("a file of bob's with another name among the segments keeps its mode, owner and times",
          (now.st_mode, now.st_uid, now.st_size, now.st_mtime_ns) == (state.st_mode, BOB, 0, state.st_mtime_ns),
          oct(now.st_mode))  # fmt: skip
    check("root's file keeps its mode, owner and content", untouched())
    check("the server lives", server.lives, server.said()[-500:])


def taken_names(check):
    """Files of the names that bob's next programs would take: they are indexed all the same."""
    stage.old_layout()
    with wearing(MALLORY):
        os.umask(0)
        os.makedirs("/dev/shm/allocs", 0o777, exist_ok=True)
    unindexed, taken = [], 0
    for _ in range(5):
        # Its number and its start time are known before it becomes the program that the agent is in.
        program = start(BOB, ["/bin/sh", "-c", f"read line; exec {BIN}/allocsctl run -- /bin/sh -c 'exec sleep 0.05'"],
                        {"ALLOCS_VERBOSE": "1"}, stdin=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        name = f"{program.pid}.{start_time(program.pid)}.seg"
        with wearing(MALLORY):
            for directory in ("/run/allocs", "/dev/shm/allocs"):
                os.close(os.open(f"{directory}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                taken += 1
        errors = program.communicate(b"\n")[1]
        if b"unindexed" in errors:
            unindexed.append(errors)
    check("a program whose name another has taken is indexed in another place", not unindexed, unindexed[:1])
    check("names were taken", taken == 10, taken)


def replaced(check):
    """A user's directory goes and comes back while the server runs."""
    server = Server()
    first = Program(BOB)
    directory = os.path.dirname(first.segment)
    first.end()
    subprocess.run(["find", directory, "-mindepth", "1", "-delete"], check=True)
    if directory != "/run/allocs":
        os.rmdir(directory)
    check("the user is told that there is nothing", ask(BOB, server, "/v1/processes")[0] == 200)
    second = Program(BOB)
    status, answer = ask(BOB, server, second.query)
    check("a directory that is made anew is looked at", status == 200 and b'"kind":"heap"' in answer,
          (status, answer[:300], second.segment))  # fmt: skip
    # A directory of mallory's, or a link, in the place of a user's is root's alone to make.
    if os.path.isdir("/run/allocs") and os.stat("/run/allocs").st_mode & 0o7777 == 0o755:
        for attempt in (f"mkdir /run/allocs/{stage.CAROL}", f"ln -s {home(MALLORY)} /run/allocs/{stage.CAROL}",
                        f"mv /run/allocs/{BOB} /run/allocs/x", "touch /run/allocs/allocsd.sock.new"):  # fmt: skip
            check(f"mallory may not: {attempt.split()[0]}", stage.run(MALLORY, ["sh", "-c", attempt])[0] != 0)
    check("the server lives", server.lives, server.said()[-500:])


def crowded(check, files):
    """A directory with more names than anybody wants: others' lists and questions do not wait for it."""
    server = Server()
    bob = Program(BOB)
    pulse = Pulse(BOB, server, [bob.query, "/v1/processes"])
    limit = pulse.limit(5)
    own = place(MALLORY, server)
    made = stage.act(MALLORY, crowd, own, files)
    times, failures = pulse.measure(2)
    check("bob is answered", not failures, failures[:2])
    check(f"bob's longest wait is below {limit:g} s beside {made} names of mallory's", max(times) < limit, max(times))
    seconds, status = stage.timed(ROOT, server, "/v1/processes", patience=limit + 8)
    check("root's list comes", status == 200, (status, seconds))
    seconds, status = stage.timed(MALLORY, server, "/v1/processes", patience=40)
    check("mallory's own list comes, or ends in words", status in (200, 429, 500, 503), (status, seconds))
    check("the server lives", server.lives, server.said()[-500:])
    check("the log is short", len(server.said()) < 200_000, len(server.said()))
    pulse.end()


def crowd(directory, files):
    made = 0
    for index in range(files):
        kind = ("seg", "ctl", "seg.new", "x")[index % 4]
        try:
            os.close(os.open(f"{directory}/{1 + index // 7}.{index}.{kind}", os.O_CREAT | os.O_WRONLY, 0o600))
            made += 1
        except OSError:
            break
    return made


def outputs(check):
    """Files that root's allocsctl writes, at names that mallory has taken in a directory for all."""
    untouched = shadow()
    program = Program(BOB)
    victim = f"{home(BOB)}/file"
    with wearing(BOB):
        os.umask(0)
        with open(victim, "w") as file:
            file.write("bob's\n")
        os.chmod(home(BOB), 0o755)
    recording = "/dev/shm/whole.rec"
    status, output, errors = control(ROOT, "record", str(program.pid), "-o", recording, "--duration", "0.3s")
    check("a recording is made where nothing is in its way", status == 0 and os.stat(recording).st_mode & 0o077 == 0,
          (status, errors))  # fmt: skip
    os.mkdir("/dev/shm/all")
    os.chmod("/dev/shm/all", 0o1777)
    name = "/dev/shm/all/out"
    for what, make in (
        ("a link to root's file", lambda: os.symlink("/dev/shm/shadow", name)),
        ("a link to nothing in root's directory", lambda: os.symlink("/run/nothing", name)),
        ("a hard link to bob's file", lambda: os.link(victim, name)),
        ("a file of mallory's that all may read", lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666))),
        ("a pipe", lambda: os.mkfifo(name, 0o666)),
    ):
        for words in (
            ("record", str(program.pid), "-o", name, "--duration", "0.2s"),
            ("export", recording, "--format", "jsonl", "-o", name),
        ):
            with wearing(MALLORY):
                os.umask(0)
                make()
            before = os.lstat(name)
            status, output, errors = control(ROOT, *words)
            now = os.lstat(name)
            # Refused with words; or the name leads to a new file of root's, which nobody else may read.
            fresh = stat.S_ISREG(now.st_mode) and now.st_uid == 0 and now.st_ino != before.st_ino
            check(f"{what}: {words[0]} leaves it alone", status in (1, 64, 73, 74) and errors != "" or fresh
                  and now.st_mode & 0o077 == 0, (status, errors[:200], oct(now.st_mode), now.st_uid))  # fmt: skip
            os.unlink(name)
    with open(victim) as file:
        check("bob's file keeps its content", file.read() == "bob's\n" and os.stat(victim).st_uid == BOB)
    check("root's file keeps its mode, owner and content", untouched() and not os.path.exists("/run/nothing"))


MANY = int(os.environ.get("ALLOCS_ATTACK_MANY", "1"))
def own_file_system(check):
    """Root's directory takes no room from /run, whoever starts the server; and no file that is there is hidden."""

    def device(path):
        return os.stat(path).st_dev

    def started(mode):
        server = Server()
        is_own, is_kept = device("/run/allocs") != device("/run"), os.stat("/run/allocs").st_mode & 0o7777 == mode
        server.end()
        check(f"the directory of mode {mode:o} has a file system of its own", is_own and is_kept, (is_own, is_kept))
        subprocess.run(["umount", "/run/allocs"], check=True)
        os.rmdir("/run/allocs")

    started(0o755)
    os.mkdir("/run/allocs")
    os.chmod("/run/allocs", 0o1777)
    started(0o1777)
    os.mkdir("/run/allocs")
    os.chmod("/run/allocs", 0o1777)
    open("/run/allocs/there", "w").close()
    server = Server()
    check("what is there stays in sight, and root is told",
          os.path.exists("/run/allocs/there") and "no file system of its own" in server.said(), server.said())
    server.end()
    os.unlink("/run/allocs/there")
    # From a service with mounts of its own, nobody else would see what is in such a file system.
    server = Server(prefix=["unshare", "-m"])
    check("a server with mounts of its own mounts nothing", server.ended_within(20)[0]
          and "no file system of its own" in server.said(), server.said())  # fmt: skip


def silent_directories(check):
    """A file system that answers nothing is mounted over each directory that mallory may have, for all to see."""
    with wearing(MALLORY):
        os.mkdir("/dev/shm/allocs", 0o755)
    server = Server()
    bob = Program(BOB)
    pulse = Pulse(BOB, server, [bob.query, "/v1/processes"])
    limit = pulse.limit(5)
    ask(MALLORY, server, "/metrics")
    session = f"/run/user/{MALLORY}"
    os.makedirs(f"{session}/allocs", 0o700)
    os.chown(session, MALLORY, MALLORY)
    os.chown(f"{session}/allocs", MALLORY, MALLORY)
    with wearing(MALLORY):
        os.mkdir(f"/dev/shm/allocs-{MALLORY}", 0o700)
    with wearing(MALLORY):
        os.mkdir("/dev/shm/quiet", 0o755)
    quiet = silent.mounted("/dev/shm/quiet", answers=False)
    if quiet is None:
        check("without FUSE there are no such directories", not os.path.exists("/dev/fuse"))
        return
    # A link into it, where the server knows a segment of hers.
    mallory = Program(MALLORY)
    ask(MALLORY, server, mallory.query)
    with wearing(MALLORY):
        os.symlink("/dev/shm/quiet/x", f"{mallory.segment}.new")
        os.rename(f"{mallory.segment}.new", mallory.segment)
    times, failures = pulse.measure(4)
    check("bob is answered beside a link in a segment's place", not failures and max(times) < limit,
          (failures[:2], max(times, default=0)))  # fmt: skip
    # Over a file: of one that the server knows, and of one that comes so.
    other = Program(MALLORY)
    ask(MALLORY, server, other.query)
    over = [silent.mounted(other.segment, answers=False)]
    own = os.path.dirname(other.segment)
    for kind in ("seg", "ctl"):
        with wearing(MALLORY):
            os.close(os.open(f"{own}/{other.pid}.1.{kind}", os.O_CREAT | os.O_WRONLY, 0o600))
        over.append(silent.mounted(f"{own}/{other.pid}.1.{kind}", answers=False))
    check("file systems are mounted over files", None not in over, over)
    with wearing(MALLORY):
        os.close(os.open(f"{own}/{other.pid}.2.seg", os.O_CREAT | os.O_WRONLY, 0o600))
    times, failures = pulse.measure(4)
    check("bob is answered beside file systems over mallory's files", not failures and max(times) < limit,
          (failures[:2], max(times, default=0)))  # fmt: skip
    places = ["/dev/shm/allocs", f"/run/allocs/{MALLORY}", f"/dev/shm/allocs-{MALLORY}", f"{session}/allocs", session]
    served = [silent.mounted(place, answers=False) for place in places]
    if None in served:
        check("without FUSE there are no such directories", not os.path.exists("/dev/fuse"))
        return
    # Longer than the time between two looks at which directories there are.
    times, failures = pulse.measure(12)
    pulse.end()
    check("bob is answered meanwhile", not failures and max(times) < limit, (failures[:2], max(times)))
    for user, words in ((ROOT, ["ps"]), (ROOT, ["ps", "--direct"]), (ROOT, ["prune"]), (BOB, ["ps", "--direct"])):
        program = start(user, [f"{BIN}/allocsctl", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        over = time.monotonic() + 30
        while program.poll() is None and time.monotonic() < over:
            time.sleep(0.02)
        check(f"allocsctl {' '.join(words)} of user {user} ends", program.poll() is not None)
    server.end()
    again = Server(ready=False)
    check("another server starts beside them", stage.wait("that", lambda: "serving" in again.said()))
    again.end()
    # A link in place of the directory of the layout before.
    subprocess.run(["umount", "-l", "/dev/shm/allocs"], check=True)
    with wearing(MALLORY):
        os.rmdir("/dev/shm/allocs")
        os.symlink("/dev/shm/quiet/x", "/dev/shm/allocs")
    tool = start(ROOT, [f"{BIN}/allocsctl", "ps"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    over = time.monotonic() + 10
    while tool.poll() is None and time.monotonic() < over:
        time.sleep(0.02)
    check("allocsctl of root ends beside a link in the old directory's place", tool.poll() is not None)
    for one in (quiet, *served):
        one.end()


def filled(check):
    """Mallory puts files into her directory of segments until the file system that all users share has no more."""
    server = Server()
    program = Program(MALLORY)
    directory = place(MALLORY, server)
    place(BOB, server)

    def fill():
        os.chdir(directory)
        os.makedirs("a/b/c", exist_ok=True)
        made = 0
        with contextlib.suppress(OSError):
            for made in range(300_000):
                open(f"a/b/c/{made}" if made % 2 else f"f{made}", "w").close()
        return made

    def left():
        system = os.statvfs("/run/allocs")
        return system.f_ffree / system.f_files

    made = stage.act(MALLORY, fill)
    check("many files were made", made > 50_000, made)
    status, _, errors = control(BOB, "run", "--", "/bin/true")
    check("a program of bob's runs at once, and its index has a place",
          status == 0 and "unindexed" not in errors, errors)  # fmt: skip
    cleared = stage.wait("what is no segment is removed", lambda: left() > 0.9, patience=60, pause=0.1)
    check("what is no segment is removed", cleared)

    def told():
        return [line for line in server.said().splitlines() if "nearly full" in line]

    stage.wait("root is told", told)
    check("root is told whose it was, and nothing of others goes", all(f"uid={MALLORY} " in line for line in told()),
          told())  # fmt: skip
    check("her indexed program is answered still", ask(MALLORY, server, program.query)[0] == 200)
    check("bob's programs have their place again", Program(BOB).segment.startswith("/run/allocs/"))


def left_open(check):
    """A server was killed while it made a user's directory, when root's group may write to root's for a moment."""
    os.mkdir("/run/allocs")
    os.chmod("/run/allocs", 0o775)
    server = Server()
    mode = os.stat("/run/allocs").st_mode & 0o7777
    check("root's directory is root's alone again", mode == 0o755 and server.lives, oct(mode))
    check("users have their directories in it", place(BOB, server) == f"/run/allocs/{BOB}")


scenes = {
    "directories-filled": filled,
    "directories-left-open": left_open,
    "directories-of-another": lambda check: in_anothers_directory(check, 8 * MANY),
    "directories-socket": socket_names,
    "directories-exchanged-socket": lambda check: socket_exchanged(check, 2 * MANY),
    "directories-exchanged-files": lambda check: exchanged(check, 2 * MANY),
    "directories-exchanged": lambda check: directory_exchanged(check, 2 * MANY),
    "directories-dead": lambda check: dead_segments(check, 300),
    "directories-linked": linked,
    "directories-taken-names": taken_names,
    "directories-replaced": replaced,
    "directories-outputs": outputs,
    "directories-silent": silent_directories,
    "directories-own-file-system": own_file_system,
    "directories-crowded": lambda check: crowded(check, 20_000),
}
