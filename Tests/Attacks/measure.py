#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long another user waits while one does his worst: measure.py [--seconds N] [--only NAME …] [--kills N].

For each attack of budgets.py, and for all at once, a server of its own is started, and bob asks one question after
another: for a time nothing else happens, then the attack goes on, then processes of mallory's burn as much of the
processors as the attackers did, each as much as one of them, and ask nothing, then nothing happens again. That load is
what any user can put on a machine without any server, and slows bob's own client down, too. The bar: the median of his
answers is at most twice that beside the load alone, and no answer fails. The table tells both: how many times as long
as in quiet times, and as beside the load. Last, workers of other users are killed at random moments. Prints a table, in
Markdown, and what failed, to standard error. The status is 1 if a bar was missed.
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


def all_at_once(server):
    return budgets.Attack(*(part for attack in budgets.attacks.values() for part in attack(server).parts))


def ticks(server):
    """Clock ticks of processor time of each of mallory's own processes, by (process, start time)."""
    found, of_server = {}, server.processes()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid != MALLORY or int(pid) in of_server:
                continue
            with open(f"/proc/{pid}/stat") as file:
                words = file.read().rpartition(")")[2].split()
            # With those of children that have ended.
            found[pid, words[19]] = sum(map(int, words[11:15]))
    return found


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
        while True:
            begun = time.perf_counter()
            while time.perf_counter() - begun < 0.01 * min(share, 1):
                pass
            if share < 1:
                time.sleep(0.01 * (1 - share))

    return stage.Actor(MALLORY, body)


def measure(name, attack, seconds):
    """A row of the table, and whether its bar was missed."""
    if name == ALL or "memory" in name:
        budgets.prepare()
    server = Server()
    bob = Program(BOB)
    targets = [bob.query, bob.query, f"/v1/processes/{bob.pid}/top", "/v1/processes"]
    pulse = Pulse(BOB, server, targets, patience=30)
    pulse.measure(1)  # Reads the symbols.
    waits = Waits(server, pulse)
    quiet, failures = waits.of("quiet", lambda: pulse.measure(max(seconds / 6, 1)))
    begun = attack(server)
    before = ticks(server)
    loaded, failed = waits.of("attacked", lambda: pulse.measure(seconds))
    after = ticks(server)
    memory = max((server.memory() if server.lives else (0, 0))[0], 0)
    begun.stop()
    shares = [(count - before.get(key, 0)) / os.sysconf("SC_CLK_TCK") / seconds for key, count in after.items()]
    shares = [share for share in shares if share > 0.005]
    beside = []
    if server.lives:
        time.sleep(1)  # What the attack had begun ends.
        load = [burn(share) for share in shares]
        beside, more = waits.of("beside the load alone", lambda: pulse.measure(max(seconds / 4, 1)))
        failures += more
        for one in load:
            one.end()
        again, more = pulse.measure(max(seconds / 6, 1))
        quiet += again
        failures += more
    pulse.end()
    lives, log = server.lives, server.said()
    server.end()
    bob.end()
    quiet, under, beside = stage.median(quiet), stage.median(loaded), stage.median(beside)
    longest = max(loaded, default=0)
    worst = sorted(loaded)[int(len(loaded) * 0.99)] if loaded else float("inf")
    missed = not lives or bool(failed or failures) or under > 2 * max(quiet, beside)
    print(f"| {name} | {quiet * 1e3:.2f} | {len(shares)}, {sum(shares):.1f} | {beside * 1e3:.2f} | {under * 1e3:.2f} | "
          f"{under / quiet:.1f} | {under / max(quiet, beside):.1f} | {worst * 1e3:.1f} | {longest * 1e3:.0f} | "
          f"{len(loaded)} | {len(failed)} | {memory >> 20} | "
          f"{'' if lives else 'the server ended; '}{'missed' if missed else 'met'} |", flush=True)  # fmt: skip
    if name == ALL:
        print(f"\n{waits.table()}", flush=True)
    # What they failed with belongs to no table, and is what whoever mends it asks for first.
    for words, count in collections.Counter(failures + failed).most_common(5):
        print(f"{name}: {count} × {words}", file=sys.stderr)
    if failures or failed:
        print("".join(line for line in log.splitlines(True) if f"user {BOB}" in line)[-2000:], file=sys.stderr)
    return missed


def main():
    words = argparse.ArgumentParser(prog="make attack")
    words.add_argument("--seconds", type=float, default=60)
    words.add_argument("--kills", type=int, default=500)
    words.add_argument("--only", action="append", default=[], metavar="NAME")
    words.add_argument("--one", help=argparse.SUPPRESS)
    options = words.parse_args()
    every = {**budgets.attacks, ALL: all_at_once}
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
        return 1 if measure(options.one, every[options.one], options.seconds) else 0
    if unknown := set(options.only) - {*every, "kills"}:
        words.error(f"no attack is called {', '.join(sorted(unknown))}; there are: {', '.join(every)}, kills")
    print("| what mallory does | quiet, ms | her load: processes, processors | beside the load alone, ms | "
          "bob's median, ms | times quiet | times beside the load | 99 of 100, ms | longest, ms | answers | "
          "failed | largest process, MiB | bar |\n" + "|---" * 13 + "|", flush=True)  # fmt: skip
    wanted = options.only or [*every, *(["kills"] if options.kills else [])]
    missed = []
    for name in wanted:
        # Each on a stage of its own: what one has left, the next does not meet.
        if name == "kills":
            print(flush=True)
        status = subprocess.run([sys.executable, "-B", os.path.abspath(__file__), "--one", name, "--seconds",
                                 str(options.seconds), "--kills", str(options.kills)]).returncode  # fmt: skip
        if status != 0:
            missed.append(name)
        if status > 1:
            print(f"| {name} | | | | | | | | | | | | the stage failed |", flush=True)
    return 1 if missed else 0


status = main()
sys.stdout.flush()
os._exit(status)
