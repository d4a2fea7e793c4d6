#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What separation of privileges costs, against a build from before it: compare.py BEFORE [--rounds N], as root. BEFORE
is the directory of that build's binaries; ALLOCS_BIN_DIR, or .build/release, has those of this build.

Both serve a program of bob's at one time, and are asked in turns: the latency of his question on a connection that is
kept and on a new one, and the memory of a server at rest that one user has asked. The bars: 20 µs more on a kept
connection, 15 MiB more memory. Prints a table, in Markdown, and writes nothing. The status is 1 if a bar was missed.
"""

import argparse
import contextlib
import os
import sys
import time

import stage
from stage import BEFORE, BIN, BOB, Program, Server


def latencies(pairs, count):
    """Seconds of questions of each of some (socket, target): on kept connections, and on new ones. They are asked in
    turns, one question at a time, so that whatever else the machine does meets all alike."""
    connections = [stage.Connection(path) for path, _ in pairs]
    kept, new = [[] for _ in pairs], [[] for _ in pairs]
    for turn in range(-200, count):  # The first read the symbols, and warm the caches.
        for index in range(len(pairs)) if turn % 2 else reversed(range(len(pairs))):
            path, target = pairs[index]
            before = time.perf_counter()
            status, _ = connections[index].ask(target)
            elapsed = time.perf_counter() - before
            assert status == 200
            if turn < 0:
                continue
            kept[index].append(elapsed)
            if turn % 4 == 0:
                before = time.perf_counter()
                status, _ = stage.request(path, target)
                new[index].append(time.perf_counter() - before)
                assert status == 200
    return kept, new


def memory(server):
    """Bytes: (proportional, resident and in no file) of all processes of the server."""
    proportional = anonymous = 0
    for pid in server.processes():
        # One that has ended has none.
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                words = line.split()
                if words[0] == "Pss:":
                    proportional += int(words[1]) << 10
                elif words[0] == "Private_Dirty:":
                    anonymous += int(words[1]) << 10
    return proportional, anonymous


class Side:
    """One build: its server, and a program of bob's in a directory that this server looks into."""

    def __init__(self, binaries, directory=None):
        place = {"ALLOCS_DIR": directory, "ALLOCS_SOCKET": f"{directory}/allocsd.sock"} if directory else {}
        self.server = Server(binaries=binaries, environment=place, ready=directory is None)
        if directory:
            self.server.socket = place["ALLOCS_SOCKET"]
            stage.wait("a server of the build before", self.answers)
        self.bob = Program(BOB, binaries=binaries, environment=place)

    def answers(self):
        try:
            return stage.request(self.server.socket, "/metrics")[0] == 200
        except OSError:
            return False

    def ask(self):
        status, answer = stage.ask(BOB, self.server, self.bob.query)
        assert status == 200, (self.server.socket, status, answer, self.bob.segment)

    def end(self):
        self.server.process.terminate()
        self.server.process.wait(20)
        self.bob.end()


def round_of(count):
    """The figures of (the build before, this build)."""
    os.makedirs("/dev/shm/old", exist_ok=True)
    os.chmod("/dev/shm/old", 0o1777)
    sides = [Side(BEFORE, "/dev/shm/old"), Side(BIN)]
    # What a server holds at rest: one user has asked one question.
    for side in sides:
        side.ask()
    time.sleep(1.5)  # They come to rest: nothing says that they have.
    sizes = [memory(side.server) for side in sides]
    pairs = [(side.server.socket, side.bob.query) for side in sides]
    kept, new = stage.act(BOB, latencies, pairs, count)
    worked = [memory(side.server) for side in sides]
    for side in sides:
        side.end()
    return [(stage.median(kept[index]) * 1e6, stage.median(new[index]) * 1e6,
             *(size / (1 << 20) for size in sizes[index] + worked[index])) for index in range(2)]  # fmt: skip


def main():
    words = argparse.ArgumentParser()
    words.add_argument("before")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--questions", type=int, default=3000)
    options = words.parse_args()
    os.environ.setdefault("ALLOCS_BIN_BEFORE", os.path.abspath(options.before))
    stage.enter()
    measured = [round_of(options.questions) for _ in range(options.rounds)]
    rows = [("question, connection kept, µs", 20), ("question, new connection, µs", None),
            ("memory at rest, one user: proportional, MiB", 15), ("memory at rest: private and written to, MiB", 15),
            ("memory after the questions: proportional, MiB", None),
            ("memory after the questions: private and written to, MiB", None)]  # fmt: skip
    missed = False
    print("| | before | now | more | at most |\n|---|---|---|---|---|")
    for index, (name, bar) in enumerate(rows):
        before, now = (stage.median([figures[side][index] for figures in measured]) for side in range(2))
        missed |= bar is not None and now - before > bar
        print(f"| {name} | {before:.1f} | {now:.1f} | {now - before:+.1f} | {bar or ''} |")
    return 1 if missed else 0


status = main()
sys.stdout.flush()
os._exit(status)
