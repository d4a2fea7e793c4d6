#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plays an attack as scenes on a stage of its own: play.py SCENE. Without a scene it lists all.

Each promise that was tried is a line: `held: …`, or `broken: …` with what was seen. The last line is `end`. The
status is 0 if every promise was held, 1 if not, 2 if the stage could not be set.
"""

import os
import sys
import traceback

import budgets
import claims
import directories
import files
import separation
import stage
import traps

scenes = {**claims.scenes, **files.scenes, **directories.scenes, **budgets.scenes, **traps.scenes,
          **separation.scenes}  # fmt: skip


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in scenes:
        print("\n".join(sorted(scenes)))
        return 2
    broken, tried = [], 0

    def check(promise, is_held, seen=""):
        nonlocal tried
        tried += 1
        print(f"held: {promise}" if is_held else f"broken: {promise} -- {seen}", flush=True)
        if not is_held:
            broken.append(promise)

    try:
        stage.enter()
        scenes[sys.argv[1]](check)
    except stage.Missing as problem:
        print(f"missing: {problem}", flush=True)
        return 2
    except Exception:
        print(f"missing: {traceback.format_exc()}", flush=True)
        return 2
    if tried == 0:
        print("missing: nothing was tried", flush=True)
        return 2
    print("end", flush=True)
    return 1 if broken else 0


status = main()
sys.stdout.flush()
os._exit(status)
