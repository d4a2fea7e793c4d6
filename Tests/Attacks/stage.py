# SPDX-License-Identifier: Apache-2.0
"""Where an attack is played: namespaces with a /run and /dev/shm of their own, a server of root's, and users.

`enter` starts this program once more in mount and pid namespaces of its own, so that no test meets another's
directories, and the end of the namespace ends whatever an attack has left running. Needs root.

The users have names in these namespaces alone: nothing of the machine is changed for them. Whoever acts as a user does
so in a process of that user's (`act`, `Actor`), or, to make a file, under the effective ids of the user (`wearing`).
"""

import contextlib
import ctypes
import functools
import glob
import http.client
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

import segments

ROOT, MALLORY, BOB, CAROL = 0, 63001, 63002, 63003
here = os.path.dirname(os.path.abspath(__file__))
package = os.path.dirname(os.path.dirname(here))
# Bind mounts, which every user can reach, wherever the package is.
BIN, TOOLS = "/dev/shm/bin", "/dev/shm/tools"
libc = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """The stage could not be set: nothing was tried."""


def comes(condition, patience=20.0, pause=0.01):
    """What the condition gives as soon as it holds; what it gave last where it never does."""
    limit = time.monotonic() + patience
    while not (result := condition()) and time.monotonic() < limit:
        time.sleep(pause)
    return result


def wait(what, condition, patience=20.0, pause=0.01):
    """As `comes`, of what else the stage could not go on without."""
    if not (result := comes(condition, patience, pause)):
        raise Missing(f"this did not come within {patience:g} s: {what}")
    return result


# MARK: the stage


def build():
    """Compiles the programs beside this file, where they are newer than what was built of them; the directory."""
    directory = os.environ.get("ALLOCS_ATTACKS_BUILD", os.path.join(package, ".build", "attacks"))
    os.makedirs(directory, exist_ok=True)
    headers = os.path.join(package, "Sources/SharedLayout/include")
    for name in sorted(os.listdir(here)):
        source, program = os.path.join(here, name), os.path.join(directory, name[:-2])
        if not name.endswith(".c"):
            continue
        newest = max(os.stat(path).st_mtime for path in [source, *(entry.path for entry in os.scandir(headers))])
        if not os.path.exists(program) or os.stat(program).st_mtime < newest:
            subprocess.run(["gcc", "-O2", "-g", "-I", headers, "-o", f"{program}.new", source, "-lpthread"], check=True)
            os.rename(f"{program}.new", program)
    return directory


@contextlib.contextmanager
def limited_memory(size=3 << 30):
    """A control group for all that runs here, so that a server without bounds doesn't take the whole machine; where
    version 1 of memory's can be had. Yields the file that a process joins it by, None where there is none."""
    group = f"/sys/fs/cgroup/memory/allocs-attack-{os.getpid()}"
    try:
        os.mkdir(group)
        with open(f"{group}/memory.limit_in_bytes", "w") as file:
            file.write(str(size))
    except OSError:
        yield None
        return
    try:
        yield f"{group}/cgroup.procs"
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                os.rmdir(group)
                break
            time.sleep(0.02)


# Where each user has an equal part of the processors: what the names of their control groups begin with.
slices = None
PROCESSORS = "/sys/fs/cgroup/cpu"


