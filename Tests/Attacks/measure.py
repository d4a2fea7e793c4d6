#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long another user waits while one does his worst: measure.py [--seconds N] [--only NAME …] [--kills N].

For each attack of budgets.py, and for all at once, a server of its own is started, and bob asks one question after
another: for a time nothing else happens, then the attack goes on, then nothing happens again. The bar: the median of
his answers is at most twice that of quiet times, and no answer fails.

Mallory's own programs use processors without any server's help, which slows bob's own client down, too. So the table
says how much they used, and how much the server did, with all its workers. Where an attack misses the bar, bob is
measured beside her load alone, too: as many processes as hers, each of which uses a processor as much as hers did, and
asks nothing. Twice that is the bar which a server can meet.

Last, workers of other users are killed at random moments. Prints a table, in Markdown, and what failed, to standard
error. The status is 1 if a bar was missed.
"""

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import time

import budgets
import stage
from stage import BOB, MALLORY, Program, Pulse, Server

ALL = "all at once"
SLICES = "all at once, users in slices"


def ticks(server):
    """The time, and clock ticks of processor time by (process, start time): of each of mallory's own processes, and of
    the server's."""
    hers, found, of_server, now = {}, {}, server.processes(), time.monotonic()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            is_servers = int(pid) in of_server
            if os.stat(f"/proc/{pid}").st_uid != MALLORY and not is_servers:
                continue
            with open(f"/proc/{pid}/stat") as file:
                words = file.read().rpartition(")")[2].split()
            # With those of children that have ended.
            (found if is_servers else hers)[pid, words[19]] = sum(map(int, words[11:15]))
    return now, hers, found


def used(before, after, seconds):
    """The part of a processor that each has used meanwhile."""
    parts = [(count - before.get(key, 0)) / os.sysconf("SC_CLK_TCK") / seconds for key, count in after.items()]
    return [part for part in parts if part > 0.005]


def waited(pids):
    """Seconds that threads of these processes have waited for a processor, ready to run (/proc/PID/schedstat)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[1])
    return total / 1e9


class Waits:
    """How long whoever has a part in bob's answers waits for a processor: for each answer, in milliseconds."""

    def __init__(self, server, pulse):
        self.parts = {"bob's client": [pulse.pid], "his worker": budgets.workers_of(BOB),
                      "the broker": [server.process.pid]}  # fmt: skip
        self.phases = {}

    def of(self, phase, measured):
        """The result of `measured`, a function that measures bob's answers."""
        before = {part: waited(pids) for part, pids in self.parts.items()}
        answers, failures = measured()
        self.phases[phase] = [
            (waited(pids) - before[part]) * 1e3 / max(1, len(answers)) for part, pids in self.parts.items()
        ]  # fmt: skip
        return answers, failures

    def table(self):
        heads = "".join(f" {part} |" for part in self.parts)
        lines = [f"| waits for a processor, ms an answer |{heads}", "|---" * 4 + "|"]
        lines += [f"| {phase} |" + "".join(f" {each:.2f} |" for each in row) for phase, row in self.phases.items()]
        return "\n".join(lines)


def burn(share):
    """A process of mallory's that uses so much of one processor."""

    def body(send, receive):
        begun, used = time.monotonic(), time.thread_time()
        while True:
            # What others took of its turns it makes up for, as far as a processor goes.
            while time.thread_time() - used < min(share, 1) * (time.monotonic() - begun):
                pass
            time.sleep(0.005)

    return stage.Actor(MALLORY, body)


COLUMNS = ("what mallory does", "quiet, ms", "attacked, ms", "times quiet", "beside her load alone, ms",
           "times that", "99 of 100, ms", "longest, ms", "answers", "failed", "her processes", "their processors",
           "the server's processors", "largest process, MiB", "bar")  # fmt: skip


