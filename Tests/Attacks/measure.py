#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long another user waits while one does his worst: measure.py [--seconds N] [--only NAME …] [--kills N].

For each attack of budgets.py, and for all at once, a server of its own is started, and bob asks one question after
another: a third of the time nothing else happens, then the attack goes on, then nothing again. The bar: the median of
his answers is at most twice that of the quiet times, and no answer fails. The row "a loop on each processor" attacks
nothing: it says what the machine's scheduler alone makes of it. Last, workers of other users are killed at random
moments. Prints a table, in Markdown, and writes nothing. The status is 1 if a bar was missed.
"""

import argparse
import os
import subprocess
import sys

import budgets
import stage
from stage import BOB, MALLORY, Program, Pulse, Server

ALL = "all at once"
LOOPS = "a loop on each processor, no question"


def loops(server):
    return budgets.Attack(*(stage.start(MALLORY, ["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count())))


def all_at_once(server):
    return budgets.Attack(*(part for attack in budgets.attacks.values() for part in attack(server).parts))


def measure(name, attack, seconds):
    """A row of the table, and whether its bar was missed."""
    server = Server()
    bob = Program(BOB)
    targets = [bob.query, bob.query, f"/v1/processes/{bob.pid}/top", "/v1/processes"]
    pulse = Pulse(BOB, server, targets, patience=30)
    pulse.measure(1)  # Reads the symbols.
    quiet, failures = pulse.measure(max(seconds / 6, 1))
    begun = attack(server)
    loaded, failed = pulse.measure(seconds)
    memory = max((server.memory() if server.lives else (0, 0))[0], 0)
    begun.stop()
    if server.lives:
        again, more = pulse.measure(max(seconds / 6, 1))
        quiet += again
        failures += more
    pulse.end()
    lives = server.lives
    server.end()
    bob.end()
    unloaded, under = stage.median(quiet), stage.median(loaded)
    ratio = under / unloaded
    worst = sorted(loaded)[int(len(loaded) * 0.99)] if loaded else float("inf")
    missed = not lives or bool(failed or failures) or ratio > 2
    print(f"| {name} | {unloaded * 1e3:.2f} | {under * 1e3:.2f} | {ratio:.1f} | {worst * 1e3:.1f} | "
          f"{max(loaded, default=0) * 1e3:.0f} | {len(loaded)} | {len(failed)} | {memory >> 20} | "
          f"{'' if lives else 'the server ended; '}{'missed' if missed else 'met'} |", flush=True)  # fmt: skip
    if failed and sys.stderr.isatty():
        print(failed[:2], file=sys.stderr)
    return missed and name != LOOPS


def main():
    words = argparse.ArgumentParser(prog="make attack")
    words.add_argument("--seconds", type=float, default=60)
    words.add_argument("--kills", type=int, default=500)
    words.add_argument("--only", action="append", default=[], metavar="NAME")
    words.add_argument("--one", help=argparse.SUPPRESS)
    options = words.parse_args()
    every = {LOOPS: loops, **budgets.attacks, ALL: all_at_once}
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
    if unknown := set(options.only) - set(every):
        words.error(f"no attack is called {', '.join(sorted(unknown))}; there are: {', '.join(every)}")
    print("| what mallory does | quiet median, ms | bob's median, ms | times | 99 of 100, ms | longest, ms | answers | "
          "failed | largest process, MiB | bar |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
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
            print(f"| {name} | | | | | | | | | the stage failed |", flush=True)
    return 1 if missed else 0


status = main()
sys.stdout.flush()
os._exit(status)
