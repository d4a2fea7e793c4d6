# SPDX-License-Identifier: Apache-2.0
"""Compares the agent's call stacks with gdb's, address by address, while a program runs. Run by scripts/compare-stacks.

Stops at the first instruction of the hooks of malloc, calloc and realloc, and where operator new is about to record its
block; takes gdb's stack there; lets the call return and looks the block up in the segment. Settings come from the
environment: ALLOCS_COMPARE_AGENT, _DIR (for the segment), _OUTPUT (the result), _COUNT, _EVERY, _SKIP (allocations at
first), _SECONDS (after which it ends the program), _FEWER (set: that a program makes fewer allocations is no failure).
"""

import collections
import glob
import os
import signal
import struct
import threading
import time

import gdb

agent = os.environ["ALLOCS_COMPARE_AGENT"]
directory = os.environ["ALLOCS_COMPARE_DIR"]
every = int(os.environ.get("ALLOCS_COMPARE_EVERY", "1"))
limit = int(os.environ.get("ALLOCS_COMPARE_COUNT", "10000"))
skip = int(os.environ.get("ALLOCS_COMPARE_SKIP", "100"))
deadline = time.monotonic() + float(os.environ.get("ALLOCS_COMPARE_SECONDS", "600"))
DEPTH_LIMIT = 128  # a stack keeps as many frames or more, but fewer than twice as many (CutFrames.swift)
HOOKS = (
    "allocs_hook_malloc", "allocs_hook_malloced", "allocs_hook_calloc", "allocs_hook_realloc", "allocs_operator_leave",
)
TRUNCATED, CUT = 1, 2  # flags of nodes, allocs_context.h