def measure(name, attack, seconds):
    """A row of the table, and whether its bar was missed."""
    if name in (ALL, SLICES) or "memory" in name:
        budgets.prepare()
    server = Server()
    bob = Program(BOB)
    targets = [bob.query, bob.query, f"/v1/processes/{bob.pid}/top", "/v1/processes"]
    pulse = Pulse(BOB, server, targets, patience=30)
    pulse.measure(1)  # Reads the symbols.
    waits, short = Waits(server, pulse), min(max(seconds / 6, 1), 5)
    quiet, failures = waits.of("quiet", lambda: pulse.measure(short))
    begun = attack(server)
    before = ticks(server)
    loaded, failed = waits.of("attacked", lambda: pulse.measure(seconds))
    after = ticks(server) if server.lives else before
    memory = max((server.memory() if server.lives else (0, 0))[0], 0)
    ended = begun.ended()
    begun.stop()
    hers, servers = (used(*pair, max(after[0] - before[0], 1)) for pair in zip(before[1:], after[1:]))
    beside, load, under = [], [], stage.median(loaded)
    if server.lives:
        time.sleep(1)  # What the attack had begun ends.
        again, more = pulse.measure(short)
        quiet += again
        failures += more
    quiet = stage.median(quiet)
    if server.lives and (under > 2 * quiet or name in (ALL, SLICES)):
        load = [burn(share) for share in hers]
        beside, more = waits.of("beside her load alone", lambda: pulse.measure(min(max(seconds / 3, 1), 20)))
        failures += more
        for one in load:
            one.end()
    pulse.end()
    lives, log = server.lives, server.said()
    server.end()
    bob.end()
    beside = stage.median(beside) if beside else 0
    is_broken = not lives or bool(failed or failures or ended)
    bar = "met" if under <= 2 * quiet else "met beside the load" if under <= 2 * beside else "missed"
    bar = "missed" if is_broken else bar
    worst = sorted(loaded)[int(len(loaded) * 0.99)] if loaded else float("inf")
    cells = (name, f"{quiet * 1e3:.2f}", f"{under * 1e3:.2f}", f"{under / quiet:.1f}",
             *((f"{beside * 1e3:.2f}", f"{under / beside:.1f}") if beside else ("", "")), f"{worst * 1e3:.1f}",
             f"{max(loaded, default=0) * 1e3:.0f}", len(loaded), len(failed), len(hers), f"{sum(hers):.1f}",
             f"{sum(servers):.1f}", memory >> 20,
             f"{'' if lives else 'the server ended; '}{'her attack ended; ' if ended else ''}{bar}")  # fmt: skip
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if name in (ALL, SLICES):
        print(f"\n{name}:\n\n{waits.table()}", flush=True)
    for words in ended:
        print(f"{name}: a process of the attack has ended: {words}", file=sys.stderr)
    # What they failed with belongs to no table, and is what whoever mends it asks for first.
    for words, count in collections.Counter(failures + failed).most_common(5):
        print(f"{name}: {count} × {words}", file=sys.stderr)
    if failures or failed:
        print("".join(line for line in log.splitlines(True) if f"user {BOB}" in line)[-2000:], file=sys.stderr)
    return bar == "missed"


def main():
    words = argparse.ArgumentParser(prog="make attack")
    words.add_argument("--seconds", type=float, default=60)
    words.add_argument("--kills", type=int, default=500)
    words.add_argument("--only", action="append", default=[], metavar="NAME")
    words.add_argument("--one", help=argparse.SUPPRESS)
    options = words.parse_args()
    every = {**budgets.attacks, ALL: budgets.all_at_once, SLICES: budgets.all_at_once}
    if options.one == "kills":
        stage.enter()
        broken = []

        def check(promise, is_held, seen=""):
            print(f"{'held' if is_held else 'broken'}: {promise}{'' if is_held else f' -- {seen}'}", flush=True)
            if not is_held:
                broken.append(promise)

        budgets.killed(check, options.kills)
        return 1 if broken else 0
    if options.one:
        stage.enter(tmpfs="4g", run="2g")
        with stage.divided() if options.one == SLICES else contextlib.nullcontext():
            return 1 if measure(options.one, every[options.one], options.seconds) else 0
    if unknown := set(options.only) - {*every, "kills"}:
        words.error(f"no attack is called {', '.join(sorted(unknown))}; there are: {', '.join(every)}, kills")
    if set(options.only) != {"kills"}:
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    wanted = options.only or [*every, *(["kills"] if options.kills else [])]
    missed, behind = [], ""
    for name in wanted:
        # Each on a stage of its own: what one has left, the next does not meet.
        done = subprocess.run(
            [sys.executable, "-B", os.path.abspath(__file__), "--one", name, "--seconds", str(options.seconds),
             "--kills", str(options.kills)],
            stdout=subprocess.PIPE, text=True)  # fmt: skip
        row, _, more = ("", "", f"\n{done.stdout}") if name == "kills" else done.stdout.partition("\n")
        behind += more
        if row:
            print(row, flush=True)
        if done.returncode != 0:
            missed.append(name)
        if done.returncode > 1:
            print(f"| {name}{' |' * (len(COLUMNS) - 1)} the stage failed |", flush=True)
    print(behind, end="")
    return 1 if missed else 0


status = main()
sys.stdout.flush()
os._exit(status)
