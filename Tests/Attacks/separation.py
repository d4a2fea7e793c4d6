# SPDX-License-Identifier: Apache-2.0
"""What runs in a user's name has that user's rights and nothing of root's; and the user, who may end it, gains nothing
by it: no memory, no descriptor, nobody else's connection."""

import contextlib
import ctypes
import os
import signal
import time

import stage
from budgets import workers_of
from stage import BOB, CAROL, MALLORY, ROOT, Connection, Program, Server, ask

SECRET = "SECRET-OF-THE-SERVER"


def status_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def rights(check):
    server = Server(environment={"CREDENTIAL": SECRET})
    programs = {user: Program(user) for user in (ROOT, BOB, MALLORY)}
    for user, program in programs.items():
        status, answer = ask(user, server, program.query)
        check(f"user {user} is answered", status == 200 and b'"kind":"heap"' in answer, (status, answer[:200]))
    listening = [line.split()[6] for line in open("/proc/net/unix") if line.rstrip().endswith(server.socket)
                 and line.split()[5] == "01"]  # fmt: skip
    seen = 0
    for pid in server.processes() - {server.process.pid}:
        words = status_of(pid)
        user = int(words["Uid"].split()[0])
        seen += 1
        what = f"{'root' if user == 0 else user}'s worker"
        check(f"{what} has one user and one group", len(set(words["Uid"].split())) == 1
              and len(set(words["Gid"].split())) == 1, words["Uid"])  # fmt: skip
        check(f"{what} has no groups of root's", user == 0 or "0" not in words["Groups"].split(), words["Groups"])
        caps = {name: words[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        check(f"{what} has no capability", user == 0 or all(int(one, 16) == 0 for one in caps.values()), caps)
        check(f"{what} gains no privileges by programs, and is filtered", words.get("NoNewPrivs") == "1"
              and words.get("Seccomp") == "2", (words.get("NoNewPrivs"), words.get("Seccomp")))  # fmt: skip
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            environment += file.read()
        check(f"{what} has nothing of the server's environment", SECRET.encode() not in environment, environment)
        links = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        check(f"{what} does not have the server's socket", listening and not any(f"[{inode}]" in link for link in links
              for inode in listening), links)  # fmt: skip
        check(f"{what} has no file of root's", user == 0 or not any(server.log in link for link in links), links)
        if user:
            check(f"{what} leaves no core", open(f"/proc/{pid}/limits").read().split("Max core file size")[1].split()[0]
                  == "0")  # fmt: skip
    check("each user has a process of their own", seen >= 2 and len(workers_of(BOB)) == 1
          and len(workers_of(MALLORY)) == 1, seen)  # fmt: skip


def ptrace(request, pid):
    stage.libc.ptrace.argtypes = [ctypes.c_long] * 4
    return stage.libc.ptrace(request, pid, 0, 0)


ATTACH, DETACH, SEIZE = 16, 17, 0x4206


def reach(pid):
    """What a user gets of a process: an empty list, as it should be."""
    got = []
    for name in ("mem", "maps", "environ", "fd", "root", "cwd", "exe", "auxv", "stack", "map_files"):
        try:
            path = f"/proc/{pid}/{name}"
            if name in ("fd", "map_files"):
                os.listdir(path)
            elif name in ("root", "cwd", "exe"):
                os.readlink(path)
            else:
                # mem may be opened by whoever traces; the rest says nothing unless it can be read.
                with open(path, "rb") as file:
                    if name == "mem" or file.read(1):
                        got.append(name)
                continue
            got.append(name)
        except (OSError, ValueError):
            pass
    for name, number in (("attach", ATTACH), ("seize", SEIZE)):
        if ptrace(number, pid) == 0:
            got.append(name)
            ptrace(DETACH, pid)
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        for number in range(8):
            if stage.libc.syscall(438, descriptor, number, 0) >= 0:  # pidfd_getfd
                got.append(f"descriptor {number}")
        os.close(descriptor)
    return got


def untouchable(check, seconds):
    """Mallory looks into her own worker, the broker, and each worker at the very moment at which it starts."""
    server = Server()
    program = Program(MALLORY)
    bob = Program(BOB)
    ask(BOB, server, bob.query)
    ask(MALLORY, server, program.query)
    workers = workers_of(MALLORY)
    check("mallory has a worker", len(workers) == 1, workers)
    # The tests see what there is to see: her own program.
    check("a program of mallory's own can be looked into", len(stage.act(MALLORY, reach, program.pid)) > 6)
    for pid, what in ((workers[0], "her worker"), (server.process.pid, "the broker"),
                      *((pid, "bob's worker") for pid in workers_of(BOB))):  # fmt: skip
        got = stage.act(MALLORY, reach, pid)
        check(f"mallory reaches nothing of {what}", got == [], got)

    def hunt():
        """Ends the worker, asks, and reaches for each new process of the server's before it is at rest."""
        over, got, known, met = time.monotonic() + seconds, [], set(), 0
        asking = os.fork()
        if asking == 0:
            while True:
                with contextlib.suppress(Exception):
                    stage.request(server.socket, "/v1/processes", patience=1)
                time.sleep(0.001)
        while time.monotonic() < over:
            for name in filter(str.isdigit, os.listdir("/proc")):
                pid = int(name)
                if pid in known or pid in (os.getpid(), asking):
                    continue
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/comm") as file:
                        if not file.read().startswith(("allocsd", "exe")):
                            continue
                    for _ in range(20):
                        if ptrace(SEIZE, pid) == 0:
                            got.append(("seize", pid))
                            break
                        with contextlib.suppress(OSError):
                            os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
                            got.append(("mem", pid))
                    met += 1
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
        os.kill(asking, signal.SIGKILL)
        os.waitpid(asking, 0)
        return got, met

    got, met = stage.act(MALLORY, hunt)
    check("mallory reaches nothing of a worker that starts", got == [] and met > 0, (got[:5], met))
    status, answer = ask(BOB, server, bob.query)
    check("bob is answered", status == 200, answer[:200])
    check("the server lives", server.lives, server.said()[-500:])


def misdirected(check):
    """Root's kept connection, on which processes of several owners are asked about; and users who ask about others'."""
    server = Server()
    programs = {user: Program(user) for user in (ROOT, BOB, MALLORY)}
    for user, program in programs.items():
        status, answer = ask(ROOT, server, program.query)
        check(f"root is answered about a process of {user}'s", status == 200 and b'"kind":"heap"' in answer,
              (status, answer[:200]))  # fmt: skip
    connection = Connection(server.socket)
    first = connection.ask(programs[BOB].query)[0]
    with contextlib.suppress(OSError, stage.http.client.HTTPException):
        second = connection.ask(programs[MALLORY].query)
        check("on a kept connection about another owner's process root is told to ask anew", (first, second[0])
              in ((200, 421),), (first, second))  # fmt: skip
    status, output, errors = stage.control(ROOT, "ps", "--json")
    check("root's list has all of them", status == 0 and all(f'"pid":{one.pid},' in output
          for one in programs.values()), (status, output, errors))  # fmt: skip
    for user, victim in ((BOB, MALLORY), (MALLORY, BOB), (MALLORY, ROOT), (CAROL, BOB)):
        for target in (programs[victim].query, f"/v1/processes/{programs[victim].pid}",
                       f"/v1/processes/{programs[victim].pid}/top", f"/v1/processes/{programs[victim].pid}/events"):
            status, answer = ask(user, server, target, patience=20)
            told = b'"kind":"heap"' in answer or b'"command"' in answer or status not in (403, 404)
            check(f"{user} is told nothing of a process of {victim}'s: {target.split('/')[-1].split('?')[0]}", not told,
                  (status, answer[:200]))  # fmt: skip


def groups(check):
    """Processes of a user whose group is not the user's own; and of a user who has no name."""
    server = Server()
    for what, user, group in (
        ("a process in another group of bob's", BOB, 64100), ("a user without a name", 64200, 64200),
        ("bob's process in bob's own group", BOB, BOB),
    ):  # fmt: skip
        program = stage.subprocess.Popen(
            ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", f"{stage.BIN}/allocsctl", "run", "--",
             f"{stage.TOOLS}/steady"], stdout=stage.subprocess.PIPE)  # fmt: skip
        block = program.stdout.readline().decode().strip()
        for asker in (user, ROOT):
            status, answer = ask(asker, server, f"/v1/processes/{program.pid}/query?address={block}")
            check(f"{what}: user {asker} is told of the block", status == 200 and b'"kind":"heap"' in answer,
                  (status, answer[-300:]))  # fmt: skip
            # The kernel shows the mappings of a process to its own user and group alone.
            if group != 64100:
                check(f"{what}: user {asker} is told of its mapping", b'"mapping"' in answer, (status, answer[-300:]))
        stage.end(program)


def crowd_of_users(check, users=30):
    """Many users at once cost what they ask: workers come, answer, and go."""
    server = Server("--worker-idle", "1")
    numbers = range(64001, 64001 + users)
    for user in numbers:
        status, _ = ask(user, server, "/v1/processes")
        check(f"user {user} is answered", status == 200, status)
    gone = stage.wait("idle workers go", lambda: len(server.processes()) <= 3, patience=90, pause=0.2)
    check("nobody's worker stays when it is idle", gone)
    check("one of them is answered again", ask(64001, server, "/v1/processes")[0] == 200)


def nobodys(check):
    """Services run as nobody, and any of them may be broken into: nothing of the server's is theirs to end or stop."""
    server = Server("--listen", "127.0.0.1:0")
    check("root is answered", ask(ROOT, server, "/v1/processes")[0] == 200)
    roles = {}
    for pid in server.processes() - {server.process.pid}:
        with open(f"/proc/{pid}/comm") as file:
            roles[pid] = file.read().strip()
    check("there are a gatherer and a front", sum("gather" in role or "front" in role for role in roles.values()) == 2,
          roles)  # fmt: skip

    def touched():
        found = []
        for pid in roles:
            with contextlib.suppress(PermissionError):
                os.kill(pid, signal.SIGSTOP)
                found.append(roles[pid])
        return found

    for user in (65534, 65533, MALLORY):
        found = stage.act(user, touched)
        check(f"user {user} can stop none of them", found == [], found)
    users = [int(status_of(pid)["Uid"].split()[0]) for pid in roles]
    check("each has an id of its own", len(set(users)) == len(users) and 65534 not in users, users)
    check("root is answered still", ask(ROOT, server, "/v1/processes")[0] == 200)


LONG = float(os.environ.get("ALLOCS_ATTACK_MANY", "1"))
scenes = {
    "separation-rights": rights,
    "separation-untouchable": lambda check: untouchable(check, 1.5 * LONG),
    "separation-misdirected": misdirected,
    "separation-groups": groups,
    "separation-nobody": nobodys,
    "separation-many-users": crowd_of_users,
}