@contextlib.contextmanager
def divided():
    """Has the kernel share the processors as systemd has it: each user has an equal part of what all users have,
    whatever they run (user-1000.slice in user.slice), and root's allocsd the part that its unit says. Here with version
    1 of the controller; where it can't be had Missing is raised."""
    global slices
    slices = f"{PROCESSORS}/allocs-attack-{time.time_ns()}-"
    with open(os.path.join(package, "systemd/allocsd.service")) as unit:
        weight = next(int(line.partition("=")[2]) for line in unit if line.startswith("CPUWeight="))
    try:
        os.makedirs(f"{slices}users")
        os.mkdir(group(ROOT))
        with open(f"{group(ROOT)}/cpu.shares", "w") as file:
            file.write(str(weight * 1024 // 100))
    except OSError as failure:
        slices = None
        raise Missing(f"no control group of processors can be made here: {failure}") from None
    try:
        yield
    finally:
        for name in [*glob.glob(f"{slices}users/*/"), *glob.glob(f"{slices}*/")]:
            comes(functools.partial(is_removed, name), 5)
        slices = None


def group(user):
    return f"{slices}service" if user == ROOT else f"{slices}users/{user}"


def is_removed(directory):
    try:
        os.rmdir(directory)
        return True
    except OSError:
        return False


@contextlib.contextmanager
def in_slice(user):
    """Processes that are started meanwhile are in the user's slice, where there are any."""
    if slices is None:
        yield
        return
    os.makedirs(group(user), exist_ok=True)
    move(group(user))
    try:
        yield
    finally:
        move(PROCESSORS)


def move(directory):
    """The calling process is in that control group from now on."""
    with open(f"{directory}/cgroup.procs", "w") as file:
        file.write("0")


def enter(tmpfs="2g", run="512m"):
    """Returns in the namespaces, with an empty /run and /dev/shm in which the binaries and programs are."""
    if "ALLOCS_ATTACK_INSIDE" not in os.environ:
        os.environ["ALLOCS_ATTACK_INSIDE"] = build()
        with limited_memory() as group:
            join = ["sh", "-c", f'echo $$ >{group}; exec "$@"', "sh"] if group else []
            status = subprocess.run([*join, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                                     "--propagation", "private", sys.executable, "-B", *sys.argv]).returncode
        sys.stdout.flush()
        os._exit(status if status >= 0 else 128 - status)
    binaries = os.path.abspath(os.environ.get("ALLOCS_BIN_DIR", os.path.join(package, ".build/release")))
    for name in ("allocsd", "allocsctl", "liballocs_agent.so"):
        if not os.path.exists(os.path.join(binaries, name)):
            raise Missing(f"{binaries}/{name} is missing: build the release, or name its directory by ALLOCS_BIN_DIR")
    bound = {BIN: binaries, TOOLS: os.environ["ALLOCS_ATTACK_INSIDE"]}
    opened = {place: os.open(path, os.O_PATH) for place, path in bound.items()}
    for place, options in (("/dev/shm", f"mode=1777,size={tmpfs}"), ("/run", f"mode=755,size={run}")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    for place, descriptor in opened.items():
        os.mkdir(place)
        subprocess.run(["mount", "--bind", f"/proc/self/fd/{descriptor}", place], pass_fds=[descriptor], check=True)
        os.close(descriptor)
    name_users()
    os.umask(0o022)
    os.chdir("/")
    if "ALLOCS_ATTACK_SHARED" in os.environ:
        old_layout()
    for name in list(os.environ):
        if name.startswith("ALLOCS_"):
            del os.environ[name]
    segments.load(subprocess.run([f"{TOOLS}/layout"], check=True, capture_output=True, text=True).stdout)
    for user in (MALLORY, BOB, CAROL):
        os.mkdir(home(user), 0o755)
        os.chown(home(user), user, user)


def name_users():
    """The users have names here, and nowhere else."""
    for name, line in (("passwd", "{user}:x:{number}:{number}::/:/bin/sh\n"), ("group", "{user}:x:{number}:\n")):
        with open(f"/etc/{name}") as file:
            text = file.read()
        for user, number in (("attack-mallory", MALLORY), ("attack-bob", BOB), ("attack-carol", CAROL)):
            text += line.format(user=user, number=number)
        with open(f"/run/{name}", "w") as file:
            file.write(text)
        subprocess.run(["mount", "--bind", f"/run/{name}", f"/etc/{name}"], check=True)


def home(user):
    """A directory of the user's own."""
    return f"/dev/shm/home-{user}"


def old_layout():
    """Makes the directory that all users share, as an older installation has it."""
    os.makedirs("/run/allocs", exist_ok=True)
    os.chmod("/run/allocs", 0o1777)


@contextlib.contextmanager
def wearing(user):
    """Files that are made here are made by the user, with the user's rights."""
    os.setegid(user)
    os.seteuid(user)
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)
        os.seteuid(0)
        os.setegid(0)


def become(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: as after an exec
    os.umask(0o077)


class Actor:
    """A process of the user's that runs `body(send, receive)`; what it sends is received here."""

    def __init__(self, user, body):
        self.near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with in_slice(user):
            self.pid = os.fork()
            if self.pid == 0:
                self.run(user, body, far)
        far.close()
        self.file = self.near.makefile("rwb")

    def run(self, user, body, far):
        """What the new process does. It does not return."""
        try:
            self.near.close()
            self.near = far
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self.file = far.makefile("rwb")
            # Each user has logged in by themselves: the kernel shares processors by session (sched(7), autogroup), and
            # where it doesn't, by user.
            if user:
                os.setsid()
            become(user)
            body(self.send, self.receive)
        except (EOFError, BrokenPipeError):
            pass
        except BaseException:
            with contextlib.suppress(BaseException):
                self.send(traceback.format_exc(), failed=True)
        os._exit(0)

    def send(self, value, failed=False):
        pickle.dump((failed, value), self.file)
        self.file.flush()

    def receive(self, patience=None):
        self.near.settimeout(patience)
        failed, value = pickle.load(self.file)
        if failed:
            raise Missing(f"an actor failed: {value}")
        return value

    def ended(self):
        """What it says of its end, where it has ended."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                return ""
        try:
            return f"it sent {self.receive(1)} at last"
        except Missing as failure:
            return str(failure)
        except (OSError, EOFError):
            return "it said nothing at last"

    def end(self):
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.near.close()


def act(user, body, *arguments):
    """What `body(*arguments)` returns in a process of the user's."""
    actor = Actor(user, lambda send, _: send(body(*arguments)))
    try:
        return actor.receive(120)
    finally:
        actor.end()


def start(user, words, environment={}, **options):
    """A program of the user's, in a session of its own, as services and logins have."""
    variables = {"PATH": os.environ["PATH"], "HOME": home(user) if user else "/root", **environment}
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    with in_slice(user):
        return subprocess.Popen(words, env=variables, umask=0o022, start_new_session=True, **identity, **options)


def run(user, words, environment={}, patience=20):
    """(status, output, errors) of a program of the user's; status 124 where it had to be killed."""
    program = start(user, words, environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = program.communicate(timeout=patience)
        return program.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
    except subprocess.TimeoutExpired:
        program.kill()
        output, errors = program.communicate()
        return 124, output.decode(errors="replace"), errors.decode(errors="replace")


def control(user, *words, environment={}, patience=20):
    return run(user, [f"{BIN}/allocsctl", *words], environment, patience)


def end(program):
    if program.poll() is None:
        program.kill()
    program.wait()


def start_time(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


# MARK: the server


class Server:
    def __init__(self, *options, user=ROOT, prefix=(), environment={}, ready=True, passed=()):
        self.log = f"/dev/shm/allocsd-{user}-{time.monotonic_ns()}.log"
        self.socket, self.user = None, user
        with open(self.log, "wb") as log:
            self.process = start(user, [*prefix, f"{BIN}/allocsd", *options], environment, stdout=log, stderr=log,
                                 pass_fds=passed)  # fmt: skip
        if ready:
            try:
                wait("allocsd answers", self.answers)
            except Missing:
                self.end()
                raise

    def answers(self):
        if self.process.poll() is not None:
            raise Missing(f"allocsd ended with {self.process.returncode}: {self.said()[-2000:]}")
        for path in ("/run/allocs/allocsd.sock", "/dev/shm/allocs/allocsd.sock"):
            try:
                # Somebody else may have put a server there.
                if os.stat(path).st_uid == self.user and request(path, "/metrics", patience=2)[0] == 200:
                    self.socket = path
                    return True
            except OSError:
                pass
        return False

    def said(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    @property
    def lives(self):
        return self.process.poll() is None

    def metrics(self):
        """All figures, as root sees them, by name with labels."""
        figures = {}
        for line in request(self.socket, "/metrics")[1].decode().splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#"):
                figures[name] = float(value)
        return figures

    def ended_within(self, seconds):
        """SIGTERM: (whether it ended in that time, its status)."""
        self.process.terminate()
        try:
            return True, self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False, None

    def processes(self):
        """The server and the processes that it has started."""
        found, new = {self.process.pid}, True
        while new:
            new = False
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    with open(f"/proc/{name}/stat") as file:
                        parent = int(file.read().rpartition(")")[2].split()[1])
                    if parent in found and int(name) not in found:
                        found.add(int(name))
                        new = True
        return found

    def memory(self):
        """Bytes of anonymous memory of the server and what it has started; the highest of any of them."""
        sizes = []
        for pid in self.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
                sizes += [int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")]
        return max(sizes, default=0), sum(sizes)

    def ticks(self):
        """Clock ticks of processor time of the server and what it has started."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
                words = file.read().rpartition(")")[2].split()
                total += int(words[11]) + int(words[12])
        return total

    def end(self):
        for pid in self.processes() - {self.process.pid}:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        end(self.process)


class Connection(http.client.HTTPConnection):
    def __init__(self, path, patience=20):
        super().__init__("localhost", timeout=patience)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # With a timeout, Python's connect does not wait where the queue is full. A client of this project's waits for a
        # second (UnixSocket.swift).
        over = time.monotonic() + min(self.timeout, 1)
        while True:
            try:
                return self.sock.connect(self.path)
            except BlockingIOError:
                if time.monotonic() > over:
                    raise
                time.sleep(0.001)

    def ask(self, target, method="GET", body=None, accept="application/json"):
        self.request(method, target, body=body, headers={"Accept": accept})
        answer = self.getresponse()
        return answer.status, answer.read()


def request(path, target, method="GET", body=None, patience=20, accept="application/json"):
    """(status, body) of one question on a connection of its own."""
    connection = Connection(path, patience)
    try:
        return connection.ask(target, method, body, accept)
    finally:
        connection.close()


def raw(path, target, more=b""):
    """A connection on which a question was sent and whose answer nobody has read."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(path)
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode() + more + b"\r\n")
    return connection


def ask(user, server, target, **options):
    """(status, body) as the user; (0, why) where there was no answer."""

    def body():
        try:
            return request(server.socket, target, **options)
        except (OSError, http.client.HTTPException) as problem:
            return 0, repr(problem).encode()

    return act(user, body)


def timed(user, server, target, **options):
    """(seconds, status) of one question."""
    before = time.monotonic()
    status, _ = ask(user, server, target, **options)
    return time.monotonic() - before, status


def objects(answer):
    return [json.loads(line) for line in answer.decode("utf-8", "replace").splitlines() if line]


# MARK: who is attacked, and who attacks


def place(user, server=None):
    """The directory in which the user's segments are looked for. The server has been told that the user is there."""
    own = f"/run/allocs/{user}"
    if server and not os.path.isdir(own):
        ask(user, server, "/metrics")
    if os.path.isdir(own):
        return own
    if os.path.isdir("/run/allocs") and os.stat("/run/allocs").st_mode & 0o1002 == 0o1002:
        return "/run/allocs"
    directory = f"/dev/shm/allocs-{user}"
    if not os.path.lexists(directory):
        with wearing(user):
            os.mkdir(directory, 0o700)
    return directory


def places():
    """All directories in which a segment may be."""
    roots = ["/run/allocs", "/dev/shm/allocs", "/dev/shm/old"]
    with contextlib.suppress(OSError):
        roots += [f"/run/allocs/{name}" for name in os.listdir("/run/allocs") if name.isdigit()]
    with contextlib.suppress(OSError):
        roots += [f"/run/user/{name}/allocs" for name in os.listdir("/run/user")]
    roots += [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if name.startswith("allocs-")]
    return [root for root in roots if os.path.isdir(root) and not os.path.islink(root)]


def segment_of(pid):
    for directory in places():
        for name in os.listdir(directory):
            if name.startswith(f"{pid}.") and name.endswith(".seg"):
                return f"{directory}/{name}"
    return None


class Program:
    """A program of the user's under the agent: it allocates and frees, and others ask about a block of it."""

    def __init__(self, user, words=(f"{TOOLS}/steady",), environment={}):
        self.user = user
        self.process = start(user, [f"{BIN}/allocsctl", "run", "--", *words], environment, stdout=subprocess.PIPE,
                             stdin=subprocess.PIPE)  # fmt: skip
        self.pid = self.process.pid
        self.block = self.process.stdout.readline().decode().strip()
        self.segment = wait("the program's segment", lambda: segment_of(self.pid))
        self.query = f"/v1/processes/{self.pid}/query?address={self.block}"

    def end(self):
        end(self.process)


class Holder:
    """A process of the user's that holds segments which this program writes for it."""

    def __init__(self, user, server=None, directory=None):
        self.user, self.directory = user, directory or place(user, server)
        self.process = start(user, [f"{TOOLS}/hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid, self.start = self.process.pid, start_time(self.process.pid)

    def path(self, kind="seg"):
        return f"{self.directory}/{self.pid}.{self.start}.{kind}"

    def segment(self, pid=None, start=None, name=None, control=False, held=True, publish=True, **options):
        """A segment whose header says `pid` and `start`, its own where they are not given."""
        path = name or self.path()
        with wearing(self.user):
            made = segments.Segment(f"{path}.new", self.pid if pid is None else pid,
                                    self.start if start is None else start, uid=self.user, **options)  # fmt: skip
            if control:
                made.control = segments.control(path[:-3] + "ctl", self.pid, self.start)
        if held:
            self.hold(f"{path}.new")
        if publish:
            with wearing(self.user):
                os.rename(f"{path}.new", path)
            made.path = path
        return made

    def hold(self, path, address=None):
        """Has the process map the file and lock it; or map it at an address, as a module."""
        self.process.stdin.write(path.encode() + (f"\t{address:#x}".encode() if address else b"") + b"\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != b"held\n":
            raise Missing(f"{path} could not be held")

    def write(self, name, data, mode=0o644):
        """A file in the user's home; its path."""
        path = f"{home(self.user)}/{name}"
        with wearing(self.user):
            with open(path, "wb") as file:
                file.write(data)
            os.chmod(path, mode)
        return path

    def end(self):
        end(self.process)

    def remove(self):
        """What the process has left."""
        for kind in ("seg", "ctl"):
            with contextlib.suppress(OSError):
                os.unlink(self.path(kind))


# MARK: what is measured


class Pulse(Actor):
    """A user who asks one question after another, on a kept connection and on new ones in turns, until `with` ends."""

    def __init__(self, user, server, targets, patience=30.0, pause=0.005):
        path = server.socket

        def body(send, receive):
            while receive() != "stop":
                # One on which nobody asks for a minute is closed.
                kept, measured, failures, over = None, [], [], time.monotonic() + receive()
                while time.monotonic() < over:
                    for number, target in enumerate(targets):
                        before = time.monotonic()
                        try:
                            if number % 2 == 0:
                                kept = kept or Connection(path, patience)
                                status, answer = kept.ask(target)
                                if kept.sock is None:
                                    kept = None
                            else:
                                status, answer = request(path, target, patience=patience)
                            if status != 200:
                                failures.append(f"{status} {answer[:200]!r}")
                        except (OSError, http.client.HTTPException) as problem:
                            failures.append(repr(problem))
                            kept = None
                        measured.append(time.monotonic() - before)
                    time.sleep(pause)
                send((measured, failures))

        super().__init__(user, body)

    def measure(self, seconds):
        """(latencies in seconds, failures) of that time."""
        self.begin(seconds)
        return self.receive(seconds + 120)

    def begin(self, seconds):
        self.send("go")
        self.send(seconds)

    def limit(self, least):
        """Seconds that an answer may take while somebody attacks, measured while nobody does. A slow machine's limit is
        longer, as its quiet answers are; but a question that gets no answer, within `patience`, is above any."""
        self.measure(0.5)  # Workers start, and names are looked up for the first time.
        return min(max(least, 40 * median(self.measure(1)[0])), 25)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else float("inf")


# MARK: opening of files


class Opens:
    """Which of some paths were opened or read since: O_PATH does not count, nor does a look at their state."""

    def __init__(self, *paths):
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.paths = {libc.inotify_add_watch(self.descriptor, path.encode(), 0x21): path for path in paths}
        if -1 in self.paths:
            raise Missing(f"{paths} cannot be watched")

    def seen(self):
        opened = set()
        try:
            while data := os.read(self.descriptor, 65536):
                while data:
                    watch, _, _, size = struct.unpack_from("iIII", data)
                    opened.add(self.paths[watch])
                    data = data[16 + size :]
        except BlockingIOError:
            pass
        return sorted(opened)