class Segment:
    """As much of a segment's layout as it takes to find a block's stack (allocs_segment.h, allocs_arena.h)."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDONLY)
        header = os.pread(self.file, 4096, 0)
        self.sections = [struct.unpack_from("<4Q", header, 64 + 32 * i) for i in range(11)]

    def at(self, offset, form):
        return struct.unpack(form, os.pread(self.file, struct.calcsize(form), offset))

    def fine_slot(self, arena, address):
        """The slot of a block that may share 32 bytes with others (allocs_nested.h); 0 if there is none."""
        fine = self.at(arena + 600, "<I")[0]
        if fine == 0:
            return 0
        slots = self.sections[10][0] + (fine - 1) * self.sections[10][1] + 20480
        return self.at(slots + ((address >> 3) & ((1 << 23) - 1)) * 8, "<Q")[0]

    def stack(self, address):
        """(return addresses, flags of the outermost), or None if the block is not recorded."""
        arena = self.at(self.sections[7][0] + 4 * (address >> 26), "<I")[0]
        if arena == 0:
            return None
        start = self.sections[8][0] + (arena - 1) * self.sections[8][1]
        slot = self.at(start + 8192 + ((address >> 5) & ((1 << 21) - 1)) * 8, "<Q")[0]
        if slot & 3 not in (1, 2):
            slot = self.fine_slot(start, address)
        if slot & 3 not in (1, 2):
            return None
        node = self.at(self.sections[5][0] + 8 * (slot >> 9 & 0xFFFFFF), "<Q")[0] & 0xFFFFFFFF
        addresses, flags = [], 0
        while node:
            address, node, flags = self.at(self.sections[4][0] + 16 * node, "<QII")
            addresses.append(address)
            if flags & (TRUNCATED | CUT):
                break
        return addresses, flags


def register(name):
    return int(gdb.parse_and_eval(f"(unsigned long)${name}")) & (1 << 64) - 1


def word(address):
    return int(gdb.parse_and_eval(f"*(unsigned long *){address:#x}"))


def own_range(pid):
    lines = [line for line in open(f"/proc/{pid}/maps") if os.path.basename(agent) in line]
    bounds = [int(x, 16) for line in lines for x in line.split()[0].split("-")]
    return min(bounds), max(bounds)


def are_code(addresses, pid):
    """Whether all lie in executable mappings, so that they can be return addresses."""
    ranges = []
    for line in open(f"/proc/{pid}/maps"):
        bounds, permissions = line.split()[:2]
        if "x" in permissions:
            ranges.append([int(x, 16) for x in bounds.split("-")])
    return all(any(low <= address < high for low, high in ranges) for address in addresses)


def stack_of_gdb():
    """Return addresses of the callers, innermost first, and why gdb went no further."""
    addresses, reason = [], "at its end"
    frame = gdb.newest_frame()
    while len(addresses) < 2 * DEPTH_LIMIT + 4:
        older = frame.older()
        if older is None or not older.is_valid():
            reason = gdb.frame_stop_reason_string(frame.unwind_stop_reason())
            break
        frame = older
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            addresses.append(int(frame.pc()))
    return addresses, reason


for setting in (
    "pagination off", "confirm off", "breakpoint pending on", "print thread-events off", "backtrace past-main on",
    "backtrace past-entry off", "debuginfod enabled off", "startup-with-shell off", "disable-randomization off",
    "print inferior-events off", f"environment LD_PRELOAD {agent}", f"environment ALLOCS_DIR {directory}",
):
    gdb.execute(f"set {setting}", to_string=True)
for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPROF", "SIGCHLD", "SIGPIPE"):
    gdb.execute(f"handle {name} nostop noprint pass", to_string=True)

points = []


def start():
    """Runs the program until the agent is there, and sets the points: at the very first instruction of each hook."""
    first = gdb.Breakpoint("allocs_constructed", internal=True, temporary=True)
    first.silent = True
    gdb.execute("run", to_string=True)
    for function in HOOKS:
        point = gdb.Breakpoint(f"*{int(gdb.parse_and_eval('(unsigned long)&' + function)):#x}", internal=True)
        point.silent = True
        point.ignore_count = skip
        points.append(point)
    # gdb would wait forever for a program that allocates no more.
    watch = threading.Timer(deadline - time.monotonic(), os.kill, (gdb.selected_inferior().pid, signal.SIGKILL))
    watch.daemon = True
    watch.start()
    gdb.execute("continue", to_string=True)


same = total = nested = astray = 0
classes = collections.Counter()
examples = {}
segment = own = None
ended = ""


def describe(found, expected, reason):
    addresses, flags = found
    pairs = enumerate(zip(addresses, expected))
    depth = next((i for i, (a, b) in pairs if a != b), min(len(addresses), len(expected)))
    goes_on = depth < min(len(addresses), len(expected))
    is_astray = goes_on and not are_code(expected[depth:], gdb.selected_inferior().pid)

    def symbol(address):
        text = gdb.execute(f"info symbol {address:#x}", to_string=True).split(" in section")[0].strip()
        return text.split(" + ")[0]

    shared = symbol(expected[depth - 1]) if depth else "nothing"
    if depth == len(addresses):
        kind = "the agent ends" + (", marked" if flags & TRUNCATED else ", NOT marked")
    elif depth == len(expected):
        kind = f"gdb ends ({reason})"
    elif is_astray:
        kind = "gdb goes to what is not code"
    else:
        kind = "they differ"
    key = f"{kind} after {shared}"
    ours, theirs = addresses[depth:depth + 3], expected[depth:depth + 3]
    examples.setdefault(key, ([symbol(x) for x in ours], [symbol(x) for x in theirs]))
    return key, is_astray


try:
    start()
    while total < limit and gdb.selected_inferior().pid and time.monotonic() < deadline:
        if segment is None:
            pid = gdb.selected_inferior().pid
            segment = Segment(glob.glob(f"{directory}/{pid}.*.seg")[0])
            own = own_range(pid)
        name = gdb.newest_frame().name()
        if name not in HOOKS:
            ended = f"stopped in {name}"
            break
        is_operator = name == "allocs_operator_leave"
        expected, reason = stack_of_gdb()
        block = register("rsi") if is_operator else 0
        if is_operator:
            # The frames of the agent's own operator new go; the caller's is where the hook was told to look.
            caller = word(register("r8"))
            expected = expected[expected.index(caller):] if caller in expected else expected
        if not is_operator and any(own[0] <= pc < own[1] for pc in expected[:6]):
            nested += 1  # a malloc inside operator new: its record is operator new's
        else:
            # At the first instruction the return address is on top: hooks are reached by jumps.
            pointer, thread = register("rsp"), gdb.selected_thread().num
            finish = gdb.Breakpoint(f"*{word(pointer):#x}", internal=True)
            finish.silent, finish.thread = True, thread
            for point in points:
                point.enabled = False
            while True:
                gdb.execute("continue", to_string=True)
                if not gdb.selected_inferior().pid or register("rsp") == pointer + 8:
                    break
            if gdb.selected_inferior().pid:
                finish.delete()
            else:
                break
            block = block if is_operator else register("rax")
            if block:
                total += 1
                found = segment.stack(block)
                if found and found[1] & CUT and DEPTH_LIMIT <= len(found[0]) < 2 * DEPTH_LIMIT <= len(expected):
                    expected = expected[:len(found[0])]
                if found is None:
                    classes["not in the index"] += 1
                elif found[0] == expected and not found[1] & TRUNCATED:
                    same += 1
                else:
                    key, is_astray = describe(found, expected, reason)
                    classes[key] += 1
                    astray += is_astray
        for point in points:
            point.enabled = True
            point.ignore_count = every - 1
        gdb.execute("continue", to_string=True)
except gdb.error as error:
    ended = str(error)
if total < limit and not ended:
    ended = "the program ended" if time.monotonic() < deadline else "its time was up"

# A stack with addresses that are not code is not what happened; nothing can be said of the agent's there.
share = same / (total - astray) if total > astray else 0
with open(os.environ["ALLOCS_COMPARE_OUTPUT"], "w") as output:
    others = f" of {total - astray}; in {astray} gdb went astray" if astray else ""
    reason = f"; {ended}" if ended else ""
    print(f"{total} captures, {same} identical ({100 * share:.3f} %){others}{reason}", file=output)
    for key, count in classes.most_common(8):
        print(f"    {count} {key} {examples.get(key, '')}", file=output)
    if share < 0.999:
        print("fail: fewer than 99.9 %", file=output)
    if total < limit and "ALLOCS_COMPARE_FEWER" not in os.environ:
        print(f"fail: fewer than {limit} captures", file=output)
try:
    gdb.execute("kill")
except gdb.error:
    pass
gdb.execute("quit")
